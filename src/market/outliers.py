"""Bars that are odd next to the bars around them, and stretches without volume. They are listed and kept."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.market.bars import Bars
from src.market.contracts import get_contract
from src.market.coverage import new_york_text
from src.market.sessions import Sessions

FAR = 25.0
"""A range, or a jump from one close to the next open, of so many times the usual range is an outlier.

Real five-minute bars of two years reach that in 5 (ES) and 1 (NQ) bars, most of them at scheduled news.
"""
SPIKE, CALM = 12.0, 3.0
"""So is a range of SPIKE times the usual one in a bar that opens, closes and is followed within CALM: a bad tick."""
LISTED = 50
"""The largest outliers and the longest stretches without volume listed."""

_BLOCK = 64  # bars; the usual range is a median over three blocks


def outliers(bars: Bars, sessions: Sessions, no_trade_bars: int) -> dict[str, Any]:
    """How many bars are outliers, and the largest of them; `ratio` is in usual ranges.

    The usual range is the median range of the bar's block of 64 bars and its two neighbors, at least one tick. Jumps
    count within a session and a contract, from one bar to the next that traded.
    """
    if len(bars) == 0:
        return {"count": 0, "sessions": 0, "listed": []}
    range_ticks = bars.high - bars.low
    usual = _usual(range_ticks)
    jump = np.zeros(len(bars), dtype=np.int32)
    follows = (
        (bars.session_id[1:] == bars.session_id[:-1])
        & (bars.contract[1:] == bars.contract[:-1])
        & (np.diff(bars.open_ns) <= (no_trade_bars + 1) * bars.interval_ns)
    )
    jump[1:] = np.where(follows, np.abs(bars.open[1:] - bars.close[:-1]), 0)
    moved = np.maximum(jump, np.abs(bars.close - bars.open))
    moved[:-1] = np.maximum(moved[:-1], jump[1:])
    spike = (range_ticks >= SPIKE * usual) & (moved <= CALM * usual)
    most = np.maximum(range_ticks, jump)
    ratio = most / usual
    found = np.flatnonzero((ratio >= FAR) | spike)
    listed = np.sort(found[np.argsort(-ratio[found], kind="stable")[:LISTED]])
    tick = float(get_contract(bars.market).tick_size)
    return {
        "count": len(found),
        "sessions": len(np.unique(bars.session_id[found])),
        "listed": [
            {
                "trade_date": str(sessions.date[bars.session_id[i]]),
                "start": start,
                "kind": "spike" if spike[i] else "jump" if jump[i] > range_ticks[i] else "range",
                "points": float(most[i]) * tick,
                "usual_points": float(usual[i]) * tick,
                "ratio": round(float(ratio[i]), 1),
            }
            for i, start in zip(listed.tolist(), new_york_text(bars.open_ns[listed]), strict=True)
        ],
    }


def _usual(range_ticks: NDArray[np.int32]) -> NDArray[np.float64]:
    """The median range around each bar, at least 1 tick; float64[n]."""
    n = len(range_ticks)
    blocks = -(-n // _BLOCK)
    padded = np.concatenate((range_ticks, np.full(blocks * _BLOCK - n, range_ticks[-1], dtype=np.int32)))
    middles = np.median(padded.reshape(blocks, _BLOCK), axis=1)
    around = np.pad(middles, 1, mode="edge")
    of_three = np.median(np.stack((around[:-2], around[1:-1], around[2:])), axis=0)
    return np.repeat(np.maximum(of_three, 1.0), _BLOCK)[:n]


def zero_volume(bars: Bars, sessions: Sessions, no_trade_bars: int) -> dict[str, Any]:
    """Bars without volume, and the stretches of more than `no_trade_bars` of them in one session."""
    without = bars.volume == 0
    total = int(without.sum())
    if total in (0, len(bars)):
        return {"bars": total, "stretches": 0, "sessions": 0, "listed": []}
    begins, ends = _runs(without, bars.session_id)
    kept = ends - begins > no_trade_bars
    begins, ends = begins[kept], ends[kept]
    longest = np.sort(np.argsort(begins - ends, kind="stable")[:LISTED])
    return {
        "bars": total,
        "stretches": len(begins),
        "sessions": len(np.unique(bars.session_id[begins])),
        "listed": [
            {"trade_date": str(sessions.date[bars.session_id[begin]]), "start": start, "bars": end - begin}
            for begin, end, start in zip(
                begins[longest].tolist(),
                ends[longest].tolist(),
                new_york_text(bars.open_ns[begins[longest]]),
                strict=True,
            )
        ],
    }


def _runs(holds: NDArray[np.bool_], owner: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Begin and end of every run of true values with one owner."""
    same = holds[1:] & holds[:-1] & (owner[1:] == owner[:-1])
    begins = np.flatnonzero(holds & ~np.concatenate(([False], same)))
    ends = np.flatnonzero(holds & ~np.concatenate((same, [False]))) + 1
    return begins, ends
