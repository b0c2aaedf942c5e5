"""HardwareMonitor as its users see it."""

from __future__ import annotations

import csv
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from src.monitoring import hardware, sampling
from src.testing_framework import HardwareMonitor
from tests.recorded_nvml import RecordedNvml

# Worked out by hand from tests/golden/nvml_trace.json: ten utilisation readings.
MEAN_UTILISATION = (0 + 4 + 17 + 14 + 19 + 63 + 98 + 96 + 97 + 22) / 10
PEAK_GPU_GB = 10.812915712


@pytest.fixture(autouse=True)
def all_gpus_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def wait_for(monitor: HardwareMonitor, samples: int) -> None:
    deadline = time.monotonic() + 20
    while len(monitor.metrics_history) < samples:
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def replayed() -> HardwareMonitor:
    """A monitor that has replayed the whole trace; further samples repeat the last reading."""
    monitor = HardwareMonitor(log_interval=0.01, nvml=RecordedNvml())
    with monitor:
        wait_for(monitor, 12)
    del monitor.metrics_history[12:]
    return monitor


def test_the_recorded_gpu_gives_its_average_and_peak(replayed: HardwareMonitor) -> None:
    assert replayed.get_average_gpu_utilization() == pytest.approx(MEAN_UTILISATION)
    assert replayed.get_peak_memory_usage() == pytest.approx(PEAK_GPU_GB)
    summary = replayed.get_summary()
    assert summary["gpu_available"] is True
    assert summary["gpu_name"] == "NVIDIA GeForce RTX 3090"
    assert summary["gpu_reason"] == ""
    assert summary["average_gpu_percent"] == pytest.approx(MEAN_UTILISATION)
    assert summary["peak_gpu_temperature_c"] == 70.0
    assert summary["failed_readings"]["gpu_utilization"] == 2
    assert summary["failure_reasons"]["gpu_utilization"].endswith("Unknown Error")


def test_without_a_gpu_the_gpu_getters_are_zero_and_the_summary_says_so() -> None:
    with HardwareMonitor(log_interval=0.05, monitor_gpu=False) as monitor:
        wait_for(monitor, 3)
    assert monitor.get_average_gpu_utilization() == 0.0
    assert monitor.get_peak_memory_usage() == 0.0
    assert monitor.get_peak_ram_usage() > 0.02
    summary = monitor.get_summary()
    assert summary["gpu_available"] is False
    assert summary["gpu_reason"] == "monitor_gpu is off"
    assert summary["average_gpu_percent"] is None
    assert summary["cores"] >= 1
    assert summary["average_tree_cores"] is not None


def test_the_real_bindings_never_raise_into_the_run() -> None:
    with HardwareMonitor(log_interval=0.05) as monitor:
        wait_for(monitor, 1)
    summary = monitor.get_summary()
    assert summary["gpu_available"] or summary["gpu_reason"]


def test_a_monitor_never_started_has_a_summary() -> None:
    monitor = HardwareMonitor()
    assert monitor.get_summary()["samples"] == 0
    assert monitor.get_summary()["gpu_available"] is False
    assert monitor.get_average_gpu_utilization() == 0.0
    monitor.stop_monitoring()


def test_samples_keep_to_the_grid_of_the_interval() -> None:
    with HardwareMonitor(log_interval=0.1, monitor_gpu=False) as monitor:
        wait_for(monitor, 12)
    elapsed = [float(sample["elapsed_s"]) for sample in monitor.metrics_history[:12]]
    off_grid = [(e - elapsed[0] + 0.05) % 0.1 - 0.05 for e in elapsed]
    # A sleep of the interval after each sample would be late by every sample's cost, one after another. The
    # shared machine may delay any one sample, but most must still stand on the grid.
    assert sorted(abs(x) for x in off_grid)[6] < 0.02


def test_a_slow_sample_skips_due_times_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    take = hardware.Sampler.sample

    def slow(self: hardware.Sampler, phase: str = "") -> hardware.Reading:
        time.sleep(0.13)
        return take(self, phase)

    monkeypatch.setattr(hardware.Sampler, "sample", slow)
    with HardwareMonitor(log_interval=0.05, monitor_gpu=False) as monitor:
        wait_for(monitor, 3)
    assert monitor.get_summary()["late_samples"] >= 4


def test_phases_label_the_samples_and_are_summed_up_apart() -> None:
    with HardwareMonitor(log_interval=0.02, monitor_gpu=False) as monitor:
        monitor.phase = "base"
        wait_for(monitor, 4)
        monitor.phase = "hybrid"
        wait_for(monitor, 8)
    labels = [sample["phase"] for sample in monitor.metrics_history]
    assert {"base", "hybrid"} <= set(labels) <= {"", "base", "hybrid"}
    assert labels == sorted(labels)
    phases = monitor.get_summary()["phases"]
    assert phases["base"]["samples"] == labels.count("base")


def test_stopping_takes_a_last_sample_and_starting_again_goes_on() -> None:
    monitor = HardwareMonitor(log_interval=60, monitor_gpu=False)
    monitor.start_monitoring()
    wait_for(monitor, 1)
    started = time.perf_counter()
    monitor.stop_monitoring()
    monitor.stop_monitoring()
    assert time.perf_counter() - started < 5
    assert len(monitor.metrics_history) == 2
    monitor.start_monitoring()
    monitor.start_monitoring()
    wait_for(monitor, 3)
    assert sum(thread.name == "hardware-monitor" for thread in threading.enumerate()) == 1
    monitor.stop_monitoring()
    assert len(monitor.metrics_history) == 4


def test_an_error_in_the_run_still_stops_the_thread() -> None:
    monitor = HardwareMonitor(log_interval=0.05, monitor_gpu=False)
    with pytest.raises(KeyError), monitor:
        raise KeyError("the run failed")
    assert not any(thread.name == "hardware-monitor" for thread in threading.enumerate())


class HangingNvml(RecordedNvml):
    """A driver whose power reading never returns, once it is told to hang."""

    def __init__(self) -> None:
        super().__init__()
        self.hang, self.hangs, self.released = False, threading.Event(), threading.Event()

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        if self.hang:
            self.hangs.set()
            self.released.wait(30)
        return super().nvmlDeviceGetPowerUsage(handle)


def test_a_driver_that_hangs_does_not_hold_up_the_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sampling, "STOP_WAIT_S", 0.2)
    nvml = HangingNvml()
    monitor = HardwareMonitor(log_interval=0.01, nvml=nvml)
    monitor.start_monitoring()
    wait_for(monitor, 2)
    nvml.hang = True
    assert nvml.hangs.wait(20)
    try:
        began = time.monotonic()
        monitor.stop_monitoring()
        assert time.monotonic() - began < 5
        assert not monitor.monitoring
        assert "did not return within 0.2 s" in monitor.get_summary()["thread_error"]
        assert "hardware monitor was abandoned" in caplog.text
    finally:
        nvml.released.set()


def test_the_csv_has_a_column_per_field_and_failed_readings_empty(replayed: HardwareMonitor, tmp_path: Path) -> None:
    path = tmp_path / "new" / "hardware.csv"
    replayed.save_metrics(path)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert tuple(rows[0]) == hardware.SAMPLE_FIELDS
    assert [row["gpu_percent"] for row in rows] == "0.0 4.0 17.0 14.0 19.0 63.0 98.0 - - 96.0 97.0 22.0".replace(
        "-", ""
    ).split(" ")
    assert rows[7]["gpu_power_w"] == "344.19"
    assert rows[8]["gpu_power_w"] == ""


@pytest.mark.parametrize("interval", [0, -1, float("nan")])
def test_an_interval_that_is_not_above_zero_is_refused(interval: float) -> None:
    with pytest.raises(ValueError, match=r"log_interval is .*above 0"):
        HardwareMonitor(log_interval=interval)
