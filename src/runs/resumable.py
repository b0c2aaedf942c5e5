"""One training that can be killed at any instant: checkpoints on the way, and going on from the newest."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from src.agent.checkpoints import CheckpointStore, Loaded
from src.agent.policy import Weights
from src.agent.ppo import TimedMaskablePPO
from src.agent.rollout_plan import RolloutPlan
from src.agent.settings import CheckpointSettings
from src.agent.training import TrainingRecord, train
from src.agent.training_state import capture, restore
from src.runs.bench import Bench
from src.runs.folders import LOG_NAME
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
    saved: Callable[[], None],
    not_bitwise: list[str],
) -> TrainingRecord | None:
    """Train what is left of the plan, `callbacks` beside the one that logs. None where the training was `finished`
    before: the model then has its weights (trained again where its last checkpoint is lost), and nothing is logged.

    `log_bytes`: length of the log where this training begins. `saved` is called after each checkpoint. `not_bitwise`
    takes sentences on why the result may differ in its last bits. A signal or the timeout ends it at a rollout's end,
    with a checkpoint.
    """
    loaded = None if job.store is None else job.store.newest(bench.display.say)
    if finished and loaded is not None and loaded.snapshot.step >= plan.actual:
        model.policy.load_state_dict(loaded.snapshot.tensors["policy"])
        model.num_timesteps = loaded.snapshot.step
        return None
    if finished:
        bench.display.say(
            f"{job.name} is trained again, what of it is lost: its last checkpoint is not there "
            f"(checkpoint.enabled false, damaged or deleted)"
        )
    what = f"{plan.actual:,} timesteps over {plan.n_envs} accounts"
    rows, purge = _rows_up_to(bench, log_bytes if loaded is None else loaded.snapshot.state["log_bytes"]), 0
    if loaded is not None:
        what += f", going on from {loaded.snapshot.step:,}"
        purge = _first_step_not_kept(rows, job, loaded.snapshot.step)
    with (
        bench.phase(job.name, what),
        bench.logged(job.name, plan, keep_bytes=len(rows), purge_step=purge, shown_only=finished) as (logging, sink),
    ):
        resumables = [logging, *callbacks]
        if loaded is not None:
            found = [*loaded.not_bitwise, *_restored(model, resumables, loaded)]
            not_bitwise += [sentence for sentence in found if sentence not in not_bitwise]

        def log_size() -> int:
            return log_bytes if sink is None else sink.offset

        boundary = _Boundary(bench, job, model, plan, resumables, log_size, stop, deadline, saved)
        model.after_update = boundary
        try:
            with stop.deferred():
                record = train(model, plan, job.name, resumables, resumed=loaded is not None)
        finally:
            model.after_update = None
    if model.split_updates:
        not_bitwise.append(f"{model.split_updates} updates of {job.name} were split to fit into memory")
    return None if finished else record


def _rows_up_to(bench: Bench, log_bytes: int) -> bytes:
    """The log as it was at that length; no result hangs on it, so the run goes on where some of it is lost."""
    assert bench.folder is not None
    path = bench.folder / LOG_NAME
    rows = path.read_bytes()[:log_bytes] if path.exists() else b""
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
        log_bytes: Callable[[], int],
        stop: StopRequest,
        deadline: Deadline,
        saved: Callable[[], None],
    ) -> None:
        self._settings = bench.config.checkpoint
        self._job = job
        self._model = model
        self._plan = plan
        self._resumables = resumables
        self._log_bytes = log_bytes
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
        state = {"training": snapshot.state, "log_bytes": self._log_bytes()}
        store.save(replace(snapshot, state=state))
        self._saved_at = self._model.num_timesteps
        self._model.checkpoint_s += time.perf_counter() - began
        self._saved()
