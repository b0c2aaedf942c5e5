"""Planted advice: only the situations know the sign, the advisor says it, the placebo and the noise say nothing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.advisor.situations import N_MARKET_SITUATIONS, UNKNOWN
from src.agent.settings import HardwareSettings
from src.canaries import planted_advice
from src.canaries.planted import DRIFT_SIGMA, HOLD_BARS, play, usable_sessions
from src.canaries.planted_advice import (
    CODES_A_SIGN,
    AdviceTrial,
    advised_market,
    judge_trials,
    planted_advice_gate,
    signal_codes,
    signal_table,
)
from src.evaluation.arms import AdvisorArm
from src.evaluation.placebo import placebo_table
from src.market.load import build_tables
from src.market.settings import DataSettings
from src.market.synthetic import planted_bars
from src.statistics.intervals import Interval, paired_interval
from src.trading.layout import (
    BUY,
    FLAT,
    HOLD,
    LONG_LOSING,
    LONG_WINNING,
    N_SIDES,
    SELL,
    SHORT_LOSING,
    SHORT_WINNING,
)
from src.trading.settings import EnvironmentSettings

ENVIRONMENT = EnvironmentSettings()
SMALL: dict[str, Any] = {"hardware": HardwareSettings(torch_threads=1), "timesteps": 8_192}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@given(st.integers(1, 2_000), st.integers(0, 2**32))
def test_a_situation_carries_the_sign_and_the_table_says_what_it_means(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sign = np.repeat(rng.choice([-1.0, 1.0], n // HOLD_BARS + 1), HOLD_BARS)[:n]
    codes = signal_codes(sign, rng)
    assert codes.dtype == np.int32
    assert codes.min() > UNKNOWN
    assert codes.max() < N_MARKET_SITUATIONS
    said = signal_table().probabilities.reshape(N_MARKET_SITUATIONS, N_SIDES, -1)[codes].argmax(axis=2)
    up, down = said[sign > 0], said[sign < 0]
    meant = {
        FLAT: (BUY, SELL),
        LONG_WINNING: (HOLD, SELL),
        LONG_LOSING: (HOLD, SELL),
        SHORT_WINNING: (BUY, HOLD),
        SHORT_LOSING: (BUY, HOLD),
    }
    for side, (when_up, when_down) in meant.items():
        assert (up[:, side] == when_up).all()
        assert (down[:, side] == when_down).all()
    within = np.arange(n) % HOLD_BARS != 0
    assert (np.diff(codes, prepend=0)[within] == 0).all(), "an opinion lasts as long as a sign"


def test_the_table_gives_whole_probabilities_and_abstains_in_the_unknown_market() -> None:
    table = signal_table()
    sums = table.probabilities.sum(axis=1).reshape(N_MARKET_SITUATIONS, N_SIDES)
    np.testing.assert_allclose(sums[UNKNOWN], 0.0)
    np.testing.assert_allclose(np.delete(sums, UNKNOWN, axis=0), 1.0, atol=1e-6)
    assert table.asked == (N_MARKET_SITUATIONS - 1) * N_SIDES


def flat_lean(table: Any, codes: np.ndarray) -> np.ndarray:
    """BUY less SELL of what a flat account is told, float64[n]."""
    rows = table.probabilities.reshape(N_MARKET_SITUATIONS, N_SIDES, -1)[codes, FLAT].astype(np.float64)
    return rows[:, BUY] - rows[:, SELL]


def test_the_placebo_of_the_table_does_not_know_the_sign() -> None:
    table = signal_table()
    rng = np.random.default_rng(0)
    blocks = 20_000
    sign = np.repeat(rng.choice([-1.0, 1.0], blocks), HOLD_BARS)
    codes = signal_codes(sign, rng)
    assert np.corrcoef(flat_lean(table, codes), sign)[0, 1] == pytest.approx(1.0)
    for seed in range(5):
        # As many codes of each sign as there are: that is what chance leaves, four of its standard deviations.
        known = np.corrcoef(flat_lean(placebo_table(table, seed), codes), sign)[0, 1]
        assert abs(known) < 4 / np.sqrt(2 * CODES_A_SIGN)


def test_no_observation_holds_the_sign_and_noise_is_independent_of_it() -> None:
    bars, sign = planted_bars("NQ", 120, 5, 3, DRIFT_SIGMA, HOLD_BARS, hours="rth")
    plain = build_tables(bars, DataSettings(), trading_hours="rth")
    advised, noisy = (advised_market(ENVIRONMENT, "NQ", 120, 5, 3, noise=noise) for noise in (False, True))
    for market in (advised, noisy):
        for name in ("window", "context", "prices", "flags"):
            np.testing.assert_array_equal(getattr(market.tables, name), getattr(plain, name))
    table = signal_table()
    np.testing.assert_array_equal(np.sign(flat_lean(table, advised.situation)), sign)
    heard = np.sign(flat_lean(table, noisy.situation))
    blocks = len(sign) / HOLD_BARS
    assert abs(np.mean(heard)) < 4 / np.sqrt(blocks)
    assert abs(np.corrcoef(heard, sign)[0, 1]) < 4 / np.sqrt(blocks)


def test_the_advice_alone_earns_where_it_knows_the_sign_and_not_where_it_is_noise() -> None:
    table = signal_table()
    net = {}
    for noise in (False, True):
        market = advised_market(ENVIRONMENT, "NQ", 200, 5, 0, noise=noise)
        net[noise] = play((AdvisorArm(),), market, usable_sessions(market), table)["advisor_only"].net_usd.mean()
    assert net[False] > 500 > 100 > net[True]


@pytest.mark.long
@pytest.mark.slow
def test_planted_advice_is_found() -> None:
    gate = planted_advice_gate([0], noise=False, **SMALL)
    assert gate.passed, gate.words
    trial = gate.trials[0]
    assert trial.interval.n == 40
    assert trial.hybrid_usd - trial.placebo_usd == pytest.approx(trial.interval.mean)
    assert trial.hybrid_usd > 200


@pytest.mark.long
@pytest.mark.slow
def test_advice_that_is_noise_is_not_taken_for_advice() -> None:
    gate = planted_advice_gate([0, 1], noise=True, **SMALL)
    assert gate.passed, gate.words
    assert gate.found == 0


@pytest.mark.parametrize(
    ("found", "n", "noise", "passed"),
    [
        (20, 20, False, True),
        (16, 20, False, True),
        (15, 20, False, False),
        (0, 1, False, False),
        (1, 1, False, True),
        (4, 20, True, True),
        (5, 20, True, False),
        (0, 2, True, True),
        (1, 2, True, False),
    ],
)
def test_at_most_four_seeds_of_twenty_may_come_out_wrong(found: int, n: int, noise: bool, passed: bool) -> None:
    verdict, words = judge_trials(found, n, noise=noise)
    assert verdict is passed
    assert str(found) in words
    assert str(n) in words


def test_no_seed_is_no_check() -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        judge_trials(0, 0, noise=True)


def trial_of(seed: int, differences: np.ndarray) -> AdviceTrial:
    mean = float(differences.mean())
    return AdviceTrial(
        seed, 12_345.0 + mean, 12_345.0, 7.0, 16.5, paired_interval(differences, seed=0, replications=199)
    )


def test_advice_helps_only_where_the_whole_interval_is_above_zero() -> None:
    rng = np.random.default_rng(0)
    assert trial_of(0, 1_000 + rng.standard_normal(40)).helps
    assert not trial_of(0, -1_000 + rng.standard_normal(40)).helps
    assert not trial_of(0, rng.standard_normal(40)).helps
    few = trial_of(0, 1_000 + rng.standard_normal(5))
    assert isinstance(few.interval, Interval)
    assert few.interval.low is None
    assert not few.helps, "five sessions give no interval"


@pytest.mark.parametrize(("noise", "code"), [(False, 1), (True, 0)])
def test_the_command_prints_a_table_a_verdict_and_one_line_of_json(
    noise: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def trial(training: Any, hardware: Any, environment: Any, seed: int, **options: Any) -> AdviceTrial:
        asked.append((environment.rule_profile, seed, options))
        drawn = np.random.default_rng(seed).standard_normal(40)
        return trial_of(seed, drawn + (1_000 if seed == 3 else 0))

    monkeypatch.setattr(planted_advice, "advice_trial", trial)
    options = ["--seeds", "5", "--first-seed", "2", "--sessions", "30", "--timesteps", "9", "--threads", "1"]
    assert planted_advice.main([*options, "--rule-profile", "none", *(["--noise"] if noise else [])]) == code
    assert asked == [("none", seed, {"noise": noise, "timesteps": 9, "n_sessions": 30}) for seed in range(2, 7)]
    lines = capsys.readouterr().out.splitlines()
    summary = json.loads(lines[-1])
    assert (summary["noise"], summary["passed"], summary["found"]) == (noise, code == 0, 1)
    assert [one["helps"] for one in summary["trials"]] == [False, True, False, False, False]
    assert all(len(line) <= 80 for line in lines[:-1])
    cells = lines[3].split()
    assert (cells[0], cells[2], *cells[-3:]) == ("3", "$12,345", "7.0", "16.5", "yes")
    differences = [one["interval"]["mean"] for one in summary["trials"]]
    assert summary["mean_difference_usd"] == pytest.approx(np.mean(differences))
    assert summary["standard_error_usd"] == pytest.approx(np.std(differences, ddof=1) / np.sqrt(5))


def test_a_command_without_sessions_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        planted_advice.main(["--sessions", "0"])
    assert ended.value.code == 2
    assert "--sessions is 0" in capsys.readouterr().err
