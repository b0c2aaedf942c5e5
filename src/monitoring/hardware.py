"""One sample of what the machine does: processor and memory through psutil, the GPU through NVML."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil

from src.machine_limits import GB, usable_cores
from src.monitoring.energy import PackageEnergy

"""Memory is reported in units of 10^9 bytes."""

SAMPLE_FIELDS = (
    "time",  # unix seconds
    "elapsed_s",  # since the sampler was made
    "interval_s",  # since the sample before: what the two CPU readings are averages over
    "phase",
    "machine_cpu_percent",  # 0 to 100, all cores together
    "tree_cpu_percent",  # 100 is one core
    "tree_rss_gb",
    "machine_memory_used_gb",
    "processes",
    "cpu_power_w",  # of the processor packages, whoever draws it; an average over the interval
    "gpu_percent",  # NVML's utilisation rate: share of time in which a kernel ran
    "gpu_memory_used_gb",  # of the whole device
    "gpu_memory_total_gb",
    "gpu_power_w",
    "gpu_temperature_c",
)

SHORTEST_CPU_INTERVAL_S = 0.05
"""Processor times tick at 10 ms: over a shorter interval their differences are mostly rounding."""

PSS_SHARE = 0.01
"""Of a core's time, the most that reading proportional set sizes takes while no process comes or goes."""

Reading = dict[str, float | int | str | None]


class Nvml(Protocol):
    """The part of the `pynvml` module (package nvidia-ml-py) that is used here; a recorded trace can replace
    it."""

    NVMLError: type[Exception]
    NVML_TEMPERATURE_GPU: int

    def nvmlInit(self) -> Any: ...
    def nvmlShutdown(self) -> Any: ...
    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...
    def nvmlDeviceGetUUID(self, handle: Any) -> str: ...
    def nvmlDeviceGetName(self, handle: Any) -> str: ...
    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any: ...
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any: ...
    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int: ...
    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int: ...


def find_device(nvml: Nvml, visible: str | None) -> tuple[Any | None, str]:
    """Handle of the first GPU that CUDA would use and "", or None and the reason. NVML itself shows all GPUs.

    `visible` is the value of CUDA_VISIBLE_DEVICES: None means all; else its first entry counts, an index or a UUID (a
    unique beginning is enough). Indices are taken in PCI order; where GPUs differ, CUDA agrees only under
    CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    count = nvml.nvmlDeviceGetCount()
    if count == 0:
        return None, "NVML reports no GPU"
    first = "0" if visible is None else visible.split(",")[0].strip()
    if first.startswith(("GPU-", "MIG-")):
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
        matching = [handle for handle in handles if _text(nvml.nvmlDeviceGetUUID(handle)).startswith(first)]
        if len(matching) == 1:
            return matching[0], ""
        return None, f"CUDA_VISIBLE_DEVICES={visible!r} names {len(matching)} of the {count} GPUs"
    if first.isdecimal() and int(first) < count:
        return nvml.nvmlDeviceGetHandleByIndex(int(first)), ""
    return None, f"CUDA_VISIBLE_DEVICES={visible!r} leaves none of the {count} GPUs visible"


def load_nvml() -> Nvml:
    """The NVML bindings; ImportError where nvidia-ml-py is not installed."""
    import pynvml

    return pynvml


class Sampler:
    """Takes samples; a reading that fails is None in the sample, counted in `failures` and its first reason kept in
    `reasons`.

    `nvml` None loads the real bindings; `use_gpu` False leaves the GPU alone. `gpu_available` says whether a GPU is
    read, `gpu_name` which, `gpu_reason` why none is.

    `tree_rss_gb` is the memory of this process and all its descendants: their own pages, and the largest part among
    them of pages of files (libraries, tables mapped by 32 workers), which so counts once and in full, whatever other
    programs map the same library. Of own pages the kernel tells the proportional set sizes (PSS,
    /proc/PID/smaps_rollup), in which a page that k forked processes share counts 1/k in each. Where it does not, they
    are each one's resident pages, in which those shared copy-on-write count once a process: 7.3 GB were told for 0.7.
    `memory_measure` says which.

    The kernel walks a process's page tables for its PSS: 2 ms a process of 200 MB. It is therefore read where processes
    came or went, and else so rarely that it takes `PSS_SHARE` of the time; in between, the second measure is taken less
    what it was too high by when both were read.
    """

    def __init__(
        self, *, use_gpu: bool = True, nvml: Nvml | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.failures: dict[str, int] = {}
        self.reasons: dict[str, str] = {}
        self.cores = usable_cores()
        self.gpu_available = False
        self.gpu_name = ""
        self.gpu_reason = "" if use_gpu else "monitor_gpu is off"
        self._nvml: Nvml | None = None
        self._device: Any = None
        self._clock = clock
        self._started = clock()
        self._last: float | None = None
        self._machine_times: tuple[float, float] | None = None
        self._tree_times: dict[tuple[int, float], float] | None = None
        self._process = psutil.Process()
        self._energy = PackageEnergy()
        self.memory_measure = "pss" if _pss(self._process.pid) is not None else "rss less shared"
        self._pss_of: frozenset[int] = frozenset()
        self._pss_due = 0.0
        self._too_high = 0
        if use_gpu:
            self._open_gpu(nvml)

    def _open_gpu(self, nvml: Nvml | None) -> None:
        # Whatever goes wrong with the GPU becomes the reason shown: watching must never end the run it watches.
        try:
            nvml = load_nvml() if nvml is None else nvml
            nvml.nvmlInit()
            self._nvml = nvml
            self._device, self.gpu_reason = find_device(nvml, os.environ.get("CUDA_VISIBLE_DEVICES"))
            if self._device is not None:
                self.gpu_name = _text(nvml.nvmlDeviceGetName(self._device))
                self.gpu_available = True
        except Exception as error:
            self.gpu_reason = f"{type(error).__name__}: {error}"

    def sample(self, phase: str = "") -> Reading:
        """All of SAMPLE_FIELDS; an unavailable reading is None. The first sample has no CPU readings: they need an
        earlier sample."""
        now = self._clock()
        interval = None if self._last is None else now - self._last
        reading: Reading = dict.fromkeys(SAMPLE_FIELDS)
        reading.update(time=time.time(), elapsed_s=now - self._started, phase=phase)
        with_cpu = interval is None or interval >= SHORTEST_CPU_INTERVAL_S
        if with_cpu:
            reading["interval_s"] = interval
            self._last = now
        self._read("machine_cpu", reading, lambda: self._machine_cpu() if with_cpu else {})
        self._read("process_tree", reading, lambda: self._tree(interval if with_cpu else None, with_cpu))
        self._read("cpu_power", reading, lambda: {"cpu_power_w": self._energy.power_w(now)} if with_cpu else {})
        self._read("machine_memory", reading, lambda: {"machine_memory_used_gb": psutil.virtual_memory().used / GB})
        if self.gpu_available and self._nvml is not None:
            nvml, device = self._nvml, self._device
            self._read(
                "gpu_utilization",
                reading,
                lambda: {"gpu_percent": float(nvml.nvmlDeviceGetUtilizationRates(device).gpu)},
            )
            self._read("gpu_memory", reading, lambda: _gpu_memory(nvml, device))
            self._read("gpu_power", reading, lambda: {"gpu_power_w": nvml.nvmlDeviceGetPowerUsage(device) / 1000.0})
            self._read("gpu_temperature", reading, lambda: _gpu_temperature(nvml, device))
        return reading

    @property
    def cpu_power_reason(self) -> str:
        """Why the processor's power is not read; empty where it is."""
        return self._energy.reason

    def close(self) -> None:
        """Leave NVML; names and counts stay readable."""
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            self._read("gpu_shutdown", {}, lambda: nvml.nvmlShutdown() or {})

    def _read(self, what: str, reading: Reading, read: Callable[[], Mapping[str, Any]]) -> None:
        try:
            reading.update(read())
        except Exception as error:
            self.failures[what] = self.failures.get(what, 0) + 1
            self.reasons.setdefault(what, f"{type(error).__name__}: {error}")

    def _machine_cpu(self) -> dict[str, float | None]:
        times = psutil.cpu_times()
        # Linux counts guest time inside user time already.
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        busy = total - times.idle - getattr(times, "iowait", 0.0)
        before, self._machine_times = self._machine_times, (total, busy)
        if before is None or total <= before[0]:
            return {}
        return {"machine_cpu_percent": min(100.0, max(0.0, 100.0 * (busy - before[1]) / (total - before[0])))}

    def _tree(self, interval: float | None, with_cpu: bool) -> dict[str, float | int]:
        own_bytes, shared_bytes = 0, 0
        pids: list[int] = []
        times: dict[tuple[int, float], float] = {}
        for process in [self._process, *self._process.children(recursive=True)]:
            try:
                memory, cpu = process.memory_info(), process.cpu_times()
                times[process.pid, process.create_time()] = cpu.user + cpu.system
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue  # it ended between the listing and the reading: not a failed reading
            shared = getattr(memory, "shared", 0)
            own_bytes += memory.rss - shared
            shared_bytes = max(shared_bytes, shared)
            pids.append(process.pid)
        used_bytes = self._less_what_is_shared(own_bytes, pids) + shared_bytes
        reading: dict[str, float | int] = {"tree_rss_gb": used_bytes / GB, "processes": len(pids)}
        if with_cpu:
            before, self._tree_times = self._tree_times, times
            if before is not None and interval is not None:
                # A process not seen before was born since, so all its time belongs here.
                used = sum(spent - before.get(key, 0.0) for key, spent in times.items())
                reading["tree_cpu_percent"] = 100.0 * max(0.0, used) / interval
        return reading

    def _less_what_is_shared(self, used_bytes: int, pids: list[int]) -> int:
        """The proportional sizes of the processes' own pages together, read now or estimated; see the class."""
        if self.memory_measure != "pss":
            return used_bytes
        began = time.perf_counter()
        if frozenset(pids) != self._pss_of or began >= self._pss_due:
            sizes = [size for pid in pids if (size := _pss(pid)) is not None]  # None: it has just ended
            took = time.perf_counter() - began
            self._pss_of, self._pss_due = frozenset(pids), began + took / PSS_SHARE
            self._too_high = used_bytes - sum(sizes)
        return max(0, used_bytes - self._too_high)


def own_memory_bytes() -> int:
    """Of this process, measured as `Sampler` does."""
    memory, own = psutil.Process().memory_info(), _pss(os.getpid())
    return memory.rss if own is None else own + getattr(memory, "shared", 0)


def _pss(pid: int) -> int | None:
    """Bytes of a process's own pages, proportionally; None where it has ended or the kernel does not tell."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"^Pss_Anon:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _text(value: str | bytes) -> str:
    """Older bindings answer in bytes."""
    return value.decode() if isinstance(value, bytes) else value


def _gpu_memory(nvml: Nvml, device: Any) -> dict[str, float]:
    memory = nvml.nvmlDeviceGetMemoryInfo(device)
    return {"gpu_memory_used_gb": memory.used / GB, "gpu_memory_total_gb": memory.total / GB}


def _gpu_temperature(nvml: Nvml, device: Any) -> dict[str, float]:
    return {"gpu_temperature_c": float(nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU))}


def values(history: Iterable[Reading], field: str) -> list[float]:
    """The readings of one field that did not fail."""
    return [float(value) for reading in history if isinstance(value := reading.get(field), int | float)]


def mean(history: Sequence[Reading], field: str) -> float | None:
    """Mean over samples, None without a reading."""
    found = values(history, field)
    return sum(found) / len(found) if found else None


def peak(history: Sequence[Reading], field: str) -> float | None:
    """Highest sample, None without a reading."""
    return max(values(history, field), default=None)


def mean_over_time(history: Sequence[Reading], field: str) -> float | None:
    """Mean weighted by each sample's interval (the last one is usually shorter); None without a reading."""
    both = [r for r in history if r[field] is not None and r["interval_s"] is not None]
    weights = values(both, "interval_s")
    weighted = sum(value * weight for value, weight in zip(values(both, field), weights, strict=True))
    return weighted / sum(weights) if sum(weights) > 0.0 else None


def summarise(history: Sequence[Reading]) -> dict[str, float | int | None]:
    """Averages and peaks; None where nothing was read. `average_tree_cores` is how many cores the process tree
    kept busy."""
    tree_cpu = mean_over_time(history, "tree_cpu_percent")
    return {
        "samples": len(history),
        "average_machine_cpu_percent": mean_over_time(history, "machine_cpu_percent"),
        "average_tree_cores": None if tree_cpu is None else tree_cpu / 100.0,
        "peak_ram_gb": peak(history, "tree_rss_gb"),
        "peak_machine_memory_gb": peak(history, "machine_memory_used_gb"),
        "peak_processes": peak(history, "processes"),
        "average_cpu_power_w": mean_over_time(history, "cpu_power_w"),
        "average_gpu_percent": mean(history, "gpu_percent"),
        "peak_gpu_percent": peak(history, "gpu_percent"),
        "peak_gpu_memory_gb": peak(history, "gpu_memory_used_gb"),
        "gpu_memory_total_gb": peak(history, "gpu_memory_total_gb"),
        "average_gpu_power_w": mean(history, "gpu_power_w"),
        "peak_gpu_temperature_c": peak(history, "gpu_temperature_c"),
    }
