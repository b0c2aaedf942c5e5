"""Pooled environments, each in its slot: built when first needed, and put back at its fresh start."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Slots:
    """`size` environments made by `build`.

    An environment's reset is the whole of what it remembers (Gymnasium's contract), and where it has
    `get_state`/`set_state` the state it was born with is put back first. Safe to use from several threads.
    """

    def __init__(self, build: Callable[[], Any], size: int) -> None:
        self._build = build
        self._locks = [threading.Lock() for _ in range(size)]
        self._envs: list[Any] = [None] * size
        self._born: list[Any] = [None] * size

    def restart(self, index: int, seed: int) -> Any:
        """The environment of a slot as a fresh one after its reset with `seed`."""
        with self._locks[index]:
            env = self._envs[index]
            if env is None:
                env = self._envs[index] = self._build()
                if hasattr(env, "get_state") and hasattr(env, "set_state"):
                    self._born[index] = env.get_state()
            elif self._born[index] is not None:
                env.set_state(self._born[index])
            env.reset(seed=seed)
            return env

    def built(self) -> list[int]:
        """The slots whose environments have been built."""
        return [index for index, env in enumerate(self._envs) if env is not None]

    def clear(self) -> list[Any]:
        """Every environment that has been built; the slots are empty afterwards."""
        envs = [env for env in self._envs if env is not None]
        self._envs = [None] * len(self._envs)
        return envs
