"""How good the bars of one market are: what their files were taken to be, what is missing, odd or left out.

Facts as JSON holds them; nothing here changes a bar. Prices are in points, times of day in New York time.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from src.market.bars import Bars
from src.market.contracts import get_contract
from src.market.coverage import coverage_of
from src.market.files.reading import Candidate, Finding, Reading, Roll
from src.market.holes import AT_START, TO_END, holes_of
from src.market.outliers import outliers, zero_volume
from src.market.sessions import Sessions
from src.market.tables import MarketTables

PLACES = 12
"""Dates that a finding names; report.json lists all of them in their own arrays."""


def quality_facts(tables: MarketTables, no_trade_bars: int) -> dict[str, Any]:
    """The quality of the bars in `tables`. A hole is more than `no_trade_bars` missing bars in a row."""
    bars, sessions = tables.bars, tables.sessions
    left_out = np.flatnonzero(~sessions.usable).tolist()
    facts: dict[str, Any] = {
        "reading": None if bars.reading is None else _reading_facts(bars.reading),
        "sessions": {
            "found": len(sessions),
            "usable": int(sessions.usable.sum()),
            "first": str(sessions.date[0]) if len(sessions) else None,
            "last": str(sessions.date[-1]) if len(sessions) else None,
            "left_out": [{"date": str(sessions.date[i]), "reason": sessions.reason[i]} for i in left_out],
        },
        "absent_dates": [str(day) for day in sessions.missing_dates],
        "coverage": coverage_of(bars, sessions).to_dict(),
        "holes": holes_of(bars, sessions, no_trade_bars).to_dict(sessions, bars.interval_ns),
        "zero_volume": zero_volume(bars, sessions, no_trade_bars),
        "outliers": outliers(bars, sessions, no_trade_bars),
        "rolls": [asdict(roll) for roll in rolls_of(bars, sessions)],
    }
    return facts | {"findings": [asdict(finding) for finding in _findings(bars, facts)]}


def _reading_facts(reading: Reading) -> dict[str, Any]:
    """What the files were taken to be; rolls and findings have places of their own."""
    market = reading.market
    return {
        "files": list(reading.files),
        "dialects": list(reading.dialects),
        "clocks": [
            {
                "zone": clock.zone,
                "stamp": clock.stamp,
                "decided_by": clock.decided_by,
                "chosen": _candidate(clock.chosen),
                "others": [_candidate(other) for other in clock.others],
                "words": clock.words,
            }
            for clock in reading.clocks
        ],
        "market": {
            "root": market.root,
            "decided_by": market.decided_by,
            "dropped": [{"name": name, "rows": rows} for name, rows in market.dropped],
            "words": market.words,
        },
        "notes": list(reading.notes),
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "zone": candidate.zone,
        "stamp": candidate.stamp,
        "bars": candidate.bars,
        "closed": candidate.closed,
        "cash_step": candidate.cash_step,
    }


def rolls_of(bars: Bars, sessions: Sessions) -> tuple[Roll, ...]:
    """The changes of contract: as the files were read, else by the bars' own contracts."""
    if bars.reading is not None:
        return bars.reading.rolls
    tick = float(get_contract(bars.market).tick_size)
    return tuple(
        Roll(
            trade_date=str(sessions.date[bars.session_id[i]]),
            before=bars.contract_names[bars.contract[i - 1]],
            after=bars.contract_names[bars.contract[i]],
            gap_points=float(bars.open[i] - bars.close[i - 1]) * tick,
            source="contracts",
        )
        for i in (np.flatnonzero(np.diff(bars.contract)) + 1).tolist()
    )


def _findings(bars: Bars, facts: dict[str, Any]) -> list[Finding]:
    """Every kind of defect with its verdict: those of the rows first, then those of the sessions."""
    found = [] if bars.reading is None else list(bars.reading.findings)
    told = {finding.kind for finding in found}
    found += [
        Finding(kind, "repaired", count, "", "left out") for kind, count in bars.repairs.items() if kind not in told
    ]
    holes, zero, odd = facts["holes"], facts["zero_volume"], facts["outliers"]
    left_out = [entry["date"] for entry in facts["sessions"]["left_out"]]
    if len(bars) and zero["bars"] == len(bars) and "no volume" not in told:
        found.append(_tolerated("no volume", len(bars), "every bar", "features of volume tell nothing"))
    found += [
        _tolerated(*finding)
        for finding in (
            (
                "session left out",
                len(left_out),
                _dates(left_out),
                "takes no part in training and evaluation",
            ),
            (
                "absent trade date",
                len(facts["absent_dates"]),
                _dates(facts["absent_dates"]),
                "no feature and no position crosses it",
            ),
            (
                "hole",
                holes["count"],
                _trade_dates(holes),
                "no feature and no position crosses it",
            ),
            (
                "recurring hole",
                len(holes["recurring"]),
                "; ".join(recurring_words(hole) for hole in holes["recurring"]),
                "ask the vendor for these hours; no feature and no position crosses them",
            ),
            (
                "stretch without volume",
                zero["stretches"],
                _trade_dates(zero),
                "kept as the file has them",
            ),
            (
                "outlier",
                odd["count"],
                _trade_dates(odd),
                "kept: compare them with another source",
            ),
        )
        if finding[1]
    ]
    return found


def _tolerated(kind: str, count: int, where: str, done: str) -> Finding:
    return Finding(kind, "tolerated", count, where, done)


def _trade_dates(listed: dict[str, Any]) -> str:
    return _dates(list(dict.fromkeys(entry["trade_date"] for entry in listed["listed"])), listed["sessions"])


def _dates(dates: list[str], count: int | None = None) -> str:
    """The first of `count` dates, and how many more there are."""
    more = (len(dates) if count is None else count) - PLACES
    return ", ".join(dates[:PLACES]) + (f" and {more:,} more" if more > 0 else "")


def recurring_words(hole: dict[str, Any]) -> str:
    """`104 of 104 Tuesdays stop at 03:45 New York, 2024-02-13 to 2026-02-03 (158 bars are missing)`."""
    days = "sessions" if hole["weekday"] == "every weekday" else f"{hole['weekday']}s"
    does = {
        AT_START: f"have no bar before {hole['next_bar']}",
        TO_END: f"stop at {hole['last_bar']}",
    }.get(hole["place"], f"have no bars after {hole['last_bar']} until {hole['next_bar']}")
    return (
        f"{hole['sessions']} of {hole['of_sessions']} {days} {does} New York, {hole['first']} to {hole['last']} "
        f"(typically {hole['bars']} bars are missing)"
    )
