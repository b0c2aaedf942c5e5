"""Machine and code that a benchmark was measured on, without host names or paths."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil

from src.machine_limits import processor_facts, usable_cores

ROOT = Path(__file__).resolve().parents[2]
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def identity() -> dict[str, Any]:
    """Facts that identify the machine: the keys of `src.benchmarks.file.IDENTITY`."""
    return {
        "processor": processor_facts().get("model name") or platform.processor() or "unknown",
        "architecture": platform.machine(),
        "system": platform.system(),
        "cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
    }


def state() -> dict[str, Any]:
    """Current load; takes 0.2 s. `governor` is None if the system does not report one."""
    count = psutil.cpu_count() or 1
    busy = psutil.cpu_percent(interval=0.2) / 100.0 * count
    governor = _GOVERNOR.read_text(encoding="ascii").strip() if _GOVERNOR.is_file() else None
    return {"cores_free": round(max(0.0, usable_cores() - busy), 1), "governor": governor, "load_before": load()}


def load() -> float | None:
    """Processes running or waiting on average over the last minute; None if the system does not report it."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def revision(folder: Path = ROOT) -> dict[str, Any]:
    """`commit` of the checkout and whether its files were `changed` since; both None outside of a git checkout."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "changed": None}
    return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):  # no git here: the revision is then unknown, and the file says so
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
