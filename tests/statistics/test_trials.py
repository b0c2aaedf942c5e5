"""The ledger of trials: what counts, once each, through two processes, damage and a full disk."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.statistics.trials import (
    TrialLedger,
    TrialLedgerError,
    configuration_hash,
    default_ledger_path,
)

ROOT = Path(__file__).resolve().parents[2]
SEALED = "sealed-1"
RECORD = """
import sys
from pathlib import Path
from src.statistics.trials import TrialLedger
ledger = TrialLedger(Path(sys.argv[1]))
for i in range(int(sys.argv[2]), int(sys.argv[3])):
    ledger.record("sealed-1", f"configuration-{i}", "hybrid", sharpe=i / 8, sessions=40)
"""
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcde", max_size=3), inner, max_size=3),
    max_leaves=8,
)
configurations = st.dictionaries(st.text("abcde", max_size=3), json_values, max_size=4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "trials.jsonl"


def filled(path: Path, n: int = 5) -> TrialLedger:
    ledger = TrialLedger(path)
    for i in range(n):
        assert ledger.record(SEALED, f"configuration-{i}", "rl_only", sharpe=i / 8, sessions=40)
    return ledger


def test_a_trial_is_a_configuration_and_an_arm_on_one_set_of_sealed_sessions(path: Path) -> None:
    ledger = TrialLedger(path)
    assert ledger.record(SEALED, "a", "hybrid", sharpe=0.1, sessions=40)
    assert ledger.record(SEALED, "a", "rl_only", sharpe=-0.25, sessions=40)
    assert ledger.record(SEALED, "b", "hybrid", sharpe=0.5, sessions=40)
    assert ledger.record("sealed-2", "a", "hybrid", sharpe=9.0, sessions=60)
    again = TrialLedger(path)
    assert (again.count(SEALED), again.count("sealed-2"), again.count("sealed-3")) == (3, 1, 0)
    assert again.sharpes(SEALED).tolist() == [0.1, -0.25, 0.5]
    (trial,) = again.trials("sealed-2")
    assert (trial.configuration, trial.arm, trial.sharpe, trial.sessions) == ("a", "hybrid", 9.0, 60)


def test_the_same_trial_counts_once_and_keeps_its_first_figure(path: Path) -> None:
    ledger = TrialLedger(path)
    assert ledger.record(SEALED, "a", "fused", sharpe=0.1, sessions=40)
    assert not ledger.record(SEALED, "a", "fused", sharpe=0.9, sessions=40)
    assert (ledger.count(SEALED), ledger.sharpes(SEALED).tolist()) == (1, [0.1])
    assert len(path.read_bytes().splitlines()) == 1


def test_a_trial_without_a_ratio_counts_all_the_same(path: Path) -> None:
    ledger = filled(path, 2)
    ledger.record(SEALED, "never traded", "hybrid", sharpe=None, sessions=40)
    assert (ledger.count(SEALED), ledger.sharpes(SEALED).tolist()) == (3, [0.0, 0.125])


@pytest.mark.parametrize("sharpe", [float("nan"), float("inf")])
def test_a_ratio_that_is_no_number_is_refused(path: Path, sharpe: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        TrialLedger(path).record(SEALED, "a", "hybrid", sharpe=sharpe, sessions=40)


def test_reading_a_ledger_that_nobody_wrote_makes_none(path: Path) -> None:
    assert TrialLedger(path).count(SEALED) == 0
    assert not path.parent.exists()


def test_its_default_place_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_ledger_path().is_relative_to(tmp_path)
    assert TrialLedger().path == default_ledger_path()


def test_two_processes_record_every_trial_once(path: Path) -> None:
    ranges = ((0, 60), (30, 90))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen([sys.executable, "-c", RECORD, str(path), str(a), str(b)], cwd=ROOT, env=env)
        for a, b in ranges
    ]
    assert [process.wait(120) for process in running] == [0, 0]
    ledger = TrialLedger(path)
    assert ledger.count(SEALED) == 90
    assert sorted(ledger.sharpes(SEALED).tolist()) == [i / 8 for i in range(90)]


def test_a_process_waits_until_the_other_has_written(path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    ledger = filled(path)
    recording = Thread(target=ledger.record, args=(SEALED, "b", "hybrid"), kwargs={"sharpe": 0.1, "sessions": 40})
    with open(f"{path}.lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = path.read_bytes()
        recording.start()
        recording.join(0.2)
        assert recording.is_alive()
        assert path.read_bytes() == before
    recording.join(60)
    assert ledger.count(SEALED) == 6


# Damage


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def cut_the_last_newline(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    at = content.index(b"configuration-4")
    content[at + 14] ^= 1
    path.write_bytes(content)


def add_text(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]) + b"my notes\n")


def add_other_json(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]) + b'{"sealed": 1, "crc": 2}\n')


def add_bytes(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]) + b"\xff\xfe\n")


@pytest.mark.parametrize(
    "spoil", [cut_short, cut_the_last_newline, flip_a_bit, add_text, add_other_json, add_bytes]
)  # fmt: skip
def test_a_damaged_ledger_is_kept_aside_said_and_goes_on_with_what_is_intact(
    path: Path, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    filled(path)
    spoil(path)
    spoilt = path.read_bytes()
    with caplog.at_level(logging.WARNING):
        ledger = TrialLedger(path)
        assert ledger.sharpes(SEALED).tolist() == [0, 0.125, 0.25, 0.375]
    (message,) = caplog.messages
    (aside,) = path.parent.glob("trials.jsonl.damaged-*")
    assert aside.read_bytes() == spoilt
    assert str(path) in message
    assert aside.name in message
    assert message.startswith("1 of 5 lines")
    caplog.clear()
    assert ledger.record(SEALED, "configuration-4", "rl_only", sharpe=2.0, sessions=40)
    assert ledger.count(SEALED) == 5
    assert not caplog.messages


def test_a_checksum_holds_the_figure_too(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(path, 1)
    line = json.loads(path.read_text())
    path.write_text(json.dumps({**line, "sharpe": 3.0}) + "\n")
    assert TrialLedger(path).count(SEALED) == 0
    assert "1 of 1 lines" in caplog.text


def test_a_full_disk_loses_nothing_and_is_said_in_one_paragraph(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = filled(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr("src.statistics.trials.os.fsync", full)
        with pytest.raises(TrialLedgerError, match="No space left") as caught:
            ledger.record(SEALED, "b", "hybrid", sharpe=0.1, sessions=40)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert ledger.count(SEALED) == 5


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "trials.jsonl", tmp_path):
        with pytest.raises(TrialLedgerError, match="cannot be used"):
            TrialLedger(place).record(SEALED, "a", "hybrid", sharpe=0.1, sessions=40)


# The hash of a configuration


@settings(max_examples=50)
@given(configurations, st.integers(), st.integers())
def test_seeds_and_the_order_of_keys_do_not_make_another_configuration(
    configuration: dict[str, object], one: int, other: int
) -> None:
    turned = dict(reversed(configuration.items()))
    first = configuration_hash({**configuration, "seed": one, "inner": {"seed": one, "kept": 1}})
    assert configuration_hash({"inner": {"kept": 1, "seed": other}, **turned, "seed": other}) == first


@given(configurations, configurations)
def test_anything_else_makes_another_configuration(one: dict[str, object], other: dict[str, object]) -> None:
    def written(configuration: dict[str, object]) -> str:
        return json.dumps(configuration, sort_keys=True)

    assert (configuration_hash(one) == configuration_hash(other)) == (written(one) == written(other))


def test_more_keys_can_be_left_out() -> None:
    one = {"agent": {"lr": 1e-3}, "monitoring": {"folder": "a"}}
    other = {"agent": {"lr": 1e-3}, "monitoring": {"folder": "b"}}
    assert configuration_hash(one) != configuration_hash(other)
    assert configuration_hash(one, {"seed", "monitoring"}) == configuration_hash(other, {"seed", "monitoring"})
    assert configuration_hash({"lr": 1}) != configuration_hash({"lr": 2})
