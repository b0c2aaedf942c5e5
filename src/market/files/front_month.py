"""Select the front-month contract among several."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from src.market.sessions import Schedule, schedule_around


def front_month(
    open_ns: NDArray[np.int64],
    contract: NDArray[np.int16],
    volume: NDArray[np.int64],
    schedule: Schedule | None = None,
) -> NDArray[np.bool_]:
    """Which rows belong to the session's front month, bool[n]; rows in time order, `contract` a code per row.

    The rule uses no future data: a session's front month is the contract with the most volume in the file's previous
    session. If there is no previous session, or that contract does not trade in this one, it is the contract with the
    most volume at the session's first time. A contract that was rolled out of is not used again while another trades.
    """
    schedule = schedule_around(open_ns) if schedule is None else schedule
    owner = np.searchsorted(schedule.open_ns, open_ns, side="right")
    edges = np.flatnonzero(np.concatenate(([True], owner[1:] != owner[:-1], [True])))
    n_contracts = int(contract.max()) + 1
    keep = np.zeros(len(open_ns), dtype=bool)
    left = np.zeros(n_contracts, dtype=bool)
    held = -1
    before: NDArray = np.zeros(n_contracts)
    for start, end in pairwise(edges.tolist()):
        codes = contract[start:end]
        trades = np.bincount(codes, minlength=n_contracts) > 0
        choice = int(np.argmax(np.where(left, -1.0, before))) if before.any() else held
        if choice < 0 or not trades[choice]:
            first = open_ns[start:end] == open_ns[start]
            opening = np.bincount(codes[first], weights=volume[start:end][first] + 1, minlength=n_contracts)
            fresh = np.where(left, 0.0, opening)
            choice = int(np.argmax(fresh if fresh.any() else opening))
        if choice != held and held >= 0:
            left[held] = True
        held = choice
        left[held] = False
        keep[start:end] = codes == held
        before = np.bincount(codes, weights=volume[start:end], minlength=n_contracts)
    return keep
