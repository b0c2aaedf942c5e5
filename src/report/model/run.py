"""Sections about the run itself: settings, trainings, targets, hardware, phases, leak checks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from src.evaluation.leak_words import FEATURES, WHAT, WRONG
from src.report.model.advice import RuleCounts
from src.report.model.base import Automation, Columns, Count, Figure, Frac, Maybe, Number, Part, Percent, Span


class Run(Part):
    name: str
    mode: str
    market: str
    seed: int
    quick: bool
    device: str
    torch_threads: Count
    workers: Maybe[Count] = None
    """Processes that trained members beside each other."""
    vec_env: str
    why_vec_env: str
    versions: dict[str, str]
    finished_utc: Maybe[str] = None
    """ISO 8601."""


class SessionsDrawn(Part):
    """The sessions in which a training's episodes began."""

    episodes: Count
    sessions: list[Span]
    unexplained: Count


class TrainingRow(Part):
    phase: str
    timesteps_requested: Count
    timesteps: Count
    n_envs: Count
    n_steps: Count
    batch_size: Count
    seconds: Number
    rollout_s: Number
    update_s: Number
    checkpoint_s: Number = 0.0
    """On top of `seconds`."""
    steps_per_s: Number
    environment_s: Number = 0.0
    """Part of `rollout_s`: the environment; the rest is the policy."""
    learner: Maybe[Literal["fused", "stock", "population"]] = None
    why_learner: Maybe[str] = None
    """Why the stock learner, which library multiplied the fused one's matrices, or where the population trained."""
    group: Maybe[Count] = None
    """Members that trained together; its times are an equal share of theirs. Null where it trained on its own."""
    precision: Maybe[Literal["float32", "tf32", "bf16"]] = None
    """Of the population's products."""
    pace_s: Maybe[list[Number]] = None
    """Wall seconds of consecutive blocks of `pace_rollouts` rollouts, updates and checkpoints included."""
    pace_rollouts: Maybe[Count] = None
    market: Maybe[str] = None
    seed: Maybe[int] = None
    fold: Maybe[Count] = None
    """0 for the run's own split; walk-forward folds count from 1."""
    sessions_drawn: Maybe[SessionsDrawn] = None


class Bounds(Part):
    """A figure of the forecast with the bounds of its interval; null: nothing to take it from."""

    value: Figure
    low: Figure
    high: Figure


class OtherMachineEstimate(Part):
    """Production on a machine that is not here. `gflops` are of a matrix product on one core."""

    name: str
    cores: Count
    gflops: Number
    beside: Count
    hours: Figure
    low_hours: Figure
    high_hours: Figure
    reason: str
    """Why there are no hours, or no interval; else empty."""
    cost_usd: Maybe[Bounds] = None


class ProductionEstimate(Part):
    timesteps: Count
    """Of one seed."""
    steps_per_s: Number
    """Of one seed."""
    hours: Number
    """Of all seeds."""
    measured_timesteps: Count
    net_arch: list[Count]
    seeds: Maybe[Count] = None
    beside: Maybe[Count] = None
    """Seeds trained beside each other."""
    level_frac: Maybe[Frac] = None
    """Of all intervals here."""
    low_hours: Figure = None
    high_hours: Figure = None
    reason: Maybe[str] = None
    """Why there is no interval; else empty."""
    cores: Maybe[Count] = None
    """Of this machine, that this process may use."""
    gemm_gflops: Figure = None
    """10^9 floating-point operations a second of a matrix product on one core."""
    energy_kwh: Maybe[Bounds] = None
    power_w: Figure = None
    """Mean of processor packages and GPU while the run trained, other programs' share included."""
    power_words: Maybe[str] = None
    """What the power is of, or why it is not known."""
    price_per_hour_usd: Maybe[Number] = None
    cost_usd: Maybe[Bounds] = None
    other_machine: Maybe[OtherMachineEstimate] = None


class Curve(Columns):
    """Learning curve of one training; a column has an entry a record."""

    INDEX = "timesteps"

    phase: str
    market: Maybe[str] = None
    seed: int
    fold: Maybe[Count] = None
    timesteps: list[Count]
    mean_episode_reward: Maybe[list[Figure]] = None
    explained_variance: Maybe[list[Figure]] = None
    approx_kl: Maybe[list[Figure]] = None
    clip_fraction: Maybe[list[Figure]] = None
    value_loss: Maybe[list[Figure]] = None
    steps_per_s: Maybe[list[Figure]] = None
    entropy: Maybe[list[Figure]] = None


class Learning(Part):
    curves: list[Curve]


class Target(Part):
    target: Figure
    measured: Figure
    required: bool
    at_most: bool
    status: Literal["met", "missed", "not_applicable"]
    reason: Maybe[str] = None
    remedy: Maybe[str] = None
    """What would meet a target that was missed."""


class HardwareFigures(Part):
    samples: Count
    average_machine_cpu_percent: Figure
    average_tree_cores: Figure
    peak_ram_gb: Figure
    peak_machine_memory_gb: Figure
    peak_processes: Figure
    average_cpu_power_w: Figure = None
    """Of the processor packages, whoever drew it."""
    average_gpu_percent: Figure
    peak_gpu_percent: Figure
    peak_gpu_memory_gb: Figure
    gpu_memory_total_gb: Figure
    average_gpu_power_w: Figure
    peak_gpu_temperature_c: Figure


class Machine(Part):
    gpu_available: bool
    gpu_name: str
    gpu_reason: str
    cpu_power_reason: Maybe[str] = None
    """Why the processor's power was not read; else empty."""
    cores: int | None
    memory_measure: Literal["pss", "rss less shared"] | None = None
    """How `peak_ram_gb` counts what processes share: pss once; the other more than once."""


class Hardware(HardwareFigures, Machine):
    avg_gpu_utilization: Maybe[Number] = None
    """Percent; 0 without a GPU."""
    duration_seconds: Maybe[Number] = None
    """From the first to the last sample."""
    phases: dict[str, HardwareFigures]
    late_samples: Count
    failed_readings: dict[str, Count]
    failure_reasons: dict[str, str]
    thread_error: str


class PhaseInterval(Part):
    phase: str
    begin_s: Number
    end_s: Number


class HardwareTimeline(Columns):
    INDEX, NO_COLUMNS = "elapsed_s", ("phases",)

    elapsed_s: list[Number]
    """At most 600 samples; CPU and GPU are means over a sample's interval, memory its peak."""
    machine_cpu_percent: list[Figure]
    tree_cores: list[Figure]
    """Cores the run itself kept busy."""
    tree_rss_gb: list[Figure]
    gpu_percent: Maybe[list[Figure]] = None
    gpu_memory_used_gb: Maybe[list[Figure]] = None
    phases: list[PhaseInterval]


class Summary(Part):
    """The run in a few figures, as TestingFramework.get_summary() returns them."""

    mode: Maybe[str] = None
    market: Maybe[str] = None
    vectorized_envs: Maybe[Count] = None
    duration_seconds: Maybe[Number] = None
    total_timesteps: Maybe[Count] = None
    avg_gpu_utilization: Maybe[Number] = None
    """Percent; 0 without a GPU."""
    peak_gpu_memory_gb: Maybe[Number] = None
    """0 without a GPU."""
    gpu_available: Maybe[bool] = None
    cache_hit_rate: Frac | None = None


class Cache(Part):
    hits: Count
    misses: Count
    hit_rate: Figure
    size: Count
    max_size: Count
    words: Maybe[str] = None
    """What the hit rate means, or why there is none."""


class Fusion(RuleCounts):
    total: Count
    rates: dict[str, Figure]
    advice_changed: Count
    advice_changed_rate: Figure
    loop: str


class EnvPool(Part):
    pool_size: Count
    built: Count
    available: Count
    in_use: Count
    total_uses: Count
    avg_uses_per_env: Number
    temporary: Count


class Rules(Part):
    profile: str
    as_of: str
    note: str
    fingerprint: Maybe[str] = None
    """SHA-256 of the rules themselves, whatever the profile is called."""
    automation: Automation | None = None
    """Whether the firm lets a program trade; null: there is no firm, or an earlier version did not say."""
    automation_note: str | None = None
    conflicts: list[str] = Field([])
    """Where the profile's sources disagree, and what is used."""
    unverified: list[str] = Field([])
    """What no source confirms, and what is used."""


class LeakPart(Part):
    checks: Count
    passed: bool
    found: str
    strata: dict[str, Count]
    """Bars tested, by the place they were chosen for."""


class LookAhead(Part):
    checks: Count
    passed: bool
    found: str
    parts: dict[str, LeakPart] = Field({})
    """By check: features, decisions, fills, sealed."""

    @property
    def compared(self) -> str:
        """What the checks compared, in one line; reports of earlier versions counted prefixes alone."""
        told = [WHAT[name].format(part.checks) for name, part in self.parts.items() if name in WHAT]
        return ", ".join(told) if self.parts else f"{self.checks:,} prefix recomputations"

    @property
    def wrong(self) -> str:
        """What kind of leak was found, in a few words."""
        failed = (name for name, part in self.parts.items() if not part.passed)
        return WRONG.get(next(failed, FEATURES), WRONG[FEATURES])


class MemoryPart(Part):
    what: str
    gb: Number


class Memory(Part):
    """RAM of the run, predicted before anything was written, and measured. GB are 10^9 bytes."""

    predicted_gb: Number
    measured_gb: Figure
    """The highest sample of this process of the run."""
    available_gb: Number
    """To the run in all."""
    limit: str
    """Where that comes from."""
    stage: Literal["loading", "advice", "production", "training", "evaluation", "report"]
    """In which the predicted peak is reached."""
    parts: list[MemoryPart]
    """Of the predicted peak, largest first."""
    worker_gb: Number
    """Predicted for each worker; 0 without workers."""
    workers: Count
    workers_wanted: Count
    """More than `workers` where memory asked for fewer."""
    group: Maybe[Count] = None
    """Members that train together at most; null where each trains on its own."""
    gpu_predicted_gb: Figure
    gpu_available_gb: Figure
    gpu_measured_gb: Figure
    """Of the whole device."""


class Phase(Part):
    """A phase of a pipeline: what its ledger says."""

    status: Literal["pending", "running", "done", "failed", "timed_out", "interrupted"]
    result: Maybe[str] = None
    """Fingerprint of what it made."""
    timesteps: dict[str, Count] = Field({})
    seconds: Number
    """Of all its tries together."""
    tries: Count
    failures: list[str] = Field([])
    torch_threads: Annotated[int, Field(ge=1)] | None = None
    memory_before: dict[str, Number] = Field({})
    memory_after: dict[str, Number] = Field({})
    gpu_utilization: Percent | None = None
    cpu_percent: Figure = None
    not_bitwise: list[str] = Field([])
