"""The pipeline: what its ledger keeps, when it checkpoints, and that stopped anywhere it ends as if left alone."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import src.runs.evaluations
import src.runs.member_work
import src.runs.plan
import src.runs.results
import src.runs.tasks
from src.advisor.store import AdviceStore
from src.advisor.table import empty_table
from src.advisor.table_file import save_table
from src.agent.checkpoints import CheckpointMismatch
from src.agent.clock import NoClock
from src.agent.ppo import TimedMaskablePPO
from src.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, InterruptedRun, UserError
from src.runs.kills import results_of
from src.runs.ledger import Ledger
from src.runs.member_work import OpenTraining
from src.runs.pipeline import TITLES
from src.runs.tasks import find_task, finish_task
from src.trading.vec_env import BatchedTradingVecEnv
from tests.advisor.fake_model import AMPLE_S, FakeModel
from tests.runs.pipeline_runs import (
    COMMAND,
    ROLLOUT,
    TIMESTEPS,
    TRAININGS,
    Pipelines,
    before,
    contents,
    copied_on_the_way,
    crash,
    differing,
    entry_of,
    in_step,
    member_of,
    pipelines_in,
    run_of,
    steps_of,
    terminate,
)

STOPS = (
    *(("base", boundary) for boundary in range(ROLLOUT, TIMESTEPS + 1, ROLLOUT)),
    ("rl_only", 3 * ROLLOUT),
    ("hybrid", ROLLOUT),
    ("hybrid", TIMESTEPS),
    ("hybrid_placebo", 2 * ROLLOUT),
)
"""Trainings, and boundaries between their rollouts."""


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipelines]:
    with pipelines_in(tmp_path_factory.mktemp("pipelines")) as made:
        yield made


@pytest.fixture(scope="module")
def copies(pipelines: Pipelines) -> list[Path]:
    """The home of the undisturbed pipeline as SIGKILL would have left it at some instants of its way."""
    return []


@pytest.fixture(scope="module")
def whole(pipelines: Pipelines, copies: list[Path]) -> Path:
    """The home of an undisturbed pipeline."""
    home = pipelines.new_home()
    with copied_on_the_way(pipelines, home, copies):
        ended = pipelines.run(home)
    assert ended.error is None, ended.why
    return home


# What the comparison sees


def rewrite_weights(home: Path) -> None:
    path = run_of(home) / "hybrid.zip"
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    state = torch.load(io.BytesIO(files["policy.pth"]), weights_only=True)
    next(iter(state.values())).view(-1)[0] += 1e-7
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in {**files, "policy.pth": buffer.getvalue()}.items():
            archive.writestr(name, raw)


def rewrite_adam(home: Path) -> None:
    path = member_of(home, "rl_only") / f"checkpoint-{TIMESTEPS:012d}/optimizer.safetensors"
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if name.startswith("exp_avg "))
    tensors[name] = np.nextafter(tensors[name], np.inf)
    save_file(tensors, path)


def rewrite_rows(home: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    path = run_of(home) / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rewrite_report(home: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = run_of(home) / "report.json"
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(report))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a weight": (rewrite_weights, "hybrid.zip policy.pth"),
    "a moment of Adam": (rewrite_adam, f"members/seed-0/rl_only/checkpoint-{TIMESTEPS:012d} optimizer.safetensors"),
    "a figure of a row": (
        lambda home: rewrite_rows(home, lambda rows: rows[5].update(mean_reward=rows[5]["mean_reward"] + 1e-12)),
        "metrics row 5",
    ),
    "a row too many": (lambda home: rewrite_rows(home, lambda rows: rows.append(rows[-1])), "metrics row 28"),
    "a row too few": (lambda home: rewrite_rows(home, lambda rows: rows.pop()), "metrics row 27"),
    "a figure of the evaluation": (
        lambda home: rewrite_report(home, lambda report: report["arms"]["hybrid"].update(net_usd=1e-9)),
        "report arms",
    ),
    "the hash of the advice": (
        lambda home: rewrite_report(home, lambda report: report["advice"].update(sha256="0")),
        "report advice",
    ),
    "timesteps of a phase": (
        lambda home: rewrite_report(home, lambda report: report["phases"]["phase2"]["timesteps"].update(more=1)),
        "report phases",
    ),
    "a reason for other bits": (
        lambda home: rewrite_report(home, lambda report: report["phases"]["phase2"]["not_bitwise"].append("x")),
        "report phases",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_comparison_of_two_runs_sees(pipelines: Pipelines, whole: Path, what: str) -> None:
    change, named = CHANGES[what]
    other = pipelines.new_home(whole)
    assert differing(whole, other) == []
    change(other)
    assert differing(whole, other) == [named]


def test_what_is_compared_is_not_trivial(whole: Path) -> None:
    names = results_of(whole).keys()
    for training in TRAININGS:
        for part in ("policy", "optimizer", "environment", "generators"):
            assert f"members/seed-0/{training}/checkpoint-{TIMESTEPS:012d} {part}.safetensors" in names
        quarters = f"members/seed-0/{training}/checkpoint-{TIMESTEPS:012d} quarters.safetensors"
        assert (quarters in names) == (training in ("base", "hybrid"))
    assert {
        "base.zip policy.pth",
        "hybrid.zip policy.pth",
        "report arms",
        "report validation_arms",
        "report fusion",
        "report still_learning",
    } <= names
    rows = [json.loads(line) for line in (run_of(whole) / "metrics.jsonl").read_text().splitlines()]
    assert [row["phase"] for row in rows] == [name for name in TRAININGS for _ in range(7)]
    assert len({row["mean_reward"] for row in rows}) > 10
    assert any("train/loss" in row for row in rows)


def test_another_seed_ends_otherwise(pipelines: Pipelines, whole: Path) -> None:
    other = pipelines.new_home()
    pipelines.run(other, {"test_mode.seed": 1})
    assert {"base.zip policy.pth", "hybrid.zip policy.pth", "report arms", "metrics row 0"} <= set(
        differing(whole, other)
    )


# The ledger


def test_the_ledger_says_what_each_task_needed_and_each_phase_took_and_used(whole: Path) -> None:
    report = json.loads((run_of(whole) / "report.json").read_text())
    ledger = Ledger.read(run_of(whole), tuple(TITLES))
    tasks = {name: of.inputs for name, of in ledger.tasks.items()}
    members = {training: f"members/seed-0/{training}" for training in TRAININGS}
    assert list(tasks) == [
        "tasks/look-ahead", "tasks/production", members["base"], "tasks/advice", *list(members.values())[1:],
        "tasks/seed-0/attempts", "tasks/seed-0/quarters", "tasks/seed-0/costs", "tasks/seed-0/reliance",
        "tasks/evaluation",
    ]  # fmt: skip
    assert {(of.status, of.tries, len(of.failures)) for of in ledger.tasks.values()} == {("done", 1, 0)}
    made = {name: json.loads((run_of(whole) / name / "task.json").read_text()) for name in tasks}
    assert {name: of["inputs"] for name, of in made.items()} == tasks
    assert tasks["tasks/look-ahead"]["bars"] == report["data"]["fingerprint"]
    assert tasks[members["base"]]["tables"] == tasks["tasks/look-ahead"]["tables"]
    assert tasks[members["base"]]["timesteps"] == str(TIMESTEPS)
    weights = {training: made[name]["facts"]["weights"] for training, name in members.items()}
    assert len({*weights.values(), ""}) == 5
    for training in ("rl_only", "hybrid", "hybrid_placebo"):
        assert tasks[members[training]]["base weights"] == weights["base"]
        assert tasks["tasks/evaluation"][f"weights of {members[training]}"] == weights[training]
    heard = [tasks[members[training]].get("advice table") for training in members]
    assert heard == [None, None, *2 * [report["advice"]["sha256"]]]
    data, base, hybrid = (entry_of(whole, phase) for phase in ("phase1", "phase2", "phase3"))
    assert (base.timesteps, hybrid.timesteps) == (
        {"base, seed 0": TIMESTEPS},
        {f"{training}, seed 0": TIMESTEPS for training in ("rl_only", "hybrid", "hybrid_placebo")},
    )
    for entry in (data, base, hybrid):
        assert (entry.status, entry.tries, entry.failures, entry.not_bitwise) == ("done", 1, [], [])
        assert entry.torch_threads == 1
        assert entry.seconds > 0
        assert entry.memory_before["ram_gb"] > 0.1
        assert entry.memory_after["ram_gb"] > 0.1
    assert base.seconds >= report["training"][0]["seconds"]
    assert sum(entry.seconds for entry in (data, base, hybrid)) < report["execution_time"]
    shown = report["phases"]["phase2"]
    assert (shown["status"], shown["timesteps"], shown["seconds"]) == ("done", base.timesteps, base.seconds)


def test_while_a_training_goes_on_the_ledger_says_how_far_it_has_come(pipelines: Pipelines) -> None:
    home = pipelines.new_home()
    with in_step("base", 2 * ROLLOUT + 8, crash):
        pipelines.run(home)
    entry = entry_of(home, "phase2")
    assert (entry.status, entry.timesteps) == ("running", {"base, seed 0": 2 * ROLLOUT})
    assert entry.seconds > 0
    assert [entry_of(home, name).status for name in ("phase1", "phase3")] == ["done", "pending"]


def test_a_complete_run_has_nothing_left_to_do(pipelines: Pipelines, whole: Path) -> None:
    was = contents(whole)
    ended = pipelines.resume(whole)
    assert ended.error is None
    assert "nothing is left to do" in ended.said
    assert "All required targets met." in ended.said
    assert ended.report == json.loads((run_of(whole) / "report.json").read_text())
    assert ended.folder == run_of(whole)
    assert contents(whole) == was


@pytest.mark.parametrize("phase", [2, 3])
def test_a_later_phase_without_a_run_says_what_is_missing(pipelines: Pipelines, phase: int) -> None:
    home = pipelines.new_home()
    ended = pipelines.run(home, start_phase=phase)
    assert isinstance(ended.error, UserError)
    assert ended.error.exit_code == EXIT_BAD_INPUT
    assert f"Phase {phase} needs what the phases before it make" in ended.why
    assert "--output-dir" in ended.why
    assert list(home.glob("logs/pipeline_*")) == []


def test_a_later_phase_on_one_that_is_not_finished_says_so(pipelines: Pipelines) -> None:
    home = pipelines.new_home()
    with in_step("base", 8, crash):
        pipelines.run(home)
    was = contents(home)
    ended = pipelines.run(home, start_phase=3)
    assert isinstance(ended.error, UserError)
    assert "Phase 3 needs phase 2, which is running" in ended.why
    assert "--start-phase 2" in ended.why
    assert contents(home) == was


def test_without_auto_advance_each_phase_waits_for_the_command(
    pipelines: Pipelines, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, stop = pipelines.new_home(), {"pipeline.auto_advance": False, "pipeline.pause_between_phases": 9.0}
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    first = pipelines.run(home, stop)
    assert first.error is None
    assert first.report["stopped_after"] == "phase1"
    assert first.report["validation_passed"] is True
    assert f"Resume with:\n{COMMAND}\n" in first.said
    second = pipelines.resume(home, stop)
    assert second.report["stopped_after"] == "phase2"
    assert "phase1 (data and environments) is done" in second.said
    assert pauses == [], "nothing follows that could wait"
    made = {name: raw for name, raw in contents(home).items() if "/base" in name or "/look-ahead/" in name}
    assert len(made) > 10
    third = pipelines.resume(home, stop)
    assert third.error is None
    assert "stopped_after" not in third.report
    assert made.items() <= contents(home).items()
    assert differing(whole, home) == []


def test_a_done_phase_whose_inputs_changed_is_done_again_and_says_which(pipelines: Pipelines, whole: Path) -> None:
    home, fresh, change = pipelines.new_home(whole), pipelines.new_home(), {"llm.llm_weight": 0.1}
    was = contents(home)
    ended = pipelines.resume(home, change)
    assert ended.error is None
    assert "hybrid is done again, because its inputs changed: llm.llm_weight was 0.5, is 0.1" in ended.said
    assert "rl_only is done again" not in ended.said, "it hears no advice"
    assert "phase2 (base training) is done" in ended.said
    pipelines.run(fresh, change)
    assert differing(fresh, home) == ["report statistics"], "which count the first try on these sessions, too"
    trials = [
        json.loads((run_of(place) / "report.json").read_text())["statistics"]["deflated_sharpe"]["hybrid"]["trials"]
        for place in (fresh, home)
    ]
    assert trials == [3, 6]
    assert {"hybrid.zip policy.pth", "report arms"} <= set(differing(whole, home))
    assert_nothing_is_lost(was, home)


def test_what_changes_base_training_has_everything_after_it_done_again(pipelines: Pipelines, whole: Path) -> None:
    home = pipelines.new_home(whole)
    was = contents(home)
    changes = {"training.gamma": 0.9, "pipeline.auto_advance": False}
    ended = pipelines.resume(home, changes)
    assert ended.report["stopped_after"] == "phase2"
    assert "phase1 (data and environments) is done" in ended.said
    assert "base is done again, because its inputs changed: training.gamma was 0.99, is 0.9" in ended.said
    assert (entry_of(home, "phase3").status, entry_of(home, "phase3").seconds) == ("pending", 0.0)
    assert_nothing_is_lost(was, home)
    assert not (run_of(home) / "report.json").exists(), "it is of other trainings"


def test_another_file_of_bars_has_a_complete_run_done_again(pipelines: Pipelines, whole: Path) -> None:
    home = pipelines.new_home(whole)
    was = contents(home)
    ended = pipelines.resume(home, {"data.path": str(pipelines.bars["other"]), "pipeline.auto_advance": False})
    assert ended.report["stopped_after"] == "phase1"
    assert "look-ahead is done again, because its inputs changed: bars was" in ended.said
    assert [entry_of(home, name).status for name in ("phase2", "phase3")] == ["pending", "pending"]
    assert_nothing_is_lost(was, home)


def test_the_same_bars_elsewhere_are_the_same_run(pipelines: Pipelines, whole: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.csv"
    shutil.copy(pipelines.bars["plain"], moved)
    assert "nothing is left to do" in pipelines.resume(whole, {"data.path": str(moved)}).said


def test_a_phase_begun_anew_on_purpose_sets_aside_what_was_there(pipelines: Pipelines, whole: Path) -> None:
    home = pipelines.new_home(whole)
    was = contents(home)
    for _ in range(2):
        ended = pipelines.run(home, {"pipeline.auto_advance": False}, start_phase=2)
        assert ended.error is None
    names = {str(path.relative_to(run_of(home))) for path in run_of(home).rglob("*")}
    base, hybrid = "members/seed-0/base", "members/seed-0/hybrid"
    assert {base, f"{base}.before-1", f"{base}.before-2", f"{hybrid}.before-1", "report.before-1.json"} <= names
    assert not {hybrid, "hybrid.zip", "report.json", "report.html"} & names
    assert_nothing_is_lost(was, home)
    assert pipelines.resume(home).error is None
    assert differing(whole, home) == []


def assert_nothing_is_lost(was: dict[str, bytes], home: Path) -> None:
    """Every result that was there is still there, under whatever name."""
    kept = set(contents(home).values())
    rows = f"{run_of(home).name}/metrics.jsonl"  # assembled from the members' own
    rewritten = ("ledger.json", "manifest.json", "config.yaml", "run.log", "trials.jsonl", rows)
    assert [name for name, raw in was.items() if raw not in kept and not name.endswith(rewritten)] == []


MINI = {"test_mode.market": "NQ"}
"""Another market with the same bars: these pipelines trade MNQ."""


def test_the_newest_run_of_the_market_is_gone_on_with(pipelines: Pipelines, whole: Path) -> None:
    home = pipelines.new_home(whole)
    older = run_of(home)
    with in_step("base", 8, crash):
        begun = pipelines.run(home)
    other_market = pipelines.resume(home, {**MINI, "pipeline.auto_advance": False})
    assert len({older, begun.folder, other_market.folder}) == 3, "there is no run of NQ: a new one begins"
    ended = pipelines.resume(home, {"pipeline.auto_advance": False})
    assert ended.folder == begun.folder


# When checkpoints are written


class _Store:
    def __init__(self, steps: list[int]) -> None:
        self._steps = steps

    def save(self, snapshot: Any, delete_older: bool) -> None:
        self._steps.append(snapshot.step)


@given(
    rollout=st.integers(1, 50),
    rollouts=st.integers(1, 30),
    every=st.integers(1, 400),
    restarts=st.sets(st.integers(1, 30)),
    strategy=st.sampled_from(["interval", "phase_based"]),
)
def test_a_checkpoint_comes_at_the_first_boundary_at_or_past_each_multiple(
    rollout: int, rollouts: int, every: int, restarts: set[int], strategy: str
) -> None:
    """Also where the process was begun anew at some boundaries, and so went on from a checkpoint there."""
    end = rollout * rollouts
    boundaries = range(rollout, end + 1, rollout)
    due = {end}
    if strategy == "interval":
        due |= {min(b for b in boundaries if b >= multiple) for multiple in range(every, end + 1, every)}
    expected = sorted(due | {rollout * number for number in restarts if number <= rollouts})
    assert _saved_steps(rollout, end, every, restarts, strategy) == expected


def _saved_steps(rollout: int, end: int, every: int, restarts: set[int], strategy: str) -> list[int]:
    saved: list[int] = []
    settings = SimpleNamespace(enabled=True, interval_steps=every, strategy=strategy)
    config, plan = SimpleNamespace(checkpoint=settings), SimpleNamespace(actual=end)
    job: Any = SimpleNamespace(config=config, plan=plan, part=plan, keeps_quarters=False)
    model: Any = SimpleNamespace(num_timesteps=0, checkpoint_s=0.0, clock=NoClock())
    rows: Any = SimpleNamespace(path=None, offset=0)
    store: Any = _Store(saved)
    watch: Any = SimpleNamespace(ends=False, saved=lambda timesteps: None)
    watch.check = lambda save: save() if watch.ends else None

    def boundary_of_a_new_process() -> Callable[[], None]:
        training = OpenTraining(job, model, [], watch)
        training._rows = rows
        return training.rollout_ended

    with pytest.MonkeyPatch.context() as patch:
        captured = SimpleNamespace(state=0, tensors={})
        patch.setattr("src.runs.member_work._store", lambda job, together: store)
        patch.setattr("src.runs.member_work.capture", lambda model, _: captured)
        patch.setattr("src.runs.member_work.read_regular", lambda path: b"{}")
        patch.setattr("src.runs.member_work.replace", lambda _, **changes: SimpleNamespace(step=model.num_timesteps))
        boundary = boundary_of_a_new_process()
        for number in itertools.count(1):
            model.num_timesteps += rollout
            watch.ends = number in restarts
            boundary()
            if watch.ends:
                boundary = boundary_of_a_new_process()
            if model.num_timesteps == end:
                return saved
    raise AssertionError


CHECKPOINTING = {
    "more than a rollout apart": ({"interval_steps": ROLLOUT + 8, "keep_last": 9}, [64, 96, 128]),
    "the last few": ({"interval_steps": 1, "keep_last": 2}, [96, 128]),
    "at the end only": ({"strategy": "phase_based"}, [128]),
    "none": ({"enabled": False}, []),
}


@pytest.mark.parametrize("how", CHECKPOINTING)
def test_checkpoints_are_written_as_configured_and_disturb_nothing(pipelines: Pipelines, whole: Path, how: str) -> None:
    settings, steps = CHECKPOINTING[how]
    home = pipelines.new_home()
    ended = pipelines.run(home, {f"checkpoint.{key}": value for key, value in settings.items()})
    assert ended.error is None
    for training in TRAININGS:
        assert steps_of(home, training) == steps
    assert [name for name in differing(whole, home) if steps or "checkpoint-" not in name] == []
    if not steps:
        assert list(home.rglob("checkpoint-*")) == []


# Stopped, killed and gone on with


def test_stopped_at_any_boundary_it_ends_as_if_left_alone(pipelines: Pipelines, whole: Path) -> None:
    """Eight stops, each in a step of a rollout, where no checkpoint would be due; by another route every time."""
    home = pipelines.new_home()
    routes = itertools.cycle(["dummy", "batched"])
    ended = None
    for training, boundary in STOPS:
        changes = {"hardware.vec_env": next(routes), "checkpoint.interval_steps": 1000}
        with in_step(training, boundary - 12, terminate):
            ended = pipelines.run(home, changes) if ended is None else pipelines.resume(home, changes)
        assert isinstance(ended.error, InterruptedRun), ended.why
        assert ended.error.exit_code == EXIT_INTERRUPTED
        assert ended.why.endswith(f"Resume with:\n{COMMAND}")
        assert str(ended.folder) in ended.why
        assert entry_of(home, TRAININGS[training]).status == "interrupted"
        assert steps_of(home, training)[-1] == boundary
    ended = pipelines.resume(home, {"hardware.vec_env": "batched"})
    assert ended.error is None
    assert [entry_of(home, name).tries for name in ("phase1", "phase2", "phase3")] == [1, 5, 5]
    assert differing(whole, home) == []
    assert json.loads((run_of(home) / "report.json").read_text())["phases"]["phase2"]["not_bitwise"] == []


CRASHES: list[tuple[str, Callable[[], Any]]] = [
    ("the look-ahead check", lambda: before(src.runs.plan, "leak_facts", crash)),
    ("the estimate for production", lambda: before(src.runs.plan, "try_production", crash)),
    ("a step of the accounts", lambda: before(BatchedTradingVecEnv, "step_wait", crash, nth=3)),
    ("an update", lambda: before(TimedMaskablePPO, "_update", crash, nth=2)),
    ("a step", lambda: in_step("base", 100, crash)),
    ("the export of base weights", lambda: before(src.runs.member_work, "export_base", crash)),
    ("asking for advice", lambda: before(src.runs.plan, "tabulate_advice", crash)),
    ("the first step of a fine-tuning", lambda: in_step("rl_only", 4, crash)),
    ("the last step of a fine-tuning", lambda: in_step("rl_only", TIMESTEPS, crash)),
    ("a rollout of the ramp", lambda: in_step("hybrid", 40, crash)),
    ("a step of the placebo", lambda: in_step("hybrid_placebo", 40, crash)),
    ("the export of hybrid weights", lambda: before(src.runs.member_work, "export_hybrid", crash)),
    ("a file that says that a task is done", lambda: before(src.runs.tasks, "write_json", crash)),
    ("the costs", lambda: before(src.runs.evaluations, "stress_costs", crash)),
    ("the evaluation", lambda: before(src.runs.evaluations, "placebo_facts", crash)),
    ("the report", lambda: before(src.runs.results, "complete_report", crash)),
    ("the page", lambda: before(src.runs.results, "write_page", crash)),
]


def test_crashed_in_every_kind_of_work_it_ends_as_if_left_alone(pipelines: Pipelines, whole: Path) -> None:
    home = pipelines.new_home()
    for number, (where, struck) in enumerate(CRASHES):
        with struck():
            ended = pipelines.run(home, auto_resume=number > 0)
        assert isinstance(ended.error, SystemExit), where
    assert [entry_of(home, phase).status for phase in ("phase1", "phase2", "phase3")] == ["done", "done", "done"]
    ended = pipelines.resume(home)
    assert ended.error is None
    assert differing(whole, home) == []


def test_killed_before_any_write_it_ends_as_if_left_alone(
    pipelines: Pipelines, whole: Path, copies: list[Path]
) -> None:
    assert len(copies) >= 8
    assert any(list(copy.rglob(".checkpoint-*.partial")) for copy in copies), "one in the middle of a checkpoint"
    for copy in copies:
        ended = pipelines.resume(copy)
        assert ended.error is None, ended.why
        assert differing(whole, copy) == [], f"killed as {copy.name}"


def test_without_checkpoints_a_killed_training_begins_again_and_the_finished_ones_are_kept(
    pipelines: Pipelines, whole: Path
) -> None:
    home, off = pipelines.new_home(), {"checkpoint.enabled": False}
    with in_step("hybrid", 100, crash):
        pipelines.run(home, off)
    was = contents(home)
    ended = pipelines.resume(home, off)
    assert ended.error is None
    assert "resuming from" not in ended.said
    kept = {name: raw for name, raw in was.items() if "/seed-0/base/" in name or "/seed-0/rl_only/" in name}
    assert len(kept) == 7 + 6  # of the base the weights at its quarters too
    assert kept.items() <= contents(home).items()
    assert [name for name in differing(whole, home) if "checkpoint-" not in name] == []


def test_stopped_or_crashed_while_it_asks_the_model_it_asks_for_the_rest(
    pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.runs.context.make_advisor", lambda _: FakeModel())
    monkeypatch.setattr("src.runs.context.try_advisor", lambda *_, **__: None)  # not the trial
    left_alone, home, ample = pipelines.new_home(), pipelines.new_home(), {"llm.tabulation_budget_s": AMPLE_S}
    pipelines.run(left_alone, ample)
    of_the_run = lambda store, *_, **__: store.path == home / "advice.sqlite3"  # noqa: E731  (the leak check has its own)
    with before(AdviceStore, "put", terminate, nth=5, when=of_the_run):
        ended = pipelines.run(home, ample)
    assert isinstance(ended.error, InterruptedRun)
    assert entry_of(home, "phase3").status == "interrupted"
    with before(AdviceStore, "put", crash, nth=3):
        assert isinstance(pipelines.resume(home, ample).error, SystemExit)
    with in_step("hybrid", 8, crash):
        pipelines.resume(home, ample)
    asked = json.loads((run_of(home) / "tasks/advice/task.json").read_text())["facts"]["asking"]
    assert (asked["from_store"], asked["asked_now"] + asked["from_store"]) == (7 * 16, asked["listed"])
    (home / "advice.sqlite3").unlink()
    monkeypatch.setattr(FakeModel, "load", None)  # the table itself was kept: nobody is asked again
    assert pipelines.resume(home, ample).error is None
    assert differing(left_alone, home) == []


@pytest.mark.slow
def test_by_worker_processes_too(pipelines: Pipelines) -> None:
    workers = {"hardware.vec_env": "subproc", "hardware.vectorized_envs": 2, "training.timesteps": 64}
    left_alone, home = pipelines.new_home(), pipelines.new_home()
    pipelines.run(left_alone, {**workers, "hardware.vec_env": "batched"})
    for training in ("base", "hybrid"):
        with in_step(training, 20, terminate):
            ended = pipelines.run(home, workers, auto_resume=training == "hybrid")
        assert isinstance(ended.error, InterruptedRun), ended.why
    assert pipelines.resume(home, workers).error is None
    assert differing(left_alone, home) == ["report run"], "the route has its name there"


@pytest.mark.slow
def test_tensorboard_shows_a_run_that_was_killed_as_one_left_alone(pipelines: Pipelines) -> None:
    """Records come every 24 timesteps: at the third boundary, and between the others."""

    def scalars(home: Path, training: str) -> dict[str, list[tuple[int, float]]]:
        events = EventAccumulator(str(run_of(home) / "tensorboard/seed-0" / training)).Reload()
        tags = [tag for tag in events.Tags()["scalars"] if tag != "run/steps_per_s"]
        return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}

    shown = {"monitoring.tensorboard": True, "monitoring.log_interval": 6}
    left_alone, home = pipelines.new_home(), pipelines.new_home()
    pipelines.run(left_alone, shown)
    with in_step("base", 28, crash):
        pipelines.run(home, shown)
    for training, timestep in (("base", 44), ("base", 92), ("rl_only", 60), ("hybrid", 92)):
        with in_step(training, timestep, terminate):
            pipelines.resume(home, shown)
    assert pipelines.resume(home, shown).error is None
    for training in TRAININGS:
        expected = scalars(left_alone, training)
        assert [step for step, _ in expected["run/mean_reward"]] == [24, 48, 72, 96, 120, 128]
        assert scalars(home, training) == expected


# What is there and cannot be gone on with


@pytest.fixture(scope="module")
def crashed(pipelines: Pipelines) -> Path:
    """The home of a pipeline that crashed in base training, behind three checkpoints."""
    home = pipelines.new_home()
    with in_step("base", TIMESTEPS - 8, crash):
        pipelines.run(home)
    assert steps_of(home, "base") == [32, 64, 96]
    return home


REFUSED = {
    "configuration": (
        {"training.learning_rate": 0.5},
        r"training.learning_rate was 0\.001, is 0\.5",
        "--start-phase 2",
    ),
    "seed": ({"test_mode.seed": 7}, "test_mode.seed was 0, is 7", "--start-phase 2"),
    "accounts": ({"hardware.vectorized_envs": 8, "training.n_steps": 4}, "vectorized_envs was 4, is 8", "options"),
    "length": ({"phase2.total_timesteps": 320}, "timesteps was 128, is 320", "--start-phase 2"),
    "environment": ({"environment.contracts": 2}, "environment.contracts was 1, is 2", "--start-phase 2"),
    "data": ({"data.path": "other"}, r"tables was [0-9a-f]{64}, is [0-9a-f]{64}", "--start-phase 2"),
    "split": ({"data.train_frac": 0.5}, r"tables was [0-9a-f]{64}, is [0-9a-f]{64}", "--start-phase 2"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_training_under_way_is_not_gone_on_with_under_another(pipelines: Pipelines, crashed: Path, what: str) -> None:
    changes, named, remedy = REFUSED[what]
    changes = {key: str(pipelines.bars["other"]) if value == "other" else value for key, value in changes.items()}
    was = contents(crashed)
    ended = pipelines.resume(crashed, changes)
    assert isinstance(ended.error, CheckpointMismatch), ended.why
    assert ended.error.exit_code == EXIT_BAD_INPUT
    assert ended.report == {}
    assert " was started with other inputs: " in ended.why
    assert str(run_of(crashed)) in ended.why
    assert remedy in ended.why
    with pytest.raises(CheckpointMismatch, match=named):
        raise ended.error
    assert contents(crashed) == was, "what it was begun with still stands in its config.yaml"


def test_what_changes_no_result_may_change_while_a_training_is_under_way(
    pipelines: Pipelines, crashed: Path, whole: Path
) -> None:
    home = pipelines.new_home(crashed)
    ended = pipelines.resume(
        home,
        {
            "checkpoint.interval_steps": 1000,
            "checkpoint.keep_last": 1,
            "phase2.timeout": 1e6,
            "hardware.vec_env": "dummy",
            "hardware.memory_fraction": 0.5,
            "llm.cache_size": 12_345,
            "validation.required": ["peak_memory"],
        },
    )
    assert ended.error is None
    assert steps_of(home, "base") == [128]
    assert set(differing(whole, home)) <= {"report run", "report cache"}, "route and size are named there"


def test_a_checkpoint_of_another_market_is_refused(pipelines: Pipelines, crashed: Path) -> None:
    home = pipelines.new_home()
    with in_step("base", 8, crash):
        pipelines.run(home, MINI)
    shutil.rmtree(member_of(home, "base"), ignore_errors=True)
    shutil.copytree(member_of(crashed, "base"), member_of(home, "base"))
    ended = pipelines.resume(home, MINI)
    assert isinstance(ended.error, CheckpointMismatch)
    assert "tables was" in ended.why
    assert entry_of(home, "phase2").status == "failed"


FILES = ("manifest.json", "state.json", *(f"{part}.safetensors" for part in ("policy", "optimizer", "environment")))


def damage(path: Path, how: str) -> None:
    raw = path.read_bytes()
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(raw[: len(raw) // 2] + (b"" if how == "truncated" else bytes([raw[len(raw) // 2] ^ 1])))
        if how == "flipped":
            path.write_bytes(path.read_bytes() + raw[len(raw) // 2 + 1 :])


@pytest.fixture(scope="module")
def base_of_whole(whole: Path) -> dict[str, bytes]:
    return base_results(whole)


def base_results(home: Path) -> dict[str, bytes]:
    """Everything base training made but times: tensors of its last checkpoint, and its rows."""
    run = run_of(home)
    parts = (member_of(home, "base") / f"checkpoint-{TIMESTEPS:012d}").glob("*.safetensors")
    found = {path.name: path.read_bytes() for path in parts if path.name != "log.safetensors"}
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = [{**json.loads(line), "steps_per_s": 0} for line in lines]
    found["rows"] = json.dumps([row for row in rows if row["phase"] == "base"]).encode()
    assert len(found) == 6
    return found


def test_a_fine_tuning_under_other_advice_is_refused(pipelines: Pipelines) -> None:
    """A table and a ledger that fit each other, and checkpoints made with another."""
    home = pipelines.new_home()
    with in_step("hybrid", 60, crash):
        pipelines.run(home)
    folder = run_of(home) / "tasks/advice"
    found = find_task(folder)
    assert found.done is not None
    save_table(empty_table(), folder / "advice.safetensors")
    facts = {**found.done.facts, "sha256": empty_table().sha256}
    finish_task(folder, found.inputs, facts, ["advice.safetensors"])
    ended = pipelines.resume(home)
    assert isinstance(ended.error, CheckpointMismatch)
    assert "hybrid" in ended.why
    assert f"is {empty_table().sha256}" in ended.why


@pytest.mark.parametrize(
    ("file", "how"), [*zip(FILES, ["removed", "truncated", "flipped", "truncated", "removed"], strict=True)]
)
def test_with_a_damaged_newest_checkpoint_the_one_before_is_taken(
    pipelines: Pipelines, crashed: Path, base_of_whole: dict[str, bytes], file: str, how: str
) -> None:
    home = pipelines.new_home(crashed)
    damage(member_of(home, "base") / f"checkpoint-{96:012d}/{file}", how)
    ended = pipelines.resume(home, {"pipeline.auto_advance": False})
    assert ended.error is None
    assert f"checkpoint-{96:012d} was skipped: {file}" in ended.said
    assert "resuming from 64" in ended.said
    assert base_results(home) == base_of_whole


def test_with_all_checkpoints_damaged_the_training_begins_anew(
    pipelines: Pipelines, crashed: Path, base_of_whole: dict[str, bytes]
) -> None:
    home = pipelines.new_home(crashed)
    for checkpoint in member_of(home, "base").glob("checkpoint-*"):
        damage(checkpoint / "policy.safetensors", "flipped")
    ended = pipelines.resume(home, {"pipeline.auto_advance": False})
    assert ended.said.count("was skipped") == 3
    assert "resuming from" not in ended.said
    assert base_results(home) == base_of_whole


@pytest.mark.parametrize("lost", ["damaged", "deleted"])
def test_where_the_end_of_a_finished_training_is_lost_it_is_trained_again(
    pipelines: Pipelines, whole: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """And not what is left of it taken for its end: an earlier checkpoint is there and intact."""
    home = pipelines.new_home()
    with in_step("hybrid", 60, crash):
        pipelines.run(home)
    for training in ("base", "rl_only"):
        folder = member_of(home, training)
        if lost == "damaged":
            damage(folder / f"checkpoint-{TIMESTEPS:012d}/policy.safetensors", "flipped")
            damage(folder / "weights.safetensors", "flipped")
        else:
            shutil.rmtree(folder)
    monkeypatch.setattr(src.runs.plan, "try_production", None)  # what was measured is not measured again
    ended = pipelines.resume(home)
    assert ended.error is None
    for training in ("base", "rl_only"):
        assert (f"{training} is done again where it was lost: weights.safetensors" in ended.said) == (lost == "damaged")
    assert ended.said.count("resuming from 96") == (2 if lost == "damaged" else 0)
    assert differing(whole, home) == []


@pytest.mark.parametrize("lost", ["all", "the last bytes", "a figure"])
def test_lost_rows_of_the_log_are_made_again_from_the_checkpoints(
    pipelines: Pipelines, crashed: Path, base_of_whole: dict[str, bytes], lost: str
) -> None:
    home = pipelines.new_home(crashed)
    for log in (run_of(home) / "metrics.jsonl", member_of(home, "base") / "metrics.jsonl"):
        raw = log.read_bytes() if log.exists() else b""
        if lost == "all":
            log.unlink(missing_ok=True)
        else:
            log.write_bytes(raw[:300] if lost == "the last bytes" else raw.replace(b"1", b"2", 1))
    ended = pipelines.resume(home, {"pipeline.auto_advance": False})
    assert ended.error is None
    assert base_results(home) == base_of_whole


def test_a_damaged_table_of_advice_is_made_again(pipelines: Pipelines, whole: Path) -> None:
    home = pipelines.new_home()
    with in_step("hybrid", 60, crash):
        pipelines.run(home)
    damage(run_of(home) / "tasks/advice/advice.safetensors", "flipped")
    ended = pipelines.resume(home)
    assert ended.error is None
    assert "advice is done again where it was lost: advice.safetensors: changed" in ended.said
    assert differing(whole, home) == []


def test_threads_are_kept_and_another_number_is_told(
    pipelines: Pipelines, crashed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = pipelines.new_home(crashed)
    monkeypatch.setattr("src.runs.resources.set_threads", lambda _: 7)
    free = {"hardware.torch_threads": None, "pipeline.auto_advance": False}
    ended = pipelines.resume(home, free)
    assert ended.error is None
    assert entry_of(home, "phase2").torch_threads == 1, "that of the process before"
    assert entry_of(home, "phase2").not_bitwise == []
    home = pipelines.new_home(crashed)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # a second thread on a busy machine costs minutes
    with in_step("base", TIMESTEPS, crash):
        pipelines.resume(home, {"hardware.torch_threads": 2})
    assert pipelines.resume(home, {"hardware.torch_threads": 2, "pipeline.auto_advance": False}).error is None
    assert entry_of(home, "phase2").not_bitwise == ["torch_threads was 1, is 2"]
