"""Measure the clock of a file's times: the zone, and whether a time is that of the bar's open or of its close.

Every IANA zone, fixed offset and broker's clock is scored with either stamp (`clock_evidence`). What a dialect promises
counts as evidence too, so a short file of a known dialect is read as promised, and the bars win where there are enough
of them. Where evidence does not decide, the user is asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from src.errors import BarDataError
from src.market.files.clock_candidates import UTC, Zone, parse_zone, wall_to_utc
from src.market.files.clock_scores import ChangedWeek, Measured, Scored, changed_weeks, measured, score_readings
from src.market.files.reading import ClockReading
from src.market.files.rows import NO_TIME, FileRows, Stamp

_DECISIVE = 5.25
"""Lead over the next reading, in units of log likelihood, from which the bars decide."""
_SOLID_ENOUGH = 0.5
"""Where fewer bars than this follow one another, edges and steps may be chance: more is asked in proportion."""
_PROMISE_HOLDS = 1.5
"""Lead that is enough for the reading a dialect promises."""
_PLAINLY_WRONG = 5.0
"""How far another reading must be ahead of the user's own for his to be refused."""
_BARS_A_STRAY = 500
"""Real files have at most 0.03% of their bars in closed hours, a wrong reading of a few days 0.5% and more."""
_MOST_NAMED = 5
_WEEKS_NAMED = 8
_MOST_APART = 24
"""Tables measured one by one where all of them together have no clock."""


def measure_clock(
    rows: Sequence[FileRows], *, zone: str | None = None, stamp: Stamp | None = None, interval_ns: int | None = None
) -> ClockReading:
    """The clock of tables that share a claim; `zone` and `stamp` are the user's own words and are checked.

    Times with an offset need no zone: `zone` is then only used if the bars say that the offset is wrong.

    Raises:
        BarDataError: no reading fits, several do, the clock changes inside the file, or the bars contradict the user.
        ConfigError: an unknown zone.
    """
    try:
        return _measured_together(rows, zone, stamp, interval_ns)
    except BarDataError as error:
        apart = _clocks_apart(rows, interval_ns) if len(rows) > 1 and zone is None and stamp is None else ""
        if apart:
            raise BarDataError(apart) from error
        raise


def _measured_together(
    rows: Sequence[FileRows], zone: str | None, stamp: Stamp | None, interval_ns: int | None
) -> ClockReading:
    file = measured(rows, interval_ns)
    wanted = None if zone is None else parse_zone(zone)
    used = None if file.claim.instant else wanted
    everything = score_readings(file, None, None)
    if wanted is not None and not any(one.holds(wanted.name, None) for one in everything):
        everything = sorted([*everything, *score_readings(file, wanted, None)], key=lambda one: -one.total)
    readings = everything if used is None and stamp is None else score_readings(file, used, stamp)
    best = readings[0]
    option = used is not None or stamp is not None
    caution = max(1.0, _SOLID_ENOUGH / max(file.solid_frac, 0.01))
    if option and best.evidence <= everything[0].evidence - _PLAINLY_WRONG * caution and _fits(everything[0]):
        raise BarDataError(_contradicted(file, best, everything[0], zone if used is not None else None, stamp))
    _refuse_changes(file, best)
    near = [one for one in readings if best.total - one.total < _DECISIVE * caution]
    if not _fits(best) and not (option and best.closed <= best.bars / 100):
        raise BarDataError(_undecided(file, near) if any(map(_fits, near)) else _none_fits(file, readings))
    needed = _PROMISE_HOLDS if _as_said(file, best, used, stamp) else _DECISIVE * caution
    if len(readings) > 1 and best.total - readings[1].total < needed:
        raise BarDataError(_undecided(file, near))
    return _reading(file, best, readings, option=option)


def utc_opens(rows: FileRows, reading: ClockReading, interval_ns: int) -> NDArray[np.int64]:
    """UTC bar-open times, int64[n] nanoseconds, in file order; NO_TIME for a time missing or skipped by the clock."""
    times = wall_to_utc(rows.time_ns, parse_zone(reading.zone))
    return times if reading.stamp == "open" else np.where(times == NO_TIME, NO_TIME, times - interval_ns)


def _fits(reading: Scored) -> bool:
    """Whether closed hours are empty but for a stray day: the calendar may err on one in twenty.

    Of fewer days one may hold a stray bar or two, as long as they are no share of the bars to speak of.
    """
    stray = reading.bad_days == 1 and reading.closed * _BARS_A_STRAY <= reading.bars
    return reading.days > 0 and (stray or reading.bad_days <= reading.days / 20)


def _promise(file: Measured) -> tuple[str | None, Stamp | None]:
    """Zone and stamp that the dialect or the times themselves promise."""
    claim = file.claim
    if claim.instant:
        return UTC, claim.stamp
    return None if claim.zone is None else parse_zone(claim.zone).name, claim.stamp


def _as_said(file: Measured, reading: Scored, zone: Zone | None, stamp: Stamp | None) -> bool:
    """Whether zone and stamp are both what the user or the dialect said."""
    promised_zone, promised_stamp = _promise(file)
    said_zone, said_stamp = promised_zone if zone is None else zone.name, promised_stamp if stamp is None else stamp
    return said_zone is not None and said_stamp is not None and reading.holds(said_zone, said_stamp)


def _reading(file: Measured, best: Scored, readings: list[Scored], *, option: bool) -> ClockReading:
    rivals = [one.evidence for one in readings if one is not best]
    by_bars = not rivals or best.evidence - max(rivals) >= _DECISIVE
    offsets = file.claim.instant and best.zone.name == UTC
    said = f"read as {best.zone.name}, stamps at the bar's {best.stamp}"
    if offsets:
        said = f"times carry their offset, stamps at the bar's {best.stamp}"
    words = f"{said}: {evidence_words(best)}"
    if not best.holds(*_promise(file)):
        words += f"; the bars contradict what was expected ({file.claim.why})"
    elif option:
        words += "; as the options say"
    elif not by_bars:
        words += f"; {file.claim.why}, and the bars do not contradict it"
    return ClockReading(
        zone=best.zone.name,
        stamp=best.stamp,
        decided_by="option" if option else "offsets" if offsets else "bars" if by_bars else "dialect",
        chosen=best.candidate(),
        others=tuple(one.candidate() for one in readings[1:4]),
        words=words,
    )


def evidence_words(reading: Scored) -> str:
    """The evidence of a reading: "0 of 5,688 bars fall into closed hours, volume x3.4 at 09:30 New York"."""
    step = "" if reading.step is None else f", volume x{reading.step:.1f} at 09:30 New York"
    return f"{reading.closed:,} of {reading.bars:,} bars fall into closed hours{step}"


def _options(reading: Scored) -> str:
    return f"--timezone {reading.zone.name} --stamp {reading.stamp}"


def _refuse_changes(file: Measured, best: Scored) -> None:
    changed = changed_weeks(file, best)
    if changed:
        raise BarDataError(
            f"{file.label}: the clock of its times changes inside the file. Most of it reads as {best.zone.name} with "
            f"stamps at the bar's {best.stamp}, but {_weeks(changed)}. No single reading is right for the whole file: "
            f"export it again with one time zone throughout (UTC, or exchange time with its daylight saving), or "
            f"leave these weeks out."
        )


def _clocks_apart(rows: Sequence[FileRows], interval_ns: int | None) -> str:
    """The message if tables that have no clock in common have different ones each; else empty."""
    found: dict[str, str] = {}
    for table in rows[:_MOST_APART]:
        try:
            own = _measured_together([table], None, None, interval_ns)
        except BarDataError:
            continue  # it has no clock to tell: the message on all tables together stays
        found.setdefault(f"{own.zone} with stamps at the bar's {own.stamp}", table.label)
    if len(found) < 2:
        return ""
    listed = "; ".join(f"{label} reads as {clock}" for clock, label in list(found.items())[:_MOST_NAMED])
    return (
        f"the files do not share one clock: {listed}. Export them again with one time zone and stamp, or give --data "
        f"files of one clock."
    )


def _weeks(changed: list[ChangedWeek]) -> str:
    shifts = sorted({week.shift_min for week in changed})
    parts = []
    for shift in shifts:
        mondays = [week.monday for week in changed if week.shift_min == shift]
        more = f" and {len(mondays) - _WEEKS_NAMED} more" if len(mondays) > _WEEKS_NAMED else ""
        parts.append(
            f"in {len(mondays)} week{'s' if len(mondays) > 1 else ''} the times are {abs(shift)} minutes "
            f"{'later' if shift > 0 else 'earlier'} than that (weeks of {', '.join(mondays[:_WEEKS_NAMED])}{more})"
        )
    return "; ".join(parts)


def _contradicted(file: Measured, own: Scored, best: Scored, zone: str | None, stamp: Stamp | None) -> str:
    said = " ".join(f"--{name} {value}" for name, value in (("timezone", zone), ("stamp", stamp)) if value)
    return (
        f"{file.label}: the bars contradict {said}: read as {own.zone.name}, stamps at the bar's {own.stamp}, "
        f"{evidence_words(own)}. They fit {_options(best)}: {evidence_words(best)}. Use that, or leave the options out."
    )


def _none_fits(file: Measured, readings: list[Scored]) -> str:
    return (
        f"{file.label}: no time zone fits its times: with every one, bars fall into hours in which the market is "
        f"closed (17:00 to 18:00 New York, weekends, holidays). The nearest: {_named(readings[:3])}. Check that the "
        f"bars are of a CME index future, that their times have not been changed and that evening bars have calendar "
        f"dates, not the trading day's, or export them again in UTC."
    )


def _undecided(file: Measured, tied: list[Scored]) -> str:
    more = f" (and {len(tied) - _MOST_NAMED} more)" if len(tied) > _MOST_NAMED else ""
    return (
        f"{file.label}: its bars do not show which clock its times are in ({file.claim.why}). {len(tied)} readings fit "
        f"about equally well: {_named(tied[:_MOST_NAMED])}{more}. Say which one it is with --timezone and --stamp "
        f"(data.timezone, data.stamp), or give more days of bars, those around 17:00 to 18:00 New York included."
    )


def _named(readings: list[Scored]) -> str:
    return "; ".join(f"{_options(one)} ({evidence_words(one)})" for one in readings)
