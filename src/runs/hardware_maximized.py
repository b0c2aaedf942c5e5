"""The hardware-maximized validation: every seed, arm and fold at once, as many at a time as there are cores for."""

from __future__ import annotations

from typing import Any

from src.runs.context import RunContext
from src.runs.phase_runner import Phase
from src.runs.plan import Plan
from src.runs.run import Mode, run


def run_hardware_maximized(
    context: RunContext, *, auto_resume: bool | None = None, command: str = ""
) -> dict[str, Any]:
    """From bars to report, or on from where a run was stopped, as `src.runs.run.run` says."""
    command = command or "run_hardware_maximized_validation(auto_resume=True)"
    return run(context, MODE, auto_resume=auto_resume, command=command)


def _phases(plan: Plan, context: RunContext) -> list[Phase]:
    evaluations = plan.evaluations()
    tasks = [
        *plan.production(),
        *(task for fold in (0, *plan.folds) for task in plan.advice(fold)),
        *plan.bases(),
        *plan.settings(),
        *plan.fine_tuned(),
        *evaluations[:-1],
        *plan.look_ahead(),  # a worker does it while this process does the last of the evaluations
        *evaluations[-1:],
        *(task for fold in plan.folds for task in plan.fold(fold)),
    ]
    return [Phase("run", "the run", tasks)]


MODE = Mode("hardware_maximized", "Hardware-Maximized Validation", {"run": "the run"}, _phases)
