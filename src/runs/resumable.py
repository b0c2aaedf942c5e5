"""One training that can be killed at any moment: it writes checkpoints and resumes from the newest."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from src.agent.checkpoints import CheckpointMismatch, CheckpointStore, Loaded
from src.agent.policy import Weights
from src.agent.ppo import TimedMaskablePPO
from src.agent.rollout_plan import RolloutPlan
from src.agent.settings import CheckpointSettings
from src.agent.training import TrainingRecord, train
from src.agent.training_state import capture, restore, restore_finished
from src.files import keep_aside, read_regular, write_atomically
from src.runs.bench import Bench
from src.runs.folders import LOG_NAME
from src.runs.ledger import Part
from src.runs.stopping import Deadline, StopRequest

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One training of a phase and where its checkpoints are; no store where none are written."""

    name: str
    phase: str
    store: CheckpointStore | None


def store_of(
    folder: Path, inputs: Mapping[str, str], settings: CheckpointSettings, machine: Mapping[str, str]
) -> CheckpointStore | None:
    """The checkpoints of one training; None where the configuration wants none."""
    if not settings.enabled:
        return None
    return CheckpointStore(folder, inputs, keep_last=settings.keep_last, machine=machine)


def kept_weights(job: Job, say: Say) -> Weights | None:
    """The policy's weights of the newest checkpoint; None where there is none."""
    loaded = None if job.store is None else job.store.newest(say)
    return None if loaded is None else loaded.snapshot.tensors["policy"]


def ends_whole(job: Job, plan: RolloutPlan) -> bool:
    """Whether the newest checkpoint is of the training's end: not damaged, not deleted."""
    loaded = None if job.store is None else job.store.newest(lambda _: None)
    return loaded is not None and loaded.snapshot.step >= plan.actual


def train_resumably(
    bench: Bench,
    job: Job,
    model: TimedMaskablePPO,
    plan: RolloutPlan,
    callbacks: list[Any],
    *,
    finished: bool,
    log_bytes: int,
    stop: StopRequest,
    deadline: Deadline,
    saved: Callable[[int], None],
    not_bitwise: list[str],
) -> TrainingRecord | None:
    """Train what is left of the plan, with `callbacks` besides the one that logs. None if the training was `finished`
    before: the model then has its weights (trained again where its last checkpoint is lost), and nothing is logged.

    `log_bytes`: length of the log where this training begins. `saved` is called after each checkpoint, written or gone
    on from, with the length of the log it holds. `not_bitwise`
    takes sentences on why the result may differ in its last bits. A signal or the timeout ends it at a rollout's end,
    with a checkpoint.
    """
    loaded = None if job.store is None else job.store.newest(bench.display.say)
    if finished and loaded is not None and loaded.snapshot.step >= plan.actual:
        restore_finished(model, replace(loaded.snapshot, state=loaded.snapshot.state["training"]))
        return None
    if finished:
        bench.display.say(
            f"{job.name} is trained again where it was lost: its last checkpoint is not there "
            f"(checkpoint.enabled false, damaged or deleted)"
        )
    what = f"{plan.actual:,} timesteps over {plan.n_envs} accounts"
    rows, purge = _rows_up_to(bench, log_bytes if loaded is None else loaded.snapshot.state["log_bytes"]), 0
    if loaded is not None:
        what += f", resuming from {loaded.snapshot.step:,}"
        purge = _first_step_not_kept(rows, job, loaded.snapshot.step)
    with (
        bench.phase(job.name, what),
        bench.logged(job.name, plan, keep_bytes=len(rows), purge_step=purge, shown_only=finished) as (logging, sink),
    ):
        resumables = [logging, *callbacks]
        if loaded is not None:
            found = [*loaded.not_bitwise, *_restored(model, resumables, loaded)]
            not_bitwise += [sentence for sentence in found if sentence not in not_bitwise]
            saved(loaded.snapshot.state["log_bytes"])

        def logged() -> _Logged:
            if sink is None:
                return _Logged(log_bytes, b"")
            return _Logged(log_bytes, read_regular(sink.path)[log_bytes : sink.offset])

        boundary = _Boundary(bench, job, model, plan, resumables, logged, stop, deadline, saved)
        model.after_update = boundary
        try:
            with stop.deferred():
                record = train(model, plan, job.name, resumables, resumed=loaded is not None)
        finally:
            model.after_update = None
    if model.split_updates:
        not_bitwise.append(f"{model.split_updates} updates of {job.name} were split to fit into memory")
    return None if finished else record


class _Logged(NamedTuple):
    """The rows of one training in the log, and the length of the log at its beginning."""

    start: int
    rows: bytes


def restore_log(folder: Path, jobs: Sequence[Job], finished: Mapping[str, Part], say: Say) -> None:
    """Make the log again from the checkpoints of a run's trainings, in their order, where it differs from what they
    hold. The damaged one is kept. Rows without an intact checkpoint are left as they are."""
    rows = b""
    for job in jobs:
        try:
            loaded = None if job.store is None else job.store.newest(lambda _: None)
        except CheckpointMismatch:  # reported when that training is resumed
            break
        if loaded is None or loaded.snapshot.state.get("log_start") != len(rows):
            break
        more = loaded.snapshot.tensors["log"]["rows"].numpy().tobytes()
        if job.name in finished:
            more += finished[job.name].log_tail.encode()
            if len(rows) + len(more) != finished[job.name].log_bytes:
                break
        rows += more
    path = folder / LOG_NAME
    found = read_regular(path) if path.exists() else b""
    if found[: len(rows)] == rows:
        return
    kept = f"; the damaged one is kept as {keep_aside(path).name}" if path.exists() else ""
    write_atomically(path, rows)
    say(f"{path} had lost or changed rows and was written again from the checkpoints{kept}")


def _rows_up_to(bench: Bench, log_bytes: int) -> bytes:
    """The log as it was at that length; no result depends on it, so the run continues if some of it is lost."""
    assert bench.folder is not None
    path = bench.folder / LOG_NAME
    rows = read_regular(path)[:log_bytes] if path.exists() else b""
    if len(rows) < log_bytes:
        bench.display.say(f"{path} has lost rows that were written to it; what it holds is kept")
    return rows


def _first_step_not_kept(rows: bytes, job: Job, step: int) -> int:
    """Of TensorBoard's points, which cannot be cut by bytes: one at the checkpoint's own step was logged before it, or
    when the stopped process wrote what was pending."""
    try:
        last = json.loads(rows.splitlines()[-1])
        logged_before = (last["phase"], last["num_timesteps"]) == (job.name, step)
    except (IndexError, ValueError, KeyError, TypeError):  # no row, or one torn or changed
        logged_before = False
    return step + 1 if logged_before else step


def _restored(model: TimedMaskablePPO, resumables: list[Any], loaded: Loaded) -> list[str]:
    snapshot = replace(loaded.snapshot, state=loaded.snapshot.state["training"])
    return restore(model, resumables, snapshot)


class _Boundary:
    """Called after each update: the clean instant at which a checkpoint may be taken and a run may stop."""

    def __init__(
        self,
        bench: Bench,
        job: Job,
        model: TimedMaskablePPO,
        plan: RolloutPlan,
        resumables: list[Any],
        logged: Callable[[], _Logged],
        stop: StopRequest,
        deadline: Deadline,
        saved: Callable[[int], None],
    ) -> None:
        self._settings = bench.config.checkpoint
        self._job = job
        self._model = model
        self._plan = plan
        self._resumables = resumables
        self._logged = logged
        self._stop = stop
        self._deadline = deadline
        self._saved = saved
        self._saved_at = model.num_timesteps

    def __call__(self) -> None:
        ends = self._stop.requested or self._deadline.passed
        if self._job.store is not None and (ends or self._is_due()):
            self._save(self._job.store)
        self._stop.check()
        self._deadline.check()

    def _is_due(self) -> bool:
        step, every = self._model.num_timesteps, self._settings.interval_steps
        if step >= self._plan.actual:
            return True
        return self._settings.strategy == "interval" and step // every > self._saved_at // every

    def _save(self, store: CheckpointStore) -> None:
        began = time.perf_counter()
        snapshot = capture(self._model, self._resumables)
        start, rows = self._logged()
        state = {"training": snapshot.state, "log_bytes": start + len(rows), "log_start": start}
        # With its rows, which no other file holds: a log that is lost or damaged is made again from them.
        log = {"rows": torch.from_numpy(np.frombuffer(rows, np.uint8).copy())}
        store.save(replace(snapshot, state=state, tensors={**snapshot.tensors, "log": log}))
        self._saved_at = self._model.num_timesteps
        self._model.checkpoint_s += time.perf_counter() - began
        self._saved(start + len(rows))
