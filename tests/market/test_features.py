"""The feature tables: causal, within one run, finite, and equal to a slow reading of their definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.market import indicators
from src.market.bars import Bars, make_bars, select_bars
from src.market.context import range_position
from src.market.features import (
    CONTEXT_FEATURES,
    CONTEXT_GROUPS,
    FEATURE_BARS,
    WARMUP_BARS,
    WINDOW_BARS,
    WINDOW_FEATURES,
    window_features,
)
from src.market.indicators import average_true_range, columns_of, indicators_of, relative_strength
from src.market.sessions import Schedule, calendar_schedule, place_in_sessions
from src.market.synthetic import synthetic_bars
from src.market.tables import run_starts
from tests.market.feature_oracle import NEW_YORK, Oracle, Placed

NO_TRADE_BARS = 2


def place(bars: Bars, schedule: Schedule | None = None) -> Placed:
    placed, sessions = place_in_sessions(bars, "rth", schedule)
    return Placed(placed, sessions, run_starts(placed, sessions, NO_TRADE_BARS))


def prefix(bars: Bars, k: int) -> Bars:
    return select_bars(bars, np.arange(k), session_id=bars.session_id[:k])


def with_prices(bars: Bars, ohlc: np.ndarray, volume: np.ndarray) -> Bars:
    return make_bars(
        market=bars.market, interval_s=bars.interval_s, source=bars.source, open_ns=bars.open_ns,
        open=ohlc[:, 0], high=ohlc[:, 1], low=ohlc[:, 2], close=ohlc[:, 3], volume=volume,
        contract=bars.contract, contract_names=bars.contract_names, session_id=bars.session_id,
    )  # fmt: skip


def prices_of(bars: Bars) -> np.ndarray:
    return np.stack((bars.open, bars.high, bars.low, bars.close), axis=1).astype(np.int64)


def wild_prices(rng: np.random.Generator, n: int, level: int = 5_000, step: int = 20) -> np.ndarray:
    """Bars that know no continuity: gaps between them, wicks and flat bars."""
    close = level + np.cumsum(rng.integers(-step, step + 1, n))
    close -= min(int(close.min()) - 10 * step - 1, 0)
    open_ = close + rng.integers(-step, step + 1, n)
    high = np.maximum(open_, close) + rng.integers(0, step, n)
    low = np.minimum(open_, close) - rng.integers(0, step, n)
    return np.stack((open_, high, low, close), axis=1)


SCHEDULE = calendar_schedule(date(2024, 2, 25), date(2024, 3, 29))


def broken_bars(seed: int, interval_min: int, n_sessions: int, holes: int, rolls: int) -> Bars:
    """Random bars of real sessions over a clock change, with stretches cut out, single bars missing, and rolls."""
    rng = np.random.default_rng(seed)
    step = interval_min * 60_000_000_000
    times = np.concatenate(
        [np.arange(SCHEDULE.open_ns[k], SCHEDULE.close_ns[k], step) for k in range(6, 6 + n_sessions)]
    )
    keep = rng.random(times.size) > 0.01
    for _ in range(holes):
        first = int(rng.integers(0, times.size))
        keep[first : first + int(rng.integers(3, 40))] = False
    times = times[keep]
    contract = np.searchsorted(np.sort(rng.integers(1, times.size, rolls)), np.arange(times.size), side="right")
    ohlc = wild_prices(rng, times.size)
    return make_bars(
        market="ES", interval_s=60 * interval_min, source="test", open_ns=times,
        open=ohlc[:, 0], high=ohlc[:, 1], low=ohlc[:, 2], close=ohlc[:, 3],
        volume=rng.integers(0, 500, times.size) * rng.integers(0, 2, times.size),
        contract=contract, contract_names=[f"ES{code}" for code in range(rolls + 1)],
    )  # fmt: skip


def real_bars(folder: Path, name: str, market: str, interval_min: int, rows: slice) -> Bars:
    path = folder / name
    table = (pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)).iloc[rows]
    ticks = {c: np.rint(table[c].to_numpy() * 4).astype(np.int64) for c in ("open", "high", "low", "close")}
    codes = pd.factorize(table["contract"])[0] if "contract" in table else None
    times = pd.to_datetime(table["datetime"], utc=True).dt.as_unit("ns").astype("int64").to_numpy()
    return make_bars(
        market=market, interval_s=60 * interval_min, source=name, open_ns=times, volume=table["volume"].to_numpy(),
        contract=codes, contract_names=["front", "next"], **ticks,
    )  # fmt: skip


BROKEN = st.builds(
    broken_bars,
    seed=st.integers(0, 2**32 - 1),
    interval_min=st.sampled_from([5, 5, 7, 15]),
    n_sessions=st.integers(2, 4),
    holes=st.integers(0, 3),
    rolls=st.integers(0, 2),
)
FEW = settings(max_examples=20)


def assert_agrees_with_the_oracle(placed: Placed, sample: np.ndarray) -> None:
    window, context, atr = placed.tables()
    for t in sample:
        if placed.in_run[t] < FEATURE_BARS:
            assert not window[t].any()
            assert not context[t].any()
            continue
        oracle = Oracle(placed, int(t))
        assert atr[t] == pytest.approx(oracle.atr, rel=1e-6)
        for names, row, expected in (
            (WINDOW_FEATURES, window[t], oracle.window()),
            (CONTEXT_FEATURES, context[t], oracle.context()),
        ):
            assert tuple(expected) == names
            for name, value in zip(names, row, strict=True):
                clipped = min(max(expected[name], -5.0), 5.0)
                assert value == pytest.approx(clipped, rel=1e-5, abs=1e-5), (name, int(t))


@settings(max_examples=12)
@given(BROKEN, st.integers(0, 2**32 - 1))
def test_every_feature_equals_its_definition_on_random_bars_with_holes_and_rolls(bars: Bars, seed: int) -> None:
    placed = place(bars, SCHEDULE)
    assert_agrees_with_the_oracle(placed, np.random.default_rng(seed).integers(0, len(bars), 8))


@pytest.mark.parametrize("interval_min", [1, 5, 15])
def test_every_feature_equals_its_definition_on_synthetic_bars(interval_min: int) -> None:
    days = {1: 2, 5: 3, 15: 14}[interval_min]
    placed = place(synthetic_bars("ES", days, interval_min, seed=5))
    n = len(placed.bars)
    whole_days = np.random.default_rng(1).integers(n // 2, n, 8)
    assert_agrees_with_the_oracle(placed, np.concatenate(([FEATURE_BARS - 2, FEATURE_BARS - 1, n - 1], whole_days)))


def test_every_feature_equals_its_definition_on_real_bars(shared_data: Path) -> None:
    placed = place(real_bars(shared_data, "ES_5m_2024_2026_ibkr.parquet", "ES", 5, slice(6_300, 7_300)))
    assert len(np.unique(placed.run_start)) > 1, "the slice holds the March 2024 roll"
    assert_agrees_with_the_oracle(placed, np.random.default_rng(2).integers(0, len(placed.bars), 25))


def assert_prefixes_are_exact(placed: Placed, cuts: Sequence[int]) -> None:
    whole = placed.tables()
    for k in cuts:
        for full, part in zip(whole, place(prefix(placed.bars, k)).tables(), strict=True):
            assert part.tobytes() == full[:k].tobytes(), k


@FEW
@given(BROKEN, st.data())
def test_a_prefix_of_random_bars_gives_the_same_bits(bars: Bars, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(bars) - 1))
    assert_prefixes_are_exact(place(bars), [cut])


def test_a_prefix_of_synthetic_bars_gives_the_same_bits() -> None:
    assert_prefixes_are_exact(place(synthetic_bars("NQ", 8, 5, seed=3)), [1, 13, 14, 33, 34, 275, 276, 277, 1001, 2047])


@pytest.mark.parametrize(
    ("name", "market", "interval_min", "rows"),
    [
        ("ES_5m_2024_2026_ibkr.parquet", "ES", 5, slice(6_000, 12_000)),
        ("NQ_5m_2024_2026_ibkr.parquet", "NQ", 5, slice(20_000, 26_000)),
        ("NQ_1m_2022_tradingview.csv", "NQ", 1, slice(0, 6_000)),
    ],
)
def test_a_prefix_of_real_bars_gives_the_same_bits(
    shared_data: Path, name: str, market: str, interval_min: int, rows: slice
) -> None:
    placed = place(real_bars(shared_data, name, market, interval_min, rows))
    cuts = np.random.default_rng(11).integers(1, len(placed.bars), 8)
    assert_prefixes_are_exact(placed, [int(k) for k in cuts])


@FEW
@given(BROKEN, st.data())
def test_changing_every_bar_after_t_changes_nothing_at_or_before_t(bars: Bars, data: st.DataObject) -> None:
    placed = place(bars, SCHEDULE)
    n = len(placed.bars)
    t = data.draw(st.integers(0, n - 2))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    ohlc = prices_of(placed.bars)
    ohlc[t + 1 :] = wild_prices(rng, n - t - 1, level=90_000, step=400)
    volume = np.concatenate((placed.bars.volume[: t + 1], rng.integers(0, 10**6, n - t - 1)))
    changed = Placed(with_prices(placed.bars, ohlc, volume), placed.sessions, placed.run_start)
    for before, after in zip(placed.tables(), changed.tables(), strict=True):
        assert before[: t + 1].tobytes() == after[: t + 1].tobytes()


@FEW
@given(
    st.builds(broken_bars, st.integers(0, 2**32 - 1), st.sampled_from([5, 15]), st.just(4), st.just(3), st.just(2)),
    st.integers(0, 2**32 - 1),
)
def test_nothing_reaches_across_a_hole_or_a_roll(bars: Bars, seed: int) -> None:
    placed = place(bars, SCHEDULE)
    rng = np.random.default_rng(seed)
    starts = np.unique(placed.run_start)[1:]
    assert starts.size, "three holes and two rolls make at least one break"
    first = int(rng.choice(starts))
    ohlc = prices_of(placed.bars)
    ohlc[:first] = wild_prices(rng, first, level=90_000, step=400)
    volume = np.concatenate((rng.integers(0, 10**6, first), placed.bars.volume[first:]))
    changed = Placed(with_prices(placed.bars, ohlc, volume), placed.sessions, placed.run_start)
    for before, after in zip(placed.tables(), changed.tables(), strict=True):
        assert before[first:].tobytes() == after[first:].tobytes()
    # The features hide a level carried over in their rounding to float32; the path they are made of does not.
    paths = [indicators_of(columns_of(one.bars, one.sessions, one.run_start)).path for one in (placed, changed)]
    assert paths[0][first:].tobytes() == paths[1][first:].tobytes()


@FEW
@given(BROKEN)
def test_rows_are_zero_exactly_until_their_run_is_long_enough(bars: Bars) -> None:
    placed = place(bars, SCHEDULE)
    window, context, atr = placed.tables()
    whole = placed.in_run >= FEATURE_BARS
    assert not window[~whole].any()
    assert not context[~whole].any()
    assert (np.hypot(window[whole, 9], window[whole, 10]) > 0.999).all(), "a whole row always has its time of day"
    assert (atr[placed.in_run < 14] == 0.0).all()
    assert (atr[placed.in_run >= 14] >= 1.0).all()


@FEW
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(1, 1), (3, 1), (400_000, 100_000), (50, 0)]),
    st.sampled_from([1, 2, 10**7]),
)
def test_every_value_is_finite_and_within_five(seed: int, shape: tuple[int, int], most_volume: int) -> None:
    level, step = shape
    rng = np.random.default_rng(seed)
    calm = broken_bars(seed, 15, 4, 1, 1)
    ohlc = wild_prices(rng, len(calm), level, step) if step > 0 else np.full((len(calm), 4), level)
    placed = place(with_prices(calm, ohlc, rng.integers(0, most_volume, len(calm))), SCHEDULE)
    for table in placed.tables()[:2]:
        assert np.isfinite(table).all()
        assert np.abs(table).max() <= 5.0


def test_tables_have_the_documented_shape_names_and_type() -> None:
    placed = place(synthetic_bars("MES", 2, 15, seed=0))
    window, context, atr = placed.tables()
    n = len(placed.bars)
    assert (window.shape, context.shape, atr.shape) == ((n, 11), (n, 22), (n,))
    assert {table.dtype for table in (window, context, atr)} == {np.dtype(np.float32)}
    assert window.flags.c_contiguous
    assert context.flags.c_contiguous
    assert len(set(WINDOW_FEATURES)) == 11
    assert len(set(CONTEXT_FEATURES)) == 22
    assert {name: part.stop - part.start for name, part in CONTEXT_GROUPS.items()} == {
        "market": 9,
        "timeframe": 7,
        "structure": 6,
    }
    assert WINDOW_BARS == 20
    assert FEATURE_BARS + 19 == WARMUP_BARS <= 60


def test_the_feature_page_lists_every_column_in_order() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "features.md").read_text()
    listed = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert tuple(listed) == WINDOW_FEATURES + CONTEXT_FEATURES


def test_an_overnight_gap_is_in_no_window_feature() -> None:
    placed = place(synthetic_bars("NQ", 4, 5, seed=8))
    lifted = prices_of(placed.bars)
    lifted[placed.bars.session_id >= 2] += 2_000
    gapped = Placed(with_prices(placed.bars, lifted, placed.bars.volume), placed.sessions, placed.run_start)
    plain, moved = placed.tables(), gapped.tables()
    exact = [i for i, name in enumerate(WINDOW_FEATURES) if name != "vwap_distance"]
    assert plain[0][:, exact].tobytes() == moved[0][:, exact].tobytes()
    np.testing.assert_allclose(moved[0], plain[0], atol=1e-5)
    assert plain[2].tobytes() == moved[2].tobytes()
    prior = CONTEXT_FEATURES.index("prior_close_distance")
    third = placed.bars.session_id == 2
    assert (moved[1][third, prior] > plain[1][third, prior]).all(), "the levels of the day before do show the gap"


def test_prior_levels_are_absent_after_a_session_whose_start_the_file_lacks() -> None:
    bars = synthetic_bars("NQ", 3, 5, seed=8)
    late = place(select_bars(bars, np.arange(5, len(bars)), session_id=bars.session_id[5:]))
    prior = [CONTEXT_FEATURES.index(f"prior_{level}_distance") for level in ("high", "low", "close")]
    context = late.tables()[1]
    assert not context[late.bars.session_id == 1][:, prior].any()
    assert context[late.bars.session_id == 2][:, prior].any(axis=0).all()


@pytest.mark.parametrize("day", [date(2024, 3, 8), date(2024, 3, 12)])  # winter and summer time
def test_the_clock_features_read_new_york_time(day: date) -> None:
    placed = place(synthetic_bars("ES", 14, 5, seed=1, start=date(2024, 2, 27)))
    close = datetime(day.year, day.month, day.day, 9, 30, tzinfo=NEW_YORK)
    t = int(np.flatnonzero(placed.bars.open_ns + placed.bars.interval_ns == int(close.timestamp()) * 10**9)[0])
    window, context, _ = placed.tables()
    assert context[t, CONTEXT_FEATURES.index("session_clock")] == pytest.approx(15.5 / 23.0)
    angle = 2 * math.pi * 9.5 / 24
    assert window[t, 9:11] == pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-6)


def test_bars_that_no_session_holds_are_refused() -> None:
    placed = place(synthetic_bars("NQ", 1, 5, seed=8))
    homeless = select_bars(placed.bars, np.arange(len(placed.bars)), session_id=np.full(len(placed.bars), -1))
    with pytest.raises(ValueError, match="place the bars in sessions"):
        window_features(homeless, placed.sessions, placed.run_start)


def run_of(n: int) -> np.ndarray:
    return np.zeros(n, np.int64)


def test_rsi_by_hand() -> None:
    change = np.array([2, -1] * 7 + [3, -9])
    rsi = relative_strength(change, run_of(16))
    # Averages after 14 changes: gain 14/14, loss 7/14. Then gain (13 x 1 + 3)/14 = 16/14, loss (13 x 0.5)/14 = 6.5/14.
    assert rsi[12] == 50.0, "not whole yet"
    assert rsi[13] == pytest.approx(100 * 1.0 / 1.5)
    assert rsi[14] == pytest.approx(100 * 16.0 / 22.5)
    gain, loss = 13 * 16 / 14, 13 * 6.5 / 14 + 9
    assert rsi[15] == pytest.approx(100 * gain / (gain + loss))


def test_rsi_is_100_without_a_loss_0_without_a_gain_and_50_without_a_move() -> None:
    for change, expected in ((3, 100.0), (-3, 0.0), (0, 50.0)):
        assert relative_strength(np.full(20, change), run_of(20))[-1] == expected


def test_atr_by_hand() -> None:
    atr = average_true_range(np.array([10] * 14 + [24, 4]), run_of(16))
    assert atr[12] == 0.0
    assert atr[13] == 10.0
    assert atr[14] == pytest.approx((13 * 10 + 24) / 14)  # 11
    assert atr[15] == pytest.approx((13 * 11 + 4) / 14)  # 10.5


def one_session(ohlc: np.ndarray) -> Placed:
    n = len(ohlc)
    opens = SCHEDULE.open_ns[0] + np.arange(n) * 300_000_000_000
    return place(
        make_bars(
            market="ES", interval_s=300, source="test", open_ns=opens, volume=np.full(n, 10),
            open=ohlc[:, 0], high=ohlc[:, 1], low=ohlc[:, 2], close=ohlc[:, 3],
        ),
        SCHEDULE,
    )  # fmt: skip


def test_true_range_looks_back_to_the_last_close_but_not_over_a_session_open() -> None:
    bars = synthetic_bars("NQ", 2, 15, seed=0)
    ohlc = prices_of(bars)
    ohlc[10] = [ohlc[9, 3] + 50, ohlc[9, 3] + 60, ohlc[9, 3] + 40, ohlc[9, 3] + 55]
    second = int(np.flatnonzero(bars.session_id == 1)[0])
    ohlc[second] = [ohlc[second - 1, 3] + 500, ohlc[second - 1, 3] + 530, ohlc[second - 1, 3] + 480, 90_000]
    ohlc[second, 3] = ohlc[second, 0]
    placed = place(with_prices(bars, ohlc, bars.volume))
    base = indicators_of(columns_of(placed.bars, placed.sessions, placed.run_start))
    assert base.true_range[10] == 60, "from the last close, not 20 from low to high"
    assert base.true_range[second] == 50
    assert base.change[10] == 55
    assert base.change[second] == 0


def test_macd_by_hand() -> None:
    # On a straight line an average over n that starts as the mean stays (n - 1)/2 bars behind: MACD 12.5 - 5.5 = 7.
    close = 1_000 + np.arange(1, 61)
    ohlc = np.stack((close - 1, close + 5, close - 6, close), axis=1)
    ohlc[-1] = [close[-2], close[-2] + 5, close[-2] - 6, close[-2]]  # the last bar stands still: 1 below the line
    placed = one_session(ohlc)
    base = indicators_of(columns_of(placed.bars, placed.sessions, placed.run_start))
    np.testing.assert_allclose(base.macd[25:-1], 7.0)
    np.testing.assert_allclose(base.macd_signal[33:-1], 7.0)
    assert base.macd[-1] == pytest.approx(7.0 - 2 / 13 + 2 / 27)
    assert base.macd_signal[-1] == pytest.approx(7.0 + 0.2 * (-2 / 13 + 2 / 27))
    histogram = 4 * 0.8 * (-2 / 13 + 2 / 27) / base.atr[-1]
    assert placed.tables()[0][-1, WINDOW_FEATURES.index("macd_histogram")] == pytest.approx(histogram, rel=1e-5)
    assert placed.tables()[1][-2, CONTEXT_FEATURES.index("trend")] == pytest.approx(7.0 / base.atr[-2], rel=1e-6)


@FEW
@given(BROKEN, st.integers(1, 400))
def test_parts_of_any_size_give_the_same_bits(bars: Bars, part_bars: int) -> None:
    placed = place(bars, SCHEDULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indicators, "PART_BARS", len(bars))
        whole = placed.tables()
        patch.setattr(indicators, "PART_BARS", part_bars)
        parts = placed.tables()
    for one, other in zip(whole, parts, strict=True):
        assert one.tobytes() == other.tobytes()


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=60),
    st.sets(st.integers(1, 59), max_size=3),
    st.integers(1, 12),
)
def test_the_range_position_is_that_of_the_last_bars(sides: list[tuple[int, int]], starts: set[int], bars: int) -> None:
    low = np.array([min(pair) for pair in sides])
    high = np.array([max(pair) for pair in sides])
    run = np.array([max((s for s in starts if s <= t), default=0) for t in range(len(sides))])
    found = range_position(high, low, low, run, bars)
    for t in range(len(sides)):
        first = t - bars + 1
        top, bottom = high[max(first, 0) : t + 1].max(), low[max(first, 0) : t + 1].min()
        expected = (2 * low[t] - top - bottom) / (top - bottom) if first >= run[t] and top > bottom else 0.0
        assert found[t] == expected
