"""Which setting of the machine would make training faster, and by how much: tried here and now, not guessed.

The settings take turns, a short rollout and a short update each, so that a slow minute meets all alike. Nothing of it
is kept but the times.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3.common.vec_env import VecEnv

from src.agent.learner.fused import FusedMaskablePPO
from src.agent.market import Market
from src.agent.ppo import Library, global_generators_kept
from src.agent.rollout_plan import RolloutPlan
from src.agent.settings import HardwareSettings
from src.agent.trainer import Trainer
from src.agent.training import build_base, train
from src.machine_limits import usable_cores

WORTH_TIMESTEPS = 100_000
"""Timesteps of all trainings together below which no time is spent on trying settings."""
SHARE = 0.02
"""Of the trainings' time, spent on trying unless the user says how long."""
LONGEST_S = 30.0
ROUNDS = (3, 15)
EPOCHS = 2
"""An update's time is in proportion to its epochs, so these few are timed for all."""
FEWEST_STEPS = 4


@dataclass(frozen=True)
class Candidate:
    """One setting changed."""

    setting: str
    now: str
    tried: str
    hardware: HardwareSettings
    changes_learning: bool = False
    """Whether another policy comes out, not the same one sooner."""


@dataclass(frozen=True)
class TrialJob:
    """What is tried: the base training of this trainer. `seconds` None: `SHARE` of what `timesteps` would take."""

    trainer: Trainer
    timesteps: int
    slots: int
    seconds: float | None = None
    products: Library | None = None


@dataclass(frozen=True)
class Tried:
    """How many times as fast: the median of the rounds, and the least and most of them."""

    setting: str
    now: str
    tried: str
    speedup: float
    low: float
    high: float
    changes_learning: bool


def candidates(trainer: Trainer, slots: int) -> list[Candidate]:
    """Settings to try, one changed each; those that make the same policy sooner come first."""
    return list(_candidates(trainer, slots))


def _candidates(trainer: Trainer, slots: int) -> Iterator[Candidate]:
    hardware, on_cpu = trainer.hardware, trainer.device.type == "cpu"

    def changed(key: str, value: Any, *, now: Any = None, changes_learning: bool = False) -> Candidate:
        before = getattr(hardware, key) if now is None else now
        to = hardware.model_copy(update={key: value})
        return Candidate(f"hardware.{key}", str(before), str(value), to, changes_learning)

    if on_cpu and hardware.learner == "stock":
        yield changed("learner", "fused")
    if trainer.environment.env_class is None:
        if hardware.vec_env != "batched":
            yield changed("vec_env", "batched")
    else:
        yield changed("vec_env", "subproc" if hardware.vec_env == "dummy" else "dummy")
    threads = hardware.torch_threads or 1
    if on_cpu and usable_cores() >= 2 * threads * slots:
        yield changed("torch_threads", 2 * threads, now=threads)
    if trainer.environment.env_class is None:
        for factor in (4, 16):
            if (more := factor * hardware.vectorized_envs) <= 1024:
                yield changed("vectorized_envs", more, changes_learning=True)
    if (larger := 4 * hardware.batch_size) <= 8192:
        yield changed("batch_size", larger, changes_learning=True)


def why_not_tried(timesteps: int, seconds: float | None) -> str:
    """Why no setting is to be tried for trainings of so many timesteps; empty where some are."""
    if seconds == 0.0:
        return "monitoring.settings_trial_s is 0"
    if seconds is None and timesteps < WORTH_TIMESTEPS:
        return f"the trainings are shorter than {WORTH_TIMESTEPS:,} timesteps together"
    return ""


def nothing_tried(why: str) -> dict[str, Any]:
    """The section of a run that tries nothing."""
    return {"steps_per_s": None, "rounds": 0, "tried": [], "not_tried": why, "seconds": 0.0}


def try_settings(job: TrialJob, market: Market | None, watch: Any) -> dict[str, Any]:
    """Report section `time.settings`: what was tried, and what it gains."""
    threads = torch.get_num_threads()
    try:
        with global_generators_kept(), ExitStack() as stack:
            return _tried(job, market, watch, stack)
    finally:
        torch.set_num_threads(threads)


def _tried(job: TrialJob, market: Market | None, watch: Any, stack: ExitStack) -> dict[str, Any]:
    current = _Trial(job, None, market, job.seconds or LONGEST_S, stack)
    current.round()  # warms up
    began = time.perf_counter()
    first = current.round()
    budget = min(LONGEST_S, SHARE * job.timesteps * first) if job.seconds is None else job.seconds
    others: list[_Trial] = []
    left_out: list[str] = []
    for candidate in candidates(job.trainer, job.slots):
        watch.check()
        # What is tried must leave time for its rounds.
        if time.perf_counter() - began + ROUNDS[0] * sum(t.round_s for t in (current, *others)) >= budget:
            left_out.append(candidate.setting)
            continue
        trial = _Trial(job, candidate, market, budget, stack)
        trial.round()
        others.append(trial)
    rounds: list[list[float]] = []
    while others and len(rounds) < ROUNDS[1] and (time.perf_counter() - began < budget or len(rounds) < ROUNDS[0]):
        watch.check()
        base = current.round()
        rounds.append([base, *(base / trial.round() for trial in others)])
    tried = [
        _result(trial.candidate, [of_round[n] for of_round in rounds])
        for n, trial in enumerate(others, start=1)
        if trial.candidate is not None
    ]
    seconds = statistics.median([of_round[0] for of_round in rounds] or [first])
    return {
        "steps_per_s": 1.0 / seconds,
        "rounds": len(rounds),
        "tried": [asdict(one) for one in tried],
        "not_tried": f"no time for {', '.join(dict.fromkeys(left_out))}" if left_out else "",
        "seconds": time.perf_counter() - began,
    }


def _result(candidate: Candidate, speedups: Sequence[float]) -> Tried:
    return Tried(
        candidate.setting,
        candidate.now,
        candidate.tried,
        statistics.median(speedups),
        min(speedups),
        max(speedups),
        candidate.changes_learning,
    )


class _Trial:
    """A model of its own under the settings as they are, or with one changed. `round_s` is what a round takes."""

    def __init__(
        self, job: TrialJob, candidate: Candidate | None, market: Market | None, budget: float, stack: ExitStack
    ) -> None:
        hardware = job.trainer.hardware if candidate is None else candidate.hardware
        trainer = replace(job.trainer, hardware=hardware, feature_cache=None)
        training = trainer.training
        self.candidate = candidate
        self._threads = hardware.torch_threads or 1
        env = trainer.make_env(market)
        stack.callback(env.close)
        self._plan = _plan(hardware, _step_s(env), budget)
        epochs = min(EPOCHS, training.n_epochs)
        self._whole = training.n_epochs / epochs
        self._model = build_base(
            env, training.model_copy(update={"n_epochs": epochs, "target_kl": None}), self._plan, trainer.seed,
            trainer.device, hardware.mixed_precision, hardware.learner,
        )  # fmt: skip
        if isinstance(self._model, FusedMaskablePPO) and self._model.learner == "fused":
            self._model.products = job.products
        self.round_s = 0.0

    def round(self) -> float:
        """Train one rollout; seconds a timestep."""
        torch.set_num_threads(self._threads)
        model, began = self._model, time.perf_counter()
        model.rollout_s = model.update_s = 0.0
        train(model, self._plan, "trial", [])
        self.round_s = time.perf_counter() - began
        return (model.rollout_s + model.update_s * self._whole) / self._plan.actual


def _plan(hardware: HardwareSettings, step_s: float, budget: float) -> RolloutPlan:
    """A rollout of one minibatch; of fewer steps, and so a smaller minibatch, where the environment is slow."""
    n_envs = hardware.vectorized_envs
    steps = max(1, -(-hardware.batch_size // n_envs))
    if steps * step_s > budget / 20:
        steps = min(steps, max(FEWEST_STEPS, int(budget / 20 / step_s)))
    rows = steps * n_envs
    minibatch = rows if rows < 2 * hardware.batch_size else hardware.batch_size
    return RolloutPlan(n_envs, steps, minibatch, 1, rows, rows)


def _step_s(env: VecEnv) -> float:
    """Seconds of a step of the environments, after one that warms up."""
    env.reset()
    seconds = 0.0
    for _ in range(2):
        actions = np.argmax(get_action_masks(env), axis=1)
        began = time.perf_counter()
        env.step(actions)
        seconds = time.perf_counter() - began
    return seconds
