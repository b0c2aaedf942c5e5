"""The entries of a menu run the scripts, and the documented program works as it is printed."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src import menu
from src.menu import ROOT, training_menu_options

LABELS = ["Hardware-Maximized Test (Phase 3)", "Pipeline Test (Phase 3)", "Validate Testing Framework"]


def test_the_three_entries_name_scripts_that_exist() -> None:
    assert [label for label, _ in training_menu_options()] == LABELS
    assert all((ROOT / script).is_file() for _, script in menu.ENTRIES)


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scripts that write down what they were called with and end with code 1."""
    for _, script in menu.ENTRIES:
        code = f"import pathlib, sys\npathlib.Path('called.txt').write_text(' '.join([{script!r}, *sys.argv[1:]]))\n"
        (tmp_path / script).write_text(code + "sys.exit(1)\n")
    monkeypatch.setattr(menu, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "called.txt"


@pytest.mark.parametrize("place", range(3))
def test_an_entry_runs_its_script_and_returns_its_exit_code(recorder: Path, place: int) -> None:
    own = {"Pipeline Test (Phase 3)": ["--seed", "3"]}
    _, run = training_menu_options("ES", ["--quick"], own)[place]
    assert run() == 1
    assert recorder.read_text() == f"{menu.ENTRIES[place][1]} --market ES --quick" + " --seed 3" * (place == 1)


def test_options_of_an_entry_that_is_none_are_refused() -> None:
    with pytest.raises(ValueError, match="own names Pipeline; the entries are Hardware"):
        training_menu_options(own={"Pipeline": ["--seed", "3"]})


@pytest.mark.parametrize("script", [script for _, script in menu.ENTRIES])
def test_what_goes_to_every_script_is_taken_by_every_script(script: str) -> None:
    parser = importlib.import_module(script.removesuffix(".py"))._parser()
    parser.parse_args(["--market", "ES", "--quick", "--data", "bars.csv", "--config", "my.yaml", "--debug"])


def test_ctrl_c_stops_the_script_and_not_the_menu(tmp_path: Path) -> None:
    (tmp_path / "run_pipeline.py").write_text(
        "import pathlib, sys, time\npathlib.Path('up').touch()\n"
        "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    sys.exit(3)\n"
    )
    program = (
        "import pathlib, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from src import menu\n"
        f"menu.ROOT = pathlib.Path({str(tmp_path)!r})\n"
        "print('code', menu.training_menu_options()[1][1]())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    )
    while not (tmp_path / "up").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert out == "code 3\n"


def test_the_documented_program_works_as_printed(recorder: Path, tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "menu.md").read_text(encoding="utf-8"), re.DOTALL)
    patched = program.replace(
        "from src.menu import training_menu_options",
        f"import pathlib, sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom src import menu\n"
        f"menu.ROOT = pathlib.Path({str(tmp_path)!r})\nfrom src.menu import training_menu_options",
    )
    (tmp_path / "main.py").write_text(patched)
    for answer, code in (("1\n", 1), ("9\n", 2)):
        done = subprocess.run(
            [sys.executable, "main.py"],
            cwd=tmp_path,
            input=answer,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert all(label in done.stdout for label in LABELS)
    assert recorder.read_text() == "run_hardware_maximized.py --market NQ --quick"
