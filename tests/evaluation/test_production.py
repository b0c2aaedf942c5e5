"""The trial of the production networks: in turns with the run's own, never with the first rollouts' warm-up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from src.agent.rollout_plan import RolloutPlan
from src.agent.training import TrainingRecord
from src.benchmarks.workloads import matrix_products
from src.evaluation import production
from src.evaluation.production import gemm_gflops, products_flop, try_production
from src.trading.routes import make_custom_vec_env
from tests import small_runs


def test_both_networks_train_in_turns_and_the_warm_up_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    trained_models = []

    def trained(model, plan: RolloutPlan, phase: str, callbacks) -> TrainingRecord:
        trained_models.append((model, phase))
        wide = model.policy.mlp_extractor.policy_net[0].out_features == 512
        model.rollout_s += 100.0 if phase == "warm-up" else 3.0 if wide else 1.0
        model.update_s += 1.0
        seconds = model.rollout_s + model.update_s
        return TrainingRecord(phase, plan.requested, plan.actual, 4, 16, 64, seconds, 0, 0, 0, plan.actual / seconds)

    monkeypatch.setattr(production, "train", trained)
    made = small_runs.trainer(production_timesteps=1_000_000, finetune_frac=0.25)
    trial = try_production(made, made.make_env(small_runs.market()), small_runs.plan(6))
    wide, own = trained_models[0][0], trained_models[1][0]
    pairs = production.MOST_PAIRS  # they take no time
    assert trained_models == [(wide, "warm-up"), (own, "warm-up"), *pairs * [(wide, "production"), (own, "production")]]
    assert trial.production_s == pytest.approx(pairs * [4.0 / 64])  # half a rollout of 128, one minibatch
    assert trial.tested_s == pytest.approx(pairs * [2.0 / 64])
    assert (trial.base_timesteps, trial.finetune_timesteps) == (1_000_000, 250_000)
    assert trial.measured_timesteps == 2 * pairs * 64
    nets = wide.policy.mlp_extractor
    assert [layer.out_features for layer in nets.policy_net if isinstance(layer, torch.nn.Linear)] == [512, 256, 128]
    assert [layer.out_features for layer in nets.value_net if isinstance(layer, torch.nn.Linear)] == [512, 256, 128]
    assert own.policy.mlp_extractor.policy_net[0].out_features == 16


def test_environments_that_advice_does_not_apply_to_have_no_hybrid_timesteps() -> None:
    made = small_runs.trainer(production_timesteps=1_000_000, finetune_frac=0.25)
    trial = try_production(made, make_custom_vec_env("dummy", "tests.tiny_runs:CountingEnv", {}, 4), small_runs.plan(6))
    assert (trial.base_timesteps, trial.finetune_timesteps) == (1_000_000, 0)


def test_a_run_with_productions_networks_needs_no_second_ones() -> None:
    made = small_runs.trainer(production_net_arch=(16,))
    trial = try_production(made, made.make_env(small_runs.market()), small_runs.plan(6))
    assert (trial.net_arch, trial.tested_s) == ([16], [])
    assert min(trial.production_s) > 0.0


def test_the_products_are_those_that_the_benchmark_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted by torch where they are multiplied, an epoch's rows once each."""
    counted = []
    monkeypatch.setattr(torch, "mm", lambda a, b: counted.append(2 * a.shape[0] * a.shape[1] * b.shape[1]))
    plan = RolloutPlan(n_envs=8, n_steps=16, batch_size=32, rollouts=1, requested=128, actual=128)
    matrix_products([261, 64, 32], plan, n_epochs=3)()
    assert products_flop([261, 64, 32], 3) == sum(counted) / plan.actual


def test_the_speed_of_products_is_that_of_this_machine() -> None:
    """Within what any processor does on one thread; a faster clock than the wall's would show."""
    assert 0.2 < gemm_gflops() < 2000.0


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
        try_production(made, env, small_runs.plan(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tobytes() == drawn  # noqa: NPY002
