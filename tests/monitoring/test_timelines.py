"""Courses over time fit a report and keep what matters: peaks, means, the end, the order of phases."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.monitoring.hardware import SAMPLE_FIELDS
from src.monitoring.timelines import hardware_timeline, learning_curves
from src.report.schema import check_report
from tests.report.page_report import full_report
from tests.small_runs import finished

READINGS = st.lists(
    st.fixed_dictionaries(
        {
            "interval_s": st.none() | st.floats(0.1, 10),
            "phase": st.sampled_from(["", "data", "base"]),
            "machine_cpu_percent": st.none() | st.floats(0, 100),
            "tree_cpu_percent": st.none() | st.floats(0, 400),
            "tree_rss_gb": st.none() | st.floats(0.1, 5),
            "gpu_percent": st.none() | st.floats(0, 100),
        }
    ),
    max_size=60,
)


def samples(readings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Whole samples, a time apart that their intervals say."""
    elapsed = np.cumsum([0.5 if r["interval_s"] is None else r["interval_s"] for r in readings]).tolist()
    return [{**dict.fromkeys(SAMPLE_FIELDS), **r, "elapsed_s": at} for r, at in zip(readings, elapsed, strict=True)]


@given(READINGS, st.integers(1, 25))
def test_a_timeline_is_short_and_keeps_the_end_and_the_peak(readings: list[dict[str, Any]], most: int) -> None:
    history = samples(readings)
    timeline = hardware_timeline(history, most)
    n = len(timeline["elapsed_s"])
    assert n <= most
    assert all(len(column) == n for name, column in timeline.items() if name != "phases")
    memory = [r["tree_rss_gb"] for r in readings if r["tree_rss_gb"] is not None]
    kept = [value for value in timeline["tree_rss_gb"] if value is not None]
    assert max(kept, default=None) == (pytest.approx(max(memory), abs=5e-4) if memory else None)
    for column, field, scale in (
        ("machine_cpu_percent", "machine_cpu_percent", 1),
        ("tree_cores", "tree_cpu_percent", 100),
    ):
        values = [r[field] / scale for r in readings if r[field] is not None]
        drawn = [value for value in timeline[column] if value is not None]
        assert bool(values) == bool(drawn)
        assert all(min(values) - 0.06 <= value <= max(values) + 0.06 for value in drawn)
    assert ("gpu_percent" in timeline) == any(r["gpu_percent"] is not None for r in readings)
    if history:
        assert timeline["elapsed_s"][-1] == pytest.approx(history[-1]["elapsed_s"], abs=0.006)


def test_a_bucket_is_the_mean_over_the_time_its_samples_stand_for() -> None:
    history = samples(
        [
            {
                "interval_s": 1.0,
                "phase": "a",
                "machine_cpu_percent": 10.0,
                "tree_cpu_percent": None,
                "tree_rss_gb": 1.0,
            },
            {
                "interval_s": 3.0,
                "phase": "a",
                "machine_cpu_percent": 50.0,
                "tree_cpu_percent": 150.0,
                "tree_rss_gb": 0.5,
            },
            {
                "interval_s": 2.0,
                "phase": "b",
                "machine_cpu_percent": 20.0,
                "tree_cpu_percent": 50.0,
                "tree_rss_gb": 0.7,
            },
        ]
    )
    assert hardware_timeline(history, 2) == {
        "elapsed_s": [4.0, 6.0],
        "machine_cpu_percent": [40.0, 20.0],
        "tree_cores": [1.5, 0.5],
        "tree_rss_gb": [1.0, 0.7],
        "phases": [{"phase": "a", "begin_s": 0.0, "end_s": 4.0}, {"phase": "b", "begin_s": 4.0, "end_s": 6.0}],
    }


@given(READINGS)
def test_phases_follow_each_other(readings: list[dict[str, Any]]) -> None:
    history = samples(readings)
    phases = hardware_timeline(history)["phases"]
    for before, after in pairwise(phases):
        assert before["end_s"] <= after["begin_s"] + 1e-9
        assert before["phase"] != after["phase"] or before["end_s"] < after["begin_s"]
    assert {phase["phase"] for phase in phases} == {r["phase"] for r in readings} - {""}


def test_records_become_a_curve_a_phase() -> None:
    records = [
        {"phase": "base", "num_timesteps": 100 * k, "mean_episode_reward": None if k == 1 else -1.0 / k}
        | {"train/entropy_loss": -0.7, "train/approx_kl": 0.01 * k}
        for k in range(1, 8)
    ]
    other = {"phase": "hybrid", "num_timesteps": 50, "mean_episode_reward": -0.25}
    base, hybrid = learning_curves([*records, other], 3, most=4)
    assert base == {
        "phase": "base",
        "seed": 3,
        "timesteps": [100, 300, 500, 700],
        "mean_episode_reward": [None, -1 / 3, -1 / 5, -1 / 7],
        "approx_kl": [0.01, 0.03, 0.05, 0.07],
        "entropy": [0.7] * 4,
    }
    assert hybrid == {"phase": "hybrid", "seed": 3, "timesteps": [50], "mean_episode_reward": [-0.25]}


def test_a_real_runs_samples_and_records_fit_the_schema() -> None:
    run = finished("plain")
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    curves = learning_curves(map(json.loads, lines), 0)
    assert {curve["phase"] for curve in curves} == {"base", "rl_only", "hybrid", "hybrid_placebo"}
    timeline = hardware_timeline(run.framework.hardware_monitor.metrics_history)
    report = full_report(3, 1, n_charted=0) | {"hardware_timeline": timeline, "learning": {"curves": curves}}
    check_report(json.loads(json.dumps(report)), "report.json")
