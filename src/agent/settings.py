"""What a run is, what it may use of the machine, how the agent learns, how the pipeline proceeds: sections of the
YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator

from src.agent.other_machine import SHAPE, OtherMachine
from src.settings import Section
from src.shares import as_fraction


class RunSettings(Section):
    """Which run this is: section `test_mode`."""

    mode: Literal["hardware_maximized", "pipeline"] = Field(
        "hardware_maximized", description="hardware_maximized: a validation in minutes; pipeline: the sequential phases"
    )
    market: str | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "NQ", description="contract symbol: NQ ES YM RTY, or a micro: MNQ MES MYM M2K; or a list of several"
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="of every random stream of the run")
    output_dir: str = Field("logs", min_length=1, description="folder that gets one folder a run")
    quick: bool = Field(False, description="train quick_frac of production: too short to learn")
    quick_frac: float = Field(0.01, gt=0, le=1, description="share of training.production_timesteps under quick")

    @property
    def markets(self) -> tuple[str, ...]:
        """The markets of the run, one or several."""
        return (self.market,) if isinstance(self.market, str) else self.market

    @property
    def market_label(self) -> str:
        """All markets as one word, for names of folders: `NQ` or `NQ-ES`."""
        return label_of(self.markets)


def label_of(markets: Sequence[str]) -> str:
    """Markets as one word."""
    return "-".join(markets)


Learner = Literal["fused", "stock", "population"]
LEARNERS: tuple[Learner, ...] = get_args(Learner)
Precision = Literal["float32", "tf32", "bf16"]


LOCAL = "local"
"""As `hardware.ray`: a Ray of this machine's cores, started for the run."""


class HardwareSettings(Section):
    """How much of the machine a run uses: section `hardware`."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes CUDA where there is a GPU")
    vec_env: Literal["batched", "subproc", "dummy"] = Field(
        "batched",
        description="batched: all in one process; subproc: a process each; dummy: one by one",
    )
    vectorized_envs: int = Field(32, ge=1, le=65_536, description="accounts stepped together")
    batch_size: int = Field(1024, ge=2, le=2**20, description="timesteps in a minibatch of the PPO update")
    memory_fraction: float = Field(
        0.95, gt=0, le=1, description="share of the GPU's memory the run may take (GPU only)"
    )
    mixed_precision: bool = Field(False, description="bf16 in the update (GPU only)")
    precision: Precision | None = Field(
        None, description="of the population's matrix products; null: on a GPU bf16 if mixed_precision, else float32"
    )
    optimize_memory: bool = Field(True, description="drop a phase's rollout buffer and accounts before the next phase")
    torch_threads: int | None = Field(
        None, ge=1, le=1024, description="CPU threads of torch; null: 1, which is fastest for networks this small"
    )
    workers: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="tasks done at a time; null: as many as there are free cores, where it is worth it",
    )
    ray: str | None = Field(
        None,
        description="Ray does the tasks: local starts one for the run, HOST:PORT joins a cluster; null: without Ray",
    )
    memory_limit_gb: float | None = Field(
        None, gt=0, le=1_000_000, description="GB of memory the run may take; null: what is free when it starts"
    )
    learner: Learner | None = Field(
        None,
        description="fused: explicit gradients, compiled; stock: the library's; population: all members together; "
        "null: population on a GPU that has numba-cuda, fused on the CPU",
    )
    group: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="members that train together (learner population); null: as many as fit into memory",
    )
    stuck_worker_s: float = Field(
        60.0,
        gt=0,
        le=86_400,
        description="seconds without an answer (and 60 median steps) after which a worker is stuck (subproc)",
    )
    price_per_hour: float | None = Field(
        None, ge=0, le=10**6, description="US dollars an hour of the machine, for the forecast's cost; null: none"
    )
    other_machine: str | None = Field(None, description=f"machine to forecast production on, too: {SHAPE}; null: none")

    def update_precision(self, device: str) -> Precision:
        """Of the update's matrix products on a type of device."""
        return self.precision or ("bf16" if self.mixed_precision and device == "cuda" else "float32")

    @field_validator("ray")
    @classmethod
    def _is_an_address(cls, text: str | None) -> str | None:
        if text in (None, LOCAL):
            return text
        host, _, port = text.rpartition(":")
        if not host or "/" in host or not (port.isdecimal() and port.isascii() and 0 < int(port) < 65_536):
            raise ValueError("write HOST:PORT, such as 10.0.0.5:6379, or local")
        return text

    @field_validator("other_machine")
    @classmethod
    def _has_cores_and_speed(cls, text: str | None) -> str | None:
        if text is not None:
            OtherMachine.parse(text)
        return text


Units = Annotated[int, Field(ge=1, le=65_536)]


class NetArch(Section):
    """Hidden layers of the policy and of the value network, first to last."""

    pi: tuple[Units, ...] = Field((256, 128), min_length=1, description="units of each hidden layer of the policy")
    vf: tuple[Units, ...] = Field((256, 128), min_length=1, description="units of each hidden layer of the value net")


class PolicySettings(Section):
    """The networks: `training.policy_kwargs`."""

    net_arch: NetArch = Field(NetArch(), description="hidden layers; one list serves both networks")
    activation_fn: Literal["tanh", "relu"] = Field("tanh", description="between the layers")


class TrainingSettings(Section):
    """PPO and its budget: section `training`."""

    production_timesteps: int = Field(500_000, ge=1, le=10**10, description="base timesteps of the production run")
    production_net_arch: tuple[Units, ...] = Field(
        (512, 256, 128), min_length=1, description="hidden layers of both networks of the production run"
    )
    production_seeds: int = Field(1, ge=1, le=1000, description="seeds of the production run, for its forecast")
    timesteps_reduction: float = Field(0.10, gt=0, le=1, description="share of production_timesteps trained here")
    timesteps: int | None = Field(None, ge=1, le=10**10, description="base timesteps outright; null: the share")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Adam's step size in base training")
    n_steps: int | None = Field(
        None,
        ge=1,
        le=2**20,
        description="bars of each account in a rollout; null: 2 x batch_size / vectorized_envs",
    )
    n_epochs: int = Field(10, ge=1, le=1000, description="passes of an update over its rollout")
    # An episode is a session of at most 78 5-minute bars (rth): 0.99 looks about 100 bars ahead, to its end.
    gamma: float = Field(0.99, gt=0, le=1, description="discount a bar; 0.99 looks about 100 bars ahead")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="GAE's trade of bias (0) against variance (1)")
    clip_range: float = Field(0.2, gt=0, le=1, description="PPO's bound on the change of an action's probability ratio")
    ent_coef: float = Field(0.0, ge=0, le=10, description="weight of the entropy bonus in the loss")
    vf_coef: float = Field(0.5, ge=0, le=100, description="weight of the value loss")
    max_grad_norm: float = Field(0.5, gt=0, le=1000, description="gradients are clipped to this norm")
    target_kl: float | None = Field(None, gt=0, le=100, description="KL that ends a base update early; null: none")
    finetune_frac: float = Field(0.5, gt=0, le=10, description="hybrid timesteps as a share of base timesteps")
    finetune_learning_rate: float = Field(3e-4, gt=0, le=1, description="Adam's step size in hybrid fine-tuning")
    finetune_target_kl: float | None = Field(
        0.03, gt=0, le=100, description="KL that ends a hybrid update early; null: none"
    )
    weight_ramp_rollouts: int = Field(4, ge=0, le=100_000, description="rollouts until the advice has its full weight")
    policy_kwargs: PolicySettings = Field(PolicySettings(), description="the networks")

    def base_timesteps(self, run: RunSettings) -> int:
        """Timesteps of base training asked for: `timesteps`, else the share of production; rollouts round it up."""
        if self.timesteps is not None:
            return self.timesteps
        share = run.quick_frac if run.quick else self.timesteps_reduction
        return max(1, round(self.production_timesteps * share))

    def finetune_timesteps(self, run: RunSettings) -> int:
        """Timesteps of hybrid fine-tuning asked for: the same for RL alone."""
        return max(1, round(self.base_timesteps(run) * self.finetune_frac))


class PerformanceSettings(Section):
    """Shortcuts that must not change a result: section `performance`."""

    cached_llm_features: bool = Field(
        True, description="keep answers of a language model and features of your own environments in the cache"
    )
    vectorized_decision_fusion: bool = Field(True, description="fuse a batch of decisions at once; false: one by one")
    batched_logging: bool = Field(True, description="write training rows in batches; false: every row at once")
    environment_state_pooling: bool = Field(True, description="keep environments for reuse; false: a new one each time")
    env_pool_size: int = Field(8, ge=1, le=4096, description="environments kept in the pool")


class CheckpointSettings(Section):
    """What the pipeline keeps for resuming: section `checkpoint`."""

    enabled: bool = Field(True, description="false: none is written, and a killed phase restarts")
    strategy: Literal["interval", "phase_based"] = Field(
        "interval", description="interval: within training and at its end; phase_based: at its end only"
    )
    interval_steps: int = Field(
        10_000, ge=1, le=10**9, description="timesteps between two checkpoints; the rollout's end after them counts"
    )
    keep_last: int = Field(3, ge=1, le=1000, description="checkpoints kept of one training")
    auto_resume: bool = Field(
        True, description="resume the newest unfinished run of the same market and settings; false: begin a new one"
    )


class PipelineSettings(Section):
    """How the three phases follow each other: section `pipeline`."""

    auto_advance: bool = Field(True, description="false: stop after each phase and print the command to resume")
    reallocate_resources: bool = Field(
        True, description="between phases release what the next does not need and apply its gpu_usage"
    )
    pause_between_phases: float = Field(0.0, ge=0, le=86_400, description="seconds to wait between two phases")
    max_retries_per_phase: int = Field(
        1, ge=0, le=100, description="times a phase is tried again, from its newest checkpoint, after a failure"
    )
    continue_on_failure: bool = Field(
        False, description="continue with a failed phase's partial results instead of stopping"
    )


class PhaseUsage(Section):
    """What one phase may use of the machine."""

    memory_fraction: float | None = Field(
        None, gt=0, le=1, description="share of the GPU's memory; null: hardware.memory_fraction (GPU only)"
    )
    torch_threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; null: hardware.torch_threads")


class PhaseSettings(Section):
    """Limits and targets of one phase: section `phase1`."""

    estimated_duration: float = Field(600.0, gt=0, le=10**7, description="seconds it should take: a target")
    timeout: float = Field(3600.0, gt=0, le=10**7, description="seconds after which it is stopped, all tries together")
    gpu_utilization_target: float | None = Field(
        None, ge=0, le=1, description="least mean GPU utilisation during it, fraction or %; null: none (GPU only)"
    )
    gpu_usage: PhaseUsage = Field(
        PhaseUsage(), description="what it may use of the machine; one number: memory_fraction and utilisation target"
    )

    _share = field_validator("gpu_utilization_target", mode="before")(as_fraction)


class TrainingPhaseSettings(PhaseSettings):
    """The same with a budget of its own: sections `phase2` and `phase3`."""

    estimated_duration: float = Field(3600.0, gt=0, le=10**7, description="seconds it should take: a target")
    timeout: float = Field(
        86_400.0, gt=0, le=10**7, description="seconds after which it is stopped, all tries together"
    )
    total_timesteps: int | None = Field(
        None, ge=1, le=10**10, description="timesteps of its training in the pipeline; null: as section training says"
    )
