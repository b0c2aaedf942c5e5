"""A thread that dies, or memory that runs out, ends the run with its reason, and soon."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from src.errors import EXIT_TARGET_MISSED, ThreadDied
from src.monitoring import hardware
from src.runs.threads import ThreadDeaths
from src.testing_framework import TestingFramework
from tests.tiny_runs import tiny_config

ROOT = Path(__file__).resolve().parents[2]


def die(error: BaseException) -> None:
    def work() -> None:
        raise error

    thread = threading.Thread(target=work, name="the writer")
    thread.start()
    thread.join()


def test_a_threads_death_is_raised_with_name_and_reason() -> None:
    before = threading.excepthook
    with ThreadDeaths() as deaths:
        deaths.check()
        die(MemoryError("no page left"))
        die(ValueError("a later one"))
        with pytest.raises(ThreadDied, match="the writer, MemoryError: no page left") as caught:
            deaths.check()
    assert caught.value.exit_code == EXIT_TARGET_MISSED
    assert threading.excepthook is before


def test_a_thread_that_leaves_by_sys_exit_has_not_died() -> None:
    with ThreadDeaths() as deaths:
        die(SystemExit(3))
        deaths.check()


def test_a_run_whose_hardware_monitor_dies_ends_with_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    take = hardware.Sampler.sample

    def sample(self: hardware.Sampler, phase: str = "") -> hardware.Reading:
        if phase == "training":
            raise MemoryError("for another sample")
        return take(self, phase)

    monkeypatch.setattr(hardware.Sampler, "sample", sample)
    config = tiny_config(
        {
            "environment.env_class": "tests.tiny_runs:CountingEnv",
            "hardware.vec_env": "dummy",
            "monitoring.hardware_interval_s": 0.05,
        }
    )
    with pytest.raises(ThreadDied, match="hardware-monitor, MemoryError: for another sample"):
        TestingFramework(config).run_hardware_maximized_validation()
    assert "thread hardware-monitor died" in next(tmp_path.glob("*/*/run.log")).read_text()


HOG = '''
import resource
import numpy as np
from tests.trading.custom_envs import Plain

class Hog(Plain):
    """After some steps nothing more may be allocated; then it wants more."""
    steps = 0
    held = []
    def step(self, action):
        Hog.steps += 1
        if Hog.steps == 300:
            with open("/proc/self/statm") as file:
                used = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 30_000_000, resource.RLIM_INFINITY))
        if Hog.steps >= 300:
            Hog.held.append(np.ones(400_000))
        return super().step(action)
'''


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc and RLIMIT_AS")
def test_at_the_memory_limit_a_run_ends_soon_and_says_memory(tmp_path: Path) -> None:
    """A real limit of the address space, reached by the environment: whatever allocates next fails, in any thread."""
    (tmp_path / "hog.py").write_text(HOG)
    (tmp_path / "hog.yaml").write_text(
        "environment: {env_class: 'hog:Hog'}\n"
        "hardware: {vec_env: dummy, vectorized_envs: 4, batch_size: 64, device: cpu}\n"
        "training: {timesteps: 4000}\nmonitoring: {log_interval: 1, hardware_interval_s: 0.05, tensorboard: true}\n"
    )
    ended = subprocess.run(
        [sys.executable, str(ROOT / "run_hardware_maximized.py"), "--config", "hog.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == EXIT_TARGET_MISSED, ended.stderr
    said = " ".join(ended.stderr.split())
    assert "error: Out of memory" in said or "Last failure: Out of memory" in said or "MemoryError" in said, said
    assert "--batch-size" in said, said
    assert "Traceback" not in ended.stderr
