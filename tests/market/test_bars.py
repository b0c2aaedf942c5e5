"""Reading files of bars: what is accepted, and every defect named or dropped."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from src.errors import BarDataError
from src.market.bar_defects import REMEDIES, check_rows, list_defects
from src.market.bar_rows import BarRows
from src.market.bars import Bars
from src.market.contracts import get_contract
from src.market.load import load_bars
from src.market.row_verdicts import RowDefects, sound_rows
from tests.market.bar_makers import bar_table, scheduled_slots, walk_bars, write_csv

N = 400
TABLE = bar_table(walk_bars(scheduled_slots(2)[:N]))
PRICES = ("open", "high", "low", "close")


def rows_of(table: pd.DataFrame) -> BarRows:
    return BarRows(
        label="ES.csv",
        time_text=lambda row: str(table["datetime"].iloc[row]),
        open_ns=table["datetime"].dt.as_unit("ns").astype("int64").to_numpy(),
        prices=table[list(PRICES)].to_numpy(dtype=np.float64),
        volume=table["volume"].to_numpy(dtype=np.float64),
        contract=np.zeros(len(table), dtype=np.int16),
        contract_names=(),
    )


def load_es(path: Path, **options) -> Bars:
    bars = load_bars(path, "ES", **options)
    assert bars is not None
    return bars


def spoil(table: pd.DataFrame, kind: str, row: int) -> None:
    """Put one defect of a kind into a row of the table (0-based)."""
    put = table.columns.get_loc
    low, high = table["low"].iat[row], table["high"].iat[row]
    if kind == "missing or unreadable value":
        table.iat[row, put("high")] = np.nan
    elif kind == "zero or negative price":
        table.iat[row, put("low")] = -1.0
    elif kind == "negative volume":
        table.iat[row, put("volume")] = -3
    elif kind == "impossible volume":
        table.iat[row, put("volume")] = 10**15
    elif kind == "price glitch":
        for name in PRICES:
            table.iat[row, put(name)] = table[name].iat[row] / 100
    elif kind == "high below low":
        table.iat[row, put("low")], table.iat[row, put("high")] = high + 1, low - 1
    elif kind == "open outside [low, high]":
        table.iat[row, put("open")] = high + 0.25
    elif kind == "close outside [low, high]":
        table.iat[row, put("close")] = low - 0.25
    elif kind == "off-tick price":
        table.iat[row, put("high")] = high + 0.1
    elif kind == "unsorted time":
        table.iat[row, put("datetime")] = table["datetime"].iat[row] - pd.Timedelta(days=30)
    elif kind == "repeated row":
        table.iloc[row] = table.iloc[row - 1]
    elif kind == "duplicate time":
        table.iat[row, put("datetime")] = table["datetime"].iat[row - 1]
    elif kind == "mixed interval":
        table.iat[row, put("datetime")] = table["datetime"].iat[row] + pd.Timedelta(minutes=2)
    else:
        raise AssertionError(kind)


defects = st.dictionaries(st.integers(1, N // 2 - 1).map(lambda k: 2 * k), st.sampled_from(list(REMEDIES)), max_size=25)


@settings(max_examples=60)
@given(defects=defects)
def test_every_injected_defect_is_named_with_its_row_and_repair_removes_exactly_those(defects):
    table = TABLE.copy()
    for row, kind in sorted(defects.items()):
        spoil(table, kind, row)
    rows = rows_of(table)
    off_tick = {row for row, kind in defects.items() if kind == "off-tick price"}
    few = len(off_tick) <= N // 100  # rounded: no defect of a row
    bad = {row: kind for row, kind in defects.items() if not (few and row in off_tick)}
    findings = check_rows(rows, get_contract("ES"), None)
    assert {defect.row - 1: defect.kind for defect in list_defects(rows, findings)} == bad
    assert np.flatnonzero(findings.off_tick).tolist() == sorted(off_tick)

    if not few:
        with pytest.raises(RowDefects, match=r"off-tick price in .* of 400 rows"):
            sound_rows(rows, get_contract("ES"), repair=True)
        return
    sound = sound_rows(rows, get_contract("ES"), repair=True)
    assert sound.rows.open_ns.tolist() == np.delete(rows.open_ns, list(bad)).tolist()
    assert sound.dropped == {kind: list(bad.values()).count(kind) for kind in REMEDIES if kind in bad.values()}
    serious = [row for row, kind in bad.items() if kind != "repeated row"]
    if serious:
        with pytest.raises(BarDataError, match=rf"row {min(serious) + 1}\b"):
            sound_rows(rows, get_contract("ES"))
    again = sound_rows(sound.rows, get_contract("ES"))
    assert again.rows is sound.rows
    assert not again.findings


@pytest.mark.parametrize("kind", sorted(set(REMEDIES) - {"off-tick price", "repeated row"}))
def test_a_defect_in_a_file_names_file_row_value_and_remedy_and_repair_drops_and_counts_it(tmp_path, kind):
    table = TABLE.copy()
    spoil(table, kind, 137)
    file = write_csv(table, tmp_path / "ES_5m.csv")
    with pytest.raises(BarDataError) as caught:
        load_bars(file, "ES")
    text = str(caught.value)
    assert str(file) in text
    assert "row 138" in text
    assert f"{kind}, " in text
    assert REMEDIES[kind] in text
    assert "data.repair: true" in text
    assert "\n" not in text
    bars = load_es(file, repair=True)
    assert bars.repairs == {kind: 1}
    assert len(bars) == N - 1


def test_the_value_at_fault_is_shown_as_it_is(tmp_path):
    table = TABLE.copy()
    table.iat[9, 2] = 4003.25
    with pytest.raises(BarDataError, match=r"high below low, high = 4003\.25"):
        load_bars(write_csv(table, tmp_path / "ES.csv"), "ES")
    table["datetime"] = table["datetime"].astype(str)
    table.iat[9, 0] = "yesterday"
    with pytest.raises(BarDataError, match=r"row 10: missing or unreadable value, time = yesterday"):
        load_bars(write_csv(table, tmp_path / "ES.csv"), "ES")


def test_a_whole_day_a_hundred_times_too_high_is_a_glitch_in_each_of_its_rows():
    table = bar_table(walk_bars(scheduled_slots(4)))
    day = slice(276, 552)
    table.loc[day.start : day.stop - 1, list(PRICES)] *= 100
    rows = rows_of(table)
    found = list_defects(rows, check_rows(rows, get_contract("ES"), None))
    assert [defect.row for defect in found] == list(range(277, 553))
    assert {defect.kind for defect in found} == {"price glitch"}


def test_a_glitch_within_the_range_of_a_long_history_is_seen_beside_its_neighbours():
    table = TABLE.copy()
    level = np.round(600 * np.geomspace(1, 33, N)) // 1
    for name in PRICES:
        table[name] = level
    table.loc[390, list(PRICES)] = level[390] // 100
    rows = rows_of(table)
    found = list_defects(rows, check_rows(rows, get_contract("ES"), None))
    assert [(defect.row, defect.kind) for defect in found] == [(391, "price glitch")]


def test_one_late_bar_does_not_condemn_the_sorted_bars_after_it():
    table = TABLE.copy()
    table.iat[10, 0] = table["datetime"].iat[10] + pd.Timedelta(days=3)
    rows = rows_of(table)
    assert [defect.row for defect in list_defects(rows, check_rows(rows, get_contract("ES"), None))] == [11]


@pytest.mark.parametrize(("most", "few"), [(5, 1), (1, 5)])
def test_a_stretch_of_another_interval_is_a_mixed_interval(tmp_path, most, few):
    main, other = scheduled_slots(2, most), scheduled_slots(4, few)
    mixed = np.concatenate((main, other[other > main[-1] + 3_600_000_000_000][:100]))
    file = write_csv(bar_table(walk_bars(mixed)), tmp_path / "ES.csv")
    with pytest.raises(BarDataError, match="mixed interval"):
        load_bars(file, "ES")
    repaired_bars = load_es(file, repair=True)
    assert repaired_bars.interval_s == 60 * most
    assert repaired_bars.open_ns[: len(main)].tolist() == main.tolist()
    assert repaired_bars.repairs["mixed interval"] >= 80


def test_bars_without_trades_in_thin_markets_are_no_mixed_interval(tmp_path):
    slots = scheduled_slots(4, 1)
    thin = slots[np.random.default_rng(5).random(len(slots)) < 0.6]
    file = write_csv(bar_table(walk_bars(thin, interval_min=1)), tmp_path / "ES.csv")
    assert len(load_es(file)) == len(thin)


@pytest.mark.parametrize("column", ["symbol", "instrument_id"])
def test_of_several_instruments_the_market_s_own_rows_are_read_and_the_others_counted(tmp_path, column):
    table = TABLE.loc[TABLE.index.repeat(2)].reset_index(drop=True)
    table[column] = ["ESM4", "NQM4"] * N
    bars = load_es(write_csv(table, tmp_path / "ES.csv"))
    assert len(bars) == N
    assert bars.contract_names == ("ESM4",)
    assert bars.reading is not None
    assert bars.reading.market.dropped == (("NQ", N),)


@given(st.permutations(range(60)))
@settings(max_examples=30)
def test_repair_of_shuffled_bars_leaves_sorted_bars_or_refuses(order):
    rows = rows_of(TABLE.iloc[list(order)].reset_index(drop=True))
    astray = check_rows(rows, get_contract("ES"), 5).count("unsorted time")
    longest = longest_rise(order)
    assert astray == 60 - longest
    if astray > 30:
        with pytest.raises(RowDefects, match=r"unsorted time .*Remedy: the rows are in no order of time"):
            sound_rows(rows, get_contract("ES"), interval_min=5, repair=True)
    else:
        kept = sound_rows(rows, get_contract("ES"), interval_min=5, repair=True).rows
        assert len(kept) == longest
        assert (np.diff(kept.open_ns) > 0).all()


def longest_rise(values) -> int:
    """Length of the longest rising subsequence, by the quadratic textbook rule."""
    best: list[int] = []
    for k, value in enumerate(values):
        best.append(1 + max((best[i] for i in range(k) if values[i] < value), default=0))
    return max(best)


@pytest.mark.parametrize("minutes", [1, 2, 3, 5, 7, 10, 15])
def test_the_interval_is_read_from_the_bars(tmp_path, minutes):
    bars = walk_bars(scheduled_slots(2, minutes), interval_min=minutes)
    file = write_csv(bar_table(bars), tmp_path / "ES.csv")
    assert load_es(file).interval_s == 60 * minutes
    if 4 % minutes:
        with pytest.raises(BarDataError, match=f"bars are {minutes} minutes apart, but data.interval_min is 4"):
            load_bars(file, "ES", interval_min=4)


@pytest.mark.parametrize(("step_s", "shown"), [(30, "0.5 minutes"), (1800, "30 minutes"), (86_400, "1440 minutes")])
def test_an_interval_outside_one_to_fifteen_minutes_is_refused(tmp_path, step_s, shown):
    times = scheduled_slots(1)[0] + np.arange(50) * step_s * 1_000_000_000
    file = write_csv(bar_table(walk_bars(times)), tmp_path / "ES.csv")
    for repair in (False, True):
        with pytest.raises(BarDataError, match=f"bars are {shown} apart"):
            load_bars(file, "ES", repair=repair)


@pytest.mark.parametrize("name", ["datetime", "Timestamp", "TIME", "Date", "ts_event"])
@pytest.mark.parametrize("form", ["z", "naive", "chicago", "s", "ms", "us", "ns"])
def test_times_are_read_under_every_accepted_name_and_form(tmp_path, name, form):
    table = TABLE.copy()
    ns = table["datetime"].dt.as_unit("ns").astype("int64")
    forms = {
        "z": table["datetime"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "naive": table["datetime"].dt.strftime("%Y-%m-%d %H:%M:%S"),
        "chicago": table["datetime"].dt.tz_convert("America/Chicago").map(lambda time: time.isoformat()),
        "s": ns // 10**9,
        "ms": ns // 10**6,
        "us": ns // 10**3,
        "ns": ns,
    }
    table["datetime"] = forms[form]
    table.columns = [name, "Open", "HIGH", "low", "Close", "VOLUME"]
    table.to_csv(tmp_path / "ES.csv", index=False)
    assert load_es(tmp_path / "ES.csv").open_ns.tolist() == ns.tolist()


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
@pytest.mark.parametrize("as_index", [False, None, "time"])
def test_the_same_bars_have_one_fingerprint_in_csv_and_in_every_kind_of_parquet(tmp_path, unit, zone, as_index):
    plain = load_es(write_csv(TABLE, tmp_path / "ES.csv"))
    table = TABLE.copy()
    times = table["datetime"].dt.as_unit(unit).dt.tz_convert(zone or "UTC")
    table["datetime"] = times.dt.tz_localize(None) if zone is None else times
    if as_index is not False:
        table = table.set_index("datetime").rename_axis(index=as_index)
    table.to_parquet(tmp_path / "ES.parquet")
    other = load_es(tmp_path / "ES.parquet")
    assert other.fingerprint == plain.fingerprint
    assert other.open_ns.tolist() == scheduled_slots(2)[:N].tolist()


@pytest.mark.parametrize("change", ["price", "time", "volume", "market", "contract"])
def test_any_change_of_content_changes_the_fingerprint(tmp_path, change):
    plain = load_es(write_csv(TABLE, tmp_path / "ES.csv"))
    table, market = TABLE.copy(), "ES"
    if change == "price":
        table.iat[5, 2] += 0.25
    elif change == "time":
        table = table.drop(index=20)
    elif change == "volume":
        table.iat[5, 5] += 1
    elif change == "market":
        market = "MES"
    else:
        table["contract"] = "ESM4"
    other = load_bars(write_csv(table, tmp_path / "ES_other.csv"), market)
    assert other is not None
    assert other.fingerprint != plain.fingerprint


def test_prices_are_whole_ticks_and_arrays_cannot_be_written(tmp_path):
    bars = load_es(write_csv(TABLE, tmp_path / "ES.csv"))
    assert (bars.close * 0.25).tolist() == TABLE["close"].tolist()
    assert bars.close.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        bars.close[0] = 1


def test_tenths_of_a_point_read_from_float32_are_on_tick(tmp_path):
    walk = walk_bars(scheduled_slots(5), market="RTY")
    table = bar_table(walk)
    for name in PRICES:
        table[name] = table[name].astype("float32")
    table.to_parquet(tmp_path / "RTY.parquet")
    bars = load_bars(tmp_path / "RTY.parquet", "RTY")
    assert bars is not None
    assert bars.close.tolist() == walk.close.tolist()


@pytest.mark.parametrize("separator", [";", "\t"])
def test_semicolons_tabs_and_a_byte_order_mark_are_read(tmp_path, separator):
    text = TABLE.to_csv(index=False, sep=separator)
    (tmp_path / "ES.csv").write_text("\ufeff" + text, encoding="utf-8")
    assert len(load_es(tmp_path / "ES.csv")) == N


def test_columns_that_are_missing_are_listed_with_those_that_exist(tmp_path):
    file = tmp_path / "ES.csv"
    TABLE.rename(columns={"datetime": "row", "low": "bottom"}).assign(row=range(N)).to_csv(file, index=False)
    with pytest.raises(BarDataError, match=r"missing: a time, low\. .* has: row, open, high, bottom, close, volume"):
        load_bars(file, "ES")


def unusable_files(folder: Path) -> dict[str, Path]:
    parquet = folder / "whole.parquet"
    TABLE.to_parquet(parquet)
    contents = {
        "empty.csv": b"",
        "header.csv": b"datetime,open,high,low,close,volume\n",
        "picture.csv": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256)),
        "latin.csv": "datetime,open\n2024-06-03,5\xe4\n".encode("latin-1"),
        "ragged.csv": b"datetime,open\n1,2\n1,2,3,4,5\n",
        "prose.csv": b"Dear Sir or Madam\n\nno bars here\n",
        "blank.csv": b"\n\n\n",
        "one.csv": TABLE.head(1).to_csv(index=False).encode(),
        "packed.csv": gzip.compress(b"datetime,open\n"),
        "truncated.parquet": parquet.read_bytes()[:5000],
        "empty.parquet": b"",
        "text.parquet": b"datetime,open\n",
        "bars.xlsx": b"PK",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in (*contents, "absent.csv")}


@pytest.mark.parametrize("repair", [False, True])
def test_a_file_that_is_no_table_of_bars_is_refused_in_one_paragraph_that_names_it(tmp_path, repair):
    for name, file in unusable_files(tmp_path).items():
        with pytest.raises(BarDataError) as caught:
            load_bars(file, "ES", repair=repair)
        assert str(file) in str(caught.value), name
        assert "\n" not in str(caught.value), name


@pytest.mark.parametrize("year", ["0024", "1924", "2424"])
@pytest.mark.parametrize("form", ["text", "parquet", "epoch"])
def test_a_damaged_year_is_an_unreadable_time_in_that_row(tmp_path, year, form):
    table = TABLE.copy()
    text = table["datetime"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    text[30] = year + text[30][4:]
    times = pd.to_datetime(text, utc=True, format="ISO8601").dt.as_unit("us")
    table["datetime"] = {"text": text, "parquet": times, "epoch": times.astype("int64")}[form]
    if form == "parquet":
        file = tmp_path / "ES.parquet"
        table.to_parquet(file)
    else:
        file = write_csv(table, tmp_path / "ES.csv")
    with pytest.raises(BarDataError, match=r"row 31: missing or unreadable value, time = "):
        load_bars(file, "ES")
    assert load_es(file, repair=True).repairs == {"missing or unreadable value": 1}


def test_a_row_without_its_contract_is_a_missing_value(tmp_path):
    table = TABLE.copy()
    table["contract"] = ["ESM4"] * 12 + [None] + ["ESM4"] * (N - 13)
    file = write_csv(table, tmp_path / "ES.csv")
    with pytest.raises(BarDataError, match=r"row 13 at .*: missing or unreadable value, contract = "):
        load_bars(file, "ES")
    bars = load_es(file, repair=True)
    assert bars.contract_names == ("ESM4",)
    assert len(bars) == N - 1


def test_a_column_of_lists_is_no_column_of_prices(tmp_path):
    table = TABLE.copy()
    table["high"] = [[1.0, 2.0]] * N
    table.to_parquet(tmp_path / "ES.parquet")
    with pytest.raises(BarDataError, match=r"columns missing: high\."):
        load_bars(tmp_path / "ES.parquet", "ES")


def test_a_contract_column_of_something_else_is_refused(tmp_path):
    long = bar_table(walk_bars(scheduled_slots(5)))
    long["contract"] = np.arange(len(long))
    with pytest.raises(BarDataError, match=r"has 1,380 distinct numbers .* does not hold contracts"):
        load_bars(write_csv(long, tmp_path / "ES.csv"), "ES")


@settings(max_examples=80)
@example(cut=0, flips=[(155, 48)])
@given(cut=st.integers(0, 20_000), flips=st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 255)), max_size=6))
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_damaged_bytes_give_bars_or_a_bar_data_error_and_never_another(suffix, cut, flips, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    whole = folder / f"ES_whole{suffix}"
    if not whole.exists():
        TABLE.to_csv(whole, index=False) if suffix == ".csv" else TABLE.to_parquet(whole)
    content = bytearray(whole.read_bytes()[: cut or None])
    for place, value in flips:
        if place < len(content):
            content[place] = value
    damaged = folder / f"ES_damaged{suffix}"
    damaged.write_bytes(bytes(content))
    try:
        bars = load_bars(damaged, "ES", repair=True)
    except BarDataError as error:
        told = str(error)
    else:
        told = ""
        assert bars is not None
        assert (np.diff(bars.open_ns) > 0).all()
    assert "\n" not in told
