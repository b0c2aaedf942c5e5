"""Read a file, an archive or a folder of bars, whatever vendor wrote it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from src.errors import BarDataError
from src.market.files.columnar import arrow_rows, parquet_rows
from src.market.files.containers import Content, bar_files, contents
from src.market.files.dbn import dbn_rows
from src.market.files.json_tables import is_json, json_rows
from src.market.files.kinds import Kind, NoTable, one_line
from src.market.files.rows import FileRows
from src.market.files.text_rows import text_rows

_READERS: dict[Kind, Callable[[Content], list[FileRows]]] = {
    "parquet": parquet_rows,
    "arrow": arrow_rows,
    "arrow stream": arrow_rows,
    "dbn": dbn_rows,
    "text": text_rows,
}
_ASIDE = (".txt", ".json", ".csv", ".tsv", "")
"""What a readme, a manifest or a list of symbols is called beside files of bars."""


def read_tables(path: Path) -> list[FileRows]:
    """Every table of bars in a file, an archive or a folder, as the files give them.

    See `read_files`.

    Raises:
        BarDataError: no such path, nothing of bars, or a file that cannot be read, with what to do.
    """
    return read_files(bar_files(Path(path)), Path(path))


def read_files(files: Sequence[Path], path: Path) -> list[FileRows]:
    """Every table of bars in these files, which `path` stands for in messages.

    Recognised by content: text (CSV and its kin), JSON, JSON lines, Parquet, Feather, Arrow and DBN, plain or as .gz,
    .zst or .zip. A file beside others that is no table at all (a readme, a manifest) is left out, with a note.

    Raises:
        BarDataError: nothing of bars, or a file that cannot be read, with what to do.
    """
    tables: list[FileRows] = []
    aside: list[NoTable] = []
    for file in files:
        for content in contents_or_aside(file, aside):
            try:
                tables.extend(read_content(content))
            except NoTable as error:
                aside.append(error)
    if not tables:
        raise aside[0] if aside else BarDataError(f"{path}: no bars. Give --data a file of bars or a folder of them.")
    pa.default_memory_pool().release_unused()  # of a long file Arrow keeps more than the rows take
    if aside:
        first = str(aside[0]).split(". ")[0][:160]
        note = f"{len(aside)} files that hold no table of bars are left out (first: {first})"
        tables[0] = replace(tables[0], notes=(*tables[0].notes, note))
    return tables


def contents_or_aside(file: Path, aside: list[NoTable]) -> Iterator[Content]:
    """The contents of one file; a file of a kind that is not read goes to `aside`."""
    try:
        yield from contents(file)
    except NoTable as error:
        aside.append(error)


def read_content(content: Content) -> list[FileRows]:
    """The tables of one plain file or one member of an archive. Raises BarDataError."""
    reader = json_rows if content.kind == "text" and is_json(content.head) else _READERS[content.kind]
    try:
        return reader(content)
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise BarDataError(
            f"{content.label}: cannot be read ({one_line(error)}). Check that the file is complete and that you "
            f"may read it."
        ) from error
