"""The log file of a run, which begins before the run has a folder."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from io import TextIOWrapper
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Self

from src.console import PROGRESS, LogFormatter
from src.files import regular_only


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
