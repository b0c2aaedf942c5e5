"""What each task's result depends on: no key of the configuration is forgotten, no byte of the tables either."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from src.agent.market import Market
from src.agent.rollout_plan import plan_rollouts
from src.configuration import Configuration
from src.agent.members import Training
from src.runs.hardware_maximized import MODE
from src.runs.inputs import advice_inputs, base_inputs, data_inputs, finetune_inputs, tables_fingerprint, weights_fingerprint
from src.runs.plan import Plan
from src.runs.tasks import Done
from tests.small_runs import market
from tests.tiny_runs import tiny_config

# Each with the reason why a run goes on under another value as if nothing had changed.
CHANGES_NO_RESULT = {
    "where and how often it is watched, checkpointed, tried": (
        "checkpoint.", "pipeline.", "monitoring.", "validation.", "test_mode.output_dir", "test_mode.mode",
    ),
    "how long it may take, what it may use": (
        "phase1.", "phase2.", "phase3.", "hardware.memory_fraction", "hardware.optimize_memory", "llm.llm_threads",
        "hardware.stuck_worker_s",
    ),
    "what a report concludes from the policies": ("evidence.",),
    "last bits only, and those are told": ("hardware.torch_threads", "hardware.learner"),
    "ways to the same result": ("hardware.vec_env", "performance.", "llm.cache_size"),
    "what counts is the plan they make": (
        "training.production_timesteps", "training.timesteps", "training.timesteps_reduction", "training.finetune_frac",
        "test_mode.quick_frac",
    ),
    "what counts is the device it trains on": ("hardware.device",),
    "what counts are the bars and answers that are there": ("data.path", "llm.store_path", "llm.extend_advice"),
}  # fmt: skip


def of_config(changes: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The inputs of all three phases, `phase key`; plans and tables are the same whatever the configuration."""
    config = tiny_config({"test_mode.mode": "pipeline", **(changes or {})})
    plan = plan_rollouts(128, 4, 32)
    phases = {
        "phase1": data_inputs(config, market()),
        "phase2": base_inputs(config, plan, "cpu", "tables"),
        "phase3": hybrid_inputs(config, plan, "weights"),
    }
    return {f"{phase} {key}": value for phase, inputs in phases.items() for key, value in inputs.items()}


def keys_of(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name, value in values.items():
        inner = isinstance(value, Mapping) and bool(value)
        found += keys_of(value, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return found


def test_every_key_is_an_input_of_a_phase_or_known_to_change_no_result() -> None:
    keys = keys_of(Configuration().to_dict())
    inputs = {name.partition(" ")[2] for name in of_config()}
    excused = tuple(prefix for prefixes in CHANGES_NO_RESULT.values() for prefix in prefixes)
    assert [key for key in keys if key not in inputs and not key.startswith(excused)] == []
    assert [key for key in keys if key in inputs and key.startswith(excused)] == []
    assert len(inputs & set(keys)) > 50


@pytest.mark.parametrize(
    ("key", "value", "phases"),
    [
        ("data.train_frac", 0.5, ["phase1"]),
        ("environment.trading_hours", "globex", ["phase1", "phase2"]),
        ("environment.env_kwargs", {"reward": 2.0}, ["phase2"]),
        ("training.gamma", 0.9, ["phase2"]),
        ("training.policy_kwargs.net_arch.pi", [16], ["phase2"]),
        ("test_mode.seed", 3, ["phase2"]),
        ("training.finetune_learning_rate", 1e-5, ["phase3"]),
        ("training.weight_ramp_rollouts", 9, ["phase3"]),
        ("llm.llm_weight", 0.25, ["phase3"]),
        ("fusion.risk.enable_risk_veto", False, ["phase3"]),
        ("test_mode.quick", True, ["phase3"]),
        ("phase2.timeout", 9.0, []),
        ("hardware.device", "auto", []),
        ("hardware.vec_env", "dummy", []),
        ("training.timesteps", 256, []),
        ("checkpoint.interval_steps", 7, []),
    ],
)
def test_another_value_is_another_input_of_the_phases_it_matters_to(key: str, value: Any, phases: list[str]) -> None:
    was, now = of_config(), of_config({key: value})
    differing = {name for name in was.keys() | now.keys() if was.get(name) != now.get(name)}
    assert sorted({name.partition(" ")[0] for name in differing}) == phases


def test_plan_device_tables_and_weights_are_inputs() -> None:
    config = tiny_config({"test_mode.mode": "pipeline"})
    plans = [
        plan_rollouts(128, 4, 32),
        plan_rollouts(256, 4, 32),
        plan_rollouts(128, 4, 32, 16),
        plan_rollouts(128, 4, 64, 16),
    ]
    base = [base_inputs(config, plan, "cpu", "a") for plan in plans]
    base += [base_inputs(config, plans[0], "cuda", "a"), base_inputs(config, plans[0], "cpu", "b")]
    hybrid = [hybrid_inputs(config, plan, "a") for plan in plans] + [hybrid_inputs(config, plans[0], "b")]
    for inputs in (base, hybrid):
        assert len({tuple(sorted(each.items())) for each in inputs}) == len(inputs)


def test_without_a_market_only_its_name_is_an_input_of_the_data() -> None:
    assert data_inputs(tiny_config({"test_mode.mode": "pipeline"}), None) == {"test_mode.market": '"MNQ"'}


def touched(array: np.ndarray) -> np.ndarray:
    """A copy with its very last byte changed."""
    copy = np.ascontiguousarray(array).copy()
    copy.view(np.uint8).reshape(-1)[-1] ^= 1
    return copy


def test_any_byte_of_what_accounts_read_is_in_the_fingerprint() -> None:
    whole = market()
    markets: list[Market] = [whole]
    for name in ("prices", "flags", "atr_ticks", "window", "context"):
        markets.append(replace(whole, tables=replace(whole.tables, **{name: touched(getattr(whole.tables, name))})))
    for name in ("train", "validation", "test"):
        markets.append(replace(whole, split=replace(whole.split, **{name: touched(getattr(whole.split, name))})))
    markets.append(replace(whole, situation=touched(whole.situation)))
    markets.append(replace(whole, params=touched(whole.params)))
    assert len({tables_fingerprint(each) for each in markets}) == len(markets) == 11
    assert tables_fingerprint(replace(whole)) == tables_fingerprint(whole)


def test_sessions_that_change_sides_change_the_fingerprint() -> None:
    whole = market()
    split = whole.split
    moved = replace(split, validation=np.append(split.validation, split.test[:1]), test=split.test[1:])
    assert tables_fingerprint(replace(whole, split=moved)) != tables_fingerprint(whole)


def test_any_value_name_shape_or_type_of_a_weight_is_in_the_fingerprint() -> None:
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(3)}
    others = [
        {**weights, "b": torch.tensor([0.0, 0.0, -0.0])},
        {**weights, "a": weights["a"].reshape(3, 2)},
        {**weights, "b": torch.zeros(3, dtype=torch.float64)},
        {"a": weights["a"], "c": weights["b"]},
        {"a": weights["a"]},
    ]
    assert len({weights_fingerprint(each) for each in [weights, *others]}) == 6
    strided = {"a": weights["a"].t().contiguous().t(), "b": torch.nn.Parameter(weights["b"])}
    assert weights_fingerprint(strided) == weights_fingerprint(weights)
