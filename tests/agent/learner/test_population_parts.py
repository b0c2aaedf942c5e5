"""The parts of a population, against autograd, Adam as published, and the global generators."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.agent.learner.coverage import ACTIVATIONS
from src.agent.learner.engine import LossSettings, Rollout
from src.agent.learner.population_loss import LossRows, MemberSettings, clipped_step, loss_gradient, pool_terms
from src.agent.learner.population_memory import DeviceMemory
from src.agent.learner.population_network import Products, StackedWeights, StackedWorkspace
from src.agent.learner.streams import MemberStreams, RolloutShape
from src.agent.ppo import generator_states, global_generators_kept, set_generator_states
from src.trading.layout import OPINION
from tests.agent.learner.models import made
from tests.agent.learner.populations import same_generators
from tests.agent.learner.test_gradients import activations, autograds, losses, random_rollout, widths

CPU = torch.device("cpu")


def stacked(rollouts: list[Rollout], terms: torch.Tensor) -> LossRows:
    def column(name: str) -> torch.Tensor:
        return torch.stack([torch.from_numpy(getattr(rollout, name)) for rollout in rollouts])

    numbers = (column(name) for name in ("log_probs", "values", "advantages", "returns"))
    return LossRows(column("actions"), column("masks") > 0, terms, *numbers)


def member_settings(memory: DeviceMemory, all_losses: list[LossSettings]) -> MemberSettings:
    made_settings = MemberSettings.make(len(all_losses), memory)
    for index, loss in enumerate(all_losses):
        for name in ("clip", "ent_coef", "vf_coef"):
            getattr(made_settings, name)[index] = getattr(loss, name)
        made_settings.clip_vf[index] = loss.clip_vf if loss.clip_vf >= 0.0 else float("inf")
    return made_settings


@settings(max_examples=20, deadline=None)
@given(
    pi=widths, vf=widths, activation=activations, members=st.lists(losses, min_size=1, max_size=3),
    n_obs=st.sampled_from([1, 9, 40]), n_actions=st.integers(1, 7), n=st.integers(2, 200),
    hybrid=st.sampled_from([None, {"llm_weight": 1.5}, {"llm_weight": 1.5, "use_opinion_features": False}]),
    normalize=st.booleans(), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_every_members_gradient_is_autograds(
    pi: tuple[int, ...], vf: tuple[int, ...], activation: type, members: list[LossSettings], n_obs: int,
    n_actions: int, n: int, hybrid: dict[str, Any] | None, normalize: bool, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    models = [
        made(n_obs=n_obs, n_actions=n_actions, pi=pi, vf=vf, activation=activation, hybrid=hybrid) for _ in members
    ]
    for model in models:
        with torch.no_grad():
            for parameter in model.policy.parameters():
                parameter += 0.1 * torch.from_numpy(rng.standard_normal(parameter.shape)).float()
    all_losses = [LossSettings(loss.clip, loss.clip_vf, loss.ent_coef, loss.vf_coef, normalize) for loss in members]
    rollouts = [random_rollout(model, rng, n) for model in models]
    memory = DeviceMemory(CPU)
    weights = StackedWeights([model.policy for model in models], memory)
    assert weights.pull() == [0] * len(models)
    work = StackedWorkspace(weights, ACTIVATIONS[activation], n, memory, Products("float32", CPU), trains=True)
    observations = torch.stack([torch.from_numpy(rollout.observations) for rollout in rollouts])
    terms = torch.full((len(models), n, int(models[0].action_space.n)), -0.0)
    if hybrid is not None:
        terms = pool_terms(observations[..., OPINION], torch.full((len(models),), hybrid["llm_weight"]))
    work.x.copy_(observations)
    if hybrid is not None and not hybrid.get("use_opinion_features", True):
        work.x[..., OPINION] = 0.0
    work.forward()
    d_logits, d_values, _ = loss_gradient(
        work.logits, work.values, stacked(rollouts, terms), member_settings(memory, all_losses), normalize=normalize
    )
    work.d_logits.copy_(d_logits)
    work.d_values.copy_(d_values)
    work.backward()
    for member, (model, rollout, loss) in enumerate(zip(models, rollouts, all_losses, strict=True)):
        expected = autograds(model, rollout, np.arange(n), loss)
        largest = max(float(gradient.abs().max()) for gradient in expected.values())
        places = {name: (shape, place) for name, shape, place in weights.places}
        assert places.keys() == expected.keys()
        for name, gradient in expected.items():
            shape, place = places[name]
            found = weights.gradient[member, place : place + shape.numel()].view(shape)
            np.testing.assert_allclose(found, gradient, rtol=0, atol=1e-5 * max(1.0, largest), err_msg=name)


def test_the_step_is_adams_for_those_that_are_active_and_nothing_for_the_others() -> None:
    """Kingma and Ba, Adam, 2015, algorithm 1, in float64."""
    models, memory = [made() for _ in range(3)], DeviceMemory(CPU)
    weights = StackedWeights([model.policy for model in models], memory)
    weights.pull()
    before = [table.clone() for table in (weights.values, weights.first_moment, weights.second_moment)]
    of_member, limits, rates = MemberSettings.make(3, memory), (0.5, 1e9, 0.5), (3e-3, 1e-2, 3e-3)
    of_member.learning_rate.copy_(torch.tensor(rates))
    of_member.max_grad_norm.copy_(torch.tensor(limits))
    steps, rng = torch.zeros(3, dtype=torch.int64), np.random.default_rng(0)
    expected, first, second = before[0].double().numpy().copy(), 0.0, 0.0
    for t in range(1, 5):
        gradient = rng.standard_normal(weights.gradient.shape)
        norms = np.linalg.norm(gradient, axis=1, keepdims=True)
        clipped = gradient * np.minimum(1.0, np.array(limits)[:, None] / norms)
        first, second = 0.9 * first + 0.1 * clipped, 0.999 * second + 0.001 * clipped**2
        corrected = (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-5)
        expected -= np.array(rates)[:, None] * corrected
        weights.gradient.copy_(torch.from_numpy(gradient))
        weights.gradient[2] = float("nan")
        active = torch.tensor([True, True, False])
        steps += active
        clipped_step(weights, of_member, steps, active, (0.9, 0.999), 1e-5)
    np.testing.assert_allclose(weights.values[:2], expected[:2], rtol=0, atol=5e-7)
    after = (weights.values, weights.first_moment, weights.second_moment)
    assert all(torch.equal(old[2], new[2]) for old, new in zip(before, after, strict=True))


@settings(max_examples=15, deadline=None)
@given(
    shape=st.builds(
        RolloutShape, st.integers(1, 5), st.integers(1, 40), st.integers(1, 7), st.integers(1, 4)
    ),
    seeds=st.lists(st.integers(0, 2**31), min_size=1, max_size=3), ahead=st.booleans(),
    begun=st.lists(st.integers(1, 4), min_size=6, max_size=6),
)  # fmt: skip
def test_members_draw_what_the_library_draws_from_the_global_generators(
    shape: RolloutShape, seeds: list[int], ahead: bool, begun: list[int]
) -> None:
    given_states = []
    with global_generators_kept():
        for seed in seeds:
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            given_states.append(generator_states())
        streams = MemberStreams(given_states, shape, ahead=ahead)
        states = list(given_states)
        for update in range(2):
            noise = streams.noise().clone()
            streams.draw_ahead("orders")
            orders = streams.orders().numpy().copy()
            streams.draw_ahead("noise")
            epochs = [min(begun[3 * update + member], shape.epochs) for member in range(len(seeds))]
            streams.epochs_begun(epochs)
            for member in range(len(seeds)):
                set_generator_states(states[member])
                for step in range(shape.steps):
                    assert torch.equal(torch.empty(shape.envs, shape.actions).exponential_(), noise[step, member])
                # Row k of the library's flattened rollout is step k % steps of account k // steps.
                table = np.arange(shape.rows).reshape(shape.steps, shape.envs).T.ravel() + member * shape.rows
                for epoch in range(epochs[member]):
                    expected = table[np.random.permutation(shape.rows)]  # noqa: NPY002
                    assert np.array_equal(orders[epoch, member], expected)
                states[member] = generator_states()
                assert same_generators(streams.states(member), states[member])
        streams.close()
