#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""The automated pipeline: data, base training, hybrid. If it is killed, --auto-resume continues it.

    python run_pipeline.py --market NQ --data my_bars.csv
    python run_pipeline.py --market NQ --auto-resume

Exit codes: 0 done and required targets met, 1 one missed or a phase failed, 2 invalid input, 3 interrupted.
"""

from __future__ import annotations

import argparse
import sys

from src.command_line import RunParser, command_to_go_on, config_of, run_command, run_parser


def pipeline(args: argparse.Namespace) -> int:
    """Run or resume the pipeline; 0 when every phase is done and every required target was met."""
    # Here and not above: `--help` and a bad option answer at once, and worker processes import this file too.
    from src.console import PlainConsole
    from src.errors import EXIT_OK, EXIT_TARGET_MISSED, ConfigError
    from src.testing_framework import TestingFramework

    if args.sweep:
        raise ConfigError(
            "The pipeline trains one setting, phase by phase. For --sweep, which trains many side by side, take "
            "run_hardware_maximized.py."
        )
    console = PlainConsole()
    framework = TestingFramework(config_of(args, "pipeline", console), console)
    report = framework.run_automated_pipeline(
        start_phase=args.start_phase, auto_resume=args.auto_resume, command=command_to_go_on(sys.argv)
    )
    return EXIT_OK if report["validation_passed"] else EXIT_TARGET_MISSED


def _parser() -> RunParser:
    what = "The pipeline: data, base training, hybrid. If it is killed, --auto-resume continues it."
    parser = run_parser(what, "pipeline")
    parser.add_argument(
        "--start-phase",
        type=int,
        choices=(1, 2, 3),
        default=1,
        help="restart this phase from the previous phases' results",
    )
    parser.add_argument("--sweep", metavar="FILE", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    run_command(pipeline, _parser())
