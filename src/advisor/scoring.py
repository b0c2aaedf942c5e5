"""Advice by scoring instead of generating: one forward pass over the prompts, and the log-probabilities of the tokens
the answers begin with.

Every answer is valid by construction, and nothing is sampled. The keys and values of what all prompts share are
computed once and lent to every batch; what stands right of a prompt's last token cannot reach it, so batches are padded
on the right and need no mask. On CPU in float32 the scores agree to 1e-5 whatever the batch and the prefix.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from src.advisor.encoding import PromptEncoder, Tokens
from src.advisor.models import LoadedModel, Quantization, model_identity, torch_threads
from src.advisor.prompts import PromptSet
from src.advisor.situations import decode, split_situations
from src.advisor.table import LABEL_SETS, Float32
from src.errors import ConfigError, UserError
from src.trading.layout import N_ACTIONS

SCORING_VERSION: Final = 1
"""Raise it with any change of how scores are made: stored answers are then asked for anew."""

_HEAD_PIECE: Final = 4096

logger = logging.getLogger(__name__)


@dataclass
class ScoringStats:
    """What was done so far. Tokens are those a forward pass read: the shared ones once, padding not counted."""

    asked: int = 0
    prefill_tokens: int = 0
    seconds: float = 0.0
    halvings: int = 0
    """How often a batch did not fit into memory and was halved."""

    @property
    def advices_per_s(self) -> float:
        return self.asked / self.seconds if self.seconds else 0.0


def identity_of(name: str, prompts: PromptSet, *, quantization: Quantization = "none", device: str = "auto") -> str:
    """`LLMScorer.identity` of a model that is not loaded; reads its files. Errors as `load_model`."""
    return _identity(model_identity(name, quantization=quantization, device=device), prompts)


def _identity(model: str, prompts: PromptSet) -> str:
    facts = f"{SCORING_VERSION}\0{model}\0{prompts.sha256}\0{LABEL_SETS.astype(int).tolist()}"
    return hashlib.sha256(facts.encode()).hexdigest()


class LLMScorer:
    """An `Advisor` that scores labels with a causal language model.

    Raises ConfigError where two labels of a side begin with the same token, or a prompt is longer than the model's
    context. `share_prefix=False` reads every prompt whole; it is there to be compared with.
    """

    def __init__(
        self, loaded: LoadedModel, prompts: PromptSet, batch_size: int = 16, *, share_prefix: bool = True
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, needs at least 1")
        self.name = loaded.name
        self.identity = _identity(loaded.identity, prompts)
        self.stats = ScoringStats()
        self.batch_size = batch_size
        """Prompts of one forward pass; halved for good when they do not fit into memory."""
        self._loaded = loaded
        self._encoder = PromptEncoder(loaded.tokenizer, prompts, loaded.name)
        self._context = _context_of(loaded.model)
        self._check_context(self._encoder.longest)
        self._prefix: Tokens = self._encoder.prefix if share_prefix else []
        self._prefix_cache: Any = None

    def score(self, situations: NDArray[np.int64]) -> Float32:
        """Log-probabilities of each label's first token among all tokens: int64[k] -> float32[k, 6], -inf outside the
        side's label set. Raises UserError naming the situation if the model answers anything not finite."""
        _, sides = split_situations(situations)
        asked = [int(situation) for situation in np.asarray(situations)]
        prompts = [self._encoder.tokens(situation) for situation in asked]
        self._check_context(max(map(len, prompts), default=0))
        scores = np.full((len(asked), N_ACTIONS), -np.inf, np.float32)
        # Equal lengths side by side: little padding. Ties by situation, so that the order of asking changes nothing.
        order = sorted(range(len(asked)), key=lambda row: (len(prompts[row]), asked[row]))
        start = time.perf_counter()
        with torch_threads(self._loaded.threads), torch.inference_mode():
            at = 0
            while at < len(order):
                rows = order[at : at + self.batch_size]
                try:
                    answers = self._forward([prompts[row][len(self._prefix) :] for row in rows])
                except (RuntimeError, MemoryError) as error:
                    self._halve(error)
                    continue
                for row, answer in zip(rows, answers, strict=True):
                    tokens = self._encoder.answer_tokens[int(sides[row])]
                    scores[row, list(tokens)] = answer[list(tokens.values())].cpu().numpy()
                at += len(rows)
        self.stats.seconds += time.perf_counter() - start
        self.stats.asked += len(asked)
        self._check_finite(asked, sides, scores)
        return scores

    def _forward(self, prompts: Sequence[Tokens]) -> torch.Tensor:
        """Log-probabilities float64[k, vocabulary] of the token after each prompt; prompts without the prefix."""
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        padded = torch.zeros((len(prompts), int(lengths.max())), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            padded[row, : len(prompt)] = torch.tensor(prompt)
        place = self._loaded.device
        cache = self._lent_cache(len(prompts))
        with _head_at(self._loaded.model, lengths.to(place) - 1):
            output = self._loaded.model(input_ids=padded.to(place), past_key_values=cache, use_cache=cache is not None)
        self.stats.prefill_tokens += int(lengths.sum())
        return output.logits[:, 0].double().log_softmax(-1)

    def _lent_cache(self, n: int) -> Any:
        """The shared keys and values as those of n prompts, without a copy: a layer appends by making a new tensor."""
        if not self._prefix:
            return None
        if self._prefix_cache is None:
            tokens = torch.tensor([self._prefix], device=self._loaded.device)
            with _head_at(self._loaded.model, torch.tensor([len(self._prefix) - 1], device=self._loaded.device)):
                self._prefix_cache = self._loaded.model(input_ids=tokens, use_cache=True).past_key_values
            self.stats.prefill_tokens += len(self._prefix)
        lent = copy.copy(self._prefix_cache)
        lent.layers = [copy.copy(layer) for layer in self._prefix_cache.layers]
        for layer in lent.layers:
            layer.keys = layer.keys.expand(n, -1, -1, -1)
            layer.values = layer.values.expand(n, -1, -1, -1)
        return lent

    def _halve(self, error: Exception) -> None:
        """Go on with half the batch after running out of memory; any other error is raised again."""
        if not _is_out_of_memory(error):
            raise error
        if self.batch_size == 1:
            raise UserError(
                f"{self.name} ran out of memory scoring a single situation on {self._loaded.device}: {error}. Use a "
                f"smaller model, llm.quantization int8 or int4, or llm.llm_device cpu."
            ) from error
        if self._loaded.device.type == "cuda":
            torch.cuda.empty_cache()
        self.batch_size //= 2
        self.stats.halvings += 1
        logger.warning("out of memory: scoring %d situations at a time from here on", self.batch_size)

    def _check_context(self, longest: int) -> None:
        if self._context is not None and longest > self._context:
            raise ConfigError(
                f"llm.model {self.name} reads at most {self._context} tokens, but a prompt has {longest}. Choose a "
                f"model with a longer context, or shorten the texts in config/prompts."
            )

    def _check_finite(self, asked: Sequence[int], sides: NDArray[np.int64], scores: Float32) -> None:
        wrong = (LABEL_SETS[sides] & ~np.isfinite(scores)).any(axis=1)
        if wrong.any():
            situation = asked[int(np.argmax(wrong))]
            raise UserError(
                f"{self.name} answered {int(wrong.sum())} of {len(asked)} situations with log-probabilities that are "
                f"not finite, first situation {situation} ({describe(situation)}). Its weights may be damaged or too "
                f"coarse: get them anew, use llm.quantization none, or another model."
            )


def describe(situation: int) -> str:
    """A situation in words: `trend up, momentum steady, ..., side flat`."""
    words = vars(decode(situation))
    return ", ".join(f"{name.replace('_', ' ')} {word}" for name, word in words.items())


@contextmanager
def _head_at(model: Any, last: torch.Tensor) -> Iterator[None]:
    """The model's output head reads only place `last` int64[k] of each row, and in float64: logits [k, 1, vocabulary].

    The head is the widest product with the fewest rows, and its rounding in float32 was most of what differed between
    batches (1.6e-5 of a log-probability; 0 to 4e-6 without it). What the model does to its logits afterwards stays.
    """
    head = model.get_output_embeddings()
    forward = head.forward

    def read(hidden: torch.Tensor) -> torch.Tensor:
        ends = hidden[torch.arange(len(last), device=last.device), last]
        if type(head) is not torch.nn.Linear:
            return forward(ends[:, None])
        ends = ends.double()
        # In pieces, so that no float64 copy of the whole head is ever held.
        logits = torch.cat([ends @ piece.double().T for piece in head.weight.split(_HEAD_PIECE)], dim=-1)
        return (logits if head.bias is None else logits + head.bias.double())[:, None]

    # accelerate may have hung its own `forward` on the instance.
    before = vars(head).get("forward")
    head.forward = read
    try:
        yield
    finally:
        if before is None:
            del head.forward
        else:
            head.forward = before


def _context_of(model: Any) -> int | None:
    """Tokens the model can read, None if it does not say."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else None


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
