"""Walk-forward folds: train on earlier sessions, test on the next block."""

from __future__ import annotations

import numpy as np

from src.agent.market import Market
from src.errors import BarDataError
from src.market.bars import frozen
from src.market.split import Split, embargo_for


def folds_of(market: Market, n_folds: int, embargo: int | None) -> list[Split]:
    """`n_folds` splits of the usable sessions in time order, cut into one block more than there are folds: fold k
    trains on the blocks up to k and tests on the next, after the embargo. BarDataError where a block would be empty."""
    if not n_folds:
        return []
    usable = np.flatnonzero(market.tables.sessions.usable)
    gap = embargo_for(len(usable), embargo)
    blocks = np.array_split(usable, n_folds + 1)
    if min(map(len, blocks)) <= gap:
        raise BarDataError(
            f"{len(usable)} usable sessions are too few for {n_folds} walk-forward folds with an embargo of {gap}: "
            f"give more bars or fewer folds (evidence.walk_forward, --walk-forward)."
        )
    return [
        Split(
            train=frozen(np.concatenate(blocks[: k + 1]), np.int32),
            validation=frozen(usable[:0], np.int32),
            test=frozen(blocks[k + 1][gap:], np.int32),
            embargo=gap,
        )
        for k in range(n_folds)
    ]
