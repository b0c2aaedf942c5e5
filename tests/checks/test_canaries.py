"""Canaries: an edge that is not learned fails, so does earning where nothing can be earned, and no time is no pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from src.agent.settings import TrainingSettings
from src.canaries import planted as canaries
from src.canaries.martingale import MartingaleGate, MartingaleVerdict, judge_agent, judge_random_legal, trade_mean
from src.checks import canaries as checks_canaries
from src.checks.canaries import martingale, planted
from src.checks.outcome import PASSED, SKIPPED
from src.checks.setting import QUICK_S
from tests.checks.settings import assert_failed, small_setting


def learned(monkeypatch: pytest.MonkeyPatch, *shares: float) -> list[tuple[int, int]]:
    """So much of the best policy is learned, seed after seed; the seeds and timesteps that were asked for."""
    asked: list[tuple[int, int]] = []

    def learn(training: Any, hardware: Any, environment: Any, seed: int, *, timesteps: int) -> dict[str, float]:
        share = shares[len(asked)]
        asked.append((seed, timesteps))
        return {"share": share, "learned": 100 * share, "follow_sign": 100.0, "random_legal": -10.0}

    monkeypatch.setattr(canaries, "learn_planted", learn)
    return asked


def test_an_edge_that_is_learned_passes_after_fifty_thousand_timesteps(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = learned(monkeypatch, 0.67)
    outcome = planted(small_setting())
    assert outcome.status == PASSED, outcome
    assert outcome.measured.startswith("0.67 of the best")
    assert asked == [(0, 50_000)]


@pytest.mark.parametrize("share", [0.1, -0.5, float("nan")])
def test_an_edge_that_two_seeds_do_not_learn_fails(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    learned(monkeypatch, share, share)
    assert_failed(planted(small_setting()), f"{share:.2f}, then {share:.2f} of", "src.canaries.planted --seeds 3")


def test_one_seed_that_falls_short_is_no_failure_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = learned(monkeypatch, 0.35, 0.6)
    outcome = planted(small_setting())
    assert outcome.status == PASSED
    assert outcome.measured.startswith("0.35, then 0.60 of")
    assert [seed for seed, _ in asked] == [0, 1]


def test_a_quick_validation_without_the_time_skips_it_and_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = learned(monkeypatch)
    monkeypatch.setattr(checks_canaries, "update_seconds", lambda config, counts: {1: 0.2})
    outcome = planted(small_setting(quick=True))
    assert (outcome.status, outcome.measured) == (SKIPPED, "")
    assert outcome.reason.startswith("140 s needed, 60 s left")
    assert not asked, "a shorter training would be judged unfairly"


def test_a_quick_validation_with_the_time_trains_as_long_as_a_full_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = learned(monkeypatch, 0.67)
    monkeypatch.setattr(checks_canaries, "update_seconds", lambda config, counts: {1: 0.01})
    assert planted(small_setting(quick=True)).status == PASSED
    assert asked == [(0, 50_000)]
    late = small_setting(quick=True)
    late.clock = lambda: late._began + QUICK_S - 5.0
    assert planted(late).status == SKIPPED


def test_a_quick_validation_that_one_seed_used_up_judges_by_no_single_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = learned(monkeypatch, 0.35)
    monkeypatch.setattr(checks_canaries, "update_seconds", lambda config, counts: {1: 0.05})
    setting = small_setting(quick=True)
    setting.clock = lambda: setting._began + 30.0 * len(asked)
    outcome = planted(setting)
    assert (outcome.status, outcome.measured) == (SKIPPED, "")
    assert outcome.reason.startswith("0.35 of the best")
    assert outcome.reason.endswith("no time for a second seed: run without --quick")
    assert asked == [(0, 50_000)]
    assert outcome.figures["shares"] == [0.35]


@pytest.mark.slow
def test_a_learner_that_does_not_learn_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real training, of a tenth of its length and with steps that change nothing."""
    real = canaries.learn_planted

    def learn(training: TrainingSettings, *settings: Any, timesteps: int) -> dict[str, float]:
        lame = training.model_copy(update={"learning_rate": 1e-12, "n_epochs": 1})
        return real(lame, *settings, timesteps=timesteps // 10)

    monkeypatch.setattr(canaries, "learn_planted", learn)
    assert_failed(planted(small_setting()), "of the best known policy's P&L", "not learned")


# ---------------------------------------------------------------- martingale


def gate(monkeypatch: pytest.MonkeyPatch, agent: float, random_legal: float, trades: int = 3) -> None:
    """The gate's own judgement of trades with these means, in bar sigma."""
    rng = np.random.default_rng(0)

    def verdict(name: str, mean: float, judge: Any) -> MartingaleVerdict:
        counts = np.full(2_000, trades)
        trade = trade_mean(rng.normal(mean, 0.3, 2_000) * counts, counts)
        return MartingaleVerdict(name, trade, *judge(trade))

    made = MartingaleGate(
        0, verdict("agent", agent, judge_agent), verdict("random_legal", random_legal, judge_random_legal)
    )
    monkeypatch.setattr(checks_canaries, "martingale_gate", lambda policy, seed: made)


def test_earning_nothing_passes_and_says_no_more_than_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    gate(monkeypatch, 0.0, 0.0)
    outcome = martingale(small_setting())
    assert outcome.status == PASSED, outcome
    assert outcome.measured.startswith("no leak found by this check")


def test_an_agent_that_earns_there_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    gate(monkeypatch, 0.2, 0.0)
    assert_failed(martingale(small_setting()), "earns where nothing can be earned", "look_ahead")


def test_fills_that_pay_for_trading_as_such_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    gate(monkeypatch, 0.0, 0.1)
    assert_failed(martingale(small_setting()), "pay for trading as such", "fills")


def test_an_agent_that_hardly_trades_is_called_that(monkeypatch: pytest.MonkeyPatch) -> None:
    gate(monkeypatch, 0.0, 0.0)
    made = checks_canaries.martingale_gate(None, seed=0)
    flat = trade_mean(np.zeros(2_000), np.zeros(2_000))
    idle = MartingaleGate(0, MartingaleVerdict("agent", flat, *judge_agent(flat)), made.random_legal)
    monkeypatch.setattr(checks_canaries, "martingale_gate", lambda policy, seed: idle)
    outcome = martingale(small_setting())
    assert outcome.status == PASSED
    assert "nearly flat" in outcome.measured
