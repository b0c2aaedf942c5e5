"""Prompts as tokens: what all situations share, what each adds, and the token each answer begins with."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from src.advisor.chat_format import ChatFormat, ChatSource, chat_format
from src.advisor.prompts import PromptSet
from src.advisor.situations import BUCKET_COUNTS, SIDES, codes_of_buckets, encode
from src.errors import ConfigError
from src.trading.layout import N_SIDES

Tokens = list[int]
PLAIN_QUESTION: Final = "\nAnswer:"
"""Ends the prompt of a model without a chat template; the answer follows after a space."""


class PromptTexts:
    """The whole prompts of one `PromptSet`, in a model's chat format where it has one.

    chat: the pieces of that format; None without a template. `known` is a format found out elsewhere. Errors as
    `chat_format`.
    """

    def __init__(
        self, source: ChatSource, prompts: PromptSet, model_name: str, *, known: ChatFormat | None = None
    ) -> None:
        self._prompts = prompts
        samples = [(prompts.system, prompts.situation_text(situation)) for situation in _samples()]
        self.chat = known or chat_format(source, model_name, samples)

    def text(self, situation: int, system: str | None = None) -> str:
        """The whole prompt, up to where the answer begins; `system` replaces the prompt set's own."""
        system = self._prompts.system if system is None else system
        user = self._prompts.situation_text(situation)
        return f"{system}\n\n{user}{PLAIN_QUESTION}" if self.chat is None else self.chat.text(system, user)

    @property
    def sha256(self) -> str:
        """Hash of the prompts as the model reads them: each value of each fact, on every side."""
        digest = hashlib.sha256()
        for situation in _samples():
            digest.update(self.text(situation).encode("utf-8", "surrogatepass") + b"\0")
        return digest.hexdigest()


class PromptEncoder:
    """The prompts of one `PromptSet` in the tokens of one model.

    prefix: tokens that every prompt begins with. answer_tokens: by side, the token each action's label begins with.
    `known` is a chat format found out elsewhere.
    Raises ConfigError where two labels of a side cannot be told apart by a token, for labels and situations that the
    tokenizer does not know, and for a chat template that cannot be used.
    """

    def __init__(self, tokenizer: Any, prompts: PromptSet, model_name: str, *, known: ChatFormat | None = None) -> None:
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._model_name = model_name
        template = getattr(tokenizer, "chat_template", None) or None
        tokens = {} if template is None else dict(tokenizer.special_tokens_map)
        texts = {name: token for name, token in tokens.items() if isinstance(token, str)}
        self._texts = PromptTexts(ChatSource(template, texts), prompts, model_name, known=known)
        self._has_chat = template is not None
        endings = [self._answers_of(int(encode(1, side))) for side in range(N_SIDES)]
        self._cut = [cut for cut, _, _, _ in endings]
        self._lead = [lead for _, lead, _, _ in endings]
        self.answer_tokens: tuple[dict[int, int], ...] = tuple(tokens for _, _, tokens, _ in endings)
        self.label_tokens: tuple[dict[int, Tokens], ...] = tuple(whole for _, _, _, whole in endings)
        """By side, the tokens of each action's label from the one it is scored by to its end."""
        encoded = [self._full(situation) for situation in _samples()]
        if len(set(map(tuple, encoded))) < len(encoded):
            raise ConfigError(
                f"the tokenizer of {model_name} does not know the words of the prompts: situations that differ get the "
                f"same tokens. Choose another model, or reword config/prompts/{prompts.name}.yaml."
            )
        self.highest = max(max(map(max, encoded)), *(max(tokens.values()) for tokens in self.answer_tokens))
        """The highest token of prompts and answers."""
        self.longest = max(map(len, encoded))
        """Tokens of the longest prompt among those with one fact changed."""
        shared = common_length(encoded)
        # A token at least is left to each prompt: its logits are the answer.
        self.prefix: Tokens = encoded[0][: min(shared, min(map(len, encoded)) - 1)]

    def text(self, situation: int, system: str | None = None) -> str:
        """The whole prompt, up to where the answer begins; `system` replaces the prompt set's own."""
        return self._texts.text(situation, system)

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

    @property
    def chat(self) -> ChatFormat | None:
        """The pieces of the chat format; None without a template."""
        return self._texts.chat

    def _answers_of(self, situation: int) -> tuple[int, Tokens, dict[int, int], dict[int, Tokens]]:
        """For the side of a situation: how many tokens of the prompt the answers reach back into, the tokens that all
        its answers begin with, the first token in which each differs from the others, and each from there on."""
        side = situation % N_SIDES
        prompt = self.text(situation)
        space = "" if self._has_chat else " "
        labels = self._prompts.labels(side)
        alone = self.tokenize(prompt)
        answered = [self.tokenize(f"{prompt}{space}{label}") for _, label in labels]
        common = common_length(answered)
        kept = common_length([alone, answered[0][:common]])
        unknown = getattr(self._tokenizer, "unk_token_id", None)
        for (_, label), tokens in zip(labels, answered, strict=True):
            own = tokens[common_length([alone, tokens]) :]
            if not own or own[0] == unknown:
                raise ConfigError(
                    f"the tokenizer of {self._model_name} does not know the answer {label!r} of side {SIDES[side]!r}. "
                    f"Choose another model, or change the answer in config/prompts/{self._prompts.name}.yaml."
                )
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
        whole = {action: tokens[common:] for (action, _), tokens in zip(labels, answered, strict=True)}
        return len(alone) - kept, answered[0][kept:common], first, whole


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


def common_length(rows: Iterable[Sequence[object]]) -> int:
    """How many leading tokens all rows share."""
    common = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        common += 1
    return common
