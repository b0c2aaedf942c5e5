"""Asking an advisor whose answers come one by one, such as a server's: each is kept as it arrives, and processes that
share a store share the situations out among themselves.

A process claims situations in the store before it asks about them. The claims of a process that died are void, so what
a killed one had not finished is asked by whoever comes next, and nothing is asked twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from src.advisor.store import AdviceStore
from src.advisor.table import Advisor, Float32, check_answers
from src.errors import ConfigError, UserError

POLL_S = 0.2


class ModelChanged(ConfigError):
    """The server has another model under the known name."""


class SingleAdvisor(Advisor, Protocol):
    """An advisor that answers situations apart."""

    def each(self, situations: Sequence[int]) -> Iterator[tuple[int, Float32] | None]:
        """Situations with their answers as they arrive; None now and then while none does."""

    def verify(self) -> None:
        """ModelChanged where another model answers than the one the answers are kept for."""


class SingleAsking:
    """Asks for the answers of one advisor that a store lacks. `heartbeat` is called at least twice a second; what it
    raises ends the asking, and what was answered stays."""

    def __init__(self, scorer: SingleAdvisor, store: AdviceStore, heartbeat: Callable[[], None]) -> None:
        self._scorer = scorer
        self._store = store
        self._heartbeat = heartbeat
        self.asked: list[int] = []
        """What this process has asked and stored."""

    def ask(self, situations: Sequence[int]) -> list[int]:
        """Ask about those that nobody has answered or claimed; returns those that another process is asking about."""
        key = self._scorer.identity
        claimed = self._store.claim(key, list(situations))
        try:
            for answer in self._scorer.each(claimed):
                if answer is not None:
                    situation, scores = answer
                    check_answers(self._scorer, np.array([situation]), scores[np.newaxis])
                    self._store.put(key, np.array([situation]), scores[np.newaxis])
                    self.asked.append(situation)
                self._heartbeat()
        except UserError as error:
            self._add_what_is_kept(error)
            raise
        finally:
            self._store.release(key, claimed)
        known = self._store.answers(key).keys()
        return [situation for situation in situations if situation not in known]

    def finish(self, situations: Sequence[int]) -> None:
        """Return once all are answered: wait for another process, and ask what it leaves."""
        left = list(situations)
        while left:
            before = len(left)
            left = self.ask(left)
            if len(left) == before:
                time.sleep(POLL_S)
                self._heartbeat()

    def _add_what_is_kept(self, error: UserError) -> None:
        """Have the error's text say what is kept, and how the run is continued."""
        kept = len(self._store.answers(self._scorer.identity))
        error.args = (
            f"{str(error).rstrip('.')}. {kept:,} answers of {self._scorer.name} are kept in {self._store.path} "
            f"({len(self.asked):,} of them from this run). Start the same command again once the cause is gone: only "
            f"the rest is asked.",
        )
