"""Evaluation: account i plays session i from its first tradable bar, once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from src.trading import kernel
from src.trading.accounts import AccountBlock
from src.trading.layout import N_OBS, N_SIDES
from src.trading.tape import Tape


class SessionBatch:
    """New accounts of the rule profile, one a session, stepped together until all sessions are over.

    `first_bars` int[n]: where each session begins. `reset()` brings back the state of a new object, so one may serve
    many policies in turn. With `with_tables=False` the context and opinion slices of the observation are left to the
    caller, who finds the rows in `bars()` and `situations()`.
    """

    def __init__(self, tape: Tape, params: np.ndarray, first_bars: Sequence[int] | np.ndarray) -> None:
        self.first_bars = np.asarray(first_bars, np.int64)
        self.n = len(self.first_bars)
        self._block = AccountBlock(tape, params, self.n)
        self.tape = tape
        self.obs = np.zeros((self.n, N_OBS), np.float32)
        self.over = np.zeros(self.n, np.bool_)
        self.rewards = np.zeros(self.n, np.float32)

    def reset(self, with_tables: bool = True) -> np.ndarray:
        """Begin every session; returns the observations float32[n, 261], a buffer that `step` overwrites."""
        self._with_tables = with_tables
        self.over[:] = False
        self.rewards[:] = 0.0
        for index, bar in enumerate(self.first_bars):
            self._block.begin_at(index, int(bar))
        self._block.observe(self.obs, with_tables)
        return self.obs

    def step(self, actions: np.ndarray) -> np.ndarray:
        """Step the sessions that are not over; `rewards`, `over`, `masks` and the observations are updated."""
        block, tape = self._block, self.tape
        kernel.step_sessions(
            block.accounts, np.ascontiguousarray(actions, np.int64), self.over, tape.prices, tape.flags, tape.atr_ticks,
            block.params, block.masks, self.rewards,
        )  # fmt: skip
        block.observe(self.obs, self._with_tables)
        return self.obs

    def close(self) -> None:
        """Nothing to release."""

    @property
    def accounts(self) -> np.ndarray:
        """The account records as they stand (a view)."""
        return self._block.accounts

    @property
    def masks(self) -> np.ndarray:
        """What is legal now, bool[n, 6] (a view)."""
        return self._block.masks

    def bars(self) -> np.ndarray:
        """The bar each account stands at, int32[n] (a view)."""
        return self._block.accounts["bar"]

    def equities_cents(self) -> np.ndarray:
        """Balance plus the open position at the last close, int64[n]."""
        a = self._block.accounts
        close = self.tape.prices[a["bar"], 3].astype(np.int64)
        tick_value = int(self._block.params[0]["tick_value_cents"])
        return a["cash_cents"] + a["position"].astype(np.int64) * (close - a["entry_ticks"]) * tick_value

    def situations(self) -> np.ndarray:
        """Market situation and account side as one number, int64[n]."""
        a = self._block.accounts
        close = self.tape.prices[a["bar"], 3]
        long, short = a["position"] > 0, a["position"] < 0
        side = np.where(long, np.where(close > a["entry_ticks"], 1, 2), 0)
        side = np.where(short, np.where(close < a["entry_ticks"], 3, 4), side)
        return self.tape.situation[a["bar"]].astype(np.int64) * N_SIDES + side
