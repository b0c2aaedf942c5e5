"""Answers outlive whatever happens to the process, the disk and the file; nothing foreign is ever read as an answer."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from src.advisor.claims import _name_of, _started
from src.advisor.store import AdviceStore, Round, StoreError, default_store_path
from src.trading.layout import N_ACTIONS
from tests.advisor.fake_model import ORDER, FakeModel, tabulated

ROOT = Path(__file__).resolve().parents[2]
BATCH = 16


def scores_of(situations: np.ndarray) -> np.ndarray:
    return FakeModel().score(situations)


def process(store: Path, *options: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "tests/advisor/fake_model.py"), str(store), *map(str, options)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)


def finished(running: subprocess.Popen[str]) -> str:
    """The last line of a process that ended well."""
    out, _ = running.communicate(timeout=120)
    assert running.returncode == 0, out
    return out.splitlines()[-1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "advice.sqlite3"


def test_answers_come_back_to_the_bit_and_by_key(path: Path) -> None:
    situations = ORDER[:BATCH]
    scores = scores_of(situations)
    with AdviceStore(path) as store:
        assert store.put("a", situations, scores) == BATCH
        assert store.put("b", situations[:1], scores[1:2]) == 1
    with AdviceStore(path) as store:
        found = store.answers("a")
        assert list(found) == sorted(situations.tolist())
        for situation, row in zip(situations.tolist(), scores, strict=True):
            assert found[situation].dtype == np.float32
            np.testing.assert_array_equal(found[situation], row)
        np.testing.assert_array_equal(store.answers("b")[int(situations[0])], scores[1])
        assert store.answers("c") == {}


def test_the_first_answer_stays(path: Path) -> None:
    with AdviceStore(path) as store:
        store.put("a", ORDER[:2], np.zeros((2, N_ACTIONS), np.float32))
        assert store.put("a", ORDER[:3], np.ones((3, N_ACTIONS), np.float32)) == 1
        assert [float(row[0]) for row in map(store.answers("a").get, ORDER[:3].tolist())] == [0.0, 0.0, 1.0]  # type: ignore[index]


def test_the_first_count_of_a_list_stays_with_the_list(path: Path) -> None:
    def planned(number: int, count_k: int) -> Round:
        return Round(number, count_k, ORDER[:count_k], BATCH, 120.0, 6.25)

    with AdviceStore(path) as store:
        assert store.add_round("a", "sha", ORDER, planned(0, 48)).count_k == 48
        assert store.add_round("a", "sha", ORDER, planned(0, 64)).count_k == 48
        assert store.add_round("a", "sha", ORDER, planned(1, 96)).count_k == 96
    with AdviceStore(path) as store:
        first, second = store.rounds("a", "sha")
        assert (first.number, first.count_k, first.batch_size, first.budget_s, first.advices_per_s) == (
            0,
            48,
            BATCH,
            120,
            6.25,
        )
        assert second.asked.tolist() == ORDER[:96].tolist()
        assert store.order("a", "sha").tolist() == ORDER.tolist()  # type: ignore[union-attr]
        assert store.order("a", "other") is None
        assert store.rounds("b", "sha") == store.rounds("a", "other") == []


def test_it_writes_ahead_so_that_readers_and_a_writer_do_not_wait(path: Path) -> None:
    with AdviceStore(path), sqlite3.connect(path) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


def test_its_default_place_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_store_path().is_relative_to(tmp_path)


# What is no intact store


def damage_head(path: Path) -> None:
    path.write_bytes(b"x" * 4096 + path.read_bytes()[4096:])


def damage_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 : len(content)] = os.urandom(len(content) - 4096)
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def write_text(path: Path) -> None:
    path.write_text("my notes, not a database, and longer than the header of one: do not lose them\n" * 9)


def make_foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE answers (mine TEXT)")
    database.close()


def make_newer(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()


def make_older(path: Path) -> None:
    """A store whose checksums do not cover the key."""
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 1")
    database.close()


@pytest.mark.parametrize(
    "spoil", [damage_head, damage_middle, cut_short, write_text, make_foreign, make_newer, make_older]
)
def test_a_damaged_or_foreign_file_is_kept_aside_rebuilt_and_said(
    path: Path, spoil: object, caplog: pytest.LogCaptureFixture
) -> None:
    table, _ = tabulated(path)
    spoil(path)  # type: ignore[operator]
    content = path.read_bytes()
    with caplog.at_level(logging.WARNING):
        again, record = tabulated(path)
    assert (again.sha256, record.asked_now) == (table.sha256, len(ORDER))
    (message,) = caplog.messages
    (aside,) = (kept for kept in path.parent.glob("advice.sqlite3.*-20*") if kept.suffix not in ("-wal", "-shm"))
    assert ".damaged-" in aside.name or spoil in (make_newer, make_older)
    assert str(path) in message
    assert aside.name in message
    assert aside.read_bytes() == content
    assert tabulated(path)[1].asked_now == 0


def test_a_store_of_version_2_gets_the_new_tables_and_keeps_its_answers(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table, _ = tabulated(path)
    with sqlite3.connect(path) as database:
        database.executescript("DROP TABLE fingerprints; DROP TABLE claims; PRAGMA user_version = 2;")
    database.close()
    with caplog.at_level(logging.WARNING):
        again, record = tabulated(path)
    assert (again.sha256, record.asked_now, caplog.messages) == (table.sha256, 0, [])
    with AdviceStore(path) as store:
        assert store.add_fingerprint("name", 0, "facts") == "facts"


def test_the_first_fingerprint_of_a_number_stays_and_a_damaged_one_goes_with_those_after_it(path: Path) -> None:
    with AdviceStore(path) as store:
        assert store.add_fingerprint("name", 0, "one") == store.add_fingerprint("name", 0, "other") == "one"
        store.add_fingerprint("name", 1, "two")
        store.add_fingerprint("name", 2, "three")
        assert (store.fingerprints("name"), store.fingerprints("else")) == (["one", "two", "three"], [])
    with sqlite3.connect(path) as database:
        database.execute("UPDATE fingerprints SET facts = 'wrong' WHERE number = 1")
    database.close()
    with AdviceStore(path) as store:
        assert store.fingerprints("name") == store.fingerprints("name") == ["one"]


def test_a_claim_holds_while_its_process_lives(path: Path) -> None:
    with AdviceStore(path) as store:
        store.put("a", ORDER[:1], scores_of(ORDER[:1]))
        assert store.claim("a", ORDER[:3].tolist()) == ORDER[1:3].tolist(), "what is answered is not claimed"
        parent = os.getppid()
        alive = _name_of(parent, _started(parent) or 0.0)
        for owner, is_mine in ((alive, False), (f"{alive}1", True), (_name_of(2**22 + 1, 1.0), True), ("", True)):
            with sqlite3.connect(path) as database:
                database.execute("UPDATE claims SET owner = ?", (owner,))
            database.close()
            assert store.claim("a", ORDER[1:3].tolist()) == (ORDER[1:3].tolist() if is_mine else [])
        store.release("a", ORDER[1:3].tolist())
        assert store.claim("a", ORDER[1:2].tolist()) == ORDER[1:2].tolist()


def test_files_kept_aside_in_the_same_second_do_not_overwrite_each_other(path: Path) -> None:
    for content in ("one", "two", "three"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(content * 1000)
        AdviceStore(path).close()
    kept = [file.read_text()[:3] for file in path.parent.glob("advice.sqlite3.damaged-*")]
    assert sorted(kept) == ["one", "thr", "two"]


def test_a_damaged_answer_or_budget_is_dropped_asked_again_and_said(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table, _ = tabulated(path)
    with sqlite3.connect(path) as database:
        (blob,) = database.execute("SELECT scores FROM answers WHERE situation = ?", (int(ORDER[20]),)).fetchone()
        spoilt = bytes([blob[0] ^ 1]) + blob[1:]
        database.execute("UPDATE answers SET scores = ? WHERE situation = ?", (spoilt, int(ORDER[20])))
    model = FakeModel()
    with caplog.at_level(logging.WARNING):
        again, record = tabulated(path, model)
    assert ORDER[16:32].tolist() in model.batches
    assert (again.sha256, record.asked_now) == (table.sha256, BATCH)
    assert "1 damaged answers" in caplog.text
    with database:
        database.execute("UPDATE rounds SET count_k = 5")
    database.close()
    with caplog.at_level(logging.WARNING):
        assert tabulated(path)[0].sha256 == table.sha256
    assert "damaged budget" in caplog.text


N_DAMAGES = int(os.environ.get("STORE_DAMAGES", "60"))
KEYS = ("a" * 64, "b" * 64, "c" * 64)


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Two blocks of a file swapped, or one zeroed: a page, or a disk's sector. The file's header stays."""
    size = int(rng.choice([512, 4096]))
    first, second = rng.choice(np.arange(1 if size == 4096 else 8, len(content) // size), 2, replace=False) * size
    changed = bytearray(content)
    if rng.random() < 0.5:
        changed[first : first + size] = bytes(size)
    else:
        changed[first : first + size], changed[second : second + size] = (
            content[second : second + size],
            content[first : first + size],
        )
    return bytes(changed)


def test_a_damaged_store_serves_no_answer_that_was_not_given(tmp_path: Path) -> None:
    """Every answer read is the one that was stored for its key and situation; what is lost is asked again or named."""
    situations = np.arange(5, 305)
    given = {key: FakeModel(seed).score(situations) for seed, key in enumerate(KEYS)}
    path = tmp_path / "advice.sqlite3"
    with AdviceStore(path) as store:
        for key, scores in given.items():
            store.put(key, situations, scores)
    content, rng, read, refusals = path.read_bytes(), np.random.default_rng(0), 0, []
    for i in range(N_DAMAGES):
        place = tmp_path / f"{i}" / "advice.sqlite3"
        place.parent.mkdir()
        place.write_bytes(damaged(content, rng))
        try:
            with AdviceStore(place) as store:
                for key, scores in given.items():
                    for situation, answer in store.answers(key).items():
                        np.testing.assert_array_equal(answer, scores[situation - 5])
                        read += 1
        except StoreError as error:
            refusals.append(str(error))
    assert not any("\n" in refusal for refusal in refusals)
    assert read > 50 * N_DAMAGES, "most damages leave most answers readable, else this shows nothing"


def replace_scores(path: Path, value: str, situation: int) -> None:
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE answers SET scores = {value} WHERE situation = ?", (situation,))
    database.close()


@pytest.mark.parametrize(
    "value", ["'text where bytes belong'", "5", "CAST(X'FFFE80' AS TEXT)", "X'00FF'", f"'{'x' * 24}'"]
)
def test_what_is_no_row_of_bytes_is_dropped_and_asked_again(
    path: Path, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    table, _ = tabulated(path)
    replace_scores(path, value, int(ORDER[20]))
    with caplog.at_level(logging.WARNING):
        again, record = tabulated(path)
    assert (again.sha256, record.asked_now) == (table.sha256, BATCH)
    assert "1 damaged answers" in caplog.text


def test_an_answer_under_another_situation_or_key_is_dropped(path: Path) -> None:
    with AdviceStore(path) as store:
        store.put("a", ORDER[:4], scores_of(ORDER[:4]))
    with sqlite3.connect(path) as database:
        database.execute("UPDATE answers SET situation = 9999 WHERE situation = ?", (int(ORDER[0]),))
        database.execute("UPDATE answers SET key = 'b' WHERE situation = ?", (int(ORDER[1]),))
    database.close()
    with AdviceStore(path) as store:
        assert sorted(store.answers("a")) == sorted(ORDER[2:4].tolist())
        assert store.answers("b") == {}


def test_an_answer_that_is_gone_right_after_it_was_stored_ends_the_run_and_keeps_the_file(path: Path) -> None:
    with AdviceStore(path) as store:
        store.put("a", ORDER[:3], scores_of(ORDER[:3]))
        with pytest.raises(StoreError, match=r"2 answers that were just stored cannot be read.*Start again") as caught:
            store.check_holds("a", ORDER[:5])
    (aside,) = path.parent.glob("advice.sqlite3.damaged-*[0-9]")
    assert aside.name in str(caught.value)
    assert not path.exists()


def test_a_place_that_cannot_be_written_is_said_in_one_paragraph(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "advice.sqlite3", tmp_path):
        with pytest.raises(StoreError, match=r"llm\.store_path") as caught:
            AdviceStore(place)
        assert str(place) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_store_that_another_process_keeps_locked_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.advisor.store.BUSY_TIMEOUT_S", 0.05)
    with AdviceStore(path) as store:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another process has kept it locked"):
            store.put("a", ORDER[:1], scores_of(ORDER[:1]))
        holder.execute("ROLLBACK")
        holder.close()
        assert store.put("a", ORDER[:1], scores_of(ORDER[:1])) == 1


# Processes


@pytest.mark.parametrize("batches", [2, 5, 9])
def test_a_killed_process_loses_at_most_one_batch_and_resumes_to_the_same_table(path: Path, batches: int) -> None:
    uninterrupted, _ = tabulated(path.with_name("other.sqlite3"))
    running = process(path, "--pause", "0.15")
    assert running.stdout is not None
    for line in running.stdout:
        if line.startswith("batch") and int(line.split()[1]) > batches:
            break
    running.send_signal(signal.SIGKILL)
    said = [line for line in running.stdout if line.startswith("batch")]
    begun = (int(said[-1].split()[1]) if said else batches + 1) + 1
    assert running.wait(timeout=30) == -signal.SIGKILL
    running.stdout.close()
    with AdviceStore(path) as store:
        kept = len(store.answers(FakeModel().identity))
    assert kept % BATCH == 0
    assert kept >= (begun - 1) * BATCH
    table, record = tabulated(path)
    assert table.sha256 == uninterrupted.sha256
    assert (record.from_store, record.asked_now) == (kept, len(ORDER) - kept)


def test_two_processes_share_a_store_and_make_the_same_table(path: Path) -> None:
    alone, _ = tabulated(path.with_name("other.sqlite3"))
    both = [process(path, "--pause", "0.2") for _ in range(2)]
    lines = [finished(running).split() for running in both]
    asked = [int(line[0]) for line in lines]
    assert [line[1:] for line in lines] == [[str(len(ORDER)), alone.sha256]] * 2
    assert len(ORDER) <= sum(asked) < 2 * len(ORDER), "who starts later finds what the other has stored"
    assert tabulated(path)[1].asked_now == 0


def test_a_full_disk_ends_the_run_in_words_and_what_was_stored_stays(path: Path) -> None:
    pytest.importorskip("resource")
    uninterrupted, _ = tabulated(path.with_name("other.sqlite3"))
    running = process(path, "--file-limit", 120_000)
    out, _ = running.communicate(timeout=120)
    assert running.returncode == 2, out
    *_, message = out.splitlines()
    assert message.startswith("error: ")
    for part in (str(path), "what was stored stays", "llm.store_path"):
        assert part in message
    with AdviceStore(path) as store:
        kept = len(store.answers(FakeModel().identity))
    assert kept > 0
    assert kept % BATCH == 0
    table, record = tabulated(path)
    assert (table.sha256, record.from_store) == (uninterrupted.sha256, kept)
