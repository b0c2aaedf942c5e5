"""What is done about defects in rows: refused in one paragraph, repaired or tolerated, each of them counted.

A fault of a whole column is one fault, with the remedy of the column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from src.errors import BarDataError
from src.market.bar_defects import COLUMNS, KINDS, REMEDIES, Findings, check_rows, list_defects, value_text
from src.market.bar_rows import BarRows, taken
from src.market.contracts import Contract
from src.market.files.reading import Finding
from src.market.files.rows import NO_TIME
from src.market.series_faults import series_fault
from src.market.units import HOUR_NS

COLUMN_FRAC = 0.1
"""From this share of rows on, a defect is a fault of the column, not of rows."""

_COLUMN_LEAST = 10
_PLACES = 3
_LOST_FRAC = 0.5
"""Repair that would drop more than this share of the rows is refused."""

HARMLESS = frozenset({"repeated row"})
"""Kinds dropped and counted without `data.repair`: nothing is lost with them."""

_VALUES = "an empty or misread column: compare the file with its header, and export it again with numbers in {column}"
COLUMN_REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        "missing or unreadable value": _VALUES,
        "zero or negative price": (
            "a back-adjusted series or a spread has such prices: export unadjusted prices of single contracts"
        ),
        "negative volume": (
            "vendors write -1 where they have no volume (Interactive Brokers does for MIDPOINT, BID and ASK): export "
            "trades"
        ),
        "impossible volume": "{column} does not hold a number of contracts: choose the column that does",
        "price glitch": (
            "these prices are written in another unit (whole numbers of 1e-9, cents): convert them to points"
        ),
        "high below low": "the columns high and low are swapped: exchange their names in the header",
        "open outside [low, high]": (
            "the price columns are in another order than their names say, or {column} is of another series: correct "
            "the header"
        ),
        "close outside [low, high]": (
            "the price columns are in another order than their names say, or {column} holds adjusted or settlement "
            "prices: correct the header, or take the last traded price"
        ),
        "off-tick price": (
            "prices of {symbol} are multiples of {tick}: these are an adjusted or averaged series, another market's "
            "prices, or in another unit. Export unadjusted prices of {symbol}, or give the file's market with --market"
        ),
        "unsorted time": "the rows are in no order of time: sort the file by time",
        "duplicate time": (
            "several contracts or markets, or bid and ask, lie in one file: add a `contract` column that names each "
            "row's contract, or keep one series"
        ),
        "mixed interval": (
            "the times are not on the grid of one bar interval: export bars of one interval, with times on whole "
            "minutes such as 09:30:00"
        ),
    }
)
"""What is wrong, and the fix, where a defect is the column's."""

_TIME_REMEDY = (
    "times must be like 2025-11-03T21:40:00Z or 2025-11-03 16:40:00, or a number of seconds since 1970; a date without "
    "a time of day, or a time without a date, is none"
)


_CELL_REMEDIES = {
    "time": _TIME_REMEDY,
    "contract": "name the contract in every row, or remove the column if the file is one continuous series",
}
_STEPS_BACK = {
    24: (
        "the dates are those of the trading day, so the bars of an evening are dated a day ahead: export calendar "
        "dates, or take a day off the dates of bars after 17:00 New York. Sorting would mix up the days"
    ),
    12: "hours run from 1 to 12 without AM or PM: export 24-hour times. Sorting would mix up mornings and evenings",
}
"""What it means if times usually step back by just under so many hours."""


class RowDefects(BarDataError):
    """Rows that cannot be used as they are; `findings` has every kind of defect that was found."""

    def __init__(self, message: str, findings: Sequence[Finding]) -> None:
        super().__init__(message)
        self.findings = tuple(findings)


@dataclass(frozen=True, eq=False)
class SoundRows:
    """The rows that remain, in time order, with whole ticks."""

    rows: BarRows
    interval_ns: int
    dropped: Mapping[str, int]
    """Rows left out, by kind."""
    findings: tuple[Finding, ...]
    """What was repaired or tolerated."""


def sound_rows(
    rows: BarRows,
    contract: Contract,
    *,
    repair: bool = False,
    interval_min: int | None = None,
    any_tick: bool = False,
    interval_ns: int | None = None,
) -> SoundRows:
    """Check rows, round a handful of off-tick prices, drop what may be dropped, and sort by time.

    `repair` drops every bad row; without it only repeats of a row are dropped. `any_tick` rounds off-tick prices
    however many they are: an adjusted series that the user accepts. `interval_ns` as for `check_rows`.
    Raises RowDefects for a fault of a column (with `repair`: of most of its rows), for a bad row without `repair`, for
    repair that would drop more than half of the rows, and for an interval that does not fit.
    """
    found = check_rows(rows, contract, interval_min, any_tick=any_tick, interval_ns=interval_ns)
    _refuse_columns(rows, found, contract, repair=repair)
    counts = found.tally()
    if not repair and counts.keys() - HARMLESS:
        raise _first_row(rows, found, contract)
    lost = sum(counts.values())
    if lost > _LOST_FRAC * len(rows):
        raise RowDefects(
            f"{rows.label}: repair would drop {lost:,} of {len(rows):,} rows ({_tally(counts)}): that is too many to "
            f"repair. Export the file again.",
            _fatal(rows, found, contract),
        )
    if found.interval_problem:
        raise RowDefects(f"{rows.label}: {found.interval_problem}.", _fatal(rows, found, contract))
    done = [
        Finding(name, "repaired", count, _where(rows, found.kind == KINDS.index(name)), "dropped")
        for name, count in counts.items()
    ]
    return SoundRows(_settled(rows, found, contract, done), found.interval_ns, MappingProxyType(counts), tuple(done))


def refuse_columns(rows: BarRows, contract: Contract) -> None:
    """Raise RowDefects for a fault of a whole column.

    Order and interval of times do not depend on the clock, so this may be asked before the clock is known.
    """
    _refuse_columns(rows, check_rows(rows, contract, None), contract, repair=False)


def _settled(rows: BarRows, found: Findings, contract: Contract, done: list[Finding]) -> BarRows:
    """The sound rows in time order on tick; what was rounded or tolerated is added to `done`."""
    keep = found.kind == -1
    if found.no_volume:
        done.append(
            Finding(
                "no volume", "tolerated", len(rows), "every row",
                "volume counts as 0: features of volume tell nothing, and no roll can be seen in it",
            )
        )  # fmt: skip
        rows = replace(rows, volume=np.zeros(len(rows)))
    elif rows.volume_kind == "ticks":
        done.append(
            Finding(
                "tick volume", "tolerated", len(rows), "every row",
                "volume counts price changes, not contracts: only its relative size is used",
            )
        )  # fmt: skip
    rounded = found.off_tick & keep
    if rounded.any():
        tick = float(contract.tick_size)
        done.append(
            Finding(
                "off-tick price",
                "repaired",
                int(rounded.sum()),
                _where(rows, rounded),
                f"rounded to multiples of {tick:g}",
            )
        )
        prices = rows.prices.copy()
        # Rounding keeps the order of prices, so a bar stays consistent.
        prices[rounded] = np.rint(prices[rounded] / tick) * tick
        rows = replace(rows, prices=prices)
    times = rows.open_ns
    if keep.all() and (times[1:] >= times[:-1]).all():
        return rows
    index = np.flatnonzero(keep)
    if (np.diff(times[index]) < 0).any():
        index = index[np.argsort(times[index], kind="stable")]
    return taken(rows, index)


def _refuse_columns(rows: BarRows, found: Findings, contract: Contract, *, repair: bool) -> None:
    """Raise for the first fault of a column; `repair` may drop the rows of one that spares half of the file."""
    faults = [
        (name, column, bad)
        for name in found.tally()
        for column, bad in _by_column(found, name)
        if name not in HARMLESS and _is_column(name, int(bad.sum()), len(rows), repair=repair)
    ]
    if not faults:
        _refuse_series(rows, contract)
        return
    name, column, bad = faults[0]
    count, first = int(bad.sum()), int(bad.argmax())
    also = [f"{int(more.sum()):,} {other}, {COLUMNS[place]}" for other, place, more in faults[1:]]
    when = "" if COLUMNS[column] == "time" or rows.open_ns[first] == NO_TIME else f" at {rows.time_text(first)}"
    raise RowDefects(
        f"{rows.label}: the column {COLUMNS[column]} has a fault of its own: {name} in {count:,} of {len(rows):,} rows "
        f"(the first is row {first + 1}{when}, {COLUMNS[column]} = {value_text(rows, first, column)}"
        f"{'; also ' + '; '.join(also) if also else ''}). Remedy: {_column_remedy(rows, name, column, contract)}.",
        _fatal(rows, found, contract),
    )


def _refuse_series(rows: BarRows, contract: Contract) -> None:
    fault = series_fault(rows, contract)
    if fault is not None:
        raise RowDefects(
            f"{rows.label}: the column {fault.column} is {fault.words}. Remedy: {fault.remedy}.",
            [Finding(fault.kind, "fatal", fault.count, f"the column {fault.column}", fault.remedy)],
        )


def _by_column(found: Findings, name: str) -> list[tuple[int, NDArray[np.bool_]]]:
    """The rows with this defect by the column they are blamed on; an off-tick series or a glitch has one for all."""
    bad = found.kind == KINDS.index(name)
    if name != "missing or unreadable value":
        return [(int(found.column[bad][0]), bad)]
    return [(place, here) for place in range(len(COLUMNS)) if (here := bad & (found.column == place)).any()]


def _is_column(name: str, count: int, n: int, *, repair: bool = False) -> bool:
    """Whether it is the column's fault; off-tick rows that are too many to be rounded are always the series'."""
    many = count >= _COLUMN_LEAST and count >= COLUMN_FRAC * n and not repair
    return name == "off-tick price" or many or count > _LOST_FRAC * n


def _column_remedy(rows: BarRows, name: str, column: int, contract: Contract) -> str:
    if name == "missing or unreadable value" and COLUMNS[column] in _CELL_REMEDIES:
        return _CELL_REMEDIES[COLUMNS[column]]
    if name == "unsorted time":
        return _order_remedy(rows)
    return COLUMN_REMEDIES[name].format(
        column=COLUMNS[column], symbol=contract.symbol, tick=f"{float(contract.tick_size):g}"
    )


def _order_remedy(rows: BarRows) -> str:
    """The fix of times in no order; a usual step back of 12 or 24 hours less a bar is no fault of the order."""
    steps = np.diff(rows.open_ns[rows.open_ns != NO_TIME])
    back = -steps[steps < 0] / HOUR_NS
    for hours, remedy in _STEPS_BACK.items():
        if ((back < hours) & (back >= hours - 0.25)).sum() * 2 > back.size:
            return remedy
    return COLUMN_REMEDIES["unsorted time"]


def _first_row(rows: BarRows, found: Findings, contract: Contract) -> RowDefects:
    """The refusal of the first bad row; the others are counted."""
    harmless = [KINDS.index(name) for name in HARMLESS]
    serious = replace(found, kind=np.where(np.isin(found.kind, harmless), np.int8(-1), found.kind))
    first = list_defects(rows, serious, 1)[0]
    when = "" if first.column == "time" else f" at {rows.time_text(first.row - 1)}"
    return RowDefects(
        f"{rows.label}: row {first.row}{when}: {first.kind}, {first.column} = {first.value} (rows count from 1 after "
        f"the header; in the whole file: {_tally(found.tally())}). Remedy: {REMEDIES[first.kind]}; or set data.repair: "
        f"true in a --config file, which drops bad rows and counts them.",
        _fatal(rows, found, contract),
    )


def _fatal(rows: BarRows, found: Findings, contract: Contract) -> list[Finding]:
    """Every kind of defect, as reasons not to use the rows."""
    findings = []
    for name, count in found.tally().items():
        bad = found.kind == KINDS.index(name)
        if _is_column(name, count, len(rows)) and name not in HARMLESS:
            remedy = _column_remedy(rows, name, int(found.column[bad.argmax()]), contract)
        else:
            remedy = REMEDIES[name]
        findings.append(Finding(name, "tolerated" if name in HARMLESS else "fatal", count, _where(rows, bad), remedy))
    return findings


def _where(rows: BarRows, bad: NDArray[np.bool_]) -> str:
    """`row 41 (2024-06-03 21:25), row 97 (...) and 12 more`."""
    places = np.flatnonzero(bad)
    shown = ", ".join(f"row {row + 1} ({rows.time_text(row)})" for row in places[:_PLACES].tolist())
    return shown + (f" and {len(places) - _PLACES:,} more" if len(places) > _PLACES else "")


def _tally(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
