"""What a section is made of. The template knows these kinds and nothing of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

import yaml
from markupsafe import Markup

from src.evidence.page.numbers import NOTHING

LONG = 400
"""Characters from which a text from outside gets a box to scroll in."""
WIDE = 36
"""Characters of a word from which it may be broken anywhere."""
GLOSSARY_FILE = Path(__file__).with_name("glossary.yaml")


@cache
def glossary() -> Mapping[str, Mapping[str, str]]:
    """Name and definition of every term, by key, in alphabetical order of the names."""
    terms: dict[str, dict[str, str]] = yaml.safe_load(GLOSSARY_FILE.read_text(encoding="utf-8"))
    return dict(sorted(terms.items(), key=lambda item: item[1]["name"].lower()))


def term(key: str, text: str = "") -> Markup:
    """A word with its definition: shown on hover and focus, and standing in the glossary; KeyError without one."""
    name = glossary()[key]["name"]
    return Markup('<button type="button" class="term" aria-describedby="def-{}">{}</button>').format(key, text or name)


def given(text: object) -> Markup:
    """Text from outside (a name, a path, a note): shown as it is, and kept from turning its neighbours around."""
    words = str(text)
    looks = ["given"]
    if len(words) > LONG:
        looks.append("long")
    if any(len(word) > WIDE for word in words.split()):
        looks.append("wide")
    return Markup('<bdi class="{}">{}</bdi>').format(" ".join(looks), words)


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar = "text"
    html: Markup


@dataclass(frozen=True)
class Hint:
    """How to use what follows; not printed."""

    kind: ClassVar = "hint"
    html: Markup


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    kind: ClassVar = "bullets"
    items: Sequence[Markup]


@dataclass(frozen=True)
class Column:
    """One column: its heading, how to take the cell from a row's facts, and whether it holds numbers."""

    heading: Markup | str
    cell: Callable[[Any], Markup | str]
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """Rows of text; a column in which no row has anything is left out."""

    kind: ClassVar = "table"
    caption: Markup | str
    columns: Sequence[Column]
    facts: Sequence[Any]
    note: Markup | str = ""
    chosen_by: str = ""
    """Id of the chart whose selects show this table, with `choice` their combined index."""
    choice: int = 0

    @cached_property
    def kept(self) -> list[Column]:
        """Columns with something in them; the first always, and all of a table without rows."""
        first, *others = self.columns
        return [first, *(c for c in others if not self.facts or any(c.cell(fact) != NOTHING for fact in self.facts))]

    @cached_property
    def cells(self) -> list[list[Markup | str]]:
        """Text by row, over the columns that stay."""
        return [[column.cell(fact) for column in self.kept] for fact in self.facts]


@dataclass(frozen=True)
class Facts:
    """Names and values, a line each."""

    kind: ClassVar = "facts"
    pairs: Sequence[tuple[Markup | str, Markup | str]]


@dataclass(frozen=True)
class Figure:
    """One drawing: plotly traces and layout with colours by role and arrays by reference, and its legend.

    `panels` are (y axis id, label) pairs; `legend` entries are dicts of group, label, role, dash, symbol and off.
    `narrow` replaces parts of the layout on a narrow screen.
    """

    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any] = field(default_factory=dict)
    panels: Sequence[tuple[str, str]] = ()
    legend: Sequence[Mapping[str, Any]] = ()
    narrow: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As the page's script reads it."""
        return {
            "traces": list(self.traces),
            "layout": dict(self.layout),
            "panels": [{"axis": axis, "label": label} for axis, label in self.panels],
            "legend": list(self.legend),
            "narrow": dict(self.narrow),
        }


@dataclass(frozen=True)
class Choice:
    """A select box over a chart."""

    label: str
    options: Sequence[str]


@dataclass(frozen=True)
class Chart:
    """A place for a drawing, drawn when it comes into view; `says` is what it shows, for who cannot see it.

    With choices there is one figure a combination, the last choice running fastest.
    """

    kind: ClassVar = "chart"
    id: str
    caption: Markup
    says: str
    height: int
    figures: Sequence[Figure]
    choices: Sequence[Choice] = ()
    most_px: int | None = None
    """Greatest width; None takes the column's."""

    def to_dict(self) -> dict[str, Any]:
        """As the page's script reads it."""
        figures = [figure.to_dict() for figure in self.figures]
        return {"height": self.height, "most_px": self.most_px, "figures": figures}


@dataclass(frozen=True)
class Folded:
    """Blocks behind a line that opens them."""

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
    """A part of the page; without blocks, `absent` says in one sentence what this run has not got."""

    id: str
    title: str
    blocks: Sequence[Any] = ()
    absent: Markup | str = ""


def charts_of(blocks: Sequence[Any]) -> list[Chart]:
    """Every chart of these blocks, folded ones too."""
    found: list[Chart] = []
    for block in blocks:
        if isinstance(block, Chart):
            found.append(block)
        elif isinstance(block, Folded):
            found += charts_of(block.blocks)
    return found
