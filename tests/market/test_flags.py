"""Runs, judged sessions and flags."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.market.bars import Bars
from src.market.flags import BREAK_AFTER, DECISION, END_AFTER, ENTRY_ALLOWED, FLAT_BAR
from src.market.sessions import Schedule, Sessions, calendar_schedule, place_in_sessions
from src.market.tables import bar_flags, judge_sessions, run_starts
from tests.market.bar_makers import schedule_from, scheduled_slots, walk_bars

WARMUP = 20
SLOTS = scheduled_slots(4)
PER_SESSION = 276
SCHEDULE = schedule_from(30, date(2024, 5, 20))


def derive(
    bars: Bars, hours: str = "rth", *, schedule: Schedule = SCHEDULE
) -> tuple[Bars, Sessions, np.ndarray, np.ndarray]:
    bars, sessions = place_in_sessions(bars, hours, schedule)
    runs = run_starts(bars, sessions, 2)
    sessions = judge_sessions(bars, sessions, runs, warmup_bars=WARMUP, no_trade_bars=2, max_hole_bars=6)
    return bars, sessions, runs, bar_flags(bars, sessions, runs, warmup_bars=WARMUP)


def without(*holes: tuple[int, int]) -> np.ndarray:
    """The slots of four sessions without [start, start + length) for each hole."""
    keep = np.ones(len(SLOTS), dtype=bool)
    for start, length in holes:
        keep[start : start + length] = False
    return SLOTS[keep]


holes = st.lists(st.tuples(st.integers(0, len(SLOTS) - 1), st.integers(1, 40)), max_size=6)
hours = st.sampled_from(["rth", "globex"])


def slow_run_starts(bars: Bars, sessions: Sessions, no_trade: int) -> list[int]:
    """Runs by walking over every scheduled slot from bar to bar."""
    scheduled = SLOTS.tolist()
    session_of_slot = [k // PER_SESSION for k in range(len(scheduled))]
    starts, begin = [], 0
    for t, when in enumerate(bars.open_ns.tolist()):
        if t:
            low, high = scheduled.index(int(bars.open_ns[t - 1])), scheduled.index(when)
            lacking = [session_of_slot[k] for k in range(low + 1, high)]
            worst = max((lacking.count(session) for session in set(lacking)), default=0)
            if worst > no_trade or bars.contract[t] != bars.contract[t - 1]:
                begin = t
        starts.append(begin)
    return starts


@settings(max_examples=60)
@given(holes=holes, no_trade=st.integers(0, 5), roll=st.integers(1, len(SLOTS) - 1))
def test_runs_equal_a_walk_over_every_scheduled_slot(holes, no_trade, roll):
    times = without(*holes)
    if len(times) == 0:
        return
    bars = walk_bars(times, contract=(times >= SLOTS[roll]).astype(np.int16))
    bars, sessions = place_in_sessions(bars, "globex", SCHEDULE)
    assert run_starts(bars, sessions, no_trade).tolist() == slow_run_starts(bars, sessions, no_trade)


@settings(max_examples=60)
@given(holes=holes, hours=hours, roll=st.integers(1, len(SLOTS) - 1))
def test_flags_keep_the_promises_that_accounts_rely_on(holes, hours, roll):
    times = without(*holes)
    if len(times) == 0:
        return
    bars, sessions, runs, flags = derive(walk_bars(times, contract=(times >= SLOTS[roll]).astype(np.int16)), hours)
    n, ids, step = len(bars), bars.session_id, bars.interval_ns
    for t in range(n):
        decision, last = bool(flags[t] & DECISION), t + 1 == n
        if decision:
            assert sessions.usable[ids[t]]
            assert sessions.trade_open_ns[ids[t]] <= bars.open_ns[t] + step <= sessions.flat_slot_ns[ids[t]]
        if decision and not flags[t] & END_AFTER:
            assert flags[t + 1] & DECISION
            assert ids[t + 1] == ids[t]
        if decision and flags[t] & END_AFTER:
            # The account is flat afterwards: at the flat bar's open, or at this close because nothing continues it.
            assert flags[t] & BREAK_AFTER or flags[t + 1] & FLAT_BAR
        if flags[t] & FLAT_BAR:
            assert not flags[t] & (DECISION | ENTRY_ALLOWED)
        if flags[t] & ENTRY_ALLOWED:
            assert t - runs[t] + 1 >= WARMUP
            assert bars.open_ns[t] + step < sessions.flat_slot_ns[ids[t]]
        if not flags[t] & BREAK_AFTER:
            assert not last
            assert runs[t + 1] == runs[t]
            assert ids[t + 1] == ids[t]
    for k in range(len(sessions)):
        first = sessions.first_decision[k]
        assert (first >= 0) == sessions.usable[k] == (sessions.reason[k] == "")
        if first >= 0:
            assert flags[first] & DECISION
            assert first - runs[first] + 1 >= WARMUP
            earlier = np.arange(sessions.first_bar[k], first)
            assert not any(flags[t] & DECISION and t - runs[t] + 1 >= WARMUP for t in earlier)


@settings(max_examples=40)
@given(holes=holes, hours=hours, cut=st.integers(1, len(SLOTS)))
def test_whether_entries_are_allowed_at_a_bar_does_not_depend_on_later_bars(holes, hours, cut):
    times = without(*holes)
    if len(times) == 0:
        return
    cut = min(cut, len(times))
    bars = walk_bars(times)
    whole = derive(bars, hours)
    prefix = derive(walk_bars(times[:cut]), hours)
    assert (prefix[2] == whole[2][:cut]).all()
    assert ((prefix[3] & ENTRY_ALLOWED) == (whole[3][:cut] & ENTRY_ALLOWED)).all()
    assert ((prefix[3] & FLAT_BAR) == (whole[3][:cut] & FLAT_BAR)).all()


def test_a_hole_is_not_anticipated_and_masks_entries_until_the_window_is_whole_again():
    start = PER_SESSION + 220  # 12:20 New York of the second session
    _, sessions, _, flags = derive(walk_bars(without((start, 5))))
    assert sessions.usable.all()
    assert flags[start - 1] & ENTRY_ALLOWED
    assert flags[start - 1] & BREAK_AFTER
    allowed = (flags[start : start + WARMUP] & ENTRY_ALLOWED).astype(bool).tolist()
    assert allowed == [False] * (WARMUP - 1) + [True]
    assert (flags[start : start + WARMUP] & DECISION).all()


@pytest.mark.parametrize(("length", "usable"), [(6, True), (7, False)])
def test_a_session_lacking_more_than_the_stated_bars_in_its_hours_is_left_out_with_the_reason(length, usable):
    _, sessions, _, flags = derive(walk_bars(without((PER_SESSION + 220, length))))
    assert sessions.usable.tolist() == [True, usable, True, True]
    if not usable:
        assert sessions.reason[1] == "a hole of 7 bars in the trading hours (at most 6)"
        assert not (flags[sessions.first_bar[1] : sessions.end_bar[1]] & DECISION).any()


def test_bars_without_trades_are_no_hole_however_many_pairs_of_them_there_are():
    pairs = [(PER_SESSION + 190 + 10 * k, 2) for k in range(6)]
    _, sessions, runs, _ = derive(walk_bars(without(*pairs)))
    assert sessions.usable.all()
    assert set(runs.tolist()) == {0}


def test_a_hole_outside_the_trading_hours_costs_no_session():
    _, rth, _, _ = derive(walk_bars(without((PER_SESSION + 20, 60))), "rth")
    _, globex, _, _ = derive(walk_bars(without((PER_SESSION + 20, 60))), "globex")
    assert rth.usable.tolist() == [True] * 4
    assert globex.usable.tolist() == [True, False, True, True]


def test_the_closed_time_between_sessions_is_no_hole_but_a_missing_session_is():
    _, _, runs, _ = derive(walk_bars(SLOTS))
    assert set(runs.tolist()) == {0}
    _, _, runs, _ = derive(walk_bars(without((PER_SESSION, PER_SESSION))))
    assert set(runs.tolist()) == {0, PER_SESSION}


def test_the_rth_bar_that_closes_at_half_past_nine_is_the_first_decision():
    bars, sessions, _, flags = derive(walk_bars(SLOTS), "rth")
    for k in range(4):
        first = sessions.first_decision[k]
        assert bars.open_ns[first] + bars.interval_ns == sessions.trade_open_ns[k]
        assert (flags[sessions.first_bar[k] : sessions.end_bar[k]] & DECISION).astype(bool).sum() == 78


def test_a_forced_exit_bar_without_trades_ends_the_session_at_the_close_before_it():
    flat = PER_SESSION + (22 * 60 - 5) // 5  # 15:55 New York of the second session
    bars, sessions, _, flags = derive(walk_bars(without((flat, 1))), "rth")
    assert bars.open_ns[flat - 1] + bars.interval_ns == sessions.flat_slot_ns[1]
    assert flags[flat - 1] & END_AFTER
    assert flags[flat - 1] & BREAK_AFTER


def test_the_afternoon_halt_before_june_2021_is_no_hole_and_the_same_gap_later_is_one():
    for start, expected in ((date(2021, 6, 21), 1), (date(2021, 6, 28), 4)):
        slots = scheduled_slots(3, 1, start)
        minute = np.arange(len(slots)) % 1380
        bars = walk_bars(slots[(minute < 1335) | (minute >= 1350)], interval_min=1)
        _, sessions, runs, _ = derive(bars, "globex", schedule=calendar_schedule(start, date(2021, 7, 5)))
        assert len(set(runs.tolist())) == expected
        assert sessions.usable.all() == (expected == 1)
