"""Detect a diverged training at once and explain how to fix it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from sb3_contrib import MaskablePPO

from src.agent.log_sink import train_values
from src.errors import TrainingDiverged

LOSSES = ("train/loss", "train/policy_gradient_loss", "train/value_loss", "train/entropy_loss")
"""Excluded: train/explained_variance (NaN if all returns are equal) and approx_kl (may be infinite)."""
MOST_NAMED = 4
"""Weights named individually; the others are counted."""


def is_finite(model: MaskablePPO) -> bool:
    """Whether all losses of the last update and all weights are finite; costs a fraction of a percent of an update."""
    weights = torch.stack([torch.isfinite(weight).all() for weight in model.policy.parameters()])
    return not any(_bad_losses(model)) and bool(weights.all())


def raise_if_diverged(
    model: MaskablePPO, while_: Literal["acting", "updating"], log_before: Mapping[str, Any], cause: Exception | None
) -> None:
    """Raise TrainingDiverged, from `cause`, if any input or result of training is not finite.

    `log_before`: SB3's pending values of the time before the update, for the last finite ones.
    """
    given = [*_bad_rollout(model)]
    found = [*_bad_losses(model), *given, *_bad_weights(model)]
    if not found:
        return
    update = model.num_timesteps // (model.n_steps * model.n_envs)
    where = f"in update {update}" if while_ == "updating" else f"while acting after update {update}"
    last = [f"{name} {value:.4g}" for name, value in train_values(log_before).items() if math.isfinite(value)]
    rate = model.policy.optimizer.param_groups[0]["lr"]
    raise TrainingDiverged(
        f"Training diverged {where}, at timestep {model.num_timesteps:,}, with learning rate {rate:g}. Not finite: "
        f"{'; '.join(found)}. Last finite values: {', '.join(last) or 'none, no update was finished'}. {_remedy(given)}"
    ) from cause


def raise_if_given_bad(obs: Any, rewards: np.ndarray, timesteps: int) -> None:
    """TrainingDiverged where an environment has just returned a number that is not finite, before weights learn from
    it and take the blame. `timesteps`: those of all environments before this step."""
    n_envs = len(rewards)
    step = timesteps // n_envs + 1
    if not np.isfinite(rewards).all():
        env = int(np.flatnonzero(~np.isfinite(rewards))[0])
        what = f"the reward {rewards[env]}"
    elif isinstance(obs, np.ndarray) and not np.isfinite(obs).all():
        env, *place = np.argwhere(~np.isfinite(obs))[0].tolist()
        what = f"an observation whose value {place} is {obs[(env, *place)]}"
    else:
        return
    raise TrainingDiverged(
        f"Environment {env} of {n_envs} returned {what} in its step {step:,} (timestep {timesteps:,}). Nothing was "
        f"learned from it. {_remedy(['rewards'])}"
    )


def _remedy(given: list[str]) -> str:
    if any(text.startswith(("observations", "the newest observations", "rewards")) for text in given):
        return (
            "The environment returned these observations or rewards: fix it (or its data) first; no setting of "
            "training helps."
        )
    return (
        "Try a smaller training.learning_rate (finetune_learning_rate after base training), a smaller "
        "training.max_grad_norm, or smaller rewards (a larger environment.reward_scale_usd)."
    )


def _bad_losses(model: MaskablePPO) -> Iterator[str]:
    pending = model.logger.name_to_value
    for name in LOSSES:
        if name in pending and not math.isfinite(pending[name]):
            yield f"{name} {pending[name]}"


def _bad_rollout(model: MaskablePPO) -> Iterator[str]:
    """The environment's output and the values derived from it; rows that are not filled yet are zero."""
    arrays = {"the newest observations": model._last_obs}
    for name in ("observations", "rewards", "values", "advantages"):
        arrays[name] = getattr(model.rollout_buffer, name)
    for name, array in arrays.items():
        if isinstance(array, np.ndarray) and (bad := int(np.count_nonzero(~np.isfinite(array)))):
            yield f"{name} ({bad:,} of {array.size:,})"


def _bad_weights(model: MaskablePPO) -> list[str]:
    counts = {name: int((~torch.isfinite(weight)).sum()) for name, weight in model.policy.named_parameters()}
    bad = [f"{name} ({count:,} values)" for name, count in counts.items() if count]
    if len(bad) > MOST_NAMED:
        bad[MOST_NAMED:] = [f"{len(bad) - MOST_NAMED} more tensors of {len(counts)}"]
    return bad
