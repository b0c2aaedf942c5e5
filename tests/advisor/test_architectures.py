"""Whatever a model is made of: its scores are those of a plain pass over each whole prompt, or it is refused."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from src.advisor.models import LoadedModel, load_model
from src.advisor.prompts import load_prompts
from src.advisor.scoring import LLMScorer
from src.errors import ConfigError
from tests.advisor.architectures import ARCHITECTURES, ENCODERS, SITUATIONS, WITHOUT_PREFIX, largest_difference, loaded

PROMPTS = load_prompts()
IN_THE_SUITE = (
    *("gpt2", "bloom", "mistral, wide window", "mistral, narrow window"),
    *("mixtral", "gemma2", "mamba", "jamba", "recurrent_gemma", "rwkv"),
)
"""One of each kind of position, window and state; `python -m tests.advisor.architectures` runs them all."""


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return load_model("tiny", device="cpu", threads=1)


@pytest.mark.filterwarnings("ignore")  # of torch and transformers, about reference implementations
@pytest.mark.parametrize("name", IN_THE_SUITE)
def test_scores_are_those_of_a_plain_pass(tiny: LoadedModel, name: str, caplog: pytest.LogCaptureFixture) -> None:
    model = loaded(name, tiny)
    with caplog.at_level(logging.WARNING):
        scorer = LLMScorer(model, PROMPTS)
    assert largest_difference(scorer, model.model) <= 1e-5
    assert scorer.stats.shared_prefix == (name not in WITHOUT_PREFIX)
    assert ("every prompt is read whole" in caplog.text) == (name in WITHOUT_PREFIX)
    one_by_one = np.concatenate([scorer.score(SITUATIONS[i : i + 1]) for i in range(len(SITUATIONS))])
    together = scorer.score(SITUATIONS)
    finite = np.isfinite(together)
    assert np.abs(one_by_one[finite] - together[finite]).max() <= 1e-5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_is_refused_by_what_it_does(tiny: LoadedModel, name: str) -> None:
    with pytest.raises(ConfigError, match="as an encoder does") as caught:
        LLMScorer(loaded(name, tiny), PROMPTS)
    assert "\n" not in str(caught.value)


def test_every_architecture_is_listed_once() -> None:
    assert len(ARCHITECTURES) >= 40
    assert set(WITHOUT_PREFIX) | set(ENCODERS) | set(IN_THE_SUITE) <= set(ARCHITECTURES)


def test_a_model_without_an_embedding_for_each_token_is_refused(tiny: LoadedModel) -> None:
    model = loaded("llama", tiny)
    model.model.resize_token_embeddings(200)
    with pytest.raises(ConfigError, match="knows 200 tokens, but its tokenizer counts to 256"):
        LLMScorer(model, PROMPTS)


def word_tokenizer(words: list[str]) -> object:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", *words])}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["market", "trend"], "does not know the answer 'Wait'"),
        (["Wait", "Buy", "Sell", "Hold", "Close", "Protect", "Trail"], "does not know the answer 'Loosen'"),
        (["Wait", "Buy", "Sell", "Hold", "Close", "Protect", "Trail", "Loosen"], "not know the words of the prompts"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_does_not_know_the_words_is_refused(words: list[str], message: str) -> None:
    tiny = load_model("tiny", device="cpu", threads=1)
    object.__setattr__(tiny, "tokenizer", word_tokenizer(words))
    with pytest.raises(ConfigError, match=message):
        LLMScorer(tiny, PROMPTS)


def test_a_model_that_cannot_be_read_at_all_is_refused_in_one_paragraph() -> None:
    tiny = load_model("tiny", device="cpu", threads=1)

    def broken(*_: object, **__: object) -> None:
        raise IndexError("index 448 is out of bounds\nfor dimension 0")

    tiny.model.forward = broken
    with pytest.raises(ConfigError, match="IndexError: index 448 is out of bounds for dimension 0") as caught:
        LLMScorer(tiny, PROMPTS)
    assert "\n" not in str(caught.value)


def test_a_folder_of_an_architecture_is_scored_as_the_model_itself(tiny: LoadedModel, tmp_path: Path) -> None:
    from tests.advisor.architectures import random_model, saved

    model = load_model(str(saved("mistral, narrow window", tiny, tmp_path)), device="cpu", threads=1)
    assert largest_difference(LLMScorer(model, PROMPTS), random_model("mistral, narrow window")) <= 1e-5
