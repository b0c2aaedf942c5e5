"""The table of known prices against daily index data that another package ships."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.market.files.price_ranges import FIRST_YEAR, LAST_YEAR, MARKETS, bounds, known_range


def test_the_s_and_p_s_ranges_are_those_of_daily_data():
    found = importlib.util.find_spec("arch")
    if found is None or found.origin is None:
        pytest.skip("the package arch, which ships daily index data, is not installed")
    # Read as a file: importing the package takes seconds.
    file = Path(found.origin).parent / "data" / "sp500" / "sp500.csv.gz"
    sp500 = pd.read_csv(file, index_col=0, parse_dates=True)
    for year, days in sp500.groupby(sp500.index.year):
        low, high = known_range("ES", int(year))
        assert low == pytest.approx(days["Low"].min(), rel=0.015)
        assert high == pytest.approx(days["High"].max(), rel=0.015)


def test_years_beyond_the_table_widen_year_by_year_and_markets_stay_apart_for_a_while():
    for market in MARKETS:
        low, high = known_range(market, LAST_YEAR)
        for after in (1, 2, 3):
            lower, higher = known_range(market, LAST_YEAR + after)
            assert lower < low < high < higher
            low, high = lower, higher
        assert known_range(market, FIRST_YEAR - 1)[0] < known_range(market, FIRST_YEAR)[0]
    middle = {market: np.mean(known_range(market, LAST_YEAR)) for market in MARKETS}
    for market, level in middle.items():
        assert [other for other in MARKETS if bounds(other, LAST_YEAR)[0] <= level <= bounds(other, LAST_YEAR)[1]] == [
            market
        ]


def test_every_year_s_range_meets_the_next_one_s():
    for market in MARKETS:
        for year in range(FIRST_YEAR, LAST_YEAR):
            (low, high), (next_low, next_high) = known_range(market, year), known_range(market, year + 1)
            assert low < high
            assert next_low <= high * 1.01
            assert next_high >= low
