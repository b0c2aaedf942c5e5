"""Before a run writes anything: the memory it will need, and whether the machine has it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.vec_env import VecEnv

from src.advisor.choose import LanguageModel
from src.agent.learner import kernels as learner_kernels
from src.agent.learner.fused import FusedMaskablePPO
from src.agent.learner.population import Population
from src.agent.market import Market
from src.agent.members import FINE_TUNED
from src.agent.ppo import global_generators_kept
from src.agent.settings import LOCAL, Learner
from src.agent.trainer import Trainer
from src.clean_up import closing
from src.errors import ConfigError
from src.machine_limits import available_memory_gb
from src.monitoring import hardware
from src.runs import memory
from src.runs.context import RunContext
from src.runs.memory import GB, MB, MemoryPlan, Networks, Prediction, RunShape
from src.trading import kernel as account_kernels
from src.trading.layout import N_ACTIONS, N_OBS


def plan_memory(
    context: RunContext, trainer: Trainer, own_env: VecEnv | None, workers: int, learner: Learner = "fused"
) -> MemoryPlan:
    """Predict the memory of a run that has loaded its market. Where `hardware.workers` is not set, so few workers are
    taken that they fit; where `hardware.group` is not set, so few members train together.

    Raises ConfigError where the run does not fit, with the largest settings that do.
    """
    shape = shape_of(context, trainer, own_env, workers, learner)
    limit_gb, limit = _limit(shape, context.config.hardware.memory_limit_gb)
    gpu_gb = _gpu_limit(shape, trainer)
    bounds = limit_gb * GB, np.inf if gpu_gb is None else gpu_gb * GB

    def is_enough(other: RunShape) -> bool:
        return memory.fits(other, *bounds)

    chosen, hardware = shape, context.config.hardware
    if not is_enough(shape):
        fewer = memory.largest_workers(shape, is_enough) if hardware.workers is None else None
        smaller = memory.largest_group(shape, is_enough) if hardware.group is None else None
        if smaller is not None:
            chosen = replace(shape, group=smaller)
        elif fewer is not None:
            chosen = replace(shape, workers=fewer)
        else:
            raise ConfigError(_refusal(shape, limit_gb, limit, gpu_gb, is_enough))
    return _plan(memory.predict(chosen), chosen, shape.workers, limit_gb, limit, gpu_gb)


def shape_of(
    context: RunContext, trainer: Trainer, own_env: VecEnv | None, workers: int, learner: Learner = "fused"
) -> RunShape:
    """What the run's memory follows from: its settings, and what this process is and has loaded."""
    config, markets = context.config, list(context.markets.values())
    architecture = config.training.policy_kwargs.net_arch
    space = None if own_env is None else own_env.observation_space
    actions = N_ACTIONS if own_env is None else int(own_env.action_space.n)  # type: ignore[attr-defined]
    on_gpu = trainer.device.type == "cuda"
    sample = hardware.Sampler(use_gpu=False).sample()
    tree = sample["tree_rss_gb"]
    now = hardware.own_memory_bytes() if workers > 1 or tree is None else float(tree) * GB
    seeds = config.evidence.seeds if markets else 1
    advisor = context.advisor if isinstance(context.advisor, LanguageModel) else None
    parallel = len(FINE_TUNED) * (seeds + config.evidence.walk_forward) * max(1, len(markets))
    together = learner == "population" and bool(markets)
    return RunShape(
        now_bytes=int(now),
        peak_bytes=int(max(now, context.monitor.get_peak_ram_usage() * GB)),
        to_load_bytes=int(_to_load_bytes()),
        table_bytes=sum(map(table_bytes, markets)),
        bars=max((len(market.tables.flags) for market in markets), default=0),
        base_timesteps=config.base_timesteps,
        finetune_timesteps=config.finetune_timesteps,
        n_steps=config.training.n_steps,
        n_envs=config.hardware.vectorized_envs,
        batch_size=config.hardware.batch_size,
        networks=Networks(
            N_OBS if space is None else get_flattened_obs_dim(space), actions, architecture.pi, architecture.vf
        ),
        observation_bytes=4 * N_OBS if space is None else _bytes_of(space),
        fused=not on_gpu and config.hardware.learner != "stock" and (space is None or isinstance(space, spaces.Box)),
        on_gpu=on_gpu,
        vec_env=config.hardware.vec_env,
        own_env=own_env is not None,
        workers=workers,
        parallel=parallel,
        seeds=seeds,
        sessions=max((len(part) for of in markets for part in (of.split.validation, of.split.test)), default=0),
        model_bytes=0 if advisor is None else advisor.weight_bytes(),
        model_on_gpu=advisor is not None and config.llm.llm_device != "cpu" and torch.cuda.is_available(),
        group=min(config.hardware.group or parallel, parallel) if together else 0,
        group_member_bytes=_member_bytes(context, trainer, markets[0]) if together else 0,
        group_bars=sum(len(market.tables.flags) for market in markets) if together else 0,
        on_ray=config.hardware.ray == LOCAL,
    )


def needs_on_ray(context: RunContext, trainer: Trainer) -> tuple[int, float]:
    """What one training asks of a node: bytes of memory, and the share of a GPU of this machine's kind."""
    shape = replace(shape_of(context, trainer, None, 2), on_ray=True)
    found = memory.predict(shape)
    if not shape.on_gpu:
        return int(found.worker_bytes), 0.0
    _, total = torch.cuda.mem_get_info()
    return int(found.worker_bytes), gpu_share(found.gpu_bytes, total * trainer.hardware.memory_fraction)


def gpu_share(needed_bytes: float, total_bytes: float) -> float:
    """The share of a GPU that so many of its bytes are, in thousandths, rounded up; a whole one at most."""
    return min(1.0, math.ceil(1000 * needed_bytes / total_bytes) / 1000)


def _member_bytes(context: RunContext, trainer: Trainer, market: Market) -> int:
    """What each member of a group takes on its device, told by a population that takes no memory."""
    here = replace(trainer, device=torch.device("cpu"), feature_cache=None)
    precision = trainer.hardware.update_precision(trainer.device.type)
    found = []
    with global_generators_kept(), closing(here.make_env(market)) as env:
        for plan in context.plans():
            model = here.new_base(env, plan)
            assert isinstance(model, FusedMaskablePPO)
            one, two = (Population.memory_bytes([model] * members, precision) for members in (1, 2))
            found.append(two - one)
    return max(found)


def _bytes_of(space: spaces.Space[Any]) -> int:
    return int(np.prod(space.shape or (1,))) * np.dtype(space.dtype).itemsize


def table_bytes(market: Market) -> int:
    """Of the arrays that workers map."""
    parts = (market, market.tables, market.tables.bars, market.tables.sessions)
    arrays = (getattr(part, each.name) for part in parts for each in fields(part))
    return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))


def _to_load_bytes() -> float:
    """Of libraries and kernels that this process will load, those that it has not yet."""
    missing = 0.0 if "torch._dynamo" in sys.modules else memory.OPTIMIZER_MB
    if not all(each.signatures for each in _dispatchers()):
        missing += memory.COMPILED_MB if all(_is_kept(each) for each in _dispatchers()) else memory.COMPILING_MB
    return missing * MB


def _dispatchers() -> Iterator[Any]:
    """The kernels that take longest to compile."""
    yield from (account_kernels.step_batch, learner_kernels.policy_gradient)


def _is_kept(dispatcher: Any) -> bool:
    """Whether numba's cache has it as it is now. numba has no public way to ask."""
    return bool(dispatcher._cache._cache_file._load_index())


def _limit(shape: RunShape, limit_gb: float | None) -> tuple[float, str]:
    """GB that the run may take in all, and where the number comes from."""
    free_gb = available_memory_gb() + shape.now_bytes / GB
    if limit_gb is not None and limit_gb < free_gb:
        return limit_gb, f"the {limit_gb:g} GB of hardware.memory_limit_gb"
    return free_gb, f"the {free_gb:.1f} GB that are free here"


def _gpu_limit(shape: RunShape, trainer: Trainer) -> float | None:
    """GB of the GPU that the run may take; None where it takes none."""
    if not (shape.on_gpu or shape.model_on_gpu):
        return None
    free, total = torch.cuda.mem_get_info()
    share = trainer.hardware.memory_fraction if shape.on_gpu else 1.0
    return min(free, share * total) / GB


def _plan(
    found: Prediction, shape: RunShape, wanted: int, limit_gb: float, limit: str, gpu_gb: float | None
) -> MemoryPlan:
    return MemoryPlan(
        predicted_gb=found.peak_bytes / GB,
        available_gb=limit_gb,
        limit=limit,
        stage=found.stage,
        parts=[{"what": name, "gb": size / GB} for name, size in _by_size(found.parts)],
        worker_gb=found.worker_bytes / GB,
        workers=shape.workers,
        workers_wanted=wanted,
        group=shape.group or None,
        gpu_predicted_gb=None if gpu_gb is None else found.gpu_bytes / GB,
        gpu_available_gb=gpu_gb,
    )


def _refusal(shape: RunShape, limit_gb: float, limit: str, gpu_gb: float | None, is_enough: Any) -> str:
    found = memory.predict(shape)
    needs = [f"about {found.peak_bytes / GB:.1f} GB of memory, but may take {limit}"]
    if found.peak_bytes <= limit_gb * GB:
        needs = []
    if gpu_gb is not None and found.gpu_bytes > gpu_gb * GB:
        needs.append(f"about {found.gpu_bytes / GB:.1f} GB of GPU memory, but may take {gpu_gb:.1f} GB")
    parts = ", ".join(f"{name} {size / GB:.1f}" for name, size in _by_size(found.parts) if size >= 0.05 * GB)
    fitting = {
        "--group": memory.largest_group(shape, is_enough),
        "--workers": memory.largest_workers(shape, is_enough),
        "--vectorized-envs": memory.largest_envs(shape, is_enough),
        "--batch-size": memory.largest_batch(shape, is_enough),
    }
    enough = [f"{option} {value:,}".replace(",", "") for option, value in fitting.items() if value is not None]
    advice = (
        f"Each of these alone is small enough: {', '.join(enough)}. Or take smaller networks "
        f"(training.policy_kwargs.net_arch), or free memory."
        if enough
        else f"No smaller {'--group, ' if shape.group else ''}--workers, --vectorized-envs or --batch-size alone is "
        "small enough: take several of them smaller, or smaller networks (training.policy_kwargs.net_arch), or free "
        "memory."
    )
    return f"The run needs {' and '.join(needs)}. In the stage {found.stage}, GB: {parts}. {advice}"


def _by_size(parts: memory.Parts) -> list[tuple[str, float]]:
    return sorted(parts.items(), key=lambda part: -part[1])
