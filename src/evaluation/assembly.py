"""The pure part of the advice features, written outside the kernel: context by bar, opinions by situation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from src.advisor.table import AdviceTable, renormalise
from src.trading.layout import CONTEXT, N_ACTIONS
from src.trading.session_batch import SessionBatch


class AdviceFeed(Protocol):
    """The advice table of an arm and its row for each situation."""

    @property
    def table(self) -> AdviceTable:
        """Where the rows are."""

    def situations(self, batch: SessionBatch) -> NDArray[np.int64]:
        """The situation whose row each account gets, int64[n]; negative for none."""


@dataclass(frozen=True)
class TableFeed:
    """Advice about the situation an account is in, from a table of the arm's own."""

    table: AdviceTable

    def situations(self, batch: SessionBatch) -> NDArray[np.int64]:
        """Where the accounts stand."""
        return batch.situations()


class FeatureAssembly:
    """Writes the pure part of the 33 advice features: 22 context values by bar, 6 opinion values by situation.

    Rows come straight from the tables: looking them up in a cache took 25 times as long. `opinion_lookups` and
    `opinions_given` count opinions asked of `table` and those that were no abstention; an arm's own feed counts in
    neither.
    """

    def __init__(self, context: NDArray[np.float32], table: AdviceTable) -> None:
        self._context = context
        self._feed = TableFeed(table)
        self.opinion_lookups = 0
        self.opinions_given = 0

    def write_context(self, batch: SessionBatch) -> None:
        """Fill the context slice of the sessions that are not over."""
        rows = np.flatnonzero(~batch.over)
        batch.obs[rows, CONTEXT] = self._context[batch.bars()[rows]]

    def opinions(self, batch: SessionBatch, feed: AdviceFeed | None = None) -> NDArray[np.float32]:
        """Advice over what is legal now, float32[n, 6], of `feed` where an arm has one.

        Zeros where the advisor abstains, the feed has no row, or the session is over.
        """
        asked = feed or self._feed
        situations = asked.situations(batch)
        opinions = np.zeros((batch.n, N_ACTIONS), np.float32)
        rows = np.flatnonzero(~batch.over & (situations >= 0))
        opinions[rows] = renormalise(asked.table.probabilities[situations[rows]], batch.masks[rows])
        if feed is None:
            self.opinion_lookups += len(rows)
            self.opinions_given += int(opinions[rows].any(axis=1).sum())
        return opinions
