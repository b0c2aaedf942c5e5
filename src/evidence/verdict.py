"""The answers of a run in plain words, each from a figure of its report; nothing is claimed that was not measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from src.advisor.table import LABEL_MASS_FLOOR
from src.evidence.conclusions import ENOUGH_TIMESTEPS, base_timesteps, shown
from src.evidence.leak_words import compared_words


def verdict(report: Mapping[str, Any]) -> list[str]:
    """Does it train, does a feature know the future, how long will production take, does it earn, does the advice help,
    would the account survive, is the production run worth it."""
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
            f"Production: {production['timesteps']:,} timesteps would take {_duration(production['hours'])} at the "
            f"{production['steps_per_s']:,.0f} steps/s measured with its networks{_production_memory(report)}."
        )
    if "statistics" in report:
        lines += [*_evidence_lines(report), *_advice_lines(report["advice"]), *_survival_lines(report)]
    if "overall" in report:
        lines.append(f"{report['overall']['judgement']} {report['overall']['reason']}")
    return lines


def _training_lines(report: Mapping[str, Any]) -> list[str]:
    training: Sequence[Mapping[str, Any]] = report["training"]
    if not training:
        return []
    base, seconds = training[0], sum(record["seconds"] for record in training)
    lines = [
        f"Trains: {base['timesteps']:,} {base['phase']} timesteps ({base['timesteps_requested']:,} asked) at "
        f"{base['steps_per_s']:,.0f} steps/s; the bottleneck is {_bottleneck(report, seconds)}."
    ]
    if kept_s := sum(record["checkpoint_s"] for record in training):
        lines.append(f"Checkpoints: {kept_s:.1f} s, {kept_s / (kept_s + seconds):.1%} of training time.")
    return lines


def _bottleneck(report: Mapping[str, Any], seconds: float) -> str:
    """What takes most of the training time; a user's own environment is told apart from the policy."""
    training: Sequence[Mapping[str, Any]] = report["training"]
    share = sum(record["update_s"] for record in training) / seconds
    if report.get("configuration", {}).get("environment", {}).get("env_class") is None:
        slow = "the PPO update" if share >= 0.5 else "collecting rollouts"
        return f"{slow} ({max(share, 1 - share):.0%} of training time)"
    environment = sum(record["environment_s"] for record in training) / seconds
    parts = {"the environment": environment, "the policy": 1.0 - share - environment, "the PPO update": share}
    (slow, most), *others = sorted(parts.items(), key=lambda part: -part[1])
    return f"{slow} ({most:.0%} of training time, {', '.join(f'{name} {part:.0%}' for name, part in others)})"


def _production_memory(report: Mapping[str, Any]) -> str:
    """What was taken while its networks trained: a second or two, in which the sampler may have read nothing."""
    sampled = report["hardware"]["phases"].get("production", {})
    gpu, ram = sampled.get("peak_gpu_memory_gb"), sampled.get("peak_ram_gb")
    told = [f"{peak:.2f} GB of {kind}" for kind, peak in (("GPU memory", gpu), ("RAM", ram)) if peak is not None]
    return f", in {' and '.join(told)}" if told else ""


def _evidence_lines(report: Mapping[str, Any]) -> list[str]:
    statistics, seeds = report["statistics"], len(report["seeds"]["values"])
    bars = " on SYNTHETIC bars" if report["data"]["synthetic"] else ""
    many = f"{seeds} seeds" if seeds > 1 else "one seed"
    lines = [f"Evidence{bars}: {statistics['sample_size']['words']}, {many}."]
    found = {(c["arm"], c["against"]): c for c in statistics["contrasts"]}
    trained = base_timesteps(report)
    learning, llm = _learning(found[("rl_only", "random_legal")]), llm_words(found, statistics["sample_size"], seeds)
    if trained < ENOUGH_TIMESTEPS:
        learning = f"not measured, {trained:,} base timesteps are too few to learn ({ENOUGH_TIMESTEPS:,} are)"
        if statistics["sample_size"]["level"] != "none":
            llm = "not measured, after so short a training the arms differ by chance"
    return [*lines, f"Learning: {learning}.", f"LLM ({report['advice']['advisor']}): {llm}."]


def _learning(contrast: Mapping[str, Any]) -> str:
    if contrast["low_usd"] is None:
        return f"not shown ({contrast['reason']})"
    if shown(contrast) > 0:
        return f"it learns: {contrast['words']}"
    return f"not shown on these sessions: {contrast['words']}"


def llm_words(
    contrasts: Mapping[tuple[str, str], Mapping[str, Any]], sample_size: Mapping[str, Any], seeds: int
) -> str:
    """Helps, hurts, no evidence either way, or not enough to say and how much would do.

    It helps where hybrid - placebo and hybrid - rl_only are both shown to be above zero, and hurts where either is
    shown to be below.
    """
    placebo, alone = contrasts[("hybrid", "hybrid_placebo")], contrasts[("hybrid", "rl_only")]
    if sample_size["level"] == "none":
        return (
            f"{sample_size['words']} to say whether it helps; 40 sealed sessions and 3 seeds would do for a first look"
        )
    if shown(placebo) > 0 and shown(alone) > 0:
        said = "helps"
    elif shown(placebo) < 0 or shown(alone) < 0:
        said = "hurts"
    else:
        said = "no evidence either way"
    more = "" if seeds > 1 else "; one seed, so this holds for this one training only"
    return f"{said}. Against its placebo: {placebo['words']}. Against RL alone: {alone['words']}{more}"


def _advice_lines(advice: Mapping[str, Any]) -> list[str]:
    asking, covered = advice["tabulation"], advice["coverage"]
    line = (
        f"Advice covers {asking['count_k']:,} of {asking['listed']:,} situations: {covered['train']:.0%} of the "
        f"training bars, {covered['sealed']:.0%} of the sealed ones; elsewhere it abstains."
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
        told = (
            f"not measured: {asking['full_precision_why_not']}" if share is None else f"{share:.0%} of {n:,} situations"
        )
        lines.append(f"Weights in {quantization}: same first choice as in full precision: {told}.")
    return lines


def _survival_lines(report: Mapping[str, Any]) -> list[str]:
    arms, rules = report["arms"], report["rules"]
    n = arms["rl_only"]["sessions"]
    kept = "; ".join(
        f"{name} breached {count_words(arms[name]['sessions_breached'])}, at its daily limit "
        f"{count_words(arms[name]['sessions_daily_locked'])}"
        for name in ("rl_only", "hybrid", "fused")
    )
    lines = [f"Simulated rule check ({rules['profile']}, as of {rules['as_of']}), of {n} sessions: {kept}."]
    simulated = report.get("pass_simulation")
    if simulated is None:
        return lines
    if not simulated["arms"]:
        return [*lines, f"Survival: not simulated: {simulated['reason']}."]
    told = "; ".join(
        f"{name} passes {arm['passed_frac']:.0%}{_bounds(arm)}, is breached {arm['breached_frac']:.0%}"
        for name, arm in simulated["arms"].items()
    )
    some = next(iter(simulated["arms"].values()))["attempts"]
    return [*lines, f"Survival of the simulated rules, {some:,} attempts: {told}."]


def count_words(count: float) -> str:
    """A count, with a decimal only where seeds were averaged."""
    return f"{count:,.0f}" if count == round(count) else f"{count:,.1f}"


def _bounds(arm: Mapping[str, Any]) -> str:
    low, high = arm.get("passed_low_frac"), arm.get("passed_high_frac")
    return "" if low is None or high is None else f" ({low:.0%} to {high:.0%})"


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1.0 else f"{hours * 60.0:.1f} min"
