"""The verdict: each sentence from a figure of the report, and none that goes further."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.evaluation.leak_words import WHAT
from src.report.answers import ENOUGH_TIMESTEPS
from src.report.verdict import llm_words, verdict
from tests.report.page_report import full_report, typed

ENOUGH = {"n": 50, "level": "enough", "words": "enough sessions (50)"}
LOW = {"n": 11, "level": "low", "words": "low power (11 of 40 sessions)"}
FEW = {"n": 2, "level": "none", "words": "not enough sessions (2 of 40)"}
FULL = full_report(11, 1, bars_a_session=24, n_charted=0, n_samples=2, n_records=2)
Contrasts = dict[tuple[str, str], dict[str, Any]]


def contrast(
    arm: str, against: str, low: float | None, high: float | None, holm: float | None = None
) -> dict[str, Any]:
    return {
        **FULL["statistics"]["contrasts"][0],
        "arm": arm, "against": against, "low_usd": low, "high_usd": high, "holm_p_value": holm,
        "reason": "" if low is not None else "a session has no figure", "words": f"[{arm} and {against}]",
    }  # fmt: skip


def contrasts(
    placebo: tuple[float | None, float | None] = (-5.0, 5.0),
    alone: tuple[float | None, float | None] = (-5.0, 5.0),
    learning: tuple[float | None, float | None] = (-5.0, 5.0),
    holm: float | None = 0.01,
) -> Contrasts:
    made = [
        contrast("hybrid", "hybrid_placebo", *placebo),
        contrast("hybrid", "rl_only", *alone, holm=holm),
        contrast("rl_only", "random_legal", *learning, holm=holm),
    ]
    return {(c["arm"], c["against"]): c for c in made}


def training(**changes: Any) -> dict[str, Any]:
    return {
        **FULL["training"][0],
        "timesteps": ENOUGH_TIMESTEPS, "timesteps_requested": 49_000, "steps_per_s": 3210.0, "seconds": 4.0,
        "update_s": 1.0, "checkpoint_s": 0.0, **changes,
    }  # fmt: skip


def sampled(gpu: float | None, ram: float) -> dict[str, Any]:
    """What was sampled while the production networks trained."""
    return {"production": {**FULL["hardware"]["phases"]["base"], "peak_gpu_memory_gb": gpu, "peak_ram_gb": ram}}


def simulated(arms: dict[str, Any], reason: str = "") -> dict[str, Any]:
    return {**FULL["pass_simulation"], "arms": arms, "reason": reason}


ARM = {**FULL["arms"]["hybrid"], "sessions_breached": 1.0, "sessions_daily_locked": 2.5}
PASSES = {
    **FULL["pass_simulation"]["arms"]["hybrid"],
    "attempts": 2000, "passed_frac": 0.25, "breached_frac": 0.6, "passed_low_frac": 0.1, "passed_high_frac": 0.45,
}  # fmt: skip
LEFT_OUT = ("pass_simulation", "survival", "session_dates", "time")
REPORT: dict[str, Any] = {
    **{name: value for name, value in FULL.items() if name not in LEFT_OUT},
    "run": {**FULL["run"], "device": "cuda:0"},
    "training": [training()],
    "look_ahead": {"checks": 4, "passed": True, "found": ""},
    "hardware": {**FULL["hardware"], "phases": sampled(None, 0.724)},
    "production_estimate": {**FULL["production_estimate"], "timesteps": 750_000, "hours": 12.0, "steps_per_s": 987.0},
    "statistics": {"sample_size": LOW, "contrasts": list(contrasts().values())},
    "seeds": {"values": [0, 1, 2], "net_usd_by_session": {}},
    "advice": {
        **FULL["advice"],
        "advisor": "mock",
        "tabulation": {**FULL["advice"]["tabulation"], "count_k": 1200, "listed": 3000},
        "coverage": {"train": 0.9, "sealed": 0.8},
        "note": None,
        "quantization": None,
    },
    "arms": {name: ARM for name in ("rl_only", "hybrid", "fused")},
    "rules": {"profile": "apex_50k_eod_2026_03", "as_of": "2026-03-01", "note": FULL["rules"]["note"]},
}


def changed(**changes: Any) -> dict[str, Any]:
    """The report above with other values at dotted (__) places; a section that is None is left out."""
    report = copy.deepcopy(REPORT)
    for path, value in changes.items():
        section: Any = report
        *steps, last = path.split("__")
        for step in steps:
            section = section[step]
        section[last] = value
    return {name: section for name, section in report.items() if section is not None}


def told(**changes: Any) -> str:
    """The verdict on the changed report."""
    return "\n".join(verdict(typed(changed(**changes))))


def of_llm(made: Contrasts, sample: dict[str, Any], seeds: int) -> str:
    report = typed(changed(statistics__sample_size=sample, statistics__contrasts=list(made.values())))
    assert report.statistics is not None
    return llm_words(report.statistics, seeds)


def test_it_says_what_was_trained_and_what_held_it_up() -> None:
    assert told().startswith(
        "Training: 50,000 base timesteps (49,000 requested) at 3,210 steps/s. Bottleneck: rollouts (75% of training "
        "time)."
    )
    assert "Bottleneck: PPO update (75%" in told(training=[training(update_s=3.0)])
    assert "Checkpoints" not in told()
    assert "Checkpoints: 1.0 s (20.0% of training time)." in told(training=[training(checkpoint_s=1.0)])


def test_with_an_environment_of_ones_own_its_share_is_told_apart() -> None:
    own = {"environment": {"env_class": "my.module:Env"}}
    text = told(training=[training(environment_s=2.0)], configuration=own)
    assert "Bottleneck: environment (50% of training time; policy 25%; PPO update 25%)." in text
    text = told(training=[training(environment_s=0.4)], configuration=own)
    assert "Bottleneck: policy (65% of training time; PPO update 25%; environment 10%)." in text


def test_it_never_says_that_nothing_leaks_only_that_nothing_was_found() -> None:
    assert "Leaks: none found by these checks: 4 prefix recomputations." in told()
    leak = {"checks": 1, "passed": False, "found": "window of bar 7"}
    assert "Leaks: LEAK FOUND: window of bar 7." in told(look_ahead=leak)
    part = {"passed": True, "found": "", "strata": {}}
    parts = {name: {**part, "checks": 1_000 * n} for n, name in enumerate(WHAT, start=1)}
    section = {"checks": 10_000, "passed": True, "found": "", "parts": parts}
    assert (
        "Leaks: none found by these checks: 1,000 bars with an altered future, 2,000 decisions, 3,000 fills, 4,000 "
        "fits and trainings."
    ) in told(look_ahead=section)
    assert "Leaks" not in told(look_ahead=None)


@pytest.mark.parametrize(
    ("base", "hybrid", "meaning"),
    [
        ("still rising", "cannot tell", " More timesteps may earn more than this run shows."),
        ("flat", "flat", " More timesteps alone are unlikely to earn more."),
        ("flat", "cannot tell", ""),
        ("falling", "flat", ""),
    ],
)
def test_whether_it_is_still_learning_is_told_with_what_it_means_for_production(base, hybrid, meaning: str) -> None:
    trainings = {
        name: {**of, "verdict": verdict, "words": f"{verdict}, $1"}
        for (name, of), verdict in zip(FULL["still_learning"]["trainings"].items(), (base, hybrid), strict=True)
    }
    said = f"Still learning (5 validation sessions): base {base}, $1; hybrid {hybrid}, $1.{meaning}\n"
    assert said in told(still_learning__trainings=trainings)


def test_how_long_production_takes_is_told_in_hours_or_minutes() -> None:
    assert "750,000 timesteps would take 12.0 h at the 987 steps/s" in told()
    assert "would take 3.0 min at" in told(production_estimate__hours=0.05)


@pytest.mark.parametrize(("seeds", "words"), [([0], "one seed"), ([4, 5], "2 seeds")])
def test_it_says_on_how_much_the_evidence_rests(seeds: list[int], words: str) -> None:
    assert f"Evidence: low power (11 of 40 sessions), {words}." in told(seeds__values=seeds)
    assert f"Evidence on SYNTHETIC bars: low power (11 of 40 sessions), {words}." in told(
        seeds__values=seeds, data__synthetic=True
    )


@pytest.mark.parametrize(
    ("bounds", "holm", "words"),
    [
        ((1.0, 9.0), 0.01, "Learning: yes: [rl_only and random_legal]."),
        ((1.0, 9.0), 0.06, "Learning: not shown on these sessions: [rl_only and random_legal]."),
        ((-1.0, 9.0), 0.4, "Learning: not shown on these sessions: [rl_only and random_legal]."),
        ((-9.0, -1.0), 0.01, "Learning: not shown on these sessions: [rl_only and random_legal]."),
        ((None, None), None, "Learning: not shown (a session has no figure)."),
    ],
)
def test_it_learns_where_the_difference_to_chance_is_shown(
    bounds: tuple[float | None, float | None], holm: float | None, words: str
) -> None:
    assert words in told(statistics__contrasts=list(contrasts(learning=bounds, holm=holm).values()))


def test_a_training_too_short_to_learn_is_not_measured_for_it() -> None:
    short = told(training=[training(timesteps=ENOUGH_TIMESTEPS - 1)])
    assert "Learning: not measured: 49,999 base timesteps are too few to learn (at least 50,000)." in short
    assert "not measured" not in told()
    assert "LLM (mock): not measured: after so short a training the arms differ only by chance." in short
    few = told(training=[training(timesteps=ENOUGH_TIMESTEPS - 1)], statistics__sample_size=FEW)
    assert "LLM (mock): not enough sessions (2 of 40) to tell whether it helps" in few
    without_base = told(training=[{**training(), "phase": "rl_only"}])
    assert "Learning: not measured: 0 base timesteps are too few to learn (at least 50,000)." in without_base


@pytest.mark.parametrize(
    ("placebo", "alone", "holm", "said"),
    [
        ((1.0, 9.0), (1.0, 9.0), 0.01, "helps"),
        ((1.0, 9.0), (1.0, 9.0), 0.06, "no evidence either way"),
        ((1.0, 9.0), (-1.0, 9.0), 0.5, "no evidence either way"),
        ((-1.0, 9.0), (1.0, 9.0), 0.01, "no evidence either way"),
        ((-1.0, 9.0), (-1.0, 9.0), 0.5, "no evidence either way"),
        ((0.0, 0.0), (0.0, 0.0), 1.0, "no evidence either way"),
        ((-9.0, -1.0), (-1.0, 9.0), 0.5, "hurts"),
        ((-1.0, 9.0), (-9.0, -1.0), 0.01, "hurts"),
        ((-1.0, 9.0), (-9.0, -1.0), 0.06, "no evidence either way"),
        ((1.0, 9.0), (-9.0, -1.0), 0.01, "hurts"),
        ((None, None), (1.0, 9.0), 0.01, "no evidence either way"),
    ],
)
def test_advice_helps_only_where_both_comparisons_show_it(
    placebo: tuple[float | None, float | None], alone: tuple[float, float], holm: float, said: str
) -> None:
    words = of_llm(contrasts(placebo, alone, holm=holm), ENOUGH, seeds=3)
    assert words.startswith(f"{said}. Vs placebo: [hybrid and hybrid_placebo]. Vs RL alone: [hybrid and")
    assert "One seed" not in words
    assert of_llm(contrasts(placebo, alone, holm=holm), ENOUGH, seeds=1).endswith(
        ". One seed: this holds for this one training only"
    )


def test_with_too_few_sessions_it_says_how_many_would_do() -> None:
    words = of_llm(contrasts((None, None), (None, None)), FEW, seeds=1)
    assert words == (
        "not enough sessions (2 of 40) to tell whether it helps; a first look needs 40 sealed sessions and 3 seeds"
    )


@given(*[st.floats(-10, 10) for _ in range(4)], st.floats(0, 1))
def test_it_never_helps_and_hurts_without_a_bound_beyond_zero(
    a: float, b: float, c: float, d: float, holm: float
) -> None:
    placebo, alone = (min(a, b), max(a, b)), (min(c, d), max(c, d))
    words = of_llm(contrasts(placebo, alone, holm=holm), ENOUGH, seeds=3)
    if words.startswith("helps"):
        assert placebo[0] > 0
        assert alone[0] > 0
        assert holm <= 0.05
    if words.startswith("hurts"):
        assert min(placebo[1], alone[1]) < 0


def test_it_says_what_advice_covers_and_what_it_is_worth_as_evidence() -> None:
    usual = told()
    assert "Advice covers 1,200 of 3,000 situations: 90% of the training bars and 80% of the sealed bars." in usual
    assert "Note:" not in usual
    assert "the advisor abstains. Note: rules of thumb." in told(advice__note="rules of thumb")


@pytest.mark.parametrize(
    ("asking", "words"),
    [
        (
            {"full_precision_agreement": 0.97, "full_precision_compared": 2000},
            "same first choice as full precision in 97% of 2,000 situations.",
        ),
        (
            {"full_precision_agreement": None, "full_precision_compared": 0, "full_precision_why_not": "no memory"},
            "not compared with full precision: no memory.",
        ),
    ],
)
def test_quantized_weights_are_compared_with_whole_ones(asking: dict[str, Any], words: str) -> None:
    tabulation = {**REPORT["advice"]["tabulation"], **asking}
    assert f"int8 weights: {words}" in told(advice__quantization="int8", advice__tabulation=tabulation)
    assert "weights:" not in told(advice__quantization="none", advice__tabulation=tabulation)


@pytest.mark.parametrize(("mass", "is_said"), [(0.005, True), (0.0999, True), (0.1, False), (None, False)])
def test_a_model_that_would_usually_say_something_else_is_told(mass: float | None, is_said: bool) -> None:
    said = told(advice__tabulation={**REPORT["advice"]["tabulation"], "label_mass": mass})
    assert ("of the model's probability falls on the answer labels (floor 10%)" in said) == is_said
    if mass == 0.005:
        assert "Only 0.5% of the model's probability" in said


def test_situations_without_every_label_are_told() -> None:
    whole = {**REPORT["advice"]["tabulation"], "abstained": 0}
    assert "a label is missing" not in told(advice__tabulation=whole)
    said = told(advice__tabulation={**whole, "abstained": 300})
    assert "every label in 900 of 1,200 situations; in the others a label is missing, and the advice abstains." in said


def test_survival_is_a_count_of_sessions_and_of_attempts() -> None:
    usual = told()
    assert (
        "Simulated rule check: apex_50k_eod_2026_03 (as of 2026-03-01), 11 separate sessions: rl_only breached 1 and "
        "hit its daily limit in 2.5; hybrid breached 1" in usual
    )
    assert "Survival" not in usual
    passes = simulated({"rl_only": PASSES, "hybrid": {**PASSES, "passed_low_frac": None}})
    assert told(pass_simulation=passes).splitlines()[-1] == (
        "Survival: over 2,000 simulated evaluation attempts, rl_only passes 25% (95% CI 10% to 45%) and breaches in "
        "60%; hybrid passes 25% and breaches in 60%."
    )
    none = simulated({}, "2 sealed sessions are too few to resample (minimum 10)")
    assert "Survival: not simulated: 2 sealed sessions are too few" in told(pass_simulation=none)


@pytest.mark.parametrize(
    ("automation", "said"),
    [
        (
            "banned",
            "Automation: BANNED under apex_50k_eod_2026_03: no bots. A pass in this simulation would not allow ",
        ),
        ("restricted", "Automation: restricted under apex_50k_eod_2026_03: no bots. Check the firm's conditions "),
        ("unknown", "Automation: unknown under apex_50k_eod_2026_03: no bots. Ask the firm "),
        ("allowed", "Automation: allowed under apex_50k_eod_2026_03: no bots."),
    ],
)
def test_the_first_line_says_whether_the_firm_lets_a_program_trade(automation: str, said: str) -> None:
    first = told(rules__automation=automation, rules__automation_note="no bots").splitlines()[0]
    assert first.startswith(said)
    assert told(rules__automation=None).startswith("Training:")


def test_what_the_sources_of_the_rules_leave_open_is_told() -> None:
    lines = told(rules__conflicts=["trail_usd: 1,500 or 2,000"], rules__unverified=["lock_usd"]).splitlines()
    assert lines[-2:] == ["Rules in conflict: trail_usd: 1,500 or 2,000", "Rules unverified: lock_usd"]


def test_the_table_of_profiles_is_told_by_what_follows_from_it() -> None:
    assert told(survival=FULL["survival"]).splitlines()[-5:] == [
        "Survival over 3 rule profiles: best is apex_50k_eod_2026_10, passed in 40% of attempts (95% CI 30% to 50%) "
        "and breached in 50%; 2 of them ban automation.",
        "Best without a ban: takeprofittrader_50k_2026_11, 20% pass (95% CI 5% to 35%), automation unknown.",
        # 25K at most 15%, 50K at least 30%: apart.
        "Account size, Apex EOD: 50K is passed most often (40%; 25K 10%).",
        "First payout, apex_50k_eod_2026_10: 8% of attempts (95% CI 2% to 20%); a funded account reaches it in 25%, "
        "after a median of 14 sessions, and breaches before in 70%.",
        "Not simulated: topstep_50k_2026_11: positions must be closed by 16:10 New York, but globex holds them until "
        "16:59.",
    ]
    near = copy.deepcopy(FULL["survival"])
    near["rows"][1]["arms"]["hybrid"]["passed_high_frac"] = 0.31
    assert "the intervals overlap, so no size is shown to fit better" in told(survival=near)
    for row in near["rows"][:2]:
        row["arms"]["hybrid"]["passed_frac"] = 0.0
    assert "Account size, Apex EOD: none of 50K, 25K is passed." in told(survival=near)


def test_without_an_evaluation_it_speaks_of_training_and_time_only() -> None:
    bare: dict[str, Any] = {"statistics": None, "advice": None, "look_ahead": None}
    assert [line.split(":")[0] for line in told(**bare).splitlines()] == ["Training", "Production"]
    assert told(**bare, training=[], production_estimate=None) == ""


@pytest.mark.parametrize(
    ("phases", "words"),
    [
        ({}, "production networks."),
        (sampled(None, 0.724), "production networks, using 0.72 GB of RAM."),
        (sampled(3.2, 1.0), "production networks, using 3.20 GB of GPU memory and 1.00 GB of RAM."),
    ],
)
def test_production_takes_the_memory_that_was_sampled(phases: dict[str, Any], words: str) -> None:
    assert f"steps/s with the {words}" in told(hardware__phases=phases)


def test_no_word_claims_what_nobody_measured() -> None:
    for words in (told(), told(statistics__contrasts=list(contrasts((1, 2), (1, 2), (1, 2)).values()))):
        for word in ("validated", "complete", "guarantee", "does not leak", "achieved", "proven", "will pass"):
            assert word not in words
