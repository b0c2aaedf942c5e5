"""The verdict: what a run measured, in plain sentences. Nothing is claimed that was not measured."""

from __future__ import annotations

from src.advisor.table import LABEL_MASS_FLOOR
from src.agent.members import ArmName
from src.report.advisor_words import advisor_lines
from src.report.answers import llm_effect, production_memory
from src.report.conclusions import ENOUGH_TIMESTEPS, base_timesteps
from src.report.edge import change_words, edge_words
from src.report.held_back import speed, training_parts
from src.report.model.advice import Advice
from src.report.model.arms import Contrast, Statistics
from src.report.model.report import Report
from src.report.production_words import cost_lines, seeds_words, time_words
from src.report.still_learning import FLAT, RISING
from src.report.survival_words import automation_lines, between, open_lines, survival_lines
from src.wording import count, percent


def verdict(report: Report) -> list[str]:
    """One sentence per finding: training, look-ahead, production time, evidence, learning, advice, survival."""
    lines = [*automation_lines(report), *_training_lines(report)]
    if (leak := report.look_ahead) is not None:
        lines.append(
            f"Leaks: none found by these checks: {leak.compared}."
            if leak.passed
            else f"Leaks: LEAK FOUND: {leak.found}."
        )
    if (production := report.production_estimate) is not None:
        lines.append(
            f"Production: {production.timesteps:,} timesteps{seeds_words(production)} would take "
            f"{time_words(production)} at the {production.steps_per_s:,.0f} steps/s with the production networks"
            f"{_memory_words(report)}."
        )
        lines += cost_lines(production)
    if report.statistics is not None and report.advice is not None:
        lines += [*_evidence_lines(report, report.statistics, report.advice), *_advice_lines(report.advice)]
        lines += _survival_lines(report)
    if report.survival is not None:
        lines += survival_lines(report.survival)
    return lines


def _training_lines(report: Report) -> list[str]:
    if not report.training:
        return []
    base, seconds = report.training[0], sum(row.seconds for row in report.training)
    (part, share), *others = training_parts(report)
    rest = "".join(f"; {name} {percent(other)}" for name, other in others) if len(others) > 1 else ""
    lines = [
        f"Training: {base.timesteps:,} {base.phase} timesteps ({base.timesteps_requested:,} requested) at "
        f"{base.steps_per_s:,.0f} steps/s. Bottleneck: {part} ({percent(share)} of training time{rest})."
    ]
    if kept_s := sum(row.checkpoint_s for row in report.training):
        lines.append(f"Checkpoints: {kept_s:.1f} s ({percent(kept_s / (kept_s + seconds), 1)} of training time).")
    if said := speed(report):
        lines.append(f"Speed: {' '.join(said)}")
    return lines


def _memory_words(report: Report) -> str:
    peaks = [f"{peak:.2f} GB of {kind}" for kind, peak in production_memory(report)]
    return f", using {' and '.join(peaks)}" if peaks else ""


def _evidence_lines(report: Report, statistics: Statistics, advice: Advice) -> list[str]:
    seeds = _n_seeds(report)
    bars = " on SYNTHETIC bars" if report.data is not None and report.data.synthetic else ""
    many = f"{seeds} seeds" if seeds > 1 else "one seed"
    lines = [f"Evidence{bars}: {statistics.sample_size.words}, {many}."]
    trained = base_timesteps(report)
    learning = _learning(statistics.contrast(ArmName.RL_ONLY, ArmName.RANDOM_LEGAL))
    llm = llm_words(statistics, seeds)
    if trained < ENOUGH_TIMESTEPS:
        learning = f"not measured: {trained:,} base timesteps are too few to learn (at least {ENOUGH_TIMESTEPS:,})"
        if statistics.sample_size.level != "none":
            llm = "not measured: after so short a training the arms differ only by chance"
    lines.append(f"Learning: {learning}.")
    if (edge := report.edge) is not None and trained >= ENOUGH_TIMESTEPS:
        lines.append(f"Before and after costs: {edge_words(edge)}.")
        if changes := change_words(edge):
            lines.append(f"To earn after costs: {changes}.")
    lines += _still_learning_lines(report)
    return [*lines, f"LLM ({advice.advisor}): {llm}."]


def _still_learning_lines(report: Report) -> list[str]:
    if (section := report.still_learning) is None:
        return []
    said = "; ".join(f"{name} {of.words}" for name, of in section.trainings.items())
    verdicts = {of.verdict for of in section.trainings.values()}
    meaning = ""
    if RISING in verdicts:
        meaning = " More timesteps may earn more than this run shows."
    elif verdicts == {FLAT}:
        meaning = " More timesteps alone are unlikely to earn more."
    return [f"Still learning ({section.sessions} validation sessions): {said}.{meaning}"]


def _n_seeds(report: Report) -> int:
    return 1 if report.seeds is None else len(report.seeds.values)


def _learning(contrast: Contrast) -> str:
    if contrast.low_usd is None:
        return f"not shown ({contrast.reason})"
    if contrast.sign > 0:
        return f"yes: {contrast.words}"
    return f"not shown on these sessions: {contrast.words}"


def llm_words(statistics: Statistics, n_seeds: int) -> str:
    """Whether the advice helps, hurts or shows no effect, or how many sessions and seeds are needed to tell."""
    sample = statistics.sample_size
    if sample.level == "none":
        return f"{sample.words} to tell whether it helps; a first look needs 40 sealed sessions and 3 seeds"
    placebo, alone = (statistics.contrast(ArmName.HYBRID, against) for against in (ArmName.PLACEBO, ArmName.RL_ONLY))
    said = {1: "helps", -1: "hurts", 0: "no evidence either way"}[llm_effect(statistics)]
    single = "" if n_seeds > 1 else ". One seed: this holds for this one training only"
    return f"{said}. Vs placebo: {placebo.words}. Vs RL alone: {alone.words}{single}"


def _advice_lines(advice: Advice) -> list[str]:
    asking, covered = advice.tabulation, advice.coverage
    line = (
        f"Advice covers {asking.count_k:,} of {asking.listed:,} situations: {percent(covered.train)} of the "
        f"training bars and {percent(covered.sealed)} of the sealed bars. Elsewhere the advisor abstains."
    )
    lines = [line if not advice.note else f"{line} Note: {advice.note}."]
    mass = asking.label_mass
    if mass is not None and mass < LABEL_MASS_FLOOR:
        lines.append(
            f"Only {mass:.1%} of the model's probability falls on the answer labels (floor {LABEL_MASS_FLOOR:.0%}): it "
            f"would usually say something else, so its ranking of the labels means little."
        )
    lines += advisor_lines(advice)
    if advice.quantization not in (None, "none"):
        share = asking.full_precision_agreement
        agreement = (
            f"not compared with full precision: {asking.full_precision_why_not}"
            if share is None
            else f"same first choice as full precision in {percent(share)} of {asking.full_precision_compared:,} "
            "situations"
        )
        lines.append(f"{advice.quantization} weights: {agreement}.")
    return lines


def _survival_lines(report: Report) -> list[str]:
    lines = []
    if report.rules is not None:
        arms = {name: report.arms[name] for name in (ArmName.RL_ONLY, ArmName.HYBRID, ArmName.FUSED)}
        kept = "; ".join(
            f"{name} breached {count(arm.sessions_breached)} and hit its daily limit in "
            f"{count(arm.sessions_daily_locked)}"
            for name, arm in arms.items()
        )
        lines.append(
            f"Simulated rule check: {report.rules.profile} (as of {report.rules.as_of}), "
            f"{arms[ArmName.RL_ONLY].sessions} separate sessions: {kept}."
        )
    lines += open_lines(report)
    simulated = report.pass_simulation
    if simulated is None:
        return lines
    if not simulated.arms:
        return [*lines, f"Survival: not simulated: {simulated.reason}."]
    passes = "; ".join(
        f"{name} passes {percent(arm.passed_frac)}{between(arm.passed_low_frac, arm.passed_high_frac)} and breaches in "
        f"{percent(arm.breached_frac)}"
        for name, arm in simulated.arms.items()
    )
    attempts = next(iter(simulated.arms.values())).attempts
    return [*lines, f"Survival: over {attempts:,} simulated evaluation attempts, {passes}."]
