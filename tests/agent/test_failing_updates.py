"""An update that runs out of memory is undone and split; one that is not finite ends the training with a diagnosis."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnvWrapper

from src.agent import divergence, ppo
from src.agent.ppo import MIN_MICRO_BATCH, TimedMaskablePPO
from src.agent.training_state import capture, restore
from src.errors import EXIT_TARGET_MISSED, TrainingDiverged, UserError
from tests.agent.resumable import ROLLOUT, Training, built, facts

stock = partial(built, learner="stock")
"""Trained by the library's update, into whose calls these tests reach; tests/agent/learner has those of the other."""
ROOT = Path(__file__).resolve().parents[2]
MINIBATCHES = 4  # two epochs of two minibatches of 64
ALLOCATOR_WORDS = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "68719476736 bytes. Error code 12 (Cannot allocate memory)",
    "[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: not enough memory: you tried to allocate 687 bytes",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: out of memory",
)
SHORTAGES = (
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nlong advice"),
    MemoryError(),
    *map(RuntimeError, ALLOCATOR_WORDS),
)


@contextmanager
def short_of_memory(
    model: TimedMaskablePPO, at: int, rows: int = 32, error: Exception = SHORTAGES[0], part: str = "forward"
) -> Iterator[list[int]]:
    """In its `at`-th minibatch of more than `rows` rows the update fails, and in every one after it.

    `part`: where of a minibatch. Yields the rows of every evaluation.
    """
    policy, seen, minibatch = model.policy, [], [0]
    evaluate, step = policy.evaluate_actions, policy.optimizer.step

    def fails(now: str, size: int) -> None:
        if now == part and size > rows and minibatch[0] > at:
            raise error

    def evaluate_actions(obs: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(len(obs))
        minibatch[0] += len(obs) == 64
        fails("forward", len(obs))
        values, *others = evaluate(obs, *args, **kwargs)
        if values.requires_grad and len(obs) > rows:
            values.register_hook(lambda _: fails("backward", len(obs)))
        return values, *others

    def in_step(*args: Any, **kwargs: Any) -> Any:
        stepped = step(*args, **kwargs)
        fails("step", seen[-1])
        return stepped

    policy.evaluate_actions, policy.optimizer.step = evaluate_actions, in_step
    try:
        yield seen
    finally:
        del policy.evaluate_actions, policy.optimizer.step


def split_from_the_second_rollout(phase: str) -> dict[str, Any]:
    """The facts of three rollouts of which two are updated 32 rows at a time."""
    with stock(phase) as one:
        one.learn(1)
        one.model.micro_batch = 32
        return facts(one.learn(3))


@pytest.mark.parametrize("part", ["forward", "backward", "step"])
@pytest.mark.parametrize("at", range(MINIBATCHES))
def test_memory_that_runs_out_in_any_minibatch_gives_the_split_update_to_the_bit(at: int, part: str) -> None:
    expected = split_from_the_second_rollout("base")
    with stock("base") as one:
        one.learn(1)
        with short_of_memory(one.model, at, part=part) as seen:
            one.learn(3)
        found = facts(one)
        assert (one.model.micro_batch, one.model.split_updates) == (32, 2)
    assert seen[: at + 2] == [64] * (at + 1) + [32]
    assert set(seen[at + 1 :]) == {32}
    assert expected["counters"][-1] == 2
    assert found == expected


def test_a_hybrid_that_runs_out_in_its_first_update_too(caplog: pytest.LogCaptureFixture) -> None:
    """Adam holds nothing then, and must again."""
    with stock("hybrid") as one:
        one.model.micro_batch = 32
        expected = facts(one.learn(2))
    with stock("hybrid") as one, short_of_memory(one.model, 2):
        found = facts(one.learn(2))
    assert found == expected
    (said,) = [record.getMessage() for record in caplog.records]
    assert "at timestep 128: from now on a minibatch of 64 rows is evaluated 32 rows at a time" in said
    with stock("hybrid") as one:
        assert facts(one.learn(2))["weights"] != expected["weights"]


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda error: f"{type(error).__name__} {str(error)[-30:]}")
def test_every_allocator_is_understood(error: Exception) -> None:
    with stock("base") as one, short_of_memory(one.model, 1, error=error):
        one.learn(1)
        assert (one.model.micro_batch, one.model.split_updates) == (32, 1)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory"), KeyError("CUDA out")])
def test_another_error_stays_as_it_is(error: Exception) -> None:
    with stock("base") as one, short_of_memory(one.model, 1, error=error), pytest.raises(type(error)) as caught:
        one.learn(1)
    assert caught.value is error
    assert one.model.split_updates == 0


@pytest.mark.parametrize("at", range(7))
def test_memory_that_runs_out_while_the_rollout_is_flattened_leaves_its_rows_in_order(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stock("base") as one:
        one.model.micro_batch = 32
        expected = facts(one.learn(1))
    with stock("base") as one:
        buffer, calls = type(one.model.rollout_buffer), []
        flatten = buffer.swap_and_flatten

        def failing(array: np.ndarray) -> np.ndarray:
            calls.append(array.shape)
            if len(calls) == at + 1:
                raise MemoryError(f"Unable to allocate {array.nbytes} bytes")
            return flatten(array)

        monkeypatch.setattr(buffer, "swap_and_flatten", staticmethod(failing))
        one.learn(1)
    assert len(calls) == at + 1 + 7
    assert facts(one) == expected


def test_with_sixteen_rows_it_gives_up_with_the_sizes_and_everything_as_it_was() -> None:
    called: list[int] = []
    with stock("base") as one:
        one.learn(1)
        one.model.after_update = lambda: called.append(1)
        before: list[dict[str, Any]] = []
        one.callbacks.append(_AtRolloutEnd(lambda: before.append(facts(one))))
        with short_of_memory(one.model, 3, rows=8) as seen, pytest.raises(UserError) as caught:
            one.learn(2)
        after = facts(one)
    assert not isinstance(caught.value, TrainingDiverged)
    assert sorted(set(seen)) == [16, 32, 64]
    for words in (
        "timestep 256 on cpu", "16 rows of a minibatch of 64", "32 steps x 4 accounts", "8,503 weights",
        "smaller hardware.batch_size", "smaller networks", "Tried to allocate 20.00 MiB",
    ):  # fmt: skip
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not called
    counters = before[0].pop("counters"), after.pop("counters")
    assert counters[0][:-2] == counters[1][:-2]
    assert counters[1][-2:] == [MIN_MICRO_BATCH, 0]
    assert after == before[0]


@pytest.mark.parametrize("phase", ["base", "hybrid"])
@pytest.mark.parametrize("rows", [16, 24, 40, 63])
def test_a_split_update_is_the_whole_one_but_for_rounding(phase: str, rows: int) -> None:
    moved = {}
    for micro_batch in (None, rows, 64, 1000):
        with built(phase) as one:
            one.learn(1)
            before = weights_of(one)
            one.model.micro_batch = micro_batch
            after = weights_of(one.learn(2))
            moved[micro_batch] = before, after
            assert one.model.split_updates == (micro_batch == rows)
    begun, whole = moved[None]
    for name, value in whole.items():
        assert torch.equal(moved[64][1][name], value)
        assert torch.equal(moved[1000][1][name], value)
        assert torch.equal(moved[rows][0][name], begun[name])
        scale = value.abs().max().clamp(min=1e-3)
        assert (moved[rows][1][name] - value).abs().max() <= 1e-6 * scale, name
    assert max((whole[name] - begun[name]).abs().max() for name in whole) > 1e-4


def weights_of(one: Training) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in one.model.policy.named_parameters()}


@settings(max_examples=25)
@given(rows=st.integers(1, 70), minibatch=st.integers(1, 70), masked=st.booleans(), seed=st.integers(0, 9))
def test_values_and_gradients_of_parts_are_those_of_the_whole(
    rows: int, minibatch: int, masked: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    with built("hybrid") as one:
        policy = one.model.policy
        obs = torch.rand(minibatch, 261, generator=generator)
        actions = torch.randint(6, (minibatch,), generator=generator)
        masks = torch.ones(minibatch, 6) if masked else None
        results = []
        for size in (None, rows):
            policy.optimizer.zero_grad()
            with ppo._evaluated_in_parts(policy, size):
                values, log_prob, entropy = policy.evaluate_actions(obs, actions, action_masks=masks)
                ((values.flatten() ** 2).mean() + (log_prob * entropy).mean()).backward()
            gradients = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
            results.append((values, log_prob, entropy, gradients))
        assert "evaluate_actions" not in vars(policy)
    for one_part, other in zip(*results, strict=True):
        torch.testing.assert_close(one_part, other, rtol=1e-4, atol=1e-6)


REAL_SHORTAGE = """
import resource
from pathlib import Path

import torch
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

from src.agent.ppo import TimedMaskablePPO
from tests.agent.test_failing_updates import _AtRolloutEnd
from tests.trading.custom_envs import Masked

torch.set_num_threads(1)
model = TimedMaskablePPO(
    MaskableActorCriticPolicy, DummyVecEnv([Masked] * 16), n_steps=512, batch_size=8192, n_epochs=1, seed=0,
    device="cpu", policy_kwargs={"net_arch": {"pi": [2048, 64], "vf": [2048, 64]}},
)

def leave_100_mib() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 2**20,) * 2)

model.learn(8192, callback=_AtRolloutEnd(leave_100_mib), log_interval=None)
print(model.micro_batch, model.split_updates, model._n_updates)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits its own address space as Linux does")
def test_where_memory_is_really_short_the_split_update_fits() -> None:
    """Hidden layers of 2048 units need 64 MiB each for 8192 rows, and as much for their gradients."""
    command = [sys.executable, "-c", REAL_SHORTAGE]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert answer.returncode == 0, answer.stderr
    micro_batch, split, epochs = map(int, answer.stdout.split())
    assert MIN_MICRO_BATCH < micro_batch < 8192
    assert (split, epochs) == (1, 1)


def test_a_restarted_training_goes_on_split() -> None:
    with stock("base") as one:
        one.capture_at_every_boundary()
        with short_of_memory(one.model, 2):
            expected = facts(one.learn(3))
    written = one.records_before[1]
    with stock("base") as other:
        assert restore(other.model, other.callbacks, one.snapshots[1]) == []
        assert (other.model.micro_batch, other.model.split_updates) == (32, 2)
        other.sink.records[:0] = [{}] * written
        found = facts(other.learn(3), written)
    assert found == {**expected, "records": expected["records"][written:]}


# ---------------------------------------------------------------- not finite


class _AtRolloutEnd(BaseCallback):
    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self._act = act

    def _on_rollout_end(self) -> None:
        self._act()

    def _on_step(self) -> bool:
        return True


class Spoiled(VecEnvWrapper):
    """Accounts of which the second returns `value` as reward or in its observation at the `at`-th step."""

    def __init__(self, venv: Any, what: str, at: int, value: float) -> None:
        super().__init__(venv)
        self._what, self._left, self._value = what, at, value

    def reset(self) -> Any:
        obs = self.venv.reset().copy()
        if self._what == "reset":
            obs[1, 200:203] = self._value
        return obs

    def step_wait(self) -> Any:
        obs, rewards, dones, infos = self.venv.step_wait()
        self._left -= 1
        if self._left == 0:
            obs = obs.copy()
            if self._what == "rewards":
                rewards[1] = self._value
            else:
                obs[1, 200:203] = self._value
        return obs, rewards, dones, infos

    def has_attr(self, attr_name: str) -> bool:
        return self.venv.has_attr(attr_name)


def diverged(one: Training, rollouts: int = 4) -> tuple[str, list[int]]:
    """What the diagnosis says, and after which timesteps `after_update` was called."""
    text, called = refused(one, rollouts)
    assert "learning rate 0.001" in text
    return text, called


def refused(one: Training, rollouts: int = 4) -> tuple[str, list[int]]:
    called: list[int] = []
    one.model.after_update = lambda: called.append(one.model.num_timesteps)
    with pytest.raises(TrainingDiverged) as caught:
        one.learn(rollouts)
    text = str(caught.value)
    assert caught.value.exit_code == EXIT_TARGET_MISSED
    assert "\n" not in text
    return text, called


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_reward_that_is_not_finite_is_blamed_on_its_environment_and_step(value: float) -> None:
    with built("base") as one:
        one.model.env = Spoiled(one.env, "rewards", 32 + 20, value)
        text, called = refused(one)
        assert all(torch.isfinite(weight).all() for weight in one.model.policy.parameters())
    assert called == [ROLLOUT]
    assert text.startswith(f"Environment 1 of 4 returned the reward {value} in its step 52 (timestep 204).")
    assert "The environment returned" in text
    assert "weight (" not in text


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("at", [1, 32 + 20, 64])
def test_an_observation_that_is_not_finite(value: float, at: int) -> None:
    with built("base") as one:
        one.model.env = Spoiled(one.env, "observations", at, value)
        text, called = refused(one)
    assert called == [ROLLOUT] * (at > 32)
    assert text.startswith(f"Environment 1 of 4 returned an observation whose value [200] is {value} in its step {at} ")
    assert "The environment returned" in text


def test_a_first_observation_that_is_not_finite() -> None:
    with built("base") as one:
        one.model.env = Spoiled(one.env, "reset", 0, np.nan)
        text, called = diverged(one)
    assert called == []
    assert "while acting after update 0" in text
    assert "newest observations (3 of 1,044)" in text
    assert "The environment returned" in text


def test_a_weight_that_is_not_finite_when_it_acts() -> None:
    with built("base") as one:
        one.learn(1)
        with torch.no_grad():
            one.model.policy.action_net.weight[2, :5] = float("nan")
        text, called = diverged(one)
    assert called == []
    assert "while acting after update 1, at timestep 128" in text
    assert "action_net.weight (5 values)" in text
    assert "smaller training.learning_rate" in text
    assert "environment.reward_scale_usd" in text


@pytest.mark.parametrize("at", range(1, MINIBATCHES + 1))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_in_any_minibatch(at: int, value: float) -> None:
    """Clipping by a norm of NaN spreads it to every weight, an infinite one makes NaN of what is infinite; in the last
    minibatch no evaluation comes after it."""
    seen: list[int] = []

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        seen.append(1)
        return gradient * value if len(seen) == MINIBATCHES + at else gradient

    with built("hybrid") as one:
        one.model.policy.value_net.weight.register_hook(spoil)
        one.model.policy.optimizer.param_groups[0]["lr"] = 0.5
        one.model.lr_schedule = lambda _: 1e-3
        text, called = diverged(one)
    assert called == [ROLLOUT]
    assert "in update 2, at timestep 256" in text
    assert "more tensors of 8" in text or "Not finite: value_net.weight (16 values). Last" in text
    assert "rewards" not in text.partition("Last finite")[0]
    finite = text.partition("Last finite values: ")[2].partition(". Try")[0]
    figures = dict(part.split(" ") for part in finite.split(", "))
    assert {"train/loss", "train/value_loss", "train/explained_variance"} <= figures.keys()
    assert all(np.isfinite(float(figure)) for figure in figures.values())


def test_a_loss_that_is_not_finite_while_the_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with built("base") as one:
        record = Logger.record

        def spoiled(self: Logger, key: str, value: Any, exclude: Any = None) -> None:
            late = key == "train/value_loss" and one.model.num_timesteps == 2 * ROLLOUT
            record(self, key, np.float64("nan") if late else value, exclude)

        monkeypatch.setattr(Logger, "record", spoiled)
        text, called = diverged(one)
    assert "Not finite: train/value_loss nan. Last finite values: train/learning_rate" in text
    assert called == [ROLLOUT]


def test_returns_that_are_all_equal_are_no_divergence() -> None:
    with built("base") as one:
        one.callbacks.append(
            _AtRolloutEnd(lambda: one.model.rollout_buffer.returns.fill(0.25))  # explained_variance is NaN then
        )
        one.learn(2)
    assert np.isnan(one.model.logger.name_to_value["train/explained_variance"])
    assert json.dumps(capture(one.model, one.callbacks).state, allow_nan=False)


def test_an_error_of_the_users_own_while_acting_stays_as_it_is() -> None:
    with built("base") as one:
        error = ValueError("a bar without volume")

        def broken() -> None:
            raise error

        one.callbacks.append(_AtRolloutEnd(broken))
        with pytest.raises(ValueError, match="a bar without volume") as caught:
            one.learn(1)
    assert caught.value is error


def test_nothing_is_written_of_a_diverged_update_to_the_weights_of_the_last_snapshot() -> None:
    with built("base") as one:
        one.model.env = Spoiled(one.env, "rewards", 32 + 20, np.nan)
        one.capture_at_every_boundary()
        with pytest.raises(TrainingDiverged):
            one.learn()
    assert [snapshot.step for snapshot in one.snapshots] == [ROLLOUT]
    assert all(value.isfinite().all() for value in one.snapshots[0].tensors["policy"].values())


def test_only_a_few_tensors_are_named() -> None:
    with built("base") as one:
        with torch.no_grad():
            for parameter in one.model.policy.parameters():
                parameter.fill_(float("nan"))
        text, _ = diverged(one)
    assert text.count(" values)") == divergence.MOST_NAMED
    assert "4 more tensors of 8" in text
