"""`checkpoint.auto_resume`: a plain run resumes the newest unfinished one of the same settings, and no other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.runs.pipeline_runs import Ended, Pipelines, crash, differing, in_step, pipelines_in, terminate

pytestmark = pytest.mark.slow
OWN = {"environment.env_class": "tests.tiny_runs:CountingEnv", "hardware.vec_env": "dummy"}


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipelines]:
    with pipelines_in(tmp_path_factory.mktemp("auto_resume")) as made:
        yield made


@pytest.fixture(scope="module")
def killed(pipelines: Pipelines) -> Path:
    """The home of a run that was killed in the third of base training's four rollouts."""
    home = pipelines.new_home()
    with in_step("base", 76, crash):
        pipelines.run(home, auto_resume=None)
    return home


def runs_in(home: Path) -> list[Path]:
    return sorted(path.parent for path in home.glob("logs/*/ledger.json"))


def plain(pipelines: Pipelines, home: Path, changes: Mapping[str, Any] | None = None, **options: Any) -> Ended:
    ended = pipelines.run(home, changes, auto_resume=None, **options)
    assert ended.error is None, ended.why
    return ended


def test_a_plain_run_resumes_the_unfinished_one_and_ends_as_one_left_alone(pipelines: Pipelines, killed: Path) -> None:
    home, left_alone = pipelines.new_home(killed), pipelines.new_home()
    ended = plain(pipelines, home)
    assert len(runs_in(home)) == 1
    assert f"resuming {runs_in(home)[0]}, unfinished and of the same settings (--no-auto-resume" in ended.said
    assert "resuming from 64" in ended.said
    plain(pipelines, left_alone)
    assert differing(home, left_alone) == []
    again = plain(pipelines, home)
    assert len(runs_in(home)) == 2, "a finished run is left as it is"
    assert "resuming" not in again.said
    assert "is done: nothing is left to do" not in again.said


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"test_mode.seed": 7}, "test_mode.seed was 0, is 7"),
        ({"training.timesteps": 64}, "timesteps of training 0 was 128, is 64"),
        ({"llm.llm_weight": 0.25}, "llm.llm_weight was 0.5, is 0.25"),
        ({"data.path": "OTHER"}, "bars was"),
    ],
)
def test_a_run_with_other_settings_or_bars_is_named_and_a_new_one_begins(
    pipelines: Pipelines, killed: Path, changes: dict[str, Any], why: str
) -> None:
    """A setting of phase 3 counts too, though the killed run had not come so far."""
    home = pipelines.new_home(killed)
    (first,) = runs_in(home)
    before = (first / "ledger.json").read_bytes()
    changes = {key: str(pipelines.bars["other"]) if value == "OTHER" else value for key, value in changes.items()}
    with in_step("base", 12, terminate):
        ended = pipelines.run(home, changes, auto_resume=None)
    assert f"{first} is unfinished, but has other settings ({why}" in ended.said
    assert "): a new run begins" in ended.said
    assert len(runs_in(home)) == 2
    assert (first / "ledger.json").read_bytes() == before


def test_of_several_runs_the_newest_unfinished_one_that_fits_is_resumed(pipelines: Pipelines, killed: Path) -> None:
    """Between it and now: a run of other settings, and one whose settings cannot be read."""
    home = pipelines.new_home(killed)
    (first,) = runs_in(home)
    with in_step("base", 12, crash):
        pipelines.run(home, {"test_mode.seed": 7}, auto_resume=None)
    with in_step("base", 12, crash):
        pipelines.run(home, {"test_mode.seed": 8}, auto_resume=None)
    (runs_in(home)[-1] / "config.yaml").write_text("hardware: [")
    ended = plain(pipelines, home)
    assert f"resuming {first}," in ended.said
    assert ended.folder == first


@pytest.mark.parametrize("off", ["option", "key"])
def test_where_it_is_off_a_plain_run_begins_a_new_one(pipelines: Pipelines, killed: Path, off: str) -> None:
    home = pipelines.new_home(killed)
    changes = {"checkpoint.auto_resume": False} if off == "key" else {}
    with in_step("base", 12, terminate):
        ended = pipelines.run(home, changes, auto_resume=False if off == "option" else None)
    assert len(runs_in(home)) == 2
    assert "unfinished" not in ended.said


def test_what_changes_no_result_does_not_make_another_run(pipelines: Pipelines) -> None:
    home = pipelines.new_home()
    with in_step("base", 76, crash):
        pipelines.run(home, {**OWN, "phase2.timeout": 100.0}, auto_resume=None)
    ended = plain(pipelines, home, {**OWN, "phase2.timeout": 900.0, "monitoring.log_interval": 7})
    assert len(runs_in(home)) == 1
    assert "resuming from 64" in ended.said


# Reallocation and settings without effect, said in one line each


def test_each_transition_says_in_one_line_what_was_freed_and_what_the_phase_may_use(pipelines: Pipelines) -> None:
    changes = {**OWN, "pipeline.reallocate_resources": True, "hardware.torch_threads": 1}
    ended = plain(pipelines, pipelines.new_home(), {**changes, "phase3.gpu_usage.torch_threads": 2})
    lines = [line for line in ended.said.splitlines() if line.startswith("resources for ")]
    assert [line.partition(":")[0] for line in lines] == ["resources for phase2", "resources for phase3"]
    for line, threads in zip(lines, ("1 torch thread", "2 torch threads"), strict=True):
        _, said = line.split(": ")
        freed, share, own_threads = said.split("; ")
        assert freed.startswith("freed ")
        assert freed.endswith(" MB of RAM")
        assert (share, own_threads) == ("no GPU", threads)
    quiet = plain(pipelines, pipelines.new_home(), {**OWN, "pipeline.reallocate_resources": False})
    assert "resources for" not in quiet.said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"hardware.mixed_precision": True}, "warning: hardware.mixed_precision acts on a GPU only; this run trains"),
        (
            {"hardware.memory_fraction": 0.5, "phase2.gpu_usage": 0.6},
            "warning: hardware.memory_fraction and phase2.gpu_usage.memory_fraction act on a GPU only; this run trains",
        ),
        ({"hardware.memory_fraction": 0.95, "phase2.gpu_usage": 0.8}, ""),
    ],
)
def test_settings_of_a_gpu_that_is_not_there_are_named_in_one_line(
    pipelines: Pipelines, changes: dict[str, Any], said: str
) -> None:
    ended = plain(pipelines, pipelines.new_home(), {**OWN, **changes})
    lines = [line for line in ended.said.splitlines() if line.startswith("warning")]
    assert [line for line in lines if not line.startswith(said)] == [] if said else lines == []
    assert len(lines) == bool(said)
