"""Memory of a run, predicted before it starts: arithmetic over the shape of its work.

The process as it is now is measured, and what it will load and make is added. Sizes of arrays follow from the settings.
What libraries and a worker process take does not: the constants below were measured on Linux with the pinned versions.
`python -m src.runs.memory_study` compares predictions with real runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from src.agent.rollout_plan import RolloutPlan, plan_rollouts
from src.agent.training import PRODUCTION_NET_ARCH
from src.errors import ConfigError
from src.trading.distances import N_DISTANCES
from src.trading.layout import ACCOUNT, N_ACTIONS, N_OBS

MB, GB = 10**6, 10**9

COMPILED_MB = 25
"""Kernels of accounts and learner, read from numba's cache."""
COMPILING_MB = 130
"""The same where they have to be compiled."""
OPTIMIZER_MB = 70
"""torch._dynamo, which torch imports with the first optimizer."""
FIRST_USE_MB = 25
"""What the first training, evaluation and report leave with the process: caches of libraries, logs, the page."""
SERVER_MB = 345
"""The server that forks workers of tasks, with the libraries and kernels that these share."""
RAY_MB = 600
"""Ray's own processes on a machine on which it is started: object store, scheduler, agents, an idle worker."""
WORKER_MB = 45
"""A worker's own memory before it makes anything."""
ENV_SERVER_MB = 210
"""The server that forks an environment's workers."""
ENV_WORKER_MB = 12
"""A worker with one account."""
MODEL_LIBRARIES_MB = 120
"""transformers and tokenizers."""
CUDA_CONTEXT_MB = 550
"""On the GPU, and libraries' workspaces: an H200 showed 70 to 140 of the latter. The context was not measured."""
DUMMY_ENV_BYTES = 20_000
"""An environment of its own in this process."""
ACCOUNT_BYTES = 2 * ACCOUNT.itemsize + 3 * 4 * N_OBS + 2 * N_ACTIONS + 600
"""An account of a batch: its record twice, its observation three times, masks, and what a step tells of it."""
SESSION_BYTES = 2 * ACCOUNT.itemsize + 2 * 4 * N_OBS + 200
"""A session that one arm plays."""
PLAYED_ARMS = 13
"""Arms of an evaluation that do not depend on seeds, at most."""
COPIES_IN_TRAINING = 16
"""Of the weights, 4 bytes each: values, gradient and two moments; the last three clones before an update; a
checkpoint's tensors and its bytes; weights it began from; what the allocator keeps of those it gave back."""
COPIES_IN_GROUP = 5
"""Of a member's weights while it trains in a group, besides those on the group's device: values, two moments, what it
began from, and what lies in memory between two uses. The rest of the copies in training exists of one member at a
time."""
GPU_MARGIN = 1.15
"""Of the tensors of a group: what the allocator keeps besides. On an H200 it was 1.03 for 256 members."""
AUTOGRAD_BYTES = 5.6
"""Of an output of a layer in the library's own update: the output, and now and then its gradient."""
TAPE_BAR_BYTES = 4 * (11 + 22) + 64
"""A bar on a group's device: features of windows and context; prices, flags, distances, situation, start."""
DISTANCE_BYTES = 4 * N_DISTANCES
"""A bar's distances of an entry; every worker of an environment makes its own."""
BAR_BYTES = 40 + DISTANCE_BYTES
"""A bar's temporary arrays while a tape is made, and its distances."""

Stage = Literal["loading", "advice", "production", "training", "evaluation", "report"]


@dataclass(frozen=True)
class Networks:
    """Policy and value network over flat observations."""

    inputs: int
    actions: int
    pi: tuple[int, ...]
    vf: tuple[int, ...]

    @property
    def weights(self) -> int:
        """Numbers that are trained."""
        return sum(
            (n_in + 1) * n_out
            for layers, outputs in ((self.pi, self.actions), (self.vf, 1))
            for n_in, n_out in zip((self.inputs, *layers), (*layers, outputs), strict=True)
        )

    @property
    def outputs(self) -> int:
        """Numbers that one row makes in all layers."""
        return sum(self.pi) + sum(self.vf) + self.actions + 1


@dataclass(frozen=True)
class RunShape:
    """What the memory of a run follows from."""

    now_bytes: int
    """Of the run's processes as the prediction is made, without a server of workers that is just starting."""
    peak_bytes: int
    """The most that they have had until now."""
    to_load_bytes: int
    """Libraries and kernels that are not loaded yet."""
    table_bytes: int
    bars: int
    base_timesteps: int
    finetune_timesteps: int
    n_steps: int | None
    n_envs: int
    batch_size: int
    networks: Networks
    observation_bytes: int
    """Of one observation in the rollout buffer."""
    fused: bool
    on_gpu: bool
    vec_env: str
    own_env: bool
    """Environments of the user's own exist by now, and are part of `now_bytes`."""
    workers: int
    parallel: int
    """Trainings that can run at a time."""
    seeds: int
    sessions: int
    """Sessions of the largest evaluation."""
    model_bytes: int
    """Weights of the language model, 0 without one or where it has nothing to answer."""
    model_on_gpu: bool = False
    group: int = 0
    """Members that train together in this process; 0 where each trains on its own."""
    group_member_bytes: int = 0
    """What each of them adds on the group's device."""
    group_bars: int = 0
    """Of all markets: their tables lie on that device."""
    on_ray: bool = False
    """Workers are Ray's: even one is a process of its own, and none shares libraries with another."""

    def plans(self) -> tuple[RolloutPlan, RolloutPlan]:
        """Rollouts of base training and fine-tuning. ConfigError where they cannot be planned."""
        sizes = self.n_envs, self.batch_size, self.n_steps
        return plan_rollouts(self.base_timesteps, *sizes), plan_rollouts(self.finetune_timesteps, *sizes)


Parts = dict[str, float]
"""Bytes by what takes them."""


@dataclass(frozen=True)
class Prediction:
    """The peak of a run: bytes, the stage in which it is reached, and its parts then."""

    stage: Stage
    parts: Parts
    stages: dict[Stage, float]
    """The peak of every stage, bytes."""
    worker_bytes: float
    """What each worker adds; 0 without workers."""
    gpu: Parts

    @property
    def peak_bytes(self) -> float:
        """The run's."""
        return sum(self.parts.values())

    @property
    def gpu_bytes(self) -> float:
        """On the GPU; 0 where nothing runs there."""
        return sum(self.gpu.values())


def predict(shape: RunShape) -> Prediction:
    """The memory of a run of this shape. ConfigError where its rollouts cannot be planned."""
    plans = shape.plans()
    training = _largest([training_parts(shape, shape.networks, plan) for plan in plans])
    if shape.group:
        training = group_parts(shape)
    trial = training_parts(
        shape, replace(shape.networks, pi=PRODUCTION_NET_ARCH.pi, vf=PRODUCTION_NET_ARCH.vf), plans[0]
    )
    here: Parts = {"this process": shape.now_bytes, "libraries and compiled code": shape.to_load_bytes}
    played = {"evaluation": _evaluation_bytes(shape)}
    report = {"first use": FIRST_USE_MB * MB}
    if shape.workers > 1 or shape.on_ray:
        server, own = ("Ray", RAY_MB) if shape.on_ray else ("server of workers", SERVER_MB)
        shared: Parts = {server: own * MB, "tables for workers": shape.table_bytes}
        at_once = min(shape.workers, shape.parallel)
        empty = (WORKER_MB + (SERVER_MB if shape.on_ray else 0)) * MB
        each = empty + (0.0 if shape.group else sum(training.values()))
        beside = training if shape.group else {f"{at_once} workers": at_once * each}
        playing = {f"{at_once} workers": at_once * (empty + _evaluation_bytes(replace(shape, seeds=1)))}
    else:
        shared, each, beside, playing = {}, 0.0, training, {}
    stages: dict[Stage, Parts] = {
        "loading": {"the most so far": shape.peak_bytes},
        "advice": {**here, **shared, **_model(shape)},
        "production": {**here, **report, **shared, **trial},
        "training": {**here, **report, **shared, **beside},
        "evaluation": {**here, **report, **shared, **playing, **played},
        "report": {**here, **report, **shared},
    }
    totals = {stage: sum(parts.values()) for stage, parts in stages.items()}
    stage = max(totals, key=lambda name: totals[name])
    gpu = _gpu(shape, plans) if shape.on_gpu or shape.model_on_gpu else {}
    return Prediction(stage, {name: n for name, n in stages[stage].items() if n}, totals, each, gpu)


def _largest(parts: Sequence[Parts]) -> Parts:
    return max(parts, key=lambda of: sum(of.values()))


def training_parts(shape: RunShape, networks: Networks, plan: RolloutPlan) -> Parts:
    """What one training makes, where its networks are on the CPU; else what stays there."""
    rows, n_envs = plan.n_envs * plan.n_steps, plan.n_envs
    columns = 8 + 6 * 4 + 4 * networks.actions
    if shape.fused:
        columns += 4 * networks.actions + 4 * 8
        update: float = 4 * plan.batch_size * (networks.inputs + 2 * networks.outputs)
    else:
        columns += shape.observation_bytes  # the library flattens a rollout by copying it
        update = plan.batch_size * (2 * shape.observation_bytes + AUTOGRAD_BYTES * networks.outputs)
    acting = 4 * n_envs * (2 * networks.inputs + networks.outputs)
    parts: Parts = {
        "accounts": _account_bytes(shape),
        "rollouts": rows * (shape.observation_bytes + columns),
        "networks": COPIES_IN_TRAINING * 4 * networks.weights,
        "update": acting + (0 if shape.on_gpu else update),
        "tape": BAR_BYTES * shape.bars,
    }
    if shape.vec_env == "subproc" and not shape.own_env:
        parts["environment workers"] = MB * ENV_SERVER_MB + n_envs * (MB * ENV_WORKER_MB + DISTANCE_BYTES * shape.bars)
    return parts


def group_parts(shape: RunShape) -> Parts:
    """What members that train together make in this process. Their own rollout buffers are never written to."""
    weights = 4 * shape.networks.weights
    parts: Parts = {
        "accounts": shape.group * _account_bytes(shape),
        "networks": weights * (COPIES_IN_TRAINING + (shape.group - 1) * COPIES_IN_GROUP),
        "tape": BAR_BYTES * shape.bars,
    }
    if not shape.on_gpu:
        members = shape.group * shape.group_member_bytes
        parts[f"{shape.group} members that train together"] = members + _tape_bytes(shape)
    return parts


def _tape_bytes(shape: RunShape) -> float:
    """The tables of the accounts on a group's device."""
    return shape.group_bars * TAPE_BAR_BYTES


def _account_bytes(shape: RunShape) -> float:
    if shape.own_env:
        return 2 * shape.n_envs * shape.observation_bytes
    return shape.n_envs * (ACCOUNT_BYTES if shape.vec_env == "batched" else DUMMY_ENV_BYTES)


def _evaluation_bytes(shape: RunShape) -> float:
    """Every arm's sessions at once, and the policies of all seeds."""
    if not shape.sessions:
        return 0.0
    arms = PLAYED_ARMS + 4 * shape.seeds
    forward = 4 * shape.sessions * (2 * shape.networks.inputs + 2 * shape.networks.outputs)
    return arms * shape.sessions * SESSION_BYTES + 4 * 3 * shape.seeds * shape.networks.weights + forward


def _model(shape: RunShape) -> Parts:
    if not shape.model_bytes:
        return {}
    weights = 0 if shape.model_on_gpu else shape.model_bytes
    return {"language model": weights + MODEL_LIBRARIES_MB * MB}


def _gpu(shape: RunShape, plans: Sequence[RolloutPlan]) -> Parts:
    """The larger of trainings and advice: the model is gone before anything is trained."""
    context: Parts = {"CUDA context": CUDA_CONTEXT_MB * MB}
    advice = {**context, "language model": shape.model_bytes if shape.model_on_gpu else 0}
    if not shape.on_gpu:
        return advice
    networks = shape.networks
    if shape.group:
        members = GPU_MARGIN * shape.group * shape.group_member_bytes
        together: Parts = {**context, "market": _tape_bytes(shape), f"{shape.group} members together": members}
        return _largest([together, advice])
    rows = max(plan.batch_size for plan in plans)
    activations = rows * (2 * shape.observation_bytes + AUTOGRAD_BYTES * networks.outputs)
    training = {**context, "networks": 8 * 4 * networks.weights, "update": activations}
    return _largest([training, advice])


@dataclass(frozen=True)
class MemoryPlan:
    """What a run was predicted to take, as the report has it. GB are 10^9 bytes."""

    predicted_gb: float
    available_gb: float
    """To this run, with what it had when this was predicted."""
    limit: str
    """Where `available_gb` comes from, in a few words."""
    stage: str
    """In which the peak is reached."""
    parts: list[dict[str, Any]]
    """What takes it, and GB."""
    worker_gb: float
    workers: int
    workers_wanted: int
    group: int | None
    """Members that train together at most; None where each trains on its own."""
    gpu_predicted_gb: float | None
    gpu_available_gb: float | None

    def to_dict(self) -> dict[str, Any]:
        """As the report has it: without a group where there is none."""
        return {name: value for name, value in asdict(self).items() if name != "group" or value is not None}

    @property
    def words(self) -> str:
        """One line for the console."""
        each = f" ({self.workers} workers at {self.worker_gb:.2f} GB each)" if self.workers > 1 else ""
        gpu = ""
        if self.group is not None:
            together = f", up to {self.group} members together" if self.group > 1 else ", one member at a time"
            if self.gpu_predicted_gb is not None:
                gpu = f"; {self.gpu_predicted_gb:.2f} of {self.gpu_available_gb:.1f} GB of the GPU's"
            each += together
        return f"memory: about {self.predicted_gb:.2f} GB at the peak{each}; {self.available_gb:.1f} GB available{gpu}"

    @property
    def fewer_words(self) -> str:
        """Why there are fewer workers than there were to be; "" where there are not."""
        if self.workers == self.workers_wanted:
            return ""
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        return f"{workers} instead of {self.workers_wanted}: more would not fit into {self.limit}"


# What fits


def fits(shape: RunShape, limit_bytes: float, gpu_limit_bytes: float = math.inf) -> bool:
    """Whether a run of this shape stays within the limits; False where its rollouts cannot be planned."""
    try:
        found = predict(shape)
    except ConfigError:
        return False
    return found.peak_bytes <= limit_bytes and found.gpu_bytes <= gpu_limit_bytes


def largest_workers(shape: RunShape, is_enough: Callable[[RunShape], bool]) -> int | None:
    """The most workers, fewer than now, with which a run is small enough; None where one is too many."""
    return next((n for n in range(shape.workers - 1, 0, -1) if is_enough(replace(shape, workers=n))), None)


def largest_group(shape: RunShape, is_enough: Callable[[RunShape], bool]) -> int | None:
    """The same for members that train together."""
    return next((n for n in range(shape.group - 1, 0, -1) if is_enough(replace(shape, group=n))), None)


def largest_envs(shape: RunShape, is_enough: Callable[[RunShape], bool]) -> int | None:
    """The same for accounts, of those numbers that fill whole minibatches."""
    candidates = env_candidates(shape.n_envs, shape.batch_size, shape.n_steps)
    return next((n for n in candidates if is_enough(replace(shape, n_envs=n))), None)


def largest_batch(shape: RunShape, is_enough: Callable[[RunShape], bool]) -> int | None:
    """The same for the minibatch."""
    candidates = batch_candidates(shape.batch_size, shape.n_envs, shape.n_steps)
    return next((n for n in candidates if is_enough(replace(shape, batch_size=n))), None)


def env_candidates(below: int, batch_size: int, n_steps: int | None) -> Iterator[int]:
    """Numbers of accounts under `below` that fill whole minibatches of a fixed or a short rollout, largest first."""
    if n_steps is not None:
        unit = batch_size // math.gcd(batch_size, n_steps)
        yield from range((below - 1) // unit * unit, 0, -unit)
        return
    yield from (n for n in range(below - 1, 0, -1) if n % batch_size == 0 or batch_size % n == 0)


def batch_candidates(below: int, n_envs: int, n_steps: int | None) -> Iterator[int]:
    """Minibatches under `below` of which a fixed rollout has a whole number, or which a rollout step fills; largest
    first."""
    if n_steps is not None:
        rollout = n_envs * n_steps
        yield from (n for n in range(below - 1, 1, -1) if rollout % n == 0)
        return
    unit = math.lcm(n_envs, 64)
    yield from range((below - 1) // unit * unit, 0, -unit)
    yield from (n for n in range(min(below, unit) - 1, 1, -1) if n_envs % n == 0 or n % n_envs == 0)
