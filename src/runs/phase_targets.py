"""Each phase as the report shows it, and what it took measured against its targets."""

from __future__ import annotations

from typing import Any

from src.configuration import Configuration
from src.evidence.report import judge
from src.runs.ledger import Ledger


def phase_facts(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """The ledger by phase, without what stands elsewhere in the report."""
    return {name: entry.model_dump(exclude={"parts", "inputs", "log_bytes"}) for name, entry in ledger.phases.items()}


def phase_targets(config: Configuration, ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Each phase's duration and, where its section sets one, GPU utilisation, as targets of the report."""
    targets = {}
    for name, entry in ledger.phases.items():
        settings: Any = config.sections[name]
        for what, limit, measured in (
            ("duration", settings.estimated_duration, entry.seconds),
            ("gpu_utilization", settings.gpu_utilization_target, entry.gpu_utilization),
        ):
            if limit is None:
                continue
            targets[f"{name}_{what}"] = judge(
                limit,
                measured,
                at_most=what == "duration",
                required=f"{name}_{what}" in config.validation.required,
                unset="",
                why_not="no GPU",
            )
    return targets
