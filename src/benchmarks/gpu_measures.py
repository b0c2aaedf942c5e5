"""What a GPU is measured at: timesteps a second of populations, memory, advice a second, and a whole run."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from src.advisor.models import load_model
from src.advisor.prompts import load_prompts
from src.advisor.scoring import LLMScorer
from src.agent.learner.population import Population
from src.agent.learner.population_network import Precision
from src.agent.market import Market
from src.agent.population_training import train_population
from src.agent.rollout_plan import RolloutPlan
from src.agent.settings import TrainingSettings
from src.benchmarks.gpu_checks import WrongFigure
from src.benchmarks.gpu_learner import members_to_train
from src.benchmarks.workloads import situations_to_judge
from src.errors import UserError
from src.monitoring.hardware import mean
from src.monitoring.sampling import BackgroundSampling

WARM_UP: Final = 3
"""Rollouts before the clock starts: libraries set themselves up, and CUDA graphs are recorded."""
SAMPLED_EVERY_S: Final = 0.1
ALIKE_ADVICE: Final = 0.3
"""Mean difference of log-probabilities between bf16 and float32 that is rounding, as the scorer has it."""
COMPARED_ADVICE: Final = 8
ROOT: Final = Path(__file__).resolve().parents[2]


class _Timed:
    """Called after every rollout: the clock starts after the warm-up and stops the training when its time is up."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self._device, self._seconds = device, seconds
        self.rollouts, self.began, self.ended = 0, 0.0, 0.0
        self.parts_s: dict[str, float] = {}
        self._unix_began = 0.0
        self._before: dict[str, float] = {}

    def __call__(self, population: Population) -> bool:
        _wait(self._device)
        now = time.perf_counter()
        self.rollouts += 1
        parts = population.models[0].clock.facts()["seconds"]
        if self.rollouts == WARM_UP:
            self.began, self._unix_began, self._before = now, time.time(), parts
        self.ended = now
        self.parts_s = {part: took - self._before.get(part, 0.0) for part, took in parts.items()}
        return self.rollouts <= WARM_UP or now - self.began < self._seconds

    @property
    def measured(self) -> int:
        """Rollouts within the time that was measured."""
        return max(0, self.rollouts - WARM_UP)

    @property
    def seconds(self) -> float:
        """The time they took."""
        return self.ended - self.began

    def utilisation(self, monitor: BackgroundSampling) -> float | None:
        """NVML's mean over the samples within the time, percent; None where none was read."""
        span = self._unix_began, self._unix_began + self.seconds
        within = [r for r in monitor.metrics_history if span[0] <= float(r["time"] or 0.0) <= span[1]]
        return mean(within, "gpu_percent")


def measure_population(
    device: torch.device, market: Market, plan: RolloutPlan, settings: TrainingSettings, members: int, seconds: float,
    precision: Precision = "float32", graphs: bool | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train this many members together for some seconds after the warm-up: speed, NVML's utilisation, and memory.

    Bytes: `predicted` by `Population.memory_bytes`, `measured` by torch (None on a CPU). `parts_s`: seconds of the
    first member's clock, which waits where the device is waited for. Raises UserError where CUDA graphs cannot be
    recorded.
    """
    models, generators = members_to_train(market, plan, settings, members)
    predicted = Population.memory_bytes(models, precision)
    held_before = _start_counting(device)
    timed = _Timed(device, seconds)
    with BackgroundSampling(SAMPLED_EVERY_S, monitor_gpu=device.type == "cuda") as monitor:
        train_population(
            models, plan, ["base"] * members, [[] for _ in range(members)], generators,
            device=device, precision=precision, graphs=graphs, after_rollout=timed,
        )  # fmt: skip
    timesteps = timed.measured * members * plan.n_envs * plan.n_steps
    return {
        "members": members,
        "precision": precision,
        "steps_per_s": timesteps / timed.seconds,
        "rollouts": timed.measured,
        "seconds": timed.seconds,
        "gpu_percent": timed.utilisation(monitor),
        "parts_s": {part: took for part, took in timed.parts_s.items() if took > 0.0},
        "predicted_bytes": predicted,
        "measured_bytes": _counted(device, held_before),
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _start_counting(device: torch.device) -> int:
    """Reset the peak of torch's memory on a GPU; returns what is held now."""
    if device.type != "cuda":
        return 0
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _counted(device: torch.device, before: int) -> int | None:
    """The peak since, above what was held; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else None


def measure_advice(device: torch.device, model: str, seconds: float, most: int) -> dict[str, Any]:
    """Advice a second of a language model in the device's precision, checked against float32 on the CPU.

    Raises WrongFigure where the two differ by more than rounding, UserError for a model that is not here.
    """
    loaded = load_model(model, device=device.type, threads=1)
    held_before = _start_counting(device)
    scorer = LLMScorer(loaded, load_prompts(), None)
    situations = situations_to_judge(most)
    compared = situations[:COMPARED_ADVICE]
    found = scorer.score(compared)
    exact = LLMScorer(load_model(model, device="cpu", threads=1), load_prompts()).score(compared)
    legal = np.isfinite(exact)
    differences = np.zeros_like(exact)
    differences[legal] = np.abs(found[legal] - exact[legal])
    off = float(differences[legal].mean())
    if not off <= ALIKE_ADVICE:
        at = int(np.nan_to_num(differences, nan=np.inf).max(axis=1).argmax())
        raise WrongFigure(
            f"{model} in {loaded.dtype} is {off:.2g} of a log-probability off float32 on the CPU, situation "
            f"{int(situations[at])}",
            {"what": "log-probabilities", "situation": int(situations[at]), "device": found[at][legal[at]].tolist(),
             "cpu": exact[at][legal[at]].tolist()},
        )  # fmt: skip
    if seconds > 0.0:
        scorer.score(situations[: scorer.batch_size])  # warms up
    began, asked = time.perf_counter(), 0
    while asked == 0 or time.perf_counter() - began < seconds:
        asked += len(scorer.score(situations))
    took = time.perf_counter() - began
    each = scorer.prompt_bytes()
    return {
        "model": model,
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "advices_per_s": asked / took,
        "batch_size": scorer.batch_size,
        "halvings": scorer.stats.halvings,
        "difference": off,
        "same_best": float((found.argmax(axis=1) == exact.argmax(axis=1)).mean()),
        "predicted_bytes": None if each is None else each * scorer.batch_size,
        "measured_bytes": _counted(device, held_before),
    }


def measure_run(options: Sequence[str], seconds: float) -> dict[str, Any]:
    """A hardware-maximized run as a user starts it, within `seconds`: its exit code, times and targets.

    Raises UserError where it ends otherwise than a run does, or is not done in time.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "run_hardware_maximized.py"), "--output-dir", folder, *options]
        began = time.perf_counter()
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"the run was not done after {seconds:.0f} s") from error
        took = time.perf_counter() - began
        reports = list(Path(folder).glob("hardware_maximized_*/report.json"))
        if done.returncode not in (0, 1) or len(reports) != 1:
            last = " ".join(done.stderr.split())[-300:]
            raise UserError(f"the run ended with exit code {done.returncode}: {last}")
        report = json.loads(reports[0].read_text(encoding="utf-8"))
    trainings = report["training"]
    return {
        "options": list(options),
        "exit_code": done.returncode,
        "seconds": took,
        "execution_time_s": report["execution_time"],
        "training_s": sum(row["seconds"] for row in trainings),
        "trainings": len(trainings),
        "timesteps": report["timesteps_total"],
        "learners": sorted({str(row.get("learner")) for row in trainings}),
        "gpu_percent": report["gpu_utilization"],
        "targets": {name: target["status"] for name, target in report["targets"].items()},
    }
