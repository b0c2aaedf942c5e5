"""What bars say about the clock of their times: bars in closed hours, the volume step at 09:30, the edges of a day.

A reading of a file is a zone and a stamp. Both only decide how many minutes a time is ahead of the bar's open in UTC
(`lead`: the zone's offset, plus the interval for a stamp at the close), so every session is scored for every lead
once and a zone's score is the sum over sessions at the leads it has there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import time

import numpy as np
from numpy.typing import NDArray

from src.market.sessions import Schedule, new_york_ns
from src.market.units import MINUTE_NS

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]
Window = Callable[[Int64, Int64], NDArray]

_REACH_MIN = 16 * 60
"""A wall clock is at most this far from UTC, the interval included."""

_LEVEL_MIN = 30
_USUAL_STEP, _STEP_WEIGHT, _STEP_BOUNDS = 0.95, 4.0, (-1.0, 4.0)
"""The step at 09:30 scores 4 (r - 0.95), cut to -1 .. 4.

r is the smaller of two log ratios of volume: the bar at 09:30 over the bar before, and the 30 minutes from 09:30 over
the 30 before (per bar). On ES and NQ bars of 2024-2026 (5 and 15 minutes) and ES, NQ and YM bars of January 2022 (1
minute), r has a median of 1.25 to 1.7 over sessions, and 5% are below 0.5 to 1.3. At any other minute of the day its
median is at most 0.9 (15:45, 03:00), and of all other bars 1% exceed 0.7 to 1.1.
"""
_BARS_BESIDE = 2
"""Bars wanted on either side of 09:30, none missing."""
_CLOSED_COST, _CLOSED_MOST = 3.0, 6.0
"""A session with bars in closed hours scores -(3 + log2(bars)), at most -6: an hour off, or one stray print."""
_BREAK_MATCHED = 1.5
"""A gap in the bars that is just the closed hours, to the bar on both sides."""
_DAY_MATCHED = 3.0
_QUIET_MIN = 180
_CASH_LENGTHS_MIN = (390, 405, 450)
_FIRST_BAR_VOLUME, _LAST_BARS_VOLUME = 1.5, 1.2
"""A day of just the cash session: no bar for three hours before 09:30, the last one before 16:00, 16:15 or 17:00, and
more volume than the day's average in the first bar (1.5 times) and from 15:45 to 16:00 (1.2 times). A file cut to other
hours has no such volume at its edges.
"""


class MinuteGrid:
    """Bars and volume up to every minute of a file's wall clock, so that any window is counted by two look-ups."""

    def __init__(self, wall_ns: Int64, volume: Float64 | None) -> None:
        minute = wall_ns // MINUTE_NS
        self.first = int(minute.min())
        length = int(minute.max()) - self.first + 1
        self._bars = np.concatenate(([0], np.cumsum(np.bincount(minute - self.first, minlength=length))))
        self._volume: Float64 | None = None
        if volume is not None:
            sums = np.bincount(minute - self.first, weights=volume, minlength=length)
            self._volume = np.concatenate(([0.0], np.cumsum(sums)))

    def bars(self, start: Int64, end: Int64) -> Int64:
        """Bars stamped in [start, end), minutes since 1970."""
        return self._bars[self._index(end)] - self._bars[self._index(start)]

    def volume(self, start: Int64, end: Int64) -> Float64:
        """Volume of those bars; zeros if the file has none."""
        if self._volume is None:
            return np.zeros(np.broadcast(start, end).shape)
        return self._volume[self._index(end)] - self._volume[self._index(start)]

    def _index(self, minute: Int64) -> Int64:
        return np.clip(minute - self.first, 0, len(self._bars) - 1)


@dataclass(frozen=True, eq=False)
class Cycles:
    """The sessions near a file's bars, each with half of the closed hours before and after it; minutes since 1970."""

    date: NDArray[np.datetime64]
    start: Int64
    open: Int64
    close: Int64
    """With the late trading of earlier years."""
    end: Int64
    cash_open: Int64
    """09:30 New York."""
    whole: Bool
    """Sessions that last until the afternoon: on a holiday with an early close there is no step at 09:30."""

    def __len__(self) -> int:
        return len(self.date)


def cycles_near(schedule: Schedule, grid: MinuteGrid) -> Cycles:
    """The cycles in whose reach the file has a bar."""
    opens, closes = schedule.open_ns // MINUTE_NS, schedule.late_end_ns // MINUTE_NS
    middle = (closes[:-1] + opens[1:]) // 2
    start = np.concatenate((opens[:1] - 720, middle))
    end = np.concatenate((middle, closes[-1:] + 720))
    near = grid.bars(start - _REACH_MIN, end + _REACH_MIN) > 0
    cash = new_york_ns(schedule.date[near], time(9, 30)) // MINUTE_NS
    return Cycles(
        date=schedule.date[near],
        start=start[near],
        open=opens[near],
        close=closes[near],
        end=end[near],
        cash_open=cash,
        whole=closes[near] - cash > 390,
    )


@dataclass(frozen=True, eq=False)
class Evidence:
    """Per cycle and lead, [cycles, leads]."""

    leads: Int64
    """Minutes, ascending."""
    bars: Int64
    closed: Int64
    """Bars that would open while the market is closed."""
    step: Float64
    """Volume of the bar at 09:30 over that of the bar before; NaN where one is missing."""
    score: Float64

    def at(self, lead: Int64) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Index of one lead per cycle, int64[cycles], into the arrays."""
        return np.arange(len(lead)), np.searchsorted(self.leads, lead)


def evidence_of(grid: MinuteGrid, cycles: Cycles, leads: Int64, interval_min: int) -> Evidence:
    """Count and score every cycle at every lead."""
    shift = leads[None, :]

    def bars(start: Int64, end: Int64) -> Int64:
        return grid.bars(start[:, None] + shift, end[:, None] + shift)

    def volume(start: Int64, end: Int64) -> Float64:
        return grid.volume(start[:, None] + shift, end[:, None] + shift)

    total = bars(cycles.start, cycles.end)
    closed = total - bars(cycles.open, cycles.close)  # the halt of 16:15 may hold a late print
    cash, whole = cycles.cash_open, cycles.whole[:, None]
    step_n = interval_min
    around = (bars(cash - _LEVEL_MIN, cash), bars(cash, cash + _LEVEL_MIN))
    with np.errstate(divide="ignore", invalid="ignore"):
        step = volume(cash, cash + step_n) / volume(cash - step_n, cash)
        levels = volume(cash - _LEVEL_MIN, cash) / around[0], volume(cash, cash + _LEVEL_MIN) / around[1]
        rise = np.minimum(np.log(step), np.log(levels[1] / levels[0]))
    # Bars missing around 09:30 would make a step of a stray bar or none of the real one.
    beside = max(1, min(_BARS_BESIDE, _LEVEL_MIN // step_n))
    unbroken = bars(cash - beside * step_n, cash + beside * step_n) >= 2 * beside
    known = np.isfinite(rise) & whole & unbroken
    breaks = _breaks_matched(bars, cycles, step_n)
    # A step with no late morning after it may be the releases of 08:30 at the end of a file of nights.
    placed = bars(cash + 75, cash + 135) > 0
    placed[1:] |= breaks
    placed[:-1] |= breaks
    cash_score = np.where(known, np.clip(_STEP_WEIGHT * (rise - _USUAL_STEP), *_STEP_BOUNDS), 0.0)
    cash_score = np.where(placed, cash_score, np.minimum(cash_score, 0.0))
    matched_day = whole & _day_matched(bars, volume, total, cycles, step_n)
    score = cash_score + _DAY_MATCHED * matched_day
    score[:-1] += _BREAK_MATCHED * breaks
    with np.errstate(divide="ignore"):
        cost = np.minimum(_CLOSED_COST + np.log2(np.maximum(closed, 1)), _CLOSED_MOST)
    score -= np.where(closed > 0, cost, 0.0)
    return Evidence(leads, total, closed, np.where(known, step, np.nan), score)


def _day_matched(bars: Window, volume: Window, total: Int64, cycles: Cycles, interval_min: int) -> Bool:
    """Whether a day's bars are just those of the cash session, with its busy open and close, bool[cycles, leads]."""
    cash = cycles.cash_open
    starts = (bars(cash - _QUIET_MIN, cash) == 0) & (bars(cash, cash + interval_min) > 0)
    ends = np.zeros_like(starts)
    for length in _CASH_LENGTHS_MIN:
        last = cash + length
        ends |= (bars(last - interval_min, last) > 0) & (bars(last, cycles.end) == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        usual = volume(cycles.start, cycles.end) / total
        first = volume(cash, cash + interval_min) / bars(cash, cash + interval_min)
        last_level = volume(cash + 375, cash + 390) / bars(cash + 375, cash + 390)
        return starts & ends & (first > _FIRST_BAR_VOLUME * usual) & (last_level > _LAST_BARS_VOLUME * usual)


def _breaks_matched(bars: Window, cycles: Cycles, interval_min: int) -> Bool:
    """Whether a gap in the bars is just the closed hours after a session, bool[cycles - 1, leads]."""
    to_the_end = (bars(cycles.close - interval_min, cycles.close) > 0) & (bars(cycles.close, cycles.end) == 0)
    from_the_start = (bars(cycles.open, cycles.open + interval_min) > 0) & (bars(cycles.start, cycles.open) == 0)
    adjacent = (cycles.end[:-1] == cycles.start[1:])[:, None]
    return to_the_end[:-1] & from_the_start[1:] & adjacent
