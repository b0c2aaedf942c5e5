"""Whether files and folders can be written where a user wants them, said before the work begins."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.errors import UserError
from src.files import kind_of
from src.plain_text import foreign


class OutputError(UserError):
    """A folder that cannot be written."""


def why_unwritable(folder: Path, *, make: bool = True) -> str:
    """Why no file can be written in `folder`, in the system's words; "" where one can. `make` makes the folder itself;
    nothing is left in it."""
    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def check_output_file(path: Path, option: str = "--output") -> None:
    """Make the folder of a file that is to be written at the end. OutputError if the file could not be written, or if
    its name is that of a folder, device, pipe or symlink, which writing would replace."""
    remedy = f"Change the permissions, or name a file elsewhere with {option}."
    try:
        if os.path.lexists(path) and (kind := kind_of(path)):
            raise OutputError(f"{option} {foreign(path)} is {kind}: name a file.")
        path.is_file()  # what no file can be called
    except OSError as error:  # a name too long for any file
        why = error.strerror or str(error)
        raise OutputError(f"{option} {foreign(path)} cannot be written ({why}): name another file.") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or str(error)
        raise OutputError(
            f"{option} {foreign(path)}: the folder {foreign(path.parent)} cannot be made ({why}). {remedy}"
        ) from error
    if why := why_unwritable(path.parent, make=False):
        raise OutputError(
            f"{option} {foreign(path)}: the folder {foreign(path.parent)} cannot be written ({why}). {remedy}"
        )


def check_writable(output_dir: Path) -> None:
    """OutputError when a run folder could not be made below `output_dir`; makes the folder itself, nothing in it."""
    if why := why_unwritable(output_dir):
        raise OutputError(
            f"The output folder {output_dir} cannot be written ({why}): name another with --output-dir, or change its "
            f"permissions."
        )


@contextmanager
def output_errors_in_words(output_dir: Path, then: str) -> Iterator[None]:
    """Within, an OSError that nobody has put into words becomes an OutputError with its reason; `then` says what is
    kept and how to go on."""
    try:
        yield
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        raise OutputError(
            f"The run cannot write or read its files below {output_dir} ({what}{error.strerror or error}). Free space "
            f"on that disk, or see that its folder can be written; {then}"
        ) from error
