"""Progress of a measurement: a live line on a terminal, an occasional plain line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Self

from rich.console import Console

from src.console import live_on
from src.wording import clock_time

Say = Callable[[str], object]
PLAIN_INTERVAL_S = 5.0
"""Without a terminal, the shortest time between two lines."""


class Progress:
    """Reports the work at hand, percent done and time left. A unit of work is a suite's warm-up or a round of it.

    The time left assumes that the rest takes as long a unit as what is done.
    """

    def __init__(self, units: int, say: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self._units, self._say, self._clock = units, say, clock
        self._began = clock()
        self._done = 0

    def begin(self, what: str) -> None:
        """The next unit begins."""
        share = self._done / self._units
        left = "" if not share else f", ETA {clock_time((self._clock() - self._began) * (1.0 - share) / share)}"
        self._say(f"{what}, {share:.0%}{left}")
        self._done += 1


class ProgressLine:
    """Shows progress of this process and of its measuring processes; a terminal is left clean."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._began = clock()
        self._printed = float("-inf")
        self._stack = ExitStack()
        self._status = console.status("") if console.is_terminal else None
        self._said = ""

    def __enter__(self) -> Self:
        if self._status is not None:
            self._stack.enter_context(live_on(self._console))
            self._stack.enter_context(self._status)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def say(self, text: str) -> None:
        """Show a line; without a terminal at most one in `PLAIN_INTERVAL_S`."""
        if self._status is not None:
            self._status.update(text)
        elif self._clock() - self._printed >= PLAIN_INTERVAL_S:
            self.always(text)

    def always(self, text: str) -> None:
        """Show a line in any case."""
        self._said = text
        if self._status is not None:
            self._status.update(text)
            return
        self._printed = self._clock()
        self._console.print(f"[{self._printed - self._began:5.0f} s] {text}")

    def heard(self, text: str) -> None:
        """Append the measuring process's own progress to the last line; on a terminal only."""
        if self._status is not None:
            self._status.update(f"{self._said}: {text.strip().rpartition('] ')[2]}")
