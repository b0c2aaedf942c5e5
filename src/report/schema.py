"""Validation of report.json against report_schema.json (JSON Schema 2020-12)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from jsonschema.exceptions import best_match  # type: ignore[import-untyped]

from src.errors import UserError

SCHEMA_FILE = Path(__file__).with_name("report_schema.json")


class ReportError(UserError):
    """A report.json that is missing, damaged, of another program or of a newer version."""


@cache
def schema() -> Mapping[str, Any]:
    """The schema of the whole report.json."""
    content: Mapping[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return content


def version_read() -> int:
    """The schema version that this code reads and writes."""
    return int(schema()["properties"]["schema_version"]["const"])


def check_report(report: object, source: str) -> None:
    """ReportError unless `report` (what JSON gives: dicts, lists, text, numbers) has the schema's shape and every
    array is as long as what it runs over; `source` names it in the error."""
    if not isinstance(report, dict) or not {"schema_version", "test_name"} <= report.keys():
        raise ReportError(
            f"{source} is not a report of this toolkit: it has no schema_version and test_name; name the folder of a "
            "run, one that run_hardware_maximized.py made."
        )
    version = report["schema_version"]
    if isinstance(version, int) and version > version_read():
        raise ReportError(
            f"{source} has schema_version {version}, this toolkit reads {version_read()}: it was written by a newer "
            "one; use that, or update this one."
        )
    error = best_match(Draft202012Validator(schema()).iter_errors(report))
    if error is not None:
        raise ReportError(_damaged(source, error.json_path.removeprefix("$."), _short(error.message)))
    for where, found, wanted in _lengths(report):
        if found != wanted:
            raise ReportError(_damaged(source, where, f"{found} entries where {wanted} belong"))


def _damaged(source: str, where: str, what: str) -> str:
    return f"{source} is damaged or was edited: at {_short(where)}: {what}; restore it, or run again."


def _short(text: str, most: int = 300) -> str:
    """Without the middle of a long text: a value quoted in an error can be megabytes."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


Length = tuple[str, int, int]


def _lengths(report: Mapping[str, Any]) -> Iterator[Length]:
    """(where, length found, length wanted) of every array that must be as long as something else."""
    for part in ("arms", "validation_arms"):
        for name, arm in report.get(part, {}).items():
            yield f"{part}.{name}.net_usd_by_session", len(arm["net_usd_by_session"]), arm["sessions"]
    if "quality" in report.get("data", {}):
        yield from _map_lengths(report["data"]["quality"]["coverage"])
    yield from _sealed_lengths(report)
    yield from _chart_lengths(report)
    for i, session in enumerate(report.get("sessions", [])):
        yield from _session_lengths(f"sessions[{i}]", session)


def _map_lengths(coverage: Mapping[str, Any]) -> Iterator[Length]:
    for rows, columns in (("by_period", "periods"), ("by_weekday", "weekdays")):
        where = f"data.quality.coverage.{rows}"
        yield where, len(coverage[rows]), len(coverage["hours"])
        for k, row in enumerate(coverage[rows]):
            yield f"{where}[{k}]", len(row), len(coverage[columns])


def _sealed_lengths(report: Mapping[str, Any]) -> Iterator[Length]:
    sealed = {name: arm["sessions"] for name, arm in report["arms"].items()}
    n_sealed = next(iter(sealed.values()), 0)
    for name, sessions in sealed.items():
        yield f"arms.{name}.sessions", sessions, n_sealed
    if "session_dates" in report:
        yield "session_dates", len(report["session_dates"]), n_sealed
    if "seeds" in report:
        for name, rows in report["seeds"]["net_usd_by_session"].items():
            where = f"seeds.net_usd_by_session.{name}"
            yield where, len(rows), len(report["seeds"]["values"])
            for k, row in enumerate(rows):
                yield f"{where}[{k}]", len(row), n_sealed


def _chart_lengths(report: Mapping[str, Any]) -> Iterator[Length]:
    stress = report.get("statistics", {}).get("cost_stress")
    if stress is not None:
        for name, row in stress["net_usd_per_session"].items():
            where = f"statistics.cost_stress.net_usd_per_session.{name}"
            yield where, len(row), len(stress["slippage_ticks"])
    for name, arm in report.get("pass_simulation", {}).get("arms", {}).items():
        if "fan" in arm:
            fan, where = arm["fan"], f"pass_simulation.arms.{name}.fan.equity_usd"
            yield where, len(fan["equity_usd"]), len(fan["percentiles"])
            for k, row in enumerate(fan["equity_usd"]):
                yield f"{where}[{k}]", len(row), len(fan["equity_usd"][0])
    for i, curve in enumerate(report.get("learning", {}).get("curves", [])):
        yield from _columns(f"learning.curves[{i}]", curve, "timesteps")
    if "hardware_timeline" in report:
        yield from _columns("hardware_timeline", report["hardware_timeline"], "elapsed_s", skip=("phases",))


def _session_lengths(where: str, session: Mapping[str, Any]) -> Iterator[Length]:
    yield from _columns(where, session, "minute")
    n_bars = len(session["minute"])
    for name, arm in session["arms"].items():
        for column, values in arm.get("advice", {}).items():
            yield f"{where}.arms.{name}.advice.{column}", len(values), n_bars
        for k, trade in enumerate(arm["trades"]):
            bars = [trade["entry_bar"], trade["exit_bar"], *(bar for bar, _ in trade["stops"])]
            beyond = [bar for bar in bars if not 0 <= bar < n_bars or bar != int(bar)]
            yield f"{where}.arms.{name}.trades[{k}] (bars outside the session)", len(beyond), 0


def _columns(where: str, table: Mapping[str, Any], index: str, skip: tuple[str, ...] = ()) -> Iterator[Length]:
    for name, values in table.items():
        if isinstance(values, list) and name not in skip:
            yield f"{where}.{name}", len(values), len(table[index])
