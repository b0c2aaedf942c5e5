"""Kendall's W against the definition by pairs, and a null under which it is found as often as it says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.statistics.agreement import concordance

TABLES = st.integers(2, 6).flatmap(
    lambda n: st.lists(st.lists(st.integers(-3, 3), min_size=n, max_size=n), min_size=2, max_size=6)
)


def rank_by_counting(row: list[int]) -> list[float]:
    """1 for the largest; ties share."""
    return [1 + sum(other > value for other in row) + (sum(other == value for other in row) - 1) / 2 for value in row]


def w_by_pairs(table: list[list[int]]) -> float | None:
    """W as the variance of the mean ranks over its largest value: the mean, over blocks, of the variance within."""
    ranks = [rank_by_counting(row) for row in table]
    within = [sum((rank - sum(row) / len(row)) ** 2 for rank in row) for row in ranks]
    means = [sum(column) / len(ranks) for column in zip(*ranks, strict=True)]
    between = sum((mean - sum(means) / len(means)) ** 2 for mean in means)
    return None if sum(within) == 0 else between / (sum(within) / len(within))


@settings(max_examples=60, deadline=None)
@given(TABLES)
def test_w_is_the_spread_of_the_mean_ranks_over_the_spread_within_blocks(table: list[list[int]]) -> None:
    found = concordance(table, seed=0, permutations=19)
    expected = w_by_pairs(table)
    assert found.mean_ranks == pytest.approx(
        [sum(column) / len(table) for column in zip(*map(rank_by_counting, table), strict=True)]
    )
    assert found.w == (None if expected is None else pytest.approx(expected))
    assert (found.p_value is None) == (expected is None)


def test_the_p_value_is_the_share_of_all_orders_that_agree_as_much() -> None:
    """Three things in three blocks have 6^2 orders relative to the first block."""
    table = [[3, 2, 1], [3, 1, 2], [3, 2, 1]]
    observed = w_by_pairs(table)
    assert observed is not None
    orders = [w_by_pairs([table[0], list(b), list(c)]) for b in itertools.permutations(table[1])
              for c in itertools.permutations(table[2])]  # fmt: skip
    exact = sum(w is not None and w >= observed - 1e-12 for w in orders) / len(orders)
    assert concordance(table, seed=1).p_value == pytest.approx(exact, abs=0.02)


def test_full_agreement_is_1_and_noise_is_found_as_often_as_its_p_value_says() -> None:
    rng = np.random.default_rng(0)
    same = concordance([[1.0, 2.0, 3.0, 4.0]] * 6, seed=0, permutations=999)
    assert (same.w, same.p_value) == (1.0, pytest.approx(0.001))
    assert same.mean_ranks == (4.0, 3.0, 2.0, 1.0)
    below = [concordance(rng.normal(size=(8, 5)), seed=0, permutations=99).p_value <= 0.1 for _ in range(200)]  # type: ignore[operator]
    assert 0.04 < np.mean(below) < 0.17


@pytest.mark.parametrize("table", [[1.0, 2.0], [[1.0, np.nan], [1.0, 2.0]], []])
def test_what_is_no_table_of_numbers_is_refused(table: list) -> None:
    with pytest.raises(ValueError, match=r"float64\[blocks, things\]"):
        concordance(table, seed=0)


def test_a_single_block_or_only_ties_have_no_w() -> None:
    assert concordance([[1.0, 2.0]], seed=0).w is None
    assert concordance([[1.0, 1.0], [2.0, 2.0]], seed=0).w is None
