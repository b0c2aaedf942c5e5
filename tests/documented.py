"""What the documents print: fenced blocks, and commands in them and in running text."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str, language: str) -> list[str]:
    """The contents of the fenced blocks of a language; "" for those that name none."""
    return [content for named, content in _BLOCK.findall(text) if named == language]


def commands(text: str) -> list[str]:
    """Every command line that begins with `python`: lines of blocks, without their comment, and inline code."""
    lines = [line.strip() for block in blocks(text, "") for line in block.splitlines()]
    inline = [" ".join(code.split()) for code in re.findall(r"`(python [^`]+)`", _BLOCK.sub("", text))]
    return [line.partition("  #")[0].strip() for line in (*lines, *inline) if line.startswith("python ")]
