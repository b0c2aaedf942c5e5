"""What advice did in the arms that see it: counted beside each step by other means, and never a cause of anything."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from src.advisor.fusion import RULES
from src.advisor.mock import MockAdvisor
from src.advisor.table import AdviceTable, empty_table, situation_order, tabulate
from src.agent.market import Market, market_of
from src.agent.policy import HybridPolicy
from src.evaluation.arms import AdvisedArm, AdvisorArm, Arm, FusedArm, HybridArm, PolicyArm, standard_arms
from src.evaluation.assembly import FeatureAssembly
from src.evaluation.placebo import placebo_table
from src.evaluation.playing import ArmResult, evaluate
from src.evaluation.summaries import arm_summary
from src.market.contracts import get_contract
from src.market.load import build_tables
from src.market.settings import DataSettings
from src.market.synthetic import synthetic_bars
from src.testing_framework import EnvironmentStatePool, VectorizedDecisionFusion
from src.trading.layout import N_ACTIONS, N_OBS
from src.trading.params import make_params
from src.trading.rules import load_rule_profile
from src.trading.session_batch import SessionBatch
from src.trading.settings import EnvironmentSettings


@cache
def market(profile: str = "none", symbol: str = "MNQ") -> Market:
    """Twelve synthetic sessions of 15-minute bars."""
    tables = build_tables(synthetic_bars("NQ", 12, 15, 3), DataSettings(), trading_hours="rth")
    rules = load_rule_profile(profile)
    return market_of(tables, DataSettings(), rules, make_params(EnvironmentSettings(), get_contract(symbol), rules))


@cache
def advice() -> AdviceTable:
    order = situation_order(market().situation[market().bars_of(market().split.train)])
    return tabulate(MockAdvisor(), order)


def hybrid_policy(weight: float, scale: float = 30.0) -> HybridPolicy:
    """Untrained, with logits of the advice's size: the stock start is indifferent and would follow every opinion."""
    torch.manual_seed(5)
    policy = HybridPolicy(
        spaces.Box(-10.0, 10.0, (N_OBS,), np.float32),
        spaces.Discrete(N_ACTIONS),
        lambda _: 1e-3,
        net_arch={"pi": [16], "vf": [16]},
        llm_weight=weight,
    )
    with torch.no_grad():
        policy.action_net.weight.mul_(scale)
    return policy


def play(
    arms: Sequence[Arm],
    table: AdviceTable | None = None,
    sessions: NDArray[Any] | None = None,
    on: Market | None = None,
) -> dict[str, ArmResult]:
    tape, params = market().tape(empty_table()), (on or market()).session_params
    assembly = FeatureAssembly(market().tables.context, advice() if table is None else table)
    chosen = np.flatnonzero(market().tables.sessions.usable) if sessions is None else sessions
    with EnvironmentStatePool(lambda: SessionBatch(tape, params, with_tables=False), {}, len(arms)) as pool:
        return evaluate(arms, market().first_bars(chosen), pool, assembly)


class Watched(HybridArm):
    """Notes what a stock `predict` of two policies says at every step, one of them a copy with its weight at zero."""

    def __init__(self, policy: HybridPolicy) -> None:
        self._deaf = copy.deepcopy(policy)
        self._deaf.set_llm_weight(0.0)
        super().__init__(policy)
        self.choices = self.advised = self.changed = 0

    def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
        actions = super().act(batch, opinions)
        assert opinions is not None
        for i in range(batch.n):
            if batch.over[i]:
                continue
            obs, mask = batch.obs[i].copy(), batch.masks[i].copy()
            heard, _ = self._hybrid.predict(obs, deterministic=True, action_masks=mask)
            deaf, _ = self._deaf.predict(obs, deterministic=True, action_masks=mask)
            assert int(heard) == actions[i]
            self.choices += sum(mask.tolist()) > 1
            self.advised += sum(mask.tolist()) > 1 and bool(sum(opinions[i].tolist()))
            self.changed += int(heard) != int(deaf)
        return actions


@pytest.mark.parametrize("breaches", [False, True])
def test_the_hybrids_changes_are_those_of_the_same_observations_without_the_weight(breaches: bool) -> None:
    arm = Watched(hybrid_policy(0.7))
    # Under no rules all sessions end together; an account that died may be left with actions that count no more.
    result = play([arm], on=market("apex_50k_intraday_2026_03", "NQ") if breaches else market())["hybrid"]
    use = result.advice
    assert use is not None
    assert result.breached.any() == breaches
    assert (use.choices, use.advised, use.changed) == (arm.choices, arm.advised, arm.changed)
    assert 0 < use.changed < use.advised < use.choices < int(result.bars.sum())


def test_a_session_that_is_over_is_not_counted_whatever_could_still_be_done_in_it() -> None:
    batch = SessionBatch(market().tape(empty_table()), market().session_params, with_tables=False)
    batch.begin(market().first_bars(np.flatnonzero(market().tables.sessions.usable)))
    opinions = FeatureAssembly(market().tables.context, advice()).opinions(batch)

    def counted(alive: Sequence[int]) -> tuple[int, int, int]:
        arm = HybridArm(hybrid_policy(5.0))
        batch.over[:] = True
        batch.over[list(alive)] = False
        arm.act(batch, opinions)
        use = arm.advice_use
        return use.choices, use.advised, use.changed

    each = [counted([i]) for i in range(batch.n)]
    assert counted(range(batch.n)) == tuple(map(sum, zip(*each, strict=True)))
    assert max(changed for _, _, changed in each) == 1
    assert counted([]) == (0, 0, 0)


def test_counting_leaves_the_policy_and_its_sessions_as_they_are() -> None:
    policy = hybrid_policy(0.3)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    counted = play([HybridArm(policy)])["hybrid"]
    assert before.keys() == policy.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    plain = play([PolicyArm("hybrid", policy, sees_advice=True)])["hybrid"]
    assert plain.advice is None
    for name, value in vars(plain).items():
        if name != "advice":
            np.testing.assert_array_equal(value, getattr(counted, name), err_msg=name)


def test_the_weight_comes_back_even_when_the_policy_fails() -> None:
    policy = hybrid_policy(0.3)
    policy.get_distribution = None  # type: ignore[assignment,method-assign]
    arm = HybridArm(policy)
    with pytest.raises(TypeError):
        play([arm])
    assert float(policy.llm_weight) == pytest.approx(0.3)


@pytest.mark.parametrize(("weight", "table"), [(0.0, None), (0.9, empty_table())])
def test_advice_that_is_off_or_silent_changes_nothing(weight: float, table: AdviceTable | None) -> None:
    use = play([HybridArm(hybrid_policy(weight))], table)["hybrid"].advice
    assert use is not None
    assert use.changed == 0
    assert use.choices > 0
    assert (use.advised == 0) == (table is not None)


def test_the_more_weight_the_more_changes() -> None:
    changed = [play([HybridArm(hybrid_policy(weight))])["hybrid"].advice.changed for weight in (0.01, 0.3, 5.0)]  # type: ignore[union-attr]
    assert changed == sorted(changed)
    assert changed[0] < changed[-1]


def fused_arm(fusion: VectorizedDecisionFusion) -> FusedArm:
    return FusedArm(PolicyArm("rl_only", hybrid_policy(0.0), sees_advice=False), fusion)


@pytest.mark.parametrize("sequential", [False, True])
def test_the_rules_of_the_fused_arm_are_those_of_its_own_sessions(sequential: bool) -> None:
    fusion = VectorizedDecisionFusion({"llm_weight": 0.6}, sequential=sequential)
    arm = fused_arm(fusion)
    parts = [play([arm], sessions=sessions)["fused"] for sessions in (market().split.train, market().split.test)]
    uses = [part.advice for part in parts]
    for part, use in zip(parts, uses, strict=True):
        assert use is not None
        assert list(use.rules) == list(RULES)
        assert sum(use.rules.values()) == int(part.bars.sum())
        assert use.choices == int(part.bars.sum()) - use.rules["bypassed"]
        # A silent advisor is passed over, unless the veto came first.
        assert use.rules["abstained"] <= use.choices - use.advised <= use.rules["abstained"] + use.rules["risk_veto"]
    stats = fusion.get_stats()
    assert {rule: sum(use.rules[rule] for use in uses if use) for rule in RULES} == {
        rule: stats[rule] for rule in RULES
    }
    assert sum(use.changed for use in uses if use) == stats["advice_changed"] > 0
    fresh = VectorizedDecisionFusion({"llm_weight": 0.6}, sequential=sequential)
    assert play([fused_arm(fresh)], sessions=market().split.test)["fused"].advice == uses[1]


def test_only_arms_that_weigh_advice_against_something_count_it() -> None:
    policy = hybrid_policy(0.5)
    arms = standard_arms(policy, policy, VectorizedDecisionFusion(), 0, (policy, placebo_table(advice(), 0)))
    assert {arm.name for arm in arms if isinstance(arm, AdvisedArm)} == {"hybrid", "hybrid_placebo", "fused"}
    results = play([AdvisorArm(), *arms[4:]])
    assert results["advisor_only"].advice is None
    assert "advice" not in arm_summary(results["advisor_only"])
    names = ("hybrid", "hybrid_placebo", "fused")
    hybrid, placebo, fused = (arm_summary(results[name])["advice"] for name in names)
    assert set(hybrid) == set(placebo) == {"choices", "advised", "changed", "changed_frac"}
    assert set(fused) == {*hybrid, "rules"}
    assert hybrid["changed_frac"] == hybrid["changed"] / hybrid["choices"]


def test_without_a_choice_there_is_no_share() -> None:
    nothing = play([HybridArm(hybrid_policy(0.5))], sessions=np.zeros(0, np.int32))["hybrid"]
    assert arm_summary(nothing)["advice"]["changed_frac"] is None
