"""Bars and files of bars for tests: a quiet random walk on the real calendar."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from src.market.bars import Bars, make_bars
from src.market.contracts import get_contract
from src.market.sessions import CalendarOverrides, Schedule, calendar_schedule

START = date(2024, 6, 3)
"""A Monday with three weeks of sessions behind it of which only 2024-06-19 closes early."""

START_TICKS = {"ES": 20_000, "NQ": 72_000, "YM": 39_000, "RTY": 20_000}
"""5,000, 18,000, 39,000 and 2,000 points: files of another market's prices are refused."""


def scheduled_slots(n_sessions: int, interval_min: int = 5, start: date = START) -> NDArray[np.int64]:
    """Every bar-open time of the first `n_sessions` sessions from `start` on, int64[n] UTC nanoseconds."""
    schedule = schedule_from(n_sessions, start)
    step = interval_min * 60_000_000_000
    return np.concatenate([np.arange(schedule.open_ns[k], schedule.close_ns[k], step) for k in range(n_sessions)])


def schedule_from(n_sessions: int, start: date = START) -> Schedule:
    """The schedule without overrides."""
    end = date.fromordinal(start.toordinal() + 2 * n_sessions + 10)
    return calendar_schedule(start, end, CalendarOverrides())


def walk_bars(
    open_ns: NDArray[np.int64],
    *,
    market: str = "ES",
    interval_min: int = 5,
    seed: int = 0,
    contract: NDArray | None = None,
) -> Bars:
    """Bars at the given times: a random walk of a few ticks a bar from about the market's price at START."""
    rng = np.random.default_rng(seed)
    n = len(open_ns)
    start = START_TICKS[market.removeprefix("M")] if market != "M2K" else START_TICKS["RTY"]
    close = start + np.cumsum(rng.integers(-6, 7, n))
    opened = np.concatenate(([start], close[:-1]))[:n]
    return make_bars(
        market=market,
        interval_s=interval_min * 60,
        source="test bars",
        open_ns=open_ns,
        open=opened,
        high=np.maximum(opened, close) + rng.integers(0, 4, n),
        low=np.minimum(opened, close) - rng.integers(0, 4, n),
        close=close,
        volume=rng.integers(1, 500, n),
        contract=contract,
        contract_names=() if contract is None else tuple(f"C{code}" for code in range(int(contract.max()) + 1)),
    )


def bar_table(bars: Bars) -> pd.DataFrame:
    """Bars as a user's table: datetime (UTC), prices in points, volume."""
    tick = float(get_contract(bars.market).tick_size)
    columns = {name: getattr(bars, name) * tick for name in ("open", "high", "low", "close")}
    times = pd.DatetimeIndex(bars.open_ns.astype("datetime64[ns]")).tz_localize("UTC")
    return pd.DataFrame({"datetime": times, **columns, "volume": bars.volume})


def write_csv(table: pd.DataFrame, path: Path) -> Path:
    """Write the table as the shared files have it: ISO times with a Z."""
    text = table.copy()
    if isinstance(text["datetime"].dtype, pd.DatetimeTZDtype):
        text["datetime"] = text["datetime"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    text.to_csv(path, index=False)
    return path
