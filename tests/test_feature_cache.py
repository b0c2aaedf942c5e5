"""OptimizedFeatureCache against a list that is searched from end to end."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.testing_framework import OptimizedFeatureCache


class ListModel:
    """Least recently used first; every operation searches the whole list."""

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self.pairs: list[tuple[object, list[float]]] = []
        self.found = 0
        self.missed = 0

    def get(self, key: object, record: bool) -> list[float] | None:
        for pair in self.pairs:
            if pair[0] == key:
                self.pairs.remove(pair)
                self.pairs.append(pair)
                self.found += 1 if record else 0
                return pair[1]
        self.missed += 1 if record else 0
        return None

    def put(self, key: object, row: list[float]) -> None:
        self.pairs = [pair for pair in self.pairs if pair[0] != key] + [(key, row)]
        self.pairs = self.pairs[-self.max_size :]


# Few, so that most lookups hit and most rows are put out by another.
keys = st.one_of(st.integers(0, 3), st.tuples(st.just(0), st.sampled_from(["market", "opinion"])))
rows = st.lists(st.floats(width=32, allow_nan=False), max_size=3)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("get"), keys, st.booleans()),
        st.tuples(st.just("put"), keys, rows),
        st.tuples(st.just("get_batch"), st.lists(keys, max_size=4), st.booleans()),
        st.tuples(st.just("put_batch"), st.lists(st.tuples(keys, rows), max_size=4), st.none()),
    ),
    min_size=8,
    max_size=40,
)


@settings(max_examples=150)
@given(max_size=st.integers(1, 4), operations=operations)
def test_it_answers_counts_and_forgets_like_a_searched_list(max_size: int, operations: list) -> None:
    cache, model = OptimizedFeatureCache(max_size), ListModel(max_size)

    def same(found: np.ndarray | None, expected: list[float] | None) -> None:
        assert (found is None) == (expected is None)
        assert found is None or (found.dtype == np.float32 and found.tolist() == expected)

    for name, first, second in operations:
        if name == "get":
            same(cache.get(first, record=second), model.get(first, second))
        elif name == "put":
            cache.put(first, second)
            model.put(first, second)
        elif name == "get_batch":
            found = cache.get_batch(first, record=second)
            assert len(found) == len(first)
            for key, row in zip(first, found, strict=True):
                same(row, model.get(key, second))
        else:
            cache.put_batch([key for key, _ in first], [row for _, row in first])
            for key, row in first:
                model.put(key, row)
        assert len(cache) == len(model.pairs)
    stats = cache.get_stats()
    lookups = model.found + model.missed
    assert stats == {
        "hits": model.found,
        "misses": model.missed,
        "hit_rate": model.found / lookups if lookups else 0.0,
        "size": len(model.pairs),
        "max_size": max_size,
    }
    assert all(key in cache for key, _ in model.pairs)


def test_a_row_that_was_looked_up_outlives_one_that_was_not() -> None:
    cache = OptimizedFeatureCache(2)
    cache.put_batch(["old", "new"], [[1.0], [2.0]])
    cache.get("old")
    cache.put("newest", [3.0])
    assert "old" in cache
    assert "new" not in cache


def test_changing_the_array_that_was_put_changes_nothing_stored() -> None:
    cache = OptimizedFeatureCache()
    row = np.ones(3, dtype=np.float32)
    cache.put("a", row)
    row[:] = 7
    assert cache.get("a").tolist() == [1, 1, 1]


def test_what_is_handed_out_cannot_be_changed() -> None:
    cache = OptimizedFeatureCache()
    cache.put("a", [1.0, 2.0])
    row = cache.get("a")
    with pytest.raises(ValueError, match="read-only"):
        row[0] = 5
    with pytest.raises(ValueError, match="WRITEABLE"):
        row.setflags(write=True)


def test_a_matrix_of_rows_is_stored_row_by_row() -> None:
    cache = OptimizedFeatureCache()
    cache.put_batch([3, 4], np.arange(6.0).reshape(2, 3))
    assert cache.get(4).tolist() == [3, 4, 5]


def test_clearing_forgets_rows_and_counts() -> None:
    cache = OptimizedFeatureCache()
    cache.put(1, [1.0])
    cache.get_batch([1, 2])
    cache.clear()
    assert cache.get_stats() == {"hits": 0, "misses": 0, "hit_rate": 0.0, "size": 0, "max_size": 1000}


@pytest.mark.parametrize("max_size", [0, -3])
def test_a_cache_without_room_is_refused(max_size: int) -> None:
    with pytest.raises(ValueError, match=rf"max_size is {max_size}.*at least 1"):
        OptimizedFeatureCache(max_size)


@pytest.mark.parametrize("features", [3.0, [[1.0, 2.0]]])
def test_features_that_are_not_one_vector_are_refused_naming_the_key(features: object) -> None:
    cache = OptimizedFeatureCache()
    with pytest.raises(ValueError, match=r"'bar 7'.*one vector"):
        cache.put("bar 7", features)
    assert len(cache) == 0


def test_a_batch_of_unequal_lengths_stores_nothing() -> None:
    cache = OptimizedFeatureCache()
    with pytest.raises(ValueError, match="2 keys came with 1 rows"):
        cache.put_batch([1, 2], [[1.0]])
    assert len(cache) == 0


def test_a_lookup_does_not_slow_down_with_the_number_of_entries() -> None:
    def seconds(size: int) -> float:
        cache = OptimizedFeatureCache(size)
        cache.put_batch(range(size), np.zeros((size, 4), dtype=np.float32))
        keys = [(i * 7919) % size for i in range(2000)]
        best = float("inf")
        for _ in range(7):
            start = time.perf_counter()
            for key in keys:
                cache.get(key)
            best = min(best, time.perf_counter() - start)
        return best

    small, large = seconds(100), seconds(10_000)
    assert large < 4 * small  # a searched list would be 100 times slower
