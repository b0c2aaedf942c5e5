"""Models that do not answer as asked: each is handled or refused, counted and named, and none is taken for HOLD."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.advisor.choose import LanguageModel, make_advisor
from src.advisor.endpoint import endpoint_model
from src.advisor.models import LoadedModel, load_model
from src.advisor.prompts import load_prompts
from src.advisor.scoring import LLMScorer
from src.advisor.settings import LLMSettings
from src.advisor.situations import PROBES, SIDES
from src.advisor.store import AdviceStore
from src.advisor.table import AdviceTable
from src.advisor.tabulation import TabulationRecord, tabulate_stored
from src.errors import ConfigError
from src.report.advisor_words import advisor_lines
from src.report.model.advice import Advice
from src.trading.layout import N_SIDES
from tests.advisor.bigram import CHAT, bigram_model, save
from tests.advisor.fake_model import AMPLE_S, ORDER
from tests.advisor.odd_server import NAME, OddServer
from tests.advisor.served import write_gguf
from tests.report.page_report import full_report
from tests.tiny_runs import bar_files, quick_calendar, tiny_config, whole_run

PROMPTS = load_prompts()
FEW = ORDER[:60]
LABELS = {"W": 0.3, "B": 0.1, "S": 0.05, "H": 0.2, "C": 0.1, "P": 0.1, "T": 0.05, "L": 0.02}
"""What each label begins with."""
THINK = {last: {said: 0.9} for last, said in zip("<think", "think>", strict=True)}


class Own:
    """A `ModelAdvisor` of a model that is loaded already."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.name, self._loaded = loaded.name, loaded
        self.identity = LLMScorer(loaded, PROMPTS).identity

    def load(self) -> LLMScorer:
        return LLMScorer(self._loaded, PROMPTS)


def asked(loaded: LoadedModel, path: Path, **options: Any) -> tuple[AdviceTable, TabulationRecord, list[str]]:
    """The table of a model, its record, and the sentences about it; a second run, which asks nothing, says the same."""
    found = []
    for _ in range(2):
        with AdviceStore(path) as store:
            found.append(tabulate_stored(Own(loaded), store, FEW, AMPLE_S, **options))
    (table, record), (again, from_store) = found
    assert (record.asked_now, from_store.asked_now) == (len(FEW), 0)
    assert again.sha256 == table.sha256
    assert sentences(from_store) == sentences(record)
    return table, record, sentences(record)


def sentences(record: TabulationRecord) -> list[str]:
    facts: Mapping[str, Any] = full_report()["advice"]
    manner = record.manner and {**record.manner, "split_labels": list(record.manner["split_labels"])}
    own = {"tabulation": {**record.to_dict(), "manner": manner}}
    return advisor_lines(Advice(**{name: fact for name, fact in facts.items() if name != "knowledge"} | own))


def test_a_model_that_says_one_label_always_gives_no_advice(tmp_path: Path) -> None:
    """It prefers Wait and Hold whatever the market: its advice would be HOLD, calibrated or not."""
    table, record, said = asked(bigram_model({">": LABELS}), tmp_path / "a.sqlite3")
    assert record.undecided == len(FEW)
    assert table.covered[FEW].all()
    assert not table.probabilities.any(), "abstains: a tie of all labels is not HOLD"
    assert set(record.first_choice) == set(SIDES)
    for of_side in record.first_choice.values():
        assert (of_side["label"], of_side["share_frac"], of_side["answers"]) == ("HOLD", 1.0, 12)
        assert of_side["spread_nats"] < 1e-4
    assert any(
        line.startswith("One label always: before calibration the model's first choice is HOLD") for line in said
    )
    assert any("in 60 of 60 situations all labels are alike" in line for line in said)
    _, record, said = asked(bigram_model({">": LABELS}), tmp_path / "b.sqlite3", calibrate=False)
    assert record.undecided == 0
    assert any("Without calibration the advice there says nothing about the market" in line for line in said)


@pytest.mark.parametrize("added", [(), ("<think>",)], ids=["in pieces", "as one token"])
def test_a_thought_is_closed_and_the_answer_read_behind_it(tmp_path: Path, added: tuple[str, ...]) -> None:
    opens = {">": {"<think>": 0.9}} if added else {">": {"<": 0.9}, **THINK}
    loaded = bigram_model({**opens, "\n": LABELS}, *added)
    scorer = LLMScorer(loaded, PROMPTS)
    assert scorer._encoder.text(5).endswith("<assistant><think>\n\n</think>\n\n")
    scores = scorer.score(np.array([5, 6]))
    assert scores[0, [0, 1, 2]] == pytest.approx(np.log([0.3, 0.1, 0.05]), abs=1e-3), "Wait, Buy, Sell"
    assert scores[1, [0, 2]] == pytest.approx(np.log([0.2, 0.1]), abs=1e-3), "Hold, Close"
    assert scorer.stats.thoughts == 0
    _, record, said = asked(loaded, tmp_path / "a.sqlite3")
    assert record.manner is not None
    assert (record.manner["closed"], record.manner["closed_for"]) == ("<think>\n\n</think>", "model")
    assert any("Thoughts: the model begins its answers with a thought" in line for line in said)


@pytest.mark.parametrize("template", [CHAT + "\n\n", None], ids=["whatever it is given", "no template to close it in"])
def test_a_model_that_thinks_before_every_answer_is_refused(template: str | None) -> None:
    ends = {"\n": {"<": 0.9}} if template else {" ": {"<": 0.9}}
    with pytest.raises(ConfigError, match=r"bigram begins every answer with a thought \('<think>'\)"):
        LLMScorer(bigram_model({**ends, **THINK}, template=template), PROMPTS)


def test_single_answers_that_begin_with_a_thought_abstain_and_are_counted(tmp_path: Path) -> None:
    loaded = bigram_model({">": LABELS, "~": {"<think>": 0.9}}, "<think>")
    encoder = LLMScorer(loaded, PROMPTS)._encoder
    thinks = [encoder.tokens(int(situation))[len(encoder.prefix) :] for situation in FEW[:4]]
    (tilde,) = loaded.tokenizer("~")["input_ids"]
    forward = loaded.model.model.forward

    def sometimes(*args: Any, **kwargs: Any) -> Any:
        output, ids = forward(*args, **kwargs), kwargs["input_ids"]
        for row, tokens in enumerate(ids.tolist()):
            if any(tokens[: len(own)] == own for own in thinks):
                output.last_hidden_state[row] = 0.0
                output.last_hidden_state[row, :, tilde] = loaded.model.config.hidden_size**0.5
        return output

    loaded.model.model.forward = sometimes
    table, record, said = asked(loaded, tmp_path / "a.sqlite3")
    assert (record.no_answer, record.abstained, record.scoring["thoughts"]) == (4, 4, 4)
    assert not table.probabilities[FEW[:4]].any()
    assert any("No answer: in 4 of 60 situations the model begins with a thought" in line for line in said)


def test_labels_of_several_tokens_are_named_with_what_their_first_token_is_worth(tmp_path: Path) -> None:
    """By the table of the model: a `W` is the beginning of Wait in 0.8 x 0.5 x 0.4 of the cases, an `H` of Hold and a
    `C` of Close in hardly any."""
    follows = {">": LABELS, "W": {"a": 0.8}, "a": {"i": 0.5}, "i": {"t": 0.4}}
    loaded = bigram_model(follows, "Buy", "Sell", "Protect", "Trail", "Loosen")
    _, record, said = asked(loaded, tmp_path / "a.sqlite3")
    manner = record.manner
    assert manner is not None
    assert manner["split_labels"] == ("Wait", "Hold", "Close")
    any_other = 1.0 / len(loaded.tokenizer)
    expected = np.mean([0.8 * 0.5 * 0.4, any_other**3, any_other**4])
    assert manner["whole_frac"] == pytest.approx(expected, rel=1e-3)
    assert any(line.startswith("Labels: Wait, Hold, Close are several tokens. The first") for line in said)
    assert any("in sample situations 5.3% of its probability, on average, continues" in line for line in said)


def test_a_model_without_a_chat_template_is_named(tmp_path: Path) -> None:
    _, record, said = asked(bigram_model({}, template=None), tmp_path / "a.sqlite3")
    assert record.manner is not None
    assert record.manner["prompt"] == "plain text"
    assert any(line.startswith("Prompt: the model has no chat template in use") for line in said)


def test_a_gguf_file_is_read_in_the_same_manner(tmp_path: Path) -> None:
    """Its template is in the file; the unpacked copy answers as the model that was written."""
    pytest.importorskip("gguf")
    made = bigram_model({">": {"<": 0.9}, **THINK, "\n": LABELS}, "~~", "<|endoftext|>")
    file = write_gguf(made, tmp_path / "thinks.gguf")
    loaded = load_model(str(file), device="cpu", threads=1, cache_folder=tmp_path)
    scorer = LLMScorer(loaded, PROMPTS)
    assert scorer.manner() == LLMScorer(made, PROMPTS).manner()
    assert scorer.manner().closed_for == "model"
    np.testing.assert_allclose(scorer.score(FEW[:10]), LLMScorer(made, PROMPTS).score(FEW[:10]), atol=1e-3)


def test_a_server_of_such_models_is_named_too(tmp_path: Path) -> None:
    with OddServer() as odd:
        odd.scores = np.tile(odd.scores[:N_SIDES], (len(odd.scores) // N_SIDES, 1))
        settings = LLMSettings(model=NAME, endpoint=odd.url, store_path=tmp_path / "a.sqlite3")
        model = endpoint_model(settings)
        odd.thinks = set(FEW[:4].tolist())
        with AdviceStore(tmp_path / "a.sqlite3") as store:
            table, record = tabulate_stored(model, store, FEW, AMPLE_S)
    assert (record.no_answer, record.undecided) == (4, 56)
    assert not table.probabilities.any()
    assert all(of_side["share_frac"] == 1.0 for of_side in record.first_choice.values())
    assert record.manner is not None
    assert (record.manner["prompt"], record.manner["samples"]) == ("server", len(PROBES))
    said = sentences(record)
    assert any("One label always" in line for line in said)
    assert any("No answer: in 4 of 60" in line for line in said)


def test_a_run_names_what_its_model_does_and_no_arm_hears_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save(bigram_model({">": LABELS}), tmp_path / "one-label")
    changes = {
        "llm.model": str(folder),
        "llm.llm_threads": 1,
        "llm.tabulation_budget_s": 1e-3,
        "llm.advice_batch_size": 64,
    }
    changes["llm.store_path"] = str(tmp_path / "a.sqlite3")
    with quick_calendar():
        seen = whole_run(tiny_config({**changes, "data.path": str(bar_files(tmp_path)["plain"])}))
    assert seen["outcome"] == ""
    report, asking = seen["report"], seen["report"]["advice"]["tabulation"]
    assert asking["undecided"] == asking["count_k"] > 0
    for start in (
        "One label always: ",
        "No preference: ",
        "Labels: ",
        "Model's knowledge: cutoff unknown: skill may be",
    ):
        assert sum(line.startswith(start) for line in report["verdict"]) == 1, start
    assert report["arms"]["hybrid"]["advice"]["advised"] == 0
    assert report["arms"]["fused"]["advice"]["rules"]["abstained"] > 0
    assert report["arms"]["advisor_only"]["trades"] == 0


def test_the_advisor_of_a_folder_has_the_identity_of_its_scorer(tmp_path: Path) -> None:
    """Also where its template speaks of thoughts, whose answers were once read otherwise."""
    template = CHAT + "{% if thinking %}<think>{% endif %}"
    loaded = bigram_model({">": LABELS}, template=template)
    folder = save(loaded, tmp_path / "thinks")
    settings = LLMSettings(model=str(folder), llm_device="cpu")
    advisor = make_advisor(settings)
    assert isinstance(advisor, LanguageModel)
    assert advisor.identity == advisor.load().identity
