"""Clean-up that never hides what went wrong: the first error is the one a user hears."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any, Protocol, TypeVar

logger = logging.getLogger(__name__)


class Closable(Protocol):
    """Anything with `close()`."""

    def close(self) -> Any: ...


T = TypeVar("T")
C = TypeVar("C", bound=Closable)


class CleanUps(ExitStack):
    """An ExitStack whose clean-ups all run, and in which an error on its way is not replaced by a clean-up's own.

    Where nothing else went wrong, a clean-up's error is raised. A signal (KeyboardInterrupt) is never held back.
    """

    def call(self, clean_up: Callable[..., object], *args: Any) -> None:
        """Run this at the end."""

        def exit_(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
            try:
                clean_up(*args)
            except Exception as failed:
                if error is None:
                    raise
                _keep_in_log(error, failed)
            return False

        self.push(exit_)

    def enter(self, manager: AbstractContextManager[T]) -> T:
        """Enter `manager`, and leave it at the end."""
        value = manager.__enter__()

        def exit_(
            kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> bool | None:
            try:
                return manager.__exit__(kind, error, trace)
            except Exception as failed:
                if error is None or failed is error:
                    raise
                _keep_in_log(error, failed)
                return False

        self.push(exit_)
        return value


@contextmanager
def closing(thing: C) -> Iterator[C]:
    """`contextlib.closing`, except that a failing `close()` does not replace an error raised within."""
    with CleanUps() as stack:
        stack.call(thing.close)
        yield thing


def _keep_in_log(error: BaseException, failed: Exception) -> None:
    """Near the memory limit even this may fail; the first error matters more."""
    with suppress(Exception):
        failed.__context__ = None  # it is the first error, which is raised
        logger.info("a clean-up failed after %s: %s: %s", type(error).__name__, type(failed).__name__, failed)
