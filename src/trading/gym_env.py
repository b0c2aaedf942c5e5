"""One account as a gymnasium environment: the kernel over a batch of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from src.market.flags import DECISION
from src.trading import kernel
from src.trading.accounts import AccountBlock, episode_summary
from src.trading.layout import ACCOUNT, N_ACTIONS, N_OBS, PARAMS
from src.trading.tape import Tape

ENV_ID = "FuturesTrading-v0"
OBS_LIMIT = 5.0
"""Bound of every feature; the space is finite so that checkers and wrappers can sample it."""


def observation_space() -> spaces.Box:
    """float32[261] in [-5, 5]."""
    return spaces.Box(-OBS_LIMIT, OBS_LIMIT, (N_OBS,), np.float32)


def action_space() -> spaces.Discrete:
    """HOLD, BUY, SELL, MOVE_TO_BE, ENABLE_TRAIL, DISABLE_TRAIL."""
    return spaces.Discrete(N_ACTIONS)


class TradingEnv(gym.Env[np.ndarray, np.int64]):
    """One account over a tape, or over a folder written by `Tape.save` (mapped read-only, for worker processes).

    `reset(seed=s)` restarts the account's random sequence; without a seed the next episode of the sequence begins.
    `reset(options={"bar": b})` starts a new account of the rule profile at the close of bar b instead. An illegal
    action is treated as HOLD and counted in `info["illegal_actions"]`.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  (gymnasium's own declaration)

    def __init__(self, tape: Tape | str | Path, params: np.ndarray, seed: int = 0) -> None:
        self.observation_space = observation_space()
        self.action_space = action_space()
        self.render_mode = None
        self._block = AccountBlock(tape if isinstance(tape, Tape) else Tape.load(Path(tape)), check_params(params), 1)
        self._block.seed(0, seed)
        self._obs = np.zeros((1, N_OBS), np.float32)
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; see the class."""
        super().reset(seed=seed)
        if seed is not None:
            self._block.seed(0, seed)
        if options and "bar" in options:
            self._block.begin_at(0, int(options["bar"]))
            self._block.observe(self._obs)
        else:
            self._block.begin_training_episodes(self._obs)
        self._over = False
        return self._obs[0].copy(), {}

    def step(self, action: np.int64 | int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One timestep; on the last one `info["episode"]` summarizes the episode, and a reset must follow."""
        if self._over:
            raise gym.error.ResetNeeded("the episode is over or has not started: call reset() before step()")
        block = self._block
        tape = block.tape
        account = block.accounts[0]
        reward, ending = kernel.step_account(
            account,
            int(action),
            tape.prices,
            tape.flags,
            tape.atr_ticks,
            block.distances,
            block.params[0],
            block.masks[0],
        )
        block.observe(self._obs)
        info: dict[str, Any] = {"illegal_actions": int(account["illegal_actions"])}
        if ending:
            self._over = True
            info["episode"] = episode_summary(account)
        terminated, truncated = ending == kernel.TERMINATED, ending == kernel.TRUNCATED
        return self._obs[0].copy(), float(reward), terminated, truncated, info

    def action_masks(self) -> np.ndarray:
        """What is legal now, bool[6]."""
        return self._block.masks[0].copy()

    def get_state(self) -> dict[str, np.ndarray]:
        """A snapshot: the account record, uint8[]."""
        return {"account": self._block.accounts.view(np.uint8).copy()}

    def set_state(self, state: dict[str, np.ndarray]) -> np.ndarray:
        """Restore a snapshot of `get_state` taken on the same tape; returns the observation float32[261]."""
        raw = np.ascontiguousarray(state["account"], np.uint8)
        if raw.size != ACCOUNT.itemsize:
            raise ValueError(f"an account's state has {ACCOUNT.itemsize} bytes, this one {raw.size}")
        self._block.restore(raw.view(ACCOUNT))
        self._block.observe(self._obs)
        account = self._block.accounts[0]
        self._over = bool(account["breached"]) or not self._block.tape.flags[account["bar"]] & DECISION
        return self._obs[0].copy()


def check_params(params: np.ndarray) -> np.ndarray:
    """`params` itself when it is a `PARAMS` array of length 1, else ValueError."""
    if params.dtype != PARAMS or params.shape != (1,):
        raise ValueError(f"params must be a structured array of one PARAMS record, not {params.dtype} {params.shape}")
    return params


if ENV_ID not in gym.registry:
    gym.register(id=ENV_ID, entry_point="src.trading.gym_env:TradingEnv")
