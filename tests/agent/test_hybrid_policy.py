"""One distribution for acting, updating and predicting; with both switches off, the stock policy to the bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.callbacks import BaseCallback

from src.agent.policy import FlattenWithoutOpinion, HybridPolicy, first_layers, opinion_pool, transfer_weights
from src.trading.layout import N_ACTIONS, N_OBS, OPINION
from tests.agent.opinion_env import NET_ARCH, make_model, random_masks, random_observations

OVERRIDDEN = ("forward", "evaluate_actions", "get_distribution")


def make_policy(cls: type[MaskableActorCriticPolicy] = HybridPolicy, seed: int = 0, **kwargs) -> HybridPolicy:
    th.manual_seed(seed)
    policy = cls(
        spaces.Box(-10.0, 10.0, (N_OBS,), np.float32),
        spaces.Discrete(N_ACTIONS),
        lambda _: 1e-3,
        net_arch=NET_ARCH,
        **kwargs,
    )
    # The stock start makes every action almost equally likely; tests want opinions of the network's own.
    with th.no_grad():
        policy.action_net.weight.mul_(100.0)
    return policy


def overriding_fewer(left_out: str) -> type[HybridPolicy]:
    """HybridPolicy that forgot one of the three methods."""
    return type("Forgetful", (HybridPolicy,), {left_out: getattr(MaskableActorCriticPolicy, left_out)})


def batch(seed: int = 1, k: int = 64, *, live: bool = True) -> tuple[th.Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = random_masks(rng, k)
    return th.as_tensor(random_observations(rng, masks, live=live)), masks


def logits_of(policy: MaskableActorCriticPolicy, obs: th.Tensor, masks: np.ndarray) -> th.Tensor:
    with th.no_grad():
        return policy.get_distribution(obs, masks).distribution.logits.clone()


def assert_three_agree(policy: MaskableActorCriticPolicy) -> None:
    """Rollout, update and prediction give the same log-probability of every action, and the same likeliest one."""
    obs, masks = batch()
    with th.no_grad():
        for deterministic in (True, False):
            actions, values, acted = policy(obs, deterministic=deterministic, action_masks=masks)
            updated_values, updated, _ = policy.evaluate_actions(obs, actions, th.as_tensor(masks))
            predicted = policy.get_distribution(obs, masks).log_prob(actions)
            assert th.equal(acted, updated)
            assert th.equal(acted, predicted)
            assert th.equal(values, updated_values)
        best, _, _ = policy(obs, deterministic=True, action_masks=masks)
    predicted_actions, _ = policy.predict(obs.numpy(), deterministic=True, action_masks=masks)
    np.testing.assert_array_equal(predicted_actions, best.numpy())


def largest_first_ratio_error(cls: type[HybridPolicy]) -> float:
    """How far PPO's probability ratio is from 1 anywhere in the first pass over a rollout."""

    class FirstPass(BaseCallback):
        error = 0.0

        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            model = self.model
            for data in model.rollout_buffer.get(model.batch_size):
                with th.no_grad():
                    _, log_prob, _ = model.policy.evaluate_actions(
                        data.observations, data.actions.long().flatten(), data.action_masks
                    )
                ratio = th.exp(log_prob - data.old_log_prob)
                self.error = max(self.error, float((ratio - 1.0).abs().max()))

    callback = FirstPass()
    make_model(cls, llm_weight=0.7).learn(96, callback=callback)
    return callback.error


def test_the_pool_is_the_clipped_log_probability_less_its_mean_over_legal_actions() -> None:
    opinion = th.tensor([[0.5, 0.25, 0.25, 0.0, 0.0, 0.0], [0.998, 0.001, 0.001, 0.0, 0.0, 0.0]])
    pool = opinion_pool(opinion, th.tensor(0.5))
    # By hand: ln 0.5 = -0.6931, ln 0.25 = -1.3863, mean -1.1552; ln 0.998 = -0.0020, ln 0.001 < -4, mean -2.6673.
    expected = th.tensor([[0.2310, -0.1155, -0.1155], [1.3327, -0.6663, -0.6663]])
    th.testing.assert_close(pool[:, :3], expected, atol=1e-4, rtol=0.0)
    assert not pool[:, 3:].any()


@given(st.floats(0.0, 2.0, width=32), st.integers(0, 2**16))
def test_the_pool_is_finite_and_moves_no_mean(weight: float, seed: int) -> None:
    obs, masks = batch(seed, k=16)
    opinion = obs[:, OPINION]
    pool = opinion_pool(opinion, th.tensor(weight))
    assert th.isfinite(pool).all()
    assert pool.abs().max() <= 4.0 * weight + 1e-6
    assert pool.sum(dim=1).abs().max() <= 1e-4
    assert not pool[~th.as_tensor(masks)].any()
    assert not pool[~opinion.any(dim=1)].any()


def test_nothing_to_add_leaves_every_logit_as_it_is_to_the_bit() -> None:
    logits = th.tensor([[-0.0, 0.0, 1e-40, -3.5, 2.0, -1e30]]).repeat(64, 1)
    obs, _ = batch()
    untouched = logits + opinion_pool(obs[:, OPINION], th.tensor(0.0))
    abstained = logits + opinion_pool(th.zeros(64, N_ACTIONS), th.tensor(1.0))
    for result in (untouched, abstained):
        assert result.numpy().tobytes() == logits.numpy().tobytes()


def test_with_weight_zero_the_logits_are_those_of_the_stock_policy_to_the_bit() -> None:
    stock, hybrid = make_policy(MaskableActorCriticPolicy), make_policy(llm_weight=0.0)
    obs, masks = batch()
    assert th.equal(logits_of(hybrid, obs, masks), logits_of(stock, obs, masks))
    hybrid.set_llm_weight(0.5)
    heard = obs[:, OPINION].any(dim=1)
    changed = (logits_of(hybrid, obs, masks) != logits_of(stock, obs, masks)).any(dim=1)
    several = th.as_tensor(masks.sum(axis=1) > 1)
    assert th.equal(changed, heard & several)
    with th.no_grad():
        assert th.equal(hybrid.predict_values(obs), stock.predict_values(obs))


@pytest.mark.parametrize("use_opinion_features", [True, False])
def test_rollout_update_and_prediction_share_one_distribution(use_opinion_features: bool) -> None:
    assert_three_agree(make_policy(llm_weight=0.7, use_opinion_features=use_opinion_features))


def test_they_do_so_with_a_features_extractor_for_each_network() -> None:
    assert_three_agree(make_policy(llm_weight=0.7, use_opinion_features=False, share_features_extractor=False))


@pytest.mark.parametrize("left_out", OVERRIDDEN)
def test_a_policy_that_overrides_fewer_methods_is_found_out(left_out: str) -> None:
    with pytest.raises(AssertionError):
        assert_three_agree(make_policy(overriding_fewer(left_out), llm_weight=0.7))


def test_the_ratio_of_the_first_update_is_one() -> None:
    assert largest_first_ratio_error(HybridPolicy) < 1e-6


@pytest.mark.parametrize("left_out", ["forward", "evaluate_actions"])
def test_the_ratio_of_a_policy_that_overrides_fewer_methods_is_not(left_out: str) -> None:
    assert largest_first_ratio_error(overriding_fewer(left_out)) > 0.01


def test_without_opinion_features_the_networks_do_not_see_the_opinion_but_the_pool_does() -> None:
    policy = make_policy(use_opinion_features=False)
    assert isinstance(policy.features_extractor, FlattenWithoutOpinion)
    obs, masks = batch()
    silent = obs.clone()
    silent[:, OPINION] = 0.0
    before = obs.clone()
    assert th.equal(logits_of(policy, obs, masks), logits_of(policy, silent, masks))
    with th.no_grad():
        assert th.equal(policy.predict_values(obs), policy.predict_values(silent))
    policy.set_llm_weight(0.5)
    assert not th.equal(logits_of(policy, obs, masks), logits_of(policy, silent, masks))
    assert th.equal(obs, before), "the stored observation is left alone"


def test_with_opinion_features_the_networks_see_the_opinion() -> None:
    policy = make_policy()
    obs, masks = batch()
    silent = obs.clone()
    silent[:, OPINION] = 0.0
    assert not th.equal(logits_of(policy, obs, masks), logits_of(policy, silent, masks))


def test_with_both_switches_off_training_is_stock_training_to_the_bit() -> None:
    """The control arm: fine-tuning with weight 0 and no opinion features is continued base training."""
    base = make_model(MaskableActorCriticPolicy, live=False)
    base.learn(96)
    stock = make_model(MaskableActorCriticPolicy, live=False, seed=9)
    transfer_weights(base.policy, stock.policy)
    hybrid = make_model(HybridPolicy, live=True, seed=9, llm_weight=0.0, use_opinion_features=False)
    transfer_weights(base.policy, hybrid.policy)
    for model in (stock, hybrid):
        # Two models that were built one after the other: give both the same draws.
        model.set_random_seed(11)
        model.learn(3 * 96)
    trained = dict(hybrid.policy.named_parameters())
    start = dict(base.policy.named_parameters())
    for name, value in stock.policy.named_parameters():
        assert th.equal(trained[name], value), name
        assert not th.equal(start[name], value), f"{name} was not trained"


def test_the_weight_can_rise_between_rollouts() -> None:
    class Ramp(BaseCallback):
        weights: list[float]

        def _on_rollout_start(self) -> None:
            self.weights = [*getattr(self, "weights", []), float(self.model.policy.llm_weight)]
            self.model.policy.set_llm_weight(0.1 * len(self.weights))

        def _on_step(self) -> bool:
            return True

    model = make_model(HybridPolicy)
    ramp = Ramp()
    model.learn(3 * 96, callback=ramp)
    assert ramp.weights == pytest.approx([0.0, 0.1, 0.2])
    assert float(model.policy.llm_weight) == pytest.approx(0.3)
    assert_three_agree(model.policy)


def test_transfer_keeps_the_base_policy_and_makes_it_deaf_to_the_opinion() -> None:
    base = make_model(MaskableActorCriticPolicy, live=False)
    base.learn(96)
    model = make_model(HybridPolicy, seed=8, llm_weight=0.3)
    model.learn(96)
    hybrid = model.policy
    assert hybrid.optimizer.state
    transfer_weights(base.policy, hybrid)
    assert not hybrid.optimizer.state
    assert hybrid.llm_weight == pytest.approx(0.3)
    for layer, source in zip(first_layers(hybrid), first_layers(base.policy), strict=True):
        assert not layer.weight[:, OPINION].any()
        assert source.weight[:, OPINION].any(), "the base model keeps its own"
        assert th.equal(layer.weight[:, : OPINION.start], source.weight[:, : OPINION.start])
    for name, value in base.policy.named_parameters():
        if not name.endswith("_net.0.weight"):
            assert th.equal(dict(hybrid.named_parameters())[name], value)

    hybrid.set_llm_weight(0.0)
    obs, masks = batch()
    silent, _ = batch(live=False)
    with th.no_grad():
        assert th.equal(hybrid.predict_values(obs), hybrid.predict_values(silent))
        th.testing.assert_close(hybrid.predict_values(obs), base.policy.predict_values(silent))
    th.testing.assert_close(logits_of(hybrid, obs, masks), logits_of(base.policy, silent, masks))


def test_transfer_takes_a_state_dict_copies_it_and_refuses_another_architecture() -> None:
    base, hybrid = make_policy(MaskableActorCriticPolicy), make_policy(seed=5)
    transfer_weights(base.state_dict(), hybrid)
    with th.no_grad():
        hybrid.value_net.weight.zero_()
    assert base.value_net.weight.any()
    th.manual_seed(0)
    other = HybridPolicy(hybrid.observation_space, hybrid.action_space, lambda _: 1e-3, net_arch={"pi": [8], "vf": [8]})
    with pytest.raises(RuntimeError, match="size mismatch"):
        transfer_weights(base, other)


def test_first_layers_without_hidden_layers_are_the_heads() -> None:
    policy = HybridPolicy(
        spaces.Box(-1.0, 1.0, (N_OBS,), np.float32), spaces.Discrete(N_ACTIONS), lambda _: 1e-3, net_arch=[]
    )
    assert first_layers(policy) == (policy.action_net, policy.value_net)


def test_the_pool_weight_is_saved_with_the_weights_and_never_trained() -> None:
    policy = make_policy(llm_weight=0.25)
    assert policy.state_dict()["llm_weight"] == pytest.approx(0.25)
    assert "llm_weight" not in dict(policy.named_parameters())
    other = make_policy()
    other.load_state_dict(policy.state_dict())
    assert float(other.llm_weight) == 0.25


@pytest.mark.parametrize("weight", [-0.1, math.inf, math.nan])
def test_a_weight_that_cannot_be_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="llm_weight"):
        make_policy(llm_weight=weight)


def test_other_observations_and_actions_are_refused() -> None:
    box, six = spaces.Box(-1.0, 1.0, (N_OBS,), np.float32), spaces.Discrete(N_ACTIONS)
    with pytest.raises(ValueError, match=r"shape \(261,\)"):
        HybridPolicy(spaces.Box(-1.0, 1.0, (12,), np.float32), six, lambda _: 1e-3)
    with pytest.raises(ValueError, match=r"Discrete\(6\)"):
        HybridPolicy(box, spaces.Discrete(3), lambda _: 1e-3)
