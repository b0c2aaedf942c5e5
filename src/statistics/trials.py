"""Ledger of trials on each set of sealed sessions, kept outside the run folders.

The best of many trials looks good by luck alone, and only a record of all of them says by how much. A trial is a
configuration (its seed aside) and a selectable arm on one set of sealed sessions; running it again is the same trial.
Controls, resumed runs, cost stress and canaries are none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.errors import UserError
from src.files import alone, keep_aside
from src.numba_cache import user_cache_folder

logger = logging.getLogger(__name__)

LEDGER_NAME = "trials.jsonl"
SEED_KEYS = frozenset({"seed", "seeds"})


class TrialLedgerError(UserError):
    """A ledger of trials that cannot be read or written."""


@dataclass(frozen=True)
class Trial:
    """One line: `sharpe` is of one session, not annualised, None where the sessions define none."""

    sealed: str
    configuration: str
    arm: str
    sharpe: float | None
    sessions: int
    recorded: str


def default_ledger_path() -> Path:
    """Where trials are kept unless a caller names another file."""
    return user_cache_folder() / LEDGER_NAME


def configuration_hash(configuration: Mapping[str, Any], leave_out: Collection[str] = SEED_KEYS) -> str:
    """SHA-256 in hex of a configuration of JSON values, without the keys in `leave_out`, at whatever depth.

    The order of keys does not count. Leave out, too, what decides no trade: folders, logging, hardware.
    """
    kept = _without(configuration, frozenset(leave_out))
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _without(value: Any, leave_out: frozenset[str]) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without(inner, leave_out) for key, inner in value.items() if key not in leave_out}
    return [_without(inner, leave_out) for inner in value] if isinstance(value, list | tuple) else value


class TrialLedger:
    """The trials in one file, a JSON object a line, safe for processes that record at the same time.

    A damaged file is renamed and reported; a new one continues with the intact lines. TrialLedgerError
    for a place that cannot be read or written: what was recorded before stays.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = default_ledger_path() if path is None else path

    def record(self, sealed: str, configuration: str, arm: str, *, sharpe: float | None, sessions: int) -> bool:
        """Add a trial on the sealed sessions of a fingerprint; False if it is there already: its first figure stays.

        `configuration` is its `configuration_hash`, `arm` one that somebody may choose to trade. ValueError for a ratio
        not finite.
        """
        if sharpe is not None and not math.isfinite(sharpe):
            raise ValueError(f"sharpe must be a finite number or None, not {sharpe}")
        recorded = datetime.now(UTC).isoformat(timespec="seconds")
        trial = Trial(sealed, configuration, arm, None if sharpe is None else float(sharpe), int(sessions), recorded)
        with self._opened() as known:
            if any(_key(other) == _key(trial) for other in known):
                return False
            _append(self.path, _line(trial))
        return True

    def trials(self, sealed: str) -> list[Trial]:
        """The trials on the sealed sessions of a fingerprint, in the order they were first recorded."""
        if not self.path.exists():
            return []
        with self._opened() as known:
            return [trial for trial in known if trial.sealed == sealed]

    def count(self, sealed: str) -> int:
        """How many trials there were on the sealed sessions of a fingerprint."""
        return len(self.trials(sealed))

    def sharpes(self, sealed: str) -> NDArray[np.float64]:
        """The Sharpe ratios of these trials, float64[k], of one session; trials without one are left out."""
        return np.array([trial.sharpe for trial in self.trials(sealed) if trial.sharpe is not None], np.float64)

    @contextmanager
    def _opened(self) -> Iterator[list[Trial]]:
        """Every trial of the file, which no other process opens meanwhile."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with alone(self.path):
                yield self._intact()
        except OSError as error:
            raise TrialLedgerError(
                f"The ledger of trials {self.path} cannot be used ({error.strerror or error}). Free space on that disk "
                f"or make the file and its folder writable, and start again: trials recorded before stay."
            ) from error

    def _intact(self) -> list[Trial]:
        content = self.path.read_bytes() if self.path.exists() else b""
        lines = content.split(b"\n")
        # The last line ends too: what follows the last newline was cut short.
        read = [_trial(line) for line in lines[:-1]] + [None] * bool(lines[-1])
        trials = [trial for trial in read if trial is not None]
        if len(trials) < len(read):
            # Written first: between the two renames nothing can go wrong but a kill, and the old file is kept then too.
            rebuilt = self.path.with_name(self.path.name + ".rebuilt")
            rebuilt.unlink(missing_ok=True)
            _append(rebuilt, b"".join(map(_line, trials)))
            aside = keep_aside(self.path)
            os.replace(rebuilt, self.path)
            logger.warning(
                "%d of %d lines of the ledger of trials %s are damaged. It is kept as %s, and a new one continues with "
                "the others. Lost trials are no longer counted, so a deflated Sharpe ratio may read too high.",
                len(read) - len(trials), len(read), self.path, aside.name,
            )  # fmt: skip
        return trials


def _key(trial: Trial) -> tuple[str, str, str]:
    return trial.sealed, trial.configuration, trial.arm


def _line(trial: Trial) -> bytes:
    facts = asdict(trial)
    return json.dumps({**facts, "crc": _checksum(facts)}, sort_keys=True).encode() + b"\n"


def _checksum(facts: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(facts, sort_keys=True).encode())


def _trial(line: bytes) -> Trial | None:
    """The trial of a line; None if it is damaged."""
    try:
        facts = json.loads(line)
        checksum = facts.pop("crc")
        return Trial(**facts) if checksum == _checksum(facts) else None
    except (ValueError, AttributeError, KeyError, TypeError):
        return None


def _append(path: Path, lines: bytes) -> None:
    """Add lines, whole or not at all, and on the disk when this returns."""
    with open(path, "ab", buffering=0) as file:
        before = os.fstat(file.fileno()).st_size
        try:
            if file.write(lines) != len(lines):
                raise OSError("the disk took only a part of a line")
            os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                os.truncate(path, before)
            raise
