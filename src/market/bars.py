"""Bars as the rest of the project reads them: frozen integer columns with a fingerprint of their content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from src.market.files.reading import Reading

NO_SESSION = -1
"""The `session_id` of a bar that no session holds (yet)."""


BAR_ARRAYS = ("open_ns", "open", "high", "low", "close", "volume", "contract", "session_id")
"""Fields of `Bars` with one entry a bar."""


@dataclass(frozen=True, eq=False)
class Bars:
    """Bars of one market in time order; every array is read-only and of length n.

    Prices are whole ticks of the market's contract, times are UTC bar-open times in nanoseconds since 1970.
    """

    market: str
    interval_s: int
    source: str
    open_ns: NDArray[np.int64]
    open: NDArray[np.int32]
    high: NDArray[np.int32]
    low: NDArray[np.int32]
    close: NDArray[np.int32]
    volume: NDArray[np.int64]
    contract: NDArray[np.int16]
    contract_names: tuple[str, ...]
    session_id: NDArray[np.int32]
    fingerprint: str
    repairs: Mapping[str, int]
    synthetic: bool
    reading: Reading | None = None
    """What the file was taken to be and why; None for bars that come from no file. Not part of the fingerprint."""

    def __len__(self) -> int:
        return len(self.open_ns)

    @property
    def interval_ns(self) -> int:
        """Length of a bar in nanoseconds."""
        return self.interval_s * 1_000_000_000


def frozen(values: ArrayLike, dtype: type[np.generic]) -> NDArray:
    """A read-only, C-contiguous copy of `values` as `dtype` (a datetime64 keeps its unit)."""
    array = np.array(values, dtype=None if dtype is np.datetime64 else dtype, order="C", copy=True)
    array.setflags(write=False)
    return array


def read_only(values: NDArray, dtype: type[np.generic]) -> NDArray:
    """An array that nobody else holds, made read-only in place where its dtype and order are right already."""
    array = np.ascontiguousarray(values, dtype)
    array.setflags(write=False)
    return array


def content_fingerprint(market: str, interval_s: int, contract_names: Sequence[str], columns: Sequence[NDArray]) -> str:
    """SHA-256 over market, interval, contract names and arrays; the same bars from any file give the same text."""
    digest = hashlib.sha256()
    digest.update("\0".join((market, str(interval_s), *contract_names)).encode())
    for column in columns:
        digest.update(f"\0{column.dtype.str}{column.shape}\0".encode())
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()


def make_bars(
    *,
    market: str,
    interval_s: int,
    source: str,
    open_ns: ArrayLike,
    open: ArrayLike,
    high: ArrayLike,
    low: ArrayLike,
    close: ArrayLike,
    volume: ArrayLike,
    contract: ArrayLike | None = None,
    contract_names: Sequence[str] = (),
    session_id: ArrayLike | None = None,
    repairs: Mapping[str, int] | None = None,
    synthetic: bool = False,
    reading: Reading | None = None,
) -> Bars:
    """Freeze columns (prices in ticks, already validated) into `Bars` and fingerprint them.

    `contract` defaults to zeros, `session_id` to NO_SESSION: `sessions.place_in_sessions` fills it in.
    """
    times = frozen(open_ns, np.int64)
    n = len(times)
    prices = [frozen(column, np.int32) for column in (open, high, low, close)]
    volumes = frozen(volume, np.int64)
    codes = frozen(np.zeros(n) if contract is None else contract, np.int16)
    sessions = frozen(np.full(n, NO_SESSION) if session_id is None else session_id, np.int32)
    names = tuple(contract_names)
    return Bars(
        market=market,
        interval_s=interval_s,
        source=source,
        open_ns=times,
        open=prices[0],
        high=prices[1],
        low=prices[2],
        close=prices[3],
        volume=volumes,
        contract=codes,
        contract_names=names,
        session_id=sessions,
        fingerprint=content_fingerprint(market, interval_s, names, [times, *prices, volumes, codes]),
        repairs=MappingProxyType(dict(repairs or {})),
        synthetic=synthetic,
        reading=reading,
    )


def select_bars(bars: Bars, keep: NDArray, *, session_id: ArrayLike, repairs: Mapping[str, int] | None = None) -> Bars:
    """The bars where `keep` (bool[n], slice or indices) holds, with their `session_id` (already selected)."""
    return make_bars(
        market=bars.market,
        interval_s=bars.interval_s,
        source=bars.source,
        open_ns=bars.open_ns[keep],
        open=bars.open[keep],
        high=bars.high[keep],
        low=bars.low[keep],
        close=bars.close[keep],
        volume=bars.volume[keep],
        contract=bars.contract[keep],
        contract_names=bars.contract_names,
        session_id=session_id,
        repairs=bars.repairs if repairs is None else repairs,
        synthetic=bars.synthetic,
        reading=bars.reading,
    )
