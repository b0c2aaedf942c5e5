"""Series in the form of bars that are something else: volume in another unit or as a total, Heikin-Ashi prices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from src.market.bar_rows import BarRows
from src.market.contracts import Contract

_MOST_ROWS = 200_000
_LEAST_ROWS = 200
_LEAST_BODIES = 50
_RISES, _FALLS = 0.6, 0.06  # a bar's own volume falls about as often as it rises, a total once a session
_FRACTIONS = 0.5
_BODY_TICKS = 6.0  # bodies at least this long tell their middle from their close, near which real bars open
_MIDDLE_FRAC = 0.9


@dataclass(frozen=True)
class SeriesFault:
    """What a column holds instead of bars, and the fix."""

    kind: str
    column: str
    count: int
    words: str
    remedy: str


def series_fault(rows: BarRows, contract: Contract) -> SeriesFault | None:
    """The fault of the whole series, from the first 200,000 rows; None for bars or too few rows to tell."""
    if len(rows) < _LEAST_ROWS:
        return None
    code = rows.contract[:_MOST_ROWS]
    beside = code[1:] == code[:-1]
    return _no_counts(rows) or _running_total(rows, beside) or _averaged(rows, beside, contract)


def _no_counts(rows: BarRows) -> SeriesFault | None:
    volume = rows.volume[:_MOST_ROWS]
    traded = volume > 0
    if rows.volume_kind == "contracts" and traded.all() and (volume == volume[0]).all():
        return SeriesFault(
            "constant volume",
            "volume",
            len(rows),
            f"not a number of contracts: every volume is {volume[0]:g}",
            "export each bar's volume; if there is none, write 0, and the file is used without volume",
        )
    broken = traded & (volume != np.rint(volume))
    count = int(broken.sum())
    if rows.volume_kind != "contracts" or count <= _FRACTIONS * traded.sum():
        return None
    return SeriesFault(
        "fractional volume",
        "volume",
        len(rows),
        f"not a number of contracts: {count:,} of {int(traded.sum()):,} volumes are fractions (the first is "
        f"{volume[int(broken.argmax())]:g})",
        "export volume in contracts; if these are thousands or lots, multiply them",
    )


def _running_total(rows: BarRows, beside: np.ndarray) -> SeriesFault | None:
    steps = np.diff(rows.volume[:_MOST_ROWS])[beside]
    falls, rises = int((steps < 0).sum()), int((steps > 0).sum())
    if steps.size < _LEAST_ROWS or rises < _RISES * steps.size or falls > _FALLS * steps.size:
        return None
    return SeriesFault(
        "running total",
        "volume",
        len(rows),
        f"a running total: it rises in {rises:,} and falls in {falls:,} of {steps.size:,} steps",
        "export each bar's own volume, or subtract the total of the bar before",
    )


def _averaged(rows: BarRows, beside: np.ndarray, contract: Contract) -> SeriesFault | None:
    tick = float(contract.tick_size)
    opened, close = rows.prices[:_MOST_ROWS, 0], rows.prices[:_MOST_ROWS, 3]
    long = beside & (np.abs(close[:-1] - opened[:-1]) >= _BODY_TICKS * tick)
    middle = (opened[:-1] + close[:-1]) / 2
    in_middle = int((long & (np.abs(opened[1:] - middle) <= tick)).sum())
    if long.sum() < _LEAST_BODIES or in_middle < _MIDDLE_FRAC * long.sum():
        return None
    return SeriesFault(
        "Heikin-Ashi bars",
        "open",
        len(rows),
        f"that of Heikin-Ashi bars: {in_middle:,} of {int(long.sum()):,} open in the middle of the bar before, not "
        f"near its close. Such prices are averages and never traded",
        "switch the chart to candles or bars, and export it again",
    )
