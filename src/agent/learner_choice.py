"""Which learner trains the members of a run, and why that one."""

from __future__ import annotations

from typing import NamedTuple

import torch

from src.agent.settings import HardwareSettings, Learner
from src.errors import ConfigError
from src.trading.cuda import missing
from src.trading.settings import EnvironmentSettings


class Chosen(NamedTuple):
    """A learner, and what a user should know of the choice ("" for nothing)."""

    learner: Learner
    words: str = ""


def choose_learner(hardware: HardwareSettings, environment: EnvironmentSettings, device: torch.device) -> Chosen:
    """The learner of a run's trainings on `device`: the one asked for, else the fastest that can do them.

    Raises ConfigError where `hardware.learner` asks for the population learner and it cannot train these accounts, or
    where Ray is to do the tasks and cannot.
    """
    asked, on_gpu = hardware.learner, device.type == "cuda"
    if hardware.ray is not None and environment.env_class is not None:
        raise ConfigError(
            f"hardware.ray is {hardware.ray}, but environment.env_class names environments of your own, which train in "
            f"the run's own process. Leave --ray out."
        )
    if asked in ("fused", "stock") or (asked is None and not on_gpu):
        return Chosen("stock" if on_gpu else asked or "fused")
    why_not = _why_no_population(hardware, environment, device)
    if asked is None:
        return Chosen("population") if why_not is None else Chosen("stock", f"members train one by one: {why_not}")
    if why_not is not None:
        raise ConfigError(
            f"hardware.learner is population, but members cannot train together here: {why_not}. Change that, or leave "
            f"hardware.learner out: then the run trains with the fastest learner that can."
        )
    slow = "" if on_gpu else "the population learner is made for a GPU; on a CPU the default is the fused learner"
    return Chosen("population", slow)


def _why_no_population(
    hardware: HardwareSettings, environment: EnvironmentSettings, device: torch.device
) -> str | None:
    if hardware.ray is not None:
        return "hardware.ray makes each member a task of its own"
    if environment.env_class is not None:
        return "environment.env_class names environments of your own, which only run on the CPU"
    if hardware.vec_env != "batched":
        return f"hardware.vec_env is {hardware.vec_env}, and it steps batched accounts"
    return (missing().rstrip(".") or None) if device.type == "cuda" else None
