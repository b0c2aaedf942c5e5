"""Folders of earlier runs, and the lock that lets one run at a time work in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from src import run_names
from src.errors import UserError
from src.files import read_regular, write_atomically
from src.outputs import OutputError, check_writable

NAME = re.compile(r"([a-z_]+)_([A-Z0-9]+(?:-[A-Z0-9]+)*)_(\d{8}-\d{6})(?:-(\d+))?")
_LOCK, _HOLDER = ".run.lock", ".run.holder"


@contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """UserError when another run is at work in this folder.

    The lock is the kernel's and on the folder itself: a dead process holds none, and deleting a file does not free it.
    """
    check_writable(folder)
    holder = folder / _HOLDER
    handle = _locked(folder)
    if handle is None:
        raise UserError(
            f"Another run (process {_number_in(holder)}) is at work in {folder}. Wait for it, stop it, or name another "
            f"folder with --output-dir."
        )
    try:
        try:
            write_atomically(holder, str(os.getpid()))
        except OSError as error:
            raise OutputError(
                f"The file {holder} cannot be written ({error.strerror or error}). Free space on that disk, or name "
                f"another folder with --output-dir."
            ) from error
        yield
    finally:
        with suppress(OSError):  # a stale number does no harm: the lock decides
            holder.unlink(missing_ok=True)
        os.close(handle)


def is_at_work(folder: Path) -> bool:
    """Whether another run holds a folder's lock."""
    handle = _locked(folder)
    if handle is not None:
        os.close(handle)
    return handle is None


def _locked(folder: Path) -> int | None:
    """An open handle that holds the folder's lock; None where another process holds it. OutputError where the file
    system knows no locks."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            # A network file system that locks only what is open for writing, which a folder never is.
            os.close(handle)
            handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError as error:
        os.close(handle)
        raise OutputError(
            f"{folder} cannot be locked ({error.strerror or error}), so two runs could write to it at once. Name "
            f"a folder on a local disk with --output-dir."
        ) from error
    return handle


def _number_in(holder: Path) -> str:
    """The process number in a holder file; "unknown" where it cannot be read or holds something else."""
    try:
        text = read_regular(holder)[:20].decode("ascii")
    except (OSError, UnicodeDecodeError):
        return "unknown"
    return text if text.isdigit() else "unknown"


def newest_run(output_dir: Path, mode: str, market: str | None) -> Path | None:
    """The newest run of a mode and market (None: of any), or None. Raises UserError as `runs_of`."""
    return next(iter(runs_of(output_dir, mode, market)), None)


def runs_of(output_dir: Path, mode: str, market: str | None) -> Iterator[Path]:
    """The runs of a mode and market (None: of any), newest first.

    Raises UserError when the next one is a symlink, or has files and no ledger: an older one is never taken instead.
    """
    if not os.path.isdir(output_dir):  # also a name too long for any folder, for which Path.glob raises OSError
        return
    found = [path for path in output_dir.glob(f"{mode}_{market or '*'}_*") if NAME.fullmatch(path.name)]
    for folder in sorted((path for path in found if path.is_dir()), key=_begun, reverse=True):
        if folder.is_symlink():
            raise UserError(
                f"The newest run {folder} is a symlink, which no run writes through. Name the folder that holds it "
                f"with --output-dir, or remove the link."
            )
        if os.path.lexists(folder / run_names.LEDGER):
            yield folder
            continue
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            raise UserError(
                f"The newest run {folder} has lost its {run_names.LEDGER}, so it cannot be resumed. Restore that file, "
                f"move the folder away to resume the run before it, or leave out --auto-resume and --start-phase to "
                f"begin a new run."
            )


def _begun(folder: Path) -> tuple[str, int]:
    """Start time of a run, from its name, and the number that distinguishes runs of the same second."""
    _, _, when, number = NAME.fullmatch(folder.name).groups()  # type: ignore[union-attr]
    return when, int(number or 1)
