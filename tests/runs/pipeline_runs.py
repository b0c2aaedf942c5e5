"""Pipelines of three times four rollouts in this process: stopped, killed, damaged, gone on with and compared."""

from __future__ import annotations

import io
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from src.errors import InterruptedRun, UserError
from src.runs.kills import results_of
from src.runs.ledger import Ledger, PhaseEntry
from src.runs.pipeline import TITLES
from src.testing_framework import BatchedCallback, TestConfig, TestingFramework
from tests.tiny_runs import CountingEnv, bar_files, quick_runs, tiny_config

ROLLOUT, TIMESTEPS = 32, 128
TRAININGS = {"base": "phase2", "rl_only": "phase3", "hybrid": "phase3", "hybrid_placebo": "phase3"}
COMMAND = "python run_pipeline.py --auto-resume"

SMALL: Mapping[str, Any] = {
    "test_mode.mode": "pipeline",
    "training.timesteps": TIMESTEPS,
    "training.finetune_frac": 1.0,
    "training.n_steps": 8,
    "training.n_epochs": 2,
    "hardware.batch_size": 16,
    "checkpoint.interval_steps": ROLLOUT,
    # Five of a rollout's eight steps: at every boundary but the last an interval is under way.
    "monitoring.log_interval": 5,
    # Collecting this process's garbage between phases takes longer than the phases.
    "pipeline.reallocate_resources": False,
}
"""What these pipelines set besides `tests.tiny_runs.TINY`."""


@dataclass(frozen=True)
class Ended:
    """How one process's part of a pipeline ended: by its report, or by an error."""

    said: str
    """What it printed, lines not wrapped."""
    report: dict[str, Any]
    error: BaseException | None
    framework: TestingFramework

    @property
    def why(self) -> str:
        """The error's text; empty where there was none."""
        return "" if self.error is None else str(self.error)

    @property
    def folder(self) -> Path:
        """The run's."""
        assert self.framework.run_folder is not None
        return self.framework.run_folder


class Pipelines:
    """Pipelines on one market. Each has a home that holds `logs/` with its run, and nothing outside of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bars = bar_files(folder)
        self._homes = 0

    def new_home(self, like: Path | None = None) -> Path:
        """An empty folder, or a copy of another home."""
        self._homes += 1
        home = self.folder / f"home-{self._homes}"
        if like is None:
            home.mkdir()
        else:
            shutil.copytree(like, home)
        return home

    def config(self, home: Path, changes: Mapping[str, Any]) -> TestConfig:
        """Of a pipeline at home there."""
        here = {
            "data.path": str(self.bars["plain"]),
            "test_mode.output_dir": str(home / "logs"),
            "llm.store_path": str(home / "advice.sqlite3"),
            "evidence.trials_path": str(home / "trials.jsonl"),
        }
        return tiny_config({**SMALL, **here, **changes})

    def run(
        self,
        home: Path,
        changes: Mapping[str, Any] | None = None,
        *,
        start_phase: int = 1,
        auto_resume: bool = False,
        command: str = COMMAND,
    ) -> Ended:
        """What a process of its own would do: errors of the user's, stops and SystemExit end it."""
        file = io.StringIO()
        framework = TestingFramework(self.config(home, changes or {}), Console(file=file, width=1000))
        report, error = {}, None
        try:
            if framework.config.test_mode.mode == "hardware_maximized":
                report = framework.run_hardware_maximized_validation(auto_resume=auto_resume, command=command)
            else:
                report = framework.run_automated_pipeline(
                    start_phase=start_phase, auto_resume=auto_resume, command=command
                )
        except (UserError, InterruptedRun, SystemExit) as ended_by:
            error = ended_by
        return Ended(file.getvalue(), report, error, framework)

    def resume(self, home: Path, changes: Mapping[str, Any] | None = None) -> Ended:
        """Go on with what is there."""
        return self.run(home, changes, auto_resume=True)


@contextmanager
def pipelines_in(folder: Path) -> Iterator[Pipelines]:
    """For a module's fixture: the calendar quick, each market read and checked for leaks once, no page drawn, torch's
    threads as they were afterwards."""
    threads = torch.get_num_threads()
    with quick_runs(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield Pipelines(folder)
    torch.set_num_threads(threads)


def run_of(home: Path) -> Path:
    """The folder of the one run there."""
    (folder,) = (path.parent for path in home.glob("logs/*/ledger.json"))
    return folder


def entry_of(home: Path, phase: str) -> PhaseEntry:
    """What the ledger says of a phase."""
    return Ledger.read(run_of(home), tuple(TITLES)).phases[phase]


def member_of(home: Path, training: str, seed: int = 0) -> Path:
    """The folder of a training."""
    return run_of(home) / f"members/seed-{seed}/{training}"


def steps_of(home: Path, training: str) -> list[int]:
    """Timesteps of its checkpoints."""
    folder = member_of(home, training)
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*"))


def differing(one: Path, other: Path) -> list[str]:
    """What two finished pipelines do not have in common, times aside."""
    a, b = results_of(one), results_of(other)
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but those of the lock."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.name not in (".run.lock", ".run.holder")
    }


# Instants, and what strikes then


@contextmanager
def before(
    owner: Any, name: str, act: Callable[[], object], *, nth: int = 1, when: Callable[..., bool] | None = None
) -> Iterator[None]:
    """Act once, right before the `nth` call of a function of a module or class (of those calls for which `when`)."""
    calls = 0
    whole = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        if when is None or when(*args, **kwargs):
            calls += 1
            if calls == nth:
                act()
        return whole(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, wrapped)
        yield
    assert calls >= nth, f"{name} was called {calls} times, not {nth}"


def in_step(training: str, timestep: int, act: Callable[[], object]) -> Any:
    """In the vec-env step of a training that completes a timestep, once."""
    return before(
        BatchedCallback,
        "_on_step",
        act,
        when=lambda callback: callback.phase == training and callback.num_timesteps == timestep,
    )


def crash() -> None:
    """What no retry catches."""
    raise SystemExit("crashed")


def terminate() -> None:
    """SIGTERM to this process, handled before the next line."""
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def copied_on_the_way(pipelines: Pipelines, home: Path, copies: list[Path], every: int = 23) -> Iterator[None]:
    """Copy a home as SIGKILL would leave it: right before each `every`th call that brings something to the disk."""
    calls = 0

    def counted(whole: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls % every == 0:
                copies.append(pipelines.new_home(home))
            return whole(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "rename", "fsync"):
            patch.setattr(os, name, counted(getattr(os, name)))
        yield


class OddEnv(CountingEnv):
    """From its `..._at`th step on, over all episodes, the environment's rewards are NaN, it hangs or raises."""

    def __init__(self, nan_at: int | None = None, hang_at: int | None = None, fail_at: int | None = None) -> None:
        super().__init__()
        self._at = {"nan": nan_at, "hang": hang_at, "fail": fail_at}
        self._taken = 0

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._taken += 1
        obs, reward, terminated, truncated, info = super().step(action)
        if self._taken == self._at["hang"]:
            time.sleep(60.0)
        if self._taken == self._at["fail"]:
            raise RuntimeError("the broker is away")
        is_nan = self._at["nan"] is not None and self._taken >= self._at["nan"]
        return obs, float("nan") if is_nan else reward, terminated, truncated, info
