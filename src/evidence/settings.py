"""The configuration section of what is watched and logged during a run."""

from __future__ import annotations

from pydantic import Field

from src.settings import Section


class MonitoringSettings(Section):
    """Section `monitoring`: hardware sampling and training logs."""

    monitor_gpu: bool = Field(True, description="read the GPU through NVML where there is one")
    hardware_interval_s: float = Field(1.0, ge=0.05, le=3600.0, description="seconds between two hardware samples")
    log_interval: int = Field(100, ge=1, description="vec-env steps between two training log records")
    tensorboard: bool = Field(True, description="write training records for TensorBoard beside the JSON lines")
