"""The five questions a run is for, each with a mark and an answer: derived once, read by console, page and report.

A mark is "pass" or "fail" only if the figures show it. "unknown" means not measured, or left open by too few sessions,
too short a training or too wide an interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from src.report.conclusions import ENOUGH_TIMESTEPS, base_timesteps, sign_shown
from src.wording import duration, percent, usd

Report = Mapping[str, Any]
Mark = Literal["pass", "fail", "unknown"]
PASS: Final = "pass"
FAIL: Final = "fail"
UNKNOWN: Final = "unknown"

PASSES_OFTEN = 0.5
"""The account survives if the whole interval of its pass probability is above this, fails if all of it is below."""


@dataclass(frozen=True)
class Answer:
    """One question, its mark, and an answer that fits one line of an 80-column terminal; `key` never changes."""

    key: str
    question: str
    mark: Mark
    answer: str


def answers(report: Report) -> list[Answer]:
    """The five answers of a report, in the order of the questions."""
    return [
        Answer("trains", "Does it train?", *_trains(report)),
        Answer("leaks", "Does anything leak the future?", *_leaks(report)),
        Answer(
            "production",
            "How much time and memory will production take, and what is the bottleneck?",
            *_production(report),
        ),
        Answer("survives", "Would the account survive?", *_survives(report)),
        Answer("llm", "Is the LLM worth it?", *_llm(report)),
    ]


def training_parts(report: Report) -> list[tuple[str, float]]:
    """Parts of the training time with their fraction of it, largest first; your own environments are a part of their
    own."""
    seconds = sum(record["seconds"] for record in report["training"])
    update = sum(record["update_s"] for record in report["training"]) / seconds
    parts = {"PPO update": update, "rollouts": 1.0 - update}
    if report.get("configuration", {}).get("environment", {}).get("env_class") is not None:
        environment = sum(record["environment_s"] for record in report["training"]) / seconds
        parts = {"environment": environment, "policy": 1.0 - update - environment, "PPO update": update}
    return sorted(parts.items(), key=lambda part: -part[1])


def production_memory(report: Report) -> list[tuple[str, float]]:
    """Peak GB sampled while the production networks trained, GPU memory first unless the CPU trained; empty if the
    sampler read nothing in those seconds."""
    sampled = report["hardware"]["phases"].get("production", {})
    on_cpu = report.get("run", {}).get("device") == "cpu"  # other programs' GPU memory is not this run's
    kinds = ("GPU memory", None if on_cpu else sampled.get("peak_gpu_memory_gb")), ("RAM", sampled.get("peak_ram_gb"))
    return [(kind, peak) for kind, peak in kinds if peak is not None]


def not_measured(report: Report) -> str:
    """Why nothing can be said about trading performance, or an empty text."""
    statistics = report.get("statistics")
    if statistics is None:
        return "Not measured: nothing was evaluated."
    if (trained := base_timesteps(report)) < ENOUGH_TIMESTEPS:
        return f"Not measured: {trained:,} of {ENOUGH_TIMESTEPS:,} timesteps trained."
    sample = statistics["sample_size"]
    return f"Not measured: only {_sessions(sample['n'])}." if sample["level"] == "none" else ""


def contrasts(report: Report) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The report's contrasts by arm and what it is compared with."""
    return {(c["arm"], c["against"]): c for c in report["statistics"]["contrasts"]}


def llm_effect(report: Report) -> int:
    """1 if the advice helps, -1 if it hurts, 0 if neither is shown: it helps if hybrid beats both its placebo and RL
    alone, and hurts if it loses to either."""
    found = contrasts(report)
    effects = [sign_shown(found[("hybrid", against)]) for against in ("hybrid_placebo", "rl_only")]
    if min(effects) > 0:
        return 1
    return -1 if min(effects) < 0 else 0


def _sessions(n: int) -> str:
    return f"{n:,} sealed session{'' if n == 1 else 's'}"


def _trains(report: Report) -> tuple[Mark, str]:
    if reason := not_measured(report):
        return UNKNOWN, reason
    edge = contrasts(report)[("rl_only", "random_legal")]
    if not (sign := sign_shown(edge)):
        return UNKNOWN, f"No edge over random trading in {_sessions(edge['sessions'])}."
    size = f"{usd(abs(edge['mean_usd']))}/session"
    return (
        (PASS, f"Yes: beats random trading by {size}.")
        if sign > 0
        else (FAIL, f"No: {size} worse than random trading.")
    )


def _leaks(report: Report) -> tuple[Mark, str]:
    check = report.get("look_ahead")
    if check is None:
        return UNKNOWN, "Not checked in this run."
    if check["passed"]:
        return PASS, f"No leak found in {check['checks']:,} checks."
    return FAIL, f"Yes: {check['found']}."


def _production(report: Report) -> tuple[Mark, str]:
    estimate = report.get("production_estimate")
    if not estimate or not report["training"]:
        return UNKNOWN, "Not measured."
    part, share = training_parts(report)[0]
    hours, slow = duration(3600.0 * estimate["hours"]), f"bottleneck: {part} ({percent(share)})"
    memory = production_memory(report)
    if not memory:
        return UNKNOWN, f"{hours}, memory unknown; {slow}."
    kind, peak = memory[0]
    taken = f"{hours}, {peak:.1f} GB {'GPU' if kind == 'GPU memory' else kind}"
    limit = report.get("targets", {}).get("peak_memory", {}).get("target")
    if limit is not None and peak > limit:
        return FAIL, f"{taken}, over the {limit:g} GB limit; {slow}."
    return PASS, f"{taken}; {slow}."


def _survives(report: Report) -> tuple[Mark, str]:
    if reason := not_measured(report):
        return UNKNOWN, reason
    simulated = report.get("pass_simulation")
    if not simulated or not simulated["arms"]:
        return UNKNOWN, "Not simulated in this run." if not simulated else f"Not simulated: {simulated['reason']}."
    arm = simulated["arms"].get("hybrid") or next(iter(simulated["arms"].values()))
    passed, low, high = arm["passed_frac"], arm["passed_low_frac"], arm["passed_high_frac"]
    bounds = "no CI" if low is None or high is None else f"95% CI {percent(low)} to {percent(high)}"
    words = f"{percent(passed)} of attempts pass ({bounds}), {percent(arm['breached_frac'])} breach."
    if passed == 0.0 or (high is not None and high < PASSES_OFTEN):
        return FAIL, words
    return (PASS if low is not None and low > PASSES_OFTEN else UNKNOWN), words


def _llm(report: Report) -> tuple[Mark, str]:
    if "advice" not in report:
        return UNKNOWN, "Not measured: no advice was used."
    if reason := not_measured(report):
        return UNKNOWN, reason
    found = contrasts(report)
    placebo, alone = found[("hybrid", "hybrid_placebo")], found[("hybrid", "rl_only")]
    effect = llm_effect(report)
    if not effect:
        return UNKNOWN, f"No evidence either way in {_sessions(placebo['sessions'])}."
    sizes = f"{_size(placebo)}/session vs placebo, {_size(alone)} vs RL alone."
    return (PASS, f"Helps: {sizes}") if effect > 0 else (FAIL, f"Hurts: {sizes}")


def _size(contrast: Mapping[str, Any]) -> str:
    mean = contrast["mean_usd"]
    return f"{'+' if mean is not None and mean > 0 else ''}{usd(mean)}"
