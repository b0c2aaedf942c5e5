"""The ledger: what is saved is read again, and anything else in its place is told as that."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import EXIT_BAD_INPUT, UserError
from src.runs.ledger import Ledger, PhaseEntry, TaskEntry, differences, seal
from src.runs.run_files import FileFacts

NAMES = ("phase1", "phase2", "phase3")

texts = st.text(st.characters(codec="utf-8"), max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
statuses = st.sampled_from(["pending", "running", "done", "failed", "timed_out", "interrupted"])
tasks = st.dictionaries(
    texts,
    st.builds(
        TaskEntry,
        status=statuses,
        inputs=st.dictionaries(texts, texts, max_size=4),
        tries=st.integers(0, 1000),
        failures=st.lists(texts, max_size=3),
    ),
    max_size=3,
)
entries = st.builds(
    PhaseEntry,
    status=statuses,
    timesteps=st.dictionaries(texts, st.integers(0, 10**12), max_size=3),
    seconds=numbers,
    tries=st.integers(0, 1000),
    failures=st.lists(texts, max_size=3),
    torch_threads=st.none() | st.integers(1, 1024),
    memory_before=st.dictionaries(texts, numbers, max_size=3),
    memory_after=st.dictionaries(texts, numbers, max_size=3),
    gpu_utilization=st.none() | numbers,
    cpu_percent=st.none() | numbers,
    not_bitwise=st.lists(texts, max_size=3),
)


def ledger_of(folder: Path, *phases: PhaseEntry) -> Ledger:
    ledger = Ledger(folder, NAMES)
    ledger.phases.update(zip(NAMES, phases, strict=False))
    return ledger


@given(st.tuples(entries, entries, entries), tasks, st.none() | st.sampled_from(["torch", "numpy"]), st.integers(0, 2))
def test_what_is_saved_is_read_again(
    tmp_path_factory: pytest.TempPathFactory,
    phases: tuple[PhaseEntry, PhaseEntry, PhaseEntry],
    tasks: dict[str, TaskEntry],
    products: Any,
    n_files: int,
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    ledger = ledger_of(folder, *phases)
    ledger.tasks, ledger.products = tasks, products
    ledger.files = {f"file-{n}": FileFacts(size=n, sha256=f"{n:064x}") for n in range(n_files)}
    ledger.save()
    again = Ledger.read(folder, NAMES)
    assert again.phases == dict(zip(NAMES, phases, strict=True))
    assert (again.tasks, again.products, again.files) == (tasks, products, ledger.files)
    assert [path.name for path in folder.iterdir()] == ["ledger.json"]


def test_a_new_ledger_has_every_phase_pending(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, NAMES)
    assert list(ledger.phases) == list(NAMES)
    assert {entry.status for entry in ledger.phases.values()} == {"pending"}
    assert not ledger.path.exists(), "nothing is written before it is saved"


# In its place


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        Ledger.read(folder, NAMES)
    assert error.value.exit_code == EXIT_BAD_INPUT
    text = str(error.value)
    assert str(folder / "ledger.json") in text
    assert "Leave out --auto-resume and --start-phase to begin a new run." in text
    assert "\n" not in text
    return text


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a ledger."""
    ledger = ledger_of(tmp_path, PhaseEntry(status="done", timesteps={"base, seed 0": 128}))
    ledger.tasks["members/seed-0/base"] = TaskEntry(status="done", inputs={"bars": "x"}, tries=1)
    ledger.save()
    return tmp_path


def change(folder: Path, alter: Any) -> None:
    path = folder / "ledger.json"
    content = json.loads(path.read_text())
    alter(content)
    content["sha256"] = seal(content)  # so that its shape is what is refused, not its SHA-256
    path.write_text(json.dumps(content))


def test_one_that_is_missing(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path)


def test_a_folder_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "ledger.json").mkdir()
    refused(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"nothing", b"[]", b"null", b"{}", b"[" * 100_000, b'{"format": 1}', b'{"phases": {}}'],
    ids=lambda raw: repr(raw[:12]),
)
def test_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ledger.json").write_bytes(content)
    refused(tmp_path)


def test_one_of_an_earlier_version_says_so(saved: Path) -> None:
    change(saved, lambda content: content.update(format=1))
    assert "an earlier version of the toolkit wrote it" in refused(saved)


def test_one_whose_content_was_changed_by_hand(saved: Path) -> None:
    path = saved / "ledger.json"
    path.write_text(path.read_text().replace('"tries": 1', '"tries": 2'))
    assert "it was changed: its content differs from its own SHA-256" in refused(saved)


@pytest.mark.parametrize(
    "alter",
    [
        lambda content: content.update(format=3),
        lambda content: content.update(more=1),
        lambda content: content["phases"].pop("phase2"),
        lambda content: content["phases"].update(phase4=content["phases"]["phase1"]),
        lambda content: content["phases"]["phase1"].update(status="finished"),
        lambda content: content["phases"]["phase1"].update(more=1),
        lambda content: content["phases"]["phase1"].update(seconds=None),
        lambda content: content["tasks"]["members/seed-0/base"].update(inputs={"bars": None}),
        lambda content: content["tasks"]["members/seed-0/base"].update(more=1),
        lambda content: content["tasks"]["members/seed-0/base"].update(status="finished"),
        lambda content: content.update(products="none such"),
    ],
)
def test_one_of_another_shape(saved: Path, alter: Any) -> None:
    change(saved, alter)
    refused(saved)


def test_one_cut_short_anywhere(saved: Path) -> None:
    path = saved / "ledger.json"
    raw = path.read_bytes()
    for length in range(len(raw) - 2):  # without its last line break it is whole
        path.write_bytes(raw[:length])
        refused(saved)


@given(st.data())
def test_whatever_bytes_change_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    ledger_of(folder, PhaseEntry(status="done", timesteps={"bars": 1}, seconds=1.5)).save()
    path = folder / "ledger.json"
    was = path.read_bytes()
    raw = bytearray(was)
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
        raw[at] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        ledger = Ledger.read(folder, NAMES)
    except UserError:
        return
    assert json.loads(raw) == json.loads(was), "only a changed space changes nothing"
    assert set(ledger.phases) == set(NAMES)


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_disk_that_is_full_leaves_what_was_there(saved: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    was = (saved / "ledger.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, where, full)
        with pytest.raises(UserError, match=r"No space left on device.*Free space on that disk.*--auto-resume"):
            ledger_of(saved, PhaseEntry(status="failed")).save()
    assert (saved / "ledger.json").read_bytes() == was


# What it says


inputs = st.dictionaries(st.sampled_from("abcde"), st.sampled_from(["0.1", "0.2", "none"]))


@given(inputs, inputs)
def test_differences_name_every_key_that_differs_with_both_values(was: dict[str, str], now: dict[str, str]) -> None:
    found = differences(was, now)
    for key in "abcde":
        sentence = f"{key} was {was.get(key, 'not there')}, is {now.get(key, 'not there')}"
        assert (sentence in found) == (was.get(key) != now.get(key))
    assert len(found) == sum(was.get(key) != now.get(key) for key in "abcde")
    assert found == sorted(found)
