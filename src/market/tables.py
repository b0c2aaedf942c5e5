"""Everything known about a market's bars, as the frozen tables that environments and evaluation read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from src.market.bars import Bars
from src.market.sessions import Sessions


@dataclass(frozen=True, eq=False)
class MarketTables:
    """Bars, sessions and one row a bar of all that is derived from them; read-only arrays of length n."""

    bars: Bars
    sessions: Sessions
    prices: NDArray[np.int32]
    """int32[n, 4], C-contiguous: open, high, low, close in ticks."""
    flags: NDArray[np.uint8]
    """Bits of `src.market.flags`."""
    atr_ticks: NDArray[np.float32]
    """Average true range in ticks; 0.0 where its lookback is not whole."""
    window: NDArray[np.float32]
    """float32[n, 11]."""
    context: NDArray[np.float32]
    """float32[n, 22]."""


def missing_slots(
    before_ns: NDArray[np.int64],
    after_ns: NDArray[np.int64],
    halt_start_ns: NDArray[np.int64],
    halt_end_ns: NDArray[np.int64],
    interval_ns: int,
) -> NDArray[np.int64]:
    """Scheduled bar slots strictly between two times of one session, those inside its trading halt not counted."""
    slots = -(-(after_ns - before_ns) // interval_ns) - 1
    halted_ns = np.minimum(after_ns, halt_end_ns) - np.maximum(before_ns + interval_ns, halt_start_ns)
    return np.maximum(slots - np.maximum(halted_ns, 0) // interval_ns, 0)


def run_starts(bars: Bars, sessions: Sessions, no_trade_bars: int) -> NDArray[np.int32]:
    """For each bar the index of the first bar of its run, int32[n]; a run has no gap but the closed time.

    A hole (more than `no_trade_bars` scheduled bars missing inside a session, at its start or at its end, or a whole
    session missing) and a change of contract start a new run. Entry t depends on bars up to t and the schedule only.
    """
    n = len(bars)
    if n == 0:
        return np.zeros(0, dtype=np.int32)
    times, ids, step = bars.open_ns, bars.session_id, bars.interval_ns
    halts = (sessions.halt_start_ns, sessions.halt_end_ns)
    previous, current = ids[:-1], ids[1:]
    same = previous == current

    inside = missing_slots(times[:-1], times[1:], halts[0][current], halts[1][current], step)
    at_end = missing_slots(times[:-1], sessions.close_ns[previous], halts[0][previous], halts[1][previous], step)
    at_start = missing_slots(sessions.open_ns[current] - step, times[1:], halts[0][current], halts[1][current], step)
    absent = np.searchsorted(sessions.missing_dates, sessions.date)
    between = absent[current] != absent[previous]

    hole = np.where(same, inside > no_trade_bars, (at_end > no_trade_bars) | (at_start > no_trade_bars) | between)
    starts = np.ones(n, dtype=bool)
    starts[1:] = hole | (bars.contract[1:] != bars.contract[:-1])
    return np.maximum.accumulate(np.where(starts, np.arange(n), 0)).astype(np.int32)
