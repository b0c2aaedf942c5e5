"""Does a 95% interval contain the truth 95 times in 100? `python -m src.evidence.coverage [--quick] [--write FILE]`.

Draws many samples of sessions whose true mean is zero, normal, heavy-tailed and dependent, takes the interval that a
report prints of each, and counts how often it holds zero. The last line is the table as JSON; --write puts it into a
file as Markdown. Ten to fifteen minutes of one core; --quick takes half a minute.
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

from src.console import PlainConsole, live_on
from src.evidence.intervals import paired_interval
from src.evidence.statistics import Float64
from src.files import write_atomically
from src.shell import Parser, run_main

SIZES = (10, 20, 40, 60, 110)
LEVEL = 0.95
AR_COEFFICIENT, AR_BURN_IN = 0.3, 100
SAMPLES, REPLICATIONS = 5_000, 999
SAMPLES_QUICK, REPLICATIONS_QUICK = 500, 399
_HEADINGS = ("sessions of", "n", "covers, %", "± (2 s.e.)", "no interval", "median width, sd", "mean block")


@dataclass(frozen=True)
class Coverage:
    """How often intervals of `n` sessions of one kind held the true mean, as a share of those that there were.

    `error` is its standard error; `width` is the median over samples in standard deviations of one session.
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
    """Independent sessions of Student's t with three degrees of freedom, scaled to variance 1: no fourth moment."""
    return rng.standard_t(3, n) / math.sqrt(3)


def autoregressive(rng: np.random.Generator, n: int) -> Float64:
    """Sessions of which each is 0.3 of the one before plus normal noise, scaled to variance 1."""
    noise = rng.standard_normal(n + AR_BURN_IN) * math.sqrt(1 - AR_COEFFICIENT**2)
    for t in range(1, len(noise)):
        noise[t] += AR_COEFFICIENT * noise[t - 1]
    return noise[AR_BURN_IN:]


KINDS: dict[str, Callable[[np.random.Generator, int], Float64]] = {
    "normal": normal,
    "t(3)": student_t3,
    "AR(0.3)": autoregressive,
}


def measure(kind: str, n: int, *, samples: int, replications: int, seed: int = 0) -> Coverage:
    """Coverage of zero by `samples` intervals of `n` sessions of a kind, each with so many bootstrap replications."""
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


def _cells(row: Coverage) -> tuple[str, ...]:
    return (
        row.kind, str(row.n), f"{row.share:.1%}"[:-1], f"{2 * row.error:.1%}"[:-1], str(row.without),
        f"{row.width:.2f}", f"{row.block_length:.1f}",
    )  # fmt: skip


def markdown(rows: Sequence[Coverage]) -> str:
    """The table as Markdown."""
    lines = [_HEADINGS, ("---",) + ("---:",) * (len(_HEADINGS) - 1), *map(_cells, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _measured(samples: int, replications: int, console: Console) -> Iterator[Coverage]:
    with live_on(console), Progress(console=console, transient=True) as progress:
        task = progress.add_task("intervals", total=len(KINDS) * sum(SIZES))
        for kind in KINDS:
            for n in SIZES:
                yield measure(kind, n, samples=samples, replications=replications)
                progress.advance(task, n)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, show the table, and print it as one line of JSON."""
    parser = Parser("Does a 95% interval contain the truth 95 times in 100?")
    parser.add_argument("--quick", action="store_true", help=f"{SAMPLES_QUICK} samples a row instead of {SAMPLES:,}")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table as Markdown")
    arguments = parser.parse_args(argv)
    samples, replications = (SAMPLES_QUICK, REPLICATIONS_QUICK) if arguments.quick else (SAMPLES, REPLICATIONS)
    console = PlainConsole()
    rows = list(_measured(samples, replications, PlainConsole(stderr=True)))
    table = Table(title=f"{LEVEL:.0%} intervals: {samples:,} samples a row, {replications} replications each")
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading == _HEADINGS[0] else "right")
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    if arguments.write is not None:
        write_atomically(arguments.write, markdown(rows))
    facts = {"level": LEVEL, "replications": replications, "rows": [asdict(row) for row in rows]}
    console.print(json.dumps(facts), soft_wrap=True)
    return 0


if __name__ == "__main__":
    run_main(main)
