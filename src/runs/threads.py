"""A thread that dies ends the run with its error: its results would silently be missing."""

from __future__ import annotations

import logging
import threading
from typing import Self

from src.errors import ThreadDied

logger = logging.getLogger(__name__)


class ThreadDeaths:
    """While entered, remembers the first thread that ended by an exception; `check` raises for it."""

    def __init__(self) -> None:
        self._first = ""
        self._before = threading.excepthook

    def __enter__(self) -> Self:
        self._first = ""
        self._before = threading.excepthook
        threading.excepthook = self._heard
        return self

    def __exit__(self, *exc: object) -> None:
        threading.excepthook = self._before

    def check(self) -> None:
        """ThreadDied where a thread has died."""
        if self._first:
            raise ThreadDied(
                f"A thread of the run died: {self._first}. The run ends here, because its results would lack what "
                f"that thread did. If memory was short, take fewer hardware.vectorized_envs or a smaller "
                f"hardware.batch_size, or raise the limit (ulimit -v, the container's); run.log has the traceback."
            )

    def _heard(self, args: threading.ExceptHookArgs) -> None:
        if args.exc_type is SystemExit:  # how a thread may end on purpose
            return
        name = args.thread.name if args.thread is not None else "unknown"
        kind = args.exc_type.__name__
        if not self._first:
            self._first = f"{name}, {kind}"  # before anything that could fail where memory is short
            self._first = f"{name}, {kind}: {args.exc_value}" if str(args.exc_value) else self._first
        if args.exc_value is not None:
            logger.info("thread %s died", name, exc_info=args.exc_value)
