"""What the scripts share: options that are keys of the configuration, and how an error becomes an exit code."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console
from rich.logging import RichHandler

from src.errors import EXIT_INTERRUPTED, EXIT_TARGET_MISSED, InterruptedRun, UserError

NOT_CONFIGURATION = ("config", "debug")
_NO_BREAK = "\u00a0"  # a long path would else stand on a line below "error:"


def run_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options every run has."""
    parser = argparse.ArgumentParser(description=description)
    option = parser.add_argument
    option("--market", help="contract symbol: NQ ES YM RTY, or a micro: MNQ MES MYM M2K (default NQ)")
    option("--data", metavar="PATH", help="bars: a CSV or Parquet file, or a folder (default data/, else synthetic)")
    option("--config", metavar="FILE", help="YAML file of settings; options given here win over it")
    option(
        "--quick",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="train 1%% of production: too short to learn; --no-quick: not so, whatever a file or an earlier run says",
    )
    option("--mock-llm", action="store_true", default=None, help="advice by rules, without a language model")
    option("--llm-model", metavar="NAME", help="bundled:smollm2 (default), a folder or hub id, tiny, or mock")
    option(
        "--llm-budget",
        type=float,
        metavar="SECONDS",
        help="time to ask the language model (default 120; quick: at most 15)",
    )
    option("--quantization", choices=("none", "int8", "int4"), help="of the language model's weights (default none)")
    option("--extend-advice", action="store_true", default=None, help="ask beyond what earlier runs have tabulated")
    option("--timesteps", type=int, metavar="N", help="base timesteps (default 10%% of production)")
    option("--batch-size", type=int, metavar="N", help="timesteps in a minibatch of the PPO update")
    option("--vectorized-envs", type=int, metavar="N", help="accounts stepped together")
    option("--device", choices=("auto", "cpu", "cuda"), help="where the networks train (default auto)")
    option("--seed", type=int, metavar="N", help="of every random stream of the run (default 0)")
    option("--output-dir", metavar="FOLDER", help="gets one folder a run (default logs)")
    option("--debug", action="store_true", help="show tracebacks and debug messages")
    return parser


def overrides_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, by the names the configuration knows."""
    return {name: value for name, value in vars(args).items() if name not in NOT_CONFIGURATION and value is not None}


def run_command(command: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> NoReturn:
    """Run `command` and exit with its code; errors a user can mend are one paragraph, no traceback unless `--debug`."""
    console = Console(stderr=True)
    _log_to(console, args.debug)
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        code = _code_of(command, args, console)
    except KeyboardInterrupt:  # a second signal, while the first was being told of
        code = EXIT_INTERRUPTED
    _exit_at_next_signal()
    gc.freeze()  # the interpreter walks every object on its way out: 1.5 s of the 2 s in which a stopped run ends
    sys.exit(code)


def _code_of(command: Callable[[argparse.Namespace], int], args: argparse.Namespace, console: Console) -> int:
    try:
        return command(args)
    except UserError as error:
        if args.debug:
            console.print_exception()
        _print_paragraph(f"error:{_NO_BREAK}{error}")
        return error.exit_code
    except InterruptedRun as error:
        _exit_at_next_signal()
        _print_paragraph(str(error))
        return error.exit_code
    except KeyboardInterrupt as error:
        _exit_at_next_signal()
        # Another signal, while the first one was being dealt with, comes from within a run that has written something.
        again = isinstance(error.__context__, KeyboardInterrupt)
        _print_paragraph(
            "Stopped at once: what was written is kept." if again else "Stopped before anything was written."
        )
        return EXIT_INTERRUPTED
    except MemoryError as error:
        if args.debug:
            console.print_exception()
        said = f" ({error})" if str(error) else ""
        _print_paragraph(
            f"error:{_NO_BREAK}Out of memory{said}. Free memory that other programs hold, raise the limit (ulimit -v, "
            f"the container's), or take fewer --vectorized-envs or a smaller --batch-size. --debug shows where it ran "
            f"out."
        )
        return EXIT_TARGET_MISSED


def _exit_at_next_signal() -> None:
    """The run is over: whoever sends another signal wants no more clean-up, and no traceback of it."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: os._exit(EXIT_INTERRUPTED))


def _log_to(console: Console, debug: bool) -> None:
    handler = RichHandler(console=console, show_time=False, show_path=debug, markup=False, highlighter=None)
    handler.setLevel(logging.DEBUG if debug else logging.WARNING)
    logger = logging.getLogger("src")
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False


def _as_interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _print_paragraph(text: str) -> None:
    """Wrap the first paragraph to 80 columns; what follows a line break (a worker's traceback) stays as it is."""
    first, *rest = text.split("\n")
    wrapped: Sequence[str] = textwrap.wrap(first, 80, break_long_words=False, break_on_hyphens=False)
    sys.stderr.write("\n".join([*wrapped, *rest]).replace(_NO_BREAK, " ") + "\n")
