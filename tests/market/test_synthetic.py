"""Synthetic bars look like a market; the canary markets are exactly as fair, or as tilted, as they say."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.errors import BarDataError, MarketError
from src.market.bars import Bars
from src.market.contracts import CONTRACTS
from src.market.features import WARMUP_BARS, window_features
from src.market.sessions import calendar_schedule, place_in_sessions
from src.market.synthetic import INNER_STEPS, martingale_bars, planted_bars, synthetic_bars
from src.market.tables import run_starts
from src.market.walks import byte_walks, walk_fairly

BAR_SD = np.sqrt(INNER_STEPS + 0.5)


def planted_only(*args: int | str) -> Bars:
    return planted_bars(*args)[0]  # type: ignore[arg-type]


MAKERS: list[Callable[..., Bars]] = [synthetic_bars, martingale_bars, planted_only]


def assert_bars_are_possible(bars: Bars) -> None:
    low, high = np.minimum(bars.open, bars.close), np.maximum(bars.open, bars.close)
    assert (bars.high >= high).all()
    assert (bars.low <= low).all()
    assert (bars.low > 0).all()
    assert (bars.volume >= 1).all()
    assert (np.diff(bars.open_ns) > 0).all()


@settings(max_examples=12)
@given(
    st.sampled_from(MAKERS),
    st.sampled_from(sorted(CONTRACTS)),
    st.integers(1, 3),
    st.integers(1, 15),
    st.integers(0, 2**63),
)
def test_bars_are_possible_labelled_and_a_function_of_the_seed(
    make: Callable[..., Bars], market: str, n_sessions: int, interval_min: int, seed: int
) -> None:
    bars = make(market, n_sessions, interval_min, seed)
    assert_bars_are_possible(bars)
    assert {column.dtype for column in (bars.open, bars.high, bars.low, bars.close)} == {np.dtype(np.int32)}
    assert bars.synthetic
    assert bars.source.startswith("SYNTHETIC")
    assert f"seed {seed}" in bars.source
    assert (bars.market, bars.interval_s) == (market, 60 * interval_min)
    assert make(market, n_sessions, interval_min, seed).fingerprint == bars.fingerprint
    assert make(market, n_sessions, interval_min, seed + 1).fingerprint != bars.fingerprint


def test_markets_with_the_same_seed_do_not_move_together() -> None:
    es, nq = (np.diff(martingale_bars(market, 20, 5, 1).close) for market in ("ES", "NQ"))
    assert abs(np.corrcoef(es, nq)[0, 1]) < 4 / np.sqrt(es.size)


@pytest.mark.parametrize("interval_min", [1, 5, 7, 15])
@pytest.mark.parametrize("start", [date(2013, 11, 25), date(2024, 11, 25)], ids=["daily_halt", "early_closes"])
def test_every_scheduled_slot_has_its_bar_and_no_other(interval_min: int, start: date) -> None:
    bars = synthetic_bars("ES", 22, interval_min, seed=2, start=start)
    placed, sessions = place_in_sessions(bars, "rth")
    assert placed.repairs == {}
    assert (placed.session_id == bars.session_id).all()
    schedule = calendar_schedule(start, date(start.year + 1, 1, 20))
    assert (sessions.date == schedule.date[:22]).all()
    halted = (placed.open_ns >= sessions.halt_start_ns[placed.session_id]) & (
        placed.open_ns < sessions.halt_end_ns[placed.session_id]
    )
    assert not halted.any()
    # Seven minutes do not fit the 16:15 to 16:30 halt of 2013: one slot that opens before its end is left out.
    tolerated = 1 if interval_min == 7 else 0
    assert (run_starts(placed, sessions, no_trade_bars=tolerated) == 0).all(), "one run, without a hole"


@pytest.mark.parametrize("interval_min", [1, 5, 15])
def test_regular_hours_canaries_have_a_whole_window_at_the_first_decision_and_no_hole_up_to_the_exit(
    interval_min: int,
) -> None:
    bars = martingale_bars("NQ", 30, interval_min, seed=3, hours="rth")
    placed, sessions = place_in_sessions(bars, "rth")
    runs = run_starts(placed, sessions, no_trade_bars=0)
    window = window_features(placed, sessions, runs)
    for k in range(len(sessions)):
        own = slice(int(sessions.first_bar[k]), int(sessions.end_bar[k]))
        times = placed.open_ns[own]
        assert (np.diff(times) == placed.interval_ns).all()
        first_decision = int(np.searchsorted(times, sessions.trade_open_ns[k])) - 1
        assert first_decision + 1 >= WARMUP_BARS
        assert window[own][first_decision - 19 : first_decision + 1].any(axis=1).all()
        assert times[-1] >= sessions.flat_slot_ns[k]
    share = {1: 0.4, 5: 0.6, 15: 1.0}[interval_min]
    assert len(bars) < share * len(martingale_bars("NQ", 30, interval_min, seed=3))


def log_changes(bars: Bars) -> np.ndarray:
    return np.log(bars.close / bars.open)


@pytest.fixture(scope="module")
def half_year() -> Bars:
    return synthetic_bars("NQ", 120, 5, seed=7)


def new_york_hours(bars: Bars) -> np.ndarray:
    local = pd.DatetimeIndex(bars.open_ns, tz="UTC").tz_convert("America/New_York")
    return np.asarray(local.hour + local.minute / 60)


def test_the_session_is_u_shaped_in_volatility_and_in_volume(half_year: Bars) -> None:
    hours = new_york_hours(half_year)

    def mean_between(values: np.ndarray, first: float, last: float) -> float:
        return float(values[(hours >= first) & (hours < last)].mean())

    for values in (np.abs(log_changes(half_year)), half_year.volume.astype(float)):
        opening, midday = mean_between(values, 9.5, 10.5), mean_between(values, 12, 13.5)
        closing, night = mean_between(values, 15.5, 16), mean_between(values, 19, 24)
        assert opening > 1.2 * midday
        assert closing > 1.1 * midday
        assert midday > 1.3 * night


def test_changes_have_fat_tails_and_cluster_beyond_the_time_of_day(half_year: Bars) -> None:
    change = log_changes(half_year)
    slot = np.round(new_york_hours(half_year) * 12).astype(int)
    usual = np.sqrt(np.bincount(slot, change**2) / np.maximum(np.bincount(slot), 1))[slot]
    scaled = change / usual
    kurtosis = np.mean(scaled**4) / np.mean(scaled**2) ** 2
    assert kurtosis > 4.5, "a normal distribution has 3"
    size = np.abs(scaled)
    for lag in (1, 6, 12):
        assert np.corrcoef(size[lag:], size[:-lag])[0, 1] > 0.05, lag
    assert abs(np.corrcoef(scaled[1:], scaled[:-1])[0, 1]) < 0.05, "sizes cluster, directions do not"


def test_volume_follows_volatility_and_tells_no_direction(half_year: Bars) -> None:
    volume = np.log(half_year.volume)
    change = log_changes(half_year)
    assert np.corrcoef(volume, np.abs(change))[0, 1] > 0.2
    assert abs(np.corrcoef(volume, np.sign(change))[0, 1]) < 4 / np.sqrt(change.size)


@pytest.mark.parametrize("market", ["NQ", "ES", "YM", "RTY", "MNQ", "MES", "MYM", "M2K"])
def test_levels_and_daily_volatility_are_those_of_an_index_future(market: str) -> None:
    bars = synthetic_bars(market, 120, 15, seed=11)
    first = np.flatnonzero(np.diff(bars.session_id, prepend=-1))
    daily = np.add.reduceat(log_changes(bars) ** 2, first)
    assert 0.005 < np.sqrt(daily.mean()) < 0.025
    points = bars.open[0] * float(CONTRACTS[market].tick_size)
    assert 1_500 < points < 60_000


def test_sessions_open_with_a_gap_and_bars_inside_one_without(half_year: Bars) -> None:
    gap = half_year.open[1:] - half_year.close[:-1]
    inside = np.diff(half_year.session_id) == 0
    assert (gap[inside] == 0).all()
    assert np.mean(gap[~inside] != 0) > 0.9


def test_what_cannot_be_made_is_refused_with_the_limits() -> None:
    with pytest.raises(MarketError):
        synthetic_bars("CL")
    with pytest.raises(BarDataError, match="1 to 15"):
        synthetic_bars("ES", 60, 30)
    with pytest.raises(BarDataError, match="at least 1"):
        martingale_bars("ES", 0, 5, 0)
    with pytest.raises(BarDataError, match="multiple of 8"):
        martingale_bars("ES", 1, 5, 0, inner_steps=100)
    with pytest.raises(BarDataError, match="between 0 and 10"):
        planted_bars("ES", 1, 5, 0, drift_sigma=11.0)
    with pytest.raises(BarDataError, match="hold_bars is 0"):
        planted_bars("ES", 1, 5, 0, hold_bars=0)


def test_a_byte_walks_the_steps_of_its_bits() -> None:
    sums, tops, bottoms = byte_walks()
    assert (sums[0b1111], tops[0b1111], bottoms[0b1111]) == (0, 4, 0)  # four up, four down, the lowest bit first
    assert (sums[0], tops[0], bottoms[0]) == (-8, -1, -8)
    assert (sums[0b11100], tops[0b11100], bottoms[0b11100]) == (-2, 1, -2)


def splitmix(seed: int, counter: int) -> int:
    """The generator's definition with Python's unbounded integers."""
    mask = 2**64 - 1
    z = (seed + counter * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
    return z ^ z >> 31


@given(st.integers(0, 2**64 - 1))
def test_open_high_low_and_close_are_those_of_the_inner_walk(seed: int) -> None:
    bar = walk_fairly(1_000, 64, np.ones(1, np.int64), *byte_walks(), np.uint64(seed))[0]
    word, last = splitmix(seed, 1), splitmix(seed, 2) >> 63
    steps = [1 if word >> k & 1 else -1 for k in range(64)] + [1 if last else -1]
    path = [1_000, *(1_000 + np.cumsum(steps))]
    assert list(bar) == [1_000, max(path), min(path), path[-1]]


@pytest.fixture(scope="module")
def martingale() -> Bars:
    return martingale_bars("NQ", 1_000, 5, seed=4, hours="rth")


def test_a_martingale_bar_opens_at_the_last_close_in_every_session(martingale: Bars) -> None:
    assert (martingale.open[1:] == martingale.close[:-1]).all()
    assert_bars_are_possible(martingale)


def test_martingale_changes_have_mean_zero_and_the_stated_size(martingale: Bars) -> None:
    change = (martingale.close - martingale.open).astype(float)
    n = change.size
    assert abs(change.mean()) < 4 * BAR_SD / np.sqrt(n)
    assert change.std() == pytest.approx(BAR_SD, rel=4 / np.sqrt(2 * n))
    assert 0.49 < np.mean(change % 2 != 0) < 0.51, "a coin adds a step, so changes are odd as often as even"
    assert 29 < np.mean(martingale.high - martingale.low) < 33, "sqrt(8 / pi) x sd is 32, a lattice misses some"


@pytest.mark.parametrize("bars_together", [2, 5, 20, 100])
def test_martingale_variance_ratios_are_one(martingale: Bars, bars_together: int) -> None:
    price = martingale.close.astype(float)
    n = (price.size - 1) // bars_together
    long = np.diff(price[::bars_together][: n + 1])
    ratio = np.mean(long**2) / (bars_together * np.mean(np.diff(price) ** 2))
    assert ratio == pytest.approx(1.0, abs=4 * np.sqrt(2 / n))


def test_wicks_tell_nothing_about_the_next_change(martingale: Bars) -> None:
    spread = np.maximum(martingale.high - martingale.low, 1)
    location = (2 * martingale.close - martingale.high - martingale.low) / spread
    change = martingale.close - martingale.open
    for known in (location, spread, martingale.volume, np.sign(change)):
        assert abs(np.corrcoef(known[:-1], change[1:])[0, 1]) < 4 / np.sqrt(change.size)


def bracket_changes(ohlc: np.ndarray, side: int, stop: int, target: int, every: int, most_bars: int) -> np.ndarray:
    """Ticks gained by brackets entered at every n-th open, closed after `most_bars` at the latest.

    A bar that holds both stop and target spans six standard deviations; such trades count at the bar's open, and the
    test fails if they are common enough to matter.
    """
    gains = []
    undecided = 0
    for first in range(0, len(ohlc) - most_bars, every):
        entry = ohlc[first, 0]
        ahead = ohlc[first : first + most_bars]
        best = side * (ahead[:, 1] - entry) if side > 0 else entry - ahead[:, 2]
        worst = side * (ahead[:, 2] - entry) if side > 0 else entry - ahead[:, 1]
        hit = np.flatnonzero((best >= target) | (worst <= -stop))
        if hit.size == 0:
            gains.append(side * (ahead[-1, 3] - entry))
        elif best[hit[0]] >= target and worst[hit[0]] <= -stop:
            gains.append(side * (ahead[hit[0], 0] - entry))
            undecided += 1
        else:
            gains.append(target if best[hit[0]] >= target else -stop)
    assert undecided < 1e-3 * len(gains)
    return np.array(gains, dtype=float)


def mean_and_error(gains: np.ndarray) -> tuple[float, float]:
    """Trades overlap, so the standard error is taken over blocks of 40 entries: longer than any trade lasts."""
    blocks = gains[: gains.size // 40 * 40].reshape(-1, 40).mean(axis=1)
    return float(blocks.mean()), float(blocks.std() / np.sqrt(blocks.size))


@pytest.mark.parametrize(("stop", "target"), [(60, 180), (60, 60), (100, 45)])
def test_no_bracket_earns_or_loses_on_a_martingale(martingale: Bars, stop: int, target: int) -> None:
    ohlc = np.stack((martingale.open, martingale.high, martingale.low, martingale.close), axis=1)
    long, short = (bracket_changes(ohlc, side, stop, target, every=5, most_bars=60) for side in (1, -1))
    for gains in (long, short, (long + short) / 2):
        mean, error = mean_and_error(gains)
        assert abs(mean) <= 4 * error  # equal brackets of both sides cancel exactly


def test_the_bracket_check_sees_the_edge_that_gaussian_sub_steps_give() -> None:
    n = 400_000
    path = np.cumsum(np.random.default_rng(0).normal(0.0, BAR_SD / np.sqrt(10), 10 * n)).reshape(n, 10) + 500_000
    open_ = np.concatenate(([500_000.0], path[:-1, -1]))
    high, low = np.maximum(open_, path.max(axis=1)), np.minimum(open_, path.min(axis=1))
    ohlc = np.rint(np.stack((open_, high, low, path[:, -1]), axis=1)).astype(int)
    long, short = (bracket_changes(ohlc, side, 60, 180, every=5, most_bars=60) for side in (1, -1))
    mean, error = mean_and_error((long + short) / 2)
    assert mean > 4 * error, "a stop filled at its price, though the path had jumped past it"
    assert 0.03 * BAR_SD < mean < 0.15 * BAR_SD


@pytest.mark.parametrize("drift_sigma", [0.15, 0.5])
def test_the_planted_sign_is_known_one_bar_before_the_drift_it_announces(drift_sigma: float) -> None:
    bars, sign = planted_bars("NQ", 300, 5, seed=9, drift_sigma=drift_sigma)
    change = (bars.close - bars.open) / np.sqrt(INNER_STEPS)
    error = 1 / np.sqrt(change.size - 1)
    assert np.mean(sign[:-1] * change[1:]) == pytest.approx(drift_sigma, abs=4 * error)
    block_start = np.flatnonzero(sign[1:] != sign[:-1]) + 1
    first_of_block = change[block_start]  # still moved by the sign before
    assert np.mean(sign[block_start - 1] * first_of_block) == pytest.approx(
        drift_sigma, abs=4 / np.sqrt(block_start.size)
    )
    assert change.std() == pytest.approx(1.0, abs=0.02 + drift_sigma**2 / 2)
    assert (bars.open[1:] == bars.close[:-1]).all()


def test_the_planted_sign_holds_and_the_sides_are_even() -> None:
    _, sign = planted_bars("ES", 200, 5, seed=1, hold_bars=30)
    assert sign.dtype == np.float32
    blocks = sign[: sign.size // 30 * 30].reshape(-1, 30)
    assert (blocks == blocks[:, :1]).all()
    assert set(np.unique(sign)) == {-1.0, 1.0}
    assert abs(blocks[:, 0].mean()) < 4 / np.sqrt(len(blocks))


def test_without_a_drift_the_planted_sign_announces_nothing() -> None:
    bars, sign = planted_bars("NQ", 100, 5, seed=9, drift_sigma=0.0)
    change = (bars.close - bars.open) / np.sqrt(INNER_STEPS)
    assert abs(np.mean(sign[:-1] * change[1:])) < 4 / np.sqrt(change.size)
