"""The rules answer every situation, alike on both sides of the market."""

from __future__ import annotations

import numpy as np
import pytest

from src.advisor import mock
from src.advisor.mock import MockAdvisor
from src.advisor.situations import (
    BUCKET_COUNTS,
    DIMENSIONS,
    N_SITUATIONS,
    SIDES,
    UNKNOWN,
    buckets_of_codes,
    codes_of_buckets,
    encode,
    split_situations,
)
from src.advisor.table import LABEL_SETS, Advisor, situation_order, tabulate
from src.trading.layout import BUY, ENABLE_TRAIL, HOLD, MOVE_TO_BE, SELL

EVERYTHING = np.arange(N_SITUATIONS)
DIRECTED = ("trend", "momentum", "rsi", "vwap")


def situation(side: str, **buckets: str) -> np.ndarray:
    """One situation, int64[1]; facts not named are those of a quiet midday."""
    words = {"trend": "sideways", "momentum": "steady", "rsi": "neutral", "vwap": "above", "volatility": "normal"}
    words |= {"session_part": "midday"} | buckets
    numbers = [dimension.buckets.index(words[dimension.name]) for dimension in DIMENSIONS]
    return encode(codes_of_buckets(np.array([numbers])), SIDES.index(side))


def likeliest(side: str, **buckets: str) -> int:
    return int(MockAdvisor().score(situation(side, **buckets)).argmax())


def mirrored(situations: np.ndarray) -> np.ndarray:
    """The same situations with the market upside down and the account on the other side of it."""
    codes, sides = split_situations(situations)
    buckets = buckets_of_codes(codes)
    for k, dimension in enumerate(DIMENSIONS):
        if dimension.name in DIRECTED:
            buckets[:, k] = BUCKET_COUNTS[k] - 1 - buckets[:, k]
    flipped = np.where(codes == UNKNOWN, UNKNOWN, codes_of_buckets(np.where(buckets < 0, 0, buckets) % BUCKET_COUNTS))
    return encode(flipped, np.array([0, 3, 4, 1, 2])[sides])


def test_every_situation_gets_log_probabilities_of_its_label_set() -> None:
    advisor: Advisor = MockAdvisor()
    scores = advisor.score(EVERYTHING)
    assert scores.shape == (N_SITUATIONS, 6)
    assert scores.dtype == np.float32
    _, sides = split_situations(EVERYTHING)
    np.testing.assert_array_equal(np.isfinite(scores), LABEL_SETS[sides])
    assert np.isneginf(scores[~LABEL_SETS[sides]]).all()
    np.testing.assert_allclose(np.exp(scores.astype(np.float64)).sum(axis=1), 1.0, atol=1e-6)
    assert scores[LABEL_SETS[sides]].min() > -6.0, "smooth: no label is ruled out"


def test_a_market_upside_down_swaps_buy_and_sell_and_nothing_else() -> None:
    swapped = MockAdvisor().score(EVERYTHING)
    swapped[:, [BUY, SELL]] = swapped[:, [SELL, BUY]]
    np.testing.assert_allclose(MockAdvisor().score(mirrored(EVERYTHING)), swapped, atol=1e-6)
    np.testing.assert_array_equal(mirrored(mirrored(EVERYTHING)), EVERYTHING)


def test_a_row_is_the_same_alone_and_among_others() -> None:
    scores = MockAdvisor().score(EVERYTHING)
    for at in range(0, N_SITUATIONS, 97):
        np.testing.assert_array_equal(MockAdvisor().score(EVERYTHING[at : at + 1])[0], scores[at])


def test_the_rules_of_thumb_hold() -> None:
    assert likeliest("flat", trend="up", momentum="rising", session_part="opening") == BUY
    assert likeliest("flat", trend="down", momentum="falling", vwap="below", session_part="opening") == SELL
    assert likeliest("flat") == HOLD
    assert likeliest("long losing", trend="down", momentum="falling", vwap="below") == SELL
    assert likeliest("short losing", trend="up", momentum="rising") == BUY
    assert likeliest("long losing", trend="up", momentum="rising") == HOLD
    winner = MockAdvisor().score(situation("long winning", trend="up", momentum="rising"))[0]
    assert winner.argmax() == HOLD
    assert winner[ENABLE_TRAIL] > winner[SELL]
    threatened = MockAdvisor().score(situation("long winning", trend="down", vwap="below"))[0]
    assert threatened[MOVE_TO_BE] > winner[MOVE_TO_BE]
    overbought = MockAdvisor().score(situation("flat", trend="up", rsi="overbought"))[0]
    assert overbought[BUY] < MockAdvisor().score(situation("flat", trend="up"))[0][BUY]


def test_its_identity_changes_with_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    before = MockAdvisor().identity
    assert before == MockAdvisor().identity
    monkeypatch.setattr(mock, "RULES_VERSION", mock.RULES_VERSION + 1)
    assert MockAdvisor().identity != before


def test_its_table_is_the_same_bits_every_time() -> None:
    order = situation_order(np.arange(1, 649))
    tables = [tabulate(MockAdvisor(), order, batch_size=size) for size in (16, 1000)]
    assert tables[0].sha256 == tables[1].sha256
    assert tables[0].asked == N_SITUATIONS - 5
