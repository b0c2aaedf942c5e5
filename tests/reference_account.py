"""A slow account in plain Python ints and floats: the oracle the compiled kernel is compared with at every step.

Written from the rules, not from the kernel; it shares no code with `src.trading` and uses neither numpy nor numba.
Prices are integer ticks, money integer cents. The only places where floating-point arithmetic matters are

- distances: floor(x * atr + 0.5), the float32 ATR promoted to float64 (a Python float) before the product;
- the target distance: floor(target_r * risk + 0.5) in float64;
- rewards and observations: float64 throughout, rounded to float32 once at the very end.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from fractions import Fraction

HOLD, BUY, SELL, MOVE_TO_BE, ENABLE_TRAIL, DISABLE_TRAIL = range(6)
ACTIONS = 6

# Written out again on purpose: the oracle imports nothing it is meant to check.
ENTRY_ALLOWED, BREAK_AFTER, FLAT_BAR, DECISION, END_AFTER = 1, 2, 4, 8, 16

TRAIL_NONE, TRAIL_LIVE, TRAIL_END_OF_DAY, TRAIL_STATIC = 0, 1, 2, 3
BREACHED_BY_DRAWDOWN, BREACHED_BY_DAILY_LIMIT = 1, 2
BY_STOP, BY_TARGET, BY_OPPOSITE, BY_FLAT_BAR, BY_THRESHOLD, BY_DAILY_LIMIT, BY_HOLE = 1, 2, 3, 4, 5, 6, 7
NO_THRESHOLD_CENTS = -(2**62)

WINDOW_BARS, WINDOW_WIDTH, CONTEXT_WIDTH = 20, 11, 22
OBSERVATION_SIZE = WINDOW_BARS * WINDOW_WIDTH + 8 + CONTEXT_WIDTH + 5 + ACTIONS
assert OBSERVATION_SIZE == 261


@dataclass(frozen=True)
class ReferenceMarket:
    """The bars an account may walk over: one entry a bar, but `advice`: one row of six per situation and side."""

    open: list[int]
    high: list[int]
    low: list[int]
    close: list[int]
    flags: list[int]
    atr: list[float]
    window: list[list[float]] = field(default_factory=list)
    context: list[list[float]] = field(default_factory=list)
    situation: list[int] = field(default_factory=list)
    advice: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Fill what a scenario left out, and refuse bars or flags that no market table may contain."""
        n = len(self.open)
        _fill(self.window, n, [0.0] * WINDOW_WIDTH)
        _fill(self.context, n, [0.0] * CONTEXT_WIDTH)
        _fill(self.situation, n, 0)
        _fill(self.advice, 5 * (max(self.situation, default=0) + 1), [0.0] * ACTIONS)
        for t in range(n):
            if not self.low[t] <= min(self.open[t], self.close[t]) <= max(self.open[t], self.close[t]) <= self.high[t]:
                raise ValueError(f"bar {t}: open and close must lie between low and high")
            if not self.flags[t] & DECISION:
                continue
            last = t == n - 1
            if last and not self.flags[t] & BREAK_AFTER:
                raise ValueError(f"bar {t}: the last bar must be followed by a break")
            to_flat_bar = not last and not self.flags[t] & BREAK_AFTER and self.flags[t + 1] & FLAT_BAR
            if self.flags[t] & END_AFTER:
                if not (self.flags[t] & BREAK_AFTER or to_flat_bar):
                    raise ValueError(f"bar {t}: END_AFTER needs a break or the flat bar behind it")
            elif last or not self.flags[t + 1] & DECISION or to_flat_bar:
                raise ValueError(f"bar {t}: a decision bar that does not end the session must be followed by another")


@dataclass(frozen=True)
class ReferenceParams:
    """What never changes. `trail_mode`: 0 none, 1 live peak, 2 end of day, 3 static; `lock_mode`: 0 none, 1 at
    `lock_cents`.

    A ladder has up to four rungs, each a profit and the contracts from there on; one of 0 contracts does not exist."""

    contracts: int = 1
    tick_value_cents: int = 500
    commission_cents: int = 250
    slippage_ticks: int = 1
    stop_atr: float = 1.0
    target_r: float = 2.0
    trail_atr: float = 1.0
    target_through_ticks: int = 1
    reward_scale_cents: float = 10_000.0
    breach_penalty: float = 10.0
    max_episode_steps: int = 0
    start_balance_cents: int = 5_000_000
    trail_mode: int = TRAIL_NONE
    trail_cents: int = 0
    lock_mode: int = 0
    lock_cents: int = 0
    daily_limit_cents: int = 0
    target_cents: int = 0
    expiry_days: int = 0
    max_contracts: int = 100
    daily_breaches: int = 0
    consistency_bp: int = 0
    needed_days: int = 0
    day_profit_cents: int = 0
    ladder_cents_1: int = 0
    ladder_cents_2: int = 0
    ladder_cents_3: int = 0
    ladder_cents_4: int = 0
    ladder_contracts_1: int = 0
    ladder_contracts_2: int = 0
    ladder_contracts_3: int = 0
    ladder_contracts_4: int = 0

    @property
    def ladder(self) -> list[tuple[int, int]]:
        """(profit in cents, contracts) of each rung, the account without a profit first."""
        rungs = [(getattr(self, f"ladder_cents_{k}"), getattr(self, f"ladder_contracts_{k}")) for k in (1, 2, 3, 4)]
        return [(-(2**62), self.max_contracts), *(rung for rung in rungs if rung[1])]


@dataclass(frozen=True)
class StepResult:
    """What one step gave; `events` names what happened, for coverage counters, and the kernel has no such field."""

    reward: float
    terminated: bool
    truncated: bool
    events: tuple[str, ...] = ()


def float32(value: float) -> float:
    """Round a Python float to the nearest float32 (ties to even)."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def _fill(rows: list, count: int, row: object) -> None:
    if not rows:
        rows.extend(row.copy() if isinstance(row, list) else row for _ in range(count))


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _distance(multiple: float, atr: float) -> int:
    """At least one tick; halves are rounded up. `atr` is a float32 value held as a float64."""
    return max(1, math.floor(multiple * atr + 0.5))


class ReferenceAccount:
    """One account; fields carry the names of the kernel's record."""

    def __init__(self, market: ReferenceMarket, params: ReferenceParams) -> None:
        self.market = market
        self.params = params

    # ---------------------------------------------------------------- life cycle

    def reset(self, bar: int, balance_cents: int, peak_cents: int, days_left: int) -> None:
        """Stand flat at the close of `bar` with the given balance, peak and days."""
        self.bar = bar
        self.cash_cents = balance_cents
        self.peak_cents = peak_cents
        self.threshold_cents = self._threshold_of(peak_cents)
        self.day_start_cents = balance_cents
        self.best_day_cents = 0
        self.counted_days = 0
        self.day_over = 0
        self.days_left = days_left
        self.daily_locked = 0
        self.consecutive_losses = 0
        self.recent_wins = 0
        self.n_recent = 0
        self.n_trades = 0
        self.illegal_actions = 0
        self.steps = 0
        self.breached = 0
        self.target_reached = 0
        self.stop_in_bar_ticks = 0
        self._clear_position()
        self._forget_trade()

    def begin_next_session(self, bar: int) -> None:
        """Stand at the close of `bar` in another session: what belongs to one session begins anew, all else goes on."""
        self.bar = bar
        self.day_start_cents = self.cash_cents
        self.day_over = 0
        self.daily_locked = 0
        self.n_trades = 0
        self.illegal_actions = 0
        self.steps = 0
        self.stop_in_bar_ticks = 0
        self._forget_trade()

    def _forget_trade(self) -> None:
        """No trade has ended yet."""
        self.closed_position = self.closed_entry_bar = self.closed_entry_ticks = self.closed_target_ticks = 0
        self.exit_bar = self.exit_ticks = self.exit_reason = 0

    def _clear_position(self) -> None:
        self.position = 0
        self.entry_bar = 0
        self.entry_ticks = 0
        self.stop_ticks = 0
        self.target_ticks = 0
        self.risk_ticks = 0
        self.atr_ticks = 0.0
        self.extreme_ticks = 0
        self.trailing = 0
        self.bars_in_position = 0
        self.mfe_ticks = 0
        self.mae_ticks = 0
        self.entry_commission_cents = 0

    # ---------------------------------------------------------------- derived values

    @property
    def sign(self) -> int:
        return (self.position > 0) - (self.position < 0)

    @property
    def quantity(self) -> int:
        """Contracts an entry would trade."""
        profit = self.day_start_cents - self.params.start_balance_cents
        reached = [contracts for cents, contracts in self.params.ladder if profit >= cents]
        return min(self.params.contracts, reached[-1])

    def equity_cents(self, price_ticks: int) -> int:
        """Balance with the open position marked at a price; the cost of leaving it is not taken off."""
        return self.cash_cents + self.position * (price_ticks - self.entry_ticks) * self.params.tick_value_cents

    def _threshold_of(self, peak_cents: int) -> int:
        if self.params.trail_mode == TRAIL_NONE:
            return NO_THRESHOLD_CENTS
        if self.params.trail_mode == TRAIL_STATIC:
            return self.params.start_balance_cents - self.params.trail_cents
        threshold = peak_cents - self.params.trail_cents
        return min(threshold, self.params.lock_cents) if self.params.lock_mode else threshold

    def _break_even(self) -> tuple[int, int]:
        """A contract's round-turn cost less entry slippage (already in the price), and the stop covering it."""
        p = self.params
        cost_cents = 2 * p.commission_cents + p.slippage_ticks * p.tick_value_cents
        return cost_cents, self.entry_ticks + self.sign * -(-cost_cents // p.tick_value_cents)

    def _entries_allowed(self) -> bool:
        return bool(self.market.flags[self.bar] & ENTRY_ALLOWED) and not self.daily_locked and self.quantity >= 1

    def action_mask(self) -> list[bool]:
        """Which of the six actions are legal at the close of the account's bar."""
        mask = [False] * ACTIONS
        mask[HOLD] = True
        if self.position == 0:
            mask[BUY] = mask[SELL] = self._entries_allowed()
            return mask
        mask[SELL if self.position > 0 else BUY] = True
        mask[ENABLE_TRAIL] = not self.trailing
        mask[DISABLE_TRAIL] = bool(self.trailing)
        cost_cents, be_stop = self._break_even()
        gain_cents = self.sign * (self.market.close[self.bar] - self.entry_ticks) * self.params.tick_value_cents
        mask[MOVE_TO_BE] = gain_cents > cost_cents and self.sign * (self.stop_ticks - be_stop) < 0
        return mask

    # ---------------------------------------------------------------- one step

    def step(self, action: int) -> StepResult:
        """Decide at the close of bar t, live through bar t + 1."""
        market, params = self.market, self.params
        self._events: list[str] = []
        t = self.bar
        u = t + 1
        if not 0 <= action < ACTIONS or not self.action_mask()[action]:
            action = HOLD
            self.illegal_actions += 1
            self._events.append("illegal_action")
        equity_before = self.equity_cents(market.close[t])
        breached_before = self.breached
        self.steps += 1

        self._order_on_stop(action)

        broke = bool(market.flags[t] & BREAK_AFTER)
        session_ended = bool(market.flags[t] & END_AFTER)
        if broke:
            if self.position != 0:
                self._events.append("hole_exit")
                self._exit(t, market.close[t] - self.sign * params.slippage_ticks, BY_HOLE)
            elif action in (BUY, SELL):
                self._events.append("order_lost_in_hole")
        else:
            flat_bar = bool(market.flags[u] & FLAT_BAR)
            session_ended = session_ended or flat_bar
            was_flat = self.position == 0
            if not was_flat:
                self.stop_in_bar_ticks = self.stop_ticks
                self._at_open(action, u, flat_bar)
            elif action in (BUY, SELL) and not flat_bar:
                self._enter(1 if action == BUY else -1, t, u)
                self.stop_in_bar_ticks = self.stop_ticks
            if self.position != 0:
                self._inside_bar(u)

        if self.position == 0:
            self._check_rules_when_flat()

        breached_now = self.breached and not breached_before
        if breached_now:
            modes = {TRAIL_LIVE: "breach_live", TRAIL_END_OF_DAY: "breach_eod", TRAIL_STATIC: "breach_static"}
            by_day = self.breached == BREACHED_BY_DAILY_LIMIT
            self._events.append("breach_daily" if by_day else modes[params.trail_mode])
        # A flat account's equity does not depend on the price, so a broken step needs no mark.
        equity_after = self.cash_cents if self.position == 0 else self.equity_cents(market.close[u])
        reward = (equity_after - equity_before) / params.reward_scale_cents
        if breached_now:
            reward -= params.breach_penalty

        terminated = bool(self.breached) or session_ended
        if session_ended and not self.breached:
            self._end_session()
        truncated = not terminated and 0 < params.max_episode_steps <= self.steps
        if truncated:
            self._events.append("truncation")
        if not (broke and session_ended):
            self.bar = u
        return StepResult(float32(reward), terminated, truncated, tuple(self._events))

    def _order_on_stop(self, action: int) -> None:
        if action == MOVE_TO_BE:
            self.stop_ticks = self._break_even()[1]
            self._events.append("move_to_be")
        elif action == ENABLE_TRAIL:
            self.trailing = 1
            self._events.append("enable_trail")
            self._trail()
        elif action == DISABLE_TRAIL:
            self.trailing = 0
            self._events.append("disable_trail")

    def _trail(self) -> None:
        """Pull the stop behind the best completed-bar extreme; never loosen it."""
        distance = _distance(self.params.trail_atr, self.atr_ticks)
        level = self.extreme_ticks - self.sign * distance
        if self.sign * (level - self.stop_ticks) > 0:
            self.stop_ticks = level
            self._events.append("trail_move")

    def _at_open(self, action: int, u: int, flat_bar: bool) -> None:
        """The open of bar u for a position held from before: gaps, then the market order, then the forced exit."""
        sign, slip, price = self.sign, self.params.slippage_ticks, self.market.open[u]
        if sign * (price - self.stop_ticks) <= 0:
            self._events.append("stop_gap")
            self._exit(u, price - sign * slip, BY_STOP)
        elif sign * (price - self.target_ticks) >= self.params.target_through_ticks:
            self._events.append("target_gap")
            self._exit(u, self.target_ticks, BY_TARGET)
        elif action == (SELL if sign > 0 else BUY):
            self._events.append("close")
            self._exit(u, price - sign * slip, BY_OPPOSITE)
        elif flat_bar:
            self._events.append("forced_flat")
            self._exit(u, price - sign * slip, BY_FLAT_BAR)

    def _enter(self, sign: int, t: int, u: int) -> None:
        p = self.params
        self.entry_ticks = self.market.open[u] + sign * p.slippage_ticks
        self.entry_bar = u
        self.position = sign * self.quantity
        self.entry_commission_cents = p.commission_cents * self.quantity
        self.cash_cents -= self.entry_commission_cents
        self.atr_ticks = float32(self.market.atr[t])
        self.risk_ticks = _distance(p.stop_atr, self.atr_ticks)
        self.stop_ticks = self.entry_ticks - sign * self.risk_ticks
        self.target_ticks = self.entry_ticks + sign * _distance(p.target_r, float(self.risk_ticks))
        self.extreme_ticks = self.entry_ticks
        self._events.append("entry")

    def _levels(self) -> list[tuple[int, int, str]]:
        """(price, rank, name) of whatever closes the position on its adverse side; ties go to the lower rank."""
        p, sign, tick_cents = self.params, self.sign, self.params.tick_value_cents * abs(self.position)

        def price_at(floor_cents: int) -> int:
            # The price nearest to the market at which the equity is no longer above the floor: // rounds down.
            return self.entry_ticks + sign * ((floor_cents - self.cash_cents) // tick_cents)

        levels = [(self.stop_ticks, 2, "stop")]
        if p.trail_mode != TRAIL_NONE:
            levels.append((price_at(self.threshold_cents), 0, "threshold"))
        if p.daily_limit_cents > 0 and not self.daily_locked:
            levels.append((price_at(self.day_start_cents - p.daily_limit_cents), 1, "daily"))
        return levels

    def _inside_bar(self, u: int) -> None:
        p, sign = self.params, self.sign
        high, low = self.market.high[u], self.market.low[u]
        best, worst = (high, low) if sign > 0 else (low, high)
        target_filled = sign * (best - self.target_ticks) >= p.target_through_ticks
        entry_bar = self.bars_in_position == 0

        if p.trail_mode == TRAIL_LIVE:
            favourable = self.target_ticks if target_filled else best
            self.peak_cents = max(self.peak_cents, self.equity_cents(favourable))
            self.threshold_cents = self._threshold_of(self.peak_cents)

        level, _, name = min(self._levels(), key=lambda item: (-sign * item[0], item[1]))
        if sign * (worst - level) <= 0:
            self._events.append(name)
            if target_filled:
                self._events.append("both_in_bar")
            if entry_bar:
                self._events.append("entry_bar_exit")
            if name == "threshold":
                self.breached = BREACHED_BY_DRAWDOWN
            elif name == "daily":
                self._lock_day()
            open_ticks = self.market.open[u]
            worse = min(level, open_ticks) if sign > 0 else max(level, open_ticks)
            why = {"stop": BY_STOP, "threshold": BY_THRESHOLD, "daily": BY_DAILY_LIMIT}[name]
            self._exit(u, worse - sign * p.slippage_ticks, why)
        elif target_filled:
            self._events.append("target")
            if entry_bar:
                self._events.append("entry_bar_exit")
            self._exit(u, self.target_ticks, BY_TARGET)
        else:
            self.extreme_ticks = max(self.extreme_ticks, best) if sign > 0 else min(self.extreme_ticks, best)
            self.mfe_ticks = max(self.mfe_ticks, sign * (best - self.entry_ticks))
            self.mae_ticks = max(self.mae_ticks, -sign * (worst - self.entry_ticks))
            self.bars_in_position += 1
            if self.trailing:
                self._trail()

    def _exit(self, bar: int, price_ticks: int, reason: int) -> None:
        p = self.params
        self.closed_position, self.closed_entry_bar = self.position, self.entry_bar
        self.closed_entry_ticks, self.closed_target_ticks = self.entry_ticks, self.target_ticks
        self.exit_bar, self.exit_ticks, self.exit_reason = bar, price_ticks, reason
        pnl_cents = self.position * (price_ticks - self.entry_ticks) * p.tick_value_cents
        commission_cents = p.commission_cents * abs(self.position)
        self.cash_cents += pnl_cents - commission_cents
        trade_net_cents = pnl_cents - commission_cents - self.entry_commission_cents
        self.n_trades += 1
        win = trade_net_cents > 0
        if win:
            self.consecutive_losses = 0
        elif trade_net_cents < 0:
            self.consecutive_losses += 1
        self.recent_wins = (self.recent_wins * 2 + win) % 2**10
        self.n_recent = min(10, self.n_recent + 1)
        self._clear_position()

    def _lock_day(self) -> None:
        if not self.daily_locked:
            self.daily_locked = 1
            self._events.append("daily_lock")
        if self.params.daily_breaches and not self.breached:
            self.breached = BREACHED_BY_DAILY_LIMIT

    def _check_rules_when_flat(self) -> None:
        p = self.params
        if p.trail_mode != TRAIL_END_OF_DAY:
            self.peak_cents = max(self.peak_cents, self.cash_cents)
            self.threshold_cents = self._threshold_of(self.peak_cents)
        # The first rule to end the account is the one that did.
        if p.trail_mode != TRAIL_NONE and self.cash_cents <= self.threshold_cents and not self.breached:
            self.breached = BREACHED_BY_DRAWDOWN
        if p.daily_limit_cents > 0 and self.cash_cents <= self.day_start_cents - p.daily_limit_cents:
            self._lock_day()
        if p.target_cents > 0 and self.cash_cents >= p.start_balance_cents + p.target_cents:
            self.target_reached = 1

    def _end_session(self) -> None:
        if self.params.expiry_days > 0:
            self.days_left = max(0, self.days_left - 1)
        self.best_day_cents = max(self.best_day_cents, self._profit_today)
        self.counted_days += self._today_counts
        self.day_over = 1
        if self.params.trail_mode == TRAIL_END_OF_DAY:
            self.peak_cents = max(self.peak_cents, self.cash_cents)
            self.threshold_cents = self._threshold_of(self.peak_cents)
            self._events.append("session_end_eod")

    @property
    def _profit_today(self) -> int:
        return self.cash_cents - self.day_start_cents

    @property
    def _today_counts(self) -> bool:
        """A trading day is a session with a trade; where a firm asks for winning days, one that earned so much."""
        least = self.params.day_profit_cents
        return self.n_trades > 0 and (not least or self._profit_today >= least)

    def may_pass(self) -> bool:
        """Whether a flat account at its target passes now: best day below its share of the profit, days enough."""
        p = self.params
        profit = self.cash_cents - p.start_balance_cents
        best_day = max(self.best_day_cents, self._profit_today)
        consistent = not p.consistency_bp or Fraction(best_day) < Fraction(p.consistency_bp, 10_000) * profit
        days = self.counted_days + (0 if self.day_over else self._today_counts)
        return consistent and days >= p.needed_days

    # ---------------------------------------------------------------- observation

    def observation(self) -> list[float]:
        """The 261 float32 values at the close of the account's bar, window oldest bar first."""
        values: list[float] = []
        for row in range(self.bar - WINDOW_BARS + 1, self.bar + 1):
            values += self.market.window[row] if row >= 0 else [0.0] * WINDOW_WIDTH
        values += self._account_values()
        values += self.market.context[self.bar]
        values += self._risk_values()
        values += self._opinion()
        return [float32(value) for value in values]

    def _account_values(self) -> list[float]:
        p, sign = self.params, self.sign
        close = self.market.close[self.bar]
        equity = self.equity_cents(close)
        to_stop = to_target = 0.0
        if sign != 0:
            to_stop = self._in_atr(sign * (close - self.stop_ticks))
            to_target = self._in_atr(sign * (self.target_ticks - close))
        trail_buffer = 1.0
        if p.trail_mode != TRAIL_NONE:
            trail_buffer = _clip((equity - self.threshold_cents) / p.trail_cents, 0.0, 5.0)
        return [
            float(sign),
            to_stop,
            to_target,
            min(self.bars_in_position / 20, 5.0),
            float(self.trailing),
            self._size_share() if self._entries_allowed() else 0.0,
            trail_buffer,
            self._day_room(equity),
        ]

    def _size_share(self) -> float:
        """Contracts of an entry as a share of those on the ladder's highest rung."""
        most = max(contracts for _, contracts in self.params.ladder)
        return self.quantity / min(self.params.contracts, most)

    def _day_room(self, equity: int) -> float:
        """The nearer of two: the loss the daily limit still allows, and the profit that is still worth making today."""
        p, today = self.params, equity - self.day_start_cents
        rooms = []
        if p.daily_limit_cents > 0:
            rooms.append(_clip((today + p.daily_limit_cents) / p.daily_limit_cents, 0.0, 5.0))
        if p.consistency_bp > 0 and p.target_cents > 0:
            largest = max(p.consistency_bp * p.target_cents / 10_000, self.best_day_cents)
            rooms.append(_clip((largest - today) / largest, 0.0, 5.0))
        return min(rooms, default=1.0)

    def _in_atr(self, ticks: int) -> float:
        if self.atr_ticks <= 0.0:
            # Bars without any range: the limit of a vanishing ATR, so that the value stays finite.
            return 5.0 * ((ticks > 0) - (ticks < 0))
        return _clip(ticks / self.atr_ticks, -5.0, 5.0)

    def _risk_values(self) -> list[float]:
        p, sign = self.params, self.sign
        close = self.market.close[self.bar]
        unrealised = excursion = 0.0
        if sign != 0:
            unrealised = _clip(sign * (close - self.entry_ticks) / self.risk_ticks, -5.0, 5.0)
            excursion = _clip((self.mfe_ticks - self.mae_ticks) / self.risk_ticks, -5.0, 5.0)
        # 4% of the starting balance stands in for the trail where no rule gives one.
        scale_cents = float(p.trail_cents) if p.trail_mode != TRAIL_NONE else 0.04 * p.start_balance_cents
        drawdown = _clip((self.peak_cents - self.equity_cents(close)) / scale_cents, 0.0, 5.0)
        win_rate = bin(self.recent_wins).count("1") / self.n_recent if self.n_recent else 0.5
        return [unrealised, drawdown, min(self.consecutive_losses, 5) / 5, win_rate, excursion]

    def _side(self) -> int:
        close = self.market.close[self.bar]
        if self.position == 0:
            return 0
        if self.position > 0:
            return 1 if close > self.entry_ticks else 2
        return 3 if close < self.entry_ticks else 4

    def _opinion(self) -> list[float]:
        row = [float32(p) for p in self.market.advice[self.market.situation[self.bar] * 5 + self._side()]]
        mask = self.action_mask()
        legal_mass = 0.0
        for p, legal in zip(row, mask, strict=True):
            legal_mass += p if legal else 0.0
        if legal_mass < 1e-3:
            return [0.0] * ACTIONS
        return [max(p / legal_mass, 1e-6) if legal else 0.0 for p, legal in zip(row, mask, strict=True)]
