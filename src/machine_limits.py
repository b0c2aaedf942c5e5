"""Resources this process may use: CPU affinity and container limits."""

from __future__ import annotations

import os
import re
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
GB = 1e9


def processor_facts() -> dict[str, str]:
    """What /proc/cpuinfo says of the first core, by name; empty where there is no such file."""
    text = _read(Path("/proc/cpuinfo")) or ""
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def usable_cores() -> int:
    """Whole cores that this process may use, at least one: its affinity, and the container's limit."""
    quota = quota_cores()
    return affinity_cores() if quota is None else max(1, min(affinity_cores(), int(quota)))


def free_cores() -> int:
    """Usable cores that other programs leave free now, at least one; takes 0.2 s."""
    busy = psutil.cpu_percent(interval=0.2, percpu=False) / 100.0 * (psutil.cpu_count() or 1)
    return min(usable_cores(), max(1, affinity_cores() - round(busy)))


def affinity_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count() or 1


def quota_cores() -> float | None:
    """Processor time that the container may use, in cores; None without a limit."""
    both = _read(CGROUP / "cpu.max") or " ".join(
        _read(CGROUP / "cpu" / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")
    )
    numbers = both.split()
    if len(numbers) != 2 or not numbers[0].isdecimal() or not numbers[1].isdecimal():  # "max", or -1
        return None
    return int(numbers[0]) / int(numbers[1])


def memory_left_gb() -> float | None:
    """Memory left under a container's limit, counting reclaimable pages as free; None without a limit."""
    names = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
    for limit_name, used_name in names:
        limit, used = _read(CGROUP / limit_name), _read(CGROUP / used_name)
        if limit and used and limit.isdecimal() and int(limit) < 2**60:
            stat = _read((CGROUP / limit_name).with_name("memory.stat")) or ""
            cached = re.search(r"^(?:total_)?inactive_file (\d+)$", stat, re.MULTILINE)
            return (int(limit) - int(used) + (int(cached[1]) if cached else 0)) / GB
    return None


def available_memory_gb() -> float:
    """Memory that this process may still take: what the machine has free, at most what the container's limit leaves."""
    machine_gb = psutil.virtual_memory().available / GB
    left_gb = memory_left_gb()
    return machine_gb if left_gb is None else min(machine_gb, left_gb)


def _read(path: Path) -> str | None:
    """A file of the system that not every machine has."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
