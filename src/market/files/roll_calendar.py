"""When quarterly index futures roll, and how far the next contract then trades from the old one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from src.market.files.contract_months import third_friday
from src.market.files.instrument_names import QUARTERS
from src.market.files.price_ranges import index_owner

DAYS_BEFORE_EXPIRY = 14
"""A series may change its contract from so many days before the third Friday: Thursday the week before is customary,
and some vendors are earlier."""
DAYS_AFTER_EXPIRY = 4
"""To the Tuesday after it: series that roll at expiry, and their Sunday open."""

# US three-month rate in percent at the March, June, September and December roll of each year, rounded, from general
# knowledge (Treasury bills, LIBOR and SOFR as published): a guide to the size of a jump, not a valuation.
_FIRST_RATE_YEAR = 2000
_RATES = (
    (6.1, 6.7, 6.6, 6.4), (4.9, 3.7, 3.0, 1.9), (1.9, 1.9, 1.8, 1.4), (1.3, 1.1, 1.1, 1.2), (1.1, 1.5, 1.9, 2.5),
    (3.0, 3.4, 3.9, 4.5), (4.9, 5.4, 5.4, 5.4), (5.3, 5.4, 5.6, 4.9), (2.6, 2.7, 2.9, 1.5), (1.3, 0.6, 0.3, 0.3),
    (0.3, 0.5, 0.3, 0.3), (0.3, 0.3, 0.4, 0.5), (0.5, 0.5, 0.4, 0.3), (0.3, 0.3, 0.3, 0.2), (0.2, 0.2, 0.2, 0.2),
    (0.3, 0.3, 0.3, 0.5), (0.6, 0.7, 0.9, 1.0), (1.1, 1.3, 1.3, 1.6), (2.2, 2.3, 2.4, 2.8), (2.6, 2.4, 2.2, 1.9),
    (0.9, 0.3, 0.2, 0.2), (0.2, 0.1, 0.1, 0.2), (0.9, 2.0, 3.5, 4.7), (5.1, 5.5, 5.7, 5.6), (5.6, 5.6, 5.1, 4.6),
    (4.5, 4.5, 4.2, 3.9), (3.7, 3.7, 3.7, 3.7),
)  # fmt: skip
# Dividend yield of the index in percent, by the last year that it fits.
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
    """The next contract's price over the old one's at a quarterly roll, less 1: a quarter's interest less dividends."""
    rates = _RATES[min(max(year - _FIRST_RATE_YEAR, 0), len(_RATES) - 1)]
    yields = _YIELDS.get(index_owner(root), _USUAL_YIELD)
    percent = rates[QUARTERS.index(month)] - next(paid for last, paid in yields if year <= last)
    return percent / 400


def roll_windows(first_day: int, last_day: int) -> list[tuple[int, int]]:
    """Year and month of every quarterly expiry whose window meets [first_day, last_day], days since 1970."""
    years = [int(np.datetime64(day, "D").astype("datetime64[Y]").astype(int)) + 1970 for day in (first_day, last_day)]
    return [
        (year, month)
        for year in range(years[0] - 1, years[1] + 2)
        for month in QUARTERS
        if third_friday(year, month) - DAYS_BEFORE_EXPIRY <= last_day
        and third_friday(year, month) + DAYS_AFTER_EXPIRY >= first_day
    ]
