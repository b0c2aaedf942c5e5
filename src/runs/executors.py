"""Tasks in worker processes: one process a task, as many at a time as there are cores for.

A worker sees no CUDA device, ignores the terminal's signals and ends with the run. It tells its run how far it is; the
run tells it to stop, which it does at its next clean instant.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import torch

from src.errors import StuckWorkerError, TaskFailed, WorkerDied
from src.runs.shared_object import Mapped, SharedObject
from src.runs.tasks import Task
from src.runs.time_account import WORKED, worked
from src.trading.orphans import end_with_fork_server
from src.trading.stuck_worker import Patience, answer_with_stack, state_and_stack
from src.trading.workers import PRELOAD, PRELOAD_LAST, server_environment

STOP_S = 60.0
"""How long workers that were told to stop may take to reach a clean instant before they are ended."""
BEAT_S = 5.0
SAY, RECORD, SAVED, TICK, LOG, DONE, FAILED, STOPPED = range(8)


def start_server(preload: str) -> None:
    """Have the server that forks workers import what they need, and the module `preload`, while this process does
    something else."""
    multiprocessing.set_forkserver_preload([*PRELOAD, "src.runs.warm_task", preload, PRELOAD_LAST])
    with _no_main(), server_environment():
        forkserver.ensure_running()


@contextmanager
def _no_main() -> Iterator[None]:
    """Within, processes are started that do not import the script: no task needs it, and one without a main guard would
    begin its run again there."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class Event(NamedTuple):
    """What a worker told."""

    task: Task
    kind: int
    payload: Any


@dataclass
class _Worker:
    task: Task
    process: Any
    pipe: Connection
    stack: Path
    patience: Patience
    heard: float = field(default_factory=time.monotonic)


class Executor(Protocol):
    """Does tasks elsewhere than in the run's own process, several at a time."""

    @property
    def running(self) -> list[Task]: ...

    def start(self, task: Task, job: Any) -> None: ...

    def wait(self, timeout_s: float) -> Iterator[Event]: ...

    def ask_to_stop(self) -> Iterator[Event]: ...

    def close(self) -> None: ...


class Stopped(BaseException):
    """In a worker: the run asked it to stop, and it is at a clean instant."""


class Cores:
    """Worker processes for at most `n` tasks at a time over the markets of a run; `close` ends them."""

    def __init__(self, n: int, markets: Mapping[str, Any], stuck_s: float) -> None:
        self.n = n
        self._stuck_s = stuck_s
        self._markets = markets
        self._shared: dict[str, SharedObject] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="tasks-")
        self._workers: dict[str, _Worker] = {}
        self._started = 0
        self._context = multiprocessing.get_context("forkserver")

    @property
    def running(self) -> list[Task]:
        """The tasks that workers are at, in the order they were started."""
        return [worker.task for worker in self._workers.values()]

    def start(self, task: Task, job: Any) -> None:
        """Begin a task in a new worker."""
        ours, theirs = self._context.Pipe()
        self._started += 1
        stack = Path(self._folder.name) / f"{self._started}.stack"
        with _no_main(), server_environment():
            process = self._context.Process(
                target=_work,
                args=(
                    theirs,
                    task.work,
                    job,
                    self._mapped(task.market),
                    str(stack),
                    task.member is not None,
                    torch.get_num_threads(),
                ),
                name=task.title,
            )
            process.start()
        theirs.close()
        self._workers[task.name] = _Worker(task, process, ours, stack, Patience(self._stuck_s))
        self._workers[task.name].patience.step_began()

    def _mapped(self, market: str) -> Mapped:
        """A market's tables, written once to where workers map them; nothing for a task that reads no market."""
        if market not in self._shared:
            self._shared[market] = SharedObject(self._markets.get(market))
        return self._shared[market].mapped

    def wait(self, timeout_s: float) -> Iterator[Event]:
        """What workers have told since, after at most so many seconds.

        A dead worker is a FAILED event with WorkerDied, one that does not answer with StuckWorkerError.
        """
        pipes = {worker.pipe: worker for worker in self._workers.values()}
        for pipe in wait(list(pipes), timeout_s):
            yield from self._heard(pipes[pipe])  # type: ignore[index]
        for worker in list(self._workers.values()):
            waited_s = time.monotonic() - worker.heard
            if waited_s > worker.patience.limit_s():
                yield self._stuck(worker, waited_s)

    def _heard(self, worker: _Worker) -> Iterator[Event]:
        try:
            while worker.pipe.poll():
                kind, payload = worker.pipe.recv()
                worker.heard = time.monotonic()
                if kind in (RECORD, SAVED, TICK):
                    worker.patience.step_ended()
                    worker.patience.step_began()
                if kind in (DONE, FAILED, STOPPED):
                    self._end(worker)
                    yield Event(worker.task, kind, payload)
                    return
                yield Event(worker.task, kind, payload)
        except (EOFError, OSError):
            self._end(worker)
            yield Event(worker.task, FAILED, (WorkerDied(_how(worker)), ""))

    def _stuck(self, worker: _Worker, waited_s: float) -> Event:
        state, stack = state_and_stack(worker.process.pid, worker.stack)
        words = worker.patience.words()
        self._end(worker, kill=True)
        error = StuckWorkerError(
            f"The worker of {worker.task.title} (process {worker.process.pid}) has told nothing for {waited_s:,.0f} s "
            f"({words}): {state}. Find out what holds it, or raise hardware.stuck_worker_s ({self._stuck_s:g}) if a "
            f"rollout or an update may take so long. {stack}"
        )
        return Event(worker.task, FAILED, (error, ""))

    def _end(self, worker: _Worker, *, kill: bool = False) -> None:
        del self._workers[worker.task.name]
        if kill:
            worker.process.kill()
        worker.process.join(timeout=5.0)
        worker.pipe.close()

    def ask_to_stop(self) -> Iterator[Event]:
        """Tell all workers to stop; what they told until they have, or until `STOP_S` seconds are over. Those without
        checkpoints are ended at once: they have nothing to save."""
        for worker in list(self._workers.values()):
            if worker.task.member is None:
                self._end(worker, kill=True)
                continue
            with suppress(OSError):
                worker.pipe.send("stop")
        until = time.monotonic() + STOP_S
        while self._workers and time.monotonic() < until:
            yield from self.wait(0.1)

    def close(self) -> None:
        """End the workers at once, and give back what they share."""
        for worker in list(self._workers.values()):
            self._end(worker, kill=True)
        for shared in self._shared.values():
            shared.close()
        self._folder.cleanup()


def _how(worker: _Worker) -> str:
    code = worker.process.exitcode
    how = f"by signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
    if code == -signal.SIGKILL:
        how += " (as the kernel does when memory runs out: try fewer --workers or vectorized_envs)"
    if code == 1:  # before it had anything to do: what fails later is told
        how += " while it started; its output is above"
    return f"The worker of {worker.task.title} (process {worker.process.pid}) ended {how}."


class _WatchThere:
    """Of a task in a worker: everything goes through the pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def send(self, kind: int, payload: Any = None) -> None:
        with self._lock:
            self._pipe.send((kind, payload))

    def check(self, save: Callable[[], None] | None = None) -> None:
        self.send(TICK)
        if not self._pipe.poll():
            return
        self._pipe.recv()  # EOFError where the run is gone: nothing is left to do
        if save is not None:
            save()
        raise Stopped

    def say(self, text: str) -> None:
        self.send(SAY, text)

    def record(self, record: Mapping[str, Any]) -> None:
        self.send(RECORD, dict(record))

    def saved(self, timesteps: int) -> None:
        self.send(SAVED, timesteps)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        yield


class _LogThere(logging.Handler):
    """Log messages of a worker, to the run's log."""

    def __init__(self, watch: _WatchThere) -> None:
        super().__init__()
        self._watch = watch

    def emit(self, record: logging.LogRecord) -> None:
        self._watch.send(LOG, (record.name, record.levelno, self.format(record)))


def _work(pipe: Connection, work: Any, job: Any, market: Mapped, stack: str, is_member: bool, threads: int) -> None:
    """In the worker: do the task and tell how it ended."""
    end_with_fork_server()
    for signum in (signal.SIGINT, signal.SIGTERM):  # the run decides what becomes of its workers
        signal.signal(signum, signal.SIG_IGN)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    answer_with_stack(Path(stack))
    torch.set_num_threads(threads)
    watch = _WatchThere(pipe)
    if is_member is False:
        threading.Thread(target=_beat, args=(watch,), daemon=True).start()
    logger = logging.getLogger("src")
    logger.addHandler(_LogThere(watch))
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        loaded = market.load()
        began, cpu_before = time.perf_counter(), time.process_time()
        facts = work(job, loaded, watch)
        watch.send(DONE, {**facts, WORKED: worked(began, cpu_before)})
    except Stopped:
        watch.send(STOPPED)
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:
        watch.send(FAILED, (portable(error), traceback.format_exc()))


def _beat(watch: _WatchThere) -> None:
    """Show that the process lives, for a task that has no steps of its own to tell of."""
    with suppress(OSError):
        while True:
            time.sleep(BEAT_S)
            watch.send(TICK)


def portable(error: Exception) -> Exception:
    """The error itself where it can be sent, else one that says the same."""
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception as unsendable:
        logging.getLogger(__name__).debug("%s cannot be sent: %s", type(error).__name__, unsendable)
    return TaskFailed(f"{type(error).__name__}: {error}")
