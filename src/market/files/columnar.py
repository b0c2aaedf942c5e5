"""Parquet, Feather and Arrow files: typed columns, validated before use."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from src.errors import BarDataError
from src.market.files import numbers
from src.market.files.assemble import coded, file_rows
from src.market.files.columns import Layout, by_names, key
from src.market.files.containers import Content
from src.market.files.dialects import Dialect, Facts, dialect_of, no_volume_words
from src.market.files.rows import FileRows
from src.market.files.text_tables import MOST_ROWS
from src.market.files.time_columns import cell_text, is_text, read_times
from src.plain_text import one_line

_NAMELESS = "__index_level_0__"
_MOST_UNCOMPRESSED = 8 << 30
_MOST_COLUMNS = 2_000
_SAMPLE_ROWS = 200
_DAMAGED = (pa.ArrowException, ValueError, OSError, MemoryError, OverflowError, KeyError, IndexError, TypeError)


def parquet_rows(content: Content) -> list[FileRows]:
    """The rows of a Parquet file. Raises BarDataError if it is damaged, too large or not a table of bars."""
    with content.open() as stream:
        try:
            # Verifies page checksums if the writer stored them.
            file = pyarrow.parquet.ParquetFile(stream, page_checksum_verification=True)
            metadata = file.metadata
            _refuse_absurd(content, metadata.num_rows, file.schema_arrow)
            groups = [metadata.row_group(k) for k in range(metadata.num_row_groups)]
            size = sum(max(0, group.total_byte_size) for group in groups)
        except _DAMAGED as error:
            raise _damaged(content, "Parquet", error) from error
        if size > _MOST_UNCOMPRESSED:
            raise BarDataError(
                f"{content.label}: pages unpack to {size >> 30} GiB, more than {_MOST_UNCOMPRESSED >> 30} GiB. "
                f"Keep only the columns datetime, open, high, low, close, volume, or split the file by year."
            )

        def read(names: list[str], rows: int | None) -> pa.Table:
            if rows is not None:
                first = next(file.iter_batches(batch_size=rows, columns=names), None)
                return file.schema_arrow.empty_table().select(names) if first is None else pa.table(first)
            return file.read(columns=names)

        return [typed_rows(content, "Parquet", file.schema_arrow, read)]


def arrow_rows(content: Content) -> list[FileRows]:
    """The rows of a Feather or Arrow file or stream. Raises BarDataError as `parquet_rows` does."""
    with content.open() as stream:
        try:
            opened = pa.ipc.open_file(stream) if content.kind == "arrow" else pa.ipc.open_stream(stream)
            _refuse_absurd(content, 0, opened.schema)
            batches = list(_batches(opened, content))
        except _DAMAGED as error:
            raise _damaged(content, "Arrow", error) from error
        table = pa.Table.from_batches(batches, opened.schema)
        return [table_rows(content, "Feather" if content.kind == "arrow" else "Arrow", table)]


def _batches(opened: pa.ipc.RecordBatchFileReader, content: Content) -> Iterator[pa.RecordBatch]:
    """Every batch, validated: offsets in a damaged file may point outside the batch's memory."""
    total = 0
    indexed = isinstance(opened, pa.ipc.RecordBatchFileReader)
    stream = (opened.get_batch(k) for k in range(opened.num_record_batches)) if indexed else iter(opened)
    for batch in stream:
        batch.validate(full=True)
        total += batch.num_rows
        _refuse_absurd(content, total, batch.schema)
        yield batch


def _refuse_absurd(content: Content, rows: int, schema: pa.Schema) -> None:
    if rows > MOST_ROWS:
        raise BarDataError(
            f"{content.label}: {rows:,} rows, more than the limit of {MOST_ROWS:,}. Split the file by year, or keep "
            f"the rows of one market."
        )
    if len(schema.names) > _MOST_COLUMNS:
        raise BarDataError(
            f"{content.label}: {len(schema.names):,} columns, more than {_MOST_COLUMNS:,}: not a file of bars."
        )


def _damaged(content: Content, form: str, error: BaseException) -> BarDataError:
    if isinstance(error, BarDataError):
        return error
    return BarDataError(
        f"{content.label}: not a complete {form} file ({one_line(error)}). It may be truncated, or a different kind of "
        f"file: copy or export it again."
    )


def table_rows(content: Content, form: str, table: pa.Table, named: str | None = None) -> FileRows:
    """The rows of a table in memory; errors as `typed_rows`."""
    return typed_rows(content, form, table.schema, lambda names, rows: table.select(names)[:rows], named)


def typed_rows(
    content: Content,
    form: str,
    schema: pa.Schema,
    read: Callable[[list[str], int | None], pa.Table],
    named: str | None = None,
) -> FileRows:
    """The rows of a table with typed columns.

    `read(names, rows)` returns the named columns of the first rows, or of all rows for None.
    """
    plain = [field.name for field in schema if _is_plain(field.type)]
    if len(set(plain)) < len(plain):
        twice = next(name for name in plain if plain.count(name) > 1)
        raise BarDataError(f"{content.label}: the column {twice!r} occurs twice. Keep one of them.")
    try:
        head = read(plain, _SAMPLE_ROWS)
        head.validate(full=True)
        sample = _sample(head)
    except _DAMAGED as error:
        raise _damaged(content, form, error) from error
    names = ["" if name == _NAMELESS or name == "None" else name for name in plain]
    layout = by_names(names, sample, content.label)
    dialect = dialect_of(_facts(content, form, names, layout, sample))
    if not layout.volume and dialect.volume_kind != "none":
        raise BarDataError(f"{content.label}: {no_volume_words(dialect, tuple(names))}")
    try:
        table = read([plain[place] for place in layout.all], None)
        table.validate(full=True)
    except _DAMAGED as error:
        raise _damaged(content, form, error) from error
    columns = {place: table[plain[place]] for place in layout.all}
    return _assembled(content, layout, dialect, columns, named)


def _is_plain(kind: pa.DataType) -> bool:
    """Whether a column may be read: not nested, and not an extension type, which can carry code."""
    if pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    return (
        (
            pa.types.is_integer(kind)
            or pa.types.is_floating(kind)
            or pa.types.is_decimal(kind)
            or pa.types.is_temporal(kind)
            or is_text(kind)
            or pa.types.is_string_view(kind)
        )
        and not pa.types.is_duration(kind)
        and not pa.types.is_interval(kind)
    )


def _sample(head: pa.Table) -> list[list[str]]:
    """The first rows as text, with times in a form that `columns` recognises."""
    columns = [[_cell(column, row) for row in range(len(head))] for column in head.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def _cell(column: pa.ChunkedArray, row: int) -> str:
    if not column[row].is_valid:
        return ""
    if pa.types.is_timestamp(column.type):
        # A placeholder: timestamps outside the calendar or in an unknown zone cannot be formatted.
        return "2000-01-01 00:00:00" if column[row].value is not None else ""
    if pa.types.is_floating(column.type):
        return f"{column[row].as_py():.9f}".rstrip("0")
    return cell_text(column, row)


def _facts(content: Content, form: str, names: list[str], layout: Layout, sample: list[list[str]]) -> Facts:
    first = sample[0] if sample else [""] * len(names)
    return Facts(
        keys=tuple(key(name) for name in names),
        names=tuple(names),
        separator="",
        times=tuple(first[place] for place in layout.time),
        layout=layout,
        form=form,
        file_name=content.name,
        instrument="".join(first[place].strip() for place in layout.instrument),
    )


def _assembled(
    content: Content, layout: Layout, dialect: Dialect, columns: dict[int, pa.ChunkedArray], named: str | None
) -> FileRows:
    time = [columns[place] for place in layout.time]
    times = read_times(time, content.label, day_first=dialect.day_first, comma=False)
    wanted = (*layout.prices, *layout.volume)
    texts = [columns[place] for place in wanted if is_text(columns[place].type)]
    marks = numbers.marks_of(texts, ",", content.label) if texts else numbers.Marks()
    read = {place: _numbers(columns[place], marks, content.label) for place in wanted}
    n = len(times.ns)
    prices = np.column_stack([read[place] for place in layout.prices])
    volume = np.sum([read[place] for place in layout.volume], axis=0) if layout.volume else np.zeros(n)
    instruments = coded([columns[place] for place in layout.instrument], n, content.label)
    return file_rows(content, layout, dialect, times, prices, volume, instruments, named=named, notes=marks.note())


def _numbers(column: pa.ChunkedArray, marks: numbers.Marks, label: str) -> NDArray[np.float64]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_string_view(kind):
        column, kind = column.cast(pa.large_string()), pa.large_string()
    if is_text(kind):
        return numbers.parsed(column, marks)
    if pa.types.is_temporal(kind):
        raise BarDataError(f"{label}: a price or volume column holds times ({kind}). Export the file again.")
    values = column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy()
    # Single precision has seven digits; all ticks here are multiples of 0.01.
    return np.round(values, 2) if pa.types.is_floating(kind) and kind.bit_width < 64 else values
