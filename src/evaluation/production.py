"""How long the production run would take: measured with its networks, on this machine, now."""

from __future__ import annotations

from dataclasses import dataclass

from stable_baselines3.common.vec_env import VecEnv

from src.agent.ppo import global_generators_kept
from src.agent.rollout_plan import RolloutPlan
from src.agent.settings import PolicySettings
from src.agent.trainer import Trainer, supports_advice
from src.agent.training import PRODUCTION_NET_ARCH, build_base, release, train


@dataclass(frozen=True)
class ProductionEstimate:
    """Production's base timesteps, and hybrid ones where advice applies, at the speed of the production networks."""

    timesteps: int
    steps_per_s: float
    hours: float
    measured_timesteps: int
    net_arch: list[int]


def estimate_production(trainer: Trainer, env: VecEnv, plan: RolloutPlan) -> ProductionEstimate:
    """Train two rollouts with the production networks and scale the second's time; the run's generators are kept."""
    training = trainer.training
    policy = PolicySettings(net_arch=PRODUCTION_NET_ARCH, activation_fn=training.policy_kwargs.activation_fn)
    production = training.model_copy(update={"policy_kwargs": policy})
    size = plan.n_envs * plan.n_steps
    one = RolloutPlan(plan.n_envs, plan.n_steps, plan.batch_size, 1, size, size)
    with global_generators_kept():
        hardware = trainer.hardware
        model = build_base(
            env, production, one, trainer.seed, trainer.device, hardware.mixed_precision, hardware.learner
        )
        train(model, one, "warm-up", [])
        model.rollout_s = model.environment_s = model.update_s = 0.0
        record = train(model, one, "production", [])
        release(model)
    finetuned = training.finetune_frac if supports_advice(env) else 0.0  # other environments end with base training
    timesteps = round(training.production_timesteps * (1.0 + finetuned))
    return ProductionEstimate(
        timesteps=timesteps,
        steps_per_s=record.steps_per_s,
        hours=timesteps / record.steps_per_s / 3600.0,
        measured_timesteps=record.timesteps,
        net_arch=list(PRODUCTION_NET_ARCH.pi),
    )
