"""Zones a file's wall clock may be in: their spelling, their offsets, and the conversion to UTC."""

from __future__ import annotations

import difflib
import re
import zoneinfo
from dataclasses import dataclass
from datetime import UTC as UTC_ZONE
from datetime import datetime
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from src.errors import ConfigError
from src.market.files.rows import NO_TIME
from src.market.units import MINUTE_NS

_SECOND_NS = 1_000_000_000
UTC = "UTC"

PREFERRED = (
    "America/New_York", "America/Chicago", UTC, "Europe/London", "Europe/Berlin",
    "America/Los_Angeles", "America/Denver", "Asia/Tokyo", "Asia/Hong_Kong", "Asia/Singapore", "Asia/Kolkata",
    "Australia/Sydney", "America/New_York+07:00", "Europe/Moscow", "Europe/Istanbul", "Asia/Dubai",
    "America/Toronto", "America/Sao_Paulo", "America/Mexico_City", "Africa/Johannesburg", "Asia/Seoul",
    "Asia/Shanghai", "Asia/Jerusalem", "Europe/Athens", "Pacific/Auckland",
)  # fmt: skip
"""Names given first where several zones give the same instants, the likeliest first."""

_BROKER_HOURS = (5, 6, 7, 8)
"""Servers of retail brokers run some hours ahead of New York, so that their day ends with the session at 17:00."""

_FIXED_HOURS = range(-12, 15)
_AREAS = tuple(
    f"{area}/"
    for area in ("Africa", "America", "Antarctica", "Asia", "Atlantic", "Australia", "Europe", "Indian", "Pacific")
)
_SHIFT = re.compile(r"(?P<base>.*?)(?P<sign>[+-])(?P<hours>\d{1,2}):?(?P<minutes>\d{2})?$")
_ALIASES = {
    "Z": UTC,
    "GMT": UTC,
    "ET": "America/New_York",
    "EASTERN": "America/New_York",
    "EXCHANGE": "America/Chicago",
    "CT": "America/Chicago",
    "CENTRAL": "America/Chicago",
}


@dataclass(frozen=True)
class Zone:
    """A zone's rules plus a constant shift: `America/New_York+07:00`, `UTC-05:00`, `Asia/Kolkata`."""

    name: str
    base: str
    """An IANA name."""
    shift_min: int
    """Minutes the clock is ahead of `base`."""


def parse_zone(text: str) -> Zone:
    """The zone of an IANA name, a fixed offset (`UTC-05:00`) or an IANA name with a shift (`America/New_York+07:00`).

    Raises ConfigError with the nearest names.
    """
    wanted = text.strip()
    wanted = _ALIASES.get(wanted.upper(), wanted)
    base, shift = _exact_name(wanted), 0
    if base is None and (match := _SHIFT.match(wanted)):
        prefix = match["base"].strip() or UTC
        base = _exact_name(_ALIASES.get(prefix.upper(), prefix))
        shift = (1 if match["sign"] == "+" else -1) * (60 * int(match["hours"]) + int(match["minutes"] or 0))
    if base is None or abs(shift) > 15 * 60:
        near = difflib.get_close_matches(wanted, [*zone_names(), UTC], n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(
            f"--timezone (data.timezone) is {text!r}: give an IANA name such as America/Chicago, a fixed offset such "
            f"as UTC-05:00, or a broker's clock such as America/New_York+07:00.{hint}"
        )
    return Zone(_spelled(base, shift), base, shift)


def _exact_name(text: str) -> str | None:
    """The IANA name spelled as tzdata has it, whatever the case of `text`; None if there is none."""
    return _names_by_lower_case().get(text.lower())


@lru_cache(maxsize=1)
def _names_by_lower_case() -> dict[str, str]:
    return {name.lower(): name for name in zoneinfo.available_timezones() if not name.startswith(("posix", "right"))}


def _spelled(base: str, shift_min: int) -> str:
    if shift_min == 0:
        return base
    hours, minutes = divmod(abs(shift_min), 60)
    return f"{base}{'+' if shift_min > 0 else '-'}{hours:02d}:{minutes:02d}"


@lru_cache(maxsize=1)
def zone_names() -> tuple[str, ...]:
    """Every IANA name of the form Area/City, in alphabetical order."""
    return tuple(sorted(name for name in zoneinfo.available_timezones() if name.startswith(_AREAS)))


@lru_cache(maxsize=1)
def every_zone() -> tuple[Zone, ...]:
    """Every zone a file is measured against: the preferred ones first, then IANA's, brokers' clocks, fixed offsets."""
    brokers = [_spelled("America/New_York", 60 * hours) for hours in _BROKER_HOURS]
    fixed = [_spelled(UTC, 60 * hours) for hours in _FIXED_HOURS]
    known = set(zone_names()) | {UTC}
    preferred = [name for name in PREFERRED if name in known or name in brokers]
    names = dict.fromkeys([*preferred, *zone_names(), *brokers, *fixed])
    return tuple(parse_zone(name) for name in names)


def offsets_min(zone: Zone, instants_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Minutes that the zone's clock is ahead of UTC at each instant, int64[m]."""
    if zone.base == UTC or len(instants_ns) == 0:
        return np.full(len(instants_ns), zone.shift_min, dtype=np.int64)
    first, last = (datetime.fromtimestamp(int(t) // _SECOND_NS, tz=UTC_ZONE).year for t in _ends(instants_ns))
    starts, offsets = _rules(zone.base, first, last)
    return offsets[np.searchsorted(starts, instants_ns // _SECOND_NS, side="right") - 1] + zone.shift_min


def _ends(instants_ns: NDArray[np.int64]) -> tuple[np.int64, np.int64]:
    return instants_ns.min(), instants_ns.max()


@cache
def _rules(name: str, first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Seconds since 1970 from which an offset holds, and the offsets in minutes."""
    changes = [change for year in range(first, last + 1) for change in _changes_of_year(name, year)]
    return np.array([at for at, _ in changes]), np.array([offset for _, offset in changes])


@cache
def _changes_of_year(name: str, year: int) -> tuple[tuple[int, int], ...]:
    """The offset at the start of a UTC year and each later one, with its first second.

    Asked every two weeks and narrowed down where it changed: pandas takes half a second to convert a few instants to
    five hundred zones, longer than all the rest.
    """
    zone = zoneinfo.ZoneInfo(name)

    def offset(second: int) -> int:
        shift = datetime.fromtimestamp(second, tz=zone).utcoffset()
        return 0 if shift is None else round(shift.total_seconds() / 60)

    second = int(datetime(year, 1, 1, tzinfo=UTC_ZONE).timestamp())
    end = int(datetime(year + 1, 1, 1, tzinfo=UTC_ZONE).timestamp())
    changes = [(second, offset(second))]
    while second < end:
        following = min(second + 14 * 86_400, end)
        if (later := offset(following)) != changes[-1][1]:
            low, high = second, following
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if offset(middle) == later else (middle, high)
            changes.append((high, later))
        second = following
    return tuple(changes)


def wall_to_utc(wall_ns: NDArray[np.int64], zone: Zone) -> NDArray[np.int64]:
    """UTC nanoseconds of wall-clock times in file order, int64[n]; NO_TIME stays, as do times the zone's clock skips.

    An hour that occurs twice is read as its first pass, from a step back in time on as its second.
    """
    known = wall_ns != NO_TIME
    shifted = np.where(known, wall_ns - zone.shift_min * MINUTE_NS, 0)
    if zone.base == UTC or not known.any():
        return np.where(known, shifted, NO_TIME)
    first, last = (datetime.fromtimestamp(int(t) // _SECOND_NS, tz=UTC_ZONE).year for t in _ends(shifted[known]))
    starts, offsets = _rules(zone.base, first - 1, last + 1)
    before, after = offsets[:-1], offsets[1:]
    # Around a change, local times from the earlier to the later of its two readings occur twice or not at all.
    change = starts[1:] * _SECOND_NS
    begins = np.searchsorted(change + np.minimum(before, after) * MINUTE_NS, shifted, side="right")
    ends = np.searchsorted(change + np.maximum(before, after) * MINUTE_NS, shifted, side="right")
    chosen = ends
    near = np.flatnonzero(begins != ends)
    if near.size:
        twice = near[after[begins[near] - 1] < before[begins[near] - 1]]
        second = twice[_in_second_pass(shifted[twice], np.cumsum(np.diff(twice, prepend=twice[:1]) > 1))]
        chosen[second] = begins[second]
        known[np.setdiff1d(near, twice)] = False
    return np.where(known, shifted - offsets[chosen] * MINUTE_NS, NO_TIME)


def _in_second_pass(wall: NDArray[np.int64], run: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Whether an ambiguous row follows a step back in time in its run of ambiguous rows, bool[k]."""
    back = (np.diff(wall, prepend=wall[:1]) < 0) & (np.diff(run, prepend=-1) == 0)
    seen = np.cumsum(back)
    first = np.flatnonzero(np.diff(run, prepend=-1))
    return seen > seen[first][run]


def rank(name: str) -> tuple[int, int, str]:
    """Sort key of names for one reading: the preferred ones, then the shorter."""
    place = PREFERRED.index(name) if name in PREFERRED else len(PREFERRED)
    return (place, len(name), name)
