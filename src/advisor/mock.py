"""The advisor without a model: a few trading rules of thumb, smooth and deterministic.

It stands in where no model is wanted (tests, CI, `--mock-llm`), so its answers have to look like those of a model: a
probability for every label of every situation. They are no evidence that advice helps.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray

from src.advisor.situations import DIMENSIONS, SIDES, UNKNOWN, buckets_of_codes, split_situations
from src.advisor.table import LABEL_SETS, Float32
from src.trading.layout import BUY, DISABLE_TRAIL, ENABLE_TRAIL, HOLD, MOVE_TO_BE, N_ACTIONS, SELL

RULES_VERSION = 1
"""Raise it with any change of `score`: the identity, and with it every stored answer, depends on it."""

# What each fact adds to the lean towards higher prices. RSI counts against: an extreme is faded.
_LEAN = {"trend": 0.8, "momentum": 0.5, "rsi": -0.7, "vwap": 0.3}
# Reluctance to open a position, by bucket: costs weigh most where little moves, and a late entry has no time left.
_RELUCTANCE = {
    "volatility": {"low": 0.6, "normal": 0.3, "high": 0.5},
    "session_part": {"overnight": 0.6, "opening": 0.0, "midday": 0.3, "closing": 0.7},
}
_SIDE_SIGN = np.array([0, 1, 1, -1, -1])
_IS_WINNING = np.array([False, True, False, True, False])
_NAMES = tuple(dimension.name for dimension in DIMENSIONS)


class MockAdvisor:
    """Trend and momentum lean, RSI extremes fade; winners are trailed, losers cut once the market leans against them.

    Turning the market upside down (trend, momentum, RSI, VWAP) and the account with it swaps BUY and SELL and leaves
    the rest alone.
    """

    name = "mock"

    @property
    def identity(self) -> str:
        """Hash of the rules' version, their constants, the label sets and the names of the buckets they read."""
        facts = {
            "rules_version": RULES_VERSION,
            "lean": _LEAN,
            "reluctance": _RELUCTANCE,
            "label_sets": LABEL_SETS.astype(int).tolist(),
            "dimensions": [[dimension.name, *dimension.buckets] for dimension in DIMENSIONS],
            "sides": SIDES,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def score(self, situations: NDArray[np.int64]) -> Float32:
        """Normalised log-probabilities, int64[k] -> float32[k, 6]; -inf outside the side's label set.

        A situation of the unknown market has equal ones: the rules know nothing there.
        """
        codes, sides = split_situations(situations)
        buckets = buckets_of_codes(codes)
        logits = np.where((sides == 0)[:, np.newaxis], _flat_logits(buckets), _position_logits(buckets, sides))
        logits[codes == UNKNOWN] = 0.0
        logits = np.where(LABEL_SETS[sides], logits, -np.inf)
        top = logits.max(axis=1, keepdims=True)
        total = np.exp(logits - top).sum(axis=1, keepdims=True)
        return (logits - top - np.log(total)).astype(np.float32)


def _lean(buckets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Lean towards higher prices, float64[k] in about [-2.3, 2.3]; changes sign when the market is turned over."""
    lean = np.zeros(len(buckets))
    for name, weight in _LEAN.items():
        k = _NAMES.index(name)
        # -1 .. 1, so that two buckets count as the outer two of three
        centred = 2.0 * buckets[:, k] / (len(DIMENSIONS[k].buckets) - 1) - 1.0
        lean += weight * centred
    return lean


def _reluctance(buckets: NDArray[np.int64]) -> NDArray[np.float64]:
    total = np.zeros(len(buckets))
    for name, by_bucket in _RELUCTANCE.items():
        k = _NAMES.index(name)
        total += np.array([by_bucket[bucket] for bucket in DIMENSIONS[k].buckets])[buckets[:, k]]
    return total


def _flat_logits(buckets: NDArray[np.int64]) -> NDArray[np.float64]:
    lean, reluctance = _lean(buckets), _reluctance(buckets)
    logits = np.zeros((len(buckets), N_ACTIONS))
    logits[:, HOLD] = reluctance
    logits[:, BUY] = lean
    logits[:, SELL] = -lean
    return logits


def _position_logits(buckets: NDArray[np.int64], sides: NDArray[np.int64]) -> NDArray[np.float64]:
    """`support` is the lean in the position's favour; the market order of the label set closes, whichever it is."""
    support = _lean(buckets) * _SIDE_SIGN[sides]
    winning = _IS_WINNING[sides]
    close = np.where(winning, -0.5 - 0.6 * support, -1.0 * support)
    logits = np.empty((len(buckets), N_ACTIONS))
    logits[:, HOLD] = np.where(winning, 1.0 + 0.3 * support, 0.8 + 0.5 * support)
    logits[:, BUY] = close
    logits[:, SELL] = close
    logits[:, MOVE_TO_BE] = np.where(winning, 0.4 - 0.3 * support, -1.5)
    logits[:, ENABLE_TRAIL] = np.where(winning, 0.7 + 0.1 * support, -1.0 - 0.2 * support)
    logits[:, DISABLE_TRAIL] = np.where(winning, -2.0 + 0.2 * support, -1.5)
    return logits
