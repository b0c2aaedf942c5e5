"""Splits by session."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import BarDataError
from src.market.sessions import Sessions, place_in_sessions
from src.market.split import ids_of, spans_of, split_sessions
from tests.market.bar_makers import scheduled_slots, walk_bars


@lru_cache(maxsize=1)
def one_session() -> Sessions:
    return place_in_sessions(walk_bars(scheduled_slots(1)), "rth")[1]


def sessions_with(usable: list[bool]) -> Sessions:
    """One real session repeated, with the given usability."""
    one, m = one_session(), len(usable)
    dates = one.date[0] + np.arange(m)
    reasons = tuple("" if use else "a hole of 78 bars" for use in usable)
    return replace(one, date=dates, usable=np.array(usable, dtype=bool), reason=reasons)


@given(
    usable=st.lists(st.booleans(), max_size=120),
    train=st.floats(0.05, 0.9),
    validation=st.floats(0.05, 0.9),
    embargo=st.none() | st.integers(0, 5),
)
def test_a_split_is_in_time_order_disjoint_usable_and_embargoed_or_refused(usable, train, validation, embargo):
    sessions = sessions_with(usable)
    try:
        split = split_sessions(sessions, train, validation, embargo)
    except BarDataError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert f"{sum(usable)} usable sessions" in refusal
        return
    ids = np.flatnonzero(usable)
    parts = (split.train, split.validation, split.test)
    assert all(len(part) and part.dtype == np.int32 for part in parts)
    together = np.concatenate(parts)
    assert (np.diff(together) > 0).all()
    assert set(together) <= set(ids)
    position = {int(session): place for place, session in enumerate(ids)}
    for earlier, later in ((split.train, split.validation), (split.validation, split.test)):
        assert position[int(later[0])] - position[int(earlier[-1])] - 1 == split.embargo
    assert len(together) + 2 * split.embargo == len(ids)


@pytest.mark.parametrize(("n", "embargo"), [(39, 0), (40, 1)])
def test_one_session_is_left_out_at_either_split_from_forty_sessions_on(n, embargo):
    split = split_sessions(sessions_with([True] * n))
    assert split.embargo == embargo
    assert len(split.test) == n - round(n * 0.8) - embargo


@given(embargo=st.none() | st.integers(0, 4), train=st.floats(0.2, 0.7), validation=st.floats(0.1, 0.25))
def test_the_number_said_to_be_needed_is_enough_and_one_less_is_not(embargo, train, validation):
    with pytest.raises(BarDataError, match=r"at least \d+ are needed") as caught:
        split_sessions(sessions_with([True]), train, validation, embargo)
    needed = int(str(caught.value).split("at least ")[1].split()[0])
    split_sessions(sessions_with([True] * needed), train, validation, embargo)
    with pytest.raises(BarDataError):
        split_sessions(sessions_with([True] * (needed - 1)), train, validation, embargo)


def test_more_bars_are_asked_for_only_where_those_at_hand_are_too_few() -> None:
    with pytest.raises(BarDataError, match=r"Give bars of more sessions\.$"):
        split_sessions(sessions_with([True, True]))
    with pytest.raises(BarDataError, match=r"Give bars of more sessions, or lower data\.embargo_sessions\.$"):
        split_sessions(sessions_with([True] * 8), embargo=5)
    with pytest.raises(BarDataError, match=r"40 sessions are left out, 40 of them because: a hole of 78") as caught:
        split_sessions(sessions_with([True, True] + [False] * 40))
    assert "time zone" in str(caught.value)
    assert "more" not in str(caught.value).partition("are needed")[2]


@given(st.sets(st.integers(0, 200)))
def test_spans_hold_exactly_the_sessions_they_were_made_of(ids: set[int]) -> None:
    spans = spans_of(np.array(sorted(ids, reverse=True), np.int32))
    assert ids_of(spans).tolist() == sorted(ids)
    assert all(first <= last for first, last in spans)
    assert all(later[0] > earlier[1] + 1 for earlier, later in pairwise(spans))
