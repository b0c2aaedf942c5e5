"""The production estimate: measured with production's networks, never with the first rollout's warm-up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from src.agent.rollout_plan import RolloutPlan
from src.agent.training import TrainingRecord
from src.evaluation import production
from src.evaluation.production import estimate_production
from src.trading.routes import make_custom_vec_env
from tests import small_runs


def test_hours_are_production_timesteps_over_the_speed_of_the_second_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    models = []

    def trained(model, plan: RolloutPlan, phase: str, callbacks) -> TrainingRecord:
        models.append((model, phase))
        model.rollout_s += 4.0 if phase == "warm-up" else 1.5
        model.update_s += 0.5
        seconds = model.rollout_s + model.update_s
        return TrainingRecord(phase, plan.requested, plan.actual, 4, 32, 64, seconds, 0, 0, 0, plan.actual / seconds)

    monkeypatch.setattr(production, "train", trained)
    made = small_runs.trainer(production_timesteps=1_000_000, finetune_frac=0.25)
    estimate = estimate_production(made, made.make_env(small_runs.market()), small_runs.plan(6))
    assert [phase for _, phase in models] == ["warm-up", "production"]
    assert estimate.measured_timesteps == 128
    assert estimate.steps_per_s == 128 / 2.0
    assert estimate.timesteps == 1_250_000
    assert estimate.hours == pytest.approx(1_250_000 / 64 / 3600)
    nets = models[0][0].policy.mlp_extractor
    assert [layer.out_features for layer in nets.policy_net if isinstance(layer, torch.nn.Linear)] == [512, 256, 128]
    assert [layer.out_features for layer in nets.value_net if isinstance(layer, torch.nn.Linear)] == [512, 256, 128]


def test_environments_that_advice_does_not_apply_to_have_no_hybrid_timesteps() -> None:
    made = small_runs.trainer(production_timesteps=1_000_000, finetune_frac=0.25)
    env = make_custom_vec_env("dummy", "tests.tiny_runs:CountingEnv", {}, 4)
    assert estimate_production(made, env, small_runs.plan(6)).timesteps == 1_000_000


def test_generators_are_put_back_even_when_the_probe_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args) -> TrainingRecord:
        np.random.random()  # noqa: NPY002  (SB3 uses the global one)
        torch.rand(1)
        raise ZeroDivisionError

    monkeypatch.setattr(production, "train", failing)
    made = small_runs.trainer()
    env = made.make_env(small_runs.market())
    torch.manual_seed(5)
    before = torch.get_rng_state().clone()
    drawn = np.random.get_state()[1].tobytes()  # noqa: NPY002
    with pytest.raises(ZeroDivisionError):
        estimate_production(made, env, small_runs.plan(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tobytes() == drawn  # noqa: NPY002
