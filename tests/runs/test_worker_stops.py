"""Trainings in two worker processes: stopped at a clean instant or at once, past a timeout, killed; then resumed."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from src.errors import InterruptedRun
from src.runs import executors
from src.runs.engine import Engine
from src.runs.executors import Cores, Event
from src.runs.stopping import Deadline, PhaseTimeout
from tests.runs.pipeline_runs import ROLLOUT, Ended, Pipelines, before, entry_of, member_of, pipelines_in, terminate

pytestmark = pytest.mark.slow

BASES = {
    "evidence.seeds": 2,
    "training.timesteps": 60 * ROLLOUT,
    # Checkpoints at an end only: any other was taken because the run stops.
    "checkpoint.strategy": "phase_based",
    "pipeline.auto_advance": False,
}
TWO = {**BASES, "hardware.workers": 2}


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipelines]:
    with pipelines_in(tmp_path_factory.mktemp("worker_stops")) as made:
        yield made


@pytest.fixture(scope="module")
def ready(pipelines: Pipelines) -> Path:
    """The home of a pipeline that is to train two bases next."""
    home = pipelines.new_home()
    assert pipelines.run(home, BASES).error is None
    return home


@pytest.fixture(scope="module")
def weights(pipelines: Pipelines, ready: Path) -> list[bytes]:
    """Of both bases, trained one after the other in one process."""
    home = pipelines.new_home(ready)
    assert pipelines.resume(home, {**BASES, "hardware.workers": 1}).error is None
    return weights_in(home)


def weights_in(home: Path) -> list[bytes]:
    return [(member_of(home, "base", seed) / "weights.safetensors").read_bytes() for seed in (0, 1)]


def checkpoints_in(home: Path) -> list[list[int]]:
    """Timesteps of each base's checkpoints."""
    folders = [member_of(home, "base", seed) for seed in (0, 1)]
    return [[int(path.name.removeprefix("checkpoint-")) for path in f.glob("checkpoint-*")] for f in folders]


def told(engine: Engine, event: Event, *_: object) -> bool:
    return event.kind == executors.RECORD


def finished(pipelines: Pipelines, home: Path) -> Ended:
    ended = pipelines.resume(home, TWO)
    assert ended.error is None, ended.why
    assert multiprocessing.active_children() == []
    return ended


@pytest.mark.parametrize("why", ["interrupted", "timed_out"])
def test_at_the_first_signal_or_past_a_timeout_each_worker_saves_its_rollout(
    pipelines: Pipelines, ready: Path, weights: list[bytes], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    home = pipelines.new_home(ready)
    with monkeypatch.context() as patch:
        act = terminate if why == "interrupted" else lambda: patch.setattr(Deadline, "passed", True)
        with before(Engine, "_handle", act, nth=3, when=told):
            ended = pipelines.resume(home, TWO)
    assert isinstance(ended.error, InterruptedRun if why == "interrupted" else PhaseTimeout)
    assert multiprocessing.active_children() == []
    steps = checkpoints_in(home)
    assert [len(of_base) for of_base in steps] == [1, 1]
    assert all(0 < step < 60 * ROLLOUT and step % ROLLOUT == 0 for (step,) in steps)
    entry = entry_of(home, "phase2")
    assert (entry.status, entry.failures) == (why, [])
    assert sorted(entry.timesteps.values()) == sorted(step for (step,) in steps)
    assert finished(pipelines, home).said.count("resuming from ") == 2
    assert weights_in(home) == weights


def test_a_second_signal_ends_the_workers_at_once(pipelines: Pipelines, ready: Path, weights: list[bytes]) -> None:
    home, began = pipelines.new_home(ready), list[float]()

    def again() -> None:
        began.append(time.monotonic())
        terminate()

    with before(Engine, "_handle", terminate, nth=3, when=told), before(Cores, "ask_to_stop", again):
        ended = pipelines.resume(home, TWO)
    assert time.monotonic() - began[0] < 20.0
    assert isinstance(ended.error, InterruptedRun)
    assert multiprocessing.active_children() == []
    assert checkpoints_in(home) == [[], []]
    assert entry_of(home, "phase2").status == "interrupted"
    finished(pipelines, home)
    assert weights_in(home) == weights


def test_a_killed_worker_is_named_and_tried_again_and_the_other_loses_nothing(
    pipelines: Pipelines, ready: Path, weights: list[bytes]
) -> None:
    home = pipelines.new_home(ready)

    def kill() -> None:
        (worker,) = (child for child in multiprocessing.active_children() if child.name == "base, seed 1")
        psutil.Process(worker.pid).kill()

    def of_second(engine: Engine, event: Event, *_: object) -> bool:
        return event.kind == executors.RECORD and event.task.title == "base, seed 1"

    with before(Engine, "_handle", kill, nth=2, when=of_second):
        ended = pipelines.resume(home, TWO)
    assert ended.error is None, ended.why
    (failure,) = entry_of(home, "phase2").failures
    assert failure.startswith("base, seed 1: WorkerDied: The worker of base, seed 1 (process ")
    assert "ended by signal SIGKILL" in failure
    assert ended.said.count("trying again") == 1
    assert weights_in(home) == weights
