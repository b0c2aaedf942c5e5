"""Assemble the columns of a table into `FileRows`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from src.errors import BarDataError
from src.market.files.columns import Layout
from src.market.files.containers import Content
from src.market.files.dialects import Dialect
from src.market.files.file_names import instrument_of_name
from src.market.files.numbers import finite
from src.market.files.rows import NO_TIME, ClockClaim, FileRows
from src.market.files.time_columns import TimeColumn

MOST_INSTRUMENTS = 20_000
_RAW_PRICE = 1e8
"""Prices with a median above this are integers in units of 1e-9 points."""


Instruments = tuple[NDArray[np.int32], tuple[str, ...]]
"""Each row's index into the names, -1 where missing; and the names."""


def file_rows(
    content: Content,
    layout: Layout,
    dialect: Dialect,
    times: TimeColumn,
    prices: NDArray[np.float64],
    volume: NDArray[np.float64],
    instruments: Instruments,
    *,
    named: str | None = None,
    notes: Iterable[str] = (),
) -> FileRows:
    """The rows of one table, from its columns as read; `named` is the instrument of its header or metadata.

    Raises:
        BarDataError: no bars.
    """
    if not len(times.ns):
        raise BarDataError(f"{content.label}: the file has a header but no bars. Export it again.")
    kind = dialect.volume_kind or layout.volume_kind
    notes = [*notes, *layout.notes, *times.notes]
    prices, volume = finite(prices), finite(volume)
    closes = prices[:, 3]
    known = closes[np.isfinite(closes)]
    if known.size and float(np.median(known)) >= _RAW_PRICE:
        prices = prices / 1e9
        notes.append("prices are integers in units of 1e-9 points")
    if kind != "none" and len(volume) and not np.nan_to_num(volume).any():
        kind = "none"
    if kind == "none":
        volume = np.zeros(len(times.ns))
        notes.append("the file has no volume")
    elif kind == "ticks":
        notes.append("volume counts price changes, not contracts")
    rows = FileRows(
        file=content.file,
        label=content.label,
        dialect=dialect.name,
        dialect_why=dialect.why,
        claim=claim_of(times, layout, dialect),
        time_ns=times.ns,
        time_text=times.text,
        prices=prices,
        volume=volume,
        volume_kind=kind,
        instrument=instruments[0],
        instrument_names=instruments[1],
        file_instrument=named or instrument_of_name(content.name) or instrument_of_name(content.archive),
        notes=tuple(dict.fromkeys(notes)),
    )
    return _reversed(rows) if _newest_first(rows) else rows


def _newest_first(rows: FileRows) -> bool:
    """Whether times are descending, apart from a few damaged rows."""
    known = rows.time_ns[rows.time_ns != NO_TIME]
    steps = np.diff(known)
    return bool((steps < 0).any()) and int((steps > 0).sum()) * 100 <= len(steps)


def _reversed(rows: FileRows) -> FileRows:
    last, text = len(rows) - 1, rows.time_text
    return replace(
        rows,
        time_ns=rows.time_ns[::-1].copy(),
        time_text=lambda row: text(last - row),
        prices=rows.prices[::-1].copy(),
        volume=rows.volume[::-1].copy(),
        instrument=rows.instrument[::-1].copy(),
        notes=(*rows.notes, "newest bar first in the file: rows reversed to oldest first"),
    )


def claim_of(times: TimeColumn, layout: Layout, dialect: Dialect) -> ClockClaim:
    """What the times, the name of the time column and the dialect say about the clock, strongest evidence first."""
    stamp = layout.stamp or dialect.stamp
    stamped = f"; {dialect.promise}" if dialect.promise else ""
    if times.instant:
        return ClockClaim(True, None, stamp, f"the times are instants ({times.how}){stamped}")
    if times.zone is not None:
        return ClockClaim(False, times.zone, stamp, f"the times name the zone {times.zone}{stamped}")
    if layout.zone is not None:
        return ClockClaim(False, layout.zone, stamp, f"the name of the time column says {layout.zone}{stamped}")
    if dialect.promise:
        return ClockClaim(False, dialect.zone, stamp, dialect.promise)
    why = (
        "the name of the time column says whether it is the bar's open or close"
        if layout.stamp
        else "the file does not say"
    )
    return ClockClaim(False, None, stamp, why)


def coded(columns: list[pa.ChunkedArray], rows: int, label: str) -> Instruments:
    """The instruments of a table's rows, in one or two columns, or in none.

    Raises:
        BarDataError: too many distinct names for a column of instruments.
    """
    if not columns:
        return np.full(rows, -1, dtype=np.int32), ()
    first, names = _coded_one(columns[0], label)
    if len(columns) == 1:
        return first, names
    second, endings = _coded_one(columns[1], label)
    pair = np.where((first >= 0) & (second >= 0), first.astype(np.int64) * max(1, len(endings)) + second, -1)
    values, codes = np.unique(pair, return_inverse=True)
    shift = 1 if len(values) and values[0] == -1 else 0
    joined = tuple(
        f"{names[int(value) // len(endings)]}{_month(endings[int(value) % len(endings)])}" for value in values[shift:]
    )
    return (codes - shift).astype(np.int32), joined


def _month(expiry: str) -> str:
    """The yyyymm of an expiry date; anything else unchanged."""
    digits = expiry.replace("-", "").replace("/", "")
    return digits[:6] if digits[:2] in ("19", "20") and digits.isdigit() and len(digits) in (6, 8) else expiry


def _coded_one(column: pa.ChunkedArray, label: str) -> Instruments:
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    if not pa.types.is_dictionary(column.type):
        plain = pa.types.is_integer(column.type) or pa.types.is_date(column.type) or pa.types.is_floating(column.type)
        column = (column.cast(pa.string()) if plain else column).dictionary_encode()
    array = column.unify_dictionaries().combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], pa.dictionary(pa.int32(), pa.string()))
    if len(array.dictionary) > MOST_INSTRUMENTS:
        raise BarDataError(
            f"{label}: the instrument column has {len(array.dictionary):,} distinct names, more than "
            f"{MOST_INSTRUMENTS:,}, so it does not hold contracts. Rename or remove it."
        )
    codes = array.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    raw = [_name(value) for value in array.dictionary.to_pylist()]
    names = tuple(dict.fromkeys(name for name in raw if name))
    place = {name: k for k, name in enumerate(names)}
    table = np.array([place.get(name, -1) for name in raw] + [-1], dtype=np.int32)
    return table[codes], names


def _name(value: object) -> str:
    text = value.decode("utf-8", errors="replace") if isinstance(value, bytes) else "" if value is None else str(value)
    text = text.strip().strip('"')
    return "" if text.lower() in ("", "nan", "none", "null") else text
