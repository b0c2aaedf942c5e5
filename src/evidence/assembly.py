"""The pure part of the advice features, written outside the kernel: context by bar, opinions by situation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from src.advisor.table import AdviceTable, renormalise
from src.trading.layout import CONTEXT, N_ACTIONS
from src.trading.session_batch import SessionBatch


class RowCache(Protocol):
    """What feature assembly asks of a cache."""

    def get_batch(self, keys: Iterable[Any]) -> list[NDArray[np.float32] | None]: ...

    def put_batch(self, keys: Sequence[Any], rows: Sequence[Any]) -> None: ...


class AdviceFeed(Protocol):
    """Which rows of which table an arm is advised from; `table` and `situations` decide alone, whatever is cached."""

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

    All arms stand at the same bars, so with a cache the first arm fetches a row and the others find it. Without one
    (None) rows come from the tables directly, with the same values. `opinion_lookups` and `opinions_given` count
    opinions asked of `table` and those that were no abstention; an arm's own feed does not count.
    """

    def __init__(self, context: NDArray[np.float32], table: AdviceTable, cache: RowCache | None) -> None:
        self._context = context
        self._feed = TableFeed(table)
        self._cache = cache
        self.opinion_lookups = 0
        self.opinions_given = 0

    def write_context(self, batch: SessionBatch) -> None:
        """Fill the context slice of the sessions that are not over."""
        rows = np.flatnonzero(~batch.over)
        bars = batch.bars()[rows]
        batch.obs[rows, CONTEXT] = self._rows("context", bars, self._context)

    def opinions(self, batch: SessionBatch, feed: AdviceFeed | None = None) -> NDArray[np.float32]:
        """Advice over what is legal now, float32[n, 6], of `feed` where an arm has one.

        Zeros where the advisor abstains, the feed has no row, or the session is over.
        """
        asked = feed or self._feed
        situations = asked.situations(batch)
        opinions = np.zeros((batch.n, N_ACTIONS), np.float32)
        rows = np.flatnonzero(~batch.over & (situations >= 0))
        # The table is the kind of its rows: two tables answer the same situation differently.
        raw = self._rows(asked.table.sha256, situations[rows], asked.table.probabilities)
        opinions[rows] = renormalise(raw, batch.masks[rows])
        if feed is None:
            self.opinion_lookups += len(rows)
            self.opinions_given += int(opinions[rows].any(axis=1).sum())
        return opinions

    def _rows(self, kind: str, indices: NDArray[Any], table: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._cache is None or not len(indices):
            return table[indices]
        keys = [(kind, index) for index in indices.tolist()]
        found = self._cache.get_batch(keys)
        missing = [i for i, row in enumerate(found) if row is None]
        if missing:
            fetched = table[indices[missing]]
            self._cache.put_batch([keys[i] for i in missing], fetched)
            for i, row in zip(missing, fetched, strict=True):
                found[i] = row
        return np.stack(found)  # type: ignore[arg-type]
