"""Advice as a forecast before and after the day up to which the model may have read about the market.

Skill on bars that the model may have read about may be memory. The sealed window often lies on one side of that day
alone, so both sides are taken from all sessions: an advisor is fitted to none of them (calibration reads situations,
not what followed).
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from src.advisor.knowledge import cutoff_of, has_memory
from src.advisor.settings import LLMSettings
from src.advisor.situations import encode
from src.advisor.table import AdviceTable
from src.agent.market import Market
from src.evaluation.forecast import WHOLE, outcomes
from src.statistics.intervals import paired_interval
from src.trading.layout import BUY, FLAT, SELL

SKILL_HORIZON: Final = 5
"""Bars ahead, fixed beforehand: the middle one of `forecast.HORIZONS`."""
NO_MEMORY, SYNTHETIC, UNKNOWN, BEFORE, SPLIT, AFTER = "no memory", "synthetic", "unknown", "before", "split", "after"


def knowledge_facts(market: Market, table: AdviceTable, llm: LLMSettings, seed: int) -> dict[str, Any]:
    """What the report says about the model's memory: the cutoff, where the sealed sessions lie, and the skill of the
    advice on both sides with the difference between them.

    `sealed` says where the sealed sessions lie: before the cutoff (the day itself included), after it or on both
    sides, or why that is no question.
    """
    cutoff, dates = cutoff_of(llm), market.tables.sessions.date
    sealed = np.asarray(dates[market.split.test], "datetime64[D]")
    facts: dict[str, Any] = {
        "cutoff": None if cutoff is None else cutoff.day.isoformat(),
        "source": "" if cutoff is None else cutoff.source,
        "sealed": UNKNOWN,
        "sealed_sessions": len(sealed),
        "sealed_first": str(sealed[0]),
        "sealed_last": str(sealed[-1]),
        "sealed_after": 0,
        "horizon": SKILL_HORIZON,
        "before": None,
        "after": None,
        "difference": None,
        "low": None,
        "high": None,
    }
    if market.tables.bars.synthetic or not has_memory(llm):
        return facts | {"sealed": SYNTHETIC if market.tables.bars.synthetic else NO_MEMORY}
    if cutoff is None:
        return facts
    day = np.datetime64(cutoff.day, "D")
    later = int((sealed > day).sum())
    facts |= {"sealed_after": later, "sealed": AFTER if later == len(sealed) else SPLIT if later else BEFORE}
    sessions, hits, said_up, up = _by_session(market, table)
    is_after = np.asarray(dates[sessions], "datetime64[D]") > day
    sides = {}
    for name, chosen in (("before", ~is_after), ("after", is_after)):
        days = np.asarray(dates[sessions[chosen]], "datetime64[D]")
        sides[name] = skill(hits[chosen], said_up[chosen], up[chosen], seed=seed)
        sides[name] |= {"first": str(days[0]) if len(days) else None, "last": str(days[-1]) if len(days) else None}
    return facts | sides | difference(sides["before"], sides["after"])


def _by_session(
    market: Market, table: AdviceTable
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Sessions with forecasts, rising, and of each the share of hits, of forecasts up and of moves up."""
    split, tables = market.split, market.tables
    bars = market.bars_of(np.concatenate([split.train, split.validation, split.test]))
    situations = encode(market.situation[bars], FLAT)
    bars, advice = bars[table.covered[situations]], table.probabilities[situations[table.covered[situations]]]
    ticks, fate = outcomes(tables, bars, SKILL_HORIZON)
    used = (fate == WHOLE) & (advice[:, BUY] != advice[:, SELL]) & (ticks != 0)
    up, said_up = ticks[used] > 0, advice[used, BUY] > advice[used, SELL]
    sessions, place, counts = np.unique(tables.bars.session_id[bars[used]], return_inverse=True, return_counts=True)
    shares = [np.bincount(place, weights=of, minlength=len(sessions)) / counts for of in (up == said_up, said_up, up)]
    return sessions.astype(np.int64), shares[0], shares[1], shares[2]


def skill(
    hits: NDArray[np.float64], said_up: NDArray[np.float64], up: NDArray[np.float64], *, seed: int
) -> dict[str, Any]:
    """How far the hit rate exceeds chance, from shares by session, float64[n].

    Notes: with u the share of forecasts up and f that of moves up, both averaged over sessions, forecasts made without
    regard to the market hit u f + (1 - u)(1 - f) of the time. An advisor that always says BUY in a rising market has no
    skill by this measure. The interval is that of `paired_interval` over sessions.
    """
    if not len(hits):
        return {"sessions": 0, "hit_rate": None, "chance_rate": None, "skill": None, "low": None, "high": None} | {
            "reason": "no session with a forecast"
        }
    u, f = float(said_up.mean()), float(up.mean())
    chance = u * f + (1.0 - u) * (1.0 - f)
    found = paired_interval(hits - chance, seed=seed)
    return {
        "sessions": len(hits),
        "hit_rate": float(hits.mean()),
        "chance_rate": chance,
        "skill": found.mean,
        "low": found.low,
        "high": found.high,
        "reason": found.reason,
    }


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float | None]:
    """Skill before less skill after, with bounds from those of both sides, which share no session (MOVER).

    References: Zou & Donner, Construction of Confidence Limits About Effect Measures, Statistics in Medicine 27, 2008.
    """
    bounds = [side[name] for side in (before, after) for name in ("skill", "low", "high")]
    if any(bound is None for bound in bounds):
        return {"difference": None, "low": None, "high": None}
    b, b_low, b_high, a, a_low, a_high = bounds
    return {
        "difference": b - a,
        "low": b - a - math.hypot(b - b_low, a_high - a),
        "high": b - a + math.hypot(b_high - b, a - a_low),
    }
