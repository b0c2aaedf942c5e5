"""The base of every configuration section."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

LARGEST_INT = 10**18
"""Whole numbers of more digits are refused: Python itself will not write one of thousands."""
LONGEST_NAME = 255
"""Bytes of the name of a file on every file system in use."""


class Section(BaseModel):
    """One section of the YAML file: frozen, an unknown key is an error, every field has a default and limits."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @field_validator("*", mode="after")
    @classmethod
    def _can_be_written_and_read_back(cls, value: Any) -> Any:
        paths = [each for each in (value.values() if isinstance(value, dict) else (value,)) if isinstance(each, Path)]
        for path in paths:
            plain(str(path))
            if any(len(part.encode()) > LONGEST_NAME for part in path.parts):
                raise ValueError(f"a name in it is longer than {LONGEST_NAME} bytes")
        return plain(value) if isinstance(value, dict | str) and not paths else value


def plain(value: Any) -> Any:
    """The value as YAML and JSON store it, tuples as lists.

    Sections check themselves and pass. Raises ValueError for what cannot be stored: dates, bytes, objects, NaN and
    infinities, keys that are not text, null characters and lone surrogates.
    """
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"a key in it is of the type {type(key).__name__}, but must be a text")
        return {plain(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, str):
        if "\0" in value or any(0xD800 <= ord(character) < 0xE000 for character in value):
            raise ValueError("it holds a null character or half a surrogate pair")
        return value
    if isinstance(value, int) and abs(value) >= LARGEST_INT:
        raise ValueError("a whole number in it has more than 18 digits")
    if value is None or isinstance(value, int | BaseModel) or (isinstance(value, float) and math.isfinite(value)):
        return value
    kind = str(value) if isinstance(value, float) else f"of the type {type(value).__name__}"
    raise ValueError(f"a value in it is {kind}, which a settings file does not keep")
