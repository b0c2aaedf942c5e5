"""The first error is the one that is heard, whatever clean-up does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.clean_up import CleanUps, closing


class Thing:
    """Closes, or fails to."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.closed = 0

    def close(self) -> None:
        self.closed += 1
        if self.error is not None:
            raise self.error

    def __enter__(self) -> Thing:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def act(error: BaseException | None) -> None:
    if error is not None:
        raise error


@given(
    st.sampled_from([None, ValueError("first"), MemoryError("first"), KeyboardInterrupt("first")]),
    st.lists(st.sampled_from([None, MemoryError("clean-up"), OSError("clean-up")]), max_size=4),
    st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_all_clean_ups_run_and_the_first_error_goes_on(
    first: BaseException | None, errors: list[Exception | None], entered: list[bool]
) -> None:
    things = [Thing(error) for error in errors]
    heard: BaseException | None = None
    try:
        with CleanUps() as stack:
            for thing, enter in zip(things, entered, strict=False):
                if enter:
                    stack.enter(thing)
                else:
                    stack.call(thing.close)
            act(first)
    except BaseException as error:
        heard = error
    assert [thing.closed for thing in things] == [1] * len(things)
    # From the last thing to the first, as they are closed.
    assert heard is (first or next((error for error in reversed(errors) if error is not None), None))


def test_closing_keeps_the_first_error() -> None:
    thing = Thing(MemoryError("clean-up"))
    with pytest.raises(ZeroDivisionError), closing(thing):
        _ = 1 / 0
    assert thing.closed == 1
    with pytest.raises(MemoryError, match="clean-up"), closing(thing):
        pass


def test_a_signal_during_clean_up_is_not_held_back() -> None:
    with pytest.raises(KeyboardInterrupt), closing(Thing(KeyboardInterrupt())):
        act(ValueError("first"))
