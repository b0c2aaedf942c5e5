"""Roll dates of quarterly index futures, and the expected price gap between contracts."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from src.market.files.contract_months import third_friday
from src.market.files.instrument_names import QUARTERS
from src.market.files.price_ranges import index_owner

DAYS_BEFORE_EXPIRY = 14
"""First day of the roll window, in days before the third Friday: Thursday of the week before is customary, and some
vendors roll earlier."""
DAYS_AFTER_EXPIRY = 4
"""Last day of the roll window: the Tuesday after, for series that roll at expiry and reopen on Sunday."""

# US three-month rate in percent at the March, June, September and December roll of each year, rounded, from general
# knowledge (published Treasury bill, LIBOR and SOFR rates): enough to estimate the size of a gap, not for valuation.
_FIRST_RATE_YEAR = 2000
_RATES = (
    (6.1, 6.7, 6.6, 6.4), (4.9, 3.7, 3.0, 1.9), (1.9, 1.9, 1.8, 1.4), (1.3, 1.1, 1.1, 1.2), (1.1, 1.5, 1.9, 2.5),
    (3.0, 3.4, 3.9, 4.5), (4.9, 5.4, 5.4, 5.4), (5.3, 5.4, 5.6, 4.9), (2.6, 2.7, 2.9, 1.5), (1.3, 0.6, 0.3, 0.3),
    (0.3, 0.5, 0.3, 0.3), (0.3, 0.3, 0.4, 0.5), (0.5, 0.5, 0.4, 0.3), (0.3, 0.3, 0.3, 0.2), (0.2, 0.2, 0.2, 0.2),
    (0.3, 0.3, 0.3, 0.5), (0.6, 0.7, 0.9, 1.0), (1.1, 1.3, 1.3, 1.6), (2.2, 2.3, 2.4, 2.8), (2.6, 2.4, 2.2, 1.9),
    (0.9, 0.3, 0.2, 0.2), (0.2, 0.1, 0.1, 0.2), (0.9, 2.0, 3.5, 4.7), (5.1, 5.5, 5.7, 5.6), (5.6, 5.6, 5.1, 4.6),
    (4.5, 4.5, 4.2, 3.9), (3.7, 3.7, 3.7, 3.7),
)  # fmt: skip
# (last year, dividend yield of the index in percent up to and including that year).
_YIELDS: Mapping[str, tuple[tuple[int, float], ...]] = MappingProxyType(
    {
        "ES": ((2001, 1.2), (2007, 1.8), (2009, 2.6), (2019, 2.0), (2020, 1.8), (2023, 1.5), (9999, 1.3)),
        "NQ": ((2003, 0.1), (2011, 0.6), (2019, 1.1), (9999, 0.7)),
        "YM": ((2001, 1.6), (2007, 2.2), (2009, 3.2), (2020, 2.4), (9999, 1.8)),
        "RTY": ((2007, 1.2), (9999, 1.4)),
    }
)
_USUAL_YIELD = ((9999, 1.5),)


def expected_gap(root: str, year: int, month: int) -> float:
    """Next contract's price over the old one's at a quarterly roll, minus 1: a quarter's interest minus dividends."""
    rates = _RATES[min(max(year - _FIRST_RATE_YEAR, 0), len(_RATES) - 1)]
    yields = _YIELDS.get(index_owner(root), _USUAL_YIELD)
    percent = rates[QUARTERS.index(month)] - next(paid for last, paid in yields if year <= last)
    return percent / 400


def roll_windows(first_day: int, last_day: int) -> list[tuple[int, int]]:
    """Year and month of every quarterly expiry whose window overlaps [first_day, last_day], in days since 1970."""
    years = [int(np.datetime64(day, "D").astype("datetime64[Y]").astype(int)) + 1970 for day in (first_day, last_day)]
    return [
        (year, month)
        for year in range(years[0] - 1, years[1] + 2)
        for month in QUARTERS
        if third_friday(year, month) - DAYS_BEFORE_EXPIRY <= last_day
        and third_friday(year, month) + DAYS_AFTER_EXPIRY >= first_day
    ]
