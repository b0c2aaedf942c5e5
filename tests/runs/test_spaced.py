"""Costly work is spaced out, cheap work never."""

from __future__ import annotations

import pytest

from src.runs import spaced
from src.runs.spaced import Spaced


@pytest.mark.parametrize(("took_s", "done"), [(0.01, 100), (0.1, 34), (1.0, 5)])
def test_work_is_left_out_where_it_would_take_more_than_its_share(
    monkeypatch: pytest.MonkeyPatch, took_s: float, done: int
) -> None:
    """Asked for every second, a hundred times: what takes 0.1 s is due 2 s after it ended, what takes 1 s after 20."""
    now, calls = 0.0, 0

    def work() -> None:
        nonlocal now, calls
        now, calls = now + took_s, calls + 1

    monkeypatch.setattr(spaced.time, "monotonic", lambda: now)
    soon = Spaced(work)
    for second in range(100):
        now = max(now, float(second))
        soon()
    assert calls == pytest.approx(done, abs=2)
