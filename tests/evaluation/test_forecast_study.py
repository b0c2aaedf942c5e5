"""The study of forecasts: what counts as come true, and that it runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from src.evaluation import forecast_study
from src.evaluation.forecast_study import CASES, Case, Outcome, main
from src.evaluation.production_forecast import Forecast

FOUND = Forecast(hours=1.0, low=0.9, high=1.2, step_s=1e-3, beside=1)
TINY = Case(8, 8, 32, 1, (8,), (16,))


@pytest.mark.parametrize(
    ("hours", "found", "inside"),
    [(1.0, FOUND, True), (1.19, FOUND, True), (1.21, FOUND, False), (0.89, FOUND, False),
     (1.0, replace(FOUND, low=None, high=None), False)],
)  # fmt: skip
def test_a_forecast_comes_true_where_the_time_lies_in_its_interval(hours: float, found: Forecast, inside: bool) -> None:
    assert Outcome(TINY, found, 3600.0 * hours).inside == inside


@pytest.mark.parametrize("off", [1.0, 100.0])
def test_fewer_than_nine_of_ten_are_exit_code_1(off: float, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    outcomes = iter([Outcome(case, FOUND, 3600.0 * (off if number in (3, 7) else 1.0)) for number, case in
                     enumerate(CASES)])  # fmt: skip
    monkeypatch.setattr(forecast_study, "compare", lambda *args, **named: next(outcomes))
    assert main([]) == (0 if off == 1.0 else 1)
    assert f"{10 if off == 1.0 else 8} of 10 took a time within their interval" in capsys.readouterr().out


def test_a_tiny_run_is_forecast_and_made(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Whether it comes true is not asked of runs of milliseconds."""
    monkeypatch.setattr(forecast_study, "CASES", (TINY,))
    assert main(["--runs", "1", "--rollouts", "9"]) in (0, 1)
    said = capsys.readouterr().out
    assert "8 x 8, 1 epochs, 8 to 16, fused" in said
    assert "1 of 1: " in said


def test_too_short_runs_are_refused(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--rollouts", "8"])
    assert ended.value.code == 2
    assert "an interval needs more than 8" in capsys.readouterr().err
