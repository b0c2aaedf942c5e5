"""Several seeds of the same arms: every one under its own name, controls once, averaged by session."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.evaluation.arms import AdviceUse
from src.evaluation.seeds import SeededResults, by_arm, seeded_arms
from src.evaluation.summaries import arm_summary
from tests.evaluation.made_results import result_of

CONTROLS = ["flat", "advisor_only"]
SEEDED = ["random_legal", "rl_only", "hybrid", "hybrid_placebo", "fused"]
nets = st.lists(st.floats(-1e5, 1e5), min_size=3, max_size=3)


@dataclass
class Named:
    """As much of an arm as giving names to arms needs."""

    name: str
    seed: int


def arms_of(seed: int) -> list[Named]:
    return [Named(name, seed) for name in ("flat", "random_legal", "advisor_only", "rl_only", *SEEDED[2:])]


def test_arms_without_seeds_are_evaluated_once_and_all_others_once_a_seed() -> None:
    chosen = seeded_arms({7: arms_of(7), 8: arms_of(8), 12: arms_of(12)})
    assert len({arm.name for arm in chosen}) == len(chosen) == 2 + 3 * 5
    for name in CONTROLS:
        assert [arm.name for arm in chosen if arm.name.startswith(name)] == [f"{name}@7"]
    for name in SEEDED:
        assert [arm.name for arm in chosen if arm.name.startswith(f"{name}@")] == [f"{name}@{s}" for s in (7, 8, 12)]
        assert [arm.seed for arm in chosen if arm.name.startswith(f"{name}@")] == [7, 8, 12]


def test_results_come_back_by_arm_in_the_order_of_the_seeds() -> None:
    names = [arm.name for arm in seeded_arms({4: arms_of(4), 3: arms_of(3)})]
    sealed = by_arm([4, 3], {name: result_of([float(len(name)), i], name) for i, name in enumerate(names)})
    assert sealed.values == (4, 3)
    assert list(sealed.results) == ["flat", "random_legal", "advisor_only", "rl_only", *SEEDED[2:]]
    for arm, results in sealed.results.items():
        assert [result.name for result in results] == [arm] * (1 if arm in CONTROLS else 2)
    places = [names.index(f"hybrid@{seed}") for seed in (4, 3)]
    assert sealed.net_usd("hybrid")[:, 1].tolist() == places


def test_an_arm_without_seeds_stands_for_every_seed() -> None:
    sealed = SeededResults((0, 1, 2), {"flat": (result_of([0.0, 5.0], "flat"),)})
    assert sealed.net_usd("flat").tolist() == [[0.0, 5.0]] * 3


def test_the_average_of_two_seeds_by_hand() -> None:
    uses = [AdviceUse(10, 8, 4, {"agreement": 3}), AdviceUse(30, 2, 1, {"agreement": 4})]
    rows = [[-30.0, 100.0, 0.0], [10.0, 20.0, -1500.0]]
    results = tuple(
        result_of(row, "fused", trades=k + 1, use=use) for k, (row, use) in enumerate(zip(rows, uses, strict=True))
    )
    summary = SeededResults((0, 1), {"fused": results}).summaries()["fused"]
    assert summary["sessions"] == 3
    assert summary["net_usd_by_session"] == [-10.0, 60.0, -750.0]
    assert summary["net_usd"] == (70.0 - 1470.0) / 2
    assert summary["net_usd_per_session"] == pytest.approx(-700 / 3)
    assert summary["trades"] == 4.5
    assert summary["trades_per_session"] == 1.5
    assert summary["win_rate"] == pytest.approx((1 / 3 + 4 / 6) / 2)
    assert summary["max_drawdown_usd"] == 800.0
    assert summary["sessions_breached"] == 0.5
    assert summary["actions"]["BUY"] == 12
    assert summary["advice"] == {
        "choices": 40, "advised": 10, "changed": 5, "rules": {"agreement": 7}, "changed_frac": 0.125,
    }  # fmt: skip


def test_a_rate_that_a_seed_has_not_is_that_of_the_others() -> None:
    results = (result_of([5.0, -5.0], trades=0), result_of([5.0, -5.0], trades=1))
    assert SeededResults((0, 1), {"rl_only": results}).summaries()["rl_only"]["win_rate"] == 0.5
    nobody = SeededResults((0, 1), {"rl_only": (results[0], results[0])})
    assert nobody.summaries()["rl_only"]["win_rate"] is None


def test_advice_without_a_choice_has_no_share() -> None:
    results = tuple(result_of([0.0], "hybrid", use=AdviceUse()) for _ in range(2))
    assert SeededResults((0, 1), {"hybrid": results}).summaries()["hybrid"]["advice"]["changed_frac"] is None


@given(st.lists(nets, min_size=1, max_size=5))
def test_a_session_is_the_mean_of_its_seeds_and_the_sum_that_of_the_sessions(rows: list[list[float]]) -> None:
    sealed = SeededResults(tuple(range(len(rows))), {"hybrid": tuple(result_of(row, "hybrid") for row in rows)})
    summary = sealed.summaries()["hybrid"]
    np.testing.assert_array_equal(sealed.net_usd("hybrid"), rows)
    for place in range(3):
        expected = sum(row[place] for row in rows) / len(rows)
        assert summary["net_usd_by_session"][place] == pytest.approx(expected, abs=1e-6)
    assert summary["net_usd"] == pytest.approx(sum(summary["net_usd_by_session"]), abs=1e-6)


def test_a_single_seed_is_summed_up_as_it_is() -> None:
    result = result_of([1.25, -3.5, 0.1], "rl_only")
    assert SeededResults((5,), {"rl_only": (result,)}).summaries() == {"rl_only": arm_summary(result)}
