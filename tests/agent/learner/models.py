"""Models whose observations, actions, masks and rollouts are random numbers of any shape."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

from src.agent.learner.fused import FusedMaskablePPO
from src.agent.policy import HybridPolicy
from src.agent.ppo import TimedMaskablePPO

N_ENVS, N_STEPS = 3, 8


class Noise(gym.Env[np.ndarray, np.int64]):
    """Random observations and masks; episodes of a few steps, every second of them cut short."""

    def __init__(self, n_obs: int, n_actions: int, shape: tuple[int, ...] | None = None) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, shape or (n_obs,), np.float32)
        self.action_space = gym.spaces.Discrete(n_actions)
        self.left = self.episodes = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(2, 6))
        self.episodes += 1
        return self._see(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.left -= 1
        over, cut = self.left <= 0, self.episodes % 2 == 0
        return self._see(), float(self.np_random.standard_normal() + action), over and not cut, over and cut, {}

    def action_masks(self) -> np.ndarray:
        masks = self.np_random.random(int(self.action_space.n)) < 0.6
        masks[self.np_random.integers(self.action_space.n)] = True
        return masks

    def _see(self) -> np.ndarray:
        obs = self.np_random.standard_normal(self.observation_space.shape).astype(np.float32)
        if obs.shape == (261,):  # the opinion's columns: probabilities, or nothing
            obs[-6:] = self.np_random.dirichlet(np.full(6, 0.3)) * (self.np_random.random() < 0.7)
        return obs


def made(
    cls: type[TimedMaskablePPO] = FusedMaskablePPO,
    *,
    n_obs: int = 7,
    n_actions: int = 4,
    shape: tuple[int, ...] | None = None,
    pi: tuple[int, ...] = (16, 8),
    vf: tuple[int, ...] = (12,),
    activation: type[torch.nn.Module] = torch.nn.Tanh,
    hybrid: dict[str, Any] | None = None,
    policy_kwargs: dict[str, Any] | None = None,
    **settings: Any,
) -> Any:
    """A model of `cls`, stock or fused, on that environment; `hybrid`: keywords of a HybridPolicy."""
    if hybrid is not None:
        n_obs, n_actions = 261, 6
    kwargs: dict[str, Any] = {
        "net_arch": {"pi": list(pi), "vf": list(vf)},
        "activation_fn": activation,
        "optimizer_kwargs": {"eps": 1e-5, "fused": True},
        **(hybrid or {}),
        **(policy_kwargs or {}),
    }
    return cls(
        MaskableActorCriticPolicy if hybrid is None else HybridPolicy,
        DummyVecEnv([lambda: Noise(n_obs, n_actions, shape)] * N_ENVS),
        policy_kwargs=kwargs,
        seed=0,
        device="cpu",
        **{"n_steps": N_STEPS, "batch_size": 12, "n_epochs": 2, "learning_rate": 3e-3, **settings},
    )


def weights_of(model: Any) -> dict[str, np.ndarray]:
    """Copies of the policy's parameters."""
    return {name: value.detach().numpy().copy() for name, value in model.policy.named_parameters()}


def distance(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The largest difference of any weight."""
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)
