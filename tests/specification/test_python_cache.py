"""The feature cache, as the specification calls it: 33 features, least recently used, shared by threads."""

from __future__ import annotations

import timeit
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from src.advisor.live import N_ADVICE_FEATURES
from src.testing_framework import OptimizedFeatureCache
from tests.specification.python_calls import run


def test_the_block_computes_what_is_missing_and_stores_it() -> None:
    computed = []

    def calculate_llm_features(data: list[float]) -> np.ndarray:
        computed.append(data)
        return np.full(N_ADVICE_FEATURES, data[-1], np.float32)

    names, _ = run(
        "cache", OptimizedFeatureCache=OptimizedFeatureCache, calculate_llm_features=calculate_llm_features,
        data=[1.0, 2.5], cache_key="bar 7",
    )  # fmt: skip
    cache = names["cache"]
    assert (cache.max_size, computed) == (1000, [[1.0, 2.5]])
    found = cache.get("bar 7")
    assert found.shape == (33,)
    assert (found == 2.5).all()
    assert cache.get_stats() == {"hits": 1, "misses": 1, "hit_rate": 0.5, "size": 1, "max_size": 1000}


def test_at_70_percent_hits_computing_is_done_a_third_as_often() -> None:
    cache, computed = OptimizedFeatureCache(max_size=1000), 0
    for lookup in range(1000):
        key = lookup % 300
        if cache.get(key) is None:
            computed += 1
            cache.put(key, np.zeros(33))
    assert cache.get_stats()["hit_rate"] == 0.7
    assert 1000 / computed > 3


def test_the_least_recently_used_row_leaves() -> None:
    cache = OptimizedFeatureCache(max_size=2)
    cache.put("a", np.zeros(33))
    cache.put("b", np.ones(33))
    cache.get("a")
    cache.put("c", np.ones(33))
    assert [key in cache for key in "abc"] == [True, False, True]


def test_parallel_environments_share_it() -> None:
    cache = OptimizedFeatureCache(max_size=50)

    def environment(number: int) -> None:
        for step in range(500):
            key = (number + step) % 80
            if cache.get(key) is None:
                cache.put(key, np.full(33, key))
            assert len(cache) <= 50

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(environment, range(8)))
    assert cache.hits + cache.misses == 8 * 500


def test_a_hit_costs_microseconds_at_most() -> None:
    """Under 1 us: `python -m src.benchmarks cache`; here with room for a busy machine."""
    cache = OptimizedFeatureCache(max_size=1000)
    cache.put_batch(range(1000), np.zeros((1000, 33)))
    best = min(timeit.repeat(lambda: [cache.get(key) for key in range(1000)], number=1, repeat=20))
    assert best / 1000 < 5e-6
