"""Resample bars to a longer interval on the grid that starts at each session's open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from src.market.bars import NO_SESSION, Bars, make_bars
from src.market.sessions import Schedule, off_grid_error, schedule_around, session_index
from src.market.units import MINUTE_NS

CUT_OFF = "before a roll or a halt inside a longer bar"
"""Key in `repairs`: bars dropped because a roll or trading halt follows them within their bucket."""


def resampled(bars: Bars, interval_min: int | None, schedule: Schedule | None = None) -> Bars:
    """Resample bars to `interval_min` minutes; unchanged if they have that interval already, or if it is None.

    Buckets start at the session's 18:00 New York open. No resulting bar crosses a session, a halt or a change of
    contract: bars earlier in such a bucket are dropped and counted in `repairs`. A bucket produces a bar if any bar
    opens in it, so the last bar before an early close may cover less time. Bars outside the calendar are kept;
    `sessions.place_in_sessions` drops and counts them.

    Args:
        bars: Bars of one market.
        interval_min: Target interval in minutes, a multiple of the bars' own.
        schedule: Sessions covering the bars, if already computed.

    Raises:
        BarDataError: bars are off the grid of their session.
    """
    if interval_min is None or len(bars) == 0 or interval_min * 60 == bars.interval_s:
        return bars
    if (interval_min * 60) % bars.interval_s:
        raise ValueError(f"{interval_min} minutes are not a multiple of {bars.interval_s} s")
    schedule = schedule_around(bars.open_ns) if schedule is None else schedule
    session = session_index(schedule, bars.open_ns)
    slot = _slots(bars, schedule, session, interval_min)
    part = np.zeros(len(bars), dtype=bool)
    part[0] = True
    part[1:] = slot[1:] != slot[:-1]
    first = np.flatnonzero(part)
    part[1:] |= bars.contract[1:] != bars.contract[:-1]
    inside = session != NO_SESSION
    halted = inside & (bars.open_ns >= schedule.halt_end_ns[np.where(inside, session, 0)])
    part[1:] |= halted[1:] != halted[:-1]
    begin = np.flatnonzero(part)
    end = np.append(begin[1:], len(bars))
    last = np.searchsorted(begin, np.append(first[1:], len(bars))) - 1  # the last part of each bucket
    cut = len(bars) - int((end[last] - begin[last]).sum())
    repairs: Mapping[str, int] = Counter(bars.repairs) + Counter({CUT_OFF: cut})
    return make_bars(
        market=bars.market,
        interval_s=interval_min * 60,
        source=bars.source,
        open_ns=slot[begin[last]],
        open=bars.open[begin[last]],
        high=np.maximum.reduceat(bars.high, begin)[last],
        low=np.minimum.reduceat(bars.low, begin)[last],
        close=bars.close[end[last] - 1],
        volume=np.add.reduceat(bars.volume, begin)[last],
        contract=bars.contract[begin[last]],
        contract_names=bars.contract_names,
        repairs=repairs,
        synthetic=bars.synthetic,
        reading=bars.reading,
    )


def _slots(bars: Bars, schedule: Schedule, session: NDArray[np.int32], interval_min: int) -> NDArray[np.int64]:
    """Open time of each bar's bucket; a bar outside the calendar is its own bucket."""
    inside = session != NO_SESSION
    if not inside.any():
        return bars.open_ns
    opened = schedule.open_ns[np.where(inside, session, 0)]
    elapsed = bars.open_ns - opened
    off_grid = np.flatnonzero(inside & (elapsed % bars.interval_ns != 0))
    if off_grid.size:
        raise off_grid_error(bars, off_grid)
    step = interval_min * MINUTE_NS
    return np.where(inside, opened + elapsed // step * step, bars.open_ns)
