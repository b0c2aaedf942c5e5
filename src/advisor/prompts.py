"""What a language model is asked: a system text shared by all situations, and a short text for each of them.

The text is a pure function of the situation, so that equal situations share one answer, and nothing the RL agent
proposes can reach it: a small model would repeat the proposal, and its agreement would mean nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from pydantic import Field, StringConstraints

from src.advisor.situations import DIMENSIONS, SIDES, UNKNOWN_BUCKET, decode
from src.advisor.table import LABEL_SETS
from src.errors import ConfigError
from src.settings import Section
from src.suggestions import did_you_mean
from src.trading.layout import ACTIONS
from src.yaml_files import read_model

PROMPTS_FILE: Final = Path(__file__).resolve().parents[2] / "config" / "prompts" / "situation_v1.yaml"

PLACEHOLDERS: Final = (*(dimension.name for dimension in DIMENSIONS), "side")
"""All that may vary in the text of a situation."""

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Labels = tuple[tuple[int, str], ...]


class SideWords(Section):
    """One side of the account in words."""

    position: Text = Field(description="how the prompt calls the side")
    labels: dict[str, Text] = Field(description="the answer for each action of the side")


class PromptFile(Section):
    """What a prompt file holds."""

    system: Text = Field(description="the text shared by all situations")
    situation: Text = Field(description="the text of one situation, with placeholders for its facts")
    sides: dict[str, SideWords] = Field(description="words and answers of each side of the account")


@dataclass(frozen=True)
class PromptSet:
    """Texts and answers for every situation; made by `load_prompts`, which checks them."""

    name: str
    system: str
    template: str
    positions: tuple[str, ...]
    """What the five sides are called, in the order of their codes."""
    answers: tuple[Labels, ...]
    """Action codes and label texts of the five sides, by action code."""

    @property
    def sha256(self) -> str:
        """Hash of everything that shapes a prompt or an answer: these texts and the names of the buckets."""
        texts = asdict(self)
        del texts["name"]
        facts = {
            "texts": texts,
            "dimensions": [[dimension.name, *dimension.buckets] for dimension in DIMENSIONS],
            "sides": SIDES,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def situation_text(self, situation: int) -> str:
        """What the model reads about one situation; the same text for the same situation, always."""
        facts = asdict(decode(situation))
        side = SIDES.index(facts.pop("side"))
        return self.template.format(**facts, side=self.positions[side])

    def labels(self, side: int) -> Labels:
        """(action code, label text) of each action in LABEL_SETS of the side, by action code."""
        return self.answers[side]


def load_prompts(path: Path = PROMPTS_FILE) -> PromptSet:
    """The prompts of a file. Raises ConfigError for a file, placeholder, side or label that cannot be used."""
    words = read_model(path, PromptFile, "a usable prompt file")
    _same_names(path, "sides", words.sides, SIDES)
    answers = tuple(_labels_of(path, side, words.sides[side].labels) for side in SIDES)
    positions = tuple(words.sides[side].position for side in SIDES)
    prompts = PromptSet(path.stem, words.system, words.situation, positions, answers)
    try:
        assert_no_proposal(prompts)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return prompts


def assert_no_proposal(prompts: PromptSet) -> None:
    """Raise ConfigError if a proposal could reach a prompt: by a placeholder that is no fact of the situation, or by
    an answer that stands in the text of a situation, where a small model would repeat it."""
    brace = re.search(r"[{}]\w*}?", prompts.system)
    if brace:
        raise ConfigError(
            f"system holds {brace.group()!r}, but it is shared by all situations: nothing may vary in it. Move the "
            f"placeholder to `situation`, or do without braces."
        )
    for name in _placeholders(prompts.template):
        if name not in PLACEHOLDERS:
            raise ConfigError(
                f"situation holds the placeholder {{{name}}}{did_you_mean(name, PLACEHOLDERS)}. Allowed are "
                f"{', '.join(PLACEHOLDERS)}: what the agent proposes must never reach the model, which would repeat "
                f"it. Remove the placeholder."
            )
    facts = {dimension.name: " ".join((*dimension.buckets, UNKNOWN_BUCKET)) for dimension in DIMENSIONS}
    shown = set(_words(prompts.template.format(**facts, side=" ".join(prompts.positions))))
    for answer in (*ACTIONS, *(text for labels in prompts.answers for _, text in labels)):
        if set(_words(answer)) <= shown:
            raise ConfigError(
                f"the text of a situation holds the answer {answer!r}. A small model repeats what it reads, and its "
                f"agreement would mean nothing: word `situation` and `position` without the answers, or rename the "
                f"label."
            )


def _placeholders(template: str) -> list[str]:
    try:
        fields = [(name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(template)]
    except ValueError as error:
        raise ConfigError(f"situation is not a template: {error}. Write a brace itself as two.") from error
    for name, spec, conversion in fields:
        if name is not None and (spec or conversion):
            raise ConfigError(f"situation formats the placeholder {name!r}; write it plainly as {{{name}}}.")
    return [name for name, _, _ in fields if name is not None]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _labels_of(path: Path, side: str, labels: Mapping[str, str]) -> Labels:
    allowed = LABEL_SETS[SIDES.index(side)]
    _same_names(path, f"labels of side {side!r}", labels, [ACTIONS[code] for code in np.flatnonzero(allowed)])
    texts = [text.lower() for text in labels.values()]
    for name, text in labels.items():
        if texts.count(text.lower()) > 1:
            raise ConfigError(f"{path}: side {side!r} uses the label {text!r} twice ({name}); give each its own word.")
    return tuple((code, labels[name]) for code, name in enumerate(ACTIONS) if name in labels)


def _same_names(path: Path, what: str, given: Mapping[str, object], wanted: tuple[str, ...] | list[str]) -> None:
    for name in given:
        if name not in wanted:
            raise ConfigError(
                f"{path}: {what} has {name!r}{did_you_mean(name, wanted)}; needs exactly {', '.join(wanted)}."
            )
    missing = [name for name in wanted if name not in given]
    if missing:
        raise ConfigError(f"{path}: {what} lacks {', '.join(missing)}; needs exactly {', '.join(wanted)}.")
