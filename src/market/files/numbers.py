"""Parse columns of numbers, with the file's own decimal and thousands separators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from src.errors import BarDataError

NULLS = (
    *("", "nan", "NaN", "NAN", "-nan", "na", "NA", "n/a", "N/A", "#N/A", "#NA", "null", "NULL", "Null", "None", "none"),
    *("-", "--", "."),
)
"""Cells that hold no number."""

_PLAIN = r"^[+-]?([0-9]{1,20}([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]{1,3})?$"
_MOST_SAMPLED = 50_000
_OTHER = {",": ".", ".": ","}


@dataclass(frozen=True)
class Marks:
    """A file's number format: decimal mark, and thousands separator ("" for none)."""

    decimal: str = "."
    thousands: str = ""

    def note(self) -> tuple[str, ...]:
        """A sentence about the number format, unless it is that of 6850.25."""
        if self == Marks():
            return ()
        grouped = f" and the thousands separator {self.thousands!r}" if self.thousands else ""
        return (f"numbers use the decimal mark {self.decimal!r}{grouped}",)


def ascii_text(chunk: pa.Array) -> pa.Array:
    """A binary or text array as trimmed large_string; non-ASCII bytes become "?" or a space."""
    binary = chunk.cast(pa.large_binary())
    valid, offsets, data = binary.buffers()
    if data is not None:
        octets = np.frombuffer(data, dtype=np.uint8)
        if len(octets) and octets.max() > 127:
            table = np.arange(256, dtype=np.uint8)
            table[128:] = ord("?")
            table[[0xA0, 0xC2, 0xE2, 0x80, 0xAF]] = ord(" ")
            data = pa.py_buffer(table[octets])
    text = pa.Array.from_buffers(pa.large_string(), len(binary), [valid, offsets, data], offset=binary.offset)
    return pc.ascii_trim_whitespace(text)


def marks_of(columns: list[pa.ChunkedArray], separator: str, label: str) -> Marks:
    """The number format of a file's numeric columns.

    Raises:
        BarDataError: the cells fit two formats ("6,850": 6850 or 6.85), or none.
    """
    text = [ascii_text(chunk) for column in columns for chunk in _spread(column)]

    def any_match(pattern: str) -> bool:
        return any(bool(pc.any(pc.match_substring_regex(cells, pattern)).as_py()) for cells in text)

    has = {mark: any_match(rf"[0-9]{_escaped(mark)}[0-9]") for mark in ".,"}
    blank = " " if any_match(r"[0-9] +[0-9]{3}") else "'" if any_match(r"[0-9]'[0-9]{3}") else ""
    if not has[","]:
        if has["."] and separator in ";\t" and not _shows_decimal(any_match, ".") and not any_match("[0-9]{4}"):
            raise _ambiguous(text, ".", label)
        return Marks(".", blank)
    both = [mark for mark in ".," if any_match(rf"[0-9]{_escaped(_OTHER[mark])}[0-9]{{3}}.*{_escaped(mark)}[0-9]")]
    if len(both) == 2:
        raise BarDataError(
            f"{label}: some numbers have the comma before the point and others after it, so the decimal mark is "
            f"ambiguous. Export the file again with one number format."
        )
    if both:
        return Marks(both[0], _OTHER[both[0]])
    decimal = [mark for mark in ".," if has[mark] and _shows_decimal(any_match, mark)]
    if len(decimal) == 1:
        return Marks(decimal[0], _OTHER[decimal[0]] if has[_OTHER[decimal[0]]] else blank)
    if len(decimal) == 2:
        raise BarDataError(
            f"{label}: some numbers have a decimal comma and others a decimal point. Export the file again with one "
            f"number format."
        )
    if not has["."] and any_match("[0-9]{4}"):
        return Marks(",", blank)
    if not has["."] and separator == ",":
        return Marks(".", ",")
    raise _ambiguous(text, ",", label)


def _spread(column: pa.ChunkedArray) -> list[pa.Array]:
    """Cells from every chunk of a column, about `_MOST_SAMPLED` at most."""
    share = min(1.0, _MOST_SAMPLED / max(1, len(column)))
    return [chunk[: max(1, int(len(chunk) * share))] for chunk in column.chunks]


def _escaped(mark: str) -> str:
    return "[.]" if mark == "." else mark


def _shows_decimal(any_match: Callable[[str], bool], mark: str) -> bool:
    """Whether a cell proves that the mark is the decimal mark: the digits around it cannot be a thousands group."""
    here = _escaped(mark)
    return any_match(rf"{here}[0-9]{{1,2}}$|{here}[0-9]{{4,}}$|^[+-]?[0-9]{{4,}}{here}[0-9]")


def _ambiguous(text: list[pa.Array], mark: str, label: str) -> BarDataError:
    for cells in text:
        found = cells.filter(pc.match_substring(cells, mark))
        if len(found):
            cell = found[0].as_py()
            break
    plain = cell.replace(mark, "")
    return BarDataError(
        f"{label}: {cell!r} can be {plain} (thousands separator) or {cell.replace(mark, '.')} (decimal mark), and "
        f"no other number in the file decides. Export numbers with a decimal point and without thousands separators."
    )


def parsed(column: pa.ChunkedArray, marks: Marks) -> NDArray[np.float64]:
    """float64[n] of a text column; NaN for empty cells and non-numbers. K, M and B are multipliers, as in "1.25M"."""
    parts = [_parsed_chunk(chunk, marks) for chunk in column.chunks]
    return np.concatenate(parts) if parts else np.zeros(0)


def _parsed_chunk(chunk: pa.Array, marks: Marks) -> NDArray[np.float64]:
    text = ascii_text(chunk)
    if marks.thousands:
        # A thousands group without exactly three digits is a damaged cell.
        mark, point = _escaped(marks.thousands), _escaped(marks.decimal)
        whole = pc.match_substring_regex(
            text, rf"^[+-]?[$]?([0-9]{{1,3}}({mark}[0-9]{{3}})+|[0-9]+)?({point}[0-9]*)?[KMB]?$"
        )
        text = pc.if_else(whole, pc.replace_substring(text, marks.thousands, ""), None)
    if marks.decimal != ".":
        text = pc.replace_substring(text, marks.decimal, ".")
    good = pc.match_substring_regex(text, _PLAIN)
    values = pc.if_else(good, text, None).cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
    left = np.flatnonzero(~np.asarray(good.fill_null(True)))
    if len(left):
        values = values.copy()
        values[left] = _odd_numbers(text.take(pa.array(left)))
    return values


def _odd_numbers(text: pa.Array) -> NDArray[np.float64]:
    """Numbers with a leading $ or a trailing K, M or B; NaN for anything else."""
    bare = pc.replace_substring_regex(text, r"^([+-]?)[$]", r"\1")
    values = np.full(len(text), np.nan)
    for letter, factor in (("", 1.0), ("K", 1e3), ("M", 1e6), ("B", 1e9)):
        stem = pc.if_else(pc.ends_with(bare, letter), pc.replace_substring_regex(bare, f"{letter}$", ""), None)
        good = pc.match_substring_regex(stem, _PLAIN)
        scaled = pc.if_else(good, stem, None).cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
        values = np.where(np.isfinite(scaled), np.rint(scaled * factor) if letter else scaled, values)
    return values


def finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values with infinities replaced by NaN; the same array if there are none."""
    infinite = np.isinf(values)
    return np.where(infinite, np.nan, values) if infinite.any() else values
