"""Text this program did not write (names, headers, symbols, options), made safe to show: escaped and shortened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LONGEST = 300
"""Characters of a foreign text that are shown; what is cut out of its middle is counted."""

LONGEST_LINE = 4000
"""Most characters in a line of a message, from any source."""

_FORMULA_STARTS = ("=", "+", "-", "@")
_LONG_WORD = re.compile(r"\S{2000,}")


def escaped(text: str, keep: str = "") -> str:
    """`text` with every character that is not printable written as Python would escape it, but those in `keep`.

    That covers control characters, bidi marks and overrides, line separators, zero-width characters, lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(text: str, most: int = LONGEST) -> str:
    """`text` where it has at most `most` characters, else its two ends and how many characters were left out."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}...[{len(text) - 2 * half:,} characters]...{text[-half:]}"


def beginning(text: str, most: int) -> str:
    """`text` where it has at most `most` characters, else that many of them and three dots."""
    return text if len(text) <= most else f"{text[:most]} ..."


def one_line(error: BaseException) -> str:
    """The text of an error on one line, shortened; the name of its type where it has none."""
    return beginning(" ".join(str(error).split()), LONGEST) or type(error).__name__


def foreign(value: object, most: int = LONGEST) -> str:
    """A value that came from outside, as one safe piece of text of at most about `most` characters."""
    return escaped(shortened(str(value), most))


def csv_cell(value: object) -> object:
    """A value for a cell of a CSV file: a text that a spreadsheet would run as a formula gets a leading apostrophe."""
    if not isinstance(value, str):
        return value
    text = foreign(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA_STARTS) else text


def paragraph(text: str, keep: str = "") -> str:
    """A message that may hold foreign text: no escape sequence reaches the terminal, no word is longer than `LONGEST`.

    Line breaks and tabs stay (a worker's traceback has them); a line is shortened to `LONGEST_LINE` characters.
    """
    short = _LONG_WORD.sub(lambda word: shortened(word[0]), text)
    lines = [shortened(line, LONGEST_LINE) for line in short.split("\n")]
    return escaped("\n".join(lines), keep=f"\n\t{keep}")


def foreign_values(value: Any, most: int = LONGEST) -> Any:
    """A value as JSON holds it, with every text in it (keys as well) made safe to show."""
    if isinstance(value, str):
        return foreign(value, most)
    if isinstance(value, Mapping):
        return {foreign(key, most): foreign_values(inner, most) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [foreign_values(inner, most) for inner in value]
    return value
