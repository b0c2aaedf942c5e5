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
    FEATURE_BARS,
    Columns,
    Float64,
    Indicators,
    Int64,
    columns_of,
    indicators_of,
    rolling_totals,
    seeded_averages,
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
DAY_MINUTES = 23 * 60
SESSION_CLOCK_S = DAY_MINUTES * 60
OPENING_RANGE_START_S = 15 * 3600 + 1800  # 09:30 New York, counted from 18:00
OPENING_RANGE_END_S = 16 * 3600  # 10:00


def context_features(bars: Bars, sessions: Sessions, run_start: NDArray[Any]) -> NDArray[np.float32]:
    """Context rows, float32[n, 22] in the order of CONTEXT_FEATURES, each within +-5.

    A row is zero until its run has FEATURE_BARS bars; a column with a longer lookback is zero until the run has that
    many. `run_start[t]` is the index of the first bar of bar t's run (no hole and no roll since then).
    """
    columns = columns_of(bars, sessions, run_start)
    base = indicators_of(columns)
    features = np.concatenate((_market(columns, base), _timeframes(columns, base), _structure(columns, base)), axis=1)
    features[columns.in_run < FEATURE_BARS] = 0.0
    return np.clip(features, -CONTEXT_CLIP, CONTEXT_CLIP).astype(np.float32)


def _market(columns: Columns, base: Indicators) -> Float64:
    run = columns.run_start
    travelled = rolling_totals(np.abs(base.change), run, EFFICIENCY_BARS)
    net = np.abs(rolling_totals(base.change, run, EFFICIENCY_BARS))
    slow_atr = seeded_averages(base.true_range.astype(np.float64), run, SLOW_ATR_BARS, 1.0 / SLOW_ATR_BARS, 0)
    whole = columns.in_run >= FEATURE_BARS
    slots = int(columns.slot.max(initial=0)) + 1
    usual_atr = usual_at_slot(base.scale, whole, columns.slot, run, slots, USUAL_SESSIONS)
    volume = rolling_totals(columns.volume, run, REGIME_VOLUME_BARS).astype(np.float64) + 1.0
    usual_volume = usual_at_slot(volume, whole, columns.slot, run, slots, USUAL_SESSIONS)
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
    values: Float64, whole: NDArray[np.bool_], slot: Int64, run_start: Int64, slots: int, sessions: int
) -> Float64:
    """Average of `values` at the same scheduled slot in the run's earlier sessions; 0.0 where there was none.

    A plain mean for the first `sessions` values; later ones enter with weight 1/sessions.
    """
    out = np.zeros(values.size, np.float64)
    average = np.zeros(slots, np.float64)
    seen = np.zeros(slots, np.int64)
    seen_in_run = np.full(slots, -1, np.int64)
    for t in range(values.size):
        s = slot[t]
        if seen_in_run[s] != run_start[t]:
            seen_in_run[s] = run_start[t]
            seen[s] = 0
            average[s] = 0.0
        out[t] = average[s]
        if whole[t]:
            seen[s] = min(seen[s] + 1, sessions)
            average[s] += (values[t] - average[s]) / seen[s]
    return out


@njit(cache=True)
def range_position(top: Int64, bottom: Int64, path: Int64, run_start: Int64, bars: int) -> Float64:
    """Position of the close in the range of the last `bars` bars: -1 at its low, +1 at its high, 0.0 before."""
    out = np.zeros(path.size, np.float64)
    for t in range(path.size):
        if t - run_start[t] < bars - 1:
            continue
        high = top[t]
        low = bottom[t]
        for k in range(t - bars + 1, t):
            high = max(high, top[k])
            low = min(low, bottom[k])
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
        if run_start[t] == t:
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
