#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""The automated pipeline: data, base training, hybrid. If it is killed, --auto-resume continues it.

    python run_pipeline.py --market NQ --data my_bars.csv
    python run_pipeline.py --market NQ --auto-resume

Exit codes: 0 done and required targets met, 1 one missed or a phase failed, 2 invalid input, 3 interrupted.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from rich.text import Text

from src.command_line import RunParser, overrides_of, run_command, run_parser

OWN_OPTIONS = ("start_phase", "auto_resume")


def pipeline(args: argparse.Namespace) -> int:
    """Run or resume the pipeline; 0 when every phase is done and every required target was met."""
    # Here and not above: `--help` and a bad option answer at once, and worker processes import this file too.
    from src.console import PlainConsole
    from src.errors import EXIT_OK, EXIT_TARGET_MISSED
    from src.testing_framework import TestConfig, TestingFramework, create_test_config

    overrides = {name: value for name, value in overrides_of(args).items() if name not in OWN_OPTIONS}
    earlier = None if args.config else _file_of_earlier_run(args, overrides)
    file = args.config or earlier
    config = (
        TestConfig.from_file(file, "pipeline", **overrides) if file else create_test_config("pipeline", **overrides)
    )
    console = PlainConsole()
    if earlier:
        from src.runs.inheritance import inherited_words

        words = inherited_words(earlier, TestConfig.from_file(earlier, "pipeline"), config)
        console.print(Text(words), highlight=False)
    report = TestingFramework(config, console).run_automated_pipeline(
        start_phase=args.start_phase, auto_resume=args.auto_resume, command=command_to_go_on(sys.argv)
    )
    return EXIT_OK if report["validation_passed"] else EXIT_TARGET_MISSED


def _file_of_earlier_run(args: argparse.Namespace, overrides: dict[str, Any]) -> Path | None:
    """Settings file of the run to resume, if the options name none."""
    if not args.auto_resume and args.start_phase == 1:
        return None
    from src.agent.settings import RunSettings
    from src.market.contracts import get_contract
    from src.runs.folders import newest_run
    from src.runs.run_folder import CONFIG_NAME, check_seal

    output_dir, market = overrides.get("output_dir", RunSettings().output_dir), overrides.get("market")
    run = newest_run(Path(output_dir), market and get_contract(market).symbol)
    if run is None:
        return None
    check_seal(run / CONFIG_NAME)
    return run / CONFIG_NAME


def command_to_go_on(argv: list[str]) -> str:
    """The command to type after a stop: the same one with --auto-resume and without options that restart a phase."""
    kept: list[str] = []
    options = iter(argv[1:])
    for option in options:
        if option == "--start-phase":
            next(options, None)
        elif option not in ("--auto-resume", "--no-auto-resume") and not option.startswith("--start-phase="):
            kept.append(option)
    return shlex.join(["python", argv[0], *kept, "--auto-resume"])


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
    parser.add_argument(
        "--auto-resume",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="resume the newest run of the output folder with its settings; --no-auto-resume: begin a new run "
        "(default: resume only an unfinished one of the same settings)",
    )
    return parser


if __name__ == "__main__":
    run_command(pipeline, _parser())
