"""Section `data`: where the bars come from, how good they are, and which sessions serve what."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from src.report.model.base import Count, Date, Figure, Frac, Maybe, Number, Part, check_length, check_rows

Stamp = Literal["open", "close"]


class SplitPart(Part):
    sessions: Count
    first: Date
    last: Date


class Split(Part):
    train: SplitPart
    validation: SplitPart
    sealed: SplitPart


class ClockCandidate(Part):
    zone: str
    stamp: Stamp
    bars: Count
    closed: Count
    """Bars that would open while the market is closed."""
    cash_step: Figure
    """Volume after 09:30 New York over that before."""


class Clock(Part):
    """How the times of a group of files were read."""

    zone: str
    stamp: Stamp
    decided_by: str
    chosen: ClockCandidate
    others: list[ClockCandidate]
    words: str


class Dropped(Part):
    name: str
    rows: Count


class MarketRead(Part):
    root: str
    decided_by: str
    dropped: list[Dropped]
    words: str


class Reading(Part):
    """What the files were taken to be, and why."""

    files: list[str]
    dialects: list[str]
    clocks: list[Clock]
    """One a group of files that share a clock."""
    market: MarketRead
    notes: list[str]


class LeftOut(Part):
    date: Date
    reason: str


class SessionsFound(Part):
    found: Count
    usable: Count
    first: str | None
    last: str | None
    left_out: list[LeftOut]
    """Every session left out."""


class Coverage(Part):
    """Bars there as a fraction of those scheduled; absent trade dates count, halts do not."""

    present: Count
    scheduled: Count
    frac: Frac | None
    hours: list[str]
    """New York hours in the session's order: rows of both maps."""
    unit: Literal["session", "week", "month"]
    """What a period is."""
    periods: list[str]
    by_period: list[list[Frac | None]]
    """By hour, then period; null: nothing scheduled."""
    weekdays: list[str]
    by_weekday: list[list[Frac | None]]

    @model_validator(mode="after")
    def _maps_have_their_size(self) -> Coverage:
        for name, rows, columns in (
            ("by_period", self.by_period, self.periods),
            ("by_weekday", self.by_weekday, self.weekdays),
        ):
            check_length(name, rows, len(self.hours))
            check_rows(name, rows, len(columns))
        return self


class Stretch(Part):
    """Bars in a row; times of day are New York's."""

    trade_date: Date
    start: str
    bars: Count


class Hole(Stretch):
    place: str


class RecurringHole(Part):
    weekday: str
    start: str
    """The first missing bar."""
    last_bar: str
    next_bar: str
    sessions: Count
    of_sessions: Count
    bars: Count
    """Typically missing."""
    place: str
    first: Date
    last: Date


class Holes(Part):
    """Stretches of more than data.no_trade_bars missing bars in a session that has bars."""

    count: Count
    bars: Count
    sessions: Count
    """With a hole."""
    listed: list[Hole]
    """The longest, in time order."""
    recurring: list[RecurringHole]


class ZeroVolume(Part):
    bars: Count
    stretches: Count
    sessions: Count
    listed: list[Stretch]


class Outlier(Part):
    trade_date: Date
    start: str
    kind: Literal["range", "jump", "spike"]
    points: Number
    usual_points: Number
    ratio: Number


class Outliers(Part):
    """Bars whose range, or the jump to whose open, is far above the usual range around them."""

    count: Count
    sessions: Count
    listed: list[Outlier]


class Roll(Part):
    trade_date: Date
    before: str
    after: str
    gap_points: Number
    source: Literal["contracts", "found"]


class Finding(Part):
    kind: str
    verdict: Literal["fatal", "repaired", "tolerated"]
    count: Count
    where: str
    done: str


class Quality(Part):
    """How good the bars are. Times of day are New York's, prices are in points."""

    reading: Reading | None
    """null for bars that come from no file."""
    sessions: SessionsFound
    absent_dates: list[Date]
    """Trade dates of the calendar between the first and the last session without a bar."""
    coverage: Coverage
    holes: Holes
    zero_volume: ZeroVolume
    outliers: Outliers
    rolls: list[Roll]
    findings: list[Finding]
    """Every kind of defect and what was done about it."""


class Bars(Part):
    source: str
    synthetic: bool
    fingerprint: str
    bars: Count
    interval_min: Count


class Data(Bars):
    repairs: dict[str, Count]
    sessions: Count
    sessions_usable: Count
    sessions_left_out: dict[str, Count]
    """By reason."""
    embargo_sessions: Count
    split: Split
    quality: Maybe[Quality] = None
