"""Units and limits that every module of bars shares."""

from __future__ import annotations

MINUTE_NS = 60_000_000_000
HOUR_NS = 60 * MINUTE_NS
DAY_NS = 86_400_000_000_000

TICK_TOLERANCE = 0.01
"""How far a price may be from a whole tick, in ticks: what float32 columns lose."""

MOST_VOLUME = 1e8
"""Contracts in a bar; more is another unit (dollars, shares) or damage."""
