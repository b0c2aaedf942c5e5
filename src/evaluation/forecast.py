"""The advice as a forecast of the next bars on sealed data, without an account, and a summary of what it says.

Whether advice makes money depends on stops, costs and the policy. Whether it knows anything about the next bars does
not: while flat, p(BUY) - p(SELL) is a directional view that the market confirms or refutes within minutes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.advisor.situations import N_MARKET_SITUATIONS, SIDES, encode
from src.advisor.table import LABEL_SETS, AdviceTable
from src.agent.market import Market
from src.evaluation.summaries import mean_or_none
from src.market.context import CONTEXT_FEATURES
from src.market.flags import BREAK_AFTER, END_AFTER
from src.market.tables import MarketTables
from src.trading.layout import ACTIONS, BUY, FLAT, N_ACTIONS, N_SIDES, SELL

HORIZONS = (1, 5, 15)
"""Bars ahead."""
RELIABILITY_BINS = 10
WHOLE, PAST_FLAT, AT_BREAK = range(3)
"""Fate of a window: complete, past the forced exit, across a gap or a roll."""

Float64 = NDArray[np.float64]


def forecast_facts(market: Market, table: AdviceTable) -> dict[str, Any]:
    """Report section `forecaster`: the flat-state view at each covered sealed bar against what followed.

    No intervals: windows of neighbouring bars overlap, and many bars share one situation.
    """
    tables = market.tables
    sealed = market.bars_of(market.split.test)
    situations = encode(market.situation[sealed], FLAT)
    covered = table.covered[situations]
    bars, advice = sealed[covered], table.probabilities[situations[covered]].astype(np.float64)
    buy, sell = advice[:, BUY], advice[:, SELL]
    momentum = tables.context[bars, CONTEXT_FEATURES.index("momentum")]
    return {
        "forecast": "sign of p(BUY) - p(SELL) while flat at the close of bar t",
        "outcome": "close(t+h) - open(t+1), h bars ahead",
        "correlation": "spearman",
        "sealed_bars": len(sealed),
        "covered_bars": len(bars),
        "momentum": {"n": len(bars), "correlation": spearman(momentum, buy - sell)},
        "horizons": {
            str(horizon): horizon_facts(buy, sell, *outcomes(tables, bars, horizon), tables.bars.session_id[bars])
            for horizon in HORIZONS
        },
    }


def outcomes(tables: MarketTables, bars: NDArray[np.int64], horizon: int) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """The move `horizon` bars after each of `bars` (int64[k], DECISION bars): ticks int64[k] and fate int8[k].

    Ticks are close(t + horizon) - open(t + 1), and 0 unless the fate is WHOLE: every bar up to t + horizon follows the
    previous one without a gap or roll and closes at or before the forced exit. Otherwise the first obstacle decides.
    """
    flags, times, sessions = tables.flags, tables.bars, tables.sessions
    stops = np.flatnonzero((flags & (BREAK_AFTER | END_AFTER)) != 0)
    # The end of the file is a break, so each bar has a stop at or after it.
    stop = stops[np.searchsorted(stops, bars)]
    whole = stop >= bars + horizon
    exit_is_next = times.open_ns[stop] + times.interval_ns == sessions.flat_slot_ns[times.session_id[stop]]
    broken = ((flags[stop] & BREAK_AFTER) != 0) & ~exit_is_next
    ticks = np.zeros(len(bars), np.int64)
    first, last = bars[whole] + 1, bars[whole] + horizon
    ticks[whole] = tables.prices[last, 3].astype(np.int64) - tables.prices[first, 0]
    return ticks, np.where(whole, WHOLE, np.where(broken, AT_BREAK, PAST_FLAT)).astype(np.int8)


def horizon_facts(
    buy: Float64, sell: Float64, ticks: NDArray[np.int64], fate: NDArray[np.int8], session: NDArray[np.int32]
) -> dict[str, Any]:
    """Figures of one horizon from columns of length k; a figure without data is None.

    Complete windows are `ties` (neither side preferred), else `zero_returns` (price unchanged), else the `n` behind
    every figure. Brier score: mean squared error of p_up = p(BUY) / (p(BUY) + p(SELL)); `brier_of_up_rate` is the score
    of always forecasting the fraction of up moves, which is known only afterwards.
    """
    whole = fate == WHOLE
    tied = whole & (buy == sell)
    unmoved = whole & ~tied & (ticks == 0)
    used = whole & ~tied & ~unmoved
    buys, sells, moves = buy[used], sell[used], ticks[used]
    up, said_up = moves > 0, buys > sells
    up_rate = mean_or_none(up)
    return {
        "windows": int(whole.sum()),
        "dropped_past_flat": int((fate == PAST_FLAT).sum()),
        "dropped_at_break": int((fate == AT_BREAK).sum()),
        "ties": int(tied.sum()),
        "zero_returns": int(unmoved.sum()),
        "n": int(used.sum()),
        "sessions": len(np.unique(session[used])),
        "hit_rate": mean_or_none(up == said_up),
        "up_rate": up_rate,
        "forecast_up_rate": mean_or_none(said_up),
        "information_coefficient": spearman(buys - sells, moves),
        "brier": mean_or_none((buys / (buys + sells) - up) ** 2),
        "brier_of_up_rate": None if up_rate is None else up_rate * (1.0 - up_rate),
        "reliability": reliability(buys / (buys + sells), up),
    }


def reliability(said_up: Float64, up: NDArray[np.bool_], bins: int = RELIABILITY_BINS) -> list[dict[str, Any]]:
    """Observed frequency of up moves by forecast probability: float64[n] in 0 to 1 and bool[n].

    Equal-width bins of p_up without the empty ones: mean forecast, fraction of up moves, number of bars.

    References: DeGroot & Fienberg, The Comparison and Evaluation of Forecasters, The Statistician 32, 1983.
    """
    place = np.minimum((said_up * bins).astype(np.int64), bins - 1)
    return [
        {
            "said_up_frac": float(said_up[place == k].mean()),
            "up_frac": float(up[place == k].mean()),
            "n": int((place == k).sum()),
        }
        for k in np.unique(place)
    ]


def spearman(x: NDArray[Any], y: NDArray[Any]) -> float | None:
    """Rank correlation with mean ranks for ties; None if either column has fewer than two distinct values."""
    a, b = _centred_ranks(x), _centred_ranks(y)
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / spread if spread > 0.0 else None


def _centred_ranks(values: NDArray[Any]) -> Float64:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    # Half ranks are exact, so equal values cancel to the bit.
    return (counts.cumsum() - (counts - 1) / 2.0)[place] - (len(values) + 1) / 2.0


def advice_mix(table: AdviceTable, market_codes: NDArray[np.integer[Any]]) -> dict[str, dict[str, Any]]:
    """What the advice says by side of the account, over the covered bars among these market codes (int[n]).

    `likeliest`: fraction of bars on which an action is the most likely (ties: the lowest code). `probability`: mean
    probability. `entropy`: mean entropy as a fraction of its maximum, ln of the number of labels; 1 says nothing.
    """
    weights = np.bincount(np.asarray(market_codes, np.int64), minlength=N_MARKET_SITUATIONS)
    rows = table.probabilities.reshape(N_MARKET_SITUATIONS, N_SIDES, N_ACTIONS).astype(np.float64)
    return {name: _mix_of_side(rows[:, side], weights, LABEL_SETS[side]) for side, name in enumerate(SIDES)}


def _mix_of_side(rows: Float64, weights: NDArray[np.int64], labels: NDArray[np.bool_]) -> dict[str, Any]:
    heard = (weights > 0) & rows.any(axis=1)
    rows, counts = rows[heard], weights[heard]
    n = int(counts.sum())
    if n == 0:
        return {"bars": 0, "entropy": None, "likeliest": None, "probability": None}
    logs = np.log(rows, out=np.zeros_like(rows), where=rows > 0.0)
    entropy = counts @ -(rows * logs).sum(axis=1) / n / np.log(labels.sum())
    likeliest = np.bincount(rows.argmax(axis=1), weights=counts, minlength=N_ACTIONS) / n
    probability = counts @ rows / n
    said = np.flatnonzero(labels)
    return {
        "bars": n,
        "entropy": float(entropy),
        "likeliest": {ACTIONS[action]: float(likeliest[action]) for action in said},
        "probability": {ACTIONS[action]: float(probability[action]) for action in said},
    }
