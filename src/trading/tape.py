"""The frozen arrays an account reads; all accounts, environments and workers share one tape."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from src.market.flags import BREAK_AFTER, DECISION, END_AFTER, FLAT_BAR
from src.trading.distances import Distances, Multiples, distances_of, multiples_of
from src.trading.layout import N_ACTIONS, N_CONTEXT_FEATURES, N_SIDES, N_WINDOW_FEATURES

_DTYPES: dict[str, Any] = {
    "prices": np.int32,
    "flags": np.uint8,
    "atr_ticks": np.float32,
    "window": np.float32,
    "context": np.float32,
    "situation": np.int32,
    "advice": np.float32,
    "starts": np.int32,
}


def _fitting(name: str, array: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """The array if every value survives conversion to `dtype` (floats may lose digits). Raises ValueError otherwise."""
    given = np.asarray(array)
    if given.dtype == dtype or not given.size:
        return given
    if given.dtype.kind not in ("biu" if dtype.kind in "iu" else "fiu"):
        raise ValueError(f"Tape.{name} is {given.dtype}, needs {dtype}")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if given.min() < limits.min or given.max() > limits.max:
            raise ValueError(f"Tape.{name} runs from {given.min()} to {given.max()}: too large for {dtype}")
    return given


@dataclass(frozen=True)
class Tape:
    """What the kernel reads about the market and the advice; read-only, C-contiguous.

    prices int32[n, 4] open, high, low, close in ticks; flags uint8[n] (`src.market.flags`); atr_ticks float32[n];
    window float32[n, 11]; context float32[n, 22]; situation int32[n] market part of the situation; advice float32[k *
    5, 6] probabilities by situation, a zero row abstains; starts int32[m] bars where a training episode may begin.
    """

    prices: np.ndarray
    flags: np.ndarray
    atr_ticks: np.ndarray
    window: np.ndarray
    context: np.ndarray
    situation: np.ndarray
    advice: np.ndarray
    starts: np.ndarray

    def __post_init__(self) -> None:
        for name, dtype in _DTYPES.items():
            # A view: the caller's own array stays writable, and a mapped file stays mapped.
            array = np.ascontiguousarray(_fitting(name, getattr(self, name), np.dtype(dtype)), dtype=dtype).view()
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        self._check()

    def _check(self) -> None:
        n = len(self.prices)
        shapes = {
            "prices": (n, 4),
            "flags": (n,),
            "atr_ticks": (n,),
            "window": (n, N_WINDOW_FEATURES),
            "context": (n, N_CONTEXT_FEATURES),
            "situation": (n,),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"Tape.{name} has shape {getattr(self, name).shape}, needs {shape}")
        if self.advice.ndim != 2 or self.advice.shape[1] != N_ACTIONS or len(self.advice) % N_SIDES:
            raise ValueError(f"Tape.advice has shape {self.advice.shape}, needs (situations * {N_SIDES}, {N_ACTIONS})")
        if n and (self.situation.min() < 0 or (self.situation.max() + 1) * N_SIDES > len(self.advice)):
            raise ValueError(
                f"Tape.situation runs from {self.situation.min()} to {self.situation.max()}, but advice has rows for "
                f"0 to {len(self.advice) // N_SIDES - 1}"
            )
        if self.starts.ndim != 1:
            raise ValueError(f"Tape.starts has shape {self.starts.shape}, needs (starts,)")
        if len(self.starts) and (self.starts.min() < 0 or self.starts.max() >= n):
            raise ValueError(f"Tape.starts names bars {self.starts.min()} to {self.starts.max()} of {n}")
        self._check_endings()

    def _check_endings(self) -> None:
        """A session ends with its account flat: at a forced exit, or at a break that closes the position."""
        ends = (self.flags & END_AFTER) != 0
        broken = (self.flags & BREAK_AFTER) != 0
        before_flat_bar = np.append((self.flags[1:] & FLAT_BAR) != 0, False)
        open_ended = np.flatnonzero(ends & ~broken & ~before_flat_bar)
        if len(open_ended):
            raise ValueError(
                f"Tape.flags end a session after bar {open_ended[0]} with neither a forced exit nor a break after it: "
                f"a position would outlive its session"
            )
        decides = (self.flags & DECISION) != 0
        goes_on = np.append(decides[1:] | (~broken[:-1] & before_flat_bar[:-1]), False)
        stranded = np.flatnonzero(decides & ~ends & ~goes_on)
        if len(stranded):
            raise ValueError(
                f"Tape.flags let an account decide at bar {stranded[0]} of {len(self.flags)} and continue, but "
                f"the next bar is not a decision bar: set END_AFTER"
            )

    @cached_property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The arrays in order, as the kernel takes them; the window table as one row, float32[n * 11]."""
        return tuple(self.window.reshape(-1) if f.name == "window" else getattr(self, f.name) for f in fields(self))

    def distances(self, params: np.ndarray) -> np.ndarray:
        """Stop, target and trailing distance of an entry decided at each bar, int32[n, 3] ticks, under PARAMS[1]."""
        key = multiples_of(params[0])
        if key not in self._distances:
            self._distances[key] = distances_of(self.atr_ticks, key)
        return self._distances[key].ticks

    def remake_distances(self, bars: np.ndarray) -> None:
        """Make the distances of these bars again, after whoever holds the tape's own ATR has changed it in place."""
        for distances in self._distances.values():
            distances.make(bars)

    @cached_property
    def _distances(self) -> dict[Multiples, Distances]:
        return {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles pass through the checks and are read-only too."""
        return type(self), tuple(getattr(self, f.name) for f in fields(self))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(getattr(self, f.name).nbytes for f in fields(self))

    def save(self, folder: Path) -> None:
        """Write each array as `<name>.npy` into an existing folder, for workers to map."""
        for f in fields(self):
            np.save(folder / f"{f.name}.npy", getattr(self, f.name), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> Tape:
        """Map the arrays written by `save` read-only; workers on one machine share the pages."""
        return cls(
            **{f.name: np.load(folder / f"{f.name}.npy", mmap_mode="r", allow_pickle=False) for f in fields(cls)}
        )
