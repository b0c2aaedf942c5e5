"""The verdict: what a run measured, in plain sentences. Nothing is claimed that was not measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from src.advisor.table import LABEL_MASS_FLOOR
from src.evaluation.leak_words import compared_words
from src.report.answers import contrasts, llm_effect, production_memory, training_parts
from src.report.conclusions import ENOUGH_TIMESTEPS, base_timesteps, sign_shown
from src.wording import count, duration, percent


def verdict(report: Mapping[str, Any]) -> list[str]:
    """One sentence per finding: training, look-ahead, production time, evidence, learning, advice, survival."""
    lines = _training_lines(report)
    leak = report.get("look_ahead")
    if leak is not None:
        lines.append(
            f"Leaks: none found by these checks: {compared_words(leak)}."
            if leak["passed"]
            else f"Leaks: LEAK FOUND: {leak['found']}."
        )
    if production := report.get("production_estimate"):
        lines.append(
            f"Production: {production['timesteps']:,} timesteps would take {duration(3600.0 * production['hours'])} "
            f"at the {production['steps_per_s']:,.0f} steps/s with the production networks{_memory_words(report)}."
        )
    if "statistics" in report:
        lines += [*_evidence_lines(report), *_advice_lines(report["advice"]), *_survival_lines(report)]
    return lines


def _training_lines(report: Mapping[str, Any]) -> list[str]:
    training: Sequence[Mapping[str, Any]] = report["training"]
    if not training:
        return []
    base, seconds = training[0], sum(record["seconds"] for record in training)
    (part, share), *others = training_parts(report)
    rest = "".join(f"; {name} {percent(other)}" for name, other in others) if len(others) > 1 else ""
    lines = [
        f"Training: {base['timesteps']:,} {base['phase']} timesteps ({base['timesteps_requested']:,} requested) at "
        f"{base['steps_per_s']:,.0f} steps/s. Bottleneck: {part} ({percent(share)} of training time{rest})."
    ]
    if kept_s := sum(record["checkpoint_s"] for record in training):
        lines.append(f"Checkpoints: {kept_s:.1f} s ({percent(kept_s / (kept_s + seconds), 1)} of training time).")
    return lines


def _memory_words(report: Mapping[str, Any]) -> str:
    peaks = [f"{peak:.2f} GB of {kind}" for kind, peak in production_memory(report)]
    return f", using {' and '.join(peaks)}" if peaks else ""


def _evidence_lines(report: Mapping[str, Any]) -> list[str]:
    statistics, seeds = report["statistics"], len(report["seeds"]["values"])
    bars = " on SYNTHETIC bars" if report["data"]["synthetic"] else ""
    many = f"{seeds} seeds" if seeds > 1 else "one seed"
    lines = [f"Evidence{bars}: {statistics['sample_size']['words']}, {many}."]
    trained = base_timesteps(report)
    learning, llm = _learning(contrasts(report)[("rl_only", "random_legal")]), llm_words(report)
    if trained < ENOUGH_TIMESTEPS:
        learning = f"not measured: {trained:,} base timesteps are too few to learn (at least {ENOUGH_TIMESTEPS:,})"
        if statistics["sample_size"]["level"] != "none":
            llm = "not measured: after so short a training the arms differ only by chance"
    return [*lines, f"Learning: {learning}.", f"LLM ({report['advice']['advisor']}): {llm}."]


def _learning(contrast: Mapping[str, Any]) -> str:
    if contrast["low_usd"] is None:
        return f"not shown ({contrast['reason']})"
    if sign_shown(contrast) > 0:
        return f"yes: {contrast['words']}"
    return f"not shown on these sessions: {contrast['words']}"


def llm_words(report: Mapping[str, Any]) -> str:
    """Whether the advice helps, hurts or shows no effect, or how many sessions and seeds are needed to tell."""
    sample = report["statistics"]["sample_size"]
    if sample["level"] == "none":
        return f"{sample['words']} to tell whether it helps; a first look needs 40 sealed sessions and 3 seeds"
    found = contrasts(report)
    placebo, alone = found[("hybrid", "hybrid_placebo")], found[("hybrid", "rl_only")]
    said = {1: "helps", -1: "hurts", 0: "no evidence either way"}[llm_effect(report)]
    single = "" if len(report["seeds"]["values"]) > 1 else ". One seed: this holds for this one training only"
    return f"{said}. Vs placebo: {placebo['words']}. Vs RL alone: {alone['words']}{single}"


def _advice_lines(advice: Mapping[str, Any]) -> list[str]:
    asking, covered = advice["tabulation"], advice["coverage"]
    line = (
        f"Advice covers {asking['count_k']:,} of {asking['listed']:,} situations: {percent(covered['train'])} of the "
        f"training bars and {percent(covered['sealed'])} of the sealed bars. Elsewhere the advisor abstains."
    )
    lines = [line if not advice["note"] else f"{line} Note: {advice['note']}."]
    mass = asking.get("label_mass")
    if mass is not None and mass < LABEL_MASS_FLOOR:
        lines.append(
            f"Only {mass:.1%} of the model's probability falls on the answer labels (floor {LABEL_MASS_FLOOR:.0%}): it "
            f"would usually say something else, so its ranking of the labels means little."
        )
    if (quantization := advice["quantization"]) not in (None, "none"):
        share, n = asking["full_precision_agreement"], asking["full_precision_compared"]
        agreement = (
            f"not compared with full precision: {asking['full_precision_why_not']}"
            if share is None
            else f"same first choice as full precision in {percent(share)} of {n:,} situations"
        )
        lines.append(f"{quantization} weights: {agreement}.")
    return lines


def _survival_lines(report: Mapping[str, Any]) -> list[str]:
    arms, rules = report["arms"], report["rules"]
    n = arms["rl_only"]["sessions"]
    kept = "; ".join(
        f"{name} breached {count(arms[name]['sessions_breached'])} and hit its daily limit in "
        f"{count(arms[name]['sessions_daily_locked'])}"
        for name in ("rl_only", "hybrid", "fused")
    )
    lines = [f"Simulated rule check: {rules['profile']} (as of {rules['as_of']}), {n} separate sessions: {kept}."]
    simulated = report.get("pass_simulation")
    if simulated is None:
        return lines
    if not simulated["arms"]:
        return [*lines, f"Survival: not simulated: {simulated['reason']}."]
    passes = "; ".join(
        f"{name} passes {percent(arm['passed_frac'])}{_bounds(arm)} and breaches in {percent(arm['breached_frac'])}"
        for name, arm in simulated["arms"].items()
    )
    attempts = next(iter(simulated["arms"].values()))["attempts"]
    return [*lines, f"Survival: over {attempts:,} simulated evaluation attempts, {passes}."]


def _bounds(arm: Mapping[str, Any]) -> str:
    low, high = arm.get("passed_low_frac"), arm.get("passed_high_frac")
    return "" if low is None or high is None else f" (95% CI {percent(low)} to {percent(high)})"
