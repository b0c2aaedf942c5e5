"""Work whose cost grows with a run is spaced out: it takes a small share of the time, however large the run is."""

from __future__ import annotations

import time
from collections.abc import Callable

AT_ONCE_S = 0.05
"""What takes no longer is done whenever it is asked for."""
SHARE = 0.05
"""Of the time, that what takes longer may have."""


class Spaced:
    """Does `work` when called, unless it was done so recently that it would take more than its share of the time. What
    is left out must be done at the end by whoever owns it."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._took = 0.0
        self._ended = float("-inf")

    def __call__(self) -> None:
        """Do it, where it is due."""
        began = time.monotonic()
        if self._took > AT_ONCE_S and began - self._ended < self._took / SHARE:
            return
        self._work()
        self._ended = time.monotonic()
        self._took = self._ended - began
