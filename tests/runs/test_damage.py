"""Damaged files of a run: made again to the same bytes or named, never waited for, never written through."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from src.agent.policy_files import load_policy
from src.errors import EXIT_BAD_INPUT, EXIT_TARGET_MISSED, UserError
from src.outputs import OutputError
from src.runs import run_files
from src.runs.damage import DAMAGES, bait_of, damages_of, fault_of
from src.runs.damage import Ended as EndedProcess
from src.runs.kills import results_of
from src.runs.ledger import seal
from src.runs.run_files import FilesDamaged, damage, facts_of, files_in, set_odd_aside
from src.runs.run_folder import check_seal
from src.testing_framework import TestingFramework
from tests.runs.pipeline_runs import (
    Pipelines,
    contents,
    crash,
    differing,
    in_step,
    member_of,
    pipelines_in,
    run_of,
    terminate,
)


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipelines]:
    with pipelines_in(tmp_path_factory.mktemp("damage")) as made:
        yield made


@pytest.fixture(scope="module")
def finished(pipelines: Pipelines) -> Path:
    """The home of an undisturbed pipeline."""
    home = pipelines.new_home()
    assert pipelines.run(home).error is None
    return home


@pytest.fixture(scope="module")
def interrupted(pipelines: Pipelines) -> Path:
    """The home of a pipeline that SIGTERM stopped in its second fine-tuning."""
    home = pipelines.new_home()
    with in_step("hybrid", 44, terminate):
        pipelines.run(home)
    return home


@pytest.fixture(autouse=True)
def no_hanging() -> Iterator[None]:
    """What waits for a pipe is a failure and not the end of the suite."""

    def hung(*_: object) -> None:
        pytest.fail("it hangs")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def resume(pipelines: Pipelines, home: Path) -> EndedProcess:
    """As a process of its own would end."""
    ended = pipelines.resume(home)
    code = 0 if ended.error is None else getattr(ended.error, "exit_code", 99)
    return EndedProcess(code, f"{ended.said}\n{ended.why}")


# One of each sort, each with the ways that differ for it; `python -m src.runs.damage` takes all files and all ways.
SAME, NAMED = "same", "named"
CASES = [
    ("finished", "base.zip", "a symlink", SAME),
    ("finished", "base.policy.json", "deleted", SAME),
    ("finished", "hybrid.zip", "a pipe", SAME),
    ("finished", "hybrid.policy.safetensors", "zeroed", SAME),
    ("finished", "report.json", "flipped", SAME),
    ("finished", "report.html", "a folder", SAME),
    ("finished", "metrics.jsonl", "a symlink", SAME),
    ("finished", "manifest.json", "flipped", SAME),
    ("finished", "config.yaml", "emptied", SAME),
    ("finished", "ledger.json", "a pipe", NAMED),
    ("finished", "run.log", "truncated", NAMED),
    ("finished", f"members/seed-0/base/checkpoint-{64:012d}/policy.safetensors", "flipped", NAMED),
    ("interrupted", "base.zip", "zeroed", SAME),
    ("interrupted", "metrics.jsonl", "a pipe", SAME),
    ("interrupted", "run.log", "a pipe", NAMED),
    ("finished", "tasks/advice/advice.safetensors", "deleted", SAME),
    ("finished", "tasks/evaluation/task.json", "flipped", SAME),
    ("finished", "members/seed-0/hybrid/task.json", "a folder", SAME),
    ("finished", "members/seed-0/base/weights.safetensors", "zeroed", SAME),
    ("interrupted", "members/seed-0/base/weights.safetensors", "flipped", SAME),
    ("interrupted", "members/seed-0/base/task.json", "truncated", SAME),
    ("interrupted", f"members/seed-0/base/checkpoint-{64:012d}/policy.safetensors", "truncated", NAMED),
    ("interrupted", "tasks/advice/advice.safetensors", "flipped", SAME),
    ("interrupted", "members/seed-0/hybrid/metrics.jsonl", "a pipe", SAME),
    ("interrupted", f"members/seed-0/hybrid/checkpoint-{64:012d}/manifest.json", "a pipe", SAME),
]


@pytest.mark.parametrize(("state", "name", "how", "expected"), CASES, ids=lambda value: str(value).rpartition("/")[2])
def test_a_damaged_file_is_made_again_or_named(
    pipelines: Pipelines, finished: Path, interrupted: Path, state: str, name: str, how: str, expected: str
) -> None:
    home = pipelines.new_home(finished if state == "finished" else interrupted)
    path = run_of(home) / name
    fault, same = fault_of(
        home, str(path.relative_to(home)), how, results_of(finished), lambda home: resume(pipelines, home)
    )
    assert fault == ""
    assert same == (expected == SAME)
    if state == "finished" and expected == SAME and name not in ("manifest.json", "report.json", "report.html"):
        recorded = json.loads((run_of(home) / "manifest.json").read_text())["files"][name]
        assert recorded == facts_of(run_of(home), [name])[name].model_dump()
    if expected == SAME:
        again = pipelines.resume(home)
        assert "nothing is left to do" in again.said


def test_what_a_killed_process_changed_after_the_files_were_recorded_is_not_damage(
    pipelines: Pipelines, finished: Path, interrupted: Path
) -> None:
    home = pipelines.new_home(interrupted)
    with in_step("hybrid_placebo", 44, crash):
        pipelines.resume(home)
    ended = pipelines.resume(home)
    assert ended.error is None
    assert "not as the run left" not in ended.said
    assert differing(home, finished) == []


def test_every_file_and_every_way_is_in_the_sweep(finished: Path) -> None:
    run = run_of(finished)
    everywhere = {str(path.relative_to(finished)) for path in run.rglob("*") if path.is_file()}
    assert {name for name, _ in damages_of(finished)} == everywhere
    assert len(damages_of(finished)) == len(DAMAGES) * len(everywhere)


def test_the_sweep_sees_a_fault(pipelines: Pipelines, finished: Path) -> None:
    def wrong(say: str, code: int | None, act: Callable[[Path], object] = lambda _: None) -> str:
        home = pipelines.new_home(finished)
        base = str((run_of(home) / "base.zip").relative_to(home))

        def ended(home: Path) -> EndedProcess:
            act(home / base)
            return EndedProcess(code, say)

        return fault_of(home, base, "a symlink", results_of(finished), ended)[0]

    assert wrong("base.zip", None) == "hung"
    assert "exit code 1" in wrong("Traceback (most recent call last): ... base.zip", 1)
    assert "without naming" in wrong("", 2)
    assert "written through" in wrong("base.zip", 0, lambda path: path.write_bytes(b"new"))
    assert wrong("base.zip", 1) == ""
    home = pipelines.new_home(finished)
    base = str((run_of(home) / "hybrid.policy.json").relative_to(home))
    fault = fault_of(home, base, "flipped", results_of(finished), lambda _: EndedProcess(0, ""))[0]
    assert fault == "exit code 0, and other results: hybrid.policy.json"


def test_a_file_that_cannot_be_made_again_ends_with_its_name_and_is_recorded_as_it_is(
    pipelines: Pipelines, finished: Path
) -> None:
    home = pipelines.new_home(finished)
    (run_of(home) / "hardware.csv").write_text("gone")
    ended = pipelines.resume(home)
    assert isinstance(ended.error, FilesDamaged)
    assert ended.error.exit_code == EXIT_TARGET_MISSED
    assert "hardware.csv (truncated: 4 of " in ended.why
    assert "All required targets met." in ended.said, "its conclusions are shown all the same"
    assert "nothing is left to do" in pipelines.resume(home).said


def test_whoever_names_a_zip_damaged_needs_no_training_for_it(
    pipelines: Pipelines, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor an evaluation: the member it was copied from holds the same bytes."""
    home = pipelines.new_home(finished)
    was = contents(home)
    for name in ("base.zip", "hybrid.zip"):
        (run_of(home) / name).unlink()
    monkeypatch.setattr("src.runs.member_work.train", None)
    monkeypatch.setattr("src.runs.plan.evaluation_task", None)
    assert pipelines.resume(home).error is None
    now = contents(home)
    assert [name for name in was if name.endswith((".zip", "report.json")) and was[name] != now[name]] == []


def test_the_exported_data_is_the_exported_zip(finished: Path) -> None:
    policy = load_policy(run_of(finished) / "hybrid.policy.json")
    assert policy.advice is not None
    assert float(policy.advice.weight) == 0.5
    assert policy.facts["timesteps"] == 128


# Odd things in the folders


def test_links_pipes_and_sockets_are_set_aside_and_nothing_else(tmp_path: Path) -> None:
    outside, run = tmp_path / "outside", tmp_path / "run"
    (run / "phase2").mkdir(parents=True)
    outside.mkdir()
    (outside / "file").write_text("mine")
    os.mkfifo(run / "run.log")
    (run / "phase2" / "base").symlink_to(outside)
    (run / "dangling").symlink_to(tmp_path / "nowhere")
    (run / "base.zip").write_text("zip")
    said: list[str] = []
    set_odd_aside(run, said.append)
    assert [path.name for path in sorted(run.iterdir()) if ".damaged-" not in path.name] == ["base.zip", "phase2"]
    assert [text.rpartition(" is a")[2].partition(",")[0] for text in said] == [" symlink", " symlink", " named pipe"]
    assert files_in(run) == ["base.zip"]
    assert (outside / "file").read_text() == "mine"
    set_odd_aside(run, said.append)
    assert len(said) == 3, "what is aside stays there"


def test_a_checkpoint_folder_that_became_a_link_is_not_written_through(
    pipelines: Pipelines, finished: Path, interrupted: Path
) -> None:
    home, outside = pipelines.new_home(interrupted), pipelines.new_home()
    folder = member_of(home, "hybrid")
    shutil.move(folder, outside / "hybrid")
    folder.symlink_to(outside / "hybrid")
    was = contents(outside)
    ended = pipelines.resume(home)
    assert "hybrid is a symlink, which no run makes" in ended.said
    assert contents(outside) == was
    assert differing(finished, home) == []


def test_the_manifest_can_be_checked_by_a_command(
    pipelines: Pipelines, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(pipelines.new_home(finished))
    assert run_files.main([str(run)]) == 0
    with open(run / "run.log", "a") as log:
        log.write("later")
    assert run_files.main([str(run)]) == 0, "a log may grow"
    (run / "base.zip").unlink()
    (run / "report.html").write_text("x")
    capsys.readouterr()
    assert run_files.main([str(run)]) == 1
    said = capsys.readouterr().out
    assert "base.zip: missing\n" in said
    assert "report.html: truncated: 1 of " in said
    assert said.endswith("2 not as recorded\n")
    (run / "manifest.json").write_text("{}")
    assert run_files.main([str(run)]) == 2
    assert "manifest.json cannot be read" in capsys.readouterr().err


def test_damage_of_a_file_in_words(tmp_path: Path) -> None:
    path = tmp_path / "base.zip"
    path.write_bytes(b"0123456789")
    facts = facts_of(tmp_path, ["base.zip"])["base.zip"]
    assert damage(tmp_path, "base.zip", facts) == ""
    for how, why in {
        "truncated": "truncated: 5 of 10 bytes", "flipped": "changed: another SHA-256 than recorded",
        "deleted": "missing", "a pipe": "it is a named pipe, not a file", "a folder": "it is a folder, not a file",
    }.items():  # fmt: skip
        (tmp_path / "home").mkdir(exist_ok=True)
        copy = tmp_path / "home" / "base.zip"
        copy.write_bytes(path.read_bytes())
        DAMAGES[how](copy)
        assert damage(tmp_path / "home", "base.zip", facts) == why
        shutil.rmtree(tmp_path / "home")
    path.write_bytes(b"0123456789more")
    assert damage(tmp_path, "base.zip", facts) == "changed: 14 bytes, recorded are 10"


def test_settings_that_were_changed_are_not_taken_for_those_of_the_run(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    raw = (run_of(finished) / "config.yaml").read_bytes()
    path.write_bytes(raw)
    check_seal(path)
    path.write_bytes(raw.replace(b"gamma: 0.99", b"gamma: 0.98"))
    with pytest.raises(UserError, match=r"config\.yaml of the run to resume cannot be used \(it was changed"):
        check_seal(path)
    path.unlink()
    with pytest.raises(UserError, match=r"cannot be used \(No such file"):
        check_seal(path)
    path.write_text("test_mode: {}\n")
    check_seal(path)  # of a version that wrote no hash


def test_a_ledger_of_an_earlier_version_is_refused_and_says_how_to_begin_again(
    pipelines: Pipelines, interrupted: Path
) -> None:
    home = pipelines.new_home(interrupted)
    path = run_of(home) / "ledger.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 1}))
    was = contents(home)
    ended = pipelines.resume(home)
    assert isinstance(ended.error, UserError)
    assert ended.error.exit_code == EXIT_BAD_INPUT
    assert f"{path} cannot be read (an earlier version of the toolkit wrote it). Leave out --auto-resume" in ended.why
    assert contents(home) == was


def test_one_figure_of_a_ledger_changed_is_refused(pipelines: Pipelines, interrupted: Path) -> None:
    home = pipelines.new_home(interrupted)
    path = run_of(home) / "ledger.json"
    content = json.loads(path.read_text())
    assert content["sha256"] == seal(content)
    content["phases"]["phase2"]["seconds"] += 1.0
    path.write_text(json.dumps(content))
    ended = pipelines.resume(home)
    assert isinstance(ended.error, UserError)
    assert ended.error.exit_code == EXIT_BAD_INPUT
    assert f"{path} cannot be read (it was changed" in ended.why


# A full disk


def full_from(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """No temporary file of a name can be made any more."""
    whole = os.replace

    def replace(source: object, target: object) -> None:
        if Path(str(target)).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        whole(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize("name", ["hybrid.policy.json", "hardware.csv"])
def test_a_disk_that_is_full_at_any_file_is_one_paragraph_and_the_run_goes_on_later(
    pipelines: Pipelines, finished: Path, name: str
) -> None:
    home = pipelines.new_home()
    with pytest.MonkeyPatch.context() as patch:
        full_from(patch, name)
        ended = pipelines.run(home)
    assert isinstance(ended.error, UserError), ended.error
    assert ended.error.exit_code == EXIT_BAD_INPUT
    assert "No space left on device" in ended.why
    assert name in ended.why
    assert pipelines.resume(home).error is None
    assert differing(finished, home) == []


@pytest.mark.parametrize("name", ["hybrid.zip", "report.json"])
def test_a_full_disk_ends_a_hardware_maximized_run_with_one_paragraph_and_it_resumes(
    pipelines: Pipelines, name: str
) -> None:
    home = pipelines.new_home()
    config = pipelines.config(home, {"test_mode.mode": "hardware_maximized"})
    framework = TestingFramework(config, Console(quiet=True))
    with pytest.MonkeyPatch.context() as patch:
        full_from(patch, name)
        with pytest.raises(
            OutputError, match=r"No space left on device.*newest checkpoint is kept\. Resume with"
        ) as error:
            framework.run_hardware_maximized_validation()
    assert name in str(error.value)
    assert framework.run_folder is not None
    assert {"members/seed-0/base/base.zip", "metrics.jsonl", "hardware.csv", "run.log"} <= set(
        files_in(framework.run_folder)
    )
    again = TestingFramework(config, Console(quiet=True))
    assert again.run_hardware_maximized_validation(auto_resume=True)["arms"]
    assert again.run_folder == framework.run_folder


def test_what_a_symlink_points_to_outside_is_bait(tmp_path: Path) -> None:
    path = tmp_path / "home-3" / "logs" / "file"
    assert bait_of(path).parent == tmp_path
