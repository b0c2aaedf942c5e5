"""What a server's answers say: the likeliest first tokens, or the log-probabilities of a prompt's own tokens.

Two shapes are in use for each: lists of objects (chat completions, llama.cpp) and parallel lists (completions, vLLM).
Every reader raises ValueError for an answer that does not hold what it looks for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_THOUGHT: Final = re.compile(r"\s*(<|\[THINK|\u25c1)")
"""How a model begins what is not its answer: a tag, a channel, a mark. No label begins like that."""
_COMPARED_CHARS: Final = 60
"""From a prompt's end: more than the longest label, so that a generated label is not taken for the prompt's own."""


@dataclass(frozen=True)
class Token:
    """A token that could have come first. `code` is its number in the server's vocabulary, where the server says it."""

    text: str
    logprob: float
    code: int | None = None


@dataclass(frozen=True)
class FirstTokens:
    """The likeliest first tokens of an answer, likeliest first; `chosen` is the one that was generated."""

    chosen: Token
    likeliest: tuple[Token, ...]
    fingerprint: str
    """The server's `system_fingerprint`, "" where it has none."""
    reasoned: bool = False
    """The server put what was generated apart as a thought."""

    @property
    def opens_a_thought(self) -> bool:
        """Whether the model begins with something that is not its answer."""
        first = self.likeliest[0] if self.likeliest else self.chosen
        return self.reasoned or bool(_THOUGHT.match(first.text))


def first_tokens(answer: Any) -> FirstTokens:
    """Of a completion or a chat completion of one token."""
    choice = answer["choices"][0]
    said = choice.get("logprobs")
    if not isinstance(said, Mapping):
        raise ValueError("no log-probabilities")
    message = choice.get("message")
    reasoned = False
    if isinstance(message, Mapping):
        thought = message.get("reasoning_content") or message.get("reasoning")
        reasoned = bool(thought) and not message.get("content")
    if "content" in said:
        if not said["content"]:
            raise ValueError("an empty list of log-probabilities")
        place = said["content"][0]
        chosen = _token(place)
        found = [_token(each) for each in place["top_logprobs"]]
    else:
        if not said.get("top_logprobs") or not said.get("tokens"):
            raise ValueError("an empty list of log-probabilities")
        chosen = Token(str(said["tokens"][0]), _finite(said["token_logprobs"][0]))
        found = [Token(str(text), _finite(value)) for text, value in said["top_logprobs"][0].items()]
    if not found:
        raise ValueError("an empty list of likeliest tokens")
    likeliest = tuple(sorted(found, key=lambda token: -token.logprob))
    return FirstTokens(chosen, likeliest, str(answer.get("system_fingerprint") or ""), reasoned)


def echoed(answer: Any, n: int) -> list[tuple[list[str], list[float]]]:
    """Of a completion that repeats `n` prompts: each one's tokens and their log-probabilities (0 for the first, which
    follows nothing)."""
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    if len(choices) != n:
        raise ValueError(f"{len(choices)} answers to {n} prompts")
    found = []
    for choice in choices:
        said = choice["logprobs"]
        if not isinstance(said, Mapping) or not said.get("tokens"):
            raise ValueError("no log-probabilities of the prompt")
        tokens = [str(token) for token in said["tokens"]]
        values = [0.0 if value is None and k == 0 else _finite(value) for k, value in enumerate(said["token_logprobs"])]
        if len(values) != len(tokens):
            raise ValueError(f"{len(values)} log-probabilities of {len(tokens)} tokens")
        found.append((tokens, values))
    return found


def label_logprobs(found: Sequence[tuple[list[str], list[float]]], texts: Sequence[str]) -> list[float]:
    """Of the prompts `texts`, which differ in the label at their end: the log-probability of the first token in which
    each differs from the others. ValueError where the tokens do not spell the prompts or cannot be told apart."""
    cut = [_without_what_follows(tokens, text) for (tokens, _), text in zip(found, texts, strict=True)]
    common = 0
    while all(len(tokens) > common for tokens in cut) and len({tokens[common] for tokens in cut}) == 1:
        common += 1
    if common == 0 or any(len(tokens) <= common for tokens in cut) or len({t[common] for t in cut}) < len(cut):
        raise ValueError("tokens in which the labels cannot be told apart")
    return [values[common] for _, values in found]


def _without_what_follows(tokens: list[str], text: str) -> list[str]:
    """A prompt's tokens without one that was generated behind it. Spaces are not compared: tokenizers of some families
    lose them in single tokens."""
    wanted = "".join(text.split())[-_COMPARED_CHARS:]
    for end in (len(tokens), len(tokens) - 1):
        if "".join("".join(tokens[:end]).split()).endswith(wanted):
            return tokens[:end]
    raise ValueError("no repeated prompt")


def _token(each: Any) -> Token:
    code = each.get("id")
    return Token(str(each["token"]), _finite(each["logprob"]), code if isinstance(code, int) else None)


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value > 1e-3:
        raise ValueError("a log-probability that is none")
    return min(0.0, float(value))
