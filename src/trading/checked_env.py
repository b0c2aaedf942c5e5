"""What a user's own environment returns, checked at the border: shapes, masks and numbers, at every step."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np

from src.errors import BadEnvironmentValue


class CheckedEnv(gym.Wrapper):
    """Raises BadEnvironmentValue, naming environment, step and value, for what training could not use.

    Checked are the shape of each observation and that it is finite, that a reward is one finite number, that
    terminated and truncated are flags, and that the mask has one flag an action and at least one legal action.
    """

    def __init__(self, env: gym.Env, name: str, index: int, n_envs: int) -> None:
        super().__init__(env)
        self._name = f"environment.env_class {name!r}, environment {index} of {n_envs}"
        space, actions = env.observation_space, env.action_space
        self._box = space if isinstance(space, gym.spaces.Box) else None
        self._shape = space.shape
        self._is_float = self._box is not None and self._box.dtype.kind == "f"
        self._n_actions = int(actions.n) if isinstance(actions, gym.spaces.Discrete) else 0
        self._masks = env.get_wrapper_attr("action_masks")
        self._steps = self._episode_steps = 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """See gymnasium.Env."""
        returned = self.env.reset(**kwargs)
        self._episode_steps = 0
        if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], dict)):
            self._refuse(f"reset() returned {_short(returned)}; it must return (observation, info)", "Return both.")
        self._check_obs(returned[0], "reset()")
        return returned

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See gymnasium.Env."""
        self._steps += 1
        self._episode_steps += 1
        returned = self.env.step(action)
        if not (isinstance(returned, tuple) and len(returned) == 5 and isinstance(returned[4], dict)):
            self._refuse(
                f"step({action}) returned {_short(returned)}",
                "It must return (observation, reward, terminated, truncated, info).",
            )
        obs, reward, terminated, truncated, _ = returned
        self._check_obs(obs, f"step({action})")
        self._check_reward(reward, action)
        for flag, what in ((terminated, "terminated"), (truncated, "truncated")):
            if not isinstance(flag, bool | np.bool_):
                self._refuse(f"step({action}) returned {what} {_short(flag)}", "It must be True or False.")
        return returned

    def action_masks(self) -> np.ndarray:
        """The environment's own, bool[number of actions]."""
        given = self._masks()
        mask = np.asarray(given)
        if mask.shape != (self._n_actions,) or mask.dtype.kind not in "biu":
            self._refuse(
                f"action_masks() returned {_short(given)} (shape {mask.shape}, {mask.dtype}) for {self._n_actions} "
                f"actions",
                "Return one True or False per action.",
            )
        if not mask.any():
            self._refuse(
                f"action_masks() allows no action: {_short(given)}",
                "Keep at least one action legal in every state, or end the episode.",
            )
        return mask.astype(np.bool_, copy=False)

    def _check_obs(self, obs: Any, call: str) -> None:
        if self._box is None:
            if not self.observation_space.contains(obs):
                self._refuse(
                    f"{call} returned the observation {_short(obs)}", f"It must be in {self.observation_space}."
                )
            return
        array = obs if isinstance(obs, np.ndarray) else np.asarray(obs)
        if array.shape != self._shape or array.dtype.kind not in "fiub":
            self._refuse(
                f"{call} returned an observation of shape {array.shape} and dtype {array.dtype}: {_short(obs)}",
                f"observation_space promises shape {self._shape} and dtype {self._box.dtype}.",
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            self._refuse(
                f"{call} returned an observation that is not finite: value {list(where)} is {array[where]}",
                "Check what it is computed from.",
            )

    def _check_reward(self, reward: Any, action: Any) -> None:
        try:
            fine = np.ndim(reward) == 0 and math.isfinite(reward)
        except TypeError:
            fine = False
        if not fine:
            self._refuse(f"step({action}) returned the reward {_short(reward)}", "It must be one finite number.")

    def _refuse(self, what: str, remedy: str) -> NoReturn:
        raise BadEnvironmentValue(
            f"{self._name}, step {self._steps:,} (step {self._episode_steps:,} of its episode): {what}. {remedy}"
        )


def _short(value: Any) -> str:
    """A value in one line of at most 100 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."
