"""The warm-up check: what a feature needs is measured, and one that never forgets its history's start is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from src.evaluation.look_ahead import Maker, bars_between
from src.evaluation.warm_up import WarmUps, masked, synthetic_warm_ups, warm_ups
from src.market import features, settings
from src.market.bars import BAR_ARRAYS, Bars
from src.market.flags import ENTRY_ALLOWED
from src.market.load import build_tables
from src.market.settings import DataSettings
from src.market.synthetic import synthetic_bars
from src.market.tables import run_starts
from tests.planted import plant_context_feature

Feature = Callable[[Bars, np.ndarray], np.ndarray]


@cache
def found() -> WarmUps:
    """Fifteen-minute bars: a day has 92."""
    return synthetic_warm_ups(15, "rth", most_bars=6)


def needed() -> dict[str, tuple[int | None, int | None]]:
    return {f.name: (f.bars, f.exposed_bars) for f in found().features if f.group != "window"}


def test_every_feature_has_the_warm_up_that_its_definition_gives() -> None:
    warm = needed()
    assert found().diverging == ()
    # Of fixed lookbacks the first history tried that covers them; zero before.
    assert warm["trend_efficiency"] == warm["hour_range_position"] == warm["session_clock"] == (34, 34)
    assert warm["day_return"] == (100, 34)
    assert warm["prior_high_distance"] == warm["prior_close_distance"] == (200, 34)
    # Wilder's average over 100 bars is zero before its first 100, and 0.99 to the power of bars off from then on.
    bars, exposed = warm["volatility_ratio"]
    assert bars == exposed
    assert bars is not None
    assert 200 <= bars <= 500
    # An EMA over 26 bars: 25/27 to the power of bars.
    bars, _ = warm["trend"]
    assert bars is not None
    assert 53 <= bars <= 100
    # A mean over ten sessions that decays by a tenth a session after them: 10 to 40 sessions of 92 bars.
    for name in ("volatility_regime", "volume_regime"):
        bars, _ = warm[name]
        assert bars is not None
        assert 10 * 92 <= bars <= 40 * 92


def test_differences_are_those_of_a_file_that_begins_later() -> None:
    """The same comparison by hand, at one bar and for one history."""
    bars = synthetic_bars("NQ", 20, 15, 4)
    one = warm_ups(bars, DataSettings(), "rth", most_bars=1)
    maker = Maker.of(bars, DataSettings(), "rth")
    whole = maker.world(bars).tables
    decides = np.flatnonzero((whole.flags & 8) != 0)
    bar = next(int(b) for b in decides if b + 1 >= 2 * len(bars) // 3)  # the first of the longest histories
    for history in (34, 100, 300):
        short = maker.world(bars_between(whole.bars, bar - history + 1, bar + 1)).tables
        for group in ("window", "context"):
            apart = np.abs(getattr(short, group)[-1] - getattr(whole, group)[bar])
            measured = [f.worst[history] for f in one.features if f.group == group]
            np.testing.assert_allclose(measured, apart, atol=1e-6)
    assert one.longest <= (bar + 1) // 2


# ---------------------------------------------------------------- planted features


def signed_volume(bars: Bars, run_start: np.ndarray) -> np.ndarray:
    """On-balance volume: a sum since the history began."""
    sums = np.cumsum(np.sign(bars.close - bars.open) * np.log1p(bars.volume))
    return np.clip(sums / 200.0, -5.0, 5.0)


def bars_so_far(bars: Bars, run_start: np.ndarray) -> np.ndarray:
    return np.log1p(np.arange(len(bars)))


def mean_so_far(bars: Bars, run_start: np.ndarray) -> np.ndarray:
    """The close against the mean of all closes before it, in units of a day's range."""
    closes = bars.close.astype(np.float64)
    return np.clip((closes - np.cumsum(closes) / np.arange(1, len(bars) + 1)) / 800.0, -5.0, 5.0)


@pytest.mark.parametrize("feature", [signed_volume, bars_so_far, mean_so_far])
def test_a_feature_that_never_converges_is_found_and_no_other(
    monkeypatch: pytest.MonkeyPatch, feature: Feature
) -> None:
    plant_context_feature(monkeypatch, "momentum", feature)
    (worst,) = synthetic_warm_ups(15, "rth", most_bars=4).diverging
    assert (worst.group, worst.name, worst.bars, worst.exposed_bars) == ("context", "momentum", None, None)


def test_a_slow_average_that_does_converge_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(bars: Bars, run_start: np.ndarray) -> np.ndarray:
        """An exponential average of the bars' signs over some 300 bars, from zero."""
        out, average = np.zeros(len(bars)), 0.0
        for t, sign in enumerate(np.sign(bars.close - bars.open).tolist()):
            average += (sign - average) / 300.0
            out[t] = 10.0 * average
        return out

    plant_context_feature(monkeypatch, "momentum", slow)
    bars = {f.name: f.bars for f in synthetic_warm_ups(15, "rth", most_bars=4).features}["momentum"]
    assert bars is not None
    assert 300 <= bars <= 2_000


# ---------------------------------------------------------------- what is masked


def only(bars: Bars, keep: np.ndarray) -> Bars:
    return replace(bars, **{name: getattr(bars, name)[keep] for name in BAR_ARRAYS})


def test_no_entry_is_allowed_within_the_bars_that_the_setting_asks_for() -> None:
    bars = synthetic_bars("NQ", 30, 15, 2)
    keep = np.ones(len(bars), bool)
    keep[1_000:1_040] = False  # a hole in the night before session 11
    cut = Maker.of(bars, DataSettings(), "rth").world(bars).tables.bars
    cut = build_tables(only(cut, keep), DataSettings(), trading_hours="rth").bars
    default = np.empty(0, bool)
    for asked in (None, 53, 75, 200):
        data = DataSettings(warmup_bars=asked)
        tables = build_tables(cut, data, trading_hours="rth")
        starts = run_starts(tables.bars, tables.sessions, data.no_trade_bars)
        length = np.arange(len(cut)) - starts + 1
        entries = (tables.flags & ENTRY_ALLOWED) != 0
        assert len(np.unique(starts)) == 2
        if asked is None:
            default = entries
            assert length[entries].min() == 62  # after 18:00, the bar that closes at 09:30
        assert np.array_equal(entries, default & (length >= (asked or 53)))
        first = tables.sessions.first_decision[tables.sessions.usable]
        assert length[first].min() >= (asked or 53)
        mask = masked(tables, data, found())
        assert mask.warmup_bars == (asked or 53)
        assert mask.entries == entries.sum()
        assert all(count == (length[entries] < bars_needed).sum() for bars_needed, count in mask.inside.items())
        assert min(mask.inside) > mask.warmup_bars
    assert (
        build_tables(cut, DataSettings(warmup_bars=53), trading_hours="rth").flags.tobytes()
        == build_tables(cut, DataSettings(), trading_hours="rth").flags.tobytes()
    )


def test_the_least_warm_up_is_that_of_the_window() -> None:
    (least,) = (m.ge for m in settings.DataSettings.model_fields["warmup_bars"].metadata if hasattr(m, "ge"))
    assert least == features.WARMUP_BARS
