"""Advice the common way: generate an answer in words and look for an action in it.

An advice is an action and how sure the model is of it, so the model is asked for both as JSON, as tools of this kind
do. Each situation is one prompt, read whole and answered token by token.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from src.advisor.encoding import PromptEncoder
from src.advisor.models import LoadedModel, torch_threads
from src.advisor.prompts import PromptSet
from src.advisor.table import NO_ADVICE
from src.trading.layout import N_SIDES

INSTRUCTION: Final = (
    "Instead of the word alone, answer with one JSON object: "
    '{"action": the word, "confidence": a number from 0 to 1, "reason": one sentence}'
)


@dataclass(frozen=True)
class GeneratedAdvice:
    """actions int64[k]: NO_ADVICE where the answer does not parse. texts: the answers as they came."""

    actions: NDArray[np.int64]
    texts: tuple[str, ...]
    tokens: int

    @property
    def parsed(self) -> int:
        """How many answers name an action of their side."""
        return int((self.actions != NO_ADVICE).sum())


def generate_advice(
    loaded: LoadedModel,
    prompts: PromptSet,
    situations: NDArray[np.int64],
    max_new_tokens: int = 50,
    encoder: PromptEncoder | None = None,
) -> GeneratedAdvice:
    """Ask about situations int64[k] one after another, the likeliest token each time, at most `max_new_tokens`.

    `encoder`: that of the model and the prompts where the caller asks more than once; it takes tens of ms to make.
    """
    encoder = encoder or PromptEncoder(loaded.tokenizer, prompts, loaded.name)
    system = f"{prompts.system}\n\n{INSTRUCTION}"
    actions, texts, tokens = [], [], 0
    with torch_threads(loaded.threads), torch.inference_mode():
        for situation in np.asarray(situations).tolist():
            prompt = encoder.tokenize(encoder.text(situation, system=system))
            asked = torch.tensor([prompt], device=loaded.device)
            answer = loaded.model.generate(
                input_ids=asked,
                attention_mask=torch.ones_like(asked),
                generation_config=_settings(loaded, max_new_tokens),
            )[0, len(prompt) :]
            tokens += len(answer)
            texts.append(loaded.tokenizer.decode(answer, skip_special_tokens=True))
            actions.append(parse_action(texts[-1], prompts, situation % N_SIDES))
    return GeneratedAdvice(np.array(actions, np.int64), tuple(texts), tokens)


def parse_action(text: str, prompts: PromptSet, side: int) -> int:
    """The action of the first JSON object in an answer, NO_ADVICE if there is none or it names no label of the side
    or no confidence from 0 to 1."""
    begin = text.find("{")
    if begin < 0:
        return NO_ADVICE
    try:
        answer, _ = json.JSONDecoder().raw_decode(text[begin:])
    except ValueError:
        return NO_ADVICE
    confidence = answer.get("confidence")
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0 <= confidence <= 1:
        return NO_ADVICE
    named = str(answer.get("action")).strip().lower()
    return next((action for action, label in prompts.labels(side) if label.lower() == named), NO_ADVICE)


def _settings(loaded: LoadedModel, max_new_tokens: int) -> object:
    from transformers import GenerationConfig

    end = loaded.tokenizer.eos_token_id
    return GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=end, pad_token_id=0 if end is None else end
    )
