"""The martingale: bounds hold what they promise, honest agents pass, a leak and a biased generator fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from src.agent.settings import HardwareSettings, NetArch, PolicySettings, TrainingSettings
from src.canaries import martingale
from src.canaries.martingale import (
    BAR_SIGMA_TICKS,
    MartingaleGate,
    MartingaleVerdict,
    TradeMean,
    bar_sigma_usd,
    judge_agent,
    judge_random_legal,
    martingale_gate,
    martingale_market,
    trade_mean,
)
from src.canaries.planted import usable_sessions
from src.evaluation.look_ahead import check_features
from src.market import features
from src.market.bars import Bars
from src.market.settings import DataSettings
from src.market.synthetic import martingale_bars
from src.trading.settings import EnvironmentSettings

ENVIRONMENT = EnvironmentSettings()
ONE_THREAD = HardwareSettings(torch_threads=1)
SMALL: dict[str, Any] = {"hardware": ONE_THREAD, "interval_min": 15}
TINY_NETS = TrainingSettings(policy_kwargs=PolicySettings(net_arch=NetArch(pi=(8,), vf=(8,))))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30), st.integers(1, 9), st.floats(0.51, 0.9999))
def test_with_equally_many_trades_in_all_sessions_the_bounds_are_those_of_a_t_test(
    sums: list[float], trades: int, level: float
) -> None:
    found = trade_mean(sums, [trades] * len(sums), level)
    means = np.asarray(sums) / trades
    error = stats.sem(means)
    reach = stats.t.isf(1 - level, len(sums) - 1) * error
    assert found.trades == trades * len(sums)
    tolerance: dict[str, float] = {"rel": 1e-6, "abs": 1e-6}
    assert found.mean == pytest.approx(means.mean(), **tolerance)
    assert found.standard_error == pytest.approx(error, **tolerance)
    assert (found.low, found.high) == pytest.approx((means.mean() - reach, means.mean() + reach), **tolerance)


@given(
    st.lists(st.tuples(st.floats(-100, 100), st.integers(0, 40)), min_size=2, max_size=30),
    st.floats(0.1, 10),
    st.floats(-10, 10),
)
def test_another_unit_scales_the_bounds_and_a_cost_a_trade_shifts_them(
    sessions: list[tuple[float, int]], unit: float, cost: float
) -> None:
    sums = np.array([one for one, _ in sessions])
    trades = np.array([many for _, many in sessions])
    before, after = trade_mean(sums, trades), trade_mean(unit * sums + cost * trades, trades)
    if not trades.any():
        assert before == after == TradeMean(len(sessions), 0)
        return
    for name in ("mean", "low", "high"):
        wanted = unit * getattr(before, name) + cost
        assert getattr(after, name) == pytest.approx(wanted, rel=1e-6, abs=1e-5)


def test_bounds_hold_the_truth_as_often_as_they_say_where_trades_of_a_session_share_its_luck() -> None:
    rng = np.random.default_rng(0)
    samples, sessions, level = 2_000, 200, 0.95
    too_high, naive_too_high = 0, 0
    for _ in range(samples):
        trades = rng.poisson(6.0, sessions)
        luck = rng.standard_normal(sessions)
        noise = rng.standard_normal(int(trades.sum()))
        session = np.repeat(np.arange(sessions), trades)
        values = 0.3 + luck[session] + noise
        bounds = trade_mean(np.bincount(session, values, sessions), trades, level)
        assert bounds.low is not None
        too_high += bounds.low > 0.3
        naive_too_high += values.mean() - stats.t.isf(0.05, len(values) - 1) * stats.sem(values) > 0.3
    # Four standard errors of a share of 2,000 are two points.
    assert too_high / samples == pytest.approx(0.05, abs=0.02)
    assert naive_too_high / samples > 0.1, "trades taken as independent would promise too much"


def test_too_little_gives_no_bounds_and_nonsense_is_refused() -> None:
    assert trade_mean([], []) == TradeMean(0, 0)
    assert trade_mean([0.0, 0.0], [0, 0]) == TradeMean(2, 0)
    assert trade_mean([6.0], [3]) == TradeMean(1, 3, 2.0)
    for sums, trades in (([1.0], [1, 2]), ([np.nan, 1.0], [1, 1]), ([1.0, 1.0], [1, -1]), ([[1.0]], [[1]])):
        with pytest.raises(ValueError, match="for each session"):
            trade_mean(sums, trades)
    with pytest.raises(ValueError, match=r"between 0\.5 and 1"):
        trade_mean([1.0, 2.0], [1, 1], 0.5)


def known(trades: int, low: float, high: float) -> TradeMean:
    return TradeMean(2_000, trades, (low + high) / 2, 0.01, low, high)


@pytest.mark.parametrize(
    ("trade", "passed", "said"),
    [
        (known(5_000, -0.05, 0.01), True, "no leak found by this check"),
        (known(5_000, -0.001, 0.5), True, "no leak found by this check"),
        (known(5_000, 0.001, 0.5), False, "earns where nothing can be earned"),
        (known(1_000, 0.001, 0.5), False, "earns where nothing can be earned"),
        (known(999, 0.001, 0.5), True, "nearly flat: passes (999 trades in 2,000 sessions)"),
        (TradeMean(2_000, 0), True, "nearly flat: passes (0 trades"),
        (TradeMean(1, 1_500, 0.2), False, "one session has no bounds"),
    ],
)
def test_the_agent_fails_exactly_where_the_lower_bound_is_above_zero(trade: TradeMean, passed: bool, said: str) -> None:
    verdict, words = judge_agent(trade)
    assert verdict is passed
    assert said in words


@pytest.mark.parametrize(
    ("trade", "passed", "said"),
    [
        (known(5_000, -0.03, 0.049), True, "no bias found in bars and fills"),
        (known(5_000, 0.01, 0.049), True, "no bias found in bars and fills"),
        (known(5_000, -0.03, 0.05), False, "too few sessions"),
        (known(5_000, 0.02, 0.09), False, "pay for trading as such"),
        (TradeMean(2_000, 0), False, "not judged"),
    ],
)
def test_random_legal_passes_exactly_where_the_upper_bound_is_under_the_limit(
    trade: TradeMean, passed: bool, said: str
) -> None:
    verdict, words = judge_random_legal(trade)
    assert verdict is passed
    assert said in words


def test_the_unit_is_what_a_bar_of_the_position_moves() -> None:
    bars = martingale_bars("NQ", 100, 5, 0)
    assert np.std(bars.close.astype(int) - bars.open) == pytest.approx(BAR_SIGMA_TICKS, rel=0.02)
    for symbol, contracts, tick_usd in (("NQ", 1, 5.0), ("MNQ", 1, 0.5), ("NQ", 3, 15.0), ("NQ", 900, 30.0)):
        market = martingale_market(EnvironmentSettings(contracts=contracts), symbol, 10, 15, 0)
        assert bar_sigma_usd(market) == pytest.approx(tick_usd * BAR_SIGMA_TICKS), "at most six contracts of NQ"


def test_a_market_has_as_many_sessions_as_are_to_be_played() -> None:
    for n in (5, 300):
        assert len(usable_sessions(martingale_market(ENVIRONMENT, "NQ", n, 15, 0))) >= n


def test_no_agent_is_judged_on_a_market_that_any_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []

    def recorded(environment: Any, symbol: str, n_sessions: int, interval_min: int, seed: int) -> Any:
        made.append((n_sessions, seed))
        return martingale_market(environment, symbol, n_sessions, interval_min, seed)

    monkeypatch.setattr(martingale, "martingale_market", recorded)
    for seed in (0, 1, 2):
        martingale_gate(None, TINY_NETS, seed=seed, n_sessions=10, timesteps=64, **SMALL)
    trained, judged = ({seed for n, seed in made if (n == 10) is fresh} for fresh in (False, True))
    assert len(trained) == len(judged) == 3
    assert judged.isdisjoint(range(100_000)), "however many seeds a command is given"


@pytest.mark.slow
def test_on_2000_fresh_sessions_neither_a_trained_agent_nor_chance_earns() -> None:
    gate = martingale_gate(None, hardware=ONE_THREAD, timesteps=8_192)
    assert gate.passed, (gate.agent.words, gate.random_legal.words)
    for verdict in (gate.agent, gate.random_legal):
        assert verdict.trade.sessions == 2_000
        assert verdict.trade.trades > 10_000, "nearly flat would show nothing"
    assert gate.random_legal.trade.standard_error == pytest.approx(0.008, abs=0.002)


def leaking(strength: float) -> Callable[..., np.ndarray]:
    """Context features whose first knows the next bar's change, with a correlation of `strength`."""
    real = features.context_features

    def early(bars: Bars, *rest: Any) -> np.ndarray:
        rows = np.array(real(bars, *rest))
        change = np.append(np.diff(bars.close), 0) / BAR_SIGMA_TICKS
        noise = np.random.default_rng(0).standard_normal(len(bars))
        rows[:, 0] = np.clip(strength * change + np.sqrt(1 - strength**2) * noise, -5, 5)
        return rows

    return early


@pytest.mark.slow
@pytest.mark.parametrize(("strength", "timesteps"), [(1.0, 4_096), (0.3, 16_384)])
def test_a_feature_that_knows_the_next_bar_fails_both_checks(
    strength: float, timesteps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "context_features", leaking(strength))
    market = martingale_market(ENVIRONMENT, "NQ", 60, 15, 0)
    found = check_features(market, DataSettings(), "rth").found
    assert found.startswith("context of bar ")
    gate = martingale_gate(None, n_sessions=300, timesteps=timesteps, **SMALL)
    assert not gate.agent.passed
    assert gate.agent.trade.low is not None
    assert gate.agent.trade.low > 0.1 * strength
    assert "a feature knows the future" in gate.agent.words
    # Chance sees no feature: what the agent earned is the leak, not the market.
    assert gate.random_legal.trade.low is not None
    assert gate.random_legal.trade.low < 0


def test_bars_without_the_wicks_of_their_path_fail_random_legal(monkeypatch: pytest.MonkeyPatch) -> None:
    def wickless(*args: Any, **options: Any) -> Bars:
        bars = martingale_bars(*args, **options)
        return replace(bars, high=np.maximum(bars.open, bars.close), low=np.minimum(bars.open, bars.close))

    # A stop is seen only once a close lies beyond it, and still fills at its own price: the overshoot is a present.
    monkeypatch.setattr(martingale, "martingale_bars", wickless)
    untrained = martingale_gate(None, n_sessions=600, timesteps=64, **SMALL)
    assert not untrained.random_legal.passed
    assert "pay for trading as such" in untrained.random_legal.words


def test_a_given_policy_is_played_and_a_gate_is_a_function_of_its_seed() -> None:
    class Flat(torch.nn.Module):
        """A policy that never trades."""

        def set_training_mode(self, mode: bool) -> None:
            pass

        def obs_to_tensor(self, obs: np.ndarray) -> tuple[torch.Tensor, bool]:
            return torch.as_tensor(obs), True

        def get_distribution(self, obs: torch.Tensor, action_masks: np.ndarray) -> Any:
            from sb3_contrib.common.maskable.distributions import MaskableCategoricalDistribution

            logits = torch.zeros(len(obs), 6)
            logits[:, 0] = 9.0
            distribution = MaskableCategoricalDistribution(6).proba_distribution(logits)
            distribution.apply_masking(action_masks)
            return distribution

    gates = [martingale_gate(Flat(), n_sessions=20, seed=seed, **SMALL) for seed in (0, 0, 1)]  # type: ignore[arg-type]
    assert gates[0] == gates[1]
    assert gates[0].random_legal.trade != gates[2].random_legal.trade
    assert gates[0].agent.trade == TradeMean(20, 0)
    assert gates[0].agent.passed
    assert not gates[0].passed, "twenty sessions do not show that bars and fills are fair"


def test_a_trained_gate_is_a_function_of_its_seed() -> None:
    one, other = (martingale_gate(None, TINY_NETS, n_sessions=20, timesteps=64, **SMALL) for _ in range(2))
    assert one == other
    assert one.agent.trade.trades > 0


@pytest.mark.parametrize("fair", [True, False])
def test_the_command_prints_a_table_verdicts_and_one_line_of_json(
    fair: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def gate_of(policy: None, training: Any, hardware: Any, environment: Any, **options: Any) -> MartingaleGate:
        asked.append((environment.rule_profile, options))
        low = -0.05 if fair or options["seed"] == 7 else 0.05
        trade = known(123_456, low, 0.06)
        agent = MartingaleVerdict("agent", trade, *judge_agent(trade))
        chance = known(98_765, -0.02, 0.03)
        return MartingaleGate(
            options["seed"], agent, MartingaleVerdict("random_legal", chance, *judge_random_legal(chance))
        )

    monkeypatch.setattr(martingale, "martingale_gate", gate_of)
    options = ["--sessions", "40", "--timesteps", "9", "--threads", "1", "--rule-profile", "none"]
    assert martingale.main(["--seeds", "2", "--first-seed", "7", *options]) == int(not fair)
    played = {"n_sessions": 40, "timesteps": 9, "interval_min": 5}
    assert asked == [("none", {"seed": 7, **played}), ("none", {"seed": 8, **played})]
    lines = capsys.readouterr().out.splitlines()
    summary = json.loads(lines[-1])
    assert summary["passed"] is fair
    assert [(one["seed"], one["arm"], one["passed"]) for one in summary["rows"]] == [
        (7, "agent", True),
        (7, "random_legal", True),
        (8, "agent", fair),
        (8, "random_legal", True),
    ]
    assert all(len(line) <= 80 for line in lines[:-1])
    assert lines[2].split() == ["7", "agent", "2,000", "123,456", "+0.0050", "-0.0500", "+0.0600", "yes"]


def test_a_command_without_sessions_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        martingale.main(["--sessions", "1"])
    assert ended.value.code == 2
    assert "--sessions is 1" in capsys.readouterr().err
