"""The survival table: every profile with its own rules, the same policies, and a payout that needs a pass first."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from src.evaluation.arms import PolicyArm, RandomLegalArm
from src.evaluation.attempts import (
    BREACHED,
    PASSED,
    attempt_orders,
    session_interval,
    sessions_to_expiry,
    simulate_attempts,
)
from src.evaluation.settings import EvidenceSettings
from src.evaluation.survival import FUNDED_STREAM, SurvivalTable
from src.market.contracts import get_contract
from src.report.schema import schema
from src.trading.params import make_params
from src.trading.rules import load_rule_profile
from src.trading.session_batch import SessionBatch
from src.trading.settings import EnvironmentSettings
from tests.evaluation.test_advice_use import advice, hybrid_policy
from tests.small_runs import market

SMALL = market("MNQ", "none")
ENVIRONMENT = EnvironmentSettings(rule_profile="none", contracts=30)
EOD = "apex_50k_eod_2026_10"
NAMES = (EOD, "topstep_50k_2026_11", "tradeify_growth_50k_2026_11")
SEED, BLOCK = 3, 2.0


def table(
    names: tuple[str, ...] = NAMES, environment: EnvironmentSettings = ENVIRONMENT, **changes: Any
) -> SurvivalTable:
    asked: dict[str, Any] = {"pass_attempts": 200, "pass_max_days": 12, "pass_budget_s": 600.0, **changes}
    return SurvivalTable(
        arms=[RandomLegalArm(1), PolicyArm("hybrid", hybrid_policy(0.7), sees_advice=True)],
        market=SMALL,
        tape=SMALL.tape(advice()),
        environment=environment,
        contract=get_contract("MNQ"),
        settings=EvidenceSettings(rules=names, **asked),
        seed=SEED,
        block_length=BLOCK,
    )


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return table().make()


def attempted(name: str, funded: bool) -> Any:
    """The same attempts without the table."""
    rules = load_rule_profile(name)
    profile = rules.funded_profile() if funded else rules
    assert profile is not None
    params = make_params(ENVIRONMENT, get_contract("MNQ"), profile)
    own = table()
    return simulate_attempts(
        own.arms, lambda: SessionBatch(own.tape, params), SMALL.first_bars(SMALL.split.test), profile,
        attempts=200, budget_s=600.0, seed=SEED + (FUNDED_STREAM if funded else 0), block_length=BLOCK, max_days=12,
        expiry=sessions_to_expiry(SMALL, profile),
    )  # fmt: skip


def test_a_row_is_what_attempts_at_its_own_profile_give(made: dict[str, Any]) -> None:
    assert [row["profile"] for row in made["rows"]] == list(NAMES)
    assert made["sessions"] == len(SMALL.split.test)
    different = set()
    for row in made["rows"]:
        alone = attempted(row["profile"], funded=False)
        assert (row["reason"], row["horizon_days"]) == (alone.reason, alone.horizon_days)
        assert list(row["arms"]) == ["random_legal", "hybrid"]
        for name, arm in row["arms"].items():
            found = alone.arms[name]
            assert (arm["passed_frac"], arm["breached_frac"]) == (found.passed_frac, found.breached_frac)
            assert sum(arm["breached_by"].values()) == pytest.approx(arm["breached_frac"])
            assert arm["passed_frac"] + arm["breached_frac"] + arm["expired_frac"] == pytest.approx(1.0)
            passed = found.days[found.outcome == PASSED]
            assert arm["days_to_pass"] == (np.percentile(passed, [25, 50, 75]).tolist() if len(passed) else None)
            orders = attempt_orders(alone.sessions, BLOCK, 200, alone.horizon_days, SEED)
            breached = (found.outcome == BREACHED).astype(float)
            assert session_interval(breached, orders, alone.sessions, BLOCK)[1] == arm["breached_low_frac"]
        different.add(row["arms"]["random_legal"]["passed_frac"])
    assert len(different) > 1, "the profiles must differ in what they let pass"


def test_a_first_payout_needs_the_pass_and_then_the_funded_account(made: dict[str, Any]) -> None:
    first, *others = made["rows"]
    assert all("payout" not in arm for row in others for arm in row["arms"].values())
    evaluated, funded = attempted(EOD, funded=False), attempted(EOD, funded=True)
    for name, arm in first["arms"].items():
        payout, passed, paid = arm["payout"], evaluated.arms[name].outcome, funded.arms[name].outcome
        assert payout["funded_frac"] == funded.arms[name].passed_frac
        assert payout["first_frac"] == np.mean((passed == PASSED) & (paid == PASSED)) <= arm["passed_frac"]
        assert payout["funded_frac"] + payout["breached_frac"] + payout["open_frac"] == pytest.approx(1.0)


def test_the_table_is_the_section_of_the_report(made: dict[str, Any]) -> None:
    shape = schema()
    Draft202012Validator({**shape["properties"]["survival"], "$defs": shape["$defs"]}).validate(made)


def test_the_time_limit_is_that_of_all_profiles_together() -> None:
    """A clock that runs ten seconds at every look: no profile gets more than the fewest attempts, and each its row."""
    ticks = count(step=10)
    hurried = table(pass_budget_s=1.0, pass_attempts=2000)
    object.__setattr__(hurried, "clock", lambda: float(next(ticks)))
    assert {arm["attempts"] for row in hurried.make()["rows"] for arm in row["arms"].values()} == {200}


def test_a_firm_whose_time_the_trading_hours_break_has_a_row_without_attempts() -> None:
    whole_day = EnvironmentSettings(rule_profile="none", trading_hours="globex")
    (row,) = table(("topstep_50k_2026_11",), whole_day).make()["rows"]
    assert row["arms"] == {}
    assert row["reason"] == "positions must be closed by 16:10 New York, but globex holds them until 16:59"
