"""Read a text file into rows: shape, layout, dialect, columns, times."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from src.errors import BarDataError
from src.market.files import numbers
from src.market.files.assemble import coded, file_rows
from src.market.files.columns import Layout, by_names, cells_kind, key, price_roles
from src.market.files.containers import Content
from src.market.files.dialects import Dialect, Facts, dialect_of, no_volume_words
from src.market.files.file_names import lean_file
from src.market.files.headerless import by_contents, time_columns
from src.market.files.rows import NO_TIME, FileRows
from src.market.files.text_shape import TextShape, as_utf8, decoded, shape_of_text
from src.market.files.text_tables import TextColumns, read_columns, without_repeated_headers
from src.market.files.time_columns import TimeColumn, read_times
from src.market.files.times import day_numbers
from src.market.units import DAY_NS


def text_rows(content: Content) -> list[FileRows]:
    """The rows of a text file: one table, or one per instrument if each has its own columns.

    Raises:
        BarDataError: the file is not a table of bars, or a column cannot be read.
    """
    content = as_utf8(content)
    shape = shape_of_text(content)
    if (lean := _lean(content, shape)) is not None:
        return [_lean_rows(content, shape, *lean)]
    wide = _wide(shape, content.label)
    if wide is not None:
        return _wide_rows(content, shape, wide)
    names = _names(shape)
    layout = by_names(list(names), shape.sample, content.label) if names else _headerless(content, shape)
    return [_one_table(content, shape, layout, names)]


def _names(shape: TextShape) -> tuple[str, ...]:
    """The header row with the most price names; empty without a header."""
    return max(shape.header, key=lambda row: price_roles(list(row)), default=())


def _headerless(content: Content, shape: TextShape) -> Layout:
    columns: list[NDArray[np.float64] | None] = []
    for place in range(shape.width):
        cells = [row[place].strip().encode() for row in shape.sample]
        column = pa.chunked_array([pa.array(cells, pa.binary())])
        try:
            marks = numbers.marks_of([column], shape.separator, content.label)
        except BarDataError:
            marks = numbers.Marks()
        values = numbers.parsed(column, marks)
        mostly = np.isfinite(values).mean() > 0.5 if len(values) else False
        columns.append(values if mostly else None)
    time = time_columns(shape.sample, shape.width, content.label)
    return by_contents(shape.sample, columns, time, content.label, newest_first=_descends(shape, time))


def _descends(shape: TextShape, time: tuple[int, ...]) -> bool:
    """Whether the sample's times are descending."""
    cells = [[row[place].strip().encode() for row in shape.sample] for place in time]
    try:
        ns = read_times([pa.chunked_array([column]) for column in cells], "", day_first=False, comma=False).ns
    except BarDataError:
        return False
    known = ns[ns != NO_TIME]
    return len(known) > 1 and bool(np.median(np.diff(known)) < 0)


def _facts(content: Content, shape: TextShape, layout: Layout, names: tuple[str, ...]) -> Facts:
    first = shape.sample[0]
    volumes = [row[place].strip() for row in shape.sample for place in layout.volume]
    return Facts(
        keys=tuple(key(name) for name in names),
        names=names,
        separator=shape.separator,
        times=tuple(first[place] for place in layout.time),
        layout=layout,
        form="CSV",
        file_name=content.name,
        width=shape.width,
        instrument="".join(first[place].strip() for place in layout.instrument),
        last_lines=decoded(content.tail(400)),
        no_volume=bool(volumes) and not any(volume.strip("0.,") for volume in volumes),
    )


def _one_table(content: Content, shape: TextShape, layout: Layout, names: tuple[str, ...]) -> FileRows:
    dialect = dialect_of(_facts(content, shape, layout, names))
    if dialect.name == "Dukascopy export":
        layout = replace(layout, volume_kind="ticks")
    if not layout.volume and dialect.volume_kind != "none":
        raise BarDataError(f"{content.label}: {no_volume_words(dialect, names)}")
    columns = read_columns(content, shape, layout)
    times = _times(columns, layout, dialect, content.label)
    if without_repeated_headers(columns, times.ns == NO_TIME, shape, layout):
        times = _times(columns, layout, dialect, content.label)
    return _assembled(content, layout, dialect, columns, times)


def _times(columns: TextColumns, layout: Layout, dialect: Dialect, label: str) -> TimeColumn:
    return read_times(
        [columns.text[place] for place in layout.time],
        label,
        day_first=dialect.day_first,
        comma=columns.marks.decimal == ",",
    )


def _assembled(content: Content, layout: Layout, dialect: Dialect, columns: TextColumns, times: TimeColumn) -> FileRows:
    instruments = coded([columns.text[place] for place in layout.instrument], columns.rows, content.label)
    volume = _total([columns.values[place] for place in layout.volume], columns.rows)
    prices = np.empty((columns.rows, 4))
    for k, place in enumerate(layout.prices):
        prices[:, k] = columns.values.pop(place)
    return file_rows(content, layout, dialect, times, prices, volume, instruments, notes=columns.notes)


def _total(columns: list[NDArray[np.float64]], rows: int) -> NDArray[np.float64]:
    return np.sum(columns, axis=0) if len(columns) > 1 else columns[0] if columns else np.zeros(rows)


def _lean(content: Content, shape: TextShape) -> tuple[str, str] | None:
    """Date and content of a LEAN file, which has its date in the name and milliseconds since midnight in the first
    column; None for other files."""
    fits = [re.fullmatch(r"[0-9]{1,8}", row[0].strip()) is not None for row in shape.sample]
    if shape.header or shape.width != 6 or sum(fits) < 0.9 * len(fits):
        return None
    return lean_file(content.name, content.archive)


def _lean_rows(content: Content, shape: TextShape, day: str, what: str) -> FileRows:
    if what != "trade":
        raise BarDataError(
            f"{content.label}: LEAN's quotes or open interest, not trades. Give --data the archive of trade bars "
            f"(yyyymmdd_trade.zip)."
        )
    layout = Layout((0,), (1, 2, 3, 4), (5,))
    columns = read_columns(content, shape, layout)
    ymd = np.array([int(day[:4])]), np.array([int(day[4:6])]), np.array([int(day[6:])])
    days, good = day_numbers(*ymd)
    if not good[0]:
        raise BarDataError(f"{content.label}: the date {day} in its name does not exist. Rename the file.")
    cells = columns.text[0]
    since = numbers.parsed(cells, numbers.Marks())
    known = (since >= 0) & (since <= 86_400_000)
    ns = np.where(known, int(days[0]) * DAY_NS + np.where(known, since, 0).astype(np.int64) * 1_000_000, NO_TIME)
    times = TimeColumn(
        ns, False, None, lambda row: f"{day} + {cells[row].as_py()!r} ms", (), "milliseconds since midnight"
    )
    dialect = Dialect(
        "LEAN bars",
        "milliseconds since midnight, and the date in the name",
        "UTC",
        "open",
        "LEAN keeps futures in UTC and stamps bars at their open",
    )
    return _assembled(content, layout, dialect, columns, times)


def _wide(shape: TextShape, label: str) -> list[tuple[str, tuple[str, ...]]] | None:
    """For a multi-row header, each instrument with its column names; None for a plain header.

    Columns of other instruments are named "". Yahoo's tables have a row of price names and a row of tickers, in either
    order, and a third row with the index name.
    """
    if len(shape.header) < 2:
        return None
    words = _names(shape)
    places = [
        place
        for place, name in enumerate(words)
        if (price_roles([name]) or key(name) in ("volume", "adjclose")) and cells_kind(shape.sample, place) != "full"
    ]
    if len(places) < 4:
        return None
    for row in shape.header:
        tickers = [row[place].strip() for place in places]
        if row is not words and all(tickers) and price_roles(tickers) == 0:
            found = []
            for ticker in dict.fromkeys(tickers):
                mine = {place for place, name in zip(places, tickers, strict=True) if name == ticker}
                names = [words[place] if place in mine else "" for place in range(shape.width)]
                if price_roles(names) < 4:
                    # The second row holds units or remarks, not tickers.
                    return None
                found.append((ticker, _with_time(names, shape)))
            return found
    return None


def _with_time(names: list[str], shape: TextShape) -> tuple[str, ...]:
    """The names with "datetime" for the time column, which such headers leave unnamed or misname."""
    times = [place for place in range(shape.width) if not names[place] and cells_kind(shape.sample, place) == "full"]
    return tuple("datetime" if times and place == times[0] else name for place, name in enumerate(names))


def _wide_rows(content: Content, shape: TextShape, wide: list[tuple[str, tuple[str, ...]]]) -> list[FileRows]:
    tables = []
    for ticker, names in wide:
        whole = _one_table(content, shape, by_names(list(names), shape.sample, content.label), (*names, ticker))
        rows = _of_one_instrument(whole, ticker)
        if len(rows) or len(wide) == 1:
            tables.append(rows)
    if not tables:
        raise BarDataError(f"{content.label}: no instrument has any bars. Export the file again.")
    return tables


def _of_one_instrument(rows: FileRows, ticker: str) -> FileRows:
    """The ticker's rows that have a price; rows are empty where only other instruments traded."""
    keep = np.flatnonzero(np.isfinite(rows.prices).any(axis=1) | (rows.time_ns == NO_TIME))
    text = rows.time_text
    return replace(
        rows,
        time_ns=rows.time_ns[keep],
        time_text=lambda row: text(int(keep[row])),
        prices=rows.prices[keep],
        volume=rows.volume[keep],
        instrument=np.zeros(len(keep), dtype=np.int32),
        instrument_names=(ticker,),
        notes=tuple(note for note in rows.notes),
    )
