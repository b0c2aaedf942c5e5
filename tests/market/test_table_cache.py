"""The cache of tables: the same bits with and without it, and no fault of it ends a run or is believed."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from src.market import load, table_cache
from src.market.files.reading import Candidate, ClockReading, Finding, MarketReading, Reading, Roll
from src.market.load import load_market
from src.market.settings import DataSettings
from src.market.table_cache import FOLDER_VARIABLE, MANIFEST, TableCache
from src.market.tables import MarketTables
from tests.market.bar_makers import bar_table, scheduled_slots, walk_bars, write_csv

BARS = walk_bars(scheduled_slots(4, 15), interval_min=15)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache in which files of any size are kept."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(table_cache, "WORTH_BYTES", 0)
    return tmp_path / "cache"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_csv(bar_table(BARS), tmp_path / "ES.csv")


@pytest.fixture(scope="module")
def tables() -> MarketTables:
    return load.build_tables(BARS, DataSettings(), trading_hours="rth")


def tables_of(path: Path, hours: str = "rth", **options: object) -> MarketTables:
    return load_market(DataSettings(path=path, **options), "ES", trading_hours=hours, seed=0)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def made(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every path that is read from now on."""
    seen: list[Path] = []
    real = load.load_bars

    def recorded(path: Path, *args: object, **options: object) -> object:
        seen.append(path)
        return real(path, *args, **options)

    monkeypatch.setattr(load, "load_bars", recorded)
    return seen


def assert_same(one: MarketTables, other: MarketTables) -> None:
    for before, after in ((one, other), (one.bars, other.bars), (one.sessions, other.sessions)):
        for column in fields(before):
            first, second = getattr(before, column.name), getattr(after, column.name)
            if isinstance(first, np.ndarray):
                assert (first.dtype, first.shape, first.tobytes()) == (second.dtype, second.shape, second.tobytes())
                assert not second.flags.writeable
                assert second.flags.c_contiguous
                assert type(second) is np.ndarray
            elif column.name not in ("bars", "sessions"):
                assert first == second
                assert type(first) is type(second)


def test_tables_from_the_cache_are_those_of_the_file_bit_by_bit(folder, path, monkeypatch):
    plain = tables_of(path)
    read = made(monkeypatch)
    again = tables_of(path)
    assert not read
    assert_same(plain, again)
    assert len(entries(folder)) == 1


def test_what_was_said_of_the_file_comes_back_too(folder, tables):
    candidate = Candidate("America/Chicago", "open", 5_688, 0, 3.4)
    reading = Reading(
        files=("ES.csv",),
        dialects=("a CSV",),
        clocks=(ClockReading("America/Chicago", "open", "bars", candidate, (candidate, candidate), "read as ..."),),
        market=MarketReading("ES", "rows", (("NQ", 17),), "ES by its rows"),
        rolls=(Roll("2025-12-12", "ESZ5", "ESH6", 12.25, "contracts"),),
        findings=(Finding("off-tick price", "repaired", 3, "row 2", "rounded"),),
        notes=("a note",),
    )
    told = replace(tables, bars=replace(tables.bars, reading=reading))
    TableCache(folder).store("key", told)
    kept = TableCache(folder).load("key")
    assert kept is not None
    assert kept.bars.reading == reading
    assert_same(told, kept)


@pytest.mark.parametrize(
    "change",
    [
        {"interval_min": 15, "max_hole_bars": 7},
        {"no_trade_bars": 3},
        {"repair": True},
        {"adjusted": "accept"},
        {"hours": "globex"},
    ],
)
def test_every_choice_has_its_own_entry(folder, path, change):
    tables_of(path)
    tables_of(path, **change)
    assert len(entries(folder)) == 2


def test_the_choices_that_only_split_sessions_share_an_entry(folder, path):
    tables_of(path)
    tables_of(path, train_frac=0.5, embargo_sessions=0)
    assert len(entries(folder)) == 1


def test_a_changed_file_of_the_same_size_and_time_is_read(folder, path, monkeypatch):
    before = tables_of(path)
    times = os.stat(path)
    text = path.read_text().rstrip()
    path.write_text(text[:-1] + ("2" if text[-1] == "1" else "1") + "\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert os.stat(path).st_size == times.st_size
    after = tables_of(path)
    assert after.bars.fingerprint != before.bars.fingerprint
    assert len(entries(folder)) == 2


def test_a_file_that_changes_while_it_is_read_is_not_kept(folder, path, monkeypatch):
    real = load.load_bars

    def changed_before(*args: object, **options: object) -> object:
        path.write_bytes(path.read_bytes() + b"\n")
        return real(*args, **options)

    monkeypatch.setattr(load, "load_bars", changed_before)
    tables_of(path)
    assert entries(folder) == []


def test_other_source_code_or_another_calendar_has_its_own_entry(folder, path, monkeypatch, tmp_path):
    tables_of(path)
    monkeypatch.setattr(table_cache, "_code_version", lambda: "other")
    tables_of(path)
    calendar = tmp_path / "calendar.yaml"
    calendar.write_bytes(table_cache.OVERRIDES_FILE.read_bytes() + b"\n# later\n")
    monkeypatch.setattr(table_cache, "OVERRIDES_FILE", calendar)
    tables_of(path)
    assert len(entries(folder)) == 3


def test_the_code_version_covers_every_file_of_the_room(tmp_path, monkeypatch):
    room = tmp_path / "market"
    shutil.copytree(table_cache._ROOM, room, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(table_cache, "_ROOM", room)
    plain = table_cache._code_version.__wrapped__()
    deep = room / "files" / "reading.py"
    deep.write_text(deep.read_text() + "\n")
    assert table_cache._code_version.__wrapped__() != plain


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])


def other_figures(entry: Path) -> None:
    manifest = json.loads((entry / MANIFEST).read_text())
    manifest["content"] = manifest["content"].replace('"interval_s": 900', '"interval_s": 300')
    (entry / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: flipped(entry / "window.npy"),
        lambda entry: flipped(entry / "sessions-usable.npy"),
        lambda entry: cut(entry / "bars-close.npy"),
        lambda entry: (entry / "context.npy").unlink(),
        lambda entry: cut(entry / MANIFEST),
        lambda entry: (entry / MANIFEST).write_text("[]"),
        lambda entry: (entry / MANIFEST).unlink(),
        other_figures,
    ],
)
def test_a_damaged_entry_is_not_believed_and_makes_way(folder, tables, damage: Callable[[Path], None]):
    cache = TableCache(folder)
    cache.store("key", tables)
    damage(folder / "key")
    assert cache.load("key") is None
    assert entries(folder) == []
    cache.store("key", tables)
    kept = cache.load("key")
    assert kept is not None
    assert_same(tables, kept)


def test_a_cache_that_cannot_be_written_costs_one_warning_and_no_run(folder, tables, caplog):
    folder.write_text("a file in the folder's place")
    cache = TableCache(folder)
    assert cache.load("key") is None
    cache.store("key", tables)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert FOLDER_VARIABLE in warnings[0]


def test_a_full_disk_leaves_nothing_behind(folder, tables, monkeypatch, caplog):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table_cache.np.lib.format, "write_array", full)
    TableCache(folder).store("key", tables)
    assert "No space left" in caplog.text
    assert entries(folder) == []


def test_the_cache_can_be_switched_off_and_small_files_are_not_kept(folder, path, monkeypatch):
    monkeypatch.setattr(table_cache, "WORTH_BYTES", path.stat().st_size + 1)
    tables_of(path)
    monkeypatch.setattr(table_cache, "WORTH_BYTES", 0)
    monkeypatch.setenv(FOLDER_VARIABLE, "off")
    tables_of(path)
    assert entries(folder) == []


def test_the_entry_used_longest_ago_makes_room(folder, tables, monkeypatch):
    cache = TableCache(folder)
    for key in ("a", "b", "c"):
        cache.store(key, tables)
        for entry in entries(folder):
            manifest = entry / MANIFEST
            os.utime(manifest, (0, manifest.stat().st_mtime - 100))
    assert cache.load("a") is not None, "the oldest is used again"
    size = sum(file.stat().st_size for file in (folder / "a").iterdir())
    monkeypatch.setattr(table_cache, "MOST_BYTES", int(3.5 * size))
    cache.store("d", tables)
    assert [entry.name for entry in entries(folder)] == ["a", "c", "d"]


def test_what_a_killed_process_left_is_removed_after_a_day(folder, tables):
    abandoned, fresh = folder / ".part-old", folder / ".part-new"
    for partial in (abandoned, fresh):
        partial.mkdir(parents=True)
    os.utime(abandoned, (0, 0))
    TableCache(folder).store("key", tables)
    assert not abandoned.exists()
    assert fresh.exists()


def test_processes_that_store_the_same_entry_at_once_all_end_with_it(folder, tables):
    cache = TableCache(folder)
    failed: list[BaseException] = []

    def store_and_load() -> None:
        try:
            for _ in range(3):
                cache.store("key", tables)
                kept = cache.load("key")
                assert kept is not None
                assert_same(tables, kept)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=store_and_load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert [entry.name for entry in entries(folder)] == ["key"]
