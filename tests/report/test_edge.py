"""Losing to costs and learning nothing are told apart, and what would have to change is computed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from src.agent.members import ArmName
from src.evaluation.seeds import SeededResults
from src.report.answers import answers
from src.report.edge import Trend, before_costs, change_words, edge_facts, edge_words, means_of, timesteps_more
from src.report.model.edge import Edge
from src.report.verdict import verdict
from tests.evaluation.made_results import result_of
from tests.report.page_report import full_report, typed

N = 80


def edge_of(
    gross: float, costs: float, random_costs: float = 120.0, trend: Trend | None = None, noise: float = 100.0
) -> Edge:
    """Of RL alone that makes `gross` a session before `costs`, against random trading that makes nothing before its."""
    rng = np.random.default_rng(3)
    market = rng.normal(0.0, 300.0, N)

    def results(mean: float, paid: float) -> Any:
        before = market + mean + noise * _standard(rng)
        return replace(result_of(before - paid), gross_usd=before)

    sealed = SeededResults(
        (0,), {ArmName.RL_ONLY: (results(gross, costs),), ArmName.RANDOM_LEGAL: (results(0.0, random_costs),)}
    )
    before = before_costs(sealed, 0)
    after = dict(before)
    difference = sealed.net_usd(ArmName.RL_ONLY) - sealed.net_usd(ArmName.RANDOM_LEGAL)
    shift = float(difference.mean()) - before["mean_usd"]
    for name in ("mean_usd", "low_usd", "high_usd"):
        after[name] = before[name] + shift
    return Edge(**edge_facts(before, after, *means_of(sealed), trend))


def _standard(rng: np.random.Generator) -> np.ndarray:
    """Mean 0 and standard deviation 1 to the last bit but a few."""
    values = rng.normal(size=N)
    return (values - values.mean()) / values.std(ddof=1)


def test_made_to_lose_to_costs_it_says_by_how_much_they_would_have_to_fall() -> None:
    edge = edge_of(60.0, 150.0)
    assert edge.cause == "loses to costs"
    market = edge.gross_usd_per_session - 60.0  # what the market added to both arms
    assert edge.costs_factor == pytest.approx((60.0 + market) / 150.0)
    said = change_words(edge)
    assert f"costs: down by {1 - edge.costs_factor:.0%}, from $150 to ${60 + market:.0f}/session" in said
    assert edge_words(edge).startswith("it learns but loses to costs: ")


def test_what_learns_nothing_is_not_helped_by_lower_costs() -> None:
    edge = edge_of(-90.0, 150.0)
    assert (edge.cause, edge.costs_factor, edge.sessions_needed) == ("learns nothing", None, None)
    assert "costs: no cut is enough" in change_words(edge)
    assert "sessions: more would confirm no edge, the observed one is -$90 before costs" in change_words(edge)


def test_trading_less_than_random_is_no_learning_about_the_market() -> None:
    edge = edge_of(0.5, 5.0, random_costs=400.0)
    assert edge.cause == "saves costs"


def test_the_sessions_that_would_confirm_what_was_seen() -> None:
    """(2.8 sd / effect)^2 sessions, worked by hand: both arms' noise of 100, an effect of 20."""
    edge = edge_of(20.0, 150.0)
    observed = edge.before_costs.mean_usd
    assert observed == pytest.approx(20.0)
    sd = edge.before_costs.minimum_detectable_usd * N**0.5 / 2.8
    assert edge.sessions_needed == int(np.ceil((2.8 * sd / 20.0) ** 2)) > N
    assert f"sessions: about {edge.sessions_needed} to confirm the observed +$20 before costs, 80 were sealed" in (
        change_words(edge)
    )


@pytest.mark.parametrize(
    ("net", "slope", "more"),
    [(-30.0, 5.0, 6 * 25_000), (-30.0, -5.0, None), (30.0, 5.0, None), (-1.0, 3.0, 8334)],
)
def test_the_timesteps_after_which_a_loss_would_be_gone(net: float, slope: float, more: int | None) -> None:
    """$30 at $5 a quarter are six quarters, of 25,000 timesteps each."""
    assert timesteps_more(net, Trend(100_000, slope)) == more


def test_each_sentence_has_its_figures_and_a_slope_that_is_not_shown_says_so() -> None:
    edge = edge_of(60.0, 150.0, trend=Trend(100_000, 5.0, -2.0, 12.0))
    said = change_words(edge)
    assert edge.timesteps_more is not None
    assert (
        f"timesteps: about {edge.timesteps_more:,} more if the slope is +$5/session (95% CI -$2 to +$12) per quarter"
        in said
    )
    assert said.endswith("(not shown to be above zero)")
    assert "timesteps: no slope was measured" in change_words(edge_of(60.0, 150.0))


def test_verdict_and_answer_tell_costs_from_knowledge() -> None:
    facts = full_report()
    after = facts["edge"]["before_costs"] | {"mean_usd": 3.0, "low_usd": -40.0, "high_usd": 46.0}
    facts["statistics"]["contrasts"].append(after)
    report = typed(facts)
    assert answers(report)[0].answer == "It learns, but loses to costs: no edge over random after them."
    lines = verdict(report)
    assert any(line.startswith("Before and after costs: it learns but loses to costs: ") for line in lines)
    assert any(line.startswith("To earn after costs: costs: down by 41%, from $61 to $36/session; ") for line in lines)
    assert all(len(answer.answer) <= 66 for answer in answers(report))
