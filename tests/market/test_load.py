"""From files and folders to tables, on made bars and on the real ones."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from src.errors import BarDataError, MarketError
from src.market.files.front_month import front_month
from src.market.files.joining import REPEATED
from src.market.flags import DECISION, ENTRY_ALLOWED
from src.market.load import load_bars, load_market
from src.market.sessions import OUTSIDE_CALENDAR
from src.market.settings import DataSettings
from src.market.split import split_sessions
from src.market.tables import run_starts
from tests.market.bar_makers import bar_table, scheduled_slots, walk_bars, write_csv

SLOTS = scheduled_slots(4)


def save(folder, name, *, market="ES", start=0, end=None, interval=5):
    """A file of bars; returns its path."""
    slots = SLOTS if interval == 5 else scheduled_slots(4, interval)
    table = bar_table(walk_bars(slots, market=market, interval_min=interval)).iloc[start:end]
    path = folder / name
    if path.suffix == ".parquet":
        table.to_parquet(path)
        return path
    return write_csv(table, path)


def test_a_folder_s_files_of_a_market_are_joined_in_time_order_whatever_their_names(tmp_path):
    save(tmp_path, "ES_b_first.csv", end=300)
    save(tmp_path, "ES-a-second.parquet", start=300)
    save(tmp_path, "NQ_other.csv", market="NQ")
    save(tmp_path, "ESX.csv", market="NQ")
    (tmp_path / "ES_notes.txt").write_text("not bars")
    whole = load_bars(save(tmp_path, "whole.csv"), "ES")
    joined = load_bars(tmp_path, "ES")
    assert joined.fingerprint == whole.fingerprint
    assert "ES_b_first.csv" in joined.source
    assert "ES-a-second.parquet" in joined.source


@pytest.mark.parametrize("separator", ["_", "-", ".", " "])
def test_the_first_token_of_a_name_is_the_market(tmp_path, separator):
    save(tmp_path, f"ES{separator}2024.csv")
    assert len(load_bars(tmp_path, "ES")) == len(SLOTS)


def test_files_that_overlap_are_joined_where_they_agree_and_else_refused_with_both_names(tmp_path):
    save(tmp_path, "ES_1.csv", end=300)
    later = save(tmp_path, "ES_2.csv", start=299)
    bars = load_bars(tmp_path, "ES")
    assert len(bars) == len(SLOTS)
    assert {finding.kind: finding.count for finding in bars.reading.findings} == {REPEATED: 1}
    table = bar_table(walk_bars(SLOTS)).iloc[299:].reset_index(drop=True)
    table.loc[0, ["high", "close"]] += 1.0
    table.loc[0, "open"] += 0.5
    write_csv(table, later)
    with pytest.raises(BarDataError, match=r"ES_1\.csv and .*ES_2\.csv: they overlap"):
        load_bars(tmp_path, "ES")


def test_a_contract_that_hardly_trades_takes_the_interval_of_the_others(tmp_path):
    slots = scheduled_slots(6, 1)
    rng = np.random.default_rng(4)
    thin = np.sort(rng.choice(slots[: len(slots) // 2], 40, replace=False))
    write_csv(bar_table(walk_bars(slots, interval_min=1)), tmp_path / "ESM4.csv")
    write_csv(bar_table(walk_bars(thin, interval_min=1, seed=1)), tmp_path / "ESU4.csv")
    write_csv(bar_table(walk_bars(thin[:1], interval_min=1, seed=1)), tmp_path / "ESZ4.csv")
    bars = load_bars(tmp_path, "ES")
    assert (bars.interval_s, len(bars), bars.contract_names) == (60, len(slots), ("ESM4",))
    left_out = next(finding for finding in bars.reading.findings if finding.count == 41)
    assert "ESU4 40, ESZ4 1" in left_out.where


def test_files_that_are_named_for_another_market_are_not_read_and_that_is_said(tmp_path):
    save(tmp_path, "ES_5m.csv")
    (tmp_path / "NQ_5m.csv").write_text("not bars at all")
    bars = load_bars(tmp_path, "ES")
    assert len(bars) == len(SLOTS)
    assert any("NQ_5m.csv" in note for note in bars.reading.notes)


def test_files_of_different_intervals_are_refused(tmp_path):
    save(tmp_path, "ES_1.csv", end=300)
    save(tmp_path, "ES_2.csv", interval=1, start=1380)
    with pytest.raises(BarDataError, match="bars of 5 and 1 minutes cannot be joined"):
        load_bars(tmp_path, "ES")


def test_a_folder_without_the_market_says_what_it_holds_and_how_to_name_a_file(tmp_path):
    save(tmp_path, "NQ_5m.csv", market="NQ")
    with pytest.raises(BarDataError, match=r"no file for ES .*NQ_5m\.csv.* ES_5m\.csv"):
        load_bars(tmp_path, "ES")


def test_a_micro_takes_its_parent_s_bars_and_says_so_but_prefers_its_own(tmp_path):
    save(tmp_path, "ES_5m.csv")
    parents = load_bars(tmp_path, "MES")
    assert parents.market == "MES"
    assert "ES bars used for MES" in parents.source
    save(tmp_path, "MES_5m.csv", end=500)
    own = load_bars(tmp_path, "MES")
    assert len(own) == 500
    assert "stand in" not in own.source


def test_a_file_named_for_another_market_is_refused(tmp_path):
    with pytest.raises(BarDataError, match="its name says ES, but the market is NQ"):
        load_bars(save(tmp_path, "ES_5m.csv"), "NQ")
    assert load_bars(save(tmp_path, "bars.csv", market="NQ"), "NQ").market == "NQ"


def test_without_a_path_the_data_folder_is_read_and_else_synthetic_bars_are_made(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    assert load_bars(None, "ES") is None
    tables = load_market(DataSettings(), "ES", trading_hours="rth", seed=3)
    assert tables.bars.synthetic
    assert "SYNTHETIC" in tables.bars.source
    assert "SYNTHETIC" in caplog.text
    assert len(tables.sessions) == 60
    (tmp_path / "data").mkdir()
    assert load_bars(None, "ES") is None
    save(tmp_path / "data", "ES_5m.csv")
    tables = load_market(DataSettings(), "ES", trading_hours="rth", seed=3)
    assert not tables.bars.synthetic
    assert len(tables.bars) == len(SLOTS)


def test_the_seed_decides_the_synthetic_bars(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    marks = [
        load_market(DataSettings(synthetic_interval_min=15), "NQ", trading_hours="rth", seed=seed).bars.fingerprint
        for seed in (1, 1, 2)
    ]
    assert marks[0] == marks[1] != marks[2]


def test_an_unknown_market_is_refused_before_any_file_is_read(tmp_path):
    with pytest.raises(MarketError, match="Did you mean NQ"):
        load_market(DataSettings(path=tmp_path / "absent.csv"), "NQX", trading_hours="rth", seed=0)


def test_repairs_of_all_files_and_bars_outside_the_calendar_are_counted_together(tmp_path):
    for name, rows in (("ES_1.csv", slice(0, 300)), ("ES_2.csv", slice(300, None))):
        table = bar_table(walk_bars(SLOTS)).iloc[rows].reset_index(drop=True)
        table.iat[40, 5] = -1
        write_csv(table, tmp_path / name)
    saturday = bar_table(walk_bars(np.array([pd.Timestamp("2024-06-08 12:00", tz="UTC").value])))
    with (tmp_path / "ES_2.csv").open("a") as stream:
        stream.write(f"2024-06-08T12:00:00Z,{','.join(str(saturday[name][0]) for name in saturday.columns[1:])}\n")
    tables = load_market(DataSettings(path=tmp_path, repair=True), "ES", trading_hours="rth", seed=0)
    assert tables.bars.repairs == {"negative volume": 2, OUTSIDE_CALENDAR: 1}


def test_tables_have_the_declared_shapes_types_and_cannot_be_written(tmp_path):
    tables = load_market(DataSettings(path=save(tmp_path, "ES.csv")), "ES", trading_hours="rth", seed=0)
    n = len(SLOTS)
    declared = {"prices": (n, 4), "flags": (n,), "atr_ticks": (n,), "window": (n, 11), "context": (n, 22)}
    assert {name: getattr(tables, name).shape for name in declared} == declared
    kinds = {
        "prices": np.int32,
        "flags": np.uint8,
        "atr_ticks": np.float32,
        "window": np.float32,
        "context": np.float32,
    }
    for name in declared:
        array = getattr(tables, name)
        assert array.dtype == kinds.get(name, np.float32)
        assert array.flags.c_contiguous
        assert not array.flags.writeable
    assert (
        tables.prices == np.stack([getattr(tables.bars, side) for side in ("open", "high", "low", "close")], 1)
    ).all()


def test_wherever_entries_are_allowed_all_twenty_rows_of_the_window_and_the_atr_are_whole(tmp_path):
    tables = load_market(DataSettings(path=save(tmp_path, "ES.csv")), "ES", trading_hours="globex", seed=0)
    allowed = np.flatnonzero(tables.flags & ENTRY_ALLOWED)
    assert allowed.size
    whole = tables.window.any(axis=1)
    assert all(whole[t - 19 : t + 1].all() for t in allowed)
    assert (tables.atr_ticks[allowed] > 0).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"interval_min": 16}, "interval_min"),
        ({"synthetic_sessions": 59}, "synthetic_sessions"),
        ({"train_frac": 0.8, "validation_frac": 0.2}, "leave nothing"),
        ({"hole_bars": 3}, "hole_bars"),
    ],
)
def test_settings_out_of_their_limits_are_refused(change, says):
    with pytest.raises(ValidationError, match=says):
        DataSettings(**change)


def test_stricter_holes_leave_out_more_sessions(tmp_path):
    slots = np.delete(SLOTS, np.arange(500, 504))  # four bars within the hours of the second session
    path = write_csv(bar_table(walk_bars(slots)), tmp_path / "ES.csv")
    for options, usable in (({}, 4), ({"max_hole_bars": 3}, 3), ({"max_hole_bars": 3, "no_trade_bars": 4}, 4)):
        tables = load_market(DataSettings(path=path, **options), "ES", trading_hours="rth", seed=0)
        assert int(tables.sessions.usable.sum()) == usable


# --- several contracts at once ---


def two_contracts(near: list[int], far: list[int]) -> pd.DataFrame:
    """Four sessions in which both contracts trade every bar, with the given volume a bar by session."""
    one, two = (bar_table(walk_bars(SLOTS, seed=seed)) for seed in (1, 2))
    session = np.arange(len(SLOTS)) // 276
    one["volume"], two["volume"] = np.array(near)[session], np.array(far)[session]
    one["contract"], two["contract"] = "ESM4", "ESU4"
    return pd.concat([one, two]).sort_values("datetime", kind="stable").reset_index(drop=True)


def chosen(tmp_path, table) -> list[str]:
    bars = load_bars(write_csv(table, tmp_path / "ES.csv"), "ES")
    assert bars.open_ns.tolist() == SLOTS.tolist()
    return [bars.contract_names[code] for code in bars.contract[::276]]


def test_the_front_month_changes_the_session_after_the_volume_has(tmp_path):
    assert chosen(tmp_path, two_contracts([9, 5, 2, 1], [1, 6, 8, 9])) == ["ESM4", "ESM4", "ESU4", "ESU4"]


def test_a_contract_that_was_left_is_not_taken_up_again(tmp_path):
    assert chosen(tmp_path, two_contracts([9, 5, 9, 9], [1, 6, 2, 9])) == ["ESM4", "ESM4", "ESU4", "ESU4"]


@settings(max_examples=12)
@given(
    volumes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=4, max_size=4), cut=st.integers(2, 2208)
)
def test_the_front_month_of_a_bar_does_not_depend_on_later_bars(volumes, cut):
    table = two_contracts(*[list(side) for side in zip(*volumes, strict=True)])
    times = table["datetime"].dt.as_unit("ns").astype("int64").to_numpy()
    codes = (table["contract"] == "ESU4").to_numpy().astype(np.int16)
    volume = table["volume"].to_numpy()
    cut -= cut % 2  # both contracts' rows of a bar are known at its close
    whole = front_month(times, codes, volume)
    assert (front_month(times[:cut], codes[:cut], volume[:cut]) == whole[:cut]).all()
    assert whole.sum() == len(SLOTS)


def test_repeated_times_without_a_contract_column_are_duplicates_with_the_remedy(tmp_path):
    table = two_contracts([9] * 4, [1] * 4).drop(columns="contract")
    with pytest.raises(BarDataError, match=r"duplicate time.*add a `contract` column"):
        load_bars(write_csv(table, tmp_path / "ES.csv"), "ES")


def test_the_lean_file_rolls_in_december_2013_after_march_has_outtraded_december(shared_data):
    tables = load_market(
        DataSettings(path=shared_data / "ES_1m_lean_all_contracts.csv"), "ES", trading_hours="rth", seed=0
    )
    bars, sessions = tables.bars, tables.sessions
    assert (np.diff(bars.open_ns) > 0).all()
    names = np.array(bars.contract_names)[bars.contract]
    spans = zip(sessions.first_bar, sessions.end_bar, strict=True)
    front = {str(day): set(names[first:end]) for day, (first, end) in zip(sessions.date, spans, strict=True)}
    # On 2013-12-18 March trades 2.25 million and December 0.28 million: known only when that session is over.
    assert front["2013-12-18"] == {"ESZ3"}
    assert front["2013-12-19"] == front["2013-12-20"] == {"ESH4"}
    assert front["2020-01-06"] == {"ESH0"}
    assert all(names == {"ESZ3"} for day, names in front.items() if day < "2013-12-19")
    assert "front month" in bars.source
    # Until 2015 the session ran to 17:15 New York: those minutes are outside today's calendar.
    assert set(bars.repairs) == {OUTSIDE_CALENDAR}
    assert bars.repairs[OUTSIDE_CALENDAR] >= 11 * 15


# --- the real files ---


def test_the_real_es_file_has_553_sessions_and_breaks_only_at_its_hole_its_missing_day_and_its_rolls(shared_data):
    path = shared_data / "ES_5m_2024_2026_ibkr.parquet"
    tables = load_market(DataSettings(path=path), "ES", trading_hours="globex", seed=0)
    bars, sessions = tables.bars, tables.sessions
    assert len(bars) == 151_420
    assert not bars.repairs
    assert len(sessions) == 553
    reasons = {str(sessions.date[k]): sessions.reason[k] for k in np.flatnonzero(~sessions.usable)}
    assert reasons == {"2025-11-28": "a hole of 128 bars in the trading hours (at most 6)"}
    assert [str(day) for day in sessions.missing_dates] == ["2025-06-30"]
    starts = np.unique(run_starts(bars, sessions, 2))
    rolls = np.flatnonzero(np.diff(bars.contract)) + 1
    others = [str(np.datetime64(int(ns), "ns"))[:16] for ns in bars.open_ns[np.setdiff1d(starts, rolls)]]
    assert len(rolls) == len(bars.contract_names) - 1 == 9
    assert others == ["2024-02-04T23:00", "2025-06-30T22:00", "2025-11-28T13:30"]
    split = split_sessions(sessions)
    assert (split.embargo, len(split.train), len(split.validation), len(split.test)) == (1, 331, 109, 110)


def test_the_day_of_mourning_closes_before_the_cash_open_and_takes_no_part_under_rth(shared_data):
    path = shared_data / "ES_5m_2024_2026_ibkr.parquet"
    sessions = load_market(DataSettings(path=path), "ES", trading_hours="rth", seed=0).sessions
    reasons = {str(sessions.date[k]): sessions.reason[k] for k in np.flatnonzero(~sessions.usable)}
    assert reasons == {"2025-01-09": "closes before the trading hours"}


def test_the_truncated_tuesdays_of_the_real_nq_file_are_left_out_and_break_the_run(shared_data):
    path = shared_data / "NQ_5m_2024_2026_ibkr.parquet"
    tables = load_market(DataSettings(path=path), "NQ", trading_hours="rth", seed=0)
    sessions = tables.sessions
    weekday = [day.weekday() for day in sessions.date.tolist()]
    left_out = Counter((weekday[k], sessions.reason[k]) for k in np.flatnonzero(~sessions.usable))
    assert left_out == {
        (1, "a hole of 78 bars in the trading hours (at most 6)"): 103,
        (1, "a hole of 45 bars in the trading hours (at most 6)"): 1,  # 2024-12-24, a half day
        (3, "closes before the trading hours"): 1,
    }
    runs = run_starts(tables.bars, sessions, 2)
    for k in np.flatnonzero(~sessions.usable):
        if weekday[k] == 1:
            following = sessions.first_bar[k + 1]
            assert runs[following] == following
            assert not (tables.flags[sessions.first_bar[k] : sessions.end_bar[k]] & DECISION).any()


@pytest.mark.parametrize("market", ["NQ", "ES", "YM"])
def test_the_ten_one_minute_sessions_of_2022_are_usable_and_can_be_split(shared_data, market):
    path = shared_data / f"{market}_1m_2022_tradingview.csv"
    tables = load_market(DataSettings(path=path), market, trading_hours="rth", seed=0)
    assert tables.sessions.usable.tolist() == [True] * 10
    assert not tables.bars.repairs
    lengths = (tables.sessions.flat_slot_ns - tables.sessions.trade_open_ns) // 60_000_000_000
    assert lengths.tolist() == [209] + [389] * 9  # MLK day is flat at 12:59, the others at 15:59
    split = split_sessions(tables.sessions)
    assert (len(split.train), len(split.validation), len(split.test)) == (6, 2, 2)


def test_the_real_folder_holds_files_that_overlap_and_says_so(shared_data):
    with pytest.raises(BarDataError, match=r"cannot be joined|overlap"):
        load_market(DataSettings(path=shared_data), "NQ", trading_hours="rth", seed=0)


@pytest.mark.parametrize(
    ("name", "market", "bars", "contract"),
    [
        ("databento-python_GLBX.ohlcv-1m.dbn.zst", "ES", 4, "ESH1"),
        ("nautilus_futures_ohlcv-1m_2024-05-09T09-55_2024-05-09T10-05.dbn.zst", "NQ", 10, "NQM4"),
        ("nautilus_futures_ohlcv-1m_2026-01-09T20-55_2026-01-09T21-05.dbn.zst", "MES", 10, "ESH6"),
        ("glbx-mdp3-20240701.ohlcv-1m.ESU4_NQU4.pretty.csv", "ES", 30, "ESU4"),
        ("glbx-mdp3-20240701.ohlcv-1m.ESU4_NQU4.rawpx_symbols.csv", "NQ", 30, "NQU4"),
    ],
)
def test_the_real_files_of_databento_give_the_contract_asked_for(shared_data, name, market, bars, contract):
    if name.endswith(".zst"):
        pytest.importorskip("databento_dbn")
    found = load_bars(shared_data / "databento" / name, market)
    assert (len(found), found.contract_names) == (bars, (contract,))


def test_a_real_file_of_two_instruments_without_names_is_refused_with_the_way_to_get_names(shared_data):
    with pytest.raises(BarDataError, match=r"2 instruments, named by number only.*map_symbols"):
        load_bars(shared_data / "databento" / "glbx-mdp3-20240701.ohlcv-1m.ESU4_NQU4.raw.csv", "ES")
