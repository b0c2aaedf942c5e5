"""Damaged and hostile files: one paragraph, at once, before memory is spent; no bar that was not there."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from src.errors import BarDataError
from src.market.files.rows import NO_TIME
from tests.market.files.fuzz import fuzz
from tests.market.files.stored_tables import read_tables
from tests.market.files.test_dialects import needs, one, walk
from tests.market.files.writers import DIALECTS, compressed, zipped

MIB = 1 << 20


def refused(path: Path) -> str:
    with pytest.raises(BarDataError) as caught:
        read_tables(path)
    words = str(caught.value)
    assert "\n" not in words
    return words


def written(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def plain(name: str = "iso_utc", n: int = 60) -> bytes:
    dialect = DIALECTS[name]
    return dialect.write(walk(n, 5, 3), dialect.zone, dialect.stamp)


def test_damaged_files_give_the_error_and_no_invented_bar(tmp_path: Path) -> None:
    tally = fuzz(200, 7, tmp_path)
    assert not tally.failures
    assert any(outcome.endswith("refused") for outcome in tally.outcomes)
    assert any("read in part" in outcome for outcome in tally.outcomes)


@pytest.mark.parametrize("container", ["gz", "zst", "zip"])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(container: str, tmp_path: Path) -> None:
    nothing = b"0" * (100 * MIB)
    file = written(tmp_path, f"ES.csv.{container}", compressed(nothing, container))
    del nothing
    tracemalloc.start()
    arrow = pa.total_allocated_bytes()
    words = refused(file)
    assert "decompression bomb" in words
    assert tracemalloc.get_traced_memory()[1] < 100 * MIB
    tracemalloc.stop()
    assert pa.total_allocated_bytes() - arrow < 70 * MIB


def test_a_zip_that_lies_about_its_members_length_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped({"ES.csv": b"0" * (8 * MIB)}))
    for place in (data.index(b"PK\x03\x04") + 22, data.index(b"PK\x01\x02") + 24):
        data[place : place + 4] = struct.pack("<I", 1_000)
    assert refused(written(tmp_path, "ES.zip", bytes(data)))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("inner.zip", zipped({"inner.zip": zipped({"ES.csv": b"x"})})),
        ("twice.csv.gz", gzip.compress(gzip.compress(b"x"))),
        ("zip.gz", gzip.compress(zipped({"ES.csv": b"x"}))),
    ],
    ids=["zip in zip", "gz in gz", "zip in gz"],  # archives hold the time, and so would names made of their bytes
)
def test_an_archive_inside_an_archive_is_refused(name: str, data: bytes, tmp_path: Path) -> None:
    assert "archive inside an archive" in refused(written(tmp_path, name, data))


def test_a_protected_archive_says_so(tmp_path: Path) -> None:
    data = bytearray(zipped({"ES.csv": plain()}))
    data[data.index(b"PK\x03\x04") + 6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    assert "password" in refused(written(tmp_path, "ES.zip", bytes(data)))


def test_a_parquet_file_of_a_billion_rows_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "ES.parquet"
    nothing = pa.table({"open": pa.nulls(60 * MIB, pa.float64())})
    pyarrow.parquet.write_table(nothing, file, row_group_size=60 * MIB)
    assert file.stat().st_size < MIB
    started = time.monotonic()
    assert "62,914,560 rows" in refused(file)
    assert time.monotonic() - started < 2


def test_json_nested_without_end_is_refused(tmp_path: Path) -> None:
    assert "levels deep" in refused(written(tmp_path, "ES.json", b"[" * 100_000))
    assert "levels deep" in refused(written(tmp_path, "ES2.json", b'{"results":' * 90_000))


@pytest.mark.parametrize("length", [0xFFFF_FFFF, 100_000, 0, 40])
def test_a_dbn_header_that_lies_about_its_length_is_refused(length: int, tmp_path: Path) -> None:
    needs("dbn")
    data = bytearray(plain("dbn"))
    data[4:8] = struct.pack("<I", length)
    assert "DBN" in refused(written(tmp_path, "ES.dbn", bytes(data)))


def test_a_dbn_file_of_trades_says_what_to_download(tmp_path: Path) -> None:
    needs("dbn")
    import databento_dbn

    head = databento_dbn.Metadata(
        "GLBX.MDP3", 0, databento_dbn.SType.RAW_SYMBOL, databento_dbn.SType.INSTRUMENT_ID, databento_dbn.Schema.TRADES
    ).encode()
    assert "ohlcv-1m" in refused(written(tmp_path, "ES.dbn", bytes(head) + bytes(48)))


def test_without_databento_dbn_a_dbn_file_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "databento_dbn", None)
    words = refused(written(tmp_path, "ES.dbn", b"DBN\x03" + bytes(200)))
    assert "pip install -r requirements-dbn.txt" in words


class _Bang:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)

    marker = ""


def test_reading_a_file_never_runs_code_from_it(tmp_path: Path) -> None:
    _Bang.marker = str(tmp_path / "ran")
    assert "pickle" in refused(written(tmp_path, "ES.csv", pickle.dumps(_Bang())))
    storage = pa.array([pickle.dumps(_Bang())] * 3, pa.binary())
    field = pa.field("open", storage.type, metadata={
        b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(_Bang())
    })  # fmt: skip
    sink = io.BytesIO()
    table = pa.table([storage, pa.array(["a"] * 3)], pa.schema([field, pa.field("time", pa.string())]))
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert refused(written(tmp_path, "ES.feather", sink.getvalue()))
    assert not (tmp_path / "ran").exists()


def test_pipes_devices_and_loops_of_links_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "a.csv").symlink_to(tmp_path / "b.csv")
    (tmp_path / "b.csv").symlink_to(tmp_path / "a.csv")
    assert "named pipe" in refused(tmp_path / "pipe.csv")
    assert "device" in refused(Path("/dev/zero"))
    assert "cannot be read" in refused(tmp_path / "a.csv")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "again").symlink_to(tmp_path / "folder")
    assert "no file of bars" in refused(tmp_path / "folder")
    assert "does not exist" in refused_link(tmp_path)


def refused_link(folder: Path) -> str:
    (folder / "gone.csv").symlink_to(folder / "nothing.csv")
    return refused(folder / "gone.csv")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"<!DOCTYPE html><html>Please log in</html>", "web page"),
        (b"SCID\x38\x00\x00\x00", "Export Bar and Study Data"),
        (b"\x00\x01\x02\x03" * 40, "not text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (zipped({"[Content_Types].xml": b"<x/>", "xl/workbook.xml": b"<x/>"}), "Excel workbook"),
        (b"datetime,open,high,low,close,volume\n", "no bars"),
        (b'{"status": "ERROR", "error": "Unknown API Key"}', "Unknown API Key"),
        (b"Dear trader,\nplease find the bars attached.\n", "not a table"),
        (b"date,open,high,low,close,volume\n20251103,1,2,0.5,1.5,7\n20251104,1,2,0.5,1.5,7\n", "daily bars"),
        (b"when,open,high,low,close,volume\n" + b"soon,1,2,0.5,1.5,7\n" * 9, "none of the 9 times can be read"),
        (b"date,open,high,low,close,volume\n" + b"03/04/2025 10:00,1,2,0.5,1.5,7\n" * 9, "day/month or month/day"),
        (b"date;open;high;low;close;volume\n" + b"2025-03-04 10:00;6,850;6,851;6,849;6,850;2\n" * 9, "decimal mark"),
        (b"date,open,high,low,close,close,volume\n" + b"2025-03-04 10:00,1,2,0.5,1.5,1,7\n" * 9, "occurs twice"),
        (b"date,open,high,low,close,volume\n" + b"2025-03-04 10:00,6,851,6,852,6,849,6,850,7\n" * 9, "have 10 cells"),
        (b"date,open,high,low,close,volume\n" + b"2025-03-04 10:00,1,2,0.5,1.5,7,9\n" * 9, "rows have 7 cells"),
        (b"date,open,high,volume,n,m\n" + b"2025-03-04 10:00,1,2,0.5,1.5,7\n" * 9, "columns missing: low, close"),
        (b"2025-03-04 10:00,50,51,52,53,1\n2025-03-04 10:05,53,52,51,50,1\n" * 9, "the order of the four"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_bars_is_refused_for_its_own_reason(data: bytes, words: str, tmp_path: Path) -> None:
    assert words in refused(written(tmp_path, "ES.csv", data))


def test_lines_that_are_no_rows_are_noted_and_a_damaged_row_stays_as_an_empty_one(tmp_path: Path) -> None:
    lines = plain("backtrader", 40).decode().splitlines()
    head, rows = lines[0], lines[1:]
    rows[10] = rows[10].rsplit(",", 3)[0]
    text = ["# made by hand", head, *rows[:20], "", head, *rows[20:], rows[0][:25]]
    table = one(written(tmp_path, "ES.csv", "\n".join(text).encode()))
    assert len(table) == 40
    assert np.flatnonzero(table.time_ns == NO_TIME).tolist() == [] or table.time_ns[10] == NO_TIME
    assert np.isnan(table.prices[10]).all()
    assert np.isfinite(np.delete(table.prices, 10, axis=0)).all()
    notes = " ".join(table.notes)
    for word in ("comment", "repeated header rows", "incomplete last line", "1 rows do not have 8 cells"):
        assert word in notes


@pytest.mark.parametrize(("real", "kind"), [(1, "ticks"), (60, "contracts")])
def test_metatrader_counts_contracts_only_where_most_bars_have_real_volume(
    real: int, kind: str, tmp_path: Path
) -> None:
    lines = plain("mt5", 60).decode().splitlines()
    lines[1 : 1 + real] = [line.replace("\t0\t1", "\t55\t1") for line in lines[1 : 1 + real]]
    rows = one(written(tmp_path, "ES.csv", "\n".join([*lines, ""]).encode()))
    assert rows.volume_kind == kind
    assert rows.volume[20] == (walk(60, 5, 3).volume[20] if kind == "ticks" else 55)


def test_damaged_cells_change_neither_which_column_is_the_volume_nor_whose_clock_is_read(tmp_path: Path) -> None:
    lines = plain("iqfeed", 60).decode().splitlines()
    for row in (3, 9, 20, 33, 47):
        cells = lines[row].split(",")
        lines[row] = ",".join((*cells[:5], cells[5][:1] + "#" + cells[5][2:], *cells[6:]))
    rows = one(written(tmp_path, "ES.csv", "\n".join([*lines, ""]).encode()))
    np.testing.assert_array_equal(rows.volume, walk(60, 5, 3).volume)
    lines = plain("algoseek", 60).decode().splitlines()
    for row in (5, 6):
        lines[row] = lines[row].replace("00000,", "0p000,", 1)
    rows = one(written(tmp_path, "ES.csv", "\n".join([*lines, ""]).encode()))
    assert rows.claim.zone == "UTC"
    assert rows.time_ns[0] == walk(60, 5, 3).open_ns[0]
    lines[0] = lines[0].replace("UTCTime", "UTCTiem")
    rows = one(written(tmp_path, "ES.csv", "\n".join([*lines, ""]).encode()))
    assert rows.claim.zone is None


def test_an_index_without_a_name_in_the_header_is_seen(tmp_path: Path) -> None:
    rows = [line.split(",") for line in plain("iso_utc", 20).decode().splitlines()[1:]]
    numbered = ["Date,Open,High,Low,Close,Volume", *(f"{k},{','.join(row)}" for k, row in enumerate(rows)), ""]
    timed = ["Open,High,Low,Close,Volume", *(",".join(row) for row in rows), ""]
    for lines in (numbered, timed):
        table = one(written(tmp_path, "ES.csv", "\n".join(lines).encode()))
        np.testing.assert_array_equal(table.prices, walk(20, 5, 3).prices)
        np.testing.assert_array_equal(table.time_ns, walk(20, 5, 3).open_ns)


def test_a_price_cut_off_at_the_end_of_the_file_is_not_read(tmp_path: Path) -> None:
    text = "date,volume,open,high,low,close\n" + "".join(
        f"2025-03-04 10:{minute:02d},7,6850.25,6851.25,6849.5,6850.75\n" for minute in range(9)
    )
    assert len(one(written(tmp_path, "ES.csv", text.rstrip("\n").encode()))) == 9
    cut = one(written(tmp_path, "ES.csv", text[:-2].encode()))
    assert len(cut) == 8
    assert any("may be truncated" in note for note in cut.notes)
    volumes = plain().rstrip(b"\n")
    assert len(one(written(tmp_path, "ES.csv", volumes))) == 59
    assert len(one(written(tmp_path, "ES.csv", volumes + b"\n"))) == 60


def test_several_instruments_side_by_side_become_one_table_each(tmp_path: Path) -> None:
    times = pd.date_range("2025-11-03 14:30", periods=20, freq="5min", tz="UTC")
    columns = pd.MultiIndex.from_product([["Close", "High", "Low", "Open", "Volume"], ["ES=F", "NQ=F"]])
    values = np.tile([[6850.5, 25_000.5, 6851, 25_001, 6849, 24_999, 6850, 25_000, 100, 50]], (20, 1))
    frame = pd.DataFrame(values, index=pd.Index(times, name="Datetime"), columns=columns)
    frame.iloc[3, 1::2] = np.nan
    for order in (frame, frame.swaplevel(axis=1).sort_index(axis=1)):
        file = tmp_path / "yahoo.csv"
        order.to_csv(file)
        tables = {table.instrument_names[0]: table for table in read_tables(file)}
        assert set(tables) == {"ES=F", "NQ=F"}
        assert tables["ES=F"].prices[0].tolist() == [6850, 6851, 6849, 6850.5]
        assert tables["NQ=F"].prices[0].tolist() == [25_000, 25_001, 24_999, 25_000.5]
        assert (len(tables["ES=F"]), len(tables["NQ=F"])) == (20, 19)


def test_json_by_symbol_and_yahoos_chart_are_read(tmp_path: Path) -> None:
    records = [
        {"t": f"2025-11-03T14:{minute:02d}:00Z", "o": 1.0, "h": 2.0, "l": 0.5, "c": 1.5, "v": 7} for minute in range(9)
    ]
    by_symbol = written(tmp_path, "a.json", json.dumps({"bars": {"ESZ5": records, "NQZ5": records}}).encode())
    assert [table.file_instrument for table in read_tables(by_symbol)] == ["ESZ5", "NQZ5"]
    quote = {name: [1.0 + k] * 9 for k, name in enumerate(("low", "open", "close", "high"))} | {"volume": [5] * 9}
    chart = {"meta": {"symbol": "ES=F"}, "timestamp": list(range(1_762_180_200, 1_762_182_900, 300))}
    chart["indicators"] = {"quote": [quote]}
    table = one(written(tmp_path, "b.json", json.dumps({"chart": {"result": [chart], "error": None}}).encode()))
    assert table.file_instrument == "ES=F"
    assert table.prices[0].tolist() == [2, 4, 1, 3]


def test_a_members_of_a_zip_are_all_read_and_hidden_ones_left_out(tmp_path: Path) -> None:
    names = ("ESZ5.csv", "NQZ5.csv", "__MACOSX/ESZ5.csv", ".hidden.csv", "notes/readme.txt")
    with zipfile.ZipFile(tmp_path / "both.zip", "w") as archive:
        for name in names:
            archive.writestr(name, plain() if name[0] in "EN" else b"nothing")
    tables = read_tables(tmp_path / "both.zip")
    assert [table.file_instrument for table in tables] == ["ESZ5", "NQZ5"]
