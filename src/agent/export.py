"""Models as zips that stock `MaskablePPO.load` reads anywhere, without this repository.

A model's own `save` pickles everything attached to it: schedules that are closures of ours, buffers, seeded random
generators, a log folder of this machine. So the export is built from a list of what a loaded model needs, and schedules
become the number they start from. A loaded model predicts as the live one does, to the bit, and can train on with its
user's own environment.

The same model gives the same bytes in every process: no time, address or random name is in the file.

A zip is a pickle, which runs code when it is loaded. `src.agent.policy_files` writes the same policy as data only.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import torch
from cloudpickle import cloudpickle as pickler
from gymnasium import spaces
from safetensors.torch import save as format_safetensors
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.save_util import save_to_zip_file
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import FloatSchedule

from src.agent import policy as policy_module
from src.agent.policy import LOG_P_MIN, FlattenWithoutOpinion, HybridPolicy
from src.agent.policy_files import FORMAT, VERSION
from src.files import write_atomically
from src.trading.layout import (
    ACCOUNT_RISK,
    ACCOUNT_STATE,
    ACTIONS,
    CONTEXT,
    N_ACTIONS,
    N_OBS,
    OPINION,
    WINDOW,
)

BLOCKS = {
    "window": WINDOW,
    "account_state": ACCOUNT_STATE,
    "context": CONTEXT,
    "account_risk": ACCOUNT_RISK,
    "advice": OPINION,
}
"""Columns of the observation, as policy.json names them."""
MODULES = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}
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
    "_n_updates",
    "_episode_num",
    "_stats_window_size",
)
"""Copied as they are: numbers, booleans, None. Not `seed`: loading would reseed the random generators of its user. Not
`_num_timesteps_at_start`: it says where a training was resumed, and `learn` sets it."""


_OPTIMIZER = "policy.optimizer"
_ADDRESS = re.compile(rb" at 0x[0-9a-f]+(?=>)")


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
    class of a loaded policy is that copy, not `src.agent.policy.HybridPolicy`, even where both exist. Raises TypeError
    for another policy.
    """
    if not isinstance(model.policy, HybridPolicy):
        raise TypeError(f"the model's policy is a {type(model.policy).__name__}, needs a HybridPolicy; use export_base")
    with _pickled_by_value():
        return _written(model, HybridPolicy, path)


def export_data(model: MaskablePPO, zipped: Path) -> tuple[Path, ...]:
    """Write the policy as data (`src.agent.policy_files`) with the name of its zip; returns both paths, weights first.

    Nothing is written, and () returned, for what that format does not hold: observations that are no flat float32
    vector, actions that are not discrete, networks other than layers of `ACTIVATIONS` (environments of a user's own).
    """
    policy, space, actions = model.policy, model.observation_space, model.action_space
    activation = next((name for name, cls in MODULES.items() if policy.activation_fn is cls), None)
    flat = isinstance(space, spaces.Box) and space.dtype == np.float32 and len(space.shape) == 1
    plain = type(policy.features_extractor) in (FlattenExtractor, FlattenWithoutOpinion)
    if not (flat and plain and activation and isinstance(actions, spaces.Discrete) and actions.start == 0):
        return ()
    networks = {
        "policy": _layer_names("mlp_extractor.policy_net", policy.mlp_extractor.policy_net, "action_net"),
        "value": _layer_names("mlp_extractor.value_net", policy.mlp_extractor.value_net, "value_net"),
    }
    state = policy.state_dict()
    names = [f"{layer}.{part}" for layers in networks.values() for layer in layers for part in ("weight", "bias")]
    raw = format_safetensors({name: state[name].detach().cpu().contiguous().clone() for name in names})
    weights, facts = (zipped.with_name(f"{zipped.stem}.policy.{kind}") for kind in ("safetensors", "json"))
    is_trading = space.shape == (N_OBS,) and actions.n == N_ACTIONS
    content = {
        "format": FORMAT,
        "version": VERSION,
        "weights": {"file": weights.name, "sha256": hashlib.sha256(raw).hexdigest()},
        "observation": {
            "size": gymnasium.spaces.flatdim(space),
            "dtype": "float32",
            "columns": {name: [part.start, part.stop] for name, part in BLOCKS.items()} if is_trading else {},
        },
        "actions": list(ACTIONS) if is_trading else [str(code) for code in range(int(actions.n))],
        "networks": {"activation": activation, **networks},
        "advice": _advice_facts(policy) if isinstance(policy, HybridPolicy) else None,
        "timesteps": model.num_timesteps,
        "versions": {name: version(name) for name in ("torch", "numpy", "stable-baselines3", "sb3-contrib")},
    }
    # The weights first: a reader that finds the new facts finds the weights they name.
    write_atomically(weights, raw)
    write_atomically(facts, json.dumps(content, indent=2) + "\n")
    return weights, facts


def _layer_names(prefix: str, network: Iterable[Any], last: str) -> list[str]:
    """Names of the linear layers in order, as the policy's state dict has them."""
    return [*(f"{prefix}.{i}" for i, layer in enumerate(network) if isinstance(layer, torch.nn.Linear)), last]


def _advice_facts(policy: HybridPolicy) -> dict[str, Any]:
    return {
        "weight": float(policy.llm_weight),
        "log_p_min": LOG_P_MIN,
        "columns": [OPINION.start, OPINION.stop],
        "networks_see_it": policy.use_opinion_features,
    }


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
    params = {
        name: _in_order(value) if name == _OPTIMIZER else _apart(value)
        for name, value in model.get_parameters().items()
    }
    save_to_zip_file(content, data=_contents(model, policy_class), params=params)
    write_atomically(target, _reproducible(content))
    return target


def _in_order(adam: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state in one order and with one copy of each name: those of a resumed one differ in both, and so
    would the bytes of the file."""
    state = {
        index: {sys.intern(name): tensor for name, tensor in _apart(dict(sorted(of_parameter.items()))).items()}
        for index, of_parameter in sorted(adam["state"].items())
    }
    return {**adam, "state": state}


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies, each in memory of its own: torch writes views of one vector with all of it."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _reproducible(content: io.BytesIO) -> bytes:
    """The zip without the time of writing, and without memory addresses in what SB3 writes about pickled objects for
    human readers."""
    packed = io.BytesIO()
    with zipfile.ZipFile(content) as archive, zipfile.ZipFile(packed, "w") as fixed:
        for name in archive.namelist():
            raw = archive.read(name)
            if name == "data":
                raw = _ADDRESS.sub(b"", raw)
            fixed.writestr(zipfile.ZipInfo(name), raw)  # dated 1980-01-01
    return packed.getvalue()


@contextlib.contextmanager
def _pickled_by_value() -> Iterator[None]:
    """While this lasts the policy module is pickled as its code; other pickles of the process need its name only.

    cloudpickle gives a class a random number, by which a process knows it again. Here it is one of the module's code.
    """
    code = hashlib.sha256(Path(policy_module.__file__).read_bytes()).hexdigest()
    numbers = {
        cls: hashlib.sha256(f"{cls.__qualname__} {code}".encode()).hexdigest()[:32]
        for cls in (HybridPolicy, FlattenWithoutOpinion)
    }
    with pickler._DYNAMIC_CLASS_TRACKER_LOCK:
        loaded = {number: pickler._DYNAMIC_CLASS_TRACKER_BY_ID.get(number) for number in numbers.values()}
        pickler._DYNAMIC_CLASS_TRACKER_BY_CLASS.update(numbers)
        pickler._DYNAMIC_CLASS_TRACKER_BY_ID.update({number: cls for cls, number in numbers.items()})
    already = policy_module.__name__ in cloudpickle.list_registry_pickle_by_value()
    if not already:
        cloudpickle.register_pickle_by_value(policy_module)
    try:
        yield
    finally:
        if not already:
            cloudpickle.unregister_pickle_by_value(policy_module)
        # A class that stays known is overwritten by the next load, and its next export has other bytes.
        with pickler._DYNAMIC_CLASS_TRACKER_LOCK:
            for cls, number in numbers.items():
                del pickler._DYNAMIC_CLASS_TRACKER_BY_CLASS[cls], pickler._DYNAMIC_CLASS_TRACKER_BY_ID[number]
                if loaded[number] is not None:
                    pickler._DYNAMIC_CLASS_TRACKER_BY_ID[number] = loaded[number]
