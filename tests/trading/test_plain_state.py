"""What is packed comes back with every type and bit, through strict JSON; what cannot is refused, never bent."""

from __future__ import annotations

import json
from collections import OrderedDict
from enum import IntEnum
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from src.trading.plain_state import NotPlainError, is_plain, pack, unpack

dtypes = st.one_of(
    arrays.boolean_dtypes(), arrays.integer_dtypes(endianness="?"), arrays.unsigned_integer_dtypes(endianness="?"),
    arrays.floating_dtypes(endianness="?", sizes=(16, 32, 64)), arrays.complex_number_dtypes(sizes=(64, 128)),
    arrays.datetime64_dtypes(), arrays.timedelta64_dtypes(),
)  # fmt: skip
some_arrays = arrays.arrays(dtypes, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
scalars = some_arrays.filter(lambda array: array.size > 0).map(lambda array: array.reshape(-1)[0])
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), some_arrays, scalars)
keys = st.text().filter(lambda key: not key.startswith("$"))
values = st.recursive(
    leaves, lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner), max_leaves=12
)


def there_and_back(value: Any) -> Any:
    held: dict[str, np.ndarray] = {}
    text = json.dumps(pack(value, held), allow_nan=False)
    assert all(array.dtype == np.uint8 for array in held.values())
    return unpack(json.loads(text), {key: array.copy() for key, array in held.items()})


def same(one: Any, other: Any) -> bool:
    """Of one type and one content, to the bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray | np.generic):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return repr(one) == repr(other)


@settings(max_examples=50)
@given(value=values)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    assert is_plain(value)
    assert same(there_and_back(value), value)


def test_it_is_a_copy_both_ways() -> None:
    value = {"a": np.arange(3), "b": [1, 2]}
    held: dict[str, np.ndarray] = {}
    packed = pack(value, held)
    value["a"][0] = 9
    value["b"].append(3)  # type: ignore[attr-defined]
    one, other = unpack(packed, held), unpack(packed, held)
    one["a"][1] = 7
    one["b"].append(4)
    assert same(other, {"a": np.arange(3), "b": [1, 2]})


def test_arrays_of_like_paths_are_kept_apart() -> None:
    value = {"a.b": np.array([1]), "a": {"b": np.array([2])}}
    assert same(there_and_back(value), value)


def test_bytes_of_records_keep_their_shape_where_they_are_looked_at() -> None:
    held: dict[str, np.ndarray] = {}
    pack({"accounts": np.zeros((4, 7), np.uint8)}, held)
    assert [array.shape for array in held.values()] == [(4, 7)]


class Color(IntEnum):
    RED = 1


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, b"bytes", 1j, {1: "a"}, {"$array": 1}, OrderedDict(a=1), Color.RED, np.array([object()]),
     np.array(["text"]), np.zeros(2, [("a", "i4")]), np.ma.zeros(2), np.random.default_rng(0)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_would_come_back_as_something_else_is_refused_by_name(value: Any) -> None:
    assert not is_plain(value)
    with pytest.raises(NotPlainError, match=r"\.deep\.0 is a "):
        pack({"deep": [value]}, {})


def test_without_a_place_for_arrays_an_array_is_refused() -> None:
    assert pack({"a": np.float32(1)})
    with pytest.raises(NotPlainError):
        pack({"a": np.zeros(1)})
