"""An account that lives for several sessions: what goes on, what begins anew, against the slow account and by hand."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.trading import account_rules
from src.trading.session_batch import SessionBatch
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
from tests.strategies import walk_of
from tests.trading import kernel_adapter
from tests.trading.test_kernel_equals_reference import first_difference

Bar = tuple[int, int, int, int]
OPEN = ENTRY_ALLOWED | DECISION


class Seat:
    """One row of a batch behind the surface of the reference account."""

    def __init__(self, batch: SessionBatch, row: int) -> None:
        self._batch, self._row = batch, row

    def __getattr__(self, name: str) -> Any:
        return self._batch.accounts[self._row][name].item()

    def may_pass(self) -> bool:
        return bool(account_rules.may_pass(self._batch.accounts[self._row], self._batch.params))

    def action_mask(self) -> list[bool]:
        return self._batch.masks[self._row].tolist()

    def observation(self) -> list[float]:
        return self._batch.obs[self._row].tolist()


def first_bars_of(market: ReferenceMarket) -> list[int]:
    """The first decision bar of each session."""
    firsts, inside = [], False
    for t, flags in enumerate(market.flags):
        if flags & DECISION and not inside:
            firsts.append(t)
        inside = bool(flags & DECISION) and not flags & END_AFTER
    return firsts


def batch_of(market: ReferenceMarket, params: ReferenceParams) -> SessionBatch:
    record = kernel_adapter.params_of(params)
    record.setflags(write=False)
    return SessionBatch(kernel_adapter.tape_of(market), record)


@settings(max_examples=40)
@given(st.integers(0, 2**32))
def test_accounts_go_from_session_to_session_as_the_slow_account_does(seed: int) -> None:
    rng = Random(seed)
    walk = walk_of(rng, sessions=5, longest=15)
    params = replace(walk.params, max_episode_steps=0)
    batch = batch_of(walk.market, params)
    firsts = first_bars_of(walk.market)
    slow = [ReferenceAccount(walk.market, params) for _ in range(4)]
    carried = None
    for day in range(6):
        bars = [rng.choice(firsts) for _ in slow]
        batch.begin(bars, carried)
        for account, bar in zip(slow, bars, strict=True):
            if day == 0:
                start = params.start_balance_cents
                account.reset(bar, start, start, params.expiry_days)
            else:
                account.begin_next_session(bar)
        over = [False] * len(slow)
        while not all(over):
            for row, account in enumerate(slow):
                if not over[row]:
                    assert not first_difference(account, Seat(batch, row)), (day, row)
            actions = [HOLD if over[row] else walk.action(account.action_mask()) for row, account in enumerate(slow)]
            batch.step(np.array(actions))
            for row, account in enumerate(slow):
                if not over[row]:
                    over[row] = account.step(actions[row]).terminated
            assert batch.over.tolist() == over
        alive = [row for row, account in enumerate(slow) if not account.breached]
        carried, slow = batch.accounts[alive], [slow[row] for row in alive]
        if not slow:
            break


def test_the_walks_of_the_comparison_carry_something() -> None:
    """Streaks, peaks above the start, daily locks and lost days must occur among them, or the comparison is empty."""
    streaks = peaks = locks = days = breaches = 0
    for seed in range(40):
        rng = Random(seed)
        walk = walk_of(rng, sessions=5, longest=15)
        params = replace(walk.params, max_episode_steps=0)
        account, firsts = ReferenceAccount(walk.market, params), first_bars_of(walk.market)
        account.reset(firsts[0], params.start_balance_cents, params.start_balance_cents, params.expiry_days)
        for _ in range(4):
            while not account.step(walk.action(account.action_mask())).terminated:
                pass
            breaches += account.breached
            if account.breached:
                break
            streaks += account.consecutive_losses > 0
            peaks += account.peak_cents > params.start_balance_cents
            locks += account.daily_locked
            days += 0 < account.days_left < params.expiry_days
            account.begin_next_session(rng.choice(firsts))
    assert min(streaks, peaks, locks, days, breaches) >= 5


# ------------------------------------------------------------------------------------------------- worked by hand

# Two sessions of three decision bars and a flat bar each, NQ: 500 cents a tick, 250 a side, no slippage, stops 1000
# ticks away. BUY at the first close fills at the second bar's open; SELL at the second close fills at the third's.
BASE = ReferenceParams(slippage_ticks=0, stop_atr=100.0, start_balance_cents=5_000_000)


def two_sessions(day_1: list[Bar], day_2: list[Bar]) -> ReferenceMarket:
    bars, flags = [], []
    for day in (day_1, day_2):
        assert len(day) == 4
        bars += day
        flags += [OPEN, OPEN, OPEN | END_AFTER, FLAT_BAR | BREAK_AFTER]
    columns = [list(column) for column in zip(*bars, strict=True)]
    return ReferenceMarket(*columns, flags=flags, atr=[10.0] * len(bars))


def flat_at(price: int) -> Bar:
    return (price, price, price, price)


def rise(ticks: int) -> list[Bar]:
    """In at 1000 on the second bar, out at 1000 + ticks on the third: ticks x 500 - 500 cents."""
    up = 1000 + ticks
    return [flat_at(1000), (1000, max(1000, up), min(1000, up), up), flat_at(up), flat_at(up)]


def live(batch: SessionBatch, actions: list[int]) -> dict[str, int]:
    for action in actions:
        batch.step(np.array([action]))
    assert batch.over.all()
    record = batch.accounts[0]
    return {name: record[name].item() for name in record.dtype.names}


TRADE = [BUY, SELL, HOLD]


def both_days(params: ReferenceParams, day_1: list[Bar], day_2: list[Bar]) -> tuple[SessionBatch, dict[str, int]]:
    """Trade in the first session; the account begins the second and stands there."""
    batch = batch_of(two_sessions(day_1, day_2), params)
    batch.begin([0])
    ended = live(batch, TRADE)
    batch.begin([4], batch.accounts)
    return batch, ended


def test_an_end_of_day_threshold_rises_overnight_and_stops_at_its_lock() -> None:
    rules = replace(BASE, trail_mode=2, trail_cents=200_000)
    # + 301 ticks: 150,500 - 500 = 150,000 cents. The peak is taken at the close: threshold 5,150,000 - 200,000.
    batch, ended = both_days(rules, rise(301), rise(0))
    assert ended["cash_cents"] == ended["peak_cents"] == 5_150_000
    assert Seat(batch, 0).threshold_cents == 4_950_000
    # A lock at 4,900,000 stops it there. The buffer in the observation: (5,150,000 - 4,900,000) / 200,000 = 1.25.
    batch, _ = both_days(replace(rules, lock_mode=1, lock_cents=4_900_000), rise(301), rise(0))
    assert Seat(batch, 0).threshold_cents == 4_900_000
    assert batch.obs[0, 226] == 1.25


def test_a_live_peak_of_yesterday_ends_the_account_today() -> None:
    rules = replace(BASE, trail_mode=1, trail_cents=200_000)
    # Day 1: in at 1000 (4,999,750), the high 1398 is 398 ticks up: peak 4,999,750 + 199,000 = 5,198,750, threshold
    # 4,998,750. Out at 1010: 4,999,750 + 5,000 - 250 = 5,004,500.
    day_1 = [flat_at(1000), (1000, 1398, 1000, 1010), flat_at(1010), flat_at(1010)]
    # Day 2: in at 1000: 5,004,250, 5,500 above the threshold: 11 ticks down, at 989: 5,004,250 - 5,500 - 250.
    day_2 = [flat_at(1000), (1000, 1000, 985, 995), flat_at(995), flat_at(995)]
    batch, ended = both_days(rules, day_1, day_2)
    assert (ended["cash_cents"], ended["peak_cents"], ended["threshold_cents"]) == (5_004_500, 5_198_750, 4_998_750)
    batch.step(np.array([BUY]))
    assert batch.over.all()
    assert Seat(batch, 0).breached == 1
    assert Seat(batch, 0).cash_cents == 4_998_500
    with pytest.raises(ValueError, match="account 0 cannot continue: it ended with position 0 and breached True"):
        batch.begin([0], batch.accounts)
    # A new account lives through the same bars.
    batch.begin([4])
    batch.step(np.array([BUY]))
    assert not batch.over.any()


def test_a_daily_limit_counts_from_the_days_own_start_and_its_lock_is_gone_overnight() -> None:
    rules = replace(BASE, daily_limit_cents=100_000)
    # Day 1: - 199 ticks is - 99,500 - 500 = - 100,000: exactly the limit, locked, nothing more that day.
    batch = batch_of(two_sessions(rise(-199), rise(-199)), rules)
    batch.begin([0])
    batch.step(np.array([BUY]))
    # In the bar already: 4,999,750 - x 500 <= 4,900,000 at 200 ticks down, not reached; the close costs 250 more.
    assert Seat(batch, 0).daily_locked == 0
    batch.step(np.array([SELL]))
    assert Seat(batch, 0).daily_locked == 1
    assert batch.masks[0].tolist() == [True, False, False, False, False, False]
    batch.step(np.array([HOLD]))
    batch.begin([4], batch.accounts)
    seat = Seat(batch, 0)
    assert (seat.cash_cents, seat.day_start_cents, seat.daily_locked) == (4_900_000, 4_900_000, 0)
    assert batch.masks[0, [BUY, SELL]].all()
    ended = live(batch, TRADE)
    # The same loss again: two days' losses are 200,000, and the limit is of one day.
    assert (ended["cash_cents"], ended["daily_locked"]) == (4_800_000, 1)


def test_days_run_out_and_streaks_go_on() -> None:
    batch, ended = both_days(replace(BASE, expiry_days=2), rise(-10), rise(-10))
    assert ended["days_left"] == 1
    assert ended["consecutive_losses"] == ended["n_recent"] == ended["n_trades"] == 1
    seat = Seat(batch, 0)
    assert (seat.n_trades, seat.steps, seat.commission_paid_cents, seat.reward_sum) == (0, 0, 0, 0.0)
    assert seat.start_cash_cents == 5_000_000 - 5_500
    # Losses in a row (of at most 5) and the recent win rate, as the observation has them.
    assert batch.obs[0, 252] == np.float32(0.2)
    assert batch.obs[0, 253] == 0.0
    ended = live(batch, TRADE)
    assert (ended["days_left"], ended["consecutive_losses"], ended["n_recent"]) == (0, 2, 2)
    assert ended["n_trades"] == 1


def test_a_reached_target_is_remembered() -> None:
    batch, ended = both_days(replace(BASE, target_cents=100_000), rise(201), rise(-201))
    assert ended["target_reached"] == 1
    assert Seat(batch, 0).target_reached == 1


def test_accounts_go_on_in_another_order_and_number_and_from_a_copy() -> None:
    market = two_sessions(rise(301), rise(-10))
    one = batch_of(market, BASE)
    one.begin([0, 4, 0])
    for actions in ([BUY, HOLD, HOLD], [SELL, HOLD, HOLD], [HOLD, HOLD, HOLD]):
        one.step(np.array(actions))
    kept = one.accounts[[2, 0]].copy()
    one.begin([4, 4], kept)
    assert one.accounts["cash_cents"].tolist() == [5_000_000, 5_150_000]
    assert kept["cash_cents"].tolist() == [5_000_000, 5_150_000]
    assert kept["n_trades"].tolist() == [0, 1]


def test_who_cannot_go_on_is_refused() -> None:
    batch = batch_of(two_sessions(rise(10), rise(10)), BASE)
    batch.begin([0])
    batch.step(np.array([BUY]))
    with pytest.raises(ValueError, match="ended with position 1"):
        batch.begin([4], batch.accounts.copy())
    batch.begin([0])
    with pytest.raises(ValueError, match="1 accounts cannot begin 2 sessions"):
        batch.begin([0, 4], batch.accounts.copy())
    with pytest.raises(ValueError, match="no DECISION bar"):
        batch.begin([3], batch.accounts.copy())
