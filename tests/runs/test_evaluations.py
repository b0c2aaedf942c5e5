"""What trained policies are put through: every section agrees with the arms it is of, and a trial is a choice."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from src.agent.rollout_plan import plan_rollouts
from src.runs.evaluations import sealed_fingerprint
from src.runs.inputs import trial_inputs
from tests.small_runs import FinishedRun, finished, market
from tests.tiny_runs import tiny_config

PLANS = (plan_rollouts(128, 4, 32), plan_rollouts(64, 4, 32))


@pytest.fixture(scope="module")
def plain() -> FinishedRun:
    return finished("plain")


@pytest.mark.slow
def test_at_the_runs_own_slippage_the_costs_are_those_of_the_arms(plain: FinishedRun) -> None:
    report, market = plain.written, plain.framework._context.market
    assert market is not None
    stress = report["statistics"]["cost_stress"]
    (ticks,) = np.unique(market.session_params["slippage_ticks"])
    place = stress["slippage_ticks"].index(int(ticks))
    for arm in ("rl_only", "hybrid"):
        net = stress["net_usd_per_session"][arm]
        assert net[place] == pytest.approx(report["arms"][arm]["net_usd_per_session"])
        assert net[0] != net[1]


@pytest.mark.slow
def test_the_hybrid_on_its_own_advice_is_the_arm_and_each_other_advice_has_its_row(plain: FinishedRun) -> None:
    report = plain.written
    own, *others = report["reliance"]["rows"]
    assert own["advice"] == "own"
    assert own["net_usd_per_session"] == pytest.approx(report["arms"]["hybrid"]["net_usd_per_session"])
    assert [row["advice"] for row in others] == ["none", "shuffled", "late", "constant"]
    for row in report["reliance"]["rows"]:
        assert len(row["seed_values_usd"]) == 1
        assert row["net_usd_per_session"] == pytest.approx(np.mean(row["seed_values_usd"]))
    assert all(0 <= row["changed_frac"] <= 1 for row in others)
    assert "no evidence" in report["reliance"]["words"]


@pytest.mark.slow
def test_a_session_bar_by_bar_comes_to_what_the_arm_made_of_it(plain: FinishedRun) -> None:
    report = plain.written
    (session,) = report["sessions"]
    place = report["session_dates"].index(session["date"])
    for name, arm in session["arms"].items():
        net = report["arms"][name]["net_usd_by_session"][place]
        assert arm["net_usd"] == pytest.approx(net)
        assert sum(trade["net_usd"] for trade in arm["trades"]) == pytest.approx(net)
    best = max(report["arms"]["hybrid"]["net_usd_by_session"])
    assert report["arms"]["hybrid"]["net_usd_by_session"][place] == best


@pytest.mark.slow
def test_attempts_are_of_both_trained_policies_and_leave_no_list_of_every_attempt(plain: FinishedRun) -> None:
    simulation = plain.written["pass_simulation"]
    assert list(simulation["arms"]) == ["rl_only", "hybrid"]
    assert simulation["sessions"] == plain.written["data"]["split"]["sealed"]["sessions"] == 11
    for arm in simulation["arms"].values():
        assert arm["attempts"] == 200
        assert arm["passed_frac"] + arm["breached_frac"] + arm["expired_frac"] == pytest.approx(1.0)
        assert "outcome" not in arm
        assert "days" not in arm
    assert len(json.dumps(simulation)) < 20_000


@pytest.mark.slow
def test_eleven_sessions_have_intervals_and_are_called_low_power(plain: FinishedRun) -> None:
    statistics = plain.written["statistics"]
    assert statistics["sample_size"] == {"n": 11, "words": "low power (11 of 40 sessions)", "level": "low"}
    for contrast in statistics["contrasts"]:
        assert contrast["low_usd"] <= contrast["mean_usd"] <= contrast["high_usd"]
        arm, against = (plain.written["arms"][contrast[side]]["net_usd_by_session"] for side in ("arm", "against"))
        assert contrast["mean_usd"] == pytest.approx(np.mean(np.subtract(arm, against)))
    verdict = "\n".join(plain.written["verdict"])
    assert "low power (11 of 40 sessions), one seed" in verdict
    assert "LLM (mock): not measured: after so short a training the arms differ only by chance." in verdict


@pytest.mark.slow
def test_the_opinions_counted_are_those_of_the_standard_arms(plain: FinishedRun) -> None:
    """Reliance, costs and attempts ask for opinions, too; a choice of advisor_only, hybrid and fused is one each."""
    report = plain.written
    steps = sum(
        sum(report[part][arm]["actions"].values())
        for part in ("arms", "validation_arms")
        for arm in ("advisor_only", "hybrid", "fused")
    )
    assert report["advice"]["opinion_lookups"] == steps


def test_the_sealed_sessions_of_other_rules_or_of_another_split_are_others() -> None:
    small = market()
    moved = replace(small, split=replace(small.split, test=small.split.test[1:]))
    prints = [sealed_fingerprint(m) for m in (small, market("MNQ", "apex_50k_eod_2026_03"), moved)]
    assert len(set(prints)) == 3
    assert sealed_fingerprint(small) == prints[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"test_mode.seed": 5},
        {"evidence.seeds": 4, "evidence.chart_sessions": 2},
        {"test_mode.output_dir": "elsewhere"},
        {"data.path": "elsewhere.csv", "llm.store_path": "elsewhere.sqlite3"},
        {"hardware.vec_env": "dummy", "hardware.torch_threads": 2, "hardware.optimize_memory": True},
        {"performance.cached_llm_features": False, "llm.cache_size": 5},
        {"monitoring.log_interval": 3, "validation.max_execution_time_s": 5.0},
        {"test_mode.mode": "pipeline"},
    ],
)
def test_what_decides_no_trade_makes_no_new_trial(changes: dict[str, Any]) -> None:
    assert trial_inputs(tiny_config(changes), PLANS) == trial_inputs(tiny_config({}), PLANS)


@pytest.mark.parametrize(
    "changes",
    [
        {"training.learning_rate": 0.01},
        {"hardware.vectorized_envs": 8},
        {"hardware.batch_size": 64},
        {"llm.llm_weight": 0.1},
        {"fusion.confidence_threshold": 0.1},
        {"environment.stop_atr": 0.5},
        {"training.policy_kwargs.net_arch.pi": [4]},
        {"test_mode.quick": True},
        {"data.train_frac": 0.5},
    ],
)
def test_what_decides_trades_makes_one(changes: dict[str, Any]) -> None:
    assert trial_inputs(tiny_config(changes), PLANS) != trial_inputs(tiny_config({}), PLANS)


def test_longer_training_is_another_trial() -> None:
    longer = (plan_rollouts(256, 4, 32), PLANS[1])
    assert trial_inputs(tiny_config({}), longer) != trial_inputs(tiny_config({}), PLANS)
