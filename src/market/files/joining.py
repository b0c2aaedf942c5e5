"""Join the rows of several tables and contracts into one front-month series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from src.errors import BarDataError
from src.market.contracts import Contract
from src.market.files.adjusted import check_gaps
from src.market.files.front_month import front_month
from src.market.files.reading import Finding, Roll
from src.market.files.rolls import UNNAMED, FoundRolls, Series, find_rolls
from src.market.sessions import Schedule, schedule_around
from src.market.units import DAY_NS, MINUTE_NS

_CHUNK = 1 << 18
_HOLE_DAYS = 10
REPEATED = "repeated in another file"
UNFINISHED = "unfinished last bar of a file"
OTHER_CONTRACTS = "contract that is not the front month"


@dataclass(frozen=True, eq=False)
class CheckedRows:
    """Valid rows of one table in time order; arrays of length n."""

    label: str
    file: Path
    open_ns: NDArray[np.int64]
    """UTC bar-open times."""
    prices: NDArray[np.float64]
    """float64[n, 4] in points."""
    volume: NDArray[np.float64]
    contract: NDArray[np.signedinteger]
    """Index into `contract_names`; unused if that is empty."""
    contract_names: tuple[str, ...]
    """Empty for a series without contracts."""
    interval_ns: int
    has_volume: bool = True

    def __len__(self) -> int:
        return len(self.open_ns)


@dataclass(frozen=True, eq=False)
class Joined:
    """One series in time order without repeated times; arrays of length n."""

    interval_ns: int
    open_ns: NDArray[np.int64]
    ticks: NDArray[np.int32]
    """int32[n, 4] in ticks of the market's contract."""
    volume: NDArray[np.int64]
    contract: NDArray[np.int16]
    """Index into `contract_names`, in order of first bar; all 0 without contracts."""
    contract_names: tuple[str, ...]
    """Empty for a series without contracts in which no roll was found."""
    rolls: tuple[Roll, ...]
    findings: tuple[Finding, ...]
    labels: tuple[str, ...]
    front_month: bool
    """Whether rows of several contracts overlapped, so that the front month was chosen by volume."""


@dataclass(eq=False)
class _Stack:
    """All rows in time order, with the part and contract of each."""

    open_ns: NDArray[np.int64]
    points: NDArray[np.float64]
    volume: NDArray[np.float64]
    code: NDArray[np.int16]
    part: NDArray[np.int32]
    last_of_part: NDArray[np.bool_]

    def take(self, keep: NDArray) -> _Stack:
        return _Stack(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))


def join_contracts(
    parts: Sequence[CheckedRows],
    contract: Contract,
    *,
    accept_adjusted: bool = False,
    schedule: Schedule | None = None,
) -> Joined:
    """Join the parts' rows into one series without duplicates, using the front month by the previous session's volume.

    Every bar of the result is a row of a part. If rows name no contract, rolls are detected (`rolls.find_rolls`).

    Args:
        parts: Tables of one market.
        contract: The market's contract.
        accept_adjusted: Accept a series without the expected roll gaps (`adjusted.check_gaps`).
        schedule: Sessions covering all rows, if already computed (`sessions.schedule_around`).

    Raises:
        BarDataError: the parts have different intervals, or differing rows for the same time and contract.
    """
    parts = sorted(parts, key=lambda part: int(part.open_ns[0]))
    _refuse_intervals(parts, contract)
    names = _names_in_order(parts)
    stack, repeated, unfinished = _without_repeats(_stacked(parts, names), parts)
    findings = [
        *_counted(REPEATED, repeated, "identical bars kept once"),
        *_counted(UNFINISHED, unfinished, "the complete bar from the other file was used"),
    ]
    several = bool((stack.open_ns[1:] == stack.open_ns[:-1]).any())
    schedule = schedule_around(stack.open_ns) if schedule is None else schedule
    if several:
        _refuse_unnamed_among_contracts(stack, parts, names)
        keep = front_month(stack.open_ns, stack.code, np.rint(stack.volume).astype(np.int64), schedule)
        findings += _left_out(stack, keep, names)
        stack = stack.take(keep)
    series = Series(stack.open_ns, _in_ticks(stack.points, contract), contract, parts[0].interval_ns, schedule)
    volume = np.rint(stack.volume).astype(np.int64)
    labels = tuple(dict.fromkeys(part.label for part in parts))
    findings += check_gaps(series, label=", ".join(labels), accept=accept_adjusted)
    volume_or_none = volume if all(part.has_volume for part in parts) else None
    used, codes, found = _contracts(series, stack.code, volume_or_none, names)
    findings += found.findings if found is not None else ()
    rolls = _rolls(series, codes, used)
    return Joined(
        interval_ns=series.interval_ns,
        open_ns=series.open_ns,
        ticks=series.ticks,
        volume=volume,
        contract=codes.astype(np.int16),
        contract_names=used,
        rolls=rolls,
        findings=tuple(findings),
        labels=labels,
        front_month=several,
    )


def _refuse_intervals(parts: Sequence[CheckedRows], contract: Contract) -> None:
    for part in parts[1:]:
        if part.interval_ns != parts[0].interval_ns:
            minutes = [each.interval_ns // MINUTE_NS for each in (parts[0], part)]
            raise BarDataError(
                f"{parts[0].label} and {part.label}: bars of {minutes[0]} and {minutes[1]} minutes cannot be joined. "
                f"Keep {contract.symbol} files of one interval in the folder, or give --data a single file."
            )


def _names_in_order(parts: Sequence[CheckedRows]) -> tuple[str, ...]:
    """Contract names in order of first bar, independent of the order of files; "" for rows without contracts."""
    first: dict[str, int] = {}
    for part in parts:
        for code in np.unique(part.contract).tolist() if part.contract_names else [-1]:
            name = part.contract_names[code] if part.contract_names else ""
            when = int(part.open_ns[np.argmax(part.contract == code)] if part.contract_names else part.open_ns[0])
            first[name] = min(first.get(name, when), when)
    return tuple(sorted(first, key=lambda name: (first[name], name)))


def _stacked(parts: Sequence[CheckedRows], names: tuple[str, ...]) -> _Stack:
    codes = []
    for part in parts:
        if part.contract_names:
            codes.append(
                np.array([names.index(name) if name in names else 0 for name in part.contract_names])[part.contract]
            )
        else:
            codes.append(np.full(len(part), names.index("")))
    last = [np.arange(len(part)) == len(part) - 1 for part in parts]
    code = np.concatenate(codes).astype(np.int16)
    open_ns = np.concatenate([part.open_ns for part in parts])
    owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts]).astype(np.int32)
    alone = len(parts) == 1
    stack = _Stack(
        open_ns=open_ns,
        points=parts[0].prices if alone else np.concatenate([part.prices for part in parts]),
        volume=parts[0].volume if alone else np.concatenate([part.volume for part in parts]),
        code=code,
        part=owner,
        last_of_part=np.concatenate(last),
    )
    ordered = alone or bool((open_ns[1:] > open_ns[:-1]).all())
    return stack if ordered else stack.take(np.lexsort((owner, code, open_ns)))


def _without_repeats(stack: _Stack, parts: Sequence[CheckedRows]) -> tuple[_Stack, int, int]:
    """The stack with each contract's bars once, and how many duplicates and unfinished last bars were dropped."""
    same = (stack.open_ns[1:] == stack.open_ns[:-1]) & (stack.code[1:] == stack.code[:-1])
    if not same.any():
        return stack, 0, 0
    equal = (stack.points[1:] == stack.points[:-1]).all(axis=1) & (stack.volume[1:] == stack.volume[:-1])
    keep = np.concatenate(([True], ~(same & equal)))
    repeated = int((~keep).sum())
    stack = stack.take(keep)
    keep = np.ones(len(stack.open_ns), dtype=bool)
    unequal = np.flatnonzero((stack.open_ns[1:] == stack.open_ns[:-1]) & (stack.code[1:] == stack.code[:-1]))
    best = -1
    for first in unequal.tolist():
        best, row = best if best == first and keep[best] else first, first + 1
        short, whole = (best, row) if _covers(stack, row, best) else (row, best)
        if not (_covers(stack, whole, short) and stack.last_of_part[short]):
            raise BarDataError(_contradiction(stack, parts, best, row))
        keep[short] = False
        best = whole
    return stack.take(keep), repeated, int((~keep).sum())


def _covers(stack: _Stack, whole: int, short: int) -> bool:
    """Whether one row can be the completed version of another: same open, no narrower range, no less volume."""
    a, b = stack.points[whole], stack.points[short]
    return bool(a[0] == b[0] and a[1] >= b[1] and a[2] <= b[2] and stack.volume[whole] >= stack.volume[short])


def _contradiction(stack: _Stack, parts: Sequence[CheckedRows], first: int, second: int) -> str:
    labels = [parts[int(stack.part[row])].label for row in (first, second)]
    shown = [
        " ".join(f"{price:g}" for price in stack.points[row]) + f", volume {stack.volume[row]:g}"
        for row in (first, second)
    ]
    when = np.datetime64(int(stack.open_ns[first]), "ns").astype("datetime64[m]")
    return (
        f"{labels[0]} and {labels[1]}: they overlap and disagree: at {when} UTC the first has {shown[0]} and the "
        f"second {shown[1]} (open, high, low, close). Remove one of them, or give --data a single file."
    )


def _refuse_unnamed_among_contracts(stack: _Stack, parts: Sequence[CheckedRows], names: tuple[str, ...]) -> None:
    """Refuse an overlap between named contracts and a series whose bars name no contract."""
    if "" not in names:
        return
    same = np.flatnonzero(stack.open_ns[1:] == stack.open_ns[:-1])
    blank = names.index("")
    clash = same[(stack.code[same] == blank) | (stack.code[same + 1] == blank)]
    if clash.size:
        row = int(clash[0])
        labels = [parts[int(stack.part[each])].label for each in (row, row + 1)]
        when = np.datetime64(int(stack.open_ns[row]), "ns").astype("datetime64[m]")
        raise BarDataError(
            f"{labels[0]} and {labels[1]}: they overlap (at {when} UTC), and only one of them names its contract. "
            f"Give --data either the individual contracts or the continuous series."
        )


def _left_out(stack: _Stack, keep: NDArray[np.bool_], names: tuple[str, ...]) -> list[Finding]:
    count = np.bincount(stack.code[~keep], minlength=len(names))
    never = np.bincount(stack.code[keep], minlength=len(names)) == 0
    listed = [f"{names[code]} {count[code]:,}" for code in np.flatnonzero(count)]
    alone = [names[code] for code in np.flatnonzero(never)]
    done = "left out" + (f"; never the front month: {', '.join(alone)}" if alone else "")
    return [Finding(OTHER_CONTRACTS, "tolerated", int(count.sum()), ", ".join(listed), done)]


def _counted(kind: str, count: int, done: str) -> list[Finding]:
    return [Finding(kind, "repaired", count, "where files overlap", done)] if count else []


def _contracts(
    series: Series, code: NDArray[np.int16], volume: NDArray[np.int64] | None, names: tuple[str, ...]
) -> tuple[tuple[str, ...], NDArray[np.int64], FoundRolls | None]:
    """Contract names in order of first bar, and each bar's index; bars without one are split at detected rolls."""
    codes, found = code.astype(np.int64), None
    blank = code == names.index("") if "" in names else np.zeros(len(codes), dtype=bool)
    if blank.any():
        rows = slice(None) if blank.all() else blank
        of_blank = None if volume is None else volume[rows]
        found = find_rolls(replace(series, open_ns=series.open_ns[rows], ticks=series.ticks[rows]), of_blank)
        if blank.all() and not found.rolls:
            return (), np.zeros(len(codes), dtype=np.int64), found
        codes[blank] = len(names) + found.contract
        names += found.contract_names or (f"{UNNAMED} 1",)
    present, codes = _by_appearance(codes)
    return tuple(names[code] for code in present), codes, found


def _by_appearance(codes: NDArray[np.int64]) -> tuple[list[int], NDArray[np.int64]]:
    """The codes that occur, in order of first bar, and each bar's index into that list."""
    changes = np.flatnonzero(codes[1:] != codes[:-1]) + 1
    present = list(dict.fromkeys(codes[np.concatenate(([0], changes))].tolist()))
    rank = np.zeros(max(present) + 1, dtype=np.int64)
    rank[present] = np.arange(len(present))
    return present, rank[codes]


def _in_ticks(points: NDArray[np.float64], contract: Contract) -> NDArray[np.int32]:
    """Prices in whole ticks, int32[n, 4], converted in chunks to limit temporary memory."""
    ticks = np.empty(points.shape, dtype=np.int32)
    for start in range(0, len(points), _CHUNK):
        rows = slice(start, start + _CHUNK)
        ticks[rows] = np.rint(points[rows] / float(contract.tick_size))
    return ticks


def _rolls(series: Series, codes: NDArray[np.int64], names: tuple[str, ...]) -> tuple[Roll, ...]:
    """Changes of contract, each with the gap from the old contract's last close to the new one's first open.

    Changes across a hole of more than _HOLE_DAYS are skipped: that gap is not the roll's.
    """
    open_ns, ticks, schedule = series.open_ns, series.ticks, series.schedule
    changes = np.flatnonzero(codes[1:] != codes[:-1]) + 1
    changes = changes[open_ns[changes] - open_ns[changes - 1] <= _HOLE_DAYS * DAY_NS]
    place = np.searchsorted(schedule.open_ns, open_ns[changes], side="right") - 1
    tick = float(series.contract.tick_size)
    shown = ["" if name.startswith(UNNAMED) else name for name in names]
    return tuple(
        Roll(
            trade_date=str(schedule.date[where]),
            before=shown[codes[row - 1]],
            after=shown[codes[row]],
            gap_points=round(float(ticks[row, 0] - ticks[row - 1, 3]) * tick, 6),
            source="contracts" if shown[codes[row - 1]] and shown[codes[row]] else "found",
        )
        for row, where in zip(changes.tolist(), place.tolist(), strict=True)
    )
