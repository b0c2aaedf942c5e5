"""Supported futures. Tick size and point value are exchange facts; commission and slippage are assumptions."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType

from src.errors import MarketError

_COSTS = (
    "Commission is an assumption: a typical all-in retail price per side in 2026, exchange fees included. "
    "Slippage of one tick is an assumption too. Set your broker's own figures under `environment`."
)


@dataclass(frozen=True)
class Contract:
    """One futures contract: money in whole US cents, prices in points, `commission_cents` per side and contract."""

    symbol: str
    name: str
    tick_size: Decimal
    point_value_usd: Decimal
    commission_cents: int
    slippage_ticks: int
    parent: str | None
    """The parent of a micro: same index, same tick size, ten times the point value."""
    source: str

    @property
    def tick_value_cents(self) -> int:
        """Value of one tick of one contract in whole cents (exact for every market listed here)."""
        cents = self.tick_size * self.point_value_usd * 100
        if cents != cents.to_integral_value():
            raise MarketError(f"{self.symbol}: a tick is worth {cents} cents; money here is whole cents.")
        return int(cents)


def _contract(
    symbol: str, name: str, tick: str, point: str, commission_cents: int, exchange: str, parent: str | None = None
) -> Contract:
    facts = f"{exchange} contract specification of {symbol}, cmegroup.com: tick {tick} points, USD {point} a point."
    return Contract(symbol, name, Decimal(tick), Decimal(point), commission_cents, 1, parent, f"{facts} {_COSTS}")


_ALL = (
    _contract("NQ", "E-mini Nasdaq-100", "0.25", "20", 225, "CME"),
    _contract("ES", "E-mini S&P 500", "0.25", "50", 225, "CME"),
    _contract("YM", "E-mini Dow ($5)", "1", "5", 225, "CBOT"),
    _contract("RTY", "E-mini Russell 2000", "0.10", "50", 225, "CME"),
    _contract("MNQ", "Micro E-mini Nasdaq-100", "0.25", "2", 60, "CME", "NQ"),
    _contract("MES", "Micro E-mini S&P 500", "0.25", "5", 60, "CME", "ES"),
    _contract("MYM", "Micro E-mini Dow ($0.50)", "1", "0.5", 60, "CBOT", "YM"),
    _contract("M2K", "Micro E-mini Russell 2000", "0.10", "5", 60, "CME", "RTY"),
)

CONTRACTS: Mapping[str, Contract] = MappingProxyType({contract.symbol: contract for contract in _ALL})
"""Every market by its symbol."""


def get_contract(symbol: str) -> Contract:
    """The contract of a market symbol in any case. Raises MarketError with the known symbols and the nearest name."""
    wanted = str(symbol).strip().upper()
    if wanted in CONTRACTS:
        return CONTRACTS[wanted]
    nearest = difflib.get_close_matches(wanted, CONTRACTS, n=1, cutoff=0.4)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    raise MarketError(f"Unknown market {symbol!r}: the markets are {', '.join(CONTRACTS)}.{hint}")


def symbols_of(markets: str | Sequence[str]) -> tuple[str, ...]:
    """The symbols of one market or of several, as contracts spell them. MarketError as `get_contract`, and for a market
    that is named twice."""
    named = (markets,) if isinstance(markets, str) else tuple(markets)
    symbols = tuple(get_contract(symbol).symbol for symbol in named)
    if twice := next((symbol for symbol in symbols if symbols.count(symbol) > 1), None):
        raise MarketError(f"The market {twice} is named twice: name each market once.")
    return symbols
