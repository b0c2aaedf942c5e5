"""Confidence intervals of a mean over sessions: a studentised stationary bootstrap, robust to serial correlation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.statistics.bootstrap import stationary_indices
from src.statistics.samples import Float64, SampleSize, is_constant, minimum_detectable_effect, sample_size

REPLICATIONS = 9_999
SESSIONS_FOR_BLOCKS = 30
"""With fewer, a block length cannot be estimated: sessions are drawn one at a time."""
LARGEST_T = 6.0
"""The interval reaches at most so many standard errors from the mean. Resamples of nearly equal sessions have almost no
spread, and their t-ratios would put its ends in the millions."""
_CHUNK = 1_000
_NO_SPREAD = 1e-9
"""A standard error below this fraction of the standard deviation is a rounding error."""


@dataclass(frozen=True)
class Interval:
    """The mean difference of `n` sessions with its confidence interval, in the unit of the input.

    `mean` is None if there are no sessions or one of them is not finite. `low`, `high` and `p_value` are None if the
    sessions support no interval, and `reason` says why; it also marks an interval of zero width. `seed_means` has one
    mean per seed (one in all for differences float64[n]). `minimum_detectable` assumes independent sessions.
    """

    n: int
    level: float
    sample: SampleSize
    seed_means: tuple[float, ...]
    replications: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    standard_error: float | None = None
    minimum_detectable: float | None = None
    block_length: float | None = None
    reason: str = ""


def paired_interval(
    differences: Sequence[float] | NDArray[Any], *, seed: int, level: float = 0.95, replications: int = REPLICATIONS
) -> Interval:
    """The mean of differences by session, float64[n] or float64[n_seeds, n] (seeds averaged first), and its interval.

    Notes: with mean m, Newey-West standard error s, and m*, s* of a resample, t* = (m* - m) / s*; the interval is
    m - s t*(1 - a/2) to m - s t*(a/2), a = 1 - level, at most LARGEST_T s from m and never beyond the smallest and the
    largest session. The two-sided p-value is 2 min(#{t* >= m/s} + 1, #{t* <= m/s} + 1) / (replications + 1), at most
    1; if zero lies beyond those limits, at most the sign test's 2^(1 - n). So it is at most a exactly where the
    interval excludes zero (for a of 2^(1 - n) or more). Equal for equal `seed`.

    Raises: ValueError for another shape, a level outside 0 to 1, or too few replications for the level.

    References: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5; Politis & Romano, The
    Stationary Bootstrap, JASA 89, 1994.
    """
    table = np.asarray(differences, np.float64)
    if table.ndim == 1:
        table = table[np.newaxis]
    if table.ndim != 2 or not len(table):
        raise ValueError(f"differences must be float64[n] or float64[n_seeds, n], not of shape {table.shape}")
    tail = math.floor((replications + 1) * (1 - level) / 2 + 1e-9) if 0 < level < 1 else 0
    if tail < 1:
        raise ValueError(
            f"level must lie between 0 and 1 and (replications + 1) x (1 - level) / 2 be at least 1, not {level} and "
            f"{replications} replications"
        )
    n = table.shape[1]
    sample = sample_size(n)
    unknown = np.flatnonzero(~np.isfinite(table).all(axis=0))
    if len(unknown):
        reason = f"{len(unknown)} of {n} sessions have no finite difference (first: session {unknown[0] + 1})"
        return Interval(n, level, sample, (), replications, reason=reason)
    if not n:
        return Interval(n, level, sample, (), replications, reason=sample.words)
    values = table.mean(axis=0)
    point = Interval(
        n=n,
        level=level,
        sample=sample,
        seed_means=tuple(table.mean(axis=1).tolist()),
        replications=replications,
        mean=float(values.mean()),
        minimum_detectable=minimum_detectable_effect(float(values.std(ddof=1)), n) if n > 1 else None,
    )
    if sample.level == "none":
        return replace(point, reason=sample.words)
    if is_constant(values):
        return replace(
            point,
            low=point.mean,
            high=point.mean,
            p_value=None if values.any() else 1.0,
            standard_error=0.0,
            minimum_detectable=0.0,
            reason="all sessions have the same difference: a single value, with no spread to judge it by",
        )
    return _studentised(values, point, tail, seed)


def _studentised(values: Float64, point: Interval, tail: int, seed: int) -> Interval:
    """The interval from the `tail`-th smallest and largest bootstrapped t-ratio, within its limits."""
    n, mean, replications = len(values), float(values.mean()), point.replications
    errors = values - mean
    length = block_length(errors)
    lags = newey_west_lags(n, length)
    standard_error = float(newey_west_error(errors, lags))
    rounding = _NO_SPREAD * float(errors.std()) / math.sqrt(n)
    rng = np.random.default_rng(seed)
    ratios = [_t_ratios(errors[rows], lags, rounding) for rows in _chunks(n, length, replications, rng)]
    t = np.sort(np.concatenate(ratios))
    ends = t[-tail], t[tail - 1]
    known = replace(point, standard_error=standard_error, block_length=length)
    observed = mean / standard_error
    above = replications - int(np.searchsorted(t, observed, side="left"))
    below = int(np.searchsorted(t, observed, side="right"))
    p_value = min(1.0, 2.0 * (min(above, below) + 1) / (replications + 1))
    reach = LARGEST_T * standard_error
    least, most = max(float(values.min()), mean - reach), min(float(values.max()), mean + reach)
    return replace(
        known,
        low=max(least, float(mean - ends[0] * standard_error)),
        high=min(most, float(mean - ends[1] * standard_error)),
        p_value=p_value if least <= 0.0 <= most else min(p_value, 2.0 ** (1 - n)),
    )


def _t_ratios(resamples: Float64, lags: int, rounding: float) -> Float64:
    """Mean over standard error of each row, float64[k]; infinite for a resample with a mean but no spread."""
    centres, spreads = resamples.mean(axis=1), newey_west_error(resamples, lags)
    ratios = np.where(np.abs(centres) <= rounding, 0.0, np.copysign(np.inf, centres))
    return np.divide(centres, spreads, out=ratios, where=spreads > rounding)


def block_length(values: Float64) -> float:
    """Mean block length for float64[n]: 1 below 30 sessions, else estimated by `arch`, at least 1.

    References: Politis & White, Automatic Block-Length Selection for the Dependent Bootstrap, Econometric Reviews 23,
    2004, with the correction of Patton, Politis & White, ibid. 28, 2009.
    """
    if len(values) < SESSIONS_FOR_BLOCKS:
        return 1.0
    from arch.bootstrap import optimal_block_length  # two seconds, which a small sample need not wait for

    # If all but a few sessions are equal it may divide zero by zero: there is nothing to estimate from.
    with np.errstate(all="ignore"):
        length = float(optimal_block_length(values)["stationary"].iloc[0])
    return max(1.0, length) if math.isfinite(length) else 1.0


def newey_west_lags(n: int, length: float) -> int:
    """Lags for n sessions in blocks of a mean length: 4 (n/100)^(2/9) rounded down, or twice the block length, rounded
    up, if that is more; at most a third of the sessions.

    Sessions drawn one at a time are studentised with lags too: without them, correlated neighbours would pass for
    independent exactly when there are fewest sessions.

    References: Newey & West, Automatic Lag Selection in Covariance Matrix Estimation, Review of Economic Studies 61,
    1994.
    """
    return min(max(int(4 * (n / 100) ** (2 / 9)), 2 * math.ceil(length)), n // 3)


def newey_west_error(values: Float64, lags: int) -> Float64:
    """Standard error of the mean along the last axis of float64[..., n], with autocorrelation up to `lags` sessions.

    Notes: sqrt((g_0 + 2 sum_(l=1..lags) (1 - l / (lags + 1)) g_l) / n), autocovariances g_l = sum_t e_t e_(t-l) / n.

    References: Newey & West, A Simple, Positive Semi-Definite, Heteroskedasticity and Autocorrelation Consistent
    Covariance Matrix, Econometrica 55, 1987.
    """
    n = values.shape[-1]
    e = values - values.mean(axis=-1, keepdims=True)
    total = np.einsum("...t,...t->...", e, e)
    for lag in range(1, lags + 1):
        total += 2 * (1 - lag / (lags + 1)) * np.einsum("...t,...t->...", e[..., lag:], e[..., :-lag])
    return np.sqrt(np.maximum(total, 0.0)) / n


def _chunks(n: int, length: float, replications: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """The resamples, in chunks that fit the processor's cache."""
    for begun in range(0, replications, _CHUNK):
        yield stationary_indices(n, length, min(_CHUNK, replications - begun), rng)
