"""Atomic, fsynced file writes and inter-process locks. A pipe, a device or a symlink in a file's place is never waited
for and never written through."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk: trying again does not help."""
_KINDS = (
    (stat.S_ISLNK, "a symlink"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)


def kind_of(path: Path) -> str:
    """What a path is where it is no regular file ("a symlink", "a named pipe", ...); "" for a regular file. Symlinks
    are not followed. Raises OSError where nothing is there."""
    mode = os.lstat(path).st_mode
    return next((kind for holds, kind in _KINDS if holds(mode)), "")


def regular_only(path: str | os.PathLike[str], flags: int) -> int:
    """An `opener` for `open` that opens regular files only. OSError at once for a symlink, pipe, device or folder."""
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise OSError(errno.EINVAL, f"it is {kind_of(Path(path))}, not a file", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, f"it is {kind_of(Path(path))}, not a file", str(path))
    return handle


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file. Raises OSError, also for a symlink, pipe, device or folder."""
    with open(path, "rb", opener=regular_only) as file:
        return file.read()


def sha256_of(path: Path) -> tuple[int, str]:
    """Size and SHA-256 (hex) of a regular file. Raises OSError as `read_regular` does."""
    with open(path, "rb", opener=regular_only) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def read_input(path: Path, most_bytes: int) -> bytes:
    """The content of a file the user names: regular, or a link to one. Raises OSError otherwise.

    A fifo or a device is not opened: reading it could wait for ever or never end.
    """
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "its name holds a null character")
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is a folder" if os.path.isdir(path) else "it is not a regular file")
    # Not blocking: another process may have put a fifo in its place since.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {most_bytes / 2**20:g} MiB")
    return content


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write to a temporary file, flush it to disk, rename: a reader sees the old file, the new one or none. Text
    becomes UTF-8.

    A symlink or pipe of either name is replaced, not written through; a folder in the file's place is kept under
    another name (`keep_aside`). Raises OSError, also for a device, which is left alone: root could replace /dev/null.
    """
    if os.path.lexists(path) and kind_of(path) == "a device":
        raise OSError(errno.EINVAL, "it is a device, not a file", str(path))
    partial = path.with_name(f".{path.name}.part")
    _remove(partial)
    try:
        with open(partial, "xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        if path.is_dir() and not path.is_symlink():
            keep_aside(path)
        os.replace(partial, path)
    finally:
        _remove(partial)
    sync_folder(path.parent)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically; a number JSON does not have (NaN, infinities) becomes null."""
    write_atomically(path, json.dumps(plain_json(content), indent=2, allow_nan=False) + "\n")


_PLAIN = frozenset({str, int, bool, type(None)})


def plain_json(value: Any) -> Any:
    """What `write_json` makes of a value: mappings, lists and plain values; null for a number JSON does not have."""
    if type(value) in _PLAIN:  # most are, and asking for abstract types takes four times as long
        return value
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    if hasattr(value, "tolist"):
        return plain_json(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _remove(path: Path) -> None:
    """Delete a file, a link or a folder of that name, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Fsync a folder, so that its names are on the disk. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def keep_aside(path: Path, label: str = "damaged") -> Path:
    """Quarantine an unusable file, with SQLite's companions: rename it to a free name with `label` in its folder and
    return that. A link is renamed, not its target."""
    name = f"{path.name}.{label}-{datetime.now():%Y%m%d-%H%M%S}"
    names = (name, *(f"{name}-{i}" for i in range(2, 1000)))
    aside = next(path.with_name(n) for n in names if not os.path.lexists(path.with_name(n)))
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    return aside


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Inter-process lock on a file; prevents two processes from quarantining each other's replacement file. Raises
    OSError, also if the path, links followed, is a pipe, device or folder."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(errno.EINVAL, f"it is {kind_of(path)}, not a file", str(path))
    with FileLock(f"{path}.lock"):
        yield
