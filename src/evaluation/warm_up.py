"""How many bars of history a feature needs before its value no longer depends on where the history began.

Wilder's and exponential averages start as the mean of a run's first values and forget that start by degrees. So the
features of some bars are made again from histories of 34, 53, ... bars and compared with those of the whole run. A
feature's warm-up is the shortest history from which on it differs by at most TOLERANCE. One that still differs with
half of the whole run as its history never converges: its value says when the file began, and a live feed that starts
later gives the agent other values than its training did.

Many features are zero until their lookback is complete, which the agent can tell from a value. `exposed_bars` leaves
those out: inside them a feature has a value, but not yet the one that a longer history gives.

    python -m src.evaluation.warm_up --sessions 130 --interval-min 5

prints the warm-up of every feature on synthetic bars.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from src.console import uncut
from src.evaluation.look_ahead import Maker, World, bars_between, time_of
from src.market.bars import Bars
from src.market.features import CONTEXT_FEATURES, WARMUP_BARS, WINDOW_BARS, WINDOW_FEATURES
from src.market.flags import DECISION, ENTRY_ALLOWED
from src.market.settings import DataSettings
from src.market.synthetic import synthetic_bars
from src.market.tables import MarketTables, run_starts

TOLERANCE = 0.1
"""Largest difference of a converged feature, in its own units (docs/features.md: standard deviations are 0.16 to 1.0);
of the ATR as a share of it."""
HISTORIES = (
    *(34, 53, 75, 100, 150, 200, 300, 400, 500, 700, 1_000, 1_500, 2_000, 3_000, 4_000, 5_000, 7_000),
    *(10_000, 15_000, 20_000, 30_000, 50_000),
)
"""Bars of history that are tried, the bar itself included."""
MOST_BARS, FEWEST_BARS = 12, 3
"""Bars whose features are made again: as many for short histories, fewer for the longest."""
BARS_A_HISTORY = 60_000
SESSIONS = 130
"""Synthetic sessions in a row on which the validator measures: the slowest features average over sessions."""
ATR = "atr_ticks"


@dataclass(frozen=True)
class WarmUp:
    """One feature. `bars` of history bring it to its final value; `exposed_bars` are those below which it may be wrong
    without being zero; both are None where it never converges."""

    group: str
    """"window", "context" or "atr_ticks"."""
    name: str
    bars: int | None
    exposed_bars: int | None
    worst: Mapping[int, float]
    """Largest difference by history."""
    bar: str
    """The bar that was furthest off with the longest history, as a time in UTC."""

    def entry_bars(self, bars: int) -> int:
        """Bars of its run that an entry bar needs so that all it reads has `bars` of history: an observation holds 20
        rows of a window feature."""
        return bars + (WINDOW_BARS - 1 if self.group == "window" else 0)


@dataclass(frozen=True)
class WarmUps:
    """Every feature, and what they were measured on."""

    features: tuple[WarmUp, ...]
    bars_tested: int
    longest: int
    """Bars of the longest history that was compared with one at least twice as long."""
    source: str

    @property
    def diverging(self) -> tuple[WarmUp, ...]:
        """Features that never converge."""
        return tuple(feature for feature in self.features if feature.bars is None)

    def by_bars(self) -> dict[int, list[str]]:
        """Names of the features that converge, by warm-up, the shortest first."""
        found: dict[int, list[str]] = {}
        for feature in self.features:
            if feature.bars is not None and feature.name not in found.setdefault(feature.bars, []):
                found[feature.bars].append(feature.name)
        return dict(sorted(found.items()))


def synthetic_warm_ups(interval_min: int, trading_hours: str, *, most_bars: int = MOST_BARS) -> WarmUps:
    """`warm_ups` on synthetic bars of this length: a run that is long enough for every feature. Features are in units
    of a market's own range, so that a warm-up hardly depends on the market."""
    bars = synthetic_bars("NQ", SESSIONS, interval_min, 0)
    return warm_ups(bars, DataSettings(), trading_hours, most_bars=most_bars)


def warm_ups(bars: Bars, data: DataSettings, trading_hours: str, *, most_bars: int = MOST_BARS) -> WarmUps:
    """Measure the warm-up of every feature at decision bars with the longest histories. ValueError where no run is
    twice as long as the shortest history."""
    maker = Maker.of(bars, data, trading_hours)
    whole = maker.world(bars)
    chosen, before = _tested_bars(whole.tables, data.no_trade_bars, most_bars)
    if not before or before[0] < 2 * HISTORIES[0]:
        raise ValueError(f"{bars.source}: no run of bars is {2 * HISTORIES[0]} bars long")
    seen: dict[int, _Seen] = {}
    for history in HISTORIES:
        # The whole run must be at least twice as long, else it says nothing about a longer one.
        fitting = [bar for bar, length in zip(chosen, before, strict=True) if length >= 2 * history]
        fitting = fitting[: max(FEWEST_BARS, BARS_A_HISTORY // history)]
        if len(fitting) < min(FEWEST_BARS, len(chosen)):
            break
        seen[history] = _compared(maker, whole, fitting, history)
    longest = max(seen)
    found = []
    for i, (group, name) in enumerate(_names()):
        worst = {history: float(of.worst[i]) for history, of in seen.items()}
        bars_needed = _warm_up(worst)
        exposed = _warm_up({history: float(of.exposed[i]) for history, of in seen.items()})
        time = time_of(whole.tables.bars, int(seen[longest].bar[i]))
        found.append(WarmUp(group, name, bars_needed, exposed if bars_needed else None, worst, time))
    return WarmUps(tuple(found), len(chosen), longest, bars.source)


@dataclass(frozen=True)
class _Seen:
    """By feature: the largest difference with one history, that among values that are not zero, and the bar that had
    the largest."""

    worst: NDArray[np.float64]
    exposed: NDArray[np.float64]
    bar: NDArray[np.int64]


def _names() -> list[tuple[str, str]]:
    """Group and name of every compared column, in the order of `_row`."""
    return [
        *(("window", name) for name in WINDOW_FEATURES),
        *(("context", name) for name in CONTEXT_FEATURES),
        (ATR, ATR),
    ]


def _row(world: World, bar: int) -> NDArray[np.float64]:
    tables = world.tables
    atr = np.log(max(float(tables.atr_ticks[bar]), 1e-9))
    return np.concatenate((tables.window[bar], tables.context[bar], [atr])).astype(np.float64)


def _compared(maker: Maker, whole: World, chosen: Sequence[int], history: int) -> _Seen:
    """The features of bars from so many bars of history, next to those of their whole runs."""
    parts = [bars_between(whole.tables.bars, bar - history + 1, bar + 1) for bar in chosen]
    short = np.array([_row(maker.world(part), history - 1) for part in parts])
    apart = np.abs(short - np.array([_row(whole, bar) for bar in chosen]))
    return _Seen(
        apart.max(axis=0), np.where(short == 0.0, 0.0, apart).max(axis=0), np.array(chosen)[apart.argmax(axis=0)]
    )


def _warm_up(worst: Mapping[int, float]) -> int | None:
    """The shortest history from which on every difference is within the tolerance, None where the longest is not."""
    needed = None
    for history in sorted(worst, reverse=True):
        if worst[history] > TOLERANCE:
            break
        needed = history
    return needed


def in_run(tables: MarketTables, no_trade_bars: int) -> NDArray[np.int64]:
    """Bars of its run up to and including each bar, int64[n]."""
    return np.arange(len(tables.bars)) - run_starts(tables.bars, tables.sessions, no_trade_bars) + 1


def _tested_bars(tables: MarketTables, no_trade_bars: int, most: int) -> tuple[list[int], list[int]]:
    """Decision bars among those with the longest histories, at different times of day, and their histories; the
    longest first."""
    length = in_run(tables, no_trade_bars)
    decides = (tables.flags & DECISION) != 0
    candidates = np.flatnonzero(decides & (length >= 2 * length[decides].max(initial=0) // 3))
    places = np.unique(np.linspace(0, len(candidates) - 1, min(most, len(candidates))).astype(int))
    bars = candidates[places][np.argsort(-length[candidates[places]], kind="stable")]
    return [int(bar) for bar in bars], [int(length[bar]) for bar in bars]


# ---------------------------------------------------------------- what is masked


@dataclass(frozen=True)
class Masked:
    """Entry bars of a file, the bars of a run in which no entry is allowed, and how many entry bars have fewer bars
    than a feature needs that has no zero there, with the names of such features by bars needed."""

    entries: int
    warmup_bars: int
    inside: Mapping[int, int]
    names: Mapping[int, Sequence[str]]


def masked(tables: MarketTables, data: DataSettings, found: WarmUps) -> Masked:
    """What the mask of entries leaves inside the features' warm-ups."""
    length = in_run(tables, data.no_trade_bars)[(tables.flags & ENTRY_ALLOWED) != 0]
    warmup_bars = data.warmup_bars or WARMUP_BARS
    names: dict[int, list[str]] = {}
    for feature in found.features:
        if feature.exposed_bars is not None and (needed := feature.entry_bars(feature.exposed_bars)) > warmup_bars:
            names.setdefault(needed, []).append(feature.name)
    inside = {needed: int((length < needed).sum()) for needed in sorted(names)}
    return Masked(len(length), warmup_bars, inside, names)


def warm_up_lines(found: WarmUps, mask: Masked) -> list[str]:
    """The warm-ups in words, and what the mask of entries leaves inside them."""
    lines = [f"Bars of history that bring a feature within {TOLERANCE:g} of its final value ({found.source}):"]
    lines += [f"{bars:,}: {', '.join(names)}" for bars, names in found.by_bars().items()]
    lines.append(
        f"A feature is zero until its lookback is complete, and no entry is allowed in the first {mask.warmup_bars:,} "
        f"bars after a hole, a roll or the file's start. Of {mask.entries:,} entry bars:"
    )
    lines += [
        f"{count:,} have fewer than {needed:,} bars, which {', '.join(dict.fromkeys(mask.names[needed]))} "
        f"{'needs' if len(set(mask.names[needed])) == 1 else 'need'}."
        for needed, count in mask.inside.items()
    ]
    return [*lines, "data.warmup_bars masks more."]


# ---------------------------------------------------------------- the command


def main(argv: Sequence[str] | None = None) -> int:
    """Print the warm-up of every feature on synthetic bars; 1 where one never converges."""
    parser = argparse.ArgumentParser(description="Bars of history that each feature needs, on synthetic bars")
    parser.add_argument("--sessions", type=int, default=SESSIONS, help="of synthetic bars")
    parser.add_argument("--interval-min", type=int, default=5, help="minutes a bar (default: %(default)s)")
    parser.add_argument("--trading-hours", choices=("rth", "globex"), default="rth", help="default: %(default)s")
    args = parser.parse_args(argv)
    bars = synthetic_bars("NQ", args.sessions, args.interval_min, 0)
    found = warm_ups(bars, DataSettings(), args.trading_hours)
    table = Table(title=f"Warm-up: {found.source}, {found.bars_tested} bars", title_justify="left", box=None)
    shown = [history for history in (53, 100, 300, 1_000, 3_000, 10_000) if history <= found.longest]
    for heading in ("feature", "of", "warm-up", "exposed", *(f"{history:,}" for history in shown)):
        table.add_column(heading, justify="left" if heading in ("feature", "of") else "right")
    for feature in found.features:
        needed = ["never" if bars is None else f"{bars:,}" for bars in (feature.bars, feature.exposed_bars)]
        table.add_row(feature.name, feature.group, *needed, *(f"{feature.worst[history]:.3f}" for history in shown))
    Console(width=100).print(uncut(table))
    return int(bool(found.diverging))


if __name__ == "__main__":
    sys.exit(main())
