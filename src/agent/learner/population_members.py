"""The models of a population: what they must have in common, and what each has of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from src.agent.learner.fused import FusedMaskablePPO
from src.agent.learner.streams import RolloutShape
from src.agent.policy import FlattenWithoutOpinion, HybridPolicy
from src.trading.layout import N_ACTIONS
from src.trading.vec_env import BatchedTradingVecEnv


def check_alike(models: Sequence[FusedMaskablePPO]) -> None:
    """ValueError where models cannot train together: no fused learner trains one, its accounts are no batch, or its
    shapes are others than the first's."""
    for member, model in enumerate(models):
        why = None
        if not isinstance(model, FusedMaskablePPO):
            why = f"it is a {type(model).__name__}, not a FusedMaskablePPO"
        elif model.why_stock is not None:
            why = model.why_stock
        elif type(model.env.unwrapped if model.env is not None else None) is not BatchedTradingVecEnv:
            why = "its environment is not one batch of trading accounts (hardware.vec_env batched)"
        if why is not None:
            raise ValueError(f"member {member} cannot train in a population: {why}")
        if (mine := _alike(model)) != (theirs := _alike(models[0])):
            name = next(name for name in mine if mine[name] != theirs[name])
            raise ValueError(
                f"member {member} cannot train with member 0: its {name} is {mine[name]}, not {theirs[name]}"
            )


def _alike(model: FusedMaskablePPO) -> dict[str, Any]:
    """What members of a population must have in common."""
    group = model.policy.optimizer.param_groups[0]
    return {
        "rollout": rollout_shape(model),
        "minibatch": model.minibatch,
        "normalize_advantage": model.normalize_advantage,
        "networks": {name: tuple(p.shape) for name, p in model.policy.named_parameters()},
        "activation": model.policy.activation_fn.__name__,
        "Adam's betas and eps": (tuple(group["betas"]), group["eps"]),
        "timesteps": model.num_timesteps,
    }


def rollout_shape(model: FusedMaskablePPO) -> RolloutShape:
    """Sizes of a model's rollout and update."""
    return RolloutShape(model.n_steps, model.n_envs, N_ACTIONS, model.n_epochs)


def accounts_of(model: FusedMaskablePPO) -> BatchedTradingVecEnv:
    """The vec env of a model's accounts."""
    assert model.env is not None
    env = model.env.unwrapped
    assert isinstance(env, BatchedTradingVecEnv)
    return env


def advice_weight(model: FusedMaskablePPO) -> float:
    """The weight of the pooled advice now; 0 for a policy that hears none."""
    return float(model.policy.llm_weight) if isinstance(model.policy, HybridPolicy) else 0.0


def is_blind(model: FusedMaskablePPO) -> bool:
    """Whether its networks do not see the opinion."""
    return type(model.policy.features_extractor) is FlattenWithoutOpinion
