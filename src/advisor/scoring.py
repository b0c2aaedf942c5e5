"""Advice by scoring instead of generating: one forward pass over the prompts, and the log-probabilities of the tokens
the answers begin with.

Every answer is valid by construction, and nothing is sampled. The keys and values of what all prompts share are
computed once and lent to every batch; what stands right of a prompt's last token cannot reach it, so batches are padded
on the right and need no mask. On CPU in float32 the scores agree to 1e-5 whatever the batch and the prefix.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from src.advisor import batches
from src.advisor.chat_format import ChatFormat, ChatSource, may_think
from src.advisor.encoding import PromptEncoder, PromptTexts, Tokens
from src.advisor.manner import Manner, closing_of, openers_in
from src.advisor.models import LoadedModel, Quantization, model_chat, model_identity, quiet_transformers, torch_threads
from src.advisor.prompts import PromptSet
from src.advisor.situations import PROBES, decode, split_situations
from src.advisor.table import LABEL_SETS, Float32
from src.errors import ConfigError, UserError, is_out_of_memory
from src.plain_text import one_line
from src.trading.layout import N_ACTIONS, N_SIDES

SCORING_VERSION: Final = 2
"""Raise it with any change of how scores are made: stored answers are then asked again."""

FIRST_SITUATION: Final = N_SIDES
"""The first situation of a known market: what a model is tried with."""
_HEAD_PIECE: Final = 4096
_CHECKED_TOKENS: Final = 24
_ALIKE: Final = 1e-4
"""Mean difference of log-probabilities that is rounding, on CPU in float32."""
_ALIKE_COARSE: Final = 0.3
"""The same for bf16, fp16 and quantized weights, whose batches differ by some hundredths."""

logger = logging.getLogger(__name__)


@dataclass
class ScoringStats:
    """What was done so far. Tokens are those a forward pass read: the shared ones once, padding not counted."""

    asked: int = 0
    prefill_tokens: int = 0
    seconds: float = 0.0
    halvings: int = 0
    """How often a batch did not fit into memory and was halved."""
    shared_prefix: bool = True
    """False: the model's cache cannot be lent, and every prompt is read whole."""
    thoughts: int = 0
    """Answers that begin with a thought; all their labels are missing."""

    @property
    def advices_per_s(self) -> float:
        return self.asked / self.seconds if self.seconds else 0.0


def identity_of(name: str, prompts: PromptSet, *, quantization: Quantization = "none", device: str = "auto") -> str:
    """`LLMScorer.identity` of a model that is not loaded; reads its files. Errors as `load_model`."""
    identity = model_identity(name, quantization=quantization, device=device)
    source = model_chat(name)
    return _identity(identity, prompts, PromptTexts(source, prompts, name), source)


def _identity(model: str, prompts: PromptSet, texts: PromptTexts, source: ChatSource) -> str:
    facts = f"{SCORING_VERSION}\0{model}\0{prompts.sha256}\0{texts.sha256}\0{LABEL_SETS.astype(int).tolist()}"
    # Answers of such models were once scored without a look at what they begin with; all others are what they were.
    facts += "\0thoughts" if may_think(source) else ""
    return hashlib.sha256(facts.encode()).hexdigest()


class LLMScorer:
    """An `Advisor` that scores labels with a causal language model.

    A few short forward passes at the start find out what the model can do: see `_Abilities`. `share_prefix=False` reads
    every prompt whole; it is there to be compared with. `batch_size` None: 16 on a CPU, on CUDA as many as its free
    memory holds by `batches.prompt_bytes`. A model that begins its answers with a thought gets an empty one at the end
    of each prompt. An answer that still begins with one is no answer: all its labels are NaN.
    Raises ConfigError for a tokenizer that does not suit the prompts or the model, a prompt that is longer than the
    model's context, and a model that cannot be scored or thinks before each answer whatever it is given.
    """

    may_miss_labels = True

    def __init__(
        self, loaded: LoadedModel, prompts: PromptSet, batch_size: int | None = 16, *, share_prefix: bool = True
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, needs at least 1")
        self.name = loaded.name
        texts = PromptTexts(loaded.chat, prompts, loaded.name)
        self.identity = _identity(loaded.identity, prompts, texts, loaded.chat)
        self.stats = ScoringStats()
        self.batch_size = batch_size or batches.FEW
        """Prompts of one forward pass; halved for good when they do not fit into memory."""
        self._loaded = loaded
        self._prompts = prompts
        self._encoder = PromptEncoder(loaded.tokenizer, prompts, loaded.name)
        self._context = _context_of(loaded.model)
        self._share_prefix = share_prefix
        self._openers = openers_in(loaded.tokenizer)
        self._closed_by_us = ""
        self._thoughts_of_probes = 0
        self._check_context(self._encoder.longest)
        self._check_vocabulary()
        self._prefix: Tokens = []
        self._prefix_cache: Any = None
        self._reads_head_at_ends = True
        self._find_abilities()
        self._share()
        self._close_thoughts()
        if batch_size is None:
            self.batch_size = self._fitting_batch()

    def prompt_bytes(self) -> int | None:
        """Estimated bytes that the longest prompt of a batch takes in a pass; None where the model's configuration does
        not say enough."""
        shape = batches.shape_of(self._loaded.model.config)
        if shape is None:
            return None
        own, itemsize = self._encoder.longest - len(self._prefix), self._loaded.dtype.itemsize
        return batches.prompt_bytes(shape, own, len(self._prefix), itemsize, head_at_ends=self._reads_head_at_ends)

    def _fitting_batch(self) -> int:
        """Prompts of a pass on this device now."""
        each = self.prompt_bytes()
        if self._loaded.device.type != "cuda" or each is None:
            return batches.FEW
        free = batches.free_bytes(self._loaded.device)
        size = batches.fitting(free, each)
        logger.info("%s: %d prompts at once, %.1f MB each of %.1f GB free", self.name, size, each / 1e6, free / 1e9)
        return size

    def score(self, situations: NDArray[np.int64]) -> Float32:
        """Log-probabilities of each label's first token among all tokens: int64[k] -> float32[k, 6], -inf outside the
        side's label set. Raises UserError naming the situation if the model answers anything not finite."""
        _, sides = split_situations(situations)
        asked = [int(situation) for situation in np.asarray(situations)]
        prompts = [self._encoder.tokens(situation) for situation in asked]
        thoughts = np.zeros(len(asked), bool)
        self._check_context(max(map(len, prompts), default=0))
        scores = np.full((len(asked), N_ACTIONS), -np.inf, np.float32)
        # Equal lengths side by side: little padding. Ties by situation, so that the order of asking changes nothing.
        order = sorted(range(len(asked)), key=lambda row: (len(prompts[row]), asked[row]))
        start = time.perf_counter()
        with torch_threads(self._loaded.threads), torch.inference_mode():
            at = 0
            while at < len(order):
                rows = order[at : at + self.batch_size]
                answers = self._answers([prompts[row][len(self._prefix) :] for row in rows])
                if answers is None:
                    self._free_cached()
                    continue
                for row, (answer, is_thought) in zip(rows, answers, strict=True):
                    tokens = self._encoder.answer_tokens[int(sides[row])]
                    scores[row, list(tokens)] = [answer[token] for token in tokens.values()]
                    thoughts[row] = is_thought
                at += len(rows)
        self.stats.seconds += time.perf_counter() - start
        self.stats.asked += len(asked)
        self._check_finite(asked, sides, scores)
        self.stats.thoughts += int(thoughts.sum())
        scores[LABEL_SETS[sides] & thoughts[:, np.newaxis]] = np.nan
        return scores

    def _answers(self, prompts: Sequence[Tokens]) -> list[tuple[dict[int, float], bool]] | None:
        """Each prompt's log-probabilities by answer token, copied from the device at once, and whether a thought is
        likelier than any other beginning; None where the batch did not fit into memory and the next one is half of
        it."""
        wanted = sorted({token for tokens in self._encoder.answer_tokens for token in tokens.values()})
        try:
            every = self._forward(prompts)
            found, first = (
                every[:, wanted].tolist(),
                every.argmax(-1).tolist() if self._openers else [-1] * len(prompts),
            )
        except (RuntimeError, MemoryError) as error:
            self._halve(error)
            return None
        return [
            (dict(zip(wanted, row, strict=True)), token in self._openers)
            for row, token in zip(found, first, strict=True)
        ]

    def _free_cached(self) -> None:
        """Give the failed batch's blocks back to the device. Called once its error is gone, whose traceback holds
        them."""
        if self._loaded.device.type == "cuda":
            torch.cuda.empty_cache()

    def _forward(self, prompts: Sequence[Tokens]) -> torch.Tensor:
        """Log-probabilities float64[k, vocabulary] of the token after each prompt; prompts without the prefix."""
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        padded = torch.zeros((len(prompts), int(lengths.max())), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            padded[row, : len(prompt)] = torch.tensor(prompt)
        place = self._loaded.device
        cache = self._lent_cache(len(prompts))
        lent = {} if cache is None else {"past_key_values": cache}
        ends = lengths.to(place) - 1
        self.stats.prefill_tokens += int(lengths.sum())
        if not self._reads_head_at_ends:
            logits = self._loaded.model(input_ids=padded.to(place), use_cache=cache is not None, **lent).logits
            return logits[torch.arange(len(ends), device=place), ends].double().log_softmax(-1)
        with _head_at(self._loaded.model, ends):
            output = self._loaded.model(input_ids=padded.to(place), use_cache=cache is not None, **lent)
        return output.logits[:, 0].double().log_softmax(-1)

    def _lent_cache(self, n: int) -> Any:
        """The shared keys and values as those of n prompts, without a copy: a layer appends by making a new tensor."""
        if not self._prefix:
            return None
        if self._prefix_cache is None:
            tokens = torch.tensor([self._prefix], device=self._loaded.device)
            with _head_at(self._loaded.model, torch.tensor([len(self._prefix) - 1], device=self._loaded.device)):
                output = self._loaded.model(input_ids=tokens, use_cache=True)
            self._prefix_cache = getattr(output, "past_key_values", None)
            if not _can_be_lent(self._prefix_cache, self._encoder.longest):
                raise _NotLendable
            self.stats.prefill_tokens += len(self._prefix)
        lent = copy.copy(self._prefix_cache)
        lent.layers = [copy.copy(layer) for layer in self._prefix_cache.layers]
        for layer in lent.layers:
            layer.keys = layer.keys.expand(n, -1, -1, -1)
            layer.values = layer.values.expand(n, -1, -1, -1)
        return lent

    def _find_abilities(self) -> None:
        """Compare the fast ways of reading with the plain one on a few tokens, and keep those that agree with it.

        The head may be read at the ends of the prompts alone, and the prefix shared; both lean on how a model is made.
        ConfigError for a model that no plain pass goes through, or in which a later token changes an earlier answer:
        prompts are padded on the right, and an encoder reads the padding.
        """
        tokens = self._encoder.tokens(FIRST_SITUATION)[-_CHECKED_TOKENS:]
        half = len(tokens) // 2
        with quiet_transformers(), torch_threads(self._loaded.threads), torch.inference_mode():
            plain = [self._plain([row])[0] for row in (tokens, tokens[:-1])]
            two = [tokens, [*tokens[:-1], next(token for token in tokens if token != tokens[-1])]]
            together, before_last = self._plain(two), self._plain(two, back=2)  # only their last tokens differ
            if not self._alike(before_last, before_last[[1, 0]]):
                raise ConfigError(
                    f"llm.model {self.name} ({type(self._loaded.model).__name__}) reads what follows the place "
                    f"it answers at, as an encoder does; advice takes a causal language model. Choose one of those."
                )
            if not self._alike(together[0], plain[0]):
                raise ConfigError(
                    f"llm.model {self.name} ({type(self._loaded.model).__name__}) answers differently when it reads "
                    f"two prompts at once, so its advice would depend on the batch. Choose another model."
                )
            wanted = torch.stack(plain)
            self._reads_head_at_ends = self._agrees(lambda: self._forward([tokens, tokens[:-1]]), wanted)
            self._prefix = tokens[:half]
            self.stats.shared_prefix = self._reads_head_at_ends and self._agrees(
                lambda: self._forward([tokens[half:], tokens[half:-1]]), wanted
            )
        self._prefix, self._prefix_cache = [], None
        self.stats.prefill_tokens = 0
        if not self.stats.shared_prefix:
            logger.warning(
                "%s (%s) cannot share what its prompts have in common: every prompt is read whole, which is slower. "
                "The answers are the same.", self.name, type(self._loaded.model).__name__,
            )  # fmt: skip

    def _share(self) -> None:
        """Let the prompts share what they have in common, where the model can."""
        self._prefix_cache = None
        self._prefix = self._encoder.prefix if self._share_prefix and self.stats.shared_prefix else []

    def _close_thoughts(self) -> None:
        """Where every sample answer begins with a thought, end the prompts with an empty one.

        ConfigError where that is not possible, or the model begins with a thought all the same.
        """
        closing = self._closing_of_all()
        if closing and self._encoder.chat is not None and not self._encoder.chat.closed:
            chat: ChatFormat = self._encoder.chat
            known = dataclasses.replace(chat, after=chat.after + closing, closed=closing)
            self._encoder = PromptEncoder(self._loaded.tokenizer, self._prompts, self.name, known=known)
            self._check_context(self._encoder.longest)
            self._check_vocabulary()
            self._share()
            self._closed_by_us = closing
            logger.info("%s begins its answers with a thought: prompts end with an empty one", self.name)
            closing = self._closing_of_all()
        if closing:
            raise ConfigError(
                f"llm.model {self.name} begins every answer with a thought ({closing.split()[0]!r}), so its first "
                f"token is no answer. Choose a model that answers at once, or a chat template that closes the thought."
            )

    def _closing_of_all(self) -> str:
        """What would close the thoughts that the answers to all samples begin with; "" where one does not."""
        found = []
        with quiet_transformers(), torch_threads(self._loaded.threads), torch.inference_mode():
            for situation in PROBES:
                prompt = self._encoder.tokens(situation)[len(self._prefix) :]
                closing, first = closing_of(self._loaded.tokenizer, partial(self._likeliest, prompt))
                found.append(closing)
                self._openers |= {first} if closing else set()
        self.stats.prefill_tokens = len(self._prefix) if self._prefix_cache is not None else 0
        self._thoughts_of_probes = sum(map(bool, found))
        return found[0] if all(found) else ""

    def _likeliest(self, prompt: Tokens, said: Tokens) -> int:
        """The likeliest token after a prompt, which comes without the prefix, and what was said since."""
        try:
            return int(self._forward([prompt + said])[0].argmax())
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise self._no_memory(error) from error
            raise

    def manner(self) -> Manner:
        """How the model is asked, and what that was found to be worth on sample situations."""
        chat = self._encoder.chat
        return Manner(
            prompt="plain text" if chat is None else "chat template",
            folded=chat is not None and chat.folded,
            closed="" if chat is None else chat.closed.strip(),
            closed_for="" if chat is None or not chat.closed else "model" if self._closed_by_us else "template",
            samples=len(PROBES),
            thoughts=self._thoughts_of_probes,
            **self._split_labels(),
        )

    def _split_labels(self) -> dict[str, Any]:
        """The labels of several tokens, and how much of their first tokens' probability continues as the label: the
        mean over them in a situation of each kind of side."""
        split: dict[str, float] = {}
        before = dataclasses.replace(self.stats)
        with quiet_transformers(), torch_threads(self._loaded.threads), torch.inference_mode():
            for situation in PROBES[:N_SIDES]:
                own = self._encoder.tokens(situation)[len(self._prefix) :]
                words = dict(self._prompts.labels(situation % N_SIDES))
                for action, tokens in self._encoder.label_tokens[situation % N_SIDES].items():
                    if len(tokens) == 1 or words[action] in split:
                        continue
                    rest = sum(float(self._forward([own + tokens[:k]])[0, tokens[k]]) for k in range(1, len(tokens)))
                    split[words[action]] = float(np.exp(rest))
        self.stats.prefill_tokens = before.prefill_tokens
        whole = float(np.mean(list(split.values()))) if split else None
        return {"split_labels": tuple(split), "whole_frac": whole}

    def _plain(self, prompts: Sequence[Tokens], back: int = 1) -> torch.Tensor:
        """Log-probabilities float64[k, vocabulary] of prompts of one length, by the plainest means; `back` places from
        the end."""
        place = self._loaded.device
        try:
            output = self._loaded.model(input_ids=torch.tensor(prompts, device=place), use_cache=False)
            return output.logits[:, -back].double().log_softmax(-1)
        except Exception as error:  # a stranger's model may raise whatever Python raises
            if is_out_of_memory(error):
                raise self._no_memory(error) from error
            raise ConfigError(
                f"llm.model {self.name} ({type(self._loaded.model).__name__}) cannot be scored: reading "
                f"{len(prompts[0])} tokens ends in {type(error).__name__}: {one_line(error)}. Choose another model."
            ) from error

    def _agrees(self, read: Callable[[], torch.Tensor], wanted: torch.Tensor) -> bool:
        try:
            return self._alike(read(), wanted)
        except Exception as error:  # it is made otherwise than this way of reading supposes
            logger.info("%s: a faster way of reading is not for it (%s)", self.name, one_line(error))
            return False

    def _alike(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        """Equal to rounding; what is not finite is left to `_check_finite`, which names the situation."""
        if one.shape != other.shape:
            return False
        if not torch.isfinite(other).any():
            return True
        exact = self._loaded.dtype == torch.float32 and self._loaded.quantization == "none"
        return bool(torch.nan_to_num(one - other).abs().mean() <= (_ALIKE if exact else _ALIKE_COARSE))

    def _check_vocabulary(self) -> None:
        rows = self._loaded.model.get_input_embeddings().weight.shape[0]
        known = max(self._loaded.tokenizer.get_vocab().values(), default=0)
        if max(known, self._encoder.highest) >= rows:
            raise ConfigError(
                f"llm.model {self.name} knows {rows:,} tokens, but its tokenizer counts to "
                f"{max(known, self._encoder.highest) + 1:,}: they are of different models. Get both again, or choose "
                f"another model."
            )

    def _no_memory(self, error: Exception) -> UserError:
        return UserError(
            f"{self.name} ran out of memory scoring a single situation on {self._loaded.device}: {error}. Use a "
            f"smaller model, llm.quantization int8 or int4, or llm.llm_device cpu."
        )

    def _halve(self, error: Exception) -> None:
        """Halve the batch after running out of memory; re-raise any other error."""
        if not is_out_of_memory(error):
            raise error
        if self.batch_size == 1:
            raise self._no_memory(error) from error
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
                f"coarse: download them again, use llm.quantization none, or another model."
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


class _NotLendable(Exception):
    """The model keeps more, or other things, of what it has read than keys and values of every token."""


def _can_be_lent(cache: Any, longest: int) -> bool:
    """Whether a cache is keys and values of every token in every layer, for prompts of up to `longest` tokens."""
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    if type(cache) is not DynamicCache:
        return False
    return all(
        type(layer) is DynamicLayer or (type(layer) is DynamicSlidingWindowLayer and layer.sliding_window > longest)
        for layer in cache.layers
    )
