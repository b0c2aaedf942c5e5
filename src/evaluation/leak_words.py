"""Names of the leak checks, and what they compared and found in words."""

from __future__ import annotations

from collections.abc import Mapping

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
