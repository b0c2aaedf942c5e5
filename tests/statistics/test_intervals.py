"""The interval of a mean over sessions, against arch's resampling, statsmodels' standard error and a slow loop."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from arch.bootstrap import StationaryBootstrap, optimal_block_length
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from statsmodels.api import OLS

from src.statistics import intervals
from src.statistics.bootstrap import stationary_indices
from src.statistics.intervals import (
    LARGEST_T,
    Interval,
    block_length,
    newey_west_error,
    newey_west_lags,
    paired_interval,
)

ROOT = Path(__file__).resolve().parents[2]
REPLICATIONS = 199
dollars = st.integers(-100_000, 100_000).map(lambda cents: cents / 100)
sessions = st.integers(10, 45).flatmap(lambda n: arrays(np.float64, n, elements=dollars))


def quick(differences: object, seed: int = 3, level: float = 0.95) -> Interval:
    return paired_interval(differences, seed=seed, level=level, replications=REPLICATIONS)  # type: ignore[arg-type]


def alike_sessions(n: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(n + 20)
    for t in range(1, len(noise)):
        noise[t] += 0.5 * noise[t - 1]
    return 40 + 150 * noise[20:]


def reference_error(values: np.ndarray, lags: int) -> float:
    fit = OLS(values, np.ones(len(values))).fit(
        cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": False, "kernel": "bartlett"}
    )
    return float(fit.bse[0])


@pytest.mark.parametrize(("n", "length"), [(10, 1), (40, 4), (57, 2.7)])
def test_resamples_are_those_of_arch(n: int, length: float) -> None:
    ours = stationary_indices(n, length, 50, np.random.default_rng(11))
    arch = StationaryBootstrap(length, np.arange(n), seed=11)
    for row in ours:
        np.testing.assert_array_equal(row, arch.update_indices())


@given(values=arrays(np.float64, 24, elements=dollars), lags=st.integers(0, 8))
def test_the_standard_error_is_that_of_statsmodels(values: np.ndarray, lags: int) -> None:
    assume(np.ptp(values) > 1)
    wanted = reference_error(values, lags)
    np.testing.assert_allclose(newey_west_error(np.stack([values, values + 7]), lags), wanted, rtol=1e-6, atol=1e-6)


def test_blocks_are_estimated_from_30_sessions_on() -> None:
    values = alike_sessions(60, 1)
    assert block_length(values) == optimal_block_length(values)["stationary"].iloc[0] > 1.5
    assert block_length(values[:30]) == max(1, optimal_block_length(values[:30])["stationary"].iloc[0])
    assert block_length(values[:29]) == 1


def test_a_block_length_that_cannot_be_estimated_is_one() -> None:
    values = np.zeros(40)
    values[-2:] = 1, -1
    assert block_length(values) >= 1


def test_small_samples_do_not_wait_for_arch() -> None:
    code = (
        "import sys, src.statistics.coverage, src.statistics.performance, src.statistics.intervals as i\n"
        "i.paired_interval([*range(29)], seed=0)\n"
        "sys.exit(bool({'arch', 'scipy', 'statsmodels'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def test_lags_grow_with_the_sessions_and_the_blocks() -> None:
    assert [newey_west_lags(n, 1.0) for n in (10, 20, 40, 110)] == [2, 2, 3, 4]
    assert newey_west_lags(110, 3.2) == 8
    assert newey_west_lags(30, 10.0) == 10


@pytest.mark.parametrize("n", [14, 30, 64])
def test_the_interval_is_that_of_a_slow_loop_with_other_libraries(n: int) -> None:
    values = alike_sessions(n, 5)
    length = max(1.0, float(optimal_block_length(values)["stationary"].iloc[0])) if n >= 30 else 1.0
    lags = min(max(math.floor(4 * (n / 100) ** (2 / 9)), 2 * math.ceil(length)), n // 3)
    mean, error = float(np.mean(values)), reference_error(values, lags)
    resamples = [data[0] for data, _ in StationaryBootstrap(length, values, seed=8).bootstrap(REPLICATIONS)]
    t = sorted((np.mean(x) - mean) / reference_error(x, lags) for x in resamples)
    ratio = mean / error
    tails = sum(x >= ratio for x in t), sum(x <= ratio for x in t)

    found = quick(values, seed=8)
    assert found.mean == pytest.approx(mean)
    assert found.standard_error == pytest.approx(error)
    assert found.block_length == pytest.approx(length)
    # The fifth smallest and largest of 199 have a fortieth of the draws beyond them.
    assert found.low == pytest.approx(mean - t[-5] * error)
    assert found.high == pytest.approx(mean - t[4] * error)
    assert found.p_value == pytest.approx(min(1, 2 * (min(tails) + 1) / (REPLICATIONS + 1)))
    assert (found.n, found.level, found.replications, found.reason) == (n, 0.95, REPLICATIONS, "")
    assert found.minimum_detectable == pytest.approx(2.8 * np.std(values, ddof=1) / math.sqrt(n))


@settings(max_examples=60)
@given(values=sessions, shift=st.integers(-1_000, 1_000), power=st.integers(-4, 4), sign=st.sampled_from([-1, 1]))
def test_the_interval_moves_and_stretches_with_the_sessions(
    values: np.ndarray, shift: int, power: int, sign: int
) -> None:
    scale = sign * 2.0**power
    before, after = quick(values), quick(values * scale + shift)
    assert after.mean == pytest.approx(before.mean * scale + shift, abs=1e-6)  # type: ignore[operator]
    assert (before.low is None) == (after.low is None)
    if before.low is None or before.high is None:
        return
    ends = sorted((before.low * scale + shift, before.high * scale + shift))
    assert [after.low, after.high] == pytest.approx(ends, rel=1e-6, abs=1e-6)


@settings(max_examples=60)
@given(values=sessions, level=st.sampled_from([0.8, 0.9, 0.95, 0.99]))
@example(values=np.arange(10.0), level=0.95)
def test_the_p_value_is_small_exactly_where_the_interval_leaves_out_zero(values: np.ndarray, level: float) -> None:
    found = quick(values, level=level)
    assume(found.low is not None and found.high is not None and found.standard_error)
    assert found.low is not None
    assert found.high is not None
    assert found.p_value is not None
    if min(abs(found.low), abs(found.high)) > 1e-9:
        assert (found.p_value <= 1 - level + 1e-9) == (found.low > 0 or found.high < 0)


def test_a_higher_level_makes_it_wider() -> None:
    values = alike_sessions(50, 2)
    narrow, wide = quick(values, level=0.8), quick(values, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high  # type: ignore[operator]


def test_the_same_seed_gives_the_same_interval_and_another_one_another() -> None:
    values = alike_sessions(50, 2)
    assert quick(values) == quick(values)
    assert quick(values) != quick(values, seed=4)


def test_portions_of_resamples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = alike_sessions(50, 2)
    whole = quick(values)
    monkeypatch.setattr(intervals, "_CHUNK", 40)
    assert quick(values) == whole


def test_seeds_are_averaged_by_session_first() -> None:
    table = np.stack([alike_sessions(40, seed) for seed in range(3)])
    found = quick(table)
    assert found.seed_means == pytest.approx(table.mean(axis=1))
    alone = quick(table.mean(axis=0))
    assert alone.seed_means == (alone.mean,)
    assert replace(found, seed_means=alone.seed_means) == alone
    assert found.n == 40


def test_nine_sessions_give_a_mean_and_no_interval() -> None:
    found = quick(np.arange(9.0))
    assert (found.mean, found.low, found.high, found.p_value) == (4, None, None, None)
    assert found.reason == found.sample.words == "not enough sessions (9 of 40)"
    assert found.minimum_detectable == pytest.approx(2.8 * math.sqrt(7.5) / 3)
    assert quick(np.arange(10.0)).low is not None


def test_one_session_and_none_have_no_spread() -> None:
    assert (quick([5.0]).mean, quick([5.0]).minimum_detectable) == (5, None)
    assert (quick([]).mean, quick([]).reason) == (None, "not enough sessions (0 of 40)")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_session_without_a_figure_is_named_and_never_dropped(value: float) -> None:
    values = np.ones((2, 40))
    values[1, 7] = value
    found = quick(values)
    assert (found.mean, found.low, found.p_value) == (None, None, None)
    assert found.reason == "1 of 40 sessions have no finite difference (first: session 8)"


@st.composite
def nearly_equal_sessions(draw: st.DrawFn) -> np.ndarray:
    """10 to 29 sessions around one value, a few of them far from it."""
    n, centre = draw(st.integers(10, 29)), draw(dollars)
    noise = arrays(np.float64, n, elements=st.floats(-1, 1), fill=st.nothing())
    values = centre + draw(st.sampled_from([0.0, 1e-9, 1e-3, 1.0])) * draw(noise)
    for place in draw(st.lists(st.integers(0, n - 1), max_size=3)):
        values[place] += draw(dollars)
    return values


@settings(max_examples=150)
@given(values=nearly_equal_sessions(), level=st.sampled_from([0.9, 0.95, 0.99]))
@example(values=np.array([0.0, 0.01, 0.02, 0.01, 0.0, 0.01, 0.02, 0.0, 0.01, -300.0]), level=0.95)
def test_no_interval_reaches_beyond_its_sessions_or_six_standard_errors(values: np.ndarray, level: float) -> None:
    found = quick(values, level=level)
    if found.low is None or found.high is None:
        assert found.reason
        return
    assert found.mean is not None
    assert found.standard_error is not None
    rounding = 1e-9 * max(1.0, float(np.abs(values).max()))
    assert values.min() - rounding <= found.low <= found.mean + rounding
    assert found.mean - rounding <= found.high <= values.max() + rounding
    assert max(found.mean - found.low, found.high - found.mean) <= LARGEST_T * found.standard_error + rounding


def test_sessions_that_are_nearly_equal_no_longer_give_limits_in_the_millions() -> None:
    """Resamples without the one loss have almost no spread. By hand: 68.00 - 6 sqrt(81,000 - 1,200 - 1,200) / 10."""
    found = quick([98.0, 98.001, 98.0, 98.002, 98.0, 98.001, 98.0, 98.0, 98.001, -202.0])
    assert found.low == pytest.approx(-100.21, abs=0.01)
    assert 67.9 < found.high <= 98.002  # type: ignore[operator]


def test_sessions_all_on_one_side_of_zero_have_at_most_the_sign_tests_p_value() -> None:
    found = quick([0.01] * 6 + [0.02] * 5 + [300.0])
    assert found.low >= 0.01  # type: ignore[operator]
    assert found.p_value <= 2 * 0.5**12  # type: ignore[operator]


def test_equal_sessions_give_a_point_that_is_called_one() -> None:
    found = quick(np.full(40, 0.1))
    assert found.low == found.high == found.mean
    assert found.p_value is None
    assert "a single value" in found.reason
    assert quick(np.zeros(40)).p_value == 1


def test_a_single_session_that_differs_gives_an_interval_within_the_limits() -> None:
    """More than 2.5% of its resamples have no spread, so the studentised interval alone is infinite at one end."""
    values = np.zeros(20)
    values[3] = 50.0
    found = quick(values)
    assert found.standard_error is not None
    assert (found.mean, found.low) == (2.5, 0.0)
    assert found.high == pytest.approx(2.5 + LARGEST_T * found.standard_error)
    assert found.p_value > 0.05  # type: ignore[operator]


@pytest.mark.parametrize("shape", [(0, 5), (2, 3, 4), ()])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        quick(np.zeros(shape))


@pytest.mark.parametrize(("level", "replications"), [(0.0, 999), (1.0, 999), (0.95, 38), (math.nan, 999)])
def test_a_level_that_the_replications_cannot_tell_is_refused(level: float, replications: int) -> None:
    with pytest.raises(ValueError, match="level"):
        paired_interval(np.arange(40.0), seed=0, level=level, replications=replications)


def test_thirty_nine_replications_are_enough_for_95_percent() -> None:
    assert paired_interval(np.arange(40.0), seed=0, replications=39).low is not None
