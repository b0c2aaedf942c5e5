"""Contract months: resolve single-digit years by date, make canonical names, detect merged series."""

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
from src.market.units import DAY_NS

GRACE_DAYS = 10
"""Rows up to this many days after the third Friday still belong to the contract: stale quotes, time zones."""

_MERGED_DAYS = 130  # earlier before expiry, a quarterly contract is never the front month
_FRONT_DAYS = 95
_MERGED_SHARE = 0.1  # of the front month's volume: back months have about 2% of it
_FRONT_VOLUME = (
    20_000.0  # contracts a session, more than any back month trades; used if the file ends before the front month
)


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
        """Canonical name: "ESZ5" or, with two year digits, "ESZ25"."""
        return f"{self.root}{MONTH_CODES[self.month - 1]}{self.year % 10**digits:0{digits}d}"


@cache
def third_friday(year: int, month: int) -> int:
    """A month's third Friday, the expiry of quarterly index futures, in days since 1970."""
    weekday = calendar.weekday(year, month, 1)
    return (date(year, month, 15 + (calendar.FRIDAY - weekday) % 7) - date(1970, 1, 1)).days


def months_of_rows(
    instrument: Instrument, root: str, time_ns: NDArray[np.int64]
) -> tuple[tuple[Month, ...], NDArray[np.intp]]:
    """The contract months that one name stands for in rows of the given times, and each row's index into them.

    A single-digit year is the first year ending in that digit whose contract has not expired on the row's date: ten
    years later the same name is another contract.
    """
    if instrument.month is None or instrument.year is None:
        raise ValueError(f"{instrument} names no month")
    if instrument.year_digits > 1:
        year = instrument.year + (0 if instrument.year_digits == 4 else 2000 if instrument.year < 90 else 1900)
        return (Month(year, instrument.month, root),), np.zeros(len(time_ns), dtype=np.intp)
    years = [year for year in range(1980, 2110) if year % 10 == instrument.year]
    last_days = np.array([third_friday(year, instrument.month) + GRACE_DAYS for year in years])
    readable = time_ns != NO_TIME
    days = time_ns // DAY_NS
    days = np.where(readable, days, np.median(days[readable]) if readable.any() else last_days[-1])
    place = np.minimum(np.searchsorted(last_days, days), len(years) - 1)
    distinct, inverse = np.unique(place, return_inverse=True)
    return tuple(Month(years[k], instrument.month, root) for k in distinct), inverse


def canonical_names(months: Iterable[Month]) -> dict[Month, str]:
    """A name for each month: one year digit, or two for all if one digit would be ambiguous."""
    distinct = sorted(set(months))
    digits = 1 if len({month.name(1) for month in distinct}) == len(distinct) else 2
    return {month: month.name(digits) for month in distinct}


def is_merged(month: Month, time_ns: NDArray[np.int64], volume: NDArray[np.float64]) -> bool:
    """Whether rows named for one contract include earlier contracts, as platforms merge them under the latest name.

    They do if any row is after its expiry, or if sessions long before it became the front month have a front month's
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
