"""Measure the suites: in this process, or in pairs of fresh processes that take turns."""

from __future__ import annotations

import logging
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from src.benchmarks import machine
from src.benchmarks.file import BenchmarkRun, Row, joined, read_run
from src.benchmarks.progress import Progress, Say
from src.benchmarks.timing import block_of, in_rounds
from src.errors import EXIT_BAD_INPUT, ConfigError, UserError

Measure = Callable[[], BenchmarkRun]
_TIME_TO_END_S = 10.0

logger = logging.getLogger(__name__)


class BenchmarkError(UserError):
    """A measuring process that failed."""


def measure_suites(
    mode: str, names: Sequence[str], repeats: int, *, quick: bool, say: Say, named: bool = True
) -> BenchmarkRun:
    """Measure the suites of a mode in this process: warm up, then `repeats` blocks of every case, taken in rounds.

    A slow minute thus meets every case alike. A suite that cannot be measured here (a UserError) is left out and its
    reason kept, unless `named` says that it was asked for by name. UserErrors of that kind; OSError of what writes.
    """
    # Here and not above: the libraries take seconds, and a pair leaves them to its processes.
    from src.benchmarks.suites import FULL, QUICK, SUITE_FUNCTIONS, Bench
    from src.report.facts import versions

    scale = QUICK if quick else FULL
    before = machine.state()
    not_measured: dict[str, str] = {}
    cases, blocks = [], []
    with Bench(mode, scale) as bench:
        progress = Progress(len(names) * (repeats + 1), say)
        for place, name in enumerate(names, 1):
            progress.begin(f"suite {place} of {len(names)} ({name}), warming up")
            try:
                made = list(SUITE_FUNCTIONS[name](bench))
                blocks += [block_of(case.call, scale.block_s, case.operations, case.clock) for case in made]
                cases += made
            except UserError as error:
                if named:
                    raise
                not_measured[name] = str(error)

        def begin(done: int, index: int) -> None:
            suite = cases[index].suite
            if index == 0 or cases[index - 1].suite != suite:
                place = names.index(suite) + 1
                progress.begin(f"suite {place} of {len(names)} ({suite}), round {done + 1} of {repeats}")

        times = in_rounds(blocks, repeats, begin)
    state = {**before, "load_after": machine.load()}
    return BenchmarkRun(
        mode=mode,
        quick=quick,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        repeats=repeats,
        suites=tuple(names),
        revision=machine.revision(),
        machine={"identity": machine.identity(), "state": state, "versions": versions()},
        not_measured=not_measured,
        rows=tuple(
            Row(case.suite, case.name, case.unit, case.way, dict(case.workload), dict(case.facts), (tuple(taken),))
            for case, taken in zip(cases, times, strict=True)
        ),
    )


def measure_pair(
    first: Measure, second: Measure, processes: int, say: Say = logger.info
) -> tuple[BenchmarkRun, BenchmarkRun]:
    """`processes` runs of each side in turns. Which side begins alternates, so a machine that steadily slows down
    favours neither. Raises BenchmarkError as soon as a process differs from the first of its side."""
    runs: tuple[list[BenchmarkRun], list[BenchmarkRun]] = ([], [])
    sides = (first, second)
    progress = Progress(2 * processes, say)
    for pair in range(processes):
        for side in (0, 1) if pair % 2 == 0 else (1, 0):
            progress.begin(f"pair {pair + 1} of {processes}, {'second' if side else 'first'} side")
            runs[side].append(sides[side]())
            check_alike(runs[side][0], runs[side][-1])
    name = uuid.uuid4().hex[:16]
    return joined(runs[0], name), joined(runs[1], name)


def check_alike(one: BenchmarkRun, other: BenchmarkRun) -> None:
    """BenchmarkError where two processes of a side did not run the same code, libraries or work: a file names one."""
    revisions = [run.revision for run in (one, other)]
    identities, versions = ([run.machine[part] for run in (one, other)] for part in ("identity", "versions"))
    skipped = {*one.not_measured, *other.not_measured}
    works = [
        {", ".join(row.key): (row.unit, row.workload) for row in run.rows if row.suite not in skipped}
        for run in (one, other)
    ]
    parts = {"revision": revisions, "machine": identities, "versions": versions, "work": works}
    for what, (before, now) in parts.items():
        for name in dict.fromkeys([*before, *now]):
            if before.get(name) != now.get(name):
                raise BenchmarkError(
                    f"{what} ({name}) changed while the {one.mode} side was measured, from {before.get(name)} to "
                    f"{now.get(name)}: measure again without changing the checkout or its libraries."
                )


def in_fresh_process(command: Sequence[str], heard: Say = logger.debug) -> Measure:
    """Measure by a command that takes `--output FILE` and writes its run there; a new process each time. `heard` gets
    the lines it prints.

    The measure raises BenchmarkError, with the process's own words, when it fails; the process is ended whenever this
    one stops waiting for it.
    """

    def measure() -> BenchmarkRun:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            output = Path(folder) / "run.json"
            with (
                open(Path(folder) / "errors.txt", "w+", encoding="utf-8", errors="replace") as errors,
                _started([*command, "--output", str(output)], errors) as process,
            ):
                for line in process.stdout or ():
                    heard(line.rstrip())
                process.wait()
                errors.seek(0)
                words = errors.read()
            if process.returncode == EXIT_BAD_INPUT:
                raise ConfigError(" ".join(words.split()).removeprefix("error: "))
            if process.returncode:
                raise BenchmarkError(f"a measuring process ended with exit code {process.returncode}:\n{words}")
            return read_run(output)

    return measure


@contextmanager
def _started(command: Sequence[str], errors: TextIO) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace")
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_TIME_TO_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()
