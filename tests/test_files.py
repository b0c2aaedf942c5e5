"""Files that are there whole or not at all, and used by one process at a time."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import stat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from filelock import FileLock, Timeout
from hypothesis import given
from hypothesis import strategies as st

from src.files import alone, keep_aside, read_regular, regular_only, write_atomically, write_json


@pytest.mark.parametrize(("content", "raw"), [("naïve\n", b"na\xc3\xafve\n"), (b"\x00\xff", b"\x00\xff")])
def test_text_and_bytes_are_written_as_they_are(content: str | bytes, raw: bytes, tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == raw


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    write_atomically(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new and longer")
    assert path.read_text() == "old"
    monkeypatch.undo()
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    assert stat.S_ISREG(path.stat().st_mode)


def test_content_is_on_the_disk_before_its_name_is_and_the_name_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        order.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "content")
        sync(handle)

    def renamed(old: Path, new: Path) -> None:
        order.append("name")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write_atomically(tmp_path / "file", "text")
    assert order == ["content", "name", "folder"]


def test_what_is_kept_aside_takes_no_name_that_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    kept = []
    for round_ in range(3):
        path.write_text(str(round_))
        Path(f"{path}-wal").write_text(f"wal {round_}")
        kept.append(keep_aside(path))
    assert not path.exists()
    assert [aside.read_text() for aside in kept] == ["0", "1", "2"]
    assert [Path(f"{aside}-wal").read_text() for aside in kept] == ["wal 0", "wal 1", "wal 2"]


def _try_lock(path: str, answers: multiprocessing.Queue[bool]) -> None:
    try:
        with FileLock(f"{path}.lock", timeout=0.05):
            answers.put(True)
    except Timeout:
        answers.put(False)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()

    def another_gets_in() -> bool:
        process = context.Process(target=_try_lock, args=(str(tmp_path / "ledger"), answers))
        process.start()
        got = answers.get(timeout=60)
        process.join()
        return got

    with alone(tmp_path / "ledger"):
        assert not another_gets_in()
    assert another_gets_in()


# What is no file


@pytest.mark.parametrize("name", ["file", ".file.part"])
def test_a_link_or_pipe_of_a_files_name_is_replaced_and_not_written_through(name: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "run").mkdir()
    for plant in (lambda path: path.symlink_to(outside), os.mkfifo, lambda path: path.symlink_to(tmp_path / "nowhere")):
        plant(tmp_path / "run" / name)
        write_atomically(tmp_path / "run" / "file", "text")
        assert outside.read_text() == "mine"
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["file"]
        assert read_regular(tmp_path / "run" / "file") == b"text"
        (tmp_path / "run" / "file").unlink()
    assert not (tmp_path / "nowhere").exists()


def test_a_device_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", lambda *_: pytest.fail("root would lose its null device"))
    with pytest.raises(OSError, match="it is a device, not a file"):
        write_atomically(Path("/dev/null"), "text")


def test_a_folder_of_a_files_name_is_kept_aside(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "mine").write_text("mine")
    write_atomically(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"
    (aside,) = tmp_path.glob("file.damaged-*")
    assert (aside / "mine").read_text() == "mine"


@pytest.mark.parametrize("mode", ["rb", "ab", "wb"])
@pytest.mark.parametrize("what", ["a symlink", "a named pipe", "a folder", "a device"])
def test_nothing_but_a_file_is_opened_and_nothing_waited_for(what: str, mode: str, tmp_path: Path) -> None:
    path = tmp_path / "odd"
    {
        "a symlink": lambda: path.symlink_to(tmp_path / "nowhere"), "a named pipe": lambda: os.mkfifo(path),
        "a folder": path.mkdir, "a device": lambda: None,
    }[what]()  # fmt: skip
    path = Path("/dev/null") if what == "a device" else path
    with pytest.raises(OSError, match=f"it is {what}, not a file"), open(path, mode, opener=regular_only):
        pytest.fail("it is no file")
    assert not (tmp_path / "nowhere").exists()


def test_a_pipe_in_place_of_a_shared_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "store")
    with pytest.raises(OSError, match="it is a named pipe, not a file"), alone(tmp_path / "store"):
        pytest.fail("it is no file")


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
values = st.recursive(scalars, lambda of: st.lists(of, max_size=4) | st.dictionaries(st.text(), of, max_size=4))


@given(st.dictionaries(st.text(), values, max_size=5))
def test_json_is_that_of_pythons_own_writer_with_null_for_what_json_has_not(content: dict[str, Any]) -> None:
    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: finite(item) for key, item in value.items()}
        if isinstance(value, list):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    with TemporaryDirectory() as folder:
        write_json(Path(folder) / "x.json", content)
        written = (Path(folder) / "x.json").read_text(encoding="utf-8")
    assert written == f"{json.dumps(finite(content), indent=2)}\n"
