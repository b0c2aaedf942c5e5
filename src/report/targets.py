"""Section `validation`: the targets a run is measured against, and which of them decide its exit code."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import Field, field_validator, model_validator

from src.settings import Section
from src.shares import as_fraction
from src.suggestions import did_you_mean

# What `validation.required` may name, and the field that holds its limit.
TARGETS: Mapping[str, str] = MappingProxyType(
    {
        "execution_time": "max_execution_time_s",
        "peak_memory": "max_peak_memory_gb",
        "gpu_utilization": "gpu_utilization_target",
        "cache_hit_rate": "cache_hit_rate_target",
        "steps_per_s": "min_steps_per_s",
    }
)

GPU_UTILIZATION = "gpu_utilization"
"""A target in percent, as the report gives it; its limit is kept as a fraction."""
GPU_REMEDY = (
    "a GPU is kept busy by many and long trainings at once (--seeds 20, --walk-forward 4, training.timesteps) and by "
    "larger networks (training.policy_kwargs.net_arch); or set the target to what this run reaches"
)

PHASE_TARGETS = tuple(f"phase{n}_{what}" for n in (1, 2, 3) for what in ("duration", "gpu_utilization"))
"""What `validation.required` may name besides: targets of the pipeline's phases, their limits in a phase's section."""


class ValidationSettings(Section):
    """Every target is measured and reported; only the required ones decide the exit code."""

    gpu_utilization_target: float = Field(
        0.9, ge=0, le=1, description="least mean GPU utilisation, fraction or % (GPU only)"
    )
    max_execution_time_s: float = Field(3600.0, gt=0, le=10**7, description="longest wall time of the run, seconds")
    cache_hit_rate_target: float = Field(
        0.7, ge=0, le=1, description="least share of cache look-ups that hit, fraction or %"
    )
    max_peak_memory_gb: float = Field(
        24.0, gt=0, le=10**6, description="highest peak memory, GB: the GPU's with a GPU, else RAM"
    )
    min_steps_per_s: float | None = Field(
        None, gt=0, le=10**9, description="least training speed, timesteps a second; null: none"
    )
    required: tuple[str, ...] = Field(
        ("execution_time", "peak_memory", "gpu_utilization"),
        description=f"targets that decide the exit code, of: {', '.join(TARGETS)}, and in the pipeline "
        "phaseN_duration, phaseN_gpu_utilization; GPU utilisation only where CUDA trains",
    )

    _share = field_validator("gpu_utilization_target", "cache_hit_rate_target", mode="before")(as_fraction)

    @field_validator("required")
    @classmethod
    def _known_targets(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in (known := (*TARGETS, *PHASE_TARGETS)):
                raise ValueError(
                    f"{name!r} is not a target{did_you_mean(name, known)}; the targets are {', '.join(known)}"
                )
        if len(set(names)) < len(names):
            raise ValueError("a target is listed twice")
        return names

    @model_validator(mode="after")
    def _required_targets_have_a_limit(self) -> ValidationSettings:
        for name in self.required:
            if name in TARGETS and getattr(self, TARGETS[name]) is None:
                raise ValueError(f"required lists {name}, but {TARGETS[name]}, its limit, is not set")
        return self
