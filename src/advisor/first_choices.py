"""What a model ranks first, before its label bias is removed: a model that always says the same word is found here."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from src.advisor.situations import SIDES, split_situations
from src.advisor.table import LABEL_SETS, Float32, incomplete, softmax
from src.trading.layout import ACTIONS

ENOUGH_ANSWERS: Final = 10
"""Answers of a side, from which on the same first choice in all of them is named."""


def first_choices(raw: Float32, situations: NDArray[np.int64]) -> dict[str, dict[str, Any]]:
    """By side of the account, over the whole answers among raw log-probabilities float32[k, 6]: the `label` (an action)
    that is likeliest most often, in what share of them (`share_frac`) of how many (`answers`), and `spread_nats`: the
    standard deviation of a label's log-probability over the situations, averaged over labels.

    A spread of 0 means that the situation changes nothing. Sides without a whole answer are left out.
    """
    _, sides = split_situations(situations)
    found = {}
    for side, name in enumerate(SIDES):
        rows = raw[(sides == side) & ~incomplete(raw)].astype(np.float64)
        if not len(rows):
            continue
        counts = np.bincount(rows.argmax(axis=1), minlength=rows.shape[1])
        found[name] = {
            "label": ACTIONS[int(counts.argmax())],
            "share_frac": float(counts.max() / len(rows)),
            "answers": len(rows),
            "spread_nats": float(rows[:, LABEL_SETS[side]].std(axis=0).mean()),
        }
    return found


def undecided(served: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows float64[k, 6] give every label of their side the same score, bool[k]; rows that lack one do not."""
    finite = np.isfinite(served)
    lowest, highest = np.where(finite, served, np.inf).min(axis=1), np.where(finite, served, -np.inf).max(axis=1)
    return np.asarray((lowest == highest) & ~incomplete(served))


def decided_shares(served: NDArray[np.float64]) -> Float32:
    """Probabilities of the labels, float32[k, 6]; a row that prefers none, or lacks one, abstains: the lowest code of a
    tie would be HOLD."""
    return np.where(undecided(served)[:, np.newaxis], np.float32(0.0), softmax(served))


def without_answer(raw: Float32, situations: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which answers have the log-probability of none of their side's labels, bool[k]."""
    labels = LABEL_SETS[split_situations(situations)[1]]
    return np.asarray((np.isnan(raw) | ~labels).all(axis=1))
