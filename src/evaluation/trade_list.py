"""Every trade of an evaluation, a row each: what the exports of a run are made of.

An account's record holds the last trade that ended; at most one ends in a step.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from src.files import write_atomically
from src.trading.session_batch import SessionBatch

MOST_TRADES = 1_000_000
"""Trades kept of one evaluation: a spreadsheet takes 1,048,576 rows, and they are about 50 MB."""
TRADE = np.dtype(
    [
        ("arm", np.int32),  # place among the arms of the evaluation
        ("session", np.int32),  # place among its sessions
        ("contracts", np.int32),  # signed: above zero for a long position
        ("entry_bar", np.int32),
        ("entry_ticks", np.int32),  # fills, slippage included
        ("exit_bar", np.int32),
        ("exit_ticks", np.int32),
        ("exit_reason", np.int32),  # of EXIT_REASONS
        ("net_cents", np.int64),
        ("commission_cents", np.int64),
        ("slippage_cents", np.int64),
    ]
)
"""One trade. Bars are those of the tape; money is in US cents."""
_OF_ACCOUNT = {
    "contracts": "closed_position",
    "entry_bar": "closed_entry_bar",
    "entry_ticks": "closed_entry_ticks",
    "exit_bar": "exit_bar",
    "exit_ticks": "exit_ticks",
    "exit_reason": "exit_reason",
}


class ArmTrades:
    """The trades of one arm, in the order in which they end. `batch` has begun its sessions and taken no step."""

    def __init__(self, arm: int, batch: SessionBatch) -> None:
        self._arm = arm
        self._n_trades = batch.accounts["n_trades"].copy()
        self._costs = {name: batch.accounts[name].copy() for name in ("commission_paid_cents", "slippage_paid_cents")}
        self._parts: list[NDArray[np.void]] = []
        self.n = 0

    def stepped(self, batch: SessionBatch, net_cents: NDArray[np.int64]) -> None:
        """Note the trades that ended in a step; `net_cents` int64[n] is what each session's balance gained by its."""
        accounts = batch.accounts
        ended = np.flatnonzero(accounts["n_trades"] != self._n_trades)
        if not len(ended):
            return
        of = accounts[ended]
        rows = np.zeros(len(ended), TRADE)
        rows["arm"], rows["session"], rows["net_cents"] = self._arm, ended, net_cents[ended]
        for name, column in _OF_ACCOUNT.items():
            rows[name] = of[column]
        for name, paid in self._costs.items():
            rows[name.replace("_paid", "")] = of[name] - paid[ended]
            paid[ended] = of[name]
        self._n_trades[ended] = of["n_trades"]
        self._parts.append(rows)
        self.n += len(ended)

    def rows(self) -> NDArray[np.void]:
        """All of them by session, each session's in time order, TRADE[k]."""
        rows = np.concatenate(self._parts) if self._parts else np.zeros(0, TRADE)
        return rows[np.argsort(rows["session"], kind="stable")]


class TradeBook:
    """The trades of all arms of an evaluation. Beyond `most` those of the last arms are dropped, whole arms at a time,
    so that what is kept is complete."""

    def __init__(self, most: int = MOST_TRADES) -> None:
        self._most = most
        self._of_arms: list[ArmTrades | None] = []

    def arms(self, batches: Sequence[SessionBatch]) -> Sequence[ArmTrades | None]:
        """Begin the lists of an evaluation; an entry becomes None where the arm is dropped."""
        self._of_arms = [ArmTrades(i, batch) for i, batch in enumerate(batches)]
        return self._of_arms

    def check_size(self) -> None:
        """Drop the last arms until the rest fits."""
        while sum(of.n for of in self._of_arms if of is not None) > self._most:
            last = max(i for i, of in enumerate(self._of_arms) if of is not None)
            self._of_arms[last] = None

    @property
    def dropped(self) -> list[int]:
        """Places of the arms whose trades are not kept."""
        return [i for i, of in enumerate(self._of_arms) if of is None]

    def rows(self) -> NDArray[np.void]:
        """TRADE[k], by arm, session and time."""
        kept = [of.rows() for of in self._of_arms if of is not None]
        return np.concatenate(kept) if kept else np.zeros(0, TRADE)


def save_trades(rows: NDArray[np.void], path: Path) -> None:
    """Write TRADE[k] as an .npy file, atomically."""
    content = io.BytesIO()
    np.save(content, rows, allow_pickle=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())


def load_trades(path: Path) -> NDArray[np.void]:
    """The trades that `save_trades` wrote. ValueError for a file of something else."""
    rows = np.load(path, allow_pickle=False)
    if rows.dtype != TRADE:
        raise ValueError(f"{path} holds {rows.dtype}, not trades")
    return rows
