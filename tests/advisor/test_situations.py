"""A situation is one integer that says the same in both directions, and knows nothing after its bar."""

from __future__ import annotations

from dataclasses import asdict
from datetime import time
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from src.advisor.situations import (
    BUCKET_COUNTS,
    DIMENSIONS,
    N_DIMENSIONS,
    N_MARKET_SITUATIONS,
    N_SITUATIONS,
    SIDES,
    UNKNOWN,
    UNKNOWN_BUCKET,
    buckets_of_codes,
    codes_of_buckets,
    decode,
    encode,
    market_codes,
    market_situations,
    split_situations,
)
from src.market.context import CONTEXT_FEATURES
from src.market.tables import MarketTables
from src.trading.layout import FLAT, LONG_LOSING, LONG_WINNING, N_SIDES, SHORT_LOSING, SHORT_WINNING

# Real features are clipped to +-5; the clock of a real bar is never 0, so a row of zeros is one that is not whole.
context_rows = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 20), st.just(len(CONTEXT_FEATURES))),
    elements=st.floats(-5.0, 5.0, width=32),
)


def context_row(**features: float) -> np.ndarray:
    """One context row, float32[1, 22]: noon in the middle of everything but for the named features."""
    row = np.zeros((1, len(CONTEXT_FEATURES)), np.float32)
    for name, value in {"session_clock": 18.0 / 23.0, "vwap_distance": 0.1, **features}.items():
        row[0, CONTEXT_FEATURES.index(name)] = value
    return row


def clock_feature(close: time) -> float:
    """The `session_clock` of a bar that closes at this New York time."""
    seconds_after_1800 = ((close.hour - 18) * 3600 + close.minute * 60) % 86_400
    return float(np.float32(seconds_after_1800 / 82_800))


def test_there_are_648_market_codes_and_one_for_bars_that_are_not_whole() -> None:
    assert BUCKET_COUNTS == (3, 3, 3, 2, 3, 4)
    assert N_MARKET_SITUATIONS == 649
    assert N_SITUATIONS == 649 * 5
    assert N_SIDES == len(SIDES) == 5
    assert [SIDES[side] for side in (FLAT, LONG_WINNING, LONG_LOSING, SHORT_WINNING, SHORT_LOSING)] == [
        "flat", "long winning", "long losing", "short winning", "short losing",
    ]  # fmt: skip


def test_every_situation_survives_the_way_there_and_back() -> None:
    situations = np.arange(N_SITUATIONS)
    codes, sides = split_situations(situations)
    np.testing.assert_array_equal(encode(codes, sides), situations)
    known = codes != UNKNOWN
    np.testing.assert_array_equal(codes_of_buckets(buckets_of_codes(codes[known])), codes[known])
    assert (buckets_of_codes(codes[~known]) == -1).all()


@given(st.integers(0, N_SITUATIONS - 1))
def test_the_words_of_a_situation_name_it_and_no_other(situation: int) -> None:
    words = asdict(decode(situation))
    side = SIDES.index(words.pop("side"))
    if set(words.values()) == {UNKNOWN_BUCKET}:
        assert not decode(situation).is_known
        assert encode(UNKNOWN, side) == situation
        return
    numbers = [dimension.buckets.index(words[dimension.name]) for dimension in DIMENSIONS]
    assert decode(situation).is_known
    assert encode(codes_of_buckets(np.array([numbers])), side) == situation


@given(context_rows)
def test_any_context_row_has_a_code_that_depends_on_that_row_alone(context: np.ndarray) -> None:
    codes = market_codes(context)
    assert codes.dtype == np.int32
    assert ((codes >= 0) & (codes < N_MARKET_SITUATIONS)).all()
    np.testing.assert_array_equal(codes == UNKNOWN, ~context.any(axis=1))
    np.testing.assert_array_equal(codes, np.concatenate([market_codes(row[np.newaxis]) for row in context] or [codes]))


@pytest.mark.parametrize(
    ("feature", "value", "dimension", "bucket"),
    [
        ("trend", -0.4, "trend", "down"),
        ("trend", 0.0, "trend", "sideways"),
        ("trend", 0.4, "trend", "up"),
        ("momentum", -0.5, "momentum", "falling"),
        ("momentum", 0.5, "momentum", "rising"),
        ("rsi_14", (29.0 - 50.0) / 15.0, "rsi", "oversold"),
        ("rsi_14", (31.0 - 50.0) / 15.0, "rsi", "neutral"),
        ("rsi_14", (71.0 - 50.0) / 15.0, "rsi", "overbought"),
        ("vwap_distance", -0.01, "vwap", "below"),
        ("vwap_distance", 0.01, "vwap", "above"),
        ("volatility_regime", 2 * np.log(0.7), "volatility", "low"),
        ("volatility_regime", 0.0, "volatility", "normal"),
        ("volatility_regime", 2 * np.log(1.4), "volatility", "high"),
        ("session_clock", clock_feature(time(18, 5)), "session_part", "overnight"),
        ("session_clock", clock_feature(time(9, 29)), "session_part", "overnight"),
        ("session_clock", clock_feature(time(9, 30)), "session_part", "opening"),
        ("session_clock", clock_feature(time(10, 29)), "session_part", "opening"),
        ("session_clock", clock_feature(time(10, 30)), "session_part", "midday"),
        ("session_clock", clock_feature(time(14, 59)), "session_part", "midday"),
        ("session_clock", clock_feature(time(15, 0)), "session_part", "closing"),
        ("session_clock", clock_feature(time(15, 59)), "session_part", "closing"),
        ("session_clock", clock_feature(time(16, 0)), "session_part", "overnight"),
        ("session_clock", clock_feature(time(17, 0)), "session_part", "overnight"),
    ],
)
def test_a_feature_falls_into_the_bucket_its_value_names(
    feature: str, value: float, dimension: str, bucket: str
) -> None:
    code = market_codes(context_row(**{feature: value}))
    assert asdict(decode(int(encode(code, FLAT)[0])))[dimension] == bucket


def test_other_features_do_not_change_the_code() -> None:
    read = {dimension.feature for dimension in DIMENSIONS}
    plain = market_codes(context_row())
    for name in set(CONTEXT_FEATURES) - read:
        np.testing.assert_array_equal(market_codes(context_row(**{name: 2.0})), plain)


def test_the_codes_of_a_market_are_those_of_its_context_table() -> None:
    context = np.concatenate([np.zeros_like(context_row()), context_row(trend=1.0), context_row(trend=-1.0)])
    tables = cast(MarketTables, SimpleNamespace(context=context))
    codes = market_situations(tables)
    assert codes.tolist() == market_codes(context).tolist()
    assert codes[0] == UNKNOWN
    assert len(set(codes.tolist())) == 3


def test_numbers_out_of_range_and_tables_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="market code"):
        encode(N_MARKET_SITUATIONS, FLAT)
    with pytest.raises(ValueError, match="side"):
        encode(0, 5)
    with pytest.raises(ValueError, match="situation"):
        decode(N_SITUATIONS)
    with pytest.raises(ValueError, match=r"needs \(n, 22\)"):
        market_codes(np.zeros((3, N_DIMENSIONS), np.float32))
