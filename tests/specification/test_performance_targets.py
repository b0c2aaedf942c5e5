"""The targets of both modes by default, measured against the figures that the specification gives for them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from src.report.facts import is_passed, judge_targets
from src.runs.ledger import Ledger
from src.runs.phase_targets import phase_facts, phase_targets
from src.runs.results import _measured
from src.testing_framework import create_test_config
from tests.specification.interfaces import REPORT_EXAMPLE


def example(**changes: float | None) -> dict[str, float | None]:
    """What the specification's example measured."""
    return {
        "gpu_utilization": 92.5, "execution_time": 2847.3, "cache_hit_rate": 0.78, "peak_memory": 18.2, **changes
    }  # fmt: skip


def test_the_default_targets_are_those_of_the_table() -> None:
    config = create_test_config("hardware_maximized")
    targets = config.validation
    assert (targets.gpu_utilization_target, targets.cache_hit_rate_target) == (0.9, 0.7)
    assert (targets.max_execution_time_s, targets.max_peak_memory_gb) == (3600.0, 24.0)
    assert config.base_timesteps == config.production_timesteps / 10
    pipeline = create_test_config("pipeline")
    phases = [pipeline.sections[f"phase{n}"] for n in (1, 2, 3)]
    assert [phase.estimated_duration for phase in phases] == [600.0, 3600.0, 2400.0]  # type: ignore[attr-defined]
    assert [phase.gpu_utilization_target for phase in phases] == [0.3, 0.8, 0.9]  # type: ignore[attr-defined]
    assert pipeline.validation.max_execution_time_s == 5400.0


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, None),
        ({"peak_memory": 24.1}, "peak_memory"),
        ({"execution_time": 3601.0}, "execution_time"),
        ({"gpu_utilization": 89.0}, "gpu_utilization"),
        ({"gpu_utilization": None}, "gpu_utilization"),
    ],
)
def test_the_example_meets_them_and_a_figure_beyond_does_not(changes: dict[str, Any], missed: str | None) -> None:
    targets = judge_targets(create_test_config().validation, example(**changes), {})
    assert is_passed(targets) == (missed is None)
    for name, target in targets.items():
        if target["required"]:
            assert (target["status"] == "met") == (name != missed)
    assert targets["cache_hit_rate"]["status"] == "met"


class Gpu:
    """A monitor that has watched a GPU which was busy for this share of the time, in percent."""

    def __init__(self, percent: float, available: bool = True) -> None:
        self._percent = percent
        self._available = available

    def get_summary(self) -> dict[str, Any]:
        return {"gpu_available": self._available, "gpu_reason": "" if self._available else "NVML is missing"}

    def get_average_gpu_utilization(self) -> float:
        return self._percent

    def get_peak_memory_usage(self) -> float:
        return 18.2

    def get_peak_ram_usage(self) -> float:
        return 3.0


def report_of(monitor: Gpu, device: str, **options: Any) -> dict[str, Any]:
    """What a run that took an instant reports of the machine."""
    empty = SimpleNamespace(get_stats=dict)
    bench: Any = SimpleNamespace(
        config=create_test_config(**options), monitor=monitor, cache_hit_rate=lambda: None, total_time=2847.3,
        phase_times={}, fusion=empty, pool=empty, released_bytes=0, market=None, advisor=None, summary=dict,
        cache=SimpleNamespace(get_stats=lambda: {"hits": 0, "misses": 0}),
    )  # fmt: skip
    return _measured(bench, {"training": []}, device, {})


def test_utilisation_is_in_percent_and_required_where_cuda_trains() -> None:
    report = report_of(Gpu(92.5), "cuda")
    assert (report["gpu_utilization"], report["peak_memory_gb"]) == (92.5, REPORT_EXAMPLE["peak_memory_gb"])
    target = report["targets"]["gpu_utilization"]
    assert (target["target"], target["measured"], target["status"], target["required"]) == (90.0, 92.5, "met", True)
    assert report["validation_passed"] is True


def test_one_that_is_missed_says_what_would_reach_it() -> None:
    report = report_of(Gpu(45.0), "cuda")
    assert report["validation_passed"] is False
    assert "--seeds" in report["targets"]["gpu_utilization"]["remedy"]
    assert report_of(Gpu(45.0), "cuda", gpu_utilization_target=40)["validation_passed"] is True


@pytest.mark.parametrize(
    ("monitor", "device", "options", "reason", "passed"),
    [
        (Gpu(3.0), "cpu", {}, "trained on the CPU", True),
        (Gpu(0.0, available=False), "cpu", {}, "no GPU", True),
        (Gpu(3.0), "cuda", {"monitor_gpu": False}, "monitoring.monitor_gpu is false", True),
        (Gpu(0.0, available=False), "cuda", {}, "NVML is missing", False),
    ],
)
def test_where_nothing_trains_on_a_gpu_or_none_is_watched_it_decides_nothing(
    monitor: Gpu, device: str, options: dict[str, Any], reason: str, passed: bool
) -> None:
    report = report_of(monitor, device, **options)
    assert report["gpu_utilization"] is None
    target = report["targets"]["gpu_utilization"]
    assert (target["status"], target["reason"], target["required"]) == ("not_applicable", reason, not passed)
    assert report["validation_passed"] is passed


def test_the_phases_of_the_pipeline_have_theirs() -> None:
    config = create_test_config("pipeline")
    ledger = Ledger(Path(), ("phase1", "phase2", "phase3"))
    for entry, seconds, share in zip(ledger.phases.values(), (599.0, 3599.0, 2401.0), (0.1, 0.85, 0.85), strict=True):
        entry.seconds, entry.gpu_utilization = seconds, share
    targets = phase_targets(config, ledger)
    missed = {name for name, target in targets.items() if target["status"] == "missed"}
    assert missed == {"phase3_duration", "phase1_gpu_utilization", "phase3_gpu_utilization"}
    required = {name for name, target in targets.items() if target["required"]}
    assert required == {*(f"phase{n}_duration" for n in (1, 2, 3)), "phase2_gpu_utilization", "phase3_gpu_utilization"}
    assert targets["phase2_gpu_utilization"]["measured"] == phase_facts(ledger)["phase2"]["gpu_utilization"] == 85.0
    on_cpu = phase_targets(config, ledger, gpu_counts=False, why_not="no GPU")
    assert not any(target["required"] for name, target in on_cpu.items() if name.endswith("gpu_utilization"))
