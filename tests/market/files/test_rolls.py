"""Rolls of series that name no contracts: found at roll dates, not elsewhere; real ones as they were."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.market.bars import make_bars
from src.market.contracts import get_contract
from src.market.files.roll_calendar import expected_gap
from src.market.files.rolls import Series, find_rolls
from src.market.sessions import place_in_sessions, schedule_around, session_index
from src.market.tables import judge_sessions, run_starts
from tests.market.bar_makers import scheduled_slots

ES = get_contract("ES")
STEP = 300_000_000_000
SLOTS = scheduled_slots(60, start=date(2024, 7, 15))
"""To 2024-10-04: the roll of 2024-09, expiry on the 20th."""
SCHEDULE = schedule_around(SLOTS)
PLACE = session_index(SCHEDULE, SLOTS)
FIRST = np.flatnonzero(np.concatenate(([True], PLACE[1:] != PLACE[:-1])))
DAY = SCHEDULE.date[PLACE[FIRST]]
WINDOW = (np.datetime64("2024-09-06") <= DAY) & (np.datetime64("2024-09-24") >= DAY)


def series(seed=0, jumps=(), dry=None):
    """ticks int32[n, 4] of a walk that opens each session up to 0.1% from its last close; `jumps`: (row, ticks)."""
    rng = np.random.default_rng(seed)
    move = rng.integers(-3, 4, len(SLOTS))
    opening = np.zeros(len(SLOTS), dtype=np.int64)
    opening[FIRST[1:]] = rng.integers(-20, 21, len(FIRST) - 1)
    for row, size in jumps:
        opening[row] += size
    close = 22_000 + np.cumsum(move + opening)
    opened = close - move
    ticks = np.column_stack((opened, np.maximum(opened, close) + 1, np.minimum(opened, close) - 1, close)).astype(
        np.int32
    )
    volume = rng.integers(800, 1_200, len(SLOTS))
    return ticks, volume


def marks(ticks, volume=None):
    found = find_rolls(Series(SLOTS, ticks, ES, STEP, SCHEDULE), volume)
    return (np.flatnonzero(np.diff(found.contract)) + 1).tolist(), found


@settings(max_examples=30)
@given(
    seed=st.integers(0, 99), which=st.integers(0, int(WINDOW.sum()) - 1), size=st.integers(80, 400), up=st.booleans()
)
def test_a_roll_planted_at_a_session_s_edge_is_found_and_nothing_else_is(seed, which, size, up):
    row = int(FIRST[WINDOW][which])
    size = size if up else -size
    assert marks(series(seed, [(row, size)])[0])[0] == [row]


@settings(max_examples=30)
@given(seed=st.integers(0, 99), which=st.integers(1, int((~WINDOW).sum()) - 1), size=st.integers(-400, 400))
def test_a_jump_away_from_the_roll_dates_is_the_market_s_own(seed, which, size):
    row = int(FIRST[~WINDOW][which])
    found = marks(series(seed, [(row, size)])[0])
    assert found[0] == []
    assert found[1].contract_names == ()


def test_a_roll_that_is_too_small_to_see_is_said_not_guessed():
    rows, found = marks(series()[0])
    assert rows == []
    (finding,) = found.findings
    assert (finding.kind, finding.where) == ("undetected roll", "2024-09")


def test_a_contract_that_traders_have_left_shows_by_its_volume():
    ticks, volume = series()
    row = int(FIRST[WINDOW][8])
    before = int(FIRST[WINDOW][6])
    volume[before:row] //= 20
    assert marks(ticks, volume)[0] == [row]
    assert marks(ticks, None)[0] == []


def test_a_roll_inside_a_session_leaves_the_session_out_and_a_glitch_does_not():
    row = int(FIRST[WINDOW][3]) + 150
    ticks, volume = series(0, [(row, 220)])
    rows, found = marks(ticks, volume)
    assert rows == [row]
    bars = make_bars(
        market="ES", interval_s=300, source="made", open_ns=SLOTS, open=ticks[:, 0], high=ticks[:, 1], low=ticks[:, 2],
        close=ticks[:, 3], volume=volume, contract=found.contract, contract_names=found.contract_names,
    )  # fmt: skip
    bars, sessions = place_in_sessions(bars, "globex", SCHEDULE)
    runs = run_starts(bars, sessions, 2)
    judged = judge_sessions(bars, sessions, runs, warmup_bars=20, no_trade_bars=2, max_hole_bars=6)
    left_out = {str(judged.date[k]): judged.reason[k] for k in np.flatnonzero(~judged.usable)}
    assert left_out == {str(DAY[WINDOW][3]): "its contract changes inside the session"}
    assert runs[row] == row
    glitch, _ = series(0, [(row, 220), (row + 1, -220)])
    assert marks(glitch)[0] == []


@pytest.mark.parametrize(("symbol", "false"), [("ES", 8), ("NQ", 20)])
def test_every_real_roll_is_found_without_the_contract_column(shared_data, symbol, false):
    table = pd.read_parquet(shared_data / f"{symbol}_5m_2024_2026_ibkr.parquet")
    times = table["datetime"].dt.as_unit("ns").astype("int64").to_numpy()
    ticks = np.rint(table[["open", "high", "low", "close"]].to_numpy() / 0.25).astype(np.int32)
    true = set((np.flatnonzero(table["contract"].to_numpy()[1:] != table["contract"].to_numpy()[:-1]) + 1).tolist())
    series = Series(times, ticks, get_contract(symbol), STEP, schedule_around(times))
    found = find_rolls(series, table["volume"].to_numpy())
    marked = set((np.flatnonzero(np.diff(found.contract)) + 1).tolist())
    assert len(true) == 9
    assert true <= marked
    # NQ's sessions that stop at 03:45 open far from their last close every Tuesday.
    assert len(marked - true) < false
    assert (np.diff(times)[np.array(sorted(marked)) - 1] > 3_000_000_000_000).all(), "none inside a session"


def test_the_expected_gap_is_that_of_contracts_that_traded_at_once(shared_data):
    table = pd.read_csv(shared_data / "ES_1m_lean_all_contracts.csv")
    close = table.pivot(index="datetime", columns="contract", values="close")
    for near, far, year, month in (("ES201312", "ES201403", 2013, 12), ("ES201403", "ES201406", 2014, 3)):
        spread = float((close[far] / close[near] - 1).median())
        assert spread == pytest.approx(expected_gap("ES", year, month), abs=0.0015)
