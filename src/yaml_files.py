"""YAML files of a fixed form (rule profiles, prompts, calendar overrides), read into a checked model."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from src.errors import ConfigError
from src.plain_text import one_line
from src.suggestions import did_you_mean

ModelT = TypeVar("ModelT", bound=BaseModel)


def read_model(path: Path, model: type[ModelT], what: str) -> ModelT:
    """The content of a file; an empty file is a mapping without keys. `what` is what it should be, with its article.

    Raises ConfigError with file, key, value and reason.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {one_line(error)}. Fix the file.") from error
    if not isinstance(content, dict | None):
        raise ConfigError(f"{path} must be a mapping of keys to values, but holds {type(content).__name__}.")
    try:
        return model.model_validate(content or {})
    except ValidationError as error:
        raise ConfigError(f"{path} is not {what}. {_explain(error, model)}") from error


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    sentences = []
    for finding in error.errors(include_url=False):
        key = ".".join(str(step) for step in finding["loc"])
        if finding["type"] == "extra_forbidden":
            sentences.append(f"Unknown key {key!r}{did_you_mean(key, model.model_fields)}: remove or rename it.")
        elif finding["type"] == "missing":
            field = model.model_fields.get(key)
            sentences.append(f"{key} is missing{f': {field.description}' if field and field.description else ''}.")
        else:
            reason = str(finding.get("ctx", {}).get("error", finding["msg"]))
            sentences.append(f"{key} is {finding['input']!r}: {reason}." if key else f"{reason}.")
    return " ".join(sentences)
