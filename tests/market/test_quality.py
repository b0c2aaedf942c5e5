"""What is said about the quality of bars: every planted fault is found in its place, by counting in another way."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.files import plain_json
from src.market.bars import Bars, make_bars
from src.market.coverage import HOURS, coverage_of, weekdays
from src.market.files.reading import Candidate, ClockReading, Finding, MarketReading, Reading, Roll
from src.market.load import build_tables, load_market
from src.market.quality import quality_facts, recurring_words
from src.market.sessions import Schedule, calendar_schedule, place_in_sessions
from src.market.settings import DataSettings
from src.market.tables import MarketTables
from src.report.model.bars import Bars as BarsOfReport
from src.report.model.bars import LeftOut, Quality
from src.report.quality_words import by_reason, quality_lines
from tests.market.bar_makers import bar_table, schedule_from, scheduled_slots, walk_bars, write_csv

NEW_YORK = ZoneInfo("America/New_York")
MINUTE = 60_000_000_000
SESSIONS = 40
SLOTS = scheduled_slots(SESSIONS, 15)
SETTINGS = DataSettings()


def clock(open_ns: int) -> datetime:
    return datetime.fromtimestamp(open_ns / 1e9, NEW_YORK)


def trade_date(open_ns: int) -> date:
    """The date of a session that opens at 18:00 the evening before."""
    return (clock(open_ns) + timedelta(hours=6)).date()


DATES = [trade_date(slot) for slot in SLOTS.tolist()]
CLOCKS = [clock(slot) for slot in SLOTS.tolist()]
SCHEDULE = schedule_from(SESSIONS + 5)


def tables_of(bars: Bars) -> MarketTables:
    """Placed bars, with every session usable: features do not matter here."""
    placed, sessions = place_in_sessions(bars, "globex", SCHEDULE)
    return SimpleNamespace(bars=placed, sessions=sessions)  # type: ignore[return-value]


def facts(bars: Bars) -> dict[str, Any]:
    return quality_facts(tables_of(bars), 2)


def walk(slots: np.ndarray, **changed: Any) -> Bars:
    return walk_bars(slots, interval_min=15, **changed)


def changed(bars: Bars, **columns: Any) -> Bars:
    return make_bars(
        market=bars.market, interval_s=bars.interval_s, source=bars.source, open_ns=bars.open_ns,
        **{name: columns.get(name, getattr(bars, name)) for name in ("open", "high", "low", "close", "volume")},
        contract=bars.contract, contract_names=bars.contract_names, repairs=columns.get("repairs"),
        reading=columns.get("reading"),
    )  # fmt: skip


def kinds(found: dict[str, Any]) -> dict[str, tuple[str, int]]:
    return {finding["kind"]: (finding["verdict"], finding["count"]) for finding in found["findings"]}


def test_whole_bars_have_nothing_to_report() -> None:
    found = facts(walk(SLOTS))
    assert found["findings"] == []
    assert found["coverage"]["frac"] == 1.0
    assert found["coverage"]["present"] == found["coverage"]["scheduled"] == len(SLOTS)
    assert found["sessions"] == {
        "found": SESSIONS, "usable": SESSIONS, "first": "2024-06-03", "last": found["sessions"]["last"], "left_out": []
    }  # fmt: skip
    assert found["holes"] == {"count": 0, "bars": 0, "sessions": 0, "listed": [], "recurring": []}


@settings(max_examples=40)
@given(st.sets(st.integers(0, len(SLOTS) - 1), max_size=300), st.integers(0, SESSIONS - 1))
def test_coverage_counts_the_bars_that_are_there_hour_by_hour(dropped: set[int], absent: int) -> None:
    gone = sorted(set(DATES))[absent]
    kept = [k for k in range(len(SLOTS)) if k not in dropped and DATES[k] != gone]
    tables = tables_of(walk(SLOTS[kept]))
    missing = np.isin(SCHEDULE.date, tables.sessions.missing_dates)
    names = [column.name for column in fields(Schedule)]
    coverage = coverage_of(
        tables.bars, tables.sessions, Schedule(**{name: getattr(SCHEDULE, name)[missing] for name in names})
    )
    days = coverage.date.tolist()
    here = [k for k in range(len(SLOTS)) if days[0] <= DATES[k] <= days[-1]]
    for array, indices in ((coverage.present, kept), (coverage.scheduled, here)):
        wanted = Counter((DATES[k], (CLOCKS[k].hour - 18) % 24) for k in indices)
        found = {(days[i], hour): int(array[i, hour]) for i, hour in np.argwhere(array).tolist()}
        assert found == wanted
    shown = coverage.to_dict()
    assert shown["unit"] == "session"
    assert shown["periods"] == [str(day) for day in days]
    assert len(shown["hours"]) == HOURS - 1
    row, column = shown["hours"].index("09:00"), min(absent, len(days) - 1)
    want = {k for k in here if DATES[k] == days[column] and CLOCKS[k].hour == 9}
    assert shown["by_period"][row][column] == pytest.approx(len(want & set(kept)) / len(want), abs=6e-4)


def test_a_map_of_many_sessions_is_by_week_and_of_more_by_month_and_never_large() -> None:
    for years, unit, most in ((1, "week", 54), (15, "month", 181)):
        slots = scheduled_slots(250 * years, 15, date(2010, 1, 4))
        placed, sessions = place_in_sessions(walk(slots), "globex", schedule_from(250 * years + 5, date(2010, 1, 4)))
        shown = coverage_of(placed, sessions).to_dict()
        assert shown["unit"] == unit
        assert len(shown["periods"]) <= most
        assert shown["by_weekday"][0] == [1.0] * 5


def test_weekdays_are_those_of_the_calendar() -> None:
    days = np.arange("2024-01-01", "2024-03-01", dtype="datetime64[D]")
    assert weekdays(days).tolist() == [day.weekday() for day in days.tolist()]


def test_half_days_and_halts_are_not_missing() -> None:
    # In 2019 trading paused from 16:15 to 16:30 New York; 2024-07-03 closed at 13:15.
    for start, n in ((date(2019, 7, 1), 4), (date(2024, 7, 1), 4)):
        schedule = calendar_schedule(start, start + timedelta(days=12))
        slots = np.concatenate(
            [
                slots[(slots < schedule.halt_start_ns[k]) | (slots >= schedule.halt_end_ns[k])]
                for k in range(n)
                for slots in [np.arange(schedule.open_ns[k], schedule.close_ns[k], 5 * MINUTE)]
            ]
        )
        placed, sessions = place_in_sessions(walk_bars(slots), "globex", schedule)
        shown = coverage_of(placed, sessions).to_dict()
        assert (shown["present"], shown["frac"]) == (len(slots), 1.0)


# ---------------------------------------------------------------- holes


def without(gone: Any) -> np.ndarray:
    """The slots for which `gone(trade date, New York clock)` does not hold."""
    return SLOTS[[k for k in range(len(SLOTS)) if not gone(DATES[k], CLOCKS[k])]]


def test_a_hole_has_its_date_its_first_missing_bar_and_its_length() -> None:
    day = date(2024, 6, 12)
    found = facts(walk(without(lambda trade, at: trade == day and at.hour in (10, 11))))
    assert found["holes"]["listed"] == [
        {"trade_date": "2024-06-12", "start": "2024-06-12 10:00", "bars": 8, "place": "inside"}
    ]
    assert kinds(found) == {"hole": ("tolerated", 1)}
    assert "Hole: 1 with 8 missing bars; 2024-06-12 10:00 New York, 8 bars, inside." in lines_of(found)


def test_bars_without_trades_are_no_hole() -> None:
    found = facts(walk(without(lambda trade, at: at.hour == 2 and at.minute < 30)))
    assert found["holes"]["count"] == 0
    assert found["coverage"]["frac"] < 1.0


def test_tuesdays_that_stop_early_are_said_as_such() -> None:
    early = without(lambda trade, at: trade.weekday() == 1 and (3, 45) < (at.hour, at.minute) < (18, 0))
    found = facts(walk(early))
    (hole,) = found["holes"]["recurring"]
    n = found["holes"]["count"]
    assert n == sum(day.weekday() == 1 for day in set(DATES))
    assert recurring_words(hole) == (
        f"{n} of {n} Tuesdays stop at 03:45 New York, 2024-06-04 to {hole['last']} (typically 52 bars are missing)"
    )
    assert found["coverage"]["by_weekday"][found["coverage"]["hours"].index("12:00")] == [1, 0, 1, 1, 1]
    assert any(line.startswith(f"Recurring hole: {n} of {n} Tuesdays stop at 03:45") for line in lines_of(found))


def test_the_last_bar_before_a_recurring_hole_may_differ_by_a_few_minutes() -> None:
    def gone(trade: date, at: datetime) -> bool:
        stop = (3, 45) if trade.day % 3 else (3, 30)
        return trade.weekday() == 3 and stop < (at.hour, at.minute) < (10, 0)

    (hole,) = facts(walk(without(gone)))["holes"]["recurring"]
    assert (hole["weekday"], hole["sessions"], hole["place"]) == ("Thursday", hole["of_sessions"], "inside")
    assert "have no bars after 03:45 until 10:00 New York" in recurring_words(hole)


def test_hours_that_a_file_never_has_are_one_hole_of_every_weekday() -> None:
    found = facts(walk(without(lambda trade, at: not (9, 30) <= (at.hour, at.minute) < (16, 0))))
    first, last = found["holes"]["recurring"]
    assert {hole["weekday"] for hole in (first, last)} == {"every weekday"}
    assert "sessions have no bar before 09:30 New York" in recurring_words(first)
    assert "sessions stop at 15:45 New York" in recurring_words(last)


@given(st.sets(st.integers(2, SESSIONS - 2), max_size=5), st.integers(0, 88))
@settings(max_examples=25)
def test_holes_here_and_there_do_not_recur(sessions: set[int], slot: int) -> None:
    days = sorted(set(DATES))
    spans = []
    for day in {days[k].weekday(): days[k] for k in sorted(sessions)}.values():  # one a weekday
        spans.append([k for k in range(len(SLOTS)) if DATES[k] == day][slot : slot + 3])
    dropped = {k for span in spans for k in span}
    found = facts(walk(SLOTS[[k for k in range(len(SLOTS)) if k not in dropped]]))
    assert found["holes"]["recurring"] == []
    assert found["holes"]["bars"] == sum(len(span) for span in spans if len(span) > 2)


def test_bars_without_trades_in_a_thin_night_make_holes_that_do_not_recur() -> None:
    slots = scheduled_slots(30, 1)
    hour = np.array([clock(slot).hour for slot in slots.tolist()])
    kept = (np.random.default_rng(3).random(len(slots)) < 0.35) | ((hour >= 9) & (hour < 16))
    found = facts(walk_bars(slots[kept], interval_min=1))
    assert found["holes"]["count"] > 2_000
    assert len(found["holes"]["listed"]) == 500
    assert found["holes"]["recurring"] == []
    assert max(map(len, lines_of(found))) < 500


def test_a_file_that_begins_and_ends_inside_a_session_has_no_hole_that_recurs() -> None:
    found = facts(walk(SLOTS[20:-20]))
    assert [hole["place"] for hole in found["holes"]["listed"]] == ["before the file begins", "after the file ends"]


def test_absent_trade_dates_are_listed() -> None:
    found = facts(walk(without(lambda trade, at: trade == date(2024, 6, 20))))
    assert found["absent_dates"] == ["2024-06-20"]
    assert kinds(found) == {"absent trade date": ("tolerated", 1)}
    assert "Absent: 1 trade date: 2024-06-20." in lines_of(found)


# ---------------------------------------------------------------- odd bars


def lines_of(found: dict[str, Any], *, synthetic: bool = False, brief: bool = False) -> list[str]:
    present = found["coverage"]["present"]
    bars = BarsOfReport(source="", synthetic=synthetic, fingerprint="", bars=present, interval_min=15)
    return quality_lines(bars, Quality.model_validate(plain_json(found)), brief=brief)


@pytest.mark.parametrize("kind", ["spike", "range", "jump"])
def test_an_odd_bar_is_found_and_kept(kind: str) -> None:
    bars = walk(SLOTS)
    columns = {name: getattr(bars, name).copy() for name in ("open", "high", "low", "close")}
    k = 1_000
    if kind == "spike":
        columns["high"][k] += 400
    elif kind == "range":
        columns["high"][k] += 400
        columns["close"][k] = columns["high"][k]
        for name in columns:
            columns[name][k + 1 :] += columns["close"][k] - bars.close[k]
    else:
        for name in columns:
            columns[name][k:] += 400
    found = facts(changed(bars, **columns))
    (odd,) = found["outliers"]["listed"]
    at = CLOCKS[k]
    assert (odd["kind"], odd["start"], odd["trade_date"]) == (
        kind, f"{at:%Y-%m-%d %H:%M}", str(DATES[k])
    )  # fmt: skip
    assert odd["points"] == pytest.approx(100, abs=5)
    assert odd["ratio"] == pytest.approx(odd["points"] / odd["usual_points"], abs=0.1)
    assert kinds(found) == {"outlier": ("tolerated", 1)}


def test_a_gap_between_sessions_is_no_outlier() -> None:
    bars = walk(SLOTS)
    later = tables_of(bars).bars.session_id >= 7
    columns = {name: getattr(bars, name) + 400 * later for name in ("open", "high", "low", "close")}
    assert facts(changed(bars, **columns))["outliers"]["count"] == 0


def test_stretches_without_volume_are_found_and_single_bars_counted() -> None:
    bars = walk(SLOTS)
    volume = bars.volume.copy()
    volume[500:507] = 0
    volume[[900, 1200, 1201]] = 0
    found = facts(changed(bars, volume=volume))
    start = CLOCKS[500]
    assert found["zero_volume"] == {
        "bars": 10, "stretches": 1, "sessions": 1,
        "listed": [{"trade_date": str(DATES[500]), "start": f"{start:%Y-%m-%d %H:%M}", "bars": 7}],
    }  # fmt: skip
    assert kinds(found) == {"stretch without volume": ("tolerated", 1)}


def test_a_file_without_any_volume_is_said_once() -> None:
    found = facts(changed(walk(SLOTS), volume=np.zeros(len(SLOTS))))
    assert kinds(found) == {"no volume": ("tolerated", len(SLOTS))}
    assert "Volume: the file has none." in lines_of(found)


def test_rolls_of_named_contracts_have_their_gap() -> None:
    bars = walk(SLOTS, contract=np.repeat([0, 1], [1_000, len(SLOTS) - 1_000]))
    found = facts(bars)
    gap = (int(bars.open[1_000]) - int(bars.close[999])) / 4
    assert found["rolls"] == [
        {"trade_date": str(DATES[1_000]), "before": "C0", "after": "C1", "gap_points": gap,
         "source": "contracts"}
    ]  # fmt: skip


# ---------------------------------------------------------------- what was read


READING = Reading(
    files=("ES.csv",),
    dialects=("Sierra Chart export, by its header",),
    clocks=(
        ClockReading(
            "America/Chicago", "open", "bars", Candidate("America/Chicago", "open", 5_688, 0, 3.4),
            (Candidate("America/Regina", "open", 5_688, 155, None),), "read as America/Chicago, stamps at the open",
        ),
    ),
    market=MarketReading("MES", "rows", (("NQZ5", 60),), "bars of MES serve ES"),
    rolls=(Roll("2024-06-10", "", "", -12.25, "found"),),
    findings=(Finding("off-tick price", "repaired", 2, "row 41 (t), row 97 (t)", "rounded to multiples of 0.25"),),
    notes=("volume is Up + Down",),
)  # fmt: skip


def test_what_the_file_was_taken_to_be_is_told_with_what_was_done() -> None:
    found = facts(changed(walk(SLOTS), reading=READING, repairs={"repeated row": 3}))
    assert found["rolls"] == [
        {"trade_date": "2024-06-10", "before": "", "after": "", "gap_points": -12.25, "source": "found"}
    ]
    assert found["reading"]["clocks"][0]["others"][0]["closed"] == 155
    assert found["reading"]["market"]["dropped"] == [{"name": "NQZ5", "rows": 60}]
    assert kinds(found) == {"off-tick price": ("repaired", 2), "repeated row": ("repaired", 3)}
    assert lines_of(found) == [
        f"Bars: {len(SLOTS):,} bars of 15 min, 2024-06-03 to 2024-07-26; all of the {len(SLOTS):,} that the CME "
        "calendar schedules.",
        "File: Sierra Chart export, by its header.",
        "Clock: read as America/Chicago, stamps at the open.",
        "Market: bars of MES serve ES.",
        "Note: volume is Up + Down.",
        f"Sessions: {SESSIONS} found, {SESSIONS} usable.",
        "Absent: no trade date.",
        "Holes: none inside a session.",
        "Volume: every bar has some.",
        "Outliers: none.",
        "Rolls: 1: 2024-06-10 -12.25 points.",
        "Repaired: 2 off-tick price: row 41 (t), row 97 (t); rounded to multiples of 0.25.",
        "Repaired: 3 repeated row; left out.",
    ]
    brief = lines_of(found, synthetic=True, brief=True)
    assert brief[0].startswith(f"Bars: {len(SLOTS):,} SYNTHETIC bars of 15 min")
    assert len(brief) == 9


def test_sessions_left_out_are_all_listed_and_a_dozen_shown(tmp_path: Path) -> None:
    gone = without(lambda trade, at: trade.day > 4 and (10, 0) <= (at.hour, at.minute) < (13, 0))
    file = write_csv(bar_table(walk(gone)), tmp_path / "ES.csv")
    tables = load_market(DataSettings(path=file), "ES", trading_hours="rth", seed=0)
    found = quality_facts(tables, 2)
    left_out = found["sessions"]["left_out"]
    assert len(left_out) == found["sessions"]["found"] - found["sessions"]["usable"] > 20
    assert all(re.fullmatch(r"a hole of 12 bars .*", entry["reason"]) for entry in left_out)
    (line,) = [line for line in lines_of(found) if line.startswith("Left out: ")]
    assert line.count("2024-") == 12
    assert line.endswith(f"and {len(left_out) - 12} more.")


def test_reasons_that_differ_in_a_number_are_one_line() -> None:
    reasons = {
        "2024-06-03": "a hole of 78 bars in the trading hours (at most 6)",
        "2024-06-04": "closes before the trading hours",
        "2024-06-05": "a hole of 7 bars in the trading hours (at most 6)",
        "2024-06-06": "a hole of 120 bars in the trading hours (at most 6)",
    }
    grouped = by_reason([LeftOut(date=day, reason=reason) for day, reason in reasons.items()])
    assert grouped == {
        "a hole of 7 to 120 bars in the trading hours (at most 6)": ["2024-06-03", "2024-06-05", "2024-06-06"],
        "closes before the trading hours": ["2024-06-04"],
    }


def test_the_bars_themselves_are_left_as_they_are() -> None:
    bars = replace(walk(SLOTS), reading=READING)
    tables = build_tables(bars, SETTINGS, trading_hours="rth")
    before = tables.bars.fingerprint
    quality_facts(tables, 2)
    assert tables.bars.reading is READING
    assert tables.bars.fingerprint == before


# ---------------------------------------------------------------- the real files


def real(shared_data: Path, file: str, market: str) -> dict[str, Any]:
    tables = load_market(DataSettings(path=shared_data / file), market, trading_hours="rth", seed=0)
    return quality_facts(tables, 2)


def test_the_real_nq_file_has_104_tuesdays_that_stop_at_0345(shared_data: Path) -> None:
    found = real(shared_data, "NQ_5m_2024_2026_ibkr.parquet", "NQ")
    (hole,) = found["holes"]["recurring"]
    assert recurring_words(hole).startswith("104 of 104 Tuesdays stop at 03:45 New York, 2024-02-13 to 2026-02-03")
    assert len(found["sessions"]["left_out"]) == 105
    assert len(found["rolls"]) == 9


def test_the_real_es_file_lacks_one_date_and_one_stretch_and_rolls_on_sundays(shared_data: Path) -> None:
    found = real(shared_data, "ES_5m_2024_2026_ibkr.parquet", "ES")
    assert found["absent_dates"] == ["2025-06-30"]
    assert [(hole["start"], hole["bars"]) for hole in found["holes"]["listed"]] == [("2025-11-27 21:50", 128)]
    gaps = [roll["gap_points"] for roll in found["rolls"]]
    assert (len(gaps), min(gaps), max(gaps)) == (9, 22.75, 74.25)
    assert {date.fromisoformat(roll["trade_date"]).weekday() for roll in found["rolls"]} == {0}
    assert found["coverage"]["scheduled"] - found["coverage"]["present"] == 128 + 276


@pytest.mark.parametrize("market", ["ES", "NQ", "YM"])
def test_the_real_minutes_of_2022_are_whole_but_for_martin_luther_king_day(shared_data: Path, market: str) -> None:
    found = real(shared_data, f"{market}_1m_2022_tradingview.csv", market)
    assert (found["holes"]["count"], found["absent_dates"], found["sessions"]["usable"]) == (0, [], 10)
    afternoon = found["coverage"]["by_period"][found["coverage"]["hours"].index("14:00")]
    assert afternoon[0] is None
    assert all(frac > 0.97 for frac in afternoon[1:])


def test_the_lean_file_of_scattered_days_says_how_little_it_covers(shared_data: Path) -> None:
    found = real(shared_data, "ES_1m_lean_all_contracts.csv", "ES")
    assert found["coverage"]["frac"] < 0.01
    assert len(found["absent_dates"]) > 1_500
    assert kinds(found)["outside the calendar"] == ("repaired", 193)
