"""Training is repeatable to the bit, its settings reach the library, and phase 3 without advice is RL alone."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from threadpoolctl import threadpool_info

from src.advisor.settings import LLMSettings
from src.agent import training
from src.agent.policy import HybridPolicy
from src.agent.rollout_plan import RolloutPlan
from src.agent.settings import HardwareSettings, TrainingSettings
from src.agent.training import (
    build_base,
    build_finetuned,
    phase_seed,
    release,
    resolve_device,
    set_threads,
    weight_ramp,
)
from src.errors import ConfigError
from src.evaluation.production import try_production
from src.trading.layout import OPINION
from tests import small_runs
from tests.agent.opinion_env import random_masks, random_observations
from tests.small_runs import LIVE, OFF, TRAINING, fine_tuned, same_bits, state_of, train_base


def test_a_seed_trains_the_same_weights_again_and_another_seed_trains_others() -> None:
    first = state_of(train_base(seed=0))
    assert same_bits(first, state_of(train_base(seed=0)))
    assert not same_bits(first, state_of(train_base(seed=1)))


@pytest.mark.slow
def test_a_hybrid_with_both_switches_off_trains_as_rl_alone_with_live_advice_in_its_observation() -> None:
    rl_only = fine_tuned(None, advised=False)
    hybrid = fine_tuned(OFF, advised=True)
    assert isinstance(hybrid.policy, HybridPolicy)
    opinions = hybrid.rollout_buffer.observations[..., OPINION]
    assert opinions.any(axis=-1).mean() > 0.5, "there was no advice to be deaf to"
    assert not rl_only.rollout_buffer.observations[..., OPINION].any()
    assert same_bits(state_of(rl_only), state_of(hybrid))
    # The comparison can fail: with its switches on the hybrid goes another way.
    assert not same_bits(state_of(rl_only), state_of(fine_tuned(LIVE)))


def test_before_its_first_update_a_hybrid_of_weight_zero_acts_as_base_whatever_the_advice() -> None:
    base = small_runs.base()
    made = small_runs.trainer()
    env = made.make_env(small_runs.market())
    llm = LLMSettings(llm_weight=0.0, use_opinion_features=True)
    hybrid = build_finetuned(base.policy, env, TRAINING, small_runs.plan(1), 1, torch.device("cpu"), False, llm)
    rng = np.random.default_rng(0)
    masks = random_masks(rng, 64)
    advised = random_observations(rng, masks)
    silent = advised.copy()
    silent[:, OPINION] = 0.0
    with torch.no_grad():
        expected = base.policy.get_distribution(torch.as_tensor(silent), masks).distribution.logits
        values = base.policy.predict_values(torch.as_tensor(silent))
        for _ in range(3):
            advised[:, OPINION] = rng.permutation(advised[:, OPINION])
            obs = torch.as_tensor(advised)
            assert torch.equal(hybrid.policy.get_distribution(obs, masks).distribution.logits, expected)
            assert torch.equal(hybrid.policy.predict_values(obs), values)


class _Weights(BaseCallback):
    """The pool weight at every step, and at every pass of an update."""

    def __init__(self) -> None:
        super().__init__()
        self.acting: list[list[float]] = []
        self.updating: list[set[float]] = []

    def _on_training_start(self) -> None:
        policy = self.model.policy
        evaluate = policy.evaluate_actions

        def seen(*args, **kwargs):
            self.updating[-1].add(float(policy.llm_weight))
            return evaluate(*args, **kwargs)

        policy.evaluate_actions = seen

    def _on_rollout_start(self) -> None:
        self.acting.append([])
        self.updating.append(set())

    def _on_step(self) -> bool:
        self.acting[-1].append(float(self.model.policy.llm_weight))
        return True


@pytest.mark.parametrize(
    ("rollouts", "asked", "shares"),
    [(6, 4, [0, 1 / 3, 2 / 3, 1, 1, 1]), (5, 2, [0, 0.5, 1, 1, 1]), (1, 4, [1]), (2, 0, [1, 1])],
)
def test_the_advice_gains_weight_between_rollouts_over_at_most_half_of_them(
    rollouts: int, asked: int, shares: list[float]
) -> None:
    made = small_runs.trainer(weight_ramp_rollouts=asked, n_epochs=1)
    env = made.make_env(small_runs.market(), small_runs.advice())
    weights = _Weights()
    model, _ = made.finetune(small_runs.base(), env, small_runs.plan(rollouts), [weights], LIVE)
    # The user's callbacks come first, so at a rollout's first step the weight is set already.
    assert all(len(set(steps)) == 1 for steps in weights.acting)
    assert weights.updating == [{steps[0]} for steps in weights.acting]
    assert [steps[0] for steps in weights.acting] == pytest.approx([share * LIVE.llm_weight for share in shares])
    assert float(model.policy.llm_weight) == LIVE.llm_weight


def test_a_ramp_cut_short_still_ends_at_the_full_weight() -> None:
    hybrid = fine_tuned(LIVE, rollouts=1)
    ramp = weight_ramp(LIVE, TRAINING, small_runs.plan(1))
    ramp.init_callback(hybrid)
    hybrid.policy.set_llm_weight(0.0)
    ramp.on_training_end()
    assert float(hybrid.policy.llm_weight) == LIVE.llm_weight


def test_no_account_of_one_phase_or_seed_shares_its_random_sequence_with_another() -> None:
    # Account i is seeded with the phase's seed + i.
    starts = sorted(phase_seed(seed, phase) for seed in range(200) for phase in range(3))
    assert starts[0] >= 0
    assert starts[-1] < 2**31
    assert min(np.diff(starts)) >= 32


def test_every_setting_of_training_reaches_the_library() -> None:
    settings = TrainingSettings(
        learning_rate=2e-3, n_epochs=3, gamma=0.9, gae_lambda=0.8, clip_range=0.3, ent_coef=0.01, vf_coef=0.25,
        max_grad_norm=0.7, target_kl=0.5, finetune_learning_rate=5e-4, finetune_target_kl=0.02,
        policy_kwargs={"net_arch": {"pi": [24, 8], "vf": [12]}, "activation_fn": "relu"},
    )  # fmt: skip
    made = small_runs.trainer()
    env = made.make_env(small_runs.market())
    plan = small_runs.plan(1)
    cpu = torch.device("cpu")
    base = build_base(env, settings, plan, 7, cpu, False)
    tuned = build_finetuned(base.policy, env, settings, plan, 8, cpu, False, LIVE)
    for model, rate, kl, seed in ((base, 2e-3, 0.5, 7), (tuned, 5e-4, 0.02, 8)):
        assert (model.n_steps, model.batch_size, model.n_epochs, model.seed) == (32, 64, 3, seed)
        assert (model.gamma, model.gae_lambda, model.clip_range(1.0)) == (0.9, 0.8, 0.3)
        assert (model.ent_coef, model.vf_coef, model.max_grad_norm, model.target_kl) == (0.01, 0.25, 0.7, kl)
        assert model.policy.optimizer.param_groups[0]["lr"] == model.lr_schedule(0.5) == rate
        sizes = [[layer.out_features for layer in net[::2]] for net in (
            model.policy.mlp_extractor.policy_net, model.policy.mlp_extractor.value_net
        )]  # fmt: skip
        assert sizes == [[24, 8], [12]]
        assert isinstance(model.policy.mlp_extractor.policy_net[1], torch.nn.ReLU)
    assert not tuned.policy.optimizer.state


def test_a_record_says_what_was_asked_and_what_was_trained() -> None:
    made = small_runs.trainer()
    plan = RolloutPlan(n_envs=4, n_steps=32, batch_size=64, rollouts=2, requested=200, actual=256)
    model, record = made.base(made.make_env(small_runs.market()), plan, [])
    assert (record.phase, record.timesteps_requested, record.timesteps) == ("base", 200, 256)
    assert (record.n_envs, record.n_steps, record.batch_size) == (4, 32, 64)
    assert model.num_timesteps == 256
    assert record.rollout_s > record.environment_s > 0
    assert record.update_s > 0
    assert record.seconds == record.rollout_s + record.update_s
    assert record.steps_per_s == 256 / record.seconds
    assert record.to_dict()["steps_per_s"] == record.steps_per_s


def test_cuda_that_is_not_there_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"hardware\.device is cuda.*--device cpu"):
        resolve_device(HardwareSettings(device="cuda"))
    assert resolve_device(HardwareSettings(device="auto")).type == "cpu"


def test_with_a_gpu_auto_takes_it_within_its_share_of_memory_and_cpu_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    assert resolve_device(HardwareSettings(device="cpu", memory_fraction=0.4)).type == "cpu"
    assert shares == []
    assert resolve_device(HardwareSettings(device="auto", memory_fraction=0.4)).type == "cuda"
    assert resolve_device(HardwareSettings(device="cuda", memory_fraction=0.5)).type == "cuda"
    assert shares == [0.4, 0.5]


@pytest.mark.parametrize(("asked", "expected"), [(3, 3), (None, 1)])
def test_threads_are_those_asked_for_else_one(asked: int | None, expected: int) -> None:
    """Of torch, and of numpy's products: else the cores of a machine would decide how these round."""
    was = torch.get_num_threads()
    try:
        assert set_threads(HardwareSettings(torch_threads=asked)) == expected
        assert torch.get_num_threads() == expected
        pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas" and "numpy" in pool["filepath"]]
        assert [pool["num_threads"] for pool in pools] == [expected]
    finally:
        set_threads(HardwareSettings(torch_threads=was))


def test_release_drops_what_only_training_needs_and_says_how_much() -> None:
    model = train_base(rollouts=1)
    held = sum(v.nbytes for v in vars(model.rollout_buffer).values() if isinstance(v, np.ndarray))
    assert held > 4 * 32 * 261 * 4  # the observations alone
    obs = model._last_obs.copy()
    before, _ = model.predict(obs, deterministic=True)
    assert release(model) == held
    assert not [v for v in vars(model.rollout_buffer).values() if isinstance(v, np.ndarray)]
    assert model.env is None
    after, _ = model.predict(obs, deterministic=True)
    np.testing.assert_array_equal(before, after)


def test_the_production_trial_draws_nothing_from_the_run() -> None:
    def generators() -> tuple:
        numpy_state = np.random.get_state()  # noqa: NPY002  (SB3 uses the global one)
        return random.getstate(), numpy_state[1].tobytes(), numpy_state[2], torch.get_rng_state().numpy().tobytes()

    made = small_runs.trainer()
    env = made.make_env(small_runs.market())
    plan = small_runs.plan(1)
    base, _ = made.base(env, plan, [])
    weights, before = state_of(base), generators()
    trial = try_production(made, env, plan)
    assert generators() == before
    assert same_bits(weights, state_of(base))
    assert trial.net_arch == [512, 256, 128]
    assert trial.measured_timesteps == 2 * len(trial.production_s) * plan.actual // 2
    assert (trial.base_timesteps, trial.finetune_timesteps) == (500_000, 250_000)
    assert min(*trial.production_s, *trial.tested_s) > 0.0


class _NeverBuilt:
    """Stands in for the model where there is no GPU to build one on."""

    def __init__(self, *args, **kwargs) -> None:
        self.device = kwargs["device"]


@pytest.mark.parametrize(
    ("device", "mixed_precision", "expected"),
    [("cuda", True, True), ("cuda", False, False), ("cpu", True, False), ("cpu", False, False)],
)
def test_bf16_is_for_cuda_only(
    monkeypatch: pytest.MonkeyPatch, device: str, mixed_precision: bool, expected: bool
) -> None:
    monkeypatch.setattr(training, "TimedMaskablePPO", _NeverBuilt)
    model = build_base(None, TRAINING, small_runs.plan(1), 0, torch.device(device), mixed_precision, "stock")
    assert model.bf16_update is expected


def test_the_flag_decides_whether_the_update_runs_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple] = []
    real = torch.autocast

    def recorded(device: str, dtype: torch.dtype, enabled: bool):
        asked.append((device, dtype, enabled))
        return real("cpu", dtype, enabled=enabled)

    made = small_runs.trainer()
    made = replace(made, hardware=made.hardware.model_copy(update={"learner": "stock"}))
    model, _ = made.base(made.make_env(small_runs.market()), small_runs.plan(1), [])
    monkeypatch.setattr(torch, "autocast", recorded)
    for flag in (True, False):
        model.bf16_update = flag
        model.train()
    assert asked == [("cuda", torch.bfloat16, True), ("cuda", torch.bfloat16, False)]
