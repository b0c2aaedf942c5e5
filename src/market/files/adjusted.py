"""Detect back-adjusted series: prices off the tick grid, below zero or outside the traded range; rolls without gaps."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from src.errors import BarDataError
from src.market.contracts import Contract
from src.market.files.price_level import judge_prices
from src.market.files.reading import Finding
from src.market.files.rolls import RollWindow, Series, roll_windows_of, session_edges
from src.market.files.rows import FileRows
from src.market.units import TICK_TOLERANCE

OFF_TICK_SHARE = 0.01
"""Above this share of off-tick rows the series is adjusted; below it, single rows are defective (Yahoo: up to 0.2%)."""
ADJUSTED = "adjusted series"

_FEW_ROWS = 3
_CHUNK = 1 << 18  # rows per pass, to limit temporary memory
_CELLS = 10_000
_GAP_SHOWS = 0.004  # smallest expected gap that stands out from a session's usual opening move
_GAP_ERROR = 0.25  # relative error of the expected gap: rates and dividends are rounded
_ROLLS_ELSEWHERE = 0.05  # prior probability of a roll outside the window or without a visible gap
_SEEN_INSIDE = 10.0
_LOG_ODDS = 3.0  # measured: ES -4.4, NQ (with holes) 2.2; with the gaps removed 7.6 and 5.1
_FEW_EDGES = 8
_T2_MEDIAN = 0.816  # median of the absolute value of Student's t with 2 degrees of freedom
_LEAST_MOVE, _UNKNOWN_MOVE = 1e-4, 0.01
_WEEKEND_MOVE = 5e-4  # measured on ES and NQ: 1.4e-3
_BREAK_NS = 2 * 3_600_000_000_000
_WEEKEND_NS = 40 * 3_600_000_000_000

# FirstRate: continuous_ratio_adjusted, continuous_absolute_adjusted; Norgate: _CCB. Not: unadjusted, non_adjusted.
_NAMED_ADJUSTED = re.compile(r"(?<!un)(?<!un[-_ ])(?<!non)(?<!non[-_ ])adj(?:usted|\b|_)|[_-]ccb\b", re.IGNORECASE)

_REMEDY = (
    "Export the series unadjusted (NinjaTrader: merge policy MergeNonBackAdjusted; TradingView: switch off the "
    "adjustment for contract changes; FirstRate and Kibot: the unadjusted file), or set data.adjusted: accept in a "
    "--config file to trade at prices that never existed"
)


def check_adjusted(rows: FileRows, contract: Contract, *, accept: bool) -> tuple[Finding, ...]:
    """Check whether a table's prices are adjusted; empty if they are not.

    Raises:
        BarDataError: the prices are adjusted and `accept` is false.
    """
    evidence = _evidence(rows, contract)
    if evidence is None:
        return ()
    count, words = evidence
    if not accept:
        raise BarDataError(f"{rows.label}: an adjusted series: {words}. {_REMEDY}.")
    return (Finding(ADJUSTED, "tolerated", count, words, "used unchanged: data.adjusted is accept"),)


def _evidence(rows: FileRows, contract: Contract) -> tuple[int, str] | None:
    below = rows.prices[:, 3] <= 0
    if below.sum() > max(_FEW_ROWS, OFF_TICK_SHARE * len(rows)):
        first = int(np.argmax(below))
        return int(below.sum()), (
            f"{int(below.sum()):,} of {len(rows):,} closes are zero or less ({rows.prices[first, 3]:,.2f} at "
            f"{rows.time_text(first)})"
        )
    off = off_tick(rows.prices, contract)
    if off is not None:
        return off
    if _NAMED_ADJUSTED.search(rows.file.name) or _NAMED_ADJUSTED.search(rows.label.rpartition("/")[2]):
        return len(rows), "the file name says so"
    level = judge_prices(rows.time_ns, rows.prices[:, 3], contract.symbol)
    return (len(rows), level.words) if level.level == "never traded" else None


def off_tick(prices: NDArray[np.float64], contract: Contract) -> tuple[int, str] | None:
    """Count off-tick rows and describe them; None if there are few enough to be defects of single rows.

    Prices shown with fewer decimals than the tick has are not off tick.

    Shapes: prices float64[n, 4].
    Units: points.
    """
    tick = float(contract.tick_size)
    parts = [_off_rows(prices[start : start + _CHUNK], tick) for start in range(0, len(prices), _CHUNK)]
    known = sum(part.known for part in parts)
    one_decimal = tick / 2 > 0.05 and tick < 1 and all(part.one_decimal for part in parts)
    count = sum(part.far_rows if one_decimal else part.rows for part in parts)
    if count <= max(_FEW_ROWS, OFF_TICK_SHARE * known):
        return None
    cells = np.concatenate([part.cells for part in parts])
    remainders, times = np.unique(np.round(cells / tick % 1.0, 3), return_counts=True)
    where = f"{count:,} of {known:,} rows are off the tick of {tick:g} ({cells[0]:.10g}"
    if times.max() >= 0.9 * times.sum() and count >= 0.9 * known:
        return count, f"{where}), all by {remainders[times.argmax()] * tick:.4g}: a constant was added"
    return count, (
        f"{where}), with {len(remainders):,} different remainders: prices were multiplied, or are quotes of a CFD or "
        f"cash index"
    )


@dataclass(frozen=True)
class _OffRows:
    """Off-tick rows in one chunk of rows."""

    known: int
    rows: int
    far_rows: int
    """Rows further off than rounding to one decimal explains (6850.2 for 6850.25)."""
    one_decimal: bool
    cells: NDArray[np.float64]
    """The off-tick prices, at most _CELLS of them."""


def _off_rows(prices: NDArray[np.float64], tick: float) -> _OffRows:
    if not np.isfinite(prices.sum()):
        prices = prices[np.isfinite(prices).all(axis=1)]
    away = prices / tick
    away -= np.rint(away)
    np.abs(away, out=away)
    bad = away > TICK_TOLERANCE
    if not bad.any():
        return _OffRows(len(prices), 0, 0, True, np.empty(0))
    off = prices[bad]
    return _OffRows(
        known=len(prices),
        rows=int(bad.any(axis=1).sum()),
        far_rows=int((away > 0.0501 / tick).any(axis=1).sum()),
        one_decimal=bool((np.abs(off * 10 - np.rint(off * 10)) < 1e-3).all()),
        cells=off[:_CELLS],
    )


def check_gaps(series: Series, *, label: str, accept: bool) -> tuple[Finding, ...]:
    """Check whether the price gaps expected at quarterly rolls are missing, where interest rates make them large.

    Each window's likelihood ratio compares two hypotheses: one of its session edges jumped by the expected gap on top
    of the usual move, or none did. Usual moves follow Student's t with 2 degrees of freedom and the scales of
    `_usual_moves`.

    Raises:
        BarDataError: the odds against any gap are 1,000 to 1 or more and `accept` is false.
    """
    windows = [window for window in roll_windows_of(series) if window.whole and abs(window.expected) >= _GAP_SHOWS]
    if not windows:
        return ()
    scales = _usual_moves(series)
    if not _moves_over_weekends(scales):
        return ()
    scales = np.where(np.isnan(scales), _UNKNOWN_MOVE, scales)
    ratios = np.array([_ratio(window, scales) for window in windows])
    if -float(np.log10(ratios).sum()) < _LOG_ODDS:
        return ()
    missing = int((ratios < 1).sum())
    usual = np.mean([abs(window.expected) for window in windows])
    words = (
        f"{missing} of {len(windows)} quarterly rolls from {windows[0].year}-{windows[0].month:02} to "
        f"{windows[-1].year}-{windows[-1].month:02} show no gap, although interest rates imply about {100 * usual:.1f}%"
    )
    if not accept:
        raise BarDataError(f"{label}: an adjusted series: {words}. {_REMEDY}.")
    return (Finding(ADJUSTED, "tolerated", missing, words, "used unchanged: data.adjusted is accept"),)


def _usual_moves(series: Series) -> NDArray[np.float64]:
    """Scales of the series' own jumps over a daily break, a weekend and a hole, as fractions of the price; float64[3].

    Each is the scale of Student's t with 2 degrees of freedom and the same median; NaN if there are too few jumps.
    """
    open_ns, ticks = series.open_ns, series.ticks
    edges = session_edges(open_ns, series.schedule)[0]
    edges = edges[edges > 0]
    jumps = np.abs(ticks[edges, 0] / ticks[edges - 1, 3] - 1.0)
    kind = _kind_of_edge(open_ns[edges] - open_ns[edges - 1])
    scales = np.full(3, np.nan)
    for k in range(3):
        if (kind == k).sum() >= _FEW_EDGES:
            scales[k] = max(float(np.median(jumps[kind == k])) / _T2_MEDIAN, _LEAST_MOVE)
    return scales


def _kind_of_edge(closed_ns: NDArray[np.int64]) -> NDArray[np.intp]:
    """0 for a daily break, 1 for a weekend, 2 for a hole or a holiday."""
    return np.where(closed_ns < _BREAK_NS, 0, np.where(closed_ns >= _WEEKEND_NS, 1, 2))


def _moves_over_weekends(scales: NDArray[np.float64]) -> bool:
    """Whether the series moves over weekends, as every market does.

    False for synthetic bars and for too few weekends: there, missing gaps prove nothing.
    """
    return bool(scales[1] >= _WEEKEND_MOVE)


def _ratio(window: RollWindow, scales: NDArray[np.float64]) -> float:
    """Likelihood ratio of the window's jumps: one gap of about the expected size against none."""
    scale = scales[_kind_of_edge(window.closed_ns)]
    wide = np.hypot(scale, _GAP_ERROR * window.expected)
    gap = float(np.mean(_student_t2(window.jumps - window.expected, wide) / _student_t2(window.jumps, scale)))
    ratio = (1 - _ROLLS_ELSEWHERE) * gap + _ROLLS_ELSEWHERE
    return max(ratio, _SEEN_INSIDE) if len(window.inside) else ratio


def _student_t2(values: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Density of Student's t with 2 degrees of freedom, up to a constant."""
    return (1 + (values / scale) ** 2 / 2) ** -1.5 / scale
