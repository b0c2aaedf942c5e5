"""Names of the leak checks, and what they compared and found in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FEATURES, DECISIONS, FILLS, SEALED = "features", "decisions", "fills", "sealed"

WHAT: Mapping[str, str] = {
    FEATURES: "{:,} bars with an altered future",
    DECISIONS: "{:,} decisions",
    FILLS: "{:,} fills",
    SEALED: "{:,} fits and trainings",
}
"""What each check compared, in words."""
WRONG: Mapping[str, str] = {
    FEATURES: "a feature uses future data",
    DECISIONS: "a decision uses future data",
    FILLS: "an order fills at an impossible price",
    SEALED: "training used validation or sealed sessions",
}


def compared_words(section: Mapping[str, Any]) -> str:
    """What the checks compared, in one line; reports of earlier versions counted prefixes alone."""
    parts = section.get("parts")
    if not parts:
        return f"{section['checks']:,} prefix recomputations"
    told = [WHAT[name].format(part["checks"]) for name, part in parts.items() if name in WHAT]
    return ", ".join(told)


def wrong_words(section: Mapping[str, Any]) -> str:
    """What kind of leak was found, in a few words."""
    failed = (name for name, part in section.get("parts", {}).items() if not part["passed"])
    return WRONG.get(next(failed, FEATURES), WRONG[FEATURES])
