"""The clock of files: what the bars decide, what a promise decides, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.errors import BarDataError, ConfigError
from src.market.files.clock import measure_clock, utc_opens
from src.market.files.clock_candidates import every_zone, parse_zone, wall_to_utc
from src.market.files.rows import NO_TIME, ClockClaim, FileRows, Stamp
from src.market.files.zone_study import Source, shaped, synthetic_source
from src.market.sessions import calendar_schedule
from src.market.units import MINUTE_NS

UNKNOWN = ClockClaim(instant=False, zone=None, stamp=None, why="nothing says which clock its times are in")
INSTANT = ClockClaim(instant=True, zone=None, stamp=None, why="its times end in Z")
DAY_NS = 1440 * MINUTE_NS

# Seventeen invented bars around the break of 2025-11-03 and the cash open of the next day.
TWIN_VOLUME = (2100, 1900, 2500, 5200, 1500, 900, 700, 650, 1300, 1400, 1500, 1700, 14200, 11800, 10900, 9800, 9100)


def twin_opens(interval_min: int) -> np.ndarray:
    """UTC opens: four bars before the break, four after it, four before 09:30 and five from then on; int64[17]."""
    marks = ("2025-11-03 22:00", -4), ("2025-11-03 23:00", 0), ("2025-11-04 14:30", -4), ("2025-11-04 14:30", 0)
    counts = (4, 4, 4, 5)
    return np.concatenate(
        [
            pd.Timestamp(mark).value + (first + np.arange(count)) * interval_min * MINUTE_NS
            for (mark, first), count in zip(marks, counts, strict=True)
        ]
    )


def local_ns(utc_ns: np.ndarray, zone: str) -> np.ndarray:
    """Wall-clock nanoseconds by pandas: an oracle that shares no code with the module."""
    base, plus, hours = zone.partition("+")
    wall = pd.DatetimeIndex(utc_ns, tz="UTC").tz_convert(base).tz_localize(None).as_unit("ns").asi8
    return wall + (int(hours[:2]) * 60 * MINUTE_NS if plus else 0)


def table(
    opens: np.ndarray,
    volume: object,
    *,
    zone: str = "UTC",
    stamp: Stamp = "open",
    interval_min: int = 5,
    claim: ClockClaim = UNKNOWN,
    kind: Literal["contracts", "ticks", "none"] = "contracts",
) -> FileRows:
    """A table of bars whose opens are known, written in a zone with a stamp."""
    n = len(opens)
    return FileRows(
        file=Path("bars.csv"),
        label="bars.csv",
        dialect="CSV",
        dialect_why="",
        claim=claim,
        time_ns=local_ns(opens + (interval_min * MINUTE_NS if stamp == "close" else 0), zone),
        time_text=str,
        prices=np.full((n, 4), 5000.0),
        volume=np.asarray(volume, dtype=np.float64),
        volume_kind=kind,
        instrument=np.full(n, -1, dtype=np.int32),
        instrument_names=(),
        file_instrument=None,
        notes=(),
    )


def month(start: date = date(2025, 2, 24), days: int = 28, interval_min: int = 5) -> Source:
    source = synthetic_source(interval_min, start)
    return shaped(source, days, pd.Timestamp(start).value - DAY_NS // 4, "whole", seed=0)


def read_right(rows: FileRows, opens: np.ndarray, interval_min: int = 5, **options: str) -> str:
    """The words of a reading that gives back the opens."""
    reading = measure_clock([rows], **options)  # type: ignore[arg-type]
    assert utc_opens(rows, reading, interval_min * MINUTE_NS).tolist() == opens.tolist()
    return reading.words


@pytest.mark.parametrize("stamp", ["open", "close"])
@pytest.mark.parametrize("interval_min", [1, 5])
@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "America/Chicago", "Asia/Kolkata", "Australia/Sydney"])
def test_seventeen_bars_around_the_break_and_the_open_show_their_clock(zone, interval_min, stamp):
    opens = twin_opens(interval_min)
    rows = table(opens, TWIN_VOLUME, zone=zone, stamp=stamp, interval_min=interval_min)
    words = read_right(rows, opens, interval_min)
    assert f"read as {zone}, stamps at the bar's {stamp}: 0 of 17 bars fall into closed hours, volume x8.4" in words


def test_what_decides_is_said():
    opens, promise = twin_opens(5), ClockClaim(False, "America/Chicago", "close", "TradeStation writes exchange time")
    rows = table(opens, TWIN_VOLUME, zone="America/Chicago", stamp="close", claim=promise)
    assert measure_clock([rows]).decided_by == "bars"
    silent = replace(rows, volume=np.zeros(17), volume_kind="none")
    reading = measure_clock([silent])
    assert reading.decided_by == "dialect"
    assert "TradeStation writes exchange time, and the bars do not contradict it" in reading.words
    instants = table(opens, TWIN_VOLUME, stamp="close", claim=INSTANT)
    reading = measure_clock([instants])
    assert (reading.decided_by, reading.stamp) == ("offsets", "close")
    assert reading.words.startswith("times carry their offset, stamps at the bar's close")


def test_a_short_file_without_volume_or_promise_is_asked_about_with_the_options():
    rows = table(twin_opens(5), np.zeros(17), zone="America/New_York", kind="none")
    with pytest.raises(BarDataError, match=r"do not show which clock") as caught:
        measure_clock([rows])
    assert "--timezone America/New_York --stamp open (0 of 17 bars" in str(caught.value)
    assert "data.timezone, data.stamp" in str(caught.value)
    read_right(rows, twin_opens(5), zone="America/New_York", stamp="open")


def test_a_step_that_comes_a_bar_late_is_asked_about_with_the_reading_whose_hours_fit():
    opens = np.append(twin_opens(5), pd.Timestamp("2025-11-04 16:00").value + np.arange(4) * 5 * MINUTE_NS)
    volume = (*TWIN_VOLUME[:12], 1600, *TWIN_VOLUME[12:16], 3000, 3000, 3000, 3000)
    with pytest.raises(BarDataError, match="do not show which clock") as caught:
        measure_clock([table(opens, volume, zone="America/Chicago")])
    for stamp, closed in (("open", 0), ("close", 1)):
        assert f"--timezone America/Chicago --stamp {stamp} ({closed} of 21 bars" in str(caught.value)


def test_tick_counts_prove_no_cash_open():
    rows = table(twin_opens(5), TWIN_VOLUME, zone="America/New_York+07:00", kind="ticks")
    with pytest.raises(BarDataError, match=r"--timezone"):
        measure_clock([rows])
    read_right(rows, twin_opens(5), zone="America/New_York+07:00", stamp="open")


def test_bars_overrule_a_promise_and_that_is_said():
    promise = ClockClaim(False, "UTC", "close", "this dialect is in UTC and stamps closes")
    bars = month()
    words = read_right(table(bars.open_ns, bars.volume, zone="America/Chicago", claim=promise), bars.open_ns)
    assert words.endswith("; the bars contradict what was expected (this dialect is in UTC and stamps closes)")


def test_local_times_labelled_utc_are_found_out():
    bars = month()
    words = read_right(table(bars.open_ns, bars.volume, zone="America/New_York", claim=INSTANT), bars.open_ns)
    assert words.startswith("read as America/New_York, stamps at the bar's open")
    assert "the bars contradict what was expected (its times end in Z)" in words


def test_a_short_file_that_contradicts_its_promise_is_asked_about_with_both():
    promise = ClockClaim(False, "America/New_York", "open", "New York is usual here")
    rows = table(twin_opens(1), TWIN_VOLUME, zone="UTC", stamp="close", interval_min=1, claim=promise)
    with pytest.raises(BarDataError) as caught:
        measure_clock([rows])
    for candidate in ("--timezone America/New_York --stamp open", "--timezone UTC --stamp close"):
        assert candidate in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"zone": "UTC", "stamp": "open"}, {"stamp": "close"}, {"zone": "Asia/Tokyo"}],
)
def test_options_that_the_bars_contradict_are_refused_with_the_right_ones(options):
    bars = month()
    rows = table(bars.open_ns, bars.volume, zone="America/New_York")
    with pytest.raises(BarDataError, match=r"the bars contradict --(timezone|stamp)") as caught:
        measure_clock([rows], **options)
    assert "They fit --timezone America/New_York --stamp open: 0 of" in str(caught.value)


def test_a_zone_given_for_times_with_an_offset_is_not_needed():
    bars = month()
    words = read_right(table(bars.open_ns, bars.volume, claim=INSTANT), bars.open_ns, zone="America/New_York")
    assert words.startswith("times carry their offset")


@pytest.mark.parametrize("name", ["America/Chicag", "Nowhere", "America/New_York+99:00", ""])
def test_an_unknown_zone_is_refused_with_the_forms_and_the_nearest(name):
    with pytest.raises(ConfigError, match=r"give an IANA name such as America/Chicago") as caught:
        measure_clock([table(twin_opens(5), TWIN_VOLUME)], zone=name)
    assert ("Did you mean America/Chicago" in str(caught.value)) == (name == "America/Chicag")


def test_a_clock_that_changes_inside_the_file_is_refused_with_the_weeks():
    opens = np.array(
        [f"2025-04-28 {t}" for t in ("11:58", "12:28", "12:29", "12:30", "12:31", "19:58", "19:59", "21:00", "21:01")]
        + [
            f"2025-05-07 {t}" for t in ("12:58", "13:28", "13:29", "13:30", "13:31", "20:58", "20:59", "22:00", "22:01")
        ],
        dtype="datetime64[ns]",
    ).astype(np.int64)
    volume = (900, 1100, 1200, 15000, 12000, 900, 1500, 900, 700) * 2
    promise = ClockClaim(False, "UTC", "close", "NinjaTrader exports UTC and stamps closes")
    for claim in (promise, UNKNOWN):
        with pytest.raises(BarDataError, match=r"60 minutes earlier than that \(weeks of 2025-04-28\)"):
            measure_clock([table(opens, volume, stamp="close", interval_min=1, claim=claim)])


@pytest.mark.parametrize("weeks", [1, 3])
@pytest.mark.parametrize("shape", ["whole", "cash only"])
def test_weeks_in_which_daylight_saving_was_forgotten_are_named(weeks, shape):
    start = date(2025, 2, 24)
    bars = shaped(synthetic_source(5, start), 84, pd.Timestamp(start).value - DAY_NS // 4, shape, seed=0)
    off = (bars.open_ns >= pd.Timestamp("2025-03-30 20:00").value) & (
        bars.open_ns < pd.Timestamp("2025-03-30 20:00").value + weeks * 7 * DAY_NS
    )
    rows = table(bars.open_ns, bars.volume, zone="America/Chicago")
    rows = replace(rows, time_ns=rows.time_ns - np.where(off, 60 * MINUTE_NS, 0))
    for options in ({}, {"zone": "America/Chicago", "stamp": "open"}):
        with pytest.raises(BarDataError, match=r"clock of its times changes inside the file") as caught:
            measure_clock([rows], **options)
        mondays = [str(date(2025, 3, 31 + 7 * k) if k == 0 else date(2025, 4, 7 * k)) for k in range(weeks)]
        assert f"in {weeks} week{'s' if weeks > 1 else ''} the times are 60 minutes earlier" in str(caught.value)
        assert f"(weeks of {', '.join(mondays)})" in str(caught.value)


def test_a_file_pasted_together_from_two_clocks_is_refused():
    bars = month(date(2025, 2, 24), 56)
    later = bars.open_ns >= pd.Timestamp("2025-04-06 20:00").value
    wall = np.where(later, local_ns(bars.open_ns, "UTC"), local_ns(bars.open_ns, "America/Chicago"))
    rows = replace(table(bars.open_ns, bars.volume), time_ns=wall)
    with pytest.raises(BarDataError, match=r"300 minutes later than that \(weeks of 2025-04-07, 2025-04-14\)"):
        measure_clock([rows])


def test_one_option_leaves_the_other_to_the_dialect():
    promise = ClockClaim(False, "America/Chicago", None, "exchange time")
    silent = table(twin_opens(5), np.zeros(17), zone="America/Chicago", stamp="close", claim=promise, kind="none")
    with pytest.raises(BarDataError, match=r"--timezone America/Chicago --stamp close"):
        measure_clock([silent])
    assert "America/Chicago" in read_right(silent, twin_opens(5), stamp="close")
    promise = ClockClaim(False, None, "close", "stamps closes")
    silent = replace(silent, claim=promise)
    assert "America/Chicago" in read_right(silent, twin_opens(5), zone="America/Chicago")


def test_a_fixed_offset_is_told_from_the_zone_it_equals_in_winter():
    bars = month(date(2025, 2, 24), 56)  # summer time begins on 2025-03-09
    fixed = table(bars.open_ns, bars.volume)
    fixed = replace(fixed, time_ns=bars.open_ns - 5 * 60 * MINUTE_NS)
    assert read_right(fixed, bars.open_ns).startswith("read as UTC-05:00")
    words = read_right(table(bars.open_ns, bars.volume, zone="America/New_York"), bars.open_ns)
    assert words.startswith("read as America/New_York,")
    broker = table(bars.open_ns, bars.volume, zone="America/New_York+07:00")
    assert read_right(broker, bars.open_ns).startswith("read as America/New_York+07:00")
    assert read_right(table(bars.open_ns, bars.volume, zone="Europe/Athens"), bars.open_ns)


@pytest.mark.parametrize(("first", "last_minute"), [(date(2010, 5, 3), 1050), (date(2014, 5, 5), 1035)])
def test_hours_of_earlier_years_are_known(first, last_minute):
    schedule = calendar_schedule(first, date(first.year, 6, 11))
    opens = np.concatenate(
        [np.arange(a, b, MINUTE_NS) for a, b in zip(schedule.open_ns, schedule.late_end_ns, strict=True)]
    )
    local = pd.DatetimeIndex(opens, tz="UTC").tz_convert("America/New_York")
    minute = local.hour.to_numpy() * 60 + local.minute.to_numpy()
    late = minute[(minute >= 1020) & (minute < 1080)]
    assert late.max() == last_minute - 1
    assert late.size > 300
    volume = np.where((minute >= 570) & (minute < 960), 4000.0, 500.0)
    for stamp in ("open", "close"):
        rows = table(opens, volume, zone="America/Chicago", stamp=stamp, interval_min=1)  # type: ignore[arg-type]
        assert "0 of" in read_right(rows, opens, 1)


def test_bars_filled_in_without_a_trade_do_not_hide_the_break():
    bars = month()
    every = np.arange(bars.open_ns[0], bars.open_ns[-1] + 1, 5 * MINUTE_NS)
    volume = np.zeros(len(every))
    volume[np.searchsorted(every, bars.open_ns)] = bars.volume
    assert "America/Chicago" in read_right(table(every, volume, zone="America/Chicago"), every)


def test_a_print_after_every_close_is_asked_about_and_the_option_is_believed():
    bars = month()
    closes = calendar_schedule(date(2025, 2, 25), date(2025, 3, 21)).close_ns
    opens = np.sort(np.concatenate((bars.open_ns, closes)))
    volume = np.full(len(opens), 3.0)
    volume[np.searchsorted(opens, bars.open_ns)] = bars.volume
    rows = table(opens, volume, zone="America/Chicago")
    with pytest.raises(BarDataError, match=r"--timezone America/Chicago --stamp open \(19 of"):
        measure_clock([rows])
    read_right(rows, opens, zone="America/Chicago", stamp="open")


def test_bars_around_the_clock_fit_no_zone():
    opens = pd.Timestamp("2025-02-24").value + np.arange(28 * 288) * 5 * MINUTE_NS
    volume = np.random.default_rng(0).integers(1, 100, len(opens))
    with pytest.raises(BarDataError, match="no time zone fits its times"):
        measure_clock([table(opens, volume)])


def test_rows_without_a_readable_time_stay_so_and_none_at_all_is_an_error():
    opens = twin_opens(5)
    rows = table(opens, TWIN_VOLUME, stamp="close")
    rows = replace(rows, time_ns=np.append(rows.time_ns, NO_TIME), volume=np.append(rows.volume, 1.0))
    reading = measure_clock([rows])
    assert utc_opens(rows, reading, 5 * MINUTE_NS).tolist() == [*opens.tolist(), NO_TIME]
    with pytest.raises(BarDataError, match="none of its rows has a readable time"):
        measure_clock([replace(rows, time_ns=np.full(18, NO_TIME))])


def test_damaged_rows_do_not_hide_the_clock():
    bars = month()
    rows = table(bars.open_ns, bars.volume, zone="America/Chicago")
    times, volume = rows.time_ns.copy(), rows.volume.copy()
    times[7], times[11], times[13] = pd.Timestamp("1981-01-01").value, pd.Timestamp("2099-12-31").value, NO_TIME
    volume[[3, 4, 5, 6]] = np.nan, np.inf, -5.0, 1e300
    reading = measure_clock([replace(rows, time_ns=times, volume=volume)])
    assert (reading.zone, reading.stamp, reading.chosen.closed) == ("America/Chicago", "open", 0)


def test_tables_of_one_claim_are_measured_together():
    opens = twin_opens(5)
    parts = [table(opens[k], np.array(TWIN_VOLUME)[k], zone="America/Chicago") for k in (slice(0, 9), slice(9, 17))]
    assert measure_clock(parts).zone == "America/Chicago"


def test_files_of_different_clocks_are_refused_with_the_clock_of_each():
    source = month()
    half = len(source.open_ns) // 2
    parts = [
        replace(table(source.open_ns[rows], source.volume[rows], zone=zone), label=label)
        for rows, zone, label in (
            (slice(0, half), "America/New_York", "a.csv"),
            (slice(half, None), "Europe/Berlin", "b.csv"),
        )
    ]
    with pytest.raises(BarDataError, match="files do not share one clock") as caught:
        measure_clock(parts)
    assert "a.csv reads as America/New_York with stamps at the bar's open" in str(caught.value)
    assert "b.csv reads as Europe/Berlin with stamps at the bar's open" in str(caught.value)


ZONE_NAMES = sorted(zone.name for zone in every_zone())


@given(
    zone=st.sampled_from(ZONE_NAMES),
    stamp=st.sampled_from(["open", "close"]),
    interval_min=st.sampled_from([1, 5, 15]),
    start=st.sampled_from([date(2013, 2, 11), date(2025, 2, 24)]),
    first=st.integers(0, 80 * 1440),
    days=st.sampled_from([1, 2, 3, 5, 10, 20]),
    hours=st.sampled_from(["all", "cash", "night", "window"]),
    window=st.tuples(st.integers(0, 23), st.integers(2, 20)),
    missing=st.sampled_from([0.0, 0.0, 0.3, 0.9]),
    volume=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_no_file_is_silently_misread(zone, stamp, interval_min, start, first, days, hours, window, missing, volume):
    source = synthetic_source(interval_min, start)
    begin = source.open_ns[0] + first * MINUTE_NS
    keep = (source.open_ns >= begin) & (source.open_ns < begin + days * DAY_NS)
    local = pd.DatetimeIndex(source.open_ns, tz="UTC").tz_convert("America/New_York")
    minute = local.hour.to_numpy() * 60 + local.minute.to_numpy()
    keep &= np.random.default_rng(first).random(len(keep)) >= missing
    if hours == "cash":
        keep &= (minute >= 570) & (minute < 960)
    elif hours == "night":
        keep &= (minute < 570) | (minute >= 1080)
    elif hours == "window":
        keep &= (minute - 60 * window[0]) % 1440 < 60 * window[1]
    opens = source.open_ns[keep]
    if len(opens) < 3:
        return
    written = parse_zone(zone)
    stamped = opens + (interval_min * MINUTE_NS if stamp == "close" else 0)
    wall = pd.DatetimeIndex(stamped, tz="UTC").tz_convert(written.base).tz_localize(None).as_unit("ns").asi8
    rows = table(opens, source.volume[keep] * volume, kind="contracts" if volume else "none")
    rows = replace(rows, time_ns=wall + written.shift_min * MINUTE_NS)
    try:
        reading = measure_clock([rows], interval_ns=interval_min * MINUTE_NS)
    except BarDataError:
        return
    assert utc_opens(rows, reading, interval_min * MINUTE_NS).tolist() == opens.tolist(), reading.words


@given(
    zone=st.sampled_from(ZONE_NAMES),
    first=st.integers(pd.Timestamp("2006-01-01").value // MINUTE_NS, pd.Timestamp("2026-06-01").value // MINUTE_NS),
)
@settings(max_examples=25, deadline=None)
def test_wall_times_of_a_quarter_of_a_year_come_back_as_the_instants_they_were(zone, first):
    instants = (first + 15 * np.arange(4 * 24 * 95)) * MINUTE_NS
    written = parse_zone(zone)
    local = pd.DatetimeIndex(instants, tz="UTC").tz_convert(written.base).tz_localize(None).as_unit("ns").asi8
    assert wall_to_utc(local + written.shift_min * MINUTE_NS, written).tolist() == instants.tolist()


def test_times_that_a_clock_skips_are_no_times():
    skipped = pd.Timestamp("2025-03-09 02:30").value
    assert wall_to_utc(np.array([skipped]), parse_zone("America/New_York")).tolist() == [NO_TIME]


def test_real_bars_in_other_zones_are_read_right(shared_data):
    bars = pd.read_parquet(shared_data / "NQ_5m_2024_2026_ibkr.parquet", columns=["datetime", "volume"])
    opens = pd.DatetimeIndex(bars["datetime"]).as_unit("ns").asi8
    for zone, stamp in (("Europe/Berlin", "open"), ("Asia/Kolkata", "close"), ("America/Chicago", "open")):
        words = read_right(table(opens, bars["volume"], zone=zone, stamp=stamp), opens)  # type: ignore[arg-type]
        assert f"read as {zone}, stamps at the bar's {stamp}: 0 of 134,756" in words
    lean = pd.read_csv(shared_data / "ES_1m_lean_all_contracts.csv", parse_dates=["datetime"])
    opens = pd.DatetimeIndex(lean["datetime"]).as_unit("ns").asi8
    rows = table(opens, lean["volume"], zone="Australia/Sydney", stamp="close", interval_min=1)
    assert "Australia/Sydney" in read_right(rows, opens, 1)


def test_releases_at_the_end_of_a_file_of_nights_are_not_taken_for_the_cash_open():
    bars = month(days=14)
    local = pd.DatetimeIndex(bars.open_ns, tz="UTC").tz_convert("America/New_York")
    minute = local.hour.to_numpy() * 60 + local.minute.to_numpy()
    night = (minute < 570) | (minute >= 1080)
    volume = np.where((minute >= 510) & (minute < 570), 6.0, 1.0) * bars.volume
    with pytest.raises(BarDataError, match="--timezone America/Chicago --stamp open"):
        measure_clock([table(bars.open_ns[night], volume[night], zone="America/Chicago")])


def test_more_is_asked_where_few_bars_follow_one_another():
    opens, volume = twin_opens(5), np.array(TWIN_VOLUME)
    # The same evidence, but most bars stand alone in the night between.
    alone = pd.Timestamp("2025-11-04 01:30").value + np.cumsum(np.tile([10, 20, 35], 10)) * MINUTE_NS
    opens, volume = np.append(opens, alone), np.append(volume, np.full(len(alone), 500))
    order = np.argsort(opens)
    with pytest.raises(BarDataError, match="do not show which clock"):
        measure_clock([table(opens[order], volume[order], zone="America/Chicago")], interval_ns=5 * MINUTE_NS)
