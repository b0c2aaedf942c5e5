"""Open a file, an archive or a folder: the bytes and name of every table, decompressed within limits."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa

from src.errors import BarDataError
from src.market.files.kinds import HEAD_BYTES, Kind, NoTable, kind_of
from src.plain_text import one_line

SUFFIXES = frozenset(
    f".{ending}"
    for ending in "csv txt tsv prn asc parquet pq feather arrow ipc json jsonl ndjson dbn gz zst zip".split()  # noqa: SIM905
)
"""File suffixes read from a folder or an archive; a single file may have any name."""

MOST_BYTES = 4 * 2**30
"""Decompressed bytes of one file or archive."""
MOST_RATIO = 200
"""Largest compression ratio, checked above `FREE_BYTES`; bars compress 3 to 20 times."""
FREE_BYTES = 64 * 2**20
MOST_MEMBERS = 20_000
MOST_DEPTH = 6
_BLOCK = 4 * 2**20
_COMPRESSED: dict[str, str] = {"gzip": "gzip", "zstd": "zstd"}
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError, KeyError,
)  # fmt: skip
_WHOLE = "It may be truncated or damaged: copy or download it again."


@dataclass(frozen=True, eq=False)
class Content:
    """The bytes of one table: a plain file or a decompressed one."""

    file: Path
    label: str
    """For messages: the path, and the member's name for an archive."""
    name: str
    """The file's or member's own name."""
    archive: str
    """Name of the archive that holds the member; empty for a plain file."""
    kind: Kind
    head: bytes
    """The first `HEAD_BYTES`."""
    size: int
    buffer: pa.Buffer | None
    """The decompressed bytes; None for a plain file, which is read from disk."""

    def open(self) -> Any:
        """A readable and seekable Arrow file at the first byte."""
        return pa.OSFile(str(self.file), "r") if self.buffer is None else pa.BufferReader(self.buffer)

    def read(self, most: int, remedy: str) -> bytes:
        """All bytes. Raises BarDataError if there are more than `most`."""
        if self.size > most:
            raise BarDataError(f"{self.label}: {self.size >> 20} MiB, more than the limit of {most >> 20} MiB {remedy}")
        with self.open() as stream:
            return bytes(stream.read())

    def tail(self, size: int = 4096) -> bytes:
        """The last bytes."""
        with self.open() as stream:
            stream.seek(max(0, self.size - size))
            return bytes(stream.read(size))


def bar_files(path: Path) -> list[Path]:
    """The files to read, sorted: `path` itself, or the files of a folder (of its subfolders if it has none).

    Raises:
        BarDataError: no such path; neither a file nor a folder; a loop of links; a folder without such files.
    """
    mode = _mode(path)
    if not stat.S_ISDIR(mode):
        return [path]
    for depth in range(MOST_DEPTH):
        found = sorted(file for file in _files_at(path, depth) if not file.name.startswith("."))
        if len(found) > MOST_MEMBERS:
            raise BarDataError(
                f"{path}: {len(found):,} files, more than the limit of {MOST_MEMBERS:,}. Give --data a folder with the "
                f"files of one market."
            )
        if found:
            return found
    names = sorted(file.name for file in path.iterdir())
    held = (", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")) or "nothing"
    raise BarDataError(
        f"{path}: no file of bars in this folder (it holds: {held}). Bar files end in .csv, .txt, .tsv, .parquet, "
        f".feather, .arrow, .json, .jsonl or .dbn, or in .gz, .zst or .zip."
    )


def _files_at(folder: Path, depth: int) -> Iterator[Path]:
    """Files with a known suffix exactly `depth` folders below; links to folders are not followed."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise BarDataError(f"{folder}: the folder cannot be read ({one_line(error)}).") from error
    for entry in entries:
        if depth:
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from _files_at(Path(entry.path), depth - 1)
        elif Path(entry.name).suffix.lower() in SUFFIXES and not entry.is_dir():
            yield Path(entry.path)


def _mode(path: Path) -> int:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        kind = "a link to a file that does not exist" if path.is_symlink() else "no such file or folder"
        raise BarDataError(f"{path}: {kind}. Give --data a file of bars or a folder of them.") from None
    except (OSError, ValueError) as error:
        raise BarDataError(
            f"{path}: cannot be read ({one_line(error)}). Give --data a file of bars or a folder of them."
        ) from error


def contents(file: Path) -> Iterator[Content]:
    """The tables in one file, yielded one at a time so that only one is in memory.

    Raises:
        BarDataError: unreadable, empty, damaged, of an unsupported kind, or over a limit.
    """
    mode = _mode(file)
    if not stat.S_ISREG(mode):
        raise BarDataError(
            f"{file}: not a file or folder but {_special(mode)}. Write the bars to a file and give --data its path."
        )
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as error:
        raise BarDataError(
            f"{file}: cannot be read ({one_line(error)}). Check that the file is complete and readable by you."
        ) from error
    kind = kind_of(head, str(file))
    if kind == "zip":
        yield from _zip_members(file)
    elif kind in _COMPRESSED:
        with pa.OSFile(str(file), "r") as packed:
            yield _unpacked(packed, kind, size, file=file, label=str(file), name=file.name, archive="")
    else:
        yield Content(file, str(file), file.name, "", kind, head, size, None)


def _special(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def _unpacked(packed: Any, kind: Kind, size: int, *, file: Path, label: str, name: str, archive: str) -> Content:
    """Decompress one gzip or zstd stream within the limits."""
    limit = _limit(size)
    sink = pa.BufferOutputStream()
    total = 0
    try:
        with pa.CompressedInputStream(packed, _COMPRESSED[kind]) as stream:
            while block := stream.read(_BLOCK):
                total += len(block)
                if total > limit:
                    raise _bomb(label, size, f"more than {limit >> 20} MiB")
                sink.write(block)
    except (OSError, pa.ArrowException, MemoryError) as error:
        raise BarDataError(f"{label}: not a complete {kind} file ({one_line(error)}). {_WHOLE}") from error
    plain = name[: -len(PurePosixPath(name).suffix)] if name.lower().endswith((".gz", ".zst")) else name
    return _content(sink.getvalue(), file=file, label=label, name=plain, archive=archive)


def _content(buffer: pa.Buffer, *, file: Path, label: str, name: str, archive: str) -> Content:
    head = buffer[:HEAD_BYTES].to_pybytes() if buffer.size else b""
    kind = kind_of(head, label)
    if kind in ("gzip", "zstd", "zip"):
        raise BarDataError(
            f"{label}: an archive inside an archive ({kind} data when unpacked). Unpack the outer one and give --data "
            f"the inner file."
        )
    return Content(file, label, name, archive, kind, head, buffer.size, buffer)


def _limit(packed_size: int) -> int:
    return min(MOST_BYTES, max(FREE_BYTES, MOST_RATIO * packed_size))


def _bomb(label: str, size: int, unpacked: str) -> BarDataError:
    return BarDataError(
        f"{label}: {size:,} compressed bytes unpack to {unpacked}; bars compress 3 to 20 times, so the file is damaged "
        f"or a decompression bomb. If you trust it, unpack it and give --data the result, split by year if it is "
        f"larger than {MOST_BYTES >> 30} GiB."
    )


def _zip_members(file: Path) -> Iterator[Content]:
    try:
        with zipfile.ZipFile(file) as archive:
            members = _readable_members(archive, file)
            for member in members:
                yield _member(archive, member, file)
    except BarDataError:
        raise
    except NotImplementedError as error:
        raise BarDataError(
            f"{file}: unsupported compression method ({one_line(error)}). Unpack it, or pack it as a plain .zip."
        ) from error
    except _ZIP_ERRORS as error:
        raise BarDataError(f"{file}: not a complete zip archive ({one_line(error)}). {_WHOLE}") from error


def _readable_members(archive: zipfile.ZipFile, file: Path) -> list[zipfile.ZipInfo]:
    """The members to read, once the sizes in the archive's directory are within the limits."""
    everything = [member for member in archive.infolist() if not member.is_dir()]
    if any(member.filename == "[Content_Types].xml" for member in everything):
        raise NoTable(f"{file}: an Excel workbook or other Office document. Save the sheet as CSV.")
    if len(everything) > MOST_MEMBERS:
        raise BarDataError(
            f"{file}: {len(everything):,} members, more than {MOST_MEMBERS:,}. Unpack it and give --data "
            f"the files of one market."
        )
    size = file.stat().st_size
    total = sum(member.file_size for member in everything)
    if total > _limit(size):
        raise _bomb(str(file), size, f"{total >> 20:,} MiB")
    found = []
    for member in everything:
        path = PurePosixPath(member.filename)
        hidden = path.parts[0] == "__MACOSX" or path.name.startswith(".")
        if not hidden and (path.suffix.lower() in SUFFIXES or not path.suffix or len(everything) == 1):
            found.append(member)
    if not found:
        names = ", ".join(member.filename for member in everything[:6]) or "nothing"
        raise BarDataError(
            f"{file}: no file of bars in this archive (it holds: {names}). Give --data an archive with "
            f"a CSV, Parquet or other file of bars."
        )
    return sorted(found, key=lambda member: member.filename)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: Path) -> Content:
    label = f"{file}: {member.filename}"
    if member.flag_bits & 1:
        raise BarDataError(f"{label}: password-protected. Unpack the archive and give --data the file.")
    limit = _limit(member.compress_size)
    if member.file_size > limit:
        raise _bomb(label, member.compress_size, f"{member.file_size >> 20:,} MiB")
    with archive.open(member) as stream:
        data = _bounded(stream, member.file_size)
    if len(data) != member.file_size:
        raise BarDataError(f"{label}: {len(data):,} bytes instead of {member.file_size:,}. {_WHOLE}")
    name = PurePosixPath(member.filename).name
    kind = kind_of(data[:HEAD_BYTES], label)
    if kind in _COMPRESSED:
        return _unpacked(pa.BufferReader(data), kind, len(data), file=file, label=label, name=name, archive=file.name)
    return _content(pa.py_buffer(data), file=file, label=label, name=name, archive=file.name)


def _bounded(stream: IO[bytes], most: int) -> bytes:
    """All bytes of a stream, at most `most` + 1; reading to the end verifies the member's checksum."""
    data = bytearray()
    while len(data) <= most and (block := stream.read(_BLOCK)):
        data += block
    return bytes(data)
