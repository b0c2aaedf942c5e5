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

Multiples = tuple[float, float, float]
"""Of an account's constants: stop_atr, target_r, trail_atr."""
Key = tuple[Any, ...]


class Distances:
    """The table of one market: `ticks` int32[n, 3], a read-only view. It keeps the ATR that it was made of."""

    def __init__(self, atr_ticks: NDArray[np.float32], multiples: Multiples) -> None:
        self._atr_ticks, self._multiples = atr_ticks, multiples
        self._table = np.empty((len(atr_ticks), N_DISTANCES), np.int32)
        self.ticks = self._table.view()
        self.ticks.setflags(write=False)
        self.make(slice(None))

    def make(self, bars: slice | NDArray[np.integer]) -> None:
        """Make the rows of these bars, again where somebody has changed their ATR in place."""
        stop_atr, target_r, trail_atr = self._multiples
        atr = self._atr_ticks[bars].astype(np.float64)
        stop = whole_ticks(stop_atr * atr)
        self._table[bars, STOP] = stop
        self._table[bars, TARGET] = whole_ticks(target_r * stop)
        self._table[bars, TRAIL] = whole_ticks(trail_atr * atr)


_SHARED: WeakValueDictionary[Key, Distances] = WeakValueDictionary()
"""Tables of ATRs that nobody can write to: tapes of the same market share them. A table keeps its ATR, so that no other
array can come to the same address while it exists."""


def distances_of(atr_ticks: NDArray[np.float32], multiples: Multiples) -> Distances:
    """The table for an ATR float32[n]; the same object where one exists."""
    owner = atr_ticks
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    if owner.flags.writeable:
        return Distances(atr_ticks, multiples)
    where = atr_ticks.__array_interface__["data"][0], atr_ticks.shape, atr_ticks.strides
    key = *where, *multiples
    found = _SHARED.get(key)
    if found is None:
        found = _SHARED[key] = Distances(atr_ticks, multiples)
    return found


def multiples_of(params: np.void) -> Multiples:
    """What the distances depend on of one PARAMS record."""
    return float(params["stop_atr"]), float(params["target_r"]), float(params["trail_atr"])


def whole_ticks(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """To the nearest tick, halves up; from 1 to FARTHEST_TICKS."""
    return np.clip(np.floor(distance + 0.5), 1, FARTHEST_TICKS)
