"""Which vec env steps the accounts: `batched` in this process, `subproc` in worker processes, `dummy` one by one."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from src.errors import ConfigError
from src.trading.gym_env import TradingEnv, action_space, observation_space
from src.trading.tape import Tape
from src.trading.vec_env import BatchedTradingVecEnv
from src.trading.workers import AllLegal, WorkerVecEnv, load_env_class

Route = Literal["batched", "subproc", "dummy"]
WHY = {
    "batched": "all accounts in one kernel call in this process: no worker costs a message a step",
    "subproc": "one worker process an account (SB3 SubprocVecEnv): for environments that are slow themselves",
    "dummy": "one account after another in this process (SB3 DummyVecEnv): for debugging",
}


def make_vec_env(route: Route, tape: Tape, params: np.ndarray, n_envs: int, seed: int = 0) -> VecEnv:
    """`n_envs` accounts over `tape`, bit for bit the same by every route. `params` is a `PARAMS` array of length 1."""
    if route == "batched":
        return BatchedTradingVecEnv(tape, params, n_envs, seed)
    if route == "dummy":
        return DummyVecEnv([functools.partial(TradingEnv, tape, params, seed + i) for i in range(n_envs)])
    _compile_kernel(tape, params)
    folder = tempfile.TemporaryDirectory(prefix="tape-")
    tape.save(Path(folder.name))
    return WorkerVecEnv([functools.partial(TradingEnv, folder.name, params, seed + i) for i in range(n_envs)], folder)


def make_custom_vec_env(route: Route, env_class: str, env_kwargs: dict[str, Any], n_envs: int) -> VecEnv:
    """`n_envs` environments of the user's own class, in workers (or `dummy`: in this process).

    All actions are legal where the class has no `action_masks`. Raises ConfigError for a class that cannot be used,
    EnvironmentWorkerError with the worker's traceback for one that fails.
    """
    load_env_class(env_class)
    fns = [functools.partial(_make_custom, env_class, env_kwargs) for _ in range(n_envs)]
    env = DummyVecEnv(list(fns)) if route == "dummy" else WorkerVecEnv(fns)
    if not isinstance(env.action_space, gym.spaces.Discrete):
        env.close()
        raise ConfigError(
            f"environment.env_class {env_class!r} has action space {env.action_space}; MaskablePPO needs Discrete."
        )
    return env


def is_trading_shaped(env: VecEnv) -> bool:
    """Whether advice, fusion and our evaluation apply: observation float32[261] and six actions."""
    return env.observation_space.shape == observation_space().shape and env.action_space == action_space()


def _compile_kernel(tape: Tape, params: np.ndarray) -> None:
    """Leave the compiled kernel in numba's cache: workers would each compile it for themselves, all at once."""
    env = TradingEnv(tape, params)
    env.reset()
    env.step(0)


def _make_custom(env_class: str, env_kwargs: dict[str, Any]) -> gym.Env:
    env = load_env_class(env_class)(**env_kwargs)
    if not env.has_wrapper_attr("action_masks"):
        env = AllLegal(env)
    return Monitor(env)
