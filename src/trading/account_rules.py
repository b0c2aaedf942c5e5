"""What a firm's rules make of one account, compiled: threshold, daily limit, contracts, days, and what a pass needs.

`kernel.py` calls these where an account changes; here is no price and no order. Money is integer cents and shares are
basis points, so no float decides anything; only the two shares that an account observes are floats.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from src.trading.layout import (
    BREACH_BY_DAILY_LIMIT,
    BREACH_BY_DRAWDOWN,
    LOCK_AT_LEVEL,
    NO_THRESHOLD_CENTS,
    TRAIL_END_OF_DAY,
    TRAIL_NONE,
    TRAIL_STATIC,
)

BASIS_POINTS = 10_000


@njit(cache=True)
def threshold_of(peak_cents, p):
    """The balance at which the account is breached, int64 cents."""
    if p.trail_mode == TRAIL_NONE:
        return NO_THRESHOLD_CENTS
    if p.trail_mode == TRAIL_STATIC:
        return p.start_balance_cents - p.trail_cents
    threshold = peak_cents - p.trail_cents
    if p.lock_mode == LOCK_AT_LEVEL:
        threshold = min(threshold, p.lock_cents)
    return threshold


@njit(cache=True)
def _limit_at(profit_cents, p):
    """Most contracts at a profit: that of the highest rung reached. Rungs rise; one of 0 contracts does not exist."""
    limit = p.max_contracts
    if p.ladder_contracts_1 > 0:
        if profit_cents >= p.ladder_cents_1:
            limit = p.ladder_contracts_1
        if p.ladder_contracts_2 > 0 and profit_cents >= p.ladder_cents_2:
            limit = p.ladder_contracts_2
        if p.ladder_contracts_3 > 0 and profit_cents >= p.ladder_cents_3:
            limit = p.ladder_contracts_3
        if p.ladder_contracts_4 > 0 and profit_cents >= p.ladder_cents_4:
            limit = p.ladder_contracts_4
    return limit


@njit(cache=True)
def contracts_of(a, p):
    """Contracts that an entry trades; a ladder goes by the profit with which the session began."""
    return min(p.contracts, _limit_at(a.day_start_cents - p.start_balance_cents, p))


@njit(cache=True)
def size_share(a, p):
    """Contracts that an entry trades as a share of those on the highest rung, float64; 1 without a ladder."""
    size = contracts_of(a, p)
    if p.ladder_contracts_1 == 0 or size < 1:
        return 1.0
    full = min(p.contracts, max(p.max_contracts, _limit_at(-NO_THRESHOLD_CENTS, p)))
    return size / full


@njit(cache=True)
def day_room(a, equity, p):
    """How far the day is from where a rule of the day changes what it is worth, float64 from 0 to 5; 1 without such a
    rule, and at the start of a day.

    Under a daily limit it is the loss still allowed, as a share of the limit. Under a consistency rule it is the profit
    still worth making today, as a share of the largest day that leaves the target as it is (or of the best day so far,
    if that is larger already). Under both it is the nearer one: the one falls with a loss, the other with a profit.
    """
    room = 1.0
    if p.daily_limit_cents > 0:
        room = min(max((equity - (a.day_start_cents - p.daily_limit_cents)) / p.daily_limit_cents, 0.0), 5.0)
    if p.consistency_bp > 0 and p.target_cents > 0:
        largest = max(p.consistency_bp * p.target_cents / 10_000.0, np.float64(a.best_day_cents))
        left = min(max((largest - (equity - a.day_start_cents)) / largest, 0.0), 5.0)
        room = min(room, left) if p.daily_limit_cents > 0 else left
    return room


@njit(cache=True)
def hit_daily_limit(a, p):
    """The daily loss limit is reached: no entry until the next session, or the end of the account."""
    a.daily_locked = 1
    if p.daily_breaches != 0 and a.breached == 0:
        a.breached = BREACH_BY_DAILY_LIMIT


@njit(cache=True)
def settle(a, p):
    """Apply the rules to a flat account's balance, after all exits of a step."""
    if p.trail_mode != TRAIL_END_OF_DAY:
        a.peak_cents = max(a.peak_cents, a.cash_cents)
        a.threshold_cents = threshold_of(a.peak_cents, p)
    if p.trail_mode != TRAIL_NONE and a.cash_cents <= a.threshold_cents and a.breached == 0:
        a.breached = BREACH_BY_DRAWDOWN
    if p.daily_limit_cents > 0 and a.cash_cents <= a.day_start_cents - p.daily_limit_cents:
        hit_daily_limit(a, p)
    if p.target_cents > 0 and a.cash_cents >= p.start_balance_cents + p.target_cents:
        a.target_reached = 1


@njit(cache=True)
def _day_counts(a, p):
    """1 if the session so far counts as a day: a trade of it ended, and its profit is at least what a day asks for."""
    if a.n_trades == 0:
        return 0
    return 1 if p.day_profit_cents == 0 or a.cash_cents - a.day_start_cents >= p.day_profit_cents else 0


@njit(cache=True)
def end_session(a, p):
    """What the end of a session changes in an account that is not breached."""
    if p.expiry_days > 0:
        a.days_left = max(0, a.days_left - 1)
    a.best_day_cents = max(a.best_day_cents, a.cash_cents - a.day_start_cents)
    a.counted_days += _day_counts(a, p)
    a.day_over = 1
    if p.trail_mode == TRAIL_END_OF_DAY:
        a.peak_cents = max(a.peak_cents, a.cash_cents)
        a.threshold_cents = threshold_of(a.peak_cents, p)


@njit(cache=True)
def may_pass(a, p):
    """Whether rules beyond the target let a flat account pass now: its best day is below its share of the profit, and
    enough days count. Today is a day as well."""
    if p.consistency_bp > 0:
        best = max(a.best_day_cents, a.cash_cents - a.day_start_cents)
        if best * BASIS_POINTS >= p.consistency_bp * (a.cash_cents - p.start_balance_cents):
            return False
    today = 0 if a.day_over == 1 else _day_counts(a, p)
    return p.needed_days == 0 or a.counted_days + today >= p.needed_days


@njit(cache=True)
def has_passed(a, goal_cents, p):
    """Whether an account is flat with `goal_cents` or more, and may pass."""
    return a.position == 0 and a.cash_cents >= goal_cents and may_pass(a, p)


@njit(cache=True)
def passes_of(accounts, goal_cents, params):
    """`has_passed` of every account, bool[n]."""
    out = np.empty(len(accounts), np.bool_)
    for i in range(len(accounts)):
        out[i] = has_passed(accounts[i], goal_cents, params[0])
    return out
