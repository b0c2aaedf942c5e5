"""Where a training's time goes: seconds and processor time by part, one part at a time.

Exactly one part is charged at any time, so the parts add up to the whole.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

SET_UP: Final = "set-up"
"""Accounts, networks, compiled kernels, and what a resumed training reads."""
ENVIRONMENT: Final = "environment"
FORWARD: Final = "forward pass"
SAMPLING: Final = "sampling"
POLICY: Final = "policy"
"""Forward pass, sampling and buffer of the stock learner, which does not tell them apart."""
BUFFER: Final = "buffer"
ADVICE: Final = "advice"
PRODUCTS: Final = "matrix products"
ELEMENTWISE: Final = "elementwise"
GRADIENTS: Final = "gradients"
"""Matrix products and elementwise work of the stock learner, which does not tell them apart; on a GPU the whole
update."""
OPTIMIZER: Final = "optimizer"
BOOKKEEPING: Final = "bookkeeping"
"""Minibatch order, what undoes a failed update, the update's figures."""
LOGGING: Final = "logging"
CHECKPOINTS: Final = "checkpoints"
EXPORTS: Final = "exports"
MEASURING: Final = "measuring"
"""The bound of the matrix products."""

PARTS: Final = (
    *(SET_UP, ENVIRONMENT, FORWARD, SAMPLING, POLICY, BUFFER, ADVICE, PRODUCTS, ELEMENTWISE, GRADIENTS, OPTIMIZER),
    *(BOOKKEEPING, LOGGING, CHECKPOINTS, EXPORTS, MEASURING),
)
CPU_EVERY: Final = 8
"""In a rollout processor time is read during one step of so many: reading it takes several times as long as reading
the wall clock."""


class Clock:
    """Adds up seconds by part; `switch` ends the part at work and begins another.

    Processor time (all threads of this process) is read only while `watch_cpu` is on, and scaled up from there.
    """

    def __init__(self, part: str = SET_UP) -> None:
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._watched_s = dict.fromkeys(PARTS, 0.0)
        self._cpu_s = dict.fromkeys(PARTS, 0.0)
        self._carried: Mapping[str, Mapping[str, float]] = {}
        self._part = part
        self._watches = True
        self._at, self._cpu_at = time.perf_counter(), time.process_time()

    def switch(self, part: str) -> str:
        """Charge the time from now on to `part`; return the part that was charged before."""
        now = time.perf_counter()
        before = self._part
        took = now - self._at
        self._seconds[before] += took
        if self._watches:
            cpu = time.process_time()
            self._watched_s[before] += took
            self._cpu_s[before] += cpu - self._cpu_at
            self._cpu_at = cpu
        self._part, self._at = part, now
        return before

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Charge the time within to `part`."""
        before = self.switch(part)
        try:
            yield
        finally:
            self.switch(before)

    def skip(self) -> None:
        """Charge the time since the last switch to no part."""
        self._at, self._cpu_at = time.perf_counter(), time.process_time()

    def watch_cpu(self, on: bool) -> None:
        """Whether processor time is read from now on."""
        if on != self._watches:
            self.switch(self._part)
            self._watches, self._cpu_at = on, time.process_time()

    def seconds(self, part: str) -> float:
        """Of one part so far, with what was carried over."""
        return self._of_process()["seconds"][part] + self._carried.get("seconds", {}).get(part, 0.0)

    def state(self) -> dict[str, dict[str, float]]:
        """All of it, for a checkpoint: seconds, and processor time with the seconds it was read in."""
        return {
            name: {part: seconds + self._carried.get(name, {}).get(part, 0.0) for part, seconds in of.items()}
            for name, of in self._of_process().items()
        }

    def carry(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Continue from a checkpoint's state: its seconds are added to those of this process."""
        self._carried = state

    def facts(self) -> dict[str, dict[str, float]]:
        """Seconds and processor seconds by part, in the order of `PARTS`; parts without any are left out."""
        return _facts(self.state())

    def facts_of_process(self) -> dict[str, dict[str, float]]:
        """The same without what was carried over."""
        return _facts(self._of_process())

    def _begin_with(self, of_process: Mapping[str, Mapping[str, float]]) -> None:
        seconds, watched_s, cpu_s = (dict(of_process[name]) for name in ("seconds", "watched_s", "cpu_s"))
        self._seconds, self._watched_s, self._cpu_s = seconds, watched_s, cpu_s

    def _of_process(self) -> dict[str, dict[str, float]]:
        self.switch(self._part)
        return {"seconds": self._seconds, "watched_s": self._watched_s, "cpu_s": self._cpu_s}


class ShareOfClock(Clock):
    """One member's equal share of the clock of a group that trains together: the members' parts add up to the group's.

    Parts begun on it are begun on the group's clock.
    """

    def __init__(self, group: Clock, members: int) -> None:
        super().__init__()
        self._group = group
        self._members = members

    def switch(self, part: str) -> str:
        """See Clock."""
        return self._group.switch(part)

    def watch_cpu(self, on: bool) -> None:
        """See Clock."""
        self._group.watch_cpu(on)

    def on_its_own(self, part: str) -> Clock:
        """A clock of the member's own that continues from its share as it is now, with `part`."""
        clock = Clock(part)
        clock._begin_with(self._of_process())
        clock.carry(self._carried)
        return clock

    def _of_process(self) -> dict[str, dict[str, float]]:
        return {
            name: {part: seconds / self._members for part, seconds in of.items()}
            for name, of in self._group._of_process().items()
        }


class NoClock(Clock):
    """Measures nothing: what a training takes without the clock."""

    def switch(self, part: str) -> str:
        """Nothing."""
        return part

    def watch_cpu(self, on: bool) -> None:
        """Nothing."""


def _facts(state: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Processor seconds are those read, scaled to all of a part's seconds; a part never watched has none."""
    seconds, watched_s, cpu_s = (state[name] for name in ("seconds", "watched_s", "cpu_s"))
    return {
        "seconds": {part: seconds[part] for part in PARTS if seconds[part]},
        "cpu_s": {part: cpu_s[part] * seconds[part] / watched_s[part] for part in PARTS if watched_s[part]},
    }
