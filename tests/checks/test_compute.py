"""GPU and threads: every way in which they can be wrong is told from not being there at all."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from src import machine_limits
from src.checks import compute as checks_compute
from src.checks.compute import gpu, product_error, threads
from src.checks.outcome import NOT_APPLICABLE, PASSED
from src.checks.setting import Setting
from src.monitoring import hardware
from tests.checks.settings import assert_failed, small_setting
from tests.recorded_nvml import RecordedNvml

NO_GPU = "NVML reports no GPU"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Decides what NVML and torch say; on this machine nothing of it is touched."""

    def has(*, nvml: bool, cuda: bool, free_gb: float = 20.0, off: float = 1e-7) -> None:
        def load() -> Any:
            if nvml:
                return RecordedNvml()
            raise ImportError(NO_GPU)

        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(hardware, "load_nvml", load)
        monkeypatch.setattr(checks_compute, "_driver", lambda: "575.51")
        monkeypatch.setattr(checks_compute, "product_error", lambda device: off)
        for name, value in {
            "is_available": cuda, "mem_get_info": (free_gb * 1e9, 24e9), "get_device_name": "Some GPU",
            "get_device_capability": (9, 0),
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, lambda value=value: value)

    return has


def test_without_a_gpu_the_check_is_not_applicable_and_never_passed(machine: Any) -> None:
    machine(nvml=False, cuda=False)
    outcome = gpu(small_setting())
    assert (outcome.status, outcome.measured) == (NOT_APPLICABLE, "")
    assert "no GPU" in outcome.reason


def test_a_gpu_that_a_run_leaves_alone_is_not_measured(machine: Any) -> None:
    machine(nvml=True, cuda=True)
    outcome = gpu(small_setting(device="cpu", llm_device="cpu"))
    assert (outcome.status, outcome.measured) == (NOT_APPLICABLE, "")


def test_a_gpu_that_computes_and_is_watched_passes(machine: Any) -> None:
    machine(nvml=True, cuda=True)
    outcome = gpu(small_setting())
    assert outcome.status == PASSED, outcome
    assert outcome.measured == "Some GPU, driver 575.51, 20.0 GB free"


@pytest.mark.parametrize("where", ["device", "llm_device"])
def test_cuda_asked_for_where_there_is_none_fails(machine: Any, where: str) -> None:
    machine(nvml=False, cuda=False)
    assert_failed(gpu(small_setting(**{where: "cuda"})), "asks for cuda, but there is no GPU", "auto or cpu")


def test_a_gpu_that_torch_does_not_find_fails(machine: Any) -> None:
    machine(nvml=True, cuda=False)
    assert_failed(gpu(small_setting()), "torch does not find it", "Install a build of torch for CUDA")


def test_a_gpu_that_cannot_be_watched_fails_unless_nobody_wants_to(machine: Any) -> None:
    machine(nvml=False, cuda=True)
    assert_failed(gpu(small_setting()), "NVML does not read it", "monitoring.monitor_gpu")
    assert gpu(small_setting(monitor_gpu=False)).status == PASSED


def test_a_gpu_without_free_memory_fails(machine: Any) -> None:
    machine(nvml=True, cuda=True, free_gb=0.5)
    assert_failed(gpu(small_setting()), "0.50 GB free", "nvidia-smi")


@pytest.mark.parametrize("where", ["mem_get_info", "get_device_name", "get_device_capability", "product_error"])
@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: no kernel image is available for execution on the device",
        "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
        "The NVIDIA driver on your system is too old (found version 11040).",
    ],
)
def test_a_gpu_that_refuses_to_compute_fails_with_what_to_look_at(
    machine: Any, monkeypatch: pytest.MonkeyPatch, where: str, said: str
) -> None:
    def refuses(*_: Any) -> Any:
        raise RuntimeError(f"{said}\nCUDA kernel errors might be asynchronously reported at some other API call.")

    machine(nvml=True, cuda=True)
    monkeypatch.setattr(checks_compute if where == "product_error" else torch.cuda, where, refuses)
    outcome = gpu(small_setting())
    for word in ("nvidia-smi", "driver", torch.__version__, "compute mode", "use the GPU"):
        assert_failed(outcome, said, word)
    assert "asynchronously" not in outcome.measured


@pytest.mark.parametrize("off", [0.1, float("nan")])
def test_a_gpu_that_computes_wrongly_fails(machine: Any, off: float) -> None:
    machine(nvml=True, cuda=True, off=off)
    assert_failed(gpu(small_setting()), "a matrix product on", "driver")


def test_the_product_of_a_sound_device_is_right_and_of_a_damaged_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert product_error(torch.device("cpu")) < 1e-6
    real = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: real(self) + 0.5)
    assert product_error(torch.device("cpu")) > 1e-3


# ---------------------------------------------------------------- threads


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> Any:
    """So many usable cores, and what an update takes with each number of threads."""

    def has(usable: int, **seconds_by_threads: float) -> None:
        seconds = {int(name[1:]): value for name, value in seconds_by_threads.items()}
        monkeypatch.setattr(checks_compute, "usable_cores", lambda: usable)
        monkeypatch.setattr(checks_compute, "update_seconds", lambda config, counts: {n: seconds[n] for n in counts})

    return has


def taking(n: int, **overrides: Any) -> Any:
    made = small_setting(**overrides)
    made.__dict__["threads"] = n
    return made


def test_a_second_thread_that_makes_it_slower_fails_and_is_said(cores: Any) -> None:
    cores(2, t1=0.010, t2=0.025)
    outcome = threads(taking(2))
    assert_failed(outcome, "2 threads take 2.5x the time of 1", "hardware.torch_threads to 1")


def test_a_slow_second_thread_that_no_run_takes_is_said_and_passes(cores: Any) -> None:
    cores(2, t1=0.010, t2=0.025)
    outcome = threads(taking(1))
    assert outcome.status == PASSED
    assert outcome.measured == "a run takes 1; 2 are 2.5x slower than 1"


def test_threads_that_help_pass(cores: Any) -> None:
    cores(8, t1=0.010, t2=0.006, t4=0.004, t8=0.003)
    outcome = threads(taking(8))
    assert outcome.status == PASSED
    assert "2 are 1.7x faster than 1" in outcome.measured


def test_one_thread_where_two_are_faster_passes_and_says_so(cores: Any) -> None:
    cores(8, t1=0.010, t2=0.006)
    outcome = threads(taking(1))
    assert outcome.status == PASSED
    assert outcome.measured == "a run takes 1; 2 are 1.7x faster than 1 (hardware.torch_threads: 2 would pay here)"


def test_of_many_threads_the_best_number_is_named(cores: Any) -> None:
    cores(16, t1=0.010, t2=0.006, t4=0.004, t8=0.008, t16=0.02)
    assert_failed(threads(taking(16)), "16 threads take 5.0x the time of 4", "hardware.torch_threads to 4")


def test_more_threads_than_cores_fail(cores: Any) -> None:
    cores(2)
    assert_failed(threads(taking(3, torch_threads=3)), "3 threads asked for on 2 usable cores", "at most")


def test_with_one_core_there_is_nothing_to_compare(cores: Any) -> None:
    cores(1)
    outcome = threads(taking(1))
    assert (outcome.status, outcome.measured) == (NOT_APPLICABLE, "")


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixteen idle cores under a limit of one and a half; threads are set as a run sets them."""
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    monkeypatch.setattr(machine_limits, "CGROUP", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda *_, **__: 16)
    monkeypatch.setattr(psutil, "cpu_percent", lambda **_: 0.0)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    return tmp_path


def as_a_run_sets_them() -> Setting:
    made = small_setting()
    del made.__dict__["threads"]
    return made


def test_under_a_limit_below_two_cores_a_run_takes_the_one_thread_that_is_said(container: Path) -> None:
    setting = as_a_run_sets_them()
    outcome = threads(setting)
    assert (outcome.status, outcome.measured) == (NOT_APPLICABLE, "")
    assert outcome.figures == {"usable_cores": 1, "threads": 1}
    assert setting.threads == 1


def test_a_slow_second_thread_is_measured_and_not_taken_from_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def crowded(config: object) -> Callable[[], None]:
        return lambda: time.sleep(0.004 * torch.get_num_threads())

    monkeypatch.setattr(checks_compute, "usable_cores", lambda: 2)
    monkeypatch.setattr(checks_compute, "_updater", crowded)
    try:
        assert_failed(threads(taking(2)), "2 threads take ", "hardware.torch_threads to 1")
        assert torch.get_num_threads() == 2, "as a run would go on"
    finally:
        torch.set_num_threads(1)


def test_measuring_leaves_the_threads_a_run_takes_and_the_random_numbers() -> None:
    setting = small_setting()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    seconds = checks_compute.update_seconds(setting.config, [1])
    assert list(seconds) == [1]
    assert seconds[1] > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == 1
