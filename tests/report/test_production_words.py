"""What the production run would take, in words: the same in the verdict and on the page."""

from __future__ import annotations

from typing import Any

import pytest

from src.report.model.run import ProductionEstimate
from src.report.page import render
from src.report.production_words import cost_lines, seeds_words, time_words
from src.report.schema import check_report
from src.report.verdict import verdict
from tests.report.page_report import full_report

ONE = {
    "timesteps": 750_000, "steps_per_s": 1000.0, "hours": 2.5, "measured_timesteps": 4096, "net_arch": [512, 256, 128],
    "seeds": 1, "beside": 1, "level_frac": 0.9, "low_hours": 2.25, "high_hours": 3.0, "reason": "", "cores": 2,
    "gemm_gflops": 112.6, "energy_kwh": {"value": 0.5, "low": 0.45, "high": 0.6}, "power_w": 200.0,
    "power_words": "processor", "price_per_hour_usd": 2.5, "cost_usd": {"value": 6.25, "low": 5.625, "high": 7.5},
    "other_machine": {
        "name": "big", "cores": 16, "gflops": 90.0, "beside": 1, "hours": 3.0, "low_hours": 2.5, "high_hours": 4.0,
        "reason": "", "cost_usd": {"value": 7.5, "low": 6.25, "high": 10.0},
    },
}  # fmt: skip
LINES = [
    "Cost: $6.25 ($5.62 to $7.50) at $2.5 an hour.",
    "Energy: 0.5 kWh (0.45 to 0.6) at 200 W (processor).",
    "On big (16 cores, 90 GFLOP/s each; here 2 cores, 113 GFLOP/s each): 3.0 h (90% interval 2.5 h to 4.0 h); "
    "$7.50 ($6.25 to $10.00).",
]


def estimate(**changes: Any) -> ProductionEstimate:
    return ProductionEstimate.model_validate({**ONE, **changes})


def test_hours_energy_cost_and_another_machine_are_told_with_their_intervals() -> None:
    assert time_words(estimate()) == "2.5 h (90% interval 2.2 h to 3.0 h)"
    assert cost_lines(estimate()) == LINES
    assert seeds_words(estimate()) == ""
    assert seeds_words(estimate(seeds=3, beside=2)) == " for each of 3 seeds, 2 at a time,"


def test_what_has_no_interval_says_why() -> None:
    bare = estimate(
        low_hours=None, high_hours=None, reason="3 of 8 blocks", cost_usd={"value": 6.25, "low": None, "high": None},
        energy_kwh={"value": None, "low": None, "high": None}, power_w=None, power_words="no counter",
        other_machine={**ONE["other_machine"], "hours": None, "low_hours": None, "high_hours": None,
                       "reason": "this run trained on a GPU"},
    )  # fmt: skip
    assert time_words(bare) == "2.5 h (no interval: 3 of 8 blocks)"
    assert cost_lines(bare) == [
        "Cost: $6.25 at $2.5 an hour.",
        "Energy: unknown: no counter.",
        "On big (16 cores, 90 GFLOP/s each): not forecast: this run trained on a GPU.",
    ]


def test_a_report_of_an_earlier_version_has_hours_alone() -> None:
    names = ("timesteps", "steps_per_s", "hours", "measured_timesteps", "net_arch")
    old = ProductionEstimate.model_validate({name: ONE[name] for name in names})
    assert (time_words(old), seeds_words(old), cost_lines(old)) == ("2.5 h", "", [])


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    small = full_report(11, 1, bars_a_session=24, n_charted=0, n_samples=2, n_records=2)
    return {**small, "production_estimate": ONE}


def test_verdict_and_page_say_the_same(report: dict[str, Any]) -> None:
    checked = check_report(report, "The report")
    lines, page = verdict(checked.model_copy(update={"statistics": None})), render(checked)
    assert any(
        "750,000 timesteps would take 2.5 h (90% interval 2.2 h to 3.0 h) at the 1,000" in line for line in lines
    )
    for line in LINES:
        assert line in lines
        assert line in page
    assert "still rising, +$36/session" in page.replace('<span class="amount">', "").replace("</span>", "")
