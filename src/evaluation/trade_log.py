"""What an arm did bar by bar in a few sessions, for a price chart: trades, stops, and the advice it heard.

The account keeps no such record. It is taken from the account before and after each step, with the kernel's own
functions for where stop and target stood within the bar.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from src.advisor.table import NO_ADVICE, advised_action, confidence
from src.agent.market import Market
from src.evaluation.assembly import FeatureAssembly
from src.evaluation.playing import Arm, ArmResult, SessionPool, begin_count, decide, feed_of
from src.market.contracts import get_contract
from src.market.flags import BREAK_AFTER, END_AFTER, FLAT_BAR
from src.market.sessions import NEW_YORK
from src.market.units import MINUTE_NS
from src.trading import kernel
from src.trading.layout import BUY, HOLD, N_ACTIONS, SELL
from src.trading.session_batch import SessionBatch
from src.trading.tape import Tape

STOP, TARGET, OPPOSITE, FLAT = "stop", "target", "opposite", "flat"
BREACH, DAILY_LIMIT, HOLE = "breach", "daily limit", "hole in the bars"
REASONS = (STOP, TARGET, OPPOSITE, FLAT, BREACH, DAILY_LIMIT, HOLE)
"""Why a trade ended: its stop, its target, the opposite action, the forced exit, the account's threshold or daily limit
reached within the bar, or bars that do not continue."""

_OPEN, _HIGH, _LOW = range(3)


@dataclass(frozen=True)
class Trade:
    """One trade; bars are counted from the first of its session's log, prices are ticks, slippage included.

    `stops` holds (bar, ticks) for each bar from which on the stop stood there, the first at entry.
    """

    side: str
    contracts: int
    entry_bar: int
    entry_ticks: int
    exit_bar: int
    exit_ticks: int
    stops: tuple[tuple[int, int], ...]
    target_ticks: int
    exit_reason: str
    net_usd: float


@dataclass(frozen=True, eq=False)
class SessionLog:
    """One arm in one session, over the bars `first_bar` to `last_bar` (inclusive) of the tape, k in all.

    `opinions` float32[k, 6] is what the arm heard at the close of each bar, zeros where it heard nothing; `flat`
    bool[k] are the bars at which it decided without a position: there columns BUY and SELL are p_buy and p_sell.
    """

    first_bar: int
    last_bar: int
    net_usd: float
    breached: bool
    trades: tuple[Trade, ...]
    opinions: NDArray[np.float32]
    flat: NDArray[np.bool_]


@dataclass
class _Open:
    """A trade that has not ended."""

    side: str
    contracts: int
    entry_bar: int
    entry_ticks: int
    target_ticks: int
    stops: list[tuple[int, int]] = field(default_factory=list)

    def stop_at(self, bar: int, ticks: int) -> None:
        # What was trailed for this bar may be moved once more by an order before it.
        if self.stops and self.stops[-1][0] == bar:
            self.stops.pop()
        if not self.stops or self.stops[-1][1] != ticks:
            self.stops.append((bar, ticks))


class _Recorder:
    """Turns the steps of one account into a log."""

    def __init__(self, tape: Tape, params: np.void, first_bar: int) -> None:
        self._tape, self._params = tape, params
        self._first = first_bar
        last = last_bar_of(tape, first_bar)
        self._last = last
        self._open: _Open | None = None
        self._trades: list[Trade] = []
        self._opinions = np.zeros((last - first_bar + 1, N_ACTIONS), np.float32)
        self._flat = np.zeros(last - first_bar + 1, np.bool_)

    def step(self, before: np.void, action: int, opinion: NDArray[np.float32] | None, after: np.void) -> None:
        """Note one step; `before` is the caller's own copy and is overwritten."""
        at = int(before["bar"]) - self._first
        held = before["position"] != 0
        self._flat[at] = not held
        if opinion is not None:
            self._opinions[at] = opinion
        cash, commission = int(before["cash_cents"]), int(before["commission_paid_cents"])
        flat_cash = cash + int(before["entry_commission_cents"])
        if not self._put_in_bar(before, action):
            return
        within = before
        broken = bool(self._tape.flags[within["bar"]] & BREAK_AFTER)
        bar = at if broken else at + 1
        if self._open is None:
            names = ("position", "entry_ticks", "target_ticks")
            position, entry, target = (int(within[name]) for name in names)
            self._open = _Open("long" if position > 0 else "short", abs(position), bar, entry, target)
        if not broken:
            self._open.stop_at(bar, int(within["stop_ticks"]))
        if after["position"] != 0:
            self._open.stop_at(bar + 1, int(after["stop_ticks"]))
            return
        # What the exit brought, by the cent: the price it was filled at follows exactly.
        gross = int(after["cash_cents"]) - cash + int(after["commission_paid_cents"]) - commission
        tick_cents = int(within["position"]) * int(self._params["tick_value_cents"])
        exit_ticks = int(within["entry_ticks"]) + gross // tick_cents
        reason = self._reason(within, held, action, after, exit_ticks)
        self._close(bar, exit_ticks, reason, int(after["cash_cents"]) - flat_cash)

    def _close(self, bar: int, exit_ticks: int, reason: str, net_cents: int) -> None:
        """The open trade becomes one that has ended."""
        trade, self._open = self._open, None
        assert trade is not None
        # A stop that was trailed for a bar that never came.
        stops = tuple(stop for stop in trade.stops if stop[0] <= bar)
        self._trades.append(
            Trade(
                side=trade.side,
                contracts=trade.contracts,
                entry_bar=trade.entry_bar,
                entry_ticks=trade.entry_ticks,
                exit_bar=bar,
                exit_ticks=exit_ticks,
                stops=stops,
                target_ticks=trade.target_ticks,
                exit_reason=reason,
                net_usd=net_cents / 100.0,
            )
        )

    def log(self, account: np.void) -> SessionLog:
        """What was noted, of an account as it ended."""
        return SessionLog(
            first_bar=self._first,
            last_bar=self._last,
            net_usd=(int(account["cash_cents"]) - int(account["start_cash_cents"])) / 100.0,
            breached=bool(account["breached"]),
            trades=tuple(self._trades),
            opinions=self._opinions,
            flat=self._flat,
        )

    def _put_in_bar(self, account: np.void, action: int) -> bool:
        """Overwrite the account with its state in the next bar, orders filled; False if it has no position there."""
        if account["position"] != 0:
            kernel.order_stop(account, action, 1 if account["position"] > 0 else -1, self._params)
            return True
        bar, tape = int(account["bar"]), self._tape
        if action not in (BUY, SELL) or tape.flags[bar] & BREAK_AFTER or tape.flags[bar + 1] & FLAT_BAR:
            return False
        open_ticks = int(tape.prices[bar + 1, _OPEN])
        kernel.enter(account, 1 if action == BUY else -1, open_ticks, tape.atr_ticks[bar], self._params)
        return True

    def _reason(self, within: np.void, held: bool, action: int, after: np.void, exit_ticks: int) -> str:
        """Why the trade ended, in the kernel's order: the open gap, the market order, the forced exit, the bar."""
        tape, bar = self._tape, int(within["bar"])
        if tape.flags[bar] & BREAK_AFTER:
            return HOLE
        sign = 1 if within["position"] > 0 else -1
        stop, target = int(within["stop_ticks"]), int(within["target_ticks"])
        open_ticks = int(tape.prices[bar + 1, _OPEN])
        if held:
            if sign * (open_ticks - stop) <= 0:
                return STOP
            if sign * (open_ticks - target) >= int(self._params["target_through_ticks"]):
                return TARGET
            if action == (SELL if sign > 0 else BUY):
                return OPPOSITE
            if tape.flags[bar + 1] & FLAT_BAR:
                return FLAT
        if after["breached"]:
            return BREACH
        worst = int(tape.prices[bar + 1, _LOW if sign > 0 else _HIGH])
        level = exit_ticks + sign * int(self._params["slippage_ticks"])
        # Slippage may put an entry's stop beyond the open it was filled at; then the open is the fill.
        if sign * (worst - stop) <= 0 and level == sign * min(sign * stop, sign * open_ticks):
            return STOP
        return TARGET if exit_ticks == target else DAILY_LIMIT


def record(
    arms: Sequence[Arm], first_bars: NDArray[Any], pool: SessionPool, assembly: FeatureAssembly
) -> dict[str, list[SessionLog]]:
    """Play the sessions beginning at `first_bars` (int[n]) again with each arm and note everything: by arm, n logs.

    Each session is a new account, as in `evaluate`. An arm's advice counts restart; results that hold an
    earlier count keep it.
    """
    return {arm.name: _record_arm(arm, first_bars, pool, assembly) for arm in arms}


def _record_arm(arm: Arm, first_bars: NDArray[Any], pool: SessionPool, assembly: FeatureAssembly) -> list[SessionLog]:
    begin_count(arm)
    feed = feed_of(arm)
    env_id, lent = pool.acquire()
    try:
        batch: SessionBatch = lent
        batch.begin(first_bars)
        recorders = [_Recorder(batch.tape, batch.params, int(bar)) for bar in first_bars]
        while not batch.over.all():
            actions, opinions = decide(arm, batch, assembly, feed)
            before, alive = batch.accounts.copy(), np.flatnonzero(~batch.over)
            legal = batch.masks[np.arange(batch.n), actions]
            batch.step(actions)
            for i in alive:
                action = int(actions[i]) if legal[i] else HOLD
                recorders[i].step(before[i], action, None if opinions is None else opinions[i], batch.accounts[i])
        return [recorder.log(account) for recorder, account in zip(recorders, batch.accounts, strict=True)]
    finally:
        pool.release(env_id, lent)


def last_bar_of(tape: Tape, first_bar: int) -> int:
    """The last bar at which a session's account can still be filled: its flat bar, or the last before a hole."""
    end = first_bar + int(np.argmax((tape.flags[first_bar:] & END_AFTER) != 0))
    return end if tape.flags[end] & BREAK_AFTER else end + 1


def choose_sessions(result: ArmResult, most: int) -> list[tuple[int, str]]:
    """At most `most` sessions worth looking at, as places in the arm's result, each with the reason in words.

    The best, the worst and the median by net P&L and the one with most trades, in this order; the first of equals, the
    lower of two medians. One that is several of these is named once.
    """
    if not len(result.net_usd):
        return []
    order = np.argsort(result.net_usd, kind="stable")
    places = {
        "best": int(np.argmax(result.net_usd)),
        "worst": int(order[0]),
        "median": int(order[(len(order) - 1) // 2]),
        "most trades": int(np.argmax(result.n_trades)),
    }
    reasons: dict[int, list[str]] = {}
    for why, place in places.items():
        reasons.setdefault(place, []).append(why)
    return [(place, f"{', '.join(why)} of {result.name}") for place, why in reasons.items()][:most]


def chart_facts(market: Market, logs: Mapping[str, SessionLog], why: str) -> dict[str, Any]:
    """One session for the report's `sessions`, from each arm's log of it: bars, trades, and advice by bar.

    Advice is the likeliest legal action and its confidence; -1 where there was none.
    """
    log = next(iter(logs.values()))
    tables, span = market.tables, slice(log.first_bar, log.last_bar + 1)
    date = tables.sessions.date[tables.bars.session_id[log.first_bar]]
    midnight_ns = pd.Timestamp(str(date), tz=NEW_YORK).as_unit("ns").value
    columns = dict(zip(("open_ticks", "high_ticks", "low_ticks", "close_ticks"), tables.prices[span].T, strict=True))
    return {
        "date": str(date),
        "why": why,
        "tick_size": float(get_contract(tables.bars.market).tick_size),
        "minute": ((tables.bars.open_ns[span] - midnight_ns) // MINUTE_NS).tolist(),
        **{name: column.tolist() for name, column in columns.items()},
        "arms": {name: _arm_facts(of_arm) for name, of_arm in logs.items()},
    }


def _arm_facts(log: SessionLog) -> dict[str, Any]:
    trades = [{**asdict(trade), "stops": [list(stop) for stop in trade.stops]} for trade in log.trades]
    facts: dict[str, Any] = {"net_usd": log.net_usd, "trades": trades}
    if log.opinions.any():
        # A legal action has a probability above zero, so the opinion is its own mask.
        legal = log.opinions > 0
        actions = np.where(legal.any(axis=1), advised_action(log.opinions, legal), NO_ADVICE)
        facts["advice"] = {
            "action": actions.tolist(),
            "confidence": np.round(confidence(log.opinions, legal).astype(np.float64), 3).tolist(),
        }
    return facts
