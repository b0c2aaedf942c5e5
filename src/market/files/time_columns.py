"""Parse a table's time column, or its date and time-of-day columns, into nanoseconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from src.errors import BarDataError
from src.market.files.rows import NO_TIME
from src.market.files.time_forms import FORMS_READ, cell_kind, form_of, shape_of
from src.market.files.times import (
    DAY,
    FIRST_NS,
    LAST_NS,
    SECOND,
    DateOrder,
    Ints,
    Parsed,
    Unordered,
    as_text,
    compact_clocks,
    compact_dates,
    compact_times,
    concatenated,
    decide_order,
    epoch_ns,
    excel_clock_ns,
    excel_ns,
    text_times,
)

Part = Literal["whole", "date", "clock"]
_SAMPLE = 500


@dataclass(frozen=True, eq=False)
class TimeColumn:
    """The times of a table's rows."""

    ns: Ints
    instant: bool
    zone: str | None
    """The zone named in the cells."""
    text: Callable[[int], str]
    notes: tuple[str, ...]
    how: str
    """"an offset in every time", "nanoseconds since 1970", ...; used in messages."""


@dataclass(frozen=True, eq=False)
class _Read:
    ns: Ints
    instant: NDArray[np.bool_]
    zones: frozenset[str]
    how: str
    only_dates: bool


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds text."""
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def chunks_of(column: pa.ChunkedArray) -> list[pa.Array]:
    """The chunks, with dictionaries and string views decoded."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    elif pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        column = column.cast(pa.large_binary())
    return list(column.chunks)


def cell_text(column: pa.ChunkedArray, row: int) -> str:
    """One cell as text."""
    value = column[row].as_py() if not pa.types.is_timestamp(column.type) else str(column[row])
    if value is None:
        return "(empty)"
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def read_times(columns: list[pa.ChunkedArray], label: str, *, day_first: bool | None, comma: bool) -> TimeColumn:
    """The times of one column, or of a date and a time-of-day column.

    Args:
        day_first: The dialect's order of day and month in ambiguous dates; None if unknown.
        comma: Whether the file uses a decimal comma.

    Raises:
        BarDataError: no time is readable; the order of day and month is ambiguous; only some times have an offset;
            the file has dates only.
    """
    parts: list[Part] = ["whole"] if len(columns) == 1 else ["date", "clock"]
    read = [
        _read_part(column, part, label, day_first=day_first, comma=comma)
        for column, part in zip(columns, parts, strict=True)
    ]

    def text(row: int) -> str:
        return " ".join(cell_text(column, row).strip() for column in columns)

    n = len(read[0].ns)
    if len(read) == 1:
        ns, instant = read[0].ns, read[0].instant
    else:
        known = (read[0].ns != NO_TIME) & (read[1].ns != NO_TIME)
        ns = np.where(known, np.where(known, read[0].ns, 0) + np.where(known, read[1].ns, 0), NO_TIME)
        instant = read[0].instant | read[1].instant
    ns = np.where((ns >= FIRST_NS) & (ns < LAST_NS), ns, NO_TIME)
    known = ns != NO_TIME
    _refuse_unreadable(known, text, label)
    if all(part.only_dates for part in read):
        raise BarDataError(
            f"{label}: the times are dates without a time of day ({text(int(np.argmax(known)))}): these are daily "
            f"bars, or a time-of-day column is missing. Export intraday bars of 1 to 15 minutes."
        )
    zones = frozenset().union(*(part.zones for part in read))
    notes: list[str] = []
    with_offset = int((instant & known).sum())
    if 0 < with_offset < int(known.sum()):
        ns = _without_rare_kind(ns, instant, known, with_offset, text, label, notes)
    if len(zones) > 1:
        raise BarDataError(
            f"{label}: the times name several zones ({', '.join(sorted(zones)[:4])}). Export them in one zone."
        )
    return TimeColumn(
        ns=ns,
        instant=with_offset * 2 > int(known.sum()),
        zone=next(iter(zones), None),
        text=text,
        notes=tuple(notes) if n else (),
        how=read[0].how,
    )


def _without_rare_kind(
    ns: Ints,
    instant: NDArray[np.bool_],
    known: NDArray[np.bool_],
    with_offset: int,
    text: Callable[[int], str],
    label: str,
    notes: list[str],
) -> Ints:
    """Handle a mix of times with and without offsets: a few of the rarer kind become unreadable, more are refused."""
    mostly = with_offset * 2 > int(known.sum())
    most = "have" if mostly else "lack"
    odd = known & (instant != mostly)
    count, row = int(odd.sum()), int(np.argmax(odd))
    if count * 100 > int(known.sum()):
        raise BarDataError(
            f"{label}: most times {most} an offset from UTC, but {count:,} do not (first: row {row + 1}, "
            f"{text(row)!r}), so the file has two clocks. Export it again with one."
        )
    notes.append(f"most times {most} an offset from UTC, but {count:,} do not: those are treated as unreadable")
    return np.where(odd, NO_TIME, ns)


def _refuse_unreadable(known: NDArray[np.bool_], text: Callable[[int], str], label: str) -> None:
    missing = int((~known).sum())
    if missing * 2 <= len(known):
        return
    row = int(np.argmin(known))
    count = (
        f"none of the {missing:,} times can be read"
        if missing == len(known)
        else f"{missing:,} of {len(known):,} times cannot be read"
    )
    raise BarDataError(
        f"{label}: {count} (first: {text(row)[:60]!r}). Times must lie in 1980 to 2099 and look like {FORMS_READ}. "
        f"Export the file again with such times."
    )


def _read_part(column: pa.ChunkedArray, part: Part, label: str, *, day_first: bool | None, comma: bool) -> _Read:
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind):
        return _typed(column, kind)
    if pa.types.is_integer(kind):
        numbers = column.cast(pa.int64(), safe=False)
        values = concatenated([_filled(chunk, NO_TIME).astype(np.int64) for chunk in chunks_of(numbers)])
        return _whole_numbers(values, part)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = column.cast(pa.float64(), safe=False)
        floats = np.concatenate([_filled(chunk, np.nan) for chunk in chunks_of(numbers)] or [np.zeros(0)])
        return _fractions(floats, part)
    chunks = chunks_of(column)
    sample = _sample(chunks)
    kinds = Counter(found for cell in sample if (found := cell_kind(cell)))
    most = kinds.most_common(1)[0][0] if kinds else None
    if most == "decimal":
        return _fractions(_text_floats(chunks, comma), part)
    if most == "digits":
        parsed = [text_times(chunk, DateOrder(), digits=True) for chunk in chunks]
        return _whole_numbers(concatenated([one.ns for one in parsed]), part, _usual_length(sample))
    order = _date_order(chunks, sample, label, day_first)
    parsed = [text_times(chunk, order) for chunk in chunks]
    return _joined(parsed, only_dates=part != "clock" and most == "date")


def _joined(parsed: list[Parsed], *, only_dates: bool) -> _Read:
    instant = np.concatenate([one.instant for one in parsed] or [np.zeros(0, dtype=bool)])
    zones = frozenset().union(*(one.zones for one in parsed))
    how = "an offset in every time" if instant.any() else "a wall clock"
    return _Read(concatenated([one.ns for one in parsed]), instant, zones, how, only_dates)


def _filled(chunk: pa.Array, value: float) -> NDArray:
    return (chunk.fill_null(value) if chunk.null_count else chunk).to_numpy(zero_copy_only=False)


def _sample(chunks: list[pa.Array]) -> list[str]:
    cells: list[str] = []
    for chunk in chunks:
        for value in chunk[:_SAMPLE].to_pylist():
            if value is not None:
                cells.append(value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value))
        if len(cells) >= _SAMPLE:
            break
    return [cell for cell in cells if cell.strip()]


def _usual_length(sample: list[str]) -> int:
    return Counter(len(cell.strip()) for cell in sample).most_common(1)[0][0]


def _date_order(chunks: list[pa.Array], sample: list[str], label: str, promised: bool | None) -> DateOrder:
    forms = [form_of(shape) for shape in {shape_of(cell) for cell in sample}]
    if not any(form is not None and form.either for form in forms):
        return DateOrder(promised)
    if promised is None and any(form is not None and form.either and form.dotted for form in forms):
        promised = True
    seen: Unordered = {}
    for chunk in chunks:
        text_times(chunk, DateOrder(), unordered=seen)
    day_first = decide_order(seen, promised)
    if day_first is None:
        raise BarDataError(
            f"{label}: dates such as {sample[0].strip()[:40]!r} can be day/month or month/day, and nothing in the file "
            f"decides. Write the dates as 2025-11-03, or use a file with more days."
        )
    return DateOrder(day_first)


def _typed(column: pa.ChunkedArray, kind: pa.DataType) -> _Read:
    if pa.types.is_time(kind):
        unit = column.cast(pa.time64("ns")).cast(pa.int64())
        ns = concatenated([_filled(chunk, NO_TIME).astype(np.int64) for chunk in chunks_of(unit)])
        return _Read(ns, np.zeros(len(ns), dtype=bool), frozenset(), "a wall clock", False)
    if pa.types.is_date(kind):
        days = column.cast(pa.date32()).cast(pa.int32())
        day = concatenated([_filled(chunk, -(2**31)).astype(np.int64) for chunk in chunks_of(days)])
        good = (day >= FIRST_NS // DAY) & (day < LAST_NS // DAY)
        return _Read(np.where(good, np.where(good, day, 0) * DAY, NO_TIME), np.zeros(len(day), dtype=bool),
                     frozenset(), "a date", True)  # fmt: skip
    factor = {"s": SECOND, "ms": 1_000_000, "us": 1_000, "ns": 1}[kind.unit]
    raw = concatenated([_filled(chunk, NO_TIME).astype(np.int64) for chunk in chunks_of(column.cast(pa.int64()))])
    good = (raw >= FIRST_NS // factor) & (raw < LAST_NS // factor)
    ns = np.where(good, np.where(good, raw, 0) * factor, NO_TIME)
    zoned = kind.tz is not None
    dates = not zoned and bool(good.any()) and bool((ns[good] % DAY == 0).all()) and len(ns) > 1
    how = "times with a zone" if zoned else "a wall clock"
    return _Read(ns, np.full(len(ns), zoned), frozenset(), how, dates)


def _whole_numbers(values: Ints, part: Part, length: int | None = None) -> _Read:
    """Integers: a date, a time of day, both in one number, or a count since 1970, distinguished by size."""
    known = values[values != NO_TIME]
    middle = int(np.median(known)) if len(known) else 0
    length = length if length is not None else len(str(abs(middle)))
    none = np.zeros(len(values), dtype=bool)
    if part == "clock":
        return _Read(compact_clocks(values), none, frozenset(), "a wall clock", False)
    if length in (12, 14, 17) and 19_800_101 <= middle // 10 ** (length - 8) <= 20_991_231:
        return _Read(compact_times(values, length), none, frozenset(), "a wall clock", False)
    if 19_800_101 <= middle <= 20_991_231 or 1_000_101 <= middle <= 1_991_231:
        return _Read(compact_dates(values), none, frozenset(), "a date", part == "whole")
    if 20_000 <= middle < 100_000:
        floats = np.where(values == NO_TIME, np.nan, values.astype(np.float64))
        return _Read(excel_ns(floats), none, frozenset(), "Excel day numbers", part == "whole")
    return _Read(epoch_ns(values), ~none, frozenset(), "time since 1970", False)


def _fractions(floats: NDArray[np.float64], part: Part) -> _Read:
    """Fractional numbers: Excel days, a fraction of a day, or seconds since 1970."""
    none = np.zeros(len(floats), dtype=bool)
    known = floats[np.isfinite(floats)]
    middle = float(np.median(known)) if len(known) else 0.0
    if part == "clock" and 0 <= middle <= 1:
        return _Read(excel_clock_ns(floats), none, frozenset(), "Excel day numbers", False)
    if 20_000 <= middle < 100_000:
        whole = bool((known == np.floor(known)).all())
        return _Read(excel_ns(floats), none, frozenset(), "Excel day numbers", part == "whole" and whole)
    whole_numbers = np.where(np.isfinite(floats) & (np.abs(floats) < 2**62), floats, 0)
    values = np.where(np.isfinite(floats) & (np.abs(floats) < 2**62), np.floor(whole_numbers).astype(np.int64), NO_TIME)
    return _whole_numbers(values, part)


def _text_floats(chunks: list[pa.Array], comma: bool) -> NDArray[np.float64]:
    parts = []
    for chunk in chunks:
        text = pc.ascii_trim_whitespace(chunk.cast(pa.large_binary()).cast(pa.large_string(), safe=False))
        text = pc.replace_substring(text, ",", ".") if comma else text
        good = pc.match_substring_regex(text, r"^[+-]?[0-9]{1,19}([.][0-9]{0,12})?$")
        parts.append(_filled(pc.if_else(good, text, None).cast(pa.float64()), np.nan))
    return np.concatenate(parts) if parts else np.zeros(0)


__all__ = ["TimeColumn", "as_text", "cell_text", "chunks_of", "is_text", "read_times"]
