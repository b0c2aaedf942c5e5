"""Run folders: one per run, made once all input is valid, never shared."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from io import TextIOWrapper
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any, Self

from src.console import PROGRESS, LogFormatter
from src.errors import UserError
from src.files import kind_of, read_regular, regular_only, write_atomically
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


def make_run_folder(output_dir: Path, mode: str, market: str) -> Path:
    """A new folder `<mode>_<market>_<local time>` below `output_dir`, with a number where the name is taken.

    Names sort by the order in which the runs of a mode began: where the clock went back behind the newest of them, the
    new folder takes that one's time and the next number. Raises OutputError.
    """
    check_writable(output_dir)
    try:
        while True:
            folder = output_dir / _next_name(output_dir, mode, market)
            try:
                folder.mkdir()
            except FileExistsError:  # another process was quicker
                continue
            return folder
    except OSError as error:
        raise OutputError(
            f"No run folder can be made in {output_dir} ({error.strerror or error}). Free space on that disk, or name "
            f"another folder with --output-dir."
        ) from error


def _next_name(output_dir: Path, mode: str, market: str) -> str:
    """The name of a new run, behind those of every earlier run of that mode."""
    stamp, number = f"{datetime.now():%Y%m%d-%H%M%S}", 1
    pattern = re.compile(rf"{re.escape(mode)}_[A-Z0-9]+_(\d{{8}}-\d{{6}})(?:-(\d+))?")
    for name in os.listdir(output_dir):
        if (found := pattern.fullmatch(name)) and (found[1], int(found[2] or 1)) >= (stamp, number):
            stamp, number = found[1], int(found[2] or 1) + 1
    return f"{mode}_{market}_{stamp}" + (f"-{number}" if number > 1 else "")


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


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically; a number JSON does not have (NaN, infinities) becomes null."""
    write_atomically(path, json.dumps(plain_json(content), indent=2, allow_nan=False) + "\n")


def plain_json(value: Any) -> Any:
    """What `write_json` makes of a value: mappings, lists and plain values; null for a number JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    if hasattr(value, "tolist"):
        return plain_json(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class _LogFile(logging.FileHandler):
    """A log file whose first failing write is raised where the message was logged, and which is silent from then on.
    The standard handler prints a traceback for each message and continues."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", delay=True)
        self.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self.stream = self._open()
        self._failed = False

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=regular_only)

    def emit(self, record: logging.LogRecord) -> None:
        if not self._failed:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self._failed = True
        raise OSError(error.errno, error.strerror, self.baseFilename) from error

    def close(self) -> None:
        try:
            super().close()
        except OSError:
            if not self._failed:  # else it has been raised, and this is the same
                raise


CONFIG_NAME = "config.yaml"
_SEAL = "# SHA-256 of what follows this line: "


def sealed(text: str) -> str:
    """A configuration under a first line with its hash; what is written so is read back by `check_seal`."""
    return f"{_SEAL}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def check_seal(path: Path) -> None:
    """UserError for a run's configuration that is not as the run wrote it. One without a hash is of an earlier version
    and passes."""
    try:
        first, _, text = read_regular(path).partition(b"\n")
        if not first.startswith(_SEAL.encode()[:10]):
            return
        if first == f"{_SEAL}{hashlib.sha256(text).hexdigest()}".encode():
            return
        why = "it was changed: its content differs from the SHA-256 in its first line"
    except OSError as error:
        why = error.strerror or str(error)
    raise UserError(
        f"The settings {path} of the run to resume cannot be used ({why}). Name its original settings with "
        f"--config FILE, or give its original options."
    )


class RunLog:
    """Takes this project's log messages from entering on; `write_to` gives them, the earlier ones too, to a file.

    The folder of the file only exists once the data is known to be good, and what was said about the data belongs into
    it. How a run ended that did not reach its end is the last message.
    """

    def __init__(self) -> None:
        self._logger, self._progress = logging.getLogger("src"), logging.getLogger(PROGRESS)
        self._held = MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1)
        self._level = self._logger.level

    def __enter__(self) -> Self:
        self._level = self._logger.level
        if self._level == logging.NOTSET:
            self._logger.setLevel(logging.INFO)
        for logger in (self._logger, self._progress):
            logger.addHandler(self._held)
        return self

    def write_to(self, path: Path) -> None:
        """Write what was logged so far to `path`, and from now on each message at once."""
        self._held.setTarget(_LogFile(path))
        self._held.flush()
        self._held.flushLevel = logging.NOTSET

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            with suppress(OSError):  # of a full disk; what ended the run is to be heard, not this
                self._logger.info("the run ended early: %s", f"{type(error).__name__} {error}".strip())
        for logger in (self._logger, self._progress):
            logger.removeHandler(self._held)
        self._logger.setLevel(self._level)
        if self._held.target is not None:
            self._held.target.close()
        self._held.close()
