"""Probability of backtest overfitting: is the best of many settings also good on sessions it was not chosen on?

Combinatorially symmetric cross-validation (CSCV): the sessions are cut into blocks, half of the blocks choose a setting
and the other half judge it, for every way to halve the blocks.

References: Bailey, Borwein, Lopez de Prado & Zhu, The Probability of Backtest Overfitting, Journal of Computational
Finance 20, 2017.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from src.statistics.samples import Float64, sample_size

Measure = Literal["sharpe", "mean"]

MOST_BLOCKS, SESSIONS_A_BLOCK = 16, 4
"""Blocks unless a caller names a number: at most so many, of at least so many sessions; never fewer than four."""
MOST_SPLITS = 20_000
LARGEST_RATIO = 1e6
"""A half whose sessions are all equal has no Sharpe ratio: it gets this one, with the sign of its mean; 0 for zeros."""
_SAME, _NO_SPREAD = 1e-9, 1e-12
"""Results closer than the first, relative, are ties: matrix products may differ in the last bits. A variance below the
second, relative to the squares it is computed from, is a rounding error."""
_CELLS = 1 << 18
"""Entries of an array that is worked on at a time: it should fit the processor's cache."""


@dataclass(frozen=True)
class Splits:
    """What every split shows of the setting that is best in its first half, each float64[k].

    `rank` is its rank in the second half among n settings over n + 1: 1 / (n + 1) for the worst, n / (n + 1) for the
    best. `in_sample` and `out_of_sample` are its results in the first and the second half. Settings that tie for the
    best in the first half share the mean of their ranks and results; ties in the second half share the middle rank.
    """

    rank: Float64
    in_sample: Float64
    out_of_sample: Float64

    @property
    def logits(self) -> Float64:
        """ln(rank / (1 - rank)): positive where the winner is in the better half out of sample."""
        return np.log(self.rank / (1.0 - self.rank))


@dataclass(frozen=True)
class Overfitting:
    """The summary of all splits; its figures are None, with the reason, if there are too few sessions or settings.

    `probability` (PBO) is the share of splits whose winner is below the median setting out of sample, exact middles
    counted half: 0.5 for settings without any difference. `loss` is the share whose winner loses out of sample, `slope`
    that of the least-squares line of out-of-sample on in-sample results, both results are medians over splits.
    """

    sessions: int
    settings: int
    blocks: int
    splits: int
    measure: Measure
    probability: float | None = None
    loss: float | None = None
    slope: float | None = None
    in_sample: float | None = None
    out_of_sample: float | None = None
    reason: str = ""


def usual_blocks(n: int) -> int:
    """How many blocks n sessions are cut into: an even number from 4 to 16, with at least four sessions each if that
    leaves four blocks."""
    return 2 * max(2, min(MOST_BLOCKS, n // SESSIONS_A_BLOCK) // 2)


def overfitting(
    results: Float64,
    *,
    blocks: int | None = None,
    measure: Measure = "sharpe",
    most_splits: int = MOST_SPLITS,
    seed: int = 0,
) -> Overfitting:
    """Probability of backtest overfitting of settings tried on the same sessions, and what goes with it.

    Shapes: `results` is float64[n_sessions, n_settings], net P&L in time order. Give every setting that could have been
    chosen: leaving out the bad ones changes the answer. `blocks` None takes `usual_blocks`; `measure` is what the
    choice was made by.

    Raises: ValueError as `splits_of`.
    """
    sessions, settings = _checked(results).shape
    sample = sample_size(sessions)
    cut = usual_blocks(sessions) if blocks is None else blocks
    nothing = Overfitting(sessions, settings, cut, 0, measure)
    if sample.level == "none":
        return _with_reason(nothing, sample.words)
    if settings < 2:
        return _with_reason(nothing, f"{settings} setting: there was nothing to choose from")
    found = splits_of(results, blocks=cut, measure=measure, most_splits=most_splits, seed=seed)
    middle = 0.5 * (settings + 1)
    place = found.rank * (settings + 1)
    # Ranks are multiples of a half, or means of those: closer to the middle than this is in it.
    below, exactly = place < middle - _SAME, np.abs(place - middle) <= _SAME
    return Overfitting(
        sessions=sessions,
        settings=settings,
        blocks=cut,
        splits=len(place),
        measure=measure,
        probability=float(np.mean(below + 0.5 * exactly)),
        loss=float(np.mean(found.out_of_sample < 0)),
        slope=_slope(found),
        in_sample=float(np.median(found.in_sample)),
        out_of_sample=float(np.median(found.out_of_sample)),
    )


def splits_of(
    results: Float64,
    *,
    blocks: int,
    measure: Measure = "sharpe",
    most_splits: int = MOST_SPLITS,
    seed: int = 0,
) -> Splits:
    """Every split of the sessions into two halves of `blocks` / 2 blocks; above `most_splits` a sample of them.

    Blocks differ by at most one session. A split and its reverse are neighbours. A sample is drawn with replacement, in
    such pairs, equal for equal `seed`. Memory is a few megabytes more than a copy of `results`, float64[n_sessions,
    n_settings].

    Raises: ValueError for an odd number of blocks, blocks of fewer than two sessions, fewer than two settings, a
    `most_splits` below 2, or a result that is not finite.
    """
    table = _checked(results)
    n, settings = table.shape
    if blocks < 2 or blocks % 2 or n < 2 * blocks:
        raise ValueError(f"blocks must be even, at least 2, with two sessions each; not {blocks} of {n} sessions")
    if settings < 2 or most_splits < 2:
        raise ValueError(f"settings and most_splits must be at least 2, not {settings} and {most_splits}")
    measured = _Blocks(table, blocks, measure)
    rows = max(1, _CELLS // settings)
    found: list[Float64] = []
    for halves in _halves(blocks, most_splits, seed, rows):
        first, second = measured.results(halves), measured.results(~halves)
        for chosen_on, judged_on in ((first, second), (second, first)):
            found.append(_judged(chosen_on, judged_on, measured.unit))
    # Per chunk: the splits, then their reverses. Neighbours again:
    pairs = [np.stack([one, other], axis=-1).reshape(3, -1) for one, other in zip(found[::2], found[1::2], strict=True)]
    rank, in_sample, out_of_sample = np.concatenate(pairs, axis=1)
    return Splits(rank / (settings + 1), in_sample, out_of_sample)


class _Blocks:
    """Sums of each block, from which the results of any half follow without its sessions."""

    def __init__(self, table: Float64, blocks: int, measure: Measure) -> None:
        n = len(table)
        begins = np.arange(blocks) * n // blocks
        self._sizes = np.diff(begins, append=n).astype(np.float64)
        # From the median, so that a half of nothing but the usual result (often zero) has sums of exactly zero.
        self._centre = np.median(table, axis=0)
        apart = table - self._centre
        self._sums = np.add.reduceat(apart, begins, axis=0)
        self._squares = None if measure == "mean" else np.add.reduceat(apart * apart, begins, axis=0)
        self.unit = float(np.abs(table).max()) if measure == "mean" else 1.0
        """What differences of rounding are measured by."""

    def results(self, halves: NDArray[np.bool_]) -> Float64:
        """Mean, or Sharpe ratio of one session, of every setting in halves bool[k, blocks]: float64[k, settings]."""
        chosen = halves.astype(np.float64)
        n = (chosen @ self._sizes)[:, np.newaxis]
        apart = chosen @ self._sums
        apart /= n
        means = apart + self._centre
        means[np.abs(means) <= _NO_SPREAD * np.abs(self._centre)] = 0.0
        if self._squares is None:
            return means
        squares = chosen @ self._squares
        squares /= n
        apart *= apart
        variance = squares - apart
        variance[variance <= _NO_SPREAD * squares] = 0.0
        variance *= n / (n - 1.0)
        np.sqrt(variance, out=variance)
        np.maximum(variance, np.abs(means) / LARGEST_RATIO, out=variance)
        return np.divide(means, variance, out=means, where=variance > 0)  # else the mean is zero too


def _judged(chosen_on: Float64, judged_on: Float64, unit: float) -> NDArray[np.float64]:
    """Rank, in-sample and out-of-sample result of the best of each row of float64[k, settings]: float64[3, k]."""
    best = chosen_on.max(axis=1)
    tied = chosen_on >= (best - _near(best, unit))[:, np.newaxis]
    winner = tied.argmax(axis=1)
    found = np.take_along_axis(judged_on, winner[:, np.newaxis], axis=1)[:, 0]
    near = _near(found, unit)
    below = np.count_nonzero(judged_on < (found - near)[:, np.newaxis], axis=1)
    up_to = np.count_nonzero(judged_on <= (found + near)[:, np.newaxis], axis=1)
    rank = 0.5 * (below + up_to + 1)
    for row in np.flatnonzero(np.count_nonzero(tied, axis=1) > 1):
        ordered, of_tied = np.sort(judged_on[row]), judged_on[row, tied[row]]
        near = _near(of_tied, unit)
        below, up_to = ordered.searchsorted(of_tied - near, "left"), ordered.searchsorted(of_tied + near, "right")
        rank[row], found[row] = np.mean(0.5 * (below + up_to + 1)), of_tied.mean()
    return np.stack([rank, best, found])


def _near(results: Float64, unit: float) -> Float64:
    """How far another result may be from each of these and still tie with it."""
    return _SAME * np.abs(results) + _NO_SPREAD * unit


def _halves(blocks: int, most_splits: int, seed: int, rows: int) -> Iterator[NDArray[np.bool_]]:
    """One half of each pair of halves, bool[at most rows, blocks]: all that hold the first block, or a sample."""
    half = blocks // 2
    if math.comb(blocks, half) <= most_splits:
        every = combinations(range(1, blocks), half - 1)
        while chunk := list(islice(every, rows)):
            halves = np.zeros((len(chunk), blocks), np.bool_)
            halves[:, 0] = True
            np.put_along_axis(halves, np.array(chunk, np.intp).reshape(len(chunk), half - 1), True, axis=1)
            yield halves
        return
    rng = np.random.default_rng(seed)
    for begun in range(0, most_splits // 2, rows):
        unshuffled = np.tile(np.arange(blocks) < half, (min(rows, most_splits // 2 - begun), 1))
        yield rng.permuted(unshuffled, axis=1)


def _slope(found: Splits) -> float | None:
    """Of the least-squares line through the splits that have a ratio in both halves; None if nothing spreads."""
    known = np.maximum(np.abs(found.in_sample), np.abs(found.out_of_sample)) < LARGEST_RATIO * (1 - _SAME)
    x, y = found.in_sample[known], found.out_of_sample[known]
    if len(x) < 2 or np.ptp(x) <= _SAME * np.abs(x).max():
        return None
    return float(np.cov(x, y)[0, 1] / np.var(x, ddof=1))


def _checked(results: Float64) -> Float64:
    table = np.asarray(results, np.float64)
    if table.ndim != 2:
        raise ValueError(f"results must be float64[n_sessions, n_settings], not of shape {table.shape}")
    wrong = np.argwhere(~np.isfinite(table))
    if len(wrong):
        session, setting = wrong[0].tolist()
        raise ValueError(f"setting {setting + 1} has no finite result in session {session + 1}")
    return table


def _with_reason(nothing: Overfitting, reason: str) -> Overfitting:
    return Overfitting(nothing.sessions, nothing.settings, nothing.blocks, 0, nothing.measure, reason=reason)
