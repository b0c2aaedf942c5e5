"""What files of bars were taken to be, and why: console, report and page show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from src.market.files.rows import Stamp

Verdict = Literal["fatal", "repaired", "tolerated"]


@dataclass(frozen=True)
class Candidate:
    """One possible reading of a file's times, with its evidence."""

    zone: str
    stamp: Stamp
    bars: int
    closed: int
    """Bars that would open while the market is closed."""
    cash_step: float | None
    """Volume in the minutes after 09:30 New York divided by that before; None if there are too few bars."""


@dataclass(frozen=True)
class ClockReading:
    """The clock of a file, and what decided it."""

    zone: str
    stamp: Stamp
    decided_by: Literal["bars", "offsets", "dialect", "option"]
    chosen: Candidate
    others: tuple[Candidate, ...]
    """The next best readings, best first."""
    words: str
    """One sentence: "read as America/Chicago, stamps at the bar's open: 0 of 5,688 bars fall into closed hours"."""


@dataclass(frozen=True)
class MarketReading:
    """Which instrument the rows are of, and what was left out."""

    root: str
    """The root the rows are of: the market's own, or that of its micro or mini."""
    decided_by: Literal["rows", "file", "prices", "user"]
    dropped: tuple[tuple[str, int], ...]
    """Other roots, spreads and options with the number of rows dropped."""
    words: str


@dataclass(frozen=True)
class Roll:
    """A change of contract at a session's edge."""

    trade_date: str
    """ISO date of the first session of the new contract."""
    before: str
    after: str
    """Contract names; empty for a roll found in a series without contracts."""
    gap_points: float
    """First open of the new contract less the last close of the old one."""
    source: Literal["contracts", "found"]


@dataclass(frozen=True)
class Finding:
    """One kind of defect in the files, and what was done about it."""

    kind: str
    verdict: Verdict
    count: int
    where: str
    """The first places: rows, dates or sessions."""
    done: str
    """What was done about it, or what to do."""


@dataclass(frozen=True)
class Reading:
    """All of it, for one market's bars."""

    files: tuple[str, ...]
    dialects: tuple[str, ...]
    """A sentence a dialect: its name and how it was recognised."""
    clocks: tuple[ClockReading, ...]
    """One a group of files that share a clock."""
    market: MarketReading
    rolls: tuple[Roll, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
