"""Folders of runs: which is the newest, one run at a time, and nothing lost when a task is done again."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from src.errors import EXIT_BAD_INPUT, UserError
from src.outputs import OutputError
from src.runs.folders import newest_run, only_run_in
from src.runs.run_folder import make_run_folder
from src.testing_framework import TestingFramework
from tests.forked_command import ROOT
from tests.runs.pipeline_runs import Ended, Pipelines, in_step, pipelines_in, run_of

# One at a time


def refused(output_dir: Path) -> str:
    with pytest.raises(UserError) as error, only_run_in(output_dir):
        pytest.fail("two at once")
    assert error.value.exit_code == EXIT_BAD_INPUT
    return str(error.value)


def test_a_second_run_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    with only_run_in(tmp_path):
        text = refused(tmp_path)
    assert f"Another run (process {os.getpid()}) is at work in {tmp_path}" in text
    assert "--output-dir" in text


def test_afterwards_the_next_one_may(tmp_path: Path) -> None:
    for _ in range(2):
        with only_run_in(tmp_path):
            pass
    with pytest.raises(ZeroDivisionError), only_run_in(tmp_path):
        raise ZeroDivisionError
    with only_run_in(tmp_path):
        pass


def test_elsewhere_another_may_run_beside_it(tmp_path: Path) -> None:
    with only_run_in(tmp_path / "a"), only_run_in(tmp_path / "b"):
        pass


def test_the_folder_is_made_and_one_that_cannot_be_is_told(tmp_path: Path) -> None:
    with only_run_in(tmp_path / "new" / "folder"):
        assert (tmp_path / "new" / "folder").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError), only_run_in(tmp_path / "file"):
        pytest.fail("a file is no folder")


HOLDER = """
import sys, time
from pathlib import Path
from typing import Any
sys.path.insert(0, sys.argv[1])
from src.runs.folders import only_run_in
with only_run_in(Path(sys.argv[2])):
    print("holds it", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other_process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of tmp_path."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(ROOT), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "holds it\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_another_process_holds_it_until_it_is_dead_however_it_died(
    tmp_path: Path, other_process: subprocess.Popen[str]
) -> None:
    assert f"(process {other_process.pid})" in refused(tmp_path)
    other_process.send_signal(signal.SIGKILL)
    other_process.wait()
    with only_run_in(tmp_path):
        assert f"(process {os.getpid()})" in refused(tmp_path), "not the dead one's number"


def test_a_deleted_file_lets_no_second_one_in(tmp_path: Path, other_process: subprocess.Popen[str]) -> None:
    for path in tmp_path.iterdir():
        path.unlink()
    assert "Another run (process unknown) is at work" in refused(tmp_path)
    assert other_process.poll() is None


ODD_HOLDERS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "bytes": lambda path: path.write_bytes(b"\xff\xfe"),
    "no number": lambda path: path.write_text("[bold]\x1b[31m"),
    "a folder": Path.mkdir,
    "a dangling link": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("how", ODD_HOLDERS)
def test_an_odd_holder_file_is_neither_read_nor_waited_for_nor_followed(tmp_path: Path, how: str) -> None:
    holder = tmp_path / ".run.holder"
    ODD_HOLDERS[how](holder)
    with only_run_in(tmp_path):
        assert holder.read_text() == str(os.getpid())
        (holder.unlink if holder.is_file() else holder.rmdir)()
        ODD_HOLDERS[how](holder)
        assert "Another run (process unknown) is at work" in refused(tmp_path)
    assert not (tmp_path / "nowhere").exists()


def test_a_holder_file_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    outside = tmp_path / "mine"
    outside.write_text("mine")
    for name in (".run.holder", ".run.lock", "..run.holder.part"):
        (tmp_path / name).symlink_to(outside)
    with only_run_in(tmp_path):
        assert outside.read_text() == "mine"
    assert outside.read_text() == "mine"


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipelines]:
    with pipelines_in(tmp_path_factory.mktemp("folders")) as made:
        yield made


def test_a_pipeline_beside_one_at_work_is_refused_and_disturbs_nothing(pipelines: Pipelines) -> None:
    home = pipelines.new_home()
    seconds: list[Ended] = []
    with in_step("base", 44, lambda: seconds.extend([pipelines.run(home), pipelines.resume(home)])):
        first = pipelines.run(home, {"pipeline.auto_advance": False})
        first = pipelines.resume(home, {"pipeline.auto_advance": False})
    assert first.error is None
    assert first.report["stopped_after"] == "phase2"
    for second in seconds:
        assert isinstance(second.error, UserError)
        assert f"Another run (process {os.getpid()}) is at work" in second.why
        assert second.framework.run_folder is None
    assert run_of(home) == first.folder, "no second run was begun"


def test_next_to_a_hardware_maximized_run_at_work_a_plain_start_begins_another(pipelines: Pipelines) -> None:
    home, changes = pipelines.new_home(), {"test_mode.mode": "hardware_maximized"}
    others: list[Any] = []

    def start_others() -> None:
        plain = TestingFramework(pipelines.config(home, changes), Console(file=io.StringIO()))
        plain.run_hardware_maximized_validation()  # without --auto-resume, as checkpoint.auto_resume has it
        others.extend([plain, pipelines.resume(home, changes)])

    with in_step("base", 44, start_others):
        first = pipelines.run(home, changes)
    assert first.error is None, first.why
    plain, resumed = others
    assert plain.run_folder not in (None, first.folder)
    assert resumed.error is None, "the newest run is the finished one"
    assert resumed.folder == plain.run_folder


# Which is the newest

stamps = st.sampled_from(["20260101-000000", "20260101-000001", "20251231-235959", "20261123-120000"])
runs = st.tuples(st.sampled_from(["NQ", "MNQ", "ES"]), stamps, st.integers(1, 12), st.booleans())


@given(st.lists(runs, max_size=8, unique_by=lambda run: run[:3]), st.sampled_from(["NQ", "MNQ", "ES", None]))
def test_the_newest_run_is_the_one_begun_last(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[str, str, int, bool]], market: str | None
) -> None:
    output_dir = tmp_path_factory.mktemp("runs")
    expected = None
    for symbol, stamp, number, has_ledger in made:
        folder = output_dir / (f"pipeline_{symbol}_{stamp}" + (f"-{number}" if number > 1 else ""))
        folder.mkdir()
        if has_ledger:
            (folder / "ledger.json").write_text("{}")
            if market in (symbol, None) and (expected is None or (stamp, number) > expected[0]):
                expected = (stamp, number), folder
    found = newest_run(output_dir, "pipeline", market)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        match = re.search(r"_(\d{8}-\d{6})-?(\d*)$", found.name)
        assert match is not None
        assert (match[1], int(match[2] or 1)) == expected[0]
        assert (found / "ledger.json").exists()


def test_a_clock_that_went_back_makes_no_older_run_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        at = datetime(2026, 3, 1, 12)

        @classmethod
        def now(cls) -> datetime:
            return cls.at

    monkeypatch.setattr("src.runs.run_folder.datetime", Clock)
    made = []
    for market, hours in (("NQ", 0), ("NQ", -5), ("ES", -3), ("NQ", -9), ("NQ", 1)):
        Clock.at = datetime(2026, 3, 1, 12) + timedelta(hours=hours)
        made.append(make_run_folder(tmp_path, "pipeline", market))
        (made[-1] / "ledger.json").write_text("{}")
        assert newest_run(tmp_path, "pipeline", market) == newest_run(tmp_path, "pipeline", None) == made[-1]
    stamps = [path.name.split("_")[2] for path in made]
    first = "20260301-120000"
    assert stamps == [first, f"{first}-2", f"{first}-3", f"{first}-4", "20260301-130000"]


def test_a_newest_run_without_its_ledger_is_named_and_no_older_one_taken(tmp_path: Path) -> None:
    older, newest = (tmp_path / f"pipeline_NQ_2026010{day}-000000" for day in (1, 2))
    for folder in (older, newest):
        folder.mkdir()
    (older / "ledger.json").write_text("{}")
    assert newest_run(tmp_path, "pipeline", "NQ") == older, "nothing was begun in an empty one"
    (newest / "base.zip").write_text("")
    with pytest.raises(UserError, match=r"20260102-000000 has lost its ledger\.json.*Restore that file"):
        newest_run(tmp_path, "pipeline", "NQ")
    (newest / "base.zip").unlink()
    newest.rmdir()
    newest.symlink_to(older)
    with pytest.raises(UserError, match=r"20260102-000000 is a symlink"):
        newest_run(tmp_path, "pipeline", "NQ")


def test_a_folder_that_cannot_exist_holds_no_run() -> None:
    assert newest_run(Path("x" * 10_000), "pipeline", None) is None


def test_other_folders_are_no_runs(tmp_path: Path) -> None:
    for name in ("hardware_maximized_NQ_20990101-000000", "pipeline_NQ_copy", "pipeline_NQ_20990101-000000.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ledger.json").write_text("{}")
    assert newest_run(tmp_path, "pipeline", "NQ") is None
    assert newest_run(tmp_path / "absent", "pipeline", None) is None
