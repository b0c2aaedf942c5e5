"""What the production run would take, with an interval: from the pace of this run's trainings and a short trial.

The pace of the run's own members says how fast this machine trains and how much that wanders; the trial says how much
more the production networks cost than the tested ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # type: ignore[import-untyped]

from src.agent.members import Training
from src.agent.other_machine import OtherMachine
from src.evaluation.production import ProductionTrial
from src.statistics.drift import FEWEST, drift_error

Float64 = NDArray[np.float64]
LEVEL = 0.9
WARM_UP = 4
"""Blocks from which on the first of a training, which touches its memory for the first time, is left out."""


@dataclass(frozen=True)
class Paces:
    """Seconds of a timestep in this run: by training the mean, and all blocks of all members relative to their own."""

    mean_s: Mapping[str, float]
    relative: Float64
    block_timesteps: int


@dataclass(frozen=True)
class Forecast:
    """Hours of the production run, all seeds; `low` and `high` are None where `reason` says why."""

    hours: float
    low: float | None
    high: float | None
    step_s: float
    """Seconds of a timestep of one seed."""
    beside: int
    """Seeds trained beside each other."""
    reason: str = ""


def paces_of(rows: Sequence[Mapping[str, Any]]) -> Paces | None:
    """The paces of a run's trainings (rows of the report), None where none was kept. Blocks are joined to the longest
    there is."""
    kept = [row for row in rows if row.get("pace_s") and not row.get("fold")]
    if not kept:
        return None
    longest = max(row["pace_rollouts"] * row["n_envs"] * row["n_steps"] for row in kept)
    blocks: list[tuple[str, Float64]] = []
    for row in kept:
        timesteps = row["pace_rollouts"] * row["n_envs"] * row["n_steps"]
        seconds = np.array(row["pace_s"][1:] if len(row["pace_s"]) > WARM_UP else row["pace_s"], np.float64)
        join = max(1, round(longest / timesteps))
        whole = len(seconds) // join * join
        joined = seconds[:whole].reshape(-1, join).mean(axis=1) if whole else seconds.mean(keepdims=True)
        blocks.append((row["phase"], joined / timesteps))
    mean_s = {
        phase: float(np.concatenate([of for name, of in blocks if name == phase]).mean())
        for phase in dict.fromkeys(name for name, _ in blocks)
    }
    return Paces(mean_s, np.concatenate([of / mean_s[name] for name, of in blocks]), longest)


def forecast(trial: ProductionTrial, paces: Paces | None, *, workers: int, seeds: int) -> Forecast:
    """Hours of `seeds` seeds, as many of them beside each other as the run had `workers`.

    Notes: seconds = waves x (base timesteps x base's pace + hybrid timesteps x hybrid's pace) x ratio, the ratio of
    production to tested networks being the geometric mean of the trial's pairs. The interval joins, as squares of
    logarithms, the drift of the paces (`src.statistics.drift`) and the t-interval of the ratio. A single seed runs
    alone: where the run had several workers, the trial's pace stands for the members'.
    """
    beside = min(workers, seeds)
    waves = math.ceil(seeds / beside)
    if paces is None or Training.BASE not in paces.mean_s:
        timesteps = trial.base_timesteps + trial.finetune_timesteps
        step_s = float(np.mean(trial.production_s))
        reason = "no training was finished whose pace could tell how much it varies"
        return Forecast(waves * timesteps * step_s / 3600.0, None, None, step_s, beside, reason)
    base_s = paces.mean_s[Training.BASE]
    hybrid_s = paces.mean_s.get(Training.HYBRID, base_s)
    ratio, reach = _ratio(trial)
    if workers > 1 and beside == 1:
        alone = trial.tested_s or trial.production_s
        hybrid_s, base_s = hybrid_s / base_s * float(np.mean(alone)), float(np.mean(alone))
        reach = math.hypot(reach, _reach_of_mean(np.log(alone)))
    timesteps = trial.base_timesteps + trial.finetune_timesteps
    seed_s = (trial.base_timesteps * base_s + trial.finetune_timesteps * hybrid_s) * ratio
    hours = waves * seed_s / 3600.0
    drift = drift_error(paces.relative, max(1.0, waves * timesteps / paces.block_timesteps))
    if drift is None:
        reason = f"{len(paces.relative)} of {FEWEST} blocks of rollouts were timed: too few to tell how much it varies"
        return Forecast(hours, None, None, seed_s / timesteps, beside, reason)
    reach = math.hypot(reach, drift.reach(LEVEL))
    return Forecast(hours, hours * math.exp(-reach), hours * math.exp(reach), seed_s / timesteps, beside)


def _ratio(trial: ProductionTrial) -> tuple[float, float]:
    """Cost of production's networks over that of the tested ones, and how far its logarithm may be off."""
    if not trial.tested_s:
        return 1.0, 0.0
    logs = np.log(trial.production_s) - np.log(trial.tested_s)
    return math.exp(float(logs.mean())), _reach_of_mean(logs)


def _reach_of_mean(values: Float64) -> float:
    """Half the t-interval of a mean of independent values."""
    n = len(values)
    return float(stdtrit(n - 1, 0.5 + LEVEL / 2.0)) * float(np.std(values, ddof=1)) / math.sqrt(n)


def production_facts(
    trial: ProductionTrial,
    rows: Sequence[Mapping[str, Any]],
    *,
    workers: int,
    seeds: int,
    power_w: float | None,
    power_words: str,
    price_usd: float | None,
    other: OtherMachine | None,
) -> dict[str, Any]:
    """Report section `production_estimate`. `power_w` is the mean power while the run trained,
    `power_words` what draws it or why it is not known."""
    found = forecast(trial, paces_of(rows), workers=workers, seeds=seeds)
    facts: dict[str, Any] = {
        "timesteps": trial.base_timesteps + trial.finetune_timesteps,
        "steps_per_s": 1.0 / found.step_s,
        "hours": found.hours,
        "measured_timesteps": trial.measured_timesteps,
        "net_arch": trial.net_arch,
        "seeds": seeds,
        "beside": found.beside,
        "level_frac": LEVEL,
        "low_hours": found.low,
        "high_hours": found.high,
        "reason": found.reason,
        "cores": trial.cores,
        "gemm_gflops": trial.gemm_gflops,
        "energy_kwh": _scaled(found, None if power_w is None else power_w / 1000.0),
        "power_w": power_w,
        "power_words": power_words,
    }
    if price_usd is not None:
        facts |= {"price_per_hour_usd": price_usd, "cost_usd": _scaled(found, price_usd)}
    if other is not None:
        there = elsewhere(trial, found, other, seeds)
        facts["other_machine"] = {
            **asdict(other), "hours": None, "low_hours": None, "high_hours": None, "beside": min(seeds, other.cores),
            "reason": "this run trained on a GPU, whose speed says nothing about cores",
        }  # fmt: skip
        if there is not None:
            facts["other_machine"] |= {
                "hours": there.hours, "low_hours": there.low, "high_hours": there.high, "reason": there.reason
            }  # fmt: skip
            if price_usd is not None:
                facts["other_machine"]["cost_usd"] = _scaled(there, price_usd)
    return facts


def elsewhere(trial: ProductionTrial, here: Forecast, other: OtherMachine, seeds: int) -> Forecast | None:
    """The forecast on another machine, all seeds beside each other that have a core there; None for a run on a GPU.

    Notes: matrix products take the time that their speed says. What the rest takes there (environment, elementwise
    work, memory) is not known: at best it scales as the products do, at worst not at all, or the other way round where
    the other machine is slower. The interval reaches from the one to the other, each with the interval of the forecast
    here; the hours are their geometric mean.
    """
    if trial.gemm_gflops is None:
        return None
    beside = min(seeds, other.cores)
    waves = math.ceil(seeds / beside) / math.ceil(seeds / here.beside)
    scale = trial.gemm_gflops / other.gflops
    share = min(1.0, trial.products_flop / (trial.gemm_gflops * 1e9) / here.step_s)
    least, most = sorted((waves * scale, waves * (share * scale + 1.0 - share)))
    return Forecast(
        hours=here.hours * math.sqrt(least * most),
        low=None if here.low is None else here.low * least,
        high=None if here.high is None else here.high * most,
        step_s=here.step_s * math.sqrt(least * most) / waves,
        beside=beside,
        reason=here.reason,
    )


def _scaled(found: Forecast, factor: float | None) -> dict[str, float | None]:
    """What grows with the hours."""
    bounds = (found.hours, found.low, found.high)
    value, low, high = (None if hours is None or factor is None else hours * factor for hours in bounds)
    return {"value": value, "low": low, "high": high}
