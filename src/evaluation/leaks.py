"""The leak checks of a run together, as a section of its report; and what they cost.

    python -m src.evaluation.leaks --sessions 545 --interval-min 5

Prints a row a check on synthetic bars: what it compared, its processor seconds and its wall seconds; then one JSON
line. Exit code 1 where a check failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from src.agent.market import Market, compile_kernel, market_of_bars
from src.console import uncut
from src.evaluation.decisions import check_decisions, check_fills
from src.evaluation.leak_words import DECISIONS, FEATURES, FILLS, SEALED
from src.evaluation.look_ahead import LeakCheck, check_features
from src.evaluation.sealed import check_sealed
from src.market.load import build_tables
from src.market.settings import DataSettings
from src.market.synthetic import synthetic_bars
from src.trading.settings import EnvironmentSettings


def checks_of(
    market: Market, data: DataSettings, trading_hours: str, seed: int = 0
) -> dict[str, Callable[[], LeakCheck]]:
    """The checks of a market by name, to be called."""
    return {
        FEATURES: lambda: check_features(market, data, trading_hours, seed=seed),
        DECISIONS: lambda: check_decisions(market, seed),
        FILLS: lambda: check_fills(market, seed),
        SEALED: lambda: check_sealed(market, data, trading_hours, seed),
    }


def leak_facts(checks: Sequence[LeakCheck]) -> dict[str, Any]:
    """Report section `look_ahead`: every check, and the first leak found."""
    parts = {
        check.name: {"checks": check.checks, "passed": check.passed, "found": check.found, "strata": dict(check.strata)}
        for check in checks
    }
    return _judged(parts)


def with_finding(section: Mapping[str, Any], name: str, more: int, found: str) -> dict[str, Any]:
    """The section with `more` comparisons of one check, and what they found ("" for nothing)."""
    if "parts" not in section:  # of a run that an earlier version began
        return {**section, "passed": section["passed"] and not found, "found": section["found"] or found}
    parts = {key: dict(part) for key, part in section["parts"].items()}
    part = parts.setdefault(name, {"checks": 0, "passed": True, "found": "", "strata": {}})
    part["checks"] += more
    part["found"] = part["found"] or found
    part["passed"] = not part["found"]
    return {**section, **_judged(parts)}


def _judged(parts: Mapping[str, Any]) -> dict[str, Any]:
    found = next((part["found"] for part in parts.values() if not part["passed"]), "")
    return {
        "checks": sum(part["checks"] for part in parts.values()),
        "passed": not found,
        "found": found,
        "parts": dict(parts),
    }


# ---------------------------------------------------------------- what it costs


def synthetic_market(
    sessions: int, interval_min: int, trading_hours: str, seed: int = 0
) -> tuple[Market, DataSettings]:
    """A market of synthetic NQ bars under the default rules."""
    data, environment = DataSettings(), EnvironmentSettings(trading_hours=trading_hours)
    return market_of_bars(synthetic_bars("NQ", sessions, interval_min, seed), data, environment), data


def measured(market: Market, data: DataSettings, trading_hours: str) -> Iterator[tuple[LeakCheck, float, float]]:
    """Each check with its processor and its wall seconds."""
    for check in checks_of(market, data, trading_hours).values():
        wall, cpu = time.perf_counter(), time.process_time()
        result = check()
        yield result, time.process_time() - cpu, time.perf_counter() - wall


def main(argv: Sequence[str] | None = None) -> int:
    """Print what each check compared and took; 1 where one failed."""
    parser = argparse.ArgumentParser(description="What the leak checks of a run compare and cost, on synthetic bars")
    parser.add_argument("--sessions", type=int, default=545, help="of synthetic bars (default: %(default)s)")
    parser.add_argument("--interval-min", type=int, default=5, help="minutes a bar (default: %(default)s)")
    parser.add_argument("--trading-hours", choices=("rth", "globex"), default="rth", help="default: %(default)s")
    args = parser.parse_args(argv)
    market, data = synthetic_market(args.sessions, args.interval_min, args.trading_hours)
    compile_kernel(market)
    small, _ = synthetic_market(60, 15, args.trading_hours)
    for _ in measured(small, data, args.trading_hours):  # what is compiled or imported first is no cost of a check
        pass
    began, cpu = time.perf_counter(), time.process_time()
    build_tables(market.tables.bars, data, trading_hours=args.trading_hours)
    rebuild = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - began}
    rows = list(measured(market, data, args.trading_hours))
    table = Table(title=f"{len(market.tables.bars):,} bars", title_justify="left", box=None)
    for heading in ("check", "compared", "processor s", "wall s", "found"):
        table.add_column(heading, justify="left" if heading in ("check", "found") else "right")
    table.add_row("(one rebuild)", "-", f"{rebuild['cpu_s']:.2f}", f"{rebuild['wall_s']:.2f}", "-")
    for check, cpu_s, wall_s in rows:
        table.add_row(check.name, f"{check.checks:,}", f"{cpu_s:.2f}", f"{wall_s:.2f}", check.found or "nothing")
    console = Console(width=80)
    console.print(uncut(table))
    summary = {
        "bars": len(market.tables.bars),
        "rebuild": rebuild,
        "checks": {
            check.name: {"checks": check.checks, "cpu_s": cpu_s, "wall_s": wall_s, "found": check.found}
            for check, cpu_s, wall_s in rows
        },
        "cpu_s": sum(cpu_s for _, cpu_s, _ in rows),
        "wall_s": sum(wall_s for _, _, wall_s in rows),
    }
    console.print(json.dumps(summary), soft_wrap=True, highlight=False)
    return int(any(not check.passed for check, _, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
