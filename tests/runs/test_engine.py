"""The engine: the same bits with any number of workers, whatever dies or stops; and nothing done again without need."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.runs.engine import Engine
from src.runs.ledger import Ledger
from src.runs.pipeline import TITLES
from src.runs.shared_object import Mapped, SharedObject
from src.runs.tasks import TASK_NAME, find_task, finish_task
from tests.runs.pipeline_runs import (
    ROLLOUT,
    Pipelines,
    contents,
    crash,
    differing,
    in_step,
    member_of,
    pipelines_in,
    run_of,
)

ROOT = Path(__file__).resolve().parents[2]
TWO_SEEDS = {"evidence.seeds": 2, "training.timesteps": 2 * ROLLOUT}
MODES = ("pipeline", "hardware_maximized")


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipelines]:
    with pipelines_in(tmp_path_factory.mktemp("engine")) as made:
        yield made


@pytest.fixture(scope="module")
def whole(pipelines: Pipelines) -> dict[str, Path]:
    """By mode, the home of an undisturbed run of two seeds, done in this process."""
    homes = {mode: pipelines.new_home() for mode in MODES}
    for mode, home in homes.items():
        ended = pipelines.run(home, {**TWO_SEEDS, "test_mode.mode": mode, "hardware.workers": 1})
        assert ended.error is None, ended.why
    return homes


# Any number of workers


@pytest.mark.parametrize(("mode", "numbers"), [("pipeline", [2]), ("hardware_maximized", [4])])
def test_two_and_four_workers_leave_the_bits_of_one(
    pipelines: Pipelines, whole: dict[str, Path], mode: str, numbers: list[int]
) -> None:
    for workers in numbers:
        home = pipelines.new_home()
        ended = pipelines.run(home, {**TWO_SEEDS, "test_mode.mode": mode, "hardware.workers": workers})
        assert ended.error is None, ended.why
        assert f"up to {workers} tasks at a time, each in a process of its own" in ended.said
        assert ended.report["run"]["workers"] == workers
        run = ended.report["time"]["run"]
        assert run["slots"] == workers
        assert abs(run["unaccounted_s"]) <= 0.03 * run["slot_s"]
        assert differing(whole[mode], home) == []


@contextmanager
def struck(**blows: tuple[int, signal.Signals]) -> Iterator[dict[str, int]]:
    """Send each training's worker a signal once it has saved so many timesteps, once; the numbers of the processes."""
    hit: dict[str, int] = {}
    whole = Engine._saved

    def saved(self: Engine, task: Any, entry: Any, timesteps: int) -> None:
        training = str(task.member.training)
        at, signum = blows.get(training, (10**9, signal.SIGKILL))
        if timesteps >= at and training not in hit:
            assert self._cores is not None
            hit[training] = self._cores._workers[task.name].process.pid
            os.kill(hit[training], signum)
        whole(self, task, entry, timesteps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_saved", saved)
        yield hit
    assert hit.keys() == blows.keys()


def test_a_killed_and_a_stopped_worker_are_named_and_tried_again_and_cost_the_others_nothing(
    pipelines: Pipelines,
) -> None:
    """A training of a second or two, so that the signals meet it on its way."""
    long = {"training.timesteps": 32 * ROLLOUT, "hardware.stuck_worker_s": 3.0, "validation.required": []}
    left_alone, home = pipelines.new_home(), pipelines.new_home()
    assert pipelines.run(left_alone, {**long, "hardware.workers": 1}).error is None
    with struck(rl_only=(2 * ROLLOUT, signal.SIGKILL), hybrid=(2 * ROLLOUT, signal.SIGSTOP)) as hit:
        ended = pipelines.run(home, {**long, "hardware.workers": 2})
    assert ended.error is None, ended.why
    assert differing(left_alone, home) == []
    ledger = Ledger.read(run_of(home), tuple(TITLES))
    (killed,) = ledger.tasks["members/seed-0/rl_only"].failures
    assert killed.startswith(f"WorkerDied: The worker of rl_only (process {hit['rl_only']}) ended by signal SIGKILL")
    (stopped,) = ledger.tasks["members/seed-0/hybrid"].failures
    assert stopped.startswith(f"StuckWorkerError: The worker of hybrid (process {hit['hybrid']}) has told nothing for ")
    assert "it is stopped (as by SIGSTOP or Ctrl-Z)" in stopped
    assert "raise hardware.stuck_worker_s (3)" in stopped
    assert "Its Python stack:" in stopped
    for training in ("rl_only", "hybrid"):
        assert f"{training} failed (The worker of {training}" in ended.said
        assert f"{training}, seed 0: resuming from " in ended.said
    assert ended.said.count("resuming from") == 2
    tries = {name.rpartition("/")[2]: of.tries for name, of in ledger.tasks.items()}
    assert {name: n for name, n in tries.items() if n != 1} == {"rl_only": 2, "hybrid": 2}
    assert [name.split(":")[0] for name in ledger.phases["phase3"].failures] == ["rl_only", "hybrid"]
    assert not any(map(alive, hit.values()))


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not asked for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


_RUN = """
import json, sys
from pathlib import Path
from tests.runs.pipeline_runs import Pipelines
if __name__ == "__main__":
    bars, home, changes = sys.argv[1:]
    pipelines = Pipelines.__new__(Pipelines)
    pipelines.bars = {"plain": Path(bars)}
    pipelines.run(Path(home), json.loads(changes))
"""


def test_killed_with_two_workers_and_resumed_with_one_then_four(pipelines: Pipelines, whole: dict[str, Path]) -> None:
    mode = "hardware_maximized"  # the pipeline's own tests stop and kill it
    home, changes = pipelines.new_home(), {**TWO_SEEDS, "test_mode.mode": mode}
    command = [sys.executable, "-c", _RUN, str(pipelines.bars["plain"]), str(home)]
    with subprocess.Popen(
        [*command, json.dumps({**changes, "hardware.workers": 2})], cwd=ROOT, stderr=subprocess.DEVNULL
    ) as run:
        until = time.monotonic() + 120
        while not list(home.glob("logs/*/members/seed-0/rl_only/checkpoint-*")) and time.monotonic() < until:
            time.sleep(0.005)
        run.kill()
    assert run.returncode == -signal.SIGKILL, "it ended before"
    assert not list(home.glob("logs/*/report.json"))
    with in_step("hybrid_placebo", ROLLOUT + 8, crash):
        ended = pipelines.resume(home, {**changes, "hardware.workers": 1})
    assert isinstance(ended.error, SystemExit), ended.why
    ended = pipelines.resume(home, {**changes, "hardware.workers": 4})
    assert ended.error is None, ended.why
    assert differing(whole[mode], home) == []


# What is done again


def trained_of(home: Path) -> dict[str, bytes]:
    """The files of every member."""
    return {name: raw for name, raw in contents(home).items() if "/members/" in name}


REDONE: dict[str, tuple[Mapping[str, Any], str, str, list[str]]] = {
    "attempts": ({"evidence.pass_attempts": 250}, "attempts", "seed-0/attempts", ["report pass_simulation"]),
    "costs": ({"evidence.stress_slippage_ticks": [0, 1]}, "costs, seed 1", "seed-1/costs", ["report statistics"]),
}


@pytest.mark.parametrize("what", REDONE)
def test_another_setting_of_the_evaluation_does_its_task_again_and_trains_nothing(
    pipelines: Pipelines, whole: dict[str, Path], what: str
) -> None:
    change, title, folder, differ = REDONE[what]
    home = pipelines.new_home(whole["pipeline"])
    (key,) = change
    members, report = trained_of(home), (run_of(home) / "report.json").read_bytes()
    ended = pipelines.resume(home, {**TWO_SEEDS, **change})
    assert ended.error is None, ended.why
    assert f"is done again, because its inputs changed: {key} was " in ended.said
    assert title.split(",")[0] in ended.said
    assert trained_of(home) == members
    tasks = run_of(home) / "tasks"
    assert find_task(tasks / f"{folder}.before-1").done is not None
    assert find_task(tasks / folder).inputs[key] == json.dumps(change[key])
    aside = {path.name.partition(".")[0] for path in tasks.rglob("*.before-*")}
    assert aside == {folder.partition("/")[2]}
    assert (run_of(home) / "report.before-1.json").read_bytes() == report
    assert differing(whole["pipeline"], home) == differ


def test_another_fusion_does_only_the_evaluation_again(pipelines: Pipelines, whole: dict[str, Path]) -> None:
    home, fresh = pipelines.new_home(whole["pipeline"]), pipelines.new_home()
    change = {**TWO_SEEDS, "fusion.confidence_threshold": 0.05}
    members = trained_of(home)
    assert pipelines.resume(home, change).error is None
    assert trained_of(home) == members
    assert [path.name for path in run_of(home).rglob("*.before-1")] == ["evaluation.before-1"]
    assert {"report arms", "report fusion"} <= set(differing(whole["pipeline"], home))
    pipelines.run(fresh, change)
    assert differing(fresh, home) == ["report statistics"], "which count the first try on these sessions, too"


def test_more_seeds_train_only_the_new_one(pipelines: Pipelines, whole: dict[str, Path]) -> None:
    home = pipelines.new_home()
    assert pipelines.run(home, {**TWO_SEEDS, "evidence.seeds": 1}).error is None
    members = trained_of(home)
    ended = pipelines.resume(home, TWO_SEEDS)
    assert ended.error is None, ended.why
    assert members.items() <= trained_of(home).items()
    assert [path.name for path in run_of(home).rglob("*.before-1")] == ["evaluation.before-1"]
    assert member_of(home, "hybrid", seed=1).is_dir()
    assert differing(whole["pipeline"], home) == []


def test_rule_profiles_added_to_a_finished_run_train_nothing(pipelines: Pipelines, whole: dict[str, Path]) -> None:
    home = pipelines.new_home(whole["pipeline"])
    members = trained_of(home)
    ended = pipelines.resume(home, {**TWO_SEEDS, "evidence.rules": ["topstep_50k_2026_11", "none"]})
    assert ended.error is None, ended.why
    assert trained_of(home) == members
    assert not list((run_of(home) / "tasks").rglob("*.before-1")), "no other task is done again"
    rows = json.loads((run_of(home) / "report.json").read_text())["survival"]["rows"]
    assert [row["profile"] for row in rows] == ["topstep_50k_2026_11", "none"]
    assert [row["reason"].split()[-1] for row in rows] == ["10)", "pass"], "too few sealed sessions, and no target"


def test_another_first_seed_does_not_begin_in_a_run_under_way(pipelines: Pipelines) -> None:
    home = pipelines.new_home()
    with in_step("rl_only", 8, crash):
        pipelines.run(home)
    was = contents(home)
    ended = pipelines.resume(home, {"test_mode.seed": 5})
    assert "members/seed-0/rl_only of " in ended.why
    assert "test_mode.seed was 0, is 5" in ended.why
    assert "--start-phase 2" in ended.why
    assert contents(home) == was


def test_a_training_under_way_is_refused_only_where_it_builds_on_what_changed(pipelines: Pipelines) -> None:
    home = pipelines.new_home()
    with in_step("rl_only", 40, crash):
        pipelines.run(home)
    was = contents(home)
    refused = pipelines.resume(home, {"training.gamma": 0.9})
    assert "rl_only of " in refused.why
    assert "--start-phase 2" in refused.why, "from where it changed"
    assert contents(home) == was
    ended = pipelines.resume(home, {"llm.use_opinion_features": False, "training.production_timesteps": 10**6})
    assert ended.error is None, ended.why
    assert "rl_only, seed 0: resuming from 32" in ended.said


# Tasks

names = st.sampled_from(["weights.safetensors", "base.zip", "rows.jsonl"])
files = st.dictionaries(names, st.binary(min_size=1, max_size=40), min_size=1)
inputs = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)
texts = st.text(st.characters(codec="utf-8"), max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
facts = st.dictionaries(texts, values, max_size=3)


def finished(folder: Path, made: Mapping[str, bytes], inputs: Mapping[str, str], facts: Mapping[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    for name, raw in made.items():
        (folder / name).write_bytes(raw)
    finish_task(folder, inputs, facts, list(made))


@given(files, inputs, facts)
def test_a_finished_task_is_found_with_its_inputs_and_facts(
    tmp_path_factory: pytest.TempPathFactory, made: dict[str, bytes], inputs: dict[str, str], facts: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("task")
    finished(folder, made, inputs, facts)
    found = find_task(folder)
    assert (found.inputs, found.why_not) == (inputs, "")
    assert found.done is not None
    assert (found.done.folder, found.done.facts) == (folder, facts)


@given(files, facts, st.data())
def test_a_task_with_any_file_changed_cut_lengthened_or_removed_is_not_done(
    tmp_path_factory: pytest.TempPathFactory, made: dict[str, bytes], facts: dict[str, Any], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("task")
    finished(folder, made, {"bars": "x"}, facts)
    name = data.draw(st.sampled_from([*sorted(made), TASK_NAME]))
    raw = (folder / name).read_bytes()
    how = data.draw(st.sampled_from(["changed", "cut", "lengthened", "removed", "a folder", "a link"]))
    at = data.draw(st.integers(0, len(raw) - 1))
    (folder / name).unlink()
    if how == "changed":
        changed = (
            raw[:at] + bytes([data.draw(st.integers(0, 255).filter(lambda byte: byte != raw[at]))]) + raw[at + 1 :]
        )
        (folder / name).write_bytes(changed)
    elif how == "cut":
        (folder / name).write_bytes(raw[:at])
    elif how == "lengthened":
        (folder / name).write_bytes(raw + data.draw(st.binary(min_size=1, max_size=3)))
    elif how == "a folder":
        (folder / name).mkdir()
    elif how == "a link":
        (folder / f"{name}.kept").write_bytes(raw)
        (folder / name).symlink_to(folder / f"{name}.kept")
    found = find_task(folder)
    if found.done is not None:  # spaces of JSON say nothing
        assert name == TASK_NAME
        assert how in ("changed", "cut", "lengthened")
        assert json.loads((folder / name).read_bytes()) == json.loads(raw)
        return
    if (name, how) == (TASK_NAME, "removed"):
        assert (found.inputs, found.why_not) == ({}, ""), "as if it had never been finished"
    else:
        assert name in found.why_not


def test_a_task_of_another_format_or_with_a_fact_changed_by_hand_is_not_done(tmp_path: Path) -> None:
    finished(tmp_path, {"a": b"a"}, {}, {"weights": "x"})
    path = tmp_path / TASK_NAME
    text = path.read_text()
    path.write_text(text.replace('"format": 1', '"format": 2'))
    assert "has format 2, which this version does not read" in find_task(tmp_path).why_not
    path.write_text(text.replace('"weights": "x"', '"weights": "y"'))
    assert "was changed: its content differs from its own SHA-256" in find_task(tmp_path).why_not


# Objects that workers map


def shared(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    arrays = {
        "many": rng.integers(0, 256, 4_000_000, dtype=np.uint8),
        "table": rng.normal(size=(7, 3)),
        "fortran": np.asfortranarray(rng.normal(size=(5, 4))),
        "strided": rng.integers(0, 9, 20)[::3],
        "empty": np.zeros((0, 3)),
    }
    return {**arrays, "proxy": MappingProxyType({"inner": arrays["table"]}), "text": "x", "none": None}


_READER = """
import hashlib, pickle, sys
mapped = pickle.load(sys.stdin.buffer)
value = mapped.load()
arrays = {name: value[name] for name in ("many", "table", "fortran", "strided", "empty")}
arrays["inner"] = value["proxy"]["inner"]
for name, array in arrays.items():
    print(name, array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).hexdigest(), array.flags.writeable)
print(type(value["proxy"]).__name__, value["text"], value["none"])
sys.stdout.flush()
sys.stdin.buffer.read()  # maps it as long as its input is open
print(int(value["many"].sum()))
"""


def test_an_object_comes_back_equal_and_read_only_in_another_process_which_keeps_it_once_it_is_closed() -> None:
    value = shared()
    shared_object = SharedObject(value)
    with subprocess.Popen(
        [sys.executable, "-c", _READER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert len(shared_object.mapped.skeleton) < 10_000, "without the arrays"
        reader.stdin.write(pickle.dumps(shared_object.mapped))
        reader.stdin.flush()
        told = [reader.stdout.readline().decode().split(" ") for _ in range(7)]
        shared_object.close()
        with pytest.raises(OSError, match="No such file"):
            shared_object.mapped.load()
        reader.stdin.close()
        assert int(reader.stdout.readline()) == int(value["many"].sum())
    arrays = {**value, "inner": value["table"]}
    for (name, *told_of), expected in zip(
        told, ("many", "table", "fortran", "strided", "empty", "inner"), strict=False
    ):
        array = arrays[expected]
        assert name == expected
        assert told_of[0] == array.dtype.str
        assert " ".join(told_of[1:-2]) == str(array.shape)
        assert told_of[-2] == hashlib.sha256(array.tobytes()).hexdigest()
        assert told_of[-1].strip() == str(name == "strided"), "which is no one piece of memory, so a copy"
    assert " ".join(told[-1]).strip() == "mappingproxy x None"


_SHARER = """
import sys, time
import numpy as np
from src.runs.shared_object import SharedObject
shared = SharedObject(np.zeros(1_000_000))
print(shared.mapped.path, flush=True)
time.sleep(60)
"""


def test_no_file_is_left_once_its_process_was_killed_or_has_closed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _SHARER], cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE
    ) as sharer:
        assert sharer.stdout is not None
        path = Path(sharer.stdout.readline().decode().strip())
        assert path.stat().st_size == 8_000_000
        sharer.kill()
    assert not path.exists()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    whole = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: not str(path).startswith("/proc/") and whole(path))
    with SharedObject(np.arange(5)) as named:  # on a system without /proc
        assert [str(path) for path in tmp_path.iterdir()] == [named.mapped.path]
        assert isinstance(named.mapped, Mapped)
        assert named.mapped.load().tolist() == [0, 1, 2, 3, 4]
    assert list(tmp_path.iterdir()) == []
