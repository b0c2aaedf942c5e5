"""The command a user or a CI job types: exit codes, what it prints, what it writes, and how it stops."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from src.checks.catalogue import NAMES
from src.market.synthetic import synthetic_bars
from tests.forked_command import ROOT, CommandServer
from tests.market.bar_makers import bar_table, write_csv

SCRIPT = "validate_testing_framework.py"
LONG = ("advisor", "invariance", "planted", "martingale")
"""Half a minute and more; their own tests run them in parts."""


def only(*names: str) -> list[str]:
    return [word for name in names for word in ("--only", name)]


def from_the_shell(*options: str, python: tuple[str, ...] = (str(ROOT / SCRIPT),)) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *python, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_list_names_every_check_and_loads_no_library() -> None:
    done = from_the_shell("--list", python=("-X", "importtime", str(ROOT / SCRIPT)))
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(NAMES)
    assert max(map(len, lines)) <= 80
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "numba", "numpy", "pandas", "pydantic", "stable_baselines3", "transformers"}


def test_help_names_every_option() -> None:
    done = from_the_shell("--help")
    assert done.returncode == 0
    for option in ("--market", "--quick", "--data", "--config", "--output", "--only", "--list", "--debug"):
        assert option in done.stdout


@pytest.mark.parametrize("library", ["rich", "filelock", "pydantic"])
def test_an_environment_without_its_libraries_is_told_so_and_how_to_get_them(library: str) -> None:
    script = (
        f"import runpy, sys; sys.modules[{library!r}] = None; "
        f"runpy.run_path({str(ROOT / SCRIPT)!r}, run_name='__main__')"
    )
    done = from_the_shell(*only("versions"), python=("-c", script))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"failed: {library} is not installed.")
    assert line.endswith("-m pip install -r requirements.txt")
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--only", "thread"], "did you mean 'threads'"),
        (["--market", "NQX"], "Did you mean NQ"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--data", "nowhere.csv"], "nowhere.csv"),
        (["--output", "/dev/null/validation.json"], "the folder /dev/null cannot be made"),
        (["--quack"], "--quack"),
    ],
)
def test_bad_usage_is_exit_code_2(server: CommandServer, tmp_path: Path, options: list[str], word: str) -> None:
    finished = server.run(SCRIPT, *options, cwd=tmp_path)
    assert finished.code == 2
    assert word in " ".join(finished.err.split())
    assert finished.out == ""
    assert "Traceback" not in finished.err


@pytest.mark.slow
def test_a_quick_validation_of_this_machine_passes(server: CommandServer, tmp_path: Path) -> None:
    chosen = [name for name in NAMES if name not in LONG]
    output = tmp_path / "validation.json"
    finished = server.run(SCRIPT, "--market", "ES", "--quick", "--output", output, *only(*chosen), cwd=tmp_path)
    lines = finished.out.splitlines()
    written = json.loads(output.read_text(encoding="utf-8"))
    statuses = {check["name"]: check["status"] for check in written["checks"]}
    # On a busy machine torch's threads may be slower than one alone, and memory may be short: that is told, rightly.
    blame = {name for name, status in statuses.items() if status == "failed"}
    assert blame <= {"threads", "memory"}, finished.out
    assert finished.code == written["exit_code"] == bool(blame)
    assert list(statuses) == chosen
    assert [line.split()[:2] for line in lines if line and line[0] not in " 0123456789"] == [
        [status, name] for name, status in statuses.items()
    ]
    assert statuses["data"] == "not_applicable"
    assert max(map(len, lines)) <= 80
    assert finished.err == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "validation.json"]
    assert list((tmp_path / "logs").iterdir()) == []


def test_a_file_with_a_defect_is_exit_code_1_with_row_and_remedy(server: CommandServer, tmp_path: Path) -> None:
    table = bar_table(synthetic_bars("NQ", 12, 15, seed=1))
    table.loc[40, "high"] = table.loc[40, "low"] - 1.0
    file = write_csv(table, tmp_path / "NQ.csv")
    finished = server.run(SCRIPT, "--data", file, *only("data"), cwd=tmp_path)
    assert finished.code == 1
    said = " ".join(finished.out.split())
    assert said.startswith("failed data")
    assert "row 41" in said
    assert "Failed: data." in said


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_known_and_is_exit_code_3(server: CommandServer, tmp_path: Path) -> None:
    output = tmp_path / "validation.json"
    run = server.start(SCRIPT, "--output", output, *only("versions", "planted"), cwd=tmp_path)
    run.until(lambda: "versions" in run.out)
    run.send(signal.SIGINT)
    finished = run.finish()
    assert finished.code == 3
    assert "1 of 2 checks were done" in " ".join(finished.err.split())
    assert "Traceback" not in finished.err
    written = json.loads(output.read_text(encoding="utf-8"))
    assert [check["status"] for check in written["checks"]] == ["passed", "skipped"]
    assert written["interrupted"] is True
