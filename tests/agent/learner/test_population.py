"""A population trains every member as the fused learner trains it alone: the same random numbers, actions, figures and
checkpoints, and but for rounding the same weights."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from torch.utils._python_dispatch import TorchDispatchMode

from src.agent.learner import population_graphs
from src.agent.learner.population import MemberDiverged, Population, make_population
from src.agent.ppo import generator_states, set_generator_states
from src.agent.training_state import capture, restore
from src.errors import UserError
from tests import small_runs
from tests.agent.learner.models import distance, weights_of
from tests.agent.learner.populations import (
    COLUMNS,
    Member,
    Setting,
    build,
    same_generators,
    train_alone,
    train_together,
)

TOLERANCE = 2e-6
"""Of weights of about 1 after twelve steps of Adam or more: the same as between the fused learner and the library."""

ARMS = ("rl_only", "hybrid", "placebo", "blind", "hybrid-2", "rl_only-2", "placebo-2", "hybrid")
CASES: dict[str, tuple[tuple[str, ...], Setting]] = {
    "one": (("base",), Setting()),
    "three": (("base", "base-2", "base"), Setting()),
    "eight": (ARMS, Setting()),
    "early stops": (ARMS[:3], Setting({"finetune_target_kl": 3e-6, "n_epochs": 4})),
    "episodes cut short": (("base", "base"), Setting(params={"max_episode_steps": 7})),
    "relu, three layers and one": (("base", "base"), Setting(layers=((20, 16, 8), (5,)), activation="relu")),
    "entropy bonus, values clipped": (
        ("base", "base"),
        Setting({"ent_coef": 0.05}, changed={"clip_range_vf": lambda left: 0.01}),
    ),
    "schedules": (
        ("base", "base"),
        Setting(changed={"lr_schedule": lambda left: 3e-3 * left, "clip_range": lambda left: 0.1 + 0.1 * left}),
    ),
    "a rest of a minibatch": (("base", "base"), Setting(changed={"batch_size": 50})),
    "one minibatch, no normalization": (
        ("base",),
        Setting({"max_grad_norm": 0.05}, changed={"batch_size": None, "normalize_advantage": False}),
    ),
}


def built(kinds: tuple[str, ...], setting: Setting) -> list[Member]:
    return [build(kind, seed, setting) for seed, kind in enumerate(kinds)]


@pytest.mark.parametrize("case", CASES)
def test_every_member_learns_what_it_learns_alone(case: str) -> None:
    kinds, setting = CASES[case]
    alone, together = built(kinds, setting), built(kinds, setting)
    generators = [train_alone(member, setting) for member in alone]
    begun = [weights_of(member.model) for member in built(kinds, setting)]
    found = train_together(together, setting)
    for index, (one, other) in enumerate(zip(alone, together, strict=True)):
        assert same_generators(found[index], generators[index])
        for name in COLUMNS:
            expected, got = ([np.array(r[name]) for r in member.rollouts] for member in (one, other))
            np.testing.assert_allclose(np.ravel(got), np.ravel(expected), atol=2e-4, err_msg=name)
        actions = [[r["actions"].tolist() for r in member.rollouts] for member in (one, other)]
        assert actions[0] == actions[1]
        assert distance(weights_of(one.model), begun[index]) > 1e-4
        assert distance(weights_of(one.model), weights_of(other.model)) < TOLERANCE
        assert _facts(other) == _facts(one)
        assert [callback.n_calls for callback in other.callbacks] == [callback.n_calls for callback in one.callbacks]
        log, expected_log = (member.model.logger.name_to_value for member in (other, one))
        assert list(log) == list(expected_log)
        for name, value in expected_log.items():
            assert log[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
        for records in zip(other.sink.records, one.sink.records, strict=True):
            assert records[0].keys() == records[1].keys()
            for name, value in records[1].items():
                same = value if isinstance(value, str | None) else pytest.approx(value, rel=1e-4, abs=1e-5)
                assert records[0][name] == same, name
    if case == "early stops":
        updates = [member.model._n_updates for member in alone]
        assert len(set(updates)) > 1
        assert max(updates) < 12
    if case == "episodes cut short":
        assert len(alone[0].model.ep_info_buffer) > 20


def _facts(member: Member) -> dict[str, Any]:
    """What is equal to the bit."""
    model, logging = member.model, member.callbacks[0]
    env = model.env.unwrapped
    return {
        "counters": [model.num_timesteps, model._total_timesteps, model._n_updates, model._current_progress_remaining],
        "accounts": env.get_state()["accounts"].tobytes(),
        "seen": model._last_obs.tobytes(),
        "starts": model._last_episode_starts.tolist(),
        "episodes": list(model.ep_info_buffer),
        "adam": sorted({int(kept["step"]) for kept in model.policy.optimizer.state.values()}),
        "rate": model.policy.optimizer.param_groups[0]["lr"],
        "weight": float(getattr(model.policy, "llm_weight", -1.0)),
        "totals": [logging.total_reward, logging.total_steps, logging.total_episodes, logging.writes],
        "timesteps heard of": logging.num_timesteps,
        "callbacks": [callback.get_state() for callback in member.callbacks],
    }


# ---------------------------------------------------------------- checkpoints


MIXED = ("rl_only", "hybrid", "blind-2")


def test_a_group_resumes_from_its_members_checkpoints_to_the_bit() -> None:
    setting = Setting({"finetune_target_kl": 3e-6, "n_epochs": 3}, params={"max_episode_steps": 9})
    whole, snapshots = built(MIXED, setting), []

    def checkpoint(population: Population) -> None:
        if population.models[0].num_timesteps == setting.plan.actual // 3:
            population.put_back()
            for index, member in enumerate(whole):
                set_generator_states(population.generator_states(index))
                snapshots.append(capture(member.model, member.callbacks))

    expected = train_together(whole, setting, checkpoint)
    resumed = built(MIXED, setting)
    for member, snapshot in zip(resumed, snapshots, strict=True):
        assert restore(member.model, member.callbacks, snapshot) == []
        member.generators = generator_states()
    found = train_together(resumed, setting, resumed=True)
    for index, (one, other) in enumerate(zip(whole, resumed, strict=True)):
        assert same_generators(found[index], expected[index])
        assert _facts(other) == _facts(one)
        assert small_runs.same_bits(weights_of(other.model), weights_of(one.model))
        for parameter, kept in one.model.policy.optimizer.state.items():
            name = next(n for n, p in one.model.policy.named_parameters() if p is parameter)
            again = other.model.policy.optimizer.state[dict(other.model.policy.named_parameters())[name]]
            assert all(torch.equal(kept[key], again[key]) for key in kept), name
        assert other.model.logger.name_to_value == one.model.logger.name_to_value


def test_the_fused_learner_continues_what_a_population_began() -> None:
    setting, snapshots = Setting(), []
    alone, together = build("hybrid", 0, setting), build("hybrid", 0, setting)
    train_alone(alone, setting)

    def checkpoint(population: Population) -> None:
        population.put_back()
        set_generator_states(population.generator_states(0))
        snapshots.append(capture(together.model, together.callbacks))

    train_together([together], setting, checkpoint)
    again = build("hybrid", 0, setting)
    assert restore(again.model, again.callbacks, snapshots[0]) == []
    again.generators = generator_states()
    train_alone(again, setting, resumed=True)
    assert _facts(again) == _facts(alone)
    assert distance(weights_of(again.model), weights_of(alone.model)) < TOLERANCE
    for one, other in zip(again.rollouts, alone.rollouts[1:], strict=True):
        assert np.array_equal(one["actions"], other["actions"])


# ---------------------------------------------------------------- divergence, refusals, callbacks


def test_a_member_that_diverges_stops_the_group_and_is_named() -> None:
    members = built(("base", "base", "base"), Setting())

    def spoil(population: Population) -> None:
        population.models[1].vf_coef = 1e42

    with pytest.raises(MemberDiverged, match=r"Member 2 of the 3 .* diverged in update 2, at timestep 256") as caught:
        train_together(members, Setting(), spoil)
    assert caught.value.member == 1
    assert "Try a smaller training.learning_rate" in str(caught.value)


def test_a_policy_that_cannot_act_stops_the_group_and_is_named() -> None:
    members = built(("base", "base"), Setting())
    with torch.no_grad():
        members[1].model.policy.action_net.bias[1] = float("nan")
    with pytest.raises(
        MemberDiverged, match=r"Member 2 of the 2 .* diverged while acting after update 0, .*action_net\.bias"
    ):
        train_together(members, Setting())


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Setting(layers=((16,), (8,))), "its networks is"),
        (Setting(activation="relu"), "its activation is ReLU, not Tanh"),
        (Setting({"n_epochs": 3}), "its rollout is"),
        (Setting(changed={"why_stock": "Adam has weight_decay"}), "member 1 cannot train in a population: Adam has"),
    ],
)
def test_models_that_differ_in_shape_are_refused(other: Setting, said: str) -> None:
    members = [build("base", 0, Setting()), build("base", 1, other)]
    with pytest.raises(ValueError, match=said):
        train_together(members, Setting())


class Stops(BaseCallback):
    """Hears of every step, and wants to end the training in step 40."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []

    def _on_step(self) -> bool:
        self.heard.append((self.num_timesteps, self.locals["rewards"].tolist(), self.locals["dones"].tolist()))
        return len(self.heard) != 40


def test_a_callback_that_knows_only_steps_hears_of_each_and_can_end_the_training() -> None:
    alone, together = Stops(), Stops()
    one = build("base", 0, Setting(), own_callbacks=[alone])
    others = [build("base", 0, Setting(), own_callbacks=[together]), build("base", 1, Setting())]
    train_alone(one, Setting())
    train_together(others, Setting())
    assert len(alone.heard) == 40
    assert together.heard[:40] == alone.heard
    assert len(together.heard) == 64  # the rollout was over when it was told
    assert [member.model._n_updates for member in (one, *others)] == [2, 2, 2]
    assert one.sink.records[0] == others[0].sink.records[0]


# ---------------------------------------------------------------- memory, precision


def test_memory_is_predicted_by_the_tensors_that_are_held() -> None:
    members = built(MIXED, Setting(changed={"batch_size": 50}))
    models = [member.model for member in members]
    population = make_population(models, [member.generators for member in members], "cpu")
    held, found = set(), 0
    for tensor in _tensors(population._held):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            held.add(storage.data_ptr())
            found += storage.nbytes()
    assert found == population.bytes
    assert population.bytes < Population.memory_bytes(models) < 3 * population.bytes
    assert Population.memory_bytes(models[:1]) < Population.memory_bytes(models) / 2.9


def test_a_closed_population_is_gone_at_once() -> None:
    """Its memory on a device must not wait for Python's collector."""
    member = built(("rl_only",), Setting())[0]
    population = make_population([member.model], [member.generators], "cpu")
    population.collect()
    population.update()
    population.close()
    gone = weakref.ref(population)
    gc.disable()
    try:
        del population
        assert gone() is None
    finally:
        gc.enable()


def _tensors(thing: Any) -> Iterator[torch.Tensor]:
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, dict | list | tuple):
        for one in thing.values() if isinstance(thing, dict) else thing:
            yield from _tensors(one)
    elif type(thing).__module__.startswith("src.agent.learner.population"):
        for one in vars(thing).values():
            yield from _tensors(one)


def test_lower_precisions_change_gradients_by_what_their_digits_say() -> None:
    """tf32 keeps 10 bits of a fraction, bf16 7; float32's own rounding is 2**-24."""
    members = built(("base", "base"), Setting())
    models = [member.model for member in members]
    for member in members:
        member.model._setup_learn(128, None)
    population = make_population(models, [member.generators for member in members], "cpu")
    population.collect()
    assert population.gradient_differences("float32") == [0.0, 0.0]
    for precision, bits in (("tf32", 10), ("bf16", 7)):
        for difference in population.gradient_differences(precision):
            assert 2.0 ** -(bits + 6) < difference < 2.0 ** -(bits - 4), precision


# ---------------------------------------------------------------- what a CUDA graph needs


READS_THE_DEVICE = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique", "item")


class NothingReadBack(TorchDispatchMode):
    """Fails at an operation that waits for the device, or whose result has a shape that its numbers decide."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in READS_THE_DEVICE, f"{name} inside of what a CUDA graph records"
        masks = [index for index in (args[1] if name in ("index", "index_put_") else ()) if index is not None]
        assert all(index.dtype != torch.bool for index in masks), f"{name} with a mask has a shape of its own"
        return func(*args, **(kwargs or {}))


def test_rollouts_and_epochs_can_be_recorded_once_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for CUDA's graphs, which records the function and watches it: everything that changes from one rollout
    to the next must lie in memory that stays, and nothing may be read back."""
    setting = Setting({"finetune_target_kl": 3e-6, "n_epochs": 3}, params={"max_episode_steps": 9})
    recorded: list[str] = []

    class Graph:
        def __init__(self, function: Any) -> None:
            self.function = function

        def replay(self) -> None:
            with NothingReadBack():
                self.function()

    def record(function: Any, what: str) -> Graph:
        recorded.append(what)
        return Graph(function)

    monkeypatch.setattr(population_graphs, "_run_aside", lambda function: function())
    monkeypatch.setattr(population_graphs, "_recorded", record)
    plain, replayed = built(MIXED, setting), built(MIXED, setting)
    train_together(plain, setting)
    train_together(replayed, setting, graphs=True)
    assert sorted(recorded) == ["a rollout", "an epoch", "the advantages"]
    for one, other in zip(plain, replayed, strict=True):
        assert _facts(other) == _facts(one)
        assert small_runs.same_bits(weights_of(other.model), weights_of(one.model))


def test_a_recording_that_fails_says_how_to_train_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(population_graphs, "_run_aside", lambda function: function())
    streams: list[str] = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the training's")
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    epoch = population_graphs.Replayed(lambda: None, "an epoch", graphs=True)
    epoch()
    if torch.cuda.is_available():
        pytest.skip("there is CUDA here, which can record")
    with pytest.raises(UserError, match="An epoch of the population cannot be recorded as a CUDA graph"):
        epoch()
    assert streams == ["the training's"]


def test_memory_that_runs_out_while_a_graph_is_recorded_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as a graph that cannot be recorded: a smaller group may fit."""

    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the training's")
    monkeypatch.setattr(torch.cuda, "set_stream", lambda _: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", lambda _: nullcontext())
    with pytest.raises(torch.OutOfMemoryError):
        population_graphs._recorded(full, "an epoch")
