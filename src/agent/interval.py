"""What a training did since its last record."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PlayedRollout:
    """What callbacks with `on_rollout_played` are told of a rollout whose steps are over, when the model has counted
    its timesteps: the sum of each step's rewards, and the episodes that ended, in the order of their steps."""

    n_envs: int
    step_rewards: list[float]
    episode_steps: list[int]
    """The step in which each episode ended."""
    episodes: list[Mapping[str, Any]]
    """Their summaries, in the same order."""

    def episodes_within(self, begin: int, end: int) -> list[tuple[float, int]]:
        """Return and length of the episodes that ended in steps begin ... end - 1."""
        first, last = bisect_left(self.episode_steps, begin), bisect_left(self.episode_steps, end)
        return [(float(one["r"]), int(one["l"])) for one in self.episodes[first:last]]

    def add_rewards(self, total: float, begin: int, end: int) -> float:
        """`total` with the rewards of steps begin ... end - 1, added one by one, as they round."""
        for reward in self.step_rewards[begin:end]:
            total += reward
        return total

    def timesteps_after(self, end: int) -> int:
        """Timesteps of the steps from `end` on."""
        return (len(self.step_rewards) - end) * self.n_envs

    def pieces(self, first: int, size: int) -> Iterator[tuple[int, int]]:
        """The rollout's steps in pieces, begin and end of each: of `first` steps, then of `size`."""
        begin, steps = 0, len(self.step_rewards)
        while begin < steps:
            end = min(steps, begin + max(1, size if begin else first))
            yield begin, end
            begin = end


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

    def count_steps(self, played: PlayedRollout, begin: int, end: int) -> int:
        """Add steps begin ... end - 1 of a rollout at once; how many episodes ended in them."""
        episodes = played.episodes_within(begin, end)
        self.reward = played.add_rewards(self.reward, begin, end)
        self.steps += end - begin
        self.timesteps += (end - begin) * played.n_envs
        self.episodes.extend(episodes)
        return len(episodes)

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
