"""Seeded synthetic bars for runs without a file, and two canary markets that test learning and leaks.

Every bar of all three records an inner walk of +-1 tick steps exactly. Bars with drawn wicks or Gaussian sub-steps give
every stop-and-target bracket a positive expectation, which would hide or fake a leak; here a stop and a target have the
odds of a fair game. Volatility enters through the *number* of steps. It, the volume and the gaps are drawn
independently of direction.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from src.errors import BarDataError
from src.market.bars import Bars, make_bars
from src.market.contracts import get_contract
from src.market.features import WARMUP_BARS
from src.market.sessions import Schedule, calendar_schedule
from src.market.units import HOUR_NS, MINUTE_NS
from src.market.walks import autoregression, byte_walks, walk_fairly, walk_in_proportion, walk_with_drift

Hours = Literal["globex", "rth"]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

SYNTHETIC_START = date(2024, 1, 2)
CANARY_START = date(2010, 1, 4)
INNER_STEPS = 400
"""Steps in a canary bar: the change has a standard deviation of 20 ticks, the range a mean of 31."""

_RTH_OPEN_NS = 15 * HOUR_NS + HOUR_NS // 2  # 09:30 New York after the 18:00 open
_RTH_CLOSE_NS = 22 * HOUR_NS
_LEAD_BARS = WARMUP_BARS + 7  # a complete window at the bar that closes at 09:30, and a few more
_DAY_HOURS = 23.0


@dataclass(frozen=True)
class _Character:
    """Scale of a market's synthetic bars: rounded magnitudes of 2024-2026, not fitted to any data set."""

    level_points: int
    day_volatility: float  # standard deviation of a session's return
    day_volume: int  # contracts a session


_CHARACTERS = {
    "NQ": _Character(20_000, 0.0125, 500_000),
    "ES": _Character(5_500, 0.0095, 1_300_000),
    "YM": _Character(42_000, 0.0085, 120_000),
    "RTY": _Character(2_200, 0.0140, 150_000),
    "MNQ": _Character(20_000, 0.0125, 1_300_000),
    "MES": _Character(5_500, 0.0095, 1_000_000),
    "MYM": _Character(42_000, 0.0085, 120_000),
    "M2K": _Character(2_200, 0.0140, 90_000),
}

# Relative standard deviation of a bar over the session, hours after 18:00 New York: quiet Asia, Europe from 03:00, the
# 08:30 releases, the U of 09:30 to 16:00, the last hour. A stylised shape.
_SHAPE_HOURS = (0.0, 0.5, 6.0, 8.5, 9.0, 11.0, 14.4, 14.5, 15.4, 15.5, 16.5, 18.5, 20.5, 21.5, 21.99, 22.0, 23.0)
_SHAPE_SD = (0.8, 0.5, 0.4, 0.55, 0.75, 0.6, 0.7, 1.0, 0.95, 2.0, 1.55, 1.05, 1.1, 1.3, 1.6, 0.7, 0.5)
_VOLUME_POWER = (
    2.5  # volume rises more than linearly with volatility over the day: regular hours trade about 20 times the night's
)
_SESSION_LOG_VOL = (0.90, 0.30)  # autocorrelation from session to session, standard deviation
_BAR_LOG_VOL = (120.0, 0.35)  # half-life in minutes, standard deviation
_TAIL_DF = 5.0  # Student's t inside a volatility state
_MAX_BAR_SD = 0.02
_GAP_SHARE = 0.15  # standard deviation of an overnight gap in day volatilities
_WEEKEND_GAP_FACTOR = 1.8


def synthetic_bars(
    market: str, n_sessions: int = 60, interval_min: int = 5, seed: int = 0, start: date = SYNTHETIC_START
) -> Bars:
    """Bars of `n_sessions` real calendar sessions from `start` on, every scheduled slot filled, labelled SYNTHETIC.

    Volatility clusters over bars and sessions, follows the time of day and has fat tails; sessions open with a gap.
    Prices are a martingale: there is nothing to learn. Raises MarketError, BarDataError (interval, sessions).
    """
    tick = get_contract(market).tick_size
    character = _CHARACTERS[market]
    open_ns, session_id = _slots(n_sessions, interval_min, start, "globex")
    rng = _generator(market, seed, "synthetic")
    shape = _shape(open_ns, session_id)
    variance, state = _variances(rng, session_id, interval_min, shape, character.day_volatility)
    gap = _gaps(rng, open_ns, session_id, character.day_volatility)
    extra = rng.integers(0, 2, session_id.size)
    level = int(Decimal(character.level_points) / tick)
    prices = walk_in_proportion(level, variance, gap, extra, *byte_walks(), _walk_seed(rng))
    bars_a_day = _DAY_HOURS * 60 / interval_min
    usual = character.day_volume / bars_a_day * shape**_VOLUME_POWER / _mean_over_day(_VOLUME_POWER)
    volume = usual * np.sqrt(state) * np.exp(rng.normal(-0.08, 0.4, usual.size))
    return _assemble(market, interval_min, f"SYNTHETIC {market} bars, seed {seed}", open_ns, session_id, prices, volume)


def martingale_bars(
    market: str,
    n_sessions: int,
    interval_min: int,
    seed: int,
    *,
    start: date = CANARY_START,
    hours: Hours = "globex",
    inner_steps: int = INNER_STEPS,
) -> Bars:
    """Canary market without an edge: each bar opens at the last close (across sessions too) and walks in fair steps.

    A bar has `inner_steps` steps (a multiple of 8), plus one by a fair coin, so that changes are odd as well as even.
    `hours="rth"` keeps the slots from one feature window before 09:30 to 16:00. The price level is arbitrary, high
    enough that the walk stays positive. Raises MarketError, BarDataError.
    """
    get_contract(market)
    open_ns, session_id = _slots(n_sessions, interval_min, start, hours)
    rng = _generator(market, seed, "martingale")
    steps = _whole_bytes(inner_steps)
    extra = rng.integers(0, 2, session_id.size)
    level = _safe_level(session_id.size, steps, drift=0.0)
    prices = walk_fairly(level, steps, extra, *byte_walks(), _walk_seed(rng))
    source = f"SYNTHETIC {market} martingale canary, seed {seed}"
    volume = _plain_volume(rng, session_id.size)
    return _assemble(market, interval_min, source, open_ns, session_id, prices, volume)


def planted_bars(
    market: str,
    n_sessions: int,
    interval_min: int,
    seed: int,
    drift_sigma: float = 0.15,
    hold_bars: int = 30,
    *,
    start: date = CANARY_START,
    hours: Hours = "globex",
    inner_steps: int = INNER_STEPS,
) -> tuple[Bars, NDArray[np.float32]]:
    """Canary market with a known edge: bars, and the sign (+1 or -1) as float32[n].

    sign[t], constant for `hold_bars` bars, may be shown at the close of bar t: bar t + 1 walks with a drift of
    sign[t] x `drift_sigma` standard deviations of a bar. Otherwise as `martingale_bars`. Raises MarketError,
    BarDataError.
    """
    get_contract(market)
    steps = _whole_bytes(inner_steps)
    if not 0.0 <= drift_sigma <= 0.5 * np.sqrt(steps):
        raise BarDataError(
            f"planted market: drift_sigma is {drift_sigma}, it must lie between 0 and {0.5 * np.sqrt(steps):.1f} with "
            f"{steps} inner steps."
        )
    if hold_bars < 1:
        raise BarDataError(f"planted market: hold_bars is {hold_bars}, it must be at least 1.")
    open_ns, session_id = _slots(n_sessions, interval_min, start, hours)
    rng = _generator(market, seed, "planted")
    n = session_id.size
    sign = np.repeat(2 * rng.integers(0, 2, -(-n // hold_bars)) - 1, hold_bars)[:n]
    direction = np.concatenate(([0], sign[:-1]))
    level = _safe_level(n, steps, drift_sigma)
    prices = walk_with_drift(level, steps, direction, drift_sigma / np.sqrt(steps), _walk_seed(rng))
    source = f"SYNTHETIC {market} planted canary (drift {drift_sigma} sigma, {hold_bars} bars), seed {seed}"
    volume = _plain_volume(rng, n)
    return _assemble(market, interval_min, source, open_ns, session_id, prices, volume), sign.astype(np.float32)


def _slots(n_sessions: int, interval_min: int, start: date, hours: Hours) -> tuple[Int64, Int64]:
    """Scheduled bar opens (UTC ns) of the first `n_sessions` sessions from `start` on; the session of each."""
    if not 1 <= interval_min <= 15:
        raise BarDataError(f"synthetic bars: the interval is {interval_min} minutes, it must be 1 to 15.")
    if n_sessions < 1:
        raise BarDataError(f"synthetic bars: {n_sessions} sessions were asked for, at least 1 is needed.")
    # 252 sessions a year: 1.5 calendar days each plus two weeks always cover enough.
    schedule = calendar_schedule(start, start + timedelta(days=int(1.5 * n_sessions) + 14))
    step = interval_min * MINUTE_NS
    opens = [_session_slots(schedule, k, step, hours) for k in range(n_sessions)]
    counts = [one.size for one in opens]
    return np.concatenate(opens), np.repeat(np.arange(n_sessions, dtype=np.int64), counts)


def _session_slots(schedule: Schedule, k: int, step_ns: int, hours: Hours) -> Int64:
    first, last = schedule.open_ns[k], schedule.close_ns[k]
    slots = np.arange(first, last, step_ns, dtype=np.int64)
    if hours == "rth":
        lead = first + _RTH_OPEN_NS - _LEAD_BARS * step_ns
        slots = slots[(slots >= lead) & (slots < first + _RTH_CLOSE_NS)]
    return slots[(slots < schedule.halt_start_ns[k]) | (slots >= schedule.halt_end_ns[k])]


def _generator(market: str, seed: int, kind: str) -> np.random.Generator:
    """A separate random stream for each market, seed and kind of bars."""
    return np.random.default_rng([zlib.crc32(f"{kind} {market}".encode()), seed])


def _walk_seed(rng: np.random.Generator) -> np.uint64:
    return rng.integers(0, 2**64, dtype=np.uint64)


def _shape(open_ns: Int64, session_id: Int64) -> Float64:
    """Relative standard deviation of each bar by its time of day (mean square over the day 1)."""
    first = np.flatnonzero(np.diff(session_id, prepend=-1))
    hours = (open_ns - open_ns[first][session_id]) / HOUR_NS
    return np.interp(hours, _SHAPE_HOURS, _SHAPE_SD) / np.sqrt(_mean_square_sd())


def _mean_square_sd() -> float:
    hours = np.linspace(0.0, _DAY_HOURS, 1381)
    return float(np.mean(np.interp(hours, _SHAPE_HOURS, _SHAPE_SD) ** 2))


def _mean_over_day(power: float) -> float:
    hours = np.linspace(0.0, _DAY_HOURS, 1381)
    return float(np.mean((np.interp(hours, _SHAPE_HOURS, _SHAPE_SD) / np.sqrt(_mean_square_sd())) ** power))


def _variances(
    rng: np.random.Generator, session_id: Int64, interval_min: int, shape: Float64, day_volatility: float
) -> tuple[Float64, Float64]:
    """Variance of each bar's return, and the volatility state in it (mean 1), which volume follows too; float64[n]."""
    n = session_id.size
    slow_phi, slow_sd = _SESSION_LOG_VOL
    half_life_min, fast_sd = _BAR_LOG_VOL
    slow = autoregression(rng.standard_normal(int(session_id[-1]) + 1), slow_phi) * slow_sd
    fast = autoregression(rng.standard_normal(n), 0.5 ** (interval_min / half_life_min)) * fast_sd
    # exp(2 h) has the mean exp(2 var h): without the correction every market would be more volatile than specified.
    state = np.exp(2.0 * (slow[session_id] + fast) - 2.0 * (slow_sd**2 + fast_sd**2))
    tails = (_TAIL_DF - 2.0) / rng.chisquare(_TAIL_DF, n)
    usual = day_volatility**2 * interval_min / (_DAY_HOURS * 60) * shape**2
    return np.minimum(usual * state * tails, _MAX_BAR_SD**2), state


def _gaps(rng: np.random.Generator, open_ns: Int64, session_id: Int64, day_volatility: float) -> Float64:
    """Gap before each bar as a fraction of price: at session opens, and none inside a session."""
    first = np.flatnonzero(np.diff(session_id, prepend=-1))
    weekend = np.diff(open_ns[first], prepend=open_ns[0]) > 30 * HOUR_NS
    size = _GAP_SHARE * day_volatility * np.where(weekend, _WEEKEND_GAP_FACTOR, 1.0)
    gap = np.zeros(session_id.size)
    gap[first] = np.clip(rng.standard_t(_TAIL_DF, first.size) * size, -0.05, 0.05)
    gap[0] = 0.0
    return gap


def _whole_bytes(inner_steps: int) -> int:
    if inner_steps < 8 or inner_steps % 8:
        raise BarDataError(f"canary bars: inner_steps is {inner_steps}, it must be a positive multiple of 8.")
    return inner_steps


def _safe_level(n_bars: int, steps: int, drift: float) -> int:
    """First price in ticks, ten standard deviations of the whole walk above zero; held drifts widen the walk."""
    spread = np.sqrt(float(n_bars) * (steps + 1)) * (1.0 + 6.0 * drift)
    return int(20_000 + 10.0 * spread)


def _plain_volume(rng: np.random.Generator, n: int) -> Float64:
    return np.exp(rng.normal(7.0, 0.5, n))


def _assemble(
    market: str, interval_min: int, source: str, open_ns: Int64, session_id: Int64, prices: Int64, volume: Float64
) -> Bars:
    return make_bars(
        market=market,
        interval_s=60 * interval_min,
        source=source,
        open_ns=open_ns,
        open=prices[:, 0],
        high=prices[:, 1],
        low=prices[:, 2],
        close=prices[:, 3],
        volume=np.maximum(volume, 1.0).astype(np.int64),
        session_id=session_id,
        synthetic=True,
    )
