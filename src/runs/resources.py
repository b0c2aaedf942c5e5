"""What a phase may use of the machine, and what it found and left there."""

from __future__ import annotations

import gc
from collections.abc import Mapping

import psutil
import torch

from src.agent.settings import HardwareSettings, PhaseUsage
from src.agent.training import set_threads
from src.report.facts import versions

GB = 1e9


def release_all() -> None:
    """Give back what no living object holds: Python's garbage, and CUDA's cached blocks."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def memory_now() -> dict[str, float]:
    """GB of this process's memory, and of the GPU's where there is one: what tensors hold and what torch keeps."""
    memory = {"ram_gb": psutil.Process().memory_info().rss / GB}
    if torch.cuda.is_available():
        memory["gpu_allocated_gb"] = torch.cuda.memory_allocated() / GB
        memory["gpu_reserved_gb"] = torch.cuda.memory_reserved() / GB
    return memory


def apply_usage(usage: PhaseUsage | None, hardware: HardwareSettings, recorded: int | None, *, reallocate: bool) -> int:
    """Set threads, and on CUDA the share of its memory; returns the threads.

    Where the configuration leaves the threads open, those that an earlier process began the phase with (`recorded`) are
    kept, or the result would differ in its last bits. Without `reallocate` the run's own settings hold for every phase.
    """
    own = _own(usage, reallocate)
    threads = own.torch_threads or hardware.torch_threads or recorded
    if threads is None:
        threads = set_threads(hardware)
    torch.set_num_threads(threads)
    if (share := gpu_share(usage, hardware, reallocate=reallocate)) is not None:
        torch.cuda.set_per_process_memory_fraction(share)
    return threads


def gpu_share(usage: PhaseUsage | None, hardware: HardwareSettings, *, reallocate: bool) -> float | None:
    """Share of the GPU's memory that a phase may take; None where nothing runs on a GPU."""
    if not torch.cuda.is_available() or hardware.device == "cpu":
        return None
    return _own(usage, reallocate).memory_fraction or hardware.memory_fraction


def _own(usage: PhaseUsage | None, reallocate: bool) -> PhaseUsage:
    return usage if reallocate and usage is not None else PhaseUsage()


def freed_words(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """What was given back between two measurements of `memory_now`."""
    kinds = (("ram_gb", "RAM"), ("gpu_reserved_gb", "GPU memory"))
    freed = [(max(0.0, before[key] - after[key]), kind) for key, kind in kinds if key in before and key in after]
    return "freed " + " and ".join(f"{gb * 1000:,.0f} MB of {kind}" for gb, kind in freed)


def machine_facts(torch_threads: int | None) -> dict[str, str]:
    """What the last bits of a training depend on besides its inputs."""
    return {**versions(), "torch_threads": str(torch_threads)}
