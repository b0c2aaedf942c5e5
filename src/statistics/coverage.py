"""Do 95% intervals contain the true mean 95% of the time?

    python -m src.statistics.coverage [--alternatives] [--quick]

Draws many samples of sessions whose true mean is zero (normal, heavy-tailed, autocorrelated), computes for each the
interval that a report prints, and counts how often it contains zero. --alternatives compares that interval with other
methods below 30 sessions, also for sessions that are mostly equal. The last line is the table as JSON; --write FILE
writes it as Markdown. Ten to fifteen minutes on one core; --quick takes half a minute.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from src.console import PlainConsole, live_on, uncut
from src.files import write_atomically
from src.shell import Parser, run_main
from src.statistics.bootstrap import stationary_indices
from src.statistics.intervals import LARGEST_T, newey_west_error, newey_west_lags, paired_interval
from src.statistics.samples import Float64, is_constant

SIZES = (10, 20, 40, 60, 110)
LEVEL = 0.95
AR_COEFFICIENT, AR_BURN_IN = 0.3, 100
SAMPLES, REPLICATIONS = 5_000, 999
SAMPLES_QUICK, REPLICATIONS_QUICK = 500, 399
FEW_SIZES = (10, 20, 29)
FEW_SAMPLES = 2_000
_HEADINGS = ("sessions", "n", "coverage, %", "± (2 s.e.)", "no interval", "median width, sd", "mean block")


@dataclass(frozen=True)
class Coverage:
    """Share of the intervals of `n` sessions of one kind that contain the true mean; `without` samples gave none.

    `error` is its standard error; `width` is the median width in standard deviations of one session.
    """

    kind: str
    n: int
    samples: int
    without: int
    share: float
    error: float
    width: float
    block_length: float


def normal(rng: np.random.Generator, n: int) -> Float64:
    """Independent standard normal sessions."""
    return rng.standard_normal(n)


def student_t3(rng: np.random.Generator, n: int) -> Float64:
    """Independent sessions from Student's t with three degrees of freedom, scaled to variance 1: no fourth moment."""
    return rng.standard_t(3, n) / math.sqrt(3)


def autoregressive(rng: np.random.Generator, n: int) -> Float64:
    """Sessions that are each 0.3 of the previous one plus normal noise, scaled to variance 1."""
    noise = rng.standard_normal(n + AR_BURN_IN) * math.sqrt(1 - AR_COEFFICIENT**2)
    for t in range(1, len(noise)):
        noise[t] += AR_COEFFICIENT * noise[t - 1]
    return noise[AR_BURN_IN:]


def mostly_zero(rng: np.random.Generator, n: int) -> Float64:
    """Seven sessions in ten are zero (both arms do the same), the others normal, scaled to variance 1."""
    return np.where(rng.random(n) < 0.3, rng.standard_normal(n), 0.0) / math.sqrt(0.3)


def log_normal(rng: np.random.Generator, n: int) -> Float64:
    """Skewed sessions, a few large losses: minus a log-normal, centred and scaled to variance 1."""
    return (math.exp(0.5) - rng.lognormal(size=n)) / math.sqrt((math.e - 1) * math.e)


def contaminated(rng: np.random.Generator, n: int) -> Float64:
    """Nine sessions in ten nearly equal, one in ten thirty times as far out, scaled to variance 1."""
    return np.where(rng.random(n) < 0.1, 3.0, 0.1) * rng.standard_normal(n) / math.sqrt(0.909)


KINDS: dict[str, Callable[[np.random.Generator, int], Float64]] = {
    "normal": normal,
    "t(3)": student_t3,
    "AR(0.3)": autoregressive,
}
FEW_KINDS = {**KINDS, "70% zero": mostly_zero, "log-normal": log_normal, "90% nearly equal": contaminated}


def measure(kind: str, n: int, *, samples: int, replications: int, seed: int = 0) -> Coverage:
    """Coverage of zero by `samples` intervals of `n` sessions of a kind, with so many bootstrap replications each."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind), n])
    intervals = [
        paired_interval(KINDS[kind](rng, n), seed=i, level=LEVEL, replications=replications) for i in range(samples)
    ]
    ends = np.array([(i.low, i.high) for i in intervals if i.low is not None and i.high is not None], np.float64)
    share = float(np.mean((ends[:, 0] <= 0) & (ends[:, 1] >= 0)))
    return Coverage(
        kind=kind,
        n=n,
        samples=samples,
        without=samples - len(ends),
        share=share,
        error=math.sqrt(share * (1 - share) / len(ends)),
        width=float(np.median(ends[:, 1] - ends[:, 0])),
        block_length=float(np.mean([i.block_length for i in intervals if i.block_length is not None])),
    )


@dataclass(frozen=True)
class Alternative:
    """Coverage of one method; `width` is the 95th percentile of the widths, infinite where an end is."""

    kind: str
    n: int
    method: str
    samples: int
    without: int
    share: float
    error: float
    width: float


def other_intervals(values: Float64, seed: int, replications: int) -> dict[str, tuple[float, float]]:
    """95% intervals of the mean of float64[n] by other methods, from the same resamples as the printed one.

    Studentised: without limits, within the sample's range only, with limited t-ratios only. Percentile, BCa, Student's
    t.

    References: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapters 12 (studentised), 13 (percentile)
    and 14 (BCa).
    """
    from scipy.stats import norm, t  # type: ignore[import-untyped]  # slow to import, and nothing else needs it

    n, mean = len(values), float(values.mean())
    errors, lags, tail = values - mean, newey_west_lags(n, 1.0), round((replications + 1) * (1 - LEVEL) / 2)
    resamples = errors[stationary_indices(n, 1.0, replications, np.random.default_rng(seed))]
    means, error = np.sort(resamples.mean(axis=1)), float(newey_west_error(errors, lags))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.sort(np.nan_to_num(resamples.mean(axis=1) / newey_west_error(resamples, lags), posinf=np.inf,
                                       neginf=-np.inf))  # fmt: skip
    high, low = float(ratios[-tail]), float(ratios[tail - 1])
    reach = float(t.ppf(1 - (1 - LEVEL) / 2, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
    below = norm.ppf(np.clip((means < 0).mean(), 1 / replications, 1 - 1 / replications))
    skew = float((errors**3).sum()) / (6 * float((errors**2).sum()) ** 1.5)
    z = below + norm.ppf([(1 - LEVEL) / 2, 1 - (1 - LEVEL) / 2])
    bca = np.quantile(means, norm.cdf(below + z / (1 - skew * z)))
    limited = min(high, LARGEST_T), max(low, -LARGEST_T)
    ends = mean - high * error, mean - low * error
    return {
        "studentised": ends,
        "sample range": (max(ends[0], float(values.min())), min(ends[1], float(values.max()))),
        f"t* at most {LARGEST_T:g}": (mean - limited[0] * error, mean - limited[1] * error),
        "percentile": (mean + means[tail - 1], mean + means[-tail]),
        "BCa": (mean + bca[0], mean + bca[1]),
        "Student's t": (mean - reach, mean + reach),
    }


def compare(kind: str, n: int, *, samples: int, replications: int, seed: int = 0) -> list[Alternative]:
    """The printed interval and the other methods on the same samples of `n` sessions of a kind."""
    rng = np.random.default_rng([seed, list(FEW_KINDS).index(kind), n])
    found: dict[str, list[tuple[float, float]]] = {"printed": []}
    for i in range(samples):
        values = FEW_KINDS[kind](rng, n)
        if is_constant(values):
            continue  # no method has an interval; counted in `without`
        printed = paired_interval(values, seed=i, level=LEVEL, replications=replications)
        if printed.low is not None and printed.high is not None:
            found["printed"].append((printed.low, printed.high))
        for method, ends in other_intervals(values, i, replications).items():
            found.setdefault(method, []).append(ends)
    return [_alternative(kind, n, method, samples, np.array(ends)) for method, ends in found.items()]


def _alternative(kind: str, n: int, method: str, samples: int, ends: Float64) -> Alternative:
    share = float(np.mean((ends[:, 0] <= 0) & (ends[:, 1] >= 0)))
    widths = np.sort(ends[:, 1] - ends[:, 0])
    width = float(widths[math.ceil(0.95 * len(widths)) - 1])
    error = math.sqrt(share * (1 - share) / len(ends))
    return Alternative(kind, n, method, samples, samples - len(ends), share, error, width)


def _alternative_lines(rows: Sequence[Alternative]) -> list[tuple[str, ...]]:
    """Headings and one line per kind and n: coverage and 95th percentile width of each method."""
    methods = list(dict.fromkeys(row.method for row in rows))
    lines = [("sessions", "n", *methods)]
    for kind, n in dict.fromkeys((row.kind, row.n) for row in rows):
        of = {row.method: row for row in rows if (row.kind, row.n) == (kind, n)}
        lines.append((kind, str(n), *(f"{100 * of[m].share:.1f} ({of[m].width:.3g})" for m in methods)))
    return lines


def _cells(row: Coverage) -> tuple[str, ...]:
    return (
        row.kind, str(row.n), f"{row.share:.1%}"[:-1], f"{2 * row.error:.1%}"[:-1], str(row.without),
        f"{row.width:.2f}", f"{row.block_length:.1f}",
    )  # fmt: skip


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Headings and lines as a Markdown table."""
    heads, *rows = lines
    ruled = [heads, ("---",) + ("---:",) * (len(heads) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in ruled)


def _measured(samples: int, replications: int, console: Console) -> Iterator[Coverage]:
    with live_on(console), Progress(console=console, transient=True) as progress:
        task = progress.add_task("intervals", total=len(KINDS) * sum(SIZES))
        for kind in KINDS:
            for n in SIZES:
                yield measure(kind, n, samples=samples, replications=replications)
                progress.advance(task, n)


def _compared(samples: int, replications: int, console: Console) -> Iterator[Alternative]:
    with live_on(console), Progress(console=console, transient=True) as progress:
        task = progress.add_task("methods", total=len(FEW_KINDS) * sum(FEW_SIZES))
        for kind in FEW_KINDS:
            for n in FEW_SIZES:
                yield from compare(kind, n, samples=samples, replications=replications)
                progress.advance(task, n)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, show the table, and print it as one line of JSON."""
    parser = Parser("Do 95% intervals contain the true mean 95% of the time?")
    parser.add_argument("--quick", action="store_true", help=f"{SAMPLES_QUICK} samples per row instead of {SAMPLES:,}")
    parser.add_argument("--alternatives", action="store_true", help="compare methods below 30 sessions")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table as Markdown")
    arguments = parser.parse_args(argv)
    in_full = FEW_SAMPLES if arguments.alternatives else SAMPLES
    samples, replications = (SAMPLES_QUICK, REPLICATIONS_QUICK) if arguments.quick else (in_full, REPLICATIONS)
    title = f"{LEVEL:.0%} intervals: {samples:,} samples per row, {replications} replications each"
    rows: Sequence[Coverage] | Sequence[Alternative]
    progress_on = PlainConsole(stderr=True)
    if arguments.alternatives:
        rows = compared = list(_compared(samples, replications, progress_on))
        lines, title = _alternative_lines(compared), f"{title}: coverage, % (95th percentile width, sd)"
    else:
        rows = measured = list(_measured(samples, replications, progress_on))
        lines = [_HEADINGS, *map(_cells, measured)]
    table = Table(title=title)
    for heading in lines[0]:
        table.add_column(heading, justify="left" if heading == lines[0][0] else "right")
    for line in lines[1:]:
        table.add_row(*line)
    console = PlainConsole()
    console.print(uncut(table))
    if arguments.write is not None:
        write_atomically(arguments.write, markdown(lines))
    facts = {"level": LEVEL, "replications": replications, "rows": [asdict(row) for row in rows]}
    console.print(json.dumps(facts), soft_wrap=True)
    return 0


if __name__ == "__main__":
    run_main(main)
