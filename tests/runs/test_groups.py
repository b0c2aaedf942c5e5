"""Members that train together: the run they leave, killed or failing, is the run of members that train alone."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from src.agent.checkpoints import CheckpointStore
from src.agent.learner.population import Population
from src.runs import group_work, run, tasks
from src.runs.groups import Groups
from src.runs.ledger import Ledger
from src.runs.member_work import OpenTraining
from src.runs.pipeline import TITLES
from src.runs.preflight import plan_memory
from src.runs.same_report import without_times
from src.runs.tasks import Task
from tests.runs.pipeline_runs import (
    ROLLOUT,
    Ended,
    Pipelines,
    before,
    crash,
    differing,
    pipelines_in,
    run_of,
    terminate,
)

MODES: Mapping[str, tuple[Mapping[str, Any], int, int]] = {
    "pipeline": ({}, 2, 6),
    "hardware_maximized": ({"evidence.walk_forward": 1}, 3, 9),
}
"""What a mode sets besides; base members and fine-tuned ones of two seeds, and of the fold."""
TOGETHER: Mapping[str, Any] = {
    "hardware.learner": "population",
    "hardware.workers": 1,
    "evidence.seeds": 2,
    "training.timesteps": 2 * ROLLOUT,
    "checkpoint.keep_last": 1,
}
OF_THE_LEARNER = frozenset({"learner", "why_learner", "group", "precision"})


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipelines]:
    with pipelines_in(tmp_path_factory.mktemp("groups")) as made:
        yield made


@dataclass(frozen=True)
class LeftAlone:
    """An undisturbed pipeline of two seeds whose members train together."""

    ended: Ended
    home: Path
    killed: Mapping[str, Path]
    """Its home as SIGKILL would have left it at each of `INSTANTS`."""


@pytest.fixture(scope="module")
def left_alone(pipelines: Pipelines) -> LeftAlone:
    home, killed = pipelines.new_home(), dict[str, Path]()
    with ExitStack() as hooks:
        for instant, (owner, name, nth) in INSTANTS.items():
            copy = functools.partial(lambda instant: killed.update({instant: pipelines.new_home(home)}), instant)
            hooks.enter_context(before(owner, name, copy, nth=nth))
        ended, _ = finished(pipelines, home, {})
    return LeftAlone(ended, home, killed)


@pytest.fixture(scope="module")
def whole(left_alone: LeftAlone) -> Path:
    """Its home."""
    return left_alone.home


def finished(pipelines: Pipelines, home: Path, changes: Mapping[str, Any], **how: Any) -> tuple[Ended, Path]:
    """A run that ends."""
    ended = pipelines.run(home, {**TOGETHER, **changes}, **how)
    assert ended.error is None, ended.why
    return ended, home


def in_update(nth: int, act: Callable[[], object], members: int = 6) -> Any:
    """Right before an update of this many members (six: all that are fine-tuned), in a rollout that no checkpoint has
    yet."""
    return before(Population, "update", act, nth=nth, when=lambda population, **_: len(population.models) == members)


# The same run


def alike(value: Any, other: Any) -> bool:
    """Whether two reports say the same but for rounding and the learner."""
    if isinstance(value, dict):
        names = value.keys() - OF_THE_LEARNER
        return names == other.keys() - OF_THE_LEARNER and all(alike(value[name], other[name]) for name in names)
    if isinstance(value, list):
        return len(value) == len(other) and all(map(alike, value, other))
    if isinstance(value, float) and isinstance(other, float):
        return bool(np.isclose(value, other, rtol=1e-3, atol=1e-6))
    return bool(value == other)


def rows_of(home: Path) -> list[dict[str, Any]]:
    lines = (run_of(home) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [without_times(json.loads(line)) for line in lines]


@pytest.mark.parametrize("mode", MODES)
def test_members_trained_together_leave_what_members_trained_alone_leave(
    pipelines: Pipelines, left_alone: LeftAlone, mode: str
) -> None:
    """Every sentence of the report that is no time, every row, every file, and weights equal but for rounding."""
    more, bases, fine_tuned = MODES[mode]
    changes = {**more, "test_mode.mode": mode}
    together, home = left_alone.ended, left_alone.home
    if mode != "pipeline":
        together, home = finished(pipelines, pipelines.new_home(), changes)
    alone, other = finished(pipelines, pipelines.new_home(), {**changes, "hardware.learner": "fused"})
    assert alike(without_times(together.report), without_times(alone.report))
    assert [row["learner"] for row in alone.report["training"]] == ["fused"] * 8
    for row in together.report["training"]:
        size = bases if row["phase"] == "base" else fine_tuned
        assert (row["learner"], row["group"], row["precision"]) == ("population", size, "float32")
        assert row["why_learner"].startswith(f"{size} members at once on cpu")
    rows = rows_of(home)
    assert len(rows) > 8
    assert alike(rows, rows_of(other))
    files = [sorted(of.relative_to(run_of(one)) for of in run_of(one).rglob("*")) for one in (home, other)]
    assert files[0] == files[1]
    weights = [path for path in files[0] if path.name == "weights.safetensors"]
    assert len(weights) == bases + fine_tuned
    for path in weights:
        found, wanted = (load_file(run_of(one) / path) for one in (home, other))
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)
    arms = ", ".join(f"{fine_tuned // 3} x {name}" for name in ("rl_only", "hybrid", "hybrid_placebo"))
    assert f"{arms}: {fine_tuned} members together" in together.said
    assert "on a CPU the default is the fused learner" in together.said


def test_the_seconds_of_a_group_are_counted_once(pipelines: Pipelines, whole: Path) -> None:
    report = json.loads((run_of(whole) / "report.json").read_text(encoding="utf-8"))
    run = report["time"]["run"]
    assert abs(run["unaccounted_s"]) <= 0.03 * run["slot_s"]
    of_members = sum(sum(member["seconds"].values()) for member in report["time"]["members"])
    assert of_members == pytest.approx(run["seconds"]["training"], rel=1e-2)
    assert sum(row["seconds"] for row in report["training"]) <= of_members
    assert sum(entry["seconds"] for entry in report["phases"].values()) >= of_members


# Killed


INSTANTS: dict[str, tuple[Any, str, int]] = {
    "between two members' first checkpoints": (OpenTraining, "save", 2),
    "between two members' later checkpoints, one kept of each": (OpenTraining, "save", 10),
    "while older checkpoints are deleted": (CheckpointStore, "delete_surplus", 7),
    "once one member is sealed": (OpenTraining, "finished", 5),
    "with the files of a member written and not sealed": (tasks, "facts_of", 6),
}
"""What is about to be called for the how many-th time."""


@pytest.mark.parametrize("instant", INSTANTS)
def test_killed_at_any_instant_a_group_goes_on_to_the_same_bits(
    pipelines: Pipelines, left_alone: LeftAlone, instant: str
) -> None:
    killed = left_alone.killed[instant]
    finished(pipelines, killed, {}, auto_resume=True)
    assert differing(left_alone.home, killed) == []
    ledger = json.loads((run_of(killed) / "ledger.json").read_text(encoding="utf-8"))
    assert [phase["not_bitwise"] for phase in ledger["phases"].values()] == [[], [], []]


def test_stopped_all_members_have_a_checkpoint_of_the_rollouts_end(pipelines: Pipelines, whole: Path) -> None:
    home = pipelines.new_home()
    sparse = {"checkpoint.interval_steps": 10**6}
    with in_update(1, terminate):
        ended = pipelines.run(home, {**TOGETHER, **sparse})
    assert "Resume with" in ended.why
    names = {path.name for path in run_of(home).glob("members/seed-*/*/checkpoint-*") if path.parent.name != "base"}
    assert names == {f"checkpoint-{ROLLOUT:012d}"}
    assert len(list(run_of(home).glob("members/seed-*/hybrid*/checkpoint-*"))) == 4
    ended, _ = finished(pipelines, home, sparse, auto_resume=True)
    assert ended.said.count(f"resuming from {ROLLOUT} of {2 * ROLLOUT} timesteps") == 6
    assert differing(whole, home) == []


def test_another_group_is_said_to_round_otherwise(pipelines: Pipelines) -> None:
    home = pipelines.new_home()
    with in_update(2, crash):
        pipelines.run(home, TOGETHER)
    ended, _ = finished(pipelines, home, {"hardware.group": 4}, auto_resume=True)
    said = ended.report["phases"]["phase3"]["not_bitwise"]
    assert any("trained together was " in words for words in said)
    assert "4 members together" in ended.said
    assert [row["group"] for row in ended.report["training"] if row["phase"] != "base"] == [4, 4, 4, 4, 2, 2]


def test_resumed_with_more_memory_members_train_in_the_groups_they_began_in(
    pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = pipelines.new_home()

    def room_for(members: int) -> Any:
        return lambda *args, **kwargs: replace(plan_memory(*args, **kwargs), group=members)

    monkeypatch.setattr(run, "plan_memory", room_for(4))
    with in_update(2, crash, members=4):
        pipelines.run(home, TOGETHER)
    monkeypatch.setattr(run, "plan_memory", room_for(6))
    ended, _ = finished(pipelines, home, {}, auto_resume=True)
    assert ended.report["phases"]["phase3"]["not_bitwise"] == []
    assert [row["group"] for row in ended.report["training"] if row["phase"] != "base"] == [4, 4, 4, 4, 2, 2]


def test_a_checkpoint_that_not_all_members_have_is_not_used_and_said(pipelines: Pipelines, whole: Path) -> None:
    home, kept = pipelines.new_home(), {"checkpoint.keep_last": 3}
    with before(OpenTraining, "finished", crash, nth=3):
        pipelines.run(home, {**TOGETHER, **kept})
    damaged = run_of(home) / f"members/seed-1/hybrid/checkpoint-{2 * ROLLOUT:012d}/policy.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    ended, _ = finished(pipelines, home, kept, auto_resume=True)
    assert f"{damaged.parent} was skipped" in ended.said
    assert f"rl_only, seed 0: its checkpoint of {2 * ROLLOUT} timesteps is not used" in ended.said
    assert ended.said.count(f"resuming from {ROLLOUT} of") == 6
    assert differing(whole, home) == []


# Failing


def test_a_failing_group_is_tried_again_from_its_checkpoints(pipelines: Pipelines, whole: Path) -> None:
    home = pipelines.new_home()

    def fail() -> None:
        raise RuntimeError("the device fell off the bus")

    with in_update(2, fail):
        ended, _ = finished(pipelines, home, {})
    assert "failed (the device fell off the bus); trying again from their newest checkpoint" in ended.said
    assert differing(whole, home) == []
    ledger = Ledger.read(run_of(home), tuple(TITLES))
    members = [of for name, of in ledger.tasks.items() if name.startswith("members/") and "base" not in name]
    assert [of.tries for of in members] == [2] * 6
    assert [of.failures for of in members] == [["RuntimeError: the device fell off the bus"]] * 6
    (failure,) = ledger.phases["phase3"].failures
    assert failure.startswith("rl_only, seed 0, hybrid, seed 0, hybrid_placebo, seed 0, rl_only, seed 1, ")


def test_a_group_that_does_not_fit_is_halved_until_it_does(pipelines: Pipelines) -> None:
    home, sizes = pipelines.new_home(), []
    make = group_work.train_population

    def small(models: Sequence[Any], *given: Any, **named: Any) -> Any:
        sizes.append(len(models))
        if len(models) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return make(models, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_work, "train_population", small)
        ended, _ = finished(pipelines, home, {"pipeline.max_retries_per_phase": 0})
    assert sizes == [2, 6, 3, 1, 2, 3, 1, 2]
    assert ended.said.count("do not fit into memory together (Out of memory") == 3
    assert ended.report["phases"]["phase3"]["status"] == "done"


def test_a_diverging_member_is_named_and_what_all_had_is_kept(pipelines: Pipelines) -> None:
    home = pipelines.new_home()
    collect = Population.collect

    def collected(population: Population) -> Any:
        found = collect(population)
        if len(population.models) == 6 and population.models[0].num_timesteps == ROLLOUT:  # before the second is told
            population._held.weights.values[4] = float("nan")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Population, "collect", collected)
        ended = pipelines.run(home, TOGETHER)
    assert ended.why.startswith("hybrid, seed 1: Training diverged in update 2")
    assert "The newest checkpoint, from before it, is kept" in ended.why
    assert len(list(run_of(home).glob(f"members/seed-*/*/checkpoint-{ROLLOUT:012d}"))) == 6


# Which train together


def made_of(*, needs: Sequence[str] = (), together: object = None, name: str = "x") -> Task:
    return Task(name, "", name, "", lambda *_: {}, lambda _: {}, lambda _: None, tuple(needs), together=together)


plans = st.lists(st.sampled_from(["base", "fine-tuned", None]), max_size=12)


@given(plans, st.integers(0, 5), st.data())
def test_every_task_is_done_once_and_members_of_one_shape_in_groups_of_the_plan(
    shapes: list[str | None], size: int, data: st.DataObject
) -> None:
    """Whatever was done before: what is left of a group stays together, and no group has members of another."""
    plan = [made_of(name=str(number), together=shape) for number, shape in enumerate(shapes)]
    groups = Groups(plan, size)
    left = [task for task in plan if task in groups and data.draw(st.booleans())]
    done: list[list[str]] = []
    while left:
        ready = [task for task in left if data.draw(st.booleans())] or left
        found = groups.next(ready, left)
        assert found
        assert {task.name for task in found} <= {task.name for task in ready}
        done.append([task.name for task in found])
        left = [task for task in left if task not in found]
    same_shape = [[number for number, shape in enumerate(shapes) if shape == kind] for kind in ("base", "fine-tuned")]
    chunk = {number: (kind, at // size) for kind, of in enumerate(same_shape) for at, number in enumerate(of) if size}
    for names in done:
        assert len({chunk[int(name)] for name in names}) == 1
    assert [task in groups for task in plan] == [bool(size) and shape is not None for shape in shapes]


def test_a_group_waits_for_the_members_that_can_still_become_ready() -> None:
    plan = [made_of(name=name, together="all") for name in "abcd"]
    groups = Groups(plan, 2)
    a, b, c, d = plan
    assert groups.next([a, c, d], [a, b, c, d]) == [c, d], "the first group waits for b"
    assert groups.next([a], [a, b]) == [a], "nothing else can be done"
    assert groups.next([c], [c]) == [c]
    groups.halve([c, d])
    assert groups.next([c, d], [c, d]) == [c]
