"""Read a file, an archive or a folder of bars from any vendor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from src.errors import BarDataError
from src.market.files.columnar import arrow_rows, parquet_rows
from src.market.files.containers import Content, contents
from src.market.files.dbn import dbn_rows
from src.market.files.json_tables import is_json, json_rows
from src.market.files.kinds import Kind, NoTable
from src.market.files.rows import FileRows
from src.market.files.text_rows import text_rows
from src.plain_text import one_line

_READERS: dict[Kind, Callable[[Content], list[FileRows]]] = {
    "parquet": parquet_rows,
    "arrow": arrow_rows,
    "arrow stream": arrow_rows,
    "dbn": dbn_rows,
    "text": text_rows,
}


def read_files(files: Sequence[Path], path: Path) -> list[FileRows]:
    """Every table of bars in these files; messages name `path`.

    Recognised by content: text (CSV and similar), JSON, JSON lines, Parquet, Feather, Arrow and DBN, plain or as .gz,
    .zst or .zip. Among several files, those that are not tables (a readme, a manifest) are left out, with a note.

    Raises:
        BarDataError: no bars, or an unreadable file.
    """
    tables: list[FileRows] = []
    skipped: list[NoTable] = []
    for file in files:
        for content in contents_or_skipped(file, skipped):
            try:
                tables.extend(read_content(content))
            except NoTable as error:
                skipped.append(error)
    if not tables:
        raise (
            skipped[0] if skipped else BarDataError(f"{path}: no bars. Give --data a file of bars or a folder of them.")
        )
    pa.default_memory_pool().release_unused()  # Arrow's pool holds memory that the rows no longer need
    if skipped:
        first = str(skipped[0]).split(". ")[0][:160]
        note = f"{len(skipped)} files without a table of bars left out (first: {first})"
        tables[0] = replace(tables[0], notes=(*tables[0].notes, note))
    return tables


def contents_or_skipped(file: Path, skipped: list[NoTable]) -> Iterator[Content]:
    """The contents of one file; an unsupported file is appended to `skipped`."""
    try:
        yield from contents(file)
    except NoTable as error:
        skipped.append(error)


def read_content(content: Content) -> list[FileRows]:
    """The tables of one plain file or one member of an archive. Raises BarDataError."""
    reader = json_rows if content.kind == "text" and is_json(content.head) else _READERS[content.kind]
    try:
        return reader(content)
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise BarDataError(
            f"{content.label}: cannot be read ({one_line(error)}). Check that the file is complete and readable by you."
        ) from error
