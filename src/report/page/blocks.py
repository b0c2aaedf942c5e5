"""The building blocks of a section. The template knows these kinds and nothing about the report."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import yaml
from markupsafe import Markup, escape

from src.report.model.report import Answer
from src.wording import NOTHING

T = TypeVar("T")
Words = Markup | str
LONG = 400
"""Length from which external text gets a scroll box."""
WIDE = 36
"""Length from which a word may be broken anywhere."""
SIGNED_USD = re.compile(r"[+-]\$[\d,]*\d(?:\.\d+)?")
"""An amount that a line may not break after its sign."""
GLOSSARY_FILE = Path(__file__).with_name("glossary.yaml")


@cache
def glossary() -> Mapping[str, Mapping[str, str]]:
    """Name and definition of every term by key, sorted by name."""
    terms: dict[str, dict[str, str]] = yaml.safe_load(GLOSSARY_FILE.read_text(encoding="utf-8"))
    return dict(sorted(terms.items(), key=lambda item: item[1]["name"].lower()))


def term(key: str, text: str = "") -> Markup:
    """A word whose definition shows on hover and focus and is in the glossary; KeyError if it has none."""
    name = glossary()[key]["name"]
    return Markup('<button type="button" class="term" aria-describedby="def-{}">{}</button>').format(key, text or name)


def given(text: object) -> Markup:
    """External text (a name, a path, a note): shown as it is, and isolated from the direction of the text around it."""
    words = str(text)
    looks = ["given"]
    if len(words) > LONG:
        looks.append("long")
    if any(len(word) > WIDE for word in words.split()):
        looks.append("wide")
    escaped = SIGNED_USD.sub(r'<span class="amount">\g<0></span>', str(escape(words)))
    return Markup('<bdi class="{}">{}</bdi>').format(" ".join(looks), Markup(escaped))


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar = "text"
    html: Markup


@dataclass(frozen=True)
class Hint:
    """How to use what follows; left out in print."""

    kind: ClassVar = "hint"
    html: Markup


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    kind: ClassVar = "bullets"
    items: Sequence[Markup]


@dataclass(frozen=True)
class Answers:
    """The run's questions, each with its mark and answer."""

    kind: ClassVar = "answers"
    items: Sequence[Answer]


class Named(NamedTuple, Generic[T]):
    """A row of a table: what the report keeps under a name."""

    name: str
    of: T


def named(parts: Mapping[str, T]) -> list[Named[T]]:
    """A row for each part, in order."""
    return [Named(name, of) for name, of in parts.items()]


@dataclass(frozen=True)
class Column(Generic[T]):
    """One column: its heading, how to get the cell from a row, and whether it holds numbers."""

    heading: Words
    cell: Callable[[T], Words]
    numeric: bool = True


@dataclass(frozen=True)
class Table(Generic[T]):
    """Rows of text; an empty column is left out."""

    kind: ClassVar = "table"
    caption: Words
    columns: Sequence[Column[T]]
    rows: Sequence[T]
    note: Words = ""
    chosen_by: str = ""
    """Id of the chart whose select boxes show this table; `choice` is their combined index."""
    choice: int = 0

    @cached_property
    def kept(self) -> list[Column[T]]:
        """The first column and every one that is not empty; all columns if there are no rows."""
        first, *others = self.columns
        return [first, *(c for c in others if not self.rows or any(c.cell(row) != NOTHING for row in self.rows))]

    @cached_property
    def cells(self) -> list[list[Words]]:
        """Text by row, for the columns kept."""
        return [[column.cell(row) for column in self.kept] for row in self.rows]


@dataclass(frozen=True)
class Facts:
    """Names and values, one line each."""

    kind: ClassVar = "facts"
    pairs: Sequence[tuple[Words, Words]]


@dataclass(frozen=True)
class Figure:
    """One chart: plotly traces and layout, with colours by role and arrays by reference, and its legend.

    `panels` are (y axis id, label) pairs; `legend` entries are dicts of group, label, role, dash, symbol and off.
    `narrow` replaces parts of the layout on a narrow screen.
    """

    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any] = field(default_factory=dict)
    panels: Sequence[tuple[str, str]] = ()
    legend: Sequence[Mapping[str, Any]] = ()
    narrow: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """In the form the page's script reads."""
        return {
            "traces": list(self.traces),
            "layout": dict(self.layout),
            "panels": [{"axis": axis, "label": label} for axis, label in self.panels],
            "legend": list(self.legend),
            "narrow": dict(self.narrow),
        }


@dataclass(frozen=True)
class Choice:
    """A select box above a chart."""

    label: str
    options: Sequence[str]


@dataclass(frozen=True)
class Chart:
    """A chart, drawn when it scrolls into view; `says` describes it for readers who cannot see it.

    With choices there is one figure per combination, the last choice varying fastest.
    """

    kind: ClassVar = "chart"
    id: str
    caption: Markup
    says: str
    height: int
    figures: Sequence[Figure]
    choices: Sequence[Choice] = ()
    most_px: int | None = None
    """Maximum width; None uses the column's."""

    def to_dict(self) -> dict[str, Any]:
        """In the form the page's script reads."""
        figures = [figure.to_dict() for figure in self.figures]
        return {"height": self.height, "most_px": self.most_px, "figures": figures}


@dataclass(frozen=True)
class Folded:
    """Collapsed blocks, opened by their summary line."""

    kind: ClassVar = "folded"
    summary: str
    blocks: Sequence[Any]


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    kind: ClassVar = "heading"
    text: str


@dataclass(frozen=True)
class Section:
    """A part of the page; without blocks, `absent` says in one sentence what this run does not have."""

    id: str
    title: str
    blocks: Sequence[Any] = ()
    absent: Words = ""
    group: str = ""
    """Sections of one group are folded together in the contents."""


def charts_of(blocks: Sequence[Any]) -> list[Chart]:
    """Every chart in these blocks, collapsed ones included."""
    found: list[Chart] = []
    for block in blocks:
        if isinstance(block, Chart):
            found.append(block)
        elif isinstance(block, Folded):
            found += charts_of(block.blocks)
    return found
