"""Messages about the choice of a market: a sentence on what was chosen, a paragraph if no rows are left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from src.market.contracts import CONTRACTS, Contract
from src.market.files.instrument_names import FUNDS, INDICES, Instrument
from src.market.files.reading import MarketReading

KIND_WORDS = {"spread": "spreads", "option": "options"}


def market_reading(market: Contract, root: str, sources: set[str], doubt: str, dropped: Counter[str]) -> MarketReading:
    """What was chosen and why.

    Args:
        market: The market asked for.
        root: The root of the chosen rows.
        sources: What names the instrument in each table: "rows", "file" or "" (nothing).
        doubt: Why the prices do not decide, or "".
        dropped: Rows left out, by name.
    """
    decided: Literal["rows", "file", "prices", "user"]
    if sources == {"rows"}:
        decided, why = "rows", "named in the rows"
    elif "" not in sources:
        decided, why = "file", "named by the file name or header"
    elif not doubt:
        decided, why = "prices", f"not named in the file; the prices match {root}'s on their dates"
    else:
        decided, why = "user", f"not named in the file, and {doubt}: taken from --market"
    words = f"{root}: {why}"
    if root != market.symbol:
        words += f"; {_stands_in(root, market)}"
    if dropped:
        words += f"; left out: {', '.join(f'{count:,} rows of {name}' for name, count in dropped.items())}"
    return MarketReading(root, decided, tuple(dropped.items()), words)


def _stands_in(root: str, market: Contract) -> str:
    if root not in CONTRACTS:
        return f"{root} bars used for {market.symbol}: the same index and tick size, from before {market.symbol} traded"
    mini, micro = (root, market.symbol) if market.parent == root else (market.symbol, root)
    return (
        f"{root} bars used for {market.symbol}: same index and tick size; volume counts {root} contracts "
        f"(ten {micro} are worth one {mini})"
    )


def nothing_of_several(files: Sequence[Path], market: Contract) -> str:
    """The message if no file in a folder is the market's."""
    held = ", ".join(file.name for file in files[:8]) + (f" and {len(files) - 8} more" if len(files) > 8 else "")
    return (
        f"{files[0].parent}: no file for {market.symbol} in this folder (it holds: {held}). Start the file name "
        f"with the market, as in {market.symbol}_5m.csv or {market.symbol}-2024.parquet, or name it in the rows."
    )


def nothing_in_rows(label: str, market: Contract, dropped: Counter[str]) -> str:
    """The message if the rows name only other instruments."""
    held = ", ".join(f"{name} ({count:,} rows)" for name, count in dropped.most_common(4))
    known = next((name for name, _ in dropped.most_common() if name in CONTRACTS), None)
    other = f"use --market {known}" if known else f"give --data bars of {market.symbol}"
    advice = _not_the_future(dropped.most_common(1)[0][0])
    return (
        f"{label}: the rows name {held}, not {market.symbol} or its micro or mini.{advice} If that is right, {other}; "
        f"if the rows are {market.symbol}'s, change the column to {market.symbol} or its contracts "
        f"({market.symbol}Z5)."
    )


def nothing_by_name(label: str, named: Instrument, source: str, market: Contract) -> str:
    """The message if the file's name or header (`source`) names another instrument."""
    advice = _not_the_future(named.root)
    if named.kind in ("index", "fund"):
        return (
            f"{label}: its {source} says {named.root}, but the market is {market.symbol}.{advice} Give --data bars of "
            f"{market.symbol}; to use these anyway, rename the file so that its name begins with {market.symbol}."
        )
    if named.kind in KIND_WORDS:
        return (
            f"{label}: its {source} says {named.root}: {KIND_WORDS[named.kind]}, not a future. Give --data bars of "
            f"{market.symbol}."
        )
    if named.rank:
        return (
            f"{label}: its {source} says {named.root}'s contract number {named.rank + 1}, a later month that few "
            f"trade. Export the front month (TradingView: {named.root}1!), or correct the {source} if that is what the "
            f"file holds."
        )
    remedy = f"Use --market {named.root}, or rename" if named.root in CONTRACTS else "Rename"
    return (
        f"{label}: its {source} says {named.root}, but the market is {market.symbol}, which has a different tick "
        f"value. {remedy} the file if it does hold {market.symbol} bars."
    )


def _not_the_future(name: str) -> str:
    if name in INDICES:
        return (
            f" {name} is a cash index or a broker's CFD on it, not the future {INDICES[name]}: its price excludes "
            f"the cost of carry, and its volume counts the broker's price changes."
        )
    if name in FUNDS:
        return f" {name} is an exchange-traded fund, not the future {FUNDS[name]}."
    return ""
