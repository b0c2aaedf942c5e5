"""The training of a population: `learn` for all members at once, with each one's callbacks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

from src.agent import clock as parts
from src.agent.learner.fused import FusedMaskablePPO
from src.agent.learner.population import Population, check_alike, make_population
from src.agent.learner.population_network import Precision
from src.agent.learner.population_rollout import CollectedRollout
from src.agent.ppo import GeneratorStates
from src.agent.rollout_plan import RolloutPlan
from src.agent.training import TrainingRecord
from src.trading.kernel import TRUNCATED


def train_population(
    models: Sequence[FusedMaskablePPO],
    plan: RolloutPlan,
    phases: Sequence[str],
    callbacks_of_each: Sequence[Sequence[BaseCallback]],
    generators: Sequence[GeneratorStates],
    *,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    graphs: bool | None = None,
    resumed: bool = False,
    after_rollout: Callable[[Population], None] | None = None,
) -> list[TrainingRecord]:
    """Train the planned rollouts with all models, or where `resumed` what is left of them; what they took, by member.

    Models are as for `training.train`, built or restored one after another, and `generators` the states of the global
    generators when each was ready. Callbacks of a member are called in the order in which `learn` calls them, but those
    of a rollout's steps after the rollout was played: they cannot act on it, their `locals` have `rewards`, `dones` and
    `infos` (without last observations), and one that returns False ends the training of all members after that rollout.
    `after_rollout` is called at every rollout boundary, after the update; the models have their counters and figures
    then, and their weights, Adams, accounts and last observations after `Population.put_back`, which is called at the
    end in any case. Seconds are each member's equal share of the group's: they add up to them.

    Raises MemberDiverged where a member diverges, ValueError for models that cannot train together.
    """
    check_alike(models)
    learners = [
        _Learner(model, callbacks, _remaining(model, plan, resumed=resumed), resumed=resumed)
        for model, callbacks in zip(models, callbacks_of_each, strict=True)
    ]
    population = make_population(models, generators, device, precision=precision, graphs=graphs)
    try:
        for model in models:
            model.pace.begin()
        goes_on = True
        while goes_on and models[0].num_timesteps < learners[0].total:
            goes_on = _rollout(population, learners, after_rollout)
        for learner in learners:
            learner.callback.on_training_end()
        population.put_back()
    finally:
        population.close()
        for callbacks in callbacks_of_each:
            for callback in callbacks:  # what they were shown would keep it in memory
                callback.locals = {}
    return [_record(model, plan, phase, population) for model, phase in zip(models, phases, strict=True)]


class _Learner:
    """A member in `learn`, with its names."""

    def __init__(
        self, model: FusedMaskablePPO, callbacks: Sequence[BaseCallback], remaining: int, *, resumed: bool
    ) -> None:
        self.model = model
        self.total, self.callback = model._setup_learn(
            remaining, CallbackList(list(callbacks)), not resumed, "MaskablePPO", False
        )
        self.callback.on_training_start({"self": model, "total_timesteps": self.total}, {})

    def show(self, member: int, collected: CollectedRollout) -> bool:
        """Tell the callbacks of every step of the rollout; whether all of them want to go on."""
        model, goes_on = self.model, True
        for step, (rewards, endings) in enumerate(
            zip(collected.rewards[member], collected.endings[member], strict=True)
        ):
            model.num_timesteps += len(rewards)
            dones = endings != 0
            infos: list[dict[str, Any]] = [{} for _ in range(len(rewards))]
            said = np.flatnonzero(dones).tolist()
            for env in said:
                infos[env] = {
                    "episode": collected.episodes[member, step, env],
                    "TimeLimit.truncated": bool(endings[env] == TRUNCATED),
                }
            self.callback.update_locals(
                {"n_steps": step, "rewards": rewards.copy(), "dones": dones, "infos": infos, "env": model.env}
            )
            goes_on = self.callback.on_step() and goes_on
            if said:
                model._update_info_buffer([infos[env] for env in said], dones[said])
        return goes_on


def _rollout(
    population: Population, learners: Sequence[_Learner], after_rollout: Callable[[Population], None] | None
) -> bool:
    """A rollout and its update; whether the training goes on."""
    began, clock = time.perf_counter(), population.models[0].clock
    for learner in learners:
        learner.callback.on_rollout_start()
    collected = population.collect()
    before, goes_on = clock.switch(parts.LOGGING), True
    for member, learner in enumerate(learners):
        goes_on = learner.show(member, collected) and goes_on
    if not goes_on:
        return False
    for learner in learners:
        learner.callback.on_rollout_end()
        learner.model._update_current_progress_remaining(learner.model.num_timesteps, learner.total)
    clock.switch(before)
    played = time.perf_counter()
    population.update()
    ended = time.perf_counter()
    share = 1.0 / len(learners)
    for learner in learners:
        model = learner.model
        model.rollout_s += (played - began) * share
        model.update_s += (ended - played) * share
        model.pace.add((ended - began) * share)
    if after_rollout is not None:
        after_rollout(population)
    return True


def _remaining(model: FusedMaskablePPO, plan: RolloutPlan, *, resumed: bool) -> int:
    return plan.actual - model.num_timesteps if resumed else plan.actual


def _record(model: FusedMaskablePPO, plan: RolloutPlan, phase: str, population: Population) -> TrainingRecord:
    seconds = model.rollout_s + model.update_s
    return TrainingRecord(
        phase=phase,
        timesteps_requested=plan.requested,
        timesteps=model.num_timesteps,
        n_envs=plan.n_envs,
        n_steps=plan.n_steps,
        batch_size=plan.batch_size,
        seconds=seconds,
        rollout_s=model.rollout_s,
        update_s=model.update_s,
        checkpoint_s=model.checkpoint_s,
        steps_per_s=model.num_timesteps / seconds if seconds else 0.0,
        environment_s=model.environment_s,
        learner="population",
        why_learner=f"{len(population.models)} members at once on {population.device.type}, {population.precision}",
        pace_s=model.pace.seconds(),
        pace_rollouts=model.pace.rollouts,
    )
