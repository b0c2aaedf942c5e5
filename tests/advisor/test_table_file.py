"""The frozen table on disk: the very table comes back, or an error says what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from src.advisor.situations import N_SITUATIONS
from src.advisor.table import AdviceTable, empty_table, freeze_table
from src.advisor.table_file import load_table, save_table
from src.errors import EXIT_BAD_INPUT, UserError
from src.trading.layout import N_ACTIONS


def random_table(seed: int = 0, name: str = "mock", identity: str = "an identity") -> AdviceTable:
    rng = np.random.default_rng(seed)
    probabilities = rng.random((N_SITUATIONS, N_ACTIONS)).astype(np.float32)
    return freeze_table(probabilities, rng.random(N_SITUATIONS) < 0.5, name, identity)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "phase3" / "advice.safetensors"


@given(seed=st.integers(0, 9), name=st.text(max_size=20), identity=st.text(max_size=20))
def test_the_very_table_comes_back(
    tmp_path_factory: pytest.TempPathFactory, seed: int, name: str, identity: str
) -> None:
    path = tmp_path_factory.mktemp("table") / "advice.safetensors"
    table = random_table(seed, name, identity)
    save_table(table, path)
    loaded = load_table(path, table.sha256)
    assert loaded.probabilities.tobytes() == table.probabilities.tobytes()
    assert loaded.covered.tobytes() == table.covered.tobytes()
    assert (loaded.advisor_name, loaded.advisor_identity, loaded.sha256) == (name, identity, table.sha256)
    assert not loaded.probabilities.flags.writeable


def test_one_without_advice_comes_back_too(path: Path) -> None:
    save_table(empty_table(), path)
    assert load_table(path, empty_table().sha256).asked == 0


def refused(path: Path, sha256: str) -> None:
    with pytest.raises(UserError) as error:
        load_table(path, sha256)
    assert error.value.exit_code == EXIT_BAD_INPUT
    text = str(error.value)
    assert str(path) in text
    assert sha256 in text
    assert "--start-phase 3" in text


def test_another_table_is_refused(path: Path) -> None:
    save_table(random_table(1), path)
    refused(path, random_table(2).sha256)
    refused(path, random_table(1, identity="another").sha256)


def test_none_at_all_is_refused(path: Path) -> None:
    refused(path, random_table().sha256)
    path.mkdir(parents=True)
    refused(path, random_table().sha256)


def test_one_cut_short_is_refused(path: Path) -> None:
    table = random_table()
    save_table(table, path)
    raw = path.read_bytes()
    header = 8 + int.from_bytes(raw[:8], "little")
    for length in (*range(0, header + 1, 7), header, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:length])
        refused(path, table.sha256)


@given(st.data())
def test_with_any_bit_flipped_it_is_refused_or_the_same_but_for_its_name(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """The hash is of what was answered by whom; what the report calls the advisor is not in it."""
    path = tmp_path_factory.mktemp("table") / "advice.safetensors"
    table = random_table()
    save_table(table, path)
    raw = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(raw[:8], "little")
    at = data.draw(st.integers(0, header - 1) | st.integers(header, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    try:
        loaded = load_table(path, table.sha256)
    except UserError:
        return
    assert loaded.sha256 == table.sha256
    assert loaded.probabilities.tobytes() == table.probabilities.tobytes()
    assert loaded.advisor_name != table.advisor_name


def test_tensors_of_another_shape_or_name_are_refused(path: Path) -> None:
    path.parent.mkdir()
    table = random_table()
    names = {"advisor_name": "mock", "advisor_identity": "an identity"}
    whole = {"probabilities": table.probabilities.copy(), "covered": table.covered.copy()}
    for arrays, metadata in (
        ({**whole, "probabilities": whole["probabilities"][1:]}, names),
        ({"probabilities": whole["probabilities"]}, names),
        (whole, {"advisor_name": "mock"}),
        (whole, None),
    ):
        save_file(arrays, path, metadata)
        refused(path, table.sha256)


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_disk_that_is_full_leaves_what_was_there(path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    was = random_table(1)
    save_table(was, path)
    with monkeypatch.context() as patch:
        patch.setattr(os, where, full)
        with pytest.raises(OSError, match="No space left"):
            save_table(random_table(2), path)
    assert load_table(path, was.sha256).sha256 == was.sha256
    save_table(random_table(2), path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_table_made_again_has_the_same_bytes(path: Path) -> None:
    """A resumed run compares them; the library writes the facts of a file in a random order."""
    made = set()
    for _ in range(20):
        save_table(random_table(), path)
        made.add(path.read_bytes())
    assert len(made) == 1
