"""Hardware monitoring, as the specification calls it."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import pytest

from src.monitoring.hardware import SAMPLE_FIELDS
from tests.specification.python_calls import run


def test_the_block_runs_and_saves_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names, _ = run("monitoring")
    monitor = names["monitor"]
    try:
        assert monitor.log_interval == 1
        assert monitor.monitoring is True
        assert 0.0 <= names["avg_gpu"] <= 100.0
        assert names["peak_memory"] >= 0.0
        deadline = time.monotonic() + 20
        while not monitor.metrics_history:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        monitor.stop_monitoring()
    monitor.save_metrics("hardware_metrics.csv")
    with open("hardware_metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == SAMPLE_FIELDS
    assert len(rows) == len(monitor.metrics_history) >= 2
