"""An environment of a user's own that looks features up: light to import, as a worker process does."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class Featured(gym.Env[np.ndarray, np.int64]):
    """Episodes of five steps, each of which looks up the step's features."""

    feature_cache: Any = None

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0.0, 5.0, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.feature_cache is not None:
            features = self.feature_cache.get_or_compute(("step", self._steps), lambda: np.full(33, self._steps))
            assert (features == self._steps).all()
        self._steps += 1
        return np.array([self._steps, action], np.float32), float(action), self._steps == 5, False, {}

    def loaded(self, module: str) -> bool:
        """Whether this process has loaded a module."""
        import sys

        return module in sys.modules
