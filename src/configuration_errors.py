"""Error texts of the configuration: what a key allows, and what is wrong with a value."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from src.plain_text import escaped

_PLAIN_NAMES: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
}

# Attributes of a field's limits, whatever class carries them.
_LIMIT_WORDS: Mapping[str, str] = {
    "gt": "above",
    "ge": "at least",
    "lt": "below",
    "le": "at most",
    "min_length": "with a length of at least",
}


def allowed(field: FieldInfo) -> str:
    """What a field may be: `a number above 0 and at most 1, or null`."""
    return _allowed(field.annotation, tuple(field.metadata))


def _allowed(annotation: Any, metadata: tuple[Any, ...]) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return _allowed(
            inner, tuple(m for item in more for m in (item.metadata if isinstance(item, FieldInfo) else [item]))
        )
    if origin in (Union, types.UnionType):
        choices = [_allowed(choice, metadata) for choice in get_args(annotation) if choice is not types.NoneType]
        return " or ".join(choices) + (", or null" if types.NoneType in get_args(annotation) else "")
    if origin is Literal:
        names = [str(choice) for choice in get_args(annotation)]
        return names[0] if len(names) == 1 else f"one of {', '.join(names)}"
    if origin in (tuple, list):
        least = next((item.min_length for item in metadata if hasattr(item, "min_length")), 0)
        return f"a list{f' of at least {least}' if least else ''}, each {_allowed(get_args(annotation)[0], ())}"
    if origin is dict or annotation is dict:
        return "a mapping"
    return _PLAIN_NAMES.get(annotation, "another kind of value") + _limits(metadata)


def _limits(metadata: tuple[Any, ...]) -> str:
    words = [
        f"{word} {getattr(item, limit)}"
        for item in metadata
        for limit, word in _LIMIT_WORDS.items()
        if getattr(item, limit, None) is not None
    ]
    return f" {' and '.join(words)}" if words else ""


def is_number_in_disguise(field: FieldInfo, value: Any) -> bool:
    """Whether pydantic would take the value as a number although it is not one: `yes` for a count, or infinity."""
    kinds = {field.annotation, *get_args(field.annotation)}
    if not kinds & {int, float}:
        return False
    return (isinstance(value, bool) and bool not in kinds) or (isinstance(value, float) and not math.isfinite(value))


def bad_value(place: str, value: Any, field: FieldInfo) -> str:
    """One sentence: which key has which value and what is allowed; a value that may be a secret is left out."""
    if not field.repr:
        return f"{place} must be {allowed(field)}."
    return f"{place} is {quote(value)}, but must be {allowed(field)}."


def explain(error: ValidationError, model: type[BaseModel], place: Callable[[tuple[str, ...]], str]) -> str:
    """Pydantic's findings as plain sentences; `place` says where the user wrote the key with a given path."""
    sentences: dict[tuple[str, ...], str] = {}  # the first finding of a key says enough
    for finding in error.errors(include_url=False):
        path, field = _deepest_field(model, finding["loc"])
        where, value = place(path), finding["input"]
        if finding["type"] in ("value_error", "assertion_error"):
            reason = str(finding.get("ctx", {}).get("error", finding["msg"])).rstrip(".")
            is_shown = field is not None and field.repr
            sentence = f"{where} is {quote(value)}: {reason}." if is_shown else f"{where}: {reason}."
        elif field is None:
            sentence = f"{where}: {finding['msg']}."
        elif len(finding["loc"]) > len(path) and isinstance(finding["loc"][len(path)], int):
            element = _allowed(get_args(field.annotation)[0], ())
            sentence = f"{where}[{finding['loc'][len(path)]}] is {quote(value)}, but must be {element}."
        else:
            sentence = bad_value(where, value, field)
        sentences.setdefault(path, sentence)
    return " ".join(sentences.values())


def _deepest_field(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[tuple[str, ...], FieldInfo | None]:
    """Path and field of the leaf a finding is about; no field when it is about a section as a whole."""
    path: list[str] = []
    inner: type[BaseModel] | None = model
    field = None
    for step in loc:
        if inner is None or step not in inner.model_fields:
            break
        path.append(str(step))
        field = inner.model_fields[str(step)]
        inner = section_of(field)
    return tuple(path), field if inner is None else None


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that is a section of its own, else None."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def quote(value: Any) -> str:
    """A value as a message shows it: in YAML's words, and short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 10**80:  # Python refuses to write one of thousands of digits
        return "a number of more than 80 digits"
    try:
        text = repr(str(value)) if isinstance(value, str | Path) else escaped(repr(value))
    except ValueError:  # of such a number within it
        return f"a {type(value).__name__} with a number of thousands of digits"
    return text if len(text) <= 80 else text[:77] + "..."
