"""Rows of bars whose times are known: what the checks of rows read and what is joined into bars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from src.market.files.rows import FileRows


@dataclass(frozen=True, eq=False)
class BarRows:
    """One table's rows of one market with their UTC bar-open times, unchecked; arrays of length n in file order."""

    label: str
    """What messages call the table."""
    time_text: Callable[[int], str]
    """The time of a row (from 0) as the file gives it."""
    open_ns: NDArray[np.int64]
    """NO_TIME where missing or unreadable."""
    prices: NDArray[np.float64]
    """float64[n, 4] in points: open, high, low, close; NaN where missing or not a number."""
    volume: NDArray[np.float64]
    """NaN where missing or not a number."""
    contract: NDArray[np.signedinteger]
    """Index into `contract_names`, -1 where missing; all 0 if the rows name no contract."""
    contract_names: tuple[str, ...]
    volume_kind: Literal["contracts", "ticks", "none"] = "contracts"

    def __len__(self) -> int:
        return len(self.open_ns)


def bar_rows(rows: FileRows, open_ns: NDArray[np.int64]) -> BarRows:
    """The rows of a file with the UTC times that the measured clock gives them.

    With `rows.time_ns` for `open_ns` the columns can be checked before the clock is known (`refuse_columns`).
    """
    named = bool(rows.instrument_names)
    return BarRows(
        label=rows.label,
        time_text=rows.time_text,
        open_ns=open_ns,
        prices=rows.prices,
        volume=rows.volume,
        contract=rows.instrument if named else np.zeros(len(rows), dtype=np.int32),
        contract_names=rows.instrument_names,
        volume_kind=rows.volume_kind,
    )


def taken(rows: BarRows, index: NDArray[np.intp]) -> BarRows:
    """The rows at these indices, in that order."""
    time_text = rows.time_text
    return BarRows(
        label=rows.label,
        time_text=lambda row: time_text(int(index[row])),
        open_ns=rows.open_ns[index],
        prices=rows.prices[index],
        volume=rows.volume[index],
        contract=rows.contract[index],
        contract_names=rows.contract_names,
        volume_kind=rows.volume_kind,
    )
