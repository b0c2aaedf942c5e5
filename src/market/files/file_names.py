"""The instrument named by a file name or archive name."""

from __future__ import annotations

import re

from src.market.contracts import CONTRACTS

# fmt: off
_OTHER_ROOTS = (
    "EMD", "NKD", "NIY", "MBT", "MET", "BTC", "ETH", "CL", "MCL", "QM", "GC", "MGC", "QO", "SI", "SIL", "HG", "MHG",
    "PL", "PA", "NG", "QG", "RB", "HO", "BZ", "ZB", "UB", "ZN", "TN", "ZF", "ZT", "ZQ", "SR3", "GE", "6E", "M6E",
    "6B", "M6B", "6J", "6A", "M6A", "6C", "6S", "6N", "6M", "E7", "J7", "ZC", "ZS", "ZW", "ZM", "ZL", "ZO", "ZR",
    "KE", "LE", "HE", "GF", "DX", "VX", "VXM", "FDAX", "FDXM", "FDXS", "FESX", "FSMX", "FGBL", "FGBM", "FGBS",
    "DAX", "ESTX50", "RX", "SPX", "NDX", "DJI", "RUT", "SPY", "QQQ", "DIA", "IWM", "US500", "US30", "US100",
    "USTEC", "NAS100", "US2000", "SPX500", "GER40", "XAUUSD", "EURUSD", "BTCUSD", "SP", "ND", "DJ",
)
# fmt: on
ROOTS = frozenset((*CONTRACTS, *_OTHER_ROOTS))
"""Futures roots and index names recognised in file names."""

_ROOT = r"[A-Z0-9]{1,6}?"
_PATTERNS = (
    re.compile(rf"(?P<all>@?(?P<root>{_ROOT}) \d\d-\d\d)(?![0-9])"),
    re.compile(rf"(?P<all>(?:[A-Z]+_)*?(?:DL_)?(?P<root>{_ROOT})[12]!)"),
    re.compile(rf"(?P<all>(?P<root>{_ROOT})[FGHJKMNQUVXZ](?:\d\d\d\d|\d\d?)(?:-[A-Z]+)?)(?![A-Za-z0-9])"),
    re.compile(rf"(?P<all>(?P<root>{_ROOT})(?:=F|_F|\.FUT|\.[cnv]\.\d))(?![A-Za-z])"),
    re.compile(rf"(?P<all>@(?P<root>{_ROOT}))(?![A-Za-z0-9])"),
)
_LEAN = re.compile(
    r"(?P<date>\d{8})_(?P<root>[a-z0-9]+)_(?:minute|second)_(?P<what>[a-z]+)_(?P<month>\d{6})", re.IGNORECASE
)


def instrument_of_name(name: str) -> str | None:
    """The instrument in a file name, as spelled there; None if no known instrument is named.

    Examples: "ES 12-25.Last.txt" gives "ES 12-25", "CME_MINI_ES1!, 5.csv" gives "CME_MINI_ES1!", "nq_5m.csv" "nq".
    """
    if match := _LEAN.match(name):
        return f"{match['root'].upper()}{match['month']}"
    for pattern in _PATTERNS:
        match = pattern.match(name.upper()) if pattern is not _PATTERNS[3] else pattern.match(name)
        if match and match["root"].upper() in ROOTS:
            return name[match.start("all") : match.end("all")]
    token = re.split(r"[_\-. ,;()\[\]]", name, maxsplit=1)[0]
    return token if token.upper() in ROOTS else None


def lean_file(name: str, archive: str) -> tuple[str, str] | None:
    """Date (yyyymmdd) and content ("trade", "quote", "openinterest") in the name of a LEAN file or its archive, such as
    "20251104_trade.zip"; None for other files."""
    for text in (name, archive):
        if match := _LEAN.match(text) or re.match(r"(?P<date>\d{8})_(?P<what>trade|quote|openinterest)\.", text):
            return match["date"], match["what"].lower()
    return None
