"""The shell's side of every command: help, version, short options, full devices, odd names, odd Pythons."""

from __future__ import annotations

import errno
import os
import pty
import re
import select
import subprocess
import sys
import tomllib
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

import src
from src.benchmarks.comparison import compare_runs
from src.benchmarks.file import write_run
from src.benchmarks.output import FORMATS
from src.benchmarks.progress import Progress, ProgressLine
from src.command_line import default_words, overrides_of, run_parser
from src.configuration import build_config
from src.console import LogFormatter, PlainConsole, Stream
from src.monitoring.hardware import SAMPLE_FIELDS
from src.plain_text import csv_cell, escaped, foreign, paragraph
from src.testing_framework import HardwareMonitor
from tests.benchmark_makers import row, run, story
from tests.forked_command import ROOT, CommandServer

SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))
MODULES = (
    *("src.benchmarks", "src.canaries.planted", "src.statistics.coverage", "src.canaries.martingale"),
    *("src.report.page", "src.canaries.planted_advice", "src.report.facts", "src.runs.kills"),
    *("src.market.files.zone_study", "src.report.compare", "src.statistics.overfitting_study"),
)
GOLDEN = ROOT / "tests" / "golden"
HOSTILE = "a[/bold]\x1b[31m\u202e\x00\r\n=1+1|`*_"
FULL = Path("/dev/full")


def shell(
    *command: str | Path, cwd: Path = ROOT, python: tuple[str, ...] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    """A command as a shell runs it, 80 columns wide."""
    return subprocess.run(
        [sys.executable, *python, *map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=120,
        env={**os.environ, "COLUMNS": "80", "PYTHONPATH": str(ROOT), **env}, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_golden_one(server: CommandServer, script: str, tmp_path: Path) -> None:
    finished = server.run(str(ROOT / script), "--help", cwd=tmp_path)
    assert (finished.code, finished.err) == (0, "")
    golden = GOLDEN / f"help_{Path(script).stem}.txt"
    if os.environ.get("REWRITE_GOLDEN") == "1":
        golden.write_text(finished.out, encoding="utf-8")
    assert finished.out == golden.read_text(encoding="utf-8")
    assert max(map(len, finished.out.splitlines())) <= 80


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_can_be_executed_and_has_the_version_of_the_project(
    server: CommandServer, script: str, tmp_path: Path
) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env python3\n# PYTHON_ARGCOMPLETE_OK\n")
    finished = server.run(str(path), "--version", cwd=tmp_path)
    assert (finished.code, finished.out) == (0, "1.0.0\n")
    assert tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"] == src.__version__
    assert "## 1.0.0" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_loads_no_heavy_library_and_survives_without_docstrings(script: str) -> None:
    done = shell("-X", "importtime", script, "--help", python=("-OO",))
    assert done.returncode == 0, done.stderr
    assert "--version" in done.stdout
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "numba", "pandas", "stable_baselines3", "transformers", "scipy"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", [*MODULES[:2], *(pytest.param(name, marks=pytest.mark.long) for name in MODULES[2:])]
)
def test_a_module_that_runs_shares_the_parser_and_works_without_docstrings(module: str) -> None:
    done = shell("-m", module, "--version", python=("-OO",))
    assert (done.returncode, done.stdout) == (0, "1.0.0\n"), done.stderr


def test_short_options_are_the_long_ones() -> None:
    parser = run_parser("", "pipeline")
    short = parser.parse_args(["-m", "ES", "-c", "a.yaml", "-q"])
    assert short == parser.parse_args(["--market", "ES", "--config", "a.yaml", "--quick"])
    assert overrides_of(short) == {"market": "ES", "quick": True}


@pytest.mark.parametrize("mode", ["hardware_maximized", "pipeline"])
def test_defaults_in_help_are_those_of_the_mode(mode: str) -> None:
    config, quick = build_config(mode, {}, {}), build_config(mode, {}, {"quick": True})
    names = ["batch_size", "vectorized_envs", "timesteps", "seeds", "market", "data", "quick", "seed", "device"]
    words = default_words(mode, names)
    assert words["batch_size"] == str(config.hardware.batch_size)
    assert words["vectorized_envs"] == str(config.hardware.vectorized_envs)
    assert words["timesteps"] == f"{config.base_timesteps}; with --quick {quick.base_timesteps}"
    same = config.evidence.seeds == quick.evidence.seeds
    assert words["seeds"] == (str(config.evidence.seeds) + ("" if same else f"; with --quick {quick.evidence.seeds}"))
    assert (words["market"], words["quick"], words["seed"]) == (config.test_mode.market, "", "0")
    assert default_words("hardware_maximized", ["batch_size"]) != default_words("pipeline", ["batch_size"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--quik"], "there is no option --quik (did you mean '--quick'?)"),
        (["--conf", "x.yaml"], "there is no option --conf x.yaml (did you mean '--config'?)"),
        (["--seed"], "argument --seed: expected one argument"),
        ([HOSTILE], r"there is no option a[/bold]\x1b[31m\u202e"),
        (["--market", HOSTILE], r"Unknown market 'a[/bold]\x1b[31m\u202e\x00"),
        (["--market", "x" * 10_000], "characters]..."),
        (["--output-dir", "/proc/" + "x" * 10_000], "cannot be written"),
        (["--llm-model", "\x1b[2J" + "y" * 10_000], r"'\x1b[2Jyyyy"),
    ],
    ids=["unknown", "no abbreviation", "no value", "odd word", "odd market", "long", "long folder", "long model"],
)
def test_a_wrong_option_is_one_paragraph(server: CommandServer, tmp_path: Path, options: list[str], said: str) -> None:
    options = [option.replace("\x00", "") for option in options]  # no program can be handed a null character
    finished = server.run(str(ROOT / "run_pipeline.py"), *options, "--mock-llm", cwd=tmp_path)
    assert finished.code == 2, finished
    text = " ".join(finished.err.split())
    assert said.replace("\\x00", "") in text
    assert text.startswith("error: ")
    assert len(text) < 4000
    assert finished.err.replace("\n", "").isprintable()
    assert "Traceback" not in finished.err


@pytest.mark.parametrize("columns", ["30", "80", "200"])
def test_an_error_follows_the_width_of_the_terminal(server: CommandServer, tmp_path: Path, columns: str) -> None:
    script = str(ROOT / "run_pipeline.py")
    finished = server.run(script, "--market", "NQX", cwd=tmp_path, env={"COLUMNS": columns})
    lines = finished.err.splitlines()
    assert max(map(len, lines)) <= int(columns)
    assert len(lines) == {"30": 4, "80": 2, "200": 1}[columns]


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize(
    "command",
    [
        *([script, "--help"] for script in SCRIPTS),
        ["validate_testing_framework.py", "--list"],
        ["validate_testing_framework.py", "--only", "versions"],
        ["benchmark_framework.py", "--quick", "--mode", "optimized", "--suite", "cache"],
        ["compare_benchmarks.py", "baseline.json", "optimized.json"],
        ["run_hardware_maximized.py", "--quick", "--mock-llm"],
    ],
    ids=" ".join,
)
def test_a_full_device_ends_a_command_in_one_paragraph(command: list[str], tmp_path: Path) -> None:
    for side in story():
        write_run(tmp_path / f"{side.mode}.json", side)
    script, *options = command
    with open(FULL, "w") as full:
        done = subprocess.run(
            [sys.executable, ROOT / script, *options], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True,
            timeout=120, check=False,
        )  # fmt: skip
    text = " ".join(done.stderr.split())
    assert done.returncode == 2, text
    assert text == (
        f"error: Standard output cannot be written ({os.strerror(errno.ENOSPC)}). Free the space, or send it elsewhere."
    )


def test_a_full_device_for_errors_leaves_the_exit_code() -> None:
    with open(FULL, "w") as full:
        code = subprocess.call([sys.executable, ROOT / "run_pipeline.py", "-m", "NQX"], stderr=full)
    assert code == 2


@pytest.mark.parametrize(
    ("options", "code"), [("--list <&- >&-", 0), ("--nope 2>&-", 2), ("--list <&- >&- 2>&-", 0), ("--nope >&- 2>&-", 2)]
)
def test_closed_streams_leave_the_exit_code(options: str, code: int) -> None:
    command = f"{sys.executable} {ROOT / 'validate_testing_framework.py'} {options}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_a_reader_that_leaves_ends_a_command_quietly() -> None:
    command = f"{sys.executable} {ROOT / 'validate_testing_framework.py'} --list | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines()[0].startswith("versions")


def test_a_shell_gets_completions(tmp_path: Path) -> None:
    def completed(line: str) -> list[str]:
        out = tmp_path / "completions"
        shell(
            line.split()[0], _ARGCOMPLETE="1", _ARGCOMPLETE_STDOUT_FILENAME=str(out), COMP_LINE=line,
            COMP_POINT=str(len(line)), _ARGCOMPLETE_IFS="\n", _ARGCOMPLETE_SUPPRESS_SPACE="1",
        )  # fmt: skip
        return out.read_text().split("\n")

    assert "--auto-resume" in completed("run_pipeline.py --auto")
    assert completed("run_pipeline.py --market M") == ["MNQ", "MES", "MYM", "M2K"]
    assert completed("validate_testing_framework.py --only mart") == ["martingale"]
    assert completed("benchmark_framework.py --mode b") == ["baseline"]


@given(st.text())
def test_nothing_that_acts_is_left_in_foreign_text(text: str) -> None:
    for safe in (escaped(text), foreign(text), paragraph(text).replace("\n", "").replace("\t", "")):
        assert safe.isprintable()
    if text.isprintable():
        assert escaped(text) == text
    escaped(text).encode("utf-8")  # no lone surrogate
    assert len(foreign(text * 1000, 100)) <= 10 * 130


@given(st.text())
def test_a_cell_of_a_csv_file_is_no_formula(text: str) -> None:
    cell = csv_cell(text)
    assert isinstance(cell, str)
    assert cell.lstrip()[:1] not in ("=", "+", "-", "@")
    assert cell.isprintable()


def test_what_is_no_text_keeps_its_value_in_a_csv_file(tmp_path: Path) -> None:
    assert [csv_cell(value) for value in (-1.5, None, 3)] == [-1.5, None, 3]
    monitor = HardwareMonitor()
    monitor.metrics_history.append({**dict.fromkeys(SAMPLE_FIELDS), "phase": "=cmd()\x1b", "elapsed_s": -1.0})
    monitor.save_metrics(tmp_path / "hardware.csv")
    assert (tmp_path / "hardware.csv").read_text().splitlines()[1].split(",")[1:4] == ["-1.0", "", r"'=cmd()\x1b"]


def test_the_console_shows_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console = PlainConsole(width=60)
    table = Table("name", title="[red]title")
    table.add_row(HOSTILE)
    for shown in (HOSTILE, Text(HOSTILE), table):
        console.print(shown)
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    assert out.count("a[/bold]") == 3
    assert "[red]title" in out
    assert not re.search(r"[ \t]$", out, re.MULTILINE), "blanks at the end of a line"


def test_a_log_record_is_escaped() -> None:
    import logging

    record = logging.LogRecord("src", logging.WARNING, "", 0, "no %s", (HOSTILE,), None)
    first, second = LogFormatter("%(message)s").format(record).split("\n")
    assert first.isprintable()
    assert second == "    =1+1|`*_"


def hostile_runs() -> list[object]:
    return [run(mode, [row(HOSTILE, HOSTILE, [[1.0, 2.0, 3.0]])], pair=None) for mode in ("baseline", "optimized")]


@pytest.mark.parametrize("form", FORMATS)
def test_a_comparison_shows_names_of_a_file_and_obeys_none(form: str) -> None:
    first, second = hostile_runs()
    text = FORMATS[form](compare_runs(first, second), 0.9)  # type: ignore[arg-type]
    assert text.replace("\n", "").isprintable()
    if form in ("table", "json"):
        assert "a[/bold]" in text.replace("\n", "")
    else:
        assert "\x1b" not in text


def test_a_comparison_goes_into_a_new_folder(server: CommandServer, tmp_path: Path) -> None:
    for side in story():
        write_run(tmp_path / f"{side.mode}.json", side)
    command = [str(ROOT / "compare_benchmarks.py"), "baseline.json", "optimized.json"]
    printed = server.run(*command, cwd=tmp_path)
    finished = server.run(*command, "--output", "new/folder/x.txt", cwd=tmp_path)
    assert (finished.code, finished.out) == (0, "")
    assert (tmp_path / "new" / "folder" / "x.txt").read_text(encoding="utf-8") == printed.out
    refused = server.run(*command, "--output", "baseline.json/x.txt", cwd=tmp_path)
    assert refused.code == 2
    assert "cannot be made" in " ".join(refused.err.split())


def test_a_fifo_or_a_device_is_no_benchmark(server: CommandServer, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "/dev/zero", "/dev/null"):
        finished = server.run(str(ROOT / "compare_benchmarks.py"), name, name, cwd=tmp_path)
        assert finished.code == 2
        assert "it is not a regular file" in " ".join(finished.err.split())


def test_a_measurement_says_how_far_it_is() -> None:
    now = [0.0]
    said: list[str] = []
    progress = Progress(8, said.append, lambda: now[0])
    for place in range(1, 5):
        progress.begin(f"suite {place} of 4 (steps), warming up")
        now[0] += 10.0
    assert said[0] == "suite 1 of 4 (steps), warming up, 0%"
    assert said[2] == "suite 3 of 4 (steps), warming up, 25%, ETA 1:00"


def test_without_a_terminal_a_measurement_prints_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with ProgressLine(PlainConsole(width=80), lambda: now[0]) as line:
        for n in range(12):
            line.say(f"suite {n}")
            line.heard("from another process")
            now[0] += 1.0
    assert capsys.readouterr().out.splitlines() == ["[    0 s] suite 0", "[    5 s] suite 5", "[   10 s] suite 10"]


_ON_A_TERMINAL = """
import logging, sys, time
from src.console import PlainConsole
from src.monitoring.display import RunDisplay
from src.shell import run_command
def work(args):
    display = RunDisplay(PlainConsole(), lambda: None, lambda: None)
    with display:
        display.begin("base", "training")
        display.record({"steps_per_s": 123.0})
        time.sleep(0.6)
        logging.getLogger("src").warning("no bars of NQ")
        time.sleep(0.6)
    return 0
import argparse
run_command(work, argparse.Namespace(debug=False))
"""


def test_a_warning_stands_on_a_line_of_its_own_above_the_live_line() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _ON_A_TERMINAL], cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "COLUMNS": "80", "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
    assert process.wait() == 0
    os.close(ours)
    # What a terminal does with "erase the line and go to its start": the line is gone.
    lines = [re.split(r"\x1b\[2K|\r(?!\n)", line)[-1] for line in shown.decode().replace("\r\n", "\n").split("\n")]
    text = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).rstrip() for line in lines]
    (warning,) = [line for line in text if "no bars of NQ" in line]
    assert warning.split() == ["WARNING", "no", "bars", "of", "NQ"]
    assert "123 steps/s" in shown.decode()


def test_a_stream_without_a_terminal_has_no_trailing_blanks(monkeypatch: pytest.MonkeyPatch) -> None:
    out = StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    Stream("stdout").write("a  \n  b\t\n\nc ")
    assert out.getvalue() == "a\n  b\n\nc"


def test_an_ascii_terminal_gets_escapes_and_no_exception(tmp_path: Path) -> None:
    done = shell("run_pipeline.py", "--market", "ÄÖ→", PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert r"\xc4\xd6\u2192" in done.stderr
