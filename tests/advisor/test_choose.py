"""A model is named without being loaded, found before anything is trained, or refused with the command that gets it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from src.advisor.choose import LanguageModel, make_advisor
from src.advisor.mock import MockAdvisor
from src.advisor.models import load_model
from src.advisor.prompts import load_prompts
from src.advisor.scoring import LLMScorer
from src.advisor.settings import LLMSettings, budget_s
from src.agent.advising import try_advisor
from src.command_line import overrides_of, run_parser
from src.errors import ConfigError, UserError
from src.testing_framework import create_test_config
from tests.advisor.fake_model import ORDER, FakeModel, tabulated

ROOT = Path(__file__).resolve().parents[2]


def script(*options: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "run_hardware_maximized.py"), "--output-dir", str(folder), *options]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(folder / "cache"), "HF_HOME": str(folder / "hub")}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=200)


def test_rules_are_no_language_model() -> None:
    assert isinstance(make_advisor(LLMSettings(model="mock")), MockAdvisor)


def test_a_language_model_has_its_scorers_identity_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = LLMSettings(model="tiny", advice_batch_size=7, llm_threads=1)
    with monkeypatch.context() as patch:
        patch.setattr("src.advisor.models.load_model", None)
        advisor = make_advisor(settings)
    assert isinstance(advisor, LanguageModel)
    assert advisor.name == "tiny"
    scorer = advisor.load()
    assert isinstance(scorer, LLMScorer)
    assert (scorer.identity, scorer.name, scorer.batch_size) == (advisor.identity, "tiny", 7)


def test_a_run_that_finds_all_answers_imports_no_model_library(tmp_path: Path) -> None:
    """With a model in a folder: naming it takes a hash of its files and nothing else."""
    loaded = load_model("tiny")
    loaded.model.save_pretrained(tmp_path / "model")
    loaded.tokenizer.save_pretrained(tmp_path / "model")
    settings = LLMSettings(model=str(tmp_path / "model"), llm_threads=1)
    advisor = make_advisor(settings)
    assert isinstance(advisor, LanguageModel)
    table, record = tabulated(tmp_path / "advice.sqlite3", advisor, 1e-3)  # type: ignore[arg-type]
    assert record.asked_now == 16
    assert record.scoring["asked"] == 16
    code = (
        "import sys\nfrom pathlib import Path\nfrom src.advisor.choose import make_advisor\n"
        "from src.advisor.settings import LLMSettings\nfrom tests.advisor.fake_model import tabulated\n"
        f"advisor = make_advisor(LLMSettings(model={settings.model!r}))\n"
        f"table, record = tabulated(Path({str(tmp_path / 'advice.sqlite3')!r}), advisor, 1e-3, say=print)\n"
        "print(record.asked_now, 'transformers' in sys.modules, table.sha256)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    said, last = answer.stdout.splitlines()
    assert said.startswith(f"asked the model nothing: 16 of {len(ORDER)} situations")
    assert last == f"0 False {table.sha256}"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("somebody/model-that-is-not-here", "hf download somebody/model-that-is-not-here"),
        pytest.param("bundled:smollm3", "bundled:smollm2", marks=pytest.mark.long),
        pytest.param("./no-such-folder", "no such folder", marks=pytest.mark.long),
    ],
)
def test_a_model_that_is_not_here_ends_the_run_before_it_trains(tmp_path: Path, name: str, command: str) -> None:
    answer = script("--llm-model", name, "--quick", folder=tmp_path)
    assert answer.returncode == 2, answer.stderr
    assert command in " ".join(answer.stderr.split())
    assert "Traceback" not in answer.stderr
    assert "base:" not in answer.stdout, "said before anything is trained"
    assert not list(tmp_path.glob("hardware_maximized_*")), "and before a run folder is made"


def test_a_model_is_tried_once_before_training_and_never_again(tmp_path: Path) -> None:
    settings, lines = LLMSettings(model="mock", store_path=tmp_path / "advice.sqlite3"), []
    model = FakeModel()
    try_advisor(model, settings, say=lines.append)  # type: ignore[arg-type]
    assert (model.loads, model.asked, len(lines)) == (1, [5], 1)
    assert tabulated(tmp_path / "advice.sqlite3", model)[1].asked_now == len(ORDER), "the answer was not kept"
    try_advisor(model, settings, say=lines.append)  # type: ignore[arg-type]
    assert (model.loads, len(lines)) == (2, 1), "a model with answers in the store has been asked before"
    try_advisor(MockAdvisor(), settings, say=lines.append)
    assert len(lines) == 1


@pytest.mark.parametrize("error", [IndexError("index 448 is out of\nbounds"), ValueError("odd"), MemoryError()])
def test_whatever_a_tried_model_raises_is_one_paragraph(tmp_path: Path, error: Exception) -> None:
    class Broken(FakeModel):
        def score(self, situations: object) -> Any:
            raise error

    with pytest.raises(UserError, match=f"cannot be scored: one question ends in {type(error).__name__}") as caught:
        try_advisor(Broken(), LLMSettings(store_path=tmp_path / "advice.sqlite3"), say=lambda line: None)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_options_of_the_command_line_are_keys_of_the_section() -> None:
    arguments = ["--llm-model", "tiny", "--llm-budget", "7.5", "--quantization", "int4", "--extend-advice"]
    llm = create_test_config(**overrides_of(run_parser("").parse_args(arguments))).llm
    assert (llm.model, llm.tabulation_budget_s, llm.quantization, llm.extend_advice) == ("tiny", 7.5, "int4", True)
    assert create_test_config(**overrides_of(run_parser("").parse_args(["--mock-llm"]))).mock_llm
    default = create_test_config().llm
    assert (default.model, default.tabulation_budget_s, default.extend_advice) == ("bundled:smollm2", 120.0, False)


def test_rules_and_a_model_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        create_test_config(mock_llm=True, llm_model="tiny")
    assert create_test_config(mock_llm=True, llm_model="mock").mock_llm


@pytest.mark.parametrize(("key", "value"), [("llm_budget", 0), ("llm_budget", "soon"), ("quantization", "int2")])
def test_a_bad_option_is_named(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=r"llm\."):
        create_test_config(**{key: value})


def test_a_quick_run_asks_for_fifteen_seconds_at_most() -> None:
    assert budget_s(LLMSettings(), quick=False) == 120.0
    assert budget_s(LLMSettings(), quick=True) == 15.0
    assert budget_s(LLMSettings(tabulation_budget_s=3.0), quick=True) == 3.0


def test_prompts_are_part_of_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    before = make_advisor(LLMSettings(model="tiny")).identity
    prompts = load_prompts()
    changed = type(prompts)(**{**vars(prompts), "system": prompts.system + " Be brief."})
    monkeypatch.setattr("src.advisor.prompts.load_prompts", lambda: changed)
    assert make_advisor(LLMSettings(model="tiny")).identity != before
