"""Each phase as the report shows it, and what it took measured against its targets."""

from __future__ import annotations

from typing import Any

from src.configuration import Configuration
from src.report.facts import judge, percent_of
from src.report.targets import GPU_REMEDY, GPU_UTILIZATION
from src.runs.ledger import Ledger


def phase_facts(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """The ledger by phase, without what is elsewhere in the report; GPU utilisation in percent."""
    facts = {name: entry.model_dump() for name, entry in ledger.phases.items()}
    return {name: {**of, GPU_UTILIZATION: percent_of(of[GPU_UTILIZATION])} for name, of in facts.items()}


def phase_targets(
    config: Configuration, ledger: Ledger, *, gpu_counts: bool = True, why_not: str = "no GPU"
) -> dict[str, dict[str, Any]]:
    """Each phase's duration and, where its section sets one, GPU utilisation in percent, as targets of the report.

    Without `gpu_counts` no GPU utilisation is required of this run, and `why_not` says why.
    """
    targets = {}
    for name, entry in ledger.phases.items():
        settings: Any = config.sections[name]
        for what, limit, measured in (
            ("duration", settings.estimated_duration, entry.seconds),
            (
                GPU_UTILIZATION,
                percent_of(settings.gpu_utilization_target),
                percent_of(entry.gpu_utilization) if gpu_counts else None,
            ),
        ):
            if limit is None:
                continue
            targets[f"{name}_{what}"] = judge(
                limit,
                measured,
                at_most=what == "duration",
                required=f"{name}_{what}" in config.validation.required and (gpu_counts or what != GPU_UTILIZATION),
                unset="",
                why_not=why_not,
                remedy=GPU_REMEDY if what == GPU_UTILIZATION else "",
            )
    return targets
