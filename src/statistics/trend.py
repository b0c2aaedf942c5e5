"""How net P&L changes along a training: a slope with an interval over sessions and seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit  # type: ignore[import-untyped]

from src.statistics.intervals import Interval, paired_interval
from src.statistics.samples import Float64


@dataclass(frozen=True)
class Change:
    """A mean over sessions and seeds with its interval; `low` and `high` are None where there is none, see `reason`."""

    mean: float | None
    low: float | None
    high: float | None
    level: float
    reason: str = ""


def slopes(x: Sequence[float], values: Float64) -> Float64:
    """Least-squares slope over the points `x` [k] of each column of `values`, float64[..., k, n]: float64[..., n].

    Paired: a session's own level cancels. Raises ValueError for fewer than two different points.
    """
    centred = np.asarray(x, np.float64) - np.mean(x)
    spread = float(centred @ centred)
    if not spread > 0.0:
        raise ValueError(f"a slope needs two different points, not {list(x)}")
    return np.einsum("k,...kn->...n", centred / spread, values)


def over_sessions_and_seeds(values: Float64, *, seed: int, level: float = 0.95) -> Change:
    """The mean of float64[n_seeds, n_sessions] with an interval for other sessions and other seeds.

    Notes: `paired_interval` gives the bounds of the mean over seeds for other sessions; a t-interval of the seeds'
    means gives those for other seeds. Their distances from the mean add as squares (MOVER). What seeds and sessions do
    together is in both, so the interval is rather too wide than too narrow. One seed: sessions alone.

    References: Zou & Donner, Construction of Confidence Limits About Effect Measures, Statistics in Medicine 27, 2008.
    """
    of_sessions = paired_interval(values, seed=seed, level=level)
    if of_sessions.mean is None or of_sessions.low is None or of_sessions.high is None:
        return Change(of_sessions.mean, None, None, level, of_sessions.reason)
    among_seeds = _reach_of_seeds(of_sessions, level)
    below = math.hypot(of_sessions.mean - of_sessions.low, among_seeds)
    above = math.hypot(of_sessions.high - of_sessions.mean, among_seeds)
    return Change(of_sessions.mean, of_sessions.mean - below, of_sessions.mean + above, level)


def _reach_of_seeds(interval: Interval, level: float) -> float:
    """Half the t-interval of the seeds' means; 0 for one seed."""
    n = len(interval.seed_means)
    if n < 2:
        return 0.0
    error = float(np.std(interval.seed_means, ddof=1)) / math.sqrt(n)
    return float(stdtrit(n - 1, 0.5 + level / 2.0)) * error
