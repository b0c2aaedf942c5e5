"""Adjusted series by every sign of one, and what only looks like it."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import BarDataError
from src.market.contracts import get_contract
from src.market.files.adjusted import check_adjusted, off_tick
from src.market.files.joining import join_contracts
from tests.market.bar_makers import scheduled_slots
from tests.market.files.market_makers import at, checked_rows, file_rows

ES, NQ, YM, RTY = (get_contract(symbol) for symbol in ("ES", "NQ", "YM", "RTY"))
WALK = 6850 + 0.25 * np.cumsum(np.random.default_rng(0).integers(-3, 4, 400))


def refused(rows, contract, match):
    with pytest.raises(BarDataError, match=rf"an adjusted series: .*{match}.*data\.adjusted: accept"):
        check_adjusted(rows, contract, accept=False)
    (finding,) = check_adjusted(rows, contract, accept=True)
    assert finding.verdict == "tolerated"


@given(factor=st.floats(1.0003, 1.2), decimals=st.integers(2, 6))
def test_prices_that_were_multiplied_are_refused(factor, decimals):
    refused(file_rows(np.round(WALK * factor, decimals)), ES, "of 400 rows are off the tick of 0.25")


@given(offset=st.sampled_from([0.1, 0.13, 41.07, -3.0625]))
def test_a_constant_that_is_no_multiple_of_the_tick_is_named(offset):
    refused(file_rows(WALK + offset), ES, "a constant was added")


def test_a_series_of_which_only_the_older_contracts_are_adjusted_is_refused():
    close = WALK.copy()
    close[:200] = np.round(close[:200] * 1.0107, 2)
    refused(file_rows(close), ES, "of 400 rows are off the tick")


@pytest.mark.parametrize("off", [1, 3])
def test_a_handful_of_off_tick_rows_is_not_an_adjusted_series(off):
    close = WALK.copy()
    close[:: 400 // off][:off] += 0.1
    assert check_adjusted(file_rows(close), ES, accept=False) == ()
    assert check_adjusted(file_rows([6850.0] * 16 + [6850.1]), ES, accept=False) == ()


@pytest.mark.parametrize(("contract", "level"), [(ES, 6850.0), (NQ, 25480.0), (YM, 47000.0), (RTY, 2450.0)])
def test_float32_columns_and_prices_shown_with_one_decimal_are_not_off_tick(contract, level):
    tick = float(contract.tick_size)
    walk = level + tick * np.cumsum(np.random.default_rng(1).integers(-3, 4, (400, 4)), axis=0)
    assert off_tick(walk.astype(np.float32).astype(np.float64), contract) is None
    if contract in (ES, NQ):
        assert off_tick(np.floor(walk * 10 + 0.5) / 10, contract) is None
        assert off_tick(np.floor(walk * 10) / 10, contract) is None
        assert off_tick(np.round(walk * 1.01, 1), contract) is not None


def test_prices_of_zero_and_less_are_refused_but_a_damaged_row_is_not_this_fault():
    refused(file_rows(WALK - 6850), ES, "closes are zero or less")
    close = WALK.copy()
    close[7] = -1
    assert check_adjusted(file_rows(close), ES, accept=False) == ()


def test_prices_that_the_market_never_had_in_a_year_are_refused():
    days = np.arange(np.datetime64("2010-01-04"), np.datetime64("2020-01-01")).astype("datetime64[ns]").astype(np.int64)
    true = np.linspace(1130, 3230, len(days)).round()
    assert check_adjusted(file_rows(true, time_ns=days), ES, accept=False) == ()
    refused(
        file_rows(true + 700, time_ns=days),
        ES,
        r"closes are prices that never traded \(1,8\d\d.00 on 2010-01-04; ES traded at 1,011 to",
    )
    # True where it ends, off where it begins: as an adjustment backwards leaves it.
    refused(
        file_rows(true + np.linspace(700, 0, len(days)).round(), time_ns=days),
        ES,
        "closes are prices that never traded",
    )


@pytest.mark.parametrize("symbol", ["ES", "NQ"])
@pytest.mark.parametrize("kind", ["difference", "ratio"])
def test_real_bars_whose_gaps_were_taken_out_are_refused_and_as_they_are_accepted(shared_data, symbol, kind):
    table = pd.read_parquet(shared_data / f"{symbol}_5m_2024_2026_ibkr.parquet")
    times = table["datetime"].dt.as_unit("ns").astype("int64").to_numpy()
    prices = table[["open", "high", "low", "close"]].to_numpy()
    names = table["contract"].to_numpy()
    contract = get_contract(symbol)
    assert check_adjusted(file_rows(prices[:, 3], time_ns=times), contract, accept=False) == ()
    join_contracts([checked_rows(times, prices, table["volume"])], contract)
    adjusted = prices.copy()
    for row in np.flatnonzero(names[1:] != names[:-1]) + 1:
        if kind == "difference":
            adjusted[:row] += adjusted[row, 0] - adjusted[row - 1, 3]
        else:
            adjusted[:row] *= adjusted[row, 0] / adjusted[row - 1, 3]
    adjusted = np.round(adjusted * 4) / 4
    rows = checked_rows(times, adjusted, table["volume"])
    with pytest.raises(
        BarDataError, match=r"quarterly rolls from 2024-03 to 2026-03 show no gap.*data\.adjusted: accept"
    ):
        join_contracts([rows], contract)
    joined = join_contracts([rows], contract, accept_adjusted=True)
    assert any(finding.kind == "adjusted series" for finding in joined.findings)


@pytest.mark.parametrize(
    ("name", "adjusted"),
    [
        ("ES_full_5min_continuous_ratio_adjusted.txt", True), ("ES_1min_continuous_absolute_adjusted.txt", True),
        ("ES backadj.csv", True), ("ES-CCB.csv", True), ("ES_5min_continuous_UNadjusted.txt", False),
        ("ES_non_adjusted.csv", False), ("ES_nonadjusted_1m.csv", False), ("ES_adjacent.csv", False), ("ES.csv", False),
    ],
)  # fmt: skip
def test_a_name_that_says_adjusted_is_believed(name, adjusted):
    if adjusted:
        refused(file_rows(WALK, file=name), ES, "the file name says so")
    else:
        assert check_adjusted(file_rows(WALK, file=name), ES, accept=False) == ()


def test_a_hole_of_years_is_no_roll_without_a_gap():
    rng = np.random.default_rng(0)
    slots = np.concatenate([scheduled_slots(60, 15, start=date(year, 7, 11)) for year in (2011, 2024)])
    level = np.where(slots < at("2020-01-01"), 1250.0, 5500.0)
    opening = np.where(np.diff(slots, prepend=slots[0]) > 3_600_000_000_000, rng.integers(-40, 41, len(slots)) / 4, 0)
    close = level + np.cumsum(opening) + rng.integers(-2, 3, len(slots)) / 4
    joined = join_contracts([checked_rows(slots, close, 100.0, interval_min=15)], ES)
    assert all(abs(roll.gap_points) < 100 for roll in joined.rolls)
    assert len(joined.open_ns) == len(slots)
