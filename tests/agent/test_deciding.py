"""Compiled decisions against the policy's own, and whole sessions against the same played step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from torch import nn

from src.advisor.table import renormalise
from src.agent import session_play
from src.agent.deciding import Decider, likeliest, masked_shares, why_not
from src.agent.policy import HybridPolicy
from src.evaluation.arms import PolicyArm
from src.trading.gym_env import action_space, observation_space
from src.trading.layout import ACCOUNT_STATE, N_ACTIONS, N_OBS, OPINION
from src.trading.session_batch import SessionBatch
from tests.evaluation.test_advice_use import advice, market


def policy_of(hybrid: bool, seed: int = 0, **kwargs: Any) -> MaskableActorCriticPolicy:
    """Untrained, with logits far apart and biases that are not zero."""
    torch.manual_seed(seed)
    made = (HybridPolicy if hybrid else MaskableActorCriticPolicy)(
        observation_space(), action_space(), lambda _: 1e-3, **kwargs
    )
    with torch.no_grad():
        made.action_net.weight.mul_(100.0)
        for name, parameter in made.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.3)
    return made


def rows_of(n: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Observations with opinions, every fourth an abstention, and masks in which HOLD is legal."""
    rng = np.random.default_rng(seed)
    masks = rng.random((n, N_ACTIONS)) < 0.6
    masks[:, 0] = True
    obs = rng.normal(size=(n, N_OBS)).astype(np.float32)
    obs[:, OPINION] = renormalise(rng.random((n, N_ACTIONS)) ** 8, masks)
    obs[::4, OPINION] = 0.0
    return obs, masks


def shares_of(policy: MaskableActorCriticPolicy, obs: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[Any]:
    with torch.no_grad():
        return policy.get_distribution(torch.from_numpy(obs), action_masks=masks).distribution.probs.numpy()


@settings(max_examples=25, deadline=None)
@given(
    st.booleans(), st.booleans(), st.lists(st.integers(1, 70), min_size=1, max_size=3),
    st.sampled_from([0.0, 0.4, 1.5]), st.sampled_from([nn.Tanh, nn.ReLU]), st.integers(1, 80), st.integers(0, 2**16),
)  # fmt: skip
def test_probabilities_are_the_policys(
    hybrid: bool, reads: bool, widths: list[int], weight: float, act: type[nn.Module], n: int, seed: int
) -> None:
    own = {"llm_weight": weight, "use_opinion_features": reads} if hybrid else {}
    policy = policy_of(hybrid, seed, net_arch={"pi": widths, "vf": [4]}, activation_fn=act, **own)
    assert why_not(policy) is None
    (obs, masks), over = rows_of(n, seed), np.random.default_rng(seed).random(n) < 0.2
    logits = Decider(policy).logits(obs, over, np.zeros(n, np.int32))
    pooled = own.get("llm_weight", 0.0)
    found, wanted = masked_shares(logits, obs[:, OPINION], pooled, masks), shares_of(policy, obs, masks)
    np.testing.assert_allclose(found[~over], wanted[~over], atol=3e-5)
    actions = likeliest(logits, obs[:, OPINION], pooled, masks)
    assert (wanted.max(axis=1) - wanted[np.arange(n), actions] < 3e-5)[~over].all()
    assert not logits[over].any()


def test_a_row_is_the_same_to_the_bit_whatever_is_beside_it() -> None:
    policy = policy_of(True, net_arch={"pi": [65, 30], "vf": [4]}, llm_weight=1.0)
    decider = Decider(policy)
    obs, _ = rows_of(101, 3)
    bars = np.arange(101, dtype=np.int32) // 3  # three rows say that they are at the same bar, and are not
    together = decider.logits(obs, np.zeros(101, np.bool_), bars)
    for keeps in (False, True):
        for rows in (slice(0, 1), slice(40, 73), slice(7, None, 5), slice(None)):
            part, over = np.ascontiguousarray(obs[rows]), np.zeros(len(bars[rows]), np.bool_)
            np.testing.assert_array_equal(decider.logits(part, over, bars[rows]), together[rows])
        if keeps:
            part = obs.copy()  # known bars, seen with other accounts
            part[:, ACCOUNT_STATE] = 1.0
            decider.logits(obs, over, bars)
            fresh = Decider(policy).logits(part, over, bars)
            np.testing.assert_array_equal(decider.logits(part, over, bars), fresh)
        decider.keep_bars(34)


def test_policies_that_decide_otherwise_are_asked_themselves() -> None:
    plain = {"net_arch": {"pi": [8], "vf": [8]}}
    assert "no hidden layer" in str(why_not(policy_of(False, net_arch={"pi": [], "vf": [8]})))
    assert "ELU" in str(why_not(policy_of(False, activation_fn=nn.ELU, **plain)))
    replaced = policy_of(False, **plain)
    replaced.get_distribution = replaced.get_distribution  # type: ignore[method-assign]
    assert "get_distribution" in str(why_not(replaced))
    policy = policy_of(False, activation_fn=nn.ELU, **plain)
    batch = SessionBatch(market().tape(advice()), market().session_params)
    batch.begin(market().first_bars(market().split.test))
    arm = PolicyArm("own", policy, True)
    assert arm.player(batch.tape) is None
    opinions = batch.obs[:, OPINION].copy()
    np.testing.assert_array_equal(arm.probabilities(batch, opinions), shares_of(policy, batch.obs, batch.masks))


@pytest.mark.parametrize("bars_kept", [10**6, 7, 0])
@pytest.mark.parametrize("sees_advice", [True, False])
def test_sessions_at_once_are_those_step_by_step(
    sees_advice: bool, bars_kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = market("apex_50k_eod_2026_03")
    arm = PolicyArm("policy", policy_of(True, net_arch={"pi": [40, 24], "vf": [4]}, llm_weight=0.8), sees_advice)
    # More sessions than a tile has rows, and an account's last bar before others': lines are refilled.
    firsts = np.tile(on.first_bars(np.flatnonzero(on.tables.sessions.usable)), 5)
    step_by_step, at_once = (SessionBatch(on.tape(advice()), on.session_params) for _ in range(2))
    monkeypatch.setattr(session_play, "TABLE_BYTES", bars_kept * 4 * 48)
    player = arm.player(at_once.tape)
    assert player is not None
    goal = 5_010_000
    for _ in range(2):  # the second time the bars are known
        step_by_step.begin(firsts), at_once.begin(firsts)
        reached = np.zeros(len(firsts), np.bool_)
        while not step_by_step.over.all():
            opinions = step_by_step.obs[:, OPINION].copy() if sees_advice else None
            step_by_step.step(arm.act(step_by_step, opinions))
            accounts = step_by_step.accounts
            at_goal = (accounts["position"] == 0) & (accounts["cash_cents"] >= goal)
            reached |= at_goal
            step_by_step.over |= at_goal
        np.testing.assert_array_equal(player.play(at_once, goal), reached)
        assert at_once.accounts.tobytes() == step_by_step.accounts.tobytes()
        assert at_once.over.all()
        assert 0 < reached.sum() < len(firsts)
        assert at_once.accounts["n_trades"].sum() > 0


def test_weights_that_are_not_finite_choose_nothing() -> None:
    policy = policy_of(False, net_arch={"pi": [8], "vf": [8]})
    with torch.no_grad():
        policy.mlp_extractor.policy_net[0].weight[3, 7] = float("nan")
    arm = PolicyArm("diverged", policy, True)
    batch = SessionBatch(market().tape(advice()), market().session_params)
    player = arm.player(batch.tape)
    assert player is not None
    batch.begin(market().first_bars(market().split.test))
    with pytest.raises(ValueError, match="not finite"):
        arm.act(batch, batch.obs[:, OPINION].copy())
    with pytest.raises(ValueError, match="not finite"):
        player.play(batch)
