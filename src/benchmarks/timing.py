"""Time a call in blocks long enough that the clock's and the loop's cost vanish. Loads no library."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Call = Callable[[], object]
Clock = Callable[[], float]
"""A monotonic clock in seconds: wall time, or the time added up by one part of the work."""
_SURELY_LONG = 10
"""If the first call takes this many blocks, warm-up no longer matters and a second one is not needed."""


def block_s(call: Call, n: int, clock: Clock = time.perf_counter) -> float:
    """Seconds that `n` calls take."""
    start = clock()
    for _ in range(n):
        call()
    return clock() - start


def calls_in(call: Call, seconds: float, clock: Clock = time.perf_counter) -> int:
    """How many calls last at least `seconds`; warms up on the way."""
    if block_s(call, 1, clock) >= _SURELY_LONG * seconds:
        return 1
    n = 1
    while True:
        elapsed = block_s(call, n, clock)
        if elapsed >= seconds:
            return n
        n = max(2 * n, int(n * seconds / max(elapsed, 1e-7)))


@contextmanager
def heap_set_aside() -> Iterator[None]:
    """Collect garbage now and leave what is alive out of later collections.

    Walking everything the libraries have allocated takes longer than a block, and would land in any one of them.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
