"""What a training did since its last record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Interval:
    """Steps, rewards and finished episodes since the last record, and the clock of their speed."""

    KEPT = "steps", "timesteps", "reward", "episodes"

    def __init__(self) -> None:
        self.steps, self.timesteps, self.reward = 0, 0, 0.0
        self.episodes: list[tuple[float, int]] = []  # return and length of each that ended
        self.restart_clock()

    def restart_clock(self) -> None:
        """Timesteps until now count in no speed."""
        self._since, self._untimed = time.perf_counter(), self.timesteps

    def count(self, rewards: NDArray[Any], dones: NDArray[np.bool_], infos: Sequence[Mapping[str, Any]]) -> float:
        """Add a vec-env step; the sum of its rewards."""
        step_reward = float(rewards.sum(dtype=np.float64))
        self.reward += step_reward
        self.steps += 1
        self.timesteps += len(rewards)
        if dones.any():
            for i in np.flatnonzero(dones).tolist():
                episode = infos[i].get("episode")
                if episode is not None:
                    self.episodes.append((float(episode["r"]), int(episode["l"])))
        return step_reward

    def record(self) -> dict[str, Any]:
        """Speed, mean reward a timestep, and the episodes' number, mean return and mean length."""
        seconds, timed = time.perf_counter() - self._since, self.timesteps - self._untimed
        means = np.mean(self.episodes, axis=0).tolist() if self.episodes else (None, None)
        return {
            "steps_per_s": timed / seconds if timed and seconds > 0 else None,
            "mean_reward": self.reward / self.timesteps,
            "episodes": len(self.episodes),
            "mean_episode_reward": means[0],
            "mean_episode_length": means[1],
        }
