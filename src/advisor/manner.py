"""How a model is asked and begins its answers: found out once, kept with its answers, named in the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from src.advisor.chat_format import closed_thought

OPENING_TOKENS: Final = 8
"""Tokens of an answer that are looked at for a thought: tokenizers cut `<think>` into up to so many."""
_BEGINNINGS: Final = ("<", "[", "◁")


@dataclass(frozen=True)
class Manner:
    """How a model is asked, and what the sample answers show."""

    prompt: str
    """chat template, plain text, or server (its own chat format, unseen)."""
    folded: bool = False
    """The template has no place for instructions."""
    closed: str = ""
    """What was added to a prompt to end a thought or a channel."""
    closed_for: str = ""
    """Who opens it: template, model, or either (of a server, which does not say)."""
    samples: int = 0
    """Situations it was tried with."""
    thoughts: int = 0
    """Samples whose answer begins with a thought as the prompt is now."""
    split_labels: tuple[str, ...] = ()
    """Labels of several tokens; the first token in which a label differs from the others stands for it."""
    whole_frac: float | None = None
    """Of those labels' first tokens: the share of their probability that continues as the label; None if unknown."""

    def to_json(self) -> str:
        """As the store keeps it."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The manner that `to_json` wrote."""
        facts = json.loads(text)
        return cls(**{**facts, "split_labels": tuple(facts["split_labels"])})


def manner_key(identity: str) -> str:
    """Under what the store keeps the manner of an advisor."""
    return f"manner of {identity}"


def openers_in(tokenizer: Any) -> set[int]:
    """Tokens of a vocabulary that open a thought by themselves."""
    added: dict[str, int] = getattr(tokenizer, "get_added_vocab", dict)()
    return {int(code) for text, code in added.items() if closed_thought(text)}


def closing_of(tokenizer: Any, likeliest: Callable[[list[int]], int]) -> tuple[str, int]:
    """What would close the thought that an answer begins with, "" for none, and the answer's first token; `likeliest`
    continues the tokens said so far."""
    said: list[int] = []
    for _ in range(OPENING_TOKENS):
        said.append(likeliest(said))
        text = tokenizer.decode(said, skip_special_tokens=False)
        if closing := closed_thought(text):
            return closing, said[0]
        if text.strip() and not text.lstrip().startswith(_BEGINNINGS):
            break
    return "", said[0]
