"""Time formats: each cell shape (digits replaced by 0) is analysed once for all cells that have it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

Span = tuple[int, int]
"""Start and length of a run of digits in a cell."""

CellKind = Literal["full", "date", "clock", "digits", "decimal"]

FORMS_READ = (
    "2025-11-03 16:40:00 (also with an offset, Z or a zone name), 20251103 164000, 11/03/2025 4:40 PM, "
    "03.11.2025 16:40, 3-Nov-2025 16:40, seconds to nanoseconds since 1970, Excel day numbers"
)

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_OTHER_MONTHS = {
    "mär": 3, "mrz": 3, "mai": 5, "okt": 10, "dez": 12, "ene": 1, "abr": 4, "ago": 8, "dic": 12, "sept": 9,
}  # fmt: skip

_DATE = (
    r"(?P<Y>0000)(?P<s>[-/._ ])(?P<m>0{1,2})(?P=s)(?P<d>0{1,2})",
    r"(?P<a>0{1,2})(?P<s>[-/. ])(?P<b>0{1,2})(?P=s)(?P<Y>0000|00)",
    r"(?P<d>0{1,2})[-/ .]{1,2}(?P<mon>[^\W\d_]{3,10})[-/ ,.]{1,2}(?P<Y>0000|00)",
    r"(?P<mon>[^\W\d_]{3,10})\.? (?P<d>0{1,2}),? (?P<Y>0000)",
    r"(?P<Y>0000)[-/ ](?P<mon>[^\W\d_]{3,10})[-/ ](?P<d>0{1,2})",
    r"(?P<compact>00000000)",
)
_CLOCK = (
    r"(?:(?P<H>0{1,2}):(?P<M>00)(?::(?P<S>00)(?:[.,:](?P<f>0{1,9}))?)?|(?P<hms>0{3,6})(?:[.,](?P<g>0{1,9}))?)"
    r"(?: ?(?P<half>[AaPp])(?:\.?[Mm]\.?)?(?![A-Za-z]))?"
)
_ZONE = (
    r"(?: ?(?P<utc>Z|z|UTC|GMT|Etc/UTC|Etc/GMT)?(?:(?P<sign>[+-−])(?P<oh>00)(?::?(?P<om>00))?)?"
    r"| ?\[?(?P<zone>[A-Za-z_]+(?:/[A-Za-z_+0-]+)+|[A-Z]{2,5})\]?)"
).replace("[+-−]", "[+−-]")
_FULL = [re.compile(rf"\s*(?:[A-Za-z]{{3,9}},? )?{date}(?:(?:[ T_,;:-]{{1,2}}){_CLOCK}{_ZONE})?\s*") for date in _DATE]
_ONLY_CLOCK = re.compile(rf"\s*{_CLOCK}{_ZONE}\s*")

# Offsets in minutes of abbreviations, as used in American files; ambiguous abbreviations are not read.
_ABBREVIATIONS = {
    "EST": -300, "EDT": -240, "CST": -360, "CDT": -300, "MST": -420, "MDT": -360, "PST": -480, "PDT": -420,
    "CET": 60, "CEST": 120, "EET": 120, "EEST": 180, "WET": 0, "WEST": 60, "JST": 540, "MSK": 180,
}  # fmt: skip
_ZONE_WORDS = {"ET": "America/New_York", "CT": "America/Chicago"}


@dataclass(frozen=True)
class Form:
    """Positions of the parts of a time in cells of one shape."""

    kind: CellKind
    year: Span | None = None
    month: Span | None = None
    day: Span | None = None
    month_named: int = 0
    """1 to 12 if the month is a word in the shape, else 0."""
    either: tuple[Span, Span] | None = None
    """Day and month in unknown order."""
    dotted: bool = False
    compact: Span | None = None
    """yyyymmdd."""
    hour: Span | None = None
    minute: Span | None = None
    second: Span | None = None
    fraction: Span | None = None
    clock: Span | None = None
    """hhmm or hhmmss without separators."""
    afternoon: bool | None = None
    """PM or AM of a 12-hour clock; None for 24 hours."""
    offset_min: int | None = None
    """Offset given as a word in the shape: Z, UTC, EST."""
    offset_sign: int = 0
    offset_hour: Span | None = None
    offset_minute: Span | None = None
    zone: str | None = None
    """IANA name of the zone in the cell."""
    digits: int = 0
    """Length of a cell that has only digits."""


@lru_cache(maxsize=4096)
def form_of(shape: str) -> Form | None:
    """The form of a shape (a cell with every digit as 0); None if it is not a time."""
    core = shape.strip()
    if not core or len(core) > 64:
        return None
    if set(core) == {"0"}:
        return Form("digits", compact=(shape.index("0"), len(core)), digits=len(core))
    if re.fullmatch(r"[+-]?0+[.,]0*|[.,]0+", core):
        return Form("decimal")
    for pattern in _FULL:
        if match := pattern.fullmatch(shape):
            return _form(match)
    if match := _ONLY_CLOCK.fullmatch(shape):
        if match["hms"] and not match["half"]:
            return None
        return _form(match)
    return None


def _form(match: re.Match[str]) -> Form | None:
    groups = match.groupdict()

    def span(name: str) -> Span | None:
        return (match.start(name), match.end(name) - match.start(name)) if groups.get(name) else None

    month = month_number(groups["mon"]) if groups.get("mon") else 0
    if month is None:
        return None
    a, b = span("a"), span("b")
    has_clock = bool(groups.get("H") or groups.get("hms"))
    has_date = any(groups.get(name) for name in ("Y", "compact"))
    zone = _zone_of(groups)
    if zone is None:
        return None
    offset_min, name = zone
    return Form(
        kind="full" if has_date and has_clock else "date" if has_date else "clock",
        year=span("Y"),
        month=span("m"),
        day=span("d"),
        month_named=month,
        either=(a, b) if a and b else None,
        dotted=groups.get("s") == ".",
        compact=span("compact"),
        hour=span("H"),
        minute=span("M"),
        second=span("S"),
        fraction=span("f") or span("g"),
        clock=span("hms"),
        afternoon=groups["half"].lower() == "p" if groups.get("half") else None,
        offset_min=offset_min,
        offset_sign=0 if not groups.get("sign") else 1 if groups["sign"] == "+" else -1,
        offset_hour=span("oh"),
        offset_minute=span("om"),
        zone=name,
    )


def _zone_of(groups: dict[str, str | None]) -> tuple[int | None, str | None] | None:
    """Fixed offset in minutes and zone name from a cell's words; None if a word is not a zone."""
    if groups.get("utc"):
        return 0, None
    word = groups.get("zone")
    if not word:
        return None, None
    if word in _ABBREVIATIONS:
        return _ABBREVIATIONS[word], None
    name = _ZONE_WORDS.get(word, word)
    return (None, name) if is_zone(name) else None


@cache
def is_zone(name: str) -> bool:
    """Whether the name is an IANA zone (or an alias such as US/Eastern)."""
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        return False
    return True


def month_number(word: str) -> int | None:
    """1 to 12 for a month's name or abbreviation; None for other words."""
    start = word.lower()
    if start[:3] in _MONTHS and start[:3] == start[:3]:
        return _MONTHS.index(start[:3]) + 1
    return _OTHER_MONTHS.get(start[:4]) or _OTHER_MONTHS.get(start[:3])


def shape_of(cell: str) -> str:
    """The cell with every ASCII digit replaced by 0."""
    return re.sub(r"[0-9]", "0", cell)


def cell_kind(cell: str) -> CellKind | None:
    """The kind of time in a cell: full time, date, time of day, digits (any of these), or decimal; None for no time."""
    form = form_of(shape_of(cell))
    return form.kind if form else None
