"""Which temporary environments of a pool are out, and which may be closed when one is given back unnamed."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any


@dataclass
class _Loan:
    place: int
    env: Any
    thread: int
    returned: bool = False
    """Given back without a name: it, or another one of the same thread."""


class TemporaryLoans:
    """Temporary environments that are out, each in the lowest free place. Not locked: the pool does that."""

    def __init__(self) -> None:
        self._loans: dict[int, _Loan] = {}
        self._reserved: set[int] = set()

    def reserve(self) -> int:
        """A place for an environment that is being built."""
        place = next(n for n in range(len(self._loans) + len(self._reserved) + 1) if not self._taken(n))
        self._reserved.add(place)
        return place

    def _taken(self, place: int) -> bool:
        return place in self._loans or place in self._reserved

    def cancel(self, place: int) -> None:
        """The environment could not be built."""
        self._reserved.remove(place)

    def lend(self, place: int, env: Any) -> None:
        """The environment of a reserved place goes out, to the calling thread."""
        self._reserved.remove(place)
        self._loans[place] = _Loan(place, env, threading.get_ident())

    def give_back(self, env: Any = None) -> list[Any]:
        """The environments to close now that `env` is given back; None: one of the calling thread's, or where it has
        none, any.

        An environment that may still be in use is not among them. ValueError where nothing matches.
        """
        if env is not None:
            return self._named(env)
        loans = list(self._loans.values())
        group = [loan for loan in loans if loan.thread == threading.get_ident()] or loans
        if not group:
            raise ValueError("environment -1 is not in use: no temporary environment is out")
        # Which one is marked does not matter, only how many are: none is closed before all are.
        next(loan for loan in group if not loan.returned).returned = True
        return self._all_returned(group)

    def _named(self, env: Any) -> list[Any]:
        loan = next((loan for loan in self._loans.values() if loan.env is env), None)
        if loan is None:
            raise ValueError(
                f"environment -1 with env={env!r} is not in use: it is none of the {len(self._loans)} temporary "
                "environments that are out"
            )
        del self._loans[loan.place]
        group = [other for other in self._loans.values() if other.thread == loan.thread]
        if loan.returned:  # the mark belonged to another one
            unmarked = next((other for other in group if not other.returned), None)
            if unmarked is not None:
                unmarked.returned = True
        return [env, *self._all_returned(group)]

    def _all_returned(self, group: list[_Loan]) -> list[Any]:
        if not all(loan.returned for loan in group):
            return []
        for loan in group:
            del self._loans[loan.place]
        return [loan.env for loan in group]

    def clear(self) -> list[Any]:
        """All environments that are out; none is afterwards."""
        envs = [loan.env for loan in self._loans.values()]
        self._loans.clear()
        return envs
