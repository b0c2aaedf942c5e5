"""What an arm did bar by bar in a few sessions, for a price chart: trades, stops, and the advice it heard.

Trades, reasons and stops are read from the account's record after each step; the kernel writes them as it fills.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from src.advisor.table import NO_ADVICE, advised_action, confidence
from src.agent.market import Market
from src.evaluation.arms import Arm, begin_count, feed_of
from src.evaluation.assembly import FeatureAssembly
from src.evaluation.playing import ArmResult, SessionPool, decide
from src.market.contracts import get_contract
from src.market.flags import BREAK_AFTER, END_AFTER
from src.market.sessions import NEW_YORK
from src.market.units import MINUTE_NS
from src.trading.layout import EXIT_REASONS, N_ACTIONS
from src.trading.session_batch import SessionBatch
from src.trading.tape import Tape


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


class _Recorder:
    """Turns the steps of one account into a log."""

    def __init__(self, tape: Tape, account: np.void) -> None:
        self._first = int(account["bar"])
        self._last = last_bar_of(tape, self._first)
        self._flat_cents = int(account["cash_cents"])
        self._stops: list[tuple[int, int]] = []
        self._trades: list[Trade] = []
        self._opinions = np.zeros((self._last - self._first + 1, N_ACTIONS), np.float32)
        self._flat = np.zeros(self._last - self._first + 1, np.bool_)

    def decided(self, account: np.void, opinion: NDArray[np.float32] | None) -> None:
        """Note a decision of the account as it is before the step."""
        at = int(account["bar"]) - self._first
        self._flat[at] = account["position"] == 0
        if opinion is not None:
            self._opinions[at] = opinion

    def stepped(self, account: np.void) -> None:
        """Note what the step did to the account's position."""
        ended = int(account["n_trades"]) > len(self._trades)
        if account["position"] == 0 and not ended:
            return
        bar, stop = int(account["exit_bar" if ended else "bar"]) - self._first, int(account["stop_in_bar_ticks"])
        if not self._stops or self._stops[-1][1] != stop:
            self._stops.append((bar, stop))
        if ended:
            self._close(account)

    def _close(self, account: np.void) -> None:
        """The trade that the account's record holds has ended."""
        position, cash_cents = int(account["closed_position"]), int(account["cash_cents"])
        self._trades.append(
            Trade(
                side="long" if position > 0 else "short",
                contracts=abs(position),
                entry_bar=int(account["closed_entry_bar"]) - self._first,
                entry_ticks=int(account["closed_entry_ticks"]),
                exit_bar=int(account["exit_bar"]) - self._first,
                exit_ticks=int(account["exit_ticks"]),
                stops=tuple(self._stops),
                target_ticks=int(account["closed_target_ticks"]),
                exit_reason=EXIT_REASONS[account["exit_reason"]],
                # From flat to flat the balance changes by one trade, its commissions included.
                net_usd=(cash_cents - self._flat_cents) / 100.0,
            )
        )
        self._stops, self._flat_cents = [], cash_cents

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
        recorders = [_Recorder(batch.tape, account) for account in batch.accounts]
        while not batch.over.all():
            actions, opinions = decide(arm, batch, assembly, feed)
            alive = np.flatnonzero(~batch.over)
            for i in alive:
                recorders[i].decided(batch.accounts[i], None if opinions is None else opinions[i])
            batch.step(actions)
            for i in alive:
                recorders[i].stepped(batch.accounts[i])
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
