"""The fused learner's gradient is autograd's: over shapes, depths, masks, abstentions, ratios, entropy and clipping."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from src.agent.learner.engine import Engine, LossSettings, Rollout
from src.agent.learner.products import Library, aligned
from src.agent.policy import HybridPolicy, opinion_pool
from src.trading.layout import OPINION
from tests.agent.learner.models import made

widths = st.lists(st.sampled_from([1, 5, 16, 33]), min_size=1, max_size=3).map(tuple)
activations = st.sampled_from([torch.nn.Tanh, torch.nn.ReLU])
losses = st.builds(
    LossSettings,
    clip=st.sampled_from([0.1, 0.3]),
    clip_vf=st.sampled_from([-1.0, 0.3]),
    ent_coef=st.sampled_from([0.0, 0.05]),
    vf_coef=st.sampled_from([0.5, 2.0]),
    normalize=st.booleans(),
)
RATIOS = (0.3, 0.69, 0.71, 0.89, 0.91, 1.0, 1.09, 1.11, 1.29, 1.31, 2.0)
"""Both sides of the clip's edges, by more than float32's rounding."""


def random_rollout(model: Any, rng: np.random.Generator, n: int) -> Rollout:
    """Rows of which the old log-probabilities make the ratios above, with random masks and advice."""
    policy, n_actions = model.policy, int(model.action_space.n)
    obs = rng.standard_normal((n, *model.observation_space.shape)).astype(np.float32)
    if hasattr(policy, "llm_weight"):
        obs[:, -6:] = rng.dirichlet(np.full(6, 0.3), n)
        obs[rng.random(n) < 0.3, -6:] = 0.0  # abstentions
    masks = rng.random((n, n_actions)) < 0.6
    actions = rng.integers(0, n_actions, n)
    masks[np.arange(n), actions] = True
    with torch.no_grad():
        values, log_prob, _ = policy.evaluate_actions(
            torch.from_numpy(obs), torch.from_numpy(actions), torch.from_numpy(masks)
        )
    old = (log_prob.numpy() - np.log(rng.choice(RATIOS, n))).astype(np.float32)
    old_values = (values.numpy().ravel() + rng.choice([-0.4, -0.1, 0.1, 0.4], n)).astype(np.float32)
    advantages, returns = rng.standard_normal((2, n)).astype(np.float32)
    return Rollout(
        obs.reshape(n, -1), aligned(n, n_actions), masks.astype(np.float32), actions, old, old_values, advantages,
        returns,
    )  # fmt: skip


def autograds(model: Any, rollout: Rollout, rows: np.ndarray, loss: LossSettings) -> dict[str, torch.Tensor]:
    """Gradients of the library's loss, in double precision, by parameter."""
    policy = copy.deepcopy(model.policy).double()

    def column(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array[rows].astype(float))

    obs, pool = column(rollout.observations), torch.zeros(())
    if isinstance(policy, HybridPolicy):
        pool = opinion_pool(obs[:, OPINION], policy.llm_weight)
        if not policy.use_opinion_features:
            obs = obs.clone()
            obs[:, OPINION] = 0.0
    latent_pi, latent_vf = policy.mlp_extractor(obs)
    legal = torch.from_numpy(rollout.masks[rows] > 0)
    log_p = torch.log_softmax(torch.where(legal, policy.action_net(latent_pi) + pool, -1e8), dim=1)
    log_prob = log_p.gather(1, torch.from_numpy(rollout.actions[rows])[:, None])[:, 0]
    entropy = -torch.where(legal, log_p * log_p.exp(), 0.0).sum(1)
    values, before = policy.value_net(latent_vf).flatten(), column(rollout.values)
    advantages = column(rollout.advantages)
    if loss.normalize:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    ratio = torch.exp(log_prob - column(rollout.log_probs))
    clipped = advantages * torch.clamp(ratio, 1 - loss.clip, 1 + loss.clip)
    seen = values if loss.clip_vf < 0 else before + torch.clamp(values - before, -loss.clip_vf, loss.clip_vf)
    whole = (
        -torch.min(advantages * ratio, clipped).mean()
        - loss.ent_coef * entropy.mean()
        + loss.vf_coef * functional.mse_loss(column(rollout.returns), seen)
    )
    whole.backward()
    return {name: parameter.grad for name, parameter in policy.named_parameters() if parameter.grad is not None}


def fused_gradients(engine: Engine, policy: Any) -> dict[str, np.ndarray]:
    """The engine's flat gradient by parameter: where its weights lie, lies its gradient."""
    flat = engine.weights
    names = {parameter.data_ptr(): name for name, parameter in policy.named_parameters()}
    found = {}
    towers = zip(flat.widths, flat.hidden, flat.last, strict=True)
    first, begin = flat.first, 0
    whole = first.weight_gradient.T if first.turned else first.weight_gradient
    for width, hidden, last in towers:
        part = slice(begin, begin + width)
        found[names[first.weight[part].ctypes.data]] = whole[part]
        found[names[first.bias[part].ctypes.data]] = first.bias_gradient[part]
        begin += width
        for layer in (*hidden, last):
            found[names[layer.weight.ctypes.data]] = layer.weight_gradient
            found[names[layer.bias.ctypes.data]] = layer.bias_gradient
    return found


@settings(max_examples=20)
@given(
    pi=widths, vf=widths, activation=activations, loss=losses, n_obs=st.sampled_from([1, 9, 16, 40]),
    n_actions=st.integers(1, 7), n=st.integers(2, 300), part=st.sampled_from([None, 16, 100]),
    hybrid=st.sampled_from([None, None, {"llm_weight": 1.5}, {"llm_weight": 1.5, "use_opinion_features": False}]),
    library=st.sampled_from(["torch", "numpy"]), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_the_gradient_is_autograds(
    pi: tuple[int, ...], vf: tuple[int, ...], activation: type, loss: LossSettings, n_obs: int, n_actions: int, n: int,
    part: int | None, hybrid: dict[str, Any] | None, library: Library, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    model = made(n_obs=n_obs, n_actions=n_actions, pi=pi, vf=vf, activation=activation, hybrid=hybrid)
    with torch.no_grad():
        for parameter in model.policy.parameters():  # the last layers begin near zero, and biases at it
            parameter += 0.1 * torch.from_numpy(rng.standard_normal(parameter.shape)).float()
    engine = Engine(model.policy, library)
    rollout = random_rollout(model, rng, n + 5)
    rollout.terms.fill(-0.0)
    engine._fill_terms(rollout.observations, rollout.terms)
    rows = rng.permutation(n + 5)[:n]
    engine.gradient(rollout, rows, part, loss)
    expected = autograds(model, rollout, rows, loss)
    found = fused_gradients(engine, model.policy)
    assert found.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, rtol=0, atol=1e-5 * max(1.0, largest), err_msg=name)
