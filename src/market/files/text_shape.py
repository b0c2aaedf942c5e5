"""Detect the shape of a text table from its first lines: encoding, separator, header, start of the rows."""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from dataclasses import dataclass, replace

import pyarrow as pa

from src.errors import BarDataError
from src.market.files import spellings
from src.market.files.columns import key, price_roles
from src.market.files.containers import Content
from src.market.files.kinds import HEAD_BYTES, NoTable, utf16_codec
from src.market.files.time_forms import cell_kind

SEPARATORS = (";", "\t", "|", ",")
LEAST_CELLS = 5
_SAMPLE_LINES = 600
_SAMPLE_ROWS = 500
_MOST_UTF16 = 1 << 30
_BLOCK = 8 << 20
_COMMENT = ("#", "//", "%", "--")
_NUMBER = re.compile(r"[+-]?[$]?[0-9][0-9.,' \u00a0]*(?:[eE][+-]?[0-9]+)?%?[KMB]?|[.][0-9]+")


@dataclass(frozen=True)
class TextShape:
    """How a text file's table is laid out."""

    separator: str
    """One character; a space stands for any run of spaces."""
    quoted: bool
    width: int
    """Cells per row."""
    header: tuple[tuple[str, ...], ...]
    """Header rows, padded to `width`; empty without a header."""
    start: int
    """Byte offset of the first row."""
    sample: list[list[str]]
    notes: tuple[str, ...]


def as_utf8(content: Content) -> Content:
    """The content, with UTF-16 and Latin-1 text converted to UTF-8."""
    codec = utf16_codec(content.head)
    if codec is None:
        return content if _is_utf8(content) else _from_latin1(content)
    data = content.read(_MOST_UTF16, "for UTF-16 text. Save the file as UTF-8.")
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        raise BarDataError(
            f"{content.label}: UTF-16 text is truncated or damaged at byte {error.start}. Save it as UTF-8."
        ) from error
    return _with_bytes(content, pa.py_buffer(text.encode("utf-8", errors="replace")))


def _is_utf8(content: Content) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    waits = False
    with content.open() as stream:
        while block := stream.read(_BLOCK):
            # isascii() is fast; a block after a split character must be decoded as well.
            if waits or not block.isascii():
                try:
                    decoder.decode(block)
                except UnicodeDecodeError:
                    return False
                waits = bool(decoder.getstate()[0])
    return not waits


def _from_latin1(content: Content) -> Content:
    sink = pa.BufferOutputStream()
    with content.open() as stream:
        while block := stream.read(_BLOCK):
            sink.write(block if block.isascii() else block.decode("latin-1").encode("utf-8"))
    return _with_bytes(content, sink.getvalue())


def _with_bytes(content: Content, buffer: pa.Buffer) -> Content:
    head = buffer[:HEAD_BYTES].to_pybytes() if buffer.size else b""
    return replace(content, head=head, size=buffer.size, buffer=buffer)


def decoded(raw: bytes) -> str:
    """Decode a line as UTF-8 or, failing that, Latin-1, in which digits are the same."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def shape_of_text(content: Content) -> TextShape:
    """Recognise a text table from its first lines.

    Raises:
        NoTable: the lines do not form a table.
        BarDataError: a header without rows, or with more columns than the rows.
    """
    lines = _lines(content)
    notes: list[str] = []
    lines, declared, comments = _without_preamble(lines)
    if not lines:
        raise BarDataError(f"{content.label}: the file has no rows. Export it again.")
    separator = declared or _separator([line for _, line in lines])
    if not separator:
        raise NoTable(
            f"{content.label}: not a table: the lines are not rows of at least {LEAST_CELLS} cells separated by "
            f"commas, semicolons, tabs or vertical bars (first line: {lines[0][1][:60]!r}). Give --data a file of bars."
        )
    rows = [(start, cells_of(line, separator)) for start, line in lines]
    first = next((k for k, (_, cells) in enumerate(rows) if is_row(cells)), None)
    if first is None:
        if any(price_roles(cells) >= 3 for _, cells in rows):
            raise BarDataError(
                f"{content.label}: the file has a header but no bars, or its rows have no numbers. Export it again."
            )
        raise NoTable(
            f"{content.label}: no rows with a time and four prices (first line: {lines[0][1][:60]!r}). Give --data a "
            f"file of bars."
        )
    if above := sum(start < rows[first][0] for start in comments):
        notes.append(f"comment lines above the table left out: {above}")
    data = [cells for _, cells in rows[first:] if any(cell.strip() for cell in cells)]
    width = Counter(len(cells) for cells in data).most_common(1)[0][0]
    header = _header([cells for _, cells in rows[:first]], width, data, content.label, notes)
    sample = [cells for cells in data if len(cells) == width][:_SAMPLE_ROWS]
    quoted = any('"' in line for _, line in lines)
    return TextShape(separator, quoted, width, header, rows[first][0], sample, tuple(notes))


def _lines(content: Content) -> list[tuple[int, str]]:
    """The first lines with their byte offsets, without a last line cut off at the end of the head."""
    head = content.head
    start = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    lines: list[tuple[int, str]] = []
    for match in re.finditer(rb"[^\r\n]*(?:\r\n|\n|\r|$)", head[start:]):
        if match.end() == match.start():
            break
        if match.end() == len(head) - start and content.size > len(head) and lines:
            break
        lines.append((start + match.start(), decoded(match[0].rstrip(b"\r\n"))))
        if len(lines) >= _SAMPLE_LINES:
            break
    return lines


def _without_preamble(lines: list[tuple[int, str]]) -> tuple[list[tuple[int, str]], str, list[int]]:
    """Lines without blanks and comments, the separator declared by a line such as `sep=;`, and offsets of comments."""
    declared = ""
    kept = []
    comments = []
    for start, line in lines:
        if match := re.fullmatch(r'"?sep=(.)"?', line.strip(), flags=re.IGNORECASE):
            declared = match[1]
        elif line.strip() and is_comment(line):
            comments.append(start)
        elif line.strip():
            kept.append((start, line))
    return kept, declared, comments


def is_comment(line: str) -> bool:
    """Whether a line is a comment: it starts with a comment mark and is not a header such as #RIC,..."""
    return line.lstrip().startswith(_COMMENT) and price_roles(re.split(r"[,;\t|]", line)) < 3


def cells_of(line: str, separator: str) -> list[str]:
    """The cells of a line without quotes; the separator " " stands for any run of spaces."""
    if separator == " ":
        return line.split()
    if '"' not in line:
        return line.split(separator)
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        return line.split(separator)


def _width(line: str, separator: str) -> int:
    return line.count(separator) + 1 if '"' not in line else len(cells_of(line, separator))


def _separator(lines: list[str]) -> str:
    body = lines[-400:]
    for least in (0.8, 0.5):
        for separator in SEPARATORS:
            widths = Counter(_width(line, separator) for line in body)
            width, count = widths.most_common(1)[0]
            if width >= LEAST_CELLS and count >= least * len(body):
                return separator
    widths = Counter(len(line.split()) for line in body)
    width, count = widths.most_common(1)[0]
    return " " if width > LEAST_CELLS and count >= 0.8 * len(body) else ""


def is_row(cells: list[str]) -> bool:
    """Whether cells are a row of bars: at least four numbers, but not 0, 1, 2 ... as in a numbered header."""
    stripped = [cell.strip() for cell in cells]
    numeric = [cell for cell in stripped if _NUMBER.fullmatch(cell)]
    if len(numeric) >= LEAST_CELLS and stripped == [str(k) for k in range(len(stripped))]:
        return False
    has_time = any(cell_kind(cell) in ("full", "date", "clock") for cell in stripped)
    return len(numeric) >= LEAST_CELLS or (has_time and len(numeric) >= 4)


def _header(
    rows: list[list[str]], width: int, data: list[list[str]], label: str, notes: list[str]
) -> tuple[tuple[str, ...], ...]:
    """The header rows above the first row of bars; other lines there are titles."""
    found: list[tuple[str, ...]] = []
    titles = 0
    for cells in rows:
        names = [cell.strip() for cell in cells]
        if len(names) == width + 1 and not names[-1]:
            names = names[:-1]
        if len(names) == width - 1 and price_roles(names) >= 3 and _lacks_index_name(names, data):
            names = ["", *names]
        if len(names) < LEAST_CELLS or sum(bool(name) for name in names) == 0:
            titles += 1
            continue
        short = len(names) < width and price_roles(names) >= 3 and not _blank_from(data, len(names))
        if short or len(names) > width:
            raise BarDataError(
                f"{label}: the header has {len(names)} columns, but the rows have {width} cells. If numbers contain "
                f"commas, as in 6,850.25 or 6850,25, export with another separator or with quotes. Otherwise correct "
                f"the header."
            )
        found.append(tuple(names + [""] * (width - len(names))))
    if titles:
        notes.append(f"title lines above the header left out: {titles}")
    return tuple(found)


def _blank_from(data: list[list[str]], place: int) -> bool:
    """Whether all cells from a column onward are empty, as when each line ends in a separator."""
    return not any(cell.strip() for row in data for cell in row[place:])


def _lacks_index_name(names: list[str], data: list[list[str]]) -> bool:
    """Whether rows have one more leading cell than the header: a row number, or a time used as index."""
    named = [place for place, name in enumerate(names) if key(name) in (*spellings.WHOLE, *spellings.DATE)]
    row = data[0]
    if not named:
        return cell_kind(row[0]) == "full"
    here, following = (cell_kind(row[place]) for place in (named[0], named[0] + 1))
    return here not in ("full", "date") and following in ("full", "date", "digits")
