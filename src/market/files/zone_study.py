"""Study: how often is a file's clock misread? Writes bars in many zones, stamps and shapes, and reads them back.

    python -m src.market.files.zone_study [--quick] [--days N ...] [--bars FILE ...]

Each case writes bars as a vendor would: local times without a zone, stamped at the open or the close, of 1, 5 or 15
minutes, for two weeks or three months; whole days, days with overnight bars missing, or the cash session only; with and
without volume. A case is read right if every bar's UTC open is recovered. The table counts cases read right, refused
with the right reading among those named, refused without it, and silently misread. Bars are synthetic with a realistic
volume profile; `--bars` adds files of real ones. The exit code is 1 if a case is misread, or if less than 95% of the
cases of a month or more with whole days and volume are read right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.table import Table

from src.console import PlainConsole
from src.errors import BarDataError
from src.market.files.clock import measure_clock, utc_opens
from src.market.files.clock_candidates import offsets_min, parse_zone
from src.market.files.clock_scores import STAMPS
from src.market.files.identity import market_of_file
from src.market.files.rows import ClockClaim, FileRows, Stamp
from src.market.load import load_bars
from src.market.synthetic import synthetic_bars
from src.market.units import DAY_NS, MINUTE_NS
from src.shell import Parser, run_main

ZONES = (
    "UTC", "America/New_York", "America/Chicago", "America/Denver", "America/Los_Angeles", "America/Sao_Paulo",
    "Europe/London", "Europe/Berlin", "Europe/Athens", "Europe/Moscow", "Asia/Dubai", "Asia/Kolkata",
    "Asia/Kathmandu", "Asia/Singapore", "Asia/Tokyo", "Australia/Adelaide", "Australia/Sydney",
    "Pacific/Auckland", "America/New_York+07:00", "UTC-05:00",
)  # fmt: skip
INTERVALS = (1, 5, 15)
DAYS = (14, 91)
STARTS = (date(2013, 2, 11), date(2020, 8, 31), date(2025, 2, 24), date(2025, 9, 22))
"""Mondays. Daylight saving changes within three months of each, and within two weeks of 2025-02-24."""

Shape = Literal["whole", "thin", "cash only", "no volume"]
SHAPES: tuple[Shape, ...] = ("whole", "thin", "cash only", "no volume")
Outcome = Literal["right", "named", "refused", "misread"]
Row = tuple[str, int, int, str, Outcome]
NEEDED_FRACTION = 0.95
MOST_SHOWN = 20


@dataclass(frozen=True, eq=False)
class Source:
    """Bars to write: UTC opens in nanoseconds and volumes, both of length n."""

    name: str
    interval_min: int
    open_ns: NDArray[np.int64]
    volume: NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One file of the study."""

    source: str
    interval_min: int
    days: int
    shape: Shape
    zone: str
    stamp: Stamp


@lru_cache(maxsize=8)
def synthetic_source(interval_min: int, start: date, sessions: int = 70) -> Source:
    """Synthetic bars with the sharp volume step of real ones at 09:30; the generator's own takes five minutes."""
    bars = synthetic_bars("ES", sessions, interval_min, seed=interval_min, start=start)
    local = pd.DatetimeIndex(bars.open_ns, tz="UTC").tz_convert("America/New_York")
    minute = local.hour.to_numpy() * 60 + local.minute.to_numpy()
    ramp = (minute >= 9 * 60 + 24) & (minute < 9 * 60 + 30)
    volume = np.where(ramp, bars.volume * 0.3, bars.volume.astype(np.float64))
    return Source(f"synthetic {start:%Y-%m}", interval_min, bars.open_ns, np.maximum(np.round(volume), 1.0))


def real_sources(files: Sequence[Path]) -> list[Source]:
    """The files' own bars, and 15-minute bars joined from them.

    Raises:
        BarDataError: the name of a file does not begin with its market, or its bars cannot be used.
    """
    sources = []
    for file in files:
        market = market_of_file(file)
        if market is None:
            raise BarDataError(f"{file}: its name does not say which market it holds. Begin it with ES, NQ, YM or RTY.")
        for interval_min in (None, INTERVALS[-1]):
            bars = load_bars(file, market, interval_min=interval_min)
            if bars is not None:
                minutes = bars.interval_s // 60
                sources.append(Source(f"{market} real", minutes, bars.open_ns, bars.volume.astype(np.float64)))
    return sources


def shaped(source: Source, days: int, first_ns: int, shape: Shape, seed: int) -> Source:
    """The bars of `days` days from `first_ns`, cut or thinned."""
    keep = (source.open_ns >= first_ns) & (source.open_ns < first_ns + days * DAY_NS)
    local = pd.DatetimeIndex(source.open_ns, tz="UTC").tz_convert("America/New_York")
    minute = local.hour.to_numpy() * 60 + local.minute.to_numpy()
    cash = (minute >= 570) & (minute < 960)
    if shape == "cash only":
        keep &= cash
    if shape == "thin":
        absent = {1: 0.35, 5: 0.1, 15: 0.03}[source.interval_min]
        keep &= cash | (np.random.default_rng(seed).random(len(keep)) >= absent)
    volume = np.zeros(len(keep)) if shape == "no volume" else source.volume
    return Source(source.name, source.interval_min, source.open_ns[keep], volume[keep])


def written(source: Source, zone: str, stamp: Stamp) -> FileRows:
    """The bars as a table of local times without any claim about their clock."""
    stamps = source.open_ns + (source.interval_min * MINUTE_NS if stamp == "close" else 0)
    n = len(stamps)
    return FileRows(
        file=Path("study.csv"),
        label="study.csv",
        dialect="study",
        dialect_why="written by the study",
        claim=ClockClaim(instant=False, zone=None, stamp=None, why="the file does not state its clock"),
        time_ns=stamps + offsets_min(parse_zone(zone), stamps) * MINUTE_NS,
        time_text=lambda row: str(row),
        prices=np.full((n, 4), 5000.0),
        volume=source.volume,
        volume_kind="contracts" if source.volume.any() else "none",
        instrument=np.full(n, -1, dtype=np.int32),
        instrument_names=(),
        file_instrument=None,
        notes=(),
    )


def outcome(source: Source, zone: str, stamp: Stamp) -> tuple[Outcome, str]:
    """The outcome and message for bars written in this zone with this stamp."""
    rows = written(source, zone, stamp)
    interval_ns = source.interval_min * MINUTE_NS
    try:
        reading = measure_clock([rows])
    except BarDataError as error:
        named = _names_the_truth(str(error), rows, source.open_ns, interval_ns)
        return "named" if named else "refused", str(error)
    right = np.array_equal(utc_opens(rows, reading, interval_ns), source.open_ns)
    return "right" if right else "misread", reading.words


def _names_the_truth(message: str, rows: FileRows, open_ns: NDArray[np.int64], interval_ns: int) -> bool:
    """Whether one of the options in a message gives the right times."""
    parts = message.split("--timezone ")[1:]
    for part in parts:
        words = part.split()
        if len(words) > 2 and words[1] == "--stamp" and words[2] in STAMPS:
            stamp: Stamp = "open" if words[2] == "open" else "close"
            try:
                reading = measure_clock([rows], zone=words[0], stamp=stamp)
            except BarDataError:
                continue
            if np.array_equal(utc_opens(rows, reading, interval_ns), open_ns):
                return True
    return False


def cases(files: Sequence[Path], days_tried: Sequence[int], quick: bool) -> Iterator[tuple[Case, Source]]:
    """Every case with its bars; `quick` keeps one start, every third zone and thinned synthetic bars."""
    zones = ZONES[::3] if quick else ZONES
    starts = STARTS[2:3] if quick else STARTS
    windows = [(one, start) for start in starts for one in (synthetic_source(i, start) for i in INTERVALS)]
    for source, start in [*windows, *_real_windows(real_sources(files))]:
        first_ns = pd.Timestamp(start).value - 3 * 3600 * 1_000_000_000
        for days in days_tried:
            for shape in SHAPES[1:2] if quick else SHAPES:
                cut = shaped(source, days, first_ns, shape, seed=days)
                if not len(cut.open_ns) or cut.open_ns[-1] - cut.open_ns[0] <= (days - 7) * DAY_NS:
                    continue
                for zone in zones:
                    for stamp in STAMPS:
                        yield Case(source.name, source.interval_min, days, shape, zone, stamp), cut


def _real_windows(sources: Sequence[Source]) -> Iterator[tuple[Source, date]]:
    """Real bars from the study's own starts; files that hold none of them from their first Monday."""
    for source in sources:
        first, last = (pd.Timestamp(int(edge)).date() for edge in source.open_ns[[0, -1]])
        held = [start for start in STARTS if first <= start <= last]
        yield from ((source, start) for start in held or [first + timedelta(days=-first.weekday() % 7)])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; exit code 1 if a file is misread or too few are read right."""
    parser = Parser("Study how often a file's clock is misread")
    parser.add_argument("--quick", action="store_true", help="a third of the zones, one start, thinned synthetic bars")
    parser.add_argument("--days", type=int, nargs="+", default=DAYS, help="days of bars in a file (default 14 91)")
    parser.add_argument("--bars", type=Path, nargs="+", default=(), help="files of real bars, named for their market")
    options = parser.parse_args(argv)
    counts: Counter[Row] = Counter()
    wrong: list[str] = []
    for case, bars in cases(options.bars, options.days, options.quick):
        result, words = outcome(bars, case.zone, case.stamp)
        counts[case.source.split()[0], case.interval_min, case.days, case.shape, result] += 1
        if result in ("misread", "refused"):
            wrong.append(f"{result}: {case}: {words}")
    misread = sum(count for row, count in counts.items() if row[-1] == "misread")
    long = Counter[Outcome]()
    for (_, _, days, shape, result), count in counts.items():
        if days >= 28 and shape in ("whole", "thin"):
            long[result] += count
    fraction = long["right"] / long.total() if long else 1.0
    console = PlainConsole()
    console.print(table(counts))
    for line in wrong[:MOST_SHOWN]:
        console.print(line, markup=False, highlight=False)
    console.print(
        f"{counts.total():,} files, {misread} misread; of {long.total():,} of a month or more with whole or thinned "
        f"days and volume, {fraction:.1%} read right without an option",
        soft_wrap=True,
    )
    return int(misread > 0 or fraction < NEEDED_FRACTION)


def table(counts: Counter[Row]) -> Table:
    """A row per kind of file: counts of read right, refused with or without the right reading, and misread."""
    shown = Table()
    for heading in ("bars", "minutes", "days", "shape", "right", "named", "refused", "misread"):
        shown.add_column(heading, justify="left" if heading in ("bars", "shape") else "right")
    for kind in sorted({row[:4] for row in counts}):
        outcomes: tuple[Outcome, ...] = ("right", "named", "refused", "misread")
        shown.add_row(*map(str, kind), *(str(counts[*kind, result]) for result in outcomes))
    return shown


if __name__ == "__main__":
    run_main(main)
