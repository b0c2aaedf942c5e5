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
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from src.errors import ConfigError
from src.trading.checked_env import CheckedEnv
from src.trading.gym_env import TradingEnv, action_space, observation_space
from src.trading.own_exit import NoExit, no_exit
from src.trading.plain_state import is_plain
from src.trading.tape import Tape
from src.trading.vec_env import BatchedTradingVecEnv
from src.trading.workers import STUCK_S, AllLegal, WorkerVecEnv, load_env_class

Route = Literal["batched", "subproc", "dummy"]
_OBSERVATIONS = (gym.spaces.Box, gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary)
WHY = {
    "batched": "all accounts in one kernel call in this process: no worker costs a message a step",
    "subproc": "one worker process an account (SB3 SubprocVecEnv): for environments that are slow themselves",
    "dummy": "one account after another in this process (SB3 DummyVecEnv): for debugging",
}


def make_vec_env(
    route: Route, tape: Tape, params: np.ndarray, n_envs: int, seed: int = 0, stuck_s: float = STUCK_S
) -> VecEnv:
    """`n_envs` accounts over `tape`, bit for bit the same by every route. `params` is a `PARAMS` array of length 1."""
    if route == "batched":
        return BatchedTradingVecEnv(tape, params, n_envs, seed)
    if route == "dummy":
        return DummyVecEnv([functools.partial(TradingEnv, tape, params, seed + i) for i in range(n_envs)])
    _compile_kernel(tape, params)
    folder = tempfile.TemporaryDirectory(prefix="tape-")
    tape.save(Path(folder.name))
    return WorkerVecEnv(
        [functools.partial(TradingEnv, folder.name, params, seed + i) for i in range(n_envs)],
        folder,
        preload=["src.trading.warm_worker"],
        stuck_s=stuck_s,
    )


def make_custom_vec_env(
    route: Route, env_class: str, env_kwargs: dict[str, Any], n_envs: int, stuck_s: float = STUCK_S
) -> VecEnv:
    """`n_envs` environments of the user's own class, in workers (or `dummy`: in this process).

    All actions are legal where the class has no `action_masks`. A resumed run continues in the middle of an episode if
    the class has `get_state`, which returns arrays and plain values, and `set_state`, which is called after a `reset`;
    `np_random` is kept for it. Raises ConfigError for a class that cannot be used,
    EnvironmentWorkerError with the worker's traceback for one that fails, BadEnvironmentValue for a value that
    `CheckedEnv` refuses.
    """
    load_env_class(env_class)
    fns = [functools.partial(_make_custom, env_class, env_kwargs, i, n_envs) for i in range(n_envs)]
    env = DummyVecEnv(list(fns)) if route == "dummy" else WorkerVecEnv(fns, stuck_s=stuck_s)
    if not isinstance(env.observation_space, _OBSERVATIONS):
        env.close()
        raise ConfigError(
            f"environment.env_class {env_class!r} has observation space {env.observation_space}; the policy needs one "
            f"array: Box, Discrete, MultiDiscrete or MultiBinary."
        )
    if not isinstance(env.action_space, gym.spaces.Discrete):
        env.close()
        raise ConfigError(
            f"environment.env_class {env_class!r} has action space {env.action_space}; MaskablePPO needs Discrete."
        )
    return env


def is_trading_shaped(env: VecEnv) -> bool:
    """Whether advice, fusion and our evaluation apply: observation float32[261] and six actions."""
    return env.observation_space.shape == observation_space().shape and env.action_space == action_space()


def get_states(env: VecEnv) -> np.ndarray | list[dict[str, Any]] | None:
    """Current states of the environments, for `set_states` of an equal vec env.

    Our own accounts: uint8[n_envs, bytes of a record], the same by every route. A user's own: one mapping each that
    `src.trading.plain_state.pack` keeps, or None where these cannot say.
    """
    if isinstance(env, BatchedTradingVecEnv):
        return env.get_state()["accounts"]
    states: list[Any] = env.env_method("get_state") if env.has_attr("get_state") else [None]
    if any(state is None for state in states):
        return None
    return np.stack([state["account"] for state in states]) if "account" in states[0] else states


def set_states(env: VecEnv, states: np.ndarray | list[dict[str, Any]]) -> VecEnvObs | None:
    """Put back what `get_states` returned, by this or another route; a user's own environments are to be reset first.

    Returns the observations of our own accounts, float32[n_envs, 261]; None for a user's own.
    """
    if isinstance(env, BatchedTradingVecEnv) and isinstance(states, np.ndarray):
        return env.set_state({"accounts": states})
    each = [{"account": row} for row in states] if isinstance(states, np.ndarray) else states
    obs = [env.env_method("set_state", state, indices=[i])[0] for i, state in enumerate(each)]
    return np.stack(obs) if isinstance(states, np.ndarray) else None


class _KeptMonitor(Monitor):
    """SB3's Monitor that hands out and takes back the episode under way, with the environment's state and np_random."""

    def get_state(self) -> dict[str, Any] | None:
        """None where the environment has no get_state and set_state, or a state that only pickling could keep."""
        if not (self.env.has_wrapper_attr("get_state") and self.env.has_wrapper_attr("set_state")):
            return None
        generator = self.unwrapped._np_random
        state = {
            "env": self.env.get_wrapper_attr("get_state")(),
            "np_random": generator.bit_generator.state if isinstance(generator, np.random.Generator) else None,
            "rewards": np.array(self.rewards, np.float64),
            "needs_reset": self.needs_reset,
            "total_steps": self.total_steps,
        }
        return state if is_plain(state) else None

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_state` returned."""
        self.env.get_wrapper_attr("set_state")(state["env"])
        if state["np_random"] is not None:
            self.unwrapped.np_random.bit_generator.state = state["np_random"]
        self.rewards = state["rewards"].tolist()
        self.needs_reset, self.total_steps = state["needs_reset"], state["total_steps"]


def _compile_kernel(tape: Tape, params: np.ndarray) -> None:
    """Leave the compiled kernel in numba's cache: workers would each compile it for themselves, all at once."""
    env = TradingEnv(tape, params)
    env.reset()
    env.step(0)


def _make_custom(env_class: str, env_kwargs: dict[str, Any], index: int, n_envs: int) -> gym.Env:
    made = load_env_class(env_class)
    with no_exit(env_class, "when it was made"):
        env: gym.Env = NoExit(made(**env_kwargs), env_class)
    if not env.has_wrapper_attr("action_masks"):
        env = AllLegal(env)
    return _KeptMonitor(CheckedEnv(env, env_class, index, n_envs))
