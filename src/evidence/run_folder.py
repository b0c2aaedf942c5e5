"""One folder a run: made once all input is known to be good, and never shared."""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Mapping
from datetime import datetime
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any, Self

from src.console import PROGRESS, LogFormatter
from src.errors import UserError
from src.files import write_atomically
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
    """Make the folder of a file that is to be written at the end; OutputError where the file could not be."""
    remedy = f"Change the permissions, or name a file elsewhere with {option}."
    if path.is_dir():
        raise OutputError(f"{option} {foreign(path)} is a folder: name a file.")
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
    """A new folder `<mode>_<market>_<local time>` below `output_dir`; a number is added where the name is taken."""
    check_writable(output_dir)
    name = f"{mode}_{market}_{datetime.now():%Y%m%d-%H%M%S}"
    for attempt in range(1000):
        folder = output_dir / (name if attempt == 0 else f"{name}-{attempt + 1}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise OutputError(f"{output_dir} holds 1000 runs of this second; name another folder with --output-dir.")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically; a number JSON does not have (NaN, infinities) becomes null."""
    write_atomically(path, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


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
        file = logging.FileHandler(path, encoding="utf-8")
        file.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._held.setTarget(file)
        self._held.flush()
        self._held.flushLevel = logging.NOTSET

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._logger.info("the run ended early: %s", f"{type(error).__name__} {error}".strip())
        for logger in (self._logger, self._progress):
            logger.removeHandler(self._held)
        self._logger.setLevel(self._level)
        if self._held.target is not None:
            self._held.target.close()
        self._held.close()
