"""The 22 context features: market context, higher timeframes, and the levels that structure a session.

Window rows describe the last 20 bars; context rows place them in the hour, the day and the days before. They use only
rolling windows and completed sessions, never a higher-timeframe bar that is still forming.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from src.market.indicators import (
    DAY_MINUTES,
    FEATURE_BARS,
    Carry,
    Columns,
    Float64,
    Indicators,
    Int64,
    Part,
    indicators_of,
    parts_of,
    rolling_totals,
)

if TYPE_CHECKING:
    from src.market.bars import Bars
    from src.market.sessions import Sessions

MARKET_FEATURES: tuple[str, ...] = (
    "trend",
    "trend_efficiency",
    "momentum",
    "rsi_14",
    "vwap_distance",
    "volatility_regime",
    "volatility_ratio",
    "volume_regime",
    "session_clock",
)
TIMEFRAME_FEATURES: tuple[str, ...] = (
    "hour_return",
    "hour_range_position",
    "four_hour_return",
    "four_hour_range_position",
    "day_return",
    "hour_volatility_ratio",
    "timeframe_agreement",
)
STRUCTURE_FEATURES: tuple[str, ...] = (
    "prior_high_distance",
    "prior_low_distance",
    "prior_close_distance",
    "session_high_distance",
    "session_low_distance",
    "opening_range_position",
)
CONTEXT_FEATURES: tuple[str, ...] = MARKET_FEATURES + TIMEFRAME_FEATURES + STRUCTURE_FEATURES
_TIMEFRAME, _STRUCTURE = len(MARKET_FEATURES), len(MARKET_FEATURES + TIMEFRAME_FEATURES)
CONTEXT_GROUPS: Mapping[str, slice] = MappingProxyType(
    {
        "market": slice(0, _TIMEFRAME),
        "timeframe": slice(_TIMEFRAME, _STRUCTURE),
        "structure": slice(_STRUCTURE, len(CONTEXT_FEATURES)),
    }
)
CONTEXT_CLIP = 5.0

MOMENTUM_BARS = 10
EFFICIENCY_BARS = 20
SLOW_ATR_BARS = 100
REGIME_VOLUME_BARS = 5
USUAL_SESSIONS = 10
"""Sessions averaged for the typical range and volume at a time of day: two weeks, ten values."""
SESSION_CLOCK_S = DAY_MINUTES * 60
OPENING_RANGE_START_S = 15 * 3600 + 1800  # 09:30 New York, counted from 18:00
OPENING_RANGE_END_S = 16 * 3600  # 10:00


def context_features(bars: Bars, sessions: Sessions, run_start: NDArray[Any]) -> NDArray[np.float32]:
    """Context rows, float32[n, 22] in the order of CONTEXT_FEATURES, each within +-5.

    A row is zero until its run has FEATURE_BARS bars; a column with a longer lookback is zero until the run has that
    many. `run_start[t]` is the index of the first bar of bar t's run (no hole and no roll since then).
    """
    rows = np.zeros((len(bars), len(CONTEXT_FEATURES)), np.float32)
    for part in parts_of(bars, sessions, run_start):
        rows[part.rows] = _context_of(part)[part.lead :]
    return rows


def _context_of(part: Part) -> Float64:
    columns = part.columns
    base = indicators_of(columns, part.carry)
    features = np.concatenate(
        (_market(columns, base, part.carry), _timeframes(columns, base), _structure(columns, base)), axis=1
    )
    features[columns.in_run < FEATURE_BARS] = 0.0
    return np.clip(features, -CONTEXT_CLIP, CONTEXT_CLIP)


def _market(columns: Columns, base: Indicators, carry: Carry) -> Float64:
    run = columns.run_start
    travelled = rolling_totals(np.abs(base.change), run, EFFICIENCY_BARS)
    net = np.abs(rolling_totals(base.change, run, EFFICIENCY_BARS))
    slow_atr = carry.averages("slow_atr", base.true_range, run, SLOW_ATR_BARS, 1.0 / SLOW_ATR_BARS)
    usual_atr = _usual(base.scale, columns, carry, "usual_atr")
    volume = rolling_totals(columns.volume, run, REGIME_VOLUME_BARS).astype(np.float64) + 1.0
    usual_volume = _usual(volume, columns, carry, "usual_volume")
    return np.stack(
        (
            base.macd / base.scale,
            net / np.maximum(travelled, 1),
            rolling_totals(base.change, run, MOMENTUM_BARS) / (base.scale * np.sqrt(MOMENTUM_BARS)),
            (base.rsi - 50.0) / 15.0,
            2.0 * (columns.close - base.vwap) / (base.scale * np.sqrt(base.bars_in_session)),
            2.0 * _log_ratio(base.scale, usual_atr),
            2.0 * _log_ratio(base.scale, slow_atr),
            _log_ratio(volume, usual_volume),
            columns.clock_s / SESSION_CLOCK_S,
        ),
        axis=1,
    )


def _usual(values: Float64, columns: Columns, carry: Carry, name: str) -> Float64:
    """`usual_at_slot` of the part's own bars, float64[n]; 0.0 in its lead."""
    slots = max(int(columns.slot.max(initial=0)) + 1, -(-DAY_MINUTES * 60 // columns.interval_s))
    state = carry.states.get(name, np.empty((3, 0)))
    if state.shape[1] < slots:
        fresh = np.zeros((3, slots - state.shape[1]))
        fresh[2] = -1.0
        state = carry.states[name] = np.concatenate((state, fresh), axis=1)
    own = slice(carry.lead, None)
    run = columns.run_start[own] + carry.first
    whole = columns.in_run[own] >= FEATURE_BARS
    return carry.after_lead(usual_at_slot(values[own], whole, columns.slot[own], run, state, USUAL_SESSIONS))


def _timeframes(columns: Columns, base: Indicators) -> Float64:
    run = columns.run_start
    hour = _bars_in(60, columns.interval_s)
    four_hours = _bars_in(240, columns.interval_s)
    day = _bars_in(DAY_MINUTES, columns.interval_s)
    returns = [
        rolling_totals(base.change, run, bars) / (base.scale * np.sqrt(bars)) for bars in (hour, four_hours, day)
    ]
    top = base.path + columns.high - columns.close
    bottom = base.path + columns.low - columns.close
    quick = rolling_totals(base.true_range, run, hour) / hour
    slow = rolling_totals(base.true_range, run, four_hours) / four_hours
    return np.stack(
        (
            returns[0],
            range_position(top, bottom, base.path, run, hour),
            returns[1],
            range_position(top, bottom, base.path, run, four_hours),
            returns[2],
            2.0 * _log_ratio(np.maximum(quick, 1.0), np.where(slow > 0.0, np.maximum(slow, 1.0), 0.0)),
            (np.sign(returns[0]) + np.sign(returns[1]) + np.sign(returns[2])) / 3.0,
        ),
        axis=1,
    )


def _structure(columns: Columns, base: Indicators) -> Float64:
    levels = session_levels(columns.high, columns.low, columns.close, columns.session, columns.slot, columns.run_start)
    prior_high, prior_low, prior_close, high, low = levels.T
    known = prior_high > 0
    prior_range = np.maximum(prior_high - prior_low, 1)
    reach = base.scale * np.sqrt(base.bars_in_session)
    opening = opening_ranges(
        columns.high,
        columns.low,
        columns.clock_s,
        columns.session_first,
        columns.interval_s,
        OPENING_RANGE_START_S,
        OPENING_RANGE_END_S,
    )
    top, bottom = opening.T
    from_middle = (columns.close - (top + bottom) / 2.0) / np.maximum(top - bottom, 1)
    return np.stack(
        (
            np.where(known, (columns.close - prior_high) / prior_range, 0.0),
            np.where(known, (columns.close - prior_low) / prior_range, 0.0),
            np.where(known, (columns.close - prior_close) / prior_range, 0.0),
            (high - columns.close) / reach,
            (columns.close - low) / reach,
            np.where(top > 0, from_middle, 0.0),
        ),
        axis=1,
    )


def _bars_in(minutes: int, interval_s: int) -> int:
    """Bars that cover `minutes`, rounded up: an hour of 7-minute bars is nine of them."""
    return -(-minutes * 60 // interval_s)


def _log_ratio(value: NDArray[Any], reference: NDArray[Any]) -> Float64:
    """ln(value / reference); 0.0 where there is no reference yet."""
    known = reference > 0.0
    return np.where(known, np.log(value / np.where(known, reference, 1.0)), 0.0)


@njit(cache=True)
def usual_at_slot(
    values: Float64, whole: NDArray[np.bool_], slot: Int64, run_start: Int64, state: Float64, sessions: int
) -> Float64:
    """Average of `values` at the same scheduled slot in the run's earlier sessions; 0.0 where there was none.

    A plain mean for the first `sessions` values; later ones enter with weight 1/sessions. `state` float64[3, slots]
    holds average, number of values and run of each slot before and after these bars; `run_start` counts from the start
    of the series.
    """
    out = np.zeros(values.size, np.float64)
    average, seen, seen_in_run = state[0], state[1], state[2]
    for t in range(values.size):
        s = slot[t]
        if seen_in_run[s] != run_start[t]:
            seen_in_run[s] = run_start[t]
            seen[s] = 0.0
            average[s] = 0.0
        out[t] = average[s]
        if whole[t]:
            seen[s] = min(seen[s] + 1.0, sessions)
            average[s] += (values[t] - average[s]) / seen[s]
    return out


@njit(cache=True)
def range_position(top: Int64, bottom: Int64, path: Int64, run_start: Int64, bars: int) -> Float64:
    """Position of the close in the range of the last `bars` bars: -1 at its low, +1 at its high, 0.0 before.

    Two queues hold the bars that may still be the window's highest or lowest, so that the cost does not grow with
    `bars`.
    """
    n = path.size
    out = np.zeros(n, np.float64)
    highs = np.empty(n, np.int64)
    lows = np.empty(n, np.int64)
    high_first = high_end = low_first = low_end = 0
    for t in range(n):
        start = max(run_start[t], 0)
        if start == t:
            high_first = high_end
            low_first = low_end
        while high_end > high_first and top[highs[high_end - 1]] <= top[t]:
            high_end -= 1
        while low_end > low_first and bottom[lows[low_end - 1]] >= bottom[t]:
            low_end -= 1
        highs[high_end] = t
        lows[low_end] = t
        high_end += 1
        low_end += 1
        if highs[high_first] <= t - bars:
            high_first += 1
        if lows[low_first] <= t - bars:
            low_first += 1
        if t - start < bars - 1:
            continue
        high = top[highs[high_first]]
        low = bottom[lows[low_first]]
        if high > low:
            out[t] = (2 * path[t] - high - low) / (high - low)
    return out


@njit(cache=True)
def session_levels(high: Int64, low: Int64, close: Int64, session: Int64, slot: Int64, run_start: Int64) -> Int64:
    """High, low and close of the run's previous session and high and low of this one so far, int64[n, 5] ticks.

    The previous session counts only if the run holds all of it: the run began before it or with its first scheduled
    slot. Otherwise its three columns are 0.
    """
    out = np.zeros((close.size, 5), np.int64)
    top = 0
    bottom = 0
    complete = False
    for t in range(close.size):
        if max(run_start[t], 0) == t:
            out[t, :3] = 0
            complete = slot[t] == 0
            top = high[t]
            bottom = low[t]
        elif session[t] != session[t - 1]:
            if complete:
                out[t, 0] = top
                out[t, 1] = bottom
                out[t, 2] = close[t - 1]
            complete = True
            top = high[t]
            bottom = low[t]
        else:
            out[t, :3] = out[t - 1, :3]
            top = max(top, high[t])
            bottom = min(bottom, low[t])
        out[t, 3] = top
        out[t, 4] = bottom
    return out


@njit(cache=True)
def opening_ranges(
    high: Int64,
    low: Int64,
    clock_s: Int64,
    session_first: NDArray[np.bool_],
    interval_s: int,
    start_s: int,
    end_s: int,
) -> Int64:
    """High and low of the bars that open in [start_s, end_s), int64[n, 2] ticks; 0 until that range is complete.

    A run that begins after `start_s` has no opening range that day.
    """
    out = np.zeros((high.size, 2), np.int64)
    top = 0
    bottom = 0
    seen_from_start = False
    for t in range(high.size):
        opened = clock_s[t] - interval_s
        if session_first[t]:
            seen_from_start = opened <= start_s
            top = 0
            bottom = 0
        if start_s <= opened < end_s:
            top = max(top, high[t])
            bottom = low[t] if bottom == 0 else min(bottom, low[t])
        if seen_from_start and clock_s[t] >= end_s:
            out[t, 0] = top
            out[t, 1] = bottom
    return out
