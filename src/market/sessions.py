"""Globex sessions: 18:00 to 17:00 New York, from a calendar and a dated file of overrides.

The calendar is pandas_market_calendars' `CME Globex Equity`. Compared with real ES bars of 2024-2026 it is wrong on
three days (2025-01-09 and the Good Fridays 2024-03-29 and 2025-04-18); `CME_Equity` closes 15 minutes early
on six half days.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, time, timedelta
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import pandas_market_calendars
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from src.errors import BarDataError, ConfigError
from src.market.bars import NO_SESSION, Bars, frozen, select_bars
from src.market.units import MINUTE_NS
from src.yaml_files import read_model

logger = logging.getLogger(__name__)

CALENDAR_NAME = "CME Globex Equity"
NEW_YORK = "America/New_York"
OVERRIDES_FILE = Path(__file__).resolve().parents[2] / "config" / "calendar_overrides.yaml"
OUTSIDE_CALENDAR = "outside the calendar"
TRADING_HOURS = ("rth", "globex")

_DAY = np.timedelta64(1, "D")


@dataclass(frozen=True, eq=False)
class Schedule:
    """The calendar with its overrides, independent of bars: one entry per trade date, in time order."""

    date: NDArray[np.datetime64]
    open_ns: NDArray[np.int64]
    close_ns: NDArray[np.int64]
    halt_start_ns: NDArray[np.int64]
    """Start and end of a daily trading halt inside the session; both equal the close if there is none."""
    halt_end_ns: NDArray[np.int64]
    late_end_ns: NDArray[np.int64]
    """End of trading that once followed 17:00; it belongs to no session here. Equals the close if there was none."""

    def __len__(self) -> int:
        return len(self.date)


@dataclass(frozen=True, eq=False)
class Sessions:
    """The sessions that hold at least one bar, in time order; arrays of length m, times in UTC nanoseconds.

    `tables.judge_sessions` sets `first_decision` and `usable`; before that, every session counts as usable.
    """

    date: NDArray[np.datetime64]
    """Trade date, datetime64[D]."""
    open_ns: NDArray[np.int64]
    close_ns: NDArray[np.int64]
    trade_open_ns: NDArray[np.int64]
    """09:30 New York under rth, else the Globex open."""
    flat_slot_ns: NDArray[np.int64]
    """Scheduled open of the bar at whose open the forced exit fills."""
    first_bar: NDArray[np.int32]
    """The session's bars are [first_bar, end_bar)."""
    end_bar: NDArray[np.int32]
    first_decision: NDArray[np.int32]
    """First DECISION bar whose feature window is complete; -1 if none."""
    usable: NDArray[np.bool_]
    reason: tuple[str, ...]
    """Why a session is not usable; empty for a usable one."""
    halt_start_ns: NDArray[np.int64]
    """A scheduled trading halt inside the session; its bars are not missing. Both equal the close if there is none."""
    halt_end_ns: NDArray[np.int64]
    missing_dates: NDArray[np.datetime64] = field(default_factory=lambda: np.empty(0, dtype="datetime64[D]"))
    """Trade dates between the first and the last session for which the file holds no bar."""

    def __len__(self) -> int:
        return len(self.date)


def _clock(value: object) -> object:
    """Text, or minutes since midnight: YAML reads an unquoted 16:15 as a sexagesimal number."""
    return time(value // 60, value % 60) if isinstance(value, int) and 0 <= value < 24 * 60 else value


Clock = Annotated[time, BeforeValidator(_clock)]


class SessionOverride(BaseModel):
    """One trade date on which the calendar is wrong."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    date: date
    closed: bool = False
    close: Clock | None = None
    source: str
    caveat: str = ""

    @model_validator(mode="after")
    def _says_one_thing(self) -> SessionOverride:
        if self.closed == (self.close is not None):
            raise ValueError('give either `closed: true` or `close: "HH:MM"`')
        return self


class DailyHalt(BaseModel):
    """A scheduled pause inside every session from `first` to `last` (trade dates, inclusive), New York time."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    first: date
    last: date
    start: Clock
    end: Clock
    source: str
    caveat: str = ""


class DailyClose(BaseModel):
    """Hours of the sessions from `first` to `last` (trade dates, inclusive) without an early close, New York time.

    `close` ends the session; `late_end` ends trading after a session that closes at 17:00.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    first: date
    last: date
    weekdays: tuple[Annotated[int, Field(ge=0, le=6)], ...] = (0, 1, 2, 3, 4)
    """Monday is 0."""
    close: Clock | None = None
    late_end: Clock | None = None
    source: str
    caveat: str = ""

    @model_validator(mode="after")
    def _says_one_thing(self) -> DailyClose:
        if (self.close is None) == (self.late_end is None):
            raise ValueError("give either `close` or `late_end`")
        return self


class CalendarOverrides(BaseModel):
    """The override file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    checked: date | None = None
    sessions: tuple[SessionOverride, ...] = ()
    daily_halts: tuple[DailyHalt, ...] = ()
    daily_closes: tuple[DailyClose, ...] = ()


def load_overrides(path: Path = OVERRIDES_FILE) -> CalendarOverrides:
    """Read the override file. Raises ConfigError naming the file and the bad entry."""
    return read_model(path, CalendarOverrides, "a usable file of calendar overrides")


@lru_cache(maxsize=1)
def _shipped_overrides() -> CalendarOverrides:
    return load_overrides()


def new_york_ns(dates: NDArray[np.datetime64], clock: time) -> NDArray[np.int64]:
    """UTC nanoseconds of a New York clock time on each date, int64[m]."""
    minutes = clock.hour * 60 + clock.minute
    local = pd.DatetimeIndex(dates.astype("datetime64[ns]") + np.timedelta64(minutes, "m"))
    return local.tz_localize(NEW_YORK).tz_convert("UTC").as_unit("ns").asi8


def _as_ns(column: pd.Series) -> NDArray[np.int64]:
    return column.dt.as_unit("ns").astype("int64").to_numpy()


@lru_cache(maxsize=64)
def _calendar_of_years(first: int, last: int) -> tuple[NDArray[np.datetime64], NDArray[np.int64], NDArray[np.int64]]:
    """Trade dates, opens and closes of whole years as the calendar has them."""
    calendar = pandas_market_calendars.get_calendar(CALENDAR_NAME)
    table = calendar.schedule(start_date=date(first, 1, 1), end_date=date(last, 12, 31))
    dates = np.asarray(table.index.values).astype("datetime64[D]")
    return dates, _as_ns(table["market_open"]), _as_ns(table["market_close"])


def calendar_schedule(first: date, last: date, overrides: CalendarOverrides | None = None) -> Schedule:
    """Every scheduled session with a trade date from `first` to `last`, overrides applied (None: the shipped file)."""
    overrides = _shipped_overrides() if overrides is None else overrides
    dates, open_ns, close_ns = _calendar_of_years(first.year, last.year)
    asked = (dates >= np.datetime64(first, "D")) & (dates <= np.datetime64(last, "D"))
    dates, open_ns, close_ns = dates[asked], open_ns[asked], close_ns[asked]
    close_ns, late_end_ns = _daily_closes(overrides, dates, close_ns)
    keep = np.ones(len(dates), dtype=bool)
    for override in overrides.sessions:
        day = dates == np.datetime64(override.date, "D")
        if override.closed:
            keep &= ~day
        elif override.close is not None and day.any():
            close_ns = np.where(day, new_york_ns(dates, override.close), close_ns)
            late_end_ns = np.where(day, close_ns, late_end_ns)
    halt_start_ns, halt_end_ns = close_ns, close_ns
    for halt in overrides.daily_halts:
        days = (dates >= np.datetime64(halt.first, "D")) & (dates <= np.datetime64(halt.last, "D"))
        if days.any():
            halt_start_ns = np.where(days, np.minimum(new_york_ns(dates, halt.start), close_ns), halt_start_ns)
            halt_end_ns = np.where(days, np.minimum(new_york_ns(dates, halt.end), close_ns), halt_end_ns)
    return Schedule(
        date=frozen(dates[keep], np.datetime64),
        open_ns=frozen(open_ns[keep], np.int64),
        close_ns=frozen(close_ns[keep], np.int64),
        halt_start_ns=frozen(halt_start_ns[keep], np.int64),
        halt_end_ns=frozen(halt_end_ns[keep], np.int64),
        late_end_ns=frozen(late_end_ns[keep], np.int64),
    )


def trading_days_within(dates: NDArray[np.datetime64], days: int) -> NDArray[np.int64]:
    """Scheduled sessions in so many calendar days from each date on, that date included, int64[n]."""
    if not len(dates):
        return np.zeros(0, np.int64)
    first, last = dates.min().astype(object), dates.max().astype(object) + timedelta(days)
    scheduled, ends = calendar_schedule(first, last).date, dates + np.timedelta64(days, "D")
    return (np.searchsorted(scheduled, ends) - np.searchsorted(scheduled, dates)).astype(np.int64)


def _daily_closes(
    overrides: CalendarOverrides, dates: NDArray[np.datetime64], close_ns: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Close and end of late trading per session, int64[m] each; early closes of the calendar stay."""
    usual = close_ns == new_york_ns(dates, time(17))
    weekday = (dates.astype(np.int64) + 3) % 7
    close, late_end = close_ns, close_ns
    for rule in overrides.daily_closes:
        days = (dates >= np.datetime64(rule.first, "D")) & (dates <= np.datetime64(rule.last, "D"))
        days &= usual & np.isin(weekday, rule.weekdays)
        if not days.any():
            continue
        if rule.close is not None:
            close = np.where(days, new_york_ns(dates, rule.close), close)
            late_end = np.where(days, close, late_end)
        elif rule.late_end is not None:
            late_end = np.where(days, new_york_ns(dates, rule.late_end), late_end)
    return close, late_end


def schedule_around(open_ns: NDArray[np.int64], overrides: CalendarOverrides | None = None) -> Schedule:
    """The schedule from before the first to after the last of these bar times (any order, at least one)."""
    days = np.array([open_ns.min(), open_ns.max()], dtype="datetime64[ns]").astype("datetime64[D]")
    # Five extra days: a Sunday bar's trade date may follow a long holiday weekend.
    return calendar_schedule((days[0] - 5 * _DAY).item(), (days[1] + 5 * _DAY).item(), overrides)


def session_index(schedule: Schedule, open_ns: NDArray[np.int64]) -> NDArray[np.int32]:
    """Index into `schedule` of the session each bar opens in, NO_SESSION outside; int32[n]."""
    if len(schedule) == 0:
        return np.full(len(open_ns), NO_SESSION, dtype=np.int32)
    index = np.searchsorted(schedule.open_ns, open_ns, side="right") - 1
    inside = (index >= 0) & (open_ns < schedule.close_ns[np.maximum(index, 0)])
    return np.where(inside, index, NO_SESSION).astype(np.int32)


def place_in_sessions(
    bars: Bars, trading_hours: Literal["rth", "globex"] | str, schedule: Schedule | None = None
) -> tuple[Bars, Sessions]:
    """Give every bar its session. Bars outside the calendar are dropped, counted in `repairs` and logged as a warning.

    Raises BarDataError if no bar lies in a session or one is off its session's grid; ConfigError for unknown hours.
    """
    if trading_hours not in TRADING_HOURS:
        raise ConfigError(
            f"environment.trading_hours is {trading_hours!r}: it must be one of {', '.join(TRADING_HOURS)}."
        )
    schedule = schedule_around(bars.open_ns) if schedule is None else schedule
    index = session_index(schedule, bars.open_ns)
    inside = index != NO_SESSION
    repairs: Mapping[str, int] = bars.repairs
    outside = int(len(bars) - inside.sum())
    if outside:
        first = pd.Timestamp(int(bars.open_ns[np.argmin(inside)]), tz="UTC").isoformat()
        if outside == len(bars):
            raise BarDataError(
                f"{bars.source}: none of its {outside} bars lies in a session of {CALENDAR_NAME} (the first is at "
                f"{first}). Times must be UTC bar-open times; convert them and try again."
            )
        logger.warning(
            "%s: %d of %d bars lie outside the calendar and were dropped (the first at %s)",
            bars.source, outside, len(bars), first,
        )  # fmt: skip
        repairs = MappingProxyType({**bars.repairs, OUTSIDE_CALENDAR: bars.repairs.get(OUTSIDE_CALENDAR, 0) + outside})
    owner = index[inside] if outside else index
    changes = np.concatenate(([True], owner[1:] != owner[:-1]))
    held = owner[changes]
    session_id = frozen(np.cumsum(changes, dtype=np.int32) - 1, np.int32)
    if outside:
        placed = select_bars(bars, inside, session_id=session_id, repairs=repairs)
    else:
        placed = replace(bars, session_id=session_id)
    sessions = _sessions_of(schedule, held, placed, trading_hours)
    off_grid = np.flatnonzero((placed.open_ns - sessions.open_ns[placed.session_id]) % placed.interval_ns)
    if off_grid.size:
        raise off_grid_error(placed, off_grid)
    return placed, sessions


def off_grid_error(bars: Bars, off_grid: NDArray[np.intp]) -> BarDataError:
    """What to say of bars (indices, at least one) that do not lie a whole number of bars after their session's open."""
    when = pd.Timestamp(int(bars.open_ns[off_grid[0]]), tz="UTC").isoformat()
    return BarDataError(
        f"{bars.source}: the bar at {when} is off the {bars.interval_s // 60}-minute grid that starts at the "
        f"session's 18:00 New York open ({off_grid.size} bars are). Resample from 18:00 New York, or to an "
        f"interval that divides an hour."
    )


def _sessions_of(schedule: Schedule, held: NDArray, bars: Bars, trading_hours: str) -> Sessions:
    """The sessions `held` (indices into the schedule), every one usable until it is judged."""
    dates, open_ns, close_ns = schedule.date[held], schedule.open_ns[held], schedule.close_ns[held]
    flat_ns = close_ns - MINUTE_NS
    trade_open_ns = open_ns
    if trading_hours == "rth":
        trade_open_ns = new_york_ns(dates, time(9, 30))
        flat_ns = np.minimum(flat_ns, new_york_ns(dates, time(15, 59)))
    step = bars.interval_ns
    every = np.arange(held[0], held[-1] + 1)
    edges = np.searchsorted(bars.session_id, np.arange(len(held) + 1))
    return Sessions(
        date=frozen(dates, np.datetime64),
        open_ns=frozen(open_ns, np.int64),
        close_ns=frozen(close_ns, np.int64),
        trade_open_ns=frozen(trade_open_ns, np.int64),
        flat_slot_ns=frozen(open_ns + (flat_ns - open_ns) // step * step, np.int64),
        first_bar=frozen(edges[:-1], np.int32),
        end_bar=frozen(edges[1:], np.int32),
        first_decision=frozen(np.full(len(held), -1), np.int32),
        usable=frozen(np.ones(len(held)), np.bool_),
        reason=("",) * len(held),
        halt_start_ns=frozen(schedule.halt_start_ns[held], np.int64),
        halt_end_ns=frozen(schedule.halt_end_ns[held], np.int64),
        missing_dates=frozen(schedule.date[np.setdiff1d(every, held)], np.datetime64),
    )
