"""The 33 advice features computed on the fly, for bars outside the tables and situations no run has asked about.

A run reads features and advice from tables, which is faster than any cache. A service that trades bar by bar has no
tables: it computes the features of the newest bar and asks its advisor while the market waits. Both take tens of
milliseconds, and both come up again: accounts share bars, and bars share situations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from src.advisor.calibration import served_scores
from src.advisor.first_choices import decided_shares
from src.advisor.situations import UNKNOWN, encode, market_codes, split_situations
from src.advisor.table import AdviceTable, Advisor, Float32, checked_scores, renormalise
from src.market.bars import Bars
from src.market.load import build_tables
from src.market.settings import DataSettings
from src.trading.layout import ACCOUNT_RISK, CONTEXT, N_ACTIONS, N_CONTEXT_FEATURES, OPINION

N_ADVICE_FEATURES = OPINION.stop - CONTEXT.start
"""22 of the market's context, 5 of the account's risk, 6 of the advice: the last slices of the observation."""


class FeatureCache(Protocol):
    """Interface of a cache of feature rows."""

    def get_batch(self, keys: Iterable[Any]) -> list[Float32 | None]: ...

    def put_batch(self, keys: Sequence[Any], rows: Sequence[Any]) -> None: ...

    def get_or_compute(self, key: Hashable, compute: Callable[[], Any]) -> Float32: ...


def answer_key(identity: str, situation: int) -> tuple[str, str, int]:
    """The key of an advisor's raw answer, float32[6], to one situation."""
    return "answer", identity, situation


class LiveFeatures:
    """The advice features of accounts at the newest bar of a growing series, asked of `advisor` where `table` (None:
    nowhere) does not cover the situation.

    With a `cache` what was computed or asked before is not computed or asked again; the values are the same. They are
    bitwise those of the tables. Answers to situations outside `table` are served as the advisor gives them:
    calibration is over the situations of a table.
    """

    def __init__(
        self,
        advisor: Advisor,
        data: DataSettings,
        trading_hours: str,
        *,
        table: AdviceTable | None = None,
        cache: FeatureCache | None = None,
    ) -> None:
        self._advisor = advisor
        self._data = data
        self._trading_hours = trading_hours
        self._settings_key = hashlib.blake2b(f"{data!r}\0{trading_hours}".encode(), digest_size=8).hexdigest()
        self._table = table
        self._cache = cache

    def context(self, bars: Bars) -> Float32:
        """The context features of the newest bar, float32[22]. ValueError for a bar outside every session."""
        if self._cache is None:
            return self._computed(bars)
        return self._cache.get_or_compute(self._bars_key(bars), lambda: self._computed(bars))

    def _computed(self, bars: Bars) -> Float32:
        tables = build_tables(bars, self._data, trading_hours=self._trading_hours)
        if not len(tables.bars) or tables.bars.open_ns[-1] != bars.open_ns[-1]:
            raise ValueError("the newest bar lies outside every trading session: there is nothing to decide at it")
        return tables.context[-1]

    def _bars_key(self, bars: Bars) -> tuple[str, str, str]:
        columns = (bars.open_ns, bars.open, bars.high, bars.low, bars.close, bars.volume, bars.contract)
        digest = hashlib.blake2b(f"{bars.market}\0{bars.interval_s}\0{bars.contract_names}".encode(), digest_size=16)
        for column in columns:
            digest.update(np.ascontiguousarray(column).tobytes())
        return "context", self._settings_key, digest.hexdigest()

    def advice(self, situations: ArrayLike) -> Float32:
        """What the advisor thinks of situations int64[k], probabilities float32[k, 6] over each side's answers; zeros
        for one of the unknown market, about which nobody is asked."""
        asked = np.atleast_1d(np.asarray(situations, dtype=np.int64))
        found = np.zeros((len(asked), N_ACTIONS), np.float32)
        live = split_situations(asked)[0] != UNKNOWN
        if self._table is not None:
            covered = self._table.covered[asked]
            found[covered] = self._table.probabilities[asked[covered]]
            live &= ~covered
        if live.any():
            found[live] = decided_shares(served_scores(self._answers(asked[live]), asked[live], calibrate=False))
        return found

    def _answers(self, situations: NDArray[np.int64]) -> Float32:
        """Raw answers, float32[k, 6]; all that are missing are asked at once, each situation once."""
        if self._cache is None:
            return checked_scores(self._advisor, situations).astype(np.float32)
        keys = [answer_key(self._advisor.identity, situation) for situation in situations.tolist()]
        rows = self._cache.get_batch(keys)
        missing = np.unique(situations[[i for i, row in enumerate(rows) if row is None]])
        if len(missing):
            answers = checked_scores(self._advisor, missing).astype(np.float32)
            self._cache.put_batch([answer_key(self._advisor.identity, s) for s in missing.tolist()], list(answers))
            new = dict(zip(missing.tolist(), answers, strict=True))
            rows = [new[s] if row is None else row for s, row in zip(situations.tolist(), rows, strict=True)]
        return np.stack([row for row in rows if row is not None])

    def features(self, bars: Bars, account_risk: ArrayLike, sides: ArrayLike, masks: ArrayLike) -> Float32:
        """The 33 advice features of k accounts at the newest bar, float32[k, 33] in the observation's order: its slice
        from CONTEXT to OPINION.

        account_risk: float[k, 5], that slice of their observations. sides: int[k] (`src.trading.layout`). masks:
        bool[k, 6], their legal actions.
        """
        risk, legal = np.atleast_2d(np.asarray(account_risk, np.float32)), np.atleast_2d(np.asarray(masks, np.bool_))
        context = self.context(bars)
        code = market_codes(context[np.newaxis])[0]
        opinions = renormalise(self.advice(encode(code, np.atleast_1d(np.asarray(sides, np.int64)))), legal)
        features = np.empty((len(opinions), N_ADVICE_FEATURES), np.float32)
        features[:, :N_CONTEXT_FEATURES] = context
        features[:, ACCOUNT_RISK.start - CONTEXT.start : ACCOUNT_RISK.stop - CONTEXT.start] = risk
        features[:, OPINION.start - CONTEXT.start :] = opinions
        return features
