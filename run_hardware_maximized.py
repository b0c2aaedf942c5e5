#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Hardware-maximized validation: from bars to a verdict, in minutes. If it is killed, --auto-resume continues it.

    python run_hardware_maximized.py --market NQ --data my_bars.csv
    python run_hardware_maximized.py --market NQ --data my_bars.csv --sweep my_sweep.yaml

Exit codes: 0 required targets met, 1 one missed, 2 invalid input, 3 interrupted.
"""

from __future__ import annotations

import argparse
import sys

from src.command_line import RunParser, command_to_go_on, config_of, run_command, run_parser


def validate(args: argparse.Namespace) -> int:
    """Run or resume the validation; 0 when every required target was met."""
    # Here and not above: `--help` and a bad option answer at once, and worker processes import this file too.
    from src.console import PlainConsole
    from src.errors import EXIT_OK, EXIT_TARGET_MISSED
    from src.testing_framework import TestingFramework

    console = PlainConsole()
    config, command = config_of(args, "hardware_maximized", console), command_to_go_on(sys.argv)
    if args.sweep:
        from src.sweeps.run import run_sweep

        report = run_sweep(config, args.sweep, console, auto_resume=args.auto_resume, command=command)
    else:
        framework = TestingFramework(config, console)
        report = framework.run_hardware_maximized_validation(auto_resume=args.auto_resume, command=command)
    return EXIT_OK if report["validation_passed"] else EXIT_TARGET_MISSED


def _parser() -> RunParser:
    parser = run_parser("Hardware-maximized validation: from bars to a verdict, in minutes.", "hardware_maximized")
    parser.key("--walk-forward", type=int, metavar="K", help="folds trained and tested forward in time")
    what = "YAML file of settings to try: each is trained and scored on validation sessions, the best trained again"
    parser.add_argument("--sweep", metavar="FILE", help=what)
    return parser


if __name__ == "__main__":
    run_command(validate, _parser())
