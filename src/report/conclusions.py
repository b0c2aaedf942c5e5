"""Report section `statistics`: from the sessions of every arm and seed to the figures a conclusion may rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np

from src.agent.members import SELECTABLE_ARMS, ArmName, Training
from src.evaluation.cost_stress import CostStress
from src.evaluation.seeds import SeededResults
from src.report.model.arms import SampleSize
from src.report.model.report import Overall, Report
from src.statistics.intervals import Interval, paired_interval
from src.statistics.performance import deflated_sharpe, series_figures, sharpe_ratio, trade_figures
from src.statistics.samples import (
    DETECTABLE,
    break_even_slippage,
    holm,
    interquartile_mean,
    sample_size,
    sessions_needed,
)
from src.statistics.trials import TrialLedger
from src.wording import usd, usd_per_session

PRIMARY, SECONDARY, EXPLORATORY = "primary", "secondary", "exploratory"
ENOUGH_TIMESTEPS = 50_000
"""Base timesteps in which the defaults learn a planted edge (`src.canaries.planted`)."""

CONTRASTS = (
    (ArmName.HYBRID, ArmName.PLACEBO, PRIMARY),
    (ArmName.HYBRID, ArmName.RL_ONLY, SECONDARY),
    (ArmName.HYBRID, ArmName.FLAT, EXPLORATORY),
    (ArmName.RL_ONLY, ArmName.RANDOM_LEGAL, EXPLORATORY),
    (ArmName.FUSED, ArmName.RL_ONLY, EXPLORATORY),
)
"""Arm, comparison arm and role of each contrast; fixed before any run."""


def contrast_facts(sealed: SeededResults, seed: int) -> list[dict[str, Any]]:
    """Every contrast with its interval, the primary one first; the others are adjusted by Holm's method."""
    found = [
        (arm, against, role, paired_interval(sealed.net_usd(arm) - sealed.net_usd(against), seed=seed))
        for arm, against, role in CONTRASTS
        if arm in sealed.results and against in sealed.results
    ]
    others = [i for i, (_, _, role, interval) in enumerate(found) if role != PRIMARY and interval.p_value is not None]
    p_values = [found[i][3].p_value for i in others]
    adjusted = dict(zip(others, holm(np.array(p_values, np.float64)).tolist(), strict=True))
    return [
        contrast_entry(arm, against, role, interval, adjusted.get(i))
        for i, (arm, against, role, interval) in enumerate(found)
    ]


def contrast_entry(
    arm: str, against: str, role: str, interval: Interval, holm_p_value: float | None = None
) -> dict[str, Any]:
    """One contrast as the report has it."""
    return {
        "arm": arm,
        "against": against,
        "role": role,
        "sessions": interval.n,
        "mean_usd": interval.mean,
        "low_usd": interval.low,
        "high_usd": interval.high,
        "level_frac": interval.level,
        "p_value": interval.p_value,
        "holm_p_value": holm_p_value,
        "standard_error_usd": interval.standard_error,
        "minimum_detectable_usd": interval.minimum_detectable,
        "seed_means_usd": list(interval.seed_means),
        "block_length": interval.block_length,
        "replications": interval.replications,
        "reason": interval.reason,
        "words": contrast_words(arm, against, interval, holm_p_value),
    }


def contrast_words(arm: str, against: str, interval: Interval, holm_p_value: float | None = None) -> str:
    """What an interval says about a difference, in US dollars per session, after Holm's adjustment if there is one."""
    if interval.low is None or interval.high is None or interval.mean is None:
        return f"no interval: {interval.reason}"
    bounds = usd_per_session(interval.mean, interval.low, interval.high, interval.level)
    if interval.low * interval.high > 0 and holm_p_value is not None and holm_p_value > 1.0 - interval.level:
        return f"no difference shown after adjusting for several comparisons (Holm p {holm_p_value:.2f}): {bounds}"
    if interval.low > 0:
        return f"{arm} earns more than {against}: {bounds}"
    if interval.high < 0:
        return f"{arm} earns less than {against}: {bounds}"
    return f"no difference shown: {bounds}{_what_would_do(interval)}"


def _what_would_do(interval: Interval) -> str:
    """The smallest effect these sessions can detect, and how many sessions would confirm the observed one."""
    if not interval.minimum_detectable:
        return ""
    smallest = f"{usd(interval.minimum_detectable)}/session"
    # minimum_detectable is 2.8 sd / sqrt(n), which gives the standard deviation of one session.
    sd = interval.minimum_detectable * interval.n**0.5 / DETECTABLE
    needed = sessions_needed(interval.mean or 0.0, sd)
    confirm = f"; confirming the observed {usd(interval.mean)} needs about {needed:,} sessions" if needed else ""
    return f". Effects below {smallest} would usually be missed{confirm}"


def statistics_facts(
    sealed: SeededResults,
    contrasts: Sequence[Mapping[str, Any]],
    stress: Sequence[CostStress],
    trials: TrialLedger,
    sealed_id: str,
    configuration: str,
) -> dict[str, Any]:
    """The whole section, with the `contrasts` of `contrast_facts`. `stress` has one entry per seed. Records the
    selectable arms as trials on these sessions."""
    n = sealed.net_usd(ArmName.FLAT).shape[1]
    facts: dict[str, Any] = {
        "sample_size": asdict(sample_size(n)),
        "contrasts": list(contrasts),
        "arms": {arm: _arm_facts(sealed, arm) for arm in sealed.results},
        "interquartile_mean_usd": {
            arm: asdict(interquartile_mean(sealed.net_usd(arm).mean(axis=1)))
            for arm in sealed.results
            if len(sealed.results[arm]) == len(sealed.values)
        },
        "deflated_sharpe": _deflated(sealed, trials, sealed_id, configuration),
    }
    if stress:
        facts["cost_stress"] = _cost_facts(stress)
    return facts


def _arm_facts(sealed: SeededResults, arm: str) -> dict[str, Any]:
    """Figures of the series averaged over seeds, and of all seeds' trades together."""
    results = sealed.results[arm]

    def of_all(field: str) -> Any:
        return np.concatenate([getattr(result, field) for result in results])

    trades = trade_figures(
        trades=of_all("n_trades"),
        wins=of_all("n_wins"),
        gross_wins_usd=of_all("gross_win_usd"),
        gross_losses_usd=of_all("gross_loss_usd"),
        bars=of_all("bars"),
        bars_exposed=of_all("bars_exposed"),
    )
    return {**asdict(series_figures(sealed.net_usd(arm).mean(axis=0))), **asdict(trades)}


def _deflated(sealed: SeededResults, trials: TrialLedger, sealed_id: str, configuration: str) -> dict[str, Any]:
    arms = [arm for arm in sealed.results if arm in SELECTABLE_ARMS]
    series = {arm: sealed.net_usd(arm).mean(axis=0) for arm in arms}
    for arm, net in series.items():
        trials.record(sealed_id, configuration, arm, sharpe=sharpe_ratio(net, per_year=1), sessions=len(net))
    ratios = np.array(trials.sharpes(sealed_id), np.float64)
    count = trials.count(sealed_id)
    return {arm: asdict(deflated_sharpe(net, trial_sharpes=ratios, trials=count)) for arm, net in series.items()}


def _cost_facts(stress: Sequence[CostStress]) -> dict[str, Any]:
    ticks = stress[0].slippage_ticks
    arms = list(stress[0].net_usd)
    net = {arm: np.mean([of_seed.net_usd[arm].sum(axis=1) for of_seed in stress], axis=0) for arm in arms}
    sessions = max(1, stress[0].net_usd[arms[0]].shape[1])
    break_even = {}
    for arm in arms:
        fills = [of_seed.slipped_fills[arm][-1] or 0 for of_seed in stress]
        figure = break_even_slippage(
            dict(zip(ticks, net[arm].tolist(), strict=True)),
            fills=round(float(np.mean(fills))),
            tick_value_usd=stress[0].position_tick_usd,
        )
        break_even[arm] = asdict(figure)
    return {
        "slippage_ticks": list(ticks),
        "net_usd_per_session": {arm: (net[arm] / sessions).tolist() for arm in arms},
        "break_even_ticks": break_even,
    }


def seed_facts(sealed: SeededResults) -> dict[str, Any]:
    """Report section `seeds`: net P&L of every seed and session."""
    seeded = {arm: sealed.net_usd(arm).tolist() for arm in sealed.results if len(sealed.results[arm]) > 0}
    return {"values": list(sealed.values), "net_usd_by_session": seeded}


def base_timesteps(report: Report) -> int:
    """Timesteps that base training of the first seed really took; 0 where there was none."""
    return next((row.timesteps for row in report.training if row.phase == Training.BASE), 0)


def overall(report: Report) -> Overall:
    """Report section `overall`: whether the production run is worth its hours, and the figure that decides."""
    leak, statistics = report.look_ahead, report.statistics
    if leak is not None and not leak.passed:
        return judged("missed", f"Not worth the production run: {leak.wrong}.", f"{leak.found}.")
    if statistics is None:
        return judged(
            "not_measured",
            "Cannot say: nothing was evaluated.",
            "A run on your own environments has no advice to evaluate.",
        )
    if (reason := too_little(report, statistics.sample_size)) is not None:
        return reason
    edge = statistics.contrast(ArmName.HYBRID, ArmName.FLAT)
    words = f"Hybrid vs not trading: {edge.words}."
    if edge.sign > 0:
        return judged("met", "Worth the production run: it makes money on unseen sessions.", words)
    if edge.sign < 0:
        return judged("missed", "Not worth the production run as configured: it loses money on unseen sessions.", words)
    return judged("not_measured", "No edge shown: nothing here supports the production run.", words)


def too_little(report: Report, sample: SampleSize) -> Overall | None:
    """Why nothing can be concluded yet: too short a training, or too few sessions; None where neither is so."""
    trained = base_timesteps(report)
    too_short = trained < ENOUGH_TIMESTEPS
    if too_short and report.run.quick:
        return judged("not_measured", "Cannot say yet: a quick run is too short to learn.", "Run it without --quick.")
    if sample.level == "none":
        return judged("not_measured", "Cannot say: not enough sessions.", f"{sample.words.capitalize()}.")
    if too_short:
        said = f"Cannot say yet: {trained:,} base timesteps are too few to learn."
        return judged("not_measured", said, f"Train {ENOUGH_TIMESTEPS:,} or more.")
    return None


def judged(status: Literal["met", "missed", "not_measured"], judgement: str, reason: str) -> Overall:
    """A judgement."""
    return Overall(status=status, judgement=judgement, reason=reason)


def missed(report: Report) -> list[str]:
    """What the exit code was decided by: required targets, phases and leak checks that did not pass."""
    names = [name for name, target in report.targets.items() if target.required and target.status != "met"]
    names += [name for name, phase in report.phases.items() if phase.status != "done"]
    return [*names, "the leak checks"] if report.leaked else names


def overall_of(report: Report) -> Overall:
    """The judgement of the whole run, from `overall` or else from its required targets and the leak checks."""
    if report.overall is not None:
        return report.overall
    checks = [name for name, target in report.targets.items() if target.required]
    checks += ["the leak checks"] if report.look_ahead is not None else []
    reason = f"Judged by {', '.join(checks)}." if checks else "No target was required."
    if report.validation_passed:
        return judged("met", "All required targets met.", reason)
    return judged("missed", f"Missed: {', '.join(missed(report))}.", reason)
