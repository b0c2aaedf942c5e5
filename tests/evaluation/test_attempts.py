"""Attempts at an evaluation: each against the slow account and by hand, and their errors against repeated sampling."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from numpy.typing import NDArray

from src.advisor.table import empty_table
from src.evaluation.arms import Arm, FlatArm, HybridArm, PolicyArm, RandomLegalArm
from src.evaluation.assembly import FeatureAssembly
from src.evaluation.attempts import (
    BREACHED,
    EXPIRED,
    OUTCOMES,
    PASSED,
    PERCENTILES,
    WAVE,
    PassSimulation,
    pass_facts,
    simulate_attempts,
)
from src.evaluation.playing import FreshBatches, evaluate
from src.report.schema import schema
from src.statistics.bootstrap import session_orders, session_variance
from src.trading.rules import RuleProfile
from src.trading.session_batch import SessionBatch
from tests.evaluation.test_advice_use import advice, hybrid_policy
from tests.evaluation.test_advice_use import market as twelve_sessions
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
from tests.strategies import market_of
from tests.trading import kernel_adapter
from tests.trading.test_carried_accounts import first_bars_of

START_CENTS = 5_000_000


def rules_of(**usd: Any) -> RuleProfile:
    """A profile of a 50,000 account; amounts in dollars."""
    money = {name: Decimal(str(value)) if name.endswith("_usd") else value for name, value in usd.items()}
    fields: dict[str, Any] = {"start_balance_usd": Decimal(50_000), "trail_mode": "none", **money}
    return RuleProfile(name="made up", title="made up", as_of=date(2026, 7, 15), sources=("nobody",), **fields)


def params_of(rules: RuleProfile, **fields: Any) -> ReferenceParams:
    return ReferenceParams(**{**rules.to_params_fields(), "max_contracts": 100, **fields})


def simulate(
    arm: Arm, market: ReferenceMarket, rules: RuleProfile, params: ReferenceParams, **changes: Any
) -> PassSimulation:
    """Forty attempts in blocks of two sessions, unless told otherwise."""
    record = kernel_adapter.params_of(params)
    record.setflags(write=False)
    asked: dict[str, Any] = {
        "attempts": 40, "budget_s": 600.0, "seed": 1, "block_length": 2.0, "max_days": 15, **changes
    }  # fmt: skip
    batch = SessionBatch(kernel_adapter.tape_of(market), record)
    return simulate_attempts([arm], lambda: batch, np.array(first_bars_of(market)), rules, **asked)


# ------------------------------------------------------------------------------------- against the slow account

PROFILES: dict[str, RuleProfile] = {
    "live": rules_of(trail_mode="live_peak", trail_usd=400, profit_target_usd=250, expiry_days=12),
    "live, locked, seven days": rules_of(
        trail_mode="live_peak", trail_usd=500, lock_usd=49_600, profit_target_usd=150, min_days=7
    ),
    "end of day, daily limit": rules_of(
        trail_mode="end_of_day", trail_usd=400, daily_limit_usd=150, profit_target_usd=300, expiry_days=10
    ),
    "target alone": rules_of(profit_target_usd=350, expiry_days=4),
    "consistent, three winning days": rules_of(
        trail_mode="static",
        trail_usd=600,
        profit_target_usd=200,
        consistency_frac=0.5,
        min_trading_days=3,
        min_day_usd=1,
    ),
    "daily limit ends it, calendar days": rules_of(
        daily_limit_usd=200, daily_limit_breaches=True, profit_target_usd=250, expiry_calendar_days=9
    ),
}
EXPIRY = np.array([5, 6, 7, 7, 7, 6, 5, 6, 7, 7, 7, 6])
"""Sessions within nine calendar days, by the session that an attempt begins on."""


def slow_attempt(
    market: ReferenceMarket, params: ReferenceParams, rules: RuleProfile, bars: list[int], draws: NDArray[np.float64]
) -> tuple[int, int, list[int], Counter[str]]:
    """Outcome, days and the balance at the end of each day lived, of random-legal decisions by these draws."""
    account = ReferenceAccount(market, params)
    goal = params.start_balance_cents + params.target_cents
    balances, seen = [], Counter[str]()
    for day, bar in enumerate(bars, start=1):
        if day == 1:
            account.reset(bar, params.start_balance_cents, params.start_balance_cents, params.expiry_days)
        else:
            account.begin_next_session(bar)
        seen["began locked threshold"] += bool(params.lock_mode) and account.threshold_cents == params.lock_cents
        over = False
        while True:
            at_goal = account.position == 0 and not account.breached and account.cash_cents >= goal
            if day >= rules.min_days and at_goal and account.may_pass():
                return PASSED, day, [*balances, account.cash_cents], seen
            if over:
                break
            legal = [action for action, allowed in enumerate(account.action_mask()) if allowed]
            result = account.step(legal[int(draws[account.bar] * len(legal))])
            seen.update(result.events)
            over = result.terminated
        balances.append(account.cash_cents)
        if account.breached:
            return BREACHED, day, balances, seen
    return EXPIRED, len(bars), balances, seen


@pytest.mark.parametrize("name", PROFILES)
def test_every_attempt_is_the_slow_accounts_attempt(name: str) -> None:
    rules = PROFILES[name]
    outcomes: Counter[int] = Counter()
    seen: Counter[str] = Counter()
    for seed in range(6):
        market = market_of(Random(seed), sessions=12, longest=14)
        params = params_of(rules, stop_atr=2.0, commission_cents=0, slippage_ticks=0, tick_value_cents=1000)
        expiry = EXPIRY if rules.expiry_calendar_days else None
        simulation = simulate(RandomLegalArm(seed), market, rules, params, seed=seed, expiry=expiry)
        assert not simulation.reason
        found = simulation.arms["random_legal"]
        horizon = simulation.horizon_days
        orders = session_orders(12, 2.0, 40, horizon, np.random.default_rng([seed, 0]))
        firsts, draws = first_bars_of(market), np.random.default_rng(seed).random(len(market.flags))
        assert len(firsts) == 12
        equity = np.full((40, horizon + 1), START_CENTS)
        for i, order in enumerate(orders):
            lasts = horizon if expiry is None else int(expiry[order[0]])
            bars = [firsts[k] for k in order[:lasts]]
            outcome, days, balances, events = slow_attempt(market, params, rules, bars, draws)
            assert (found.outcome[i], found.days[i]) == (outcome, days), (seed, i)
            assert (found.cause[i] == 2) == (outcome == BREACHED and bool(rules.daily_limit_breaches)), (seed, i)
            equity[i, 1 : days + 1] = balances
            equity[i, days:] = balances[-1]
            outcomes[outcome] += 1
            seen += events
        np.testing.assert_allclose(found.fan.equity_usd, np.percentile(equity / 100, PERCENTILES, axis=0), atol=1e-9)
        assert found.passed_frac == np.mean(found.outcome == PASSED)
        assert found.breached_frac == np.mean(found.outcome == BREACHED)
        assert found.expired_frac == np.mean(found.outcome == EXPIRED)
    possible = (PASSED, EXPIRED) if name == "target alone" else (PASSED, BREACHED, EXPIRED)
    assert all(outcomes[outcome] >= 5 for outcome in possible), outcomes
    wanted = {"live": ("threshold", "breach_live"), "end of day, daily limit": ("daily_lock", "session_end_eod")}
    wanted["consistent, three winning days"] = ("breach_static",)
    wanted["daily limit ends it, calendar days"] = ("breach_daily",)
    assert all(seen[event] >= 5 for event in wanted.get(name, ())), seen
    assert "locked" not in name or seen["began locked threshold"] >= 5


# ------------------------------------------------------------------------------------------------------ by hand


class OneTrade:
    """Buys at the first close of a session and sells at the second."""

    name, sees_advice = "one_trade", False

    def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
        return np.array([BUY, SELL, HOLD, HOLD])[np.minimum(batch.accounts["steps"], 3)]


def moves(*dollars: int) -> ReferenceMarket:
    """Sessions in which `OneTrade` earns so many dollars: 500 cents a tick and no costs, in 100 ticks' steps."""
    bars, flags = [], []
    for usd in dollars:
        there = 1000 + usd // 5
        low, high = min(1000, there), max(1000, there)
        bars += [(1000,) * 4, (1000, high, low, there), (there,) * 4, (there,) * 4]
        flags += [ENTRY_ALLOWED | DECISION] * 2 + [DECISION | END_AFTER, FLAT_BAR | BREAK_AFTER]
    return ReferenceMarket(*[list(column) for column in zip(*bars, strict=True)], flags=flags, atr=[1.0] * len(bars))


FREE: dict[str, Any] = {"commission_cents": 0, "slippage_ticks": 0, "stop_atr": 1000.0}


def one_trade_a_day(rules: RuleProfile, *dollars: int, **changes: Any) -> PassSimulation:
    return simulate(OneTrade(), moves(*dollars), rules, params_of(rules, **FREE), **changes)


def test_five_hundred_a_day_reach_three_thousand_on_the_sixth() -> None:
    rules = rules_of(trail_mode="end_of_day", trail_usd=2000, profit_target_usd=3000, expiry_days=9)
    found = one_trade_a_day(rules, *[500] * 10).arms["one_trade"]
    assert (found.passed_frac, found.breached_frac, found.expired_frac) == (1.0, 0.0, 0.0)
    assert set(found.days) == {6}
    assert found.median_days_to_pass == 6.0
    # Whoever has passed trades no more.
    path = [50_000 + 500 * min(day, 6) for day in range(10)]
    assert found.fan.equity_usd.tolist() == [path] * 5
    assert found.fan.percentiles == (5.0, 25.0, 50.0, 75.0, 95.0)
    assert found.monte_carlo_error_frac == 0.0
    assert found.session_error_frac is None
    assert "same outcome" in found.session_reason


def test_a_pass_waits_for_the_least_number_of_days() -> None:
    rules = rules_of(trail_mode="end_of_day", trail_usd=2000, profit_target_usd=3000, min_days=8)
    found = one_trade_a_day(rules, *[500] * 10).arms["one_trade"]
    # On day 8 it stands at the target when the session begins: seven days were traded.
    assert set(found.days) == {8}
    assert found.fan.equity_usd[2, -1] == 53_500


def test_five_hundred_lost_a_day_meet_the_threshold_on_the_fourth() -> None:
    # The threshold is 48,000; in the bar of day 4 the price falls to where 48,000 are left.
    rules = rules_of(trail_mode="end_of_day", trail_usd=2000, profit_target_usd=3000, expiry_days=9)
    found = one_trade_a_day(rules, *[-500] * 10).arms["one_trade"]
    assert (found.breached_frac, set(found.days), found.median_days_to_pass) == (1.0, {4}, None)
    assert found.fan.equity_usd[0].tolist() == [50_000, 49_500, 49_000, 48_500, *[48_000] * 6]


class Holder:
    """Buys at the first close of a session and keeps it."""

    name, sees_advice = "holder", False

    def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
        return np.where(batch.accounts["steps"] == 0, BUY, HOLD)


def test_a_breach_above_the_target_is_a_breach() -> None:
    # In at 1000. The third bar opens at 1400 and is up 3,500 at its high, so the threshold follows to 51,500; then the
    # price comes back through it: out at 1300, 500 above the target, in an account that is no more.
    rules = rules_of(trail_mode="live_peak", trail_usd=2000, profit_target_usd=1000, expiry_days=9)
    market = moves(*[0] * 10)
    for column, price in ((market.open, 1400), (market.high, 1700), (market.low, 1250), (market.close, 1300)):
        column[2::4] = [price] * 10
    found = simulate(Holder(), market, rules, params_of(rules, **FREE)).arms["holder"]
    assert (found.breached_frac, set(found.days)) == (1.0, {1})
    assert found.fan.equity_usd[2, 1] == 51_500


def test_an_end_of_day_threshold_follows_the_balance_and_a_lock_spares_the_account() -> None:
    # + 1,500, then - 1,000 a day for good: the threshold is at 49,500 after day 1, and 51,500 - 1,000 - 1,000 meets it
    # on day 3. With a lock at 48,000 it takes 51,500 - 4,000 = 47,500 on day 5, stopped at 48,000 within the bar.
    dollars = [1500, *[-1000] * 30]
    rules = rules_of(trail_mode="end_of_day", trail_usd=2000, profit_target_usd=3000, expiry_days=9)
    locked = rules_of(trail_mode="end_of_day", trail_usd=2000, lock_usd=48_000, profit_target_usd=3000, expiry_days=9)
    for profile, days, left in ((rules, 3, 49_500), (locked, 5, 48_000)):
        # Blocks that never end: an attempt that starts on the first session lives through them in order.
        simulation = one_trade_a_day(profile, *dollars, block_length=1e9, attempts=200)
        found, first = simulation.arms["one_trade"], orders_of(simulation, 200, seed=1)[:, 0]
        assert (first == 0).any()
        assert set(found.outcome[first == 0]) == {BREACHED}
        assert set(found.days[first == 0]) == {days}
        assert left in found.fan.equity_usd


def orders_of(simulation: PassSimulation, attempts: int, seed: int) -> NDArray[np.int64]:
    rng = np.random.default_rng([seed, 0])
    return session_orders(simulation.sessions, simulation.block_length, attempts, simulation.horizon_days, rng)


def test_a_daily_limit_cuts_the_day_and_leaves_the_account_for_the_next() -> None:
    # 600 against the account each day, 250 of it allowed: the day ends at - 250 within the bar, twelve times.
    rules = rules_of(daily_limit_usd=250, profit_target_usd=3000, expiry_days=12)
    found = one_trade_a_day(rules, *[-600] * 10).arms["one_trade"]
    assert found.expired_frac == 1.0
    assert found.fan.equity_usd[2].tolist() == [50_000 - 250 * day for day in range(13)]


def test_without_an_expiry_attempts_end_at_the_cap_that_was_given() -> None:
    rules = rules_of(profit_target_usd=3000)
    simulation = one_trade_a_day(rules, *[5] * 10, max_days=11)
    assert (simulation.horizon_days, simulation.is_capped) == (11, True)
    assert set(simulation.arms["one_trade"].days) == {11}
    assert simulation.arms["one_trade"].expired_frac == 1.0
    assert not one_trade_a_day(rules_of(profit_target_usd=3000, expiry_days=2), *[5] * 10).is_capped


def test_outcomes_by_hand_where_sessions_differ() -> None:
    """Half of the sessions earn 1,000, half lose 1,000; a pass is two more gains than losses before two more losses."""
    rules = rules_of(trail_mode="end_of_day", trail_usd=1900, lock_usd=48_100, profit_target_usd=2000, expiry_days=20)
    dollars = np.array([1000] * 10 + [-1000] * 10)
    simulation = one_trade_a_day(rules, *dollars.tolist(), attempts=400, block_length=1.0)
    found = simulation.arms["one_trade"]
    waves = [session_orders(20, 1.0, WAVE, 20, np.random.default_rng([1, wave])) for wave in range(2)]
    walks = np.cumsum(dollars[np.concatenate(waves)], axis=1)
    for i, walk in enumerate(walks):
        ends = np.flatnonzero(np.abs(walk) >= 2000)
        wanted = (EXPIRED, 20) if not len(ends) else (PASSED if walk[ends[0]] > 0 else BREACHED, ends[0] + 1)
        assert (found.outcome[i], found.days[i]) == wanted
    p = float(np.mean(found.outcome == PASSED))
    assert 0.4 < p < 0.6
    assert found.monte_carlo_error_frac == pytest.approx(math.sqrt(p * (1 - p) / 400))
    assert found.session_error_frac is not None
    assert found.passed_low_frac is not None
    assert found.passed_high_frac is not None
    for bound, side in ((found.passed_low_frac, -1), (found.passed_high_frac, 1)):
        reach = side * 1.959964 * found.session_error_frac / (p * (1 - p))
        assert math.log(bound / (1 - bound)) == pytest.approx(math.log(p / (1 - p)) + reach)
    # A share q of gains passes with q^2 / (q^2 + (1 - q)^2): slope 2 at a half, where 20 sessions tell q to 0.11.
    assert found.session_error_frac == pytest.approx(2 * 0.5 / math.sqrt(20), rel=0.3)


def test_who_never_trades_never_passes() -> None:
    rules = PROFILES["live"]
    market = market_of(Random(3), sessions=12, longest=14)
    simulation = simulate(FlatArm(), market, rules, params_of(rules))
    found = simulation.arms["flat"]
    assert (found.passed_frac, found.breached_frac, found.expired_frac) == (0.0, 0.0, 1.0)
    assert (found.fan.equity_usd == 50_000).all()
    assert set(found.days) == {12}


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.lists(st.integers(50, 1500), min_size=2, max_size=2, unique=True), st.integers(0, 3))
def test_a_higher_target_passes_no_attempt_that_a_lower_one_does_not(
    seed: int, targets: list[int], min_days: int
) -> None:
    market = market_of(Random(seed), sessions=12, longest=10)
    passed = []
    for target in sorted(targets):
        rules = rules_of(
            trail_mode="live_peak", trail_usd=800, profit_target_usd=target, expiry_days=8, min_days=min_days
        )
        params = params_of(rules, stop_atr=3.0, commission_cents=37)
        passed.append(simulate(RandomLegalArm(seed), market, rules, params).arms["random_legal"])
    low, high = passed
    assert not ((high.outcome == PASSED) & (low.outcome != PASSED)).any()
    both = (high.outcome == PASSED) & (low.outcome == PASSED)
    assert (low.days[both] <= high.days[both]).all()


# ---------------------------------------------------------------------------------------- policies, budget, refusals


def trained_market() -> tuple[Any, Callable[[], SessionBatch], RuleProfile]:
    market = twelve_sessions("apex_50k_eod_2026_03")
    return market, lambda: SessionBatch(market.tape(advice()), market.session_params), market.rules


def test_a_policy_attempts_with_the_advice_it_would_hear_in_evaluation() -> None:
    """Attempts of one day, which nobody passes: each ends as the evaluation of its session does."""
    market, _, rules = trained_market()
    one_day = rules.model_copy(update={"expiry_days": 1, "profit_target_usd": Decimal(90_000)})
    params = market.session_params.copy()
    params["expiry_days"], params["target_cents"] = 1, 9_000_000
    params.setflags(write=False)
    policy, sessions = hybrid_policy(0.7), np.flatnonzero(market.tables.sessions.usable)
    firsts = market.first_bars(sessions)
    arms: list[Arm] = [PolicyArm("rl_only", policy, False), PolicyArm("hybrid", policy, True)]
    batches = lambda: SessionBatch(market.tape(advice()), params)  # noqa: E731
    simulation = simulate_attempts(
        arms, batches, firsts, one_day, attempts=60, budget_s=600, seed=4, block_length=1.0, max_days=1
    )
    assembly = FeatureAssembly(market.tables.context, advice())
    played = evaluate(arms, firsts, FreshBatches(market.tape(empty_table()), params), assembly)
    order = session_orders(len(firsts), 1.0, 60, 1, np.random.default_rng([4, 0]))[:, 0]
    for name, found in simulation.arms.items():
        net = 50_000 + played[name].net_usd[order]
        np.testing.assert_allclose(found.fan.equity_usd[:, 1], np.percentile(net, PERCENTILES), atol=1e-9)
        assert (found.outcome == np.where(played[name].breached[order], BREACHED, EXPIRED)).all()
    assert not np.array_equal(played["rl_only"].net_usd, played["hybrid"].net_usd)


def steady(step_s: float) -> Callable[[], float]:
    """A clock looked at once at the start and once before each wave, which takes so long."""
    time = iter(step_s * max(0, i - 1) for i in range(10**6))
    return lambda: next(time)


@pytest.mark.parametrize(
    ("budget_s", "attempts", "made"),
    [(1.0, 2000, 200), (35.0, 2000, 600), (40.0, 2000, 800), (1e9, 700, 700), (1.0, 60, 60)],
)
def test_the_budget_decides_only_where_the_attempts_stop(budget_s: float, attempts: int, made: int) -> None:
    rules = rules_of(trail_mode="end_of_day", trail_usd=1000, profit_target_usd=1000, expiry_days=5)
    dollars = [700, -400, 300, -900, 500] * 2
    asked = {"attempts": attempts, "budget_s": budget_s}
    # Ten seconds a wave of 200: the next one begins if it would end within the budget.
    simulation = one_trade_a_day(rules, *dollars, **asked, clock=steady(10.0))
    found = simulation.arms["one_trade"]
    assert found.attempts == len(found.outcome) == made
    assert simulation.attempts_asked == attempts
    whole = one_trade_a_day(rules, *dollars, attempts=1000, budget_s=1e9).arms["one_trade"]
    assert (whole.outcome[:made] == found.outcome).all()
    assert (whole.days[:made] == found.days).all()
    assert whole.attempts == 1000


def test_every_arm_lives_through_the_same_sessions_and_alone_as_beside_others() -> None:
    market, _, rules = trained_market()
    firsts = market.first_bars(np.flatnonzero(market.tables.sessions.usable))
    asked: dict[str, Any] = {"attempts": 30, "budget_s": 600, "seed": 2, "block_length": 2.0, "max_days": 4}
    short = rules.model_copy(update={"expiry_days": 4})
    params = market.session_params.copy()
    params["expiry_days"] = 4
    params.setflags(write=False)
    make = lambda: SessionBatch(market.tape(advice()), params)  # noqa: E731
    arms: list[Arm] = [RandomLegalArm(1), PolicyArm("hybrid", hybrid_policy(0.7), True)]
    both = simulate_attempts(arms, make, firsts, short, **asked)
    alone = simulate_attempts(arms[1:], make, firsts, short, **asked)
    assert list(both.arms) == ["random_legal", "hybrid"]
    assert (both.arms["hybrid"].outcome == alone.arms["hybrid"].outcome).all()
    assert (both.arms["hybrid"].fan.equity_usd == alone.arms["hybrid"].fan.equity_usd).all()
    other = simulate_attempts(arms[1:], make, firsts, short, **{**asked, "seed": 3})
    assert (other.arms["hybrid"].fan.equity_usd != alone.arms["hybrid"].fan.equity_usd).any()


def test_nothing_is_simulated_where_nothing_could_be_said() -> None:
    rules = rules_of(trail_mode="end_of_day", trail_usd=1000, profit_target_usd=1000, expiry_days=5)
    few = one_trade_a_day(rules, *[100] * 9)
    assert few.arms == {}
    assert few.reason == "9 sealed sessions are too few to resample (minimum 10)"
    assert one_trade_a_day(rules, *[100] * 10).reason == ""
    endless = one_trade_a_day(rules_of(trail_mode="end_of_day", trail_usd=1000), *[100] * 10)
    assert endless.arms == {}
    assert "no profit target" in endless.reason


def test_what_would_simulate_something_else_is_refused() -> None:
    market, make, rules = trained_market()
    firsts = market.first_bars(np.flatnonzero(market.tables.sessions.usable))
    asked: dict[str, Any] = {"attempts": 5, "budget_s": 1, "seed": 2, "block_length": 2.0, "max_days": 4}
    arm = FlatArm()
    with pytest.raises(ValueError, match="arm hybrid has its own advice"):
        simulate_attempts([HybridArm(hybrid_policy(0.1), table=advice())], make, firsts, rules, **asked)
    bare = SessionBatch(market.tape(advice()), market.session_params, with_tables=False)
    with pytest.raises(ValueError, match="with tables"):
        simulate_attempts([arm], lambda: bare, firsts, rules, **asked)
    other = rules.model_copy(update={"trail_usd": Decimal(1999)})
    with pytest.raises(ValueError, match=r"do not follow apex_50k_eod_2026_03: \{'trail_cents': 200000\}"):
        simulate_attempts([arm], make, firsts, other, **asked)
    short = market.session_params.copy()
    short["max_episode_steps"] = 3
    with pytest.raises(ValueError, match="max_episode_steps"):
        simulate_attempts([arm], lambda: SessionBatch(market.tape(advice()), short), firsts, rules, **asked)
    with pytest.raises(ValueError, match="expiry in calendar days"):
        simulate_attempts([arm], make, firsts, rules, **asked, expiry=np.full(len(firsts), 3))
    for name, value in (("attempts", 0), ("max_days", 0), ("block_length", 0.5), ("block_length", math.nan)):
        with pytest.raises(ValueError, match="must be at least 1"):
            simulate_attempts([arm], make, firsts, rules, **{**asked, name: value})


def test_the_outcomes_are_named_in_the_order_of_their_codes() -> None:
    assert (OUTCOMES[PASSED], OUTCOMES[BREACHED], OUTCOMES[EXPIRED]) == ("passed", "breached", "expired")


def test_the_report_gets_all_but_the_single_attempts() -> None:
    rules = rules_of(trail_mode="end_of_day", trail_usd=1000, profit_target_usd=1000, expiry_days=5)
    for dollars in ([700, -400, 300, -900, 500] * 2, [500] * 10, [500] * 3):
        simulation = one_trade_a_day(rules, *dollars)
        facts = pass_facts(simulation)
        shape = schema()
        Draft202012Validator({**shape["properties"]["pass_simulation"], "$defs": shape["$defs"]}).validate(facts)
        assert json.loads(json.dumps(facts)) == facts
        assert facts["horizon_days"] == 5
        assert list(facts["arms"]) == (["one_trade"] if len(dollars) == 10 else [])
        if facts["arms"]:
            arm = facts["arms"]["one_trade"]
            assert arm["passed_frac"] == simulation.arms["one_trade"].passed_frac
            assert arm["fan"]["equity_usd"] == simulation.arms["one_trade"].fan.equity_usd.tolist()


# ------------------------------------------------------------------------------------------------ orders and errors


def test_orders_are_stationary_blocks() -> None:
    n, length, days = 7, 3.0, 40
    orders = session_orders(n, length, 3000, days, np.random.default_rng(5))
    assert orders.shape == (3000, days)
    assert orders.min() == 0
    assert orders.max() == n - 1
    for day in (0, 1, 20, 39):
        counts = np.bincount(orders[:, day], minlength=n)
        assert (np.abs(counts - 3000 / n) < 4.5 * math.sqrt(3000 / n)).all(), day
    follows = orders[:, 1:] == (orders[:, :-1] + 1) % n
    # Two thirds go on, and a new start is by chance the next session, too.
    expected = 2 / 3 + 1 / 3 / n
    assert abs(follows.mean() - expected) < 4.5 * math.sqrt(expected * (1 - expected) / follows.size)
    # Whether one day goes on says nothing about the next.
    assert abs(np.corrcoef(follows[:, 5], follows[:, 6])[0, 1]) < 4.5 / math.sqrt(3000)
    single = session_orders(n, 1.0, 500, days, np.random.default_rng(5))
    assert abs((single[:, 1:] == (single[:, :-1] + 1) % n).mean() - 1 / n) < 0.02
    fewer = session_orders(n, length, 100, days, np.random.default_rng(5))
    assert (fewer == orders[:100]).all()


def test_the_variance_of_a_sum_over_days_is_that_of_its_sessions() -> None:
    """A sum over m days of x of the session: m x the mean, so m^2 x the mean's variance."""
    rng = np.random.default_rng(0)
    n, days, k = 50, 20, 20_000
    x = rng.normal(size=n)
    orders = session_orders(n, 1.0, k, days, rng)
    found = session_variance(x[orders].sum(axis=1), orders, n, 1.0)
    assert found == pytest.approx(days**2 * x.var() / n, rel=0.1)


def test_in_blocks_it_is_the_long_run_variance_of_the_sessions() -> None:
    rng = np.random.default_rng(1)
    n, days, k, length = 60, 200, 20_000, 3.0
    x = np.convolve(rng.normal(size=n + 2), [1.0, 0.8, 0.6], mode="valid")
    x -= x.mean()
    orders = session_orders(n, length, k, days, rng)
    found = session_variance(x[orders].sum(axis=1), orders, n, length)
    # The stationary bootstrap's variance of a mean: autocovariances around the circle, weighted (1 - 1 / length)^lag.
    lags = [(x * np.roll(x, -lag)).mean() * (2 / 3) ** min(lag, n - lag) for lag in range(n)]
    assert found == pytest.approx(days**2 * sum(lags) / n, rel=0.15)
    independent = session_variance(x[orders].sum(axis=1), orders, n, 1.0)
    assert independent > 1.5 * found


@pytest.mark.parametrize("length", [1.0, 3.0])
def test_it_tells_how_a_pass_rate_would_vary_from_sample_to_sample(length: float) -> None:
    """Many samples of sessions, each with its own attempts: how far apart their pass rates are, attempts' own noise
    taken off, is what one sample's error should say."""
    rng = np.random.default_rng(2)
    n, days, k = 60, 15, 1500
    rates, found = [], []
    for _ in range(250):
        x = rng.normal(0.1, 1.0, n)
        orders = session_orders(n, length, k, days, rng)
        passed = (np.cumsum(x[orders], axis=1).max(axis=1) > 4.0).astype(float)
        rates.append(passed.mean())
        found.append(session_variance(passed, orders, n, length))
    p = float(np.mean(rates))
    true = float(np.var(rates) - np.mean([rate * (1 - rate) / k for rate in rates]))
    assert 0.1 < p < 0.9
    assert np.mean(found) == pytest.approx(true, rel=0.3)


def test_few_attempts_give_no_error_that_is_only_their_own_noise() -> None:
    """Outcomes that have nothing to do with the sessions: the estimate is nought on average."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(300):
        orders = session_orders(40, 1.0, 200, 15, rng)
        found.append(session_variance((rng.random(200) < 0.5).astype(float), orders, 40, 1.0))
    biased = 15 * 0.25 / 200
    assert abs(np.mean(found)) < 4.5 * np.std(found) / math.sqrt(300)
    assert abs(np.mean(found)) < 0.05 * biased
    assert min(found) < 0
