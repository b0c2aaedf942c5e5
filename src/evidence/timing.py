"""How long a call takes: whole blocks of calls, so long that the clock and the loop weigh nothing. Loads no library."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Call = Callable[[], object]
_SURELY_LONG = 10
"""A first call this many blocks long is no matter of warming up: a second one would tell nothing new."""
_UNITS = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9))


def block_s(call: Call, n: int, before: Call | None = None) -> float:
    """Seconds that `n` calls take; `before`, untimed, goes before each."""
    if before is None:
        start = time.perf_counter()
        for _ in range(n):
            call()
        return time.perf_counter() - start
    spent = 0.0
    for _ in range(n):
        before()
        start = time.perf_counter()
        call()
        spent += time.perf_counter() - start
    return spent


def calls_in(call: Call, seconds: float, before: Call | None = None) -> int:
    """How many calls last at least `seconds`; warms up on the way."""
    if block_s(call, 1, before) >= _SURELY_LONG * seconds:
        return 1
    n = 1
    while True:
        elapsed = block_s(call, n, before)
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


def duration(seconds: float) -> str:
    """Three digits and a unit: `1.23 ms`, `12.3 us`, `123 ns`."""
    unit, scale = next((u for u in _UNITS if seconds >= 0.9995 * u[1]), _UNITS[-1])
    value = seconds / scale
    # Rounded first, so that 9.996 is not shown with four digits.
    digits = next((d for d, limit in ((2, 9.995), (1, 99.95)) if value < limit), 0)
    return f"{value:,.{digits}f} {unit}"
