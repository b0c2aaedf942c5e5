"""A worker that no longer answers: noticed by a limit on every wait, and shown with its state and Python stack."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

TIMES_MEDIAN = 60
"""A step may take this many times the median step."""
START_FLOORS = 10
"""Starting, resetting and every other call have no median; they may take this many times the least limit."""
_KEPT_STEPS = 1000
_STACK_S = 1.0
_STATES = {
    "T": "stopped (as by SIGSTOP or Ctrl-Z)",
    "t": "stopped by a debugger",
    "D": "waiting for a device or a network disk",
    "R": "computing",
    "S": "sleeping",
    "Z": "ended",
}


class Patience:
    """How long to wait for a worker: `floor_s`, or `TIMES_MEDIAN` median steps where that is more."""

    def __init__(self, floor_s: float) -> None:
        self.floor_s = floor_s
        self._steps: deque[float] = deque(maxlen=_KEPT_STEPS)
        self._began: float | None = None

    def step_began(self) -> None:
        """The workers were told to step."""
        self._began = time.monotonic()

    def step_ended(self) -> None:
        """All have answered."""
        if self._began is not None:
            self._steps.append(time.monotonic() - self._began)
        self._began = None

    def limit_s(self) -> float:
        """Seconds to wait for the answer that is due; the median is taken only here, where a wait is long already."""
        if self._began is None:
            return START_FLOORS * self.floor_s
        return max(self.floor_s, TIMES_MEDIAN * median(self._steps)) if self._steps else START_FLOORS * self.floor_s

    def words(self) -> str:
        """What was waited for, and how long it usually takes."""
        if self._began is None:
            return "a call"
        return f"a step (median {median(self._steps):.2g} s)" if self._steps else "its first step"


class WatchedPipe:
    """The parent's end of a worker's pipe: `recv` waits as long as `patience` allows, then calls `give_up`."""

    def __init__(self, pipe: Any, patience: Patience, give_up: Callable[[float], NoReturn]) -> None:
        self._pipe = pipe
        self._patience = patience
        self._give_up = give_up
        self._ready = select.poll()  # made once: multiprocessing's own poll() makes a selector a call
        self._ready.register(pipe.fileno(), select.POLLIN)
        self.send = pipe.send
        self.fileno = pipe.fileno
        self.close = pipe.close

    def recv(self) -> Any:
        """See Connection.recv."""
        if not self._ready.poll(1000.0 * self._patience.floor_s):
            began, waited = time.monotonic(), self._patience.floor_s
            limit = self._patience.limit_s()
            if not self._ready.poll(1000.0 * max(0.0, limit - waited)):
                self._give_up(waited + time.monotonic() - began)
        return self._pipe.recv()

    def __reduce__(self) -> tuple[Any, ...]:
        """In a worker it is the plain pipe, which the worker closes."""
        return _itself, (self._pipe,)


def _itself(pipe: Any) -> Any:
    return pipe


def answer_with_stack(file: Path) -> None:
    """In a worker: on SIGUSR1 the stacks of all threads go into `file`, whatever the process is doing."""
    if hasattr(faulthandler, "register"):
        # Open as long as the process lives: the handler writes to it.
        faulthandler.register(signal.SIGUSR1, file=open(file, "w"), all_threads=True, chain=False)  # noqa: SIM115


def state_and_stack(pid: int, file: Path) -> tuple[str, str]:
    """What a worker is doing, in words, and its Python stack or, where it gives none, where it waits in the kernel.

    A stopped worker is continued for a moment to answer: its run is over anyway.
    """
    state = _state(pid)
    stack = _asked(pid, file, [signal.SIGUSR1, signal.SIGCONT] if state == "T" else [signal.SIGUSR1])
    words = f"it is {_STATES.get(state, f'in state {state}')}" if state else "its state cannot be read"
    if stack:
        return words, f"Its Python stack:\n{stack}"
    waits = _read(pid, "wchan") or "unknown"
    kernel = _read(pid, "stack")
    return words, f"It gives no Python stack; it waits in the kernel at {waits}." + (f"\n{kernel}" if kernel else "")


def _asked(pid: int, file: Path, signals: list[signal.Signals]) -> str:
    if not file.exists():  # its handler is not there yet: the signal would end it
        return ""
    for signum in signals:
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            return ""
    until, before = time.monotonic() + _STACK_S, -1
    while time.monotonic() < until:
        size = file.stat().st_size
        if size and size == before:
            break
        before = size
        time.sleep(0.05)
    return file.read_text(encoding="utf-8", errors="replace").rstrip()


def _state(pid: int) -> str:
    """The one letter of /proc/PID/stat, "" where there is none."""
    fields = _read(pid, "stat").rpartition(")")[2].split()
    return fields[0] if fields else ""


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # no /proc on this system, another user's, or for root alone
        return ""
