"""The results of a run's sealed sessions as tables, for spreadsheets, pandas and quantstats. docs/exports.md has every
column.

Money is US dollars after costs. In an evaluation each session is a new account; `equity` and `daily_returns` put the
sessions one after another as if a single account had traded them all, which no rule profile ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from src.agent.market import Market
from src.evaluation.playing import ArmResult
from src.evaluation.seeds import WITHOUT_SEEDS, SeededResults
from src.market.contracts import get_contract
from src.trading.layout import EXIT_REASONS

SESSION_COLUMNS = (
    *("net_usd", "gross_usd", "commission_usd", "slippage_usd", "max_drawdown_usd"),
    *("n_trades", "n_wins", "bars", "bars_exposed", "breached", "daily_locked", "target_reached"),
)
"""Fields of `ArmResult` that the table of sessions has, in order."""


@dataclass(frozen=True)
class SealedResults:
    """What one market's sealed sessions came to: the results by arm and seed, and the trades TRADE[k] with the names
    of the arms (`arm@seed`) that their `arm` counts, or None where no trades were kept."""

    symbol: str
    market: Market
    results: SeededResults
    trades: NDArray[np.void] | None = None
    trade_arms: Sequence[str] = ()

    @property
    def dates(self) -> pd.DatetimeIndex:
        """The trade date of each session."""
        sessions = self.market.tables.sessions
        return pd.DatetimeIndex([str(sessions.date[i]) for i in self.market.split.test], name="date")

    @property
    def start_usd(self) -> float:
        """What an account starts with."""
        return float(self.market.params["start_balance_cents"].item()) / 100.0

    def by_seed(self) -> Iterable[tuple[str, int | None, ArmResult]]:
        """Arm, seed (None where the arm has none) and result."""
        for arm, results in self.results.results.items():
            seeds = [None] if arm in WITHOUT_SEEDS else list(self.results.values)
            for seed, result in zip(seeds, results, strict=True):
                yield arm, seed, result


def result_tables(markets: Sequence[SealedResults]) -> dict[str, pd.DataFrame]:
    """The tables by name. `daily_returns` and `equity` have a row a date and a column an arm and seed, `sessions` a row
    a session, arm and seed, `trades` a row a trade; the last is missing where no trades were kept."""
    tables = {
        "daily_returns": _by_date(markets, lambda of, result: np.round(result.net_usd / of.start_usd, 10)),
        "equity": _by_date(markets, lambda of, result: np.round(of.start_usd + np.cumsum(result.net_usd), 2)),
        "sessions": pd.concat([_sessions(of) for of in markets], ignore_index=True),
    }
    if all(of.trades is not None for of in markets):
        tables["trades"] = pd.concat([_trades(of) for of in markets], ignore_index=True)
    return tables


def _by_date(markets: Sequence[SealedResults], values: Any) -> pd.DataFrame:
    """One column an arm and seed; a date on which a market has no sealed session is empty there."""
    several = len(markets) > 1
    columns = {
        _label(of.symbol if several else "", arm, seed): pd.Series(values(of, result), of.dates)
        for of in markets
        for arm, seed, result in of.by_seed()
    }
    return pd.DataFrame(columns).sort_index().rename_axis("date")


def _label(symbol: str, arm: str, seed: int | None) -> str:
    """`hybrid_seed3`, with the market before it where there are several."""
    return "_".join(part for part in (symbol, arm, "" if seed is None else f"seed{seed}") if part)


def _sessions(of: SealedResults) -> pd.DataFrame:
    parts = []
    for arm, seed, result in of.by_seed():
        columns: Mapping[str, Any] = {name: getattr(result, name) for name in SESSION_COLUMNS}
        part = pd.DataFrame({"date": of.dates, "market": of.symbol, "arm": arm, **columns})
        part.insert(3, "seed", pd.Series([seed] * len(part), part.index, "Int64"))
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _trades(of: SealedResults) -> pd.DataFrame:
    assert of.trades is not None
    rows, bars = of.trades, of.market.tables.bars
    contract = get_contract(bars.market)
    tick = float(contract.tick_size)
    names = np.array([name.rpartition("@")[0] for name in of.trade_arms], dtype=object)
    seeds = np.array([int(name.rpartition("@")[2]) for name in of.trade_arms], dtype=np.int64)
    seedless = np.array([name in WITHOUT_SEEDS for name in names], dtype=np.bool_)
    arm = rows["arm"]
    dates = of.dates.to_numpy()
    times = bars.open_ns.astype("datetime64[ns]")
    contracts = np.array(bars.contract_names or (bars.market,), dtype=object)
    codes = np.minimum(bars.contract[rows["entry_bar"]], len(contracts) - 1)
    cents = {name: rows[f"{name}_cents"] for name in ("net", "commission", "slippage")}
    gross = cents["net"] + cents["commission"] + cents["slippage"]
    seed = pd.array(seeds[arm] if len(arm) else [], dtype="Int64")
    if len(arm):
        seed[seedless[arm]] = pd.NA
    return pd.DataFrame(
        {
            "date": dates[rows["session"]],
            "market": of.symbol,
            "contract": contracts[codes],
            "arm": names[arm] if len(arm) else np.array([], dtype=object),
            "seed": seed,
            "side": np.where(rows["contracts"] > 0, "long", "short"),
            "contracts": np.abs(rows["contracts"]),
            "entry_bar_utc": times[rows["entry_bar"]],
            "entry_price": rows["entry_ticks"] * tick,
            "exit_bar_utc": times[rows["exit_bar"]],
            "exit_price": rows["exit_ticks"] * tick,
            "exit_reason": np.array(EXIT_REASONS, dtype=object)[rows["exit_reason"]],
            "bars_held": rows["exit_bar"] - rows["entry_bar"] + 1,
            "gross_usd": gross / 100.0,
            "commission_usd": cents["commission"] / 100.0,
            "slippage_usd": cents["slippage"] / 100.0,
            "net_usd": cents["net"] / 100.0,
        }
    )
