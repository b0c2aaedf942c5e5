"""What each task's result depends on: no key of the configuration is forgotten, no byte of the tables either."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from src.advisor.mock import MockAdvisor
from src.agent.market import Market
from src.agent.rollout_plan import plan_rollouts
from src.configuration import Configuration
from src.runs.hardware_maximized import MODE
from src.runs.inputs import base_inputs, finetune_inputs, tables_fingerprint, weights_fingerprint
from src.runs.plan import Plan
from src.runs.tasks import Results, Task
from src.testing_framework import TestingFramework
from src.trading.rules import LATER_FIELDS
from tests.small_runs import market
from tests.tiny_runs import tiny_config

# Each with the reason why a run goes on under another value as if nothing had changed.
CHANGES_NO_RESULT = {
    "where and how often it is watched, checkpointed, tried": (
        "checkpoint.", "pipeline.", "monitoring.", "validation.", "test_mode.output_dir", "test_mode.mode",
    ),
    "how long it may take, what it may use": (
        "phase1.", "phase2.", "phase3.", "hardware.memory_fraction", "hardware.optimize_memory", "llm.llm_threads",
        "hardware.stuck_worker_s", "hardware.workers", "hardware.memory_limit_gb", "hardware.ray",
    ),
    "which tasks there are, and an input of its own": ("evidence.seeds", "evidence.walk_forward", "evidence.rules"),
    "what a report concludes from what was made": (
        "evidence.trials_path", "hardware.price_per_hour", "hardware.other_machine", "training.production_seeds",
        "llm.knowledge_cutoff",
    ),
    "last bits only, and those are told": ("hardware.torch_threads", "hardware.learner", "hardware.group"),
    "ways to the same result": ("hardware.vec_env", "performance.", "llm.cache_size"),
    "what counts is the plan they make": (
        "training.timesteps", "training.timesteps_reduction", "training.finetune_frac", "test_mode.quick_frac",
    ),
    "what counts is the device it trains on": ("hardware.device",),
    "what counts are the bars and answers that are there": ("data.path", "llm.store_path", "llm.extend_advice"),
    "what counts is the fingerprint of the model that is there": ("llm.endpoint",),
}  # fmt: skip


class _Facts(dict[str, Any]):
    """Of finished tasks: always the same, whatever they were made from."""

    def __missing__(self, name: str) -> Any:
        return f"{name} of {self['task']}"


class _AllDone(dict[str, Any]):
    def __missing__(self, name: str) -> Any:
        return type("Done", (), {"facts": _Facts(task=name)})


def tasks_of(changes: Mapping[str, Any] | None = None, of: Market | None = None) -> list[Task]:
    """Every task of a run with two seeds and, where asked for, folds."""
    config = tiny_config({"evidence.seeds": 2, **(changes or {})})
    context = TestingFramework(config, Console(quiet=True))._context
    context.market, context.advisor = of or market(), MockAdvisor()
    return MODE.phases(Plan(context, context.trainer()), context)[0].tasks  # type: ignore[return-value]


def inputs_of(changes: Mapping[str, Any] | None = None, of: Market | None = None) -> dict[str, Mapping[str, str]]:
    """What each task reads, by its name, while whatever it needs left the same."""
    done: Results = _AllDone()
    return {task.name: task.inputs(done) for task in tasks_of(changes, of)}


def keys_of(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name, value in values.items():
        inner = isinstance(value, Mapping) and bool(value)
        found += keys_of(value, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return found


def test_every_key_is_an_input_of_a_task_or_known_to_change_no_result() -> None:
    keys = keys_of(Configuration().to_dict())
    inputs = {key for of_task in inputs_of().values() for key in of_task}
    inputs |= {"training.production_timesteps"}  # "production timesteps" of the task that measures them
    excused = tuple(prefix for prefixes in CHANGES_NO_RESULT.values() for prefix in prefixes)
    assert [key for key in keys if key not in inputs and not key.startswith(excused)] == []
    assert [key for key in keys if key in inputs and key.startswith(excused)] == []
    assert len(inputs & set(keys)) > 50


BASES = ["members/seed-0/base", "members/seed-1/base"]
HEARING = [f"members/seed-{seed}/{arm}" for seed in (0, 1) for arm in ("hybrid", "hybrid_placebo")]
FINE_TUNED = sorted([*HEARING, *(f"members/seed-{seed}/rl_only" for seed in (0, 1))])
PRODUCTION, LOOK_AHEAD, ADVICE, EVALUATION = (
    f"tasks/{name}" for name in ("production", "look-ahead", "advice", "evaluation")
)


def both(name: str) -> list[str]:
    return [f"tasks/seed-{seed}/{name}" for seed in (0, 1)]


@pytest.mark.parametrize(
    ("key", "value", "tasks"),
    [
        ("data.train_frac", 0.5, [LOOK_AHEAD]),
        ("environment.trading_hours", "globex", [*BASES, LOOK_AHEAD, PRODUCTION]),
        ("environment.env_kwargs", {"reward": 2.0}, [*BASES, PRODUCTION]),
        ("training.gamma", 0.9, [*BASES, PRODUCTION]),
        ("training.policy_kwargs.net_arch.pi", [16], [*BASES, PRODUCTION]),
        ("training.production_timesteps", 10**6, [PRODUCTION]),
        ("training.production_net_arch", [64], [PRODUCTION]),
        ("training.production_seeds", 2, []),
        ("hardware.price_per_hour", 2.0, []),
        ("training.finetune_learning_rate", 1e-5, FINE_TUNED),
        ("training.weight_ramp_rollouts", 9, HEARING),
        ("llm.llm_weight", 0.25, HEARING),
        ("llm.model", "tiny", [ADVICE]),
        ("fusion.risk.enable_risk_veto", False, [EVALUATION]),
        ("evidence.pass_attempts", 300, ["tasks/seed-0/attempts"]),
        ("evidence.stress_slippage_ticks", [0, 2], both("costs")),
        ("evidence.late_decisions", 9, both("reliance")),
        ("evidence.chart_sessions", 3, [EVALUATION]),
        ("phase2.timeout", 9.0, []),
        ("hardware.device", "auto", []),
        ("hardware.vec_env", "dummy", []),
        ("hardware.workers", 4, []),
        ("training.timesteps", 128, []),
        ("checkpoint.interval_steps", 7, []),
        ("test_mode.mode", "pipeline", []),
    ],
)
def test_another_value_is_another_input_of_the_tasks_that_read_it_and_of_no_other(
    key: str, value: Any, tasks: list[str]
) -> None:
    was, now = inputs_of(), inputs_of({key: value})
    assert was.keys() == now.keys()
    assert sorted(name for name in was if was[name] != now[name]) == sorted(tasks)


def test_a_quick_run_asks_for_less_advice_simulates_no_attempts_and_plays_no_quarters() -> None:
    was, now = inputs_of(), inputs_of({"test_mode.quick": True, "training.timesteps": 128})
    assert was.keys() - now.keys() == {"tasks/seed-0/attempts", *both("quarters")}
    assert [name for name in now if was[name] != now[name]] == [ADVICE]


def test_a_task_reads_what_the_tasks_it_needs_have_left_and_of_its_own_seed_alone() -> None:
    """Else it would be kept where one of them was done again."""
    for task in tasks_of({"evidence.walk_forward": 1}):
        read = " ".join(task.inputs(_AllDone()).values())
        assert all(f" of {need}" in read for need in task.needs), task.name
        if task.member is not None:
            others = [f"seed-{1 - task.member.seed}", "fold-1" if task.member.fold == 0 else "members/seed-"]
            assert not any(other in read for other in others), task.name
    by_name = {task.name: task for task in tasks_of({"evidence.walk_forward": 1})}
    assert by_name["members/seed-1/hybrid"].needs == ("members/seed-1/base", ADVICE)
    assert by_name["members/seed-1/rl_only"].needs == ("members/seed-1/base",)
    assert "members/fold-1/seed-0/hybrid" in by_name["tasks/fold-1/evaluation"].needs


def test_another_seed_or_fewer_of_them_leave_what_the_others_made() -> None:
    one, two = inputs_of({"evidence.seeds": 1}), inputs_of()
    assert {name for name in one if one[name] != two[name]} == {EVALUATION}
    moved = inputs_of({"test_mode.seed": 1, "evidence.seeds": 1})
    assert all(moved[name] == two[name] for name in moved if "seed-1" in name and "attempts" not in name)


def test_another_target_to_pass_is_another_input_of_the_attempts_alone() -> None:
    """The account trades the same under it, but other attempts pass."""
    rules = market().rules
    was, now = (
        inputs_of(),
        inputs_of(of=replace(market(), rules=rules.model_copy(update={"profit_target_usd": Decimal(1)}))),
    )
    assert [name for name in was if was[name] != now[name]] == ["tasks/seed-0/attempts"]


def test_rule_profiles_are_one_more_task_and_another_input_of_no_other() -> None:
    was = inputs_of()
    now, fewer = (inputs_of({"evidence.rules": names}) for names in (["topstep_50k_2026_11", "none"], ["none"]))
    assert now.keys() - was.keys() == {"tasks/seed-0/survival"}
    assert {name: now[name] for name in was} == was
    assert [name for name in now if now[name] != fewer[name]] == ["tasks/seed-0/survival"]


def test_an_account_without_the_later_rules_has_the_tables_it_had_before_them() -> None:
    """A run of an earlier version can be resumed: `--rules all` then trains nothing again."""
    own = market()
    first = [(name, own.params.dtype[name]) for name in own.params.dtype.names or () if name not in LATER_FIELDS]
    before = np.zeros(1, np.dtype(first, align=True))
    for name, _ in first:
        before[name] = own.params[name]
    assert tables_fingerprint(replace(own, params=before)) == tables_fingerprint(own)
    later = own.params.copy()
    later["consistency_bp"] = 5_000
    assert tables_fingerprint(replace(own, params=later)) != tables_fingerprint(own)


def test_other_tables_are_another_input_of_whatever_reads_them() -> None:
    was, now = inputs_of(), inputs_of(of=replace(market(), params=touched(market().params)))
    assert {name for name in was if was[name] == now[name]} == set(FINE_TUNED), "which read the weights of their base"


def test_plan_device_tables_and_weights_are_inputs() -> None:
    config = tiny_config({})
    plans = [
        plan_rollouts(128, 4, 32),
        plan_rollouts(256, 4, 32),
        plan_rollouts(128, 4, 32, 16),
        plan_rollouts(128, 4, 64, 16),
    ]
    base = [base_inputs(config, plan, "cpu", 0, "a") for plan in plans]
    base += [base_inputs(config, plans[0], *other) for other in (("cuda", 0, "a"), ("cpu", 0, "b"), ("cpu", 1, "a"))]
    tuned = [finetune_inputs(config, plan, "a", "") for plan in plans]
    tuned += [finetune_inputs(config, plans[0], *other) for other in (("b", ""), ("a", "advice"), ("a", "other"))]
    for inputs in (base, tuned):
        assert len({tuple(sorted(each.items())) for each in inputs}) == len(inputs)


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
