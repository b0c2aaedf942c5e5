"""Causal recursions over bars, shared by both feature tables.

Every function runs forward from the first bar of a run and reads nothing outside that run, so a value at bar t
depends on bars run_start[t]..t alone: recomputing on a prefix gives the same bits, and nothing reaches across a hole
or a roll. Sums of ticks and volumes are int64 and therefore exact. The jitted functions do not call each other: numba's
cache hashes one file only.

Long series are computed in parts of whole sessions (`parts_of`), which gives the same bits with a fraction of the
memory. A part has a lead: the bars before it that its fixed lookbacks reach. `run_start` counts from the first bar of
the lead and is negative for a run that began before it. Recursions without a fixed lookback keep their state in a
`Carry`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numba import njit
from numpy.typing import NDArray

if TYPE_CHECKING:
    from src.market.bars import Bars
    from src.market.sessions import Sessions

ATR_BARS = 14
RSI_BARS = 14
EMA_FAST_BARS = 9
SMA_BARS = 20
MACD_FAST_BARS = 12
MACD_SLOW_BARS = 26
MACD_SIGNAL_BARS = 9
VOLUME_BARS = 20

FEATURE_BARS = MACD_SLOW_BARS + MACD_SIGNAL_BARS - 1
"""Bars of its run, t included, that bar t needs for a complete window row: the lookback of the MACD signal."""
ATR_FLOOR_TICKS = 1.0
"""Floor of the average range, ticks: dividing by less would turn a one-tick move into a signal."""

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
DAY_S = 86_400
DAY_MINUTES = 23 * 60
PART_BARS = 32_768
"""Bars in a part, rounded up to whole sessions: its arrays take about 30 MB and stay near the processor."""
LEAD_SESSIONS = 2
"""The levels of the session before need that session whole, and its predecessor to know that it is whole."""
GLOBEX_OPEN_S = 18 * 3600


@dataclass(frozen=True)
class Columns:
    """Bars as writable int64 columns, so that numba compiles once regardless of the input arrays' flags.

    `session_first` marks the first bar of a session or of a run: no earlier price is used. `slot` counts
    scheduled bars since the session's open, `clock_s` the seconds from 18:00 New York to the bar's close.
    """

    open: Int64
    high: Int64
    low: Int64
    close: Int64
    volume: Int64
    session: Int64
    run_start: Int64
    session_first: NDArray[np.bool_]
    slot: Int64
    clock_s: Int64
    interval_s: int

    @property
    def in_run(self) -> Int64:
        """Bars of the run up to and including t, int64[n]."""
        return np.arange(self.run_start.size, dtype=np.int64) - self.run_start + 1


def columns_of(
    bars: Bars,
    sessions: Sessions,
    run_start: NDArray[Any],
    rows: slice = slice(None),
    after_1800_s: Int64 | None = None,
) -> Columns:
    """Gather the columns of `rows`; only the sessions' scheduled opens are read, never their first or last bar.

    `after_1800_s` is `_open_after_1800` of the sessions, for callers that have it.
    """
    session = np.array(bars.session_id[rows], dtype=np.int64)
    if session.size and session.min() < 0:
        raise ValueError("features need every bar in a session: place the bars in sessions first")
    run = np.array(run_start[rows], dtype=np.int64) - (rows.start or 0)
    index = np.arange(session.size)
    first = run == index
    first[1:] |= session[1:] != session[:-1]
    scheduled_open = np.asarray(sessions.open_ns, dtype=np.int64)
    after_1800_s = _open_after_1800(scheduled_open) if after_1800_s is None else after_1800_s
    elapsed_s = (np.asarray(bars.open_ns[rows], dtype=np.int64) - scheduled_open[session]) // 1_000_000_000
    return Columns(
        open=np.array(bars.open[rows], dtype=np.int64),
        high=np.array(bars.high[rows], dtype=np.int64),
        low=np.array(bars.low[rows], dtype=np.int64),
        close=np.array(bars.close[rows], dtype=np.int64),
        volume=np.array(bars.volume[rows], dtype=np.int64),
        session=session,
        run_start=run,
        session_first=first,
        slot=np.maximum(elapsed_s // bars.interval_s, 0),
        clock_s=elapsed_s + bars.interval_s + after_1800_s[session],
        interval_s=int(bars.interval_s),
    )


def _open_after_1800(open_ns: Int64) -> Int64:
    """Seconds from 18:00 New York to each scheduled open, in [-12 h, 12 h): zero on every ordinary session.

    Elapsed time added to it is New York clock time, since clocks change on Sunday at 02:00, when no session is open.
    """
    local = pd.DatetimeIndex(open_ns, tz="UTC").tz_convert("America/New_York")
    second = np.asarray(local.hour * 3600 + local.minute * 60 + local.second, dtype=np.int64)
    return (second - GLOBEX_OPEN_S + DAY_S // 2) % DAY_S - DAY_S // 2


@njit(cache=True)
def bar_changes(open_: Int64, close: Int64, session_first: NDArray[np.bool_]) -> Int64:
    """Ticks from the previous close; at the first bar of a session or run from its own open, so no overnight gap."""
    out = np.empty(close.size, np.int64)
    for t in range(close.size):
        out[t] = close[t] - (open_[t] if session_first[t] else close[t - 1])
    return out


@njit(cache=True)
def true_ranges(high: Int64, low: Int64, close: Int64, session_first: NDArray[np.bool_]) -> Int64:
    """Wilder's true range in ticks; high - low alone at the first bar of a session or run."""
    out = np.empty(close.size, np.int64)
    for t in range(close.size):
        if session_first[t]:
            out[t] = high[t] - low[t]
        else:
            out[t] = max(high[t], close[t - 1]) - min(low[t], close[t - 1])
    return out


@njit(cache=True)
def run_totals(values: Int64, run_start: Int64, state: Int64) -> Int64:
    """Running total since the first bar of the run; `state` int64[1] holds the total before and after these bars."""
    out = np.empty(values.size, np.int64)
    total = state[0]
    for t in range(values.size):
        total = values[t] if run_start[t] == t else total + values[t]
        out[t] = total
    state[0] = total
    return out


@njit(cache=True)
def rolling_totals(values: Int64, run_start: Int64, bars: int) -> Int64:
    """Total of the last `bars` values of the run; 0 until the run has that many."""
    out = np.zeros(values.size, np.int64)
    total = 0
    for t in range(values.size):
        start = max(run_start[t], 0)
        total = values[t] if start == t else total + values[t]
        if t - start >= bars:
            total -= values[t - bars]
        if t - start >= bars - 1:
            out[t] = total
    return out


@njit(cache=True)
def seeded_averages(
    values: Float64, run_start: Int64, seed_bars: int, alpha: float, skip: int, state: Float64
) -> Float64:
    """Exponential average that starts as the mean of the run's first `seed_bars` values after `skip`; 0.0 before.

    `state` float64[1] holds the average (while seeding, the sum) before and after these bars.
    """
    out = np.zeros(values.size, np.float64)
    average = state[0]
    for t in range(values.size):
        k = t - run_start[t] - skip
        if k == 0:
            average = 0.0
        if k < 0:
            continue
        if k < seed_bars:
            average += values[t]
            if k < seed_bars - 1:
                continue
            average /= seed_bars
        else:
            average += alpha * (values[t] - average)
        out[t] = average
    state[0] = average
    return out


@njit(cache=True)
def session_vwaps(price_sums: Int64, volume: Int64, session_first: NDArray[np.bool_]) -> tuple[Float64, Int64]:
    """Volume-weighted mean of (high + low + close) / 3 since the session's or run's first bar, and the bars since then.

    `price_sums` is high + low + close. Until something trades, it is the bar's own (high + low + close) / 3.
    """
    vwap = np.empty(volume.size, np.float64)
    bars = np.empty(volume.size, np.int64)
    weighted = 0
    traded = 0
    count = 0
    for t in range(volume.size):
        if session_first[t]:
            weighted = 0
            traded = 0
            count = 0
        weighted += price_sums[t] * volume[t]
        traded += volume[t]
        count += 1
        vwap[t] = weighted / (3.0 * traded) if traded > 0 else price_sums[t] / 3.0
        bars[t] = count
    return vwap, bars


@dataclass(frozen=True)
class Indicators:
    """What window and context features share; float64[n] or int64[n] in ticks, 0 before the lookback is complete.

    `path` is the sum of bar changes since the run's start: closes with the overnight gaps removed. Averages and
    oscillators use it, so that the gap does not distort a session's first bars. `scale` is the ATR floored at one tick,
    the divisor of price distances. `rsi` is 0..100, and 50 before its lookback is complete.
    """

    change: Int64
    path: Int64
    true_range: Int64
    atr: Float64
    scale: Float64
    ema_fast: Float64
    macd: Float64
    macd_signal: Float64
    rsi: Float64
    vwap: Float64
    bars_in_session: Int64


@dataclass
class Carry:
    """What recursions hand from one part to the next."""

    lead: int = 0
    """Bars at the front of the current part's arrays that an earlier part has computed."""
    first: int = 0
    """Index, in the whole series, of the current part's first bar, its lead included."""
    states: dict[str, NDArray[Any]] = field(default_factory=dict)
    before: Indicators | None = None
    """The part before, its lead included."""

    def state(self, name: str, kind: type[np.generic] = np.float64) -> NDArray[Any]:
        """The state of the recursion `name`, one number."""
        return self.states.setdefault(name, np.zeros(1, kind))

    def averages(
        self, name: str, values: NDArray[Any], run_start: Int64, seed_bars: int, alpha: float, skip: int = 0
    ) -> Float64:
        """`seeded_averages` of the part's own bars, float64[n]; 0.0 in its lead."""
        own = values[self.lead :].astype(np.float64)
        run = run_start[self.lead :] - self.lead
        return self.after_lead(seeded_averages(own, run, seed_bars, alpha, skip, self.state(name)))

    def ema(self, name: str, values: NDArray[Any], run_start: Int64, span: int, skip: int = 0) -> Float64:
        """The exponential moving average of a span."""
        return self.averages(name, values, run_start, span, 2.0 / (span + 1.0), skip)

    def after_lead(self, own: NDArray[Any]) -> NDArray[Any]:
        """Values of the part's own bars with zeros for its lead in front."""
        return np.concatenate((np.zeros(self.lead, own.dtype), own)) if self.lead else own


def indicators_of(columns: Columns, carry: Carry | None = None) -> Indicators:
    """Run the recursions over the columns, from where `carry` left them."""
    carry = Carry() if carry is None else carry
    run = columns.run_start
    change = bar_changes(columns.open, columns.close, columns.session_first)
    own_run = run[carry.lead :] - carry.lead
    path = carry.after_lead(run_totals(change[carry.lead :], own_run, carry.state("path", np.int64)))
    true_range = true_ranges(columns.high, columns.low, columns.close, columns.session_first)
    atr = average_true_range(true_range, run, carry)
    fast = carry.ema("macd_fast", path, run, MACD_FAST_BARS)
    slow = carry.ema("macd_slow", path, run, MACD_SLOW_BARS)
    macd = np.where(columns.in_run >= MACD_SLOW_BARS, fast - slow, 0.0)
    vwap, bars_in_session = session_vwaps(
        columns.high + columns.low + columns.close, columns.volume, columns.session_first
    )
    found = Indicators(
        change=change,
        path=path,
        true_range=true_range,
        atr=atr,
        scale=np.maximum(atr, ATR_FLOOR_TICKS),
        ema_fast=carry.ema("ema_fast", path, run, EMA_FAST_BARS),
        macd=macd,
        macd_signal=carry.ema("macd_signal", macd, run, MACD_SIGNAL_BARS, skip=MACD_SLOW_BARS - 1),
        rsi=relative_strength(change, run, carry),
        vwap=vwap,
        bars_in_session=bars_in_session,
    )
    if carry.before is not None and carry.lead:
        for column in fields(Indicators):
            getattr(found, column.name)[: carry.lead] = getattr(carry.before, column.name)[-carry.lead :]
    carry.before = found
    return found


def average_true_range(true_range: Int64, run_start: Int64, carry: Carry | None = None) -> Float64:
    """Wilder's ATR, ticks, float64[n]: the mean of the run's first 14 true ranges, then smoothed by 1/14."""
    return (carry or Carry()).averages("atr", true_range, run_start, ATR_BARS, 1.0 / ATR_BARS)


def relative_strength(change: Int64, run_start: Int64, carry: Carry | None = None) -> Float64:
    """Wilder's RSI over 14 bar changes, 0..100, float64[n]; 50 without moves or before its lookback is complete."""
    carry = carry or Carry()
    gains = carry.averages("gains", np.maximum(change, 0), run_start, RSI_BARS, 1.0 / RSI_BARS)
    losses = carry.averages("losses", np.maximum(-change, 0), run_start, RSI_BARS, 1.0 / RSI_BARS)
    moved = gains + losses
    return np.where(moved > 0.0, 100.0 * gains / np.where(moved > 0.0, moved, 1.0), 50.0)


@dataclass(frozen=True)
class Part:
    """Whole sessions of a series. Arrays begin with the lead; `[lead:]` are the bars `rows` of the series."""

    rows: slice
    columns: Columns
    carry: Carry

    @property
    def lead(self) -> int:
        """Bars before the part's own."""
        return self.carry.lead


def parts_of(bars: Bars, sessions: Sessions, run_start: NDArray[Any]) -> Iterator[Part]:
    """The series in parts of PART_BARS and a few more, in order; each must be used before the next is asked for."""
    n = len(bars)
    starts = np.flatnonzero(np.concatenate((np.ones(min(n, 1), bool), bars.session_id[1:] != bars.session_id[:-1])))
    lookback = -(-DAY_MINUTES * 60 // bars.interval_s)
    after_1800_s = _open_after_1800(np.asarray(sessions.open_ns, dtype=np.int64))
    carry = Carry()
    begin = 0
    while begin < n:
        later = starts[starts >= begin + PART_BARS]
        end = int(later[0]) if later.size else n
        place = int(np.searchsorted(starts, begin))
        reach = int(np.searchsorted(starts, max(begin - lookback, 0), side="right")) - 1
        carry.first = int(starts[max(min(place - LEAD_SESSIONS, reach), 0)])
        carry.lead = begin - carry.first
        columns = columns_of(bars, sessions, run_start, slice(carry.first, end), after_1800_s)
        yield Part(slice(begin, end), columns, carry)
        begin = end
