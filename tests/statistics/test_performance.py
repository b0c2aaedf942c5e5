"""Ratios, drawdown and trades by hand; Sharpe ratios against luck by the examples of the papers they come from."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from src.statistics.performance import (
    deflated_sharpe,
    expected_maximum_sharpe,
    max_drawdown_usd,
    minimum_track_record,
    probabilistic_sharpe,
    profit_factor,
    series_figures,
    sharpe_ratio,
    sortino_ratio,
    trade_figures,
)

NET = np.array([100.0, -50.0, 30.0, -80.0, -20.0, 60.0])
cents = st.integers(-10_000_000, 10_000_000)
series = st.lists(cents.map(lambda c: c / 100), min_size=1, max_size=40)
enough = st.lists(cents.map(lambda c: c / 100), min_size=10, max_size=40)

# Bailey & Lopez de Prado (2014), "A numerical example": the best of 100 trials on 1,250 days of 250 a year.
DAYS, A_YEAR = 1_250, 250
BEST, VARIANCE = 2.5 / math.sqrt(A_YEAR), 0.5 / A_YEAR
SKEW, KURTOSIS = -3.0, 10.0


def test_the_figures_of_six_sessions_by_hand() -> None:
    figures = series_figures(NET)
    assert (figures.sessions, figures.net_usd) == (6, 40)
    assert figures.mean_usd == pytest.approx(40 / 6)
    assert figures.sd_usd == pytest.approx(statistics.stdev(NET))
    assert figures.sharpe == pytest.approx(statistics.mean(NET) / statistics.stdev(NET) * math.sqrt(252))
    downside = math.sqrt((50**2 + 80**2 + 20**2) / 6)
    assert figures.sortino == pytest.approx(40 / 6 / downside * math.sqrt(252))
    # 100, 50, 80, 0, -20, 40
    assert figures.max_drawdown_usd == 120


def test_a_series_without_sessions_has_no_ratios() -> None:
    figures = series_figures(np.array([]))
    assert (figures.sessions, figures.net_usd, figures.max_drawdown_usd) == (0, 0, 0)
    assert figures.mean_usd is figures.sd_usd is figures.sharpe is figures.sortino is None


def test_ratios_of_sessions_that_do_not_differ_or_never_lose_are_not_defined() -> None:
    assert sharpe_ratio(np.full(20, 0.1)) is None
    assert sharpe_ratio(np.array([5.0])) is None
    assert sortino_ratio(np.array([5.0, 0.0, 7.0])) is None
    with pytest.raises(ValueError, match="finite"):
        series_figures(np.array([1.0, math.nan]))


@given(series, st.floats(0.01, 100))
def test_ratios_do_not_depend_on_the_capital(net: list[float], scale: float) -> None:
    column = np.array(net)
    for ratio in (sharpe_ratio, sortino_ratio):
        before, after = ratio(column), ratio(column * scale)
        assert after == (None if before is None else pytest.approx(before, rel=1e-6, abs=1e-9))


@given(series)
def test_the_drawdown_is_the_worst_fall_between_any_two_instants(net: list[float]) -> None:
    curve = [sum(net[:k]) for k in range(len(net) + 1)]
    worst = max(curve[i] - curve[j] for i in range(len(curve)) for j in range(i, len(curve)))
    found = max_drawdown_usd(np.array(net))
    assert found == pytest.approx(worst, abs=1e-5)
    assert found >= 0


@given(series, st.floats(0, 100))
def test_the_drawdown_grows_with_the_position(net: list[float], scale: float) -> None:
    column = np.array(net)
    assert max_drawdown_usd(column * scale) == pytest.approx(max_drawdown_usd(column) * scale, rel=1e-9, abs=1e-5)


def test_a_loss_on_the_first_session_is_a_drawdown() -> None:
    assert max_drawdown_usd(np.array([-30.0, 10.0])) == 30


def test_trades_are_counted_over_all_sessions() -> None:
    figures = trade_figures(
        trades=np.array([3, 0, 5]),
        wins=np.array([1, 0, 3]),
        gross_wins_usd=np.array([200.0, 0.0, 400.0]),
        gross_losses_usd=np.array([100.0, 0.0, 150.0]),
        bars=np.array([100, 100, 50]),
        bars_exposed=np.array([30, 0, 20]),
    )
    assert figures.trades == 8
    assert figures.trades_a_day == pytest.approx(8 / 3)
    assert figures.win_rate == 0.5
    assert figures.profit_factor == pytest.approx(2.4)
    assert figures.exposure_frac == pytest.approx(0.2)


def test_what_never_traded_has_no_trade_figures() -> None:
    none, amounts = np.zeros(2, np.int64), np.zeros(2)
    figures = trade_figures(
        trades=none, wins=none, gross_wins_usd=amounts, gross_losses_usd=amounts, bars=none, bars_exposed=none
    )
    assert (figures.trades, figures.trades_a_day) == (0, 0)
    assert figures.win_rate is figures.profit_factor is figures.exposure_frac is None
    with pytest.raises(ValueError, match="one length"):
        trade_figures(
            trades=none, wins=none[:1], gross_wins_usd=amounts, gross_losses_usd=amounts, bars=none, bars_exposed=none
        )


def test_losses_are_positive_amounts() -> None:
    assert profit_factor(np.array([30.0, 10.0]), np.array([20.0])) == 2
    for wins, losses in (([10.0], [-5.0]), ([math.inf], [5.0])):
        with pytest.raises(ValueError, match="at least 0"):
            profit_factor(np.array(wins), np.array(losses))


@pytest.mark.parametrize(("skew", "kurtosis", "wanted"), [(0.0, 3.0, 0.982), (-2.448, 10.164, 0.913)])
def test_the_probabilistic_sharpe_ratio_of_the_papers_hedge_fund(skew: float, kurtosis: float, wanted: float) -> None:
    # Bailey & Lopez de Prado (2012): 24 months with a ratio of 0.458 a month.
    assert probabilistic_sharpe(0.458, 0.0, 24, skew, kurtosis) == pytest.approx(wanted, abs=0.0006)


@pytest.mark.parametrize(
    ("a_year", "skew", "kurtosis", "years"),
    [(252, 0.0, 3.0, 2.73), (52, 0.0, 3.0, 2.83), (12, 0.0, 3.0, 3.24), (12, -0.72, 5.78, 4.99)],
)
def test_the_minimum_track_records_of_the_paper(a_year: int, skew: float, kurtosis: float, years: float) -> None:
    # Bailey & Lopez de Prado (2012): to show that an annualised 2 is above 1, seen daily, weekly and monthly.
    root = math.sqrt(a_year)
    assert round(minimum_track_record(2 / root, 1 / root, skew, kurtosis) / a_year, 2) == years  # type: ignore[operator]


def test_a_track_record_by_hand() -> None:
    # 1 - 1 x 0.5 + (5 - 1) / 4 x 0.25 = 0.75; 1 + 0.75 x (1.644854 / 0.25)^2 = 33.4666
    assert minimum_track_record(0.5, 0.25, 1.0, 5.0) == pytest.approx(33.4666, abs=1e-3)


@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(-3, 3), st.floats(0, 20), st.floats(0.51, 0.999))
def test_a_track_record_of_the_minimum_length_has_the_confidence(
    sharpe: float, benchmark: float, skew: float, above: float, confidence: float
) -> None:
    kurtosis = 1 + skew**2 + above
    needed = minimum_track_record(sharpe, benchmark, skew, kurtosis, confidence=confidence)
    if sharpe <= benchmark:
        assert needed is None
        return
    assume(needed is not None and 2 < needed < 1e15)
    variance = 1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2
    z = (sharpe - benchmark) * math.sqrt((needed - 1) / variance)  # type: ignore[operator]
    assert stats.norm.cdf(z) == pytest.approx(confidence, abs=1e-6)
    for n in (math.floor(needed), math.ceil(needed)):  # type: ignore[arg-type]
        reached = probabilistic_sharpe(sharpe, benchmark, n, skew, kurtosis)
        assert reached is None or (reached >= confidence) == (n >= needed) or reached == pytest.approx(confidence)


def test_a_track_record_that_no_length_makes_long_enough() -> None:
    assert minimum_track_record(0.1, 0.1, 0.0, 3.0) is None
    assert minimum_track_record(0.5, 0.0, 4.0, 17.0) is None
    assert minimum_track_record(5e-324, 0.0, 0.0, 3.0) == math.inf
    for confidence in (0.5, 1.0):
        with pytest.raises(ValueError, match=r"0\.5 to 1|between 0\.5 and 1"):
            minimum_track_record(0.1, 0.0, 0.0, 3.0, confidence=confidence)


@given(enough, st.integers(1, 50))
@settings(max_examples=40)
def test_a_deflated_ratio_needs_as_many_sessions_as_bring_it_to_95_percent(net: list[float], trials: int) -> None:
    found = deflated_sharpe(np.array(net), trial_sharpes=np.array([-0.1, 0.1])[:trials], trials=trials)
    assume(found.probability is not None and found.sharpe > found.expected_maximum + 1e-4)  # type: ignore[operator]
    n = found.sessions_needed
    reached = [
        probabilistic_sharpe(found.sharpe, found.expected_maximum, k, found.skew, found.kurtosis)  # type: ignore[arg-type]
        for k in (n, n - 1)  # type: ignore[operator]
    ]
    assert reached[0] >= 0.95 - 1e-9
    assert n == 10 or reached[1] < 0.95 + 1e-9


def test_the_deflated_sharpe_ratio_of_the_papers_example() -> None:
    benchmark = expected_maximum_sharpe(VARIANCE, 100)
    assert round(benchmark, 4) == 0.1132
    probability = probabilistic_sharpe(BEST, benchmark, DAYS, SKEW, KURTOSIS)
    assert probability == pytest.approx(0.9004, abs=0.00005)


@pytest.mark.parametrize(("trials", "skew", "kurtosis"), [(46, SKEW, KURTOSIS), (88, 0.0, 3.0)])
def test_the_papers_numbers_of_trials_leave_95_percent(trials: int, skew: float, kurtosis: float) -> None:
    probability = probabilistic_sharpe(BEST, expected_maximum_sharpe(VARIANCE, trials), DAYS, skew, kurtosis)
    assert probability == pytest.approx(0.95, abs=0.001)


@pytest.mark.parametrize("trials", [5, 100, 1_000])
def test_the_expected_maximum_is_that_of_so_many_normal_draws(trials: int) -> None:
    x = np.linspace(-8, 8, 200_001)
    density = trials * stats.norm.pdf(x) * stats.norm.cdf(x) ** (trials - 1)
    exact = float(np.trapezoid(x * density, x))
    # The formula is the limit for many trials, 3% off for five.
    assert expected_maximum_sharpe(0.25, trials) == pytest.approx(0.5 * exact, rel=0.03)


@given(variance=st.floats(0, 10), trials=st.integers(1, 10_000), more=st.integers(1, 100))
def test_more_trials_expect_more(variance: float, trials: int, more: int) -> None:
    assert expected_maximum_sharpe(variance, trials + more) >= expected_maximum_sharpe(variance, trials) >= 0


def test_no_trial_and_a_negative_variance_are_refused() -> None:
    for variance, trials in ((0.1, 0), (-0.1, 5)):
        with pytest.raises(ValueError, match="trials must be at least 1"):
            expected_maximum_sharpe(variance, trials)


def test_the_deflated_ratio_of_a_series_is_put_together_from_its_moments() -> None:
    net = np.random.default_rng(4).standard_t(4, 120) * 200 + 35
    others = np.array([0.02, -0.05, 0.11, 0.07])
    found = deflated_sharpe(net, trial_sharpes=others, trials=6)
    sharpe, skew, kurtosis = net.mean() / net.std(ddof=1), stats.skew(net), stats.kurtosis(net, fisher=False)
    g = 0.5772156649015329
    luck = (1 - g) * stats.norm.ppf(1 - 1 / 6) + g * stats.norm.ppf(1 - 1 / (6 * math.e))
    benchmark = statistics.stdev(others) * luck
    error = math.sqrt((1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2) / 119)
    assert (found.sessions, found.trials, found.reason) == (120, 6, "")
    assert (found.sharpe, found.skew, found.kurtosis) == pytest.approx((sharpe, skew, kurtosis))
    assert found.expected_maximum == pytest.approx(benchmark)
    assert found.probability == pytest.approx(stats.norm.cdf((sharpe - benchmark) / error))


def test_a_first_trial_has_nothing_to_deflate() -> None:
    found = deflated_sharpe(np.tile(NET, 10), trial_sharpes=np.array([0.1]), trials=1)
    assert found.expected_maximum == 0
    assert found.probability is not None
    assert found.sharpe is not None
    assert (found.probability > 0.5) == (found.sharpe > 0)


@given(enough, st.integers(2, 50))
def test_trying_more_never_raises_the_deflated_ratio(net: list[float], trials: int) -> None:
    column, others = np.array(net), np.array([-0.1, 0.1])
    fewer = deflated_sharpe(column, trial_sharpes=others, trials=trials)
    more = deflated_sharpe(column, trial_sharpes=others, trials=trials + 1)
    assert (fewer.probability is None) == (more.probability is None)
    assume(fewer.probability is not None)
    assert 0 <= more.probability <= fewer.probability <= 1  # type: ignore[operator]


def test_a_deflated_ratio_that_cannot_be_told_says_why() -> None:
    others = np.array([0.1, 0.2])
    assert deflated_sharpe(NET, trial_sharpes=others, trials=2).reason == "not enough sessions (6 of 40)"
    assert deflated_sharpe(np.ones(50), trial_sharpes=others, trials=2).reason == "every session has the same net P&L"
    long = np.tile(NET, 10)
    unknown = deflated_sharpe(long, trial_sharpes=others[:1], trials=3)
    assert unknown.probability is None
    assert unknown.reason == "only 1 of 3 trials has a Sharpe ratio, so their variance is unknown"
    with pytest.raises(ValueError, match="2 ratios cannot come from 1 trials"):
        deflated_sharpe(long, trial_sharpes=others, trials=1)


def test_two_values_of_the_worst_kind_have_no_probability() -> None:
    assert probabilistic_sharpe(0.5, 0.0, 50, 4.0, 17.0) is None
    assert probabilistic_sharpe(0.5, 0.0, 1, 0.0, 3.0) is None
