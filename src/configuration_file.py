"""YAML in and out: a file read into a plain mapping, a configuration written with a comment on every key."""

from __future__ import annotations

import datetime
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from src.configuration_errors import quote
from src.errors import ConfigError
from src.files import read_input
from src.plain_text import foreign
from src.settings import LARGEST_INT

_WIDTH = 120
MOST_BYTES = 2**20
"""Of a configuration file; the longest here has 12 KB."""
DEEPEST, MOST_NODES = 32, 20_000
_KINDS: Mapping[type, str] = {
    bool: "switch",
    int: "number",
    float: "number",
    bytes: "piece of binary data",
    datetime.date: "date",
    datetime.datetime: "point in time",
    tuple: "list",
    type(None): "null",
}


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a key written twice, where plain YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key {foreign(key.value)!r} appears twice in the same section",
                        problem_mark=key.start_mark,
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_mapping(path: Path | str) -> dict[str, Any]:
    """The mapping a YAML file holds, {} for an empty file.

    Raises ConfigError when it is no regular file of at most `MOST_BYTES`, is nested deeper than `DEEPEST`, would unfold
    into more than `MOST_NODES` values, or holds no mapping of plain values under text keys.
    """
    path = Path(path)
    name = foreign(path)
    try:
        text = read_input(path, MOST_BYTES).decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"There is no configuration file {name}. Name one that exists, for example under config/."
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not a text file in UTF-8 (byte {error.start}). Save it as UTF-8.") from None
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(f"{name} cannot be read: {why}. Name a readable YAML file.") from None
    try:
        _check_size(text)
        values = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = foreign(error.problem or error.context)
        raise ConfigError(f"{name} cannot be used, {where}{problem}. Fix that line.") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        problem = foreign(" ".join(str(error).split()))
        raise ConfigError(f"{name} is not YAML: {problem}. Fix the file.") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{name} holds a {type(values).__name__} at its top, but must hold sections with keys, such as `hardware:` "
            f"and under it `batch_size: 1024`."
        )
    check_plain(values, name, ())
    return values


def _check_size(text: str) -> None:
    """MarkedYAMLError for a document that is too deep or would unfold to too much; its parser does not recurse."""
    open_sizes = [0]
    open_anchors: list[str | None] = [None]
    sizes: dict[str, int] = {}
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        problem = ""
        if isinstance(event, yaml.CollectionStartEvent):
            open_sizes.append(1)
            open_anchors.append(event.anchor)
            if len(open_sizes) > DEEPEST:
                problem = f"nested deeper than {DEEPEST} levels"
        elif isinstance(event, yaml.CollectionEndEvent):
            size, anchor = open_sizes.pop(), open_anchors.pop()
            open_sizes[-1] += size
            if anchor is not None:
                sizes[anchor] = size
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in open_anchors:
                problem = f"the anchor {foreign(event.anchor)!r} holds itself"
            open_sizes[-1] += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.ScalarEvent):
            open_sizes[-1] += 1
        if open_sizes[-1] > MOST_NODES:
            problem = f"it holds more than {MOST_NODES:,} values"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type]


def check_plain(value: Any, name: str, path: tuple[str, ...]) -> None:
    """ConfigError for values that cannot be written to a report or a configuration: dates, bytes, sets, odd keys."""
    problem, remedy = "", "Write it in quotes, as a text."
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                where = f"{'.'.join(path)}: " if path else ""
                raise ConfigError(
                    f"{name}: {where}the key {quote(key)} is a {_KINDS.get(type(key), type(key).__name__)}, but a key "
                    f"must be a text. Write it in quotes."
                )
            check_plain(inner, name, (*path, foreign(key, 80)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            check_plain(inner, name, (*path[:-1], f"{path[-1]}[{index}]"))
    elif isinstance(value, str):
        if any(0xD800 <= ord(character) < 0xE000 for character in value):
            problem, remedy = "a text with half a surrogate pair", "Write the character itself."
    elif isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= LARGEST_INT:
            problem, remedy = "a whole number of more than 18 digits", "Write it in quotes, or smaller."
    elif value is not None and not isinstance(value, float | bool):
        problem = f"a {_KINDS.get(type(value), type(value).__name__)}"
    if problem:
        raise ConfigError(f"{name}: {'.'.join(path)} is {problem}. {remedy}")


def commented_yaml(model: BaseModel) -> str:
    """YAML of a configuration: each value with the description (unit and meaning) of its field."""
    return "\n".join(_lines(model, depth=0)) + "\n"


def _lines(model: BaseModel, depth: int) -> Iterator[str]:
    indent = "  " * depth
    plain = model.model_dump(mode="json")
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            if depth == 0:
                yield ""
            yield _with_comment(f"{indent}{name}:", field.description, indent)
            yield from _lines(value, depth + 1)
        else:
            yield _with_comment(f"{indent}{name}: {_one_line(plain[name])}", field.description, indent)


def _with_comment(line: str, description: str | None, indent: str) -> str:
    if not description:
        return line
    trailing = f"{line}  # {description}"
    if len(trailing) <= _WIDTH:
        return trailing
    comment = textwrap.wrap(description, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
    return "\n".join([*comment, line])


class _OneLineDumper(yaml.SafeDumper):
    """Puts a text with an unprintable character, such as a line break, in double quotes to keep it on one line."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """A text anywhere in a value: YAML reads an unquoted next-line character (U+0085) as a blank."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_OneLineDumper.add_representer(str, _OneLineDumper.represent_text)


def _one_line(value: Any) -> str:
    """A value in YAML's flow style on one line."""
    text = yaml.dump(
        value, Dumper=_OneLineDumper, default_flow_style=True, width=10**9, sort_keys=False, allow_unicode=True
    )
    return text.removesuffix("...\n").strip()
