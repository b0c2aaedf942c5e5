"""Reads a page as a browser's parser does: elements, their text, scripts apart. Shares no code with its writer."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "link", "br", "img", "input", "hr", "rect", "line"}


class PageReader(HTMLParser):
    """`elements` are (tag, attributes, text within) in order; `scripts` their contents; `text` all that is shown."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.shown: list[str] = []
        self._open: list[tuple[str, list[str]]] = []
        self.unclosed: list[str] = []
        self.feed(html)
        self.close()
        self.unclosed += [tag for tag, _ in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        words: list[str] = []
        self.elements.append((tag, dict(attrs), words))
        if tag not in VOID:
            self._open.append((tag, words))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1][0] != tag:
            self.unclosed.append(f"</{tag}>")
            return
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][0] == "script":
            self.scripts.append((self.elements[-1][1], data))
            return
        if self._open and self._open[-1][0] != "style":
            self.shown.append(data)
        for _, words in self._open:
            words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.shown)

    def of(self, tag: str, **attributes: str) -> list[tuple[dict[str, str | None], str]]:
        """Attributes and text of the elements of a tag with these attributes."""
        return [
            (given, "".join(words))
            for name, given, words in self.elements
            if name == tag and attributes.items() <= given.items()
        ]

    @property
    def charts(self) -> dict[str, Any]:
        """What the page's script draws from."""
        (data,) = [content for attributes, content in self.scripts if attributes.get("id") == "chart-data"]
        return json.loads(data)
