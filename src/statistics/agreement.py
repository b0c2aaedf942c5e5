"""Whether several rankings agree: Kendall's W and its null distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata  # type: ignore[import-untyped]

from src.statistics.samples import Float64

PERMUTATIONS = 9_999


@dataclass(frozen=True)
class Concordance:
    """Agreement of m rankings of n things. `w` and `p_value` are None for fewer than two of either, and where every
    ranking is all ties."""

    mean_ranks: tuple[float, ...]
    """1 for the largest value; ties share the mean of their ranks."""
    w: float | None
    p_value: float | None


def concordance(
    values: Sequence[Sequence[float]] | NDArray[Any], *, seed: int, permutations: int = PERMUTATIONS
) -> Concordance:
    """Kendall's W of float64[m, n]: m blocks (judges), n things, larger values first. Equal for equal `seed`.

    Notes: with R_j the sum over blocks of the ranks of thing j, W = 12 sum_j (R_j - m(n + 1)/2)^2 /
    (m^2 (n^3 - n) - m sum_i T_i), T_i = sum over ties of block i of t^3 - t. The p-value is
    (#{W* >= W} + 1) / (permutations + 1), each block's ranks permuted independently.

    Raises: ValueError for another shape or a value that is not finite.

    References: Kendall & Babington Smith, The Problem of m Rankings, Annals of Mathematical Statistics 10, 1939;
    Siegel & Castellan, Nonparametric Statistics for the Behavioral Sciences, 1988, section 9.5 (ties).
    """
    table = np.asarray(values, np.float64)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise ValueError(f"values must be finite float64[blocks, things], not of shape {table.shape}")
    m, n = table.shape
    ranks = rankdata(-table, axis=1)
    mean_ranks = tuple(ranks.mean(axis=0).tolist())
    largest = m**2 * (n**3 - n) - m * _ties(ranks)
    if m < 2 or n < 2 or largest <= 0:
        return Concordance(mean_ranks, None, None)
    observed = _spread(ranks)
    rng = np.random.default_rng(seed)
    null = np.array([_spread(rng.permuted(ranks, axis=1)) for _ in range(permutations)])
    as_much = int((null >= observed - 1e-9 * max(1.0, observed)).sum())
    return Concordance(mean_ranks, float(min(1.0, 12.0 * observed / largest)), (as_much + 1) / (permutations + 1))


def _spread(ranks: Float64) -> float:
    """Sum of squared deviations of the rank sums."""
    sums = ranks.sum(axis=0)
    return float(((sums - sums.mean()) ** 2).sum())


def _ties(ranks: Float64) -> float:
    counts = [np.unique(row, return_counts=True)[1].astype(np.float64) for row in ranks]
    return float(sum((of_row**3 - of_row).sum() for of_row in counts))
