"""Arms on the same sessions: every policy, control and fusion steps through the same bars in lockstep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from src.evaluation.arms import AdviceUse, AdvisedArm, Arm, begin_count, feed_of
from src.evaluation.assembly import AdviceFeed, FeatureAssembly
from src.evaluation.trade_list import ArmTrades, TradeBook
from src.trading.session_batch import SessionBatch
from src.trading.tape import Tape


class SessionPool(Protocol):
    """What evaluation asks of an environment pool."""

    def acquire(self) -> tuple[int, Any]: ...

    def release(self, env_id: int, env: Any = None) -> None: ...


class FreshBatches:
    """A pool that builds a new batch each time: for accounts under constants that no other evaluation has."""

    def __init__(self, tape: Tape, params: NDArray[np.void]) -> None:
        self._tape, self._params = tape, params

    def acquire(self) -> tuple[int, SessionBatch]:
        """A new batch."""
        return -1, SessionBatch(self._tape, self._params, with_tables=False)

    def release(self, env_id: int, env: Any = None) -> None:
        """Nothing to keep."""


@dataclass
class ArmResult:
    """One arm's sessions: every array has one entry a session. Money is US dollars after costs unless named gross.

    `gross_win_usd` and `gross_loss_usd` are the sums of the winning and of the losing trades' net P&L, both as positive
    numbers: their difference is `net_usd`, their ratio over sessions the profit factor.
    """

    name: str
    net_usd: NDArray[np.float64]
    gross_usd: NDArray[np.float64]
    commission_usd: NDArray[np.float64]
    slippage_usd: NDArray[np.float64]
    max_drawdown_usd: NDArray[np.float64]
    gross_win_usd: NDArray[np.float64]
    gross_loss_usd: NDArray[np.float64]
    n_trades: NDArray[np.int64]
    n_wins: NDArray[np.int64]
    bars: NDArray[np.int64]
    bars_exposed: NDArray[np.int64]
    breached: NDArray[np.bool_]
    daily_locked: NDArray[np.bool_]
    target_reached: NDArray[np.bool_]
    illegal_actions: int
    actions: dict[int, int] = field(default_factory=dict)
    advice: AdviceUse | None = None


class Tally:
    """What of an arm's sessions no account keeps: drawdown, gains and losses of trades, actions taken."""

    def __init__(self, batch: SessionBatch) -> None:
        self.fall_cents = np.zeros(batch.n, np.int64)
        self.win_cents = np.zeros(batch.n, np.int64)
        self.loss_cents = np.zeros(batch.n, np.int64)
        self.actions = np.zeros(batch.masks.shape[1], np.int64)
        self._peak_cents = batch.equities_cents().copy()
        self._flat_cents = batch.accounts["cash_cents"].copy()

    def step(self, batch: SessionBatch, actions: NDArray[np.int64], trades: ArmTrades | None = None) -> None:
        """Step the batch and count. At most one trade ends in a step, also where it began in it."""
        self.actions += np.bincount(actions[~batch.over], minlength=len(self.actions))
        batch.step(actions)
        equity = batch.equities_cents()
        np.maximum(self._peak_cents, equity, out=self._peak_cents)
        np.maximum(self.fall_cents, self._peak_cents - equity, out=self.fall_cents)
        # From flat to flat the balance changes by one trade, its commissions included, or by none.
        accounts = batch.accounts
        net = np.where(accounts["position"] == 0, accounts["cash_cents"] - self._flat_cents, 0)
        self._flat_cents += net
        self.win_cents += np.maximum(net, 0)
        self.loss_cents -= np.minimum(net, 0)
        if trades is not None:
            trades.stepped(batch, net)


def decide(
    arm: Arm, batch: SessionBatch, assembly: FeatureAssembly, feed: AdviceFeed | None
) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
    """Assemble an arm's context and advice (`feed_of` the arm) and ask it: actions int64[n], and what it heard."""
    assembly.write_context(batch)
    opinions = assembly.opinions(batch, feed) if arm.sees_advice else None
    return arm.act(batch, opinions), opinions


def evaluate(
    arms: Sequence[Arm],
    first_bars: NDArray[Any],
    pool: SessionPool,
    assembly: FeatureAssembly,
    progress: Callable[[int], None] | None = None,
    trades: TradeBook | None = None,
) -> dict[str, ArmResult]:
    """Play the sessions beginning at `first_bars` (int[n]) once with every arm, all arms a bar at a time.

    `pool` lends a `SessionBatch` made with `with_tables=False`. Each session is a new account of the rule profile.
    `trades` takes every trade.
    """
    for arm in arms:
        begin_count(arm)
    lent = [pool.acquire() for _ in arms]
    try:
        batches: list[SessionBatch] = [batch for _, batch in lent]
        for batch in batches:
            batch.begin(first_bars)
        tallies = [Tally(batch) for batch in batches]
        feeds = [feed_of(arm) for arm in arms]
        kept: Sequence[ArmTrades | None] = [None] * len(arms) if trades is None else trades.arms(batches)
        steps = 0
        while not all(batch.over.all() for batch in batches):
            for i, (arm, batch, tally, feed) in enumerate(zip(arms, batches, tallies, feeds, strict=True)):
                if not batch.over.all():
                    tally.step(batch, decide(arm, batch, assembly, feed)[0], kept[i])
            if trades is not None:
                trades.check_size()
            steps += 1
            if progress is not None:
                progress(steps)
        return {arm.name: _result(arm, batch, tally) for arm, batch, tally in zip(arms, batches, tallies, strict=True)}
    finally:
        for env_id, batch in lent:
            pool.release(env_id, batch)


def _result(arm: Arm, batch: SessionBatch, tally: Tally) -> ArmResult:
    a = batch.accounts.copy()
    net = (a["cash_cents"] - a["start_cash_cents"]) / 100.0
    commission, slippage = a["commission_paid_cents"] / 100.0, a["slippage_paid_cents"] / 100.0
    return ArmResult(
        name=arm.name,
        net_usd=net,
        gross_usd=net + commission + slippage,
        commission_usd=commission,
        slippage_usd=slippage,
        max_drawdown_usd=tally.fall_cents / 100.0,
        gross_win_usd=tally.win_cents / 100.0,
        gross_loss_usd=tally.loss_cents / 100.0,
        n_trades=a["n_trades"].astype(np.int64),
        n_wins=a["n_wins"].astype(np.int64),
        bars=a["steps"].astype(np.int64),
        bars_exposed=a["bars_exposed"].astype(np.int64),
        breached=a["breached"].astype(np.bool_),
        daily_locked=a["daily_locked"].astype(np.bool_),
        target_reached=a["target_reached"].astype(np.bool_),
        illegal_actions=int(a["illegal_actions"].sum()),
        actions={code: int(count) for code, count in enumerate(tally.actions)},
        advice=arm.advice_use if isinstance(arm, AdvisedArm) else None,
    )
