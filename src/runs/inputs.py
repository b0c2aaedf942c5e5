"""What the result of each task depends on: the keys of the configuration that matter to it, and fingerprints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.lib.recfunctions import repack_fields
from numpy.typing import NDArray

from src.agent.market import Market
from src.agent.rollout_plan import RolloutPlan
from src.configuration import Configuration
from src.trading.rules import LATER_FIELDS

# Prefixes of dotted keys; a key below one of the second tuple does not matter.
DATA = (("test_mode.market", "data", "environment.trading_hours"), ("data.path",))
BASE = (
    ("test_mode.seed", "hardware", "training", "environment"),
    (
        "hardware.device",  # where it really trains is an input of its own
        "hardware.vec_env",  # every route gives the same bits
        "hardware.memory_fraction",
        "hardware.memory_limit_gb",
        "hardware.optimize_memory",
        "hardware.torch_threads",
        "hardware.learner",
        "hardware.group",
        "hardware.stuck_worker_s",
        "hardware.workers",
        "hardware.ray",
        "hardware.price_per_hour",
        "hardware.other_machine",
        "training.production_",  # a forecast's
        "training.timesteps",  # what counts of these two is the plan
        "training.timesteps_reduction",
        "training.finetune",
        "training.weight_ramp_rollouts",
    ),
)
FINETUNE = (("training.finetune",), ("training.finetune_frac",))
HEAR = (("training.weight_ramp_rollouts", "llm.llm_weight", "llm.use_opinion_features"), ())
ADVISE = (
    ("llm",),
    (
        *("llm.store_path", "llm.cache_size", "llm.extend_advice", "llm.llm_threads", "llm.knowledge_cutoff"),
        "llm.endpoint",  # what is on a server is the advisor's identity; these keys say how it is reached
        *HEAR[0][1:],
    ),
)
FUSE = (("fusion",), ())


def data_inputs(config: Configuration, market: Market) -> dict[str, str]:
    """Of the checks of the data: the bars, and what is made of them."""
    return {**_chosen(config, *DATA), "bars": market.tables.bars.fingerprint, "tables": tables_fingerprint(market)}


def base_inputs(config: Configuration, plan: RolloutPlan, device: str, seed: int, tables: str) -> dict[str, str]:
    """Of a base training: how it is trained, and the tables it reads."""
    chosen = _chosen(config, *BASE) | {"test_mode.seed": str(seed)}
    return {**chosen, **_planned(plan), "device": device, "tables": tables}


def finetune_inputs(config: Configuration, plan: RolloutPlan, base_weights: str, advice: str) -> dict[str, str]:
    """Of a fine-tuning: the weights it begins with, and the advice it hears ("" for none)."""
    heard = {**_chosen(config, *HEAR), "advice table": advice} if advice else {}
    return {**_chosen(config, *FINETUNE), **heard, **_planned(plan), "base weights": base_weights}


def advice_inputs(config: Configuration, tables: str) -> dict[str, str]:
    """Of the advice table: who advises, on what."""
    return {**_chosen(config, *ADVISE), "test_mode.quick": str(config.test_mode.quick), "tables": tables}


def evaluation_inputs(config: Configuration, keys: Sequence[str], read: Mapping[str, str]) -> dict[str, str]:
    """Of what trained policies are put through: settings of section `evidence` that matter to it, and the weights and
    advice it reads, by name."""
    return {**_chosen(config, tuple(f"evidence.{key}" for key in keys), ()), **read}


def fusion_inputs(config: Configuration) -> dict[str, str]:
    """Of the fused arm."""
    return _chosen(config, *FUSE)


def trial_inputs(config: Configuration, plans: Sequence[RolloutPlan]) -> dict[str, str]:
    """Of the arms somebody may choose: what decides their trades, the seed and the bars aside."""
    inputs = run_inputs(config, plans)
    del inputs["test_mode.seed"]
    return inputs


def run_inputs(config: Configuration, plans: Sequence[RolloutPlan]) -> dict[str, str]:
    """Of a whole run: every setting that decides what is trained, advised and traded; the bars aside."""
    chosen = {
        key: value
        for keys in (DATA, BASE, FINETUNE, HEAR, ADVISE, FUSE)
        for key, value in _chosen(config, *keys).items()
    }
    trained = {f"{key} of training {i}": value for i, plan in enumerate(plans) for key, value in _planned(plan).items()}
    return {**chosen, **trained, "test_mode.quick": str(config.test_mode.quick)}


def tables_fingerprint(market: Market) -> str:
    """SHA-256 over everything accounts read, and which sessions serve what."""
    tables, split = market.tables, market.split
    digest = hashlib.sha256()
    for array in (
        tables.prices, tables.flags, tables.atr_ticks, tables.window, tables.context, market.situation,
        _without_unused(market.params), split.train, split.validation, split.test,
    ):  # fmt: skip
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _without_unused(params: NDArray[np.void]) -> NDArray[np.void]:
    """An account's constants without those of later rules where it has none of them: runs from before still hold."""
    names = params.dtype.names or ()
    if any(params[name].any() for name in names if name in LATER_FIELDS):
        return params
    return repack_fields(params[[name for name in names if name not in LATER_FIELDS]])


def weights_fingerprint(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over the names and values of a policy's tensors."""
    digest = hashlib.sha256()
    for name, value in weights.items():
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _planned(plan: RolloutPlan) -> dict[str, str]:
    return {"timesteps": str(plan.actual), "n_steps": str(plan.n_steps), "batch_size": str(plan.batch_size)}


def _chosen(config: Configuration, prefixes: tuple[str, ...], without: tuple[str, ...]) -> dict[str, str]:
    return {
        key: json.dumps(value)
        for key, value in _flat(config.to_dict())
        if key.startswith(prefixes) and not key.startswith(without)
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
