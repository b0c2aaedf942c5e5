"""The fused learner trains what the library trains: the same actions, minibatches, logs and, but for rounding, weights.

That a killed training resumes to the bit is tested in tests/agent/test_training_state.py, whose trainings are fused.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from src.agent.learner import network
from src.agent.learner.fused import FusedMaskablePPO
from src.agent.ppo import MIN_MICRO_BATCH, TimedMaskablePPO
from src.agent.settings import HardwareSettings
from src.agent.training_state import capture, restore
from src.errors import TrainingDiverged, UserError
from tests import small_runs
from tests.agent.learner.models import N_ENVS, N_STEPS, distance, made, weights_of
from tests.agent.resumable import ROLLOUT, built, facts

ROWS = N_ENVS * N_STEPS
TOLERANCE = 2e-6
"""Of weights of about 1 after the ten or so steps of Adam of one to three rollouts."""


class Seen(BaseCallback):
    """What callbacks see at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Any, ...]] = []

    def _on_step(self) -> bool:
        found = self.locals
        self.steps.append((found["actions"].tolist(), found["rewards"].tolist(), found["dones"].tolist()))
        return True


def trained(cls: type[TimedMaskablePPO], rollouts: int = 2, **how: Any) -> tuple[Any, Seen]:
    model, seen = made(cls, **how), Seen()
    model.learn(rollouts * ROWS, callback=seen, log_interval=None)
    return model, seen


CASES: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "relu, three layers and one": {"activation": nn.ReLU, "pi": (20, 16, 8), "vf": (5,)},
    "entropy bonus, clipped values": {"ent_coef": 0.05, "clip_range_vf": 0.2},
    "schedules": {"learning_rate": lambda left: 3e-3 * left, "clip_range": lambda left: 0.1 + 0.1 * left},
    "an early stop": {"target_kl": 1e-4, "n_epochs": 5},
    "advantages as they are": {"normalize_advantage": False, "max_grad_norm": 0.05},
    "a rest of a minibatch": {"batch_size": 10},
    "one minibatch": {"batch_size": None},
    "an observation of two dimensions": {"shape": (3, 4)},
    "a hybrid": {"hybrid": {"llm_weight": 1.5}},
    "a hybrid whose networks do not see the opinion": {"hybrid": {"llm_weight": 1.5, "use_opinion_features": False}},
}


@pytest.mark.parametrize("case", CASES)
def test_a_training_is_the_librarys(case: str) -> None:
    (stock, theirs), (fused, ours) = (trained(cls, **CASES[case]) for cls in (TimedMaskablePPO, FusedMaskablePPO))
    assert (fused.learner, fused.why_stock) == ("fused", None)
    assert ours.steps == theirs.steps
    begun = weights_of(made(**CASES[case]))
    assert distance(weights_of(stock), begun) > 1e-3
    assert distance(weights_of(fused), weights_of(stock)) < TOLERANCE
    assert fused._n_updates == stock._n_updates
    log, expected = fused.logger.name_to_value, stock.logger.name_to_value
    assert list(log) == list(expected)
    for name, value in expected.items():
        assert log[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    for name in ("actions", "values", "log_probs", "advantages", "rewards", "episode_starts", "action_masks"):
        found, wanted = getattr(fused.rollout_buffer, name), getattr(stock.rollout_buffer, name)
        if found.shape != wanted.shape:  # the library has flattened what it reads
            found = fused.rollout_buffer.swap_and_flatten(found)
        np.testing.assert_allclose(found, wanted, atol=1e-4, err_msg=name)


def test_one_update_of_the_default_networks_on_one_rollout_is_the_librarys() -> None:
    """40 steps of Adam with the weights of a default run: 2.4e-7 was seen."""
    hardware = HardwareSettings(vectorized_envs=32, batch_size=256)
    weights = []
    for learner in ("stock", "fused"):
        trainer = replace(small_runs.trainer(), hardware=hardware.model_copy(update={"learner": learner}))
        trainer = replace(trainer, training=trainer.training.model_copy(update={"n_epochs": 5}))
        plan = small_runs.plan_rollouts(32 * 64, 32, 256, 64)
        model, _ = trainer.base(trainer.make_env(small_runs.market()), plan, [])
        weights.append(weights_of(model))
    assert distance(*weights) < TOLERANCE


def test_a_buffer_that_somebody_has_read_trains_the_same() -> None:
    """`get` flattens it."""
    weights = []
    for read in (False, True):
        model = made()
        model._setup_learn(ROWS, None)
        model.collect_rollouts(model.env, _silent(model), model.rollout_buffer, N_STEPS)
        if read:
            state = np.random.get_state()  # noqa: NPY002
            next(model.rollout_buffer.get(4))
            np.random.set_state(state)  # noqa: NPY002
        model.train()
        weights.append(weights_of(model))
        model.collect_rollouts(model.env, _silent(model), model.rollout_buffer, N_STEPS)
        assert model.rollout_buffer.observations.shape == (N_STEPS, N_ENVS, 7)
    assert distance(*weights) == 0.0


def _silent(model: Any) -> BaseCallback:
    callback = Seen()
    callback.init_callback(model)
    return callback


@pytest.mark.parametrize("hybrid", [None, {"llm_weight": 1.5}])
def test_what_it_saves_the_stock_class_loads_and_predicts_with(tmp_path: Path, hybrid: dict[str, Any] | None) -> None:
    model, _ = trained(FusedMaskablePPO, hybrid=hybrid)
    model.save(tmp_path / "model")
    loaded = MaskablePPO.load(tmp_path / "model", device="cpu")
    assert type(loaded) is MaskablePPO
    assert not {"_engine", "products", "why_stock"} & vars(loaded).keys()
    obs = np.random.default_rng(0).standard_normal((50, *model.observation_space.shape)).astype(np.float32)
    with torch.no_grad():
        given = torch.from_numpy(obs)
        assert torch.equal(
            model.policy.get_distribution(given).distribution.logits,
            loaded.policy.get_distribution(given).distribution.logits,
        )
        assert torch.equal(model.policy.predict_values(given), loaded.policy.predict_values(given))
    loaded.set_env(model.env)
    loaded.learn(ROWS)
    assert distance(weights_of(loaded), weights_of(model)) > 1e-3


@pytest.mark.parametrize("phase", ["base", "hybrid"])
@pytest.mark.parametrize(("first", "then"), [("stock", "fused"), ("fused", "stock")])
def test_a_checkpoint_goes_either_way(phase: str, first: Any, then: Any) -> None:
    with built(phase, learner=first) as one:
        one.capture_at_every_boundary().learn()
        expected, snapshot = weights_of(one.model), one.snapshots[1]
    with built(phase, learner=then) as other:
        unlike = restore(other.model, other.callbacks, snapshot)
        assert unlike == [f"The {first} learner trained it and the {then} one continues: it rounds otherwise."]
        other.learn()
        assert other.model.num_timesteps == one.model.num_timesteps
        assert distance(weights_of(other.model), expected) < TOLERANCE
        adam = [capture(each.model, each.callbacks).tensors["optimizer"] for each in (one, other)]
    assert adam[0].keys() == adam[1].keys()
    for name, value in adam[0].items():
        torch.testing.assert_close(adam[1][name], value, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_resumed_training_keeps_the_library_that_multiplied(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with built("base") as one:
        one.model.products = library
        one.capture_at_every_boundary().learn()
        expected = facts(one)
    monkeypatch.setattr("src.agent.learner.fused.fastest", lambda: "torch" if library == "numpy" else "numpy")
    with built("base") as other:
        assert restore(other.model, other.callbacks, one.snapshots[1]) == []
        other.sink.records[:0] = [{}] * one.records_before[1]
        found = facts(other.learn(), one.records_before[1])
        assert other.model.products == library
    assert found == {**expected, "records": expected["records"][one.records_before[1] :]}


# ---------------------------------------------------------------- memory


@pytest.fixture
def short_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Memory for at most 32 rows of an update; the rows of everything that was asked for."""
    asked: list[int] = []
    init = network.Workspace.__init__

    def short(self: Any, weights: Any, activation: Any, library: Any, rows: int, *, trains: bool, **more: Any) -> None:
        asked.append(rows * trains)
        if trains and rows > 32:
            raise MemoryError(f"Unable to allocate {rows} rows")
        init(self, weights, activation, library, rows, trains=trains, **more)

    monkeypatch.setattr(network.Workspace, "__init__", short)
    return asked


@pytest.mark.parametrize("phase", ["base", "hybrid"])
def test_an_update_that_runs_out_of_memory_is_split_and_equals_the_whole_one(
    phase: str, short_memory: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with built(phase) as one:
        one.learn(1)
        assert (one.model.micro_batch, one.model.split_updates) == (32, 1)
        assert short_memory == [0, 64, 32]
        split = weights_of(one.model)
    monkeypatch.undo()
    with built(phase) as one:
        assert 0.0 < distance(weights_of(one.learn(1).model), split) < 1e-6
        assert one.model.split_updates == 0
    with built(phase) as one:  # asked for before: to the bit
        one.model.micro_batch = 32
        assert distance(weights_of(one.learn(1).model), split) == 0.0


def test_sixteen_rows_that_exceed_the_memory_are_refused_with_everything_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with built("base") as one:
        one.learn(1)
        before = weights_of(one.model)
        monkeypatch.setattr(one.model._engine, "_trains", _no_memory)
        with pytest.raises(UserError, match="even with 16 rows of a minibatch of 64"):
            one.learn(2)
        assert one.model.micro_batch == MIN_MICRO_BATCH
        assert distance(weights_of(one.model), before) == 0.0


def _no_memory(rows: int) -> None:
    raise MemoryError


def test_a_gradient_that_overflows_is_a_divergence() -> None:
    with built("base") as one:
        one.learn(1)
        one.model.vf_coef = 1e42
        with pytest.raises(TrainingDiverged, match="in update 2, at timestep 256"):
            one.learn(2)


def test_weights_that_are_not_finite_cannot_act() -> None:
    with built("base") as one:
        one.learn(1)
        with torch.no_grad():
            one.model.policy.action_net.bias[1] = float("nan")
        with pytest.raises(TrainingDiverged, match="while acting after update 1"):
            one.learn(2)


# ---------------------------------------------------------------- coverage


class OwnPolicy(made.__globals__["MaskableActorCriticPolicy"]):  # type: ignore[misc]
    """Somebody's own."""


class OwnAdam(torch.optim.Adam):
    """Somebody's own."""


UNCOVERED = {
    "the activation is ELU, not tanh or relu": {"activation": nn.ELU},
    "a network has no hidden layer": {"pi": ()},
    "the optimizer is a OwnAdam, not Adam over one group": {"policy_kwargs": {"optimizer_class": OwnAdam}},
    "Adam has weight_decay": {"policy_kwargs": {"optimizer_kwargs": {"eps": 1e-5, "weight_decay": 0.1}}},
}


@pytest.mark.parametrize("why", UNCOVERED)
def test_what_it_does_not_cover_trains_stock_to_the_bit_and_says_why(why: str) -> None:
    fused, stock = (trained(cls, 1, **UNCOVERED[why])[0] for cls in (FusedMaskablePPO, TimedMaskablePPO))
    assert (fused.learner, fused.why_stock) == ("stock", why)
    assert distance(weights_of(fused), weights_of(stock)) == 0.0


def test_a_policy_class_of_a_users_own_trains_stock() -> None:
    model = FusedMaskablePPO(OwnPolicy, made().env, n_steps=N_STEPS, batch_size=12, device="cpu")
    assert model.why_stock == "the policy is a OwnPolicy"


def test_calls_and_gradients_that_somebody_watches_are_made() -> None:
    for watch in ("evaluate_actions", "hook"):
        model, called = made(), []
        if watch == "hook":
            model.policy.value_net.weight.register_hook(lambda gradient: called.append(1))  # noqa: B023
        else:
            evaluate = model.policy.evaluate_actions
            model.policy.evaluate_actions = lambda *args, **kw: (called.append(1), evaluate(*args, **kw))[1]  # noqa: B023
        model.learn(ROWS, log_interval=None)
        assert len(called) == 4, watch


def test_the_record_names_the_learner_and_why() -> None:
    trainer = small_runs.trainer()
    for asked, used, words in (
        (None, "fused", "matrix products by "),
        ("fused", "fused", "matrix products by "),
        ("stock", "stock", "the library's own update, as hardware.learner says"),
    ):
        hardware = small_runs.HARDWARE.model_copy(update={"learner": asked})
        of_this = replace(trainer, hardware=hardware)
        _, record = of_this.base(of_this.make_env(small_runs.market()), small_runs.plan(1), [])
        assert record.learner == used
        assert record.why_learner.startswith(words)
    assert record.timesteps == ROLLOUT
