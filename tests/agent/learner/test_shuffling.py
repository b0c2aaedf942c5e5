"""Orders of minibatches: numpy's own, drawn without Python's lock."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from src.agent.learner.shuffling import draw_orders


@given(
    seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3),
    n=st.integers(1, 700),
    epochs=st.integers(1, 3),
    drawn=st.integers(0, 700),
)
def test_each_member_has_the_permutations_that_numpy_draws(seeds: list[int], n: int, epochs: int, drawn: int) -> None:
    streams = [np.random.RandomState(seed) for seed in seeds]
    for stream in streams:
        stream.random_sample(drawn)
    states = [stream.get_state(legacy=False)["state"] for stream in streams]
    keys = np.array([state["key"] for state in states], np.uint32)
    positions = np.array([state["pos"] for state in states], np.int64)
    rows = np.arange(n, dtype=np.int32)[::-1].copy()
    found = np.zeros((epochs, len(seeds), n), np.int32)
    draw_orders(keys, positions, rows, found)
    for member, stream in enumerate(streams):
        for epoch in range(epochs):
            assert np.array_equal(found[epoch, member], rows[stream.permutation(n)] + member * n)
        after = stream.get_state(legacy=False)["state"]
        assert np.array_equal(after["key"], keys[member])
        assert after["pos"] == positions[member]
