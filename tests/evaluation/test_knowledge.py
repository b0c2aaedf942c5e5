"""Skill before and after the day up to which a model may have read about the market."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from src.advisor.knowledge import KNOWN, cutoff_of
from src.advisor.settings import LLMSettings
from src.advisor.situations import N_MARKET_SITUATIONS, N_SITUATIONS, encode
from src.advisor.table import AdviceTable, freeze_table
from src.agent.market import Market
from src.errors import ConfigError
from src.evaluation.forecast import WHOLE, outcomes
from src.evaluation.knowledge import SKILL_HORIZON, difference, knowledge_facts, skill
from src.report.advisor_words import knowledge_lines
from src.report.model.advice import Knowledge
from src.testing_framework import TestConfig
from src.trading.layout import BUY, FLAT, HOLD, SELL
from tests.small_runs import market as small_market

FOLDER = LLMSettings(model="/models/some", knowledge_cutoff=date(2024, 10, 31))


@pytest.fixture(scope="module")
def market() -> Market:
    """Sixty sessions that pass for a real market's."""
    made = small_market()
    return replace(made, tables=replace(made.tables, bars=replace(made.tables.bars, synthetic=False)))


def known(market: Market, before: int) -> tuple[Market, LLMSettings]:
    """The market, and a cutoff after so many usable sessions."""
    dates = market.tables.sessions.date
    ids = np.concatenate([market.split.train, market.split.validation, market.split.test])
    return market, FOLDER.model_copy(update={"knowledge_cutoff": dates[ids[before - 1]].astype(object)})


def says(up: np.ndarray) -> AdviceTable:
    """Advice that is BUY in the market codes where `up` is true, else SELL."""
    probabilities = np.zeros((N_SITUATIONS, 6), np.float32)
    rows = encode(np.arange(N_MARKET_SITUATIONS), FLAT)
    probabilities[rows] = np.where(up[:, np.newaxis], [[0.2, 0.5, 0.3, 0, 0, 0]], [[0.2, 0.3, 0.5, 0, 0, 0]])
    assert (HOLD, BUY, SELL) == (0, 1, 2)
    return freeze_table(probabilities, np.ones(N_SITUATIONS, bool), "made", "made")


def test_a_model_that_remembers_is_told_by_its_skill_before_the_cutoff(market: Market) -> None:
    """Codes are dealt by what followed before the cutoff, and by a coin after it."""
    ids = np.concatenate([market.split.train, market.split.validation, market.split.test])
    n_before = len(ids) // 2
    market, llm = known(market, n_before)
    ticks, fate = outcomes(market.tables, bars := market.bars_of(ids), SKILL_HORIZON)
    before = np.isin(market.tables.bars.session_id[bars], ids[:n_before])
    coin = np.random.default_rng(0).random(len(bars)) < 0.5
    codes = market.situation.copy()
    codes[bars] = 1 + np.where(before, ticks > 0, coin)
    remembering = replace(market, situation=codes)
    facts = knowledge_facts(remembering, says(np.arange(N_MARKET_SITUATIONS) == 2), llm, 0)
    assert facts["before"]["hit_rate"] == 1.0
    assert facts["before"]["skill"] > 0.4
    assert facts["after"]["low"] < 0.0 < facts["after"]["high"]
    assert facts["low"] > 0.3
    used = (fate == WHOLE) & (ticks != 0) & ~before
    by_hand = [
        np.mean(coin[used & of] == (ticks[used & of] > 0))
        for of in (market.tables.bars.session_id[bars] == session for session in ids[n_before:])
        if (used & of).any()
    ]
    assert facts["after"]["hit_rate"] == pytest.approx(np.mean(by_hand))
    assert facts["after"]["sessions"] == len(by_hand)
    words = knowledge_lines(Knowledge(**facts))
    assert "it was better before by" in words[1]
    assert "as memory would be" in words[1]


def test_what_always_says_buy_has_no_skill_in_a_rising_market() -> None:
    hits = np.full(40, 0.7)
    found = skill(hits, np.ones(40), np.full(40, 0.7), seed=0)
    assert (found["chance_rate"], found["skill"]) == (pytest.approx(0.7), pytest.approx(0.0))


def test_the_difference_has_the_bounds_of_both_sides() -> None:
    found = difference({"skill": 0.05, "low": 0.02, "high": 0.08}, {"skill": 0.01, "low": -0.03, "high": 0.05})
    assert found["difference"] == pytest.approx(0.04)
    assert (found["low"], found["high"]) == (pytest.approx(-0.01), pytest.approx(0.09)), "3-4-5 triangles"


@pytest.mark.parametrize(
    ("of_sealed", "where", "words"),
    [
        (-1, "after", "skill there is not memory"),
        (0, "split", "are not after it, and skill there may be memory"),
        (1, "before", "after all of the"),
    ],
)
def test_the_cutoff_stands_beside_the_sealed_window(market: Market, of_sealed: int, where: str, words: str) -> None:
    sealed = market.tables.sessions.date[market.split.test].astype(object)
    day = {-1: date(2000, 1, 1), 0: sealed[0], 1: sealed[-1]}[of_sealed]
    facts = knowledge_facts(market, says(np.zeros(N_MARKET_SITUATIONS, bool)), FOLDER.model_copy(
        update={"knowledge_cutoff": day}), 0)  # fmt: skip
    assert facts["sealed"] == where
    assert facts["sealed_after"] == {-1: len(sealed), 0: len(sealed) - 1, 1: 0}[of_sealed], "the day itself is before"
    line = knowledge_lines(Knowledge(**facts))[0]
    assert words in line
    assert f"{sealed[0]} to {sealed[-1]}" in line
    assert f"until {day}" in line


@pytest.mark.parametrize(
    ("llm", "where"),
    [
        ({"model": "/models/some"}, "unknown"),
        ({"model": "bundled:smollm2"}, "known"),
        ({"model": "bundled:smollm2", "endpoint": "http://127.0.0.1:1/v1"}, "unknown"),
        ({"model": "mock", "knowledge_cutoff": "2024-10-31"}, "no memory"),
        ({"model": "tiny"}, "no memory"),
    ],
)
def test_whose_cutoff_is_known(market: Market, llm: dict[str, Any], where: str) -> None:
    settings = LLMSettings(**llm)
    facts = knowledge_facts(market, says(np.zeros(N_MARKET_SITUATIONS, bool)), settings, 0)
    assert (cutoff_of(settings) is not None) == (where == "known")
    if where == "known":
        assert facts["cutoff"] == "2024-10-31" == KNOWN["bundled:smollm2"].day.isoformat()
        assert "log published with its weights" in facts["source"]
        return
    assert facts["sealed"] == where
    lines = knowledge_lines(Knowledge(**facts))
    assert [line[:58] for line in lines] == (
        ["Model's knowledge: cutoff unknown: skill may be memory on "] if where == "unknown" else []
    )


def test_invented_bars_are_no_memory(market: Market) -> None:
    invented = replace(market, tables=replace(market.tables, bars=replace(market.tables.bars, synthetic=True)))
    facts = knowledge_facts(invented, says(np.zeros(N_MARKET_SITUATIONS, bool)), FOLDER, 0)
    assert (facts["sealed"], facts["before"]) == ("synthetic", None)


@pytest.mark.parametrize("value", ["yesterday", 20241031, "2024-13-01", "2024-10-31T00:00", True, 1.5])
def test_what_is_no_day_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError, match="knowledge_cutoff"):
        LLMSettings(knowledge_cutoff=value)


def test_a_file_states_the_day_in_quotes(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("llm:\n  knowledge_cutoff: '2024-10-31'\n", encoding="utf-8")
    config = TestConfig.from_file(file, "hardware_maximized")
    assert config.llm.knowledge_cutoff == date(2024, 10, 31)
    assert config.to_dict()["llm"]["knowledge_cutoff"] == "2024-10-31"
    file.write_text("llm:\n  knowledge_cutoff: 2024-10-31\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"llm\.knowledge_cutoff is a date\. Write it in quotes"):
        TestConfig.from_file(file, "hardware_maximized")
