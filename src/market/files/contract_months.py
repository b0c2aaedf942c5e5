"""Which contract a name means: single-digit years by the rows' dates, canonical names, series that were merged."""

from __future__ import annotations

import calendar
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from functools import cache

import numpy as np
from numpy.typing import NDArray

from src.market.files.instrument_names import MONTH_CODES, Instrument
from src.market.files.rows import NO_TIME

DAY_NS = 86_400_000_000_000
GRACE_DAYS = 10
"""A row may lie so far past the third Friday and still be its contract's: a stale quote, a wall clock, a wrong day."""

_MERGED_DAYS = 130  # before expiry a quarterly contract is never the front month
_FRONT_DAYS = 95
_MERGED_SHARE = 0.1  # of the front month's volume: a contract that is not the front has 2% of it
_FRONT_VOLUME = 20_000.0  # a session: more than any contract that is not the front, where the file ends too early


@dataclass(frozen=True, order=True)
class Month:
    """One contract month of a root."""

    year: int
    month: int
    root: str

    def expiry_day(self) -> int:
        """The third Friday, in days since 1970."""
        return third_friday(self.year, self.month)

    def name(self, digits: int) -> str:
        """Canonical: "ESZ5" or, with two digits, "ESZ25"."""
        return f"{self.root}{MONTH_CODES[self.month - 1]}{self.year % 10**digits:0{digits}d}"


@cache
def third_friday(year: int, month: int) -> int:
    """Days since 1970 of a month's third Friday, on which quarterly index futures expire."""
    weekday = calendar.weekday(year, month, 1)
    return (date(year, month, 15 + (calendar.FRIDAY - weekday) % 7) - date(1970, 1, 1)).days


def months_of_rows(
    said: Instrument, root: str, time_ns: NDArray[np.int64]
) -> tuple[tuple[Month, ...], NDArray[np.intp]]:
    """The contract month(s) that one name means in rows of the given times, and each row's index into them.

    A single-digit year is the first that ends in the digit and whose contract has not expired at the row's date: the
    same name means another contract ten years later.
    """
    if said.month is None or said.year is None:
        raise ValueError(f"{said} names no month")
    if said.year_digits > 1:
        year = said.year + (0 if said.year_digits == 4 else 2000 if said.year < 90 else 1900)
        return (Month(year, said.month, root),), np.zeros(len(time_ns), dtype=np.intp)
    years = [year for year in range(1980, 2110) if year % 10 == said.year]
    last_days = np.array([third_friday(year, said.month) + GRACE_DAYS for year in years])
    readable = time_ns != NO_TIME
    days = time_ns // DAY_NS
    days = np.where(readable, days, np.median(days[readable]) if readable.any() else last_days[-1])
    place = np.minimum(np.searchsorted(last_days, days), len(years) - 1)
    distinct, inverse = np.unique(place, return_inverse=True)
    return tuple(Month(years[k], said.month, root) for k in distinct), inverse


def canonical_names(months: Iterable[Month]) -> dict[Month, str]:
    """A name for each: one digit a year, two for all if one would make two contracts the same."""
    distinct = sorted(set(months))
    digits = 1 if len({month.name(1) for month in distinct}) == len(distinct) else 2
    return {month: month.name(digits) for month in distinct}


def is_merged(month: Month, time_ns: NDArray[np.int64], volume: NDArray[np.float64]) -> bool:
    """Whether rows named by one contract hold its predecessors' too, as platforms merge them under the last name.

    They do if any lies after its expiry, or if the sessions long before it was the front month had a front month's
    volume.
    """
    usable = (time_ns != NO_TIME) & np.isfinite(volume)
    if not usable.any():
        return False
    days, member = np.unique(time_ns[usable] // DAY_NS, return_inverse=True)
    if days[-1] > month.expiry_day() + GRACE_DAYS:
        return True
    daily = np.bincount(member, weights=volume[usable])
    early, front = days < month.expiry_day() - _MERGED_DAYS, days > month.expiry_day() - _FRONT_DAYS
    if not early.any():
        return False
    fronts = _MERGED_SHARE * float(np.median(daily[front])) if front.any() else _FRONT_VOLUME
    return float(np.median(daily[early])) >= fronts
