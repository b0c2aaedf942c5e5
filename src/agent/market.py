"""One market ready to trade: tables, splits, rules, and the tapes that accounts read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from src.advisor.situations import market_situations
from src.advisor.table import AdviceTable, empty_table
from src.agent.learner.engine import compile_kernels
from src.agent.session_play import load_decisions
from src.errors import ConfigError
from src.market.bars import Bars
from src.market.contracts import get_contract
from src.market.flags import DECISION, END_AFTER, ENTRY_ALLOWED
from src.market.load import build_tables, load_market
from src.market.settings import DataSettings
from src.market.split import Split, split_sessions
from src.market.tables import MarketTables
from src.trading.gym_env import TradingEnv
from src.trading.params import make_params
from src.trading.rules import RuleProfile, load_rule_profile
from src.trading.session_batch import SessionBatch
from src.trading.settings import EnvironmentSettings
from src.trading.tape import Tape
from src.trading.vec_env import BatchedTradingVecEnv


@dataclass(frozen=True)
class Market:
    """One market ready to trade: its tables, which sessions serve what, and an account's constants."""

    tables: MarketTables
    split: Split
    rules: RuleProfile
    params: NDArray[np.void]
    situation: NDArray[np.int32]

    @property
    def session_params(self) -> NDArray[np.void]:
        """An account's constants in evaluation: sessions are played to their end, not to training's step limit."""
        params = self.params.copy()
        params["max_episode_steps"] = 0
        params.setflags(write=False)
        return params

    def first_bars(self, session_ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """The first tradable bar of each session, int32[k]."""
        return self.tables.sessions.first_decision[session_ids]

    def bars_of(self, session_ids: NDArray[np.int32]) -> NDArray[np.int64]:
        """The decision bars of these sessions, int64[k]."""
        stands = (self.tables.flags & DECISION) != 0
        return np.flatnonzero(stands & np.isin(self.tables.bars.session_id, session_ids))

    def tape(self, table: AdviceTable) -> Tape:
        """What training accounts read: training sessions to start in, and the advice of `table`."""
        tables = self.tables
        bars = self.bars_of(self.split.train)
        flags = tables.flags[bars]
        return Tape(
            prices=tables.prices,
            flags=tables.flags,
            atr_ticks=tables.atr_ticks,
            window=tables.window,
            context=tables.context,
            situation=self.situation,
            advice=table.probabilities,
            starts=bars[((flags & ENTRY_ALLOWED) != 0) & ((flags & END_AFTER) == 0)],
        )


def prepare_market(data: DataSettings, environment: EnvironmentSettings, market: str, seed: int) -> Market:
    """Bars to tables, split by session. Raises UserErrors for whatever the user can fix."""
    constants = account_constants(environment, market)
    tables = load_market(data, market, trading_hours=environment.trading_hours, seed=seed)
    return market_of(tables, data, *constants)


def account_constants(environment: EnvironmentSettings, market: str) -> tuple[RuleProfile, NDArray[np.void]]:
    """The rules of an account, and what the kernel needs of them and of the contract."""
    rules = load_rule_profile(environment.rule_profile)
    if reason := rules.why_not_flat(environment.trading_hours):
        raise ConfigError(
            f"environment.trading_hours is {environment.trading_hours!r}, but under the rule profile {rules.name} "
            f"{reason}. Set environment.trading_hours to rth, or choose another environment.rule_profile."
        )
    return rules, make_params(environment, get_contract(market), rules)


def market_of_bars(bars: Bars, data: DataSettings, environment: EnvironmentSettings) -> Market:
    """A market from bars that are at hand."""
    tables = build_tables(bars, data, trading_hours=environment.trading_hours)
    return market_of(tables, data, *account_constants(environment, bars.market))


def market_of(tables: MarketTables, data: DataSettings, rules: RuleProfile, params: NDArray[np.void]) -> Market:
    """A market from tables that are at hand."""
    split = split_sessions(tables.sessions, data.train_frac, data.validation_frac, data.embargo_sessions)
    return Market(tables, split, rules, params, situations_of(tables))


def situations_of(tables: MarketTables) -> NDArray[np.int32]:
    """The market situation of every bar that a run and the leak checks use, int32[n]."""
    return market_situations(tables)


def compile_kernel(market: Market) -> None:
    """Step an account in every way there is, and learn, so that nothing of the kernels is compiled later.

    On a machine's first run numba compiles for 10 to 20 s, which is no training time; worker processes started after
    this read the result from the cache, instead of all compiling at once.
    """
    tape = market.tape(empty_table())
    hold = np.zeros(1, np.int64)
    batched = BatchedTradingVecEnv(tape, market.params, 1)
    batched.reset()
    batched.step(hold)
    single = TradingEnv(tape, market.params)
    single.reset()
    single.step(0)
    first_bar = int(market.first_bars(market.split.train[:1])[0])
    load_decisions(SessionBatch(tape, market.session_params, with_tables=False), first_bar)
    compile_kernels()
