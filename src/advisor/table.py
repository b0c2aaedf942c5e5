"""The frozen table of advice: every situation an advisor was asked about, and what it answered.

An `Advisor` scores situations; `tabulate` turns its scores into probabilities once, and everything after (tape, kernel,
policy, fusion) reads the table. So training never waits for a model, and a run is reproducible given the table's hash.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from src.advisor.situations import N_MARKET_SITUATIONS, N_SITUATIONS, UNKNOWN, encode, split_situations
from src.trading.layout import (
    BUY,
    DISABLE_TRAIL,
    ENABLE_TRAIL,
    FLAT,
    HOLD,
    LEGAL_FLOOR,
    LEGAL_MASS_MIN,
    LONG_LOSING,
    LONG_WINNING,
    MOVE_TO_BE,
    N_ACTIONS,
    N_SIDES,
    SELL,
    SHORT_LOSING,
    SHORT_WINNING,
)

Float32 = NDArray[np.float32]

SCORE_STEP = 2.0**-10
"""Log-probabilities are served in these steps: a model's batches agree to 1e-5, a hundredth of a step."""
LABEL_MASS_FLOOR = 0.1
"""Least mean probability of a side's labels, among all tokens, that is not warned about. Below it the model would say
something else nine times of ten, and advice ranks words that it hardly considers."""
NO_ADVICE = -1
"""The advised action of an abstention."""


def _label_sets() -> NDArray[np.bool_]:
    labels = np.zeros((N_SIDES, N_ACTIONS), dtype=bool)
    labels[FLAT, [HOLD, BUY, SELL]] = True
    for sides, close in (((LONG_WINNING, LONG_LOSING), SELL), ((SHORT_WINNING, SHORT_LOSING), BUY)):
        for side in sides:
            labels[side, [HOLD, close, MOVE_TO_BE, ENABLE_TRAIL, DISABLE_TRAIL]] = True
    labels.setflags(write=False)
    return labels


LABEL_SETS: NDArray[np.bool_] = _label_sets()
"""bool[5, 6]: the actions an advisor chooses among on each side. Which of them are legal is only known at use."""


class Advisor(Protocol):
    """Whoever judges situations: rules, or a language model."""

    @property
    def name(self) -> str:
        """What the report calls it."""

    @property
    def identity(self) -> str:
        """Hash of everything its answers depend on."""

    def score(self, situations: NDArray[np.int64]) -> Float32:
        """Log-probabilities of situations, int64[k] -> float32[k, 6]; -inf for exactly what LABEL_SETS lacks.

        They need not be normalised, and a row must not depend on the other rows by more than 1e-5. An advisor with a
        true attribute `may_miss_labels` gives NaN for a label whose log-probability it does not know.
        """


@dataclass(frozen=True, eq=False)
class AdviceTable:
    """What an advisor answered, by situation; the arrays are read-only.

    probabilities float32[N_SITUATIONS, 6]: a row sums to one over its side's label set, a zero row abstains.
    covered bool[N_SITUATIONS]: whether the situation was asked. asked: how many were.
    """

    probabilities: Float32
    covered: NDArray[np.bool_]
    advisor_name: str
    advisor_identity: str
    sha256: str
    """Over identity, probabilities and covered: an input of everything after, like the bars' fingerprint."""

    @property
    def asked(self) -> int:
        """Situations the advisor was asked about."""
        return int(self.covered.sum())


def freeze_table(
    probabilities: Float32, covered: NDArray[np.bool_], advisor_name: str, advisor_identity: str
) -> AdviceTable:
    """A table of copies of the arrays, with its hash."""
    digest = hashlib.sha256(advisor_identity.encode())
    arrays = (np.array(probabilities, np.float32, order="C"), np.array(covered, bool))
    for array, shape in zip(arrays, ((N_SITUATIONS, N_ACTIONS), (N_SITUATIONS,)), strict=True):
        if array.shape != shape:
            raise ValueError(f"an advice table has arrays of shape {shape}, got {array.shape}")
        digest.update(f"\0{array.dtype.str}{array.shape}\0".encode())
        digest.update(array.tobytes())
        array.setflags(write=False)
    return AdviceTable(*arrays, advisor_name, advisor_identity, digest.hexdigest())


def empty_table() -> AdviceTable:
    """Advice off: every situation abstains, no advisor is asked."""
    return freeze_table(np.zeros((N_SITUATIONS, N_ACTIONS), np.float32), np.zeros(N_SITUATIONS, bool), "none", "")


def tabulate(advisor: Advisor, ordered_situations: NDArray[np.int64], *, batch_size: int = 16) -> AdviceTable:
    """Ask about each situation once, in the given order, and freeze the answers.

    `ordered_situations` int64[k] are distinct and not of the unknown market (`situation_order` makes them); all others
    abstain. Batches are cut from the list beforehand; how they are cut does not change the table.
    Raises ValueError for a bad list or an answer that is no set of log-probabilities.
    """
    situations = np.asarray(ordered_situations, dtype=np.int64)
    codes, _ = split_situations(situations)
    if len(np.unique(situations)) != len(situations) or (codes == UNKNOWN).any():
        raise ValueError("situations to ask about must be distinct and not of the unknown market: use situation_order")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, needs at least 1")
    probabilities = np.zeros((N_SITUATIONS, N_ACTIONS), dtype=np.float32)
    covered = np.zeros(N_SITUATIONS, dtype=bool)
    for start in range(0, len(situations), batch_size):
        batch = slice(start, start + batch_size)
        scores = checked_scores(advisor, situations[batch])
        probabilities[situations[batch]] = softmax(np.round(scores / SCORE_STEP) * SCORE_STEP)
        covered[situations[batch]] = True
    return freeze_table(probabilities, covered, advisor.name, advisor.identity)


def situation_order(market_codes_of_training_bars: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Situations worth asking about, most frequent first: int64[5 x distinct known codes].

    Which side an account will be on is not known beforehand, so the five sides of a market code share its frequency and
    stand together; ties go to the lower code. A time budget takes the first K.
    """
    codes, counts = np.unique(np.asarray(market_codes_of_training_bars, dtype=np.int64), return_counts=True)
    known = codes != UNKNOWN
    codes, counts = codes[known], counts[known]
    by_frequency = codes[np.argsort(-counts, kind="stable")]
    return encode(by_frequency[:, np.newaxis], np.arange(N_SIDES)).reshape(-1)


def coverage(table: AdviceTable, market_codes: NDArray[np.integer[Any]]) -> float:
    """Share of the bars' situations, over all five sides, that the advisor was asked about; 0.0 without bars."""
    codes = np.asarray(market_codes, dtype=np.int64)
    if not codes.size:
        return 0.0
    share = table.covered.reshape(N_MARKET_SITUATIONS, N_SIDES).mean(axis=1)
    return float(share[codes].mean())


def renormalise(probabilities: NDArray[np.floating[Any]], masks: NDArray[np.bool_]) -> Float32:
    """Advice as the observation holds it: float32[k, 6] over the legal actions of `masks` bool[k, 6].

    Where the legal actions have less than LEGAL_MASS_MIN between them the row is zeros (an abstention); elsewhere a
    legal action has at least LEGAL_FLOOR and an illegal one 0. The kernel does the same to the bit.
    """
    legal = np.asarray(masks, dtype=bool)
    weights = np.where(legal, probabilities, 0.0).astype(np.float64)
    mass = weights.sum(axis=1, keepdims=True)
    heard = mass >= LEGAL_MASS_MIN
    shares = np.maximum(weights / np.where(heard, mass, 1.0), LEGAL_FLOOR)
    return np.where(legal & heard, shares, 0.0).astype(np.float32)


def confidence(probabilities: NDArray[np.floating[Any]], masks: NDArray[np.bool_]) -> Float32:
    """How far the likeliest legal action exceeds chance, float32[k] in [0, 1]: (p_max - 1/k) / (1 - 1/k).

    k is the number of legal actions; an abstention has 0.0, and a single legal action 1.0 (nothing is left to decide).
    """
    shares = renormalise(probabilities, masks).astype(np.float64)
    legal_count = np.maximum(np.asarray(masks, dtype=bool).sum(axis=1), 1)
    best = shares.max(axis=1)
    chance = 1.0 / legal_count
    above = np.clip((best - chance) / np.where(legal_count > 1, 1.0 - chance, 1.0), 0.0, 1.0)
    return np.where(best == 0.0, 0.0, np.where(legal_count == 1, 1.0, above)).astype(np.float32)


def advised_action(probabilities: NDArray[np.floating[Any]], masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The likeliest legal action, int64[k]; the lowest code of a tie, NO_ADVICE on an abstention."""
    shares = renormalise(probabilities, masks)
    return np.where(shares.any(axis=1), shares.argmax(axis=1), NO_ADVICE).astype(np.int64)


def checked_scores(advisor: Advisor, situations: NDArray[np.int64]) -> NDArray[np.float64]:
    """The advisor's answer as float64[k, 6], proven to be finite on the label sets and -inf outside; NaN for a label
    that is missing, of an advisor whose `may_miss_labels` is true."""
    return check_answers(advisor, situations, advisor.score(situations))


def check_answers(advisor: Advisor, situations: NDArray[np.int64], answers: Any) -> NDArray[np.float64]:
    """The same of answers that were given already."""
    labels = LABEL_SETS[split_situations(situations)[1]]
    scores = np.asarray(answers, dtype=np.float64)
    if scores.shape != labels.shape:
        raise ValueError(f"advisor {advisor.name!r} answered with shape {scores.shape}, needs {labels.shape}")
    usable = np.isfinite(scores) | (np.isnan(scores) & getattr(advisor, "may_miss_labels", False))
    wrong = np.where(labels, ~usable, ~np.isneginf(scores)).any(axis=1)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"advisor {advisor.name!r} answered situation {situations[at]} with {scores[at].tolist()}: needs finite "
            f"log-probabilities for actions {np.flatnonzero(labels[at]).tolist()} and -inf for the others"
        )
    return scores


def label_mass(raw: Float32) -> float | None:
    """Mean probability of all labels together of raw log-probabilities float32[k, 6] among all tokens, a missing one
    not counted; None without any."""
    return min(1.0, float(np.nansum(np.exp(raw.astype(np.float64)), axis=1).mean())) if len(raw) else None


def incomplete(raw: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """Which rows of raw log-probabilities float32[k, 6] lack a label of their side, bool[k].

    What is missing may be more or less than all the others, so no share of any label is known: such a row abstains.
    """
    return np.isnan(raw).any(axis=1)


def softmax(scores: NDArray[np.float64]) -> Float32:
    """Probabilities of log-probabilities, row by row: float64[k, 6] -> float32[k, 6]; an incomplete row abstains."""
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.nan_to_num(weights / weights.sum(axis=1, keepdims=True), nan=0.0).astype(np.float32)
