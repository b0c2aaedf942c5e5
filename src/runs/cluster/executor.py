"""Tasks on Ray, as `src.runs.executors.Cores` does them in worker processes: one task of Ray for each.

The run's process alone writes into the run's folder: checkpoints arrive as a node makes them, so a task whose node has
died continues elsewhere from its newest. What an attempt tells after it was given up is not heard.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src import run_names
from src.agent.checkpoints import CheckpointStore
from src.errors import StuckWorkerError, WorkerDied
from src.files import read_regular
from src.runs.cluster.bell import Bell
from src.runs.cluster.connection import Cluster
from src.runs.cluster.node import BEGUN, CHECKPOINT, FILE, GROWN, Order, Packed, Place, code_fingerprint, do_task
from src.runs.cluster.parcels import inside, newest_checkpoint, paths_in, read_by, write_at, write_files
from src.runs.executors import DONE, FAILED, RECORD, SAVED, STOP_S, STOPPED, TICK, Event
from src.runs.shared_object import SharedObject
from src.runs.tasks import Task
from src.runs.time_account import WORKED
from src.trading.stuck_worker import Patience

SHARED_FILES = 64
"""Files that many tasks read, such as tables of advice, of which Ray keeps one copy a node."""

LONGEST = 500
"""Characters of what Ray says of a dead task."""


@dataclass
class _Attempt:
    """A task of Ray under way. It counts as silent only once it has begun: before, it waits for a free core."""

    task: Task
    events: Any
    store: CheckpointStore
    patience: Patience
    place: Place | None = None
    began: float | None = None
    heard: float = field(default_factory=time.monotonic)


class RayTasks:
    """An executor of at most `n` tasks at a time over the markets of a run in `run`; `close` ends them."""

    def __init__(
        self, cluster: Cluster, n: int, markets: Mapping[str, Any], stuck_s: float, run: Path,
        say: Callable[[str], None], keep_last: int,
    ) -> None:  # fmt: skip
        self.n = n
        self._cluster = cluster
        self._ray = cluster.ray
        self._markets = markets
        self._stuck_s = stuck_s
        self._run = run
        self._say = say
        self._keep_last = keep_last
        self._workers: dict[str, _Attempt] = {}
        self._tables: dict[str, Any] = {}
        self._shared: OrderedDict[tuple[str, int, int], Any] = OrderedDict()
        self._bell: Any = None
        self._bells = 0
        self._do = self._ray.remote(num_returns="streaming", max_retries=0)(do_task)

    @property
    def running(self) -> list[Task]:
        """The tasks that were handed to Ray and have not ended, in the order they were started."""
        return [attempt.task for attempt in self._workers.values()]

    def start(self, task: Task, job: Any) -> None:
        """Hand a task to Ray, which begins it on a node that has room."""
        own = self._run / task.name
        shared = self._shared_by(job)
        files = {name: raw for name, raw in read_by(job, self._run, own).items() if name not in shared}
        order = Order(
            run=self._run,
            own=task.name,
            work=task.work,
            job=job,
            market=self._packed(task.market),
            files=files,
            shared=shared,
            checkpoint=newest_checkpoint(own, self._say) if task.member is not None else None,
            logs=self._logs(task, job),
            is_member=task.member is not None,
            threads=torch.get_num_threads(),
            on_gpu="num_gpus" in self._cluster.resources,
            code=code_fingerprint(),
            bell=self._own_bell(),
            bell_name=f"{self._ray.get_runtime_context().get_job_id()}-{self._bells}",
        )
        events = self._do.options(name=task.title, **self._cluster.resources).remote(order)
        store = CheckpointStore(own, {}, keep_last=self._keep_last, machine={})
        self._workers[task.name] = _Attempt(task, events, store, Patience(self._stuck_s))

    def _shared_by(self, job: Any) -> dict[str, Any]:
        """References to the single files that a job names, each put into the object store once."""
        found = {}
        for path in paths_in(job, self._run):
            if not path.is_file():
                continue
            facts = path.stat()
            key = (str(path), facts.st_size, facts.st_mtime_ns)
            if key not in self._shared:
                self._shared[key] = self._ray.put(read_regular(path))
            self._shared.move_to_end(key)
            found[path.relative_to(self._run).as_posix()] = self._shared[key]
        while len(self._shared) > SHARED_FILES:
            self._shared.popitem(last=False)
        return found

    def _packed(self, market: str) -> Any:
        """A reference to a market's tables, put into the object store once; None where the run has no such market."""
        if self._markets.get(market) is None:
            return None
        if market not in self._tables:
            with SharedObject(self._markets[market]) as shared:
                mapped = shared.mapped
                arrays = np.fromfile(mapped.path, np.uint8)
            self._tables[market] = self._ray.put(Packed(mapped.skeleton, mapped.spans, arrays))
        return self._tables[market]

    def _logs(self, task: Task, job: Any) -> tuple[Path, ...]:
        if task.member is None:
            return ()
        own = self._run / task.name / run_names.RECORDS
        return (own,) if job.tensorboard is None else (own, job.tensorboard)

    def _own_bell(self) -> Any:
        """An actor on the node of this process: it ends with the run, or when tasks are to stop."""
        if self._bell is None:
            here = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                self._ray.get_runtime_context().get_node_id(), soft=False
            )
            actor = self._ray.remote(num_cpus=0, max_concurrency=100_000)(Bell)
            self._bell = actor.options(scheduling_strategy=here).remote()
            self._bells += 1
        return self._bell

    def wait(self, timeout_s: float) -> Iterator[Event]:
        """What tasks have told since, after at most so many seconds.

        A task whose process or node has died is a FAILED event with WorkerDied, one that does not answer with
        StuckWorkerError. Raises OSError and CheckpointError where what arrives cannot be written.
        """
        attempts = {attempt.events: attempt for attempt in self._workers.values()}
        if not attempts:
            return
        if self._ready(list(attempts), 1, timeout_s):
            for events in self._ready(list(attempts), len(attempts), 0.0):
                yield from self._heard(attempts[events])
        for attempt in list(self._workers.values()):
            silent_s = time.monotonic() - attempt.heard
            if attempt.began is not None and silent_s > attempt.patience.limit_s():
                yield self._stuck(attempt, silent_s)

    def _ready(self, events: list[Any], at_least: int, timeout_s: float) -> list[Any]:
        ready, _ = self._ray.wait(events, num_returns=at_least, timeout=timeout_s, fetch_local=False)
        return ready

    def _heard(self, attempt: _Attempt) -> Iterator[Event]:
        while True:
            try:
                kind, payload = self._ray.get(next(attempt.events))
            except StopIteration:
                kind, payload = FAILED, (WorkerDied(self._how(attempt, "it ended without a word")), "")
            except self._ray.exceptions.RayError as error:
                kind, payload = FAILED, (WorkerDied(self._how(attempt, f"{type(error).__name__}: {error}")), "")
            attempt.heard = time.monotonic()
            if kind in (RECORD, SAVED, TICK):
                attempt.patience.step_ended()
                attempt.patience.step_began()
            if not self._kept(attempt, kind, payload):
                if kind in (DONE, FAILED, STOPPED):
                    del self._workers[attempt.task.name]
                yield Event(attempt.task, kind, _timed(attempt, payload) if kind == DONE else payload)
                if kind in (DONE, FAILED, STOPPED):
                    return
            if not self._ready([attempt.events], 1, 0.0):
                return

    def _kept(self, attempt: _Attempt, kind: int, payload: Any) -> bool:
        """Whether an event was for this executor: then what it brought is on the disk."""
        if kind == BEGUN:
            attempt.place, attempt.began = payload, time.perf_counter()
            attempt.patience.step_began()
        elif kind == CHECKPOINT:
            attempt.store.receive(*payload)
        elif kind == GROWN:
            name, offset, raw = payload
            write_at(inside(self._run, name), offset, raw)
        elif kind == FILE:
            write_files(self._run, dict([payload]))
        return kind in (BEGUN, CHECKPOINT, GROWN, FILE)

    def _how(self, attempt: _Attempt, why: str) -> str:
        where = "" if attempt.place is None else f" on {attempt.place}"
        return f"The task of {attempt.task.title}{where} died: {_in_words(why)}"

    def _stuck(self, attempt: _Attempt, silent_s: float) -> Event:
        words = attempt.patience.words()
        self._give_up(attempt)
        error = StuckWorkerError(
            f"The task of {attempt.task.title} on {attempt.place} has told nothing for {silent_s:,.0f} s ({words}). "
            f"Find out what holds it, or raise hardware.stuck_worker_s ({self._stuck_s:g}) if a rollout or an "
            f"update may take so long."
        )
        return Event(attempt.task, FAILED, (error, ""))

    def _give_up(self, attempt: _Attempt) -> None:
        """End a task at once; nothing it tells is heard any more."""
        del self._workers[attempt.task.name]
        self._ray.cancel(attempt.events, force=True)

    def ask_to_stop(self) -> Iterator[Event]:
        """Tell all tasks to stop; what they told until they have, or until `STOP_S` seconds are over. Those without
        checkpoints, and those that wait for a core, are ended at once: they have nothing to save."""
        for attempt in list(self._workers.values()):
            if attempt.task.member is None or attempt.began is None:
                self._give_up(attempt)
        if self._bell is not None:
            self._ray.kill(self._bell)
            self._bell = None
        until = time.monotonic() + STOP_S
        while self._workers and time.monotonic() < until:
            yield from self.wait(0.1)

    def close(self) -> None:
        """End the tasks at once, and forget what they share."""
        for attempt in list(self._workers.values()):
            self._give_up(attempt)
        if self._bell is not None:
            self._ray.kill(self._bell)
            self._bell = None
        self._tables.clear()
        self._shared.clear()


def _in_words(text: str) -> str:
    """What Ray says, without its colors, on one line."""
    plain = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())
    return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]} ..."


def _timed(attempt: _Attempt, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a task tells of its time, on this machine's clock: a node has its own."""
    told, now = facts[WORKED], time.perf_counter()
    took = told["ended"] - told["began"]
    began = now - took if attempt.began is None else attempt.began
    return {**facts, WORKED: {**told, "began": began, "ended": min(now, began + took)}}
