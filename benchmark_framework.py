#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Benchmark each shortcut of the toolkit on this machine: the same work without it and with it.

    python benchmark_framework.py --pair                  both modes in turns: baseline.json and optimized.json
    python benchmark_framework.py --mode baseline         one mode, one process
    python compare_benchmarks.py baseline.json optimized.json

Exit codes: 0 measured, 2 invalid usage, 3 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from src.benchmarks.file import LEAST_PROCESSES, MODES, PAIR_REPEATS, QUICK_REPEATS, REPEATS, SUITES
from src.shell import Parser, run_command


def parser() -> Parser:
    """The options; `--help` says what they mean."""
    made = Parser("Benchmark each shortcut of the toolkit on this machine: the same work without it and with it.")
    option = made.add_argument
    option("--mode", choices=MODES, help="baseline: every shortcut off; optimized: on")
    option(
        "--pair",
        nargs="*",
        metavar="MODE",
        help="measure two modes in turns, a fresh process each time (default: baseline optimized); naming one mode "
        "twice shows the noise",
    )
    suite = option("--suite", nargs="+", metavar="NAME", help=f"measure only these, of {', '.join(SUITES)}")
    suite.completer = lambda **_: list(SUITES)  # type: ignore[attr-defined]
    repeats = f"{REPEATS}; in a pair {PAIR_REPEATS}; with --quick {QUICK_REPEATS}"
    option("--repeats", type=int, metavar="N", help=f"blocks of each case in a process (default {repeats})")
    least = f"processes of each mode in a pair (default and minimum: {LEAST_PROCESSES})"
    option("--processes", type=int, metavar="N", help=least)
    option("-q", "--quick", action="store_true", help="tiny sizes: shows that it runs, not how fast")
    option("--output", nargs="+", metavar="FILE", help="files to write; two for a pair (default: named after the mode)")
    option("--debug", action="store_true", help="show tracebacks and debug messages")
    return made


def benchmark(args: argparse.Namespace) -> int:
    """Measure and write; 0."""
    # Here and not above: `--help` and a bad option answer at once, and worker processes import this file too.
    from src.benchmarks.command import Request, measure_one, measure_two

    request = Request.of(args)
    script = [sys.executable, str(Path(__file__).resolve())]
    return measure_one(request) if request.second is None else measure_two(request, script)


if __name__ == "__main__":
    run_command(benchmark, parser())
