"""Report section `markets`: what several markets say together, from the report of each.

Sessions of one date are not independent across markets, so the pooled contrast averages over markets first and treats
a date as one observation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.agent.members import ArmName
from src.report.conclusions import EXPLORATORY, PRIMARY, SECONDARY, contrast_words
from src.report.model.arms import Contrast
from src.report.model.markets import Agreement, AgreementOf, MarketsContrast
from src.report.model.report import Report
from src.statistics.agreement import concordance
from src.statistics.intervals import REPLICATIONS, Interval, paired_interval
from src.statistics.samples import holm
from src.wording import percent

POOLED = (
    (ArmName.HYBRID, ArmName.PLACEBO, PRIMARY),
    (ArmName.HYBRID, ArmName.RL_ONLY, SECONDARY),
    (ArmName.HYBRID, ArmName.FLAT, EXPLORATORY),
)
"""Contrasts over all markets, fixed before any run; those of `src.report.conclusions` that a conclusion rests on."""
CONTROLS = (ArmName.FLAT, ArmName.RANDOM_LEGAL)
"""Not ranked: that they come last, or first, says nothing of the arms that decide."""


def together(reports: Mapping[str, Report], seed: int, replications: int = REPLICATIONS) -> dict[str, Any]:
    """The section but for the reports themselves. `replications` are those of every interval."""
    evaluated = {symbol: report for symbol, report in reports.items() if report.statistics is not None}
    if len(evaluated) < 2:
        return {"contrasts": []}
    contrasts = contrasts_of(evaluated, seed, replications)
    found: dict[str, Any] = {
        "contrasts": [of.model_dump() for of in contrasts],
        "advice": {
            symbol: {"effect": _effect(symbol, contrasts), **_folds_ahead(report)}
            for symbol, report in evaluated.items()
        },
    }
    found["arms"] = arms_of(evaluated, seed, replications)
    agreement = agreement_of(evaluated, seed)
    return found if agreement is None else {**found, "agreement": agreement.model_dump()}


# Contrasts


def contrasts_of(reports: Mapping[str, Report], seed: int, replications: int = REPLICATIONS) -> list[MarketsContrast]:
    """Every contrast pooled by date and in each market. The pooled ones but the primary are adjusted by Holm's method
    among themselves, those of the markets over the markets."""
    intervals = []
    for arm, against, role in POOLED:
        if all({arm, against} <= report.arms.keys() for report in reports.values()):
            own = {symbol: differences(report, arm, against) for symbol, report in reports.items()}
            dates = {symbol: report.session_dates or [] for symbol, report in reports.items()}
            pooled, in_all = pooled_by_date(own, dates)
            by_market = {
                symbol: paired_interval(of, seed=seed, replications=replications) for symbol, of in own.items()
            }
            over_all = paired_interval(pooled, seed=seed, replications=replications)
            intervals.append((arm, against, role, over_all, in_all, by_market))
    adjusted = _adjusted({arm + against: of for arm, against, role, of, _, _ in intervals if role != PRIMARY})
    found = []
    for arm, against, role, over_all, in_all, by_market in intervals:
        over_markets = _adjusted(by_market)
        found.append(
            MarketsContrast(
                arm=arm,
                against=against,
                pooled=_contrast(arm, against, role, over_all, adjusted.get(arm + against), "dates"),
                dates_in_all=in_all,
                by_market={
                    symbol: _contrast(arm, against, EXPLORATORY, interval, over_markets.get(symbol), "sessions")
                    for symbol, interval in by_market.items()
                },
            )
        )
    return found


def arms_of(reports: Mapping[str, Report], seed: int, replications: int = REPLICATIONS) -> dict[str, Any]:
    """Net P&L per session of every arm by market and pooled by date, with intervals."""
    first, *others = reports.values()
    arms = [arm for arm in first.arms if all(arm in report.arms for report in others)]
    dates = {symbol: report.session_dates or [] for symbol, report in reports.items()}
    found = {}
    for arm in arms:
        nets = {symbol: np.array(report.nets_by_seed(arm), np.float64) for symbol, report in reports.items()}
        found[arm] = {
            "pooled": _net(pooled_by_date(nets, dates)[0], seed, replications),
            "by_market": {symbol: _net(of, seed, replications) for symbol, of in nets.items()},
        }
    return found


def _net(nets: NDArray[np.float64], seed: int, replications: int) -> dict[str, float | None]:
    interval = paired_interval(nets, seed=seed, replications=replications)
    return {"mean_usd": interval.mean, "low_usd": interval.low, "high_usd": interval.high}


def differences(report: Report, arm: str, against: str) -> NDArray[np.float64]:
    """Paired differences of net P&L, float64[seeds, sessions]."""
    return np.array(report.nets_by_seed(arm), np.float64) - np.array(report.nets_by_seed(against), np.float64)


def pooled_by_date(
    by_market: Mapping[str, NDArray[np.float64]], dates: Mapping[str, Sequence[str]]
) -> tuple[NDArray[np.float64], int]:
    """By seed and date the mean over the markets that have the date, float64[seeds, dates], in the order of the dates;
    and how many dates all markets have. Seeds are joined by their place."""
    every = sorted({date for of_market in dates.values() for date in of_market})
    place = {date: i for i, date in enumerate(every)}
    n_seeds = min(len(rows) for rows in by_market.values())
    total, count = np.zeros((n_seeds, len(every))), np.zeros(len(every), np.int64)
    for symbol, rows in by_market.items():
        columns = [place[date] for date in dates[symbol]]
        total[:, columns] += rows[:n_seeds]
        count[columns] += 1
    return total / np.maximum(1, count), int((count == len(by_market)).sum())


def _adjusted(intervals: Mapping[str, Interval]) -> dict[str, float]:
    p_values = {name: of.p_value for name, of in intervals.items() if of.p_value is not None}
    return dict(zip(p_values, holm(list(p_values.values())).tolist(), strict=True))


def _contrast(arm: str, against: str, role: str, interval: Interval, holm_p_value: float | None, unit: str) -> Contrast:
    said = contrast_words(arm, against, interval, holm_p_value)
    words = said if unit == "sessions" else said.replace("/session", "/date and market").replace("sessions", "dates")
    return Contrast(
        arm=arm,
        against=against,
        role=role,  # type: ignore[arg-type]
        sessions=interval.n,
        mean_usd=interval.mean,
        low_usd=interval.low,
        high_usd=interval.high,
        level_frac=interval.level,
        p_value=interval.p_value,
        holm_p_value=holm_p_value,
        standard_error_usd=interval.standard_error,
        minimum_detectable_usd=interval.minimum_detectable,
        seed_means_usd=list(interval.seed_means),
        block_length=interval.block_length,
        replications=interval.replications,
        reason=interval.reason,
        words=words,
    )


def _effect(symbol: str, contrasts: Sequence[MarketsContrast]) -> str:
    """As `answers.llm_effect`, by the contrasts that are adjusted over the markets."""
    signs = [of.by_market[symbol].sign for of in contrasts if of.against in (ArmName.PLACEBO, ArmName.RL_ONLY)]
    if len(signs) == 2 and min(signs) > 0:
        return "helps"
    return "hurts" if min(signs, default=0) < 0 else "open"


def _folds_ahead(report: Report) -> dict[str, int]:
    folds = report.walk_forward.folds if report.walk_forward is not None else []
    ahead = sum((fold.difference_usd or 0.0) > 0.0 for fold in folds)
    return {"folds": len(folds), "folds_ahead": ahead}


# Ranks


def agreement_of(reports: Mapping[str, Report], seed: int) -> Agreement | None:
    """Whether the arms keep their order over folds and markets; None where there are too few of them to rank."""
    folds = {
        symbol: [fold.net_usd_per_session for fold in report.walk_forward.folds]
        for symbol, report in reports.items()
        if report.walk_forward is not None
    }
    blocks = [row for rows in folds.values() for row in rows]
    unit = "folds"
    if len(blocks) < 2:
        unit = "markets"
        blocks = [{arm: of.net_usd_per_session for arm, of in report.arms.items()} for report in reports.values()]
    counted = Counter(arm for row in blocks for arm, net in row.items() if net is not None and arm not in CONTROLS)
    arms = [arm for arm, n in counted.items() if n == len(blocks)]
    if len(blocks) < 2 or len(arms) < 2:
        return None
    whole = _ranked(blocks, arms, seed)
    by_market = {symbol: _ranked(rows, arms, seed) for symbol, rows in folds.items() if len(rows) > 1}
    return Agreement(
        **whole.model_dump(), unit=unit, by_market=by_market, words=_agreement_words(whole, unit)  # type: ignore[arg-type]
    )  # fmt: skip


def _ranked(blocks: Sequence[Mapping[str, Any]], arms: Sequence[str], seed: int) -> AgreementOf:
    found = concordance([[row[arm] for arm in arms] for row in blocks], seed=seed)
    ranks: dict[str, float | None] = {}
    for arm, rank in sorted(zip(arms, found.mean_ranks, strict=True), key=lambda item: item[1]):
        ranks[arm] = rank
    return AgreementOf(blocks=len(blocks), kendalls_w=found.w, p_value=found.p_value, mean_ranks=ranks)


def _agreement_words(found: AgreementOf, unit: str) -> str:
    if found.kendalls_w is None or found.p_value is None:
        return f"the arms cannot be told apart in these {found.blocks} {unit}"
    order = ", ".join(f"{arm} {rank:.1f}" for arm, rank in found.mean_ranks.items() if rank is not None)
    said = "the arms keep their order" if found.p_value <= 0.05 else "no stable order of the arms shown"
    return (
        f"{said}: Kendall's W {found.kendalls_w:.2f} over {found.blocks} {unit}, random orders agree as much in "
        f"{percent(found.p_value, 1)}; mean ranks {order}"
    )
