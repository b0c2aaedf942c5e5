"""Run the checks one after another, print a line as each ends, and write all results."""

from __future__ import annotations

import logging
import os
import platform
import textwrap
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from src.checks.catalogue import CHECKS, NAMES, Check
from src.checks.outcome import (
    FAILED,
    NOT_APPLICABLE,
    PASSED,
    REINSTALL,
    SKIPPED,
    STATUSES,
    Blocked,
    Outcome,
    failed,
    skipped,
)
from src.checks.setting import QUICK_S, Setting
from src.console import live_on
from src.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_TARGET_MISSED, InterruptedRun, UserError
from src.files import write_json
from src.market.contracts import get_contract
from src.outputs import OutputError, check_output_file
from src.plain_text import foreign

SCHEMA_VERSION = 1
OVER = f"over the {QUICK_S:g} s of --quick"
WIDTH = 80
_STYLES = {PASSED: "green", FAILED: "bold red", SKIPPED: "yellow", NOT_APPLICABLE: "dim"}
_NAME_WIDTH = max(map(len, NAMES))
_STATUS_WIDTH = max(map(len, STATUSES))
_INDENT = "    "


@dataclass
class Result:
    """One check, its outcome and duration; `warnings` were issued while it ran."""

    check: Check
    outcome: Outcome
    seconds: float
    error: str | None = None
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The result as it appears in the JSON file; null if there is nothing to say."""
        outcome = self.outcome
        return {
            "name": self.check.name,
            "guards": self.check.guards,
            "status": outcome.status,
            "seconds": self.seconds,
            "measured": outcome.measured or None,
            "details": list(outcome.details),
            "figures": dict(outcome.figures),
            "reason": outcome.reason or None,
            "remedy": outcome.remedy or None,
            "error": self.error,
            "warnings": self.warnings,
        }


def validate(
    setting: Setting, checks: Sequence[Check], console: Console, output: Path | None = None, *, debug: bool = False
) -> int:
    """Run the checks; the exit code: 0 when none failed, 1 when one did.

    Raises UserError for options that name what is not there and, where the check `config` is not among the checks, for
    a configuration that cannot be used; InterruptedRun when stopped, after what is known was written.
    """
    _check_usage(setting, output)
    if all(check.name != "config" for check in checks):
        _ = setting.config
    width = min(WIDTH, console.width)
    results: list[Result] = []
    began, clock = datetime.now(UTC), setting.clock()
    interrupted = False
    for check in checks:
        try:
            result = _run(check, setting, console, debug)
        except (KeyboardInterrupt, InterruptedRun):
            interrupted = True
            break
        results.append(result)
        if result.outcome.status == FAILED:
            setting.failed.add(check.name)
        for line in lines_of(result, width):
            console.print(Text(line, _STYLES[result.outcome.status] if line[0] != " " else ""), soft_wrap=True)
    undone = [
        Result(check, skipped("the validation was stopped before it had ended"), 0.0)
        for check in checks[len(results) :]
    ]
    content = _content(setting, [*results, *undone], began, setting.clock() - clock, interrupted)
    if output is not None:
        try:
            write_json(output, content)
        except OSError as error:
            raise OutputError(
                f"--output {output} cannot be written ({error.strerror or error}). Free space on that disk, or name "
                f"another file; the results are above."
            ) from error
    if interrupted:
        kept = f" They are kept in {output}." if output is not None else ""
        raise InterruptedRun(f"Stopped: {len(results)} of {len(checks)} checks were done.{kept}")
    summary = _summary(results, content["seconds"], content["over_quick_limit"])
    for line in textwrap.wrap(summary, width, break_long_words=False):
        console.print(Text(line, "bold"), soft_wrap=True)
    return int(content["exit_code"])


class BadUsage(UserError):
    """Invalid option."""


def _check_usage(setting: Setting, output: Path | None) -> None:
    if setting.market_name is not None:
        get_contract(setting.market_name)
    for option, path in (("--config", setting.config_file), ("--data", setting.data)):
        if path is not None and not os.path.exists(path):  # False for a name that is too long, where Path.exists raises
            raise BadUsage(f"{option} {foreign(path)}: there is no such file. Name one that exists.")
    if output is not None:
        check_output_file(output)


def _run(check: Check, setting: Setting, console: Console, debug: bool) -> Result:
    """Run one check to its end; only a stop signal leaves it."""
    heard: list[str] = []
    error: str | None = None
    began = time.perf_counter()
    with _listening(heard, mute=not debug), _shown(check, console):
        try:
            outcome = _outcome_of(check, setting)
        except Blocked as blocked:
            outcome = skipped(f"needs the check {blocked.by}, which failed")
        except InterruptedRun:
            raise
        except UserError as fixable:
            outcome = failed("cannot be checked", str(fixable))
            error = f"{type(fixable).__name__}: {fixable}"
        except Exception as unexpected:
            error = f"{type(unexpected).__name__}: {' '.join(str(unexpected).split())}".rstrip(": ")
            outcome = failed(error, _remedy_of(unexpected, check))
            if debug:
                console.print_exception()
    return Result(check, outcome, time.perf_counter() - began, error, list(dict.fromkeys(heard)))


def _outcome_of(check: Check, setting: Setting) -> Outcome:
    if check.full_only and setting.quick:
        return skipped("too long for --quick: run without it")
    return check.load()(setting)


def _remedy_of(error: Exception, check: Check) -> str:
    if isinstance(error, ImportError):
        return f"A library is missing or damaged. Run: {REINSTALL}."
    return (
        f"The cause is unknown. See that the check versions passes, then get the traceback with --only {check.name} "
        f"--debug and report it."
    )


@contextmanager
def _shown(check: Check, console: Console) -> Iterator[None]:
    """Show the check at work while it runs, on a terminal only."""
    if not console.is_terminal:
        yield
        return
    with live_on(console), console.status(f"{check.name}: {check.guards}"):
        yield


@contextmanager
def _listening(heard: list[str], *, mute: bool) -> Iterator[None]:
    """Collect warnings of this program and of libraries in the result: between the console's lines they would lack
    context."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    logger, listener = logging.getLogger("src"), Listener(logging.WARNING)
    before = logger.handlers[:]
    logger.handlers = [listener, *([] if mute else before)]
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            for internal in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning):
                warnings.simplefilter("ignore", internal)
            yield
        heard += [" ".join(str(warning.message).split()) for warning in caught]
    finally:
        logger.handlers = before


def lines_of(result: Result, width: int = WIDTH) -> list[str]:
    """A result for a console of `width` columns: what was found on the check's own line if it fits, else below it.

    Nothing is cut; only a word longer than a line makes a longer line, so that a path can be copied whole.
    """
    outcome = result.outcome
    head = f"{outcome.status:<{_STATUS_WIDTH}} {result.check.name:<{_NAME_WIDTH}} {result.seconds:6.1f} s"
    said = outcome.measured or outcome.reason
    fits = len(head) + 2 + len(said) <= width
    below = [] if fits else [said]
    below += outcome.details
    if outcome.remedy:
        below.append(f"Remedy: {outcome.remedy}")
    first = f"{head}  {said}".rstrip() if fits else head
    return [first, *(line for text in below for line in _wrapped(text, width))]


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=_INDENT, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False
    )


def _summary(results: Sequence[Result], seconds: float, over: bool) -> str:
    counts = _counts(results)
    said = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items() if count)
    names = [result.check.name for result in results if result.outcome.status == FAILED]
    blame = f" Failed: {', '.join(names)}." if names else ""
    late = f" ({OVER})" if over else ""
    many = "check" if len(results) == 1 else "checks"
    return f"{len(results)} {many} in {seconds:.1f} s{late}: {said}.{blame}"


def _counts(results: Sequence[Result]) -> dict[str, int]:
    return {status: sum(result.outcome.status == status for result in results) for status in STATUSES}


def _content(
    setting: Setting, results: Sequence[Result], began: datetime, seconds: float, interrupted: bool
) -> Mapping[str, Any]:
    """Content of the `--output` file."""
    counts = _counts(results)
    ended = EXIT_INTERRUPTED if interrupted else EXIT_TARGET_MISSED if counts[FAILED] else EXIT_OK
    return {
        "schema_version": SCHEMA_VERSION,
        "test_name": "Installation Validation",
        "validation_passed": ended == EXIT_OK,
        "execution_time": seconds,
        **_run_figures(results),
        "failed": [result.check.name for result in results if result.outcome.status == FAILED],
        "began": began.isoformat(timespec="seconds"),
        "seconds": seconds,
        "quick": setting.quick,
        "quick_limit_s": QUICK_S if setting.quick else None,
        "over_quick_limit": setting.quick and seconds > QUICK_S,
        "market": setting.market_name,
        "data": None if setting.data is None else str(setting.data),
        "config": None if setting.config_file is None else str(setting.config_file),
        "machine": _machine(),
        "interrupted": interrupted,
        "exit_code": ended,
        "counts": counts,
        "checks": [result.to_dict() for result in results],
    }


def _run_figures(results: Sequence[Result]) -> dict[str, Any]:
    """Figures of the small run of the check `report`; null if it did not run or did not pass."""
    made = next((r.outcome for r in results if r.check.name == "report" and r.outcome.status == PASSED), None)
    names = ("gpu_utilization", "cache_hit_rate", "peak_memory_gb", "timesteps_completed")
    return {name: None if made is None else made.figures.get(name) for name in names}


def _machine() -> dict[str, Any]:
    """The machine, by the standard library alone; other packages are in the check `versions`."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }


def listing() -> list[str]:
    """Every check and what it guards, 80 columns."""
    lines = []
    for check in CHECKS:
        indent = " " * (_NAME_WIDTH + 2)
        only = " (not with --quick)" if check.full_only else ""
        lines += textwrap.wrap(
            f"{check.guards}{only}", WIDTH, initial_indent=f"{check.name:<{_NAME_WIDTH}}  ", subsequent_indent=indent
        )
    return lines
