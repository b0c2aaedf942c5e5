"""What may go wrong in a phase: it is tried again, timed out, stopped, given room, or told in one paragraph."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from rich.console import Console

import src.runs.context
import src.runs.evaluations
import src.runs.plan
import src.runs.run
from src.agent.checkpoints import CheckpointError
from src.agent.settings import HardwareSettings, PhaseUsage
from src.errors import (
    EXIT_BAD_INPUT,
    EXIT_TARGET_MISSED,
    BadEnvironmentValue,
    ConfigError,
    EnvironmentWorkerError,
    InterruptedRun,
    TrainingDiverged,
    UserError,
)
from src.outputs import OutputError
from src.runs.ledger import seal
from src.runs.phase_runner import PhaseFailed
from src.runs.resources import apply_usage, memory_now, release_all
from src.runs.stopping import PhaseTimeout
from src.testing_framework import HardwareMonitor, TestingFramework
from tests.runs.pipeline_runs import (
    COMMAND,
    TIMESTEPS,
    Pipelines,
    before,
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

OWN = {
    "environment.env_class": "tests.runs.pipeline_runs:OddEnv",
    "hardware.vec_env": "dummy",
    "hardware.vectorized_envs": 2,
    "training.n_steps": 16,
}
"""Environments of a user's own, in this process."""
COUNTING = {**OWN, "environment.env_class": "tests.tiny_runs:CountingEnv"}
"""Some with nothing odd about them, and without state: quick, because nothing follows base training."""


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipelines]:
    with pipelines_in(tmp_path_factory.mktemp("failures")) as made:
        yield made


@pytest.fixture(scope="module")
def whole(pipelines: Pipelines) -> Path:
    """The home of an undisturbed pipeline."""
    home = pipelines.new_home()
    assert pipelines.run(home).error is None
    return home


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


# Tried again


@pytest.mark.parametrize(
    ("where", "error"),
    [
        (("base", 44), EnvironmentWorkerError("The worker process of environment 1 of 4 ended by signal SIGKILL.")),
        (("base", 12), RuntimeError("a device was lost")),
        (("hybrid", TIMESTEPS), MemoryError()),
        (("rl_only", 72), ConnectionResetError("by peer")),
    ],
)
def test_a_failed_training_is_tried_again_from_its_newest_checkpoint(
    pipelines: Pipelines, whole: Path, where: tuple[str, int], error: Exception
) -> None:
    home, (training, timestep) = pipelines.new_home(), where
    phase = "phase2" if training == "base" else "phase3"
    with in_step(training, timestep, raising(error)):
        ended = pipelines.run(home)
    assert ended.error is None
    assert f"{training} failed (" in ended.said
    newest = timestep // 32 * 32 - (32 if timestep % 32 == 0 else 0)
    assert ("resuming from" in ended.said) == (newest > 0)
    assert entry_of(home, phase).failures == [f"{training}: {type(error).__name__}: {error}"]
    assert (entry_of(home, phase).tries, entry_of(home, phase).status) == (2, "done")
    assert differing(whole, home) == []


@pytest.mark.parametrize("where", ["evaluate", "advice_facts"])
def test_an_evaluation_that_failed_counts_nothing_twice(pipelines: Pipelines, whole: Path, where: str) -> None:
    home = pipelines.new_home()
    nth = 4 if where == "evaluate" else 1  # behind attempts, reliance and the validation sessions
    with before(src.runs.evaluations, where, raising(RuntimeError("odd")), nth=nth):
        assert pipelines.run(home).error is None
    assert differing(whole, home) == []


def test_a_phase_that_fails_too_often_ends_the_run_and_can_be_gone_on_with(pipelines: Pipelines, whole: Path) -> None:
    home = pipelines.new_home()
    error = EnvironmentWorkerError("The worker process of environment 1 of 4 ended by signal SIGKILL.")
    with in_step("base", 12, raising(error)), in_step("base", 76, raising(error)):
        ended = pipelines.run(home)
    assert isinstance(ended.error, PhaseFailed)
    assert ended.error.exit_code == EXIT_TARGET_MISSED
    assert "phase2 (base training) failed: base failed 2 times." in ended.why
    assert f"is kept in {ended.folder}. Last failure: The worker process" in ended.why
    assert ended.why.endswith(f"\nResume with:\n{COMMAND}")
    entry = entry_of(home, "phase2")
    assert (entry.status, entry.tries, len(entry.failures)) == ("failed", 2, 2)
    assert steps_of(home, "base") == [32, 64]
    with in_step("base", 108, raising(error)):  # a process begun later may fail as often
        ended = pipelines.resume(home)
    assert ended.error is None
    assert "resuming from 64" in ended.said
    assert "resuming from 96" in ended.said
    assert len(entry_of(home, "phase2").failures) == 3
    assert differing(whole, home) == []


def test_no_retry_where_none_is_allowed_or_none_can_help(pipelines: Pipelines) -> None:
    home = pipelines.new_home()
    with in_step("base", 12, raising(RuntimeError("once"))):
        ended = pipelines.run(home, {"pipeline.max_retries_per_phase": 0})
    assert isinstance(ended.error, PhaseFailed)
    assert "base failed once." in ended.why
    home = pipelines.new_home()
    with in_step("base", 12, raising(UserError("Mend your file."))):
        ended = pipelines.run(home, {"pipeline.max_retries_per_phase": 5})
    assert ended.why == "Mend your file."
    assert (entry_of(home, "phase2").status, entry_of(home, "phase2").tries) == ("failed", 1)
    home = pipelines.new_home()
    with in_step("base", 12, raising(KeyError("a mistake in the code"))), pytest.raises(KeyError):
        pipelines.run(home)


def test_going_on_after_a_failure_uses_what_is_there_and_does_not_pass(pipelines: Pipelines, whole: Path) -> None:
    home = pipelines.new_home()
    careless = {"pipeline.max_retries_per_phase": 0, "pipeline.continue_on_failure": True}
    with in_step("base", 76, raising(RuntimeError("a device was lost"))):
        ended = pipelines.run(home, careless)
    assert ended.error is None
    assert "phase2 failed (a device was lost); continuing with partial results" in ended.said
    assert ended.report["validation_passed"] is False
    assert "Missed: phase2" in ended.said
    assert [training["phase"] for training in ended.report["training"]] == ["rl_only", "hybrid", "hybrid_placebo"]
    assert {name: phase["status"] for name, phase in ended.report["phases"].items()} == {
        "phase1": "done", "phase2": "failed", "phase3": "done",
    }  # fmt: skip
    assert list(ended.report["still_learning"]["trainings"]) == ["hybrid"]  # the base has no weights at its quarters
    assert {"hybrid.zip policy.pth"} <= set(differing_but_for_base(whole, home))
    ended = pipelines.resume(home)  # base training goes on, and phase 3 is not of its weights
    assert ended.error is None
    assert "rl_only is done again, because its inputs changed: base weights was " in ended.said
    assert differing(whole, home) == []


def differing_but_for_base(one: Path, other: Path) -> list[str]:
    (run_of(other) / "base.zip").write_bytes((run_of(one) / "base.zip").read_bytes())
    found = differing(one, other)
    (run_of(other) / "base.zip").unlink()
    return found


def test_going_on_after_the_last_phase_failed_reports_the_others(pipelines: Pipelines, whole: Path) -> None:
    home = pipelines.new_home()
    careless = {"pipeline.max_retries_per_phase": 0, "pipeline.continue_on_failure": True}
    with in_step("hybrid", 76, raising(RuntimeError("a device was lost"))):
        ended = pipelines.run(home, careless)
    assert ended.error is None
    assert ended.report["arms"] == {}
    assert [training["phase"] for training in ended.report["training"]] == ["base", "rl_only", "hybrid_placebo"]
    assert "Missed: phase3." in ended.said
    assert pipelines.resume(home).error is None
    assert differing(whole, home) == []


def test_nothing_goes_on_after_the_first_phase_failed(pipelines: Pipelines) -> None:
    home = pipelines.new_home()
    careless = {"pipeline.max_retries_per_phase": 0, "pipeline.continue_on_failure": True}
    with before(src.runs.plan, "leak_facts", raising(RuntimeError("odd bars"))):
        ended = pipelines.run(home, careless)
    assert isinstance(ended.error, PhaseFailed)
    assert [entry_of(home, f"phase{n}").status for n in (1, 2, 3)] == ["failed", "pending", "pending"]


def test_going_on_where_nothing_is_left_says_what_is_missing(pipelines: Pipelines, whole: Path) -> None:
    home, careless = pipelines.new_home(), {"pipeline.continue_on_failure": True, "pipeline.max_retries_per_phase": 0}
    with in_step("base", 12, raising(RuntimeError("a device was lost"))):
        ended = pipelines.run(home, careless)
    assert ended.error is None
    assert "phase3 failed (rl_only, hybrid, hybrid_placebo, " in ended.said
    assert "cannot be done without base, which left no checkpoint); continuing with partial results" in ended.said
    assert (ended.report["training"], ended.report["validation_passed"]) == ([], False)
    assert pipelines.resume(home).error is None
    assert differing(whole, home) == []


def test_a_run_in_which_nothing_was_trained_still_reports(pipelines: Pipelines) -> None:
    home = pipelines.new_home()
    careless = {"pipeline.continue_on_failure": True, "pipeline.max_retries_per_phase": 0}
    ended = pipelines.run(home, {**OWN, **careless, "environment.env_kwargs": {"fail_at": 3}})
    assert ended.error is None
    assert ended.report["training"] == []
    assert ended.report["validation_passed"] is False
    assert entry_of(home, "phase2").failures[-1] == "base: RuntimeError: the broker is away"


def test_a_failed_production_estimate_is_tried_again_with_new_environments(
    pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, whole, seen = pipelines.new_home(), src.runs.plan.try_production, list[Any]()

    def stuck_at_first(trainer: Any, env: Any, plan: Any, **fixed: Any) -> Any:
        seen.append(env)
        if len(seen) == 1:
            env.close()
            raise EnvironmentWorkerError("it no longer answers")
        return whole(trainer, env, plan, **fixed)

    monkeypatch.setattr(src.runs.plan, "try_production", stuck_at_first)
    assert pipelines.run(home, COUNTING).error is None
    assert seen[0] is not seen[1]
    assert entry_of(home, "phase2").failures == ["production: EnvironmentWorkerError: it no longer answers"]


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_nothing_differs(pipelines: Pipelines) -> None:
    workers = {"hardware.vec_env": "subproc", "hardware.vectorized_envs": 2, "training.timesteps": 64}
    left_alone, home = pipelines.new_home(), pipelines.new_home()
    pipelines.run(left_alone, {**workers, "hardware.vec_env": "batched"})

    def kill_a_worker() -> None:
        servers = psutil.Process().children(recursive=True)
        killed = [p for p in servers if p.parent() != psutil.Process() and p.status() != psutil.STATUS_ZOMBIE]
        killed[-1].send_signal(signal.SIGKILL)

    with in_step("base", 40, kill_a_worker):
        ended = pipelines.run(home, workers)
    assert ended.error is None, ended.why
    (failure,) = entry_of(home, "phase2").failures
    assert "ended by signal SIGKILL" in failure
    assert "resuming from 32" in ended.said
    assert differing(left_alone, home) == ["report run"], "the route has its name there"


# Timed out


def test_a_phase_past_its_timeout_stops_with_a_checkpoint_and_goes_on_with_more(
    pipelines: Pipelines, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = pipelines.new_home()
    with (
        monkeypatch.context() as patch,
        in_step("base", 12, lambda: patch.setattr("src.runs.stopping.Deadline.passed", True)),
    ):
        ended = pipelines.run(home, {"checkpoint.strategy": "phase_based"})
    assert isinstance(ended.error, PhaseTimeout)
    assert ended.error.exit_code == EXIT_TARGET_MISSED
    assert "phase2 took longer than its timeout" in ended.why
    assert "Raise phase2.timeout and resume with --auto-resume" in ended.why
    assert entry_of(home, "phase2").status == "timed_out"
    assert steps_of(home, "base") == [32], "although only ends are to be kept"
    assert pipelines.resume(home).error is None
    assert differing(whole, home) == []


@pytest.mark.parametrize("phase", ["phase1", "phase3"])
def test_the_other_phases_have_timeouts_too(pipelines: Pipelines, whole: Path, phase: str) -> None:
    home = pipelines.new_home()
    ended = pipelines.run(home, {f"{phase}.timeout": 0.001})
    assert isinstance(ended.error, PhaseTimeout)
    assert entry_of(home, phase).status == "timed_out"
    assert pipelines.resume(home).error is None
    assert differing(whole, home) == []


def test_time_that_an_earlier_process_took_counts(pipelines: Pipelines) -> None:
    home = pipelines.new_home()
    with in_step("base", 44, crash):
        pipelines.run(home)
    path = run_of(home) / "ledger.json"
    ledger = json.loads(path.read_text())
    ledger["phases"]["phase2"]["seconds"] = 1000.0
    path.write_text(json.dumps({**ledger, "sha256": seal(ledger)}))
    ended = pipelines.resume(home, {"phase2.timeout": 999.0})
    assert isinstance(ended.error, PhaseTimeout)
    assert steps_of(home, "base") == [32], "nothing more is begun"
    ended = pipelines.resume(home, {"phase2.timeout": 1999.0, "pipeline.auto_advance": False})
    assert ended.error is None
    assert 1000.0 < entry_of(home, "phase2").seconds < 1999.0


def test_a_phase_that_hangs_where_no_instant_is_clean_is_stopped_too(
    pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.runs.stopping.STUCK_S", 0.3)
    home = pipelines.new_home()
    began = time.monotonic()
    ended = pipelines.run(home, {**OWN, "phase2.timeout": 0.5, "environment.env_kwargs": {"hang_at": 20}})
    assert isinstance(ended.error, PhaseTimeout)
    assert 0.8 < time.monotonic() - began < 20
    assert entry_of(home, "phase2").status == "timed_out"
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert pipelines.resume(home, {**OWN, "pipeline.auto_advance": False}).error is None, "nothing was trained yet"


# Diverged


def test_a_nan_of_an_own_environment_is_told_and_the_last_checkpoint_is_good(pipelines: Pipelines) -> None:
    home = pipelines.new_home()
    odd = {**OWN, "environment.env_kwargs": {"nan_at": 103}}  # 64 steps are the production trial's
    ended = pipelines.run(home, odd)
    assert isinstance(ended.error, BadEnvironmentValue)
    assert ended.error.exit_code == EXIT_BAD_INPUT
    assert "environment 0 of 2, step 103 (step 4 of its episode)" in ended.why
    assert "returned the reward nan" in ended.why
    assert f"The newest checkpoint, from before it, is kept in {ended.folder}" in ended.why
    assert (entry_of(home, "phase2").status, entry_of(home, "phase2").tries) == ("failed", 1), "no retry can help"
    assert steps_of(home, "base") == [32, 64]
    with in_step("base", 68, crash):  # its environments begin anew there, so that nothing is NaN yet
        ended = pipelines.resume(home, odd)
    assert isinstance(ended.error, SystemExit)
    assert "resuming from 64" in ended.said


def test_diverged_fine_tuning_leaves_base_training_done(pipelines: Pipelines, whole: Path) -> None:
    home = pipelines.new_home()

    def poison() -> None:
        raise TrainingDiverged("Training diverged in update 2.")

    with in_step("rl_only", 40, poison):
        ended = pipelines.run(home)
    assert isinstance(ended.error, TrainingDiverged)
    assert [entry_of(home, phase).status for phase in ("phase2", "phase3")] == ["done", "failed"]
    assert pipelines.resume(home).error is None
    assert differing(whole, home) == []


# A full disk


@pytest.mark.parametrize("training", ["base", "hybrid"])
def test_a_disk_that_is_full_at_a_checkpoint_leaves_the_one_before_and_says_so(
    pipelines: Pipelines, whole: Path, monkeypatch: pytest.MonkeyPatch, training: str
) -> None:
    home, whole_fsync = pipelines.new_home(), os.fsync
    filled = False

    def fsync(handle: int) -> None:
        if filled:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole_fsync(handle)

    def fill() -> None:
        nonlocal filled
        filled = True

    monkeypatch.setattr(os, "fsync", fsync)
    with in_step(training, 76, fill):
        ended = pipelines.run(home)
    assert isinstance(ended.error, UserError)
    assert ended.error.exit_code == EXIT_BAD_INPUT
    assert "No space left on device" in ended.why
    assert "Free space on that disk" in ended.why
    assert "--auto-resume" in ended.why
    filled = False
    assert steps_of(home, training) == [32, 64]
    ended = pipelines.resume(home)
    assert ended.error is None
    assert "resuming from 64" in ended.said
    assert differing(whole, home) == []


def test_a_checkpoint_that_only_cannot_be_written_names_the_one_kept(
    pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    home = pipelines.new_home()
    monkeypatch.setattr(HardwareMonitor, "save_metrics", full)  # the last thing written, and not the news
    with in_step("base", 76, lambda: monkeypatch.setattr("src.agent.checkpoints.write_folder", full)):
        ended = pipelines.run(home)
    assert isinstance(ended.error, CheckpointError)
    assert "the hardware samples cannot be written" in ended.said
    assert f"checkpoint-{64:012d} is kept" in ended.why
    assert entry_of(home, "phase2").status == "failed"
    assert entry_of(home, "phase2").tries == 1


@pytest.mark.parametrize("name", ["config.yaml", "report.json"])
def test_a_disk_that_is_full_outside_of_the_phases_is_one_paragraph_too(
    pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    home, replace = pipelines.new_home(), os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        ended = pipelines.run(home, COUNTING)
    assert isinstance(ended.error, OutputError)
    assert "No space left on device" in ended.why
    assert COMMAND in ended.why
    assert pipelines.resume(home, COUNTING).error is None
    assert (run_of(home) / name).exists()


# Signals


def test_outside_of_training_a_signal_stops_at_once(pipelines: Pipelines, whole: Path) -> None:
    home = pipelines.new_home()
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with before(src.runs.evaluations, "evaluate", lambda: os.kill(os.getpid(), signal.SIGINT), nth=2):
        ended = pipelines.run(home)
    assert isinstance(ended.error, InterruptedRun)
    assert entry_of(home, "phase3").status == "interrupted"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert pipelines.resume(home).error is None
    assert differing(whole, home) == []


def test_a_second_signal_does_not_wait_for_the_end_of_the_rollout(pipelines: Pipelines, whole: Path) -> None:
    home = pipelines.new_home()
    with in_step("base", 68, terminate), in_step("base", 72, terminate):
        ended = pipelines.run(home)
    assert isinstance(ended.error, InterruptedRun)
    assert steps_of(home, "base") == [32, 64]
    assert entry_of(home, "phase2").status == "interrupted"
    assert pipelines.resume(home).error is None
    assert differing(whole, home) == []


def test_a_signal_that_reaches_the_workers_as_well_is_no_failure(pipelines: Pipelines) -> None:
    def to_the_whole_group() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise EnvironmentWorkerError("The worker process of environment 0 of 4 ended by signal SIGTERM.")

    home = pipelines.new_home()
    with in_step("base", 44, to_the_whole_group):
        ended = pipelines.run(home)
    assert isinstance(ended.error, InterruptedRun)
    assert (entry_of(home, "phase2").status, entry_of(home, "phase2").failures) == ("interrupted", [])


def test_stopped_before_it_has_a_folder_nothing_is_claimed_to_be_kept(pipelines: Pipelines) -> None:
    home = pipelines.new_home()
    with (
        before(src.runs.context.RunContext, "load_market", raising(KeyboardInterrupt())),
        pytest.raises(KeyboardInterrupt),
    ):
        pipelines.run(home)
    assert list(home.glob("logs/pipeline_*")) == []


# What a phase may use


THREADS = {
    "hardware.torch_threads": None,
    "phase2.gpu_usage.torch_threads": 2,
    "phase3.gpu_usage.torch_threads": 1,
    "pipeline.pause_between_phases": 7.0,
}


def test_resources_are_given_anew_between_phases(pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    collected: list[int] = []
    given: list[int] = []  # and not set: on a busy machine a second thread costs minutes
    monkeypatch.setattr("src.runs.run.time.sleep", pauses.append)
    monkeypatch.setattr("src.runs.resources.gc", SimpleNamespace(collect=lambda: collected.append(1)))
    monkeypatch.setattr("src.runs.resources.set_threads", lambda _: 1)
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    home = pipelines.new_home()
    with in_step("base", 8, lambda: given.append(-1)):
        ended = pipelines.run(home, {**COUNTING, **THREADS, "pipeline.reallocate_resources": True})
    assert ended.error is None
    assert [n for n, _ in itertools.groupby(given)][:4] == [1, 2, -1, 1], "in the training too"
    assert [entry_of(home, f"phase{n}").torch_threads for n in (1, 2, 3)] == [1, 2, 1]
    assert pauses == [7.0, 7.0]
    assert "pausing 7 s" in ended.said
    assert len(collected) == 3


def test_without_reallocation_the_runs_own_settings_hold_for_every_phase(
    pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected: list[int] = []
    monkeypatch.setattr("src.runs.run.time.sleep", lambda _: None)
    monkeypatch.setattr("src.runs.resources.gc", SimpleNamespace(collect=lambda: collected.append(1)))
    home = pipelines.new_home()
    pipelines.run(home, {**COUNTING, **THREADS, "hardware.torch_threads": 1, "pipeline.reallocate_resources": False})
    assert [entry_of(home, f"phase{n}").torch_threads for n in (1, 2, 3)] == [1, 1, 1]
    assert collected == []


def test_resumed_after_a_kill_a_phase_keeps_the_threads_it_began_with(
    pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, given, seen = pipelines.new_home(), [1], list[int]()
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: given[-1])

    def look() -> None:
        seen.append(given[-1])

    unset = {"hardware.torch_threads": None}
    monkeypatch.setattr("src.runs.resources.set_threads", lambda _: 3)
    with in_step("base", 40, look), in_step("base", 44, crash):
        pipelines.run(home, unset)
    monkeypatch.setattr("src.runs.resources.set_threads", lambda _: 1)
    with in_step("base", 76, look), before(src.runs.evaluations, "evaluate", look):
        ended = pipelines.resume(home, unset)
    assert ended.error is None
    assert seen == [3, 3, 1], "phase 3 was not begun with three"
    assert [entry_of(home, f"phase{n}").torch_threads for n in (1, 2, 3)] == [3, 3, 1]
    assert entry_of(home, "phase2").not_bitwise == []


class _Cuda:
    """What is asked of torch.cuda, with a device that is not there."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.fractions: list[float] = []
        self.emptied = 0
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "set_per_process_memory_fraction", self.fractions.append)
        patch.setattr(torch.cuda, "empty_cache", self._empty)
        patch.setattr(torch.cuda, "memory_allocated", lambda: 2_000_000_000)
        patch.setattr(torch.cuda, "memory_reserved", lambda: 3_500_000_000)

    def _empty(self) -> None:
        self.emptied += 1


def test_a_phase_gets_its_share_of_the_gpus_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = _Cuda(monkeypatch)
    threads = torch.get_num_threads()
    hardware = HardwareSettings(device="cuda", memory_fraction=0.8, torch_threads=threads)
    own = PhaseUsage(memory_fraction=0.4)
    for usage, reallocate in ((own, True), (PhaseUsage(), True), (own, False)):
        apply_usage(usage, hardware, None, reallocate=reallocate)
    assert cuda.fractions == [0.4, 0.8, 0.8]
    apply_usage(own, hardware.model_copy(update={"device": "cpu"}), None, reallocate=True)
    assert len(cuda.fractions) == 3, "a run on the CPU leaves the GPU alone"
    assert memory_now()["gpu_allocated_gb"] == 2.0
    assert memory_now()["gpu_reserved_gb"] == 3.5
    release_all()
    assert cuda.emptied == 1


# Targets


def test_durations_are_targets_that_decide_unless_told_otherwise(pipelines: Pipelines) -> None:
    home = pipelines.new_home()
    slow = {**COUNTING, "phase2.estimated_duration": 0.001, "phase3.gpu_utilization_target": 0.9}
    slow |= {"phase1.gpu_utilization_target": None, "phase2.gpu_utilization_target": None}
    ended = pipelines.run(home, slow)
    targets = ended.report["targets"]
    assert {name for name in targets if name.startswith("phase")} == {
        *(f"phase{n}_duration" for n in (1, 2, 3)), "phase3_gpu_utilization",
    }  # fmt: skip
    assert targets["phase2_duration"]["status"] == "missed"
    assert targets["phase2_duration"]["target"] == 0.001
    assert targets["phase2_duration"]["measured"] == entry_of(home, "phase2").seconds
    assert targets["phase1_duration"]["status"] == targets["phase3_duration"]["status"] == "met"
    assert targets["phase3_gpu_utilization"]["status"] == "not_applicable"
    assert ended.report["validation_passed"] is False
    assert "Missed: phase2_duration." in ended.said
    assert [targets[f"phase{n}_duration"]["required"] for n in (1, 2, 3)] == [True, True, True]


def test_durations_that_are_not_required_decide_nothing(pipelines: Pipelines) -> None:
    home = pipelines.new_home()
    ended = pipelines.run(
        home, {**COUNTING, "phase2.estimated_duration": 0.001, "validation.required": ["peak_memory"]}
    )
    assert ended.report["targets"]["phase2_duration"]["status"] == "missed"
    assert ended.report["validation_passed"] is True


def test_a_validation_in_one_go_has_no_phases_whose_targets_it_could_require(pipelines: Pipelines) -> None:
    with pytest.raises(ConfigError) as error:
        pipelines.config(
            pipelines.folder, {"test_mode.mode": "hardware_maximized", "validation.required": ["phase1_duration"]}
        )
    text = str(error.value)
    assert "validation.required lists 'phase1_duration'" in text
    assert "this run is hardware_maximized" in text
    assert "execution_time, peak_memory" in text
    assert text.count("\n") == 0
    unset = {"validation.required": ["phase2_gpu_utilization"], "phase2.gpu_utilization_target": None}
    with pytest.raises(ConfigError, match=r"phase2_gpu_utilization.*phase2.gpu_utilization_target.*not set"):
        pipelines.config(pipelines.folder, unset)


# Environments of a user's own


def test_a_users_own_environments_are_trained_and_the_rest_is_not_applicable(pipelines: Pipelines) -> None:
    home = pipelines.new_home()
    with in_step("base", 44, terminate):
        assert isinstance(pipelines.run(home, COUNTING).error, InterruptedRun)
    ended = pipelines.resume(home, COUNTING)
    assert ended.error is None
    assert ended.report["arms"] == {}
    assert ended.report["validation_passed"] is True
    assert [training["phase"] for training in ended.report["training"]] == ["base"]
    assert entry_of(home, "phase3").timesteps == {}
    assert not (run_of(home) / "hybrid.zip").exists()
    (told,) = entry_of(home, "phase2").not_bitwise
    assert "their episodes restarted" in told
    assert ended.report["phases"]["phase2"]["not_bitwise"] == [told]
    assert "nothing is left to do" in pipelines.resume(home, COUNTING).said


@pytest.mark.parametrize("mode", ["pipeline", "hardware_maximized"])
def test_those_that_keep_their_state_resume_to_the_bit_in_both_modes(pipelines: Pipelines, mode: str) -> None:
    own = {**OWN, "environment.env_class": "tests.agent.resumable:KeptWalk", "environment.env_kwargs": {}}
    left_alone, home = pipelines.new_home(), pipelines.new_home()

    def run(place: Path, *, auto_resume: bool = False) -> dict[str, Any]:
        framework = TestingFramework(pipelines.config(place, {**own, "test_mode.mode": mode}), Console(quiet=True))
        if mode == "pipeline":
            return framework.run_automated_pipeline(auto_resume=auto_resume)
        return framework.run_hardware_maximized_validation(auto_resume=auto_resume)

    run(left_alone)
    with in_step("base", 44, crash), pytest.raises(SystemExit):
        run(home)
    assert steps_of(home, "base") == [32]
    report = run(home, auto_resume=True)
    assert [(row["phase"], row["timesteps"]) for row in report["training"]] == [("base", TIMESTEPS)]
    one, other = (member_of(place, "base") / "weights.safetensors" for place in (left_alone, home))
    assert one.read_bytes() == other.read_bytes()
    phases = json.loads((run_of(home) / "ledger.json").read_text())["phases"]
    assert [words for phase in phases.values() for words in phase["not_bitwise"]] == []
