"""The two causal feature tables: 11 window features and 22 context features per bar, clipped to +-5.

Prices are scaled by the market's own recent range (ATR), so there is no running normalizer to save or to leak.
A row is zero until its run has FEATURE_BARS bars. docs/features.md has each column's formula and scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from src.market.context import CONTEXT_FEATURES, CONTEXT_GROUPS, context_features
from src.market.indicators import (
    ATR_BARS,
    ATR_FLOOR_TICKS,
    DAY_S,
    FEATURE_BARS,
    GLOBEX_OPEN_S,
    SMA_BARS,
    VOLUME_BARS,
    Columns,
    Part,
    average_true_range,
    indicators_of,
    parts_of,
    rolling_totals,
    true_ranges,
)

if TYPE_CHECKING:
    from src.market.bars import Bars
    from src.market.sessions import Sessions

__all__ = [
    "CONTEXT_FEATURES",
    "CONTEXT_GROUPS",
    "FEATURE_BARS",
    "FEATURE_CLIP",
    "WARMUP_BARS",
    "WINDOW_BARS",
    "WINDOW_FEATURES",
    "atr_ticks",
    "context_features",
    "window_features",
]

WINDOW_BARS = 20
WARMUP_BARS = FEATURE_BARS + WINDOW_BARS - 1
"""Bars of its run, t included, that bar t needs before all 20 rows of its window are complete."""
FEATURE_CLIP = 5.0
WINDOW_FEATURES: tuple[str, ...] = (
    "bar_return",
    "bar_range",
    "close_location",
    "vwap_distance",
    "ema_9_distance",
    "sma_20_distance",
    "rsi_14",
    "macd_histogram",
    "relative_volume",
    "time_sin",
    "time_cos",
)


def window_features(bars: Bars, sessions: Sessions, run_start: NDArray[Any]) -> NDArray[np.float32]:
    """Window feature rows, float32[n, 11] in the order of WINDOW_FEATURES, each within +-5; incomplete rows are zero.

    `run_start[t]` is the index of the first bar of bar t's run (no hole and no roll since then).
    """
    rows = np.zeros((len(bars), len(WINDOW_FEATURES)), np.float32)
    for part in parts_of(bars, sessions, run_start):
        rows[part.rows] = _window_of(part)[part.lead :]
    return rows


def _window_of(part: Part) -> NDArray[np.float64]:
    columns = part.columns
    base = indicators_of(columns, part.carry)
    whole = columns.in_run >= FEATURE_BARS
    path_mean = rolling_totals(base.path, columns.run_start, SMA_BARS) / SMA_BARS
    spread = columns.high - columns.low
    angle = 2.0 * np.pi * (columns.clock_s + GLOBEX_OPEN_S) / DAY_S
    features = np.stack(
        (
            base.change / base.scale,
            spread / base.scale - 1.0,
            (2 * columns.close - columns.high - columns.low) / np.maximum(spread, 1),
            2.0 * (columns.close - base.vwap) / (base.scale * np.sqrt(base.bars_in_session)),
            (base.path - base.ema_fast) / base.scale,
            (base.path - path_mean) / (2.0 * base.scale),
            (base.rsi - 50.0) / 15.0,
            4.0 * (base.macd - base.macd_signal) / base.scale,
            _relative_volume(columns),
            np.sin(angle),
            np.cos(angle),
        ),
        axis=1,
    )
    features[~whole] = 0.0
    return np.clip(features, -FEATURE_CLIP, FEATURE_CLIP)


def _relative_volume(columns: Columns) -> NDArray[np.float64]:
    mean = rolling_totals(columns.volume, columns.run_start, VOLUME_BARS) / VOLUME_BARS
    return np.log((columns.volume + 1.0) / (mean + 1.0))


def atr_ticks(bars: Bars, sessions: Sessions, run_start: NDArray[Any]) -> NDArray[np.float32]:
    """Wilder's ATR over 14 bars in ticks, float32[n]: at least one tick where the run has 14 bars, 0.0 before."""
    rows = np.zeros(len(bars), np.float32)
    for part in parts_of(bars, sessions, run_start):
        columns = part.columns
        ranges = true_ranges(columns.high, columns.low, columns.close, columns.session_first)
        atr = np.maximum(average_true_range(ranges, columns.run_start, part.carry), ATR_FLOOR_TICKS)
        rows[part.rows] = np.where(columns.in_run >= ATR_BARS, atr, 0.0)[part.lead :]
    return rows
