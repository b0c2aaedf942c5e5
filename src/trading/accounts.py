"""A block of accounts over one tape: the arrays the kernel works on, and the kernel calls with the tape filled in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit

from src.market.flags import DECISION
from src.splitmix import mix64
from src.trading import kernel
from src.trading.layout import ACCOUNT, N_ACTIONS, N_OBS
from src.trading.tape import Tape

CARRIED = ("consecutive_losses", "recent_wins", "n_recent", "target_reached", "best_day_cents", "counted_days")
"""Fields an account carries into its next session besides balance, peak and days left."""


class AccountBlock:
    """`n` accounts, their masks bool[n, 6] and the final records of ended ones; training episodes auto-restart.

    Account i's random sequence depends on its own seed alone, not on the number of accounts.
    """

    def __init__(self, tape: Tape, params: np.ndarray, n: int) -> None:
        self.tape = tape
        self.params = params
        self.distances = tape.distances(params)
        self.accounts = np.zeros(n, ACCOUNT)
        self.masks = np.zeros((n, N_ACTIONS), np.bool_)
        self.endings = np.zeros(n, np.uint8)
        self.last_accounts = np.zeros(n, ACCOUNT)
        self.last_obs = np.zeros((n, N_OBS), np.float32)
        self.last_masks = np.zeros((n, N_ACTIONS), np.bool_)
        self.arrays = (
            self.accounts, self.masks, self.endings, self.last_accounts, self.last_obs, self.last_masks, self.distances,
        )  # fmt: skip

    def seed(self, index: int, seed: int) -> None:
        """Set one account's random seed and restart its sequence."""
        # Mixed once here, so that adjacent seeds do not give correlated sequences.
        self.accounts["key"][index] = mix64(np.uint64(seed & 0xFFFFFFFFFFFFFFFF))
        self.accounts["episode"][index] = 0

    def begin_training_episodes(self, obs: np.ndarray) -> None:
        """Begin every account's next episode and write its first observation into `obs` (float32[n, 261])."""
        if not len(self.tape.starts):
            raise ValueError("the tape has no bar where a training episode may begin")
        kernel.reset_batch(self.accounts, self.tape.starts, self.params)
        self.observe(obs)

    def begin_at(self, index: int, bar: int) -> None:
        """Start a new account of the rule profile at `bar`. Raises ValueError if that is no DECISION bar."""
        self._check_begin(np.array([bar]))
        p = self.params[0]
        start = p["start_balance_cents"]
        kernel.reset_account(self.accounts[index], bar, start, start, p["expiry_days"], p)

    def begin_all(self, bars: Sequence[int] | np.ndarray) -> None:
        """The same for every account, at `bars`, int[n]."""
        p, n = self.params[0], len(self.accounts)
        start, days = np.full(n, p["start_balance_cents"]), np.full(n, p["expiry_days"])
        _reset_all(self.accounts, self._check_begin(bars), start, start, days, self.params)

    def carry_on(self, ended: np.ndarray, bars: Sequence[int] | np.ndarray) -> None:
        """Begin the next session of accounts that ended one: `ended` ACCOUNT[n], `bars` int[n].

        Balance, peak, threshold, days left and the trade record carry over. The daily lock is cleared, the daily limit
        counts from today's balance, and session counts (trades, costs, steps) restart at zero. Raises ValueError for
        an account that is breached or not flat: it has no next session.
        """
        if np.any(ended["position"] != 0) or np.any(ended["breached"] != 0):
            at = int(np.argmax((ended["position"] != 0) | (ended["breached"] != 0)))
            raise ValueError(
                f"account {at} cannot continue: it ended with position {ended['position'][at]} and breached "
                f"{bool(ended['breached'][at])}, but must be flat and not breached"
            )
        # Copy first: `ended` may be the array that is written to.
        kept = ended.copy()
        self.accounts[:] = kept
        balances, peaks, days = (kept[name].astype(np.int64) for name in ("cash_cents", "peak_cents", "days_left"))
        _reset_all(self.accounts, self._check_begin(bars), balances, peaks, days, self.params)
        for name in CARRIED:
            self.accounts[name] = kept[name]

    def _check_begin(self, bars: Sequence[int] | np.ndarray) -> np.ndarray:
        # Compiled code does not check bounds: a bar beyond the tape would read arbitrary memory.
        given, n = np.asarray(bars, np.int64), len(self.tape.flags)
        may = (given >= 0) & (given < n)
        may[may] = (self.tape.flags[given[may]] & DECISION) != 0
        if not may.all():
            raise ValueError(f"an account cannot begin at bar {given[~may][0]} of {n}: it is no DECISION bar")
        return given

    def restore(self, accounts: np.ndarray) -> None:
        """Restore a snapshot of all records, `ACCOUNT`[n]. Raises ValueError for one taken on a longer tape."""
        bars, n = accounts["bar"], len(self.tape.flags)
        if np.any((bars < 0) | (bars >= n)):
            raise ValueError(f"state with an account at bar {bars.max()}, but the tape has {n}: taken on another tape")
        self.accounts[:] = accounts

    def observe(self, obs: np.ndarray, with_tables: bool = True) -> None:
        """Write the current masks and observations of every account."""
        kernel.observe_batch(self.tape.arrays, self.params, self.accounts, self.masks, obs, with_tables)

    def step(self, actions: np.ndarray, obs: np.ndarray, rewards: np.ndarray) -> int:
        """Step every account; write into `obs` and `rewards`; return how many ended (see `endings`, `last_*`)."""
        return kernel.step_batch(self.tape.arrays, self.params, self.arrays, actions, obs, rewards)


@njit(cache=True)
def _reset_all(accounts, bars, balances_cents, peaks_cents, days, params):  # type: ignore[no-untyped-def]
    for i in range(len(accounts)):
        kernel.reset_account(accounts[i], bars[i], balances_cents[i], peaks_cents[i], days[i], params[0])


def episode_summary(account: np.void) -> dict[str, Any]:
    """Summary of an ended episode for SB3 and the logs, from the account's final record.

    `r` and `l` are SB3's names for the episode's reward sum and length. `episode_summaries` makes many at once.
    """
    net_cents = int(account["cash_cents"]) - int(account["start_cash_cents"])
    return {
        "r": float(account["reward_sum"]),
        "l": int(account["steps"]),
        "net_usd": net_cents / 100.0,
        "n_trades": int(account["n_trades"]),
        "n_wins": int(account["n_wins"]),
        "breached": bool(account["breached"]),
        "illegal_actions": int(account["illegal_actions"]),
    }


def episode_summaries(accounts: np.ndarray) -> list[dict[str, Any]]:
    """The `episode_summary` of every final record, `ACCOUNT`[n], in a fraction of the time."""
    net_usd = (accounts["cash_cents"] - accounts["start_cash_cents"]) / 100.0
    columns = {
        "r": accounts["reward_sum"],
        "l": accounts["steps"],
        "net_usd": net_usd,
        "n_trades": accounts["n_trades"],
        "n_wins": accounts["n_wins"],
        "breached": accounts["breached"] != 0,
        "illegal_actions": accounts["illegal_actions"],
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]
