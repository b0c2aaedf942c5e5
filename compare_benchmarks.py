#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Compare two benchmark runs: which rows became faster or slower, with confidence intervals.

    python compare_benchmarks.py baseline.json optimized.json [--fail-below 0.9]

Exit codes: 0 compared, 1 a row falls below the bound, 2 invalid input.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from src.benchmarks.comparison import compare_runs
from src.benchmarks.file import read_run
from src.benchmarks.output import FORMATS, rows_below, update_readme, write_comparison
from src.console import Stream
from src.errors import EXIT_OK, EXIT_TARGET_MISSED
from src.plain_text import foreign
from src.shell import Parser, run_command


def parser() -> Parser:
    """The options; `--help` says what they mean."""
    made = Parser("Compare two benchmark runs: which rows became faster or slower, with confidence intervals.")
    option = made.add_argument
    option("first", type=Path, metavar="FIRST", help="a file of benchmark_framework.py, such as baseline.json")
    option("second", type=Path, metavar="SECOND", help="the one to compare with it, such as optimized.json")
    option(
        "--fail-below",
        type=positive,
        metavar="RATIO",
        help="exit with 1 if the whole interval of a row's ratio (first over second) lies below this",
    )
    option("--format", choices=FORMATS, default="table", help="how the comparison is printed (default table)")
    option("--output", type=Path, metavar="FILE", help="write the comparison there instead of printing it")
    option("--anyway", action="store_true", help="compare matching rows although machine or work differ")
    option(
        "--update-readme", type=Path, metavar="FILE", help="also replace the tables between this file's marker lines"
    )
    option("--debug", action="store_true", help="show tracebacks and debug messages")
    return made


def positive(text: str) -> float:
    """A finite number above 0."""
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{foreign(text)} is not a number above 0")
    return value


def compare(args: argparse.Namespace) -> int:
    """Compare and print; 1 when a row falls below the bound."""
    comparison = compare_runs(read_run(args.first), read_run(args.second), anyway=args.anyway)
    text = FORMATS[args.format](comparison, args.fail_below) + "\n"
    if args.output is None:
        Stream("stdout").write(text)
    else:
        write_comparison(args.output, text)
    if args.update_readme is not None:
        update_readme(args.update_readme, comparison)
    below = args.fail_below is not None and rows_below(comparison, args.fail_below)
    return EXIT_TARGET_MISSED if below else EXIT_OK


if __name__ == "__main__":
    run_command(compare, parser())
