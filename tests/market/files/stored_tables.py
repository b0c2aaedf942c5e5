"""Every table of bars in a file, an archive or a folder, as stored there."""

from __future__ import annotations

from pathlib import Path

from src.market.files.containers import bar_files
from src.market.files.read import read_files
from src.market.files.rows import FileRows


def read_tables(path: Path) -> list[FileRows]:
    return read_files(bar_files(path), path)
