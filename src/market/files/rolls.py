"""Detect rolls in a series without contract names: price jumps at roll dates, and volume that drops and recovers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from src.market.contracts import Contract
from src.market.files.contract_months import third_friday
from src.market.files.reading import Finding
from src.market.files.roll_calendar import DAYS_AFTER_EXPIRY, DAYS_BEFORE_EXPIRY, expected_gap, roll_windows
from src.market.sessions import Schedule
from src.market.units import DAY_NS

EDGE_JUMP = 0.002
"""Smallest jump between sessions marked as a roll, as a fraction of the price. Low, because a false mark costs one
warm-up, while a missed roll produces a return that cannot be earned."""
INSIDE_JUMP = 0.0025
"""The same between neighboring bars within a session, where a mark costs the session. In the real files tried, no two
adjacent 5-minute bars without a hole differ by half of this."""
LARGEST_JUMP = 0.03
UNNAMED = "unnamed contract"
_MOST_EDGES = 11  # of the 13 sessions of a window, or of 12 with a holiday
_NEIGHBOR_BARS = 3
_STAYS_BARS = 3
_DRY_SHARE = 0.4  # of the usual volume: typical of the old contract's last sessions
_REFILL = 1.6
_USUAL_SESSIONS = 20


@dataclass(frozen=True, eq=False)
class Series:
    """The bars of one market in time order; arrays of length n."""

    open_ns: NDArray[np.int64]
    ticks: NDArray[np.int32]
    """int32[n, 4]."""
    contract: Contract
    interval_ns: int
    schedule: Schedule
    """Sessions covering all bars."""


@dataclass(frozen=True, eq=False)
class FoundRolls:
    """A series split at detected rolls; arrays of length n."""

    contract: NDArray[np.int64]
    """0 before the first mark, 1 up to the second, and so on."""
    contract_names: tuple[str, ...]
    """Empty if nothing was marked."""
    rolls: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class RollWindow:
    """The sessions around one expiry."""

    year: int
    month: int
    expected: float
    """Expected gap as a fraction of the price."""
    edges: NDArray[np.int64]
    """First bars of sessions in the window."""
    jumps: NDArray[np.float64]
    """Jump at each edge, as a fraction of the price."""
    closed_ns: NDArray[np.int64]
    """Time from the previous bar to each edge."""
    inside: NDArray[np.int64]
    """Bars within sessions whose open is a roll-sized jump from the previous bar."""
    whole: bool
    """Whether the series has most of the window's sessions, each with a previous session."""


def roll_windows_of(series: Series) -> list[RollWindow]:
    """Every roll window that the series overlaps, with its jumps."""
    open_ns, ticks = series.open_ns, series.ticks
    first, session = session_edges(open_ns, series.schedule)
    day = series.schedule.date.astype("datetime64[D]").astype(np.int64)[session]
    windows = []
    for year, month in roll_windows(int(day[0]), int(day[-1])):
        expiry = third_friday(year, month)
        held = slice(*np.searchsorted(day, [expiry - DAYS_BEFORE_EXPIRY, expiry + DAYS_AFTER_EXPIRY + 1]))
        edges = first[held][first[held] > 0]
        windows.append(
            RollWindow(
                year=year,
                month=month,
                expected=expected_gap(series.contract.symbol, year, month),
                edges=edges,
                jumps=ticks[edges, 0] / ticks[edges - 1, 3] - 1.0,
                closed_ns=open_ns[edges] - open_ns[edges - 1],
                inside=_inside_jumps(series, first, held),
                whole=len(edges) >= _MOST_EDGES,
            )
        )
    return windows


def session_edges(open_ns: NDArray[np.int64], schedule: Schedule) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First bar and index of each session with bars; bars in closed hours belong to the session before them."""
    starts = np.searchsorted(open_ns, schedule.open_ns)
    held = np.flatnonzero(np.diff(np.append(starts, len(open_ns))) > 0)
    return starts[held], held


def _inside_jumps(series: Series, first: NDArray[np.int64], held: slice) -> NDArray[np.int64]:
    """Bars of the sessions `held` that open a roll-sized jump away from the previous bar and stay there."""
    open_ns, ticks = series.open_ns, series.ticks
    if held.start >= held.stop:
        return np.empty(0, dtype=np.int64)
    start = int(first[held.start])
    end = int(first[held.stop]) if held.stop < len(first) else len(open_ns)
    jump = np.abs(ticks[start + 1 : end, 0] / ticks[start : end - 1, 3] - 1.0)
    near = np.diff(open_ns[start:end]) <= _NEIGHBOR_BARS * series.interval_ns
    rows = np.flatnonzero(near & (jump >= INSIDE_JUMP) & (jump <= LARGEST_JUMP)) + start + 1
    return np.array([row for row in np.setdiff1d(rows, first).tolist() if _stays(ticks, row)], dtype=np.int64)


def _stays(ticks: NDArray[np.int32], row: int) -> bool:
    """Whether at least half of the jump into a bar persists; a glitch reverts."""
    before = ticks[max(row - 1 - _STAYS_BARS, 0), 3]
    after = ticks[min(row + _STAYS_BARS, len(ticks) - 1), 3]
    jump = int(ticks[row, 0]) - int(ticks[row - 1, 3])
    return bool((int(after) - int(before)) * np.sign(jump) >= abs(jump) / 2)


def find_rolls(series: Series, volume: NDArray[np.int64] | None) -> FoundRolls:
    """Mark possible changes of contract: see EDGE_JUMP and INSIDE_JUMP, and `_refilled` for volume.

    Only bars in roll windows are marked. Marks use later data, as all session checks do; they do not add or change
    bars. `volume` is None for a series without volume.
    """
    windows, n = roll_windows_of(series), len(series.open_ns)
    marks: set[int] = set()
    unseen: list[str] = []
    for window in windows:
        seen = _seen(window) | _refilled(window, series, volume)
        if not seen and window.whole:
            unseen.append(f"{window.year}-{window.month:02}")
        marks |= seen
    rows = sorted(marks)
    codes = np.repeat(np.arange(len(rows) + 1), np.diff([0, *rows, n]))
    names = tuple(f"{UNNAMED} {k + 1}" for k in range(len(rows) + 1)) if rows else ()
    return FoundRolls(codes, names, len(rows), _findings(unseen))


def _seen(window: RollWindow) -> set[int]:
    size = np.abs(window.jumps)
    return set(window.edges[(size >= EDGE_JUMP) & (size <= LARGEST_JUMP)].tolist()) | set(window.inside.tolist())


def _refilled(window: RollWindow, series: Series, volume: NDArray[np.int64] | None) -> set[int]:
    """First bars of sessions whose volume recovers after the low of an old contract's last sessions."""
    if volume is None or not len(window.edges):
        return set()
    open_ns = series.open_ns
    start = max(int(np.searchsorted(open_ns, open_ns[window.edges[0]] - 45 * DAY_NS)), 0)
    end = int(np.searchsorted(open_ns, open_ns[window.edges[-1]] + DAY_NS))
    first, _ = session_edges(open_ns[start:end], series.schedule)
    mean = np.add.reduceat(volume[start:end], first) / np.diff(np.append(first, end - start))
    marks = set()
    for k, row in enumerate((first + start).tolist()):
        usual = float(np.median(mean[max(k - _USUAL_SESSIONS, 0) : k])) if k else 0.0
        if row in window.edges and k >= 5 and mean[k - 1] < _DRY_SHARE * usual and mean[k] > _REFILL * mean[k - 1]:
            marks.add(row)
    return marks


def _findings(unseen: list[str]) -> tuple[Finding, ...]:
    if not unseen:
        return ()
    done = f"no session in the roll window opens {100 * EDGE_JUMP:g}% or more from the last close: nothing left out"
    return (Finding("undetected roll", "tolerated", len(unseen), ", ".join(unseen), done),)
