"""Train, validation and sealed test: whole sessions in time order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.errors import BarDataError
from src.market.bars import frozen
from src.market.sessions import Sessions

EMBARGO_FROM_SESSIONS = 40
"""With fewer usable sessions than this, an embargo would cost more than it protects."""


@dataclass(frozen=True, eq=False)
class Split:
    """Session ids (int32, rising) of the three parts, and the number of usable sessions left out at each split."""

    train: NDArray[np.int32]
    validation: NDArray[np.int32]
    test: NDArray[np.int32]
    embargo: int


def spans_of(session_ids: NDArray[np.integer[Any]]) -> list[list[int]]:
    """Session ids in any order as spans [first, last], both included: a short record of which sessions were read."""
    ids = np.unique(session_ids)
    return [[int(part[0]), int(part[-1])] for part in np.split(ids, np.flatnonzero(np.diff(ids) > 1) + 1) if len(part)]


def ids_of(spans: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """The session ids of `spans_of`, int64[k], rising."""
    return np.concatenate([np.arange(first, last + 1) for first, last in spans] or [np.empty(0, np.int64)])


def _part_ends(n: int, train_frac: float, validation_frac: float) -> tuple[int, int]:
    train = max(1, round(n * train_frac))
    return train, train + max(1, round(n * validation_frac))


def _fits(n: int, train_frac: float, validation_frac: float, embargo: int | None) -> bool:
    train_end, validation_end = _part_ends(n, train_frac, validation_frac)
    gap = embargo_for(n, embargo)
    return train_end + gap < validation_end and validation_end + gap < n


def embargo_for(n_usable: int, embargo: int | None = None) -> int:
    """Sessions left out at each split: as given, else 1 with at least EMBARGO_FROM_SESSIONS sessions, else 0."""
    return embargo if embargo is not None else int(n_usable >= EMBARGO_FROM_SESSIONS)


def split_sessions(
    sessions: Sessions, train_frac: float = 0.6, validation_frac: float = 0.2, embargo: int | None = None
) -> Split:
    """Split the usable sessions in time order; the embargo is taken from the start of the later part.

    Raises BarDataError with the number of usable sessions needed if a part would be empty.
    """
    usable = np.flatnonzero(sessions.usable)
    n = len(usable)
    if not _fits(n, train_frac, validation_frac, embargo):
        enough = (k for k in range(n + 1, n + 20_000) if _fits(k, train_frac, validation_frac, embargo))
        needed = next(enough, None)
        raise BarDataError(
            f"{n} usable sessions (of {len(sessions)} in the bars) cannot be split into train, validation and sealed "
            f"test with train_frac {train_frac}, validation_frac {validation_frac}, embargo {embargo_for(n, embargo)}: "
            f"{f'at least {needed} are needed' if needed else 'no number of sessions is enough'}. "
            f"{_remedy(sessions, n, needed, embargo)}"
        )
    train_end, validation_end = _part_ends(n, train_frac, validation_frac)
    gap = embargo_for(n, embargo)
    return Split(
        train=frozen(usable[:train_end], np.int32),
        validation=frozen(usable[train_end + gap : validation_end], np.int32),
        test=frozen(usable[validation_end + gap :], np.int32),
        embargo=gap,
    )


def _remedy(sessions: Sessions, n: int, needed: int | None, embargo: int | None) -> str:
    """More bars help only if it is not the bars at hand that cannot be used."""
    if needed is None:
        return "Give the validation and test parts a larger share."
    less = ", or lower data.embargo_sessions" if embargo else ""
    if needed > len(sessions):
        return f"Give bars of more sessions{less}."
    reason, count = Counter(reason for reason in sessions.reason if reason).most_common(1)[0]
    return (
        f"{len(sessions) - n} sessions are left out, {count} of them because: {reason}. If the bars lie at the wrong "
        f"time of day, give their time zone; if they have holes, export them again and whole{less}."
    )
