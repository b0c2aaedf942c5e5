"""The command `benchmark_framework.py`: options, measurement, output."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.table import Table

from src.benchmarks.file import (
    BASELINE,
    LEAST_PROCESSES,
    MODES,
    OPTIMIZED,
    PAIR_REPEATS,
    QUICK_REPEATS,
    REPEATS,
    SUITES,
    BenchmarkRun,
    gemm_share,
    write_run,
)
from src.benchmarks.measuring import in_fresh_process, measure_pair, measure_suites
from src.benchmarks.progress import ProgressLine
from src.console import PlainConsole, uncut
from src.errors import EXIT_OK, UserError
from src.outputs import check_output_file
from src.suggestions import did_you_mean
from src.wording import measured

COLUMNS = 80


class UsageError(UserError):
    """Invalid option."""


@dataclass(frozen=True)
class Request:
    """What to measure and where to write it. `second` None: one mode, in this process."""

    first: str
    second: str | None
    suites: tuple[str, ...]
    named: bool
    repeats: int
    processes: int
    quick: bool
    outputs: tuple[Path, ...]

    @classmethod
    def of(cls, args: argparse.Namespace) -> Self:
        """The request of a command line. Raises UsageError with option, value and fix."""
        first, second = _modes(args)
        if second is None and args.processes is not None:
            raise UsageError("--processes belongs to --pair: a --mode is measured in one process.")
        least = 1 if args.quick else LEAST_PROCESSES
        processes = _at_least(least, "--processes", args.processes, LEAST_PROCESSES)
        usual = QUICK_REPEATS if args.quick else REPEATS if second is None else PAIR_REPEATS
        outputs = _outputs(args, first, second)
        for path in outputs:
            check_output_file(path)
        suites = _suites(args.suite)
        repeats = _at_least(1, "--repeats", args.repeats, usual)
        return cls(first, second, suites, args.suite is not None, repeats, processes, args.quick, outputs)

    def options(self, mode: str) -> list[str]:
        """The command line of one measuring process."""
        options = ["--mode", mode, "--repeats", str(self.repeats)]
        options += ["--suite", *self.suites] if self.named else []
        return options + (["--quick"] if self.quick else [])


def _modes(args: argparse.Namespace) -> tuple[str, str | None]:
    if (args.mode is None) == (args.pair is None):
        given = "neither --mode nor --pair is" if args.mode is None else "both --mode and --pair are"
        raise UsageError(f"{given} given: name a mode (--mode {' or '.join(MODES)}), or measure both with --pair.")
    if args.pair is None:
        return args.mode, None
    modes = args.pair or [BASELINE, OPTIMIZED]
    for mode in modes:
        if mode not in MODES:
            raise UsageError(f"--pair {mode}{did_you_mean(mode, MODES)}: the modes are {' and '.join(MODES)}.")
    if len(modes) != 2:
        raise UsageError(f"--pair takes two modes or none, not {len(modes)}: --pair {BASELINE} {OPTIMIZED}.")
    return modes[0], modes[1]


def _suites(names: Sequence[str] | None) -> tuple[str, ...]:
    """In their own order, each once."""
    for name in names or ():
        if name not in SUITES:
            raise UsageError(f"--suite {name}{did_you_mean(name, SUITES)}: the suites are {', '.join(SUITES)}.")
    return tuple(name for name in SUITES if names is None or name in names)


def _at_least(least: int, option: str, value: int | None, usual: int) -> int:
    if value is None:
        return usual
    if value < least:
        why = " (or take --quick)" if least > 1 else ""
        raise UsageError(f"{option} is {value}; it must be at least {least}{why}.")
    return value


def _outputs(args: argparse.Namespace, first: str, second: str | None) -> tuple[Path, ...]:
    wanted = 1 if second is None else 2
    if args.output is None:
        names = [first] if second is None else [first, second]
        if first == second:
            names = [f"{first}-1", f"{first}-2"]
        return tuple(Path(f"{name}.json") for name in names)
    if len(args.output) != wanted:
        many = "" if len(args.output) == 1 else "s"
        raise UsageError(f"--output names {len(args.output)} file{many}, but {wanted} must be written: name {wanted}.")
    outputs = tuple(Path(name) for name in args.output)
    if len({path.resolve() for path in outputs}) < wanted:
        raise UsageError(f"--output names {outputs[0]} twice: the second mode would overwrite the first.")
    return outputs


def measure_one(request: Request) -> int:
    """One mode in this process: measure, write, show."""
    console = PlainConsole(width=COLUMNS)
    with ProgressLine(console) as progress:
        run = measure_suites(
            request.first, request.suites, request.repeats, quick=request.quick, say=progress.say, named=request.named
        )
    write_run(request.outputs[0], run)
    show(console, run)
    _print(console, f"Written to {request.outputs[0]}.")
    return EXIT_OK


def measure_two(request: Request, script: Sequence[str]) -> int:
    """Both modes in turns, `script` in a fresh process each time: measure, write both, say how to compare."""
    assert request.second is not None
    console = PlainConsole(width=COLUMNS)
    modes = (request.first, request.second)
    with ProgressLine(console) as progress:
        measures = [in_fresh_process([*script, *request.options(mode)], progress.heard) for mode in modes]
        runs = measure_pair(measures[0], measures[1], request.processes, progress.always)
    for path, run in zip(request.outputs, runs, strict=True):
        write_run(path, run)
    for line in dict.fromkeys(line for run in runs for line in remarks(run)):
        _print(console, line)
    _print(console, f"Compare them: python compare_benchmarks.py {request.outputs[0]} {request.outputs[1]}")
    return EXIT_OK


def show(console: Console, run: BenchmarkRun) -> None:
    """Print the medians of a run and its remarks."""
    table = Table(title=f"{run.mode}: medians of {run.repeats} blocks", title_justify="left", box=None)
    for heading in ("suite", "case", "of one"):
        table.add_column(heading)
    for heading in ("median", "spread"):
        table.add_column(heading, justify="right")
    for row in run.rows:
        table.add_row(row.suite, row.case, row.unit, measured(row.median_s), f"{row.spread:.0%}")
    console.print(uncut(table))
    for line in remarks(run):
        _print(console, line)


def remarks(run: BenchmarkRun) -> list[str]:
    """Remarks on the figures: the bound, the machine's load, what was not measured."""
    lines = []
    share = gemm_share(run.rows)
    if share is not None:
        lines.append(f"Training ({run.mode}) reaches {share:.2f} of the speed of its matrix products alone.")
    state, cores = run.machine["state"], run.machine["identity"]["cores"]
    lines.append(
        f"Machine: {state['cores_free']:.1f} of {cores} cores free, load {state['load_before']} before and "
        f"{state['load_after']} after, governor {state['governor'] or 'unknown'}."
    )
    lines += [f"{name}: not measured. {why}" for name, why in run.not_measured.items()]
    if run.quick:
        lines.append("Quick: tiny sizes show that it runs, not how fast.")
    return lines


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, emoji=False)
