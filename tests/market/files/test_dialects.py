"""Every dialect reads back what was written, in every container; the invented files give their expected bars."""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import BarDataError
from src.market.files.rows import FileRows
from tests.market.files.stored_tables import read_tables
from tests.market.files.writers import DIALECTS, BarsToWrite, compressed

TWINS = Path(__file__).parent / "twins"
SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
EXPECTED = json.loads((TWINS / "expected.json").read_text(encoding="utf-8"))

CONTAINERS = ("plain", "gz", "zst", "zip")
PACKED = {"lean"}
"""Dialects that are archives already."""

# What each invented file claims of its clock: (times are instants, promised zone, promised stamp).
CLAIMS = {
    "ninjatrader/ES 12-25.Last.txt": (False, "UTC", "close"),
    "ninjatrader_header/ES_nt.csv": (False, "UTC", "close"),
    "ninjatrader_hour_off/NQ 06-25.Last.txt": (False, "UTC", "close"),
    "sierra_utc/ESZ25-CME_5m.scid_BarData.txt": (False, None, "open"),
    "sierra_chicago/ES.csv": (False, None, "open"),
    "tradestation/@ES_5min.txt": (False, "America/Chicago", "close"),
    "firstrate_noheader/ES_5min_sample.txt": (False, "America/New_York", "open"),
    "firstrate_header/ES_5min_sample.csv": (False, "America/New_York", "open"),
    "tradingview_epoch/CME_MINI_ES1!, 5.csv": (True, None, "open"),
    "databento_raw/glbx-mdp3-20251104.ohlcv-5m.csv": (True, None, "open"),
    "two_markets/bars.csv": (True, None, None),
    "wrong_symbol/bars.csv": (True, None, None),
    "ib_insync/ES.csv": (True, None, "open"),
    "yfinance_multirow/nq_5m_data.csv": (True, None, "open"),
    "yfinance_offtick/ES_F_5m.csv": (True, None, "open"),
    "polygon_json/ESZ5.json": (True, None, "open"),
    "lean/cme/minute/es/20251104_trade.zip": (False, "UTC", "open"),
    "mt5/US500_M5.csv": (False, None, "open"),
    "decimal_comma/ES_5m.csv": (True, None, None),
    "excel_serial/ES_5m.csv": (False, None, None),
    "gz/ES_5m.csv.gz": (True, None, None),
    "backtrader_split/ES.csv": (False, None, None),
    "close_stamped/ES_5m.csv": (True, None, None),
    "parquet_ts/ES_5m.parquet": (True, None, None),
    "feather/ES-5m.feather": (True, None, None),
}
WALL_ZONES = {"New York + 7 h": "Europe/Athens", "America/Chicago (exchange time)": "America/Chicago"}


def one(path: Path) -> FileRows:
    tables = read_tables(path)
    assert len(tables) == 1
    return tables[0]


def written_time(rows: FileRows, row: int, zone: str, stamp: str, interval_min: int) -> datetime:
    """UTC open of a row, if its times are those of `zone` and `stamp`."""
    time = pd.Timestamp(int(rows.time_ns[row]))
    instant = time.tz_localize("UTC") if rows.claim.instant else time.tz_localize(zone).tz_convert("UTC")
    return instant - pd.Timedelta(minutes=interval_min if stamp == "close" else 0)


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_an_invented_file_gives_its_bars_and_its_claim(name: str) -> None:
    rows, wanted = one(TWINS / name), EXPECTED[name]
    claim = rows.claim
    assert (claim.instant, claim.zone, claim.stamp) == CLAIMS[name]
    assert rows.volume_kind == ("ticks" if name.startswith("mt5") else "contracts")
    assert len(rows) == len(rows.prices) == len(rows.volume) == len(rows.instrument)
    if "bars" not in wanted or name.startswith("ninjatrader_hour_off"):
        assert np.isfinite(rows.prices).all()
        return
    said = wanted["file_zone"]
    zone = WALL_ZONES.get(said, said.split(" ")[0] if said[:3] in ("UTC", "Ame") else "UTC")
    assert len(rows) == wanted["bars"]
    for row, key in ((0, "first"), (-1, "last")):
        bar = wanted[key]
        assert rows.prices[row].tolist() == [bar["open"], bar["high"], bar["low"], bar["close"]]
        assert rows.volume[row] == bar["volume"]
        opened = written_time(rows, row, zone, wanted["stamps"], wanted["interval_min"])
        assert opened == pd.Timestamp(bar["open_utc"])


def test_a_tradingview_file_without_volume_is_told_to_show_it() -> None:
    with pytest.raises(BarDataError, match="put the Volume study on the chart before exporting"):
        read_tables(TWINS / "tradingview_novolume" / "CME_MINI_ES1!, 5.csv")


def test_rows_of_two_markets_keep_their_names() -> None:
    rows = one(TWINS / "two_markets" / "bars.csv")
    assert rows.instrument_names == ("NQZ5", "ESZ5")
    nq = rows.prices[rows.instrument == 0]
    assert len(nq) == 17
    assert (nq > 25_000).all()
    assert one(TWINS / "wrong_symbol" / "bars.csv").instrument_names == ("NQ",)


@pytest.mark.parametrize(
    ("name", "instrument"),
    [
        ("ninjatrader/ES 12-25.Last.txt", "ES 12-25"),
        ("sierra_utc/ESZ25-CME_5m.scid_BarData.txt", "ESZ25-CME"),
        ("tradestation/@ES_5min.txt", "@ES"),
        ("tradingview_epoch/CME_MINI_ES1!, 5.csv", "CME_MINI_ES1!"),
        ("polygon_json/ESZ5.json", "ESZ5"),
        ("lean/cme/minute/es/20251104_trade.zip", "ES202512"),
        ("two_markets/bars.csv", None),
        ("databento_raw/glbx-mdp3-20251104.ohlcv-5m.csv", None),
    ],
)
def test_a_file_name_says_its_instrument(name: str, instrument: str | None) -> None:
    assert one(TWINS / name).file_instrument == instrument


def test_a_folder_is_read_whole_and_a_readme_beside_the_bars_is_left_out(tmp_path: Path) -> None:
    for name in ("gz/ES_5m.csv.gz", "feather/ES-5m.feather"):
        (tmp_path / Path(name).name).write_bytes((TWINS / name).read_bytes())
    (tmp_path / "readme.txt").write_text("These are bars.\n", encoding="utf-8")
    tables = read_tables(tmp_path)
    assert [len(table) for table in tables] == [17, 17]
    assert any("readme.txt" in note for note in tables[0].notes)


def walk(n: int, interval_min: int, seed: int, start: str = "2025-11-03T14:00") -> BarsToWrite:
    """A random walk of quarter points."""
    rng = np.random.default_rng(seed)
    open_ns = np.datetime64(start, "ns").astype(np.int64) + np.arange(n) * interval_min * 60_000_000_000
    close = 27_400 + np.cumsum(rng.integers(-9, 10, n))
    opened = np.concatenate(([27_400], close[:-1])) + rng.integers(-1, 2, n)
    high = np.maximum(opened, close) + rng.integers(0, 4, n)
    low = np.minimum(opened, close) - rng.integers(0, 4, n)
    prices = np.column_stack([opened, high, low, close]) / 4
    return BarsToWrite(open_ns, prices, rng.integers(1, 9_000, n), interval_min)


def read_back(name: str, bars: BarsToWrite, container: str, folder: Path) -> list[FileRows]:
    dialect = DIALECTS[name]
    data = dialect.write(bars, dialect.zone, dialect.stamp)
    file = folder / dialect.file_name
    if name not in PACKED:
        data = compressed(data, container, dialect.file_name)
        file = file if container == "plain" else folder / f"{dialect.file_name}.{container}"
    file.write_bytes(data)
    return read_tables(file)


def assert_equal_to(tables: list[FileRows], name: str, bars: BarsToWrite) -> None:
    dialect = DIALECTS[name]
    times = np.concatenate([table.time_ns for table in tables])
    prices = np.concatenate([table.prices for table in tables])
    volume = np.concatenate([table.volume for table in tables])
    wanted = bars.stamps(dialect.stamp) if dialect.instant else bars.wall(dialect.zone, dialect.stamp).asi8
    np.testing.assert_array_equal(times, wanted)
    np.testing.assert_array_equal(prices, bars.prices)
    np.testing.assert_array_equal(volume, bars.volume if dialect.volume_kind != "none" else np.zeros(len(volume)))
    assert {table.claim.instant for table in tables} == {dialect.instant}
    assert {table.volume_kind for table in tables} == {dialect.volume_kind}


def needs(name: str) -> None:
    if name == "dbn":
        pytest.importorskip("databento_dbn", reason="reading DBN needs requirements-dbn.txt")


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_bars_of_a_week_read_back_equal(name: str, tmp_path: Path) -> None:
    needs(name)
    seed = sorted(DIALECTS).index(name)
    bars = walk(1_380, 5, seed, "2024-03-04T00:00")
    assert_equal_to(read_back(name, bars, CONTAINERS[seed % len(CONTAINERS)], tmp_path), name, bars)


@given(
    name=st.sampled_from(sorted(DIALECTS)),
    seed=st.integers(0, 10_000),
    n=st.integers(12, 200),
    interval=st.sampled_from([1, 5, 15]),
    container=st.sampled_from(CONTAINERS),
    day=st.dates(date(2008, 1, 1), date(2026, 12, 31)).filter(lambda day: day.day > 12),
)
def test_bars_written_in_any_dialect_read_back_equal(
    name: str, seed: int, n: int, interval: int, container: str, day: date, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # From the 13th on, a single day's date can be read in one way only.
    needs(name)
    bars = walk(n, interval, seed, f"{day}T14:00")
    assert_equal_to(read_back(name, bars, container, tmp_path_factory.mktemp("bars")), name, bars)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", ["firstrate", "sierra_dash", "parquet_zoned", "polygon_json", "json_lines"])
def test_a_name_with_the_wrong_ending_changes_nothing(name: str, container: str, tmp_path: Path) -> None:
    bars, dialect = walk(40, 5, 1), DIALECTS[name]
    file = tmp_path / "ES_5m.csv"
    file.write_bytes(compressed(dialect.write(bars, dialect.zone, dialect.stamp), container, "x.parquet"))
    assert_equal_to(read_tables(file), name, bars)


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_text_is_read_in_any_encoding_of_spreadsheets(codec: str, tmp_path: Path) -> None:
    bars = walk(40, 5, 2)
    text = DIALECTS["backtrader"].write(bars, "UTC", "open").decode()
    note = "# Preis in Währung" if codec != "utf-16-be" else ""
    (tmp_path / "ES.csv").write_bytes(f"{note}\n{text}".encode(codec))
    assert_equal_to(read_tables(tmp_path / "ES.csv"), "backtrader", bars)


@pytest.mark.parametrize("ending", ["Z", "-05:00", "+0000"])
def test_times_of_json_lines_keep_their_offset(ending: str, tmp_path: Path) -> None:
    lines = [
        f'{{"time":"2025-11-03T14:{k:02d}:00{ending}","open":1,"high":2,"low":0.5,"close":1.5,"volume":7}}'
        for k in range(9)
    ]
    (tmp_path / "ES.jsonl").write_text("\n".join(lines), encoding="utf-8")
    rows = one(tmp_path / "ES.jsonl")
    assert rows.claim.instant
    assert pd.Timestamp(int(rows.time_ns[0])).hour == (19 if ending == "-05:00" else 14)


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        ("datetime_utc", "UTC"),
        ("Gmt time", "UTC"),
        ("Time (UTC)", "UTC"),
        ("Time (UTC-5)", "Etc/GMT+5"),
        ("time GMT+02:00", "Etc/GMT-2"),
        ("Date (ET)", "America/New_York"),
        ("timestamp_ct", "America/Chicago"),
        ("datetime", None),
    ],
)
def test_a_time_columns_name_may_promise_a_zone(name: str, zone: str | None, tmp_path: Path) -> None:
    lines = [f"{name},open,high,low,close,volume", *(f"2025-11-03 14:{k:02d},1,2,0.5,1.5,7" for k in range(9))]
    (tmp_path / "bars.csv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    claim = one(tmp_path / "bars.csv").claim
    assert (claim.instant, claim.zone) == (False, zone)


@pytest.mark.parametrize("name", ["Root", "Market", "Symbol Name", "Underlying"])
def test_a_column_of_known_futures_names_the_rows_whatever_its_name(name: str, tmp_path: Path) -> None:
    lines = [
        f"2025-11-03 14:{k:02d},CME,6850,{6852 + k},6849,{6851 + k},{7 + k},{contract}"
        for k in range(9)
        for contract in ("ESZ5", "MESZ5", "CLZ5")
    ]
    header = f"time,Exchange,open,high,low,close,volume,{name}"
    (tmp_path / "bars.csv").write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    assert sorted(one(tmp_path / "bars.csv").instrument_names) == ["CLZ5", "ESZ5", "MESZ5"]
    (tmp_path / "bars.csv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    assert sorted(one(tmp_path / "bars.csv").instrument_names) == ["CLZ5", "ESZ5", "MESZ5"]
    comments = [lines[0], *(line.rpartition(",")[0] + "," for line in lines[1:])]
    for others in (comments, [line + "X" for line in lines]):
        (tmp_path / "bars.csv").write_text("\n".join([header, *others, ""]), encoding="utf-8")
        assert one(tmp_path / "bars.csv").instrument_names == ()


class TestSharedFiles:
    """Real vendors' files, where the project's sibling folder has them."""

    @pytest.fixture(autouse=True)
    def _needs_the_folder(self) -> None:
        if not SHARED.is_dir():
            pytest.skip("the sibling folder with real files is absent")

    @pytest.mark.parametrize(
        ("name", "rows", "instruments"),
        [
            ("ES_1m_2022_tradingview.csv", 13_560, ()),
            ("YM_1m_2022_tradingview.csv", 13_550, ()),
            ("ES_5m_2024_2026_ibkr.parquet", 151_420, ("ESH4", "ESM4")),
        ],
    )
    def test_a_real_file_has_its_rows(self, name: str, rows: int, instruments: tuple[str, ...]) -> None:
        table = one(SHARED / name)
        assert len(table) == rows
        assert table.claim.instant
        assert table.instrument_names[:2] == instruments
        assert np.isfinite(table.prices).all()

    def test_databentos_four_forms_of_the_same_hour_are_equal(self) -> None:
        pytest.importorskip("databento_dbn", reason="reading DBN needs requirements-dbn.txt")
        folder = SHARED / "databento"
        tables = [one(file) for file in sorted(folder.glob("glbx*.csv"))]
        tables.append(one(folder / "nautilus_futures_ohlcv-1m_2024-07-01T23-40_2024-07-02T00-10.dbn.zst"))
        assert len(tables) == 4
        for table in tables[1:]:
            np.testing.assert_array_equal(table.time_ns, tables[0].time_ns)
            np.testing.assert_array_equal(table.prices, tables[0].prices)
            np.testing.assert_array_equal(table.volume, tables[0].volume)
            np.testing.assert_array_equal(table.instrument, tables[0].instrument)
        names = sorted({table.instrument_names for table in tables})
        assert names == [("118", "4358"), ("ESU4", "NQU4")]

    @pytest.mark.parametrize(
        ("name", "symbols"),
        [
            ("databento-python_GLBX.ohlcv-1m.dbn.zst", {"ESH1"}),
            ("nautilus_futures_ohlcv-1m_2024-05-09T09-55_2024-05-09T10-05.dbn.zst", {"ESM4", "NQM4"}),
            ("nautilus_futures_ohlcv-1m_2026-01-09T20-55_2026-01-09T21-05.dbn.zst", {"ESH6"}),
        ],
    )
    def test_a_real_dbn_file_names_its_instruments(self, name: str, symbols: set[str]) -> None:
        pytest.importorskip("databento_dbn", reason="reading DBN needs requirements-dbn.txt")
        table = one(SHARED / "databento" / name)
        assert set(table.instrument_names) == symbols
        assert (table.prices > 1_000).all()
