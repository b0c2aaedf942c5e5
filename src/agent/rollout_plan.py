"""Plan whole rollouts for a budget of timesteps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from src.errors import ConfigError

MINIBATCHES_PER_ROLLOUT = 2  # the number of updates decides how much is learned, so rollouts are short
ROLLOUTS_PER_BUDGET = 4  # fewer would leave the policy that collected most of the data nearly untrained


@dataclass(frozen=True)
class RolloutPlan:
    """Whole rollouts of `n_envs x n_steps` timesteps, each split into whole minibatches of `batch_size`."""

    n_envs: int
    n_steps: int
    batch_size: int
    rollouts: int
    requested: int
    actual: int


def plan_rollouts(requested_timesteps: int, n_envs: int, batch_size: int, n_steps: int | None = None) -> RolloutPlan:
    """Plan whole rollouts that train at least `requested_timesteps`.

    A given `n_steps` is kept, and so is `batch_size`: a rollout that is not a whole number of minibatches is a
    ConfigError. `n_steps` None is derived: two minibatches per rollout, fewer if that would exceed a quarter of the
    budget. `batch_size` shrinks only if the smallest rollout of whole minibatches would exceed the whole budget.

    Raises ConfigError for a count below its minimum (1; 2 for the minibatch) and for an impossible combination.
    """
    for name, value, least in (
        ("the budget of timesteps", requested_timesteps, 1),
        ("vectorized_envs", n_envs, 1),
        ("batch_size", batch_size, 2),
        ("n_steps", 1 if n_steps is None else n_steps, 1),
    ):
        if value < least:
            raise ConfigError(f"{name} is {value}, but must be at least {least}.")
    if n_steps is not None:
        _check_whole_minibatches(n_envs, n_steps, batch_size)
    else:
        n_steps, batch_size = _derive(requested_timesteps, n_envs, batch_size)
    rollouts = math.ceil(requested_timesteps / (n_envs * n_steps))
    return RolloutPlan(n_envs, n_steps, batch_size, rollouts, requested_timesteps, rollouts * n_envs * n_steps)


def _check_whole_minibatches(n_envs: int, n_steps: int, batch_size: int) -> None:
    rollout = n_envs * n_steps
    if rollout % batch_size == 0:
        return
    unit = batch_size // math.gcd(batch_size, n_envs)
    nearest = max(1, round(n_steps / unit)) * unit
    raise ConfigError(
        f"vectorized_envs {n_envs} x n_steps {n_steps} makes rollouts of {rollout} timesteps, not a whole number "
        f"of minibatches of batch_size {batch_size}. Set n_steps to {nearest} (or another multiple of {unit}), or "
        f"leave n_steps out and it is derived."
    )


def _derive(budget: int, n_envs: int, batch_size: int) -> tuple[int, int]:
    """n_steps and the matching batch_size."""
    unit = batch_size // math.gcd(batch_size, n_envs)  # smallest n_steps that fills whole minibatches
    if n_envs * unit > budget:
        return _shrink(budget, n_envs, batch_size)
    preferred = max(1, round(MINIBATCHES_PER_ROLLOUT * batch_size / (n_envs * unit))) * unit
    quarter = budget // ROLLOUTS_PER_BUDGET
    limit = quarter if n_envs * unit <= quarter else budget
    return min(preferred, limit // (n_envs * unit) * unit), batch_size


def _shrink(budget: int, n_envs: int, batch_size: int) -> tuple[int, int]:
    """If the smallest rollout exceeds the budget: minibatches divisible by the accounts, within a quarter of it."""
    quarter_steps = budget // ROLLOUTS_PER_BUDGET // n_envs
    batch_steps = max(1, min(batch_size // n_envs, quarter_steps))
    if n_envs == 1:
        batch_steps = max(2, batch_steps)  # an advantage cannot be normalized over one timestep
    return batch_steps * max(1, min(MINIBATCHES_PER_ROLLOUT, quarter_steps // batch_steps)), batch_steps * n_envs
