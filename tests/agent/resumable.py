"""Small trainings that can be captured, carried to another process as files, and gone on with there."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.vec_env import VecEnv

from src.agent.checkpoints import Snapshot
from src.agent.ppo import TimedMaskablePPO, generator_states
from src.agent.settings import Learner
from src.agent.trainer import BASE_PHASE, FINETUNE_PHASE
from src.agent.training import build_base, build_finetuned, phase_seed, weight_ramp
from src.agent.training_state import capture, restore
from src.testing_framework import BatchedCallback
from src.trading.routes import get_states, make_custom_vec_env
from tests import small_runs

ROLLOUTS = 4
ROLLOUT = 128
LOG_INTERVAL = 21  # steps: a record comes after every rollout's 32 but the interval under way is never empty between


class Walk(gym.Env[np.ndarray, np.int64]):
    """A walk of forty steps or so that pays for the right side: an environment of a user's own, without state."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.level = np.float32(0.0)
        self.path = [0.0]
        self.left = int(self.np_random.integers(30, 50))
        return self._see(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        move = np.float32(self.np_random.standard_normal())
        self.level += move
        self.path.append(float(self.level))
        self.left -= 1
        return self._see(), float(move) * (float(action) - 1.0), self.left <= 0, False, {}

    def _see(self) -> np.ndarray:
        return np.array([self.level, np.mean(self.path), self.left / 50], np.float32)


class KeptWalk(Walk):
    """The same with its state."""

    def get_state(self) -> dict[str, Any]:
        return {"level": self.level, "path": np.array(self.path), "left": self.left}

    def set_state(self, state: dict[str, Any]) -> None:
        self.level, self.left = state["level"], state["left"]
        self.path[:] = state["path"]  # of an episode that was begun: so a reset comes first


class OpaqueWalk(KeptWalk):
    """Its state only pickling could keep."""

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "myself": object}


class Kept:
    """A sink of records without the one figure that is a speed."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def write(self, record: Mapping[str, Any]) -> None:
        self.records.append({key: value for key, value in record.items() if key != "steps_per_s"})

    def close(self) -> None:
        """Nothing to close."""


@dataclass
class Training:
    """A model on its environments with the callbacks of a run, before it learns."""

    model: TimedMaskablePPO
    callbacks: list[Any]
    sink: Kept
    env: VecEnv
    snapshots: list[Snapshot] = field(default_factory=list)
    records_before: list[int] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)

    def capture_at_every_boundary(self) -> Training:
        def keep() -> None:
            self.snapshots.append(capture(self.model, self.callbacks))
            self.records_before.append(len(self.sink.records))

        self.model.after_update = keep
        return self

    def learn(self, rollouts: int = ROLLOUTS) -> Training:
        remaining = rollouts * ROLLOUT - self.model.num_timesteps
        self.model.learn(
            remaining,
            callback=CallbackList(self.callbacks),
            log_interval=None,
            reset_num_timesteps=self.model.num_timesteps == 0,
        )
        return self


@contextmanager
def built(
    phase: str,
    route: str = "batched",
    *,
    advised: bool | None = None,
    learner: Learner | None = None,
    **training: Any,
) -> Iterator[Training]:
    """Everything anew. `phase`: base, rl_only, hybrid, or the name of a class of this module, trained as base."""
    trainer = small_runs.with_vec_env(small_runs.trainer(**training), route)
    plan, cpu = small_runs.plan(ROLLOUTS), torch.device("cpu")
    own = phase in globals()
    base = None if own or phase == "base" else small_runs.base()
    if own:
        env: VecEnv = make_custom_vec_env(route, f"{__name__}:{phase}", {}, 4)  # type: ignore[arg-type]
    else:
        advised = phase == "hybrid" if advised is None else advised
        env = trainer.make_env(small_runs.market(), small_runs.advice() if advised else None)
    try:
        sink = Kept()
        callbacks: list[Any] = [BatchedCallback(LOG_INTERVAL, sinks=[sink], total_timesteps=plan.actual, phase=phase)]
        if base is None:
            model = build_base(env, trainer.training, plan, phase_seed(0, BASE_PHASE), cpu, False, learner)
        else:
            llm = small_runs.LIVE if phase == "hybrid" else None
            seed = phase_seed(0, FINETUNE_PHASE)
            model = build_finetuned(base.policy, env, trainer.training, plan, seed, cpu, False, llm, learner)
            if llm is not None:
                callbacks.append(weight_ramp(llm, trainer.training, plan))
        yield Training(model, callbacks, sink, env)
    finally:
        env.close()


def facts(training: Training, from_record: int = 0) -> dict[str, Any]:
    """All that must be equal: to the bit, but for times. `from_record` leaves out the records written before."""
    model = training.model
    adam = model.policy.optimizer.state_dict()
    generators = generator_states()
    states = get_states(training.env)
    assert isinstance(model._last_obs, np.ndarray)
    return {
        "weights": {name: _digest(value.numpy()) for name, value in model.policy.state_dict().items()},
        "adam": {f"{i} {key}": _digest(v.numpy()) for i, kept in adam["state"].items() for key, v in kept.items()},
        "learning_rate": adam["param_groups"][0]["lr"],
        "environments": None if states is None else _digest(states if isinstance(states, np.ndarray) else repr(states)),
        "seen": _digest(model._last_obs),
        "starts": _digest(np.asarray(model._last_episode_starts)),
        "records": training.sink.records[from_record:],
        "counters": [
            model.num_timesteps, model._total_timesteps, model._n_updates, model._episode_num,
            model._current_progress_remaining, model.micro_batch, model.split_updates,
        ],
        "log": [[name, float(value)] for name, value in model.logger.name_to_value.items()],
        "log_counts": [dict(model.logger.name_to_count), dict(model.logger.name_to_excluded)],
        "episodes": [{key: v for key, v in one.items() if key != "t"} for one in model.ep_info_buffer or ()],
        "episode_buffers": [(buffer.maxlen, len(buffer)) for buffer in (model.ep_info_buffer, model.ep_success_buffer)],
        "totals": {name: getattr(training.callbacks[0], name) for name in (
            "total_reward", "total_steps", "total_episodes", "writes"
        )},
        "generators": [
            _digest(repr(generators.python)), _digest(repr(generators.numpy)), _digest(generators.torch.numpy())
        ],
    }  # fmt: skip


def _digest(value: np.ndarray | str) -> str:
    return hashlib.sha256(value.encode() if isinstance(value, str) else value.tobytes()).hexdigest()


def whole(phase: str, route: str = "batched", **training: Any) -> tuple[Training, dict[str, Any]]:
    """A training that nothing interrupts, captured at every boundary, and its facts."""
    with built(phase, route, **training) as one:
        one.capture_at_every_boundary().learn()
        return one, facts(one)


def gone_on(
    phase: str,
    route: str,
    snapshot: Snapshot,
    from_record: int,
    *,
    after: Callable[[Training], None] | None = None,
    **training: Any,
) -> tuple[Training, dict[str, Any]]:
    """Built anew, given the snapshot (then handed to `after`), trained to the end: and its facts."""
    with built(phase, route, **training) as one:
        one.unlike = restore(one.model, one.callbacks, snapshot)
        # What a run had logged before stays in its file.
        one.sink.records[:0] = [{}] * from_record
        if after is not None:
            after(one)
        one.learn()
        return one, facts(one, from_record)


def write(snapshot: Snapshot, folder: Path) -> None:
    """As files that hold nothing pickled: this fails on what strict JSON or safetensors cannot hold."""
    for part, tensors in snapshot.tensors.items():
        save_file(dict(tensors), folder / f"{part}.safetensors")
    (folder / "state.json").write_text(json.dumps([snapshot.step, snapshot.state], allow_nan=False), encoding="utf-8")


def read(folder: Path) -> Snapshot:
    step, state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return Snapshot(step, {file.stem: load_file(file) for file in folder.glob("*.safetensors")}, state)


if __name__ == "__main__":  # python -m tests.agent.resumable <phase> <route> <folder> <from_record>
    _phase, _route, _folder, _from = sys.argv[1:]
    _one, _facts = gone_on(_phase, _route, read(Path(_folder)), int(_from))
    (Path(_folder) / "facts.json").write_text(json.dumps([_one.unlike, _facts]), encoding="utf-8")
