#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Validate this installation: named checks for CI and for a new machine, from seconds to minutes.

    python validate_testing_framework.py --market NQ --quick

Exit codes: 0 no check failed, 1 one did, 2 bad usage, 3 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def _without_library(error: ImportError) -> str:
    """A missing library as a failed check in one line: finding it is this command's purpose."""
    name = (error.name or "").partition(".")[0]
    what = f"{name} is not installed" if isinstance(error, ModuleNotFoundError) else str(error)
    return f"failed: {what}. Remedy: {sys.executable} -m pip install -r requirements.txt"


try:
    from src.command_line import RunParser, add_bar_options, run_command
    from src.console import PlainConsole
except ImportError as error:
    sys.exit(_without_library(error))


def validate(args: argparse.Namespace) -> int:
    """Run the checks; 0 when none failed."""
    try:
        return _validate(args)
    except ImportError as error:  # of what the validation itself needs: one that a check needs fails that check
        if args.debug:
            raise
        sys.exit(_without_library(error))


def _validate(args: argparse.Namespace) -> int:
    from src.checks.catalogue import chosen
    from src.checks.runner import listing
    from src.checks.runner import validate as run_checks
    from src.checks.setting import Setting

    console = PlainConsole()
    if args.list:
        console.print("\n".join(listing()), soft_wrap=True)
        return 0
    setting = Setting(
        args.market,
        args.data,
        args.config,
        args.quick,
        timezone=args.timezone,
        stamp=args.stamp,
        interval_min=args.interval,
    )
    return run_checks(setting, chosen(args.only), console, args.output, debug=args.debug)


def _parser() -> RunParser:
    from src.checks.catalogue import NAMES
    from src.market.contracts import CONTRACTS

    what = "Validate this installation: named checks for CI and for a new machine, from seconds to minutes."
    parser = RunParser(what, "hardware_maximized")
    option, key = parser.add_argument, parser.key
    market = key("-m", "--market", help=f"contract symbol: {', '.join(CONTRACTS)}")
    market.completer = lambda **_: list(CONTRACTS)  # type: ignore[attr-defined]
    option("-q", "--quick", action="store_true", help="under a minute on two cores: the longest checks are skipped")
    add_bar_options(parser, "bars to check: a file or a folder")
    option("-c", "--config", type=Path, metavar="FILE", help="YAML file of settings to check and to check with")
    option("--output", type=Path, metavar="FILE", help="write every result as JSON")
    only = option("--only", action="append", metavar="CHECK", help="run only this check; may be given more than once")
    only.completer = lambda **_: list(NAMES)  # type: ignore[attr-defined]
    option("--list", action="store_true", help="list every check and what it guards")
    option("--debug", action="store_true", help="show tracebacks and warnings")
    return parser


if __name__ == "__main__":
    try:
        run_command(validate, _parser())
    except ImportError as error:  # `--help` reads the defaults
        sys.exit(_without_library(error))
