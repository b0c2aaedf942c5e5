"""The calendar of 2008 to 2026 against hours the exchange published.

Sources, as far as a line of its own names none: CME's holiday calendar of the year. Holidays of the exchange close at
10:30 Central until Presidents' Day 2014 and at 12:00 from Memorial Day 2014 on; the Friday after Thanksgiving,
Christmas Eve and July 3 close at 12:15; a Good Friday with a jobs report closes at 8:15. Read again for this table:
CME press releases of 2006-01-10 (Martin Luther King day, 10:30) and 2007-08-20 (Labor Day, 10:30), the hours of July 3
and 4 and December 24, 2013, of Martin Luther King day 2019, of Hurricane Sandy and of 2018-12-05. The other holidays
are from memory of those calendars, and from real bars from 2024 on.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from src.market.sessions import CalendarOverrides, Schedule, calendar_schedule, new_york_ns, session_index

# Trade date and close of a holiday, then of a half day, in New York time; the Sundays on which the clock changes.
YEARS = {
    2008: ("09-01 11:30", "11-28 13:15", "03-09", "11-02"),
    2009: ("09-07 11:30", "11-27 13:15", "03-08", "11-01"),
    2010: ("04-02 09:15", "11-26 13:15", "03-14", "11-07"),
    2011: ("01-17 11:30", "11-25 13:15", "03-13", "11-06"),
    2012: ("10-30 09:15", "07-03 13:15", "03-11", "11-04"),
    2013: ("07-04 11:30", "12-24 13:15", "03-10", "11-03"),
    2014: ("09-01 13:00", "11-28 13:15", "03-09", "11-02"),
    2015: ("04-03 09:15", "12-24 13:15", "03-08", "11-01"),
    2016: ("09-05 13:00", "11-25 13:15", "03-13", "11-06"),
    2017: ("01-16 13:00", "07-03 13:15", "03-12", "11-05"),
    2018: ("12-05 09:30", "12-24 13:15", "03-11", "11-04"),
    2019: ("01-21 13:00", "11-29 13:15", "03-10", "11-03"),
    2020: ("07-03 13:00", "12-24 13:15", "03-08", "11-01"),
    2021: ("04-02 09:15", "11-26 13:15", "03-14", "11-07"),
    2022: ("06-20 13:00", "11-25 13:15", "03-13", "11-06"),
    2023: ("04-07 09:15", "07-03 13:15", "03-12", "11-05"),
    2024: ("11-28 13:00", "12-24 13:15", "03-10", "11-03"),
    2025: ("01-09 09:30", "07-03 13:15", "03-09", "11-02"),
    2026: ("04-03 09:15", "11-27 13:15", "03-08", "11-01"),
}
CLOSED = (
    "2008-03-21 2009-04-10 2010-12-24 2011-04-22 2011-12-26 2012-01-02 2012-12-25 2013-03-29 2014-04-18 2016-03-25 "
    "2016-12-26 2017-01-02 2017-04-14 2018-03-30 2019-04-19 2020-04-10 2021-12-24 2022-04-15 2022-12-26 2023-01-02 "
    "2024-03-29 2025-04-18 2026-01-01 2027-03-26"
)


@pytest.fixture(scope="module")
def schedule() -> Schedule:
    return calendar_schedule(date(2008, 1, 1), date(2027, 12, 31))


def hours(schedule: Schedule, day: date) -> tuple[pd.Timestamp, pd.Timestamp, pd.Timestamp]:
    """Open, close and end of late trading of a trade date in New York time."""
    k = schedule.date.tolist().index(day)
    ends = (schedule.open_ns[k], schedule.close_ns[k], schedule.late_end_ns[k])
    return tuple(pd.Timestamp(int(t), tz="UTC").tz_convert("America/New_York") for t in ends)  # type: ignore[return-value]


@pytest.mark.parametrize("year", YEARS)
def test_early_closes_half_days_and_changes_of_the_clock(schedule, year):
    *closes, spring, autumn = YEARS[year]
    for text in closes:
        day = date.fromisoformat(f"{year}-{text[:5]}")
        _, close, late_end = hours(schedule, day)
        assert close == late_end == pd.Timestamp(f"{day} {text[6:]}", tz="America/New_York")
    for sunday, utc_open in ((spring, "22:00"), (autumn, "23:00")):
        monday = date.fromisoformat(f"{year}-{sunday}") + timedelta(days=1)
        opens = hours(schedule, monday)[0]
        assert opens.tz_convert("UTC").strftime("%Y-%m-%d %H:%M") == f"{year}-{sunday} {utc_open}"
        assert opens.strftime("%A %H:%M") == "Sunday 18:00"
        friday = hours(schedule, monday - timedelta(days=3))[1]
        usual = "22:00" if sunday == spring else "21:00"
        early = "21:15" if sunday == spring else "20:15"
        until_2012 = monday < date(2012, 11, 19)  # the week ended at 3:15 p.m. Central
        assert friday.tz_convert("UTC").strftime("%H:%M") == (early if until_2012 else usual)


def test_days_without_a_session(schedule):
    assert {date.fromisoformat(day) for day in CLOSED.split()}.isdisjoint(schedule.date.tolist())


@pytest.mark.parametrize(
    ("day", "close", "late_end"),
    [
        ("2010-06-02", "17:00", "17:30"),
        ("2010-06-04", "16:15", "16:15"),
        ("2012-11-15", "17:00", "17:30"),
        ("2012-11-16", "16:15", "16:15"),
        ("2012-11-19", "17:00", "17:15"),
        ("2012-11-30", "17:00", "17:15"),
        ("2015-09-18", "17:00", "17:15"),
        ("2015-09-21", "17:00", "17:00"),
        ("2012-10-29", "09:15", "09:15"),
    ],
)
def test_the_end_of_the_day_in_earlier_years(schedule, day, close, late_end):
    found = hours(schedule, date.fromisoformat(day))
    assert [time.strftime("%H:%M") for time in found[1:]] == [close, late_end]


def test_the_halt_of_the_afternoon_in_earlier_years(schedule):
    for day, halted in (
        ("2010-06-02", 15),
        ("2010-06-04", 0),
        ("2013-06-05", 15),
        ("2021-06-25", 15),
        ("2021-06-28", 0),
    ):
        k = schedule.date.tolist().index(date.fromisoformat(day))
        assert (schedule.halt_end_ns[k] - schedule.halt_start_ns[k]) / 60e9 == halted, day


def test_real_bars_of_2013_and_2020_lie_in_the_hours_of_their_year(shared_data):
    bars = pd.read_csv(shared_data / "ES_1m_lean_all_contracts.csv", parse_dates=["datetime"])
    opens = np.unique(pd.DatetimeIndex(bars["datetime"]).as_unit("ns").asi8)
    schedule = calendar_schedule(date(2013, 9, 1), date(2020, 3, 1))
    outside = opens[session_index(schedule, opens) < 0]
    local = pd.DatetimeIndex(outside, tz="UTC").tz_convert("America/New_York")
    assert set(local.year) == {2013}
    assert (local.strftime("%H:%M").min(), local.strftime("%H:%M").max()) == ("17:00", "17:14")
    k = np.searchsorted(schedule.open_ns, outside) - 1
    assert (outside < schedule.late_end_ns[k]).all()


def test_hours_of_whole_years_leave_early_closes_alone():
    overrides = CalendarOverrides.model_validate(
        {"daily_closes": [{"first": "2024-11-01", "last": "2024-11-30", "close": "16:00", "source": "x"}]}
    )
    schedule = calendar_schedule(date(2024, 11, 25), date(2024, 12, 2), overrides)
    days = schedule.date
    assert schedule.close_ns[:3].tolist() == (new_york_ns(days[:3], pd.Timestamp("16:00").time())).tolist()
    assert hours(schedule, date(2024, 11, 29))[1].strftime("%H:%M") == "13:15"
    assert hours(schedule, date(2024, 12, 2))[1].strftime("%H:%M") == "17:00"
