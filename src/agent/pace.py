"""How long the rollouts of a training took, one after another: what a forecast of a longer one rests on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

MOST_BLOCKS = 256
"""A longer series is halved by joining neighbours: as long as a training, never larger than this."""


class Pace:
    """Wall seconds of consecutive blocks of `rollouts` rollouts each: rollout, update, and what lies between them.

    Time between two trainings, or between a process that was stopped and the one that continues, is in none.
    """

    def __init__(self) -> None:
        self.rollouts = 1
        self._blocks: list[float] = []
        self._open_s, self._open = 0.0, 0
        self._mark = time.perf_counter()

    def begin(self) -> None:
        """Time until now is in no block."""
        self._mark = time.perf_counter()

    def rollout_ended(self) -> None:
        """A rollout and its update ended now."""
        now = time.perf_counter()
        self.add(now - self._mark)
        self._mark = now

    def add(self, seconds: float) -> None:
        """Count the seconds of a rollout."""
        self._open_s, self._open = self._open_s + seconds, self._open + 1
        if self._open < self.rollouts:
            return
        self._blocks.append(self._open_s)
        self._open_s, self._open = 0.0, 0
        if len(self._blocks) == MOST_BLOCKS:
            self._blocks = [a + b for a, b in zip(self._blocks[::2], self._blocks[1::2], strict=True)]
            self.rollouts *= 2

    def seconds(self) -> list[float]:
        """Of each whole block, in order."""
        return list(self._blocks)

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"rollouts": self.rollouts, "blocks": self.seconds(), "open_s": self._open_s, "open": self._open}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self.rollouts, self._open_s, self._open = state["rollouts"], state["open_s"], state["open"]
        blocks: Sequence[float] = state["blocks"]
        self._blocks = list(blocks)
        self.begin()
