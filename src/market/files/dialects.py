"""Vendors' dialects: how each is recognised from its content, and what it promises about times and volume."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from src.market.files.columns import Layout, VolumeKind
from src.market.files.rows import Stamp

NEW_YORK, CHICAGO, UTC = "America/New_York", "America/Chicago", "UTC"


@dataclass(frozen=True)
class Facts:
    """What is known about a table before its times are read."""

    keys: tuple[str, ...]
    """Column names as `columns.key` gives them; empty without a header."""
    names: tuple[str, ...]
    """Column names as the file spells them."""
    separator: str
    """Empty for a table that is not text."""
    times: tuple[str, ...]
    """The first row's time cell, or its date and time-of-day cells."""
    layout: Layout
    form: str
    """ "CSV", "Parquet", "Arrow", "JSON" ...: named in the dialect if no vendor is recognised."""
    file_name: str
    width: int = 0
    """Number of columns."""
    instrument: str = ""
    """The first row's instrument."""
    last_lines: str = ""
    no_volume: bool = False
    """All volumes of the sample are 0."""

    def has(self, *keys: str) -> bool:
        return set(keys) <= set(self.keys)

    def time_like(self, pattern: str) -> bool:
        return re.fullmatch(pattern, " ".join(cell.strip() for cell in self.times)) is not None


@dataclass(frozen=True)
class Dialect:
    """A dialect and its promises; None or "" for no promise."""

    name: str
    why: str
    zone: str | None = None
    stamp: Stamp | None = None
    promise: str = ""
    """A clause: "NinjaTrader exports UTC and stamps bars at their close"."""
    volume_kind: VolumeKind | None = None
    """Overrides the kind inferred from the column's name."""
    day_first: bool | None = None
    """Whether dates such as 03/11/2025 have the day first."""
    volume_remedy: str = ""
    """How to get a volume column if the file has none."""


Rule = Callable[[Facts], Dialect | None]
_RULES: list[Rule] = []


def _rule(rule: Rule) -> Rule:
    _RULES.append(rule)
    return rule


def _columns(dialect: Dialect, *names: tuple[str, ...]) -> None:
    """The dialect of every table that has all columns of one of these groups."""
    _RULES.append(lambda facts: dialect if any(facts.has(*group) for group in names) else None)


def dialect_of(facts: Facts) -> Dialect:
    """The first dialect that matches the table; otherwise a generic one."""
    for rule in _RULES:
        if (found := rule(facts)) is not None:
            return found
    if facts.keys:
        return Dialect(f"{facts.form} with a header", "named columns")
    return Dialect(f"{facts.form} without a header", "columns inferred from their content")


_COMPACT_SECONDS = r"\d{8} \d{6}"
_ISO_SECONDS = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


_columns(
    Dialect("Databento export", "the column ts_event", UTC, "open", "Databento's ts_event is the bar's open in UTC"),
    ("tsevent",),
)


@_rule
def _polygon(facts: Facts) -> Dialect | None:
    flat = facts.has("windowstart")
    if not flat and not (facts.has("t", "o", "h", "l", "c") and facts.form == "JSON"):
        return None
    why = "the column window_start" if flat else "the keys t, o, h, l, c, v"
    return Dialect("Polygon (Massive) aggregates", why, UTC, "open", "Polygon's time is the window's start in UTC")


@_rule
def _yfinance(facts: Facts) -> Dialect | None:
    tickers = (*facts.names, facts.instrument)
    if not facts.has("adjclose") and not any(name.lower().endswith("=f") for name in tickers):
        return None
    return Dialect("yfinance export", "the column Adj Close or Yahoo's tickers", None, "open",
                   "Yahoo stamps bars at their open")  # fmt: skip


@_rule
def _interactive_brokers(facts: Facts) -> Dialect | None:
    named = facts.time_like(r"\d{8} +\d\d:\d\d:\d\d [A-Za-z_]+(/[A-Za-z_]+)*")
    utc = facts.time_like(r"\d{8}-\d\d:\d\d:\d\d")
    columns = facts.has("average", "barcount") or facts.has("wap", "count") or facts.has("wap", "barcount")
    if not (named or utc or columns):
        return None
    written = "times such as 20251103-21:40:00" if utc else "times with a zone name" if named else ""
    why = written or "the columns average and barCount"
    zone = UTC if utc else None
    promise = "Interactive Brokers stamps bars at their open" + (", and yyyymmdd-hh:mm:ss is UTC" if utc else "")
    return Dialect("Interactive Brokers export", why, zone, "open", promise)


@_rule
def _algoseek(facts: Facts) -> Dialect | None:
    if not (facts.has("firsttradeprice") or facts.has("utcdate", "utctime")):
        return None
    used = facts.keys[facts.layout.time[0]]
    zone = UTC if used.startswith("utc") else None if used.startswith("local") else NEW_YORK
    promise = "AlgoSeek gives the bar's start" + (f" in {zone}" if zone else "")
    return Dialect("AlgoSeek bars", "the column names", zone, "open", promise, day_first=False)


@_rule
def _metatrader(facts: Facts) -> Dialect | None:
    five = facts.has("date", "tickvol") or facts.has("date", "vol", "spread")
    four = not facts.keys and facts.time_like(r"\d{4}\.\d\d\.\d\d \d\d:\d\d(:\d\d)?")
    if not five and not four:
        return None
    name, why = (
        ("MetaTrader 5 export", "the columns <TICKVOL>, <VOL> and <SPREAD>")
        if five
        else ("MetaTrader export", "times such as 2025.11.03,23:40")
    )
    kind: VolumeKind = "contracts" if five and facts.layout.volume_kind == "contracts" else "ticks"
    return Dialect(name, why, None, "open", "MetaTrader gives the broker's time and the bar's open", volume_kind=kind)


_columns(Dialect("Finam or Stooq export", "the columns <TICKER> and <PER>"), ("ticker", "per", "date"))


_columns(
    Dialect("Sierra Chart export", "the columns Date, Time, Open, High, Low, Last", None, "open",
            "Sierra Chart gives the bar's open in the chart's time zone, which the file does not name"),
    ("date", "time", "open", "high", "low", "last", "volume"),
    ("numberoftrades", "bidvolume", "askvolume"),
)  # fmt: skip


@_rule
def _tradestation(facts: Facts) -> Dialect | None:
    up_down = facts.has("date", "time", "up", "down")
    brackets = "<" in "".join(facts.names) and facts.has("date", "time")
    total = facts.has("date", "time", "totalvolume")
    if not (up_down or brackets or total):
        return None
    name = "TradeStation export" if up_down else "MultiCharts export"
    named = "the columns Up and Down" if up_down else "the columns <Date> and <Time>" if brackets else ""
    why = named or "the column TotalVolume"
    return Dialect(name, why, CHICAGO, "close", f"{name.split()[0]} gives exchange time and stamps bars at their close",
                   day_first=False)  # fmt: skip


@_rule
def _barchart(facts: Facts) -> Dialect | None:
    footer = "barchart.com" in facts.last_lines.lower()
    columns = facts.has("change", "volume") and (facts.has("latest") or (facts.has("last") and facts.has("%chg")))
    if not footer and not columns:
        return None
    why = "the line Downloaded from Barchart.com" if footer else "the columns Latest and Change"
    return Dialect("Barchart export", why, CHICAGO, None, "Barchart gives Chicago time", day_first=False)


@_rule
def _dukascopy(facts: Facts) -> Dialect | None:
    if not facts.keys or not facts.time_like(r"\d\d\.\d\d\.\d{4} \d\d:\d\d:\d\d\.\d{3}.*"):
        return None
    zone = UTC if "gmt" in " ".join(facts.names).lower() else None
    promise = "Dukascopy stamps bars at their open" + (", here in UTC" if zone else "")
    why = "times such as 03.11.2025 21:40:00.000"
    return Dialect("Dukascopy export", why, zone, "open", promise, "ticks", True)


_columns(
    Dialect("Quantower export", "the column Time left", None, "open", "Time left is the bar's open"), ("timeleft",)
)


@_rule
def _tradingview(facts: Facts) -> Dialect | None:
    first = facts.keys[:5] == ("time", "open", "high", "low", "close")
    epoch_or_offset = facts.time_like(r"\d{9,13}|\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d)")
    if not first or facts.separator != "," or not epoch_or_offset:
        return None
    return Dialect(
        "TradingView export",
        "the columns time, open, high, low, close and times with an offset or since 1970",
        UTC,
        "open",
        "TradingView stamps bars at their open",
        volume_remedy="put the Volume study on the chart before exporting: TradingView writes what the chart shows",
    )


@_rule
def _ninjatrader(facts: Facts) -> Dialect | None:
    plain = facts.keys in ((), ("datetime", "open", "high", "low", "close", "volume"))
    if facts.separator != ";" or not facts.time_like(_COMPACT_SECONDS) or not plain:
        return None
    if facts.no_volume:
        return Dialect("HistData export", "semicolons, yyyyMMdd HHmmss times and no volume", "Etc/GMT+5", "open",
                       "HistData gives UTC-5 (New York standard time) all year and the bar's open", "none")  # fmt: skip
    return Dialect("NinjaTrader export", "semicolons and yyyyMMdd HHmmss times", UTC, "close",
                   "NinjaTrader exports UTC and stamps bars at their close")  # fmt: skip


@_rule
def _iqfeed(facts: Facts) -> Dialect | None:
    o, h, low, _ = facts.layout.prices
    if facts.keys or (h, low) != (o - 2, o - 1) or not facts.time_like(_ISO_SECONDS):
        return None
    return Dialect("IQFeed bars", "high, low, open, close after the time", NEW_YORK, "close",
                   "IQFeed gives New York time and stamps bars at their close")  # fmt: skip


@_rule
def _first_rate(facts: Facts) -> Dialect | None:
    names = facts.keys[:6] == ("timestamp", "open", "high", "low", "close", "volume")
    columns = facts.layout.time == (0,) and facts.layout.prices == (1, 2, 3, 4) and facts.layout.volume == (5,)
    plain = not facts.keys and columns and facts.width in (6, 7)
    if facts.separator != "," or not facts.time_like(_ISO_SECONDS) or not (names or plain):
        return None
    why = "the columns timestamp, open, high, low, close, volume" if names else "no header and ISO times without a zone"
    promise = "FirstRate Data gives New York time and the bar's open"
    return Dialect("FirstRate Data file", why, NEW_YORK, "open", promise)


@_rule
def _kibot(facts: Facts) -> Dialect | None:
    if facts.keys or facts.separator != "," or not facts.time_like(r"\d\d/\d\d/\d{4} \d\d:\d\d"):
        return None
    return Dialect("Kibot file", "no header and MM/DD/YYYY,HH:MM times", NEW_YORK, "open",
                   "Kibot gives New York time and the bar's open", day_first=False)  # fmt: skip


_columns(Dialect("Backtrader CSV", "the columns Date, Time and OpenInterest"), ("date", "time", "openinterest"))


def no_volume_words(dialect: Dialect, names: tuple[str, ...]) -> str:
    """The message for a table without a volume column."""
    if dialect.volume_remedy:
        return f"this {dialect.name} has no Volume column: {dialect.volume_remedy}."
    held = ", ".join(name.strip() or "(no name)" for name in names[:20])
    has = f" The file has: {held}." if names else ""
    return (
        f"columns missing: volume.{has} The clock, the contract months and the features depend on volume. Export the "
        f"bars with volume, or rename its column to volume."
    )
