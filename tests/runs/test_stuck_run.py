"""A run with a stuck worker, and a run that gets more than one signal, end soon, with one paragraph and no worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from src.errors import EXIT_INTERRUPTED, EXIT_TARGET_MISSED

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = """
environment: {{env_class: 'tests.trading.custom_envs:{name}'}}
hardware: {{vec_env: subproc, vectorized_envs: 2, batch_size: 64, device: cpu, stuck_worker_s: 2}}
training: {{timesteps: 4000000}}
pipeline: {{max_retries_per_phase: 0}}
"""


def started(folder: Path, name: str) -> subprocess.Popen[str]:
    (folder / "run.yaml").write_text(SETTINGS.format(name=name))
    return subprocess.Popen(
        [sys.executable, str(ROOT / "run_hardware_maximized.py"), "--config", "run.yaml"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_stopped_worker_ends_a_run_with_exit_code_1_and_its_stack(tmp_path: Path) -> None:
    run = started(tmp_path, "StopsOnAction")
    out, err = run.communicate(timeout=180)
    assert run.returncode == EXIT_TARGET_MISSED, (out, err)
    paragraph, _, stack = err.partition("Its Python stack:")
    assert " ".join(paragraph.split()).startswith("error: The run failed: production failed once. ")
    assert "Last failure: The worker of environment " in " ".join(paragraph.split())
    assert "it is stopped (as by SIGSTOP or Ctrl-Z)" in " ".join(paragraph.split())
    assert "in wait_for_a_lock_nobody_holds" in stack
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_second_signal_while_stopping_leaves_no_worker_and_no_traceback(
    tmp_path: Path, second: signal.Signals
) -> None:
    run = started(tmp_path, "Plain")
    try:
        until = time.monotonic() + 120
        while not list(tmp_path.glob("logs/*/members/seed-0/base/metrics.jsonl")) and time.monotonic() < until:
            time.sleep(0.1)
        assert time.monotonic() < until, "nothing was trained"
        family = psutil.Process(run.pid).children(recursive=True)
        assert len(family) >= 3, "the server and its workers"
        # A worker that no longer listens: the first signal's clean-up waits for it.
        workers = [child for child in family if child.ppid() != run.pid]
        workers[0].suspend()
        run.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        run.send_signal(second)
        _, err = run.communicate(timeout=30)
    finally:
        run.kill()
        run.wait()
    assert run.returncode == EXIT_INTERRUPTED, err
    assert "Stopped" in err
    assert "Traceback" not in err
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive
