"""Outcome of a check. "passed" means measured here and now, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PASSED, FAILED, SKIPPED, NOT_APPLICABLE = STATUSES = ("passed", "failed", "skipped", "not_applicable")

REINSTALL = "python -m pip install -r requirements.txt"
RESTORE = (
    "The program behaves unlike its release here: restore its files (`git status src` lists changed ones), see that "
    "the check `versions` passes, and delete the compiled code in NUMBA_CACHE_DIR (by default the folder "
    "hybrid-trading-validation/numba in your cache folder)."
)
"""The remedy when a guard of the program fails and no user input is to blame."""


@dataclass(frozen=True)
class Outcome:
    """`measured`: a few words; `figures`: the same as numbers; `remedy`: of a failure; `reason`: why nothing was
    measured; `details`: paragraphs below the check's line, whatever its status."""

    status: str
    measured: str = ""
    remedy: str = ""
    reason: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    details: Sequence[str] = ()


class Blocked(Exception):
    """A prerequisite failed in another check, whose name is `by`."""

    def __init__(self, by: str) -> None:
        super().__init__(by)
        self.by = by


def passed(measured: str, **figures: Any) -> Outcome:
    """Measured, and as it should be."""
    return Outcome(PASSED, measured, figures=figures)


def failed(measured: str, remedy: str, **figures: Any) -> Outcome:
    """Measured, and not as it should be; `remedy` says what to do."""
    return Outcome(FAILED, measured, remedy, figures=figures)


def skipped(reason: str, **figures: Any) -> Outcome:
    """Could be measured, but was not."""
    return Outcome(SKIPPED, reason=reason, figures=figures)


def not_applicable(reason: str, **figures: Any) -> Outcome:
    """Not applicable on this machine or with these settings."""
    return Outcome(NOT_APPLICABLE, reason=reason, figures=figures)
