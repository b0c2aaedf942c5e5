"""Look-ahead in what is made of bars: features, ATR, flags and situations.

Bars are given another future after a bar (their later moves mirrored and doubled, their volumes drawn again), or end
there. Nothing up to that bar may change by a bit. One rebuild of the file tests a bar in every third session: bars
are cut into blocks of three sessions that count as contracts of their own, so each block starts a run and its second
session holds one tested bar. docs/leaks.md says which leak each check finds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.agent.market import Market, situations_of
from src.evaluation.leak_words import FEATURES
from src.market.bars import BAR_ARRAYS, Bars
from src.market.features import CONTEXT_FEATURES, WINDOW_FEATURES
from src.market.flags import DECISION, ENTRY_ALLOWED
from src.market.load import build_tables
from src.market.sessions import Schedule, schedule_around
from src.market.settings import DataSettings
from src.market.tables import MarketTables, run_starts

BLOCK_SESSIONS = 3
"""History, the session that holds the tested bar, and a session after it."""
SLOT_STRIDE = 3
"""Times of day are tested three bars apart first, so a leak that lives for six bars meets at least two tested ones."""
LEAST_BARS, LEAST_ROUNDS = 200, 2
ROUNDS_PER_OFFSET = 3
"""Rounds that share one rebuild of the unchanged blocks, before other sessions become the middle of a block."""
TIME_OF_DAY = "time of day"
PER_STRATUM = 4
HISTORY_SESSIONS = 1
_NAMES: Mapping[str, Sequence[str]] = {"window": WINDOW_FEATURES, "context": CONTEXT_FEATURES}
_COMPARED = ("window", "context", "atr_ticks", "flags", "situation")


@dataclass(frozen=True)
class LeakCheck:
    """One part of the leak check: how much it compared, and the first leak it found ("" for none)."""

    name: str
    checks: int
    found: str = ""
    strata: Mapping[str, int] = field(default_factory=dict)
    """Bars tested, by the place they were chosen for."""

    @property
    def passed(self) -> bool:
        """Whether no comparison differed by a bit."""
        return not self.found


@dataclass(frozen=True, eq=False)
class World:
    """What is made of one version of the bars."""

    tables: MarketTables
    situation: NDArray[np.int32]

    def array(self, name: str) -> NDArray[Any]:
        """One of the compared arrays, a row a bar."""
        return self.situation if name == "situation" else getattr(self.tables, name)


@dataclass(frozen=True)
class Difference:
    """The first bar at which two worlds differ, and in what."""

    name: str
    bar: int
    column: int

    def words(self, bars: Bars) -> str:
        """Array, bar, column and time, as `context of bar 812 (trend, 2024-03-05 14:30 UTC)`."""
        column = f"{_NAMES[self.name][self.column]}, " if self.name in _NAMES else ""
        return f"{self.name} of bar {self.bar} ({column}{time_of(bars, self.bar)})"


def time_of(bars: Bars, bar: int) -> str:
    """When a bar opens, in UTC."""
    opened = str(np.datetime64(int(bars.open_ns[bar]), "ns").astype("datetime64[m]"))
    return f"{opened.replace('T', ' ')} UTC"


@dataclass(frozen=True)
class Maker:
    """Makes worlds of the bars of one market, as a run makes its tables."""

    data: DataSettings
    trading_hours: str
    schedule: Schedule

    @classmethod
    def of(cls, bars: Bars, data: DataSettings, trading_hours: str) -> Maker:
        """The maker for these bars and every part of them."""
        return cls(data, trading_hours, schedule_around(bars.open_ns))

    def world(self, bars: Bars) -> World:
        """Tables and situations of these bars."""
        tables = build_tables(bars, self.data, trading_hours=self.trading_hours, schedule=self.schedule)
        return World(tables, situations_of(tables))


def bars_between(bars: Bars, first: int, end: int) -> Bars:
    """The bars [first, end), as a file that held no others."""
    return replace(bars, **{name: getattr(bars, name)[first:end] for name in BAR_ARRAYS})


def first_bars(bars: Bars, n: int) -> Bars:
    """The first `n` bars, as a file that ended there would hold them."""
    return bars_between(bars, 0, n)


def other_future(bars: Bars, last_kept: NDArray[np.int64], rng: np.random.Generator) -> Bars:
    """The bars with all that follows bar `last_kept[t]` (int64[n], a value a row) changed where t lies after it.

    Times, contracts and sessions stay. Moves from the kept close are mirrored and doubled, wicks and volumes grow at
    random: direction, range, level and volume of every later bar are others.
    """
    n = len(bars)
    later = np.arange(n) > last_kept
    pivot = 3 * np.asarray(bars.close, np.int64)[np.clip(last_kept, 0, n - 1)]
    wick = rng.integers(1, 4, (2, n))
    changed = {
        "open": pivot - 2 * np.asarray(bars.open, np.int64),
        "high": pivot - 2 * np.asarray(bars.low, np.int64) + wick[0],
        "low": pivot - 2 * np.asarray(bars.high, np.int64) - wick[1],
        "close": pivot - 2 * np.asarray(bars.close, np.int64),
    }
    prices = {
        name: np.where(later, np.maximum(value, 1), getattr(bars, name)).astype(np.int32)
        for name, value in changed.items()
    }
    volume = np.where(later, bars.volume * rng.integers(2, 6, n) + rng.integers(1, 9, n), bars.volume)
    return replace(bars, **prices, volume=volume.astype(np.int64))


def first_difference(
    one: World, other: World, rows: NDArray[np.bool_] | slice, flag_bits: int = 0xFF
) -> Difference | None:
    """The earliest bar among `rows` at which two worlds differ by a bit; of the flags only `flag_bits` count."""
    earliest: Difference | None = None
    for name in _COMPARED:
        left, right = (_bits(world.array(name), rows if isinstance(rows, slice) else None) for world in (one, other))
        unlike = left != right if name != "flags" else ((left ^ right) & flag_bits) != 0
        if not unlike.any():
            continue
        differs = unlike.any(axis=1)
        if not isinstance(rows, slice):
            differs &= rows
        at = np.flatnonzero(differs)
        if len(at) and (earliest is None or at[0] < earliest.bar):
            earliest = Difference(name, int(at[0]), int(np.argmax(unlike[at[0]])))
    return earliest


def _bits(array: NDArray[Any], rows: slice | None) -> NDArray[Any]:
    part = array if rows is None else array[rows]
    return (part.view(np.uint32) if part.dtype.kind == "f" else part).reshape(len(part), -1)


def check_features(
    market: Market, data: DataSettings, trading_hours: str, *, least_rounds: int = LEAST_ROUNDS, seed: int = 0
) -> LeakCheck:
    """Whether features, ATR, flags and situations of `market` depend on bars after their own.

    The whole file is rebuilt as often as testing 200 bars and every third time of day takes, `least_rounds` at least.
    """
    tables, bars = market.tables, market.tables.bars
    maker = Maker.of(bars, data, trading_hours)
    whole = maker.world(bars)
    own = first_difference(World(tables, market.situation), whole, slice(0, len(bars)))
    if own is not None:
        return LeakCheck(FEATURES, 1, f"{own.words(bars)} is not what these bars give: something else changed it")
    rng, strata = np.random.default_rng(seed), Counter[str]()
    tested = chain(
        _by_stratum(maker, whole, rng),
        _by_whole_file(maker, whole, rng),
        _by_time_of_day(maker, whole, rng, least_rounds),
    )
    for place, words in tested:
        strata[place] += 1
        if words:
            return LeakCheck(FEATURES, strata.total(), words, strata)
    return LeakCheck(FEATURES, strata.total(), "", strata)


# ---------------------------------------------------------------- every time of day, a bar in every third session


def _by_time_of_day(
    maker: Maker, whole: World, rng: np.random.Generator, least_rounds: int
) -> Iterator[tuple[str, str]]:
    """(TIME_OF_DAY, "") for every bar tested, and what was found in words where something was."""
    bars, sessions = whole.tables.bars, whole.tables.sessions
    slots = _decision_slots(whole)
    if not len(slots):
        return
    order = np.concatenate([slots[start::SLOT_STRIDE] for start in range(SLOT_STRIDE)])
    wanted = max(LEAST_BARS, -(-len(slots) // SLOT_STRIDE))
    blocked: dict[int, World] = {}
    tested = number = 0
    while number < least_rounds or 0 < tested < wanted:
        offset = number // ROUNDS_PER_OFFSET % BLOCK_SESSIONS
        number += 1
        block = (np.arange(len(sessions)) - offset) // BLOCK_SESSIONS - ((-offset) // BLOCK_SESSIONS)
        of_bar = block[bars.session_id]
        if offset not in blocked:
            # The bit that is added differs between neighbours: a change of contract starts a run.
            blocked[offset] = maker.world(replace(bars, contract=(2 * bars.contract + of_bar % 2).astype(np.int16)))
        real = blocked[offset]
        last_kept = np.full(int(block[-1]) + 1, len(bars), np.int64)
        for middle in range(offset + 1, len(sessions) - 1, BLOCK_SESSIONS):
            bar = _nearest_decision(real, middle, int(order[tested % len(order)]))
            if bar >= 0:
                last_kept[block[middle]] = bar
                tested += 1
                yield TIME_OF_DAY, ""
        other = maker.world(other_future(real.tables.bars, last_kept[of_bar], rng))
        difference = first_difference(real, other, np.arange(len(bars)) <= last_kept[of_bar])
        if difference is not None:
            yield TIME_OF_DAY, _told(maker, real, difference, int(last_kept[of_bar[difference.bar]]), of_bar, rng)


def _decision_slots(world: World) -> NDArray[np.int64]:
    """The scheduled slots of a session at whose bars decisions are made, int64[k], rising."""
    bars = world.tables.bars
    return np.unique(_slots(world)[_decides(world)]) if len(bars) else np.empty(0, np.int64)


def _slots(world: World) -> NDArray[np.int64]:
    bars = world.tables.bars
    return (bars.open_ns - world.tables.sessions.open_ns[bars.session_id]) // bars.interval_ns


def _decides(world: World) -> NDArray[np.bool_]:
    """Bars at which an account decides: those from its session's first decision on, bool[n]."""
    tables = world.tables
    first = tables.sessions.first_decision[tables.bars.session_id]
    return ((tables.flags & DECISION) != 0) & (first >= 0) & (np.arange(len(tables.bars)) >= first)


def _nearest_decision(world: World, session: int, slot: int) -> int:
    """The decision bar of a session nearest to a slot, -1 where it has none."""
    sessions = world.tables.sessions
    first, end = int(sessions.first_decision[session]), int(sessions.end_bar[session])
    if first < 0:
        return -1
    bars = world.tables.bars
    decides = first + np.flatnonzero((world.tables.flags[first:end] & DECISION) != 0)
    if not len(decides):
        return -1
    at = (bars.open_ns[decides] - sessions.open_ns[session]) // bars.interval_ns
    return int(decides[np.argmin(np.abs(at - slot))])


def _told(
    maker: Maker, real: World, difference: Difference, kept: int, of_bar: NDArray[np.int64], rng: np.random.Generator
) -> str:
    """A difference in words: its own block alone shows whether the future or another run did it."""
    bars = real.tables.bars
    rows = np.flatnonzero(of_bar == of_bar[difference.bar])
    first, end = int(rows[0]), int(rows[-1]) + 1
    alone = bars_between(bars, first, end)
    other = other_future(alone, np.full(end - first, kept - first), rng)
    if first_difference(maker.world(alone), maker.world(other), slice(0, kept - first + 1)) is None:
        return f"{difference.words(bars)} changes with bars of another run: a row may read its own run alone"
    return f"{difference.words(bars)} changes with bars after {kept} ({time_of(bars, kept)})"


# ---------------------------------------------------------------- places where bars are unlike others


def _strata(whole: World, no_trade_bars: int) -> dict[str, list[int]]:
    """Decision bars by stratum, at most PER_STRATUM of each."""
    bars, sessions = whole.tables.bars, whole.tables.sessions
    decisions = np.flatnonzero(_decides(whole))
    if not len(decisions):
        return {}
    of = bars.session_id[decisions]
    opens = decisions[np.diff(of, prepend=-1) != 0]
    closes = decisions[np.diff(of, append=-1) != 0]
    run_start = run_starts(bars, sessions, no_trade_bars)
    breaks = np.flatnonzero(np.diff(run_start) != 0) + 1
    rolls = breaks[bars.contract[breaks] != bars.contract[breaks - 1]]
    length = sessions.close_ns - sessions.open_ns
    half = np.isin(bars.session_id, np.flatnonzero(length < length.max()))
    places = {
        "session open": opens,
        "session close": closes,
        "roll": _around(decisions, rolls),
        "hole": _around(decisions, np.setdiff1d(breaks, rolls)),
        "half day": np.concatenate((opens[half[opens]], closes[half[closes]])),
        "first of the file": decisions[:1],
        "last of the file": decisions[-1:],
    }
    return {place: _spread(np.unique(found)) for place, found in places.items() if len(found)}


def _around(decisions: NDArray[np.int64], breaks: NDArray[np.int64]) -> NDArray[np.int64]:
    """The last decision bar before each break and the first one from it on."""
    at = np.searchsorted(decisions, breaks)
    return np.concatenate((decisions[at[at > 0] - 1], decisions[at[at < len(decisions)]]))


def _spread(bars: NDArray[np.int64]) -> list[int]:
    if len(bars) <= PER_STRATUM:
        return [int(bar) for bar in bars]
    return [int(bars[i]) for i in np.linspace(0, len(bars) - 1, PER_STRATUM).astype(int)]


def _by_stratum(maker: Maker, whole: World, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """(place, "" or what was found) for a file that ends at each bar of the strata, and for another future there.

    Only the sessions around a bar are rebuilt, all versions from the same first bar: however long a feature's memory
    is, both have the same history.
    """
    bars, sessions = whole.tables.bars, whole.tables.sessions
    for place, chosen in _strata(whole, maker.data.no_trade_bars).items():
        for bar in chosen:
            session = int(bars.session_id[bar])
            first = int(sessions.first_bar[max(0, session - HISTORY_SESSIONS)])
            end = int(sessions.end_bar[min(len(sessions) - 1, session + 1)])
            yield place, _changed_by_later(maker, bars_between(bars, first, end), bar - first, first, bars, rng)


def _by_whole_file(maker: Maker, whole: World, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """(place, "" or what was found) for a file cut at a decision after its middle, with all of its history."""
    decisions = np.flatnonzero(_decides(whole))
    if len(decisions) > 1:
        bar = int(decisions[int(rng.integers(len(decisions) // 2, len(decisions)))])
        yield "whole history", _cut(maker, whole, bar, 0, whole.tables.bars)


def _changed_by_later(maker: Maker, part: Bars, bar: int, offset: int, bars: Bars, rng: np.random.Generator) -> str:
    real = maker.world(part)
    if len(real.tables.bars) != len(part):
        return ""
    words = _cut(maker, real, bar, offset, bars)
    if words:
        return words
    other = maker.world(other_future(part, np.full(len(part), bar), rng))
    return _after(first_difference(real, other, slice(0, bar + 1)), bar, offset, bars)


def _cut(maker: Maker, real: World, bar: int, offset: int, bars: Bars) -> str:
    """Compare with the world of a file that ends at `bar`: of its flags only whether an entry is allowed is causal."""
    short = maker.world(first_bars(real.tables.bars, bar + 1))
    return _after(first_difference(real, short, slice(0, bar + 1), ENTRY_ALLOWED), bar, offset, bars)


def _after(difference: Difference | None, bar: int, offset: int, bars: Bars) -> str:
    if difference is None:
        return ""
    moved = replace(difference, bar=difference.bar + offset)
    return f"{moved.words(bars)} changes with bars after {bar + offset} ({time_of(bars, bar + offset)})"
