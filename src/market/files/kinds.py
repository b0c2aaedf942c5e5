"""Detect a file's kind from its first bytes, with messages for unsupported kinds."""

from __future__ import annotations

import codecs
from typing import Literal

from src.errors import BarDataError

Kind = Literal["gzip", "zstd", "zip", "parquet", "arrow", "arrow stream", "dbn", "text"]

HEAD_BYTES = 262_144
"""Bytes read from the start of a file to recognise it."""


class NoTable(BarDataError):
    """A file that is not a table; among bars in a folder or archive it is skipped, since it may be a readme."""


_MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow"),
    (b"\xff\xff\xff\xff", "arrow stream"),
    (b"DBN", "dbn"),
)

_CSV = "Export the bars as CSV"
_REFUSED: tuple[tuple[bytes, str], ...] = (
    (b"FEA1", "a Feather file of version 1. Write it again as Feather version 2 or Parquet."),
    (b"PARE", "an encrypted Parquet file. Write it without encryption."),
    (b"BZh", "compressed with bzip2. Unpack it first, or compress it with gzip or zstd."),
    (b"\xfd7zXZ", "compressed with xz. Unpack it first, or compress it with gzip or zstd."),
    (b"7z\xbc\xaf", "a 7z archive. Unpack it first, or pack it as .zip."),
    (b"Rar!", "a RAR archive. Unpack it first, or pack it as .zip."),
    (b"\x04\x22\x4d\x18", "compressed with lz4. Unpack it first, or compress it with gzip or zstd."),
    (b"\x89HDF", f"an HDF5 file. {_CSV}, Parquet or Feather."),
    (b"SQLite format 3", f"an SQLite database. {_CSV} or Parquet."),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook. Save the sheet as CSV."),
    (b"%PDF", f"a PDF document. {_CSV}."),
    (b"\x93NUMPY", f"a NumPy file. {_CSV}, Parquet or Feather."),
    (b"ORC", f"an ORC file. {_CSV}, Parquet or Feather."),
    (b"SCID", "Sierra Chart's own binary file. In Sierra Chart use Edit > Export Bar and Study Data to Text File."),
    (b"DBZ", "Databento's old DBZ format. Download the data again as DBN or CSV."),
    (b"\x50\x2a\x4d\x18", "a zstd file that begins with other data. Unpack it first."),
    (b"version https://git-lfs", "a Git LFS pointer, not the data. Fetch the file itself (git lfs pull)."),
    (b"<!doctype html", "a web page, perhaps a login or error page saved instead of the data. Download it again."),
    (b"<html", "a web page, perhaps a login or error page saved instead of the data. Download it again."),
    (b"<?xml", f"XML. {_CSV}."),
)
_BOMS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def kind_of(head: bytes, label: str) -> Kind:
    """The kind of a file from its first bytes.

    Raises:
        NoTable: an unsupported kind; the message names it and a remedy.
    """
    if not head:
        raise BarDataError(f"{label}: the file is empty (0 bytes). Export or download it again.")
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    start = head.lstrip()[:64].lower()
    for magic, words in _REFUSED:
        if head.startswith(magic) or (magic.startswith((b"<", b"version")) and start.startswith(magic)):
            raise NoTable(f"{label}: {words}")
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise NoTable(
            f"{label}: a Python pickle. Loading one can run arbitrary code, so pickles are never read: write the "
            f"table with to_parquet or to_csv."
        )
    if head[257:262] == b"ustar":
        raise NoTable(f"{label}: a tar archive. Unpack it and give --data the folder, or pack it as .zip.")
    if not head.startswith(_BOMS) and b"\0" in head and not _utf16_without_mark(head):
        raise NoTable(
            f"{label}: not text (byte {head.index(0)} is NUL) and not a supported kind (CSV or other text, JSON, "
            f"Parquet, Feather, Arrow or DBN, plain or as .gz, .zst or .zip). Export it again as one of these."
        )
    return "text"


def _utf16_without_mark(head: bytes) -> bool:
    """Whether every second byte at the start is NUL: ASCII text as UTF-16 without a byte order mark."""
    start = head[: min(len(head), 400) // 2 * 2]
    return len(start) >= 16 and (
        (set(start[1::2]) == {0} and 0 not in start[::2]) or (set(start[::2]) == {0} and 0 not in start[1::2])
    )


def utf16_codec(head: bytes) -> str | None:
    """The codec of UTF-16 text; None for any other text."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in head[:400] and _utf16_without_mark(head):
        return "utf-16-le" if head[1] == 0 else "utf-16-be"
    return None
