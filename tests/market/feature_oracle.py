"""Slow readings of the features' definitions: one value at a time in plain Python, sharing no code with the tables."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from src.market.bars import Bars
from src.market.features import FEATURE_BARS, atr_ticks, context_features, window_features
from src.market.sessions import Sessions

NEW_YORK = ZoneInfo("America/New_York")


@dataclass(frozen=True)
class Placed:
    """Bars in their sessions, with the runs."""

    bars: Bars
    sessions: Sessions
    run_start: np.ndarray

    def tables(self) -> list[np.ndarray]:
        inputs = (self.bars, self.sessions, self.run_start)
        return [window_features(*inputs), context_features(*inputs), atr_ticks(*inputs)]

    @property
    def in_run(self) -> np.ndarray:
        return np.arange(len(self.bars)) - self.run_start + 1


def averages(values: Sequence[float], n: int, alpha: float) -> list[float]:
    """The average of the first n values, and of each later one with all before it."""
    out = [sum(values[:n]) / n]
    for value in values[n:]:
        out.append((1 - alpha) * out[-1] + alpha * value)
    return out


def seeded(values: Sequence[float], n: int, alpha: float) -> float:
    return averages(values, n, alpha)[-1]


def ema(values: Sequence[float], n: int) -> float:
    return seeded(values, n, 2 / (n + 1))


class Oracle:
    """Features of one bar from the bars of its run."""

    def __init__(self, placed: Placed, t: int) -> None:
        bars, first = placed.bars, int(placed.run_start[t])
        self.o, self.h, self.l, self.c, self.v, self.s = (
            [int(x) for x in column[first : t + 1]]
            for column in (bars.open, bars.high, bars.low, bars.close, bars.volume, bars.session_id)
        )
        self.n = len(self.c)
        self.minutes = bars.interval_s // 60
        opens = [datetime.fromtimestamp(int(ns) // 10**9, UTC) for ns in bars.open_ns[first : t + 1]]
        self.open_clock = [moment.astimezone(NEW_YORK) for moment in opens]
        self.close_clock = (opens[-1] + timedelta(minutes=self.minutes)).astimezone(NEW_YORK)
        self.change = [
            self.c[i] - (self.o[i] if i == 0 or self.s[i] != self.s[i - 1] else self.c[i - 1]) for i in range(self.n)
        ]
        self.path = list(itertools.accumulate(self.change))
        self.tr = [
            self.h[i] - self.l[i]
            if i == 0 or self.s[i] != self.s[i - 1]
            else max(self.h[i] - self.l[i], abs(self.h[i] - self.c[i - 1]), abs(self.l[i] - self.c[i - 1]))
            for i in range(self.n)
        ]
        self.today = [i for i in range(self.n) if self.s[i] == self.s[-1]]
        self.atr = max(seeded(self.tr, 14, 1 / 14), 1.0)

    def rsi(self) -> float:
        gain = seeded([max(x, 0) for x in self.change], 14, 1 / 14)
        loss = seeded([max(-x, 0) for x in self.change], 14, 1 / 14)
        return (50.0 if gain + loss == 0 else 100 - 100 / (1 + gain / loss) if loss else 100.0) - 50

    def macd_line(self) -> list[float]:
        fast, slow = averages(self.path, 12, 2 / 13), averages(self.path, 26, 2 / 27)
        return [a - b for a, b in zip(fast[14:], slow, strict=True)]

    def vwap_distance(self) -> float:
        traded = sum(self.v[i] for i in self.today)
        typical = [(self.h[i] + self.l[i] + self.c[i]) / 3 for i in self.today]
        value = sum(p * self.v[i] for p, i in zip(typical, self.today, strict=True)) / traded if traded else typical[-1]
        return 2 * (self.c[-1] - value) / (self.atr * math.sqrt(len(self.today)))

    def day_angle(self) -> float:
        clock = self.close_clock
        return 2 * math.pi * (clock.hour * 3600 + clock.minute * 60) / 86400

    def window(self) -> dict[str, float]:
        macd = self.macd_line()
        spread = self.h[-1] - self.l[-1]
        return {
            "bar_return": self.change[-1] / self.atr,
            "bar_range": spread / self.atr - 1,
            "close_location": ((self.c[-1] - self.l[-1]) - (self.h[-1] - self.c[-1])) / spread if spread else 0.0,
            "vwap_distance": self.vwap_distance(),
            "ema_9_distance": (self.path[-1] - ema(self.path, 9)) / self.atr,
            "sma_20_distance": (self.path[-1] - sum(self.path[-20:]) / 20) / (2 * self.atr),
            "rsi_14": self.rsi() / 15,
            "macd_histogram": 4 * (macd[-1] - ema(macd, 9)) / self.atr,
            "relative_volume": math.log((self.v[-1] + 1) / (sum(self.v[-20:]) / 20 + 1)),
            "time_sin": math.sin(self.day_angle()),
            "time_cos": math.cos(self.day_angle()),
        }

    def earlier_at_this_time(self) -> list[int]:
        """Whole bars of the run's earlier sessions that opened at the same New York time."""
        clock = self.open_clock[-1].time()
        return [i for i in range(self.n - 1) if self.open_clock[i].time() == clock and i + 1 >= FEATURE_BARS]

    def usual(self, value: Callable[[int], float]) -> float | None:
        average = None
        for k, i in enumerate(self.earlier_at_this_time(), start=1):
            weight = 1 / min(k, 10)
            average = value(i) if average is None else (1 - weight) * average + weight * value(i)
        return average

    def hour_move(self, minutes: int) -> float:
        bars = math.ceil(minutes / self.minutes)
        return sum(self.change[-bars:]) / (self.atr * math.sqrt(bars)) if self.n >= bars else 0.0

    def position(self, minutes: int) -> float:
        bars = math.ceil(minutes / self.minutes)
        if self.n < bars:
            return 0.0
        # In gap-free prices: every bar moved so that its close is the path.
        top = max(self.path[i] + self.h[i] - self.c[i] for i in range(self.n - bars, self.n))
        bottom = min(self.path[i] + self.l[i] - self.c[i] for i in range(self.n - bars, self.n))
        return 2 * (self.path[-1] - bottom) / (top - bottom) - 1 if top > bottom else 0.0

    def market(self) -> dict[str, float]:
        travelled = sum(abs(x) for x in self.change[-20:])
        usual_atr = self.usual(lambda i: max(seeded(self.tr[: i + 1], 14, 1 / 14), 1.0))
        usual_volume = self.usual(lambda i: sum(self.v[i - 4 : i + 1]) + 1)
        clock = self.close_clock
        since_open = (clock.hour * 60 + clock.minute - 18 * 60) % (24 * 60)
        return {
            "trend": self.macd_line()[-1] / self.atr,
            "trend_efficiency": abs(sum(self.change[-20:])) / travelled if travelled else 0.0,
            "momentum": sum(self.change[-10:]) / (self.atr * math.sqrt(10)),
            "rsi_14": self.rsi() / 15,
            "vwap_distance": self.vwap_distance(),
            "volatility_regime": 2 * math.log(self.atr / usual_atr) if usual_atr else 0.0,
            "volatility_ratio": 2 * math.log(self.atr / seeded(self.tr, 100, 1 / 100)) if self.n >= 100 else 0.0,
            "volume_regime": math.log((sum(self.v[-5:]) + 1) / usual_volume) if usual_volume else 0.0,
            "session_clock": since_open / (23 * 60),
        }

    def timeframe(self) -> dict[str, float]:
        hour, four_hours = math.ceil(60 / self.minutes), math.ceil(240 / self.minutes)
        quick = sum(self.tr[-hour:]) / hour
        slow = sum(self.tr[-four_hours:]) / four_hours
        moves = [self.hour_move(minutes) for minutes in (60, 240, 1380)]
        return {
            "hour_return": moves[0],
            "hour_range_position": self.position(60),
            "four_hour_return": moves[1],
            "four_hour_range_position": self.position(240),
            "day_return": moves[2],
            "hour_volatility_ratio": 2 * math.log(max(quick, 1.0) / max(slow, 1.0)) if self.n >= four_hours else 0.0,
            "timeframe_agreement": sum((x > 0) - (x < 0) for x in moves) / 3,
        }

    def structure(self) -> dict[str, float]:
        before = [i for i in range(self.n) if self.s[i] == self.s[-1] - 1]
        known = bool(before) and (before[0] > 0 or self.open_clock[0].time() == time(18, 0))
        top, bottom = (max(self.h[i] for i in before), min(self.l[i] for i in before)) if known else (0, 0)
        size = max(top - bottom, 1)
        close, reach = self.c[-1], self.atr * math.sqrt(len(self.today))
        return {
            "prior_high_distance": (close - top) / size if known else 0.0,
            "prior_low_distance": (close - bottom) / size if known else 0.0,
            "prior_close_distance": (close - self.c[before[-1]]) / size if known else 0.0,
            "session_high_distance": (max(self.h[i] for i in self.today) - close) / reach,
            "session_low_distance": (close - min(self.l[i] for i in self.today)) / reach,
            "opening_range_position": self.opening_range(),
        }

    def opening_range(self) -> float:
        def since_1800(moment: datetime) -> int:
            return (moment.hour * 60 + moment.minute - 18 * 60) % (24 * 60)

        begin, end = since_1800(datetime(2024, 1, 1, 9, 30)), since_1800(datetime(2024, 1, 1, 10, 0))
        if since_1800(self.open_clock[-1]) + self.minutes < end or since_1800(self.open_clock[self.today[0]]) > begin:
            return 0.0
        inside = [i for i in self.today if begin <= since_1800(self.open_clock[i]) < end]
        if not inside:
            return 0.0
        top, bottom = max(self.h[i] for i in inside), min(self.l[i] for i in inside)
        return (self.c[-1] - (top + bottom) / 2) / max(top - bottom, 1)

    def context(self) -> dict[str, float]:
        return {**self.market(), **self.timeframe(), **self.structure()}
