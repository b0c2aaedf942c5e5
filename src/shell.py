"""Shared by every command: parser, exit codes, signals, error paragraphs."""

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

from src import __version__
from src.console import LogHandler, PlainConsole, Stream, StreamError
from src.errors import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    EXIT_TARGET_MISSED,
    InterruptedRun,
    StopSignal,
    UserError,
    memory_words,
)
from src.plain_text import foreign, paragraph
from src.suggestions import did_you_mean

NARROWEST = 20
_NO_BREAK = "\u00a0"  # else a long path would move to the line below "error:"


class _Help(argparse.HelpFormatter):
    """Help alike on every Python: `-m, --market MARKET`, and a usage line without the list of options."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        values = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {values}"

    def _format_usage(self, usage: str | None, actions: Any, groups: Any, prefix: str | None) -> str:
        places = [self._format_args(a, a.dest) for a in actions if not a.option_strings]
        return f"{prefix or 'usage: '}{' '.join([self._prog, '[options]', *places])}\n\n"


class Parser(argparse.ArgumentParser):
    """A parser whose options are spelled out, whose help fits the terminal and whose errors are one paragraph."""

    def __init__(self, description: str | None, prog: str | None = None) -> None:
        super().__init__(prog=prog or _program(), description=description, allow_abbrev=False, formatter_class=_Help)
        self.add_argument("--version", action="version", version=__version__, help="show the version and exit")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See ArgumentParser; also answers a shell that asks for completions."""
        if "_ARGCOMPLETE" in os.environ:
            import argcomplete

            argcomplete.autocomplete(self)
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Exit with 2 and one paragraph; an unknown option gets the nearest known one."""
        head, _, rest = message.partition("unrecognized arguments: ")
        if rest and not head:
            known = [name for action in self._actions for name in action.option_strings]
            first = rest.split()[0].partition("=")[0]
            hint = did_you_mean(first, known) if first.startswith("--") else ""
            message = f"there is no option {foreign(rest)}{hint}"
        print_paragraph(f"error:{_NO_BREAK}{message}. {self.prog} --help lists the options.")
        sys.exit(EXIT_BAD_INPUT)

    def _print_message(self, message: str, file: Any = None) -> None:
        stream = Stream("stdout" if file is sys.stdout else "stderr")
        stream.write(message)
        stream.flush()


def _program() -> str | None:
    """`python -m src.x` for a module that runs as a command; None for a script, whose name argparse knows."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return None if spec is None else f"python -m {spec.name.removesuffix('.__main__')}"


def run_command(
    command: Callable[[argparse.Namespace], int], options: argparse.ArgumentParser | argparse.Namespace
) -> NoReturn:
    """Run `command` with its options and exit with its code.

    An error a user can fix is one paragraph on standard error, without a traceback unless `--debug` is given.
    """

    def work() -> int:
        args = options.parse_args() if isinstance(options, argparse.ArgumentParser) else options
        debug.append(args.debug)
        _log_to(console, args.debug)
        return command(args)

    console = PlainConsole(stderr=True)
    debug: list[bool] = []
    _exit(work, console, debug)


def run_main(main: Callable[[], int]) -> NoReturn:
    """Run a module's `main`, which parses for itself, and exit with its code."""

    def work() -> int:
        _log_to(console, False)
        return main()

    console = PlainConsole(stderr=True)
    _exit(work, console, [])


def _exit(work: Callable[[], int], console: Console, debug: list[bool]) -> NoReturn:
    _catch_signals()
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")  # a terminal without UTF-8 gets `\u2192`, not an exception
    try:
        code = _code_of(work, console, debug)
    except KeyboardInterrupt:  # a second signal, while the first was being reported
        code = EXIT_INTERRUPTED
    _exit_at_next_signal()
    gc.freeze()  # the interpreter walks every object on its way out: 1.5 s of the 2 s in which a stopped run ends
    sys.exit(code)


def _open_closed_streams() -> None:
    """Give a standard stream that the caller has closed (`>&-`) the null device: Python has None in its place, and the
    next file opened would get its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def _code_of(work: Callable[[], int], console: Console, debug: list[bool]) -> int:
    try:
        code = work()
        Stream("stdout").flush()
        return code
    except UserError as error:
        if any(debug) and not isinstance(error, StreamError):
            console.print_exception()
        print_paragraph(f"error:{_NO_BREAK}{error}")
        return error.exit_code
    except InterruptedRun as error:
        _exit_at_next_signal()
        print_paragraph(str(error))
        return error.exit_code
    except KeyboardInterrupt as error:
        _exit_at_next_signal()
        # A second signal, raised while the first was handled, means that the run had already written something.
        again = isinstance(error.__context__, KeyboardInterrupt)
        print_paragraph(
            "Stopped at once: what was written is kept." if again else "Stopped before anything was written."
        )
        return EXIT_INTERRUPTED
    except MemoryError as error:
        if any(debug):
            console.print_exception()
        print_paragraph(f"error:{_NO_BREAK}{memory_words(error)} --debug shows where it ran out.")
        return EXIT_TARGET_MISSED
    except BrokenPipeError:  # `| head`: nobody reads the rest
        Stream("stdout")._give_up()
        return 1
    except Exception as error:
        if any(debug) or not _signal_within(error):
            raise
        _exit_at_next_signal()
        print_paragraph("Stopped: what was written is kept.")
        return EXIT_INTERRUPTED


def _signal_within(error: BaseException | None) -> bool:
    """Whether the error was raised while a signal was being handled: numba's clean-up fails if a signal interrupts it,
    and its RuntimeError replaces the signal."""
    while error is not None and not isinstance(error, StopSignal):
        error = error.__context__
    return error is not None


def _exit_at_next_signal() -> None:
    """The run is over: another signal ends the process at once, without more clean-up or a traceback."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: os._exit(EXIT_INTERRUPTED))


def _log_to(console: Console, debug: bool) -> None:
    logger = logging.getLogger("src")
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.addHandler(LogHandler(console, debug=debug))
    logger.propagate = False


def _catch_signals() -> None:
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where the shell has it ignored
        signal.signal(signal.SIGINT, _stop)


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise StopSignal


def print_paragraph(text: str) -> None:
    """Wrap the first paragraph to the terminal's width; what follows a line break (a worker's traceback) stays."""
    first, *rest = paragraph(text, keep=_NO_BREAK).split("\n")
    width = max(NARROWEST, PlainConsole(stderr=True).width)
    wrapped: Sequence[str] = textwrap.wrap(first, width, break_long_words=False, break_on_hyphens=False)
    stream = Stream("stderr")
    try:
        stream.write("\n".join([*wrapped, *rest]).replace(_NO_BREAK, " ") + "\n")
        stream.flush()
    except (StreamError, BrokenPipeError):
        return  # there is no place left to say it; the exit code does
