"""The report of a small run: whole and in shape, or the check fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.checks.outcome import PASSED
from src.checks.report import report, write_bars
from src.market.load import load_bars
from src.market.synthetic import synthetic_bars
from src.numba_cache import user_cache_folder
from src.runs import results
from src.statistics.trials import LEDGER_NAME
from tests.checks.settings import assert_failed, small_setting
from tests.tiny_runs import quick_calendar


@pytest.mark.slow
def test_a_small_run_writes_a_report_in_the_schemas_shape_and_no_trial_into_the_users_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ledger = user_cache_folder() / LEDGER_NAME
    ledger.parent.mkdir()
    ledger.write_text("of before\n")
    with quick_calendar():
        outcome = report(small_setting())
    assert ledger.read_text() == "of before\n"
    assert [path.name for path in ledger.parent.iterdir()] == [LEDGER_NAME]
    assert outcome.status == PASSED, outcome
    assert "report.json" in outcome.figures["files"]
    assert {"arms", "training", "verdict"} <= set(outcome.figures["sections"])
    assert outcome.figures["timesteps_completed"] == 512 + 256
    assert outcome.figures["peak_memory_gb"] > 0.1
    assert outcome.figures["gpu_utilization"] is None


def without_training(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != "training"}


def with_text_for_a_number(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    return {**content, "execution_time": "soon"}


@pytest.mark.slow
@pytest.mark.parametrize("change", [without_training, pytest.param(with_text_for_a_number, marks=pytest.mark.long)])
def test_a_report_of_another_shape_fails(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Path, Mapping[str, Any]], dict[str, Any]]
) -> None:
    real = results.write_json
    monkeypatch.setattr(results, "write_json", lambda path, content: real(path, change(path, content)))
    with quick_calendar():
        assert_failed(report(small_setting()), "does not match the schema", "report.json is damaged")


@pytest.mark.long
@pytest.mark.slow
def test_a_run_that_writes_none_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "write_json", lambda path, content: None)
    with quick_calendar():
        assert_failed(report(small_setting()), "did not write report.json", "git status")


@pytest.mark.long
@pytest.mark.slow
def test_a_run_without_its_page_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "write_page", lambda report, path: None)
    with quick_calendar():
        assert_failed(report(small_setting()), "did not write report.html", "git status")


@pytest.mark.parametrize("market", ["NQ", "RTY", "MYM"])
def test_bars_written_as_a_file_are_read_back_as_they_were(tmp_path: Path, market: str) -> None:
    bars = synthetic_bars(market, 3, 15, seed=0)
    again = load_bars(write_bars(bars, tmp_path / f"{market}.csv"), market)
    assert again is not None
    for name in ("open_ns", "open", "high", "low", "close", "volume"):
        assert np.array_equal(getattr(again, name), getattr(bars, name)), name
