"""The training of a population: `learn` for all members at once, with each one's callbacks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

from src.agent import clock as parts
from src.agent.interval import PlayedRollout
from src.agent.learner.fused import FusedMaskablePPO
from src.agent.learner.population import Population, make_population
from src.agent.learner.population_members import check_alike
from src.agent.learner.population_network import Precision
from src.agent.learner.population_rollout import CollectedRollout
from src.agent.ppo import GeneratorStates
from src.agent.rollout_plan import RolloutPlan
from src.agent.training import TrainingRecord, record_of
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
    after_rollout: Callable[[Population], bool | None] | None = None,
) -> list[TrainingRecord]:
    """Train the planned rollouts with all models, or where `resumed` what is left of them; what they took, by member.

    Models are as for `training.train`, built or restored one after another, and `generators` the states of the global
    generators when each was ready. Callbacks of a member are called in the order in which `learn` calls them, but those
    of a rollout's steps after the rollout was played: they cannot act on it, their `locals` have `rewards`, `dones` and
    `infos` (without last observations), and one that returns False ends the training of all members after that rollout.
    Where all callbacks have `on_rollout_played` they are told of all its steps at once, while the device works.
    `after_rollout` is called at every rollout boundary, after the update; the models have their counters then,
    and their figures, weights, Adams, accounts and last observations after `Population.put_back`, which is called at
    the end in any case; False from it ends the training. Seconds are each member's equal share of the group's.

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
        population.log()
        for learner in learners:
            learner.callback.on_training_end()
        population.put_back()
    finally:
        population.close()
        for callbacks in callbacks_of_each:
            for callback in callbacks:  # what they were shown would keep it in memory
                callback.locals = {}
    why = f"{len(models)} members at once on {population.device.type}, {population.precision}"
    return [record_of(model, plan, phase, "population", why) for model, phase in zip(models, phases, strict=True)]


class _Learner:
    """A member in `learn`, with its names."""

    def __init__(
        self, model: FusedMaskablePPO, callbacks: Sequence[BaseCallback], remaining: int, *, resumed: bool
    ) -> None:
        self.model = model
        self.callback = CallbackList(list(callbacks))
        self.total, _ = model._setup_learn(remaining, self.callback, not resumed, "MaskablePPO", False)
        self.hears_at_once = all(hasattr(callback, "on_rollout_played") for callback in callbacks)
        self.may_stop = any(getattr(callback, "stop_requested", None) is not None for callback in callbacks)
        self.callback.on_training_start({"self": model, "total_timesteps": self.total}, {})

    def show(self, member: int, collected: CollectedRollout) -> bool:
        """Tell the callbacks of every step of the rollout; whether all of them want to go on."""
        episodes = collected.episodes[member]
        if self.hears_at_once:
            goes_on = self._show_at_once(collected.rewards[member], episodes)
        else:
            goes_on = self._show_steps(collected.rewards[member], collected.endings[member], episodes)
        assert self.model.ep_info_buffer is not None
        self.model.ep_info_buffer.extend(summary for _, _, summary in episodes)
        return goes_on

    def _show_at_once(self, rewards: NDArray[np.float32], episodes: Sequence[tuple[int, int, Any]]) -> bool:
        steps, envs = rewards.shape
        self.model.num_timesteps += steps * envs
        sums = [float(of_step.sum(dtype=np.float64)) for of_step in rewards]
        played = PlayedRollout(envs, sums, [step for step, _, _ in episodes], [summary for _, _, summary in episodes])
        self.callback.n_calls, self.callback.num_timesteps = self.callback.n_calls + steps, self.model.num_timesteps
        return all([callback.on_rollout_played(played) for callback in self.callback.callbacks])  # type: ignore[attr-defined]

    def _show_steps(
        self, rewards: NDArray[np.float32], endings: NDArray[np.uint8], episodes: Sequence[tuple[int, int, Any]]
    ) -> bool:
        steps, envs = rewards.shape
        infos: list[list[dict[str, Any]]] = [[{} for _ in range(envs)] for _ in range(steps)]
        for step, env, summary in episodes:
            cut = bool(endings[step, env] == TRUNCATED)
            infos[step][env] = {"episode": summary, "TimeLimit.truncated": cut}
        goes_on = True
        for step in range(steps):
            self.model.num_timesteps += envs
            found = {"rewards": rewards[step].copy(), "dones": endings[step] != 0, "infos": infos[step]}
            self.callback.update_locals({"n_steps": step, "env": self.model.env, **found})
            goes_on = self.callback.on_step() and goes_on
        return goes_on


def _rollout(
    population: Population, learners: Sequence[_Learner], after_rollout: Callable[[Population], bool | None] | None
) -> bool:
    """Play a rollout and update; returns whether to continue training."""
    began, clock = time.perf_counter(), population.models[0].clock
    for learner in learners:
        learner.callback.on_rollout_start()
    collected = population.collect()
    played = time.perf_counter()

    shown: list[bool] = []

    def show() -> bool:
        with clock.within(parts.LOGGING):
            goes_on = all([learner.show(member, collected) for member, learner in enumerate(learners)])
            for learner in learners if goes_on else ():
                learner.callback.on_rollout_end()
        shown.append(goes_on)
        return goes_on

    timesteps = learners[0].model.num_timesteps + collected.rewards[0].size
    if all(learner.hears_at_once and not learner.may_stop for learner in learners):
        for learner in learners:
            learner.model._update_current_progress_remaining(timesteps, learner.total)
        population.update(meanwhile=show)
    else:
        if not show():
            return False
        for learner in learners:
            learner.model._update_current_progress_remaining(timesteps, learner.total)
        population.update()
    ended = time.perf_counter()
    share = 1.0 / len(learners)
    for learner in learners:
        model = learner.model
        model.rollout_s += (played - began) * share
        model.update_s += (ended - played) * share
        model.pace.add((ended - began) * share)
    goes_on = after_rollout is None or after_rollout(population) is not False
    return goes_on and all(shown)


def _remaining(model: FusedMaskablePPO, plan: RolloutPlan, *, resumed: bool) -> int:
    return plan.actual - model.num_timesteps if resumed else plan.actual
