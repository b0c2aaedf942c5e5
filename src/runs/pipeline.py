"""The automated pipeline: data, base training, hybrid, as three phases with limits and targets of their own."""

from __future__ import annotations

from typing import Any

from src.runs.context import RunContext
from src.runs.phase_runner import Phase
from src.runs.plan import Plan
from src.runs.run import Mode, run

TITLES = {"phase1": "data and environments", "phase2": "base training", "phase3": "advice and hybrid"}


def run_pipeline(
    context: RunContext, *, start_phase: int = 1, auto_resume: bool | None = None, command: str = ""
) -> dict[str, Any]:
    """Run or resume the phases, as `src.runs.run.run` says."""
    command = command or "run_automated_pipeline(auto_resume=True)"
    return run(context, MODE, start_phase=start_phase, auto_resume=auto_resume, command=command)


def _phases(plan: Plan, context: RunContext) -> list[Phase]:
    config = context.config
    return [
        Phase("phase1", TITLES["phase1"], plan.look_ahead(), config.phase1),
        Phase("phase2", TITLES["phase2"], [*plan.production(), *plan.bases(), *plan.settings()], config.phase2),
        Phase("phase3", TITLES["phase3"], [*plan.advice(), *plan.fine_tuned(), *plan.evaluations()], config.phase3),
    ]


MODE = Mode("pipeline", "Automated Pipeline", TITLES, _phases, one_at_a_time=True)
