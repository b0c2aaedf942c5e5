"""Stopping a run: a signal waits for the next clean instant, a second one acts at once; phases have timeouts."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from src.errors import EXIT_TARGET_MISSED, StopSignal, UserError

STUCK_S = 60.0
"""Beyond its timeout, after which a phase that reaches no clean instant is stopped where it is."""


class PhaseTimeout(UserError):
    """A phase took longer than its timeout."""

    exit_code = EXIT_TARGET_MISSED


class StopRequest:
    """SIGINT and SIGTERM while it is entered: KeyboardInterrupt at once, or, where `deferred`, at the next `check`.

    A second signal is never deferred. Outside of the main thread, where Python delivers no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferring = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if not self._deferring or self.requested:
            raise StopSignal
        self.requested = True

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, a first signal waits for the next `check`."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        self.check()

    def check(self) -> None:
        """A clean instant: KeyboardInterrupt if a signal has come."""
        if self.requested:
            raise KeyboardInterrupt


class Deadline:
    """The timeout of a phase, over all its tries: `spent_s` went into earlier ones."""

    def __init__(self, phase: str, limit_s: float, spent_s: float) -> None:
        self._phase = phase
        self._limit_s = limit_s
        self._until = time.monotonic() + limit_s - spent_s

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self._until

    def check(self) -> None:
        """A clean instant: PhaseTimeout when the time is up."""
        if self.passed:
            raise self._timeout()

    @contextmanager
    def alarm(self) -> Iterator[None]:
        """Within, a phase stuck where no instant is clean is stopped `STUCK_S` after its timeout."""
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
            yield
            return
        before = signal.signal(signal.SIGALRM, self._handle)
        signal.setitimer(signal.ITIMER_REAL, max(0.0, self._until - time.monotonic()) + STUCK_S)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, before)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        raise self._timeout()

    def _timeout(self) -> PhaseTimeout:
        return PhaseTimeout(
            f"{self._phase} took longer than its timeout of {self._limit_s:,g} s. Raise {self._phase}.timeout and "
            f"resume with --auto-resume: everything up to the newest checkpoint is kept."
        )
