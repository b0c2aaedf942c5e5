"""Spellings of instruments: an independent writer and what real files and platforms call them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.market.contracts import CONTRACTS
from src.market.files.contract_months import canonical_names, months_of_rows, third_friday
from src.market.files.instrument_names import instrument_in_file_name, parse_instrument
from tests.market.files.market_makers import at

CODES = {3: "H", 6: "M", 9: "U", 12: "Z"}
NAMES = {3: "MAR", 6: "JUN", 9: "SEP", 12: "DEC"}
CONTRACT_SPELLINGS = (
    lambda r, m, y: f"{r}{CODES[m]}{y % 10}",
    lambda r, m, y: f"{r}{CODES[m]}{y % 100:02}",
    lambda r, m, y: f"{r}{CODES[m]}{y}",
    lambda r, m, y: f"{r} {m:02}-{y % 100:02}",
    lambda r, m, y: f"{r}{y}{m:02}",
    lambda r, m, y: f"{r} {y}{m:02}19",
    lambda r, m, y: f"@{r}{CODES[m]}{y % 100:02}",
    lambda r, m, y: f"/{r}{CODES[m]}{y % 100:02}",
    lambda r, m, y: f"{r}{CODES[m]}{y % 100:02}-CME",
    lambda r, m, y: f"{r}{CODES[m]}{y % 10}.CME",
    lambda r, m, y: f"{r}{CODES[m]}{y % 100:02}_FUT_CME",
    lambda r, m, y: f"CME_MINI:{r}{CODES[m]}{y}",
    lambda r, m, y: f"{r} {NAMES[m]} {y % 100:02}",
    lambda r, m, y: f"{r}   {NAMES[m]}{y % 100:02}",
    lambda r, m, y: f"/{r}{CODES[m]}{y % 100:02}:XCME",
    lambda r, m, y: f"{r}19{CODES[m]}{y % 100:02}",
)
CONTINUOUS_SPELLINGS = (
    "{}", "@{}", "/{}", "{}=F", "{}.FUT", "{}.c.0", "{}.v.0", "{}.n.0", "{}#", "{} #F", "Q{}#", "@{}#", "CME_MINI_{}1!",
    "CME_MINI:{}1!", "CBOT_MINI:{}1!", "{} ##-##", "{}1 Index", "{}c1", "{}*0", "@{}=107XC", "&{}", "{}_CONT",
)  # fmt: skip


@given(
    root=st.sampled_from(sorted(CONTRACTS)),
    month=st.sampled_from([3, 6, 9, 12]),
    year=st.integers(2000, 2031),
    spelling=st.sampled_from(CONTRACT_SPELLINGS),
    lower=st.booleans(),
)
def test_a_contract_is_read_back_from_every_spelling(root, month, year, spelling, lower):
    text = spelling(root, month, year)
    said = parse_instrument(text.lower() if lower else text)
    assert (said.kind, said.root, said.month) == ("future", root, month)
    # A row of the contract's last week decides a single-digit year.
    months, _ = months_of_rows(said, root, np.array([at(f"{year}-{month:02}-10")]))
    assert [(each.year, each.month) for each in months] == [(year, month)]


@pytest.mark.parametrize("root", sorted(CONTRACTS))
@pytest.mark.parametrize("spelling", CONTINUOUS_SPELLINGS)
def test_a_continuous_series_is_read_back_from_every_spelling(root, spelling):
    said = parse_instrument(spelling.format(root))
    assert (said.kind, said.root, said.rank) == ("continuous", root, 0)


@pytest.mark.parametrize(
    ("text", "kind", "root"),
    [
        ("EPZ25", "future", "ES"), ("F.US.ENQZ25", "future", "NQ"), ("CON.F.US.EP.Z25", "future", "ES"),
        ("ES2!", "continuous", "ES"), ("ES.v.1", "continuous", "ES"),
        ("Micro E-mini S&P 500 Futures", "continuous", "MES"),
        ("ESH4-ESM4", "spread", "ESH4-ESM4"), ("ESZ25-ESH26", "spread", "ESZ25-ESH26"),
        ("ES:BF M4-U4-Z4", "spread", None),
        ("UD:1V: GN 2345", "spread", None), ("NQZ5-ESZ5", "spread", None), ("ESZ4 C5000", "option", None),
        ("E1AN4 P5400", "option", None), ("EW3N4 C5500", "option", None), ("ES.OPT", "option", None),
        ("US500", "index", "US500"), ("US500.cash", "index", "US500"), ("NAS100", "index", "NAS100"),
        ("USTEC", "index", None),
        ("US30", "index", "US30"), ("^GSPC", "index", "GSPC"), ("SPX500_USD", "index", "SPX500"),
        ("SPY", "fund", "SPY"),
        ("QQQ", "fund", "QQQ"), ("118", "id", "118"), ("CLZ5", "other", "CL"), ("FDAX", "other", "FDAX"),
        ("AAPL", "other", "AAPL"), ("6EZ5", "other", "6E"), ("ESX", "other", "ESX"), ("Z5", "future", ""),
        ("202512", "future", ""), ("DEC25", "future", ""), ("TFZ15", "future", "TF"), ("TF", "continuous", "TF"),
    ],
)  # fmt: skip
def test_other_names_are_told_from_the_future(text, kind, root):
    said = parse_instrument(text)
    assert said.kind == kind
    assert root is None or said.root == root


def test_an_empty_name_says_nothing():
    assert parse_instrument("  ") is None
    assert parse_instrument('""') is None


@pytest.mark.parametrize(
    ("name", "root", "kind"),
    [
        ("CME_MINI_ES1!, 5.csv", "ES", "continuous"), ("CME_MINI_DL_NQ1!, 1_a1b2.csv", "NQ", "continuous"),
        ("CBOT_MINI_YM1!, 1.csv", "YM", "continuous"), ("@ES_5min.txt", "ES", "continuous"),
        ("ES_F_5m.csv", "ES", "continuous"), ("nq_5m_data.csv", "NQ", "continuous"),
        ("ES-5m.feather", "ES", "continuous"),
        ("ES.csv.gz", "ES", "continuous"), ("ES 12-25.Last.txt", "ES", "future"), ("MES 03-25.txt", "MES", "future"),
        ("ES_H24_1min.txt", "ES", "future"), ("ES_2024.csv", "ES", "continuous"),
        ("ES ##-##.Last.txt", "ES", "continuous"), ("ESZ25-CME_5m.scid_BarData.txt", "ES", "future"),
        ("ESZ5.json", "ES", "future"), ("data_NQ_2024.csv", "NQ", "continuous"), ("ES=F.csv", "ES", "continuous"),
        ("US500_M5.csv", "US500", "index"), ("SPY.csv", "SPY", "fund"), ("ESH4-ESM4.csv", "ESH4-ESM4", "spread"),
        ("cme/minute/es/20251104_trade.zip", "ES", "continuous"),
        ("ES_5m_2024_2026_ibkr.parquet", "ES", "continuous"), ("M2K_1m.csv", "M2K", "continuous"),
    ],
)  # fmt: skip
def test_a_file_s_name_says_what_it_holds(name, root, kind):
    said = instrument_in_file_name(Path(name))
    assert (said.root, said.kind) == (root, kind)


@pytest.mark.parametrize(
    "name",
    ["bars.csv", "5.csv", "ESX.csv", "ES_NQ_5m.csv", "glbx-mdp3-20251104.ohlcv-5m.csv", "los_mes_es.csv", "Z5.csv"],
)
def test_a_file_s_name_that_says_nothing_certain_says_nothing(name):
    assert instrument_in_file_name(Path(name)) is None


def test_a_single_digit_year_means_another_contract_ten_years_later():
    said = parse_instrument("ESZ3")
    months, member = months_of_rows(said, "ES", np.array([at("2013-10-07"), at("2023-10-09"), at("2013-12-20")]))
    assert [(month.year, month.month) for month in months] == [(2013, 12), (2023, 12)]
    assert member.tolist() == [0, 1, 0]
    assert set(canonical_names(months).values()) == {"ESZ13", "ESZ23"}
    assert set(canonical_names(months[:1]).values()) == {"ESZ3"}


@pytest.mark.parametrize(
    ("year", "month", "day"), [(2024, 3, 15), (2024, 6, 21), (2025, 9, 19), (2025, 12, 19), (2026, 3, 20)]
)
def test_third_fridays(year, month, day):
    assert np.datetime64(third_friday(year, month), "D") == np.datetime64(f"{year}-{month:02}-{day:02}")
