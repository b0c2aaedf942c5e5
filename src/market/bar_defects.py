"""Defects in rows of bars: find every kind, then report it or drop the rows and count them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from src.errors import BarDataError
from src.market.bar_files import NO_TIME, PRICE_COLUMNS, RawColumns
from src.market.contracts import Contract

MINUTE_NS = 60_000_000_000
LONGEST_INTERVAL_MIN = 15
SAME_STEP_RUN = 20
"""This many equal steps in a row, longer than the bar, mean another interval rather than bars without trades."""

_MOST_POINTS = 10_000_000.0
_MOST_VOLUME = 1e12
_NEAR_BARS = 31
_NEAR_FACTOR = 5.0  # no index moves fivefold within 31 bars
_FILE_FACTOR = 30.0  # nor is it thirtyfold away from a file's median price in the decades these futures have traded
_TICK_TOLERANCE = 0.01  # of a tick: what float32 columns lose

REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        "missing or unreadable value": "fill in or delete the row",
        "zero or negative price": "delete the row",
        "negative volume": "delete the row",
        "impossible volume": "delete the row",
        "price glitch (factor 100)": "divide or multiply the row's prices back, or delete it",
        "high below low": "swap or correct the two",
        "open outside [low, high]": "correct the row",
        "close outside [low, high]": "correct the row",
        "off-tick price": "use unadjusted prices of this market, or delete the row",
        "unsorted time": "sort the file by time",
        "duplicate time": "delete the repeated row, or add a `contract` column if the file holds several contracts",
        "mixed interval": "keep bars of one interval in the file",
    }
)
"""Every kind of defect and its fix. A row with several defects is given the first in this order."""


@dataclass(frozen=True)
class Defect:
    """One bad row; `row` counts bars from 1 in file order."""

    kind: str
    row: int
    column: str
    value: str


@dataclass(frozen=True, eq=False)
class Findings:
    """What `check_rows` found in n rows."""

    kind: NDArray[np.int8]
    """Index into REMEDIES' keys, -1 for a sound row."""
    column: NDArray[np.int8]
    """Column of the defect: 0 time, 1-4 prices, 5 volume, 6 contract."""
    interval_ns: int
    interval_problem: str
    """Why no interval fits; empty where one does."""


class _Marks:
    """Kinds and columns found so far; a row keeps its first defect."""

    def __init__(self, n: int) -> None:
        self.kind = np.full(n, -1, dtype=np.int8)
        self.column = np.zeros(n, dtype=np.int8)
        self._codes = {name: code for code, name in enumerate(REMEDIES)}

    def sound(self) -> NDArray[np.intp]:
        return np.flatnonzero(self.kind == -1)

    def rows(self, name: str, bad: NDArray[np.bool_], column: int) -> None:
        """`bad` bool[n]."""
        fresh = bad & (self.kind == -1)
        self.kind[fresh] = self._codes[name]
        self.column[fresh] = column

    def cells(self, name: str, bad: NDArray[np.bool_], first_column: int) -> None:
        """Record bad cells, bool[n, k]; the first bad column of a row is named."""
        fresh = bad.any(axis=1) & (self.kind == -1)
        self.kind[fresh] = self._codes[name]
        self.column[fresh] = bad.argmax(axis=1)[fresh] + first_column

    def among_sound(self, name: str, bad: NDArray[np.bool_]) -> None:
        """Record bad times; `bad` has one entry for each row of `sound()`."""
        self.kind[self.sound()[bad]] = self._codes[name]


def check_rows(raw: RawColumns, contract: Contract, interval_min: int | None) -> Findings:
    """Check every row of one file; each row gets at most one defect."""
    marks = _Marks(len(raw))
    _mark_values(marks, raw, contract)
    marks.among_sound("unsorted time", _out_of_order(raw.open_ns[marks.sound()]))
    sound = marks.sound()
    keys = pd.DataFrame({"time": raw.open_ns[sound], "contract": raw.contract[sound]})
    marks.among_sound("duplicate time", keys.duplicated().to_numpy())
    times = raw.open_ns[marks.sound()]
    interval_ns, problem = _interval_ns(times, interval_min)
    if not problem:
        marks.among_sound("mixed interval", _of_another_interval(times, interval_ns))
    return Findings(marks.kind, marks.column, interval_ns, problem)


def _mark_values(marks: _Marks, raw: RawColumns, contract: Contract) -> None:
    opened, high, low, close = raw.prices.T
    marks.cells("missing or unreadable value", np.column_stack((raw.open_ns == NO_TIME, ~np.isfinite(raw.prices))), 0)
    marks.rows("missing or unreadable value", ~np.isfinite(raw.volume), 5)
    marks.rows("missing or unreadable value", raw.contract < 0, 6)
    with np.errstate(invalid="ignore", over="ignore"):
        marks.cells("zero or negative price", raw.prices <= 0, 1)
        marks.rows("negative volume", raw.volume < 0, 5)
        marks.rows("impossible volume", raw.volume > _MOST_VOLUME, 5)
        marks.cells("price glitch (factor 100)", _glitches(raw.prices, marks.kind == -1), 1)
        marks.rows("high below low", high < low, 2)
        marks.rows("open outside [low, high]", (opened < low) | (opened > high), 1)
        marks.rows("close outside [low, high]", (close < low) | (close > high), 4)
        ticks = raw.prices / float(contract.tick_size)
        marks.cells("off-tick price", np.abs(ticks - np.rint(ticks)) > _TICK_TOLERANCE, 1)


def list_defects(raw: RawColumns, findings: Findings) -> list[Defect]:
    """Every bad row in file order."""
    names = ("time", *PRICE_COLUMNS, "volume", "contract")
    kinds = tuple(REMEDIES)
    found = []
    for row in np.flatnonzero(findings.kind >= 0):
        place = int(findings.column[row])
        value = (
            raw.time_text.iloc[row] if place == 0 else (raw.prices[row, place - 1] if place < 5 else raw.volume[row])
        )
        found.append(Defect(kinds[findings.kind[row]], int(row) + 1, names[place], str(value)))
    return found


def repaired(raw: RawColumns, findings: Findings) -> tuple[RawColumns, dict[str, int]]:
    """The sound rows and the number dropped per kind.

    Raises BarDataError if repair would drop most of the file, and for a bad interval.
    """
    keep = findings.kind == -1
    counts = np.bincount(findings.kind[~keep], minlength=len(REMEDIES))
    dropped = {name: int(count) for name, count in zip(REMEDIES, counts, strict=True) if count}
    if keep.sum() * 2 < len(raw):
        raise BarDataError(
            f"{raw.file}: repair would drop {len(raw) - int(keep.sum())} of {len(raw)} rows ({_tally(dropped)}): that "
            f"is too many to repair. Export the file again."
        )
    _refuse_interval(raw, findings)
    return (
        replace(
            raw,
            time_text=raw.time_text[keep],
            open_ns=raw.open_ns[keep],
            prices=raw.prices[keep],
            volume=raw.volume[keep],
            contract=raw.contract[keep],
        ),
        dropped,
    )


def refuse(raw: RawColumns, findings: Findings) -> None:
    """Raise BarDataError for the first bad row (the others are counted) or a bad interval; sound files pass."""
    bad = np.flatnonzero(findings.kind >= 0)
    if not bad.size:
        _refuse_interval(raw, findings)
        return
    first = list_defects(raw, replace(findings, kind=findings.kind[: bad[0] + 1]))[0]
    counts = np.bincount(findings.kind[bad], minlength=len(REMEDIES))
    tally = {name: int(count) for name, count in zip(REMEDIES, counts, strict=True) if count}
    when = "" if first.column == "time" else f" at {raw.time_text.iloc[bad[0]]}"
    raise BarDataError(
        f"{raw.file}: row {first.row}{when}: {first.kind}, {first.column} = {first.value} (rows count from 1 after the "
        f"header; in the whole file: {_tally(tally)}). Remedy: {REMEDIES[first.kind]}; or set data.repair: true in "
        f"a --config file, which drops bad rows and counts them."
    )


def _refuse_interval(raw: RawColumns, findings: Findings) -> None:
    if findings.interval_problem:
        raise BarDataError(f"{raw.file}: {findings.interval_problem}.")


def _tally(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _glitches(prices: NDArray[np.float64], usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether a price is absurdly far from its neighbors or from the file's median, bool[n, 4]."""
    flags = prices > _MOST_POINTS
    if not usable.any():
        return flags
    close = pd.Series(np.where(usable, prices[:, 3], np.nan))
    near = close.rolling(_NEAR_BARS, center=True, min_periods=3).median().to_numpy()
    for level, factor in ((near, _NEAR_FACTOR), (np.full(len(prices), np.nanmedian(close)), _FILE_FACTOR)):
        ratio = prices / level[:, None]
        flags |= (ratio >= factor) | (ratio <= 1 / factor)
    return flags & usable[:, None]


def _out_of_order(times: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The smallest set of rows to drop so that times never decrease, bool[k].

    These are the rows outside a longest non-decreasing subsequence.
    """
    bad = np.zeros(len(times), dtype=bool)
    if len(times) < 2 or (np.diff(times) >= 0).all():
        return bad
    tails: list[int] = []
    tail_rows: list[int] = []
    parent = np.full(len(times), -1)
    for row, value in enumerate(times.tolist()):
        place = bisect_right(tails, value)
        parent[row] = tail_rows[place - 1] if place else -1
        if place == len(tails):
            tails.append(value)
            tail_rows.append(row)
        else:
            tails[place], tail_rows[place] = value, row
    bad[:] = True
    row = tail_rows[-1]
    while row >= 0:
        bad[row] = False
        row = int(parent[row])
    return bad


def _interval_ns(times: NDArray[np.int64], interval_min: int | None) -> tuple[int, str]:
    """The most frequent step between times, and why it cannot be the bar interval (empty if it can)."""
    steps = np.diff(np.unique(times))
    if steps.size == 0:
        if interval_min is not None:
            return interval_min * MINUTE_NS, ""
        return 0, f"{len(times)} sound row(s) tell no bar interval. Give more bars, or set data.interval_min"
    lengths, counts = np.unique(steps, return_counts=True)
    interval_ns = int(lengths[counts.argmax()])
    minutes = interval_ns / MINUTE_NS
    if interval_ns % MINUTE_NS or not 1 <= minutes <= LONGEST_INTERVAL_MIN:
        return interval_ns, (
            f"its bars are {minutes:g} minutes apart; bars of 1 to {LONGEST_INTERVAL_MIN} whole minutes are supported. "
            f"Resample the file"
        )
    if interval_min is not None and interval_min != minutes:
        return interval_ns, (
            f"its bars are {minutes:g} minutes apart, but data.interval_min is {interval_min}. Correct or remove it"
        )
    return interval_ns, ""


def _of_another_interval(times: NDArray[np.int64], interval_ns: int) -> NDArray[np.bool_]:
    """Whether a row is off the interval's grid or inside a long run of equal longer steps, bool[k]."""
    bad = np.zeros(len(times), dtype=bool)
    if len(times) == 0:
        return bad
    # An interval that does not divide the hour has no grid of its own: sessions.place_in_sessions checks it.
    bad |= times % (interval_ns if (60 * MINUTE_NS) % interval_ns == 0 else MINUTE_NS) != 0
    moments, member = np.unique(times, return_inverse=True)
    steps = np.diff(moments)
    if steps.size >= SAME_STEP_RUN:
        edges = np.flatnonzero(np.concatenate(([True], steps[1:] != steps[:-1], [True])))
        long_runs = (np.diff(edges) >= SAME_STEP_RUN) & (steps[edges[:-1]] != interval_ns)
        for start, end in zip(edges[:-1][long_runs], edges[1:][long_runs], strict=True):
            # A bar's length is the step after it; the last bar takes the length of the one before.
            bad |= (member >= start) & ((member < end) | (end == steps.size))
    return bad
