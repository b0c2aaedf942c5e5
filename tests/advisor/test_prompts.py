"""What a model is asked: short, the same for the same situation, and never what the agent proposes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from src.advisor.prompts import PLACEHOLDERS, PROMPTS_FILE, assert_no_proposal, load_prompts
from src.advisor.situations import N_SITUATIONS, SIDES, decode
from src.advisor.table import LABEL_SETS
from src.errors import ConfigError
from src.trading.layout import ACTIONS, N_SIDES

PROMPTS = load_prompts()
Change = Callable[[dict[str, Any]], None]


def written(folder: Path, change: Change) -> Path:
    """The shipped prompts with one thing changed."""
    content = yaml.safe_load(PROMPTS_FILE.read_text(encoding="utf-8"))
    change(content)
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_the_text_of_a_situation_reads_so() -> None:
    assert PROMPTS.situation_text(1234) == (
        "Market: trend sideways, momentum falling, RSI neutral, below VWAP, normal volatility, opening. "
        "Position short losing"
    )


@given(st.integers(N_SIDES, N_SITUATIONS - 1))
def test_every_fact_of_a_situation_is_told_and_nothing_else_varies(situation: int) -> None:
    facts = decode(situation)
    text = PROMPTS.situation_text(situation)
    words = text.replace(",", " ").replace(".", " ").split()
    for name in PLACEHOLDERS[:-1]:
        assert getattr(facts, name) in words
    assert text.endswith(f"Position {PROMPTS.positions[SIDES.index(facts.side)]}")
    assert load_prompts().situation_text(situation) == text


def test_situations_that_differ_read_differently() -> None:
    texts = {PROMPTS.situation_text(situation) for situation in range(N_SIDES, N_SITUATIONS)}
    assert len(texts) == N_SITUATIONS - N_SIDES


@pytest.mark.parametrize("side", range(N_SIDES))
def test_the_labels_of_a_side_are_those_of_its_label_set(side: int) -> None:
    assert [action for action, _ in PROMPTS.labels(side)] == np.flatnonzero(LABEL_SETS[side]).tolist()


def test_the_system_text_explains_every_answer() -> None:
    for side in range(N_SIDES):
        for _, label in PROMPTS.labels(side):
            assert label in PROMPTS.system


def add_to_situation(text: str) -> Change:
    def change(content: dict[str, Any]) -> None:
        content["situation"] += text

    return change


@pytest.mark.parametrize(
    "injected",
    [
        " The agent proposes {proposal}.",
        " The agent proposes {rl_action}.",
        " {trend.__class__}",
        " {trend!r}",
        " {side:>20}",
        " {}",
        " {0}",
        *(f" The agent proposes {action}." for action in ACTIONS),
        " Shall we buy?",
        " Confirm: CLOSE",
    ],
)
def test_a_proposal_in_the_text_of_a_situation_is_refused(tmp_path: Path, injected: str) -> None:
    with pytest.raises(ConfigError, match=r"placeholder|holds the answer"):
        load_prompts(written(tmp_path, add_to_situation(injected)))


def test_a_proposal_in_the_words_of_a_side_or_the_system_text_is_refused(tmp_path: Path) -> None:
    def in_position(content: dict[str, Any]) -> None:
        content["sides"]["flat"]["position"] = "none, the agent says Buy"

    def in_system(content: dict[str, Any]) -> None:
        content["system"] += " The agent proposes {rl_action}."

    with pytest.raises(ConfigError, match="holds the answer 'BUY'"):
        load_prompts(written(tmp_path, in_position))
    with pytest.raises(ConfigError, match=r"system holds '\{rl_action\}'"):
        load_prompts(written(tmp_path, in_system))


def test_the_shipped_prompts_pass_the_echo_check() -> None:
    assert_no_proposal(PROMPTS)


def change_system(content: dict[str, Any]) -> None:
    content["system"] += " Be brief."


def change_label(content: dict[str, Any]) -> None:
    content["sides"]["flat"]["labels"]["HOLD"] = "Stay"


def change_position(content: dict[str, Any]) -> None:
    content["sides"]["flat"]["position"] = "nothing"


@pytest.mark.parametrize("change", [change_system, change_label, change_position, add_to_situation(" Now.")])
def test_the_hash_covers_everything_that_shapes_a_prompt(tmp_path: Path, change: Change) -> None:
    unchanged = load_prompts(written(tmp_path, lambda content: None))
    assert unchanged.sha256 == PROMPTS.sha256, "not the file's name or layout"
    assert load_prompts(written(tmp_path, change)).sha256 != PROMPTS.sha256


def drop_side(content: dict[str, Any]) -> None:
    del content["sides"]["flat"]


def misname_side(content: dict[str, Any]) -> None:
    content["sides"]["long winnning"] = content["sides"].pop("long winning")


def add_label(content: dict[str, Any]) -> None:
    content["sides"]["flat"]["labels"]["MOVE_TO_BE"] = "Protect"


def drop_label(content: dict[str, Any]) -> None:
    del content["sides"]["flat"]["labels"]["HOLD"]


def repeat_label(content: dict[str, Any]) -> None:
    content["sides"]["flat"]["labels"]["HOLD"] = "BUY"


def add_key(content: dict[str, Any]) -> None:
    content["sistem"] = "x"


def empty_system(content: dict[str, Any]) -> None:
    content["system"] = "  "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_side, "sides lacks flat"),
        (misname_side, "did you mean 'long winning'"),
        (add_label, "labels of side 'flat' has 'MOVE_TO_BE'"),
        (drop_label, "labels of side 'flat' lacks HOLD"),
        (repeat_label, "uses the label 'Buy' twice"),
        (add_key, r"Unknown key 'sistem' \(did you mean 'system'\?\)"),
        (empty_system, "system is '  '"),
        (add_to_situation(" {"), "situation is not a template"),
        (add_to_situation(" {momentun}"), r"did you mean 'momentum'"),
    ],
)
def test_a_bad_prompt_file_is_named_with_what_is_wrong(tmp_path: Path, change: Change, message: str) -> None:
    path = written(tmp_path, change)
    with pytest.raises(ConfigError, match=message) as caught:
        load_prompts(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", ["- a list", "a: [", "\xff"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_prompts(path)
