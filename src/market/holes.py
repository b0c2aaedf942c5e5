"""Holes in the bars of a session: where they are, and which of them recur on a weekday."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.market.bars import Bars
from src.market.coverage import WEEKDAYS, new_york_minutes, new_york_text, weekdays
from src.market.sessions import Sessions
from src.market.tables import missing_slots
from src.market.units import MINUTE_NS

PLACES = AT_START, INSIDE, TO_END, FILE_BEGINS, FILE_ENDS = (
    "at the session's start",
    "inside",
    "to the session's end",
    "before the file begins",
    "after the file ends",
)
RECURS_TIMES, RECURS_FRAC = 4, 0.3
"""A hole recurs if it begins at one time of day in so many sessions of a weekday and in so large a share of them."""
LEAST_MIN = 30
"""A shorter hole is no vendor's habit: at night, thin markets go without a trade for minutes again and again."""
MOST_RECURRING = 10
NEAR_MIN = 15
"""Begins of a recurring hole lie within so many minutes: the last bar before it may have had no trade."""
LISTED = 500
"""The longest holes listed."""

_DAY_MIN = 24 * 60
_ONE_END = 0.9


@dataclass(frozen=True, eq=False)
class Holes:
    """Stretches of scheduled bars that are missing in a session that has bars; arrays of length h, in time order."""

    session: NDArray[np.int64]
    start_ns: NDArray[np.int64]
    """The first missing slot."""
    bars: NDArray[np.int64]
    place: NDArray[np.int8]
    """Index into PLACES."""
    last_ns: NDArray[np.int64]
    """The bar before the hole: the slot before it at a session's start."""
    next_ns: NDArray[np.int64]
    """The bar after the hole: the session's close at its end."""

    def __len__(self) -> int:
        return len(self.session)

    def to_dict(self, sessions: Sessions, interval_ns: int) -> dict[str, Any]:
        """How many, the longest of them, and those that recur."""
        longest = np.sort(np.argsort(-self.bars, kind="stable")[:LISTED])
        return {
            "count": len(self),
            "bars": int(self.bars.sum()),
            "sessions": len(np.unique(self.session)),
            "listed": [
                {"trade_date": str(sessions.date[session]), "start": start, "bars": bars, "place": PLACES[place]}
                for session, start, bars, place in zip(
                    self.session[longest].tolist(),
                    new_york_text(self.start_ns[longest]),
                    self.bars[longest].tolist(),
                    self.place[longest].tolist(),
                    strict=True,
                )
            ],
            "recurring": _recurring(self, sessions, interval_ns),
        }


def holes_of(bars: Bars, sessions: Sessions, no_trade_bars: int) -> Holes:
    """Every stretch of more than `no_trade_bars` missing bars inside a session, at its start or at its end."""
    step = bars.interval_ns
    first, last = sessions.first_bar, sessions.end_bar - 1
    pairs = np.flatnonzero(np.diff(bars.open_ns) > step)
    pairs = pairs[bars.session_id[pairs] == bars.session_id[pairs + 1]]
    every = np.arange(len(sessions))
    before = np.concatenate((sessions.open_ns - step, bars.open_ns[pairs], bars.open_ns[last]))
    after = np.concatenate((bars.open_ns[first], bars.open_ns[pairs + 1], sessions.close_ns))
    owner = np.concatenate((every, bars.session_id[pairs], every)).astype(np.int64)
    place = np.repeat(np.array([0, 1, 2], dtype=np.int8), (len(every), len(pairs), len(every)))
    place[0], place[-1] = PLACES.index(FILE_BEGINS), PLACES.index(FILE_ENDS)
    halt_start, halt_end = sessions.halt_start_ns[owner], sessions.halt_end_ns[owner]
    lacking = missing_slots(before, after, halt_start, halt_end, step)
    start = before + step
    start = np.where((start >= halt_start) & (start < halt_end), halt_end, start)
    found = np.flatnonzero(lacking > no_trade_bars)
    found = found[np.argsort(start[found], kind="stable")]
    return Holes(owner[found], start[found], lacking[found], place[found], before[found], after[found])


def _recurring(holes: Holes, sessions: Sessions, interval_ns: int) -> list[dict[str, Any]]:
    """One entry for each time of day at which holes begin on a weekday again and again, those that cost most first."""
    weekday = weekdays(sessions.date)
    kept = (holes.place < PLACES.index(FILE_BEGINS)) & (holes.bars * interval_ns >= LEAST_MIN * MINUTE_NS)
    session, bars, place = holes.session[kept], holes.bars[kept], holes.place[kept]
    # Minutes from 18:00, so that no session wraps around.
    minute, last, following = (
        (new_york_minutes(times[kept]) - 18 * 60) % _DAY_MIN for times in (holes.start_ns, holes.last_ns, holes.next_ns)
    )
    found = []
    for day in np.unique(weekday).tolist():
        left = np.flatnonzero(weekday[session] == day)
        while len(left) >= RECURS_TIMES:
            near = _densest(minute[left])
            group = left[near]
            held = np.unique(session[group])
            span = np.flatnonzero((weekday == day) & (np.arange(len(weekday)) >= held[0]))
            span = span[span <= held[-1]]
            if len(held) < RECURS_TIMES or len(held) < RECURS_FRAC * len(span):
                break
            found.append(
                {
                    "weekday": WEEKDAYS[day],
                    "start": _usual_clock(minute[group]),
                    "last_bar": _usual_clock(last[group]),
                    "next_bar": _usual_clock(following[group]),
                    "sessions": len(held),
                    "of_sessions": len(span),
                    "bars": int(np.median(bars[group])),
                    "place": PLACES[_common(place[group])],
                    "first": str(sessions.date[held[0]]),
                    "last": str(sessions.date[held[-1]]),
                }
            )
            left = np.setdiff1d(left, group)
    merged = _alike_on_all_days(found, [WEEKDAYS[day] for day in np.unique(weekday).tolist()])
    return sorted(merged, key=lambda hole: -hole["sessions"] * hole["bars"])[:MOST_RECURRING]


def _densest(minute: NDArray[np.int64]) -> NDArray[np.intp]:
    """The indices of the values in the fullest window of NEAR_MIN minutes."""
    order = np.argsort(minute, kind="stable")
    rising = minute[order]
    end = np.searchsorted(rising, rising + NEAR_MIN, side="right")
    begin = int(np.argmax(end - np.arange(len(rising))))
    return order[begin : end[begin]]


def _common(place: NDArray[np.int8]) -> int:
    """The place that nearly all have, else "inside"."""
    counts = np.bincount(place, minlength=3)
    return int(counts.argmax()) if counts.max() >= _ONE_END * counts.sum() else PLACES.index(INSIDE)


def _usual_clock(minutes: NDArray[np.int64]) -> str:
    """The most frequent of these times, as New York clock time."""
    values, counts = np.unique(minutes, return_counts=True)
    hour, rest = divmod((int(values[counts.argmax()]) + 18 * 60) % _DAY_MIN, 60)
    return f"{hour:02d}:{rest:02d}"


def _alike_on_all_days(found: list[dict[str, Any]], days: list[str]) -> list[dict[str, Any]]:
    """Holes that begin at one time on every weekday as one entry."""
    if len(days) < 3:
        return found
    merged: list[dict[str, Any]] = []
    for entry in found:
        alike = [other for other in found if (other["start"], other["place"]) == (entry["start"], entry["place"])]
        if {other["weekday"] for other in alike} != set(days):
            merged.append(entry)
        elif entry is alike[0]:
            merged.append(
                entry
                | {
                    "weekday": "every weekday",
                    "sessions": sum(other["sessions"] for other in alike),
                    "of_sessions": sum(other["of_sessions"] for other in alike),
                    "bars": max(other["bars"] for other in alike),
                    "first": min(other["first"] for other in alike),
                    "last": max(other["last"] for other in alike),
                }
            )
    return merged
