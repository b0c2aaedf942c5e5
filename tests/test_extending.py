"""The recipes of docs/extending.md work as printed, all of them together, in a copy of the project."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.documented import ROOT, blocks, commands

RECIPES = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
COPIED = ("src", "config", "requirements.txt", "run_hardware_maximized.py", "validate_testing_framework.py")


def run(project: Path, *arguments: str) -> str:
    done = subprocess.run(
        arguments, cwd=project, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "NUMBA_CACHE_DIR": ""},
    )  # fmt: skip
    assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with every patch applied and every file written."""
    if shutil.which("git") is None:
        pytest.skip("git, which applies the patches, is not installed")
    project = tmp_path_factory.mktemp("project")
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, project / name)
    for patch in blocks(RECIPES, "diff"):
        (project / "recipe.patch").write_text(patch, encoding="utf-8")
        run(project, "git", "apply", "recipe.patch")
    for content in (*blocks(RECIPES, "yaml"), *blocks(RECIPES, "python")):
        name = content.partition("\n")[0].removeprefix("# ")
        assert not (project / name).exists(), f"{name} is no new file"
        (project / name).write_text(content, encoding="utf-8")
    return project


COMMANDS = [shlex.split(line) for line in commands(RECIPES)]


def test_every_recipe_has_a_command() -> None:
    assert len(COMMANDS) == RECIPES.count("\n## ") == 9


@pytest.mark.long
@pytest.mark.slow
def test_every_recipe_is_found_sound_by_its_command(extended: Path) -> None:
    checks: list[str] = []
    market = config = ""
    for _, script, *options in COMMANDS:
        if script != "validate_testing_framework.py":
            continue
        given = dict(zip(options[::2], options[1::2], strict=True))
        checks += [value for name, value in zip(options[::2], options[1::2], strict=True) if name == "--only"]
        market, config = given.get("--market", market), given.get("--config", config)
    # One process instead of four: each would compile what the others compiled.
    only = [word for check in dict.fromkeys(checks) for word in ("--only", check)]
    run(
        extended, sys.executable, "validate_testing_framework.py", "--market", market, "--config", config,
        "--output", "outcome.json", *only,
    )  # fmt: skip
    outcome = json.loads((extended / "outcome.json").read_text())
    assert [check["status"] for check in outcome["checks"]] == ["passed"] * len(set(checks))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "target"),
    [("my_env.yaml", "cache_hit_rate"), pytest.param("my_target.yaml", "processes", marks=pytest.mark.long)],
)
def test_a_target_of_ones_own_is_measured_and_decides(extended: Path, config: str, target: str) -> None:
    (command,) = (command for command in COMMANDS if config in command)
    run(extended, sys.executable, *command[1:], "--output-dir", f"logs-{target}")
    (folder,) = (extended / f"logs-{target}").iterdir()
    report = json.loads((folder / "report.json").read_text())
    assert report["targets"][target]["status"] == "met"
    assert report["targets"][target]["required"] is True
    assert report["targets"][target]["measured"] > (0.9 if target == "cache_hit_rate" else 0)


@pytest.mark.slow
def test_a_batch_method_reaches_its_target(extended: Path) -> None:
    (command,) = (command for command in COMMANDS if "disagreement" in command)
    line = json.loads(run(extended, sys.executable, *command[1:]).splitlines()[-1])
    (result,) = line["results"]
    assert (result["part"], result["target"]) == ("disagreement", 3.0)
    assert result["ratio"] > result["target"]


@pytest.mark.long
@pytest.mark.slow
def test_a_mode_of_ones_own_runs_on_all_of_them(extended: Path) -> None:
    (command,) = (command for command in COMMANDS if command[1] == "run_overnight.py")
    run(extended, sys.executable, *command[1:], "--timesteps", "512", "--output-dir", "logs")
    (folder,) = (extended / "logs").iterdir()
    report = json.loads((folder / "report.json").read_text())
    assert (report["run"]["market"], report["rules"]["profile"]) == ("EMD", "my_firm_100k")
    assert yaml.safe_load((folder / "config.yaml").read_text())["test_mode"]["mode"] == "overnight"
    plain = subprocess.run(
        [sys.executable, "-c", "from src.trading.layout import N_OBS; print(N_OBS)"],
        cwd=extended, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert plain.stdout.strip() == "262"
