"""A stand-in for the `pynvml` module that replays a recorded trace, one reading further at each utilisation query."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

TRACE = Path(__file__).parent / "golden" / "nvml_trace.json"


def read_trace() -> dict[str, Any]:
    return json.loads(TRACE.read_text(encoding="utf-8"))


class RecordedNvml:
    """`n_devices` devices; the trace belongs to device `traced`, the others fail every reading."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self, trace: dict[str, Any] | None = None, *, n_devices: int = 1, traced: int = 0) -> None:
        self.trace = trace or read_trace()
        self.n_devices = n_devices
        self.traced = traced
        self.at = -1
        self.open = False

    def nvmlInit(self) -> None:
        self.open = True

    def nvmlShutdown(self) -> None:
        self.open = False

    def nvmlDeviceGetCount(self) -> int:
        return self.n_devices

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if not 0 <= index < self.n_devices:
            raise self.NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return self.trace["uuid"] if handle == self.traced else f"GPU-{handle:08d}-0000-0000-0000-000000000000"

    def nvmlDeviceGetName(self, handle: int) -> str:
        return self.trace["name"] if handle == self.traced else f"Other GPU {handle}"

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        self.at = min(self.at + 1, len(self.trace["readings"]) - 1)
        return SimpleNamespace(gpu=self._value(handle, "gpu_percent"), memory=self._value(handle, "memory_percent"))

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        used, total = self._value(handle, "memory_used_bytes"), self.trace["memory_total_bytes"]
        return SimpleNamespace(used=used, total=total, free=total - used)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return self._value(handle, "power_mw")

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        assert sensor == self.NVML_TEMPERATURE_GPU
        return self._value(handle, "temperature_c")

    def _value(self, handle: int, name: str) -> int:
        reading = self.trace["readings"][self.at]
        if not self.open or handle != self.traced or reading[name] is None:
            raise self.NVMLError(reading.get("error", "Uninitialized"))
        return reading[name]
