"""Simulated attempts at a prop firm's evaluation: does a policy reach the target before a rule ends the account?

Each attempt plays the sealed sessions in a resampled order with one account: balance, peak, threshold, days left and
streaks carry over from session to session until it passes, breaches or runs out of days. The result is a simulated rule
check; the caveats of the rule profile say what it leaves out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.agent.market import Market
from src.agent.session_play import NO_GOAL, SessionPlayer
from src.evaluation.arms import Arm, PolicyArm, begin_count, feed_of
from src.evaluation.settings import FEWEST_ATTEMPTS
from src.market.sessions import trading_days_within
from src.statistics.bootstrap import session_orders, session_variance
from src.statistics.samples import FEW_SESSIONS
from src.trading.account_rules import passes_of
from src.trading.layout import OPINION
from src.trading.rules import RuleProfile
from src.trading.session_batch import SessionBatch

PASSED, BREACHED, EXPIRED = range(3)
OUTCOMES = ("passed", "breached", "expired")
PERCENTILES = (5.0, 25.0, 50.0, 75.0, 95.0)
WAVE = 200
"""Attempts per batch. Fixed: the last digits of a policy that is asked itself (see `decider_of`) depend on its batch
size, so a size that followed the machine's speed would make the outcomes depend on it too."""
_Z95 = 1.959964


@dataclass(frozen=True, eq=False)
class EquityFan:
    """Percentiles of equity by day: `equity_usd` float64[percentiles, days + 1], day 0 is the start of the attempt.

    A finished attempt keeps its last equity.
    """

    percentiles: tuple[float, ...]
    equity_usd: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ArmAttempts:
    """Outcomes of one arm's attempts.

    `monte_carlo_error_frac` is the binomial standard error of `passed_frac` from the finite number of attempts alone.
    `session_error_frac` is its standard error over the choice of sealed sessions, `passed_low_frac` to
    `passed_high_frac` the corresponding 95% interval; None if they are not known, with `session_reason`. `outcome`
    int8[k] (indices into `OUTCOMES`), `cause` int8[k] (what breached it, `layout.BREACHES`) and `days` int64[k] are by
    attempt; `median_days_to_pass` is of those that passed.
    """

    name: str
    attempts: int
    passed_frac: float
    breached_frac: float
    expired_frac: float
    median_days_to_pass: float | None
    monte_carlo_error_frac: float
    session_error_frac: float | None
    passed_low_frac: float | None
    passed_high_frac: float | None
    session_reason: str
    fan: EquityFan
    outcome: NDArray[np.int8]
    cause: NDArray[np.int8]
    days: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PassSimulation:
    """Attempts of several arms on the same resampled orders of sessions; `reason` says why there are none, or is empty.

    `horizon_days` is the profile's time limit, or the given cap if it has none (`is_capped`). `threshold_usd` is the
    trailing amount, None if there is none. Money is US dollars, days are sessions.
    """

    profile: str
    as_of: str
    sessions: int
    start_balance_usd: float
    profit_target_usd: float | None
    threshold_usd: float | None
    horizon_days: int
    is_capped: bool
    min_days: int
    block_length: float
    attempts_asked: int
    seconds: float = 0.0
    arms: dict[str, ArmAttempts] = field(default_factory=dict)
    reason: str = ""


def simulate_attempts(
    arms: Sequence[Arm],
    make_batch: Callable[[], SessionBatch],
    first_bars: NDArray[Any],
    rules: RuleProfile,
    *,
    attempts: int,
    budget_s: float,
    seed: int,
    block_length: float,
    max_days: int,
    expiry: NDArray[np.int64] | None = None,
    players: Mapping[str, SessionPlayer | None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> PassSimulation:
    """Simulate up to `attempts` evaluation attempts per arm within `budget_s` seconds.

    `make_batch` builds a `SessionBatch` with tables, over a tape with the arms' advice and accounts of `rules`;
    `first_bars` int[n] are the first tradable bars of the sealed sessions in time order, which attempts draw in blocks
    of mean length `block_length`. Attempt i of a seed plays the same sessions with every arm, whatever the number of
    attempts: the budget only decides where the sequence stops, and never before FEWEST_ATTEMPTS (or `attempts`).

    An attempt passes, and stops trading, as soon as it is flat with the profit target reached, `min_days` sessions
    started, and what else its rules ask for (`account_rules.may_pass`). A breach ends it at once. It expires after
    `rules.expiry_days` sessions, after those within `rules.expiry_calendar_days` (`expiry` int64[n], by the session it
    begins on: `sessions_to_expiry`), or `max_days` if the profile has no time limit. `players` are those of arms on the
    batches' tape, made once for several profiles. Nothing is simulated with fewer than FEW_SESSIONS sessions or without
    a profit target.

    Raises: ValueError for accounts of other rules, for an arm with its own advice (attempts support only the tape's),
    and for an expiry in calendar days without `expiry`.
    """
    target = rules.profit_target_usd
    if (expiry is None) != (rules.expiry_calendar_days is None):
        raise ValueError(f"{rules.name}: expiry is given exactly for an expiry in calendar days")
    horizon = rules.expiry_days or (max_days if expiry is None else int(expiry.max(initial=1)))
    simulation = PassSimulation(
        profile=rules.name,
        as_of=rules.as_of.isoformat(),
        sessions=len(first_bars),
        start_balance_usd=float(rules.start_balance_usd),
        profit_target_usd=None if target is None else float(target),
        threshold_usd=None if rules.trail_usd is None else float(rules.trail_usd),
        horizon_days=horizon,
        is_capped=rules.expiry_days is None and expiry is None,
        min_days=rules.min_days,
        block_length=block_length,
        attempts_asked=attempts,
    )
    if target is None:
        return replace(simulation, reason=f"the rule profile {rules.name} has no profit target to pass")
    if (n := len(first_bars)) < FEW_SESSIONS:
        return replace(simulation, reason=f"{n} sealed sessions are too few to resample (minimum {FEW_SESSIONS})")
    if attempts < 1 or max_days < 1 or not block_length >= 1.0:
        raise ValueError(
            f"attempts, max_days and block_length must be at least 1, not {attempts}, {max_days} and {block_length}"
        )
    limits = np.full(n, horizon) if expiry is None else expiry
    known = players or {}
    tables = [_Attempts(arm, make_batch(), np.asarray(first_bars), rules, limits, known.get(arm.name)) for arm in arms]
    began, made, waves = clock(), 0, 0
    orders: list[NDArray[np.int64]] = []
    while made < attempts:
        spent = clock() - began
        if made >= FEWEST_ATTEMPTS and spent + spent / waves > budget_s:
            break
        wave = _wave(len(first_bars), block_length, min(WAVE, attempts - made), horizon, seed, waves)
        for table in tables:
            table.live(wave)
        orders.append(wave)
        made += len(wave)
        waves += 1
    lived = np.concatenate(orders)
    found = {table.name: table.figures(lived, len(first_bars), block_length) for table in tables}
    return replace(simulation, arms=found, seconds=clock() - began)


def pass_facts(simulation: PassSimulation) -> dict[str, Any]:
    """Report section `pass_simulation`: everything except the figures by attempt; the fan in whole cents."""

    def of_arm(arm: ArmAttempts) -> dict[str, Any]:
        fan = {"percentiles": list(arm.fan.percentiles), "equity_usd": np.round(arm.fan.equity_usd, 2).tolist()}
        facts = {name: value for name, value in vars(arm).items() if name not in ("name", "outcome", "cause", "days")}
        return {**facts, "fan": fan}

    return {**vars(simulation), "arms": {name: of_arm(arm) for name, arm in simulation.arms.items()}}


def sessions_to_expiry(market: Market, rules: RuleProfile) -> NDArray[np.int64] | None:
    """Sessions that an attempt may have, by the sealed session it begins on, int64[n]; None without an expiry in
    calendar days. The exchange's own trading days are counted from the date of that session on."""
    if rules.expiry_calendar_days is None:
        return None
    return trading_days_within(market.tables.sessions.date[market.split.test], rules.expiry_calendar_days)


def attempt_orders(n: int, block_length: float, attempts: int, horizon: int, seed: int) -> NDArray[np.int64]:
    """The sessions of the first attempts of `simulate_attempts`, int64[attempts, horizon]."""
    sizes = [min(WAVE, attempts - begun) for begun in range(0, attempts, WAVE)]
    return np.concatenate([_wave(n, block_length, size, horizon, seed, w) for w, size in enumerate(sizes)])


def _wave(n: int, block_length: float, size: int, horizon: int, seed: int, number: int) -> NDArray[np.int64]:
    return session_orders(n, block_length, size, horizon, np.random.default_rng([seed, number]))


class _Attempts:
    """One arm's attempts, batch by batch; `limits` int64[n]: most sessions of one, by the session it begins on."""

    def __init__(
        self,
        arm: Arm,
        batch: SessionBatch,
        first_bars: NDArray[Any],
        rules: RuleProfile,
        limits: NDArray[np.int64],
        player: SessionPlayer | None,
    ) -> None:
        _check(arm, batch, rules)
        begin_count(arm)
        self._player = arm.player(batch.tape) if player is None and type(arm) is PolicyArm else player
        self.name = arm.name
        self._arm, self._batch, self._first_bars = arm, batch, first_bars
        self._limits, self._min_days = limits, rules.min_days
        self._start_cents = int(batch.params["start_balance_cents"])
        self._goal_cents = self._start_cents + int(batch.params["target_cents"])
        self._outcome: list[NDArray[np.int8]] = []
        self._cause: list[NDArray[np.int8]] = []
        self._days: list[NDArray[np.int64]] = []
        self._equity_cents: list[NDArray[np.int64]] = []

    def live(self, orders: NDArray[np.int64]) -> None:
        """Play attempts over these sessions, int64[k, horizon], in parallel."""
        k, horizon = orders.shape
        limits = self._limits[orders[:, 0]]
        outcome, cause, days = np.full(k, EXPIRED, np.int8), np.zeros(k, np.int8), limits.copy()
        equity = np.full((k, horizon + 1), self._start_cents)
        alive, carried = np.arange(k), None
        for day in range(1, horizon + 1):
            self._batch.begin(self._first_bars[orders[alive, day - 1]], carried)
            passed = self._play(day)
            accounts = self._batch.accounts
            breached = accounts["breached"] != 0
            equity[alive, day:] = accounts["cash_cents"][:, np.newaxis]
            # A trailing threshold may end an account above the target; that is still a breach.
            for ended, how in ((passed, PASSED), (breached, BREACHED)):
                outcome[alive[ended]] = how
                days[alive[ended]] = day
            cause[alive] = accounts["breached"]
            goes_on = ~passed & ~breached & (day < limits[alive])
            alive, carried = alive[goes_on], accounts[goes_on]
            if not len(alive):
                break
        self._outcome.append(outcome)
        self._cause.append(cause)
        self._days.append(days)
        self._equity_cents.append(equity)

    def _play(self, day: int) -> NDArray[np.bool_]:
        """Play one session of all live accounts; returns which reached the target and stopped, bool[n]."""
        batch, arm = self._batch, self._arm
        if self._player is not None:
            return self._player.play(batch, NO_GOAL if day < self._min_days else self._goal_cents)
        passed = self._at_goal(day)
        while not batch.over.all():
            opinions = batch.obs[:, OPINION].copy() if arm.sees_advice else None
            batch.step(arm.act(batch, opinions))
            passed |= self._at_goal(day)
        return passed

    def _at_goal(self, day: int) -> NDArray[np.bool_]:
        batch = self._batch
        if day < self._min_days:
            return np.zeros(batch.n, np.bool_)
        at_goal = passes_of(batch.accounts, self._goal_cents, batch.arrays[1])
        batch.over |= at_goal
        return at_goal

    def figures(self, orders: NDArray[np.int64], n: int, block_length: float) -> ArmAttempts:
        """Pass rates, errors and the fan of all attempts so far; `orders` int64[k, horizon] are their sessions."""
        outcome, days = np.concatenate(self._outcome), np.concatenate(self._days)
        equity = np.concatenate(self._equity_cents) / 100.0
        k, passed = len(outcome), outcome == PASSED
        p = float(passed.mean())
        error, low, high, reason = session_interval(passed.astype(np.float64), orders, n, block_length)
        return ArmAttempts(
            name=self.name,
            attempts=k,
            passed_frac=p,
            breached_frac=float((outcome == BREACHED).mean()),
            expired_frac=float((outcome == EXPIRED).mean()),
            median_days_to_pass=float(np.median(days[passed])) if passed.any() else None,
            monte_carlo_error_frac=math.sqrt(p * (1.0 - p) / k),
            session_error_frac=error,
            passed_low_frac=low,
            passed_high_frac=high,
            session_reason=reason,
            fan=EquityFan(PERCENTILES, np.percentile(equity, PERCENTILES, axis=0)),
            outcome=outcome,
            cause=np.concatenate(self._cause),
            days=days,
        )


def session_interval(
    passed: NDArray[np.float64], orders: NDArray[np.int64], n: int, block_length: float
) -> tuple[float | None, float | None, float | None, str]:
    """Standard error, 95% interval (in log odds, to stay within 0 to 1), and why there is none."""
    p = float(passed.mean())
    if p in (0.0, 1.0):
        return None, None, None, "all attempts had the same outcome, so the effect of other sessions is unknown"
    variance = session_variance(passed, orders, n, block_length)
    if variance <= 0.0:
        return None, None, None, "too small to separate from the noise of so few attempts"
    error = math.sqrt(variance)
    odds, reach = math.log(p / (1.0 - p)), _Z95 * error / (p * (1.0 - p))
    low, high = (1.0 / (1.0 + math.exp(-(odds + side))) for side in (-reach, reach))
    return error, low, high, ""


def _check(arm: Arm, batch: SessionBatch, rules: RuleProfile) -> None:
    """ValueError for input that would silently simulate something else."""
    if feed_of(arm) is not None:
        raise ValueError(f"arm {arm.name} has its own advice, but attempts support only the tape's advice")
    if not batch.with_tables:
        raise ValueError("attempts need a SessionBatch with tables, which writes context and opinions")
    wanted = {**rules.to_params_fields(), "max_episode_steps": 0}
    # Micros have their own limits; the profile alone does not say which ones apply.
    wanted = {name: value for name, value in wanted.items() if "_contracts" not in name}
    other = {name: int(batch.params[name]) for name, value in wanted.items() if int(batch.params[name]) != value}
    if other:
        raise ValueError(f"the accounts do not follow {rules.name}: {other}, expected {wanted}")
