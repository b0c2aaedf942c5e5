"""Prompts as tokens: what all situations share, what each adds, and the token each answer begins with."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from src.advisor.prompts import PromptSet
from src.advisor.situations import BUCKET_COUNTS, SIDES, codes_of_buckets, encode
from src.errors import ConfigError
from src.trading.layout import N_SIDES

Tokens = list[int]
PLAIN_QUESTION: Final = "\nAnswer:"
"""Ends the prompt of a model without a chat template; the answer follows after a space."""


class PromptEncoder:
    """The prompts of one `PromptSet` in the tokens of one model.

    prefix: tokens that every prompt begins with. answer_tokens: by side, the token each action's label begins with.
    Raises ConfigError where two labels of a side cannot be told apart by a token.
    """

    def __init__(self, tokenizer: Any, prompts: PromptSet, model_name: str) -> None:
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._model_name = model_name
        self._has_chat = bool(getattr(tokenizer, "chat_template", None))
        endings = [self._answers_of(int(encode(1, side))) for side in range(N_SIDES)]
        self._cut = [cut for cut, _, _ in endings]
        self._lead = [lead for _, lead, _ in endings]
        self.answer_tokens: tuple[dict[int, int], ...] = tuple(tokens for _, _, tokens in endings)
        encoded = [self._full(situation) for situation in _samples()]
        self.longest = max(map(len, encoded))
        """Tokens of the longest prompt among those with one fact changed."""
        shared = _common_length(encoded)
        # A token at least is left to each prompt: its logits are the answer.
        self.prefix: Tokens = encoded[0][: min(shared, min(map(len, encoded)) - 1)]

    def text(self, situation: int, system: str | None = None) -> str:
        """The whole prompt, up to where the answer begins; `system` replaces the prompt set's own.

        In the model's chat template where it has one; a template without a system role gets one message.
        """
        system = self._prompts.system if system is None else system
        user = self._prompts.situation_text(situation)
        if not self._has_chat:
            return f"{system}\n\n{user}{PLAIN_QUESTION}"
        from jinja2.exceptions import TemplateError

        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        # enable_thinking: models that think first would else answer after a text nobody generates here.
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        try:
            return str(self._tokenizer.apply_chat_template(messages, **options))
        except TemplateError:
            merged = [{"role": "user", "content": f"{system}\n\n{user}"}]
            return str(self._tokenizer.apply_chat_template(merged, **options))

    def tokens(self, situation: int) -> Tokens:
        """The whole prompt in tokens. Raises ConfigError if it does not begin with `prefix`."""
        tokens = self._full(situation)
        if tokens[: len(self.prefix)] != self.prefix or len(tokens) == len(self.prefix):
            raise ConfigError(
                f"the tokenizer of {self._model_name} joins the system text with the text of situation {situation}; "
                f"end the constant beginning of `situation` in {self._prompts.name}.yaml with a space or a line break."
            )
        return tokens

    def _full(self, situation: int) -> Tokens:
        side = situation % N_SIDES
        tokens = self.tokenize(self.text(situation))
        return tokens[: len(tokens) - self._cut[side]] + self._lead[side]

    def tokenize(self, text: str) -> Tokens:
        """Tokens of a whole prompt; a chat template writes the special ones itself."""
        tokens: Tokens = list(self._tokenizer(text, add_special_tokens=not self._has_chat)["input_ids"])
        end = getattr(self._tokenizer, "eos_token_id", None)
        return tokens[:-1] if not self._has_chat and tokens and tokens[-1] == end else tokens

    def _answers_of(self, situation: int) -> tuple[int, Tokens, dict[int, int]]:
        """For the side of a situation: how many tokens of the prompt the answers reach back into, the tokens that all
        its answers begin with, and the first token in which each differs from the others."""
        side = situation % N_SIDES
        prompt = self.text(situation)
        space = "" if self._has_chat else " "
        labels = self._prompts.labels(side)
        alone = self.tokenize(prompt)
        answered = [self.tokenize(f"{prompt}{space}{label}") for _, label in labels]
        common = _common_length(answered)
        kept = _common_length([alone, answered[0][:common]])
        starts = [tokens[common] if len(tokens) > common else None for tokens in answered]
        for (i, start), (j, other) in itertools.combinations(enumerate(starts), 2):
            if start is None or other is None or start == other:
                begin = self._tokenizer.decode(answered[i][len(alone) : common + 1])
                raise ConfigError(
                    f"the tokenizer of {self._model_name} cannot tell the answers {labels[i][1]!r} and "
                    f"{labels[j][1]!r} of side {SIDES[side]!r} apart: both begin with {begin!r}. Give one of them "
                    f"another word in config/prompts/{self._prompts.name}.yaml."
                )
        first = {action: int(start) for (action, _), start in zip(labels, starts, strict=True) if start is not None}
        return len(alone) - kept, answered[0][kept:common], first


def _samples() -> list[int]:
    """Situations that change one fact at a time, on every side: each placeholder takes each of its values."""
    buckets = [[0] * len(BUCKET_COUNTS)]
    for k, count in enumerate(BUCKET_COUNTS):
        for value in range(1, count):
            row = [0] * len(BUCKET_COUNTS)
            row[k] = value
            buckets.append(row)
    codes = codes_of_buckets(np.array(buckets))
    return [int(s) for s in encode(codes[:, np.newaxis], np.arange(N_SIDES)).reshape(-1)]


def _common_length(rows: Iterable[Sequence[int]]) -> int:
    """How many leading tokens all rows share."""
    common = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        common += 1
    return common
