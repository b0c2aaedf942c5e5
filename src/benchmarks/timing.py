"""Time a call in blocks long enough that the clock's and the loop's cost vanish. Loads no library."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

Call = Callable[[], object]
Clock = Callable[[], float]
"""A monotonic clock in seconds: wall time, or the time added up by one part of the work."""
Block = Callable[[], float]
"""Times a block of calls: seconds of one operation."""
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


def block_of(call: Call, shortest_s: float, operations: int = 1, clock: Clock = time.perf_counter) -> Block:
    """Times a block of calls that lasts at least `shortest_s`, `operations` a call; warms up first."""
    n = calls_in(call, shortest_s, clock)
    return lambda: block_s(call, n, clock) / (n * operations)


def in_rounds(
    blocks: Sequence[Block], repeats: int, begin: Callable[[int, int], object] = lambda done, index: None
) -> list[list[float]]:
    """The seconds of each block, `repeats` times. The blocks take turns, so that a slow minute meets all alike.

    `begin` is told the round and the block that begins.
    """
    times: list[list[float]] = [[] for _ in blocks]
    with heap_set_aside():
        for done in range(repeats):
            for index, block in enumerate(blocks):
                begin(done, index)
                times[index].append(block())
    return times


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
