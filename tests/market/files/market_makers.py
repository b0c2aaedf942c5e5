"""Tables of rows for tests of the choice of market and of joining."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from src.market.files.joining import CheckedRows
from src.market.files.rows import ClockClaim, FileRows

MINUTE_NS = 60_000_000_000


def at(text: str) -> int:
    """UTC nanoseconds of an ISO time."""
    return int(pd.Timestamp(text, tz="UTC").value)


def file_rows(
    close,
    *,
    names=(),
    codes=None,
    file="bars.csv",
    header=None,
    start="2025-11-03T15:00",
    step_min=5,
    time_ns=None,
    volume=1_000.0,
) -> FileRows:
    """A table with these closes (high and low a tick away); `codes` index `names`, else all rows are of the first."""
    close = np.asarray(close, dtype=np.float64)
    n = len(close)
    times = at(start) + np.arange(n) * step_min * MINUTE_NS if time_ns is None else np.asarray(time_ns, dtype=np.int64)
    if codes is None:
        codes = np.zeros(n) if names else np.full(n, -1)
    return FileRows(
        file=Path(file),
        label=str(file),
        dialect="test",
        dialect_why="made",
        claim=ClockClaim(True, None, "open", "made"),
        time_ns=times,
        time_text=lambda row: str(np.datetime64(int(times[row]), "ns")),
        prices=np.column_stack((close, close + 0.25, close - 0.25, close)),
        volume=np.broadcast_to(np.asarray(volume, dtype=np.float64), n).copy(),
        volume_kind="contracts",
        instrument=np.asarray(codes, dtype=np.int32),
        instrument_names=tuple(names),
        file_instrument=header,
        notes=(),
    )


def checked_rows(open_ns, prices, volume, *, contract=None, names=(), label="a.csv", interval_min=5) -> CheckedRows:
    """Sound rows; `prices` float64[n, 4] or the closes alone."""
    prices = np.asarray(prices, dtype=np.float64)
    if prices.ndim == 1:
        prices = np.column_stack((prices, prices + 0.25, prices - 0.25, prices))
    n = len(prices)
    return CheckedRows(
        label=label,
        file=Path(label),
        open_ns=np.asarray(open_ns, dtype=np.int64),
        prices=prices,
        volume=np.broadcast_to(np.asarray(volume, dtype=np.float64), n).copy(),
        contract=np.zeros(n, dtype=np.int32) if contract is None else np.asarray(contract, dtype=np.int32),
        contract_names=tuple(names),
        interval_ns=interval_min * MINUTE_NS,
    )
