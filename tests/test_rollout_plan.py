"""Rollouts are whole, and a plan trains at least what was asked."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.agent.rollout_plan import RolloutPlan, plan_rollouts
from src.errors import ConfigError

budgets = st.integers(1, 2_000_000)
accounts = st.integers(1, 4096)
batches = st.integers(2, 20_000)


@given(budgets, accounts, batches)
def test_a_derived_plan_is_whole_and_trains_at_least_the_budget(requested: int, n_envs: int, batch_size: int) -> None:
    plan = plan_rollouts(requested, n_envs, batch_size)
    rollout = plan.n_envs * plan.n_steps
    assert plan.n_steps >= 1
    assert plan.batch_size >= 2
    assert plan.rollouts >= 1
    assert rollout % plan.batch_size == 0
    assert plan.actual == plan.rollouts * rollout
    assert requested <= plan.actual < requested + rollout


@given(budgets, accounts, batches)
def test_a_derived_rollout_is_within_a_quarter_of_the_budget_where_it_can_be(
    requested: int, n_envs: int, batch_size: int
) -> None:
    plan = plan_rollouts(requested, n_envs, batch_size)
    rollout = plan.n_envs * plan.n_steps
    multiples = range(batch_size, requested // 4 + 1, batch_size)
    if any(size % n_envs == 0 for size in multiples):
        assert rollout <= requested / 4
    if plan.batch_size != batch_size:
        assert not any(size % n_envs == 0 for size in range(batch_size, requested + 1, batch_size))
    assert rollout <= max(requested, n_envs, 2)


@given(budgets, accounts, batches, st.integers(1, 4096))
def test_an_explicit_n_steps_is_kept_or_refused(requested: int, n_envs: int, batch_size: int, n_steps: int) -> None:
    if n_envs * n_steps % batch_size == 0:
        plan = plan_rollouts(requested, n_envs, batch_size, n_steps)
        assert (plan.n_steps, plan.batch_size) == (n_steps, batch_size)
        return
    with pytest.raises(ConfigError) as caught:
        plan_rollouts(requested, n_envs, batch_size, n_steps)
    message = str(caught.value)
    assert all(str(value) in message for value in (n_envs, n_steps, batch_size))
    remedy = re.search(r"Set n_steps to (\d+)", message)
    assert remedy is not None
    assert plan_rollouts(requested, n_envs, batch_size, int(remedy[1])).n_steps == int(remedy[1])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((50_000, 32, 1024), RolloutPlan(32, 64, 1024, 25, 50_000, 51_200)),
        ((50_000, 8, 256), RolloutPlan(8, 64, 256, 98, 50_000, 50_176)),
        ((5_000, 64, 2048), RolloutPlan(64, 64, 2048, 2, 5_000, 8_192)),
        ((5_000, 32, 1024), RolloutPlan(32, 32, 1024, 5, 5_000, 5_120)),
        ((500_000, 7, 1024), RolloutPlan(7, 1024, 1024, 70, 500_000, 501_760)),
        ((5_000, 7, 1024), RolloutPlan(7, 146, 1022, 5, 5_000, 5_110)),
        ((1, 1, 1024), RolloutPlan(1, 2, 2, 1, 1, 2)),
        ((10, 64, 1024), RolloutPlan(64, 1, 64, 1, 10, 64)),
    ],
)
def test_the_usual_command_lines(arguments: tuple[int, int, int], expected: RolloutPlan) -> None:
    assert plan_rollouts(*arguments) == expected


@pytest.mark.parametrize("arguments", [(0, 1, 2, None), (1, 0, 2, None), (1, 1, 1, None), (1, 1, 2, 0)])
def test_a_count_below_its_minimum_is_refused(arguments: tuple[int, int, int, int | None]) -> None:
    with pytest.raises(ConfigError, match="must be at least"):
        plan_rollouts(*arguments)
