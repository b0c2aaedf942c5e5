"""BatchedCallback beside real PPO trainings on a small environment, and the sinks it writes to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from src.agent.interval import PlayedRollout
from src.agent.log_sink import DisplaySink, JsonLinesSink, TensorBoardSink
from src.testing_framework import BatchedCallback

N_ENVS, N_STEPS = 3, 16


class Steps(gymnasium.Env):
    """Ends after a number of steps drawn at reset; the reward is the action and a little noise."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(2, 9))
        return self._see(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.left -= 1
        return self._see(), float(action) + 0.1 * float(self.np_random.random()), self.left <= 0, False, {}

    def _see(self) -> np.ndarray:
        return self.np_random.uniform(-1, 1, 4).astype(np.float32)


class Kept:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.closed = False

    def write(self, record: dict[str, Any]) -> None:
        self.records.append(record)

    def close(self) -> None:
        self.closed = True


class Watch(BaseCallback):
    """Every step's rewards and every finished episode, written down one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.rewards: list[list[float]] = []
        self.episodes: list[tuple[int, float, int]] = []

    def _on_step(self) -> bool:
        self.rewards.append([float(reward) for reward in self.locals["rewards"]])
        for info in self.locals["infos"]:
            if "episode" in info:
                self.episodes.append((len(self.rewards), info["episode"]["r"], info["episode"]["l"]))
        return True


def train(*callbacks: BaseCallback, timesteps: int = 2 * N_ENVS * N_STEPS) -> PPO:
    env = VecMonitor(DummyVecEnv([Steps] * N_ENVS))
    model = PPO("MlpPolicy", env, n_steps=N_STEPS, batch_size=16, n_epochs=2, seed=3, device="cpu")
    return model.learn(timesteps, callback=CallbackList(list(callbacks)))


def weights(model: PPO) -> list[torch.Tensor]:
    return list(model.policy.state_dict().values())


def test_training_is_bitwise_the_same_with_and_without_it(tmp_path: Path) -> None:
    with JsonLinesSink(tmp_path / "log.jsonl") as sink:
        logged = train(BatchedCallback(log_interval=1, sinks=[sink]))
    bare = train()
    assert all(torch.equal(a, b) for a, b in zip(weights(logged), weights(bare), strict=True))
    assert logged.num_timesteps == bare.num_timesteps


@pytest.mark.parametrize("log_interval", [1, 5, 7, 32, 100])
def test_records_hold_what_happened_since_the_record_before(log_interval: int) -> None:
    kept, watch = Kept(), Watch()
    train(watch, BatchedCallback(log_interval, sinks=[kept], total_timesteps=96, phase="base"))
    n_steps = len(watch.rewards)
    assert n_steps == 32
    ends = sorted({*range(log_interval, n_steps + 1, log_interval), n_steps})
    assert [record["num_timesteps"] for record in kept.records] == [N_ENVS * end for end in ends]
    assert len(watch.episodes) > 5
    start = 0
    for record, end in zip(kept.records, ends, strict=True):
        rewards = [reward for step in watch.rewards[start:end] for reward in step]
        episodes = [(r, length) for at, r, length in watch.episodes if start < at <= end]
        assert record["mean_reward"] == pytest.approx(sum(rewards) / len(rewards))
        assert record["episodes"] == len(episodes)
        if episodes:
            assert record["mean_episode_reward"] == pytest.approx(sum(r for r, _ in episodes) / len(episodes))
            assert record["mean_episode_length"] == pytest.approx(sum(n for _, n in episodes) / len(episodes))
        else:
            assert record["mean_episode_reward"] is None
        assert record["fraction_done"] == N_ENVS * end / 96
        assert record["phase"] == "base"
        assert record["steps_per_s"] > 0
        start = end


def test_unbatched_logging_writes_more_often_and_totals_the_same() -> None:
    every, batched = BatchedCallback(1, sinks=[Kept()]), BatchedCallback(10, sinks=[Kept()])
    train(every, batched)
    assert (every.writes, batched.writes) == (32, 4)
    assert every.total_reward == batched.total_reward > 0
    assert every.total_episodes == batched.total_episodes > 0
    assert every.total_steps == batched.total_steps == 32


def test_figures_of_the_last_update_are_in_the_records_after_it() -> None:
    kept = Kept()
    model = train(BatchedCallback(N_STEPS, sinks=[kept]))
    first, second = kept.records
    assert not any(name.startswith("train/") for name in first)
    assert second["train/learning_rate"] == 3e-4
    assert second["train/n_updates"] == 2.0  # one update of two epochs
    assert model.logger.name_to_value["train/n_updates"] == 4


def test_a_stop_request_ends_training_within_that_step() -> None:
    asked: list[int] = []

    def stop_requested() -> bool:
        asked.append(1)
        return len(asked) == 20

    kept = Kept()
    callback = BatchedCallback(100, sinks=[kept], stop_requested=stop_requested)
    model = train(callback)
    assert model.num_timesteps == 20 * N_ENVS
    assert callback.stopped
    assert [record["num_timesteps"] for record in kept.records] == [60]  # nothing gathered is lost


def test_a_training_that_ran_to_its_end_was_not_stopped() -> None:
    callback = BatchedCallback(stop_requested=lambda: False)
    train(callback)
    assert not callback.stopped


def test_closing_closes_its_sinks_and_leaves_nothing_unwritten() -> None:
    kept = Kept()
    callback = BatchedCallback(100, sinks=[kept])
    callback.close()
    assert kept.closed
    assert kept.records == []


@pytest.mark.parametrize("log_interval", [0, -5])
def test_an_interval_under_one_step_is_refused(log_interval: int) -> None:
    with pytest.raises(ValueError, match=f"log_interval is {log_interval}.*at least 1"):
        BatchedCallback(log_interval)


# ---------------------------------------------------------------- sinks


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_display_is_handed_each_record() -> None:
    shown: list[Any] = []
    train(BatchedCallback(16, sinks=[DisplaySink(shown.append)]))
    assert [record["num_timesteps"] for record in shown] == [48, 96]


def test_what_a_killed_run_logged_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    program = f"""
        import sys
        from src.agent.log_sink import JsonLinesSink
        sink = JsonLinesSink({str(path)!r})
        for i in range(5):
            sink.write({{"num_timesteps": i}})
        print("written", flush=True)
        sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert lines(path) == [{"num_timesteps": i} for i in range(5)]


@given(cut=st.integers(0, 40))
def test_a_torn_line_is_cut_and_whole_ones_kept(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    with JsonLinesSink(path) as sink:
        for i in range(3):
            sink.write({"step": i})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - min(cut, len(whole))])
    n_whole = path.read_bytes().count(b"\n")
    with JsonLinesSink(path) as sink:
        sink.write({"step": 9})
    assert [record["step"] for record in lines(path)] == [*range(n_whole), 9]


def test_a_resumed_run_cuts_what_was_logged_after_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log.jsonl"
    with JsonLinesSink(path) as sink:
        sink.write({"step": 1})
        offset = sink.offset
        sink.write({"step": 2, "text": "x" * 200_000})
    with JsonLinesSink(path, keep_bytes=offset) as sink:
        assert sink.offset == offset
        sink.write({"step": 3})
    assert [record["step"] for record in lines(path)] == [1, 3]
    with pytest.raises(ValueError, match="fewer than the 99999"):
        JsonLinesSink(path, keep_bytes=99_999)


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with JsonLinesSink(path) as sink:
        sink.write({"a": float("nan"), "b": float("inf"), "c": 1.5, "d": None})
    assert lines(path) == [{"a": None, "b": None, "c": 1.5, "d": None}]


def test_tensorboard_gets_every_number_over_timesteps(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    record = {"phase": "base", "num_timesteps": 48, "mean_reward": 0.5, "episodes": 2, "mean_episode_reward": None}
    sink.write(record | {"train/loss": 0.25})
    sink.write(record | {"num_timesteps": 96, "mean_reward": 0.75})
    sink.close()
    found = EventAccumulator(str(tmp_path)).Reload()
    assert sorted(found.Tags()["scalars"]) == ["run/episodes", "run/mean_reward", "train/loss"]
    assert [(event.step, event.value) for event in found.Scalars("run/mean_reward")] == [(48, 0.5), (96, 0.75)]
    assert [(event.step, event.value) for event in found.Scalars("train/loss")] == [(48, 0.25)]


def test_tensorboard_is_written_by_the_caller_who_hears_at_once_that_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set(threading.enumerate())
    sink = TensorBoardSink(tmp_path)
    sink.write({"num_timesteps": 1, "mean_reward": 0.5})
    assert set(threading.enumerate()) == threads

    def write(self: RecordWriter, data: bytes) -> None:
        raise MemoryError("no page left")

    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "write", write)
        with pytest.raises(MemoryError, match="no page left"):
            sink.write({"num_timesteps": 2, "mean_reward": 0.5})
    sink.close()
    found = EventAccumulator(str(tmp_path)).Reload()
    assert [point.step for point in found.Scalars("run/mean_reward")] == [1]


@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 5)), interval=st.integers(1, 12), rollouts=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_a_rollout_told_at_once_is_counted_as_its_steps_are(
    shape: tuple[int, int], interval: int, rollouts: int, seed: int
) -> None:
    """The same records at the same timesteps, and the same totals to the bit."""
    rng, (steps, envs) = np.random.default_rng(seed), shape
    sinks, callbacks = (Kept(), Kept()), []
    for sink in sinks:
        callbacks.append(BatchedCallback(interval, sinks=[sink], total_timesteps=steps * envs * rollouts))
        callbacks[-1].model = SimpleNamespace(num_timesteps=0, logger=Logger(None, []))  # type: ignore[assignment]
    one, at_once = callbacks
    for _ in range(rollouts):
        rewards = rng.standard_normal((steps, envs)).astype(np.float32)
        ended = [(step, env) for step in range(steps) for env in range(envs) if rng.random() < 0.1]
        episodes = [{"r": float(rng.standard_normal()), "l": int(rng.integers(1, 9))} for _ in ended]
        for step in range(steps):
            infos: list[dict[str, Any]] = [{} for _ in range(envs)]
            for place, episode in zip(ended, episodes, strict=True):
                if place[0] == step:
                    infos[place[1]] = {"episode": episode}
            one.model.num_timesteps += envs
            one.update_locals({"rewards": rewards[step], "dones": np.array([bool(i) for i in infos]), "infos": infos})
            assert one.on_step()
        at_once.model.num_timesteps += steps * envs
        sums = [float(of_step.sum(dtype=np.float64)) for of_step in rewards]
        assert at_once.on_rollout_played(PlayedRollout(envs, sums, [step for step, _ in ended], episodes))
        assert at_once.get_state() == one.get_state()
        assert (at_once.n_calls, at_once.num_timesteps) == (one.n_calls, one.num_timesteps)
    without_speed = [[{**record, "steps_per_s": None} for record in sink.records] for sink in sinks]
    assert without_speed[0] == without_speed[1]
