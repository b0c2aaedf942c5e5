"""A tape refuses what the kernel could not read, and nobody can write on it."""

from __future__ import annotations

import copy
import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.market.flags import BREAK_AFTER, DECISION, END_AFTER, FLAT_BAR
from src.trading.tape import Tape
from tests.trading.worlds import make_tape

NAMES = [f.name for f in fields(Tape)]
SHAPES = {
    "prices": (5, 4),
    "flags": (5,),
    "atr_ticks": (5,),
    "window": (5, 11),
    "context": (5, 22),
    "situation": (5,),
    "advice": (10, 6),
    "starts": (2,),
}
DTYPES = {"flags": np.uint8, "prices": np.int32, "situation": np.int32, "starts": np.int32}


def arrays(**changed: Any) -> dict[str, Any]:
    plain = {name: np.zeros(shape, DTYPES.get(name, np.float32)) for name, shape in SHAPES.items()}
    return {**plain, **changed}


def test_the_plain_arrays_are_a_tape() -> None:
    tape = Tape(**arrays())
    for name, shape in SHAPES.items():
        array = getattr(tape, name)
        assert array.shape == shape
        assert array.dtype == DTYPES.get(name, np.float32)
        assert array.flags.c_contiguous
    names = list(SHAPES)
    for name, array in zip(names, tape.arrays, strict=True):
        assert np.shares_memory(array, getattr(tape, name))
    assert tape.arrays[names.index("window")].shape == (55,)
    assert tape.nbytes == sum(array.nbytes for array in arrays().values())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("prices", (5, 3)),
        ("prices", (5,)),
        ("flags", (4,)),
        ("flags", (5, 1)),
        ("atr_ticks", (6,)),
        ("window", (5, 10)),
        ("context", (5, 21)),
        ("context", (4, 22)),
        ("situation", (6,)),
        ("advice", (10, 5)),
        ("advice", (9, 6)),
        ("advice", (60,)),
        ("starts", (2, 1)),
    ],
)
def test_a_wrong_shape_is_refused_by_name(name: str, shape: tuple[int, ...]) -> None:
    # The length of the prices is the length of everything else.
    with pytest.raises(ValueError, match=rf"Tape\.{name} has shape \({shape[0]},"):
        Tape(**arrays(**{name: np.zeros(shape, DTYPES.get(name, np.float32))}))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["<U3", "complex128", "object", "float64", "bool"])
def test_a_dtype_that_would_lose_values_is_refused_by_name(name: str, dtype: str) -> None:
    integer = name in DTYPES
    harmless = (dtype == "float64" and not integer) or (dtype == "bool" and integer)
    given = arrays(**{name: np.zeros(SHAPES[name], dtype)})
    if harmless:
        assert getattr(Tape(**given), name).dtype == DTYPES.get(name, np.float32)
        return
    with pytest.raises(ValueError, match=rf"Tape\.{name} is .*, needs"):
        Tape(**given)


@pytest.mark.parametrize(
    ("name", "value"), [("prices", 2**31), ("prices", -(2**31) - 1), ("flags", 256), ("flags", -1), ("starts", 2**32)]
)
def test_a_number_too_large_is_refused_and_not_wrapped(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"Tape\.{name} runs from .*{value}.*too large"):
        Tape(**arrays(**{name: np.full(SHAPES[name], value, np.int64)}))


def test_situations_without_advice_and_starts_beyond_the_bars_are_refused() -> None:
    for wrong in ([0, 0, 0, 0, 2], [-1, 0, 0, 0, 0]):
        with pytest.raises(ValueError, match=r"Tape\.situation runs from"):
            Tape(**arrays(situation=wrong))
    for wrong in ([0, 5], [-1, 2]):
        with pytest.raises(ValueError, match=r"Tape\.starts names bars"):
            Tape(**arrays(starts=wrong))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([DECISION, DECISION | END_AFTER, 0, 0, 0], "outlive its session"),
        ([0, 0, 0, DECISION, DECISION], "at bar 4 of 5"),
        ([0, 0, 0, DECISION, DECISION | BREAK_AFTER], "at bar 4 of 5"),
        ([DECISION, 0, 0, 0, 0], "at bar 0 of 5"),
        ([DECISION | BREAK_AFTER, FLAT_BAR, 0, 0, 0], "at bar 0 of 5"),
    ],
)
def test_flags_that_would_lead_an_account_astray_are_refused(flags: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=rf"Tape\.flags .*{words}"):
        Tape(**arrays(flags=flags))


@pytest.mark.parametrize(
    "flags",
    [
        [DECISION, DECISION | END_AFTER, FLAT_BAR, 0, 0],
        [DECISION, DECISION | BREAK_AFTER, DECISION | END_AFTER | BREAK_AFTER, 0, 0],
        [0, 0, 0, DECISION, DECISION | END_AFTER | BREAK_AFTER],
        [DECISION, FLAT_BAR, 0, 0, 0],
        [0] * 5,
    ],
)
def test_flags_of_whole_sessions_pass(flags: list[int]) -> None:
    assert Tape(**arrays(flags=flags)).flags.tolist() == flags


def equal(one: Tape, other: Tape) -> bool:
    return all(
        getattr(one, name).dtype == getattr(other, name).dtype
        and getattr(one, name).shape == getattr(other, name).shape
        and getattr(one, name).tobytes() == getattr(other, name).tobytes()
        for name in NAMES
    )


def test_a_saved_tape_is_mapped_read_only_and_equal(tmp_path: Path) -> None:
    tape = make_tape(5)
    tape.save(tmp_path)
    loaded = Tape.load(tmp_path)
    assert equal(tape, loaded)
    for name in NAMES:
        array = getattr(loaded, name)
        base = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        assert isinstance(base, np.memmap), f"{name} was copied into memory"
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{name}.npy" for name in NAMES)


def test_nothing_pickled_is_read_back(tmp_path: Path) -> None:
    make_tape(5).save(tmp_path)
    np.save(tmp_path / "flags.npy", np.array([print], object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        Tape.load(tmp_path)


def test_the_tape_is_read_only_and_the_callers_arrays_are_not() -> None:
    given = arrays()
    tape = Tape(**given)
    for name in NAMES:
        assert np.shares_memory(getattr(tape, name), given[name]), f"{name} was copied"
        assert given[name].flags.writeable
        given[name][...] = 0
        with pytest.raises(ValueError, match="read-only"):
            getattr(tape, name)[...] = 1
    with pytest.raises(AttributeError):
        tape.flags = given["flags"]  # type: ignore[misc]


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda tape: pickle.loads(pickle.dumps(tape))])
def test_copies_are_read_only_too(copied: Any) -> None:
    tape = make_tape(5)
    other = copied(tape)
    assert equal(tape, other)
    # A writable array would also be another type to numba, which would compile the whole kernel again.
    assert not any(getattr(other, name).flags.writeable for name in NAMES)


def test_an_empty_list_is_no_starts() -> None:
    assert Tape(**arrays(starts=[])).starts.dtype == np.int32
