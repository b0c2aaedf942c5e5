"""The answers of language models, kept in one SQLite file that runs and processes share.

An answer is stored as the model gave it (raw log-probabilities), under the identity of everything it depends on. So
calibration can change without asking again, and another model, prompt or precision never reads a foreign answer. Each
batch is one transaction: a killed process loses the batch it was asking about and nothing else.
"""

from __future__ import annotations

import itertools
import logging
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from src.advisor.claims import is_alive, this_process
from src.advisor.table import Float32
from src.errors import UserError
from src.files import alone, keep_aside
from src.numba_cache import user_cache_folder

logger = logging.getLogger(__name__)

STORE_NAME = "advice.sqlite3"
APPLICATION_ID = 0x41445643
"""Says in the file's header that it is such a store."""
STORE_VERSION = 3
"""Raise it with any change of the tables: a store of another version is kept aside. Version 2 added the key to each
row's checksum; answers of version 1 were stored under keys that did not cover the rendered prompt. Version 3 added the
tables of servers; a store of version 2 gets them and keeps its answers."""
UPGRADABLE_VERSION = 2
BUSY_TIMEOUT_S = 30.0

_OF_SERVERS = """
CREATE TABLE fingerprints (
    name_key TEXT NOT NULL, number INTEGER NOT NULL, facts TEXT NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (name_key, number)
) WITHOUT ROWID;
CREATE TABLE claims (
    key TEXT NOT NULL, situation INTEGER NOT NULL, owner TEXT NOT NULL,
    PRIMARY KEY (key, situation)
) WITHOUT ROWID;
"""
_SCHEMA = f"""
CREATE TABLE answers (
    key TEXT NOT NULL, situation INTEGER NOT NULL,
    scores BLOB NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (key, situation)
) WITHOUT ROWID;
CREATE TABLE orders (
    key TEXT NOT NULL, order_sha TEXT NOT NULL, situations BLOB NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (key, order_sha)
) WITHOUT ROWID;
CREATE TABLE rounds (
    key TEXT NOT NULL, order_sha TEXT NOT NULL, number INTEGER NOT NULL,
    count_k INTEGER NOT NULL, asked BLOB NOT NULL, batch_size INTEGER NOT NULL,
    budget_s REAL NOT NULL, advices_per_s REAL NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (key, order_sha, number)
) WITHOUT ROWID;
{_OF_SERVERS}
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {STORE_VERSION};
"""
_TABLES_BEFORE = {"answers", "orders", "rounds"}
_TABLES = {*_TABLES_BEFORE, "fingerprints", "claims"}
_NOT_A_STORE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_HELD = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


_START_AGAIN = "Start again: a damaged store is kept aside and a new one is started"


class StoreError(UserError):
    """A store of advice that cannot be read or written."""


class _Unusable(Exception):
    """What is wrong with a file that is no intact store; `label` goes into the name under which it is kept."""

    def __init__(self, reason: str, label: str = "damaged") -> None:
        super().__init__(reason)
        self.label = label


@dataclass(frozen=True)
class Round:
    """A budget turned into a count, once and for all.

    The first `count_k` situations of the ordered list are tabulated; `asked` int64[a] are those of them that were not
    known when the round was planned, in batches of `batch_size`. `advices_per_s` is the speed it was planned with.
    """

    number: int
    count_k: int
    asked: NDArray[np.int64]
    batch_size: int
    budget_s: float
    advices_per_s: float


def default_store_path() -> Path:
    """Where answers are kept when the configuration names no file."""
    return user_cache_folder() / STORE_NAME


class AdviceStore:
    """An open store; a context manager. A damaged or foreign file is renamed and a new one started.

    StoreError for a place that cannot be written, another process that keeps it locked, and a disk that is full:
    what was stored before stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._owner = this_process()
        with self._errors_in_words():
            path.parent.mkdir(parents=True, exist_ok=True)
            with alone(path):
                try:
                    self._database = _opened(path)
                except _Unusable as error:
                    aside = keep_aside(path, error.label)
                    logger.warning(
                        "The advice store %s cannot be used (%s). It is kept as %s, and a new one is started: what it "
                        "held will be asked again.", path, error, aside.name,
                    )  # fmt: skip
                    self._database = _opened(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what could not be tidied up now (a full disk) is at the next opening."""
        with suppress(sqlite3.Error):
            self._database.close()

    def answers(self, key: str) -> dict[int, Float32]:
        """Every stored answer of a model, float32[6] by situation. A row whose checksum fails is dropped, and said."""
        found: dict[int, Float32] = {}
        broken: list[int] = []
        with self._errors_in_words():
            rows = self._database.execute("SELECT situation, scores, crc FROM answers WHERE key = ?", (key,))
            for situation, scores, crc in rows.fetchall():
                if isinstance(scores, bytes) and _answer_checksum(key, situation, scores) == crc:
                    found[situation] = np.frombuffer(scores, dtype="<f4").astype(np.float32)
                else:
                    broken.append(situation)
            if broken:
                logger.warning("%d damaged answers of %s are dropped and will be asked again.", len(broken), self.path)
                with self._transaction() as database:
                    database.executemany(
                        "DELETE FROM answers WHERE key = ? AND situation = ?",
                        [(key, situation) for situation in broken],
                    )
        return found

    def put(self, key: str, situations: NDArray[np.int64], scores: Float32) -> int:
        """Store one batch, int64[k] and float32[k, 6], whole or not at all; returns how many were new.

        An answer that is there already stays: another process may have built its table on it.
        """
        blobs = [row.tobytes() for row in np.ascontiguousarray(scores, dtype="<f4")]
        codes = [int(situation) for situation in situations]
        rows = [(key, s, blob, _answer_checksum(key, s, blob)) for s, blob in zip(codes, blobs, strict=True)]
        with self._errors_in_words(), self._transaction() as database:
            return database.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", rows).rowcount

    def rounds(self, key: str, order_sha: str) -> list[Round]:
        """What was planned for an ordered list, in the order of planning; all is dropped, and said, if some of it is
        damaged."""
        with self._errors_in_words():
            rows = self._database.execute(
                "SELECT number, count_k, asked, batch_size, budget_s, advices_per_s, crc FROM rounds "
                "WHERE key = ? AND order_sha = ? ORDER BY number",
                (key, order_sha),
            ).fetchall()
            numbers = [row[0] for row in rows]
            if numbers != list(range(len(rows))) or any(
                _checksum(key, order_sha, *facts) != crc for *facts, crc in rows
            ):
                logger.warning("A damaged budget of %s is dropped and will be measured again.", self.path)
                with self._transaction() as database:
                    database.execute("DELETE FROM rounds WHERE key = ? AND order_sha = ?", (key, order_sha))
                return []
        return [
            Round(number, count_k, np.frombuffer(asked, "<i8").astype(np.int64), batch_size, budget_s, speed)
            for number, count_k, asked, batch_size, budget_s, speed, _ in rows
        ]

    def order(self, key: str, order_sha: str) -> NDArray[np.int64] | None:
        """The ordered list that was planned for, int64[n]; None if none was, or it is damaged."""
        with self._errors_in_words():
            row = self._database.execute(
                "SELECT situations, crc FROM orders WHERE key = ? AND order_sha = ?", (key, order_sha)
            ).fetchone()
        if row is None or _checksum(key, order_sha, row[0]) != row[1]:
            return None
        return np.frombuffer(row[0], "<i8").astype(np.int64)

    def add_round(self, key: str, order_sha: str, order: NDArray[np.int64], planned: Round) -> Round:
        """Record a round, or learn which one another process has recorded as this number; that one holds."""
        asked = planned.asked.astype("<i8").tobytes()
        seconds, speed = float(planned.budget_s), float(planned.advices_per_s)
        facts = (planned.number, planned.count_k, asked, planned.batch_size, seconds, speed)
        row = (key, order_sha, *facts, _checksum(key, order_sha, *facts))
        with self._errors_in_words(), self._transaction() as database:
            situations = order.astype("<i8").tobytes()
            crc = _checksum(key, order_sha, situations)
            database.execute("INSERT OR IGNORE INTO orders VALUES (?, ?, ?, ?)", (key, order_sha, situations, crc))
            database.execute("INSERT OR IGNORE INTO rounds VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        recorded = self.rounds(key, order_sha)
        if planned.number >= len(recorded):
            raise self._damaged_in_use("a budget that was just recorded cannot be read")
        return recorded[planned.number]

    def fingerprints(self, name_key: str) -> list[str]:
        """What is recorded of a server's model, oldest first. A damaged record is dropped, and said, with those after
        it."""
        with self._errors_in_words():
            rows = self._database.execute(
                "SELECT number, facts, crc FROM fingerprints WHERE name_key = ? ORDER BY number", (name_key,)
            ).fetchall()
            whole = list(
                itertools.takewhile(
                    lambda row: row[1][0] == row[0] and _checksum(name_key, *row[1][:2]) == row[1][2], enumerate(rows)
                )
            )
            if len(whole) < len(rows):
                logger.warning("A damaged fingerprint of %s is dropped: its model will be asked again.", self.path)
                with self._transaction() as database:
                    database.execute(
                        "DELETE FROM fingerprints WHERE name_key = ? AND number >= ?", (name_key, len(whole))
                    )
        return [row[1] for _, row in whole]

    def add_fingerprint(self, name_key: str, number: int, facts: str) -> str:
        """Record a fingerprint, or learn which one another process has recorded as this number; that one holds."""
        row = (name_key, number, facts, _checksum(name_key, number, facts))
        with self._errors_in_words(), self._transaction() as database:
            database.execute("INSERT OR IGNORE INTO fingerprints VALUES (?, ?, ?, ?)", row)
        recorded = self.fingerprints(name_key)
        if number >= len(recorded):
            raise self._damaged_in_use("a fingerprint that was just recorded cannot be read")
        return recorded[number]

    def claim(self, key: str, situations: list[int]) -> list[int]:
        """Which of these unanswered situations this process may ask about now: no other living process is about to."""
        mine: list[int] = []
        with self._errors_in_words(), self._transaction() as database:
            for situation in situations:
                where = (key, situation)
                if database.execute("SELECT 1 FROM answers WHERE key = ? AND situation = ?", where).fetchone():
                    continue
                row = database.execute("SELECT owner FROM claims WHERE key = ? AND situation = ?", where).fetchone()
                if row is None or row[0] == self._owner or not is_alive(row[0]):
                    database.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", (*where, self._owner))
                    mine.append(situation)
        return mine

    def release(self, key: str, situations: list[int]) -> None:
        """Give up claims of this process."""
        rows = [(key, situation, self._owner) for situation in situations]
        with self._errors_in_words(), self._transaction() as database:
            database.executemany("DELETE FROM claims WHERE key = ? AND situation = ? AND owner = ?", rows)

    def drop(self, key: str, situations: list[int]) -> None:
        """Forget answers that turned out to be another model's."""
        with self._errors_in_words(), self._transaction() as database:
            database.executemany(
                "DELETE FROM answers WHERE key = ? AND situation = ?", [(key, situation) for situation in situations]
            )

    def check_holds(self, key: str, situations: NDArray[np.int64]) -> dict[int, Float32]:
        """The stored answers of a model, all of `situations` among them. StoreError where one that was stored is gone:
        the file is damaged in a way that SQLite does not see."""
        found = self.answers(key)
        lost = sum(situation not in found for situation in situations.tolist())
        if lost:
            raise self._damaged_in_use(f"{lost:,} answers that were just stored cannot be read")
        return found

    def _damaged_in_use(self, what: str) -> StoreError:
        """The file is kept aside at once: opening it again would find no fault with it."""
        self.close()
        with self._errors_in_words(), alone(self.path):
            aside = keep_aside(self.path)
        return StoreError(
            f"The advice store {self.path} is damaged: {what}. It is kept as {aside.name}. Start again: a new one is "
            f"started, and its answers are asked again."
        )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
            self._database.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise

    @contextmanager
    def _errors_in_words(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            code = _primary_code(error)
            if code in _HELD:
                reason = f"another process has kept it locked for {BUSY_TIMEOUT_S:.0f} s"
                remedy = "Wait for that process, or name another file with llm.store_path"
            elif code in _NOT_A_STORE:
                reason = f"it was damaged while in use: {error}"
                remedy = _START_AGAIN
            else:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                remedy = (
                    "Free space on that disk or name another file with llm.store_path, and start again: what was "
                    "stored stays and is not asked again"
                )
            raise StoreError(f"The advice store {self.path} cannot be used ({reason}). {remedy}.") from error


def _checksum(*values: object) -> int:
    """Over a row's key and everything it says, types included."""
    return zlib.crc32(repr(values).encode("utf-8", "surrogatepass"))


def _answer_checksum(key: str, situation: object, scores: bytes) -> int:
    """The same of an answer, of which thousands are read at once."""
    return zlib.crc32(scores, zlib.crc32(f"{key}\0{situation!r}\0".encode()))


def _opened(path: Path) -> sqlite3.Connection:
    """An open and checked store, made where there is none. _Unusable for a file that is no intact store."""
    database = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    database.text_factory = _decoded  # damaged text is a damaged row, not an error of the driver
    try:
        # A killed process loses nothing that was committed in either setting; FULL holds for a power cut too.
        database.execute("PRAGMA synchronous = FULL")
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables and not _pragma(database, "application_id") and not _pragma(database, "user_version"):
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            return database
        version = _pragma(database, "user_version")
        expected = _TABLES_BEFORE if version <= UPGRADABLE_VERSION else _TABLES
        if _pragma(database, "application_id") != APPLICATION_ID or tables != expected:
            raise _Unusable("it is a database of something else")
        if version == UPGRADABLE_VERSION:
            database.executescript(f"BEGIN IMMEDIATE; {_OF_SERVERS} PRAGMA user_version = {STORE_VERSION}; COMMIT;")
        elif version != STORE_VERSION:
            reason = f"it has version {version}, and this program reads version {STORE_VERSION}"
            raise _Unusable(reason, f"version-{version}")
        if (found := _pragma(database, "quick_check")) != "ok":
            raise _Unusable(f"it is damaged: {' '.join(str(found).split())}")
    except sqlite3.Error as error:
        database.close()
        if _primary_code(error) in _NOT_A_STORE:
            raise _Unusable(str(error)) from None
        raise
    except _Unusable:
        database.close()
        raise
    return database


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _pragma(database: sqlite3.Connection, name: str) -> Any:
    return database.execute(f"PRAGMA {name}").fetchone()[0]


def _primary_code(error: BaseException) -> int | None:
    """SQLite's result code without the detail that its upper bits hold."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
