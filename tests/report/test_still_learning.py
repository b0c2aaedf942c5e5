"""Whether a policy is still learning: planted trends are named, and noise is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from src.report.model.learning import StillLearning
from src.report.page.drawing import Arrays
from src.report.sections.learning import _still_learning, quarters_figure
from src.report.still_learning import CANNOT_TELL, FALLING, FLAT, RISING, still_learning_facts
from src.wording import usd

STEPS = [12_800, 25_600, 38_400, 51_200]


def facts(slope_usd: float, noise_usd: float, *, seeds: int = 3, sessions: int = 80, steps=STEPS) -> dict[str, Any]:
    """Of seeds whose sessions are alike but for `noise_usd`, and earn `slope_usd` more each quarter."""
    rng = np.random.default_rng(0)
    level = rng.normal(0.0, 500.0, sessions)
    by_seed = {
        seed: {
            name: {
                "timesteps": list(steps),
                "net_usd": (level + slope_usd * np.arange(len(steps))[:, None]
                            + rng.normal(0.0, noise_usd, (len(steps), sessions))).tolist(),
            }
            for name in ("base", "hybrid")
        }
        for seed in range(seeds)
    }  # fmt: skip
    section: dict[str, Any] = still_learning_facts(by_seed, seed=0)["still_learning"]
    return section


@pytest.mark.parametrize(
    ("slope", "noise", "verdict"),
    [(60.0, 100.0, RISING), (-60.0, 100.0, FALLING), (0.0, 20.0, FLAT), (0.0, 2000.0, CANNOT_TELL)],
)
def test_a_planted_trend_is_named(slope: float, noise: float, verdict: str) -> None:
    found = facts(slope, noise)
    assert (found["sessions"], found["seeds"]) == (80, [0, 1, 2])
    for of in found["trainings"].values():
        assert of["verdict"] == verdict
        assert of["low_usd"] < slope < of["high_usd"]
        assert of["words"].startswith(f"{verdict}, ")
        assert of["words"].endswith("per quarter of training")
        np.testing.assert_allclose(of["net_usd_per_session"], np.mean(of["seed_net_usd_per_session"], axis=0))


@pytest.mark.parametrize(
    ("steps", "sessions", "why"),
    [
        ([1280, 2560, 3840, 5120], 80, "5,120 timesteps are too few to learn"),
        ([51_200], 80, "1 of 4 quarters end at different rollouts"),
        (STEPS, 5, "not enough sessions (5 of 40)"),
    ],
)
def test_what_supports_no_trend_says_why(steps, sessions: int, why: str) -> None:
    base = facts(60.0, 1.0, sessions=sessions, steps=steps)["trainings"]["base"]
    assert (base["verdict"], base["low_usd"], base["reason"]) == (CANNOT_TELL, None, why)
    assert base["words"] == f"cannot tell ({why})"


def test_a_fine_tuning_counts_the_timesteps_of_its_base() -> None:
    half = [step // 2 for step in STEPS]
    by_seed = {0: {name: {"timesteps": of, "net_usd": np.random.default_rng(0).normal(size=(4, 50)).tolist()}
                   for name, of in (("base", STEPS), ("hybrid", half))}}  # fmt: skip
    assert all(
        of["reason"] == "" for of in still_learning_facts(by_seed, seed=0)["still_learning"]["trainings"].values()
    )


def test_the_curve_has_the_range_of_the_seeds_at_each_quarter() -> None:
    section = StillLearning(**facts(60.0, 100.0))
    arrays = Arrays()
    figure = quarters_figure(section, arrays)
    drawn = [(trace, arrays.kept[trace["y"]["ref"]]) for trace in figure.traces if trace["legendgroup"] == "base"]
    (low, lowest), (high, highest), (_, mean) = drawn
    seeds = np.array(section.trainings["base"].seed_net_usd_per_session)
    np.testing.assert_allclose(lowest, seeds.min(axis=0), atol=0.01)
    np.testing.assert_allclose(highest, seeds.max(axis=0), atol=0.01)
    np.testing.assert_allclose(mean, seeds.mean(axis=0), atol=0.01)
    assert (low["fill"], high["fill"]) == ("none", "tonexty")
    hybrid = next(trace for trace in figure.traces if trace["legendgroup"] == "hybrid")
    assert arrays.kept[hybrid["x"]["ref"]] == [step + STEPS[-1] for step in STEPS], "it continues the base training"
    (_, table) = _still_learning(section, Arrays())
    spread = f"({usd(seeds[:, 0].min())} to {usd(seeds[:, 0].max())})"
    assert spread in str(table.cells[0])
