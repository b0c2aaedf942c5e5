"""Stop, target and trailing distances of an entry at each bar, in whole ticks, made once for a market's ATR.

The transition itself then has no floating-point arithmetic that a processor may round its own way.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

STOP, TARGET, TRAIL = range(3)
"""Columns of the table."""
N_DISTANCES = 3
FARTHEST_TICKS = 2**30
"""No level is further away: such a price is never reached, and a level must fit in 32 bits."""

Key = tuple[Any, ...]


class Distances:
    """The table of one market: `ticks` int32[n, 3], read-only. It keeps the ATR that it was made of."""

    def __init__(self, atr_ticks: NDArray[np.float32], params: np.void) -> None:
        self.atr_ticks = atr_ticks
        atr = atr_ticks.astype(np.float64)
        self.ticks = np.empty((len(atr), N_DISTANCES), np.int32)
        self.ticks[:, STOP] = whole_ticks(params["stop_atr"] * atr)
        self.ticks[:, TARGET] = whole_ticks(params["target_r"] * self.ticks[:, STOP])
        self.ticks[:, TRAIL] = whole_ticks(params["trail_atr"] * atr)
        self.ticks.setflags(write=False)


_SHARED: WeakValueDictionary[Key, Distances] = WeakValueDictionary()
"""Tables of ATRs that nobody can write to: tapes of the same market share them. A table keeps its ATR, so that no other
array can come to the same address while it exists."""


def distances_of(atr_ticks: NDArray[np.float32], params: np.void) -> Distances:
    """The table for an ATR float32[n] and one PARAMS record; the same object where one exists."""
    owner = atr_ticks
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    if owner.flags.writeable:
        return Distances(atr_ticks, params)
    where = atr_ticks.__array_interface__["data"][0], atr_ticks.shape, atr_ticks.strides
    key = *where, *multiples_of(params)
    found = _SHARED.get(key)
    if found is None:
        found = _SHARED[key] = Distances(atr_ticks, params)
    return found


def multiples_of(params: np.void) -> tuple[float, float, float]:
    """What of an account's constants the distances depend on."""
    return float(params["stop_atr"]), float(params["target_r"]), float(params["trail_atr"])


def whole_ticks(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """To the nearest tick, halves up; from 1 to FARTHEST_TICKS."""
    return np.clip(np.floor(distance + 0.5), 1, FARTHEST_TICKS)
