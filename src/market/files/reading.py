"""How bar files were interpreted and why; shown on the console, in the report and on the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from src.market.files.rows import Stamp

Verdict = Literal["fatal", "repaired", "tolerated"]


@dataclass(frozen=True)
class Candidate:
    """One possible time zone and stamp of a file, with its evidence."""

    zone: str
    stamp: Stamp
    bars: int
    closed: int
    """Bars that would open in closed hours."""
    cash_step: float | None
    """Volume just after 09:30 New York divided by that just before; None if there are too few bars."""


@dataclass(frozen=True)
class ClockReading:
    """The clock chosen for a file, and what decided it."""

    zone: str
    stamp: Stamp
    decided_by: Literal["bars", "offsets", "dialect", "option"]
    chosen: Candidate
    others: tuple[Candidate, ...]
    """Runner-up readings, best first."""
    words: str
    """One sentence: "read as America/Chicago, stamps at the bar's open: 0 of 5,688 bars fall into closed hours"."""


@dataclass(frozen=True)
class MarketReading:
    """Which instrument was selected, and what was left out."""

    root: str
    """Root of the selected rows: the market's, or that of its micro or mini."""
    decided_by: Literal["rows", "file", "prices", "user"]
    dropped: tuple[tuple[str, int], ...]
    """Roots, spreads and options left out, with row counts."""
    words: str


@dataclass(frozen=True)
class Roll:
    """A change of contract at the start of a session."""

    trade_date: str
    """ISO date of the new contract's first session."""
    before: str
    after: str
    """Contract names; empty for a roll detected in a series without contracts."""
    gap_points: float
    """The new contract's first open minus the old one's last close."""
    source: Literal["contracts", "found"]


@dataclass(frozen=True)
class Finding:
    """One kind of defect in the files, and how it was handled."""

    kind: str
    verdict: Verdict
    count: int
    where: str
    """First occurrences: rows, dates or sessions."""
    done: str
    """The action taken, or the remedy."""


@dataclass(frozen=True)
class Reading:
    """How one market's bars were read."""

    files: tuple[str, ...]
    dialects: tuple[str, ...]
    """One sentence per dialect: its name and how it was recognised."""
    clocks: tuple[ClockReading, ...]
    """One per group of files that share a clock."""
    market: MarketReading
    rolls: tuple[Roll, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
