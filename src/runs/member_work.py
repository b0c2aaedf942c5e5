"""One training, in whatever process: it writes checkpoints, resumes from the newest, and leaves weights and exports.

A member's folder holds its checkpoints, its log rows, `weights.safetensors`, and the policy as a zip and as data. Every
checkpoint holds the rows that were logged up to it, so a log that is lost or damaged is written again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensor_bytes
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from src import run_names
from src.advisor.table import AdviceTable
from src.advisor.table_file import load_table
from src.agent import clock as parts
from src.agent.checkpoints import CheckpointStore, Loaded
from src.agent.clock import Clock
from src.agent.export import export_base, export_data, export_hybrid
from src.agent.learner.bound import products_cpu_s
from src.agent.log_sink import DisplaySink, JsonLinesSink, Sink, TensorBoardSink
from src.agent.market import Market
from src.agent.members import Member, Training
from src.agent.policy import Weights
from src.agent.ppo import Library, TimedMaskablePPO
from src.agent.quarters import QuarterWeights, is_quarter, weights_by_timesteps
from src.agent.rollout_plan import RolloutPlan
from src.agent.trainer import Trainer
from src.agent.training import TrainingRecord, release, train
from src.agent.training_state import capture, restore
from src.clean_up import CleanUps, closing
from src.configuration import Configuration
from src.evaluation.placebo import placebo_table
from src.evaluation.sealed import drawn_sessions
from src.files import kind_of, read_regular, write_atomically
from src.market.split import Split
from src.runs.inputs import weights_fingerprint
from src.runs.resources import machine_facts
from src.runs.watch import Watch

WEIGHTS_NAME = "weights.safetensors"
QUARTERS_NAME = "quarters.safetensors"
KEEPS_QUARTERS = (Training.BASE, Training.HYBRID)
"""The trainings that are asked whether they are still learning: those of production."""


@dataclass(frozen=True)
class Advice:
    """A frozen table on disk."""

    path: Path
    sha256: str

    def load(self) -> AdviceTable:
        """UserError where it is not the one that was frozen."""
        return load_table(self.path, self.sha256)


@dataclass(frozen=True)
class MemberJob:
    """All that a training needs besides the market. It pickles, but for `own_env` and `after`."""

    config: Configuration
    member: Member
    trainer: Trainer
    plan: RolloutPlan
    folder: Path
    inputs: Mapping[str, str]
    threads: int
    make_callback: Callable[..., Any]
    base: Path | None = None
    """Folder of the member whose weights this one begins from."""
    advice: Advice | None = None
    products: Library | None = None
    """The library that multiplies matrices, chosen once for the run; a checkpoint keeps its own."""
    tensorboard: Path | None = None
    split: Split | None = None
    """Of the market's sessions, where it is not the run's own: a walk-forward fold."""
    own_env: VecEnv | None = None
    after: Callable[[VecEnv], None] | None = None
    """Called with the environment once the training is over."""
    params: NDArray[np.void] | None = None
    """An account's constants, where they are not the run's own: a setting of a sweep."""
    since: int = 0
    """Timesteps at which an earlier task paused this training; this task continues from there."""
    until: int | None = None
    """Timesteps after which this task pauses the training, at a rollout's end; None: it trains the whole plan."""

    @property
    def part(self) -> RolloutPlan:
        """What of the plan is trained by now once this task is done."""
        return self.plan if self.until is None else replace(self.plan, actual=self.until)

    @property
    def keeps_quarters(self) -> bool:
        """Whether it keeps its weights at the quarters of the training."""
        return self.member.fold == 0 and self.member.training in KEEPS_QUARTERS

    @property
    def exports(self) -> Path:
        """The zip that is exported; the policy as data lies beside it."""
        return self.folder / f"{self.member.training}.zip"


def train_member(job: MemberJob, market: Market | None, watch: Watch) -> dict[str, Any]:
    """Train what is left of a member, write its files and return its row of the report.

    A signal or a timeout ends it at a rollout's end, with a checkpoint (`watch.check` raises).
    """
    clock = Clock()
    torch.set_num_threads(job.threads)
    with clock.within(parts.ADVICE):
        heard = advice_heard(job)
    with closing(job.own_env or job.trainer.make_env(own_market(job, market), heard)) as env:
        model, callbacks = new_model(job, env)
        model.products, model.clock = job.products, clock
        open_training = OpenTraining(job, model, callbacks, watch)
        loaded = open_training.store.newest(watch.say) if job.config.checkpoint.enabled else None
        if loaded is not None and loaded.snapshot.step > job.part.actual:  # of a task behind this one, which was lost
            loaded = None
        with open_training.opened(loaded) as resumables:
            model.after_update = open_training.rollout_ended
            try:
                with watch.deferred():
                    record = train(model, job.part, str(job.member.training), resumables, resumed=loaded is not None)
            finally:
                model.after_update = None
        clock.switch(parts.EXPORTS)
        drawn = sessions_drawn(job, env, market)
        if job.after is not None:
            job.after(env)
    return open_training.finished(record, drawn)


def own_market(job: MemberJob, market: Market | None) -> Market | None:
    """The market with the sessions of the job's own split, and its own constants of an account."""
    if market is None or (job.split is None and job.params is None):
        return market
    return replace(market, split=job.split or market.split, params=market.params if job.params is None else job.params)


def sessions_drawn(job: MemberJob, env: VecEnv, market: Market | None) -> dict[str, Any]:
    """The sessions in which the training's episodes began, as a part of its row; nothing where it has no market."""
    own = own_market(job, market)
    found = None if own is None else drawn_sessions(env, own)
    return {} if found is None else {"sessions_drawn": found.to_dict()}


def load_weights(folder: Path) -> Weights:
    """The weights a member left. Copied: the alignment of foreign memory changes what a product rounds to."""
    tensors = read_tensors(read_regular(folder / WEIGHTS_NAME))
    return {name: torch.empty_like(tensor).copy_(tensor) for name, tensor in tensors.items()}


def load_quarters(folder: Path) -> dict[int, Weights]:
    """The weights a member had at the quarters of its training, and at its end, by timesteps. None of a training that
    failed."""
    if not (folder / QUARTERS_NAME).exists():
        return {}
    return weights_by_timesteps(read_tensors(read_regular(folder / QUARTERS_NAME)))


def leave_weights(job: MemberJob, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Of a training that failed: write the weights of its newest checkpoint, so that others can begin from them. None
    where it has no checkpoint."""
    loaded = _store(job).newest(say) if job.config.checkpoint.enabled else None
    if loaded is None:
        return None
    weights = loaded.snapshot.tensors["policy"]
    write_atomically(job.folder / WEIGHTS_NAME, tensor_bytes(dict(weights)))
    return {"weights": weights_fingerprint(weights)}


def gather_rows(run: Path, members: Iterable[str]) -> None:
    """Write the run's metrics.jsonl: the rows of these members, folders below the run's, in their order."""
    rows = b"".join(read_regular(path) for name in members if (path := run / name / run_names.RECORDS).exists())
    path = run / run_names.RECORDS
    if rows and (not path.exists() or kind_of(path) or read_regular(path) != rows):
        write_atomically(path, rows)


def advice_heard(job: MemberJob) -> AdviceTable | None:
    """The table of advice that the accounts of a training read."""
    if job.advice is None:
        return None
    table = job.advice.load()
    return placebo_table(table, job.member.seed) if job.member.training == Training.PLACEBO else table


def new_model(job: MemberJob, env: VecEnv) -> tuple[TimedMaskablePPO, list[BaseCallback]]:
    """A model at the beginning of the training, and the callbacks that the training needs."""
    if job.base is None:
        return job.trainer.new_base(env, job.plan), []
    llm = None if job.advice is None else job.config.llm
    return job.trainer.new_finetuned(load_weights(job.base), env, job.plan, llm)


def _store(job: MemberJob, more: Mapping[str, str] | None = None) -> CheckpointStore:
    machine = {**machine_facts(job.threads), **(more or {})}
    return CheckpointStore(job.folder, job.inputs, keep_last=job.config.checkpoint.keep_last, machine=machine)


class OpenTraining:
    """A model under training with what a run needs around it: log, checkpoints, files.

    `together` says of a training in a group who is in it and where they train: facts that last bits depend on. `group`
    is how many they are; a checkpoint keeps it.
    """

    def __init__(
        self,
        job: MemberJob,
        model: TimedMaskablePPO,
        callbacks: list[BaseCallback],
        watch: Watch,
        together: Mapping[str, str] | None = None,
        group: int | None = None,
    ) -> None:
        self.job = job
        self.group = group
        self.model = model
        self.store = _store(job, together)
        self._callbacks = callbacks
        self._watch = watch
        self._settings = job.config.checkpoint
        self._quarters = QuarterWeights(job.plan.actual)
        self._not_bitwise: list[str] = []
        self._resumables: list[Any] = []
        self._rows: JsonLinesSink
        self._saved_at = model.num_timesteps

    @contextmanager
    def opened(self, loaded: Loaded | None) -> Iterator[list[BaseCallback]]:
        """Put the model where a checkpoint left it, or leave it at the beginning; within, the log is open. Yields the
        training's callbacks."""
        job, watch = self.job, self._watch
        rows = b"" if loaded is None else loaded.snapshot.tensors["log"]["rows"].numpy().tobytes()
        job.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(job.folder / run_names.RECORDS, rows)
        purge = 0 if loaded is None else _first_step_not_kept(rows, loaded.snapshot.step)
        with CleanUps() as stack:
            self._rows = JsonLinesSink(job.folder / run_names.RECORDS, keep_bytes=len(rows))
            stack.call(self._rows.close)
            self._resumables = [_logging(job, self._rows, watch, purge, stack), *self._callbacks]
            if loaded is not None:
                self._not_bitwise += [*loaded.not_bitwise, *_restored(self.model, self._resumables, loaded)]
                if loaded.snapshot.step != job.since:
                    watch.say(f"{job.member}: resuming from {loaded.snapshot.step:,} of {job.plan.actual:,} timesteps")
                watch.saved(loaded.snapshot.step)
                self._quarters.restore(loaded.snapshot.tensors.get("quarters", {}))  # older checkpoints have none
                if loaded.snapshot.step >= job.plan.actual:  # others of its group may be sealed by now
                    self.group = loaded.snapshot.state.get("group") or self.group
            self._saved_at = self.model.num_timesteps
            yield self._resumables

    # At a rollout's end: the clean instant at which a checkpoint may be taken and a run may stop

    def rollout_ended(self) -> None:
        """Keep what is to be kept of this instant, and stop where the run ends."""
        self.look()
        if self.is_due:
            self.save()
        self._watch.check(self.save)

    @property
    def at_quarter(self) -> bool:
        """Whether `look` will keep the weights."""
        model = self.model
        return self.job.keeps_quarters and is_quarter(
            model.num_timesteps, model.n_envs * model.n_steps, self.job.plan.actual
        )

    def look(self) -> None:
        """Keep the weights of a quarter."""
        model = self.model
        if self.job.keeps_quarters:
            self._quarters.look(model.num_timesteps, model.n_envs * model.n_steps, model.policy.state_dict())

    @property
    def is_due(self) -> bool:
        """Whether a checkpoint is to be taken now."""
        step, every = self.model.num_timesteps, self._settings.interval_steps
        if not self._settings.enabled:
            return False
        if step >= self.job.part.actual:
            return True
        return self._settings.strategy == "interval" and step // every > self._saved_at // every

    @property
    def is_saved(self) -> bool:
        """Whether nothing is to be saved: there is a checkpoint of this instant, or there are to be none."""
        return not self._settings.enabled or self._saved_at == self.model.num_timesteps

    def save(self, *, delete_older: bool = True) -> None:
        """Write a checkpoint of this instant, where there is none yet."""
        if self.is_saved:
            return
        model = self.model
        before = model.clock.switch(parts.CHECKPOINTS)
        began = time.perf_counter()
        snapshot = capture(model, self._resumables)
        rows = read_regular(self._rows.path)[: self._rows.offset]
        log = {"rows": torch.from_numpy(np.frombuffer(rows, np.uint8).copy())}
        state = {"training": snapshot.state, "group": self.group}
        quarters = {"quarters": self._quarters.tensors()} if self.job.keeps_quarters else {}
        tensors = {**snapshot.tensors, "log": log, **quarters}
        self.store.save(replace(snapshot, state=state, tensors=tensors), delete_older=delete_older)
        self._saved_at = model.num_timesteps
        model.checkpoint_s += time.perf_counter() - began
        self._watch.saved(self._saved_at)
        model.clock.switch(before)

    def finished(self, record: TrainingRecord, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Write the files of the trained member; what the report and later tasks read of it."""
        job, model, clock = self.job, self.model, self.model.clock
        files = _written(job, model, self._quarters)
        if model.split_updates:
            self._not_bitwise.append(f"{model.split_updates} updates of {job.member} were split to fit into memory")
        row = {**record.to_dict(), **job.member.to_dict(), **drawn}
        weights = weights_fingerprint(model.policy.state_dict())
        facts: dict[str, Any] = {"row": row, "weights": weights, "not_bitwise": self._not_bitwise}
        with clock.within(parts.MEASURING):
            bound = products_cpu_s(model)
        released = release(model) if job.config.hardware.optimize_memory else 0
        facts |= {"time": {**clock.facts(), "bound_cpu_s": bound}, "spent": clock.facts_of_process()}
        return {**facts, "files": [path.name for path in files], "released_bytes": released}


def _logging(job: MemberJob, rows: JsonLinesSink, watch: Watch, purge: int, stack: CleanUps) -> Any:
    """The callback that logs; what is pending is written however the training ends."""
    member = job.member.to_dict()
    sinks: list[Sink] = [_Labelled(rows, member), _Labelled(DisplaySink(watch.record), member)]
    if job.tensorboard is not None:
        sinks.append(TensorBoardSink(job.tensorboard, purge_step=purge))
        stack.call(sinks[-1].close)
    interval = job.config.monitoring.log_interval if job.config.performance.batched_logging else 1
    phase = str(job.member.training)
    callback = job.make_callback(interval, sinks=sinks, total_timesteps=job.plan.actual, phase=phase)
    stack.call(callback.flush)
    return callback


class _Labelled:
    """A sink whose records say which member they are of."""

    def __init__(self, sink: Sink, member: Mapping[str, Any]) -> None:
        self._sink = sink
        self._member = member
        self.close = sink.close

    def write(self, record: Mapping[str, Any]) -> None:
        self._sink.write({**record, **self._member})


def _written(job: MemberJob, model: TimedMaskablePPO, quarters: QuarterWeights) -> list[Path]:
    """Weights for the members that begin from them and for those who ask how it learned, the policy for everybody
    else."""
    weights = job.folder / WEIGHTS_NAME
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.policy.state_dict().items()}
    write_atomically(weights, tensor_bytes(state))
    export = export_base if job.advice is None else export_hybrid
    zipped = export(model, job.exports)
    files = [weights, zipped, *export_data(model, zipped), job.folder / run_names.RECORDS]
    if job.keeps_quarters:
        quarters.keep(model.num_timesteps, state)
        files.append(job.folder / QUARTERS_NAME)
        write_atomically(files[-1], tensor_bytes(quarters.tensors()))
    return files


def _first_step_not_kept(rows: bytes, step: int) -> int:
    """Of TensorBoard's points, which cannot be cut by bytes: one at the checkpoint's own step was logged before it, or
    when the stopped process wrote what was pending."""
    last = json.loads(rows.splitlines()[-1]) if rows else {}
    return step + 1 if last.get("num_timesteps") == step else step


def _restored(model: TimedMaskablePPO, resumables: list[Any], loaded: Loaded) -> list[str]:
    snapshot = replace(loaded.snapshot, state=loaded.snapshot.state["training"])
    return restore(model, resumables, snapshot)
