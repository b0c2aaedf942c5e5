"""Shortcuts that change a result: a loop, a cache and a pool that do are each found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from src.advisor import fusion as loops
from src.checks.equivalence import FUSION_BATCHES, PLAYS, cache, fusion, pool
from src.checks.outcome import PASSED
from src.testing_framework import OptimizedFeatureCache
from src.trading.accounts import AccountBlock
from src.trading.session_batch import SessionBatch
from src.trading.slots import Slots
from tests.checks.settings import assert_failed, small_setting


def test_the_loops_of_decision_fusion_agree() -> None:
    outcome = fusion(small_setting())
    assert outcome.status == PASSED, outcome
    assert outcome.figures["decisions"] == 2 * sum(FUSION_BATCHES)


def changed(after: Callable[[np.ndarray, np.ndarray, np.ndarray], None]) -> Callable[[], Callable[..., int]]:
    """The compiled loop, with something done to its masks, state and actions afterwards."""
    real = loops.compiled_fuse()

    def fuse(*args: Any) -> int:
        bad = real(*args)
        after(args[5], args[7], args[8])
        return bad

    return lambda: fuse


def other_action(masks: np.ndarray, state: np.ndarray, actions: np.ndarray) -> None:
    actions[-1] = (actions[-1] + 1) % 6


def other_count(masks: np.ndarray, state: np.ndarray, actions: np.ndarray) -> None:
    state[-1] += 1


@pytest.mark.parametrize(("after", "measured"), [(other_action, "of 1 actions differ"), (other_count, "counts differ")])
def test_a_loop_that_fuses_otherwise_fails(
    monkeypatch: pytest.MonkeyPatch, after: Callable[..., None], measured: str
) -> None:
    monkeypatch.setattr(loops, "compiled_fuse", changed(after))
    assert_failed(fusion(small_setting()), measured, "git status")


def test_both_loops_giving_an_illegal_action_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fuse(*args: Any) -> int:
        args[8][:] = 5
        return -1

    monkeypatch.setattr(loops, "compiled_fuse", lambda: fuse)
    monkeypatch.setattr(loops, "fuse_sequential", fuse)
    assert_failed(fusion(small_setting()), "illegal under its mask", "git status")


# ---------------------------------------------------------------- cache


def test_the_cache_changes_no_feature() -> None:
    outcome = cache(small_setting())
    assert outcome.status == PASSED, outcome
    assert outcome.figures["hit_rate"] > 0.3


def neighbours_row(self: OptimizedFeatureCache, keys: Any, *, record: bool = True) -> list[Any]:
    """The row of whoever was looked up before."""
    rows = [self.get(key, record=record) for key in keys]
    return [None if row is None else rows[i - 1] for i, row in enumerate(rows)]


def rounded(self: OptimizedFeatureCache, keys: Any, *, record: bool = True) -> list[Any]:
    rows = [self.get(key, record=record) for key in keys]
    return [None if row is None else row.astype(np.float16).astype(np.float32) for row in rows]


def of_another_situation(self: OptimizedFeatureCache, keys: Any, *, record: bool = True) -> list[Any]:
    """Keys that are told apart too little: another side's answer counts as this one's."""
    found = {situation // 5: row for (_, _, situation), row in reversed([*self._answers()])}
    return [found.get(situation // 5) for _, _, situation in keys]


@pytest.mark.parametrize("broken", [neighbours_row, rounded, of_another_situation])
def test_a_cache_that_returns_another_answer_fails(
    monkeypatch: pytest.MonkeyPatch, broken: Callable[..., list[Any]]
) -> None:
    def answers(self: OptimizedFeatureCache) -> list[Any]:
        return [(key, row) for key, row in self._rows.items() if key[0] == "answer"]  # type: ignore[index]

    monkeypatch.setattr(OptimizedFeatureCache, "_answers", answers, raising=False)
    monkeypatch.setattr(OptimizedFeatureCache, "get_batch", broken)
    outcome = cache(small_setting())
    assert_failed(outcome, "through a cache", "performance.cached_llm_features")


def test_a_cache_that_returns_another_bars_context_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = OptimizedFeatureCache.get_or_compute
    monkeypatch.setattr(
        OptimizedFeatureCache, "get_or_compute", lambda self, key, compute: real(self, key[:2], compute)
    )
    assert_failed(cache(small_setting()), "features computed on the fly through a cache", "cached_llm_features")


def test_a_cache_that_loses_track_once_it_is_full_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = OptimizedFeatureCache.put

    def put(self: OptimizedFeatureCache, key: Any, features: Any) -> None:
        if len(self) == self.max_size:
            oldest = next(iter(self._rows))
            features = self._rows[oldest] if len(self._rows[oldest]) == len(features) else features
        real(self, key, features)

    monkeypatch.setattr(OptimizedFeatureCache, "put", put)
    assert_failed(cache(small_setting(cache_size=100_000)), "through a cache of 40 rows", "cached_llm_features")


def test_a_cache_that_keeps_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OptimizedFeatureCache, "put_batch", lambda self, keys, rows: None)
    monkeypatch.setattr(OptimizedFeatureCache, "get_or_compute", lambda self, key, compute: compute())
    assert_failed(cache(small_setting()), "never has what was put into it", "git status")


# ---------------------------------------------------------------- pool


def test_lent_environments_play_like_new_ones() -> None:
    outcome = pool(small_setting())
    assert outcome.status == PASSED, outcome
    assert outcome.figures == {"plays": PLAYS}


def as_it_was_left(self: Slots, index: int, seed: int) -> Any:
    """Lend an environment again without resetting it."""
    if self._envs[index] is None:
        self._envs[index] = self._build()
        self._envs[index].reset(seed=seed)
    return self._envs[index]


def the_next_episode(self: Slots, index: int, seed: int) -> Any:
    """Reset it, but without its seed."""
    as_it_was_left(self, index, seed).reset()
    return self._envs[index]


@pytest.mark.parametrize("restart", [as_it_was_left, the_next_episode])
def test_an_environment_that_remembers_its_last_borrower_fails(
    monkeypatch: pytest.MonkeyPatch, restart: Callable[..., Any]
) -> None:
    monkeypatch.setattr(Slots, "restart", restart)
    assert_failed(pool(small_setting()), "does not play like a new one", "performance.environment_state_pooling")


def test_sessions_that_remember_what_was_played_before_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    begin_all = AccountBlock.begin_all

    def counts_its_losses_on(self: AccountBlock, bars: Any) -> None:
        losses = self.accounts["consecutive_losses"].copy()
        begin_all(self, bars)
        self.accounts["consecutive_losses"] = losses

    def reset(self: SessionBatch, *, seed: int | None = None) -> None:
        if not hasattr(self, "_block"):
            self._resize(0)

    monkeypatch.setattr(AccountBlock, "begin_all", counts_its_losses_on)
    monkeypatch.setattr(SessionBatch, "reset", reset)
    assert_failed(pool(small_setting()), "evaluation environment", "performance.environment_state_pooling")


def test_a_pool_that_builds_each_time_anew_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Slots.restart

    def anew(self: Slots, index: int, seed: int) -> Any:
        self._envs[index] = None
        return real(self, index, seed)

    monkeypatch.setattr(Slots, "restart", anew)
    assert_failed(pool(small_setting()), "has built 4", "git status")
