"""What a number of sessions can support, and the arithmetic of several seeds, several contrasts and costs.

Intervals are in `intervals`, figures of one series of net P&L in `performance`; docs/statistics.md says how they fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Level = Literal["none", "low", "enough"]

FEW_SESSIONS, ENOUGH_SESSIONS = 10, 40
"""Fewer sessions than the first give no interval; fewer than the second give one with low power."""
DETECTABLE = 2.8
"""z(0.975) + z(0.80): standard errors of an effect that a two-sided 5% test detects 80% of the time."""
SEEDS_FOR_IQM = 5


@dataclass(frozen=True)
class SampleSize:
    """What `n` sessions support: level "none" (no interval is printed), "low" (power) or "enough"."""

    n: int
    words: str
    level: Level


@dataclass(frozen=True)
class Figure:
    """A figure, or None and the reason."""

    value: float | None
    reason: str = ""


def sample_size(n: int) -> SampleSize:
    """The first gate of every conclusion about `n` sessions."""
    if n < FEW_SESSIONS:
        return SampleSize(n, f"not enough sessions ({n} of {ENOUGH_SESSIONS})", "none")
    if n < ENOUGH_SESSIONS:
        return SampleSize(n, f"low power ({n} of {ENOUGH_SESSIONS} sessions)", "low")
    return SampleSize(n, f"enough sessions ({n})", "enough")


def minimum_detectable_effect(sd: float, n: int) -> float:
    """The mean that `n` independent sessions of standard deviation `sd` would detect 80% of the time: 2.8 sd / sqrt(n).

    Units: those of `sd`. The factor is z(0.975) + z(0.80) = 2.80, from the power of a two-sided 5% z-test.

    Raises: ValueError for no session or a negative sd.

    References: Gelman & Hill, Data Analysis Using Regression, 2007, section 20.3.
    """
    if n < 1 or not sd >= 0:
        raise ValueError(f"n must be at least 1 and sd at least 0, not {n} and {sd}")
    return DETECTABLE * sd / math.sqrt(n)


def sessions_needed(effect: float, sd: float) -> int | None:
    """Sessions that detect a mean of `effect` 80% of the time: (2.8 sd / effect)^2, rounded up; None for no effect.

    At least `FEW_SESSIONS`, below which no effect is shown.

    Raises: ValueError for a negative sd.
    """
    if not sd >= 0:
        raise ValueError(f"sd must be at least 0, not {sd}")
    if effect == 0:
        return None
    return max(FEW_SESSIONS, math.ceil((DETECTABLE * sd / effect) ** 2))


def is_constant(values: Float64) -> bool:
    """Whether values float64[n] are all equal up to rounding (averages of equal numbers may differ in the last bit)."""
    if not values.size:
        return True
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def interquartile_mean(values: Sequence[float] | NDArray[Any]) -> Figure:
    """The mean of the middle half of one figure by seed; none below five seeds.

    A quarter of the n values, rounded down, is dropped at either end, as rliable does.

    Raises: ValueError for a value that is not finite.

    References: Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, NeurIPS 2021.
    """
    ordered = np.sort(_finite(values))
    n = len(ordered)
    if n < SEEDS_FOR_IQM:
        return Figure(None, f"an interquartile mean needs {SEEDS_FOR_IQM} seeds, there are {n}")
    cut = n // 4
    return Figure(float(ordered[cut : n - cut].mean()))


def holm(p_values: Sequence[float] | NDArray[Any]) -> Float64:
    """Holm's adjusted p-values float64[m], in the given order: the chance of any false finding among m stays at alpha.

    Notes: in ascending order the i-th (from 1) becomes max over j <= i of min(1, (m - j + 1) p_j).

    Raises: ValueError outside 0 to 1.

    References: Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 6,
    1979.
    """
    p = _finite(p_values)
    if len(p) and (p.min() < 0 or p.max() > 1):
        raise ValueError(f"p-values must be between 0 and 1, not {p.tolist()}")
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, (len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(stepped)
    return adjusted


def break_even_slippage(net_usd_by_ticks: Mapping[float, float], *, fills: int, tick_value_usd: float) -> Figure:
    """Ticks of slippage at which net P&L reaches zero; none if it is never positive or no fill pays slippage.

    `net_usd_by_ticks` is the net P&L of the same sessions simulated with that many ticks per fill. The result is
    interpolated between the last profitable simulation and the first that is not. If the last one is still profitable,
    it is extrapolated with the cost of one more tick, `fills` (those that pay slippage) times `tick_value_usd` (of the
    whole position); the reason says so. That ignores that different fills change what follows.

    Raises: ValueError for no entry, a value that is not finite, or negative ticks, fills or value.
    """
    simulated = sorted(net_usd_by_ticks.items())
    ticks, net = _finite([tick for tick, _ in simulated]), _finite([usd for _, usd in simulated])
    if not len(ticks) or ticks[0] < 0 or fills < 0 or not tick_value_usd >= 0:
        raise ValueError(
            f"ticks, fills and tick_value_usd must be at least 0, not {ticks.tolist()}, {fills} and {tick_value_usd}"
        )
    if net[0] <= 0:
        return Figure(None, f"not profitable even at {ticks[0]:g} ticks")
    lost = np.flatnonzero(net <= 0)
    if len(lost):
        after = int(lost[0])
        before = after - 1
        share = net[before] / (net[before] - net[after])
        return Figure(float(ticks[before] + share * (ticks[after] - ticks[before])))
    tick_usd = fills * tick_value_usd
    if tick_usd == 0:
        return Figure(None, "no fill pays slippage")
    return Figure(float(ticks[-1] + net[-1] / tick_usd), f"extrapolated: still profitable at {ticks[-1]:g} ticks")


def _finite(values: Sequence[float] | NDArray[Any]) -> Float64:
    """A float64[n] of finite values; ValueError for anything else."""
    column = np.asarray(values, np.float64)
    if column.ndim != 1 or not np.isfinite(column).all():
        raise ValueError(f"expected one column of finite numbers, got {column.tolist()}")
    return column
