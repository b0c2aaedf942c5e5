"""Parse instrument names, in vendors' and platforms' spellings, into kind, root and contract month."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from src.market.contracts import CONTRACTS

Kind = Literal["future", "continuous", "spread", "option", "index", "fund", "id", "other"]

MONTH_CODES = "FGHJKMNQUVXZ"
"""January to December."""
QUARTERS = (3, 6, 9, 12)
_MONTH_NAMES = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")

PREDECESSORS: Mapping[str, tuple[str, ...]] = MappingProxyType({"RTY": ("TF", "ER2")})
"""Earlier futures with the same index and tick: the Russell 2000 traded as ER2 (CME to 2008) and TF (ICE 2008-2017)."""

_PLAIN = (*CONTRACTS, "TF", "ER2")
# Used by CQG and ProjectX (EP, ENQ), Barchart (QR, ET, NM) and Reuters (1YM).
_ALIASES = {"EP": "ES", "ENQ": "NQ", "QR": "RTY", "ET": "MES", "NM": "MNQ", "1YM": "YM"}
_ROOT = "(?P<root>" + "|".join(sorted((*_PLAIN, *_ALIASES), key=len, reverse=True)) + ")"

INDICES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("SPX", "GSPC", "US500", "SPX500", "SP500", "USA500", "USSPX500", "SPXUSD", "US500USD", "INX"),
                        "ES"),
        **dict.fromkeys(("NDX", "US100", "NAS100", "USTEC", "USTECH", "USATECH", "NSXUSD", "UT100", "NASDAQ100", "IXIC",
                         "USNDAQ100", "USTECH100"), "NQ"),
        **dict.fromkeys(("DJI", "DJIA", "US30", "DJ30", "WS30", "USA30", "WALLSTREET30"), "YM"),
        **dict.fromkeys(("RUT", "US2000", "USSMALLCAP", "USSC2000"), "RTY"),
    }
)  # fmt: skip
"""Cash indices and brokers' CFDs on them, without punctuation, mapped to the future on the same index."""

FUNDS: Mapping[str, str] = MappingProxyType(
    {"SPY": "ES", "VOO": "ES", "IVV": "ES", "QQQ": "NQ", "QQQM": "NQ", "TQQQ": "NQ", "DIA": "YM", "IWM": "RTY"}
)
"""Exchange-traded funds, mapped to the future on the same index."""

_INDEX_WORDS = {"S&P 500": "ES", "S&P500": "ES", "NASDAQ": "NQ", "DOW": "YM", "RUSSELL 2000": "RTY"}

_CODE = rf"(?P<code>[{MONTH_CODES}])"
_EXCHANGES = (
    "(?:CME_MINI_DL|CBOT_MINI_DL|CME_MINI|CBOT_MINI|CME|CBOT|CBT|GLBX|GLOBEX|XCME|XCBT|ECBOT|ICEUS|NYBOT"
    "|FUT_CME|FUT_CBOT)"
)  # longer names first
_PREFIX = re.compile(rf"^(?:CON\.F\.US\.|F\.US\.|C\.US\.|{_EXCHANGES}[:_ ](?=.)|[/@&#]+)")
_SUFFIX = re.compile(rf"(?:[-.:@ _]{_EXCHANGES}| INDEX|\.LAST|\.BID|\.ASK)$")

_FUTURES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_ROOT}[ ._-]?{_CODE}[ ._-]?(?P<year>\d{{4}}|\d{{1,2}})",  # ESZ5, ESZ25, ESZ2025, EP.Z25
        rf"{_ROOT}[ _]?(?P<month>0[1-9]|1[0-2])[-/](?P<year>\d{{4}}|\d\d)",  # ES 12-25
        rf"{_ROOT}[ _.-]?(?P<year>(?:19|20)\d\d)-?(?P<month>0[1-9]|1[0-2])(?:-?[0-3]\d)?",  # ES201312, ES 20251219
        rf"{_ROOT}[ _.-]*(?P<name>{'|'.join(_MONTH_NAMES)})[ '_.-]*(?P<year>\d{{4}}|\d\d)",  # ES DEC 25
        rf"{_ROOT}[0-3]\d{_CODE}(?P<year>\d\d)",  # ES19Z25
    )
)
_MONTHS_ALONE = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_CODE}(?P<year>\d{{4}}|\d{{1,2}})",
        r"(?P<month>0[1-9]|1[0-2])[-/](?P<year>\d{4}|\d\d)",
        r"(?P<year>20\d\d)-?(?P<month>0[1-9]|1[0-2])",
        rf"(?P<name>{'|'.join(_MONTH_NAMES)})[ '_.-]*(?P<year>\d{{4}}|\d\d)",
    )
)
_CONTINUOUS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_ROOT}(?P<rank>[1-9])!",  # TradingView
        rf"{_ROOT}[._][CVN][._](?P<rank0>\d)",  # Databento: ES.c.0
        rf"{_ROOT}(?:=F|_F|\.FUT|C1|1|00|\*0|\*1|\.D)",  # Yahoo, Databento parents, Reuters, Bloomberg, Barchart
        rf"Q?{_ROOT} ?#[A-Z]?",  # IQFeed
        rf"{_ROOT} ?##-##",  # NinjaTrader
        rf"{_ROOT}=\w+",  # TradeStation: @ES=107XC
        rf"{_ROOT}[ _.-]?(?:CONT|CONTINUOUS|CCB|CONTINUOUS CONTRACT|FRONT|FUT)",
    )
)
_OPTION = re.compile(
    rf"(?:[A-Z0-9]{{1,4}}?[{MONTH_CODES}]\d{{1,2}} [CP]\d+(?:\.\d+)?"  # ESZ4 C5000, EW3N4 P5400
    rf"|{_ROOT}.*\.OPT|[A-Z0-9]{{2,5}}[{MONTH_CODES}]\d{{1,2}}[CP]\d{{3,}})"
)
_OTHER_FUTURE = re.compile(rf"(?P<other>[A-Z0-9]{{1,4}}?)[{MONTH_CODES}](?:20\d\d|\d{{1,2}})")


@dataclass(frozen=True)
class Instrument:
    """What one name stands for."""

    kind: Kind
    root: str
    """Root of a future, "" if only a month is given; the whole name for other kinds."""
    month: int | None = None
    year: int | None = None
    """As written, with one, two or four digits."""
    year_digits: int = 0
    rank: int = 0
    """For a continuous series: 0 for the front month, 1 for the second."""


def parse_instrument(text: str) -> Instrument | None:
    """Parse a name from rows, a header or metadata; None if it is empty."""
    name = " ".join(text.strip().strip("\"'").upper().split())
    if not name:
        return None
    plain = re.sub(r"[^A-Z0-9]", "", re.sub(r"\.?CASH$|\.?IDX.*$|[._]?USD$", "", name.removeprefix("^")))
    if plain in INDICES and not name.startswith(("@", "/")):
        return Instrument("index", plain)
    if name in FUNDS:
        return Instrument("fund", name)
    if name.startswith("UD:") or re.match(rf"{_ROOT}:[A-Z]{{2}} ", name):
        return Instrument("spread", name)
    whole = _stripped(name)
    future = _future(whole, _FUTURES)
    if future is not None:
        return future
    if _OPTION.fullmatch(whole):
        return Instrument("option", name)
    if _is_spread(name):
        return Instrument("spread", name)
    return (
        _continuous(whole, marked=whole != name) or _future(whole, _MONTHS_ALONE) or _described(name) or _unknown(whole)
    )


def _stripped(name: str) -> str:
    """The name without exchange, vendor prefix and field suffix."""
    while True:
        shorter = _SUFFIX.sub("", _PREFIX.sub("", name))
        if shorter in ("", name):
            return name
        name = shorter


def _future(name: str, patterns: tuple[re.Pattern[str], ...]) -> Instrument | None:
    for pattern in patterns:
        found = pattern.fullmatch(name)
        if found is None:
            continue
        groups = found.groupdict()
        month = _month(groups)
        if month in QUARTERS:
            return Instrument(
                "future", _root(groups.get("root") or ""), month, int(groups["year"]), len(groups["year"])
            )
    return None


def _month(groups: Mapping[str, str | None]) -> int:
    if code := groups.get("code"):
        return MONTH_CODES.index(code) + 1
    if word := groups.get("name"):
        return _MONTH_NAMES.index(word) + 1
    return int(groups["month"] or 0)


def _continuous(name: str, *, marked: bool) -> Instrument | None:
    """Parse a continuous series; `marked`: the name had an exchange or vendor prefix, so short aliases count."""
    if name in _PLAIN or name in ("EP", "ENQ") or (marked and name in _ALIASES):
        return Instrument("continuous", _root(name))
    for pattern in _CONTINUOUS:
        if found := pattern.fullmatch(name):
            groups = found.groupdict()
            rank = int(groups["rank"]) - 1 if groups.get("rank") else int(groups.get("rank0") or 0)
            return Instrument("continuous", _root(groups["root"]), rank=rank)
    return None


def _is_spread(name: str) -> bool:
    legs = [_future(_stripped(leg.strip()), (*_FUTURES, *_MONTHS_ALONE)) for leg in re.split(r"[-/+:]", name)]
    return len(legs) >= 2 and legs[0] is not None and legs[0].root != "" and legs[1] is not None


def _described(name: str) -> Instrument | None:
    """ "Micro E-mini S&P 500 Futures" and similar, if the words make clear that it is the future."""
    if not re.search(r"E-?MINI|FUTURE", name):
        return None
    owner = next((root for word, root in _INDEX_WORDS.items() if word in name), None)
    if owner is None:
        return None
    micro = next(symbol for symbol, contract in CONTRACTS.items() if contract.parent == owner)
    return Instrument("continuous", micro if "MICRO" in name else owner)


def _unknown(name: str) -> Instrument:
    if name.isdigit():
        return Instrument("id", name)
    other = _OTHER_FUTURE.fullmatch(name)
    return Instrument("other", other["other"] if other and other["other"] not in _PLAIN else name)


def _root(spelled: str) -> str:
    return _ALIASES.get(spelled, spelled)


_ENDINGS = re.compile(
    r"\.(?:csv|txt|tsv|parquet|feather|arrow|jsonl?|gz|zst|zip|dbn|scid_bardata|scid|last|bid|ask|ohlcv[^.]*)$", re.I
)
_MOST_WORDS = 4


def instrument_in_file_name(file: Path) -> Instrument | None:
    """The future, index or fund that a file name starts with or contains as a word; None if absent or ambiguous."""
    name = file.name
    while _ENDINGS.search(name):
        name = _ENDINGS.sub("", name)
    start = parse_instrument(re.split(r"[_., ()]", name, maxsplit=1)[0])
    if start is not None and start.kind == "spread":
        return start
    words = [word for word in re.split(r"[_\-., ()]+", name) if word]
    first = _known(words[0]) if words else None
    starts = [_month_apart(name), first]
    for exchange in ("CME_MINI_DL_", "CBOT_MINI_DL_", "CME_MINI_", "CBOT_MINI_", "CME_", "CBOT_"):
        if name.upper().startswith(exchange) and len(words) > exchange.count("_"):
            starts.append(_known(words[exchange.count("_")]))
    found = next((start for start in starts if start is not None), None)
    if found is not None:
        others = {part.root for word in words[1:_MOST_WORDS] if word.isupper() and (part := _known(word)) is not None}
        return found if others <= {found.root} else None
    later = {part.root: part for word in words[1:] if word.upper() == word and (part := _known(word)) is not None}
    if len(later) == 1:
        return next(iter(later.values()))
    folders = [part.upper() for part in file.parts[-4:-1]]
    if not later and len(folders) > 1 and folders[-2] in ("MINUTE", "HOUR", "SECOND") and folders[-1] in _PLAIN:
        return Instrument("continuous", folders[-1])
    return None


def _month_apart(name: str) -> Instrument | None:
    """The start of names such as "ES 12-25" or "ES_H24_1min", where splitting would separate root and month."""
    found = re.match(rf"{_ROOT}[ _](?:(?:0[369]|12)-\d\d(?!\d)|##-##|[HMUZ]\d{{1,2}}(?![A-Z0-9]))", name.upper())
    return parse_instrument(found[0].replace("_", " ")) if found else None


def _known(word: str) -> Instrument | None:
    """The instrument of a word that identifies one by itself; None for a bare month, a number or an unknown word."""
    named = parse_instrument(word)
    if named is None or named.kind in ("id", "other") or named.root == "" or word.upper() in ("EP", "ENQ"):
        return None
    return named
