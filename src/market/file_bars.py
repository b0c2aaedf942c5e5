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
from src.market.units import MINUTE_NS

MOST_NAMED = 8
"""Files that `Bars.source` names."""
_LONGEST_STEP_S = 7 * 86_400
_PLAIN_STEPS, _PLAIN_FRAC = 20, 0.5


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


def read_bars(
    files: Sequence[Path], path: Path, contract: Contract, options: ReadOptions, skipped: Sequence[Path] = ()
) -> Bars:
    """The bars in these files, which the user gave as `path`; not yet placed in sessions.

    `skipped` are files of the same folder that were not read, because their names say another market.
    Raises BarDataError for anything that cannot be used, naming file, row, value and fix.
    """
    tables, market = choose_market(read_files(files, path), contract)
    about = _About.of(tables, market, skipped)
    findings: list[Finding] = []
    for table in tables:
        findings += check_adjusted(table, contract, accept=options.accept_adjusted)
    clocks: list[ClockReading] = []
    parts: list[CheckedRows] = []
    dropped: Counter[str] = Counter()
    groups = _groups(tables)
    del tables  # rows of a long file are large: each table is let go once it is checked
    while groups:
        group = groups.pop(0)
        clock = _clock_of(group, contract, options)
        clocks.append(clock)
        while group.tables:
            table, sparse = group.tables.pop(0), group.sparse.pop(0)
            rows = bar_rows(table, utc_opens(table, clock, group.interval_ns))
            sound = _checked_rows(rows, contract, options, group.interval_ns if sparse else None)
            findings += sound.findings
            dropped.update(sound.dropped)
            parts.append(_part(table, sound))
            del table, rows, sound
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
    def of(cls, tables: Sequence[FileRows], market: MarketReading, skipped: Sequence[Path]) -> _About:
        dialects = Counter(f"{table.dialect} ({table.dialect_why})" for table in tables)
        return cls(
            files=tuple(dict.fromkeys(str(table.file) for table in tables)),
            dialects=tuple(f"{what}, {count} tables" if count > 1 else what for what, count in dialects.items()),
            notes=tuple(dict.fromkeys((*(note for table in tables for note in table.notes), *_skipped_words(skipped)))),
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


def _skipped_words(skipped: Sequence[Path]) -> tuple[str, ...]:
    if not skipped:
        return ()
    names = ", ".join(file.name for file in skipped[:MOST_NAMED])
    more = f" and {len(skipped) - MOST_NAMED} more" if len(skipped) > MOST_NAMED else ""
    return (f"files of the folder whose names say another market are not read: {names}{more}",)


_Claim = tuple[bool, str | None, Stamp | None]
"""What decides that tables share a clock: instants or not, zone, stamp."""


@dataclass
class _Group:
    """Tables whose clock is measured together: those of one claim and interval."""

    interval_ns: int
    tables: list[FileRows]
    sparse: list[bool]
    """Of each table, whether its interval is that of the others because it is too sparse to tell."""


def _groups(tables: Sequence[FileRows]) -> list[_Group]:
    steps = [_step_of(table) for table in tables]
    usual: Counter[tuple[_Claim, int]] = Counter()
    for table, step in zip(tables, steps, strict=True):
        if step.plain:
            usual[_claim_of(table), step.ns] += len(table)
    groups: dict[tuple[_Claim, int], _Group] = {}
    for table, step in zip(tables, steps, strict=True):
        claim = _claim_of(table)
        plain = next((ns for (other, ns), _ in usual.most_common() if other == claim), None)
        sparse = not step.plain and plain is not None
        interval_ns = step.ns if step.plain or plain is None else plain
        group = groups.setdefault((claim, interval_ns), _Group(interval_ns, [], []))
        group.tables.append(table)
        group.sparse.append(sparse)
    return list(groups.values())


def _claim_of(table: FileRows) -> _Claim:
    return table.claim.instant, table.claim.zone, table.claim.stamp


@dataclass(frozen=True)
class _Step:
    """The commonest step between a table's times, nanoseconds, and whether it is plainly the interval."""

    ns: int
    plain: bool


def _step_of(table: FileRows) -> _Step:
    times = table.time_ns[table.time_ns != NO_TIME] if (table.time_ns == NO_TIME).any() else table.time_ns
    steps = np.diff(times)
    if (steps < 0).any():
        steps = np.diff(np.sort(times))
    seconds = steps // 1_000_000_000
    counts = np.bincount(seconds[(seconds > 0) & (seconds <= _LONGEST_STEP_S)])
    if not counts.size:
        return _Step(MINUTE_NS, plain=False)
    most = int(counts.argmax())
    return _Step(most * 1_000_000_000, plain=counts[most] >= max(_PLAIN_STEPS, _PLAIN_FRAC * counts.sum()))


def _clock_of(group: _Group, contract: Contract, options: ReadOptions) -> ClockReading:
    try:
        return _measured(group.tables, group.interval_ns, options)
    except BarDataError:
        # Bad rows or columns may be why no clock fits: report those instead, or drop them and measure again.
        pairs = zip(group.tables, group.sparse, strict=True)
        kept = [_kept(table, contract, options, group.interval_ns if sparse else None) for table, sparse in pairs]
        if all(len(rows) == len(table) for rows, table in zip(kept, group.tables, strict=True)):
            raise
    return _measured(kept, group.interval_ns, options)


def _measured(tables: Sequence[FileRows], interval_ns: int, options: ReadOptions) -> ClockReading:
    return measure_clock(tables, zone=options.timezone, stamp=options.stamp, interval_ns=interval_ns)


def _kept(table: FileRows, contract: Contract, options: ReadOptions, interval_ns: int | None) -> FileRows:
    """The table without the rows that repair drops, for measuring; what is wrong with it otherwise is raised."""
    rows = bar_rows(table, table.time_ns)
    if not options.repair:
        refuse_columns(rows, contract)
    found = check_rows(rows, contract, options.interval_min, any_tick=True, interval_ns=interval_ns)
    if found.interval_problem:
        raise BarDataError(f"{rows.label}: {found.interval_problem}.")
    if options.repair or table.claim.instant:  # a wall clock repeats an hour a year: its order is no defect
        rows = _checked_rows(rows, contract, options, interval_ns).rows
    return replace(table, time_ns=rows.open_ns, prices=rows.prices, volume=rows.volume)


def _checked_rows(rows: BarRows, contract: Contract, options: ReadOptions, interval_ns: int | None) -> SoundRows:
    return sound_rows(
        rows,
        contract,
        repair=options.repair,
        interval_min=options.interval_min,
        any_tick=options.accept_adjusted,
        interval_ns=interval_ns,
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
