"""What so many sessions allow, and the arithmetic of seeds, contrasts and slippage, against scipy and statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, trim_mean
from statsmodels.stats.multitest import multipletests

from src.statistics.samples import (
    DETECTABLE,
    break_even_slippage,
    holm,
    interquartile_mean,
    is_constant,
    minimum_detectable_effect,
    sample_size,
    sessions_needed,
)

amounts = st.floats(-1e6, 1e6)
p_values = st.lists(st.floats(0, 1), max_size=12)


@pytest.mark.parametrize(
    ("n", "words", "level"),
    [
        (0, "not enough sessions (0 of 40)", "none"),
        (2, "not enough sessions (2 of 40)", "none"),
        (9, "not enough sessions (9 of 40)", "none"),
        (10, "low power (10 of 40 sessions)", "low"),
        (39, "low power (39 of 40 sessions)", "low"),
        (40, "enough sessions (40)", "enough"),
    ],
)
def test_the_number_of_sessions_decides_what_may_be_said(n: int, words: str, level: str) -> None:
    sample = sample_size(n)
    assert (sample.n, sample.words, sample.level) == (n, words, level)


def test_the_minimum_detectable_effect_is_found_four_times_in_five() -> None:
    effect = minimum_detectable_effect(sd=300.0, n=49)
    ratio = effect / (300.0 / 7)
    power = norm.sf(norm.ppf(0.975) - ratio) + norm.cdf(norm.ppf(0.025) - ratio)
    assert power == pytest.approx(0.8, abs=0.001)
    assert pytest.approx(norm.ppf(0.975) + norm.ppf(0.8), abs=0.002) == DETECTABLE


@given(effect=st.floats(1e-3, 1e3), sd=st.floats(0, 1e3))
def test_so_many_sessions_as_needed_detect_the_effect_and_one_fewer_do_not(effect: float, sd: float) -> None:
    needed = sessions_needed(-effect, sd)
    assert needed == sessions_needed(effect, sd)
    assert needed is not None
    assert minimum_detectable_effect(sd, needed) <= effect * (1 + 1e-12)
    if needed > 10:
        assert minimum_detectable_effect(sd, needed - 1) > effect * (1 - 1e-12)


def test_no_number_of_sessions_shows_no_effect() -> None:
    assert sessions_needed(0.0, 5.0) is None
    for wrong in (lambda: sessions_needed(1.0, -1.0), lambda: minimum_detectable_effect(1.0, 0)):
        with pytest.raises(ValueError, match="must be at least"):
            wrong()


def test_equal_values_are_constant_whatever_the_last_bit_says() -> None:
    assert is_constant(np.array([0.1 + 0.2, 0.3]))
    assert is_constant(np.zeros(3))
    assert is_constant(np.array([]))
    assert not is_constant(np.array([1e6, 1e6 + 0.01]))


@given(st.lists(amounts, min_size=5, max_size=30))
def test_the_interquartile_mean_is_that_of_scipy_and_lies_between_the_extremes(values: list[float]) -> None:
    mean = interquartile_mean(values).value
    assert mean == pytest.approx(trim_mean(values, 0.25), abs=1e-6)
    assert mean is not None
    assert min(values) - 1e-6 <= mean <= max(values) + 1e-6


def test_a_lucky_seed_does_not_move_the_interquartile_mean() -> None:
    assert interquartile_mean([1, 2, 3, 4, 5]).value == interquartile_mean([1, 2, 3, 4, 5e6]).value == 3


def test_four_seeds_have_no_interquartile_mean() -> None:
    figure = interquartile_mean([1.0, 2.0, 3.0, 4.0])
    assert figure.value is None
    assert figure.reason == "an interquartile mean needs 5 seeds, there are 4"
    with pytest.raises(ValueError, match="finite"):
        interquartile_mean([1.0, math.nan, 3.0, 4.0, 5.0])


@settings(max_examples=12)  # statsmodels collects garbage in every call
@given(p_values)
def test_holm_is_that_of_statsmodels(p: list[float]) -> None:
    wanted = multipletests(p, method="holm")[1] if p else []
    np.testing.assert_allclose(holm(p), wanted, atol=1e-15)


@given(p_values)
def test_holm_keeps_the_order_and_lowers_nothing(p: list[float]) -> None:
    adjusted = holm(p)
    assert (adjusted >= np.array(p)).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


@pytest.mark.parametrize("p", [[-0.1], [1.1], [math.nan], [[0.5]]])
def test_holm_refuses_what_is_no_column_of_chances(p: list[float]) -> None:
    with pytest.raises(ValueError, match=r"p-values|column"):
        holm(p)


def test_break_even_lies_on_the_line_where_the_net_changes_sign() -> None:
    figure = break_even_slippage({0: 900.0, 1: 400.0, 2: -600.0, 3: -700.0}, fills=100, tick_value_usd=5.0)
    assert figure.value == pytest.approx(1.4)
    assert figure.reason == ""
    assert break_even_slippage({1: 5.0, 0: 10.0, 2: 0.0}, fills=1, tick_value_usd=5.0).value == 2.0


def test_break_even_beyond_the_last_simulation_is_said_to_be_extrapolated() -> None:
    figure = break_even_slippage({0: 900.0, 1: 800.0, 2: 700.0, 3: 600.0}, fills=20, tick_value_usd=5.0)
    assert figure.value == pytest.approx(9.0)
    assert figure.reason == "extrapolated: still profitable at 3 ticks"


def test_there_is_no_break_even_without_a_profit_or_a_fill_that_pays() -> None:
    lost = break_even_slippage({0: -1.0, 1: 5.0}, fills=20, tick_value_usd=5.0)
    assert (lost.value, lost.reason) == (None, "not profitable even at 0 ticks")
    limit_orders_only = break_even_slippage({0: 9.0, 3: 9.0}, fills=0, tick_value_usd=5.0)
    assert (limit_orders_only.value, limit_orders_only.reason) == (None, "no fill pays slippage")


@given(
    start=st.floats(1, 1e5), fills=st.integers(1, 10_000), tick=st.floats(0.5, 50), last=st.integers(0, 5)
)  # fmt: skip
def test_break_even_of_a_straight_line_is_where_it_ends_with_few_or_many_simulations(
    start: float, fills: int, tick: float, last: int
) -> None:
    net = {float(ticks): start - fills * tick * ticks for ticks in range(last + 1)}
    figure = break_even_slippage(net, fills=fills, tick_value_usd=tick)
    assert figure.value == pytest.approx(start / (fills * tick), rel=1e-9)


@pytest.mark.parametrize(
    ("net", "fills", "tick"),
    [({}, 1, 5.0), ({-1: 1.0}, 1, 5.0), ({0: math.nan}, 1, 5.0), ({0: 1.0}, -1, 5.0), ({0: 1.0}, 1, math.nan)],
)
def test_break_even_refuses_what_no_simulation_gives(net: dict[float, float], fills: int, tick: float) -> None:
    with pytest.raises(ValueError, match=r"ticks|finite"):
        break_even_slippage(net, fills=fills, tick_value_usd=tick)
