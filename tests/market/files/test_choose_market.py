"""Which rows are the market's: by row, header, file name and price; what cannot be told is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import BarDataError
from src.market import contracts
from src.market.contracts import get_contract
from src.market.files import price_ranges
from src.market.files.identity import choose_market
from src.market.files.price_level import judge_prices
from src.market.files.roll_calendar import expected_gap
from tests.market.files.market_makers import at, file_rows

ES, NQ, MES, MNQ, YM, RTY = (get_contract(symbol) for symbol in ("ES", "NQ", "MES", "MNQ", "YM", "RTY"))
LEVEL = {"ES": 6850.0, "MES": 6850.0, "NQ": 25480.0, "MNQ": 25480.0, "YM": 47000.0, "RTY": 2450.0}


def refused(tables, market, match):
    with pytest.raises(BarDataError, match=match) as caught:
        choose_market(tables if isinstance(tables, list) else [tables], market)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def twin(folder, market):
    table = pd.read_csv(folder / "bars.csv")
    column = "contract" if "contract" in table else "symbol"
    codes, names = pd.factorize(table[column])
    times = pd.to_datetime(table["datetime"]).dt.as_unit("ns").astype("int64").to_numpy()
    return choose_market([file_rows(table["close"], names=names, codes=codes, time_ns=times)], market)


def test_the_twin_of_two_markets_keeps_the_rows_of_one(shared_data):
    for market, name, level in ((NQ, "NQZ5", 25480), (ES, "ESZ5", 6850)):
        (rows,), reading = twin(shared_data / "twins" / "two_markets", market)
        assert (rows.instrument_names, len(rows)) == ((name,), 17)
        assert np.abs(rows.prices[:, 3] / level - 1).max() < 0.01
        assert dict(reading.dropped) == {"NQ" if market is ES else "ES": 17}
        assert reading.decided_by == "rows"


def test_the_twin_whose_column_names_another_market_is_refused(shared_data):
    with pytest.raises(BarDataError, match=r"the rows name NQ \(17 rows\).*use --market NQ"):
        twin(shared_data / "twins" / "wrong_symbol", ES)
    # Its prices are ES's: under NQ the label alone does not make them NQ's.
    with pytest.raises(BarDataError, match=r"look like ES's .*not NQ's"):
        twin(shared_data / "twins" / "wrong_symbol", NQ)


INSTRUMENTS = {
    "ESZ5": ("ES", 6850.0), "ESH26": ("ES", 6910.0), "ES.c.0": ("ES", 6850.0), "MESZ5": ("MES", 6850.0),
    "NQZ5": ("NQ", 25480.0), "MNQ 12-25": ("MNQ", 25480.0), "YM=F": ("YM", 47000.0), "ESZ5-ESH6": ("spread", 60.0),
    "ESZ5 C7000": ("option", 55.0), "CLZ5": ("CL", 60.0), "SPY": ("SPY", 685.0), "US500": ("US500", 6850.0),
}  # fmt: skip


@given(
    codes=st.lists(st.integers(0, len(INSTRUMENTS) - 1), min_size=1, max_size=60),
    market=st.sampled_from(["ES", "MES", "NQ", "MNQ", "YM", "RTY"]),
)
def test_no_row_of_another_market_is_ever_kept_and_every_row_is_accounted_for(codes, market):
    names = tuple(INSTRUMENTS)
    close = [INSTRUMENTS[names[code]][1] + 0.25 * (k % 4) for k, code in enumerate(codes)]
    table = file_rows(close, names=names, codes=codes)
    roots = np.array([INSTRUMENTS[names[code]][0] for code in codes])
    mini = market[1:] if market.startswith("M") else market
    wanted = next((root for root in (market, mini, f"M{mini}") if root in roots), None)
    if wanted is None:
        refused(table, get_contract(market), r"the rows name .*, not ")
        return
    (rows,), reading = choose_market([table], get_contract(market))
    assert reading.root == wanted
    mine = roots == wanted
    if wanted == "ES" and len({"ESZ5", "ESH26"} & {names[code] for code in codes}):
        mine &= np.array(codes) != names.index("ES.c.0")
    assert rows.time_ns.tolist() == table.time_ns[mine].tolist()
    assert len(rows) + sum(count for _, count in reading.dropped) == len(codes)
    assert rows.time_text(0) == table.time_text(int(np.argmax(mine)))


def test_contracts_are_named_alike_whatever_their_spelling():
    names = ("ESZ25", "ES 03-26", "ES202606")
    (rows,), _ = choose_market([file_rows([6850.0, 6900.0, 6960.0], names=names, codes=[0, 1, 2])], ES)
    assert rows.instrument_names == ("ESZ5", "ESH6", "ESM6")
    assert rows.instrument.tolist() == [0, 1, 2]
    (rows,), _ = choose_market([file_rows([6850.0], header="ES 12-25", file="x.csv")], ES)
    assert (rows.instrument_names, rows.instrument.tolist()) == (("ESZ5",), [0])


def test_the_month_of_a_file_s_name_is_kept_though_the_reader_gave_its_root_only():
    (rows,), _ = choose_market([file_rows([6850.0], file="ES_Z25_5min.txt", header="ES")], ES)
    assert rows.instrument_names == ("ESZ5",)


def test_months_alone_take_the_market_of_the_file_s_name():
    (rows,), _ = choose_market([file_rows([6850.0, 6900.0], names=("Z5", "H6"), codes=[0, 1], file="ES.csv")], ES)
    assert rows.instrument_names == ("ESZ5", "ESH6")
    refused(file_rows([6850.0], names=("Z5",), file="ES.csv"), NQ, "its name says ES, but the market is NQ")


def test_the_same_name_ten_years_apart_is_two_contracts():
    times = [at("2015-11-03T15:00"), at("2025-11-03T15:00")]
    (rows,), _ = choose_market([file_rows([2100.0, 6850.0], names=("ESZ5",), time_ns=times)], ES)
    assert rows.instrument_names == ("ESZ15", "ESZ25")


def test_a_micro_serves_its_mini_and_the_other_way_round_in_words_but_own_bars_come_first():
    for market, name in ((ES, "MESZ5"), (MES, "ESZ5")):
        (rows,), reading = choose_market([file_rows([6850.0], names=(name,))], market)
        assert rows.instrument_names == (name,)
        assert f"{name[:-2]} bars used for {market.symbol}" in reading.words
        assert "ten MES are worth one ES" in reading.words
        both = file_rows([6850.0, 6850.25], names=("ESZ5", "MESZ5"), codes=[0, 1])
        (rows,), reading = choose_market([both], market)
        assert (rows.instrument_names, reading.root) == ((f"{market.symbol}Z5",), market.symbol)


def test_a_later_month_s_continuous_series_is_left_out():
    (rows,), reading = choose_market([file_rows([6850.0, 6900.0], names=("ES.c.0", "ES.c.1"), codes=[0, 1])], ES)
    assert (len(rows), rows.instrument_names) == (1, ())
    assert dict(reading.dropped) == {"ES of a later month": 1}
    alone = file_rows([6900.0] * 3, names=("ES2!",))
    refused(alone, ES, "the rows name ES of a later month")
    refused(file_rows([6900.0] * 3, file="CME_MINI_ES2!, 5.csv"), ES, "contract number 2, a later month .*ES1!")


def test_a_continuous_series_beside_its_contracts_is_left_out():
    table = file_rows([6850.0, 6850.0, 6910.0], names=("ES.c.0", "ESZ5", "ESH6"), codes=[0, 1, 2])
    (rows,), reading = choose_market([table], ES)
    assert (rows.instrument_names, len(rows)) == (("ESZ5", "ESH6"), 2)
    assert dict(reading.dropped) == {"ES without a contract": 1}


# --- files and folders ---


def test_a_file_named_for_another_market_is_refused_and_in_a_folder_left_out():
    other = file_rows([25480.0] * 3, file="d/NQ_5m.csv")
    refused(other, ES, "its name says NQ, but the market is ES, which has a different tick value. Use --market NQ")
    own = file_rows([6850.0], file="d/ES_5m.csv")
    rows, reading = choose_market([other, own, file_rows([6850.0], file="d/bars.csv")], ES)
    assert [table.label for table in rows] == ["d/ES_5m.csv"]
    assert dict(reading.dropped) == {"NQ": 3, "files without an instrument name": 1}
    refused([other, other], ES, r"d: no file for ES in this folder \(it holds: NQ_5m\.csv\).* ES_5m\.csv")


def test_in_a_folder_that_names_nothing_prices_choose():
    rows, reading = choose_market([file_rows([25480.0], file="d/1.csv"), file_rows([6850.0], file="d/2.csv")], ES)
    assert [table.label for table in rows] == ["d/2.csv"]
    assert reading.decided_by == "prices"


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("US500_M5.csv", r"US500 is a cash index or a broker's CFD on it, not the future ES.*begins with ES"),
        ("SPY_5m.csv", r"SPY is an exchange-traded fund, not the future ES"),
        ("ESH4-ESM4.csv", r"spreads, not a future\. Give --data bars of ES"),
    ],
)
def test_what_is_not_the_future_is_named_and_refused(file, says):
    refused(file_rows([6850.0], file=file), ES, says)


def test_instruments_known_by_number_only_cannot_be_told_unless_one_follows_the_other():
    codes = [0, 1, 0, 1]
    close = [5527.25, 20014.25, 5527.5, 20014.5]
    table = file_rows(close, names=("118", "4358"), codes=codes, start="2024-07-01T23:40")
    says = refused(table, ES, r"2 instruments, named by number only \(118 around 5,527.38, 4358 around 20,014.38\)")
    assert "Download the file with symbols" in says
    near = file_rows([5527.25, 5590.0, 5527.5, 5590.5], names=("118", "119"), codes=codes, start="2024-07-01T23:40")
    refused(near, ES, "ES cannot be identified")
    apart = file_rows([5527.25, 5590.0], names=("118", "119"), codes=[0, 1], start="2024-07-01T23:40")
    (rows,), reading = choose_market([apart], ES)
    assert (rows.instrument_names, reading.decided_by) == (("id 118", "id 119"), "prices")
    (rows,), reading = choose_market([file_rows([6850.0] * 3, names=("118",))], ES)
    assert (rows.instrument_names, reading.decided_by) == ((), "prices")


def test_rows_after_a_contract_s_expiry_are_refused():
    names = ("ESZ24", "ESH25")
    times = [at("2025-03-03T15:00"), at("2025-03-03T15:00")]
    refused(
        file_rows([5900.0, 5950.0], names=names, codes=[0, 1], time_ns=times), ES, r"after its expiry on 2024-12-20"
    )


def test_a_merged_series_named_for_its_last_contract_is_taken_as_continuous():
    days = np.array([at("2023-03-01T15:00") + k * 86_400_000_000_000 for k in range(0, 1000)])
    table = file_rows(np.linspace(4000, 6800, 1000), time_ns=days, file="ES 12-25.Last.txt", volume=1e6)
    (rows,), _ = choose_market([table], ES)
    assert rows.instrument_names == ()
    assert "holds other contracts' rows too" in rows.notes[0]
    early = file_rows(np.linspace(4000, 6000, 800), time_ns=days[:800], file="ES 12-25.Last.txt", volume=1e6)
    assert choose_market([early], ES)[0][0].instrument_names == ()
    thin = np.where(days > at("2025-09-15"), 1e6, 100.0)
    table = file_rows(np.linspace(4000, 6800, 1000), time_ns=days, file="ES 12-25.Last.txt", volume=thin)
    (rows,), _ = choose_market([table], ES)
    assert rows.instrument_names == ("ESZ5",)


# --- prices ---


@pytest.mark.parametrize(
    ("close", "market", "says"),
    [
        (25480.0, ES, r"around 25,5\d\d on 2025-11-03 look like NQ's \(16,460 to 26,280 in 2025\), not ES's"),
        (6850.0, NQ, r"look like ES's .*not NQ's .*--market ES"),
        (47000.0, NQ, "look like YM's"),
        (2450.0, ES, "look like RTY's"),
        (685.0, ES, r"about 1/10 of ES's .*SPY's level"),
        (620.0, NQ, "QQQ's level"),
        (470.0, YM, "DIA's level"),
        (685000.0, ES, "100 times ES's .*divide its prices by 100"),
        (68.5, ES, r"1/100 of ES's .*multiply its prices by 100"),
        (6850e9, ES, "1,000,000,000 times ES's"),
        (6.0, NQ, "far from NQ's"),
    ],
)
@pytest.mark.parametrize("file", ["bars.csv", "{}_5m.csv"])
def test_prices_of_another_market_or_scale_are_refused_as_such(close, market, says, file):
    table = file_rows(close * (1 + 0.001 * np.sin(np.arange(40))), file=file.format(market.symbol))
    refused(table, market, says)


def test_two_labels_that_agree_outweigh_a_price_that_is_only_near_another_market_s():
    table = file_rows([6850.0] * 4, names=("NQ=F",), file="nq_5m_data.csv")
    (rows,), _ = choose_market([table], NQ)
    assert "look like ES's" in rows.notes[0]
    # Further than five times outside the range no label counts.
    refused(file_rows([2450.0] * 4, names=("NQ=F",), file="nq_5m_data.csv"), NQ, "look like RTY's")
    refused(file_rows([620.0] * 4, names=("NQ=F",), file="nq_5m_data.csv"), NQ, "QQQ's level")


def test_rows_of_another_market_among_unnamed_ones_are_refused_but_not_a_glitch():
    close = np.tile([6850.0, 25480.0], 10)
    refused(file_rows(close), ES, r"10 of 20 prices look like NQ's .*names each row's instrument")
    half = np.concatenate((np.full(60, 6850.0), np.full(20, 25480.0)))
    refused(file_rows(half, file="ES.csv"), ES, "20 of 80 prices look like NQ's")
    glitch = np.full(60, 6850.0)
    glitch[30] = 25480.0
    assert len(choose_market([file_rows(glitch)], ES)[0][0]) == 60


def test_where_two_markets_cost_the_same_the_user_s_word_is_taken_and_said():
    _, reading = choose_market([file_rows([950.0] * 5, start="2002-10-22T15:00")], ES)
    assert reading.decided_by == "user"
    assert "ES and NQ" in reading.words


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("ES_5m_2024_2026_ibkr.parquet", "ES"),
        ("NQ_5m_2024_2026_ibkr.parquet", "NQ"),
        ("ES_1m_2022_tradingview.csv", "ES"),
        ("NQ_1m_2022_tradingview.csv", "NQ"),
        ("YM_1m_2022_tradingview.csv", "YM"),
        ("ES_1m_lean_all_contracts.csv", "ES"),
    ],
)
def test_real_bars_are_their_own_market_s_and_no_other_s(shared_data, name, symbol):
    path = shared_data / name
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    times = pd.to_datetime(table["datetime"], utc=True).dt.as_unit("ns").astype("int64").to_numpy()
    codes, names = pd.factorize(table["contract"]) if "contract" in table else (None, ())
    _, reading = choose_market(
        [file_rows(table["close"], time_ns=times, names=names, codes=codes)], get_contract(symbol)
    )
    assert reading.root == symbol
    assert reading.decided_by == ("rows" if len(names) else "prices")
    for other in {"ES", "NQ", "YM", "RTY"} - {symbol}:
        refused(file_rows(table["close"], time_ns=times), get_contract(other), rf"look like {symbol}'s")


def test_prices_of_a_market_that_was_added_are_not_judged(monkeypatch):
    added = replace(ES, symbol="EMD", name="E-mini S&P MidCap 400")
    monkeypatch.setattr(price_ranges, "CONTRACTS", {**contracts.CONTRACTS, "EMD": added})
    times = np.array([at("2025-11-03T15:00")])
    assert judge_prices(times, np.array([3200.0]), "EMD").level == "unknown"
    assert judge_prices(times, np.array([3200.0]), "ES").level != "unknown"
    assert expected_gap("EMD", 2024, 6) > 0
