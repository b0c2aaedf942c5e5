"""Arms that take given actions, and the slow account living through them, for tests of what evaluation writes down."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

import numpy as np
from numpy.typing import NDArray

from src.trading.layout import HOLD
from src.trading.session_batch import SessionBatch
from src.trading.tape import Tape
from tests.reference_account import ReferenceAccount, ReferenceMarket, ReferenceParams
from tests.strategies import walk_of
from tests.trading import kernel_adapter
from tests.trading.test_carried_accounts import first_bars_of


class Scripted:
    """Takes the actions it was given, session by session; illegal ones too."""

    name, sees_advice = "scripted", False

    def __init__(self, actions: list[list[int]]) -> None:
        self._actions = actions

    def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
        made = batch.accounts["steps"]
        return np.array([row[made[i]] if made[i] < len(row) else HOLD for i, row in enumerate(self._actions)], np.int64)


@dataclass(frozen=True)
class SlowTrade:
    """A trade of the slow account; bars are counted from the session's first."""

    entry_bar: int
    exit_bar: int
    net_cents: int
    events: tuple[str, ...]
    breached: bool


@dataclass
class SlowSession:
    """A session of the slow account: the actions it took, illegal ones too, its trades, and how it ended."""

    first_bar: int
    account: ReferenceAccount
    actions: list[int] = field(default_factory=list)
    trades: list[SlowTrade] = field(default_factory=list)


@dataclass(frozen=True)
class SlowRun:
    """Every session of a random market, each played once by a new slow account."""

    market: ReferenceMarket
    params: ReferenceParams
    sessions: list[SlowSession]

    @property
    def first_bars(self) -> NDArray[np.int64]:
        return np.array([session.first_bar for session in self.sessions])

    @property
    def tape(self) -> Tape:
        return kernel_adapter.tape_of(self.market)

    @property
    def record(self) -> np.ndarray:
        """The kernel's constants."""
        record = kernel_adapter.params_of(self.params)
        record.setflags(write=False)
        return record

    @property
    def arm(self) -> Scripted:
        return Scripted([session.actions for session in self.sessions])


def slow_run(seed: int, longest: int) -> SlowRun:
    """Four sessions of a random market under random rules, with random actions."""
    rng = Random(seed)
    walk = walk_of(rng, sessions=4, longest=longest)
    params = replace(walk.params, max_episode_steps=0)
    sessions = []
    for first in first_bars_of(walk.market):
        account = ReferenceAccount(walk.market, params)
        account.reset(first, params.start_balance_cents, params.start_balance_cents, params.expiry_days)
        session = SlowSession(first, account)
        entry_bar = entry_cents = 0
        over = False
        while not over:
            action = walk.action(account.action_mask())
            bar, cash, traded = account.bar - first, account.cash_cents, account.n_trades
            result = account.step(action)
            session.actions.append(action)
            over = result.terminated
            if "entry" in result.events:
                entry_bar, entry_cents = bar + 1, cash
            if account.n_trades > traded:
                exit_bar = bar if "hole_exit" in result.events else bar + 1
                net = account.cash_cents - entry_cents
                session.trades.append(SlowTrade(entry_bar, exit_bar, net, result.events, bool(account.breached)))
        sessions.append(session)
    return SlowRun(walk.market, params, sessions)
