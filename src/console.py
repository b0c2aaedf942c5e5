"""The console: shows text as it is, without markup, escape sequences or trailing blanks; one live line at a time."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.logging import RichHandler
from rich.segment import Segment
from rich.table import Table

from src.errors import UserError
from src.plain_text import escaped, paragraph

PROGRESS = "src.progress"
"""The logger of lines that the console shows already: they go into a run's log, and to no handler of the user's."""
logging.getLogger(PROGRESS).propagate = False

_TRAILING_BLANKS = re.compile(r"[ \t]+(?=\n|$)")
_LIVE: list[Console] = []
"""The console that shows a live line at the moment, if one does."""


class StreamError(UserError):
    """Standard output or standard error cannot be written."""


class Stream:
    """The current standard output or standard error.

    Lines written to a file or a pipe lose their trailing blanks. Raises StreamError where writing fails, and
    BrokenPipeError where nobody reads any longer; what is still buffered is dropped then.
    """

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self._name = name

    @property
    def target(self) -> TextIO:
        """The stream itself, not rich's stand-in for it while a live line is shown."""
        stream = getattr(sys, self._name)
        return getattr(stream, "rich_proxied_file", stream)

    def write(self, text: str) -> int:
        """Write; the number of characters."""
        target = self.target
        with self._failing_in_words():
            target.write(text if target.isatty() else _TRAILING_BLANKS.sub("", text))
        return len(text)

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        with self._failing_in_words():
            self.target.flush()

    @contextmanager
    def _failing_in_words(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            self._give_up()
            name = "output" if self._name == "stdout" else "error"
            raise StreamError(
                f"Standard {name} cannot be written ({error.strerror or error}). Free the space, or send it elsewhere."
            ) from error

    def _give_up(self) -> None:
        """Send the rest to the null device: the interpreter would fail once more on its way out."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.target.fileno())
        os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)


class PlainConsole(Console):
    """rich's console on standard output (or standard error), safe for untrusted text."""

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        stream: Any = Stream("stderr" if stderr else "stdout")
        super().__init__(file=stream, width=width, markup=False, emoji=False, highlight=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See Console; what is not printable is escaped."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(escaped(text, keep="\n"), style)


def uncut(table: Table) -> Table:
    """The table, with words that are wider than their column continued on the next line: rich would cut them."""
    for column in table.columns:
        column.overflow, column.no_wrap = "fold", False
    return table


@contextmanager
def live_on(console: Console) -> Iterator[None]:
    """Within, the console shows a live line: log messages are printed above it and not into it."""
    _LIVE.append(console)
    try:
        yield
    finally:
        _LIVE.remove(console)


class LogFormatter(logging.Formatter):
    """Escapes what is not printable; a message of several lines has its later lines indented, so none looks like the
    next message."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        return paragraph(super().format(record)).replace("\n", "\n    ")


class LogHandler(RichHandler):
    """Log messages on standard error; above the live line where both are on the terminal."""

    def __init__(self, console: Console, *, debug: bool) -> None:
        super().__init__(
            logging.DEBUG if debug else logging.WARNING,
            console=console,
            show_time=False,
            show_path=debug,
            markup=False,
            highlighter=None,
        )
        self._own = console
        self.setFormatter(LogFormatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        live = _LIVE[-1] if _LIVE else None
        self.console = live if live is not None and live.is_terminal and self._own.is_terminal else self._own
        super().emit(record)
