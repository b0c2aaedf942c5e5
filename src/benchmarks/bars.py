"""How long files of bars take to become tables, and how much memory: `python -m src.benchmarks bars`.

Writes synthetic one-minute ES bars of 0.1, 1 and 5.3 million rows (15 years) as CSV and Parquet and loads each
twice in processes of their own: with an empty cache, then from it. Compiled code is loaded before the clock starts.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from src.market.files.contract_months import Month, third_friday
from src.market.files.price_ranges import known_range
from src.market.files.roll_calendar import DAYS_BEFORE_EXPIRY
from src.market.load import build_tables, load_market
from src.market.settings import DataSettings
from src.market.synthetic import synthetic_bars
from src.market.table_cache import FOLDER_VARIABLE
from src.market.units import DAY_NS

SIZES = (100_000, 1_000_000, 5_300_000)
QUICK_SIZES = (100_000,)
FORMS = ("csv", "parquet")
FIRST_DAY = date(2010, 1, 4)
MOST_FIRST_S, MOST_SECOND_S, MOST_GB = 20.0, 1.0, 1.5
"""What is wanted of 5.3 million bars: first load, second load, peak memory."""

_ROOT = Path(__file__).resolve().parents[2]
_SESSION_MINUTES = 1_363  # on average, early closes and halts included
_QUARTERS = (3, 6, 9, 12)


@dataclass(frozen=True)
class Load:
    """One load in a process of its own. Wall and processor seconds; peak resident memory of the process."""

    form: str
    bars: int
    cached: bool
    seconds: float
    processor_s: float
    peak_gb: float


def write_bars(path: Path, n_bars: int) -> int:
    """Write about `n_bars` synthetic one-minute bars of ES with contracts as CSV or Parquet; how many they are."""
    bars = synthetic_bars("ES", max(3, n_bars // _SESSION_MINUTES), 1, seed=0, start=FIRST_DAY)
    scale = _scale(bars.open_ns, bars.open, bars.session_id)
    codes, names = _contracts(bars.open_ns, bars.session_id)
    sides = {side: pa.array(np.rint(getattr(bars, side) * scale) * 0.25) for side in ("open", "high", "low", "close")}
    table = pa.table(
        {
            "datetime": pa.array(bars.open_ns // 1_000_000_000, pa.timestamp("s", "UTC")),
            **sides,
            "volume": pa.array(bars.volume),
            "contract": pa.DictionaryArray.from_arrays(codes, names).cast(pa.string()),
        }
    )
    if path.suffix == ".csv":
        pa.csv.write_csv(table, path)
    else:
        pa.parquet.write_table(table, path)
    return len(bars)


def _scale(open_ns: NDArray[np.int64], opened: NDArray[np.int32], session: NDArray[np.int32]) -> NDArray[np.float64]:
    """Factor that lets each session open at about what ES cost then: prices are checked against that."""
    years = np.arange(FIRST_DAY.year - 1, FIRST_DAY.year + 20)
    middle = [float(np.sqrt(low * high)) for low, high in (known_range("ES", int(year)) for year in years)]
    first = np.flatnonzero(np.concatenate(([True], session[1:] != session[:-1])))
    when = open_ns[first] / (365.25 * DAY_NS) + 1970
    return (np.interp(when, years + 0.5, middle) * 4 / opened[first])[session]


def _contracts(open_ns: NDArray[np.int64], session: NDArray[np.int32]) -> tuple[NDArray[np.int32], list[str]]:
    """Index of each bar's quarterly contract, and the contracts' names; rolls lie between sessions."""
    years = range(FIRST_DAY.year, FIRST_DAY.year + 20)
    months = [Month(year, month, "ES") for year in years for month in _QUARTERS]
    rolls = np.array([third_friday(month.year, month.month) - DAYS_BEFORE_EXPIRY + 2 for month in months])
    first = np.flatnonzero(np.concatenate(([True], session[1:] != session[:-1])))
    codes = np.searchsorted(rolls, open_ns[first] // DAY_NS, side="right")
    return codes[session].astype(np.int32), [month.name(2) for month in months]


def load_once(path: Path) -> dict[str, float]:
    """Load a file as a run does; what it took. Peak memory is that of the whole process."""
    build_tables(synthetic_bars("ES", 5, 15, seed=0), DataSettings(), trading_hours="rth")  # compiled code
    began, processor = time.perf_counter(), time.process_time()
    tables = load_market(DataSettings(path=path), "ES", trading_hours="rth", seed=0)
    seconds, processor_s = time.perf_counter() - began, time.process_time() - processor
    return {"bars": len(tables.bars), "seconds": seconds, "processor_s": processor_s, "peak_gb": _peak_bytes() / 1e9}


def _peak_bytes() -> int:
    """Peak resident memory of this process. Linux's `ru_maxrss` counts that of the process it was started by, too."""
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(sizes: Sequence[int]) -> list[Load]:
    """Load files of every size and form twice."""
    loads = []
    with tempfile.TemporaryDirectory(prefix="bars-") as name:
        for size in sizes:
            for form in FORMS:
                path = Path(name) / f"ES_{size}.{form}"
                write_bars(path, size)
                cache = Path(name) / f"cache-{size}-{form}"
                for cached in (False, True):
                    command = [sys.executable, "-m", __name__, str(path)]
                    environment = {**os.environ, FOLDER_VARIABLE: str(cache)}
                    done = subprocess.run(
                        command, cwd=_ROOT, env=environment, check=True, capture_output=True, text=True
                    )
                    took = json.loads(done.stdout.splitlines()[-1])
                    loads.append(Load(form=form, cached=cached, **took))
                path.unlink()
    return loads


def run(console: Console, *, quick: bool) -> None:
    """Measure, and show a table and a line of JSON."""
    loads = measure(QUICK_SIZES if quick else SIZES)
    table = Table(title="One-minute bars of a file to tables")
    for heading in ("file", "bars", "load", "seconds", "processor", "bars/s", "peak"):
        table.add_column(heading, justify="left" if heading in ("file", "load") else "right")
    for load in loads:
        table.add_row(
            load.form, f"{load.bars:,}", "second" if load.cached else "first", f"{load.seconds:.2f}",
            f"{load.processor_s:.2f} s", f"{load.bars / load.seconds:,.0f}", f"{load.peak_gb:.2f} GB",
        )  # fmt: skip
    console.print(table)
    wanted = {"first_s": MOST_FIRST_S, "second_s": MOST_SECOND_S, "peak_gb": MOST_GB}
    line = {"part": "bars", "quick": quick, "wanted_of_5.3_million": wanted, "loads": [asdict(load) for load in loads]}
    console.print(json.dumps(line), soft_wrap=True)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(load_once(Path(sys.argv[1]))) + "\n")
