"""Every command that a document prints is one that the program takes, and those of the README run."""

from __future__ import annotations

import re
import shlex
import shutil
from functools import cache
from pathlib import Path

import pytest

from src.benchmarks.file import write_run
from src.checks.report import write_bars
from src.market.synthetic import synthetic_bars
from tests.benchmark_makers import story
from tests.documented import ROOT, commands
from tests.forked_command import CommandServer

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
AUTOMATED = {
    "Makefile": re.sub(r"\$\(bin\)/", "", (ROOT / "Makefile").read_text(encoding="utf-8")),
    "test.yml": (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"),
    "continuous-integration.md": DOCUMENTS["continuous-integration.md"],
}
RUN = re.compile(r"^(?:\t|.*run: |.*- )(python (?:-m src\.|\w+\.py).*)$", re.MULTILINE)
EVERY = sorted(
    {line for text in (README, *DOCUMENTS.values()) for line in commands(text)}
    | {line for text in AUTOMATED.values() for line in RUN.findall(text)}
)
OWN = ("run_overnight.py",)
"""Scripts that a recipe of docs/extending.md makes; its test runs them."""

# What keeps a documented run short, and what is put where its reader's files would be.
SMALL = ["--mock-llm", "--quick", "--timesteps", "256", "--output-dir", "logs"]
SHORTER = {
    "run_hardware_maximized.py": SMALL,
    "run_pipeline.py": SMALL,
    "benchmark_framework.py": ["--quick"],
    "src.benchmarks": ["--quick", "--repeats", "1"],
}
LONG = {
    "python benchmark_framework.py --pair": "tests/test_benchmark_framework.py",
    "python benchmark_framework.py --pair --suite training": "tests/test_benchmark_framework.py",
    "python benchmark_framework.py --pair --suite steps": "tests/test_benchmark_framework.py",
    "python validate_testing_framework.py --market NQ --quick": "tests/test_validate_command.py",
    "python validate_testing_framework.py --quick": "tests/test_validate_command.py",
    "python validate_testing_framework.py --only planted": "tests/checks/test_canaries.py",
    "python validate_testing_framework.py --only advisor": "tests/checks/test_advisor.py",
    "python -m src.benchmarks": "tests/test_benchmarks.py",
    "python -m src.benchmarks advice": "tests/test_benchmarks.py",
    "python -m src.benchmarks training": "tests/test_benchmarks.py",
    "python -m src.canaries.planted --seeds 10": "tests/canaries/test_canaries.py",
    "python -m src.canaries.martingale --seeds 3": "tests/canaries/test_martingale.py",
    "python -m src.canaries.planted_advice --seeds 20": "tests/canaries/test_planted_advice.py",
    "python -m src.runs.kills --kills 40 --seed 1": "tests/test_run_pipeline.py",
}
"""Commands of the README that take too long here, and the test that runs what they run on less."""
ON_SYNTHETIC = "python run_hardware_maximized.py --market NQ --quick"
"""It alone runs on the bars that a run without bars makes, as it is set up; the others on few, with small networks."""
SMALL_YAML = """
training: {production_net_arch: [8], policy_kwargs: {net_arch: {pi: [8], vf: [8]}}}
evidence: {pass_attempts: 200, stress_slippage_ticks: [0], chart_sessions: 1}
"""


def script_of(line: str) -> tuple[str, list[str]]:
    """A script's file or a module's name, and its options."""
    _, first, *rest = shlex.split(line)
    return (rest[0], rest[1:]) if first == "-m" else (first, rest)


def file_of(script: str) -> Path:
    if script.endswith(".py"):
        return ROOT / script
    path = ROOT / script.replace(".", "/")
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def help_of(server: CommandServer, script: str) -> str:
    finished = server.run(str(file_of(script).relative_to(ROOT)), "--help", cwd=ROOT)
    assert finished.code == 0, finished.err
    return finished.out


def test_the_documents_print_commands() -> None:
    assert len(EVERY) > 40
    assert set(LONG) <= set(commands(README))
    assert all((ROOT / test).is_file() for test in LONG.values())
    assert {script_of(line)[0] for line in EVERY} >= {path.name for path in ROOT.glob("*.py")}


@pytest.mark.parametrize("line", EVERY)
def test_a_printed_command_names_a_script_and_options_that_exist(server: CommandServer, line: str) -> None:
    script, options = script_of(line)
    if script in OWN:
        return
    assert file_of(script).is_file(), f"{script} does not exist"
    for option in options:
        if option.startswith("--"):
            assert re.search(rf"{option}\b(?!-)", help_of(server, script)), f"{script} has no option {option}"


def shortened(line: str) -> tuple[str, list[str]]:
    """The script of a README's command, and its options with those that keep it short."""
    script, options = script_of(line)
    shorter = [*options, *SHORTER.get(script, [])]
    if script.startswith("run_"):
        if "--batch-size" not in options:
            shorter += ["--batch-size", "64"]
        if "--data" not in options and line != ON_SYNTHETIC:
            market = options[options.index("--market") + 1] if "--market" in options else "NQ"
            shorter += ["--data", f"few/{market}.csv"]
    if script.startswith("run_") and line != ON_SYNTHETIC:
        shorter += ["--seeds", "2" if "--seeds" in options else "1"]
        shorter += [] if "--config" in options else ["--config", "small.yaml"]
    if "--walk-forward" in options:
        shorter += ["--walk-forward", "2"]
    return script, shorter


RUNS = list(
    {  # of two that are the same when shortened, the second is left out
        (shortened(line)[0], frozenset(shortened(line)[1])): line
        for line in reversed(commands(README))
        if line not in LONG and "RUN_DIR" not in line
    }.values()
)[::-1]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with what the README's reader has."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "config", folder / "config")
    shutil.copy(ROOT / "README.md", folder)
    (folder / "small.yaml").write_text(SMALL_YAML, encoding="utf-8")
    write_bars(synthetic_bars("NQ", 24, 15, seed=0), folder / "my_bars.csv")
    (folder / "bars").mkdir()
    write_bars(synthetic_bars("ES", 24, 15, seed=0), folder / "bars" / "ES_2024.csv")
    (folder / "few").mkdir()
    for market in ("ES", "NQ", "RTY"):
        write_bars(synthetic_bars(market, 24, 15, seed=0), folder / "few" / f"{market}.csv")
    for side in story():
        write_run(folder / f"{side.mode}.json", side)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("line", RUNS)
def test_a_command_of_the_readme_runs(server: CommandServer, reader: Path, line: str) -> None:
    script, options = shortened(line)
    finished = server.run(str(file_of(script).relative_to(ROOT)), *options, cwd=reader)
    assert finished.code == 0, finished
    assert "Traceback" not in finished.out + finished.err


@pytest.mark.slow
def test_the_page_is_made_again_as_the_readme_says(server: CommandServer, reader: Path) -> None:
    (line,) = (line for line in commands(README) if line.endswith("report.facts RUN_DIR"))
    finished = server.run(
        "run_hardware_maximized.py",
        *SMALL,
        "--batch-size",
        "64",
        "--data",
        "my_bars.csv",
        "--config",
        "small.yaml",
        "--output-dir",
        "once",
        cwd=reader,
    )
    assert finished.code == 0, finished
    (folder,) = (reader / "once").iterdir()
    (folder / "report.html").unlink()
    script, options = script_of(line)
    again = server.run(
        str(file_of(script).relative_to(ROOT)), *[folder if option == "RUN_DIR" else option for option in options],
        cwd=reader,
    )  # fmt: skip
    assert again.code == 0, again
    assert (folder / "report.html").is_file()
