"""Evaluation batch: account i trades session i once, from its first tradable bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from src.trading import kernel
from src.trading.accounts import AccountBlock
from src.trading.layout import N_OBS
from src.trading.tape import Tape


class SessionBatch:
    """New accounts of the rule profile, one per session, stepped together until all sessions are over.

    `begin(first_bars)` starts them and clears everything from before, so one object can serve many policies in turn. An
    account that spans several sessions is taken out (a copy of its record) and passed in again. With
    `with_tables=False` the caller fills the context and opinion slices of the observation, using `bars` and
    `situations` for the rows.
    """

    def __init__(self, tape: Tape, params: np.ndarray, with_tables: bool = True) -> None:
        self.tape = tape
        self._params = params
        self.with_tables = with_tables
        self.reset()

    def reset(self, *, seed: int | None = None) -> None:
        """Reset to no sessions. `seed` has no effect, since evaluation draws nothing; environment pools pass one."""
        self._resize(0)

    def begin(self, first_bars: Sequence[int] | np.ndarray, carried: np.ndarray | None = None) -> np.ndarray:
        """Begin a session at each of `first_bars` (int[n]); returns the observations float32[n, 261], a buffer.

        Without `carried` every account is new. With it, the accounts ACCOUNT[n] continue from the end of an earlier
        session (`AccountBlock.carry_on`); they may come from other rows.
        """
        if carried is not None and len(carried) != len(first_bars):
            raise ValueError(f"{len(carried)} accounts cannot begin {len(first_bars)} sessions")
        if len(first_bars) != self.n:
            self._resize(len(first_bars))
        self.over[:] = False
        self.rewards[:] = 0.0
        self.obs[:] = 0.0
        if carried is None:
            self._block.begin_all(first_bars)
        else:
            self._block.carry_on(carried, first_bars)
        self._block.observe(self.obs, self.with_tables)
        return self.obs

    def _resize(self, n: int) -> None:
        self.n = n
        self._block = AccountBlock(self.tape, self._params, n)
        self.obs = np.zeros((n, N_OBS), np.float32)
        self.over = np.zeros(n, np.bool_)
        self.rewards = np.zeros(n, np.float32)

    def step(self, actions: np.ndarray) -> np.ndarray:
        """Step the sessions that are not over; `rewards`, `over`, `masks` and the observations are updated."""
        block = self._block
        chosen = np.ascontiguousarray(actions, np.int64)
        if chosen.shape != (self.n,):
            raise ValueError(f"actions of shape {chosen.shape} for {self.n} sessions")
        kernel.step_sessions(
            self.tape.arrays, block.params, block.accounts, block.masks, self.over, block.distances, chosen,
            self.rewards,
        )  # fmt: skip
        block.observe(self.obs, self.with_tables)
        return self.obs

    def close(self) -> None:
        """Nothing to release."""

    @property
    def arrays(self) -> tuple[Any, ...]:
        """What a kernel that plays whole sessions needs: the tape's arrays, constants PARAMS[1], accounts ACCOUNT[n],
        masks bool[n, 6], `over` and distances int32[bars, 3]. It leaves the observations behind: `begin` writes them
        again."""
        block = self._block
        return self.tape.arrays, self._params, block.accounts, block.masks, self.over, block.distances

    @property
    def accounts(self) -> np.ndarray:
        """The current account records (a view)."""
        return self._block.accounts

    @property
    def params(self) -> np.void:
        """The constants of every account: one `PARAMS` record."""
        return self._params[0]

    @property
    def masks(self) -> np.ndarray:
        """What is legal now, bool[n, 6] (a view)."""
        return self._block.masks

    def bars(self) -> np.ndarray:
        """Each account's current bar, int32[n] (a view)."""
        return self._block.accounts["bar"]

    def equities_cents(self) -> np.ndarray:
        """Balance plus the open position at the last close, int64[n]."""
        return kernel.equities_of(self.accounts, self.tape.prices, self._params)

    def situations(self) -> np.ndarray:
        """Market situation and account side as one number, int64[n]."""
        return kernel.situations_of(self.accounts, self.tape.prices, self.tape.situation)

    def risks(self) -> np.ndarray:
        """Share of the drawdown buffer used (below 0 at a new high) and recent win rate, float64[n, 2]."""
        return kernel.risks_of(self.accounts, self.tape.prices, self._params)
