"""Sessions against the calendar, the overrides and real bars."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest

from src.errors import BarDataError, ConfigError
from src.market.sessions import (
    OUTSIDE_CALENDAR,
    CalendarOverrides,
    calendar_schedule,
    load_overrides,
    place_in_sessions,
)
from tests.market.bar_makers import scheduled_slots, walk_bars


def new_york(ns: int) -> str:
    return pd.Timestamp(int(ns), tz="UTC").tz_convert("America/New_York").strftime("%Y-%m-%d %H:%M")


def test_sessions_close_where_the_real_es_bars_end(shared_data):
    times = pd.read_parquet(shared_data / "ES_5m_2024_2026_ibkr.parquet", columns=["datetime"])["datetime"]
    local = times.dt.tz_convert("America/New_York")
    trade_date = (local + pd.Timedelta(hours=6)).dt.date
    # The first and the last bar of every real trade date, found without the calendar.
    real = pd.DataFrame({"date": trade_date, "time": local}).groupby("date")["time"].agg(["min", "max"])
    schedule = calendar_schedule(real.index[0], real.index[-1])
    absent = {date(2025, 6, 30)}  # missing in the file, a trading day all the same
    assert [day for day in schedule.date.tolist() if day not in absent] == list(real.index)
    for k, day in enumerate(schedule.date.tolist()):
        if day in absent:
            continue
        assert new_york(schedule.open_ns[k]) == real.loc[day, "min"].strftime("%Y-%m-%d %H:%M"), day
        last = real.loc[day, "max"] + pd.Timedelta(minutes=5)
        assert new_york(schedule.close_ns[k]) == last.strftime("%Y-%m-%d %H:%M"), day


def test_without_the_overrides_the_calendar_errs_on_just_the_three_known_days():
    plain = calendar_schedule(date(2024, 2, 5), date(2026, 3, 27), CalendarOverrides())
    ours = calendar_schedule(date(2024, 2, 5), date(2026, 3, 27))
    gone = sorted(set(plain.date.tolist()) - set(ours.date.tolist()))
    assert gone == [date(2024, 3, 29), date(2025, 4, 18)]
    closes = dict(zip(plain.date.tolist(), plain.close_ns.tolist(), strict=True))
    moved = [day for day, close in zip(ours.date.tolist(), ours.close_ns.tolist(), strict=True) if closes[day] != close]
    assert moved == [date(2025, 1, 9)]


def test_a_good_friday_with_a_jobs_report_keeps_its_short_session():
    schedule = calendar_schedule(date(2023, 4, 7), date(2023, 4, 7))
    assert new_york(schedule.close_ns[0]) == "2023-04-07 09:15"


@pytest.mark.parametrize(
    ("hours", "day", "trade_open", "flat_slot"),
    [
        ("rth", 3, "2024-06-03 09:30", "2024-06-03 15:55"),
        ("globex", 3, "2024-06-02 18:00", "2024-06-03 16:55"),
        ("rth", 19, "2024-06-19 09:30", "2024-06-19 12:55"),
        ("globex", 19, "2024-06-18 18:00", "2024-06-19 12:55"),
    ],
)
def test_trading_opens_and_is_flat_when_the_hours_say(hours, day, trade_open, flat_slot):
    _, sessions = place_in_sessions(walk_bars(scheduled_slots(15)), hours)
    k = sessions.date.tolist().index(date(2024, 6, day))
    assert new_york(sessions.trade_open_ns[k]) == trade_open
    assert new_york(sessions.flat_slot_ns[k]) == flat_slot


@pytest.mark.parametrize(("minutes", "flat"), [(1, "15:59"), (2, "15:58"), (3, "15:57"), (10, "15:50"), (15, "15:45")])
def test_the_forced_exit_takes_the_last_bar_that_opens_by_the_flat_time(minutes, flat):
    bars, sessions = place_in_sessions(walk_bars(scheduled_slots(1, minutes), interval_min=minutes), "rth")
    assert new_york(sessions.flat_slot_ns[0]) == f"2024-06-03 {flat}"
    assert sessions.flat_slot_ns[0] in bars.open_ns


def test_every_bar_lies_in_its_session_and_sessions_partition_the_bars():
    bars, sessions = place_in_sessions(walk_bars(scheduled_slots(12)), "rth")
    ids = bars.session_id
    assert ((bars.open_ns >= sessions.open_ns[ids]) & (bars.open_ns < sessions.close_ns[ids])).all()
    assert sessions.first_bar[0] == 0
    assert sessions.end_bar[-1] == len(bars)
    assert (sessions.first_bar[1:] == sessions.end_bar[:-1]).all()


def test_bars_outside_the_calendar_are_dropped_counted_and_warned_of(caplog):
    slots = scheduled_slots(3)
    outside = slots[275] + np.arange(1, 5) * 300_000_000_000  # 17:00 to 17:15, between two sessions
    bars = walk_bars(np.sort(np.concatenate((slots, outside))))
    placed, sessions = place_in_sessions(bars, "rth")
    assert placed.open_ns.tolist() == slots.tolist()
    assert placed.repairs == {OUTSIDE_CALENDAR: 4}
    assert len(sessions) == 3
    assert "4 of" in caplog.text
    assert "outside the calendar" in caplog.text


def test_bars_that_all_lie_outside_the_calendar_are_an_error():
    saturday = pd.Timestamp("2024-06-08 12:00", tz="UTC").value + np.arange(20) * 300_000_000_000
    with pytest.raises(BarDataError, match="none of its 20 bars"):
        place_in_sessions(walk_bars(saturday), "rth")


def test_a_missing_session_is_listed_and_an_override_s_holiday_is_not():
    whole = scheduled_slots(6)
    with_gap = np.concatenate((whole[:276], whole[2 * 276 :]))
    _, sessions = place_in_sessions(walk_bars(with_gap), "rth")
    assert sessions.missing_dates.tolist() == [date(2024, 6, 4)]
    around_good_friday = scheduled_slots(5, start=date(2024, 3, 27))
    _, sessions = place_in_sessions(walk_bars(around_good_friday), "rth")
    assert sessions.missing_dates.tolist() == []


def test_an_interval_that_does_not_divide_the_hour_counts_from_the_session_open():
    placed, _ = place_in_sessions(walk_bars(scheduled_slots(2, 7), interval_min=7), "rth")
    assert len(placed) == 2 * 198
    shifted = scheduled_slots(2, 7) + 60_000_000_000
    with pytest.raises(BarDataError, match="off the 7-minute grid"):
        place_in_sessions(walk_bars(shifted, interval_min=7), "rth")


def test_other_trading_hours_are_refused():
    with pytest.raises(ConfigError, match="must be one of rth, globex"):
        place_in_sessions(walk_bars(scheduled_slots(1)), "night")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sessions: [{date: 2024-01-02, source: x}]", "give either"),
        ("sessions: [{date: 2024-01-02, closed: true, source: x, colse: 1}]", "colse"),
        ("sessions: [{date: never, closed: true, source: x}]", "sessions.0.date"),
        ("sessions: [", "cannot be read as YAML"),
        ("sessions: [{date: 2024-01-02, closed: true}]", "source"),
        ("daily_closes: [{first: 2024-01-02, last: 2024-01-03, source: x}]", "give either `close` or `late_end`"),
    ],
)
def test_a_bad_override_file_is_named_with_the_entry(tmp_path, text, says):
    file = tmp_path / "overrides.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        load_overrides(file)
    assert str(file) in str(caught.value)


def test_a_clock_time_without_quotes_reads_as_with_them(tmp_path):
    file = tmp_path / "overrides.yaml"
    file.write_text("sessions: [{date: 2024-06-03, close: 12:00, source: x}]")
    schedule = calendar_schedule(date(2024, 6, 3), date(2024, 6, 3), load_overrides(file))
    assert new_york(schedule.close_ns[0]) == "2024-06-03 12:00"


def test_every_shipped_override_has_a_source():
    overrides = load_overrides()
    assert all(entry.source for entry in (*overrides.sessions, *overrides.daily_halts))
    assert overrides.sessions
