"""The pace of a training: blocks of rollouts that lose no second, however long it is and wherever it is resumed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.agent.pace import MOST_BLOCKS, Pace


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_blocks_are_sums_of_consecutive_rollouts_also_across_a_resume(n: int, stop: int) -> None:
    pace = Pace()
    for i in range(n):
        if i == stop:
            resumed = Pace()
            resumed.set_state(pace.get_state())
            pace = resumed
        pace.add(1.0 + i)
    k, blocks = pace.rollouts, pace.seconds()
    assert len(blocks) == n // k < MOST_BLOCKS
    assert n < MOST_BLOCKS or len(blocks) >= MOST_BLOCKS // 2 - 1
    assert blocks == [pytest.approx(sum(1.0 + i for i in range(b * k, (b + 1) * k))) for b in range(n // k)]
