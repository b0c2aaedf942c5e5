"""Compute checks: the GPU and its driver, torch's CPU threads."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch

from src.agent.training import ACTIVATIONS
from src.checks.outcome import Outcome, failed, not_applicable, passed
from src.checks.setting import Setting
from src.configuration import Configuration
from src.machine_limits import usable_cores
from src.monitoring.hardware import GB, Sampler
from src.trading.layout import N_ACTIONS, N_OBS

NEEDED_GPU_GB = 1.0
"""GPU memory of a run: the CUDA context and the networks."""
SLOWER = 1.25
"""A slowdown against the best number of threads that exceeds measurement noise."""
_ROUNDS, _UPDATES = 5, 2
_ENOUGH_S = 3.0
"""On a busy machine a second thread can make an update twenty times slower; two rounds are then enough."""


def gpu(setting: Setting) -> Outcome:
    """Check that torch gives the same results on GPU and CPU, and that NVML reads the GPU."""
    config = setting.config
    wanted = config.hardware.device
    sampler = Sampler()
    try:
        watched, reason, name = sampler.gpu_available, sampler.gpu_reason, sampler.gpu_name
    finally:
        sampler.close()
    build = f"torch {torch.__version__}"
    if wanted == "cpu" and config.llm.llm_device == "cpu":
        return not_applicable("hardware.device and llm.llm_device are cpu: a run leaves the GPU alone")
    if not torch.cuda.is_available():
        if watched:
            return failed(
                f"NVML reads {name}, but torch does not find it",
                f"Install a build of torch for CUDA ({build} is for {torch.version.cuda or 'the CPU only'}) and a "
                f"driver at least as new as that CUDA, and see that CUDA_VISIBLE_DEVICES does not hide the GPU; or set "
                f"hardware.device and llm.llm_device to cpu.",
            )
        if "cuda" in (wanted, config.llm.llm_device):
            return failed(
                "the configuration asks for cuda, but there is no GPU",
                f"Set hardware.device and llm.llm_device to auto or cpu, or install the GPU's driver ({reason}).",
            )
        return not_applicable("no GPU: everything is computed on the CPU", nvml=reason)
    try:
        return _on_cuda(config, watched, reason)
    except RuntimeError as error:  # every error of CUDA's is one
        return failed(
            f"torch finds a GPU and cannot compute on it: {str(error).strip().partition(chr(10))[0]}",
            f"Check with nvidia-smi that the driver is new enough for CUDA {torch.version.cuda} ({build}; a build for "
            f"another CUDA supports other GPUs) and that the compute mode is Default (nvidia-smi -c 0). Stop other "
            f"programs that use the GPU; or set hardware.device and llm.llm_device to cpu.",
        )


def _on_cuda(config: Configuration, watched: bool, reason: str) -> Outcome:
    free, total = (amount / GB for amount in torch.cuda.mem_get_info())
    name = torch.cuda.get_device_name()
    figures: dict[str, Any] = {
        "name": name, "driver": _driver(), "cuda": torch.version.cuda, "free_gb": free, "total_gb": total,
        "capability": list(torch.cuda.get_device_capability()), "watched": watched,
    }  # fmt: skip
    if free < NEEDED_GPU_GB:
        return failed(
            f"{free:.2f} GB free on {name}, of {NEEDED_GPU_GB:g} GB needed",
            "Stop other programs that use the GPU (nvidia-smi lists them), or set hardware.device and llm.llm_device "
            "to cpu.",
            **figures,
        )
    figures["error"] = off = product_error(torch.device("cuda"))
    if not off < 1e-3:
        return failed(
            f"a matrix product on {name} is {off:.1e} off the CPU's",
            "Update the GPU's driver. If that does not help, the GPU or its memory is damaged (nvidia-smi -q shows ECC "
            "errors).",
            **figures,
        )
    if not watched and config.monitoring.monitor_gpu:
        return failed(
            f"torch computes on {name}, but NVML does not read it",
            f"Check that nvidia-ml-py is installed and the driver's libnvidia-ml can be found ({reason}), or set "
            f"monitoring.monitor_gpu to false: GPU utilisation is then not measured.",
            **figures,
        )
    return passed(f"{name}, driver {figures['driver'] or 'unknown'}, {free:.1f} GB free", **figures)


def product_error(device: torch.device) -> float:
    """Largest difference between a matrix product on the device and on the CPU."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=generator) for _ in range(2))
    precise = left.double() @ right.double()
    return float(((left.to(device) @ right.to(device)).cpu().double() - precise).abs().max() / precise.abs().max())


def _driver() -> str | None:
    """The driver's version; None if NVML does not report it."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            said = pynvml.nvmlSystemGetDriverVersion()
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
    return said.decode() if isinstance(said, bytes) else str(said)


def threads(setting: Setting) -> Outcome:
    """Time an update of PPO's networks with one thread, with two, and with as many as a run would use."""
    hardware, usable = setting.config.hardware, usable_cores()
    asked = hardware.torch_threads
    if asked is not None and asked > usable:
        return failed(
            f"{asked} threads asked for on {usable} usable core{'s' if usable > 1 else ''}",
            f"Set hardware.torch_threads to {usable} at most, or to null; taskset and a container's limit count.",
            threads=asked,
            usable_cores=usable,
        )
    taken = setting.threads
    if usable == 1:
        return not_applicable("one usable core: torch takes one thread", usable_cores=1, threads=taken)
    seconds = update_seconds(setting.config, sorted({1, 2, taken, *(2**n for n in range(2, 8) if 2**n < taken)}))
    torch.set_num_threads(taken)
    best = min(seconds, key=lambda n: seconds[n])
    figures = {"usable_cores": usable, "threads": taken, "best": best, "update_s": seconds}
    ratio = seconds[taken] / seconds[best]
    if ratio > SLOWER and best < taken:
        return failed(
            f"{taken} threads take {ratio:.1f}x the time of {best}",
            f"Set hardware.torch_threads to {best}, or stop other programs that keep the cores busy: a thread on a "
            f"busy core holds up all others.",
            **figures,
        )
    second = seconds[2] / seconds[1]
    word = f"{second:.1f}x slower" if second > 1 else f"{1 / second:.1f}x faster"
    worth = f" (hardware.torch_threads: {best} would pay here)" if ratio > SLOWER else ""
    return passed(f"a run takes {taken}; 2 are {word} than 1{worth}", **figures)


def update_seconds(config: Configuration, counts: Sequence[int]) -> dict[int, float]:
    """Median seconds of a minibatch update of the configured networks, by number of threads; measured in turns so that
    all see the same load."""
    update = _updater(config)
    spent: dict[int, list[float]] = {n: [] for n in counts}
    started = time.perf_counter()
    for done in range(_ROUNDS):
        if done >= 2 and time.perf_counter() - started > _ENOUGH_S:
            break
        for n in counts:
            torch.set_num_threads(n)
            update()  # the first one after a change starts the threads
            began = time.perf_counter()
            for _ in range(_UPDATES):
                update()
            spent[n].append((time.perf_counter() - began) / _UPDATES)
    return {n: statistics.median(times) for n, times in spent.items()}


def _updater(config: Configuration) -> Callable[[], None]:
    architecture = config.training.policy_kwargs
    activation = ACTIVATIONS[architecture.activation_fn]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = [
            _network([N_OBS, *hidden, outputs], activation)
            for hidden, outputs in ((architecture.net_arch.pi, N_ACTIONS), (architecture.net_arch.vf, 1))
        ]
        rows = torch.randn(min(config.hardware.batch_size, 4096), N_OBS)
    adam = torch.optim.Adam([p for network in networks for p in network.parameters()], fused=True)

    def update() -> None:
        adam.zero_grad()
        sum(network(rows).square().mean() for network in networks).backward()
        adam.step()

    return update


def _network(widths: Sequence[int], activation: type[torch.nn.Module]) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for before, after in pairwise(widths):
        layers += [torch.nn.Linear(before, after), activation()]
    return torch.nn.Sequential(*layers[:-1])
