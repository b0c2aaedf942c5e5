"""What came of a check. "passed" is said of what was measured here and now, and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PASSED, FAILED, SKIPPED, NOT_APPLICABLE = STATUSES = ("passed", "failed", "skipped", "not_applicable")

REINSTALL = "python -m pip install -r requirements.txt"
RESTORE = (
    "The program does not do here what it was released to do: put its files back as they were (`git status src` tells "
    "which differ), see that the check `versions` passes, and delete the compiled code in NUMBA_CACHE_DIR (by default "
    "the folder hybrid-trading-validation/numba in your cache folder)."
)
"""The remedy where the program's own guard fails and no input of the user's is to blame."""


@dataclass(frozen=True)
class Outcome:
    """`measured` in a few words, `figures` the same as numbers; `remedy` where it failed, `reason` where nothing was
    measured; `details` are paragraphs below the check's line, whatever its status."""

    status: str
    measured: str = ""
    remedy: str = ""
    reason: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    details: Sequence[str] = ()


class Blocked(Exception):
    """What a check needs was found unusable by another check, whose name is `by`."""

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
    """There is nothing here to measure."""
    return Outcome(NOT_APPLICABLE, reason=reason, figures=figures)
