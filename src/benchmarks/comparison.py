"""Two benchmark runs row by row: the ratio of their times, its confidence interval, and the verdict.

An interval is bootstrapped in two stages: processes are drawn again, and within each drawn process its repeats. Runs
of a pair are drawn pair by pair, so that what slowed both neighbours down cancels. The ratio is the median over pairs
of the ratio of the two processes' medians (of two runs apart: the ratio of their medians over processes): one disturbed
process in eight then moves nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from src.benchmarks.file import IDENTITY, BenchmarkRun, Row, gemm_share, safe_to_show
from src.errors import UserError
from src.plain_text import beginning

FASTER, SLOWER, SAME, UNKNOWN = "faster", "slower", "no difference", "too few repeats"
CONFIDENCE: Final = 0.99
"""Of an interval. At 95% one row in twenty would differ by chance, and a comparison has twenty rows; besides, a
bootstrap over eight processes is a little too narrow."""
SMALLEST_DIFFERENCE: Final = 0.03
"""Ratios nearer to 1 count as no difference: the placement of code and data in memory alone moves a loop that much."""
RESAMPLES: Final = 4000
FEWEST_REPEATS: Final = 3
TRUSTED_PROCESSES: Final = 8

Float64 = NDArray[np.float64]


class ComparisonError(UserError):
    """Two runs that must not be compared."""


@dataclass(frozen=True)
class ComparedRow:
    """One row of both runs. `ratio` is the first's time over the second's: above 1 the second is faster.

    `low` and `high` bound it with `CONFIDENCE`; None where there are too few repeats for an interval.
    """

    first: Row
    second: Row
    ratio: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """`faster` or `slower` if the interval of the second excludes 1, else `no difference`."""
        if self.low is None or self.high is None:
            return UNKNOWN
        if self.low > 1.0 and self.ratio > 1.0 + SMALLEST_DIFFERENCE:
            return FASTER
        if self.high < 1.0 and self.ratio < 1.0 / (1.0 + SMALLEST_DIFFERENCE):
            return SLOWER
        return SAME

    def is_below(self, bound: float) -> bool:
        """Whether the whole interval lies below a bound, so that chance alone fails no build."""
        return (self.ratio if self.high is None else self.high) < bound


@dataclass(frozen=True)
class Comparison:
    """Two runs compared. `notes` are caveats."""

    first: BenchmarkRun
    second: BenchmarkRun
    rows: tuple[ComparedRow, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def headings(self) -> tuple[str, str]:
        """Column headings of the two sides."""
        one, other = self.first.mode, self.second.mode
        return (one, other) if one != other else (f"{one} 1", f"{other} 2")

    @property
    def rows_alike(self) -> int | None:
        """How many rows show no difference; None unless one mode was compared with itself."""
        if self.first.mode != self.second.mode:
            return None
        return sum(row.verdict == SAME for row in self.rows)


def compare_runs(first: BenchmarkRun, second: BenchmarkRun, *, anyway: bool = False) -> Comparison:
    """Compare the rows both have; ComparisonError naming the first differences of machine or work, unless `anyway`.

    Rows whose work differs are left out in any case: their ratio would mean nothing.
    """
    first, second = safe_to_show(first), safe_to_show(second)
    found = differences(first, second)
    if found and not anyway:
        more = f", and {len(found) - 3} more" if len(found) > 3 else ""
        raise ComparisonError(
            f"The two runs are not of the same work on the same machine: {'; '.join(found[:3])}{more}. Measure both in "
            f"one go (python benchmark_framework.py --pair), or add --anyway to compare the rows that match."
        )
    second_rows = {row.key: row for row in second.rows}
    both = [(row, second_rows[row.key]) for row in first.rows if row.key in second_rows]
    same_work = [(a, b) for a, b in both if (a.workload, a.unit) == (b.workload, b.unit)]
    if not same_work:
        raise ComparisonError(
            "The two runs have no row in common: measure both with the same --suite and the same size (--quick or not)."
        )
    paired = is_paired(first, second)
    rows = tuple(_compared(a, b, paired) for a, b in same_work)
    caution = f"Compared although they differ: {'; '.join(found)}. Rows of other work are left out."
    return Comparison(first, second, rows, (*([caution] if found else []), *_notes(first, second, paired)))


def is_paired(first: BenchmarkRun, second: BenchmarkRun) -> bool:
    """Whether process i of one run took turns with process i of the other."""
    return first.pair is not None and first.pair == second.pair and first.processes == second.processes


def differences(first: BenchmarkRun, second: BenchmarkRun) -> list[str]:
    """Differences between the machines or the work of two runs, in words; empty if there are none."""
    machines = (first.machine["identity"], second.machine["identity"])
    found = [f"{name} {machines[0][name]} and {machines[1][name]}" for name in IDENTITY if _differ(*machines, name)]
    if first.quick != second.quick:
        found.append("quick on and off" if first.quick else "quick off and on")
    rows = ({row.key: row for row in first.rows}, {row.key: row for row in second.rows})
    for key in dict.fromkeys([*rows[0], *rows[1]]):
        name = ", ".join(key)
        if key not in rows[0] or key not in rows[1]:
            found.append(f"{name} is only in the {'first' if key in rows[0] else 'second'}")
            continue
        one, other = rows[0][key], rows[1][key]
        if one.unit != other.unit:
            found.append(f"{name} counts a {one.unit} and a {other.unit}")
        for part in dict.fromkeys([*one.workload, *other.workload]):
            if _differ(one.workload, other.workload, part):
                values = (_short(row.workload.get(part)) for row in (one, other))
                found.append(f"{name} has {part} {' and '.join(values)}")
    return found


def _differ(one: Mapping[str, Any], other: Mapping[str, Any], name: str) -> bool:
    return (name in one) != (name in other) or one.get(name) != other.get(name)


def _short(value: object) -> str:
    return beginning("none" if value is None else str(value), 30)


def _notes(first: BenchmarkRun, second: BenchmarkRun, paired: bool) -> list[str]:
    notes = []
    fewest = min(first.processes, second.processes)
    if fewest == 1:
        notes.append(
            "One process a mode: the intervals cover variation within a process, not drift between runs. "
            "Measure with --pair before you rely on a small difference."
        )
    elif not paired:
        notes.append("The two were not measured in turns: whatever changed in between counts as a difference.")
    elif fewest < TRUSTED_PROCESSES:
        notes.append(f"{fewest} processes a mode: reliable intervals need {TRUSTED_PROCESSES}.")
    for what, one, other in _contexts(first, second):
        if one != other:
            notes.append(f"{what} differs: {_short(one)} and {_short(other)}.")
    for run in (first, second):
        busy = run.machine["identity"]["cores"] - run.machine["state"]["cores_free"]
        if busy >= 0.5:
            notes.append(f"The machine was busy: {busy:.1f} cores were taken when {run.mode} was measured.")
    if first.quick or second.quick:
        notes.append("Quick runs: tiny sizes show that it runs, not how fast.")
    for name in dict.fromkeys([*first.not_measured, *second.not_measured]):
        notes.append(f"{name} was not measured: {first.not_measured.get(name) or second.not_measured.get(name)}")
    shares = [(run.mode, gemm_share(run.rows)) for run in (first, second)]
    told = " and ".join(f"{share:.2f} ({mode})" for mode, share in shares if share is not None)
    if told:
        notes.append(f"Training reaches {told} of the speed of its matrix products alone.")
    return list(dict.fromkeys(notes))


def _contexts(first: BenchmarkRun, second: BenchmarkRun) -> Iterable[tuple[str, object, object]]:
    """Differences that are reported but allowed: comparing two revisions or library versions is a valid use."""
    yield "The revision", _revision(first), _revision(second)
    one, other = (run.machine["versions"] for run in (first, second))
    for name in dict.fromkeys([*one, *other]):
        yield f"The version of {name}", one.get(name), other.get(name)
    states = [run.machine["state"] for run in (first, second)]
    yield "The governor", states[0].get("governor"), states[1].get("governor")


def _revision(run: BenchmarkRun) -> str:
    commit = run.revision.get("commit")
    return "unknown" if commit is None else f"{str(commit)[:12]}{' changed' if run.revision.get('changed') else ''}"


def _compared(first: Row, second: Row, paired: bool) -> ComparedRow:
    ratio, interval = ratio_interval(
        first.seconds, second.seconds, paired=paired, seed=zlib.crc32(repr(first.key).encode())
    )
    low, high = interval or (None, None)
    return ComparedRow(first, second, ratio, low, high)


Times = Sequence[Sequence[float]]


def ratio_interval(
    first: Times, second: Times, *, paired: bool, seed: int = 0
) -> tuple[float, tuple[float, float] | None]:
    """The ratio of two rows' times and its interval; None with one process a side and too few repeats in it.

    `paired` needs as many processes on both sides; a pair one side of which is missing cannot be told apart.
    """
    paired = paired and len(first) == len(second)
    medians = [np.log([np.median(repeats) for repeats in side]) for side in (first, second)]
    if paired:
        ratio = float(np.exp(np.median(medians[0] - medians[1])))
    else:
        ratio = float(np.exp(np.median(medians[0]) - np.median(medians[1])))
    if min(len(first), len(second)) == 1 and min(len(first[0]), len(second[0])) < FEWEST_REPEATS:
        return ratio, None
    rng = np.random.default_rng(seed)
    processes = [rng.integers(0, len(side), (RESAMPLES, len(side))) for side in (first, second)]
    if paired:
        processes[1] = processes[0]
    drawn = [_drawn(side, chosen, rng) for side, chosen in zip((first, second), processes, strict=True)]
    if paired:
        logs = np.median(drawn[0] - drawn[1], axis=1)
    else:
        logs = np.median(drawn[0], axis=1) - np.median(drawn[1], axis=1)
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.exp(np.quantile(logs, (tail, 1.0 - tail)))
    return ratio, (min(float(low), ratio), max(float(high), ratio))


def _drawn(side: Times, chosen: NDArray[np.int64], rng: np.random.Generator) -> Float64:
    """Log of the median of the repeats, drawn again, of each chosen process: float64[resamples, processes]."""
    medians = np.empty(chosen.shape)
    for index, repeats in enumerate(side):
        places = chosen == index
        times = np.asarray(repeats)
        picks = rng.integers(0, len(times), (int(places.sum()), len(times)))
        medians[places] = np.log(np.median(times[picks], axis=1))
    return medians
