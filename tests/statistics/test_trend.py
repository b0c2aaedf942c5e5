"""A slope along a training, and its interval over sessions and seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from src.statistics.intervals import paired_interval
from src.statistics.trend import over_sessions_and_seeds, slopes


@given(
    st.lists(st.integers(1, 10**7), min_size=2, max_size=6, unique=True),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(0, 2**32),
)
def test_a_slope_is_that_of_numpys_straight_line_and_a_sessions_level_cancels(x, seeds: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(seeds, len(x), n))
    unit = np.array(x) / max(x)
    expected = [np.polyfit(unit, of_seed, 1)[0] for of_seed in values]
    scale = 1.0 / np.ptp(unit)
    np.testing.assert_allclose(slopes(unit, values), expected, rtol=1e-6, atol=1e-8 * scale)
    level = rng.normal(size=(seeds, 1, n)) * 100.0
    np.testing.assert_allclose(slopes(unit, values + level), slopes(unit, values), rtol=1e-6, atol=1e-10 * scale)


def test_one_point_has_no_slope() -> None:
    with pytest.raises(ValueError, match="two different points"):
        slopes([0.5, 0.5], np.zeros((1, 2, 3)))


def test_the_interval_is_that_over_sessions_widened_by_that_over_seeds() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(3.0, 10.0, (1, 50)) + rng.normal(0.0, 2.0, (4, 1)) + rng.normal(0.0, 1.0, (4, 50))
    alone, found = paired_interval(values, seed=5), over_sessions_and_seeds(values, seed=5)
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values.mean(axis=1)))
    assert found.mean == alone.mean == pytest.approx(values.mean())
    assert (found.mean - found.low) ** 2 == pytest.approx((alone.mean - alone.low) ** 2 + (found.mean - low) ** 2)
    assert (found.high - found.mean) ** 2 == pytest.approx((alone.high - alone.mean) ** 2 + (high - found.mean) ** 2)


def test_one_seed_has_the_interval_over_sessions_and_few_sessions_have_none() -> None:
    values = np.random.default_rng(2).normal(size=(1, 20))
    alone, found = paired_interval(values, seed=0), over_sessions_and_seeds(values, seed=0)
    assert (found.low, found.high, found.reason) == (alone.low, alone.high, "")
    few = over_sessions_and_seeds(values[:, :5], seed=0)
    assert (few.low, few.high) == (None, None)
    assert few.reason == "not enough sessions (5 of 40)"
