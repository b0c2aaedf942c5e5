"""Read a text table with Arrow's CSV reader; lines that are not rows are noted, not lost silently."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
from numpy.typing import NDArray

from src.errors import BarDataError
from src.market.files import numbers
from src.market.files.columns import Layout
from src.market.files.containers import Content
from src.market.files.numbers import Marks
from src.market.files.text_shape import TextShape, cells_of, decoded, is_comment, is_row
from src.market.files.time_forms import cell_kind
from src.plain_text import one_line

MOST_ROWS = 50_000_000
"""Largest number of rows in one table; 15 years of one-minute bars are 5.3 million."""

_BLOCK = 8 << 20
_MOST_BAD_SHARE = 0.05
_MOST_BAD = 100_000
_MOST_BLANK_SEPARATED = 512 << 20
_FOOTER_LINES = 5


@dataclass
class TextColumns:
    """The columns of a layout, by position."""

    rows: int
    text: dict[int, pa.ChunkedArray]
    """Times and instruments, as binary."""
    values: dict[int, NDArray[np.float64]]
    marks: Marks
    notes: list[str] = field(default_factory=list)


@dataclass
class _Odd:
    """Lines whose number of cells differs from the rest."""

    lines: list[tuple[int | None, str]] = field(default_factory=list)
    count: int = 0

    def seen(self, row: Any) -> str:
        self.count += 1
        if len(self.lines) < _MOST_BAD:
            self.lines.append((row.number, row.text))
        return "skip"


def read_columns(content: Content, shape: TextShape, layout: Layout) -> TextColumns:
    """Read the wanted columns of all rows.

    Raises:
        BarDataError: too many rows, too many lines with the wrong number of cells, or an ambiguous number format.
    """
    _refuse_too_many_rows(content, shape)
    if shape.separator == " ":
        content, shape = _tabbed(content, shape)
    wanted = set(layout.prices) | set(layout.volume)
    marks = _sample_marks(shape, sorted(wanted), content.label)
    columns, odd = None, _Odd()
    if marks is not None and not marks.thousands:
        try:
            columns = _typed(_table(content, shape, layout, odd, decimal=marks.decimal), layout, marks)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            odd = _Odd()
    if columns is None:
        table = _table_or_refuse(content, shape, layout, odd)
        columns = _cleaned(table, layout, shape.separator, content.label)
    columns.notes.extend(shape.notes)
    _without_cut_line(columns, content, shape, layout)
    if odd.count:
        _account_for(odd, columns, content, shape, layout)
    columns.notes.extend(columns.marks.note())
    return columns


def _table_or_refuse(content: Content, shape: TextShape, layout: Layout, odd: _Odd) -> pa.Table:
    try:
        return _table(content, shape, layout, odd, decimal=None)
    except pa.ArrowException as error:
        raise BarDataError(
            f"{content.label}: not a table ({one_line(error)}). Export it again as CSV with one header row."
        ) from error


def _refuse_too_many_rows(content: Content, shape: TextShape) -> None:
    lines = content.head.count(b"\n") or 1
    rows = content.size * lines // max(1, len(content.head))
    if rows > MOST_ROWS:
        raise BarDataError(
            f"{content.label}: about {rows:,} rows, more than the limit of {MOST_ROWS:,}. Split the file by year, or "
            f"keep the rows of one market."
        )


def _tabbed(content: Content, shape: TextShape) -> tuple[Content, TextShape]:
    """A space-separated table with each run of spaces replaced by a tab."""
    data = content.read(_MOST_BLANK_SEPARATED, "for text separated by spaces. Export it with commas.")
    rows = re.sub(rb"(?m)^[ \t]+|[ \t]+(?=\r?$)", b"", data[shape.start :])
    plain = re.sub(rb"[ \t]+", b"\t", rows)
    return replace(content, buffer=pa.py_buffer(plain), size=len(plain)), replace(shape, separator="\t", start=0)


def _sample_marks(shape: TextShape, wanted: list[int], label: str) -> Marks | None:
    """The number format of the sample; None if the sample does not decide it."""
    columns = [
        pa.chunked_array([pa.array([row[place].strip().encode() for row in shape.sample], pa.binary())])
        for place in wanted
    ]
    try:
        return numbers.marks_of(columns, shape.separator, label)
    except BarDataError:
        return None


def _table(
    content: Content, shape: TextShape, layout: Layout, odd: _Odd, *, decimal: str | None, threads: bool = True
) -> pa.Table:
    """The wanted columns, with numbers as float64 for the given decimal mark, or as text for None."""
    names = [str(place) for place in range(shape.width)]
    types: dict[str, pa.DataType] = {str(place): pa.binary() for place in layout.time}
    types |= {str(place): pa.dictionary(pa.int32(), pa.binary()) for place in layout.instrument}
    number_type = pa.binary() if decimal is None else pa.float64()
    types |= {str(place): number_type for place in (*layout.prices, *layout.volume)}
    with content.open() as stream:
        stream.seek(shape.start)
        return arrow_csv.read_csv(
            stream,
            read_options=arrow_csv.ReadOptions(column_names=names, block_size=_BLOCK, use_threads=threads),
            parse_options=arrow_csv.ParseOptions(
                delimiter=shape.separator,
                quote_char='"' if shape.quoted else False,
                invalid_row_handler=odd.seen,
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=types,
                include_columns=[str(place) for place in layout.all],
                check_utf8=False,
                null_values=list(numbers.NULLS),
                decimal_point=decimal or ".",
            ),
        )


def _typed(table: pa.Table, layout: Layout, marks: Marks) -> TextColumns:
    """The columns of a table whose numbers Arrow has parsed; each is freed once copied."""
    rows = len(table)
    columns = {place: table[str(place)] for place in layout.all}
    del table
    text = {place: columns.pop(place) for place in dict.fromkeys((*layout.time, *layout.instrument))}
    read = {place: columns.pop(place).to_numpy() for place in list(columns)}
    pa.default_memory_pool().release_unused()
    return TextColumns(rows, text, read, marks)


def _cleaned(table: pa.Table, layout: Layout, separator: str, label: str) -> TextColumns:
    """The columns of a table whose numbers are still text."""
    text = {place: table[str(place)] for place in (*layout.time, *layout.instrument)}
    raw = {place: table[str(place)] for place in sorted({*layout.prices, *layout.volume})}
    marks = numbers.marks_of(list(raw.values()), separator, label)
    return TextColumns(len(table), text, {place: numbers.parsed(column, marks) for place, column in raw.items()}, marks)


def _without_cut_line(columns: TextColumns, content: Content, shape: TextShape, layout: Layout) -> None:
    """Drop a last line without a newline if a column that is read may be truncated in it."""
    tail = content.tail()
    if not tail or tail[-1:] in (b"\n", b"\r") or columns.rows == 0:
        return
    last = decoded(re.split(rb"[\r\n]", tail)[-1])
    cells = cells_of(last, shape.separator)
    if len(cells) != shape.width:
        return
    place = shape.width - 1
    others = {len(row[place].strip()) for row in shape.sample[:-1]}
    same_width = len(others) == 1 and len(cells[place].strip()) in others
    known = {row[place].strip() for row in shape.sample[:-1]}
    if place not in layout.all:
        return
    if not (same_width or (place in layout.instrument and cells[place].strip() in known)):
        _drop(columns, np.arange(columns.rows) < columns.rows - 1)
        columns.notes.append(f"last line left out: it has no newline and may be truncated ({last.strip()[:60]!r})")


def _drop(columns: TextColumns, keep: NDArray[np.bool_]) -> None:
    chosen = pa.array(keep)
    columns.text = {place: column.filter(chosen) for place, column in columns.text.items()}
    columns.values = {place: values[keep] for place, values in columns.values.items()}
    columns.rows = int(keep.sum())


def _account_for(odd: _Odd, columns: TextColumns, content: Content, shape: TextShape, layout: Layout) -> None:
    """Handle lines with the wrong number of cells: drop comments, footers and a cut-off last line; others become empty
    rows."""
    if any(number is None for number, _ in odd.lines):
        odd.lines.clear()
        odd.count = 0
        _table(content, shape, replace(layout, prices=(layout.time[0],) * 4, volume=(), instrument=()), odd,
               decimal=None, threads=False)  # fmt: skip
    total = columns.rows + odd.count
    tail_lines = [decoded(line).strip() for line in re.split(rb"[\r\n]+", content.tail()) if line.strip()]
    last = tail_lines[-1] if tail_lines else ""
    footers = set(tail_lines[-_FOOTER_LINES:])
    kept: list[tuple[int, str]] = []
    left_out: dict[str, list[str]] = {}
    for number, line in odd.lines:
        text = line.strip()
        if is_comment(text):
            left_out.setdefault("comment lines", []).append(text)
        elif text in footers and not is_row(cells_of(text, shape.separator)) and not _starts_with_time(text, shape):
            left_out.setdefault("lines below the table", []).append(text)
        elif text == last and len(cells_of(text, shape.separator)) < shape.width:
            left_out.setdefault("incomplete last line", []).append(text)
        else:
            kept.append((int(number or 0), line))
    for what, lines in left_out.items():
        columns.notes.append(f"{what} left out: {len(lines)} ({lines[0][:60]!r})")
    if not kept:
        return
    if odd.count >= _MOST_BAD or len(kept) > max(3.0, _MOST_BAD_SHARE * total):
        number, line = kept[0]
        raise BarDataError(
            f"{content.label}: {len(kept):,} of {total:,} rows do not have {shape.width} cells as the others do "
            f"(first: row {number}, {line.strip()[:80]!r}). The separator {shape.separator!r} may also occur in "
            f"numbers or text: export the file again with another separator, or with quotes."
        )
    _put_back(columns, [number for number, _ in odd.lines], kept)
    number, line = kept[0]
    columns.notes.append(
        f"{len(kept)} rows do not have {shape.width} cells and hold no bar (first: row {number}, {line.strip()[:60]!r})"
    )


def _starts_with_time(text: str, shape: TextShape) -> bool:
    cells = cells_of(text, shape.separator)
    return bool(cells) and cell_kind(cells[0]) is not None


def _put_back(columns: TextColumns, removed: list[int | None], kept: list[tuple[int, str]]) -> None:
    """Insert an empty row at the position of each kept line."""
    earlier = {number: rank for rank, number in enumerate(removed)}
    places = [number - 1 - earlier[number] for number, _ in kept]
    source = np.insert(np.arange(columns.rows), places, -1)
    index = pa.array(source, mask=source < 0)
    columns.text = {place: column.combine_chunks().take(index) for place, column in columns.text.items()}
    columns.text = {place: _chunked(column) for place, column in columns.text.items()}
    columns.values = {
        place: np.where(source < 0, np.nan, values[np.maximum(source, 0)] if len(values) else np.nan)
        for place, values in columns.values.items()
    }
    columns.rows = len(source)


def _chunked(column: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])


def without_repeated_headers(
    columns: TextColumns, missing: NDArray[np.bool_], shape: TextShape, layout: Layout
) -> bool:
    """Drop rows without a time that repeat the header; return whether there were any."""
    names = {row[layout.time[0]].strip().lower() for row in shape.header}
    rows = np.flatnonzero(missing)
    if not names or not len(rows) or len(rows) > _MOST_BAD:
        return False
    cells = columns.text[layout.time[0]].take(pa.array(rows)).to_pylist()
    again = [row for row, cell in zip(rows.tolist(), cells, strict=True)
             if cell is not None and decoded(cell).strip().strip('"').lower() in names]  # fmt: skip
    if not again:
        return False
    keep = np.ones(columns.rows, dtype=bool)
    keep[again] = False
    _drop(columns, keep)
    columns.notes.append(f"repeated header rows left out: {len(again)}")
    return True
