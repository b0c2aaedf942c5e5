"""Longer bars from shorter ones, against a loop over rows that shares no code with it."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.errors import BarDataError
from src.market.bars import Bars, make_bars, select_bars
from src.market.files.resample import CUT_OFF, resampled
from src.market.load import load_bars, load_market
from src.market.sessions import OUTSIDE_CALENDAR, calendar_schedule, place_in_sessions
from src.market.settings import DataSettings
from tests.market.bar_makers import bar_table, scheduled_slots, walk_bars, write_csv

NEW_YORK = ZoneInfo("America/New_York")
MINUTE = 60_000_000_000
SCHEDULE = calendar_schedule(date(2020, 11, 23), date(2020, 12, 4))
"""Two weeks with a daily halt at 16:15 New York, Thanksgiving and the early close of the Friday after it."""


def moment(ns: int) -> datetime:
    return datetime.fromtimestamp(ns // 1_000_000_000, NEW_YORK)


def slot_by_clock(ns: int, minutes: int) -> int:
    """The bucket's open: whole buckets after the last 18:00 New York, by clock arithmetic alone."""
    clock = moment(ns)
    since = (clock.hour * 60 + clock.minute - 18 * 60) % (24 * 60)
    return ns - (since % minutes) * MINUTE


def by_hand(bars: Bars, minutes: int) -> tuple[list[tuple[int, ...]], int]:
    """Rows (time, open, high, low, close, volume, contract) and the bars cut off, one bar after another."""
    rows: list[list[int]] = []
    cut = members = 0
    for k in range(len(bars)):
        ns, contract = int(bars.open_ns[k]), int(bars.contract[k])
        slot = slot_by_clock(ns, minutes)
        prices = [int(getattr(bars, side)[k]) for side in ("open", "high", "low", "close")]
        volume = int(bars.volume[k])
        if rows and rows[-1][0] == slot and rows[-1][6] == contract:
            last = rows[-1]
            last[2:6] = [max(last[2], prices[1]), min(last[3], prices[2]), prices[3], last[5] + volume]
            members += 1
            continue
        if rows and rows[-1][0] == slot:
            cut += members
            rows.pop()
        rows.append([slot, *prices, volume, contract])
        members = 1
    return [tuple(row) for row in rows], cut


def rows_of(bars: Bars) -> list[tuple[int, ...]]:
    columns = (bars.open_ns, bars.open, bars.high, bars.low, bars.close, bars.volume, bars.contract)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.sampled_from([(1, 5), (1, 2), (1, 7), (1, 15), (2, 4), (3, 15), (5, 15), (5, 10), (7, 14)]),
    kept=st.sampled_from([1.0, 0.9, 0.3]),
    rolls=st.integers(0, 4),
)
def test_every_bucket_holds_its_bars_and_no_session_halt_or_roll_lies_inside_one(seed, lengths, kept, rolls):
    short, long = lengths
    rng = np.random.default_rng(seed)
    first = int(rng.integers(0, 5))
    slots = [np.arange(SCHEDULE.open_ns[k], SCHEDULE.close_ns[k], short * MINUTE) for k in range(first, first + 4)]
    times = np.concatenate(slots)
    halted = np.searchsorted(SCHEDULE.open_ns, times, side="right") - 1
    times = times[(times < SCHEDULE.halt_start_ns[halted]) | (times >= SCHEDULE.halt_end_ns[halted])]
    times = times[rng.random(len(times)) < kept]
    contract = np.searchsorted(np.sort(rng.integers(0, len(times), rolls)), np.arange(len(times)), side="right")
    bars = walk_bars(times, interval_min=short, seed=seed, contract=contract)
    longer = resampled(bars, long, SCHEDULE)
    rows, cut = by_hand(bars, long)
    assert rows_of(longer) == rows
    assert longer.interval_s == 60 * long
    assert longer.repairs.get(CUT_OFF, 0) == cut
    placed, sessions = place_in_sessions(longer, "globex", SCHEDULE)  # on the sessions' grids
    assert not placed.repairs.get(OUTSIDE_CALENDAR)
    assert (placed.open_ns >= sessions.open_ns[placed.session_id]).all()


def test_a_halt_shorter_than_the_bar_is_not_crossed():
    schedule = calendar_schedule(date(2020, 12, 1), date(2020, 12, 1))
    times = np.arange(schedule.open_ns[0], schedule.close_ns[0], MINUTE)
    halt = schedule.open_ns[0] + 62 * MINUTE
    short = replace(schedule, halt_start_ns=np.array([halt]), halt_end_ns=np.array([halt + 3 * MINUTE]))
    times = times[(times < halt) | (times >= halt + 3 * MINUTE)]
    bars = walk_bars(times, interval_min=1)
    longer = resampled(bars, 15, short)
    after = int(np.flatnonzero(bars.open_ns == halt + 3 * MINUTE)[0])
    bucket = int(np.flatnonzero(longer.open_ns == schedule.open_ns[0] + 60 * MINUTE)[0])
    assert longer.open[bucket] == bars.open[after], "only what follows the halt"
    assert longer.repairs[CUT_OFF] == 2


def test_bars_outside_the_calendar_are_left_for_the_count_of_those():
    saturday = int(datetime(2020, 11, 28, 12, tzinfo=NEW_YORK).timestamp()) * 10**9 + np.arange(3) * MINUTE
    inside = np.arange(SCHEDULE.open_ns[0], SCHEDULE.close_ns[0], MINUTE)
    bars = walk_bars(np.concatenate((inside, saturday)), interval_min=1)
    placed, _ = place_in_sessions(resampled(bars, 5, SCHEDULE), "globex", SCHEDULE)
    assert placed.repairs == {OUTSIDE_CALENDAR: 3}
    assert len(placed) == -(-len(inside) // 5)


def test_the_same_length_and_none_change_nothing():
    bars = walk_bars(scheduled_slots(1))
    assert resampled(bars, None) is bars
    assert resampled(bars, 5) is bars


def test_bars_off_the_session_s_grid_are_refused_as_without_resampling():
    bars = walk_bars(scheduled_slots(2, 2) + MINUTE, interval_min=2)
    with pytest.raises(BarDataError, match="off the 2-minute grid"):
        resampled(bars, 4)


def test_a_file_is_read_at_the_interval_asked_for_and_a_coarser_one_is_not_made_finer(tmp_path: Path):
    bars = walk_bars(scheduled_slots(3, 1), interval_min=1)
    path = write_csv(bar_table(bars), tmp_path / "ES.csv")
    longer = load_bars(path, "ES", interval_min=5)
    assert longer.interval_s == 300
    assert rows_of(longer) == by_hand(bars, 5)[0]
    tables = load_market(DataSettings(path=path, interval_min=15), "ES", trading_hours="rth", seed=0)
    assert (tables.bars.interval_s, len(tables.bars)) == (900, 3 * 92)
    five = write_csv(bar_table(walk_bars(scheduled_slots(3))), tmp_path / "ES_5.csv")
    with pytest.raises(BarDataError, match=r"--interval\) to 5, 10, 15"):
        load_bars(five, "ES", interval_min=1)


def test_resampled_bars_keep_what_is_known_of_the_file():
    bars = walk_bars(scheduled_slots(1, 1), interval_min=1)
    named = make_bars(
        market="ES", interval_s=60, source="a file", open_ns=bars.open_ns, open=bars.open, high=bars.high,
        low=bars.low, close=bars.close, volume=bars.volume, repairs={"negative volume": 2}, contract_names=("ESM4",),
    )  # fmt: skip
    longer = resampled(named, 5)
    assert (longer.market, longer.source, longer.contract_names) == ("ES", "a file", ("ESM4",))
    assert longer.repairs == {"negative volume": 2}
    part = select_bars(named, np.arange(7), session_id=np.zeros(7))
    assert len(resampled(part, 5)) == 2, "the last bar covers two minutes"
