"""Find the rolls of a series that names no contracts: jumps at roll dates, and a volume that falls and comes back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from src.market.contracts import Contract
from src.market.files.contract_months import third_friday
from src.market.files.reading import Finding
from src.market.files.roll_calendar import DAYS_AFTER_EXPIRY, DAYS_BEFORE_EXPIRY, expected_gap, roll_windows
from src.market.sessions import Schedule

EDGE_JUMP = 0.002
"""Smallest jump between sessions that is marked, as a share of the price: a mark where there is no roll costs one
warm-up, a roll that is missed a return that nobody could earn."""
INSIDE_JUMP = 0.0025
"""Between neighboring bars of one session, where a mark costs the session; no real pair of 5-minute bars jumps by
half of this without a hole."""
LARGEST_JUMP = 0.03
UNNAMED = "unnamed contract"
HIDDEN_GAP = 0.004
"""Where an expected gap of this size shows nowhere in a window, a weekend may hide it: its weekends are marked."""

_NEIGHBOR_BARS = 3
_STAYS_BARS = 3
_DRY_SHARE = 0.4  # of the usual volume: the old contract's last sessions
_REFILL = 1.6
_USUAL_SESSIONS = 20
_FEW_EDGES = 8
_T2_MEDIAN = 0.816
_LEAST_MOVE = 1e-4
_WEEKEND_MOVE = 5e-4  # real ES and NQ: 1.4e-3
_BREAK_NS = 2 * 3_600_000_000_000
WEEKEND_NS = 40 * 3_600_000_000_000


@dataclass(frozen=True, eq=False)
class FoundRolls:
    """A series divided at its rolls; arrays of length n."""

    contract: NDArray[np.int64]
    """0 before the first mark, 1 before the second ..."""
    contract_names: tuple[str, ...]
    """Empty if nothing was marked."""
    rolls: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class RollWindow:
    """The days around one expiry."""

    year: int
    month: int
    expected: float
    """Expected gap as a share of the price."""
    edges: NDArray[np.int64]
    """First bars of sessions in the window."""
    jumps: NDArray[np.float64]
    """Jump at each edge, as a share of the price."""
    closed_ns: NDArray[np.int64]
    """Time from the bar before to each edge."""
    inside: NDArray[np.int64]
    """Bars inside sessions that open a jump of a roll's size away from the bar before them."""
    whole: bool
    """Whether the series has sessions before, in and after the window."""


def roll_windows_of(
    open_ns: NDArray[np.int64],
    ticks: NDArray[np.int32],
    contract: Contract,
    interval_ns: int,
    schedule: Schedule,
) -> list[RollWindow]:
    """Every roll window that the series meets, with the jumps in it; `ticks` int32[n, 4] in time order."""
    place = np.searchsorted(schedule.open_ns, open_ns, side="right") - 1
    day = schedule.date.astype("datetime64[D]").astype(np.int64)[place]
    jump = np.zeros(len(open_ns))
    jump[1:] = ticks[1:, 0] / ticks[:-1, 3] - 1.0
    step = np.diff(open_ns, prepend=open_ns[0])
    edge = np.concatenate(([False], place[1:] != place[:-1]))
    size = np.abs(jump)
    inside = ~edge & (step <= _NEIGHBOR_BARS * interval_ns) & (size >= INSIDE_JUMP) & (size <= LARGEST_JUMP)
    windows = []
    for year, month in roll_windows(int(day[0]), int(day[-1])):
        expiry = third_friday(year, month)
        span = slice(*np.searchsorted(day, [expiry - DAYS_BEFORE_EXPIRY, expiry + DAYS_AFTER_EXPIRY + 1]))
        edges = np.flatnonzero(edge[span]) + span.start
        within = [row for row in (np.flatnonzero(inside[span]) + span.start).tolist() if _stays(ticks, row)]
        windows.append(
            RollWindow(
                year=year,
                month=month,
                expected=expected_gap(contract.symbol, year, month),
                edges=edges,
                jumps=jump[edges],
                closed_ns=step[edges],
                inside=np.array(within, dtype=np.int64),
                whole=bool(day[0] < expiry - DAYS_BEFORE_EXPIRY and day[-1] >= expiry + DAYS_AFTER_EXPIRY - 1),
            )
        )
    return windows


def usual_moves(open_ns: NDArray[np.int64], ticks: NDArray[np.int32], schedule: Schedule) -> NDArray[np.float64]:
    """Scale of the series' own jumps over a daily break, a weekend and a hole, as shares of the price; float64[3].

    That of Student's t with 2 degrees of freedom and the same median; NaN where there are too few.
    """
    place = np.searchsorted(schedule.open_ns, open_ns, side="right")
    edges = np.flatnonzero(place[1:] != place[:-1]) + 1
    jumps = np.abs(ticks[edges, 0] / ticks[edges - 1, 3] - 1.0)
    kind = kind_of_edge(open_ns[edges] - open_ns[edges - 1])
    scales = np.full(3, np.nan)
    for k in range(3):
        if (kind == k).sum() >= _FEW_EDGES:
            scales[k] = max(float(np.median(jumps[kind == k])) / _T2_MEDIAN, _LEAST_MOVE)
    return scales


def kind_of_edge(closed_ns: NDArray[np.int64]) -> NDArray[np.intp]:
    """0 for a daily break, 1 for a weekend, 2 for a hole or a holiday."""
    return np.where(closed_ns < _BREAK_NS, 0, np.where(closed_ns >= WEEKEND_NS, 1, 2))


def moves_over_weekends(scales: NDArray[np.float64]) -> bool:
    """Whether the series opens away from its last close after weekends, as any market does; no for made-up bars and for
    too few weekends: absent gaps prove nothing there."""
    return bool(scales[1] >= _WEEKEND_MOVE)


def _stays(ticks: NDArray[np.int32], row: int) -> bool:
    """Whether prices keep at least half of the jump that opens a bar: a glitch comes back."""
    before, after = ticks[row - 1, 3], ticks[min(row + _STAYS_BARS, len(ticks) - 1), 3]
    jump = ticks[row, 0] - before
    return bool((after - before) * np.sign(jump) >= abs(int(jump)) / 2)


def find_rolls(
    open_ns: NDArray[np.int64],
    ticks: NDArray[np.int32],
    volume: NDArray[np.int64] | None,
    contract: Contract,
    interval_ns: int,
    schedule: Schedule,
) -> FoundRolls:
    """Mark a change of contract wherever a roll shows or may hide: see EDGE_JUMP, INSIDE_JUMP, HIDDEN_GAP.

    Only bars in roll windows are marked. Marks use hindsight like every judgement of sessions; they add no bar and
    change none. `volume` None: the series has none.
    """
    windows = roll_windows_of(open_ns, ticks, contract, interval_ns, schedule)
    marks: set[int] = set()
    hidden: list[str] = []
    unseen: list[str] = []
    real = moves_over_weekends(usual_moves(open_ns, ticks, schedule))
    for window in windows:
        seen = _seen(window) | _refilled(window, open_ns, volume, schedule)
        if not seen and len(window.edges):
            if real and abs(window.expected) >= HIDDEN_GAP:
                seen = set(window.edges[window.closed_ns >= WEEKEND_NS].tolist())
                hidden += [f"{window.year}-{window.month:02}"] if seen else []
            if not seen and window.whole:
                unseen.append(f"{window.year}-{window.month:02}")
        marks |= seen
    rows = sorted(marks)
    codes = np.zeros(len(open_ns), dtype=np.int64)
    codes[rows] = 1
    codes = np.cumsum(codes)
    names = tuple(f"{UNNAMED} {k + 1}" for k in range(len(rows) + 1)) if rows else ()
    return FoundRolls(codes, names, len(rows), tuple(_findings(hidden, unseen)))


def _seen(window: RollWindow) -> set[int]:
    size = np.abs(window.jumps)
    return set(window.edges[(size >= EDGE_JUMP) & (size <= LARGEST_JUMP)].tolist()) | set(window.inside.tolist())


def _refilled(
    window: RollWindow, open_ns: NDArray[np.int64], volume: NDArray[np.int64] | None, schedule: Schedule
) -> set[int]:
    """First bars of sessions whose volume comes back after that of a contract which traders had left."""
    if volume is None or not len(window.edges):
        return set()
    start = max(int(np.searchsorted(open_ns, open_ns[window.edges[0]] - 45 * 86_400_000_000_000)), 0)
    end = int(np.searchsorted(open_ns, open_ns[window.edges[-1]] + 86_400_000_000_000))
    place = np.searchsorted(schedule.open_ns, open_ns[start:end], side="right")
    first = np.flatnonzero(np.concatenate(([True], place[1:] != place[:-1])))
    mean = np.add.reduceat(volume[start:end], first) / np.diff(np.append(first, end - start))
    marks = set()
    for k, row in enumerate((first + start).tolist()):
        usual = float(np.median(mean[max(k - _USUAL_SESSIONS, 0) : k])) if k else 0.0
        if row in window.edges and k >= 5 and mean[k - 1] < _DRY_SHARE * usual and mean[k] > _REFILL * mean[k - 1]:
            marks.add(row)
    return marks


def _findings(hidden: list[str], unseen: list[str]) -> list[Finding]:
    found = []
    if hidden:
        found.append(
            Finding("roll that does not show", "tolerated", len(hidden), ", ".join(hidden),
                    "the weekends at the roll dates are taken as changes of contract")
        )  # fmt: skip
    if unseen:
        found.append(
            Finding("roll that does not show", "tolerated", len(unseen), ", ".join(unseen),
                    "too small to tell from a session's usual move: not marked")
        )  # fmt: skip
    return found
