"""A market of noise with the project's observation, action and mask shapes, and opinions in the observation."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

from src.advisor.table import renormalise
from src.trading.layout import N_ACTIONS, N_OBS, OPINION

NET_ARCH = {"pi": [32, 16], "vf": [32, 16]}


def random_masks(rng: np.random.Generator, k: int) -> np.ndarray:
    """bool[k, 6] with HOLD always legal."""
    masks = rng.random((k, N_ACTIONS)) < 0.5
    masks[:, 0] = True
    return masks


def random_observations(rng: np.random.Generator, masks: np.ndarray, *, live: bool = True) -> np.ndarray:
    """float32[k, 261]; opinions fit the masks, one in five abstains, and none is given unless `live`."""
    obs = rng.standard_normal((len(masks), N_OBS)).astype(np.float32)
    advice = rng.dirichlet(np.full(N_ACTIONS, 0.3), len(masks)) * (rng.random((len(masks), 1)) > 0.2)
    obs[:, OPINION] = renormalise(advice, masks) if live else 0.0
    return obs


class OpinionEnv(gym.Env[np.ndarray, np.int64]):
    """Episodes of twelve steps; the same seed gives the same market whether or not its opinions are `live`."""

    def __init__(self, seed: int, *, live: bool = True) -> None:
        self.observation_space = spaces.Box(-10.0, 10.0, (N_OBS,), np.float32)
        self.action_space = spaces.Discrete(N_ACTIONS)
        self._rng = np.random.default_rng(seed)
        self._live = live
        self._steps = 0

    def _observe(self) -> np.ndarray:
        self._masks = random_masks(self._rng, 1)
        self._obs = random_observations(self._rng, self._masks, live=self._live)[0]
        return self._obs

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        self._steps = 0
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = float(self._obs[int(action)])
        self._steps += 1
        return self._observe(), reward, self._steps == 12, False, {}

    def action_masks(self) -> np.ndarray:
        return self._masks[0]


def make_model(
    policy: type[MaskableActorCriticPolicy], *, live: bool = True, n_envs: int = 4, seed: int = 3, **policy_kwargs: Any
) -> MaskablePPO:
    """A small model on `n_envs` environments, untrained."""
    envs = DummyVecEnv([lambda i=i: OpinionEnv(100 + i, live=live) for i in range(n_envs)])
    return MaskablePPO(
        policy,
        envs,
        n_steps=24,
        batch_size=32,
        n_epochs=3,
        learning_rate=1e-3,
        seed=seed,
        device="cpu",
        policy_kwargs={"net_arch": NET_ARCH, **policy_kwargs},
    )
