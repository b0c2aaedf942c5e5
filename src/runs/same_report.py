"""What two runs of the same settings have in common: their report without times, speed and process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OF_THE_PROCESS = frozenset(
    {
        "execution_time",
        "cache",
        "cache_hit_rate",
        "duration_seconds",
        "avg_gpu_utilization",
        "peak_gpu_memory_gb",
        "peak_memory_gb",
        "peak_memory_kind",
        "gpu_utilization",
        "targets",
        "phase_times",
        "time",
        "hardware",
        "hardware_timeline",
        "configuration",
        "memory",
        "memory_released_mb",
        "seconds",
        "rollout_s",
        "environment_s",
        "update_s",
        "checkpoint_s",
        "pace_s",
        "pace_rollouts",
        "steps_per_s",
        "hours",
        "low_hours",
        "high_hours",
        "beside",
        "measured_timesteps",
        "gemm_gflops",
        "energy_kwh",
        "power_w",
        "cost_usd",
        "other_machine",
        "name",
        "tries",
        "failures",
        "memory_before",
        "memory_after",
        "cpu_percent",
        "load_s",
        "advices_per_s",
        "asked_now",
        "from_store",
        "scoring",
        "answers",
        "verdict",
        "workers",
        "validation_passed",
    }
)
"""Report fields that say how and how fast a process worked, not what came out."""


def without_times(value: Any) -> Any:
    """A report, or a part of one, without what differs from process to process."""
    if isinstance(value, Mapping):
        return {key: without_times(inner) for key, inner in value.items() if key not in OF_THE_PROCESS}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value
