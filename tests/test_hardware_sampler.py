"""What one sample of the machine holds, against readings taken another way."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pynvml
import pytest

from src import machine_limits
from src.benchmarks.machine import identity
from src.monitoring import hardware
from src.monitoring.hardware import SAMPLE_FIELDS, Sampler, find_device
from tests.recorded_nvml import RecordedNvml, read_trace

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def all_gpus_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture(autouse=True)
def _no_children_of_earlier_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that earlier tests of this process have started may end between two samples: they are not looked at."""
    earlier = {process.pid for process in psutil.Process().children(recursive=True)}
    children = psutil.Process.children

    def later(process: psutil.Process, recursive: bool = False) -> list[psutil.Process]:
        return [each for each in children(process, recursive) if each.pid not in earlier]

    monkeypatch.setattr(psutil.Process, "children", later)


def test_the_cores_are_those_that_a_container_leaves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("300000 100000\n")
    monkeypatch.setattr(machine_limits, "CGROUP", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert Sampler(use_gpu=False).cores == 3
    assert identity()["cores"] == 3


def child(program: str) -> subprocess.Popen[str]:
    """A child that runs `program`, has printed a line, and ends when its input closes."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{program}\nprint('ready', flush=True)\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.communicate("\n", timeout=20)


def test_a_recorded_trace_is_replayed_reading_by_reading_in_its_units() -> None:
    trace = read_trace()
    sampler = Sampler(nvml=RecordedNvml(trace))
    assert sampler.gpu_name == "NVIDIA GeForce RTX 3090"
    for recorded in trace["readings"]:
        sample = sampler.sample()
        used, power = recorded["memory_used_bytes"], recorded["power_mw"]
        assert sample["gpu_percent"] == recorded["gpu_percent"]
        assert sample["gpu_memory_used_gb"] == (None if used is None else used / 1e9)
        assert sample["gpu_memory_total_gb"] == (None if used is None else pytest.approx(25.769803776))
        assert sample["gpu_power_w"] == (None if power is None else power / 1000)
        assert sample["gpu_temperature_c"] == recorded["temperature_c"]


def test_utilisation_is_the_time_a_kernel_ran_and_not_memory() -> None:
    sampler = Sampler(nvml=RecordedNvml())
    samples = [sampler.sample() for _ in range(7)]
    assert samples[6]["gpu_percent"] == 98.0  # memory/total is 42 %, the memory controller's rate 74 %


def test_a_failed_reading_is_missing_counted_and_its_first_reason_kept() -> None:
    sampler = Sampler(nvml=RecordedNvml())
    for _ in range(12):
        sampler.sample()
    assert sampler.failures == {"gpu_utilization": 2, "gpu_memory": 1, "gpu_power": 1, "gpu_temperature": 1}
    assert "Unknown Error" in sampler.reasons["gpu_utilization"]
    assert "GPU is lost" in sampler.reasons["gpu_power"]


def test_without_a_gpu_the_reason_is_kept_and_the_readings_are_missing() -> None:
    class NoDriver(RecordedNvml):
        def nvmlInit(self) -> None:
            raise self.NVMLError("Driver Not Loaded")

    sampler = Sampler(nvml=NoDriver())
    sample = sampler.sample()
    assert not sampler.gpu_available
    assert "Driver Not Loaded" in sampler.gpu_reason
    assert sample["gpu_percent"] is None
    assert sampler.failures == {}


def test_the_gpu_is_left_alone_when_not_wanted() -> None:
    nvml = RecordedNvml()
    sampler = Sampler(use_gpu=False, nvml=nvml)
    assert sampler.sample()["gpu_percent"] is None
    assert not nvml.open
    assert sampler.gpu_reason == "monitor_gpu is off"


@pytest.mark.parametrize(
    ("visible", "index"),
    [
        (None, 0),
        ("0", 0),
        ("2,0", 2),
        (" 1 ,2", 1),
        ("GPU-3f6b2c1e-58d4-9a07-b1c2-7e4d90a5f613", 2),
        ("GPU-3f6b", 2),
        ("", None),
        ("-1", None),
        ("3", None),
        ("GPU-0000", None),  # two devices begin like this
        ("GPU-ffff", None),
        ("none", None),
    ],
)
def test_the_gpu_watched_is_the_one_that_cuda_is_shown(visible: str | None, index: int | None) -> None:
    handle, reason = find_device(RecordedNvml(n_devices=3, traced=2), visible)
    assert handle == index
    assert bool(reason) == (index is None)


def test_the_environment_variable_decides_which_gpu_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    nvml = RecordedNvml(n_devices=2, traced=1)
    sampler = Sampler(nvml=nvml)
    assert sampler.gpu_name == "NVIDIA GeForce RTX 3090"
    assert sampler.sample()["gpu_percent"] == 0.0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not Sampler(nvml=RecordedNvml(n_devices=2)).gpu_available


def test_closing_leaves_nvml_and_keeps_the_name() -> None:
    nvml = RecordedNvml()
    sampler = Sampler(nvml=nvml)
    assert nvml.open
    sampler.close()
    sampler.close()
    assert not nvml.open
    assert sampler.gpu_name


def test_the_recorded_module_has_the_names_of_the_real_one() -> None:
    used = [name for name in vars(hardware.Nvml) if name.startswith("nvml")] + ["NVMLError", "NVML_TEMPERATURE_GPU"]
    assert len(used) == 12
    for name in used:
        assert hasattr(pynvml, name), name
        assert hasattr(RecordedNvml, name), name


def test_every_field_is_in_every_sample_and_cpu_comes_with_the_second() -> None:
    sampler = Sampler(use_gpu=False)
    first = sampler.sample("warm up")
    time.sleep(0.1)
    second = sampler.sample("base")
    assert tuple(first) == tuple(second) == SAMPLE_FIELDS
    assert first["phase"] == "warm up"
    assert first["tree_cpu_percent"] is None
    assert first["machine_cpu_percent"] is None
    assert second["tree_cpu_percent"] is not None
    assert second["interval_s"] == pytest.approx(float(second["elapsed_s"]) - float(first["elapsed_s"]))
    assert sampler.failures == {}


def test_a_busy_process_tree_shows_the_processor_time_it_spent() -> None:
    sampler = Sampler(use_gpu=False)
    sampler.sample()
    before, wall = time.process_time(), time.perf_counter()
    while time.perf_counter() - wall < 0.5:
        pass
    sample = sampler.sample()
    spent_percent = 100 * (time.process_time() - before) / (time.perf_counter() - wall)
    assert float(sample["tree_cpu_percent"]) == pytest.approx(spent_percent, abs=12)
    assert 0 < float(sample["machine_cpu_percent"]) <= 100


def test_a_childs_processor_time_counts() -> None:
    sampler = Sampler(use_gpu=False)
    sampler.sample()
    start = time.perf_counter()
    busy = child("import time\nwhile time.process_time() < 0.4: pass\nspent = time.process_time()")
    sample = sampler.sample()
    elapsed = time.perf_counter() - start
    end(busy)
    assert float(sample["tree_cpu_percent"]) * elapsed / 100 > 0.35


def test_a_childs_own_memory_counts() -> None:
    sampler = Sampler(use_gpu=False)
    before = sampler.sample()
    large = child("held = b'x' * (100 * 1024 * 1024)")
    after = sampler.sample()
    end(large)
    assert float(after["tree_rss_gb"]) - float(before["tree_rss_gb"]) > 0.1
    assert after["processes"] == int(before["processes"]) + 1


def test_pages_that_processes_share_count_once(tmp_path: Path) -> None:
    table = tmp_path / "table"
    with open(table, "wb") as file:
        file.truncate(300 * MIB)
    touch = (
        "import mmap\n"
        f"file = open({str(table)!r}, 'rb')\n"
        "held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "total = sum(held[i] for i in range(0, len(held), mmap.PAGESIZE))"
    )
    sampler = Sampler(use_gpu=False)
    before = sampler.sample()
    children = [child(touch) for _ in range(3)]
    after = sampler.sample()
    for process in children:
        end(process)
    grown_mib = (float(after["tree_rss_gb"]) - float(before["tree_rss_gb"])) * 1e9 / MIB
    assert grown_mib < 450  # 900 if each process counted its own
    assert float(after["tree_rss_gb"]) * 1e9 / MIB > 300


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="this kernel tells no PSS")
def test_pages_inherited_from_a_parent_count_once() -> None:
    """300 MB that three forked children share with their parent, copy-on-write: own pages of each by resident minus
    shared."""
    sampler = Sampler(use_gpu=False)
    assert sampler.memory_measure == "pss"
    before = sampler.sample()
    family = child(
        "import os, signal\n"
        "held = b'x' * (300 * 1024 * 1024)\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0: signal.pause()\n"
    )
    after = sampler.sample()
    for process in psutil.Process(family.pid).children():
        process.kill()
    end(family)
    assert after["processes"] == int(before["processes"]) + 4
    grown_mib = (float(after["tree_rss_gb"]) - float(before["tree_rss_gb"])) * 1e9 / MIB
    assert 290 < grown_mib < 400  # 1,200 if each process counted its own


def test_proportional_sizes_are_read_rarely_and_estimated_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    now, reads = 100.0, []

    def pss(pid: int) -> int:
        nonlocal now
        now += 0.05
        reads.append(pid)
        return 400

    monkeypatch.setattr(hardware, "_pss", pss)
    sampler = Sampler(use_gpu=False)
    monkeypatch.setattr(hardware.time, "perf_counter", lambda: now)
    reads.clear()
    assert sampler._less_what_is_shared(1000, [1, 2]) == 800
    now += 9.0  # the reading took 0.1 s, a hundredth of 10 s
    assert sampler._less_what_is_shared(1500, [1, 2]) == 1300
    assert reads == [1, 2]
    assert sampler._less_what_is_shared(1600, [1, 2, 3]) == 1200, "another process: read at once"
    now += 100.0
    assert sampler._less_what_is_shared(9000, [1, 2, 3]) == 1200
    assert len(reads) == 8


def test_where_the_kernel_tells_no_proportional_size_the_old_measure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_pss", lambda pid: None)
    sampler = Sampler(use_gpu=False)
    assert sampler.memory_measure == "rss less shared"
    assert sampler._less_what_is_shared(1000, [1, 2]) == 1000


def test_a_failing_processor_reading_does_not_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Sampler(use_gpu=False)

    def broken() -> None:
        raise OSError("cannot read /proc/stat")

    monkeypatch.setattr(hardware.psutil, "cpu_times", broken)
    sample = sampler.sample()
    assert sample["machine_cpu_percent"] is None
    assert float(sample["tree_rss_gb"]) > 0
    assert sampler.failures == {"machine_cpu": 1}
    assert "cannot read" in sampler.reasons["machine_cpu"]


def test_averages_over_time_weigh_a_short_last_interval_by_its_length() -> None:
    history = [
        {"tree_cpu_percent": None, "interval_s": None, "gpu_percent": 10.0},
        {"tree_cpu_percent": 100.0, "interval_s": 3.0, "gpu_percent": None},
        {"tree_cpu_percent": 200.0, "interval_s": 1.0, "gpu_percent": 40.0},
    ]
    assert hardware.mean_over_time(history, "tree_cpu_percent") == 125.0
    assert hardware.mean(history, "gpu_percent") == 25.0
    assert hardware.peak(history, "gpu_percent") == 40.0
    assert hardware.peak([], "gpu_percent") is None
    assert hardware.mean_over_time([], "tree_cpu_percent") is None
