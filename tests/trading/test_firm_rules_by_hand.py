"""The firms' rules on paths worked by hand from their texts: every figure is derived above it, never read off a run.

No costs and no slippage; NQ at 500 cents a tick, so a day of `+300` ticks earns $1,500 with one contract. Stops and
targets are far away. Both the slow account and the compiled kernel must give every figure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from src.market.sessions import trading_days_within
from src.trading.rules import load_rule_profile
from tests.reference_account import (
    BREAK_AFTER,
    BUY,
    DECISION,
    END_AFTER,
    ENTRY_ALLOWED,
    FLAT_BAR,
    HOLD,
    SELL,
    ReferenceAccount,
    ReferenceMarket,
    ReferenceParams,
)
from tests.trading.kernel_adapter import KernelAccount

FREE = ReferenceParams(commission_cents=0, slippage_ticks=0, stop_atr=1000.0, target_r=1000.0)
START = 5_000_000
Account = Any
OPEN = ENTRY_ALLOWED | DECISION


def days_of(*ticks: int | tuple[int, int, int]) -> ReferenceMarket:
    """A session a day: in at 10,000, out at 10,000 + ticks; or (low, high, out) of the bar in between, all relative."""
    bars, flags = [], []
    for day in ticks:
        low, high, out = day if isinstance(day, tuple) else (min(day, 0), max(day, 0), day)
        low, high, out = 10_000 + low, 10_000 + high, 10_000 + out
        bars += [(10_000,) * 4, (10_000, high, low, out), (out,) * 4, (out,) * 4]
        flags += [OPEN, OPEN, OPEN | END_AFTER, FLAT_BAR | BREAK_AFTER]
    columns = [list(column) for column in zip(*bars, strict=True)]
    return ReferenceMarket(*columns, flags=flags, atr=[10.0] * len(bars))


@pytest.fixture(params=[ReferenceAccount, KernelAccount])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def params_of(profile: str, **changes: Any) -> ReferenceParams:
    """A shipped profile's constants on the costless account."""
    return replace(FREE, **{**load_rule_profile(profile).to_params_fields(), "contracts": 1, **changes})


def begin(kind: Any, params: ReferenceParams, *ticks: int | tuple[int, int, int]) -> Account:
    account = kind(days_of(*ticks), params)
    account.reset(0, params.start_balance_cents, params.start_balance_cents, params.expiry_days)
    return account


def trade(account: Account, day: int, trades: bool = True) -> None:
    """Live through a day: buy at the first close, sell at the second, or do nothing."""
    if day:
        account.begin_next_session(4 * day)
    for action in (BUY, SELL, HOLD) if trades else (HOLD, HOLD, HOLD):
        if account.step(action).terminated:
            return


def lived(kind: Any, params: ReferenceParams, *ticks: int | tuple[int, int, int]) -> Account:
    account = begin(kind, params, *ticks)
    for day in range(len(ticks)):
        trade(account, day)
    return account


def goal(account: Account, params: ReferenceParams) -> bool:
    """Whether it passes now: at its target, and nothing stands against it."""
    return account.cash_cents >= params.start_balance_cents + params.target_cents and account.may_pass()


# Consistency: "best day under 50% of the profit at the moment of passing; a breach of it delays the pass".


def test_a_best_day_of_half_the_profit_delays_the_pass_and_ends_nothing(kind: Any) -> None:
    params = params_of("topstep_50k_2026_11")
    # +300 and +300 ticks: $1,500 + $1,500 = $3,000, the target. The best day is exactly 50%, which is not under 50%.
    account = lived(kind, params, 300, 300)
    assert (account.cash_cents, account.best_day_cents, account.target_reached) == (START + 300_000, 150_000, 1)
    assert not goal(account, params)
    assert not account.breached
    # A third day of +1 tick: $3,005, half of it $1,502.50, above the best day's $1,500.
    assert goal(lived(kind, params, 300, 300, 1), params)


def test_a_single_day_never_passes_under_a_consistency_rule(kind: Any) -> None:
    # +700 ticks: $3,500 on day 1, all of the profit. $3,500 more elsewhere are needed: 7,000 is not enough, 7,005 is.
    params = params_of("topstep_50k_2026_11")
    assert not goal(lived(kind, params, 700), params)
    assert not goal(lived(kind, params, 700, 350, 350), params)
    assert goal(lived(kind, params, 700, 350, 351), params)


def test_forty_percent_asks_for_two_and_a_half_best_days(kind: Any) -> None:
    # Tradeify Select: best day under 40%, at least three days. $1,200 of $3,000 are 40%; of $3,005 39.9%.
    params = params_of("tradeify_select_50k_2026_11")
    assert not goal(lived(kind, params, 240, 180, 180), params)
    assert goal(lived(kind, params, 240, 180, 181), params)


def test_what_is_still_worth_earning_today_shrinks_to_nothing(kind: Any) -> None:
    params = params_of("topstep_50k_2026_11")
    # A day may earn 50% of $3,000 before it raises what is needed. +150 ticks are $750: half of that room is left.
    account = begin(kind, params, 150)
    assert account.observation()[227] == 1.0
    account.step(BUY)
    assert account.observation()[227] == 0.5
    # After a day of +400 ($2,000) the next may earn as much as that one: +100 ($500) leaves three quarters.
    account = begin(kind, params, 400, 100)
    trade(account, 0)
    account.begin_next_session(4)
    account.step(BUY)
    assert account.observation()[227] == 0.75


# Daily limit: pauses the day, or ends the account.


@pytest.mark.parametrize(("breaches", "ends"), [(0, 0), (1, 2)])
def test_a_daily_limit_pauses_the_day_or_ends_the_account(kind: Any, breaches: int, ends: int) -> None:
    # Earn2Trade's $1,100 breaches, Tradeify Growth's pauses. 220 ticks down are $1,100: out there, not at -230.
    params = replace(FREE, daily_limit_cents=110_000, daily_breaches=breaches)
    account = begin(kind, params, -230, 0)
    result = account.step(BUY)
    assert (account.cash_cents, account.daily_locked, account.breached) == (START - 110_000, 1, ends)
    assert result.terminated == bool(breaches)
    if not breaches:
        assert account.action_mask() == [True, False, False, False, False, False]
        trade(account, 1)
        assert account.daily_locked == 0


def test_a_limit_that_ends_the_account_is_told_apart_from_the_drawdown(kind: Any) -> None:
    # Threshold $2,000 below, limit $1,100 a day: -150 ticks a day, $750, meet the threshold on the third day.
    params = replace(FREE, daily_limit_cents=110_000, daily_breaches=1, trail_mode=2, trail_cents=200_000)
    assert lived(kind, params, -150, -150, -150).breached == 1
    assert lived(kind, params, -150, -250).breached == 2


# Drawdown: static, at the close, live.


def test_a_static_drawdown_never_follows(kind: Any) -> None:
    static = replace(FREE, trail_mode=3, trail_cents=200_000)
    # +300, then -400: $50,000 + 1,500 - 2,000 = $49,500. A threshold that moved at the close stands at $49,500: gone.
    account = lived(kind, static, 300, -400)
    assert (account.threshold_cents, account.cash_cents, account.breached) == (4_800_000, 4_950_000, 0)
    moved = lived(kind, replace(static, trail_mode=2), 300, -400)
    assert (moved.threshold_cents, moved.breached) == (4_950_000, 1)
    # 300 ticks further down, at $48,000, the static one is met as well.
    assert lived(kind, static, 300, -400, -310).cash_cents == 4_800_000
    assert lived(kind, static, 300, -400, -310).breached == 1


def test_a_live_threshold_counts_open_profit_and_one_at_the_close_does_not(kind: Any) -> None:
    # Up 250 ticks ($1,250) within the bar, closed at +10 ($50). Apex Intraday: $51,250 - 2,000. EOD: $50,050 - 2,000.
    day = (0, 250, 10)
    assert lived(kind, params_of("apex_50k_live_2026_10"), day).threshold_cents == 4_925_000
    assert lived(kind, params_of("apex_50k_eod_2026_10"), day).threshold_cents == 4_805_000
    # Still at the start of the day the threshold at the close is $48,000, watched live: 400 ticks down end it.
    account = lived(kind, params_of("topstep_50k_2026_11"), (-400, 0, -10))
    assert (account.breached, account.cash_cents) == (1, 4_800_000)


@pytest.mark.parametrize(
    ("profile", "threshold"),
    [
        # +$1,500, +$1,500 and +$700: the peak, live and at the close, is $53,700.
        ("topstep_50k_2026_11", 5_000_000),  # locks at the start
        ("takeprofittrader_50k_2026_11", 5_000_000),
        ("tradeify_select_50k_2026_11", 5_010_000),  # start + $100 once a close is at start + $2,100
        ("apex_50k_eod_2026_10", 5_170_000),  # never
        ("apex_50k_live_lock_2026_10", 5_170_000),  # at the profit-target balance, $53,000, not yet reached
    ],
)
def test_where_a_threshold_stops(kind: Any, profile: str, threshold: int) -> None:
    account = lived(kind, params_of(profile, consistency_bp=0, daily_limit_cents=0), 300, 300, 140)
    assert account.cash_cents == 5_370_000
    assert account.threshold_cents == threshold


def test_a_threshold_that_stops_at_the_target_balance_stops_there(kind: Any) -> None:
    # Four days of +$1,500, $6,000 in all: $56,000 - 2,000 is $54,000, above $53,000.
    assert lived(kind, params_of("apex_50k_live_lock_2026_10"), *[300] * 4).threshold_cents == 5_300_000
    assert lived(kind, params_of("apex_50k_live_2026_10"), *[300] * 4).threshold_cents == 5_400_000


# Days.


def test_days_without_a_trade_are_no_trading_days(kind: Any) -> None:
    # Take Profit Trader: at least 5 days. +150 a day reach $3,000 on day 4; the fifth day without a trade counts for
    # nothing, the sixth with one does.
    params = params_of("takeprofittrader_50k_2026_11")
    account = begin(kind, params, 150, 150, 150, 150, 150, 1)
    for day in range(4):
        trade(account, day)
    assert account.cash_cents == START + 300_000
    assert not goal(account, params)
    trade(account, 4, trades=False)
    assert (account.counted_days, goal(account, params)) == (4, False)
    trade(account, 5)
    assert goal(account, params)


@pytest.mark.parametrize(
    ("first", "days", "trading_days"),
    [
        # Monday 2026-03-02 to Tuesday 03-31: 22 weekdays, no holiday of the exchange.
        ("2026-03-02", 30, 22),
        # Monday 2025-12-15 to Tuesday 2026-01-13: 13 weekdays in December but Christmas, 9 in January but New Year.
        ("2025-12-15", 30, 20),
        # One day is the day itself; seven from a Friday on hold the Friday and Monday to Thursday.
        ("2026-03-06", 1, 1),
        ("2026-03-06", 7, 5),
    ],
)
def test_thirty_calendar_days_are_fewer_sessions(first: str, days: int, trading_days: int) -> None:
    found = trading_days_within(np.array([first], "datetime64[D]"), days)
    assert found.tolist() == [trading_days]


# Contracts.


def test_a_funded_apex_account_trades_two_three_and_four_contracts(kind: Any) -> None:
    funded = load_rule_profile("apex_50k_eod_2026_10").funded_profile()
    assert funded is not None
    fields = {**funded.to_params_fields(), "daily_limit_cents": 0}
    params = replace(FREE, **{**fields, "contracts": 10})
    # Two contracts of +150 ticks: $1,500. Then three of +100: $1,500, together $3,000. Then four; a loss steps down.
    account = begin(kind, params, 150, 100, 75, -200, 10)
    sizes, shares = [], []
    for day in range(5):
        if day:
            account.begin_next_session(4 * day)
        shares.append(account.observation()[225])
        account.step(BUY)
        sizes.append(account.position)
        account.step(SELL)
        account.step(HOLD)
    # $4,500 after the third day, less 4 x 200 x $5 = $4,000: $500, so two again.
    assert sizes == [2, 3, 4, 4, 2]
    assert shares == [0.5, 0.75, 1.0, 1.0, 0.5]


# Payout.


def test_a_payout_needs_five_days_of_250_a_balance_and_a_best_day_under_half(kind: Any) -> None:
    funded = load_rule_profile("apex_50k_eod_2026_10").funded_profile()
    assert funded is not None
    params = replace(FREE, **{**funded.to_params_fields(), "contracts": 1})
    # The safety net is $52,100. Five days of +84 ticks, $420 each: $2,100.
    assert goal(lived(kind, params, *[84] * 5), params)
    # Four such days and one of +49 ($245) leave four days of $250, whatever the balance.
    assert not goal(lived(kind, params, 84, 84, 84, 49, 150), params)
    # The lock is at $50,100: after $52,150 at the close the threshold stays there.
    assert lived(kind, params, 215, 215).threshold_cents == 5_010_000
    # Best day $1,075 of $2,150 is half: no payout. One more tick elsewhere, and it is.
    assert not goal(lived(kind, params, 215, 60, 55, 50, 50), params)
    assert goal(lived(kind, params, 215, 60, 55, 51, 50), params)


# Flat by.


@pytest.mark.parametrize(
    ("profile", "rth", "globex"),
    [
        ("apex_50k_eod_2026_10", True, True),  # 16:59
        ("takeprofittrader_50k_2026_11", True, True),  # 17:00
        ("tradeify_growth_50k_2026_11", True, True),  # 16:59
        ("topstep_50k_2026_11", True, False),  # 16:10: the whole Globex day is held to 16:59
    ],
)
def test_trading_hours_that_hold_longer_than_the_firm_allows_are_told(profile: str, rth: bool, globex: bool) -> None:
    rules = load_rule_profile(profile)
    assert [not rules.why_not_flat(hours) for hours in ("rth", "globex")] == [rth, globex]
