"""The planted market: its sign is there to be learned, the defaults learn it, and what learns too little fails."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.agent.settings import HardwareSettings, TrainingSettings
from src.canaries import planted
from src.canaries.planted import (
    HOLD_BARS,
    LEAST_MEDIAN_SHARE,
    LEAST_SHARE,
    SIGN_COLUMN,
    FollowSign,
    judge_shares,
    planted_gate,
    planted_market,
    play,
    usable_sessions,
)
from src.evaluation.arms import RandomLegalArm
from src.market.load import build_tables
from src.market.settings import DataSettings
from src.market.synthetic import planted_bars
from src.trading.settings import EnvironmentSettings

MEASURED = (0.67, 0.66, 0.56, 0.43, 0.72, 0.64, 0.52, 0.53, 0.65, 0.54)
"""The shares of ten seeds of the defaults from which the bars were set."""
FAR_FROM_THE_BAR = 4
"""The seed that learned .72 and .71 in two measurements: another machine rounds otherwise and learns another share."""
ENVIRONMENT = EnvironmentSettings()
ONE_THREAD = HardwareSettings(torch_threads=1)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.long
@pytest.mark.slow
def test_the_defaults_learn_the_planted_edge() -> None:
    gate = planted_gate([FAR_FROM_THE_BAR], hardware=ONE_THREAD)
    assert gate.passed, gate.words
    assert gate.rows[0]["timesteps"] >= 50_000
    assert gate.shares[0] < 1.2, "more than the best policy known is a fault of the check"


@pytest.mark.slow
def test_an_agent_that_does_not_learn_fails() -> None:
    gate = planted_gate([FAR_FROM_THE_BAR], TrainingSettings(learning_rate=1e-7), ONE_THREAD, timesteps=4_096)
    assert not gate.passed
    assert gate.words.startswith("planted edge not learned: 1 seed ")
    assert gate.shares[0] < LEAST_SHARE / 2


def test_the_ten_measured_seeds_pass() -> None:
    assert judge_shares(MEASURED) == (
        True,
        "planted edge learned: 10 seeds learned 0.43 or more of the best known policy's net P&L, median 0.60 "
        "(needed 0.40 and 0.50)",
    )


@pytest.mark.parametrize(
    ("shares", "passed", "said"),
    [
        ([0.45], True, "learned: 1 seed learned 0.45 or more of the best known policy's net P&L, median 0.45"),
        ([0.45] * 9, True, "under 10 seeds no median is judged"),
        ([0.45] * 6 + [0.9] * 4, False, "the median must be 0.50"),
        ([0.9] * 8 + [0.39], False, "every seed must learn 0.40"),
        ([0.56, 0.50, 0.50, 0.39, 0.75, 0.63, 0.61, 0.60, 0.54, 0.64], True, "learned 0.39 or more"),
        ([0.9] * 8 + [0.39] * 2, False, "every seed must learn 0.40, but for one in ten"),
        ([0.9] * 9 + [0.24], False, "no seed may learn less than 0.25"),
        ([0.39], False, "every seed must learn 0.40"),
        ([float("nan")], False, "not learned"),
        ([0.9, float("nan")], False, "not learned"),
    ],
)
def test_a_verdict_says_which_bar_was_missed(shares: list[float], passed: bool, said: str) -> None:
    verdict, words = judge_shares(shares)
    assert verdict is passed
    assert said in words


@given(st.lists(st.floats(0.2, 0.8), min_size=1, max_size=21))
def test_shares_pass_exactly_where_each_clears_one_bar_and_of_ten_or_more_the_middle_another_and_one_in_ten_a_lower(
    shares: list[float],
) -> None:
    ordered = sorted(shares)
    middle = (ordered[(len(shares) - 1) // 2] + ordered[len(shares) // 2]) / 2
    lucky = ordered[len(shares) // 10]
    wanted = lucky >= LEAST_SHARE and (len(shares) < 10 or (middle >= LEAST_MEDIAN_SHARE and ordered[0] >= 0.25))
    assert judge_shares(shares)[0] is wanted


def test_no_seed_is_no_check() -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        judge_shares([])


def test_the_sign_stands_in_one_column_and_every_other_is_as_in_any_run() -> None:
    bars, sign = planted_bars("NQ", 10, 5, 3, planted.DRIFT_SIGMA, HOLD_BARS, hours="rth")
    plain = build_tables(bars, DataSettings(), trading_hours="rth")
    market = planted_market(ENVIRONMENT, "NQ", 10, 5, 3)
    np.testing.assert_array_equal(market.tables.context[:, SIGN_COLUMN], sign)
    rest = np.arange(plain.context.shape[1]) != SIGN_COLUMN
    np.testing.assert_array_equal(market.tables.context[:, rest], plain.context[:, rest])
    np.testing.assert_array_equal(market.tables.prices, plain.prices)


def test_following_the_sign_earns_and_chance_loses() -> None:
    market = planted_market(ENVIRONMENT, "NQ", 20, 1, 5)
    results = play((FollowSign(), RandomLegalArm(0)), market, usable_sessions(market))
    assert results["follow_sign"].net_usd.mean() > 1_000 > 0 > results["random_legal"].net_usd.mean()
    assert not any(result.illegal_actions for result in results.values())


def row(share: float) -> dict[str, float]:
    return {
        "learned": 4_000 * share,
        "follow_sign": 4_000.0,
        "random_legal": -900.0,
        "share": share,
        "train_s": 9.9,
        "timesteps": 51_200.0,
    }


@pytest.mark.parametrize(("shares", "code"), [((0.67, 0.66, 0.56), 0), ((0.67, 0.1, 0.56), 1)])
def test_the_command_prints_a_table_a_verdict_and_one_line_of_json(
    shares: tuple[float, ...], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def learned(training: Any, hardware: Any, environment: Any, seed: int, *, timesteps: int) -> dict[str, float]:
        asked.append((training.learning_rate, hardware.vectorized_envs, environment.rule_profile, timesteps))
        return row(shares[seed - 4])

    monkeypatch.setattr(planted, "learn_planted", learned)
    options = ["--rule-profile", "none", "--timesteps", "7", "--learning-rate", "0.5", "--threads", "1"]
    assert planted.main(["--seeds", "3", "--first-seed", "4", *options]) == code
    assert asked == [(0.5, 32, "none", 7)] * 3
    lines = capsys.readouterr().out.splitlines()
    summary = json.loads(lines[-1])
    assert (summary["shares"], summary["seeds"], summary["passed"]) == (list(shares), [4, 5, 6], code == 0)
    assert summary["min_share"] == min(shares)
    assert summary["median_share"] == sorted(shares)[1]
    assert all(len(line) <= 80 for line in lines[:-1])
    assert lines[3].split()[:2] == ["5", f"${4_000 * shares[1]:,.0f}"]


def test_a_command_without_seeds_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        planted.main(["--seeds", "0", "--threads", "1"])
    assert ended.value.code == 2
    assert "--seeds is 0" in capsys.readouterr().err
