"""How many of the scheduled bars are there: by period and hour of the session, and by weekday and hour."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from src.market.bars import Bars
from src.market.sessions import NEW_YORK, Schedule, Sessions, calendar_schedule
from src.market.units import HOUR_NS, MINUTE_NS

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
HOURS = 24
FIRST_HOUR = 18
"""New York hour at which a session opens: row 0 of a map."""
MOST_SESSIONS, MOST_WEEKS = 70, 130
"""A map has a column a session up to so many sessions, else a column a week up to so many weeks, else one a month."""


@dataclass(frozen=True, eq=False)
class Coverage:
    """Bars by trade date and hour, int64[d, 24]; hour 0 begins at 18:00 New York. Dates without a bar are included."""

    date: NDArray[np.datetime64]
    present: NDArray[np.int64]
    scheduled: NDArray[np.int64]

    def to_dict(self) -> dict[str, Any]:
        """Fractions for a map by period and one by weekday; an hour without a scheduled bar is None."""
        unit, periods = _periods(self.date)
        names, place = np.unique(periods, return_inverse=True)
        weekday = weekdays(self.date)
        days, day_place = np.unique(weekday, return_inverse=True)
        open_hours = np.flatnonzero(self.scheduled.any(axis=0))
        scheduled = int(self.scheduled.sum())
        return {
            "present": int(self.present.sum()),
            "scheduled": scheduled,
            "frac": round(float(self.present.sum()) / scheduled, 5) if scheduled else None,
            "hours": [f"{(FIRST_HOUR + hour) % HOURS:02d}:00" for hour in open_hours.tolist()],
            "unit": unit,
            "periods": [str(name) for name in names],
            "by_period": self._fractions(place, len(names), open_hours),
            "weekdays": [WEEKDAYS[day] for day in days.tolist()],
            "by_weekday": self._fractions(day_place, len(days), open_hours),
        }

    def _fractions(self, place: NDArray[np.intp], n_places: int, hours: NDArray[np.intp]) -> list[list[float | None]]:
        """By hour, then by place."""
        sums = []
        for counts in (self.present, self.scheduled):
            total = np.zeros((n_places, HOURS), dtype=np.int64)
            np.add.at(total, place, counts)
            sums.append(total[:, hours].T)
        present, scheduled = sums
        return [
            [round(have / want, 3) if want else None for have, want in zip(*row, strict=True)]
            for row in zip(present.tolist(), scheduled.tolist(), strict=True)
        ]


def new_york_minutes(open_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """New York wall-clock times as minutes since 1970, int64[n]."""
    local = pd.DatetimeIndex(open_ns, tz="UTC").tz_convert(NEW_YORK).tz_localize(None)
    return local.as_unit("ns").asi8 // MINUTE_NS


def new_york_text(open_ns: NDArray[np.int64]) -> list[str]:
    """`2024-06-03 09:35`, New York."""
    return [str(moment).replace("T", " ") for moment in new_york_minutes(open_ns).astype("datetime64[m]")]


def weekdays(dates: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Weekday of each date, 0 for Monday; int64[d]."""
    return (dates.astype("datetime64[D]").astype(np.int64) + 3) % 7


def _periods(dates: NDArray[np.datetime64]) -> tuple[str, NDArray[np.datetime64]]:
    """What a column of the map is, and the first day of each date's: a session, a week from Monday, or a month."""
    if len(dates) <= MOST_SESSIONS:
        return "session", dates
    weeks = dates - weekdays(dates).astype("timedelta64[D]")
    if len(np.unique(weeks)) <= MOST_WEEKS:
        return "week", weeks
    return "month", dates.astype("datetime64[M]")


def coverage_of(bars: Bars, sessions: Sessions, absent: Schedule | None = None) -> Coverage:
    """Count the bars of every session and of every absent trade date; `absent` saves reading the calendar for those."""
    if absent is None:
        absent = absent_schedule(sessions)
    opens = np.concatenate((sessions.open_ns, absent.open_ns))
    closes = np.concatenate((sessions.close_ns, absent.close_ns))
    halt_start = np.concatenate((sessions.halt_start_ns, absent.halt_start_ns))
    halt_end = np.concatenate((sessions.halt_end_ns, absent.halt_end_ns))
    # Hour 0 begins at 18:00 New York whenever the session opens; no clock changes inside a session.
    zero = opens - (new_york_minutes(opens) - FIRST_HOUR * 60) % (HOURS * 60) * MINUTE_NS
    edges = zero[:, None] + np.arange(HOURS + 1) * HOUR_NS
    step = bars.interval_ns
    scheduled = np.diff(_slots_before(edges, opens, closes, step), axis=1)
    halted = np.clip(edges, halt_start[:, None], halt_end[:, None])
    scheduled -= np.diff(_slots_before(halted, opens, closes, step), axis=1)
    hour = np.clip((bars.open_ns - zero[bars.session_id]) // HOUR_NS, 0, HOURS - 1)
    cell = bars.session_id.astype(np.int64) * HOURS + hour
    present = np.bincount(cell, minlength=len(opens) * HOURS).reshape(-1, HOURS)
    dates = np.concatenate((sessions.date, absent.date))
    order = np.argsort(dates, kind="stable")
    # A bar inside a scheduled halt is no bar that was due.
    return Coverage(dates[order], np.minimum(present, scheduled)[order], scheduled[order])


def _slots_before(
    moments: NDArray[np.int64], opens: NDArray[np.int64], closes: NDArray[np.int64], step: int
) -> NDArray[np.int64]:
    """Scheduled slots of a session that begin before each moment, int64[d, k]."""
    within = np.clip(moments, opens[:, None], closes[:, None]) - opens[:, None]
    return -(-within // step)


def absent_schedule(sessions: Sessions) -> Schedule:
    """The calendar's entries of the trade dates without a bar."""
    missing = sessions.missing_dates
    if len(missing) == 0:
        empty = np.empty(0, dtype=np.int64)
        return Schedule(missing, *[empty] * (len(fields(Schedule)) - 1))
    schedule = calendar_schedule(missing[0].item(), missing[-1].item())
    kept = np.isin(schedule.date, missing)
    return Schedule(**{column.name: getattr(schedule, column.name)[kept] for column in fields(Schedule)})
