"""Parse whole columns of times: text of any form, counts since 1970, Excel day numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from src.market.files.rows import NO_TIME
from src.market.files.time_forms import Form, Span, form_of

Ints = NDArray[np.int64]

FIRST_YEAR, LAST_YEAR = 1980, 2099
SECOND = 1_000_000_000
DAY = 86_400 * SECOND
FIRST_NS = int(np.datetime64(f"{FIRST_YEAR}-01-01", "ns").astype(np.int64))
LAST_NS = int(np.datetime64(f"{LAST_YEAR + 1}-01-01", "ns").astype(np.int64))

_MONTH_STARTS = np.arange(f"{FIRST_YEAR}-01", f"{LAST_YEAR + 1}-02", dtype="datetime64[M]").astype("datetime64[D]")
_MONTH_DAY = _MONTH_STARTS.astype(np.int64)[:-1]
_MONTH_LENGTH = np.diff(_MONTH_STARTS.astype(np.int64))
_MOST_SHAPES = 100
_ROWS_AT_ONCE = 1 << 18
EXCEL_EPOCH_DAY = -25_569
"""1899-12-30, day 0 of Excel, in days since 1970."""


@dataclass
class Parsed:
    """Times of n cells, in nanoseconds since 1970, as instants or wall-clock times."""

    ns: Ints
    """A date's midnight, nanoseconds since midnight, or their sum; NO_TIME if unreadable."""
    instant: NDArray[np.bool_]
    digits: bool = False
    """Whether to parse only cells of digits."""
    zones: set[str] = field(default_factory=set)
    """IANA zone names in the cells."""


@dataclass
class DateOrder:
    """Whether the day precedes the month in ambiguous dates; None if unknown."""

    day_first: bool | None = None


Unordered = dict[tuple[int, int, int], int]
"""Row counts by (first number, second number, year) for dates of unknown order."""


def text_times(
    cells: pa.Array, order: DateOrder, *, digits: bool = False, unordered: Unordered | None = None
) -> Parsed:
    """Parse an Arrow binary or string array.

    With `unordered`, only count the dates of unknown order. With `digits`, cells of digits give their number and all
    others are unreadable; without, cells of digits are unreadable.

    Shapes: Parsed.ns int64[n].
    """
    starts, data = _bytes_of(cells)
    lengths = np.diff(starts)
    if cells.null_count:
        lengths = np.where(np.asarray(cells.is_valid()), lengths, 0)
    parsed = Parsed(np.full(len(cells), NO_TIME), np.zeros(len(cells), dtype=bool), digits)
    if len(cells) == 0:
        return parsed
    counts = np.bincount(np.minimum(lengths, 65))
    for length in np.flatnonzero(counts):
        if not 0 < length <= 64:
            continue
        if counts[length] == len(cells):
            for first in range(0, len(cells), _ROWS_AT_ONCE):
                rows = np.arange(first, min(first + _ROWS_AT_ONCE, len(cells)))
                begin = starts[first]
                block = data[begin : begin + len(rows) * length].reshape(len(rows), length)
                _parse_block(block, rows, parsed, order, unordered)
            continue
        chosen = np.flatnonzero(lengths == length)
        for first in range(0, len(chosen), _ROWS_AT_ONCE):
            rows = chosen[first : first + _ROWS_AT_ONCE]
            block = data[starts[rows][:, None] + np.arange(length)]
            _parse_block(block, rows, parsed, order, unordered)
    return parsed


def _bytes_of(cells: pa.Array) -> tuple[Ints, NDArray[np.uint8]]:
    """Offsets of the cells (n + 1 of them) and the bytes they index."""
    wide = pa.types.is_large_string(cells.type) or pa.types.is_large_binary(cells.type)
    _, offsets, data = cells.buffers()
    kind = np.int64 if wide else np.int32
    starts = np.frombuffer(offsets, dtype=kind)[cells.offset : cells.offset + len(cells) + 1].astype(np.int64)
    return starts, np.frombuffer(data, dtype=np.uint8) if data is not None else np.zeros(0, dtype=np.uint8)


def _parse_block(
    block: NDArray[np.uint8], rows: Ints, parsed: Parsed, order: DateOrder, unordered: Unordered | None
) -> None:
    """Parse cells of one length, shape by shape."""
    left = np.arange(len(rows))
    for _ in range(_MOST_SHAPES):
        if not len(left):
            return
        cells = block if len(left) == len(rows) else block[left]
        first = cells[0]
        digit = (first >= 48) & (first <= 57)
        same = np.ones(len(cells), dtype=bool)
        for k, is_digit in enumerate(digit.tolist()):
            column = cells[:, k]
            same &= (column - np.uint8(48)) <= 9 if is_digit else column == first[k]
        shape = bytes(np.where(digit, np.uint8(48), first)).decode("utf-8", errors="replace")
        form = form_of(shape)
        if form is not None and len(shape) == len(first):
            whole = bool(same.all())
            matching = cells if whole else cells[same]
            there = rows[left] if whole else rows[left[same]]
            if unordered is not None:
                _count_unordered(matching, form, unordered)
            else:
                _fill(matching, there, form, parsed, order)
        left = left[~same]


def _number(cells: NDArray[np.uint8], span: Span) -> Ints:
    start, length = span
    value = cells[:, start].astype(np.int64) - 48
    for k in range(start + 1, start + length):
        value = value * 10 + (cells[:, k].astype(np.int64) - 48)
    return value


def _count_unordered(cells: NDArray[np.uint8], form: Form, unordered: Unordered) -> None:
    if form.either is None or form.year is None:
        return
    key = (_number(cells, form.either[0]) * 100 + _number(cells, form.either[1])) * 10_000 + _number(cells, form.year)
    values, counts = np.unique(key, return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        name = (value // 1_000_000, value // 10_000 % 100, _full_year(value % 10_000, form.year[1]))
        unordered[name] = unordered.get(name, 0) + count


def _full_year(year: int, digits: int) -> int:
    return year if digits == 4 else (2000 if year < 80 else 1900) + year


def _fill(cells: NDArray[np.uint8], rows: Ints, form: Form, parsed: Parsed, order: DateOrder) -> None:
    if form.kind == "digits" and parsed.digits:
        parsed.ns[rows] = _number(cells, form.compact) if form.compact and form.digits <= 18 else _big(cells, form)
    if parsed.digits or form.kind in ("digits", "decimal"):
        return
    days, good = _days(cells, form, order)
    clock, fits = _clock(cells, form)
    ns = days * DAY + clock
    good &= fits
    if form.offset_min is not None or form.offset_hour is not None:
        minutes = np.full(len(cells), form.offset_min or 0, dtype=np.int64)
        if form.offset_hour is not None:
            part = _number(cells, form.offset_hour) * 60
            part += _number(cells, form.offset_minute) if form.offset_minute else 0
            good &= part <= 14 * 60
            minutes += form.offset_sign * part
        ns -= minutes * 60 * SECOND
        parsed.instant[rows[good]] = True
    if form.zone is not None and good.any():
        parsed.zones.add(form.zone)
    parsed.ns[rows] = np.where(good, ns, NO_TIME)


def _big(cells: NDArray[np.uint8], form: Form) -> Ints:
    """Numbers of 19 digits or more; NO_TIME if they do not fit in 64 bits."""
    assert form.compact is not None
    start, length = form.compact
    if length > 19:
        return np.full(len(cells), NO_TIME)
    high = _number(cells, (start, length - 1))
    good = high < 922_337_203_685_477_580
    return np.where(good, np.where(good, high, 0) * 10 + _number(cells, (start + length - 1, 1)), NO_TIME)


def _days(cells: NDArray[np.uint8], form: Form, order: DateOrder) -> tuple[Ints, NDArray[np.bool_]]:
    """Days since 1970, and whether each date exists."""
    n = len(cells)
    if form.compact is not None:
        date = _number(cells, form.compact)
        return day_numbers(date // 10_000, date // 100 % 100, date % 100)
    if form.year is None:
        return np.zeros(n, dtype=np.int64), np.ones(n, dtype=bool)
    year = _number(cells, form.year)
    if form.year[1] == 2:
        year += np.where(year < 80, 2000, 1900)
    if form.either is not None:
        first, second = (_number(cells, span) for span in form.either)
        if order.day_first is None:
            return np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
        month, day = (second, first) if order.day_first else (first, second)
    else:
        month = _number(cells, form.month) if form.month else np.full(n, form.month_named, dtype=np.int64)
        day = _number(cells, form.day) if form.day else np.ones(n, dtype=np.int64)
    return day_numbers(year, month, day)


def day_numbers(year: Ints, month: Ints, day: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Days since 1970 of calendar dates, and whether each exists and lies in the supported years."""
    good = (year >= FIRST_YEAR) & (year <= LAST_YEAR) & (month >= 1) & (month <= 12) & (day >= 1)
    index = np.where(good, (year - FIRST_YEAR) * 12 + month - 1, 0)
    good &= day <= _MONTH_LENGTH[index]
    return _MONTH_DAY[index] + day - 1, good


def _clock(cells: NDArray[np.uint8], form: Form) -> tuple[Ints, NDArray[np.bool_]]:
    """Nanoseconds since midnight, and whether each is a valid time of day (24:00 is the next midnight)."""
    n = len(cells)
    if form.clock is not None:
        value = _number(cells, form.clock)
        value = value * 100 if form.clock[1] <= 4 else value
        hour, minute, second = value // 10_000, value // 100 % 100, value % 100
    elif form.hour is not None and form.minute is not None:
        hour, minute = _number(cells, form.hour), _number(cells, form.minute)
        second = _number(cells, form.second) if form.second else np.zeros(n, dtype=np.int64)
    else:
        return np.zeros(n, dtype=np.int64), np.ones(n, dtype=bool)
    if form.afternoon is not None:
        good = hour <= 12  # some write 0:30 for 12:30
        hour = hour % 12 + (12 if form.afternoon else 0)
    else:
        good = (hour < 24) | ((hour == 24) & (minute == 0) & (second == 0))
    good &= (minute < 60) & (second < 60)
    ns = ((hour * 60 + minute) * 60 + second) * SECOND
    if form.fraction is not None:
        ns += _number(cells, form.fraction) * 10 ** (9 - form.fraction[1])
    return ns, good


def compact_clocks(values: Ints) -> Ints:
    """Nanoseconds since midnight of hhmm, hhmmss or hhmmssmmm numbers.

    The 80% quantile decides which of the three: the maximum may be a damaged cell.
    """
    known = values[values != NO_TIME]
    large = int(np.quantile(known, 0.8)) if len(known) else 0
    scaled = np.where((values >= 0) & (values < 1_000_000_000), values, 10**9)
    scaled = scaled * 100_000 if large <= 2400 else scaled * 1_000 if large <= 240_000 else scaled
    ns, good = _clock_of(scaled)
    return np.where((values >= 0) & (good | (scaled // 1_000 == 240_000)), ns, NO_TIME)


def _clock_of(number: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Nanoseconds since midnight of hhmmssmmm numbers, and whether each is a time of day."""
    milli, whole = number % 1_000, number // 1_000
    hour, minute, second = whole // 10_000, whole // 100 % 100, whole % 100
    ns = ((hour * 60 + minute) * 60 + second) * SECOND + milli * 1_000_000
    return ns, (hour < 24) & (minute < 60) & (second < 60)


def compact_dates(values: Ints) -> Ints:
    """Midnights of yyyymmdd numbers, or of TradeStation's 1yymmdd."""
    full = np.where((values >= 1_000_101) & (values <= 1_991_231), values + 19_000_000, values)
    days, good = day_numbers(full // 10_000, full // 100 % 100, full % 100)
    return np.where(good, days * DAY, NO_TIME)


def compact_times(values: Ints, digits: int) -> Ints:
    """Wall-clock times of yyyymmddhhmm, yyyymmddhhmmss or yyyymmddhhmmssmmm numbers (12, 14 or 17 digits)."""
    scale = 10 ** (digits - 8)
    dates, clocks = compact_dates(values // scale), values % scale
    ns, good = _clock_of(clocks * 10 ** (9 - (digits - 8)))
    good &= dates != NO_TIME
    return np.where(good, np.where(good, dates, 0) + ns, NO_TIME)


_EPOCH_UNITS = ((100_000_000_000, SECOND), (100_000_000_000_000, 1_000_000), (100_000_000_000_000_000, 1_000))


def epoch_ns(values: Ints) -> Ints:
    """Convert seconds, milli-, micro- or nanoseconds since 1970 to nanoseconds; the median's size gives the unit."""
    known = values[values != NO_TIME]
    if not len(known):
        return np.full(len(values), NO_TIME)
    middle = int(np.median(np.abs(known)))
    factor = next((factor for limit, factor in _EPOCH_UNITS if middle < limit), 1)
    good = (values >= FIRST_NS // factor) & (values < LAST_NS // factor)
    return np.where(good, np.where(good, values, 0) * factor, NO_TIME)


def excel_ns(days: NDArray[np.float64]) -> Ints:
    """Wall-clock times of Excel day numbers (days since 1899-12-30), rounded to their precision of a second."""
    good = np.isfinite(days) & (days >= FIRST_NS // DAY - EXCEL_EPOCH_DAY) & (days < LAST_NS // DAY - EXCEL_EPOCH_DAY)
    seconds = np.rint(np.where(good, days + EXCEL_EPOCH_DAY, 0) * 86_400).astype(np.int64)
    return np.where(good, seconds * SECOND, NO_TIME)


def excel_clock_ns(fractions: NDArray[np.float64]) -> Ints:
    """Nanoseconds since midnight of fractions of a day, rounded to seconds."""
    good = np.isfinite(fractions) & (fractions >= 0) & (fractions <= 1)
    return np.where(good, np.rint(np.where(good, fractions, 0) * 86_400).astype(np.int64) * SECOND, NO_TIME)


def decide_order(seen: Unordered, promised: bool | None) -> bool | None:
    """Whether the day comes first, inferred from all dates of the file; None if undecided.

    An order in which more than 1% of rows have invalid dates is rejected. If both remain, the one with fewer gaps of
    more than 5 days wins: trading days are consecutive, while the wrong order spreads them one per month. The winner
    must not put more than 10% of the rows on Saturdays, when nearly every market is closed.
    """
    total = sum(seen.values())
    outside, holes, saturdays = {}, {}, {}
    for day_first in (False, True):
        days: dict[int, int] = {}
        for (first, second, year), rows in seen.items():
            month, day = (second, first) if day_first else (first, second)
            try:
                days[date(year, month, day).toordinal()] = rows
            except ValueError:
                continue
        outside[day_first] = total - sum(days.values())
        holes[day_first] = sum(later - day > 5 for day, later in pairwise(sorted(days)))
        saturdays[day_first] = sum(rows for day, rows in days.items() if day % 7 == 6)
    possible = [day_first for day_first in (False, True) if outside[day_first] * 100 <= total]
    if len(possible) != 2:
        return possible[0] if possible else promised
    for measure in (holes, outside):
        if measure[False] != measure[True]:
            better = measure[True] < measure[False]
            return better if saturdays[better] * 10 <= total or better == promised else None
    return promised


def as_text(ns: int) -> str:
    """A wall clock or instant as ISO text, for messages."""
    whole = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1_000)
    return whole.strftime("%Y-%m-%d %H:%M:%S")


def concatenated(parts: Sequence[Ints]) -> Ints:
    return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
