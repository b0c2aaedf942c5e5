"""What a report claims: targets judged by what was measured, and words that go no further."""

from __future__ import annotations

import copy
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from src.evidence.console_summary import print_summary
from src.evidence.evaluation import ArmResult
from src.evidence.report import (
    MET,
    MISSED,
    NOT_APPLICABLE,
    arm_summary,
    is_passed,
    judge_targets,
    sample_size_words,
    versions,
)
from src.evidence.report import verdict as words_of
from src.evidence.targets import TARGETS, ValidationSettings
from tests.small_runs import finished

LIMITS = {
    "max_execution_time_s": st.floats(1e-3, 1e6),
    "max_peak_memory_gb": st.floats(1e-3, 1e5),
    "gpu_utilization_target": st.floats(0, 1),
    "cache_hit_rate_target": st.floats(0, 1),
    "min_steps_per_s": st.floats(1e-3, 1e6),
}
AT_MOST = {"execution_time", "peak_memory"}


@given(
    st.fixed_dictionaries(LIMITS),
    st.dictionaries(st.sampled_from(sorted(TARGETS)), st.none() | st.floats(0, 1e6), max_size=len(TARGETS)),
    st.sets(st.sampled_from(sorted(TARGETS))),
    st.booleans(),
)
def test_a_target_is_met_missed_or_not_applicable_by_what_was_measured(
    limits: dict[str, float], measured: dict[str, float | None], required: set[str], no_speed_limit: bool
) -> None:
    if no_speed_limit and "steps_per_s" not in required:
        limits = {**limits, "min_steps_per_s": None}
    settings = ValidationSettings(**limits, required=tuple(sorted(required)))
    judged = judge_targets(settings, measured, {"gpu_utilization": "no GPU"})
    assert set(judged) == set(TARGETS)
    for name, entry in judged.items():
        limit, value = limits[TARGETS[name]], measured.get(name)
        assert (entry["target"], entry["measured"], entry["required"]) == (limit, value, name in required)
        if limit is None or value is None:
            assert entry["status"] == NOT_APPLICABLE
            assert entry["reason"]
        elif name in AT_MOST:
            assert entry["status"] == (MET if value <= limit else MISSED)
        else:
            assert entry["status"] == (MET if value >= limit else MISSED)
    assert is_passed(judged) == all(judged[name]["status"] == MET for name in required)


def test_a_figure_at_its_limit_meets_it() -> None:
    settings = ValidationSettings(max_execution_time_s=10.0, cache_hit_rate_target=0.7)
    judged = judge_targets(settings, {"execution_time": 10.0, "cache_hit_rate": 0.7}, {})
    assert judged["execution_time"]["status"] == judged["cache_hit_rate"]["status"] == MET


def test_a_required_target_that_could_not_be_measured_is_not_passed() -> None:
    settings = ValidationSettings(required=("gpu_utilization",))
    judged = judge_targets(settings, {"gpu_utilization": None}, {"gpu_utilization": "no GPU"})
    assert judged["gpu_utilization"]["status"] == NOT_APPLICABLE
    assert judged["gpu_utilization"]["reason"] == "no GPU"
    assert not is_passed(judged)
    assert is_passed(judge_targets(ValidationSettings(required=()), {}, {}))


def result_of(n: int = 2, **changes: Any) -> ArmResult:
    columns = {
        "net_usd": np.array([-30.0, 100.0])[:n],
        "gross_usd": np.array([-24.0, 103.0])[:n],
        "commission_usd": np.array([4.0, 2.0])[:n],
        "slippage_usd": np.array([2.0, 1.0])[:n],
        "max_drawdown_usd": np.array([40.0, 25.0])[:n],
        "n_trades": np.array([2, 1])[:n],
        "n_wins": np.array([0, 1])[:n],
        "bars": np.array([10, 30])[:n],
        "bars_exposed": np.array([5, 5])[:n],
        "breached": np.array([True, False])[:n],
        "daily_locked": np.array([True, True])[:n],
        "target_reached": np.array([False, True])[:n],
    }
    return ArmResult(
        name="rl_only", **columns, illegal_actions=0, actions={0: 37, 1: 2, 2: 1, 3: 0, 4: 0, 5: 0}, **changes
    )


def test_an_arms_point_figures_by_hand() -> None:
    assert arm_summary(result_of()) == {
        "sessions": 2,
        "net_usd": 70.0,
        "net_usd_per_session": 35.0,
        "net_usd_by_session": [-30.0, 100.0],
        "gross_usd": 79.0,
        "commission_usd": 6.0,
        "slippage_usd": 3.0,
        "trades": 3,
        "trades_per_session": 1.5,
        "win_rate": 1 / 3,
        "exposure": 0.25,
        "max_drawdown_usd": 40.0,
        "sessions_breached": 1,
        "sessions_daily_locked": 2,
        "sessions_target_reached": 1,
        "illegal_actions": 0,
        "actions": {"HOLD": 37, "BUY": 2, "SELL": 1, "MOVE_TO_BE": 0, "ENABLE_TRAIL": 0, "DISABLE_TRAIL": 0},
    }


def test_without_sessions_or_trades_there_is_no_rate() -> None:
    summary = arm_summary(result_of(0))
    assert summary["net_usd_per_session"] is None
    assert summary["win_rate"] is None
    assert summary["exposure"] == 0.0
    assert summary["max_drawdown_usd"] == 0.0


def test_few_sessions_are_called_few() -> None:
    assert sample_size_words(2).startswith("not enough sessions (2 of 40)")
    assert sample_size_words(9).startswith("not enough sessions (9 of 40)")
    assert sample_size_words(10).startswith("low power (10 of 40 sessions)")
    assert sample_size_words(39).startswith("low power")
    assert sample_size_words(40).startswith("40 sealed sessions, one seed")


def verdict_of(**changes: Any) -> str:
    """The words for the small run's report with other figures in it."""
    report = copy.deepcopy(finished("plain").report)
    for path, value in changes.items():
        section: Any = report
        *steps, last = path.split("__")
        for step in steps:
            section = section[step]
        section[last] = value
    return "\n".join(words_of(report))


def trained(timesteps: int) -> dict[str, Any]:
    """The record of a base phase of so many timesteps."""
    return {**finished("plain").report["training"][0], "timesteps": timesteps}


@pytest.mark.slow
def test_the_words_follow_the_figures() -> None:
    usual = verdict_of()
    assert "no leak found by 4 prefix recomputations" in usual
    assert "LEAK FOUND: window of bar 7" in verdict_of(
        look_ahead={"checks": 1, "passed": False, "found": "window of bar 7"}
    )
    assert "Learning: not measured, 256 timesteps are too few" in verdict_of(training=[trained(256)])
    assert "Learning" not in verdict_of(training=[trained(50_000)])
    assert "would take 1.5 min at" in verdict_of(production_estimate__hours=0.025)
    assert "would take 12.0 h at" in verdict_of(production_estimate__hours=12.0)
    assert "one seed is no evidence" in usual
    assert "Simulated rule check (apex_50k_eod_2026_03" in usual
    training = [
        {
            "timesteps": 100,
            "timesteps_requested": 90,
            "steps_per_s": 50.0,
            "update_s": 1.0,
            "checkpoint_s": 0.0,
            "rollout_s": 3.0,
            "seconds": 4.0,
        }
    ]
    assert "the bottleneck is collecting rollouts (75% of training time)" in verdict_of(training=training)
    training[0] |= {"update_s": 3.0, "rollout_s": 1.0}
    assert "the bottleneck is the PPO update (75% of training time)" in verdict_of(training=training)
    for word in ("validated", "complete", "guarantee", "does not leak", "achieved"):
        assert word not in usual


@pytest.mark.slow
def test_figures_on_made_up_bars_are_said_to_be_that() -> None:
    assert "Evaluation on SYNTHETIC bars: low power (11 of 40 sessions)" in verdict_of()
    assert "SYNTHETIC" not in verdict_of(data__synthetic=False)


def summary_of(**changes: Any) -> str:
    run = finished("plain")
    console = Console(file=StringIO(), width=80)
    print_summary(console, {**run.report, **changes}, Path("logs/some_run"))
    return console.file.getvalue()


@pytest.mark.slow
def test_the_summary_says_which_check_decided_the_exit_code() -> None:
    assert "All required targets met." in summary_of()
    targets = copy.deepcopy(finished("plain").report["targets"])
    targets["execution_time"]["status"] = MISSED
    assert "Missed: execution_time." in summary_of(targets=targets, validation_passed=False)
    leak = {"checks": 1, "passed": False, "found": "window of bar 7"}
    assert "Missed: the look-ahead check." in summary_of(look_ahead=leak, validation_passed=False)


@pytest.mark.slow
def test_the_summary_fits_eighty_columns() -> None:
    lines = summary_of().splitlines()
    assert max(len(line) for line in lines) <= 80
    assert [line for line in lines if line.startswith("Verdict")]
    assert "logs/some_run/report.json" in lines[-1]


def test_versions_name_every_library_a_result_depends_on() -> None:
    found = versions()
    for name in (
        "python",
        "platform",
        "machine",
        "torch",
        "stable-baselines3",
        "numpy",
        "numba",
        "torch_cpu_capability",
    ):
        assert found[name]
    assert "not installed" not in found.values()
