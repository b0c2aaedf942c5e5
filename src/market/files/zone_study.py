"""Does measuring the clock ever misread a file? Bars written in many zones, stamps and shapes, and read back.

    python -m src.market.files.zone_study [--quick] [--folder FOLDER_OF_REAL_BARS]

Every case writes bars as a vendor would: local times without a zone, stamped at the open or the close, of 1, 5 or 15
minutes, for two weeks or three months; whole days, with bars missing at night, or the cash session alone; with and
without volume. The right reading gives back every bar's UTC open. The table counts cases read right, refused with the
right reading among those named, refused without it, and silently misread. Real bars are read from FOLDER if it is
there; the others are synthetic with the volume profile of real ones. Exits 1 if a case is misread, or if less than 95%
of the cases of a month or more with whole days and volume are read right.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from src.errors import BarDataError
from src.market.files.clock import measure_clock, utc_opens
from src.market.files.clock_candidates import MINUTE_NS, offsets_min, parse_zone
from src.market.files.rows import ClockClaim, FileRows, Stamp
from src.market.synthetic import synthetic_bars

ZONES = (
    "UTC",
    "America/New_York",
    "America/Chicago",
    "America/Denver",
    "America/Los_Angeles",
    "America/Sao_Paulo",
    "Europe/London",
    "Europe/Berlin",
    "Europe/Athens",
    "Europe/Moscow",
    "Asia/Dubai",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Asia/Singapore",
    "Asia/Tokyo",
    "Australia/Adelaide",
    "Australia/Sydney",
    "Pacific/Auckland",
    "America/New_York+07:00",
    "UTC-05:00",
)
STAMPS: tuple[Stamp, Stamp] = ("open", "close")
INTERVALS = (1, 5, 15)
DAYS = (14, 91)
STARTS = (date(2013, 2, 11), date(2020, 8, 31), date(2025, 2, 24), date(2025, 9, 22))
"""Mondays: daylight saving changes inside the three months of each of them, and inside the two weeks of 2025-02-24."""

Shape = Literal["whole", "thin", "cash only", "no volume"]
SHAPES: tuple[Shape, ...] = ("whole", "thin", "cash only", "no volume")
Outcome = Literal["right", "named", "refused", "misread"]
NEEDED_FRACTION = 0.95


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
    """Synthetic bars with the sharp step at 09:30 of real ones: the generator's own rises over five minutes."""
    bars = synthetic_bars("ES", sessions, interval_min, seed=interval_min, start=start)
    local = pd.DatetimeIndex(bars.open_ns, tz="UTC").tz_convert("America/New_York")
    minute = local.hour.to_numpy() * 60 + local.minute.to_numpy()
    ramp = (minute >= 9 * 60 + 24) & (minute < 9 * 60 + 30)
    volume = np.where(ramp, bars.volume * 0.3, bars.volume.astype(np.float64))
    return Source(f"synthetic {start:%Y-%m}", interval_min, bars.open_ns, np.maximum(np.round(volume), 1.0))


def real_sources(folder: Path) -> list[Source]:
    """ES and NQ bars of the folder, 15 minutes made of 5; empty where it is absent."""
    sources = []
    for market in ("ES", "NQ"):
        file = folder / f"{market}_5m_2024_2026_ibkr.parquet"
        if file.is_file():
            volume = pd.read_parquet(file, columns=["datetime", "volume"]).groupby("datetime")["volume"].sum()
            sources.append(_source(f"{market} real", 5, volume))
            longer = volume.resample("15min").sum()
            sources.append(_source(f"{market} real", 15, longer[longer > 0]))
        file = folder / f"{market}_1m_2022_tradingview.csv"
        if file.is_file():
            table = pd.read_csv(file, usecols=["datetime", "volume"], parse_dates=["datetime"])
            sources.append(_source(f"{market} real", 1, table.set_index("datetime")["volume"]))
    return sources


def _source(name: str, interval_min: int, volume: pd.Series) -> Source:
    times = pd.DatetimeIndex(volume.index).as_unit("ns").asi8
    return Source(name, interval_min, times, volume.to_numpy(dtype=np.float64))


def shaped(source: Source, days: int, first_ns: int, shape: Shape, seed: int) -> Source:
    """The bars of some days from a time on, cut or thinned."""
    keep = (source.open_ns >= first_ns) & (source.open_ns < first_ns + days * 86_400 * 1_000_000_000)
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
    """The bars as a table of local times that promises nothing."""
    stamps = source.open_ns + (source.interval_min * MINUTE_NS if stamp == "close" else 0)
    n = len(stamps)
    return FileRows(
        file=Path("study.csv"),
        label="study.csv",
        dialect="study",
        dialect_why="written by the study",
        claim=ClockClaim(instant=False, zone=None, stamp=None, why="nothing says which clock its times are in"),
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
    """What happens to the bars written in this zone with this stamp, and what was said."""
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
    """Whether one of the options in a message gives the right instants."""
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


def cases(folder: Path, quick: bool) -> Iterator[tuple[Case, Source]]:
    """Every case with its bars; `quick` keeps one source and start for each interval and every third zone."""
    zones = ZONES[::3] if quick else ZONES
    starts = STARTS[2:3] if quick else STARTS
    sources = [] if quick else real_sources(folder)
    windows = [(one, start) for start in starts for one in (synthetic_source(i, start) for i in INTERVALS)]
    for source, start in [*windows, *_real_windows(sources)]:
        first_ns = pd.Timestamp(start).value - 3 * 3600 * 1_000_000_000
        for days in DAYS:
            for shape in SHAPES[:2] if quick else SHAPES:
                cut = shaped(source, days, first_ns, shape, seed=days)
                spanned = len(cut.open_ns) and cut.open_ns[-1] - cut.open_ns[0] > (days - 7) * 86_400 * 1_000_000_000
                if not spanned:
                    continue
                for zone in zones:
                    for stamp in STAMPS:
                        yield Case(source.name, source.interval_min, days, shape, zone, stamp), cut


def _real_windows(sources: list[Source]) -> Iterator[tuple[Source, date]]:
    for source in sources:
        starts = STARTS[2:] if source.interval_min > 1 else (date(2022, 1, 17),)
        yield from ((source, start) for start in starts)


def main(arguments: list[str] | None = None) -> int:
    """Run the study; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m src.market.files.zone_study", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a seventh of the zones and starts, synthetic bars only")
    parser.add_argument("--folder", type=Path, default=Path("../shared/data"), help="folder of real bars")
    options = parser.parse_args(arguments)
    counts: Counter[tuple[str, int, int, str, Outcome]] = Counter()
    examples: list[str] = []
    for case, bars in cases(options.folder, options.quick):
        result, words = outcome(bars, case.zone, case.stamp)
        counts[case.source.split()[0], case.interval_min, case.days, case.shape, result] += 1
        if result in ("misread", "refused"):
            examples.append(f"{result}: {case}: {words}")
    sys.stdout.write(table(counts) + "".join(f"{line}\n" for line in examples[:20]))
    misread = sum(count for key, count in counts.items() if key[-1] == "misread")
    long = {result: 0 for result in ("right", "named", "refused", "misread")}
    for (_, _, days, shape, result), count in counts.items():
        if days >= 28 and shape in ("whole", "thin"):
            long[result] += count
    fraction = long["right"] / max(1, sum(long.values()))
    sys.stdout.write(
        f"{sum(counts.values()):,} files, {misread} misread; of {sum(long.values()):,} of a month or more with whole "
        f"or thinned days and volume, {fraction:.1%} read right without an option\n"
    )
    return int(misread > 0 or fraction < NEEDED_FRACTION)


def table(counts: Counter[tuple[str, int, int, str, Outcome]]) -> str:
    """A line for each kind of file: how many were read right, refused with and without the right reading, misread."""
    lines = [
        f"{'bars':<10} {'min':>3} {'days':>4} {'shape':<10} {'right':>6} {'named':>6} {'refused':>8} {'misread':>8}"
    ]
    for key in sorted({key[:4] for key in counts}):
        found = [counts[*key, result] for result in ("right", "named", "refused", "misread")]
        lines.append(
            f"{key[0]:<10} {key[1]:>3} {key[2]:>4} {key[3]:<10} {found[0]:>6} {found[1]:>6} {found[2]:>8} {found[3]:>8}"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
