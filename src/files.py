"""Files that are there whole or not at all, that are on the disk when a function returns, and that one process at a
time uses."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock


def read_regular(path: Path, most_bytes: int) -> bytes:
    """The content of a regular file, or of a link to one. OSError for anything else and for more than `most_bytes`.

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
    """Write beside the target, flush to disk, rename: a reader sees the old file, the new one or none. Text becomes
    UTF-8. Raises OSError."""
    partial = path.with_name(f".{path.name}.part")
    try:
        with open(partial, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def keep_aside(path: Path) -> Path:
    """Rename a damaged file, what SQLite keeps beside it too, to a free name beside it, which is returned."""
    name = f"{path.name}.damaged-{datetime.now():%Y%m%d-%H%M%S}"
    names = (name, *(f"{name}-{i}" for i in range(2, 1000)))
    aside = next(path.with_name(n) for n in names if not path.with_name(n).exists())
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    return aside


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Between processes only one at a time is in here with a file: two would both keep a damaged one aside, and so the
    new one of the other. Raises OSError."""
    with FileLock(f"{path}.lock"):
        yield
