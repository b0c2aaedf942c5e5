"""The quality of bars in words: the same on the validator's console, at the end of a run and on the page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from src.market.files.reading import Finding as Defect
from src.market.quality import recurring_words
from src.report.model.bars import Bars, Finding, LeftOut, Quality, Reading, Roll
from src.wording import percent

SHOWN = 12
"""Dates, rolls and outliers named on a line; report.json has all of them."""

SENTENCES = 6
"""Dialects, clocks and notes named."""

_NUMBER = re.compile(r"\d+")


def quality_lines(bars: Bars, quality: Quality, *, brief: bool = False) -> list[str]:
    """One paragraph for each thing to know about the bars; `brief` leaves out lists and what is in order."""
    lines = [bars_words(bars, quality), *reading_words(quality), *_sessions_words(quality, brief)]
    lines += [f"Recurring hole: {recurring_words(hole.model_dump())}." for hole in quality.holes.recurring]
    if not brief:
        lines += [_holes_words(quality), _volume_words(quality, bars.bars), _outlier_words(quality)]
        lines.append(_rolls_words(quality))
    elif quality.rolls:
        lines.append(f"Rolls: {len(quality.rolls)}.")
    return lines + [verdict_words(finding) for finding in row_findings(quality)]


def bars_words(bars: Bars, quality: Quality) -> str:
    """How many bars of which kind and range, and how many of the scheduled ones they are."""
    coverage, sessions = quality.coverage, quality.sessions
    what = "SYNTHETIC bars" if bars.synthetic else "bars"
    span = f", {sessions.first} to {sessions.last}" if sessions.found else ""
    # Never 100% where a bar is missing.
    is_whole = coverage.scheduled == coverage.present
    share = "all" if is_whole else percent(min(coverage.frac or 0.0, 0.9999), 2)
    return (
        f"Bars: {bars.bars:,} {what} of {bars.interval_min} min{span}; {share} of the {coverage.scheduled:,} "
        f"that the CME calendar schedules."
    )


def reading_words(quality: Quality) -> Iterator[str]:
    """What the files were taken to be, and why."""
    reading = quality.reading
    if reading is None:
        return
    for label, sentences in reading_sentences(reading):
        yield from (f"{label}: {sentence.rstrip('.')}." for sentence in sentences)


def reading_sentences(reading: Reading) -> Iterator[tuple[str, list[str]]]:
    """What there is to say of files, clocks, market and notes; the first few of each: a folder may have hundreds."""
    yield "File", _first(reading.dialects)
    yield "Clock", _first([clock.words for clock in reading.clocks])
    yield "Market", [reading.market.words]
    yield "Note", _first(reading.notes)


def _first(sentences: Sequence[str]) -> list[str]:
    more = len(sentences) - SENTENCES
    return [*sentences[:SENTENCES], *([f"and {more:,} more, in report.json"] if more > 0 else [])]


def _sessions_words(quality: Quality, brief: bool) -> Iterator[str]:
    sessions, absent = quality.sessions, quality.absent_dates
    yield f"Sessions: {sessions.found:,} found, {sessions.usable:,} usable."
    for reason, dates in by_reason(sessions.left_out).items():
        what = "session" if len(dates) == 1 else "sessions"
        yield f"Left out: {len(dates):,} {what}, {reason}: {dates_words(dates, 3 if brief else SHOWN)}."
    if absent:
        yield f"Absent: {len(absent):,} trade date{'' if len(absent) == 1 else 's'}: {dates_words(absent)}."
    elif not brief:
        yield "Absent: no trade date."


def by_reason(left_out: Sequence[LeftOut]) -> dict[str, list[str]]:
    """The dates of the sessions left out by reason, most frequent first; reasons that differ in a number are one."""
    alike: dict[str, list[LeftOut]] = {}
    for entry in left_out:
        alike.setdefault(_NUMBER.sub("#", entry.reason), []).append(entry)
    groups = sorted(alike.items(), key=lambda item: -len(item[1]))
    return {_in_one(form, entries): [entry.date for entry in entries] for form, entries in groups}


def _in_one(form: str, entries: Sequence[LeftOut]) -> str:
    """`a hole of 7 to 390 bars`: the form of reasons with the range of each of their numbers."""
    columns = zip(*([int(number) for number in _NUMBER.findall(entry.reason)] for entry in entries), strict=True)
    ranges = iter([(min(column), max(column)) for column in columns])

    def filled(_: re.Match[str]) -> str:
        low, high = next(ranges)
        return str(low) if low == high else f"{low} to {high}"

    return re.sub("#", filled, form) if "#" not in entries[0].reason else entries[0].reason


def dates_words(dates: Sequence[str], most: int = SHOWN) -> str:
    """The first of them, and how many more there are."""
    more = len(dates) - most
    return ", ".join(dates[:most]) + (f" and {more:,} more" if more > 0 else "")


def _holes_words(quality: Quality) -> str:
    holes = quality.holes
    if not holes.count:
        return "Holes: none inside a session."
    longest = sorted(holes.listed, key=lambda hole: -hole.bars)[:3]
    named = "; ".join(f"{hole.start} New York, {hole.bars:,} bars, {hole.place}" for hole in longest)
    what = "Hole: 1" if holes.count == 1 else f"Holes: {holes.count:,}"
    which = "" if holes.count == 1 else "the longest: "
    return f"{what} with {holes.bars:,} missing bars; {which}{named}."


def _volume_words(quality: Quality, n_bars: int) -> str:
    zero = quality.zero_volume
    if n_bars and zero.bars == n_bars:
        return "Volume: the file has none."
    if not zero.bars:
        return "Volume: every bar has some."
    without = f"Volume: {zero.bars:,} bar{'' if zero.bars == 1 else 's'} without any"
    if not zero.listed:
        return f"{without}, no stretch of them."
    longest = max(zero.listed, key=lambda stretch: stretch.bars)
    stretches = "1 stretch" if zero.stretches == 1 else f"{zero.stretches:,} stretches"
    return f"{without}; {stretches}, the longest of {longest.bars:,} bars from {longest.start} New York."


def _outlier_words(quality: Quality) -> str:
    odd = quality.outliers
    if not odd.count:
        return "Outliers: none."
    largest = sorted(odd.listed, key=lambda bar: -bar.ratio)[:3]
    named = "; ".join(
        f"{bar.start} New York, {bar.kind} of {bar.points:g} points, {bar.ratio:g} times the usual" for bar in largest
    )
    return f"Outliers: {odd.count:,} kept; the largest: {named}."


def roll_words(roll: Roll) -> str:
    """`2024-03-11 ESH4 to ESM4, +63.5 points`."""
    names = f" {roll.before} to {roll.after}," if roll.before or roll.after else ""
    return f"{roll.trade_date}{names} {roll.gap_points:+,.6g} points"


def _rolls_words(quality: Quality) -> str:
    rolls = quality.rolls
    if not rolls:
        return "Rolls: none."
    more = f" and {len(rolls) - SHOWN} more" if len(rolls) > SHOWN else ""
    return f"Rolls: {len(rolls)}: {'; '.join(map(roll_words, rolls[:SHOWN]))}{more}."


OF_SESSIONS = frozenset(
    {
        "session left out",
        "absent trade date",
        "hole",
        "recurring hole",
        "stretch without volume",
        "outlier",
    }
)
"""Kinds of findings that have a line, a chart or a table of their own."""


def row_findings(quality: Quality) -> list[Finding]:
    """The findings about rows, the gravest first."""
    order = ("fatal", "repaired", "tolerated")
    found = [finding for finding in quality.findings if finding.kind not in OF_SESSIONS]
    return sorted(found, key=lambda finding: order.index(finding.verdict))


def verdict_words(finding: Finding | Defect) -> str:
    """`Repaired: 21 off-tick price: row 5 (...); rounded to multiples of 0.25.`"""
    where = f": {finding.where}" if finding.where else ""
    return f"{finding.verdict.capitalize()}: {finding.count:,} {finding.kind}{where}; {finding.done}."
