"""What a task tells the run while it works, and when it must stop: the same in this process and in a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from src.runs.stopping import Deadline, StopRequest


class Watch(Protocol):
    """Between a task and its run."""

    def check(self, save: Callable[[], None] | None = None) -> None:
        """A clean instant: where the run ends, call `save` and raise what ends it."""

    def say(self, text: str) -> None:
        """A line that stays on the console."""

    def record(self, record: Mapping[str, Any]) -> None:
        """Progress."""

    def saved(self, timesteps: int) -> None:
        """A checkpoint of so many timesteps was written, or resumed from."""

    def deferred(self) -> Any:
        """A context within which a first signal waits for the next `check`."""


class WatchHere:
    """Of a task in this process."""

    def __init__(
        self,
        stop: StopRequest,
        deadline: Deadline,
        say: Callable[[str], None],
        record: Callable[[Mapping[str, Any]], None],
        saved: Callable[[int], None],
    ) -> None:
        self._stop = stop
        self._deadline = deadline
        self.say = say
        self.record = record
        self.saved = saved

    def check(self, save: Callable[[], None] | None = None) -> None:
        if not (self._stop.requested or self._deadline.passed):
            return
        if save is not None:
            save()
        self._stop.check()
        self._deadline.check()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        with self._stop.deferred():
            yield
