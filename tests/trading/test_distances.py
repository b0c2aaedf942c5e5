"""Distances of an entry: to the nearest tick from the ATR, made once, and the same object for tapes of a market."""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from src.trading.tape import Tape
from tests.trading.worlds import make_params, make_tape


def with_atr(atr: np.ndarray) -> Tape:
    tape = make_tape(3, sessions=2, longest=12)
    fields: dict[str, Any] = {name: getattr(tape, name) for name in tape.__dataclass_fields__}
    return Tape(**{**fields, "atr_ticks": atr})


def whole(product: float) -> int:
    """Nearest tick, halves up, at least one; by decimal arithmetic."""
    return max(1, int((Decimal(product) + Decimal("0.5")).to_integral_value(ROUND_FLOOR)))


atrs = st.floats(0.0, 5_000.0, width=32)
multiples = st.floats(0.01, 50.0)


@given(st.lists(atrs, min_size=1, max_size=10), multiples, multiples, multiples)
def test_distances_are_multiples_of_the_atr_in_whole_ticks(
    values: list[float], stop_atr: float, target_r: float, trail_atr: float
) -> None:
    n = len(make_tape(3, sessions=2, longest=12).prices)
    atr = np.resize(np.array(values, np.float32), n)
    params = make_params(stop_atr=stop_atr, target_r=target_r, trail_atr=trail_atr)
    table = with_atr(atr).distances(params)
    assert table.dtype == np.int32
    assert not table.flags.writeable
    for value, row in zip(atr.tolist(), table.tolist(), strict=True):
        risk = whole(stop_atr * value)
        # The product is a float64; its rounding to a tick is exact.
        assert row == [risk, whole(target_r * risk), whole(trail_atr * value)]
        assert abs(row[0] - max(Fraction(1), Fraction(stop_atr) * Fraction(value))) <= Fraction(501, 1000)


def test_a_distance_that_no_price_reaches_still_fits_a_level() -> None:
    n = len(make_tape(3, sessions=2, longest=12).prices)
    table = with_atr(np.full(n, 1e8, np.float32)).distances(make_params(stop_atr=50.0, target_r=50.0, trail_atr=50.0))
    assert (table == 2**30).all()


def test_tapes_of_a_market_share_a_table_and_others_do_not() -> None:
    n = len(make_tape(3, sessions=2, longest=12).prices)
    frozen, writable = np.full(n, 8.0, np.float32), np.full(n, 8.0, np.float32)
    frozen.setflags(write=False)
    params = make_params()
    one = with_atr(frozen)
    table = one.distances(params)
    assert with_atr(frozen).distances(params) is table
    assert one.distances(make_params(stop_atr=2.0)) is not table
    assert with_atr(writable).distances(params) is not with_atr(writable).distances(params)


def test_a_changed_atr_changes_the_bars_that_are_made_again() -> None:
    """The leak check uncovers bars in place."""
    n = len(make_tape(3, sessions=2, longest=12).prices)
    atr = np.full(n, 8.0, np.float32)
    tape = with_atr(atr)
    table = tape.distances(make_params(stop_atr=1.0, target_r=2.0, trail_atr=0.5))
    atr[:3] = 10.0
    tape.remake_distances(np.array([1, 2]))
    assert table[:4].tolist() == [[8, 16, 4], [10, 20, 5], [10, 20, 5], [8, 16, 4]]
