"""The rows of a bar file as read, before any check or conversion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Stamp = Literal["open", "close"]
"""Whether a bar's time is its open or its close."""

NO_TIME = np.iinfo(np.int64).min
"""`time_ns` of rows whose time is missing or unreadable."""

PRICE_COLUMNS = ("open", "high", "low", "close")


@dataclass(frozen=True)
class ClockClaim:
    """What a dialect or the times state about the clock; the bars may contradict it."""

    instant: bool
    """True: times carry an offset or count from 1970, so `time_ns` is UTC. False: `time_ns` is a wall clock."""
    zone: str | None
    """For a wall clock, the IANA zone that the dialect promises; None if it promises none."""
    stamp: Stamp | None
    """None if unknown."""
    why: str
    """A clause for messages: "NinjaTrader exports UTC and stamps bars at their close"."""


@dataclass(frozen=True, eq=False)
class FileRows:
    """One table of a file; arrays of length n in file order."""

    file: Path
    label: str
    """Name in messages: the path, with the member's name for an archive."""
    dialect: str
    """For example "NinjaTrader export" or "CSV with a header"."""
    dialect_why: str
    """How it was recognised: "semicolons and yyyyMMdd HHmmss times"."""
    claim: ClockClaim
    time_ns: NDArray[np.int64]
    """Nanoseconds since 1970 of the instant or of the wall clock; NO_TIME where missing or unreadable."""
    time_text: Callable[[int], str]
    """Maps a row (from 0) to its time as written in the file, for messages."""
    prices: NDArray[np.float64]
    """float64[n, 4] in points: open, high, low, close; NaN where missing or not a number."""
    volume: NDArray[np.float64]
    """NaN where missing or not a number; all 0 if `volume_kind` is "none"."""
    volume_kind: Literal["contracts", "ticks", "none"]
    """"ticks": the file counts price changes (MetaTrader); "none": the file has no volume."""
    instrument: NDArray[np.int32]
    """Index into `instrument_names`, -1 where missing; all -1 if the rows name no instrument."""
    instrument_names: tuple[str, ...]
    """As spelled in the file; empty if the rows name no instrument."""
    file_instrument: str | None
    """Instrument in the file's name or header ("ES 12-25", "ESZ25-CME", "ESZ5"); None if there is none."""
    notes: tuple[str, ...]
    """Conversions and omissions, one sentence each: "prices are integers in units of 1e-9 points"."""

    def __len__(self) -> int:
        return len(self.time_ns)
