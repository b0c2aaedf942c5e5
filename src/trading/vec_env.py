"""Many accounts as one Stable-Baselines3 VecEnv, stepped by one kernel call in this process.

SB3's contract: an ended account begins its next episode within the same step, and its last observation travels in
`infos[i]["terminal_observation"]`. SB3 keeps the `dones` it is given by reference and stores it one step later, so
rewards and dones are fresh arrays each step and observations alternate between two buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from src.trading.accounts import AccountBlock, episode_summary
from src.trading.gym_env import action_space, observation_space
from src.trading.kernel import TRUNCATED
from src.trading.layout import ACCOUNT, N_OBS
from src.trading.tape import Tape


class BatchedTradingVecEnv(VecEnv):
    """`n_envs` accounts over one tape. Account i behaves bit for bit as a `TradingEnv` seeded with `seed + i`."""

    def __init__(self, tape: Tape, params: np.ndarray, n_envs: int, seed: int = 0) -> None:
        self._block = AccountBlock(tape, params, n_envs)
        self._buffers = (np.zeros((n_envs, N_OBS), np.float32), np.zeros((n_envs, N_OBS), np.float32))
        self._turn = 0
        self._actions = np.zeros(n_envs, np.int64)
        super().__init__(n_envs, observation_space(), action_space())
        for index in range(n_envs):
            self._block.seed(index, seed + index)

    def reset(self) -> VecEnvObs:
        """Begin every account's next episode; accounts seeded since the last reset restart their sequence."""
        for index, seed in enumerate(self._seeds):
            if seed is not None:
                self._block.seed(index, seed)
        self._reset_seeds()
        self._reset_options()
        self._turn ^= 1
        self._block.begin_training_episodes(self._buffers[self._turn])
        return self._buffers[self._turn]

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions, int[n_envs], for `step_wait`."""
        self._actions = np.ascontiguousarray(actions, np.int64).reshape(self.num_envs)

    def step_wait(self) -> VecEnvStepReturn:
        """Step every account: observations float32[n, 261], rewards float32[n], dones bool[n], infos."""
        block = self._block
        self._turn ^= 1
        obs = self._buffers[self._turn]
        rewards = np.empty(self.num_envs, np.float32)
        ended = block.step(self._actions, obs, rewards)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if ended:
            for index in np.flatnonzero(block.endings):
                infos[index] = {
                    "episode": episode_summary(block.last_accounts[index]),
                    "terminal_observation": block.last_obs[index].copy(),
                    "TimeLimit.truncated": bool(block.endings[index] == TRUNCATED),
                }
        return obs, rewards, block.endings.astype(np.bool_), infos

    def close(self) -> None:
        """Nothing to release: the accounts live in this process."""

    def action_masks(self) -> np.ndarray:
        """What is legal for every account now, bool[n_envs, 6]; a copy."""
        return self._block.masks.copy()

    def get_state(self) -> dict[str, np.ndarray]:
        """A snapshot of all accounts: uint8[n_envs, bytes of a record]."""
        return {"accounts": self._block.accounts.view(np.uint8).reshape(self.num_envs, -1).copy()}

    def set_state(self, state: dict[str, np.ndarray]) -> VecEnvObs:
        """Restore a snapshot taken on the same tape; returns the observations float32[n_envs, 261]."""
        raw = np.ascontiguousarray(state["accounts"], np.uint8)
        if raw.shape != (self.num_envs, ACCOUNT.itemsize):
            raise ValueError(f"state of shape {raw.shape}, needs ({self.num_envs}, {ACCOUNT.itemsize})")
        self._block.restore(raw.view(ACCOUNT).reshape(self.num_envs))
        self._turn ^= 1
        self._block.observe(self._buffers[self._turn])
        return self._buffers[self._turn]

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """`action_masks` for the named accounts; a batch has no other per-account method."""
        if method_name != "action_masks" or method_args or method_kwargs:
            raise AttributeError(f"accounts of a batch have no method {method_name!r}, only action_masks()")
        return list(self.action_masks()[self._rows(indices)])

    def has_attr(self, attr_name: str) -> bool:
        """Whether every account has the attribute."""
        return attr_name in ("action_masks", "render_mode")

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """`render_mode` (always None) of the named accounts."""
        if attr_name != "render_mode":
            raise AttributeError(f"accounts of a batch have no attribute {attr_name!r}")
        return [None for _ in self._rows(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Accounts of a batch are records of the kernel: there is nothing to set on one."""
        raise AttributeError(f"attribute {attr_name!r} cannot be set on accounts of a batch")

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Never: there is no environment object to wrap."""
        return [False for _ in self._rows(indices)]

    def _rows(self, indices: VecEnvIndices) -> Sequence[int]:
        return list(self._get_indices(indices))
