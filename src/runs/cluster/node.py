"""A task on a node of Ray: done by the same function as everywhere, in a folder of its own, which ends with the task.

Everything the run is to know goes back as events of a stream, files as bytes: a node writes nothing into the run's
folder. The task stops at its next clean instant when the run's bell is gone, whether the run ended it or died.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import pickle
import platform
import queue
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from src.errors import ConfigError, TaskFailed
from src.runs.cluster.connection import ROOT
from src.runs.cluster.parcels import Files, NewFiles, moved, write_files
from src.runs.executors import BEAT_S, DONE, FAILED, LOG, RECORD, SAVED, SAY, STOPPED, TICK, Stopped, portable
from src.runs.time_account import WORKED, worked

BEGUN, CHECKPOINT, GROWN, FILE = range(100, 104)
"""Events that the executor itself answers; the others are the engine's."""
QUIET_S = 0.5
"""The least time between two signs of life, and between two records of progress, of one task."""
SCRATCH = "hybrid-trading-task-"


@dataclass(frozen=True)
class Packed:
    """An object in Ray's object store: its pickle without the arrays, and all their bytes in one array, which every
    task of a node maps. The pickle was made by the run that asks."""

    skeleton: bytes
    spans: tuple[tuple[int, int], ...]
    arrays: np.ndarray

    def load(self) -> Any:
        """The object; its arrays are read-only views."""
        whole = self.arrays.data.toreadonly()
        return pickle.loads(self.skeleton, buffers=[whole[start:end] for start, end in self.spans])


@dataclass(frozen=True)
class Order:
    """A task on its way to a node. References to Ray's object store are only followed there."""

    run: Path
    """The run's folder, as the paths in `job` name it."""
    own: str
    """The task's folder below it."""
    work: Callable[[Any, Any, Any], Mapping[str, Any]]
    job: Any
    market: Any
    """Reference to a Packed market, None for a task that reads none."""
    files: Files
    shared: Mapping[str, Any]
    """References to files that many tasks read."""
    checkpoint: tuple[str, Files] | None
    logs: tuple[Path, ...]
    is_member: bool
    threads: int
    on_gpu: bool
    code: str
    """Fingerprint of the run's own source."""
    bell: Any
    bell_name: str


@dataclass(frozen=True)
class Place:
    """Where a task is done."""

    host: str
    pid: int
    node_id: str

    def __str__(self) -> str:
        return f"{self.host} (process {self.pid})"


@functools.cache
def code_fingerprint() -> str:
    """SHA-256 over the project's own modules."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "src").rglob("*.py")):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def do_task(order: Order) -> Iterator[tuple[int, Any]]:
    """Do a task; its events, the last of which says how it ended. What Ray runs, as a stream."""
    import ray

    events: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    yield BEGUN, Place(platform.node(), os.getpid(), ray.get_runtime_context().get_node_id())
    with _scratch() as folder:
        thread = threading.Thread(target=_work, args=(order, folder, events.put), daemon=True)
        thread.start()
        kind = BEGUN
        while kind not in (DONE, FAILED, STOPPED):
            kind, payload = events.get()
            yield kind, payload
        thread.join()


def _work(order: Order, run: Path, put: Callable[[tuple[int, Any]], None]) -> None:
    watch = _WatchOnNode(order, run, put)
    logger = logging.getLogger("src")
    handler = _LogOnNode(watch)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        with watch.beating():
            market = _prepared(order, run)
            job = moved(order.job, order.run, run)
            began, cpu_before = time.perf_counter(), time.process_time()
            facts = order.work(job, market, watch)
            watch.send_files(facts.get("files", ()))
            watch.send(DONE, {**facts, WORKED: worked(began, cpu_before)})
    except Stopped:
        watch.send(STOPPED)
    except Exception as error:
        watch.send(FAILED, (portable(error), traceback.format_exc()))
    except BaseException as error:  # an exit of a user's own: another task may use this process
        watch.send(FAILED, (TaskFailed(f"{type(error).__name__}: {error}"), traceback.format_exc()))
    finally:
        logger.removeHandler(handler)


def _prepared(order: Order, run: Path) -> Any:
    """The market, once everything the job reads lies below `run`. ConfigError where the node has other source."""
    import ray

    if order.code != code_fingerprint():
        raise ConfigError(
            f"The node {platform.node()} has other source code below {ROOT / 'src'} than the run, so results could "
            f"differ. Bring both to the same version, then continue with --auto-resume."
        )
    if not order.on_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(order.threads)
    write_files(run, order.files)
    write_files(run, dict(zip(order.shared, ray.get(list(order.shared.values())), strict=True)))
    if order.checkpoint is not None:
        name, files = order.checkpoint
        write_files(run / order.own / name, files)
    return None if order.market is None else ray.get(order.market).load()


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for one task. Those of processes that were killed are removed."""
    for path in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        pid = path.name.removeprefix(SCRATCH).partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(path, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


_stops: dict[str, threading.Event] = {}


def _stop_of(order: Order) -> threading.Event:
    """Set once the bell of the order's run is gone; a process waits for it once."""
    if order.bell_name not in _stops:
        stop = _stops[order.bell_name] = threading.Event()
        threading.Thread(target=_listen, args=(order.bell, stop), daemon=True).start()
    return _stops[order.bell_name]


def _listen(bell: Any, stop: threading.Event) -> None:
    import ray

    try:
        ray.get(bell.wait.remote())
    except ray.exceptions.RayError as error:
        logging.getLogger(__name__).debug("the bell is gone: %s", error)
    finally:
        stop.set()


class _WatchOnNode:
    """Of a task on a node: everything becomes an event, new files included."""

    def __init__(self, order: Order, run: Path, put: Callable[[tuple[int, Any]], None]) -> None:
        self._put = put
        self._order = order
        self._run = run
        self._stop = _stop_of(order)
        logs = tuple(moved(log, order.run, run) for log in order.logs)
        known = set() if order.checkpoint is None else {order.checkpoint[0]}
        self._new = NewFiles(run, order.own, logs, known)
        self._ticked = self._recorded = 0.0

    def send(self, kind: int, payload: Any = None) -> None:
        self._put((kind, payload))

    def check(self, save: Callable[[], None] | None = None) -> None:
        if time.monotonic() - self._ticked >= QUIET_S:
            self._ticked = time.monotonic()
            self.send(TICK)
        if not self._stop.is_set():
            return
        if save is not None:
            save()
        raise Stopped

    def say(self, text: str) -> None:
        self.send(SAY, text)

    def record(self, record: Mapping[str, Any]) -> None:
        if time.monotonic() - self._recorded >= QUIET_S:
            self._recorded = time.monotonic()
            self.send(RECORD, dict(record))

    def saved(self, timesteps: int) -> None:
        for name, files in self._new.checkpoints():
            self.send(CHECKPOINT, (name, files))
        for grown in self._new.grown():
            self.send(GROWN, grown)
        self.send(SAVED, timesteps)

    def send_files(self, names: Any) -> None:
        """What a finished task leaves: `names` in its folder, and its logs."""
        for grown in self._new.grown():
            self.send(GROWN, grown)
        for name in names:
            path = self._run / self._order.own / name
            self.send(FILE, (f"{self._order.own}/{name}", path.read_bytes()))

    @contextmanager
    def deferred(self) -> Iterator[None]:
        yield

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Within, a task that has no steps of its own to tell of shows that it lives."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(BEAT_S):
                self.send(TICK)

        if not self._order.is_member:
            threading.Thread(target=beat, daemon=True).start()
        try:
            yield
        finally:
            over.set()


class _LogOnNode(logging.Handler):
    """Log messages of a task, to the run's log."""

    def __init__(self, watch: _WatchOnNode) -> None:
        super().__init__()
        self._watch = watch

    def emit(self, record: logging.LogRecord) -> None:
        self._watch.send(LOG, (record.name, record.levelno, f"{platform.node()}: {self.format(record)}"))
