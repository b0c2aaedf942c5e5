"""An oracle nobody here wrote: topstep-backtest's rule engine, given the same fills and bars, breaches on the same bar.

The package (PyPI, requirements-oracle.txt) asks for Python 3.12 and for a broker's SDK; its rule engine is two plain
modules, which run on 3.11 and are loaded without the rest. It is told, tick by tick, the equity of the account along
each bar in the order in which this project lives through one: from the open to the adverse extreme, then the close.

Where the two differ, the firm's text decides: "best day under 50% of the profit". The package lets a best day of
exactly half pass, this project does not. And the package looks for a pass at the close alone, so passes are compared
there.
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from importlib.util import find_spec
from random import Random
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from src.trading.account_rules import passes_of
from src.trading.layout import BREACH_BY_DRAWDOWN, EXIT_FLAT, EXIT_HOLE, EXIT_OPPOSITE, EXIT_STOP, HIGH, LOW, OPEN
from src.trading.rules import load_rule_profile
from src.trading.session_batch import SessionBatch
from tests.reference_account import ReferenceParams
from tests.strategies import market_of
from tests.trading import kernel_adapter
from tests.trading.test_carried_accounts import first_bars_of
from tests.trading.worlds import random_legal

PACKAGE = "topstep_backtest"
PATHS, MARKETS, SESSIONS = 1000, 10, 6
NEAR_TARGET_CENTS = 50_000
"""The Combine's target is far for random decisions; at this one many paths pass."""
DAY_NS = 24 * 3600 * 10**9


@pytest.fixture(scope="module")
def engine() -> Any:
    """The package's modules `rules.kernel` and `rules.params`."""
    found = find_spec(PACKAGE)
    if found is None or find_spec("msgspec") is None:
        pytest.skip("topstep-backtest is not installed; requirements-oracle.txt says how")
    shell = ModuleType(PACKAGE)
    shell.__path__ = list(found.submodule_search_locations or ())
    sys.modules[PACKAGE] = shell
    try:
        yield importlib.import_module(f"{PACKAGE}.rules.kernel"), importlib.import_module(f"{PACKAGE}.rules.params")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
            del sys.modules[name]


def test_the_profiles_have_the_figures_that_the_package_has(engine: Any) -> None:
    _, params = engine
    for size in params.AccountSize:
        theirs = params.combine_params(size)
        ours = load_rule_profile(f"topstep_{size.value.lower()}_2026_11")
        assert (ours.start_balance_usd, ours.profit_target_usd) == (theirs.starting_balance, theirs.profit_target)
        assert (ours.trail_usd, ours.lock_usd) == (theirs.mll_buffer, theirs.starting_balance)
        assert (ours.daily_limit_usd, ours.consistency_frac) == (theirs.dll, theirs.consistency_pct)
        assert ours.micro_contracts == theirs.max_cap_micro_units
        limit = params.combine_params(size, dll_enabled=True).dll
        assert f"daily_limit_usd of {limit} sets it" in " ".join(ours.caveats)


class Combine:
    """The package's account beside one of ours."""

    def __init__(self, engine: Any, params: ReferenceParams, with_limit: bool) -> None:
        kernel, sizes = engine
        self._kernel, self._params = kernel, params
        own = sizes.combine_params(sizes.AccountSize.S50K, dll_enabled=with_limit)
        fields = {name: getattr(own, name) for name in own.__struct_fields__}
        target = Decimal(NEAR_TARGET_CENTS) / 100
        self.account = kernel.CombineKernel(sizes.CombineParams(**{**fields, "profit_target": target}))
        self.day = 0

    def tell(self, cents: int) -> Any:
        """The equity now; the breach if there is one."""
        return self.account.check_equity(self.day * DAY_NS, Decimal(int(cents)) / 100)

    def live(self, before: Any, after: Any, prices: Any) -> str:
        """A step of ours as equity tick by tick, to the bar's end or the first breach: "", "DLL" or "MLL"."""
        traded = after["n_trades"] > before["n_trades"]
        opened = before["position"] == 0 and (traded or after["position"] != 0)
        if traded or opened:
            self.account.on_trade_activity(self.day * DAY_NS)
        position = int(after["closed_position"] if traded else after["position"])
        if position == 0:
            return self._settled(after)
        entry = int(after["closed_entry_ticks"] if traded else after["entry_ticks"])
        cash = int(before["cash_cents"]) - (self._params.commission_cents * abs(position) if opened else 0)
        for tick in self._walk(position, bool(traded), bool(opened), after, prices):
            breach = self.tell(cash + position * (tick - entry) * self._params.tick_value_cents)
            if breach is not None:
                said = breach.kind.name
                return said if said == "MLL" else self._settled(after) or said
        return self._settled(after) if traded else ""

    def _walk(self, position: int, traded: bool, opened: bool, after: Any, prices: Any) -> range:
        """The ticks that the position sees on its adverse side within the bar, from the open on."""
        sign, reason, first = (1 if position > 0 else -1), int(after["exit_reason"]), int(prices[OPEN])
        worst = int(prices[LOW] if sign > 0 else prices[HIGH])
        if traded and reason in (EXIT_HOLE, EXIT_OPPOSITE, EXIT_FLAT):
            return range(0)
        if traded and reason == EXIT_STOP:
            stop = int(after["stop_in_bar_ticks"])
            # At the open or beyond: out there at once. Else the stop is the last tick that is seen.
            worst = stop if sign * (first - stop) > 0 or opened else first
        return range(first, worst - sign, -sign)

    def _settled(self, after: Any) -> str:
        breach = self.tell(after["cash_cents"])
        return "" if breach is None else breach.kind.name

    def close(self, cents: int) -> None:
        self.account.on_session_close(self.day * DAY_NS + 20 * 3600 * 10**9, Decimal(int(cents)) / 100)
        self.day += 1


def test_the_same_fills_breach_lock_and_pass_alike(engine: Any) -> None:
    kernel, _ = engine
    seen: Counter[str] = Counter()
    for number in range(MARKETS):
        rng, with_limit = Random(number), number % 2 == 1
        rules = load_rule_profile("topstep_50k_2026_11").to_params_fields()
        rules |= {"target_cents": NEAR_TARGET_CENTS, **({"daily_limit_cents": 100_000} if with_limit else {})}
        market = market_of(rng, sessions=SESSIONS, longest=30)
        costs = {"commission_cents": rng.choice([0, 225]), "slippage_ticks": rng.choice([0, 0, 1])}
        sizes = {"contracts": rng.randint(1, 5), "tick_value_cents": 1250}
        params = replace(ReferenceParams(**costs), **{**rules, **sizes, "stop_atr": 3.0, "target_r": 1.0})
        record = kernel_adapter.params_of(params)
        record.setflags(write=False)
        batch = SessionBatch(kernel_adapter.tape_of(market), record)
        seen += compare(engine, kernel, market, batch, params, with_limit)
    assert seen["paths"] == PATHS
    assert min(seen["MLL"], seen["DLL"]) >= 100, seen
    assert seen["passed"] >= 10, seen
    assert seen["half"] >= 1, seen


def compare(
    engine: Any, kernel: Any, market: Any, batch: SessionBatch, params: ReferenceParams, with_limit: bool
) -> Counter[str]:
    """A hundred accounts through every session of one market."""
    n, seen = PATHS // MARKETS, Counter[str]()
    theirs = np.array([Combine(engine, params, with_limit) for _ in range(n)])
    prices, draws, carried = batch.tape.prices, np.random.default_rng(1), None
    goal = params.start_balance_cents + params.target_cents
    seen["paths"] = n
    for first in first_bars_of(market):
        batch.begin([first] * len(theirs), carried)
        said = [""] * len(theirs)
        while not batch.over.all():
            before, was_over = batch.accounts.copy(), batch.over.copy()
            batch.step(random_legal(draws, batch.masks))
            for k in np.flatnonzero(~was_over):
                after, u = batch.accounts[k], min(int(before["bar"][k]) + 1, len(prices) - 1)
                told = theirs[k].live(before[k], after, prices[u])
                said[k] = told or said[k]
                place = (int(before["bar"][k]), before[k], after)
                assert (told == "MLL") == (after["breached"] == BREACH_BY_DRAWDOWN), place
                assert theirs[k].account.day_locked == bool(after["daily_locked"]) or told == "MLL", place
        seen.update(word for word in said if word)
        lives = batch.accounts["breached"] == 0
        passes = passes_of(batch.accounts, goal, batch.arrays[1])
        for k in np.flatnonzero(lives):
            account = batch.accounts[k]
            theirs[k].close(account["cash_cents"])
            verdict = theirs[k].account.verdict
            profit = int(account["cash_cents"]) - params.start_balance_cents
            if verdict == kernel.Verdict.PASSED and not passes[k]:
                # The one difference: exactly half is not under half.
                assert 2 * int(account["best_day_cents"]) == profit
                seen["half"] += 1
            else:
                assert (verdict == kernel.Verdict.PASSED) == passes[k], account
            seen["passed"] += bool(passes[k])
            if verdict == kernel.Verdict.IN_PROGRESS:
                assert theirs[k].account.floor * 100 == int(account["threshold_cents"])
        goes_on = lives & ~passes & np.array([c.account.verdict == kernel.Verdict.IN_PROGRESS for c in theirs])
        carried, theirs = batch.accounts[goes_on], theirs[goes_on]
        if not len(theirs):
            break
    return seen
