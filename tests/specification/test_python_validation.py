"""Performance validation, as the specification calls it: on a market of twelve sessions, with networks of eight
units."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from src import testing_framework
from src.testing_framework import TestConfig
from tests.specification.python_calls import run
from tests.tiny_runs import bar_files, quick_calendar, tiny_config

create = testing_framework.create_test_config


def test_the_block_runs_to_its_end_and_prints_both_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars = bar_files(tmp_path)["plain"]

    def create_small(mode: str, market: str) -> TestConfig:
        assert create(mode, market).test_mode.model_dump().items() >= {"mode": mode, "market": market}.items()
        return tiny_config({"test_mode.mode": mode, "test_mode.market": market, "data.path": str(bars)})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(testing_framework, "create_test_config", create_small)
    threads = torch.get_num_threads()
    with quick_calendar():
        names, printed = run("validation")
    torch.set_num_threads(threads)
    framework = names["framework"]
    report = json.loads((framework.run_folder / "report.json").read_text())
    utilization = framework.hardware_monitor.get_average_gpu_utilization()
    assert printed.splitlines()[-2:] == [
        f"GPU Utilization: {utilization:.1f}%",
        f"Execution Time: {report['execution_time']:.2f} seconds",
    ]
    assert re.fullmatch(r"Execution Time: \d+\.\d\d seconds", printed.splitlines()[-1])
    assert framework.total_time > 0.1
