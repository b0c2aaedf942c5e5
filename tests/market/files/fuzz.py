"""Damaged files of every dialect and container: nothing but the one-paragraph error, and no bar that was not there.

    python -m tests.market.files.fuzz --cases 10000 --seed 1

prints a tally as JSON. A case is a file of known bars in one dialect and container, damaged in one way: random bytes,
random bytes behind the file's first ones, cut off at a random byte, or up to eight bits flipped. A bar counts as
invented if its time, prices and volume are in no row of the original; after flipped bits in a format without checksums
as many lines (or values) may differ as were hit.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from src.errors import BarDataError
from src.market.files.rows import NO_TIME, FileRows
from tests.market.files.stored_tables import read_tables
from tests.market.files.writers import DIALECTS, BarsToWrite, compressed

CONTAINERS = ("plain", "gz", "zst", "zip")
DAMAGES = ("random", "random tail", "cut", "flip")
SUMS = ("gz", "zip")
"""Containers that carry a checksum: what they let through is what was written."""
UNBOUNDED = ("parquet_zoned", "parquet_naive", "feather", "arrow_stream")
"""Formats in which one flipped bit may change many values and no checksum tells."""
MOST_SECONDS = 10.0
MOST_WORDS = 1_500

Bar = tuple[int, float, float, float, float, float]


@dataclass
class Tally:
    """What the cases came to."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


@dataclass(frozen=True)
class Original:
    """A file before it is damaged."""

    dialect: str
    container: str
    file_name: str
    plain: bytes
    packed: bytes
    bars: frozenset[Bar]
    promises: bool
    """Whether its times are instants or of a promised zone."""


def bars_of(tables: list[FileRows]) -> list[Bar]:
    """The rows that are bars: a time and four prices."""
    found: list[Bar] = []
    for table in tables:
        known = (table.time_ns != NO_TIME) & np.isfinite(table.prices).all(axis=1)
        rows = np.column_stack([table.prices[known], np.nan_to_num(table.volume[known], nan=-1.0)])
        found.extend((ns, *row) for ns, row in zip(table.time_ns[known].tolist(), rows.tolist(), strict=True))
    return found


def walk(n: int, rng: np.random.Generator) -> BarsToWrite:
    """A random walk of quarter points on a random day from the 13th on, whose date reads in one way only."""
    month = np.datetime64("2024-01", "M") + np.timedelta64(int(rng.integers(0, 24)), "M")
    day = month.astype("datetime64[D]") + np.timedelta64(int(rng.integers(12, 28)), "D")
    open_ns = day.astype("datetime64[ns]").astype(np.int64) + np.arange(n) * 300_000_000_000
    close = 27_400 + np.cumsum(rng.integers(-9, 10, n))
    opened = np.concatenate(([27_400], close[:-1])) + rng.integers(-1, 2, n)
    high = np.maximum(opened, close) + rng.integers(0, 4, n)
    low = np.minimum(opened, close) - rng.integers(0, 4, n)
    return BarsToWrite(open_ns, np.column_stack([opened, high, low, close]) / 4, rng.integers(1, 9_000, n), 5)


def kinds_of_files() -> list[tuple[str, str]]:
    """Every dialect with every container; DBN only where its library is installed."""
    names = [name for name in DIALECTS if name != "dbn" or importlib.util.find_spec("databento_dbn") is not None]
    return [(name, container) for name in names for container in (CONTAINERS if name != "lean" else CONTAINERS[:1])]


@cache
def original(name: str, container: str, seed: int, folder: Path) -> Original:
    """A file of random bars, and the bars that it gives undamaged."""
    dialect = DIALECTS[name]
    rng = np.random.default_rng((seed, len(name)))
    plain = dialect.write(walk(int(rng.integers(60, 90)), rng), dialect.zone, dialect.stamp)
    packed = compressed(plain, container, dialect.file_name)
    file = folder / (dialect.file_name if container == "plain" else f"{dialect.file_name}.{container}")
    file.write_bytes(packed)
    tables = read_tables(file)
    promises = any(table.claim.instant or table.claim.zone is not None for table in tables)
    return Original(name, container, file.name, plain, packed, frozenset(bars_of(tables)), promises)


def damaged(whole: Original, kind: str, rng: np.random.Generator) -> bytes:
    """The file's bytes after one kind of damage."""
    data = whole.packed
    if kind == "random":
        return rng.bytes(int(rng.integers(1, 4_000)))
    if kind == "random tail":
        keep = int(rng.integers(4, max(5, len(data) // 2)))
        return data[:keep] + rng.bytes(int(rng.integers(1, 2_000)))
    if kind == "cut":
        return data[: int(rng.integers(1, len(data)))]
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        changed[int(rng.integers(0, len(data)))] ^= 1 << int(rng.integers(0, 8))
    return bytes(changed)


def unpacked(whole: Original, data: bytes) -> bytes:
    """What a damaged file holds, as Arrow unpacks it; the file itself if it is not packed."""
    if whole.container != "zst":
        return data
    try:
        with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
            return bytes(stream.read())
    except OSError:
        return b""


def allowed(whole: Original, kind: str, data: bytes) -> int | None:
    """How many bars may differ from all of the original's; None where the format sets no bound."""
    if kind == "cut" or whole.container in SUMS or whole.dialect == "lean":
        return 0
    if whole.dialect in UNBOUNDED:
        return None
    now = unpacked(whole, data)
    if whole.dialect in ("dbn", "polygon_json", "json_records", "json_columns"):
        return sum(a != b for a, b in zip(now, whole.plain, strict=False)) + abs(len(now) - len(whole.plain))
    lines = Counter(now.replace(b"\r", b"\n").split(b"\n"))
    return sum((lines - Counter(whole.plain.split(b"\n"))).values())


def judge(whole: Original, kind: str, data: bytes, file: Path) -> tuple[str, str]:
    """Outcome of one case, and what was wrong ("" for nothing)."""
    try:
        tables = read_tables(file)
    except BarDataError as error:
        words = str(error)
        bad = "\n" in words or len(words) > MOST_WORDS or not words.startswith(str(file))
        return "refused", f"not one paragraph about the file: {words[:200]!r}" if bad else ""
    except Exception as error:
        return "crashed", f"{type(error).__name__}: {error}"
    bars = bars_of(tables)
    invented = [bar for bar in bars if bar not in whole.bars]
    if all(table.volume_kind == "none" for table in tables):
        # A damaged header hid the volume, and the reading says so.
        bare = {bar[:5] for bar in whole.bars}
        invented = [bar for bar in invented if bar[:5] not in bare]
    most = allowed(whole, kind, data)
    if whole.promises and not any(table.claim.instant or table.claim.zone for table in tables):
        # The columns that promised a zone are damaged, and others were read that promise none: the bars must tell.
        prices = {bar[1:] for bar in whole.bars}
        invented = [bar for bar in invented if bar[1:] not in prices]
    if most is not None and len(invented) > most:
        return "invented", f"{len(invented)} bars are not in the original, {most} may differ; first {invented[0]}"
    if invented:
        return "read, hit values differ" if most is not None else "read, values differ and no checksum tells", ""
    return ("read whole" if len(bars) == len(whole.bars) else "read in part"), ""


def fuzz(cases: int, seed: int, folder: Path) -> Tally:
    """Run seeded cases; failures name dialect, container, damage and case so that they can be repeated."""
    tally = Tally()
    files = kinds_of_files()
    for case in range(cases):
        rng = np.random.default_rng((seed, case))
        whole = original(*files[int(rng.integers(0, len(files)))], seed, folder)
        kind = DAMAGES[case % len(DAMAGES)]
        data = damaged(whole, kind, rng)
        file = folder / whole.file_name
        file.write_bytes(data)
        begun = time.monotonic()
        outcome, wrong = judge(whole, kind, data, file)
        seconds = time.monotonic() - begun
        tally.slowest_s = max(tally.slowest_s, seconds)
        tally.outcomes[f"{kind}: {outcome}"] += 1
        if not wrong and seconds > MOST_SECONDS:
            wrong = f"took {seconds:.0f} s"
        if wrong:
            tally.failures.append(f"case {case} ({whole.dialect}, {whole.container}, {kind}): {wrong}")
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = fuzz(options.cases, options.seed, Path(folder))
    answer = {
        "cases": options.cases,
        "seed": options.seed,
        "outcomes": dict(sorted(tally.outcomes.items())),
        "slowest_s": round(tally.slowest_s, 2),
        "failures": len(tally.failures),
        "first_failures": tally.failures[:20],
    }
    sys.stdout.write(json.dumps(answer, indent=1) + "\n")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
