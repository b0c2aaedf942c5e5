"""Globex sessions: 18:00 to 17:00 New York, from a calendar and a dated file of overrides.

The calendar is pandas_market_calendars' `CME Globex Equity`. Against real ES bars of 2024-2026 it errs on three days only
(2025-01-09 and the Good Fridays 2024-03-29 and 2025-04-18); `CME_Equity` closes 15 minutes early on six half days.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, time
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import pandas_market_calendars
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from src.errors import BarDataError, ConfigError
from src.market.bars import NO_SESSION, Bars, frozen, select_bars

logger = logging.getLogger(__name__)

CALENDAR_NAME = "CME Globex Equity"
NEW_YORK = "America/New_York"
OVERRIDES_FILE = Path(__file__).resolve().parents[2] / "config" / "calendar_overrides.yaml"
OUTSIDE_CALENDAR = "outside the calendar"
TRADING_HOURS = ("rth", "globex")

_MINUTE_NS = 60_000_000_000
_DAY = np.timedelta64(1, "D")


@dataclass(frozen=True, eq=False)
class Schedule:
    """What the calendar and its overrides say, bars or none: one entry a trade date, in time order."""

    date: NDArray[np.datetime64]
    open_ns: NDArray[np.int64]
    close_ns: NDArray[np.int64]
    halt_start_ns: NDArray[np.int64]
    """Start and end of a daily trading halt inside the session; both are the close where there is none."""
    halt_end_ns: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.date)


@dataclass(frozen=True, eq=False)
class Sessions:
    """The sessions that hold at least one bar, in time order; arrays of length m, times in UTC nanoseconds.

    `first_decision` and `usable` are what `tables.judge_sessions` finds; before it every session counts as usable.
    """

    date: NDArray[np.datetime64]
    """Trade date, datetime64[D]."""
    open_ns: NDArray[np.int64]
    close_ns: NDArray[np.int64]
    trade_open_ns: NDArray[np.int64]
    """09:30 New York under rth, else the Globex open."""
    flat_slot_ns: NDArray[np.int64]
    """Scheduled open of the bar at whose open the forced exit fills."""
    first_bar: NDArray[np.int32]
    """The session's bars are [first_bar, end_bar)."""
    end_bar: NDArray[np.int32]
    first_decision: NDArray[np.int32]
    """First DECISION bar whose feature window is whole; -1 if none."""
    usable: NDArray[np.bool_]
    reason: tuple[str, ...]
    """Why a session is not usable; empty for a usable one."""
    halt_start_ns: NDArray[np.int64]
    """A scheduled trading halt inside the session: no bar is missing in it. Both are the close where there is none."""
    halt_end_ns: NDArray[np.int64]
    missing_dates: NDArray[np.datetime64] = field(default_factory=lambda: np.empty(0, dtype="datetime64[D]"))
    """Trade dates between the first and the last session of which the file holds nothing."""

    def __len__(self) -> int:
        return len(self.date)
