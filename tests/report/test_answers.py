"""The five answers: a mark only where the figures show it, one line each, the same on console and page."""

from __future__ import annotations

from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from src.report.answers import ENOUGH_TIMESTEPS, FAIL, PASS, UNKNOWN, answers, llm_effect
from src.report.console import answers_table, print_summary
from src.report.model.report import Answer
from src.report.page import render
from tests.report.page_reader import PageReader
from tests.report.page_report import full_report, typed
from tests.report.test_verdict import ENOUGH, FEW, LOW, PASSES, changed, contrasts, sampled, simulated, training

KEYS = ["trains", "leaks", "production", "survives", "llm"]
BETTER, WORSE, OPEN = (1.0, 9.0), (-9.0, -1.0), (-1.0, 9.0)
NO_ADVICE = simulated({"hybrid": PASSES})


def report_of(**changes: Any) -> dict[str, Any]:
    """A report of 50 sessions and enough training, with every difference open unless changed."""
    made = contrasts(**changes.pop("contrasts", {}))
    for (_, against), contrast in made.items():
        contrast |= {"mean_usd": 106.0 if against == "hybrid_placebo" else 170.0, "sessions": 50}
        if contrast["high_usd"] is not None and contrast["high_usd"] < 0:
            contrast["mean_usd"] *= -1
    values = {
        "statistics__sample_size": ENOUGH, "statistics__contrasts": list(made.values()), "pass_simulation": NO_ADVICE,
        "edge__cause": "learns nothing",
    }  # fmt: skip
    return changed(**{**values, **changes})


def answer(key: str, **changes: Any) -> tuple[str, str]:
    (found,) = (a for a in answers(typed(report_of(**changes))) if a.key == key)
    return found.mark, found.answer


def passing(passed: float, low: float | None, high: float | None) -> dict[str, Any]:
    arm = {**PASSES, "passed_frac": passed, "passed_low_frac": low, "passed_high_frac": high}
    return simulated({"rl_only": PASSES, "hybrid": arm})


def test_there_are_five_in_the_order_of_the_questions() -> None:
    found = answers(typed(report_of()))
    assert [a.key for a in found] == KEYS
    assert all(a.question.endswith("?") and a.answer.endswith(".") for a in found)


@pytest.mark.parametrize(
    ("changes", "mark", "words"),
    [
        ({"contrasts": {"learning": BETTER}}, PASS, "Yes: beats random trading by $170/session."),
        ({"contrasts": {"learning": WORSE}}, FAIL, "No: $170/session worse than random trading."),
        ({"contrasts": {"learning": OPEN}}, UNKNOWN, "No edge over random trading in 50 sealed sessions."),
        ({"contrasts": {"learning": BETTER, "holm": 0.06}}, UNKNOWN, "No edge over random trading in 50"),
        (
            {"contrasts": {"learning": OPEN}, "edge__cause": "loses to costs"},
            UNKNOWN,
            "It learns, but loses to costs: ",
        ),
        (
            {"contrasts": {"learning": BETTER}, "edge__cause": "saves costs"},
            UNKNOWN,
            "Beats random by $170/session, by saving costs: no edge before them.",
        ),
        ({"training": [training(timesteps=256)]}, UNKNOWN, "Not measured: 256 of 50,000 timesteps trained."),
        ({"statistics__sample_size": FEW}, UNKNOWN, "Not measured: only 2 sealed sessions."),
    ],
)
def test_it_trains_where_rl_alone_beats_chance(changes: dict[str, Any], mark: str, words: str) -> None:
    found = answer("trains", **changes)
    assert found[0] == mark
    assert found[1].startswith(words)


def test_it_leaks_where_a_check_found_a_leak_and_is_unknown_where_none_was_made() -> None:
    assert answer("leaks") == (PASS, "No leak found in 4 checks.")
    leak = {"checks": 4, "passed": False, "found": "window of bar 7 changes"}
    assert answer("leaks", look_ahead=leak) == (FAIL, "Yes: window of bar 7 changes.")
    assert answer("leaks", look_ahead=None) == (UNKNOWN, "Not checked in this run.")


@pytest.mark.parametrize(
    ("changes", "mark", "words"),
    [
        ({}, PASS, "12.0 h, 0.7 GB RAM; bottleneck: rollouts (75%)."),
        ({"training": [training(update_s=3.0)]}, PASS, "12.0 h, 0.7 GB RAM; bottleneck: PPO update (75%)."),
        ({"hardware__phases": {}}, UNKNOWN, "12.0 h, memory unknown; bottleneck: rollouts (75%)."),
        (
            {"hardware__phases": sampled(30.0, 1.0), "targets__peak_memory__target": 24.0},
            FAIL, "30.0 GB GPU, over the 24 GB limit; bottleneck",
        ),
        (
            {"hardware__phases": sampled(30.0, 1.0), "run__device": "cpu", "targets__peak_memory__target": 24.0},
            PASS, "12.0 h, 1.0 GB RAM;",
        ),
        ({"production_estimate": None}, UNKNOWN, "Not measured."),
        ({"training": []}, UNKNOWN, "Not measured."),
    ],
)  # fmt: skip
def test_production_passes_where_its_time_and_memory_were_measured(
    changes: dict[str, Any], mark: str, words: str
) -> None:
    found = answer("production", **changes)
    assert found[0] == mark
    assert words in found[1]


@pytest.mark.parametrize(
    ("simulated", "mark", "words"),
    [
        (passing(0.25, 0.14, 0.41), FAIL, "25% of attempts pass (95% CI 14% to 41%), 60% breach."),
        (passing(0.8, 0.61, 0.9), PASS, "80% of attempts pass (95% CI 61% to 90%), 60% breach."),
        (passing(0.6, 0.4, 0.75), UNKNOWN, "60% of attempts pass"),
        (passing(1.0, None, None), UNKNOWN, "100% of attempts pass (no CI), 60% breach."),
        (passing(0.0, None, None), FAIL, "0% of attempts pass (no CI), 60% breach."),
        (simulated({}, "the rule profile x has no profit target to pass"), UNKNOWN, "Not simulated: the rule"),
        (None, UNKNOWN, "Not simulated in this run."),
    ],
)
def test_it_survives_where_the_whole_interval_is_above_half(
    simulated: dict[str, Any] | None, mark: str, words: str
) -> None:
    found = answer("survives", pass_simulation=simulated)
    assert found[0] == mark
    assert found[1].startswith(words)


@pytest.mark.parametrize(
    ("made", "mark", "words"),
    [
        ({"placebo": BETTER, "alone": BETTER}, PASS, "Helps: +$106/session vs placebo, +$170 vs RL alone."),
        ({"placebo": BETTER, "alone": OPEN}, UNKNOWN, "No evidence either way in 50 sealed sessions."),
        ({"placebo": WORSE, "alone": OPEN}, FAIL, "Hurts: -$106/session vs placebo, +$170 vs RL alone."),
    ],
)
def test_the_llm_is_worth_it_where_both_comparisons_show_it(made: dict[str, Any], mark: str, words: str) -> None:
    assert answer("llm", contrasts=made) == (mark, words)


bounds = st.tuples(st.floats(-10, 10), st.floats(-10, 10)).map(sorted)


@given(
    placebo=bounds,
    alone=bounds,
    learning=bounds,
    sample=st.sampled_from([FEW, LOW, ENOUGH]),
    trained=st.sampled_from([0, ENOUGH_TIMESTEPS - 1, ENOUGH_TIMESTEPS]),
    passes=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)).map(sorted),
)
def test_nothing_is_marked_that_too_few_sessions_or_too_short_a_training_leave_open(
    placebo: Any, alone: Any, learning: Any, sample: dict[str, Any], trained: int, passes: Any
) -> None:
    report = typed(report_of(
        contrasts={"placebo": placebo, "alone": alone, "learning": learning}, statistics__sample_size=sample,
        training=[training(timesteps=trained)], pass_simulation=passing(passes[1], passes[0], passes[2]),
    ))  # fmt: skip
    assert report.statistics is not None
    marks = {a.key: a.mark for a in answers(report)}
    if sample is FEW or trained < ENOUGH_TIMESTEPS:
        assert {marks["trains"], marks["survives"], marks["llm"]} == {UNKNOWN}
    else:
        assert (marks["trains"] == PASS) == (learning[0] > 0)
        assert marks["llm"] == {1: PASS, -1: FAIL, 0: UNKNOWN}[llm_effect(report.statistics)]
        assert marks["survives"] != PASS or passes[0] > 0.5
        assert marks["survives"] != FAIL or passes[2] < 0.5 or passes[1] == 0.0


def test_own_environments_answer_what_they_can() -> None:
    own = typed(changed(statistics=None, advice=None, look_ahead=None))
    assert [a.mark for a in answers(own)] == [UNKNOWN, UNKNOWN, PASS, UNKNOWN, UNKNOWN]


def shown_on(encoding: str, found: list[Answer]) -> list[str]:
    out = BytesIO()
    console = Console(file=TextIOWrapper(out, encoding=encoding, write_through=True), width=80)
    unicode = encoding == "utf-8"
    console.print(answers_table(found, unicode=unicode))
    return [line.rstrip() for line in out.getvalue().decode(encoding).splitlines()]


def test_each_answer_has_one_line_of_eighty_columns_with_or_without_unicode() -> None:
    report = report_of(contrasts={"learning": BETTER}, pass_simulation=passing(0.25, 0.14, 0.41))
    found = answers(typed(report))
    assert shown_on("utf-8", found) == [
        "✓ pass     Trains?        Yes: beats random trading by $170/session.",
        "✓ pass     Leaks?         No leak found in 4 checks.",
        "✓ pass     Production?    12.0 h, 0.7 GB RAM; bottleneck: rollouts (75%).",
        "✗ fail     Survives?      25% of attempts pass (95% CI 14% to 41%), 60% breach.",
        "? unknown  LLM worth it?  No evidence either way in 50 sealed sessions.",
    ]
    plain = shown_on("ascii", found)
    assert [line[:6] for line in plain] == ["+ pass", "+ pass", "+ pass", "x fail", "? unkn"]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_console_and_page_begin_with_the_answers_of_the_report(encoding: str) -> None:
    report = typed(full_report(12, 1))
    assert report.overall is not None
    out = BytesIO()
    console = Console(file=TextIOWrapper(out, encoding=encoding, errors="strict", write_through=True), width=80)
    print_summary(console, report, Path("logs/run"))
    lines = out.getvalue().decode(encoding).splitlines()
    first = next(i for i, line in enumerate(lines) if line.strip())
    assert lines[first] == report.overall.judgement
    for a in report.answers:
        assert any(a.mark in line and a.answer in line for line in lines[first : first + 8])
    assert lines[-1] == "Report: logs/run/report.html"
    ((_, verdict),) = PageReader(render(report)).of("section", id="verdict")
    places = [verdict.index(text) for a in report.answers for text in (a.question, a.mark, a.answer)]
    assert places == sorted(places)
    assert places[-1] < verdict.index(report.verdict[0])
