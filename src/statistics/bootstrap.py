"""The stationary bootstrap: sessions resampled in blocks of random length, and the variance of what they give.

Each row starts a block at a random session; with probability 1 / mean length the next day starts a new block, otherwise
it takes the session after the previous day's.

References: Politis & Romano, The Stationary Bootstrap, JASA 89, 1994.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CHUNK = 10_000


def stationary_indices(n: int, length: float, replications: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Resampled session numbers int64[replications, n], the same that arch's `StationaryBootstrap` draws from `rng`."""
    rows = np.empty((replications, n), np.int64)
    draws = np.empty((replications, n))
    for i in range(replications):
        rows[i] = rng.integers(n, size=n)
        draws[i] = rng.random(n)
    return _in_blocks(rows, draws > 1 / length, n)


def session_orders(
    n: int, block_length: float, attempts: int, days: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Session numbers int64[attempts, days] of each attempt. The first rows do not depend on how many are requested."""
    draws = rng.random((attempts, days, 2))
    return _in_blocks((draws[:, :, 0] * n).astype(np.int64), draws[:, :, 1] >= 1.0 / block_length, n)


def _in_blocks(rows: NDArray[np.int64], follows: NDArray[np.bool_], n: int) -> NDArray[np.int64]:
    """`rows` int64[k, days] with each session that `follows` (bool[k, days]) replaced by the one after the previous
    day's; the first of the n comes after the last. Overwrites `rows`."""
    for day in range(1, rows.shape[1]):
        successor = rows[:, day - 1] + 1
        successor[successor == n] = 0
        rows[:, day] = np.where(follows[:, day], successor, rows[:, day])
    return rows


def session_variance(values: NDArray[np.float64], orders: NDArray[np.int64], n: int, block_length: float) -> float:
    """Sampling variance of the mean of `values` float64[k] over the choice of the n sessions.

    `orders` int64[k, days] are the sessions behind each value. The result may be negative if the true variance is small
    compared with the noise of few attempts.

    Notes: the infinitesimal jackknife of a resampled mean sums over sessions the squared covariance C_i of a value with
    the number of times session i occurs in it. Products of covariances exclude pairs of the same attempt, which removes
    the bias of a finite number of attempts. In blocks, with r = 1 - 1 / block_length, C_i includes neighbours l
    sessions away with weight r^|l|; the sum becomes C' K^-1 C with K_ij = r^|i-j| around the circle,
    ((1 + r^2) sum C_i^2 - 2 r sum C_i C_(i+1)) / (1 - r^2), which for a sum over days is the long-run variance of the
    stationary bootstrap. First order: the effects of sessions are taken to add up over the days.

    References: Efron, Estimation and Accuracy After Model Selection, JASA 109, 2014; Wager, Hastie & Efron, Confidence
    Intervals for Random Forests, JMLR 15, 2014.
    """
    k, days = orders.shape
    centred = values - values.mean()
    total = np.zeros(n)
    same = np.zeros(2)
    for begun in range(0, k, _CHUNK):
        rows = orders[begun : begun + _CHUNK]
        counts = np.zeros((len(rows), n))
        np.add.at(counts, (np.arange(len(rows))[:, np.newaxis], rows), 1.0)
        products = centred[begun : begun + _CHUNK, np.newaxis] * (counts - days / n)
        total += products.sum(axis=0)
        same += (products**2).sum(), (products * np.roll(products, -1, axis=1)).sum()
    squares, neighbours = (np.array([total @ total, total @ np.roll(total, -1)]) - same) / (k * (k - 1))
    r = 1.0 - 1.0 / block_length
    return float(((1.0 + r**2) * squares - 2.0 * r * neighbours) / (1.0 - r**2))
