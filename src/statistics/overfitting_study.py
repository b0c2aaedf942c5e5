"""Is the probability of backtest overfitting near a half on noise, and near zero where one setting is better?

    python -m src.statistics.overfitting_study [--repetitions N] [--most-settings N]

Draws tables of 240 sessions and 10 to 10,000 settings, and estimates the probability on each. The last line is the
table as JSON. About a minute on one core. Exit code 1 if the mean on noise is more than three standard errors from 0.5,
or the mean with a better setting above 0.05.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from rich.table import Table

from src.console import PlainConsole, uncut
from src.errors import EXIT_OK, EXIT_TARGET_MISSED
from src.shell import Parser, run_main
from src.statistics.overfitting import overfitting
from src.statistics.samples import Float64
from src.wording import plain

SESSIONS = 240
REPETITIONS, MOST_SETTINGS = 20, 10_000
BETTER = (0.5, 0.3, 0.1)
"""Mean of the better setting in standard deviations of a session; annualised ratios of 7.9, 4.8 and 1.6."""
NEAR_ZERO, STANDARD_ERRORS = 0.05, 3.0


@dataclass(frozen=True)
class Row:
    """What so many repetitions gave for one kind of settings; `cpu_s` is of one."""

    kind: str
    settings: int
    probabilities: tuple[float, ...]
    loss: float
    slope: float
    in_sample: float
    out_of_sample: float
    cpu_s: float

    @property
    def mean(self) -> float:
        """The mean probability."""
        return float(np.mean(self.probabilities))

    @property
    def sd(self) -> float:
        """The standard deviation of one probability; 0 for a single repetition."""
        return float(np.std(self.probabilities, ddof=1)) if len(self.probabilities) > 1 else 0.0

    @property
    def holds(self) -> bool:
        """Whether the mean is what it must be for this kind; a single repetition proves nothing."""
        if self.kind == f"{BETTER[0]} better":
            return self.mean <= NEAR_ZERO
        if self.kind.endswith("better") or len(self.probabilities) < 2:
            return True
        return abs(self.mean - 0.5) <= STANDARD_ERRORS * self.sd / math.sqrt(len(self.probabilities))


def noise(rng: np.random.Generator, settings: int) -> Float64:
    """Independent normal results."""
    return rng.standard_normal((SESSIONS, settings))


def heavy_tails(rng: np.random.Generator, settings: int) -> Float64:
    """Independent results from Student's t with three degrees of freedom."""
    return rng.standard_t(3, (SESSIONS, settings))


def alike(rng: np.random.Generator, settings: int) -> Float64:
    """Normal results that share 90% of their variance, as neighbours on a grid do."""
    common = math.sqrt(0.9) * rng.standard_normal((SESSIONS, 1))
    return common + math.sqrt(0.1) * rng.standard_normal((SESSIONS, settings))


def one_better(rng: np.random.Generator, settings: int, mean: float = BETTER[0]) -> Float64:
    """Noise, and a mean, in standard deviations, in one setting."""
    results = noise(rng, settings)
    results[:, rng.integers(settings)] += mean
    return results


KINDS: dict[str, Callable[[np.random.Generator, int], Float64]] = {
    "noise": noise,
    "heavy tails": heavy_tails,
    "alike": alike,
    **{f"{mean} better": partial(one_better, mean=mean) for mean in BETTER},
}
SIZES = {"noise": (10, 100, 1_000, 10_000)}
OTHER_SIZES = (100,)


def measure(kind: str, settings: int, repetitions: int) -> Row:
    """So many tables of a kind, drawn by a fixed seed."""
    rng = np.random.default_rng([list(KINDS).index(kind), settings])
    tables = [KINDS[kind](rng, settings) for _ in range(repetitions)]
    begun = time.process_time()
    found = [overfitting(table) for table in tables]
    return Row(
        kind=kind,
        settings=settings,
        probabilities=tuple(of.probability for of in found if of.probability is not None),
        loss=float(np.mean([of.loss for of in found])),
        slope=float(np.mean([of.slope for of in found])),
        in_sample=float(np.mean([of.in_sample for of in found])),
        out_of_sample=float(np.mean([of.out_of_sample for of in found])),
        cpu_s=(time.process_time() - begun) / repetitions,
    )


def _rows(repetitions: int, most_settings: int) -> Iterator[Row]:
    for kind in KINDS:
        for settings in dict.fromkeys(min(size, most_settings) for size in SIZES.get(kind, OTHER_SIZES)):
            # The largest is there for its time: memory and minutes allow one.
            yield measure(kind, settings, 1 if settings >= MOST_SETTINGS else repetitions)


def _table(rows: Sequence[Row]) -> Table:
    title = f"Probability of backtest overfitting (PBO), {SESSIONS} sessions"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("kind", "settings", "PBO", "2 s.e.", "sd", "loss", "slope", "in", "out", "CPU s", ""):
        table.add_column(heading, justify="left" if heading in ("kind", "") else "right")
    for row in rows:
        n = len(row.probabilities)
        table.add_row(
            row.kind, f"{row.settings:,}", plain(row.mean, 3),
            plain(2 * row.sd / math.sqrt(n), 3) if n > 1 else "-", plain(row.sd, 2) if n > 1 else "-",
            plain(row.loss, 2), plain(row.slope, 2), plain(row.in_sample, 2),
            plain(row.out_of_sample, 2), plain(row.cpu_s, 1), "" if row.holds else "WRONG",
        )  # fmt: skip
    table.caption = (
        "loss: the winner is below zero out of sample. in, out: its Sharpe ratio per session in and out of sample, "
        "medians over splits"
    )
    table.caption_justify = "left"
    return uncut(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, show the table, print it as one line of JSON; 0 if every mean is what it must be."""
    parser = Parser("Is the probability of backtest overfitting right where the answer is known?")
    parser.add_argument(
        "--repetitions", type=int, default=REPETITIONS, metavar="N", help=f"tables a row (default {REPETITIONS})"
    )
    parser.add_argument(
        "--most-settings", type=int, default=MOST_SETTINGS, metavar="N", help=f"at most (default {MOST_SETTINGS:,})"
    )
    options = parser.parse_args(argv)
    if options.repetitions < 2 or options.most_settings < 2:
        parser.error(
            f"--repetitions and --most-settings must be at least 2, not {options.repetitions} and "
            f"{options.most_settings}"
        )
    rows = list(_rows(options.repetitions, options.most_settings))
    console = PlainConsole()
    console.print(_table(rows))
    console.print(json.dumps({"sessions": SESSIONS, "rows": [asdict(row) for row in rows]}), soft_wrap=True)
    return EXIT_OK if all(row.holds for row in rows) else EXIT_TARGET_MISSED


if __name__ == "__main__":
    run_main(main)
