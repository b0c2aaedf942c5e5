"""Every compiled kernel of the fused learner beside a slow oracle that shares no code with it: numpy's or torch's own
functions in double precision, autograd, torch's Adam."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.distributions import Categorical

from src.agent.learner import kernels
from src.agent.policy import LOG_P_MIN, opinion_pool

F = np.float32
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=30)
ACTIVATIONS = {
    "tanh": (kernels.add_bias_tanh, kernels.tanh_backward, torch.tanh),
    "relu": (kernels.add_bias_relu, kernels.relu_backward, torch.relu),
}


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> NDArray[np.float32]:
    return (scale * rng.standard_normal(shape)).astype(F)


@pytest.mark.parametrize("name", ACTIVATIONS)
@few
@given(rows=st.integers(1, 40), units=st.integers(1, 40), scale=st.sampled_from([0.01, 1.0, 10.0]), seed=seeds)
def test_an_activation_and_its_backward_are_torchs(name: str, rows: int, units: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    forward, backward, expected = ACTIVATIONS[name]
    sums, bias = normal(rng, rows, units, scale=scale), normal(rng, units, scale=scale)
    d, begun = normal(rng, rows, units), normal(rng, units)
    x = torch.tensor(sums.astype(float) + bias, requires_grad=True)
    y = expected(x)
    y.backward(torch.tensor(d.astype(float)))
    h, by_sums, by_bias = sums.copy(), d.copy(), begun.copy()
    forward(h, bias)
    backward(h, by_sums, by_bias)
    np.testing.assert_allclose(h, y.detach(), atol=5e-7, rtol=2e-6)
    assert x.grad is not None
    np.testing.assert_allclose(by_sums, x.grad, atol=4e-6 * np.abs(d).max())
    np.testing.assert_allclose(by_bias, begun + x.grad.sum(0).numpy(), atol=1e-4)


def test_tanh_is_within_four_in_ten_million_of_tanh_and_one_at_the_ends() -> None:
    x = np.linspace(-12.0, 12.0, 100_001, dtype=F)[None].copy()
    y = x.copy()
    kernels.add_bias_tanh(y, np.zeros(y.shape[1], F))
    assert np.abs(y - np.tanh(x.astype(float))).max() < 4e-7
    assert np.abs(y).max() <= 1.0 + 2e-7


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_passes_through_an_activation(name: str) -> None:
    h = np.full((2, 9), np.nan, F)
    ACTIVATIONS[name][0](h, np.zeros(9, F))
    assert np.isnan(h).all()


@few
@given(rows=st.integers(1, 40), units=st.integers(1, 40), seed=seeds)
def test_a_single_output_and_its_backward_are_the_products(rows: int, units: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    h, weight, d = normal(rng, rows, units), normal(rng, 1, units), normal(rng, rows, 1)
    out, d_below, gradient = np.empty((rows, 1), F), np.empty((rows, units), F), np.ones((1, units), F)
    kernels.single_output(h, weight, out)
    kernels.single_backward(h, d, weight, d_below, gradient)
    np.testing.assert_allclose(out, h.astype(float) @ weight.T.astype(float), atol=1e-5)
    np.testing.assert_allclose(d_below, d.astype(float) @ weight, atol=1e-6)
    np.testing.assert_allclose(gradient, 1.0 + d.T.astype(float) @ h, atol=2e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_gathered_rows_are_those_named_with_the_blank_columns_zero(dtype: type) -> None:
    rng = np.random.default_rng(0)
    source, rows = (100 * rng.standard_normal((50, 13))).astype(dtype), rng.integers(0, 50, 20)
    for begin, end in ((0, 0), (4, 10)):
        x = np.full((20, 13), np.nan, F)
        kernels.gather(source, rows, begin, end, x)
        expected = source[rows].astype(F)
        expected[:, begin:end] = 0.0
        np.testing.assert_array_equal(x, expected)


@few
@given(rows=st.integers(1, 20), weight=st.sampled_from([0.0, 0.5, 3.0]), seed=seeds)
def test_the_pools_terms_are_the_policys(rows: int, weight: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    opinion = rng.dirichlet(np.full(6, 0.2), rows).astype(F)
    opinion[rng.random((rows, 6)) < 0.3] = 0.0  # illegal; where all six are, an abstention
    observations = np.concatenate([normal(rng, rows, 7), opinion, normal(rng, rows, 2)], axis=1)
    terms = np.full((rows, 6), np.nan, F)
    kernels.pool_terms(observations, 7, F(weight), LOG_P_MIN, terms)
    expected = opinion_pool(torch.from_numpy(opinion), torch.tensor(weight)).numpy()
    np.testing.assert_allclose(terms, expected, atol=3e-6)
    np.testing.assert_array_equal(np.signbit(terms[expected == 0.0]), np.signbit(expected[expected == 0.0]))


def masks_of(rng: np.random.Generator, rows: int, n_actions: int, *, abstains: float = 0.05) -> NDArray[np.bool_]:
    """Random masks; in some rows nothing is legal."""
    masks = rng.random((rows, n_actions)) < 0.6
    masks[np.arange(rows), rng.integers(0, n_actions, rows)] = True
    masks[rng.random(rows) < abstains] = False
    return masks


@pytest.mark.parametrize(("rows", "n_actions"), [(1, 1), (7, 2), (300, 6), (129, 11)])
def test_actions_are_torchs_from_the_same_random_numbers(rows: int, n_actions: int) -> None:
    rng = np.random.default_rng(rows)
    logits, bias, terms = normal(rng, rows, n_actions, scale=2.0), normal(rng, n_actions), normal(rng, rows, n_actions)
    masks = masks_of(rng, rows, n_actions)
    masked = torch.where(torch.from_numpy(masks), torch.from_numpy(logits + bias + terms), torch.tensor(-1e8))
    torch.manual_seed(3)
    expected = Categorical(logits=masked)
    drawn = expected.sample()
    after = torch.get_rng_state()
    torch.manual_seed(3)
    noise = torch.empty(rows, n_actions).exponential_().numpy()
    assert torch.equal(torch.get_rng_state(), after)
    actions, log_probs = np.empty(rows, np.int64), np.empty(rows, F)
    assert kernels.sample(logits, bias, terms, masks, noise, np.arange(rows), actions, log_probs)
    np.testing.assert_array_equal(actions, drawn)
    precisely = Categorical(logits=masked.double())  # in float32 -1e8 - log 6 is -1e8
    np.testing.assert_allclose(log_probs, precisely.log_prob(drawn), atol=2e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_action_is_drawn_from_a_logit_that_is_not_finite(value: float) -> None:
    logits = np.zeros((3, 4), F)
    logits[1, 2] = value
    legal, noise = np.ones((3, 4), np.bool_), np.ones((3, 4), F)
    bias, terms = np.zeros(4, F), np.zeros((3, 4), F)
    drawn = np.empty(3, np.int64), np.empty(3, F)
    assert not kernels.sample(logits, bias, terms, legal, noise, np.arange(3), *drawn)


@few
@given(n=st.integers(2, 400), scale=st.sampled_from([1e-3, 1.0, 50.0]), seed=seeds)
def test_moments_are_those_of_a_sample(n: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, rows = normal(rng, 500, scale=scale) + F(scale), rng.permutation(500)[:n]
    mean, deviation = kernels.moments(values, rows)
    assert mean == pytest.approx(values[rows].astype(float).mean(), rel=1e-9)
    assert deviation == pytest.approx(values[rows].astype(float).std(ddof=1), rel=1e-9)


RATIOS = (0.5, 0.8 - 1e-7, 0.8 + 1e-7, 1.0, 1.2 - 1e-7, 1.2 + 1e-7, 3.0)


@few
@given(rows=st.integers(1, 300), n_actions=st.integers(1, 8), ent_coef=st.sampled_from([0.0, 0.01, 2.0]), seed=seeds)
def test_the_policys_gradient_is_autograds_on_both_sides_of_the_clips_edges(
    rows: int, n_actions: int, ent_coef: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    n, clip = rows + 3, 0.2
    logits, bias, terms = normal(rng, rows, n_actions, scale=2.0), normal(rng, n_actions), normal(rng, n, n_actions)
    masks = masks_of(rng, n, n_actions)
    order = rng.permutation(n)[:rows]
    actions = np.where(masks.any(1), masks.argmax(1), 0)
    advantages = normal(rng, n)
    mean, deviation = 0.1, 0.7
    z = torch.tensor(logits.astype(float) + bias, requires_grad=True)
    legal = torch.from_numpy(masks[order])
    whole = torch.where(legal, z + torch.from_numpy(terms[order]).double(), torch.tensor(-1e8, dtype=torch.float64))
    log_p = torch.log_softmax(whole, dim=1)
    taken = log_p[torch.arange(rows), torch.from_numpy(actions[order])]
    old = np.zeros(n)
    old[order] = taken.detach().numpy() - np.log(rng.choice(RATIOS, rows))
    ratio = torch.exp(taken - torch.from_numpy(old[order]))
    advantage = (torch.from_numpy(advantages[order]).double() - mean) / deviation
    surrogate = torch.min(advantage * ratio, advantage * ratio.clamp(1.0 - clip, 1.0 + clip))
    entropy = -torch.where(legal, log_p * log_p.exp(), 0.0).sum(1)
    ((-surrogate - ent_coef * entropy).sum() / n).backward()
    d, d_bias, sums = np.empty((rows, n_actions), F), np.ones(n_actions, F), np.zeros(kernels.N_SUMS)
    kernels.policy_gradient(
        logits, bias, terms, masks.astype(F), actions, old, advantages, order, mean, deviation, n, clip, ent_coef,
        d, d_bias, sums,
    )  # fmt: skip
    assert z.grad is not None
    np.testing.assert_allclose(d, z.grad, atol=3e-6 / n)
    np.testing.assert_allclose(d_bias, 1.0 + z.grad.sum(0).numpy(), atol=3e-6)
    expected = [-surrogate.sum(), 0.0, entropy.sum(), ((ratio - 1).abs() > clip).sum(), (ratio - 1 - ratio.log()).sum()]
    np.testing.assert_allclose(
        sums, [float(torch.as_tensor(value).detach()) for value in expected], rtol=1e-5, atol=1e-5
    )


@few
@given(rows=st.integers(1, 300), clip=st.sampled_from([-1.0, 0.0, 0.2, 5.0]), seed=seeds)
def test_the_values_gradient_is_autograds(rows: int, clip: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, vf_coef = rows + 2, 0.7
    values, bias, returns, old = normal(rng, rows, 1), normal(rng, 1), normal(rng, n), normal(rng, n)
    order = rng.permutation(n)[:rows]
    v = torch.tensor((values + bias)[:, 0].astype(float), requires_grad=True)
    before = torch.from_numpy(old[order]).double()
    seen = v if clip < 0 else before + torch.clamp(v - before, -clip, clip)
    errors = (seen - torch.from_numpy(returns[order]).double()) ** 2
    (vf_coef * errors.sum() / n).backward()
    d, d_bias, sums = np.empty((rows, 1), F), np.ones(1, F), np.zeros(kernels.N_SUMS)
    kernels.value_gradient(values, bias, returns, old, order, n, clip, vf_coef, d, d_bias, sums)
    assert v.grad is not None
    np.testing.assert_allclose(d[:, 0], v.grad, atol=1e-6)
    assert d_bias[0] == pytest.approx(1.0 + float(v.grad.sum()), abs=1e-5)
    assert sums[kernels.VALUE_LOSS] == pytest.approx(float(errors.detach().sum()), rel=1e-5)


@pytest.mark.parametrize("size", [1, 4096, 4097, 20_000])
def test_the_norm_is_the_euclidean_one(size: int) -> None:
    gradient = normal(np.random.default_rng(size), size)
    assert kernels.norm(gradient) == pytest.approx(np.linalg.norm(gradient.astype(float)), rel=1e-6)


@pytest.mark.parametrize("turned", [False, True])
@few
@given(outputs=st.integers(1, 70), inputs=st.integers(1, 70), seed=seeds)
def test_adam_is_torchs_over_five_steps(turned: bool, outputs: int, inputs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rate, betas, eps, scale = 1e-3, (0.9, 0.999), 1e-5, 0.3
    weights = normal(rng, outputs * inputs)
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    parameter = torch.nn.Parameter(torch.from_numpy(weights.copy()))
    expected = torch.optim.Adam([parameter], lr=rate, betas=betas, eps=eps, fused=True)
    for step in range(1, 6):
        gradient = normal(rng, outputs, inputs, scale=10.0 ** rng.integers(-6, 2))
        parameter.grad = torch.from_numpy(gradient.ravel() * F(scale))
        expected.step()
        corrections = 1.0 - betas[0] ** step, 1.0 - betas[1] ** step
        given_settings = (scale, rate / corrections[0], *betas, eps, corrections[1] ** -0.5)
        if turned:
            kernels.adam_turned(weights, np.ascontiguousarray(gradient.T), first, second, *given_settings)
        else:
            kernels.adam(weights, gradient.ravel(), first, second, *given_settings)
    state = expected.state[parameter]
    np.testing.assert_allclose(weights, parameter.detach(), rtol=2e-6, atol=2e-7)
    np.testing.assert_allclose(first, state["exp_avg"], rtol=1e-5, atol=1e-6 * np.abs(first).max())
    np.testing.assert_allclose(second, state["exp_avg_sq"], rtol=1e-5, atol=1e-6 * np.abs(second).max())
