"""Removing a model's label bias: what it says of a situation, relative to what it says on average.

A small model prefers some labels whatever it is asked (the word is common, the option stands first). By side, the mean
log-probability of each label over the tabulated situations is subtracted; these are situations of the training sessions
only, so nothing of the sealed sessions enters. It is done when the table is made, from the raw answers in the store.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from src.advisor.situations import split_situations
from src.advisor.table import LABEL_SETS, SCORE_STEP, Float32, incomplete
from src.trading.layout import N_SIDES


def served_scores(raw: Float32, situations: NDArray[np.int64], *, calibrate: bool) -> NDArray[np.float64]:
    """Log-probabilities as the table serves them, float64[k, 6] from raw float32[k, 6]: multiples of SCORE_STEP.

    With `calibrate` each label of a side has mean 0 (to half a step) over the situations given. Neither the order of
    the rows nor how they were batched changes a bit of it: raw scores are rounded first, and sums of whole steps are
    exact. A row that lacks a label (NaN) is NaN throughout and counts in no mean.
    """
    raw = np.where(incomplete(raw)[:, np.newaxis], np.nan, raw)
    steps = np.round(np.asarray(raw, np.float64) / SCORE_STEP)
    if calibrate:
        steps = np.round(steps - _label_bias(steps, situations))
    return steps * SCORE_STEP


def agreement(
    first: Mapping[int, Float32], second: Mapping[int, Float32], *, calibrate: bool
) -> tuple[int, float | None]:
    """How many situations both have raw answers to, float32[6] each, and in what share of them their likeliest labels
    are the same; None without any."""
    situations = np.array(sorted(first.keys() & second.keys()), dtype=np.int64)
    if not len(situations):
        return 0, None
    best = [
        served_scores(np.array([raw[s] for s in situations.tolist()]), situations, calibrate=calibrate).argmax(axis=1)
        for raw in (first, second)
    ]
    return len(situations), float((best[0] == best[1]).mean())


def _label_bias(steps: NDArray[np.float64], situations: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean of each label over the rows of the same side, float64[k, 6]; 0 for what is no label of the side."""
    _, sides = split_situations(situations)
    bias = np.zeros((N_SIDES, steps.shape[1]))
    for side in np.unique(sides):
        labels = LABEL_SETS[side]
        of_side = steps[(sides == side) & ~incomplete(steps)]
        if len(of_side):
            bias[side, labels] = of_side[:, labels].mean(axis=0)
    return bias[sides]
