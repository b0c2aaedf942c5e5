"""YAML in and out: a file read into a plain mapping, a configuration written with a comment on every key."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from src.errors import ConfigError

_WIDTH = 120


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a key written twice, where plain YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key {key.value!r} stands twice in the same section", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_mapping(path: Path | str) -> dict[str, Any]:
    """The mapping a YAML file holds, {} for an empty file. ConfigError when it cannot be read or holds no mapping."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"There is no configuration file {path}. Name one that exists, for example under config/."
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file in UTF-8 (byte {error.start}). Save it as UTF-8.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. Name a readable YAML file.") from None
    try:
        values = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{path} cannot be used, {where}{error.problem or error.context}. Mend that line.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}. Mend the file.") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} holds a {type(values).__name__} at its top, but must hold sections with keys, such as `hardware:` "
            f"and under it `batch_size: 1024`."
        )
    return values


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


def _one_line(value: Any) -> str:
    """A value in YAML's flow style on one line; double quotes keep a line break inside a string on that line too."""
    broken = isinstance(value, str) and not value.isprintable()
    text = yaml.safe_dump(
        value,
        default_flow_style=True,
        width=10**9,
        sort_keys=False,
        allow_unicode=True,
        default_style='"' if broken else None,
    )
    return text.removesuffix("...\n").strip()
