"""The five questions a run is for, each with a mark and an answer: derived once, read by console, page and report.

A mark is "pass" or "fail" only if the figures show it. "unknown" means not measured, or left open by too few sessions,
too short a training or too wide an interval.
"""

from __future__ import annotations

from typing import Final

from src.agent.members import ArmName
from src.report.conclusions import ENOUGH_TIMESTEPS, base_timesteps
from src.report.held_back import training_parts
from src.report.model.arms import Statistics
from src.report.model.report import Answer, Mark, Report
from src.wording import duration, percent, signed_usd, usd

PASS: Final = "pass"
FAIL: Final = "fail"
UNKNOWN: Final = "unknown"

PASSES_OFTEN = 0.5
"""The account survives if the whole interval of its pass probability is above this, fails if all of it is below."""


def answers(report: Report) -> list[Answer]:
    """The five answers of a report, in the order of the questions."""
    asked = (
        ("trains", "Does it train?", _trains),
        ("leaks", "Does anything leak the future?", _leaks),
        ("production", "How much time and memory will production take, and what is the bottleneck?", _production),
        ("survives", "Would the account survive?", _survives),
        ("llm", "Is the LLM worth it?", _llm),
    )
    found = [(key, question, *answer(report)) for key, question, answer in asked]
    return [Answer(key=key, question=question, mark=mark, answer=said) for key, question, mark, said in found]


def production_memory(report: Report) -> list[tuple[str, float]]:
    """Peak GB sampled while the production networks trained, GPU memory first unless the CPU trained; empty if the
    sampler read nothing in those seconds."""
    sampled = report.hardware.phases.get("production")
    if sampled is None:
        return []
    on_cpu = report.run.device == "cpu"  # other programs' GPU memory is not this run's
    kinds = ("GPU memory", None if on_cpu else sampled.peak_gpu_memory_gb), ("RAM", sampled.peak_ram_gb)
    return [(kind, peak) for kind, peak in kinds if peak is not None]


def not_measured(report: Report) -> str:
    """Why nothing can be said about trading performance, or an empty text."""
    statistics = report.statistics
    if statistics is None:
        return "Not measured: nothing was evaluated."
    if (trained := base_timesteps(report)) < ENOUGH_TIMESTEPS:
        return f"Not measured: {trained:,} of {ENOUGH_TIMESTEPS:,} timesteps trained."
    sample = statistics.sample_size
    return f"Not measured: only {_sessions(sample.n)}." if sample.level == "none" else ""


def llm_effect(statistics: Statistics) -> int:
    """1 if the advice helps, -1 if it hurts, 0 if neither is shown: it helps if hybrid beats both its placebo and RL
    alone, and hurts if it loses to either."""
    signs = [statistics.contrast(ArmName.HYBRID, against).sign for against in (ArmName.PLACEBO, ArmName.RL_ONLY)]
    if min(signs) > 0:
        return 1
    return -1 if min(signs) < 0 else 0


def _sessions(n: int) -> str:
    return f"{n:,} sealed session{'' if n == 1 else 's'}"


def _trains(report: Report) -> tuple[Mark, str]:
    if (reason := not_measured(report)) or report.statistics is None:
        return UNKNOWN, reason
    edge = report.statistics.contrast(ArmName.RL_ONLY, ArmName.RANDOM_LEGAL)
    costs = None if report.edge is None else report.edge.cause
    if not edge.sign:
        if costs == "loses to costs":
            return UNKNOWN, "It learns, but loses to costs: no edge over random after them."
        return UNKNOWN, f"No edge over random trading in {_sessions(edge.sessions)}."
    size = f"{usd(abs(edge.mean_usd or 0.0))}/session"
    if edge.sign > 0 and costs == "saves costs":
        return UNKNOWN, f"Beats random by {size}, by saving costs: no edge before them."
    return (
        (PASS, f"Yes: beats random trading by {size}.")
        if edge.sign > 0
        else (FAIL, f"No: {size} worse than random trading.")
    )


def _leaks(report: Report) -> tuple[Mark, str]:
    check = report.look_ahead
    if check is None:
        return UNKNOWN, "Not checked in this run."
    if check.passed:
        return PASS, f"No leak found in {check.checks:,} checks."
    return FAIL, f"Yes: {check.found}."


def _production(report: Report) -> tuple[Mark, str]:
    estimate = report.production_estimate
    if estimate is None or not report.training:
        return UNKNOWN, "Not measured."
    part, share = training_parts(report)[0]
    hours, slow = duration(3600.0 * estimate.hours), f"bottleneck: {part} ({percent(share)})"
    memory = production_memory(report)
    if not memory:
        return UNKNOWN, f"{hours}, memory unknown; {slow}."
    kind, peak = memory[0]
    taken = f"{hours}, {peak:.1f} GB {'GPU' if kind == 'GPU memory' else kind}"
    target = report.targets.get("peak_memory")
    if target is not None and target.target is not None and peak > target.target:
        return FAIL, f"{taken}, over the {target.target:g} GB limit; {slow}."
    return PASS, f"{taken}; {slow}."


def _survives(report: Report) -> tuple[Mark, str]:
    if reason := not_measured(report):
        return UNKNOWN, reason
    simulated = report.pass_simulation
    if simulated is None or not simulated.arms:
        return UNKNOWN, "Not simulated in this run." if simulated is None else f"Not simulated: {simulated.reason}."
    arm = simulated.arms.get(ArmName.HYBRID) or next(iter(simulated.arms.values()))
    low, high = arm.passed_low_frac, arm.passed_high_frac
    bounds = "no CI" if low is None or high is None else f"95% CI {percent(low)} to {percent(high)}"
    words = f"{percent(arm.passed_frac)} of attempts pass ({bounds}), {percent(arm.breached_frac)} breach."
    if arm.passed_frac == 0.0 or (high is not None and high < PASSES_OFTEN):
        return FAIL, words
    return (PASS if low is not None and low > PASSES_OFTEN else UNKNOWN), words


def _llm(report: Report) -> tuple[Mark, str]:
    if report.advice is None:
        return UNKNOWN, "Not measured: no advice was used."
    if (reason := not_measured(report)) or report.statistics is None:
        return UNKNOWN, reason
    effect = llm_effect(report.statistics)
    placebo, alone = (report.statistics.contrast(ArmName.HYBRID, a) for a in (ArmName.PLACEBO, ArmName.RL_ONLY))
    if not effect:
        return UNKNOWN, f"No evidence either way in {_sessions(placebo.sessions)}."
    sizes = f"{signed_usd(placebo.mean_usd)}/session vs placebo, {signed_usd(alone.mean_usd)} vs RL alone."
    return (PASS, f"Helps: {sizes}") if effect > 0 else (FAIL, f"Hurts: {sizes}")
