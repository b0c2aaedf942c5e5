"""The run's feature cache in environments of the user's own: one that has an attribute `feature_cache` is given it.

In this process (`dummy`) all environments share it. A worker process (`subproc`) has one of its own of the same size;
what it has counted is added when its training is over.
"""

from __future__ import annotations

from typing import Protocol

from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from src.trading.row_cache import RowCache

ATTRIBUTE = "feature_cache"


class CountingCache(Protocol):
    """A cache that counts its lookups."""

    hits: int
    misses: int
    max_size: int


def share_cache(env: VecEnv, cache: CountingCache) -> bool:
    """Set the environments' `feature_cache`; False where they have no such attribute."""
    if not env.has_attr(ATTRIBUTE):
        return False
    if isinstance(env, SubprocVecEnv):
        cache = RowCache(cache.max_size)  # not the public class, whose module loads torch in every worker
    # Not `set_attr`, which sets it on the outermost wrapper.
    env.env_method("set_wrapper_attr", ATTRIBUTE, cache)
    return True


def add_worker_counts(env: VecEnv, cache: CountingCache) -> None:
    """Add what worker processes have looked up since they were given their copies."""
    if isinstance(env, SubprocVecEnv) and env.has_attr(ATTRIBUTE):
        for own in env.get_attr(ATTRIBUTE):
            cache.hits += own.hits
            cache.misses += own.misses
