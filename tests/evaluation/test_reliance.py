"""Spoilt advice at evaluation: what each arm hears is worked out beside it, and what it changed is counted."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from src.advisor.table import AdviceTable, renormalise
from src.agent.policy import HybridPolicy
from src.evaluation.arms import PolicyArm
from src.evaluation.assembly import TableFeed
from src.evaluation.placebo import constant_table, placebo_table
from src.evaluation.playing import ArmResult
from src.evaluation.reliance import LateFeed, RelianceArm, reliance_arms
from src.trading.session_batch import SessionBatch
from tests.evaluation.test_advice_use import advice, hybrid_policy, market, play

SEED = 3


def own_rows(batch: SessionBatch) -> NDArray[np.int64]:
    """The situation of each account, from the tape and the record alone."""
    rows = []
    for account in batch.accounts:
        bar, position, entry = int(account["bar"]), int(account["position"]), int(account["entry_ticks"])
        gain = position * (int(batch.tape.prices[bar, 3]) - entry)
        side = 0 if position == 0 else (1 if position > 0 else 3) + (gain <= 0)
        rows.append(int(batch.tape.situation[bar]) * 5 + side)
    return np.array(rows)


class Overheard:
    """An arm with a note of what it was told, and where each of its sessions stood."""

    def __init__(self, arm: RelianceArm) -> None:
        self._arm = arm
        self.name, self.sees_advice, self.feed = arm.name, arm.sees_advice, arm.feed
        self.heard: list[NDArray[np.float32]] = []
        self.masks: list[NDArray[np.bool_]] = []
        self.over: list[NDArray[np.bool_]] = []
        self.rows: list[NDArray[np.int64]] = []

    def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
        assert opinions is not None
        self.heard.append(opinions.copy())
        self.masks.append(batch.masks.copy())
        self.over.append(batch.over.copy())
        self.rows.append(own_rows(batch))
        return self._arm.act(batch, opinions)


def overheard(fed: str, late: int = 5) -> Overheard:
    arm = Overheard(reliance_arms(hybrid_policy(0.7), advice(), SEED, late_decisions=late)[fed])
    play([arm])
    return arm


def expected(table: AdviceTable, rows: NDArray[np.int64], masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    return renormalise(table.probabilities[rows], masks)


@pytest.mark.parametrize("late", [1, 5])
def test_late_advice_is_that_of_so_many_decisions_before(late: int) -> None:
    arm = overheard("late", late)
    spoke = 0
    for step, (heard, masks, over) in enumerate(zip(arm.heard, arm.masks, arm.over, strict=True)):
        if step < late:
            assert not heard.any()
            continue
        wanted = expected(advice(), arm.rows[step - late], masks)
        np.testing.assert_array_equal(heard[~over], wanted[~over])
        spoke += int(heard.any(axis=1).sum())
    assert spoke > 100
    now = [expected(advice(), rows, masks) for rows, masks in zip(arm.rows, arm.masks, strict=True)]
    assert any((one != other).any() for one, other in zip(arm.heard[late:], now[late:], strict=True))


@pytest.mark.parametrize("fed", ["shuffled", "constant", "none"])
def test_other_advice_is_read_where_the_account_stands(fed: str) -> None:
    arm = overheard(fed)
    table = {"shuffled": placebo_table(advice(), SEED), "constant": constant_table(advice())}.get(fed)
    for heard, masks, over, rows in zip(arm.heard, arm.masks, arm.over, arm.rows, strict=True):
        if table is None:
            assert not heard.any()
        else:
            np.testing.assert_array_equal(heard[~over], expected(table, rows, masks)[~over])


def test_lateness_begins_again_with_every_session_and_forgets_the_one_before() -> None:
    feed = LateFeed(advice(), 2)
    batch = SessionBatch(market().tape(advice()), market().session_params)
    firsts = market().first_bars(np.flatnonzero(market().tables.sessions.usable))
    hold = np.zeros(3, np.int64)

    def played(bars: NDArray[Any], carried: NDArray[Any] | None) -> None:
        batch.begin(bars, carried)
        stood: list[list[int]] = []
        for step in range(6):
            stood.append(batch.situations().tolist())
            assert feed.situations(batch).tolist() == ([-1] * 3 if step < 2 else stood[step - 2])
            # Asked twice at one decision it says the same.
            assert feed.situations(batch).tolist() == ([-1] * 3 if step < 2 else stood[step - 2])
            batch.step(hold)
        while not batch.over.all():
            batch.step(hold)

    played(firsts[:3], None)
    played(firsts[3:6], batch.accounts)
    with pytest.raises(ValueError, match="decisions must be at least 1, not 0"):
        LateFeed(advice(), 0)


def test_changes_are_those_against_its_own_advice_in_the_same_place() -> None:
    policy = hybrid_policy(0.9)
    by_hand: dict[str, int] = {}

    class Beside(RelianceArm):
        def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
            actions = super().act(batch, opinions)
            told = renormalise(advice().probabilities[own_rows(batch)], batch.masks)
            for i in np.flatnonzero(~batch.over):
                obs = batch.obs[i].copy()
                obs[255:261] = told[i]
                faithful, _ = policy.predict(obs, deterministic=True, action_masks=batch.masks[i].copy())
                by_hand[self.name] = by_hand.get(self.name, 0) + (int(faithful) != int(actions[i]))
            return actions

    arms = reliance_arms(policy, advice(), SEED)
    results = play([Beside(arm.name, policy, arm.feed, advice()) for arm in arms.values() if arm.feed])
    assert list(results) == ["hybrid_none", "hybrid_shuffled", "hybrid_late", "hybrid_constant"]
    for name, result in results.items():
        assert result.advice is not None
        assert result.advice.changed == by_hand[name] > 0
    assert results["hybrid_none"].advice is not None
    assert results["hybrid_none"].advice.advised == 0


def test_fed_with_its_own_advice_nothing_changes_and_the_sessions_are_the_hybrids() -> None:
    policy = hybrid_policy(0.9)
    fed = RelianceArm("hybrid_own", policy, TableFeed(advice()), advice())
    results = play([fed, PolicyArm("hybrid", policy, sees_advice=True)])
    own, hybrid = results["hybrid_own"], results["hybrid"]
    assert own.advice is not None
    assert own.advice.changed == 0
    assert same(own, hybrid)


def test_a_policy_that_cannot_hear_does_not_mind_what_it_is_fed() -> None:
    deaf = copy.deepcopy(hybrid_policy(0.0))
    assert isinstance(deaf, HybridPolicy)
    for layer in (deaf.mlp_extractor.policy_net[0], deaf.mlp_extractor.value_net[0]):
        layer.weight.data[:, 255:261] = 0.0
    results = play([*reliance_arms(deaf, advice(), SEED).values(), PolicyArm("hybrid", deaf, sees_advice=True)])
    for name, result in results.items():
        assert same(result, results["hybrid"]), name
        assert result.advice is None or result.advice.changed == 0


def same(one: ArmResult, other: ArmResult) -> bool:
    return all(
        np.array_equal(value, getattr(other, name))
        for name, value in vars(one).items()
        if name not in ("name", "advice")
    )
