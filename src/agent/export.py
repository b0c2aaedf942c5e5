"""Models as zips that stock `MaskablePPO.load` reads anywhere, without this repository.

A model's own `save` pickles whatever hangs on it: schedules that are closures of ours, buffers, seeded random
generators, a log folder of this machine. So the export is built from a list of what a loaded model needs, and schedules
become the number they start from. A loaded model predicts as the live one does, to the bit, and can train on with its
user's own environment.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.save_util import save_to_zip_file
from stable_baselines3.common.utils import FloatSchedule

from src.agent import policy as policy_module
from src.agent.policy import HybridPolicy
from src.files import write_atomically

PLAIN_ATTRIBUTES = (
    "verbose",
    "n_envs",
    "n_steps",
    "batch_size",
    "n_epochs",
    "gamma",
    "gae_lambda",
    "ent_coef",
    "vf_coef",
    "max_grad_norm",
    "normalize_advantage",
    "target_kl",
    "use_sde",
    "sde_sample_freq",
    "num_timesteps",
    "_total_timesteps",
    "_num_timesteps_at_start",
    "_n_updates",
    "_episode_num",
    "_stats_window_size",
)
"""Copied as they are: numbers, booleans, None. Not `seed`: loading would reseed the random generators of its user."""


def export_base(model: MaskablePPO, path: Path | str) -> Path:
    """Write an RL-only model with its stock policy class; returns the path (".zip" is added where it has no suffix).

    Raises TypeError for a policy class that is not sb3-contrib's own: a HybridPolicy belongs to `export_hybrid`.
    """
    cls = type(model.policy)
    if cls.__module__ != MaskableActorCriticPolicy.__module__:
        raise TypeError(f"the model's policy is a {cls.__name__}, needs a stock policy; a HybridPolicy: export_hybrid")
    return _written(model, cls, path)


def export_hybrid(model: MaskablePPO, path: Path | str) -> Path:
    """Write a hybrid model with HybridPolicy pickled by value and the pool weight of this moment; returns the path.

    The class travels as bytecode with the path of its file: it loads under the Python version (3.x) that wrote it. The
    class of a policy loaded in another process is that copy, not `src.agent.policy.HybridPolicy`, even where both
    exist. Raises TypeError for another policy.
    """
    if not isinstance(model.policy, HybridPolicy):
        raise TypeError(f"the model's policy is a {type(model.policy).__name__}, needs a HybridPolicy; use export_base")
    with _pickled_by_value():
        return _written(model, HybridPolicy, path)


def _contents(model: MaskablePPO, policy_class: type[MaskableActorCriticPolicy]) -> dict[str, Any]:
    """What `MaskablePPO.load` puts on the model it builds; all else keeps the default of a new model."""
    return {
        **{name: getattr(model, name) for name in PLAIN_ATTRIBUTES},
        "policy_class": policy_class,
        "policy_kwargs": model.policy_kwargs,
        "observation_space": _unseeded(model.observation_space),
        "action_space": _unseeded(model.action_space),
        "learning_rate": _starting_value(model.learning_rate),
        "clip_range": _starting_value(model.clip_range),
        "clip_range_vf": None if model.clip_range_vf is None else _starting_value(model.clip_range_vf),
    }


def _starting_value(schedule: Any) -> float:
    """A schedule's value at the start: its end is often 0, which a loaded model could neither clip nor learn with."""
    return float(FloatSchedule(schedule)(1.0))


def _unseeded(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """A copy of the space without its random generator."""
    fresh = copy.deepcopy(space)
    parts: list[Any] = [fresh]
    while parts:
        part = parts.pop()
        part._np_random = None
        inner = getattr(part, "spaces", ())
        parts.extend(inner.values() if isinstance(inner, dict) else inner)
    return fresh


def _written(model: MaskablePPO, policy_class: type[MaskableActorCriticPolicy], path: Path | str) -> Path:
    target = Path(path)
    if target.suffix == "":
        target = target.with_suffix(".zip")
    content = io.BytesIO()
    save_to_zip_file(content, data=_contents(model, policy_class), params=model.get_parameters())
    write_atomically(target, content.getvalue())
    return target


@contextlib.contextmanager
def _pickled_by_value() -> Iterator[None]:
    """While this lasts the policy module is pickled as its code; other pickles of the process need its name only."""
    already = policy_module.__name__ in cloudpickle.list_registry_pickle_by_value()
    if not already:
        cloudpickle.register_pickle_by_value(policy_module)
    try:
        yield
    finally:
        if not already:
            cloudpickle.unregister_pickle_by_value(policy_module)
