"""A situation: the market at bar t in six buckets, and the account's side, as one small integer.

Equal situations share one answer of the advisor, so training never waits for it. Bucket edges are constants, so nothing
is fitted to a split and a code means the same on every market. They were set once by the features' own spread on ES and
NQ (5-minute bars, 2024-2026; no price after a bar was looked at): trend and momentum fall into roughly equal thirds,
RSI outside 30 to 70 is a tenth of the bars, the volatility regime leaves half of them in the middle. About 300 of the
648 market codes occur there, and the 100 most frequent hold nine bars in ten.

Market code 0 is the bar whose features are not whole (its context row is all zeros): it is never asked about, and every
advice table abstains there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from src.market.context import CONTEXT_FEATURES, SESSION_CLOCK_S
from src.market.tables import MarketTables
from src.trading.layout import N_SIDES

SIDES: tuple[str, ...] = ("flat", "long winning", "long losing", "short winning", "short losing")
"""Names of the account's sides, in the order of their codes; winning is strictly better than the entry price."""
UNKNOWN = 0
"""The market code of a bar whose features are not whole."""
UNKNOWN_BUCKET = "unknown"

_HOUR_S = 3600


def _clock_edge(hours_after_1800: float) -> float:
    """A New York time as the `session_clock` feature; half a second early, so that float32 rounding cannot cross it."""
    return (hours_after_1800 * _HOUR_S - 0.5) / SESSION_CLOCK_S


@dataclass(frozen=True)
class Dimension:
    """One fact of a situation: the context feature it is read from, the edges, and the names of the buckets between.

    A value at an edge belongs to the bucket above it. Where there is one edge too many, the last bucket is the first
    again: the evening after the close is "overnight" like the morning before the open.
    """

    name: str
    feature: str
    edges: tuple[float, ...]
    buckets: tuple[str, ...]


DIMENSIONS: tuple[Dimension, ...] = (
    # MACD line (12, 26) in ATR
    Dimension("trend", "trend", (-0.35, 0.35), ("down", "sideways", "up")),
    # ten-bar change in ATR x sqrt(10)
    Dimension("momentum", "momentum", (-0.3, 0.3), ("falling", "steady", "rising")),
    # (RSI - 50) / 15: the customary 30 and 70
    Dimension("rsi", "rsi_14", (-20.0 / 15.0, 20.0 / 15.0), ("oversold", "neutral", "overbought")),
    Dimension("vwap", "vwap_distance", (0.0,), ("below", "above")),
    # 2 ln(ATR / usual ATR at this time of day): under 78% and over 128% of the usual; 0.0 where no usual is known
    Dimension("volatility", "volatility_regime", (-0.5, 0.5), ("low", "normal", "high")),
    # 09:30, 10:30, 15:00 and 16:00 New York at the bar's close
    Dimension(
        "session_part",
        "session_clock",
        (_clock_edge(15.5), _clock_edge(16.5), _clock_edge(21.0), _clock_edge(22.0)),
        ("overnight", "opening", "midday", "closing"),
    ),
)
N_DIMENSIONS = len(DIMENSIONS)
BUCKET_COUNTS: tuple[int, ...] = tuple(len(dimension.buckets) for dimension in DIMENSIONS)
N_MARKET_SITUATIONS = 1 + int(np.prod(BUCKET_COUNTS))
N_SITUATIONS = N_MARKET_SITUATIONS * N_SIDES

_COLUMNS = tuple(CONTEXT_FEATURES.index(dimension.feature) for dimension in DIMENSIONS)


@dataclass(frozen=True)
class Situation:
    """A situation in words: bucket names of `DIMENSIONS` ("unknown" for market code 0) and a name of `SIDES`."""

    trend: str
    momentum: str
    rsi: str
    vwap: str
    volatility: str
    session_part: str
    side: str

    @property
    def is_known(self) -> bool:
        """Whether the bar's features were whole."""
        return self.trend != UNKNOWN_BUCKET


def market_situations(tables: MarketTables) -> NDArray[np.int32]:
    """Market code of every bar, int32[n] in [0, N_MARKET_SITUATIONS); causal because the context table is."""
    return market_codes(tables.context)


def market_codes(context: NDArray[np.floating[Any]]) -> NDArray[np.int32]:
    """Market codes of context rows, float[n, 22] as in CONTEXT_FEATURES -> int32[n]; a row of zeros is UNKNOWN."""
    if context.ndim != 2 or context.shape[1] != len(CONTEXT_FEATURES):
        raise ValueError(f"context has shape {context.shape}, needs (n, {len(CONTEXT_FEATURES)})")
    buckets = np.empty((len(context), N_DIMENSIONS), dtype=np.int64)
    for k, (dimension, column) in enumerate(zip(DIMENSIONS, _COLUMNS, strict=True)):
        buckets[:, k] = np.digitize(context[:, column], dimension.edges) % len(dimension.buckets)
    return np.where(context.any(axis=1), codes_of_buckets(buckets), UNKNOWN).astype(np.int32)


def codes_of_buckets(buckets: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """Market codes of bucket numbers, int[k, 6] in the order of DIMENSIONS -> int32[k], never UNKNOWN."""
    return (1 + np.ravel_multi_index(tuple(np.asarray(buckets).T), BUCKET_COUNTS)).astype(np.int32)


def encode(market_code: ArrayLike, side: ArrayLike) -> NDArray[np.int64]:
    """Situations of market codes and sides (broadcast against each other), int64."""
    codes, sides = np.asarray(market_code, dtype=np.int64), np.asarray(side, dtype=np.int64)
    _check_range("market code", codes, N_MARKET_SITUATIONS)
    _check_range("side", sides, N_SIDES)
    return codes * N_SIDES + sides


def split_situations(situations: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Market codes and sides of situations, the inverse of `encode`; int64 each."""
    values = np.asarray(situations, dtype=np.int64)
    _check_range("situation", values, N_SITUATIONS)
    return values // N_SIDES, values % N_SIDES


def buckets_of_codes(market_code: ArrayLike) -> NDArray[np.int64]:
    """Bucket numbers of market codes, int64[k, 6]; the inverse of `codes_of_buckets`, and -1 throughout for UNKNOWN."""
    codes = np.asarray(market_code, dtype=np.int64)
    _check_range("market code", codes, N_MARKET_SITUATIONS)
    buckets = np.stack(np.unravel_index(np.maximum(codes - 1, 0), BUCKET_COUNTS), axis=-1)
    return np.where((codes == UNKNOWN)[..., np.newaxis], -1, buckets)


def decode(situation: int) -> Situation:
    """The situation in words."""
    code, side = split_situations(situation)
    numbers = buckets_of_codes(code)
    names = {
        dimension.name: UNKNOWN_BUCKET if number < 0 else dimension.buckets[number]
        for dimension, number in zip(DIMENSIONS, numbers, strict=True)
    }
    return Situation(**names, side=SIDES[int(side)])


def _check_range(name: str, values: NDArray[np.int64], limit: int) -> None:
    if values.size and (values.min() < 0 or values.max() >= limit):
        raise ValueError(f"a {name} lies in [0, {limit}), got {values.min()} to {values.max()}")


PROBES: tuple[int, ...] = tuple(
    int(encode(code, k % N_SIDES))
    for k, code in enumerate(np.linspace(1, N_MARKET_SITUATIONS - 1, N_SIDES + 2).astype(int))
)
"""Situations that a model is tried with: every side, from the first market code to the last."""
