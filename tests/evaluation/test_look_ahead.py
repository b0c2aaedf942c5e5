"""Bars with another future: what the check of features compares, finds, and does not hold against anybody."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.agent.market import market_of
from src.evaluation.look_ahead import (
    Maker,
    bars_between,
    check_features,
    first_bars,
    first_difference,
    other_future,
)
from src.market import features, load
from src.market.bars import Bars
from src.market.flags import ENTRY_ALLOWED
from src.market.load import build_tables
from src.market.settings import DataSettings
from tests import small_runs
from tests.market.bar_makers import scheduled_slots, walk_bars

DATA = DataSettings()


def found_in(bars: Bars, hours: str = "rth", **options: Any) -> Any:
    """The check on these bars, whose tables are made now."""
    here = small_runs.market()
    market = market_of(build_tables(bars, DATA, trading_hours=hours), DATA, here.rules, here.params)
    return check_features(market, DATA, hours, **options)


def broken_bars() -> Bars:
    """Fourteen sessions of 5-minute bars with a hole, a bar without trades, a roll and a half day."""
    slots = scheduled_slots(14)
    keep = np.ones(len(slots), bool)
    keep[1000:1009] = keep[2200:2201] = False
    slots = slots[keep]
    return walk_bars(slots, contract=(np.arange(len(slots)) > 1700).astype(np.int16))


@pytest.mark.parametrize("hours", ["rth", "globex"])
def test_the_real_features_pass_at_two_hundred_bars_and_more(hours: str) -> None:
    check = found_in(small_runs.tables().bars, hours)
    assert check.passed, check.found
    assert check.checks >= 200
    assert check.strata["time of day"] >= 200
    assert {"session open", "session close", "half day", "first of the file", "last of the file"} <= check.strata.keys()


def test_bars_around_holes_rolls_and_half_days_are_tested_and_pass() -> None:
    check = found_in(broken_bars())
    assert check.passed, check.found
    assert {"hole", "roll", "half day"} <= check.strata.keys()


def leaking(monkeypatch: pytest.MonkeyPatch, name: str, leak: Any) -> None:
    real = getattr(features, name)
    monkeypatch.setattr(features, name, lambda *args: leak(np.array(real(*args)), *args))


@pytest.mark.parametrize(
    ("name", "said"), [("window_features", "window"), ("context_features", "context"), ("atr_ticks", "atr_ticks")]
)
def test_a_table_that_knows_the_next_bar_is_named_with_column_bar_and_time(
    monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    leaking(monkeypatch, name, lambda rows, *_: np.append(rows[1:], rows[-1:], axis=0))
    check = found_in(small_runs.tables().bars)
    assert check.found.startswith(f"{said} of bar ")
    assert "UTC) changes with bars after " in check.found


def test_a_difference_in_the_sign_of_zero_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = small_runs.tables().bars

    def signed(rows: np.ndarray, made_of: Bars, *_: Any) -> np.ndarray:
        rows[:, 3] = np.float32(-0.0 if made_of.close[-1] == bars.close[-1] else 0.0)
        return rows

    leaking(monkeypatch, "window_features", signed)
    assert found_in(bars).found.startswith("window of bar ")


def test_an_entry_flag_that_knows_whether_the_next_bar_exists_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another future keeps its times, so a file that ends, or a hole, must show it."""
    real = load.bar_flags

    def anticipating(bars: Bars, *args: Any, **kwargs: Any) -> np.ndarray:
        flags = np.array(real(bars, *args, **kwargs))
        flags[np.diff(bars.open_ns, append=bars.open_ns[-1]) != bars.interval_ns] &= np.uint8(255 - ENTRY_ALLOWED)
        return flags

    monkeypatch.setattr(load, "bar_flags", anticipating)
    assert found_in(broken_bars(), "globex").found.startswith("flags of bar ")


def test_flags_that_say_where_a_session_ends_may_not_know_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are hindsight about times by design; hindsight about prices is a leak."""
    real = load.bar_flags

    def anticipating(bars: Bars, *args: Any, **kwargs: Any) -> np.ndarray:
        flags = np.array(real(bars, *args, **kwargs))
        flags[:-1][np.diff(bars.close) < 0] ^= np.uint8(64)
        return flags

    monkeypatch.setattr(load, "bar_flags", anticipating)
    assert found_in(small_runs.tables().bars).found.startswith("flags of bar ")


def test_a_feature_that_reaches_into_the_run_before_is_told_from_one_that_knows_the_future(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def running_mean(rows: np.ndarray, bars: Bars, *_: Any) -> np.ndarray:
        rows[:, 0] = (np.cumsum(bars.close) / np.arange(1, len(bars) + 1) / 1e5).astype(np.float32)
        return rows

    leaking(monkeypatch, "context_features", running_mean)
    assert "changes with bars of another run" in found_in(small_runs.tables().bars).found


def test_tables_that_their_bars_do_not_give_are_found() -> None:
    market = small_runs.market()
    context = market.tables.context.copy()
    context[700, 0] += np.float32(1.0)
    changed = market_of(replace(market.tables, context=context), DATA, market.rules, market.params)
    assert "of bar 700 (trend" in check_features(changed, DATA, "rth").found


@cache
def two_sessions() -> Bars:
    return walk_bars(scheduled_slots(2))


@settings(max_examples=25, deadline=None)
@given(kept=st.integers(0, 299), seed=st.integers(0, 2**32 - 1))
def test_another_future_keeps_the_past_and_all_times_and_is_made_of_sound_bars(kept: int, seed: int) -> None:
    bars = two_sessions()
    n = len(bars)
    other = other_future(bars, np.full(n, kept), np.random.default_rng(seed))
    for name in ("open", "high", "low", "close", "volume"):
        np.testing.assert_array_equal(getattr(other, name)[: kept + 1], getattr(bars, name)[: kept + 1])
    later = slice(kept + 1, n)
    np.testing.assert_array_equal(other.open_ns, bars.open_ns)
    assert (other.low[later] >= 1).all()
    assert (other.low[later] <= np.minimum(other.open, other.close)[later]).all()
    assert (other.high[later] >= np.maximum(other.open, other.close)[later]).all()
    moved = other.close.astype(int)[later] - bars.close[kept]
    np.testing.assert_array_equal(moved, -2 * (bars.close.astype(int)[later] - bars.close[kept]))
    assert ((other.high - other.low)[later] > (bars.high - bars.low)[later]).all()
    assert (other.volume[later] > bars.volume[later]).all()


def test_a_part_of_the_bars_is_what_a_shorter_file_would_hold() -> None:
    bars = small_runs.tables().bars
    part = bars_between(bars, 50, 100)
    assert len(part) == 50
    np.testing.assert_array_equal(part.close, bars.close[50:100])
    np.testing.assert_array_equal(first_bars(bars, 100).close[50:], part.close)
    assert part.market == bars.market


def test_the_earliest_difference_is_told_and_only_among_the_rows_asked_about() -> None:
    bars = small_runs.tables().bars
    maker = Maker.of(bars, DATA, "rth")
    one = maker.world(bars)
    other = maker.world(other_future(bars, np.full(len(bars), 2_000), np.random.default_rng(0)))
    difference = first_difference(one, other, slice(0, len(bars)))
    assert difference is not None
    assert difference.bar == 2_001
    assert first_difference(one, other, np.arange(len(bars)) <= 2_000) is None
    assert first_difference(one, one, slice(0, len(bars))) is None
