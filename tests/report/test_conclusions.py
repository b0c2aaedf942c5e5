"""From sessions to conclusions: which contrasts, who is adjusted, what is called a difference, and what is worth it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from src.evaluation.cost_stress import CostStress
from src.report.conclusions import (
    CONTRASTS,
    ENOUGH_TIMESTEPS,
    contrast_facts,
    contrast_words,
    overall,
    seed_facts,
    statistics_facts,
)
from src.report.model.arms import Contrast
from src.statistics.intervals import Interval, paired_interval
from src.statistics.samples import sample_size
from src.statistics.trials import TrialLedger
from tests.evaluation.made_results import seeded
from tests.report.page_report import full_report, typed

FULL = full_report(3, 1, bars_a_session=24, n_charted=0, n_samples=2, n_records=2)
ARMS = ("flat", "random_legal", "advisor_only", "rl_only", "hybrid", "hybrid_placebo", "fused")


def noise(n: int, mean: float, seed: int, sd: float = 100.0) -> list[float]:
    """`n` sessions around a mean."""
    return (mean + sd * np.random.default_rng(seed).standard_normal(n)).tolist()


def arms_of(n: int, seeds: int = 1, **means: float) -> dict[str, list[list[float]]]:
    """Every arm with noise around its mean (0 unless given); flat is flat."""
    made = {arm: [noise(n, means.get(arm, 0.0), 100 * i + k) for k in range(seeds)] for i, arm in enumerate(ARMS)}
    return {**made, "flat": [[0.0] * n], "advisor_only": made["advisor_only"][:1]}


def contrast(
    mean: float, low: float | None, high: float | None, holm: float | None = None, **more: Any
) -> dict[str, Any]:
    return {
        **FULL["statistics"]["contrasts"][0],
        "arm": "hybrid", "against": "flat", "mean_usd": mean, "low_usd": low, "high_usd": high, "level_frac": 0.95,
        "holm_p_value": holm, "words": "some words", "reason": "", **more,
    }  # fmt: skip


def test_the_contrasts_are_fixed_and_the_primary_one_is_first_and_alone_unadjusted() -> None:
    facts = contrast_facts(seeded(arms_of(20)), seed=0)
    assert [(c["arm"], c["against"], c["role"]) for c in facts] == list(CONTRASTS)
    assert [c["role"] for c in facts] == ["primary", "secondary", "exploratory", "exploratory", "exploratory"]
    assert facts[0]["holm_p_value"] is None
    adjusted = multipletests([c["p_value"] for c in facts[1:]], method="holm")[1]
    assert [c["holm_p_value"] for c in facts[1:]] == pytest.approx(adjusted.tolist())


def test_a_contrast_is_the_mean_over_sessions_of_the_mean_over_seeds_of_the_difference() -> None:
    arms = arms_of(12, seeds=3, hybrid=50.0)
    (primary, *_) = contrast_facts(seeded(arms), seed=0)
    by_seed = [
        sum(a - b for a, b in zip(arms["hybrid"][k], arms["hybrid_placebo"][k], strict=True)) / 12 for k in range(3)
    ]
    assert primary["seed_means_usd"] == pytest.approx(by_seed)
    assert primary["mean_usd"] == pytest.approx(sum(by_seed) / 3)
    assert primary["low_usd"] < primary["mean_usd"] < primary["high_usd"]
    assert primary["sessions"] == 12


def test_the_flat_arm_without_seeds_is_compared_with_every_seed() -> None:
    arms = arms_of(12, seeds=3)
    against_flat = contrast_facts(seeded(arms), seed=0)[2]
    assert against_flat["seed_means_usd"] == pytest.approx([sum(row) / 12 for row in arms["hybrid"]])


def test_a_contrast_without_both_arms_is_left_out() -> None:
    arms = arms_of(12)
    del arms["hybrid_placebo"], arms["fused"]
    assert [(c["arm"], c["against"]) for c in contrast_facts(seeded(arms), seed=0)] == [
        ("hybrid", "rl_only"), ("hybrid", "flat"), ("rl_only", "random_legal"),
    ]  # fmt: skip


@pytest.mark.parametrize("n", [0, 1, 2, 9])
def test_under_ten_sessions_there_is_no_interval_anywhere(n: int) -> None:
    facts = contrast_facts(seeded(arms_of(n, seeds=2)), seed=0)
    assert len(facts) == 5
    for fact in facts:
        assert fact["low_usd"] is fact["high_usd"] is fact["p_value"] is fact["holm_p_value"] is None
        assert fact["words"] == f"no interval: not enough sessions ({n} of 40)"


def test_ten_sessions_have_one() -> None:
    assert all(fact["low_usd"] is not None for fact in contrast_facts(seeded(arms_of(10)), seed=0))


def test_what_excludes_zero_alone_and_not_among_many_is_called_no_difference() -> None:
    arms = arms_of(20)
    arms["fused"] = [[a + b for a, b in zip(arms["rl_only"][0], noise(20, 44.0, 9), strict=True)]]
    fact = contrast_facts(seeded(arms), seed=0)[4]
    assert fact["low_usd"] > 0
    assert fact["p_value"] < 0.05 < fact["holm_p_value"]
    assert fact["words"].startswith("no difference shown after adjusting for several comparisons")
    assert f"Holm p {fact['holm_p_value']:.2f}" in fact["words"]
    assert Contrast(**fact).sign == 0
    assert Contrast(**{**fact, "holm_p_value": None}).sign == 1


@settings(max_examples=30)
@given(st.floats(-300, 300), st.none() | st.floats(0, 1))
def test_words_and_sign_say_the_same(mean: float, adjusted: float | None) -> None:
    interval = paired_interval(noise(20, mean, 3), seed=0, replications=199)
    words = contrast_words("hybrid", "flat", interval, adjusted)
    sign = Contrast(**contrast(interval.mean or 0.0, interval.low, interval.high, adjusted)).sign
    assert words.startswith("hybrid earns more than flat") == (sign > 0)
    assert words.startswith("hybrid earns less than flat") == (sign < 0)
    assert words.startswith("no difference shown") == (sign == 0)


def test_no_difference_says_how_many_sessions_one_of_that_size_would_take() -> None:
    """By hand: 2.8 sd / effect, squared."""
    net = [100.0, -80.0] * 10
    interval = paired_interval(net, seed=0)
    sd = float(np.std(net, ddof=1))
    needed = int(np.ceil((2.8 * sd / 10.0) ** 2))
    assert contrast_words("a", "b", interval).endswith(
        f". Effects below ${2.8 * sd / 20**0.5:,.0f}/session would usually be missed; confirming the observed $10 "
        f"needs about {needed:,} sessions"
    )


def test_a_verdict_reads_as_a_trading_desk_would_write_it() -> None:
    """The figures of a real run of three seeds on 110 sessions."""
    interval = Interval(
        n=110, level=0.95, sample=sample_size(110), seed_means=(170.0,), replications=9999, mean=170.0, low=-80.0,
        high=378.0, p_value=0.14, standard_error=101.0, minimum_detectable=282.5, block_length=1.4,
    )  # fmt: skip
    assert contrast_words("rl_only", "random_legal", interval) == (
        "no difference shown: +$170/session (95% CI -$80 to +$378). Effects below $282/session would usually be "
        "missed; confirming the observed $170 needs about 304 sessions"
    )
    worse = replace(interval, mean=-227.0, low=-364.0, high=-59.0)
    assert contrast_words("hybrid", "flat", worse) == (
        "hybrid earns less than flat: -$227/session (95% CI -$364 to -$59)"
    )


def stress_of(net: dict[str, list[list[float]]], ticks: tuple[int, ...], fills: int) -> CostStress:
    rows = {arm: np.array(of) for arm, of in net.items()}
    counts = {arm: (None, *[fills] * (len(ticks) - 1)) for arm in net}
    return CostStress(ticks, rows, {arm: np.zeros_like(of) for arm, of in rows.items()}, counts, 5.0)


def facts_of(
    tmp_path: Path, n: int = 12, seeds: int = 2, stress: tuple[CostStress, ...] = (), configuration: str = "c"
) -> dict[str, Any]:
    ledger = TrialLedger(tmp_path / "trials.jsonl")
    sealed = seeded(arms_of(n, seeds))
    return statistics_facts(sealed, contrast_facts(sealed, 0), stress, ledger, "sealed", configuration)


def test_the_trials_of_a_run_are_its_selectable_arms_and_count_once(tmp_path: Path) -> None:
    first = facts_of(tmp_path)
    again = facts_of(tmp_path)
    other = facts_of(tmp_path, configuration="another")
    assert set(first["deflated_sharpe"]) == {"rl_only", "hybrid", "fused"}
    assert {arm["trials"] for arm in first["deflated_sharpe"].values()} == {3}
    assert again == first
    assert {arm["trials"] for arm in other["deflated_sharpe"].values()} == {6}


def test_the_interquartile_mean_is_of_arms_with_seeds_and_from_five_on(tmp_path: Path) -> None:
    few, many = facts_of(tmp_path, seeds=4), facts_of(tmp_path, seeds=5)
    assert few["interquartile_mean_usd"]["hybrid"]["value"] is None
    means = sorted(sum(row) / 12 for row in arms_of(12, 5)["hybrid"])
    assert many["interquartile_mean_usd"]["hybrid"]["value"] == pytest.approx(sum(means[1:4]) / 3)
    assert "flat" not in many["interquartile_mean_usd"]


def test_costs_are_averaged_over_seeds_by_hand(tmp_path: Path) -> None:
    one = stress_of({"rl_only": [[300.0, 100.0], [200.0, 0.0]]}, (0, 1), fills=10)
    other = stress_of({"rl_only": [[100.0, 100.0], [-200.0, -100.0]]}, (0, 1), fills=30)
    facts = facts_of(tmp_path, stress=(one, other))["cost_stress"]
    assert facts["slippage_ticks"] == [0, 1]
    assert facts["net_usd_per_session"] == {"rl_only": [150.0, -25.0]}
    # $300 at no slippage, -$50 at one tick: the line between them meets zero at 6/7 of a tick.
    assert facts["break_even_ticks"]["rl_only"]["value"] == pytest.approx(6 / 7)


def test_every_arm_has_its_figures(tmp_path: Path) -> None:
    facts = facts_of(tmp_path)
    assert list(facts["arms"]) == list(ARMS)
    assert facts["sample_size"] == {"n": 12, "words": "low power (12 of 40 sessions)", "level": "low"}
    assert "cost_stress" not in facts


def test_the_seeds_section_holds_every_session_of_every_seed() -> None:
    arms = arms_of(3, seeds=2)
    facts = seed_facts(seeded(arms, (7, 9)))
    assert facts["values"] == [7, 9]
    assert facts["net_usd_by_session"]["hybrid"] == arms["hybrid"]
    assert facts["net_usd_by_session"]["flat"] == [[0.0] * 3] * 2


SHORT = [{**FULL["training"][0], "timesteps": ENOUGH_TIMESTEPS - 1}]
QUICK = {**FULL["run"], "quick": True}


def a_report(edge: dict[str, Any], level: str = "enough", **more: Any) -> dict[str, Any]:
    sample = {"n": 50, "level": level, "words": "enough sessions (50)" if level == "enough" else "not enough (2 of 40)"}
    report = {
        **FULL,
        "training": [{**FULL["training"][0], "timesteps": ENOUGH_TIMESTEPS}],
        "look_ahead": {"checks": 4, "passed": True, "found": ""},
        "statistics": {"sample_size": sample, "contrasts": [edge]},
        **more,
    }
    return {name: section for name, section in report.items() if section is not None}


def leaking(check: str) -> dict[str, Any]:
    part = {"checks": 9, "passed": True, "found": "", "strata": {}}
    parts = {"features": part, check: {**part, "passed": False, "found": "bar 7"}}
    return {"checks": 18, "passed": False, "found": "bar 7", "parts": parts}


@pytest.mark.parametrize(
    ("report", "status", "judgement"),
    [
        (a_report(contrast(9.0, 5.0, 13.0, 0.01)), "met", "Worth the production run: it makes money"),
        (a_report(contrast(-9.0, -13.0, -5.0, 0.01)), "missed", "Not worth the production run as configured"),
        (a_report(contrast(2.0, -3.0, 7.0, 0.6)), "not_measured", "No edge shown"),
        (a_report(contrast(9.0, 5.0, 13.0, 0.08)), "not_measured", "No edge shown"),
        (a_report(contrast(-9.0, -13.0, -5.0, 0.08)), "not_measured", "No edge shown"),
        (a_report(contrast(9.0, None, None)), "not_measured", "No edge shown"),
        (a_report(contrast(9.0, None, None), level="none"), "not_measured", "Cannot say: not enough sessions."),
        (a_report(contrast(9.0, 5.0, 13.0, 0.01), run=QUICK), "met", "Worth the production run: it"),
        (a_report(contrast(9.0, 5.0, 13.0, 0.01), training=SHORT), "not_measured", "Cannot say yet: 49,999 base"),
        (
            a_report(contrast(9.0, 5.0, 13.0, 0.01), run=QUICK, training=SHORT),
            "not_measured",
            "Cannot say yet: a quick run",
        ),
        (a_report(contrast(9.0, 5.0, 13.0, 0.01), statistics=None), "not_measured", "Cannot say: nothing"),
        (
            a_report(contrast(9.0, 5.0, 13.0, 0.01), look_ahead={"checks": 1, "passed": False, "found": "bar 7"}),
            "missed",
            "Not worth the production run: a feature uses future data.",
        ),
        (
            a_report(contrast(9.0, 5.0, 13.0, 0.01), look_ahead=leaking("sealed")),
            "missed",
            "Not worth the production run: training used validation or sealed sessions.",
        ),
        (
            a_report(contrast(9.0, 5.0, 13.0, 0.01), look_ahead=leaking("fills")),
            "missed",
            "Not worth the production run: an order fills at an impossible price.",
        ),
    ],
)  # fmt: skip
def test_whether_the_production_run_is_worth_it(report: dict[str, Any], status: str, judgement: str) -> None:
    told = overall(typed(report))
    assert told.status == status
    assert told.judgement.startswith(judgement)
    assert told.reason
    if "edge" in judgement or "makes" in judgement or "configured" in judgement:
        assert told.reason == "Hybrid vs not trading: some words."


def test_a_run_that_made_no_check_of_leaks_is_judged_by_the_rest() -> None:
    assert overall(typed(a_report(contrast(9.0, 5.0, 13.0, 0.01), look_ahead=None))).status == "met"
