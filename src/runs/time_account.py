"""Where a run's wall time goes, in slot-seconds: each of the tasks it may do at a time is a slot.

While tasks are done every slot counts; before and between, the run's own process is one. Whatever a slot does is put
down where it happens, by its own clock, so that the parts must add up to wall time times slots.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from src.runs.tasks import Task

START, LOADING, COMPILING, TRAINING, FAILED, STARTING, IDLE, OWN = (
    *("start", "loading the market", "compiling", "training", "failed tries", "starting workers", "idle"),
    "the run's own files",
)
_STAGES = {"data": LOADING, "compile": COMPILING}
WORKED = "worked"
"""Key under which a worker tells when it worked."""


def worked(began: float, cpu_before: float) -> dict[str, float]:
    """When a task was worked at, on the clock that all processes of a machine share, and its processor seconds."""
    return {"began": began, "ended": time.perf_counter(), "cpu_s": time.process_time() - cpu_before}


class TimeAccount:
    """The account of one process's part of a run, from when it is made."""

    def __init__(self) -> None:
        self._began = self._at = time.perf_counter()
        self._cpu_at = time.process_time()
        self._part = START
        self._seconds: dict[str, float] = defaultdict(float)
        self._cpu_s: dict[str, float] = defaultdict(float)
        self._slots, self._most_slots, self._capacity_s = 1, 1, 0.0
        self._engaged = False
        self._at_work: dict[str, float] = {}

    def stage(self, name: str) -> None:
        """The run's own process begins something else; while tasks are done it counts for nothing."""
        if not self._engaged:
            self._switch(_STAGES.get(name, OWN))

    @contextmanager
    def engaged(self, slots: int) -> Iterator[None]:
        """Tasks are done, so many at a time."""
        self._switch(OWN)
        self._engaged, self._slots, self._most_slots = True, slots, max(slots, self._most_slots)
        try:
            yield
        finally:
            self._switch(OWN)
            for name in list(self._at_work):
                self._put(FAILED, self._freed(name))
            self._engaged = False

    def begins(self, task: Task) -> None:
        """A slot is taken."""
        self._switch(self._part)
        self._at_work[task.name] = self._at

    def ended(self, task: Task, told: Mapping[str, float] | None, spent: Mapping[str, Any] | None) -> None:
        """A slot is free again. `told` is what `worked` said, None where the task failed; `spent` the seconds and
        processor seconds of a training by part."""
        self._switch(self._part)
        if task.name not in self._at_work:  # in an account that was closed already
            return
        began = self._at - (took := self._freed(task.name))
        if told is None:
            self._put(FAILED, took)
            return
        self._put(STARTING, told["began"] - began)
        self._put(IDLE, self._at - told["ended"])  # until the run's process had time for it
        if spent is None:
            self._put(task.stage, told["ended"] - told["began"], told["cpu_s"])
        else:
            self._put(TRAINING, sum(spent["seconds"].values()), sum(spent["cpu_s"].values()))

    def facts(self) -> dict[str, Any]:
        """The account until now."""
        self._switch(self._part)
        seconds = dict(self._seconds)
        if self._most_slots == 1:  # around its tasks the only slot is at work for the run itself
            seconds[OWN] = sum(seconds.pop(part, 0.0) for part in (OWN, IDLE, STARTING))
        cpu_s = {part: cpu for part, cpu in self._cpu_s.items() if part not in (IDLE, STARTING, FAILED)}
        return {
            "wall_s": self._at - self._began,
            "slots": self._most_slots,
            "slot_s": self._capacity_s,
            "seconds": {part: of for part, of in sorted(seconds.items(), key=lambda item: -item[1]) if of > 0.0},
            "cpu_s": cpu_s,
            "unaccounted_s": self._capacity_s - sum(seconds.values()),
        }

    def _freed(self, name: str) -> float:
        """Seconds for which a slot was taken."""
        return self._at - self._at_work.pop(name)

    def _put(self, part: str, seconds: float, cpu_s: float = 0.0) -> None:
        self._seconds[part] += seconds
        self._cpu_s[part] += cpu_s

    def _switch(self, part: str) -> None:
        """Bring the account up to now: idle slots, or what the run's own process did."""
        now, cpu = time.perf_counter(), time.process_time()
        took = now - self._at
        if self._engaged:
            self._capacity_s += took * self._slots
            self._seconds[IDLE] += took * (self._slots - len(self._at_work))
        else:
            self._capacity_s += took
            self._put(self._part, took, cpu - self._cpu_at)
        self._part, self._at, self._cpu_at = part, now, cpu
