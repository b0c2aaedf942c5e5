"""Look-ahead in what a decision reads, and in how its orders fill.

Every usable session is played twice with the same random legal actions: on the market's own rows, and on rows of which
only those up to the decision bar are true. At each decision, whatever the account, its mask, its observation, its
situation and its advice are made of must be equal to the bit, in training's layout and in evaluation's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from src.advisor.situations import N_SITUATIONS
from src.advisor.table import LABEL_SETS, AdviceTable, freeze_table
from src.agent.market import Market
from src.evaluation.assembly import FeatureAssembly
from src.evaluation.leak_words import DECISIONS, FILLS
from src.evaluation.look_ahead import LeakCheck, time_of
from src.market.flags import BREAK_AFTER, DECISION, END_AFTER, ENTRY_ALLOWED, FLAT_BAR
from src.trading.gym_env import TradingEnv
from src.trading.layout import (
    ACCOUNT,
    ACCOUNT_RISK,
    ACCOUNT_STATE,
    BUY,
    CLOSE,
    CONTEXT,
    HIGH,
    LOW,
    N_ACTIONS,
    N_SIDES,
    OPEN,
    OPINION,
    SELL,
    TRAIL_NONE,
    WINDOW,
    WINDOW_BARS,
)
from src.trading.session_batch import SessionBatch
from src.trading.tape import Tape
from src.trading.vec_env import BatchedTradingVecEnv

_ROWS = ("prices", "flags", "atr_ticks", "window", "context", "situation")
_SLICES = {
    "window": WINDOW,
    "account state": ACCOUNT_STATE,
    "context": CONTEXT,
    "account risk": ACCOUNT_RISK,
    "opinion": OPINION,
}
FILL_ENVS, FILL_SINGLES, FILL_BARS = 64, 8, 4_000
FILL_GAP_TICKS, FILL_WICK_TICKS, FILL_ATR_TICKS = 9, 3, 10_000
"""The next bar opens up to so far from the close, has such wicks, and stop and target are far away."""


def probe_table(seed: int) -> AdviceTable:
    """Advice that is another in every situation, so that a foreign situation shows."""
    rng = np.random.default_rng(seed)
    weights = rng.random((N_SITUATIONS, N_ACTIONS)) * LABEL_SETS[np.arange(N_SITUATIONS) % N_SIDES]
    shares = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return freeze_table(shares, np.ones(N_SITUATIONS, bool), "probe", f"leak probe {seed}")


def check_decisions(market: Market, seed: int = 0) -> LeakCheck:
    """Whether observation, mask, advice or rule state at a decision depend on later bars."""
    usable = np.flatnonzero(market.tables.sessions.usable)
    table = probe_table(seed)
    decisions, found = 0, ""
    # Every other session at a time: what follows one is hidden, and the next one's window reaches back into it.
    for sessions in (usable[::2], usable[1::2]):
        if len(sessions) and not found:
            compared, found = _Replay(market, table, sessions, seed).compare()
            decisions += compared
    return LeakCheck(DECISIONS, decisions, found)


class _Replay:
    """Sessions played on true rows and on rows that are uncovered bar by bar."""

    def __init__(self, market: Market, table: AdviceTable, sessions: NDArray[np.int64], seed: int) -> None:
        self._bars = market.tables.bars
        self._first = market.first_bars(sessions.astype(np.int32))
        self._draws = np.random.default_rng(seed).random(len(self._bars))
        self._true = market.tape(table)
        rows = {name: getattr(self._true, name).copy() for name in _ROWS}
        _hide(rows, _later_rows(self._first, len(self._bars)), np.random.default_rng(seed + 1))
        self._rows = rows
        self._hidden = Tape(**rows, advice=self._true.advice, starts=self._true.starts)
        self._batches = [SessionBatch(tape, market.session_params) for tape in (self._true, self._hidden)]
        self._assemblies = [FeatureAssembly(context, table) for context in (self._true.context, rows["context"])]

    def compare(self) -> tuple[int, str]:
        """Decisions compared, and the first that read a later bar."""
        true, _ = self._batches
        for batch in self._batches:
            batch.begin(self._first)
        compared = 0
        while not true.over.all():
            live = np.flatnonzero(~true.over)
            compared += len(live)
            if words := self._difference(live):
                return compared, words
            rank = np.floor(self._draws[true.bars()] * true.masks.sum(axis=1))
            actions = (true.masks.cumsum(axis=1) > rank[:, np.newaxis]).argmax(axis=1)
            self._uncover(true.bars()[live] + 1)
            for batch in self._batches:
                batch.step(actions)
        return compared, ""

    def _uncover(self, bars: NDArray[np.int32]) -> None:
        within = bars[bars < len(self._bars)]
        for name, array in self._rows.items():
            array[within] = getattr(self._true, name)[within]
        self._hidden.remake_distances(within)

    def _difference(self, live: NDArray[np.int64]) -> str:
        seen = [list(_seen(*pair, live)) for pair in zip(self._batches, self._assemblies, strict=True)]
        for (what, true), (_, hidden) in zip(*seen, strict=True):
            unlike = _unlike_rows(true, hidden)
            if unlike.any():
                at = int(np.argmax(unlike))
                bar = int(self._batches[0].bars()[live[at]])
                return f"the {what} of a decision at bar {bar} ({time_of(self._bars, bar)}) is made of later bars"
        return ""


def _later_rows(first: NDArray[np.int32], n: int) -> NDArray[np.int64]:
    """The rows after each first decision that no window of the next session played reaches, int64[k]."""
    stops = np.append(first[1:] - WINDOW_BARS, n)
    return np.concatenate([np.arange(begin + 1, stop) for begin, stop in zip(first, stops, strict=True)])


def _hide(rows: dict[str, NDArray], later: NDArray[np.int64], rng: np.random.Generator) -> None:
    """Put other values into these rows: none of them is the true one."""
    n = len(later)
    moved = rng.integers(500, 2_000, n) * rng.choice([-1, 1], n)
    rows["prices"][later] = np.maximum(rows["prices"][later] + moved[:, np.newaxis], 1)
    rows["flags"][later] ^= np.uint8(ENTRY_ALLOWED)  # the others say where a session ends: they come from the calendar
    rows["atr_ticks"][later] = rows["atr_ticks"][later] * 2 + 1
    for name in ("window", "context"):
        shape = rows[name][later].shape
        rows[name][later] = rows[name][later] + rng.uniform(0.5, 1.0, shape).astype(np.float32)
    count = N_SITUATIONS // N_SIDES
    rows["situation"][later] = (rows["situation"][later] + rng.integers(1, count, n)) % count


def _seen(batch: SessionBatch, assembly: FeatureAssembly, live: NDArray[np.int64]) -> Iterator[tuple[str, NDArray]]:
    """What a decision reads of each live account, by name: arrays with a row an account."""
    for name in ACCOUNT.names or ():
        yield f"rule state ({name})", batch.accounts[name][live, np.newaxis].copy()
    yield "equity", batch.equities_cents()[live, np.newaxis].copy()
    yield "mask", batch.masks[live].copy()
    yield "situation", batch.situations()[live, np.newaxis].copy()
    for name, part in _SLICES.items():
        yield f"observation ({name})", batch.obs[live, part].copy()
    assembly.write_context(batch)
    yield "observation (context, as evaluation assembles it)", batch.obs[live, CONTEXT].copy()
    yield "advice (as evaluation assembles it)", assembly.opinions(batch)[live].copy()


def _unlike_rows(one: NDArray, other: NDArray) -> NDArray[np.bool_]:
    left, right = (np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1) for array in (one, other))
    return (left != right).any(axis=1)


# ---------------------------------------------------------------- fills


@dataclass(frozen=True)
class _Staged:
    """A tape whose bars after each decision are known: `entry_ticks` and `exit_ticks` are where orders must fill."""

    tape: Tape
    params: NDArray[np.void]
    bars: NDArray[np.int64]
    signs: NDArray[np.int64]

    def side(self, bar: int) -> int:
        """+1 where the order at this bar is BUY, -1 where it is SELL."""
        return int(self.signs[np.searchsorted(self.bars, bar)])


def check_fills(market: Market, seed: int = 0) -> LeakCheck:
    """Whether a market order decided at a bar fills at the next bar's open and slippage, and at no other price.

    The bars that follow a decision are replaced by ones that open away from its close and have wicks, stop and target
    are out of reach, and the decision bar itself has a range that would reach both: an entry and the order that closes
    it are filled in each of the three ways an account is stepped.
    """
    staged = _staged(market, seed)
    if not len(staged.bars):
        return LeakCheck(FILLS, 0)
    fills = 0
    ways: Sequence[Callable[[_Staged], Iterator[tuple[int, int, np.void, np.void]]]] = (
        _by_session,
        _in_training,
        _one_by_one,
    )
    for way in ways:
        for bar, sign, entered, closed in way(staged):
            fills += 2
            words = _wrong_entry(staged, bar, sign, entered) or _wrong_exit(staged, bar, sign, entered, closed)
            if words:
                return LeakCheck(FILLS, fills, words)
    return LeakCheck(FILLS, fills)


def _staged(market: Market, seed: int) -> _Staged:
    rng = np.random.default_rng(seed)
    true = market.tape(probe_table(seed))
    bars = _with_two_bars_after(true.flags)
    if len(bars) > FILL_BARS:
        bars = np.sort(rng.choice(bars, FILL_BARS, replace=False))
    prices, atr = true.prices.astype(np.int64), np.full(len(true.atr_ticks), FILL_ATR_TICKS, np.float32)
    # The lowest price that a bar below may need: two gaps and the stop's distance stay far above zero.
    prices += max(0, 100 * FILL_GAP_TICKS - int(prices.min(initial=10**6)))
    for step in (1, 2):
        gap = rng.integers(FILL_WICK_TICKS + 2, FILL_GAP_TICKS + 1, len(bars)) * rng.choice([-1, 1], len(bars))
        opens = prices[bars + step - 1, CLOSE] + gap
        prices[bars + step, OPEN] = opens
        prices[bars + step, CLOSE] = opens + rng.choice([-2, -1, 1, 2], len(bars))
        prices[bars + step, HIGH] = opens + FILL_WICK_TICKS
        prices[bars + step, LOW] = opens - FILL_WICK_TICKS
    reach = 3 * FILL_ATR_TICKS
    prices[bars, HIGH] += reach
    prices[bars, LOW] -= np.minimum(reach, prices[bars, LOW] - 1)
    tape = Tape(
        prices=prices,
        flags=true.flags,
        atr_ticks=atr,
        window=true.window,
        context=true.context,
        situation=true.situation,
        advice=true.advice,
        starts=bars,
    )
    params = market.session_params.copy()
    params["trail_mode"], params["daily_limit_cents"], params["target_cents"] = TRAIL_NONE, 0, 0
    params["contracts"] = np.maximum(params["contracts"], 1)
    return _Staged(tape, params, bars, rng.choice([-1, 1], len(bars)))


def _with_two_bars_after(flags: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Bars at which an account may enter, and close at the next one, three bars apart at least; int64[k]."""
    plain = ((flags & DECISION) != 0) & ((flags & (BREAK_AFTER | END_AFTER | FLAT_BAR)) == 0)
    may = plain[:-2] & plain[1:-1] & ((flags[2:] & FLAT_BAR) == 0) & ((flags[:-2] & ENTRY_ALLOWED) != 0)
    chosen, last = [], -3
    for bar in np.flatnonzero(may).tolist():
        if bar - last >= 3:
            chosen.append(bar)
            last = bar
    return np.array(chosen, np.int64)


def _by_session(staged: _Staged) -> Iterator[tuple[int, int, np.void, np.void]]:
    """(bar, sign, account after the entry, account after the close) of each staged bar, as evaluation steps."""
    batch = SessionBatch(staged.tape, staged.params, with_tables=False)
    batch.begin(staged.bars)
    batch.step(np.where(staged.signs > 0, BUY, SELL))
    entered = batch.accounts.copy()
    batch.step(np.where(staged.signs > 0, SELL, BUY))
    closed = batch.accounts.copy()
    yield from zip(staged.bars.tolist(), staged.signs.tolist(), entered, closed, strict=True)


def _in_training(staged: _Staged) -> Iterator[tuple[int, int, np.void, np.void]]:
    """The same as training steps: episodes begin at staged bars."""
    n = min(FILL_ENVS, len(staged.bars))
    with closing(BatchedTradingVecEnv(staged.tape, staged.params, n)) as env:
        env.reset()
        bars = _accounts(env)["bar"].tolist()
        signs = np.array([staged.side(bar) for bar in bars])
        env.step(np.where(signs > 0, BUY, SELL))
        entered = _accounts(env)
        env.step(np.where(signs > 0, SELL, BUY))
        yield from zip(bars, signs.tolist(), entered, _accounts(env), strict=True)


def _accounts(env: BatchedTradingVecEnv) -> NDArray[np.void]:
    return env.get_state()["accounts"].view(ACCOUNT)[:, 0]


def _one_by_one(staged: _Staged) -> Iterator[tuple[int, int, np.void, np.void]]:
    """The same as one gymnasium environment steps."""
    env = TradingEnv(staged.tape, staged.params)
    for bar in staged.bars[:FILL_SINGLES].tolist():
        sign = staged.side(bar)
        env.reset(options={"bar": bar})
        after = []
        for action in (BUY, SELL)[::sign]:
            env.step(action)
            after.append(env.get_state()["account"].view(ACCOUNT)[0])
        yield bar, sign, after[0], after[1]


def _wrong_entry(staged: _Staged, bar: int, sign: int, entered: np.void) -> str:
    slippage = int(staged.params[0]["slippage_ticks"])
    if int(np.sign(entered["position"])) != sign or int(entered["bar"]) != bar + 1:
        return (
            f"an order to enter at the close of bar {bar} leaves position {entered['position']} at bar "
            f"{entered['bar']}: it fills at the open of bar {bar + 1} and is still open at its close"
        )
    return _wrong_price(staged, bar, int(entered["entry_ticks"]) - sign * slippage)


def _wrong_exit(staged: _Staged, bar: int, sign: int, entered: np.void, closed: np.void) -> str:
    p = staged.params[0]
    size = abs(int(entered["position"]))
    if int(closed["position"]) != 0:
        return f"an order to close at bar {bar + 1} leaves position {closed['position']} at bar {closed['bar']}"
    gained = int(closed["cash_cents"]) - int(entered["cash_cents"]) + int(p["commission_cents"]) * size
    ticks = gained / (int(p["tick_value_cents"]) * size)
    price = int(entered["entry_ticks"]) + sign * ticks + sign * int(p["slippage_ticks"])
    return _wrong_price(staged, bar + 1, price)


def _wrong_price(staged: _Staged, bar: int, price: float) -> str:
    opened, closed = (int(staged.tape.prices[row, column]) for row, column in ((bar + 1, 0), (bar, 3)))
    if price == opened:
        return ""
    where = " (the decision bar's own close)" if price == closed else ""
    return (
        f"an order decided at the close of bar {bar} fills at {price:g} ticks before slippage{where}: the next bar "
        f"opens at {opened}"
    )
