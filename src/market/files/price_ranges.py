"""Yearly price ranges of the index futures, to detect prices of another market or scale.

The figures are the calendar year's low and high of the cash index (S&P 500, Nasdaq-100, Dow Jones Industrial Average,
Russell 2000), rounded, from general knowledge of published index history, not from exchange records. The S&P 500's
from 1999 to 2018 were compared with daily data (`arch.data.sp500`): all are within 1.5%. MARGIN covers their error and
the future's premium over the index (at most a year's carry). The last year's are a loose estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from src.market.contracts import CONTRACTS

MARGIN = 0.15
FIRST_YEAR = 1998

_YEARLY: Mapping[str, tuple[tuple[float, float], ...]] = MappingProxyType(
    {
        "ES": (
            (912, 1245), (1206, 1473),
            (1254, 1574), (945, 1383), (769, 1177), (789, 1112), (1061, 1218),
            (1137, 1275), (1219, 1432), (1364, 1576), (741, 1472), (667, 1130),
            (1011, 1263), (1075, 1371), (1258, 1475), (1426, 1849), (1738, 2094),
            (1867, 2135), (1810, 2278), (2239, 2695), (2347, 2941), (2444, 3248),
            (2174, 3760), (3663, 4809), (3492, 4819), (3764, 4793), (4682, 6100),
            (4835, 6950), (5000, 8000),
        ),
        "NQ": (
            (938, 1850), (1780, 3750),
            (2175, 4816), (1089, 2750), (795, 1710), (938, 1476), (1301, 1635),
            (1394, 1716), (1448, 1824), (1710, 2239), (1018, 2095), (1040, 1880),
            (1700, 2238), (2038, 2438), (2230, 2878), (2680, 3593), (3415, 4347),
            (3787, 4740), (3888, 4974), (4860, 6522), (5895, 7700), (6147, 8803),
            (6628, 12900), (12208, 16765), (10440, 16568), (10696, 16970), (16163, 22133),
            (16460, 26280), (18000, 32000),
        ),
        "YM": (
            (7400, 9380), (9100, 11569),
            (9650, 11750), (8062, 11350), (7197, 10673), (7416, 10462), (9708, 10868),
            (10000, 10985), (10661, 12530), (11939, 14198), (7449, 13279), (6440, 10580),
            (9614, 11625), (10404, 12876), (12035, 13662), (13104, 16588), (15340, 18103),
            (15370, 18351), (15450, 19987), (19678, 24876), (21712, 26951), (22638, 28702),
            (18213, 30637), (29856, 36679), (28660, 36952), (31429, 37778), (37122, 45073),
            (36611, 48900), (38000, 57000),
        ),
        "RTY": (
            (310, 492), (383, 504),
            (440, 614), (373, 520), (324, 523), (343, 566), (515, 656),
            (570, 693), (666, 801), (733, 862), (371, 768), (342, 635),
            (580, 793), (600, 868), (729, 868), (849, 1167), (1040, 1221),
            (1080, 1296), (943, 1393), (1335, 1559), (1266, 1742), (1335, 1682),
            (966, 2027), (1934, 2460), (1640, 2273), (1633, 2073), (1900, 2466),
            (1732, 2595), (1900, 3200),
        ),
    }
)  # fmt: skip
LAST_YEAR = FIRST_YEAR + len(_YEARLY["ES"]) - 1
MARKETS = tuple(_YEARLY)

_FALL, _RISE = 0.65, 1.35  # per year after the table, compounded: how far an index may move


def index_owner(root: str) -> str:
    """The mini on the same index: NQ for MNQ, RTY for its predecessor TF."""
    if root in ("TF", "ER2"):
        return "RTY"
    contract = CONTRACTS[root]
    return contract.parent or contract.symbol


def is_known(root: str) -> bool:
    """Whether the table covers the root's index; prices of user-defined markets are not checked."""
    return index_owner(root) in _YEARLY


def known_range(root: str, year: int) -> tuple[float, float]:
    """Low and high of a year in points, without margin; wider outside the table's years."""
    table = _YEARLY[index_owner(root)]
    low, high = table[min(max(year - FIRST_YEAR, 0), len(table) - 1)]
    after, before = max(year - LAST_YEAR, 0), max(FIRST_YEAR - year, 0)
    return low * _FALL**after * 0.5**before, high * _RISE**after


YearSpans = list[tuple[int, slice]]
"""Rows in time order by calendar year (UTC)."""


def year_spans(time_ns: NDArray[np.int64]) -> YearSpans:
    """The years in sorted times, each with its rows."""
    if not len(time_ns):
        return []
    first, last = (int(time_ns[k].astype("datetime64[ns]").astype("datetime64[Y]").astype(int)) + 1970 for k in (0, -1))
    starts = np.array([f"{year}-01-01" for year in range(first, last + 2)], dtype="datetime64[ns]").astype(np.int64)
    edges = np.searchsorted(time_ns, starts).tolist()
    return [(first + k, slice(edges[k], edges[k + 1])) for k in range(last - first + 1) if edges[k + 1] > edges[k]]


def bounds(root: str, year: int) -> tuple[float, float]:
    """Lowest and highest plausible price of a year, margin included."""
    low, high = known_range(root, year)
    return low * (1 - MARGIN), high * (1 + MARGIN)


def fits(root: str, spans: YearSpans, prices: NDArray[np.float64], scale: float = 1.0) -> NDArray[np.bool_]:
    """Whether the market can have traded at `scale` times each price in its year, bool[n]."""
    inside = np.empty(len(prices), dtype=bool)
    for year, rows in spans:
        low, high = bounds(root, year)
        inside[rows] = (prices[rows] >= low / scale) & (prices[rows] <= high / scale)
    return inside


def described(root: str, year: int) -> str:
    """ "4,835 to 6,950 in 2025", for messages."""
    low, high = known_range(root, year)
    return f"{low:,.0f} to {high:,.0f} in {year}"
