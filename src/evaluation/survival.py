"""One table over many rule profiles: where would the trained policies pass, what ends them, and how soon is a payout?

Every profile is attempted with the same policies on the same sealed sessions (`attempts`); nothing is trained again. A
firm whose funded phase is known is attempted once more from there: a first payout needs both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.agent.market import Market
from src.agent.session_play import SessionPlayer
from src.evaluation.arms import Arm, PolicyArm
from src.evaluation.attempts import (
    BREACHED,
    EXPIRED,
    PASSED,
    ArmAttempts,
    PassSimulation,
    attempt_orders,
    session_interval,
    sessions_to_expiry,
    simulate_attempts,
)
from src.evaluation.settings import EvidenceSettings
from src.market.contracts import Contract
from src.trading.layout import BREACHES
from src.trading.params import make_params
from src.trading.rules import RuleProfile, chosen_profiles
from src.trading.session_batch import SessionBatch
from src.trading.settings import EnvironmentSettings
from src.trading.tape import Tape

FUNDED_STREAM = 1
"""Added to the seed of the attempts: a funded account trades other orders of the sessions than its evaluation."""
FUNDED_SHARE = 0.5
"""Of a profile's time, for the funded phase, where it has one."""
QUARTILES = (25.0, 50.0, 75.0)


@dataclass(frozen=True)
class SurvivalTable:
    """What all profiles are attempted with; `clock` counts seconds."""

    arms: Sequence[Arm]
    market: Market
    tape: Tape
    environment: EnvironmentSettings
    contract: Contract
    settings: EvidenceSettings
    seed: int
    block_length: float
    clock: Callable[[], float] = time.monotonic

    def make(self) -> dict[str, Any]:
        """Report section `survival`. The time limit of the attempts is that of all profiles together."""
        began, profiles = self.clock(), chosen_profiles(self.settings.rules)
        players = {arm.name: arm.player(self.tape) for arm in self.arms if type(arm) is PolicyArm}
        rows = []
        for done, rules in enumerate(profiles):
            left_s = max(0.0, self.settings.pass_budget_s - (self.clock() - began))
            rows.append(self._row(rules, left_s / (len(profiles) - done), players))
        return {
            "sessions": len(self._first_bars),
            "block_length": self.block_length,
            "contracts": self.environment.contracts,
            "seconds": self.clock() - began,
            "rows": rows,
        }

    @property
    def _first_bars(self) -> NDArray[np.int32]:
        return self.market.first_bars(self.market.split.test)

    def _row(self, rules: RuleProfile, budget_s: float, players: Mapping[str, SessionPlayer | None]) -> dict[str, Any]:
        facts = _about(rules)
        if reason := rules.why_not_flat(self.environment.trading_hours):
            return {**facts, "horizon_days": 0, "is_capped": False, "reason": reason, "arms": {}}
        funded_rules = rules.funded_profile()
        own_s = budget_s if funded_rules is None else (1.0 - FUNDED_SHARE) * budget_s
        tried = self._attempt(rules, own_s, self.seed, players)
        facts |= {"horizon_days": tried.horizon_days, "is_capped": tried.is_capped, "reason": tried.reason}
        arms = {name: self._arm_facts(tried, arm) for name, arm in tried.arms.items()}
        if funded_rules is not None and tried.arms:
            funded = self._attempt(funded_rules, FUNDED_SHARE * budget_s, self.seed + FUNDED_STREAM, players)
            for name, arm in tried.arms.items():
                arms[name]["payout"] = self._payout_facts(tried, arm, funded, funded.arms[name])
        return {**facts, "arms": arms}

    def _attempt(
        self, rules: RuleProfile, budget_s: float, seed: int, players: Mapping[str, SessionPlayer | None]
    ) -> PassSimulation:
        params = make_params(self.environment, self.contract, rules).copy()
        params["max_episode_steps"] = 0  # as `Market.session_params`
        params.setflags(write=False)
        return simulate_attempts(
            self.arms,
            lambda: SessionBatch(self.tape, params),
            self._first_bars,
            rules,
            attempts=self.settings.pass_attempts,
            budget_s=budget_s,
            seed=seed,
            block_length=self.block_length,
            max_days=self.settings.pass_max_days,
            expiry=sessions_to_expiry(self.market, rules),
            players=players,
            clock=self.clock,
        )

    def _orders(self, tried: PassSimulation, seed: int, attempts: int) -> NDArray[np.int64]:
        return attempt_orders(tried.sessions, self.block_length, attempts, tried.horizon_days, seed)

    def _interval(self, values: NDArray[np.bool_], orders: NDArray[np.int64]) -> tuple[float | None, float | None]:
        n = len(self._first_bars)
        _, low, high, _ = session_interval(values.astype(np.float64), orders, n, self.block_length)
        return low, high

    def _arm_facts(self, tried: PassSimulation, arm: ArmAttempts) -> dict[str, Any]:
        breached = arm.outcome == BREACHED
        low, high = self._interval(breached, self._orders(tried, self.seed, arm.attempts))
        return {
            "attempts": arm.attempts,
            "passed_frac": arm.passed_frac,
            "passed_low_frac": arm.passed_low_frac,
            "passed_high_frac": arm.passed_high_frac,
            "breached_frac": arm.breached_frac,
            "breached_low_frac": low,
            "breached_high_frac": high,
            "breached_by": {
                name: float(np.mean(breached & (arm.cause == code))) for code, name in enumerate(BREACHES) if name
            },
            "expired_frac": arm.expired_frac,
            "days_to_pass": _quartiles(arm.days[arm.outcome == PASSED]),
            "session_reason": arm.session_reason,
        }

    def _payout_facts(
        self, tried: PassSimulation, arm: ArmAttempts, funded: PassSimulation, paid: ArmAttempts
    ) -> dict[str, Any]:
        both = min(arm.attempts, paid.attempts)
        reached = (arm.outcome[:both] == PASSED) & (paid.outcome[:both] == PASSED)
        orders = (self._orders(tried, self.seed, both), self._orders(funded, self.seed + FUNDED_STREAM, both))
        low, high = self._interval(reached, np.concatenate(orders, axis=1))
        return {
            "attempts": both,
            "funded_frac": paid.passed_frac,
            "funded_low_frac": paid.passed_low_frac,
            "funded_high_frac": paid.passed_high_frac,
            "breached_frac": float(np.mean(paid.outcome == BREACHED)),
            "open_frac": float(np.mean(paid.outcome == EXPIRED)),
            "horizon_days": funded.horizon_days,
            "days_to_payout": _quartiles(paid.days[paid.outcome == PASSED]),
            "first_frac": float(reached.mean()),
            "first_low_frac": low,
            "first_high_frac": high,
        }


def _about(rules: RuleProfile) -> dict[str, Any]:
    return {
        "profile": rules.name,
        "title": rules.title,
        "family": rules.family,
        "as_of": rules.as_of.isoformat(),
        "start_balance_usd": float(rules.start_balance_usd),
        "profit_target_usd": None if rules.profit_target_usd is None else float(rules.profit_target_usd),
        "automation": rules.automation,
        "automation_note": rules.automation_note,
        "conflicts": list(rules.conflicts),
        "unverified": list(rules.unverified),
    }


def _quartiles(days: NDArray[np.int64]) -> list[float] | None:
    return [float(q) for q in np.percentile(days, QUARTILES)] if len(days) else None
