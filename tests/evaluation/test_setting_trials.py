"""Settings are tried, not guessed: what the trial says must be what the machine does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from src.agent.trainer import Trainer
from src.evaluation import setting_trials
from src.evaluation.setting_trials import Candidate, TrialJob, candidates, nothing_tried, try_settings, why_not_tried
from src.trading.settings import EnvironmentSettings
from tests import small_runs


class Watch:
    """Counts the instants at which the run could have stopped it."""

    def __init__(self) -> None:
        self.checks = 0

    def check(self) -> None:
        self.checks += 1


def trainer(env_class: str | None = None, env_kwargs: dict[str, Any] | None = None, **hardware: Any) -> Trainer:
    environment = EnvironmentSettings(env_class=env_class, env_kwargs=env_kwargs or {})
    changed = small_runs.HARDWARE.model_copy(update={"vectorized_envs": 8, **hardware})
    return replace(small_runs.trainer(), hardware=changed, environment=environment)


def settings_of(found: list[Candidate]) -> dict[str, list[str]]:
    by_key: dict[str, list[str]] = {}
    for one in found:
        by_key.setdefault(one.setting, []).append(one.tried)
    return by_key


def test_each_candidate_changes_its_setting_and_nothing_else() -> None:
    given = trainer(vec_env="dummy", learner="stock")
    for one in candidates(given, 1):
        key = one.setting.removeprefix("hardware.")
        before, after = given.hardware.model_dump(), one.hardware.model_dump()
        assert {name for name in before if before[name] != after[name]} == {key}
        assert (one.now, one.tried) == (str(before[key]), str(after[key]))


def test_what_is_tried_fits_the_run(monkeypatch: Any) -> None:
    monkeypatch.setattr(setting_trials, "usable_cores", lambda: 2)
    stock = settings_of(candidates(trainer(vec_env="subproc", learner="stock"), 1))
    assert stock["hardware.learner"] == ["fused"]
    assert stock["hardware.vec_env"] == ["batched"]
    assert stock["hardware.torch_threads"] == ["2"]
    usual = settings_of(candidates(trainer(), 2))
    assert usual == {"hardware.vectorized_envs": ["32", "128"], "hardware.batch_size": ["256"]}
    own = settings_of(candidates(trainer("tests.trading.custom_envs:Slow", vec_env="dummy"), 2))
    assert own == {"hardware.vec_env": ["subproc"], "hardware.batch_size": ["256"]}


def test_a_setting_known_to_be_faster_is_found_to_be_and_nothing_else_is_touched() -> None:
    """Accounts one by one in Python cost several times what they cost in one kernel call."""
    torch.manual_seed(5)
    threads, drawn = torch.get_num_threads(), torch.get_rng_state()
    watch = Watch()
    slow = trainer(vec_env="dummy", vectorized_envs=64, batch_size=512)
    found = try_settings(TrialJob(slow, 10**6, 2, 1.0, "torch"), small_runs.market(), watch)
    tried = {one["setting"]: one for one in found["tried"]}
    batched = tried["hardware.vec_env"]
    assert (batched["now"], batched["tried"], batched["changes_learning"]) == ("dummy", "batched", False)
    assert batched["low"] <= batched["speedup"] <= batched["high"]
    assert batched["speedup"] > 1.5  # the median, since on a busy machine any one round may be off
    assert found["rounds"] >= 3
    assert watch.checks >= found["rounds"]
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_slow_environment_is_tried_in_few_steps() -> None:
    """Sixteen steps of 8 x 10 ms would take 1.3 s a rollout."""
    slow = trainer("tests.trading.custom_envs:Slow", {"seconds": 0.01}, vec_env="dummy", batch_size=128)
    env = slow.make_env(None)
    try:
        step_s = setting_trials._step_s(env)
    finally:
        env.close()
    assert 0.08 <= step_s < 0.3
    plan = setting_trials._plan(slow.hardware, step_s, budget=2.0)
    assert plan.n_steps == setting_trials.FEWEST_STEPS
    assert plan.batch_size == plan.actual == 32
    assert setting_trials._plan(slow.hardware, 1e-4, budget=2.0).n_steps == 16


def test_a_short_run_and_no_seconds_try_nothing() -> None:
    assert why_not_tried(99_999, None) == "the trainings are shorter than 100,000 timesteps together"
    assert why_not_tried(10**9, 0.0) == "monitoring.settings_trial_s is 0"
    assert why_not_tried(100_000, None) == why_not_tried(1, 0.1) == ""
    assert nothing_tried("too short")["not_tried"] == "too short"
