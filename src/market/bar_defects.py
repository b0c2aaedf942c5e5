"""Find every kind of defect in rows of bars; `row_verdicts` decides what is done about them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from src.market.bar_rows import BarRows
from src.market.contracts import Contract
from src.market.files.rows import NO_TIME, PRICE_COLUMNS
from src.market.units import MINUTE_NS, MOST_VOLUME, TICK_TOLERANCE

LONGEST_INTERVAL_MIN = 15
SAME_STEP_RUN = 20
"""This many equal steps in a row, longer than the bar, mean another interval rather than bars without trades."""
OFF_TICK_FRAC = 0.01
"""Up to this share of rows (and one row in any case) may be off-tick without the series being an adjusted one."""
COLUMNS = ("time", *PRICE_COLUMNS, "volume", "contract")
"""What `Findings.column` counts."""

_TIME, _OPEN, _HIGH, _CLOSE, _VOLUME, _CONTRACT = 0, 1, 2, 4, 5, 6
_CHUNK = 1 << 18  # rows: what is computed on the way stays small next to the columns themselves
_MOST_POINTS = 10_000_000.0
_NEAR_BARS = 31
_NEAR_FACTOR = 1.5  # no index moves by half within 31 bars; NQ costs 3 to 4 times as much as ES
_FILE_FACTOR = 30.0  # nor is it thirtyfold away from a file's median price in the decades these futures have traded
_BLOCK = 16  # bars; a window of 31 touches at most three blocks
_MOST_SPANS = 4_000  # above this the whole column costs less than its spans

REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        "missing or unreadable value": "fill in or delete the row",
        "zero or negative price": "delete the row",
        "negative volume": "delete the row",
        "impossible volume": "delete the row",
        "price glitch": "divide or multiply the row's prices back, or delete it",
        "high below low": "swap or correct the two",
        "open outside [low, high]": "correct the row",
        "close outside [low, high]": "correct the row",
        "off-tick price": "use unadjusted prices of this market",
        "unsorted time": "sort the file by time",
        "repeated row": "delete the repeated row",
        "duplicate time": "delete the repeated row, or add a `contract` column if the file holds several contracts",
        "mixed interval": "keep bars of one interval in the file",
    }
)
"""Every kind of defect and its fix in a single row. A row with several defects is given the first in this order."""

KINDS = tuple(REMEDIES)


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
    """Index into KINDS, -1 for a sound row."""
    column: NDArray[np.int8]
    """Index into COLUMNS of the defect."""
    interval_ns: int
    interval_problem: str
    """Why no interval fits; empty where one does."""
    off_tick: NDArray[np.bool_]
    """Rows with an off-tick price; a handful of them count as sound, to be rounded."""
    no_volume: bool
    """Whether no row has a volume above 0; missing ones are no defect of the row then."""

    def count(self, kind: str) -> int:
        """Rows with this defect."""
        return int((self.kind == KINDS.index(kind)).sum())

    def tally(self) -> dict[str, int]:
        """Rows by defect, without those of no row."""
        counts = np.bincount(self.kind[self.kind >= 0], minlength=len(KINDS))
        return {name: int(count) for name, count in zip(KINDS, counts, strict=True) if count}


class _Marks:
    """Kinds and columns found so far; a row keeps its first defect."""

    def __init__(self, n: int) -> None:
        self.kind = np.full(n, -1, dtype=np.int8)
        self.column = np.zeros(n, dtype=np.int8)

    def sound(self) -> NDArray[np.intp]:
        return np.flatnonzero(self.kind == -1)

    def rows(self, name: str, bad: NDArray[np.bool_], column: int, part: slice) -> None:
        """`bad` has one entry for each row of `part`."""
        if bad.any():
            kind = self.kind[part]
            fresh = bad & (kind == -1)
            kind[fresh] = KINDS.index(name)
            self.column[part][fresh] = column

    def cells(self, name: str, bad: NDArray[np.bool_], first_column: int, part: slice) -> None:
        """Record bad cells, bool[k, c] for the k rows of `part`; the first bad column of a row is named."""
        if bad.any():
            kind = self.kind[part]
            fresh = bad.any(axis=1) & (kind == -1)
            kind[fresh] = KINDS.index(name)
            self.column[part][fresh] = bad.argmax(axis=1)[fresh] + first_column

    def among_sound(self, name: str, bad: NDArray[np.bool_]) -> None:
        """Record bad times; `bad` has one entry for each row of `sound()`."""
        if bad.any():
            self.kind[self.sound()[bad]] = KINDS.index(name)


def check_rows(
    rows: BarRows,
    contract: Contract,
    interval_min: int | None,
    *,
    any_tick: bool = False,
    interval_ns: int | None = None,
) -> Findings:
    """Check every row of one table; each row gets at most one defect.

    `any_tick`: off-tick prices are never a defect, however many (an adjusted series that the user accepts).
    `interval_ns` is the bar's length where other tables tell it: the table itself is too sparse to.
    """
    marks = _Marks(len(rows))
    no_volume = not (rows.volume > 0).any() and not (rows.volume < 0).any()
    off_tick = _mark_values(marks, rows, contract, no_volume=no_volume)
    if not any_tick and off_tick.sum() > max(1, int(OFF_TICK_FRAC * len(rows))):
        ticks = rows.prices[off_tick] / float(contract.tick_size)
        marks.column[off_tick] = (np.abs(ticks - np.rint(ticks)) > TICK_TOLERANCE).argmax(axis=1) + _OPEN
        marks.kind[off_tick] = KINDS.index("off-tick price")
    sound = marks.sound()
    marks.among_sound("unsorted time", _out_of_order(rows.open_ns[sound], rows.contract[sound]))
    _mark_duplicates(marks, rows)
    times = rows.open_ns[marks.sound()]
    interval_ns, problem = _interval_ns(times, interval_min) if interval_ns is None else (interval_ns, "")
    if not problem:
        marks.among_sound("mixed interval", _of_another_interval(times, interval_ns))
    return Findings(marks.kind, marks.column, interval_ns, problem, off_tick, no_volume)


def _mark_values(marks: _Marks, rows: BarRows, contract: Contract, *, no_volume: bool) -> NDArray[np.bool_]:
    """Mark defects of values; the otherwise sound rows with an off-tick price, bool[n]."""
    tick = float(contract.tick_size)
    off_tick = np.zeros(len(rows), dtype=bool)
    missing = "missing or unreadable value"
    with np.errstate(invalid="ignore", over="ignore"):
        for part in _parts(len(rows)):
            prices, volume = rows.prices[part], rows.volume[part]
            marks.rows(missing, rows.open_ns[part] == NO_TIME, _TIME, part)
            marks.cells(missing, ~np.isfinite(prices), _OPEN, part)
            if not no_volume:
                marks.rows(missing, ~np.isfinite(volume), _VOLUME, part)
            marks.rows(missing, rows.contract[part] < 0, _CONTRACT, part)
            marks.cells("zero or negative price", prices <= 0, _OPEN, part)
            marks.rows("negative volume", volume < 0, _VOLUME, part)
            marks.rows("impossible volume", volume > MOST_VOLUME, _VOLUME, part)
        row, glitch = _glitches(rows.prices, marks.kind == -1)
        for index, column in zip(row.tolist(), glitch.argmax(axis=1).tolist(), strict=True):
            marks.kind[index], marks.column[index] = KINDS.index("price glitch"), column + _OPEN
        for part in _parts(len(rows)):
            opened, high, low, close = rows.prices[part].T
            marks.rows("high below low", high < low, _HIGH, part)
            marks.rows("open outside [low, high]", (opened < low) | (opened > high), _OPEN, part)
            marks.rows("close outside [low, high]", (close < low) | (close > high), _CLOSE, part)
            ticks = rows.prices[part] / tick
            off = np.abs(ticks - np.rint(ticks)) > TICK_TOLERANCE
            if off.any():
                off_tick[part] = off.any(axis=1) & (marks.kind[part] == -1)
    return off_tick


def _parts(n: int) -> Iterator[slice]:
    return (slice(start, min(start + _CHUNK, n)) for start in range(0, n, _CHUNK))


def _mark_duplicates(marks: _Marks, rows: BarRows) -> None:
    sound = marks.sound()
    times = rows.open_ns[sound]
    if (times[1:] > times[:-1]).all():
        return
    keys = pd.DataFrame({"time": times, "contract": rows.contract[sound]})
    again = keys.duplicated().to_numpy()
    if not again.any():
        return
    # Of the rows that share a time, those that say what the first says lose nothing by being left out.
    rivals = np.flatnonzero(keys.duplicated(keep=False).to_numpy())
    said = keys.iloc[rivals].assign(volume=rows.volume[sound[rivals]])
    for place, name in enumerate(PRICE_COLUMNS):
        said[name] = rows.prices[sound[rivals], place]
    firsts = said.groupby(["time", "contract"], sort=False).transform("first")
    same = (said[firsts.columns].eq(firsts) | (said[firsts.columns].isna() & firsts.isna())).all(axis=1).to_numpy()
    copies = np.zeros(len(sound), dtype=bool)
    copies[rivals[same]] = True
    marks.kind[sound[again & copies]] = KINDS.index("repeated row")
    marks.kind[sound[again & ~copies]] = KINDS.index("duplicate time")


def list_defects(rows: BarRows, findings: Findings, most: int | None = None) -> list[Defect]:
    """Bad rows in file order; at most the first `most`."""
    found = []
    for row in np.flatnonzero(findings.kind >= 0)[:most].tolist():
        place = int(findings.column[row])
        value = value_text(rows, row, place)
        found.append(Defect(KINDS[findings.kind[row]], row + 1, COLUMNS[place], value))
    return found


def value_text(rows: BarRows, row: int, column: int) -> str:
    """The value of a cell, for messages."""
    if column == _TIME:
        return rows.time_text(row)
    if column == _CONTRACT:
        return "nothing"
    return str(rows.prices[row, column - 1] if column < _VOLUME else rows.volume[row])


def _glitches(prices: NDArray[np.float64], usable: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Rows (int[k]) and cells (bool[k, 4]) absurdly far from their neighbors or from the file's median price."""
    if not usable.any():
        return np.empty(0, dtype=np.intp), np.empty((0, 4), dtype=bool)
    # Column by column: a reduction over rows of four costs five times as much.
    low, high = prices[:, 0].copy(), prices[:, 0].copy()
    for column in prices.T[1:]:
        np.minimum(low, column, out=low)
        np.maximum(high, column, out=high)
    close = prices[:, 3].copy()
    low[~usable], high[~usable], close[~usable] = np.inf, -np.inf, np.nan
    level = float(np.median(close[usable]))
    near = _near_medians(close, low, high)
    # 0.99 and 1.01: candidates may be too many but not too few; the quotients below decide.
    far = (high > 0.99 * min(_MOST_POINTS, _FILE_FACTOR * level)) | (low < 1.01 * level / _FILE_FACTOR)
    row = np.flatnonzero(usable & (far | ~np.isnan(near)))
    suspects = prices[row]
    flags = suspects > _MOST_POINTS
    for beside, factor in ((near[row], _NEAR_FACTOR), (np.full(len(row), level), _FILE_FACTOR)):
        ratio = suspects / beside[:, None]
        flags |= (ratio >= factor) | (ratio <= 1 / factor)
    bad = flags.any(axis=1)
    return row[bad], flags[bad]


def _near_medians(
    close: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Median close of the 31 bars around, float64[n]; NaN where it cannot be far enough away to matter.

    A median lies between the least and the greatest close of the three blocks around it, which are cheap to compare.
    """
    n = len(close)
    blocks = -(-n // _BLOCK)
    room = blocks * _BLOCK - n

    def by_block(values: NDArray[np.float64], fill: float) -> NDArray[np.float64]:
        return np.concatenate((values, np.full(room, fill))).reshape(blocks, _BLOCK)

    least = np.nanmin(by_block(np.where(np.isnan(close), np.inf, close), np.inf), axis=1)
    most = np.nanmax(by_block(np.where(np.isnan(close), -np.inf, close), -np.inf), axis=1)
    around_least, around_most = _of_three(least, np.minimum), _of_three(most, np.maximum)
    suspect = (by_block(high, -np.inf).max(axis=1) > 0.99 * _NEAR_FACTOR * around_least) | (
        by_block(low, np.inf).min(axis=1) < 1.01 / _NEAR_FACTOR * around_most
    )
    found = np.full(n, np.nan)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], suspect.view(np.int8), [0]))))
    if len(edges) > _MOST_SPANS:
        edges = np.array([0, blocks])
    margin = _NEAR_BARS // 2
    for first, last in edges.reshape(-1, 2).tolist():
        start, end = first * _BLOCK, min(last * _BLOCK, n)
        begin = max(0, start - margin)
        piece = pd.Series(close[begin : end + margin])
        medians = piece.rolling(_NEAR_BARS, center=True, min_periods=3).median().to_numpy()
        found[start:end] = medians[start - begin : end - begin]
    return found


def _of_three(values: NDArray[np.float64], pick: np.ufunc) -> NDArray[np.float64]:
    """The pick of each value and its two neighbors."""
    beside = values.copy()
    beside[1:] = pick(beside[1:], values[:-1])
    beside[:-1] = pick(beside[:-1], values[1:])
    return beside


def _out_of_order(times: NDArray[np.int64], contract: NDArray[np.signedinteger]) -> NDArray[np.bool_]:
    """The smallest set of rows to drop so that no contract's times ever decrease, bool[k].

    These are the rows outside a longest non-decreasing subsequence. Contracts may follow each other in blocks.
    """
    bad = np.zeros(len(times), dtype=bool)
    if (times[1:] >= times[:-1]).all():
        return bad
    for code in np.unique(contract).tolist():
        own = np.flatnonzero(contract == code)
        bad[own] = _outside_longest_rise(times[own])
    return bad


def _outside_longest_rise(times: NDArray[np.int64]) -> NDArray[np.bool_]:
    # A row that is not before any earlier row nor after any later one is in every longest rise: only the rest is work.
    latest_before = np.maximum.accumulate(times)
    earliest_after = np.minimum.accumulate(times[::-1])[::-1]
    astray = np.flatnonzero((latest_before > times) | (earliest_after < times))
    tails: list[int] = []
    tail_rows: list[int] = []
    parent: list[int] = []
    for row, value in enumerate(times[astray].tolist()):
        # Most rows of a long file follow the greatest so far: no search for those.
        place = len(tails) if not tails or value >= tails[-1] else bisect_right(tails, value)
        parent.append(tail_rows[place - 1] if place else -1)
        if place == len(tails):
            tails.append(value)
            tail_rows.append(row)
        else:
            tails[place], tail_rows[place] = value, row
    bad = np.zeros(len(times), dtype=bool)
    bad[astray] = True
    row = tail_rows[-1] if tail_rows else -1
    while row >= 0:
        bad[astray[row]] = False
        row = parent[row]
    return bad


def _interval_ns(times: NDArray[np.int64], interval_min: int | None) -> tuple[int, str]:
    """The most frequent step between times, and why it cannot be the bar interval (empty if it can)."""
    steps = np.diff(times if (times[1:] > times[:-1]).all() else np.unique(times))
    if steps.size == 0:
        if interval_min is not None:
            return interval_min * MINUTE_NS, ""
        return 0, (
            f"it has {len(times)} sound row(s) at one time, which tell no bar interval. Give it more bars, or set "
            f"data.interval_min"
        )
    counts = pd.Series(steps).value_counts(sort=False)
    interval_ns = int(counts.index[counts.to_numpy() == counts.max()].min())
    minutes = interval_ns / MINUTE_NS
    if interval_ns % MINUTE_NS or not 1 <= minutes <= LONGEST_INTERVAL_MIN:
        return interval_ns, (
            f"its bars are {minutes:g} minutes apart; bars of 1 to {LONGEST_INTERVAL_MIN} whole minutes are supported. "
            f"Resample the file"
        )
    if interval_min is not None and interval_min % minutes:
        whole = int(minutes)
        longer = ", ".join(str(value) for value in range(whole, LONGEST_INTERVAL_MIN + 1, whole))
        return interval_ns, (
            f"its bars are {whole} minutes apart, but data.interval_min is {interval_min}: bars can only be joined "
            f"into longer ones. Set data.interval_min (--interval) to {longer}, or remove it"
        )
    return interval_ns, ""


def _of_another_interval(times: NDArray[np.int64], interval_ns: int) -> NDArray[np.bool_]:
    """Whether a row is off the interval's grid or inside a long run of equal longer steps, bool[k]."""
    bad = np.zeros(len(times), dtype=bool)
    if len(times) == 0:
        return bad
    # An interval that does not divide the hour has no grid of its own: sessions.place_in_sessions checks it.
    bad |= times % (interval_ns if (60 * MINUTE_NS) % interval_ns == 0 else MINUTE_NS) != 0
    if (times[1:] > times[:-1]).all():
        moments, member = times, np.arange(len(times))
    else:
        moments, member = np.unique(times, return_inverse=True)
    steps = np.diff(moments)
    if steps.size >= SAME_STEP_RUN:
        edges = np.flatnonzero(np.concatenate(([True], steps[1:] != steps[:-1], [True])))
        long_runs = (np.diff(edges) >= SAME_STEP_RUN) & (steps[edges[:-1]] != interval_ns)
        within = np.zeros(len(moments), dtype=bool)
        for start, end in zip(edges[:-1][long_runs].tolist(), edges[1:][long_runs].tolist(), strict=True):
            # A bar's length is the step after it; the last bar takes the length of the one before.
            within[start : end + (end == steps.size)] = True
        bad |= within[member]
    return bad
