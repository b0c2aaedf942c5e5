"""Times in every form the readers know, against datetime's own formatting; day and month are never silently swapped."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from src.errors import BarDataError
from src.market.files.rows import NO_TIME
from src.market.files.time_columns import TimeColumn, read_times

WHOLE = (
    "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y/%m/%d %H:%M:%S", "%Y.%m.%d %H:%M:%S", "%Y%m%d %H%M%S", "%Y%m%d%H%M%S",
    "%Y%m%d-%H:%M:%S", "%Y-%m-%d, %H:%M:%S.%f", "%d-%b-%Y %H:%M:%S", "%b %d, %Y %H:%M:%S", "%d.%m.%Y %H:%M:%S",
    "%Y-%m-%d %I:%M:%S %p", "%a %d %b %Y %H:%M:%S", "%Y%m%d %H:%M:%S US/Eastern",
)  # fmt: skip
ZONED = ("%Y-%m-%d %H:%M:%S%z", "%Y-%m-%dT%H:%M:%S.%f%z", "%Y%m%dT%H%M%S%z")
PAIRS = (("%Y-%m-%d", "%H:%M:%S"), ("%Y%m%d", "%H%M%S"), ("%Y/%m/%d", "%H:%M"), ("%Y%m%d", "%H%M"))
MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2098, 12, 31)).map(lambda moment: moment.replace(microsecond=0))


def ns_of(moments: list[datetime]) -> list[int]:
    return [int((moment - datetime(1970, 1, 1)).total_seconds()) * 1_000_000_000 for moment in moments]


def times(*columns: list[str], day_first: bool | None = None) -> TimeColumn:
    arrays = [pa.chunked_array([pa.array([cell.encode() for cell in column], pa.binary())]) for column in columns]
    return read_times(arrays, "ES.csv", day_first=day_first, comma=False)


@given(st.sampled_from(WHOLE), st.lists(MOMENTS, min_size=2, max_size=20, unique=True))
def test_a_wall_clock_in_any_form_is_read_to_the_second(form: str, moments: list[datetime]) -> None:
    read = times([moment.strftime(form) for moment in moments], day_first=True)
    assert read.ns.tolist() == ns_of(moments)
    assert not read.instant
    assert read.zone == ("US/Eastern" if "US" in form else None)


@given(st.sampled_from(ZONED), st.lists(MOMENTS, min_size=2, max_size=20), st.integers(-12 * 60, 14 * 60))
def test_an_offset_makes_an_instant(form: str, moments: list[datetime], offset_min: int) -> None:
    zone = timezone(timedelta(minutes=offset_min))
    cells = [moment.replace(tzinfo=UTC).astimezone(zone).strftime(form) for moment in moments]
    read = times(cells)
    assert read.instant
    assert read.ns.tolist() == ns_of(moments)


@given(st.sampled_from(PAIRS), st.lists(MOMENTS, min_size=6, max_size=20, unique=True))
def test_a_date_and_a_clock_in_two_columns_add_up(forms: tuple[str, str], moments: list[datetime]) -> None:
    # A full day of clocks: whether 930 is 09:30 or 00:09:30 is told by the column's large values.
    days = [*moments, *(datetime(2025, 11, 3, 23, minute) for minute in range(30, 60))]
    whole = [day.replace(second=0) if "S" not in forms[1] else day for day in days]
    read = times([day.strftime(forms[0]) for day in whole], [day.strftime(forms[1]) for day in whole])
    assert read.ns.tolist() == ns_of(whole)


@given(st.sampled_from([1, 1_000, 1_000_000, 1_000_000_000]), st.lists(MOMENTS, min_size=2, max_size=20))
def test_counts_since_1970_are_told_by_their_size(scale: int, moments: list[datetime]) -> None:
    later = [moment.replace(year=2003 + moment.year % 60, day=min(moment.day, 28)) for moment in moments]
    read = times([str(ns // 1_000_000_000 * scale) for ns in ns_of(later)])
    assert read.instant
    assert read.ns.tolist() == ns_of(later)


def trading_days(start: date, count: int) -> list[date]:
    days = (start + timedelta(days=k) for k in range(2 * count + 7))
    return [day for day in days if day.weekday() < 5][:count]


@example(date(2009, 1, 31), 1, "/", False)
@given(
    st.dates(date(2008, 1, 1), date(2026, 12, 1)), st.integers(1, 40), st.sampled_from(["/", "-"]), st.booleans(),
)  # fmt: skip
def test_day_and_month_are_read_right_or_refused(start: date, count: int, mark: str, day_first: bool) -> None:
    form = f"%d{mark}%m{mark}%Y %H:%M" if day_first else f"%m{mark}%d{mark}%Y %H:%M"
    moments = [
        datetime(day.year, day.month, day.day, hour) for day in trading_days(start, count) for hour in range(9, 16)
    ]
    cells = [moment.strftime(form) for moment in moments]
    decided = any(moment.day > 12 for moment in moments)
    try:
        read = times(cells)
    except BarDataError:
        # Within the first twelve days of a month nothing may decide.
        assert not decided
        return
    assert read.ns.tolist() == ns_of(moments)


def test_one_damaged_date_does_not_turn_the_order_of_the_others() -> None:
    days = trading_days(date(2025, 11, 3), 6)
    cells = [f"{day:%m/%d/%Y} {hour:02d}:00" for day in days for hour in range(24)]
    wanted = times(cells).ns
    read = times([*cells[:50], f"13{cells[50][2:]}", *cells[51:]]).ns
    np.testing.assert_array_equal(np.delete(read, 50), np.delete(wanted, 50))
    assert read[50] == NO_TIME


@pytest.mark.parametrize(
    "cell",
    ["2025-02-30 10:00:00", "2025-13-01 10:00:00", "2025-11-03 25:00:00", "2025-11-03 10:60:00", "1970-01-01 00:00:00",
     "2500-01-01 00:00:00", "2025-11-03 10:00:00+99:00", "2025-11-03 10:00:00 Nowhere/Land", "noon"],
)  # fmt: skip
def test_a_time_that_does_not_exist_is_missing(cell: str) -> None:
    sound = [f"2025-11-04 10:{minute:02d}:00" for minute in range(30)]
    read = times([*sound, cell])
    assert read.ns[-1] == NO_TIME
    assert (read.ns[:-1] != NO_TIME).all()


def test_noon_and_midnight_may_be_hour_0_of_a_12_hour_clock() -> None:
    cells = [f"11/04/2025 {hour}:{minute} {half}" for half in ("AM", "PM") for hour in (0, 9) for minute in (15, 45)]
    *ns, impossible = times([*cells, "11/04/2025 13:15 PM"], day_first=False).ns.tolist()
    assert impossible == NO_TIME
    clock = [str(np.datetime64(moment, "ns"))[11:16] for moment in ns]
    assert clock == ["00:15", "00:45", "09:15", "09:45", "12:15", "12:45", "21:15", "21:45"]


def test_times_with_two_clocks_are_refused() -> None:
    wall = [f"2025-11-04 10:{minute:02d}:00" for minute in range(30)]
    with pytest.raises(BarDataError, match="two clocks"):
        times([*wall, *(f"{cell}+00:00" for cell in wall)])
    with pytest.raises(BarDataError, match="several zones"):
        times([*(f"{cell} US/Eastern" for cell in wall), *(f"{cell} US/Central" for cell in wall)])
