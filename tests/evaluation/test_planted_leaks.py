"""Twelve kinds of leak, each planted in a copy of the code, and the check of the validator that must find it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.advisor import tabulation
from src.advisor.situations import market_codes
from src.agent import advising
from src.agent import market as markets
from src.agent.market import Market, market_of
from src.agent.trainer import Trainer
from src.checks.catalogue import chosen
from src.checks.outcome import FAILED, PASSED, Outcome
from src.checks.setting import Setting
from src.market import context, features
from src.market.bars import Bars
from src.market.load import build_tables
from src.market.settings import DataSettings
from src.market.tables import MarketTables
from src.trading import kernel
from src.trading.session_batch import SessionBatch
from tests import small_runs
from tests.checks.settings import small_setting
from tests.market.bar_makers import scheduled_slots, walk_bars
from tests.planted import plant, plant_compiled, plant_method

LEAK_CHECKS = ("look_ahead", "fills", "sealed")

Plant = Callable[[pytest.MonkeyPatch, Path], None]


def setting_of(bars: Bars) -> Setting:
    """A validation of these bars, whose tables are made now."""
    setting = small_setting(quick=True)
    tables = build_tables(bars, DataSettings(), trading_hours="rth")
    here = small_runs.market("NQ")
    setting.__dict__["_tables"] = tables
    setting.__dict__["market"] = market_of(tables, DataSettings(), here.rules, here.params)
    return setting


def fifteen_minutes() -> Bars:
    return small_runs.tables().bars


@cache
def one_minute() -> Bars:
    """Fifteen sessions of 1,380 bars: six of them are a 65th of the trading hours."""
    return walk_bars(scheduled_slots(15, 1), interval_min=1)


def outcome_of(check: str, setting: Setting) -> Outcome:
    return chosen([check])[0].load()(setting)


# ---------------------------------------------------------------- the leaks


def column_of_context(name: str, leak: Callable[[Bars, Any], np.ndarray]) -> Plant:
    """One context feature takes what `leak` makes of all the bars."""

    def planted(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
        real = features.context_features

        def leaking(bars: Bars, sessions: Any, run_start: Any) -> np.ndarray:
            rows = np.array(real(bars, sessions, run_start))
            column = context.CONTEXT_FEATURES.index(name)
            whole = rows.any(axis=1)
            rows[whole, column] = leak(bars, sessions).astype(np.float32)[whole]
            return rows

        monkeypatch.setattr(features, "context_features", leaking)

    return planted


def next_change(bars: Bars, _: Any) -> np.ndarray:
    return np.clip(np.diff(bars.close, append=bars.close[-1:]) / 50.0, -5.0, 5.0)


def future_volume(bars: Bars, _: Any) -> np.ndarray:
    """The session's volume that is still to come."""
    volume = bars.volume.astype(np.float64)
    total = np.bincount(bars.session_id, weights=volume)
    before = np.cumsum(volume) - np.concatenate(([0.0], np.cumsum(total)[:-1]))[bars.session_id]
    return np.log1p(total[bars.session_id] - before) / 5.0


def whole_session_high(bars: Bars, _: Any) -> np.ndarray:
    """Below the session's high, that of the bars to come too."""
    high = np.zeros(int(bars.session_id.max()) + 1, np.int64)
    np.maximum.at(high, bars.session_id, bars.high)
    return np.clip((high[bars.session_id] - bars.close) / 500.0, 0.0, 5.0)


def sign_for_six_bars(minutes_after_the_open: int) -> Callable[[Bars, Any], np.ndarray]:
    """The next bar's direction during six bars, the first of which closes so long after 09:30 New York; else 0."""

    def sign(bars: Bars, sessions: Any) -> np.ndarray:
        elapsed = (bars.open_ns - sessions.trade_open_ns[bars.session_id]) // 60_000_000_000 + 1
        shown = (elapsed >= minutes_after_the_open) & (elapsed < minutes_after_the_open + 6)
        return np.where(shown, np.sign(np.diff(bars.close, append=bars.close[-1:])), 0.0)

    return sign


def scaler_of_all_bars(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    plant(
        monkeypatch,
        features._window_of,
        "features[~whole] = 0.0",
        "features = (features - features[whole].mean(axis=0)) / features[whole].std(axis=0); features[~whole] = 0.0",
    )


def atr_of_the_next_range(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    plant(
        monkeypatch,
        features.atr_ticks,
        "average_true_range(ranges, columns.run_start, part.carry)",
        "average_true_range(np.append(ranges[1:], ranges[-1:]), columns.run_start, part.carry)",
    )


def observation_one_bar_ahead(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    plant_compiled(
        monkeypatch,
        folder,
        kernel,
        ("observe_batch",),
        "first = np.int64(a.bar) - _LOOKBACK",
        "first = np.int64(a.bar) - _LOOKBACK + 1",
    )


def fill_at_the_decision_bars_close(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    plant_compiled(
        monkeypatch,
        folder,
        kernel,
        ("step_sessions",),
        "open_ticks = np.int64(prices[u, OPEN])",
        "open_ticks = np.int64(prices[t, CLOSE])",
    )


def buckets_fitted_on_sealed_sessions(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    """The edges of `trend` are the terciles of the last fifth of the sessions."""

    def fitted(tables: MarketTables) -> np.ndarray:
        column = tables.context[:, context.CONTEXT_FEATURES.index("trend")]
        sealed = tables.bars.session_id >= 0.8 * len(tables.sessions)
        low, high = np.quantile(column[sealed], (1 / 3, 2 / 3))
        rows = np.array(tables.context)
        rows[:, context.CONTEXT_FEATURES.index("trend")] = np.select([column < low, column >= high], [-1.0, 1.0], 0.0)
        return market_codes(rows)

    monkeypatch.setattr(markets, "market_situations", fitted)


def situation_of_the_next_bar(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    real = markets.market_situations
    monkeypatch.setattr(markets, "market_situations", lambda tables: np.append(real(tables)[1:], np.int32(0)))


def situation_looked_up_a_bar_ahead(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    plant_method(monkeypatch, SessionBatch, "situations", "self.tape.situation", "np.roll(self.tape.situation, -1)")


def episodes_in_sealed_sessions(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    plant_method(
        monkeypatch,
        Market,
        "tape",
        "self.bars_of(self.split.train)",
        "self.bars_of(np.concatenate((self.split.train, self.split.test)))",
    )


def environments_that_begin_in_sealed_sessions(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    """The tape is right, the environments are made of another."""
    plant_method(
        monkeypatch,
        Trainer,
        "make_env",
        "tape = market.tape(table or empty_table())",
        "tape = replace(market, split=replace(market.split, train=market.split.test)).tape(table or empty_table())",
    )


def advice_asked_for_sealed_sessions(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    plant(
        monkeypatch,
        advising.tabulate_advice,
        "market.bars_of(market.split.train)",
        "market.bars_of(np.concatenate((market.split.train, market.split.test)))",
    )


def calibration_over_all_that_is_stored(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    """Label means of every stored answer, those to situations of sealed sessions too."""
    plant(
        monkeypatch,
        tabulation.tabulate_stored,
        "_table(advisor, situations, raw, calibrate)",
        "_table(advisor, situations, served_scores(np.array([v for _, v in sorted(answers.items())], np.float32), "
        "np.array(sorted(answers)), calibrate=calibrate)[np.searchsorted(sorted(answers), situations)], False)",
    )


@dataclass(frozen=True)
class Leak:
    """A plant, the check that must find it, and words of what it says."""

    plant: Plant
    check: str
    said: str
    bars: Callable[[], Bars] = fifteen_minutes


LEAKS = {
    "next bar's change": Leak(column_of_context("momentum", next_change), "look_ahead", "context of bar"),
    "session's future volume": Leak(column_of_context("volume_regime", future_volume), "look_ahead", "volume_regime"),
    "session's high": Leak(
        column_of_context("session_high_distance", whole_session_high), "look_ahead", "session_high_distance"
    ),
    "scaler of all bars": Leak(scaler_of_all_bars, "look_ahead", "window of bar"),
    "ATR of the next range": Leak(atr_of_the_next_range, "look_ahead", "atr_ticks of bar"),
    "observation a bar ahead": Leak(observation_one_bar_ahead, "look_ahead", "the observation (window) of a decision"),
    "fill at own close": Leak(fill_at_the_decision_bars_close, "fills", "the decision bar's own close"),
    "buckets fitted on sealed": Leak(buckets_fitted_on_sealed_sessions, "sealed", "situation of bar"),
    "situation of the next bar": Leak(situation_of_the_next_bar, "look_ahead", "situation of bar"),
    "situation looked up ahead": Leak(situation_looked_up_a_bar_ahead, "look_ahead", "the situation of a decision"),
    "episodes in sealed": Leak(episodes_in_sealed_sessions, "sealed", "training episodes may begin in"),
    "environments in sealed": Leak(
        environments_that_begin_in_sealed_sessions, "sealed", "base training drew episodes in"
    ),
    "six bars at 09:30": Leak(
        column_of_context("opening_range_position", sign_for_six_bars(0)), "look_ahead", "13:29 UTC)", one_minute
    ),
    "six bars at 12:17": Leak(
        column_of_context("opening_range_position", sign_for_six_bars(167)), "look_ahead", " 16:", one_minute
    ),
    "advice of sealed sessions": Leak(advice_asked_for_sealed_sessions, "sealed", "the list of situations to ask"),
    "calibration on all": Leak(calibration_over_all_that_is_stored, "sealed", "its answers or their calibration"),
}


@pytest.mark.parametrize("bars", [fifteen_minutes, one_minute])
def test_without_a_plant_every_check_passes(bars: Callable[[], Bars]) -> None:
    setting = setting_of(bars())
    outcomes = {check: outcome_of(check, setting) for check in LEAK_CHECKS}
    assert {check: outcome.status for check, outcome in outcomes.items()} == dict.fromkeys(LEAK_CHECKS, PASSED)
    assert outcomes["look_ahead"].figures["features"] >= 200
    assert outcomes["look_ahead"].figures["decisions"] > 1_000
    assert outcomes["fills"].figures["fills"] > 500


@pytest.mark.parametrize("name", LEAKS)
def test_a_planted_leak_fails_its_check(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    leak = LEAKS[name]
    bars = leak.bars()
    leak.plant(monkeypatch, tmp_path)
    outcome = outcome_of(leak.check, setting_of(bars))
    assert outcome.status == FAILED, outcome
    assert "LEAK FOUND" in outcome.measured
    assert leak.said in outcome.measured, outcome.measured
