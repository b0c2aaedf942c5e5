"""From files of any dialect to validated bars of one market, with what the files were taken to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from src.errors import BarDataError
from src.market.bar_defects import check_rows
from src.market.bar_rows import BarRows, bar_rows
from src.market.bars import Bars, make_bars
from src.market.contracts import CONTRACTS, Contract
from src.market.files.adjusted import check_adjusted
from src.market.files.clock import measure_clock, utc_opens
from src.market.files.identity import choose_market, market_of_file
from src.market.files.joining import CheckedRows, Joined, join_contracts
from src.market.files.read import read_files
from src.market.files.reading import ClockReading, Finding, MarketReading, Reading
from src.market.files.rows import NO_TIME, FileRows, Stamp
from src.market.row_verdicts import SoundRows, refuse_columns, sound_rows

MOST_NAMED = 8
"""Files that `Bars.source` names."""
MINUTE_NS = 60_000_000_000
_LONGEST_STEP_S = 7 * 86_400


@dataclass(frozen=True)
class ReadOptions:
    """What the user says of the files; None: measured."""

    repair: bool = False
    interval_min: int | None = None
    timezone: str | None = None
    stamp: Stamp | None = None
    accept_adjusted: bool = False


def files_of_market(files: Sequence[Path], contract: Contract) -> list[Path]:
    """The files of a folder whose names do not say that they hold another market."""
    mini = contract.parent or contract.symbol
    return [file for file in files if _may_hold(market_of_file(file), mini)]


def _may_hold(root: str | None, mini: str) -> bool:
    return root is None or root not in CONTRACTS or mini in (root, CONTRACTS[root].parent)


def read_bars(files: Sequence[Path], path: Path, contract: Contract, options: ReadOptions) -> Bars:
    """The bars in these files, which the user gave as `path`; not yet placed in sessions.

    Raises BarDataError for anything that cannot be used, naming file, row, value and fix.
    """
    tables, market = choose_market(read_files(files, path), contract)
    about = _About.of(tables, market)
    findings: list[Finding] = []
    for table in tables:
        findings += check_adjusted(table, contract, accept=options.accept_adjusted)
    clocks: list[ClockReading] = []
    parts: list[CheckedRows] = []
    dropped: Counter[str] = Counter()
    groups = _groups(tables)
    del tables  # rows of a long file are large: each table is let go once it is checked
    while groups:
        group, interval_ns = groups.pop(0)
        clock = _clock_of(group, interval_ns, contract, options)
        clocks.append(clock)
        while group:
            table = group.pop(0)
            sound = _checked_rows(bar_rows(table, utc_opens(table, clock, interval_ns)), contract, options)
            findings += sound.findings
            dropped.update(sound.dropped)
            parts.append(_part(table, sound))
            del table, sound
    pa.default_memory_pool().release_unused()  # the times as text, which messages about rows quoted
    joined = join_contracts(parts, contract, accept_adjusted=options.accept_adjusted)
    del parts
    findings = _added_up([*findings, *joined.findings])
    return _bars_of(joined, contract, about.reading(clocks, joined, findings), dropped)


@dataclass(frozen=True)
class _About:
    """What is kept of the tables when their rows are let go."""

    files: tuple[str, ...]
    dialects: tuple[str, ...]
    notes: tuple[str, ...]
    market: MarketReading

    @classmethod
    def of(cls, tables: Sequence[FileRows], market: MarketReading) -> _About:
        dialects = Counter(f"{table.dialect} ({table.dialect_why})" for table in tables)
        return cls(
            files=tuple(dict.fromkeys(str(table.file) for table in tables)),
            dialects=tuple(f"{what}, {count} tables" if count > 1 else what for what, count in dialects.items()),
            notes=tuple(dict.fromkeys(note for table in tables for note in table.notes)),
            market=market,
        )

    def reading(self, clocks: Sequence[ClockReading], joined: Joined, findings: Sequence[Finding]) -> Reading:
        return Reading(
            files=self.files,
            dialects=self.dialects,
            clocks=tuple(dict.fromkeys(clocks)),
            market=self.market,
            rolls=joined.rolls,
            findings=tuple(findings),
            notes=self.notes,
        )


def _groups(tables: Sequence[FileRows]) -> list[tuple[list[FileRows], int]]:
    """Tables whose clock is measured together, and their interval: those of one claim and interval."""
    steps = [_step_of(table) for table in tables]
    usual = Counter(step for step in steps if step).most_common(1)
    groups: dict[tuple[object, ...], list[FileRows]] = {}
    for table, step in zip(tables, steps, strict=True):
        interval_ns = step or (usual[0][0] if usual else MINUTE_NS)
        claim = table.claim
        groups.setdefault((claim.instant, claim.zone, claim.stamp, interval_ns), []).append(table)
    return [(group, int(str(key[-1]))) for key, group in groups.items()]


def _step_of(table: FileRows) -> int:
    """The commonest step between a table's times, nanoseconds; 0 if it has too few times to tell."""
    times = table.time_ns[table.time_ns != NO_TIME] if (table.time_ns == NO_TIME).any() else table.time_ns
    steps = np.diff(times)
    if (steps < 0).any():
        steps = np.diff(np.sort(times))
    seconds = steps // 1_000_000_000
    counts = np.bincount(seconds[(seconds > 0) & (seconds <= _LONGEST_STEP_S)])
    return int(counts.argmax()) * 1_000_000_000 if counts.sum() > 1 else 0


def _clock_of(group: list[FileRows], interval_ns: int, contract: Contract, options: ReadOptions) -> ClockReading:
    try:
        return measure_clock(group, zone=options.timezone, stamp=options.stamp, interval_ns=interval_ns)
    except BarDataError:
        # Columns, rows and intervals that are wrong have no clock: that is said instead, or the bad rows are dropped.
        kept = [_kept(table, contract, options) for table in group]
        if all(len(rows) == len(table) for rows, table in zip(kept, group, strict=True)):
            raise
    return measure_clock(kept, zone=options.timezone, stamp=options.stamp, interval_ns=interval_ns)


def _kept(table: FileRows, contract: Contract, options: ReadOptions) -> FileRows:
    """The table without the rows that repair drops, for measuring; what is wrong with it otherwise is raised."""
    rows = bar_rows(table, table.time_ns)
    if not options.repair:
        refuse_columns(rows, contract)
    found = check_rows(rows, contract, options.interval_min, any_tick=True)
    if found.interval_problem:
        raise BarDataError(f"{rows.label}: {found.interval_problem}.")
    if options.repair or table.claim.instant:  # a wall clock repeats an hour a year: its order is no defect
        rows = _checked_rows(rows, contract, options).rows
    return replace(table, time_ns=rows.open_ns, prices=rows.prices, volume=rows.volume)


def _checked_rows(rows: BarRows, contract: Contract, options: ReadOptions) -> SoundRows:
    return sound_rows(
        rows,
        contract,
        repair=options.repair,
        interval_min=options.interval_min,
        any_tick=options.accept_adjusted,
    )


def _part(table: FileRows, sound: SoundRows) -> CheckedRows:
    rows = sound.rows
    return CheckedRows(
        label=rows.label,
        file=table.file,
        open_ns=rows.open_ns,
        prices=rows.prices,
        volume=rows.volume,
        contract=rows.contract,
        contract_names=rows.contract_names,
        interval_ns=sound.interval_ns,
        has_volume=table.volume_kind != "none" and not any(finding.kind == "no volume" for finding in sound.findings),
    )


def _added_up(findings: Iterable[Finding]) -> list[Finding]:
    """Findings of several tables as one for each kind."""
    same: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        same.setdefault((finding.kind, finding.verdict, finding.done), []).append(finding)
    return [
        replace(
            each[0],
            count=sum(finding.count for finding in each),
            where="; ".join(dict.fromkeys(finding.where for finding in each[:MOST_NAMED])),
        )
        for each in same.values()
    ]


def _bars_of(joined: Joined, contract: Contract, reading: Reading, dropped: Counter[str]) -> Bars:
    labels = joined.labels
    source = ", ".join(labels[:MOST_NAMED]) + (
        f" and {len(labels) - MOST_NAMED} more" if len(labels) > MOST_NAMED else ""
    )
    if reading.market.root != contract.symbol:
        source += f" ({reading.market.root} bars used for {contract.symbol}: same index and tick size)"
    if joined.front_month:
        source += " (front month by the previous session's volume)"
    return make_bars(
        market=contract.symbol,
        interval_s=joined.interval_ns // 1_000_000_000,
        source=source,
        open_ns=joined.open_ns,
        open=joined.ticks[:, 0],
        high=joined.ticks[:, 1],
        low=joined.ticks[:, 2],
        close=joined.ticks[:, 3],
        volume=joined.volume,
        contract=joined.contract,
        contract_names=joined.contract_names,
        repairs=dropped,
        reading=reading,
    )
