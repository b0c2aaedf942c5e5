"""Members of populations on the small market, and the same models trained one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from src.advisor.settings import LLMSettings
from src.agent.learner.fused import FusedMaskablePPO
from src.agent.learner.population import Population
from src.agent.population_training import train_population
from src.agent.ppo import GeneratorStates, generator_states, set_generator_states
from src.agent.rollout_plan import RolloutPlan
from src.agent.settings import NetArch, PolicySettings
from src.agent.training import train
from src.evaluation.placebo import placebo_table
from src.testing_framework import BatchedCallback
from src.trading.vec_env import BatchedTradingVecEnv
from tests import small_runs
from tests.agent.resumable import LOG_INTERVAL, Kept

BLIND = LLMSettings(model="mock", llm_weight=0.8, use_opinion_features=False)
COLUMNS = ("actions", "rewards", "values", "log_probs", "advantages", "returns")
"""Of a rollout that are compared."""


@dataclass
class Setting:
    """What members of a population have in common; `changed` is set on every model."""

    training: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    """Of the accounts."""
    changed: dict[str, Any] = field(default_factory=dict)
    plan: RolloutPlan = field(default_factory=lambda: small_runs.plan(3))
    layers: tuple[tuple[int, ...], tuple[int, ...]] = ((16,), (16,))
    activation: str = "tanh"


@dataclass
class Member:
    """A model that is ready to learn, its callbacks, and where the global generators were then."""

    model: FusedMaskablePPO
    callbacks: list[Any]
    sink: Kept
    generators: GeneratorStates
    rollouts: list[dict[str, np.ndarray]] = field(default_factory=list)


def build(kind: str, seed: int, setting: Setting, *, own_callbacks: Sequence[Any] = ()) -> Member:
    """A member: base, rl_only, hybrid, blind (a hybrid whose networks do not see the opinion) or placebo; with `-2` in
    another walk-forward fold, that is over other sessions."""
    kind, _, fold = kind.partition("-")
    policy = PolicySettings(
        net_arch=NetArch(pi=setting.layers[0], vf=setting.layers[1]), activation_fn=setting.activation
    )
    trainer = small_runs.trainer(seed, policy_kwargs=policy, **setting.training)
    market = small_runs.market()
    params = market.params.copy()
    for name, value in setting.params.items():
        params[name] = value
    if fold:
        sessions = market.split
        market = replace(market, split=replace(sessions, train=sessions.train[: len(sessions.train) // 2]))
    market = replace(market, params=params)
    llm = {"hybrid": small_runs.LIVE, "placebo": small_runs.LIVE, "blind": BLIND}.get(kind)
    table = None if llm is None else small_runs.advice()
    if kind == "placebo":
        table = placebo_table(small_runs.advice(), seed)
    env = trainer.make_env(market, table)
    assert isinstance(env, BatchedTradingVecEnv)
    if kind == "base":
        model, own = trainer.new_base(env, setting.plan), []
    else:
        base = trainer.new_base(trainer.make_env(market), setting.plan)
        model, own = trainer.new_finetuned(base.policy, env, setting.plan, llm)
    for name, value in setting.changed.items():
        setattr(model, name, value)
    sink = Kept()
    logging = BatchedCallback(LOG_INTERVAL, sinks=[sink], total_timesteps=setting.plan.actual, phase=kind)
    assert isinstance(model, FusedMaskablePPO)
    return Member(model, [logging, *own, *own_callbacks], sink, generator_states())


def train_alone(member: Member, setting: Setting, *, resumed: bool = False) -> GeneratorStates:
    """By the fused learner, its rollouts kept; where the generators are after it."""
    model = member.model

    def keep() -> None:
        buffer = model.rollout_buffer
        member.rollouts.append({name: np.squeeze(getattr(buffer, name)).copy() for name in COLUMNS})

    model.after_update = keep
    set_generator_states(member.generators)
    train(model, setting.plan, "alone", member.callbacks, resumed=resumed)
    return generator_states()


def train_together(
    members: Sequence[Member],
    setting: Setting,
    after_rollout: Callable[[Population], None] | None = None,
    **how: Any,
) -> list[GeneratorStates]:
    """As a population on the CPU, rollouts kept; where each one's generators are after it."""
    found: list[Population] = []

    def keep(population: Population) -> None:
        found[:] = [population]
        for index, member in enumerate(members):
            table = population.rollout
            member.rollouts.append({name: getattr(table, name)[index].numpy().copy() for name in COLUMNS})
        if after_rollout is not None:
            after_rollout(population)

    torch.set_num_threads(1)
    train_population(
        [member.model for member in members], setting.plan, ["together"] * len(members),
        [member.callbacks for member in members], [member.generators for member in members],
        after_rollout=keep, **how,
    )  # fmt: skip
    return [found[0].generator_states(index) for index in range(len(members))]


def same_generators(one: GeneratorStates, other: GeneratorStates) -> bool:
    """Whether numpy's and torch's are equal."""
    here, there = one.numpy["state"], other.numpy["state"]
    return (
        torch.equal(one.torch, other.torch)
        and np.array_equal(here["key"], there["key"])
        and here["pos"] == there["pos"]
    )
