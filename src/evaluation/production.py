"""A short trial of the production networks: what they cost against the tested ones, on this machine, now."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from stable_baselines3.common.vec_env import VecEnv

from src.agent.learner.products import aligned, fastest, product
from src.agent.ppo import TimedMaskablePPO, global_generators_kept
from src.agent.rollout_plan import RolloutPlan
from src.agent.settings import NetArch, PolicySettings
from src.agent.trainer import Trainer, supports_advice
from src.agent.training import build_base, release, train
from src.machine_limits import usable_cores

FEWEST_PAIRS, MOST_PAIRS, TRIAL_S = 3, 6, 2.0
"""Rollouts of each of both networks, in turns: so many, and more while they take less than so many seconds in all."""
GEMM_ROWS, GEMM_LAYER = 1024, (256, 512)
"""The product whose speed compares machines: a minibatch through a hidden layer."""
GEMM_REPEATS = 15


@dataclass(frozen=True)
class ProductionTrial:
    """Production's timesteps (of one seed) and what one of them cost in the trial, in seconds of each rollout."""

    base_timesteps: int
    finetune_timesteps: int
    """Of the hybrid; 0 for environments that end with base training."""
    measured_timesteps: int
    net_arch: list[int]
    production_s: list[float]
    tested_s: list[float]
    """With the run's own networks, in turns with the above; empty where these are the production networks."""
    products_flop: float
    """Floating-point operations of a timestep's matrix products with the production networks."""
    gemm_gflops: float | None
    """Of the faster library on one thread; None where the training is not on the CPU."""
    cores: int


def try_production(
    trainer: Trainer, env: VecEnv, plan: RolloutPlan, *, most_pairs: int = MOST_PAIRS
) -> ProductionTrial:
    """Train rollouts with the production and the run's own networks in turns; the run's generators are kept.

    The first rollout of each warms up. Rollouts are half as long as the plan's where that leaves whole minibatches.
    `most_pairs`: `FEWEST_PAIRS` for an environment that is used again, so that it always takes as many steps here.
    """
    training = trainer.training
    layers = training.production_net_arch
    nets = PolicySettings(net_arch=NetArch(pi=layers, vf=layers), activation_fn=training.policy_kwargs.activation_fn)
    one = _short(plan)
    with global_generators_kept():
        chosen = [nets] if nets == training.policy_kwargs else [nets, training.policy_kwargs]
        models = [_model(trainer, env, policy, one) for policy in chosen]
        for model in models:
            _cost_s(model, one, "warm-up")
        costs: list[list[float]] = [[] for _ in models]
        began = time.perf_counter()
        for done in range(most_pairs):
            if done >= FEWEST_PAIRS and time.perf_counter() - began > TRIAL_S:
                break
            for model, of_model in zip(models, costs, strict=True):
                of_model.append(_cost_s(model, one, "production"))
        for model in models:
            release(model)
    inputs = math.prod(env.observation_space.shape or (1,))
    return ProductionTrial(
        base_timesteps=training.production_timesteps,
        finetune_timesteps=round(training.production_timesteps * training.finetune_frac) if supports_advice(env) else 0,
        measured_timesteps=sum(map(len, costs)) * one.actual,
        net_arch=list(layers),
        production_s=costs[0],
        tested_s=costs[1] if len(costs) > 1 else [],
        products_flop=products_flop([inputs, *layers], training.n_epochs),
        gemm_gflops=gemm_gflops() if trainer.device.type == "cpu" else None,
        cores=usable_cores(),
    )


def products_flop(layers: Sequence[int], n_epochs: int) -> float:
    """Of a timestep's rollout and update, policy and value network: forward, and per epoch forward, the gradients of
    the weights and, but for the first layer, of its inputs."""
    sizes = [2.0 * wide * narrow for wide, narrow in pairwise(layers)]
    return 2.0 * (sum(sizes) + n_epochs * (3.0 * sum(sizes) - sizes[0]))


def gemm_gflops() -> float:
    """10^9 floating-point operations a second of the faster library's matrix product on one thread, the best of some.

    In this thread's own processor time, so that a busy machine decides nothing.
    """
    wide, narrow = GEMM_LAYER
    x, weight, out = aligned(GEMM_ROWS, wide), aligned(wide, narrow), aligned(GEMM_ROWS, narrow)
    x.fill(0.01)
    weight.fill(0.01)
    multiply = product(fastest(), x, weight, out)
    best = math.inf
    for _ in range(GEMM_REPEATS):
        began = time.perf_counter(), time.process_time()
        multiply()
        took = time.perf_counter() - began[0], time.process_time() - began[1]
        best = min(best, max(took))
    return 2.0 * GEMM_ROWS * wide * narrow / best / 1e9


def _short(plan: RolloutPlan) -> RolloutPlan:
    size, half = plan.n_envs * plan.n_steps, plan.n_steps // 2
    if plan.n_steps % 2 == 0 and half and plan.n_envs * half % plan.batch_size == 0:
        return RolloutPlan(plan.n_envs, half, plan.batch_size, 1, size // 2, size // 2)
    return RolloutPlan(plan.n_envs, plan.n_steps, plan.batch_size, 1, size, size)


def _model(trainer: Trainer, env: VecEnv, policy: PolicySettings, plan: RolloutPlan) -> TimedMaskablePPO:
    training, hardware = trainer.training.model_copy(update={"policy_kwargs": policy}), trainer.hardware
    return build_base(env, training, plan, trainer.seed, trainer.device, hardware.mixed_precision, hardware.learner)


def _cost_s(model: TimedMaskablePPO, plan: RolloutPlan, phase: str) -> float:
    """Seconds of a timestep of one more rollout."""
    before = model.rollout_s + model.update_s
    record = train(model, plan, phase, [])
    return (record.seconds - before) / plan.actual
