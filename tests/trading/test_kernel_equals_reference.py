"""The compiled kernel does exactly what the slow reference account does, after every step, field by field.

Everything is compared exactly: integers as integers; rewards and observations as float32, because both sides compute
them in double precision from the same integers and round once, at the end.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.reference_account import OBSERVATION_SIZE, ReferenceAccount, StepResult
from tests.strategies import Walk, long_walks, small_walks, walk_of
from tests.trading.kernel_adapter import KernelAccount

FIELDS = (
    "bar",
    "position",
    "entry_ticks",
    "stop_ticks",
    "target_ticks",
    "risk_ticks",
    "atr_ticks",
    "extreme_ticks",
    "trailing",
    "bars_in_position",
    "mfe_ticks",
    "mae_ticks",
    "cash_cents",
    "peak_cents",
    "threshold_cents",
    "day_start_cents",
    "best_day_cents",
    "counted_days",
    "day_over",
    "daily_locked",
    "days_left",
    "consecutive_losses",
    "recent_wins",
    "n_recent",
    "n_trades",
    "illegal_actions",
    "steps",
    "breached",
    "target_reached",
    "entry_commission_cents",
    "entry_bar",
    "stop_in_bar_ticks",
    "closed_position",
    "closed_entry_bar",
    "closed_entry_ticks",
    "closed_target_ticks",
    "exit_bar",
    "exit_ticks",
    "exit_reason",
)

# What the seeded sweep must have met, and how often at least.
EVENTS = (
    "entry",
    "close",
    "stop",
    "stop_gap",
    "target",
    "target_gap",
    "both_in_bar",
    "entry_bar_exit",
    "move_to_be",
    "enable_trail",
    "disable_trail",
    "trail_move",
    "hole_exit",
    "order_lost_in_hole",
    "forced_flat",
    "threshold",
    "breach_live",
    "breach_eod",
    "breach_static",
    "breach_daily",
    "daily",
    "daily_lock",
    "session_end_eod",
    "truncation",
    "illegal_action",
)
AT_LEAST = 5


def first_difference(reference: ReferenceAccount, kernel: Any) -> str:
    """An empty string when both stand exactly alike."""
    for name in FIELDS:
        ours, theirs = getattr(reference, name), getattr(kernel, name)
        if ours != theirs:
            return f"{name}: reference {ours}, kernel {theirs}"
    if reference.action_mask() != kernel.action_mask():
        return f"mask: reference {reference.action_mask()}, kernel {kernel.action_mask()}"
    if reference.may_pass() != kernel.may_pass():
        return f"may pass: reference {reference.may_pass()}, kernel {kernel.may_pass()}"
    ours, theirs = reference.observation(), kernel.observation()
    if len(theirs) != OBSERVATION_SIZE:
        return f"observation of {len(theirs)} values"
    # Equality also rejects NaN, which equals nothing.
    for index, (our_value, their_value) in enumerate(zip(ours, theirs, strict=True)):
        if our_value != their_value:
            return f"observation {index}: reference {our_value!r}, kernel {their_value!r}"
    return ""


def walk_together(walk: Walk, steps: int) -> Counter[str]:
    """Drive both accounts through the same actions, resetting both where an episode ends; count what happened."""
    reference = ReferenceAccount(walk.market, walk.params)
    kernel = KernelAccount(walk.market, walk.params)
    seen: Counter[str] = Counter()
    over = True
    for number in range(steps):
        if over:
            arguments = walk.reset_arguments()
            reference.reset(*arguments)
            kernel.reset(*arguments)
            difference = first_difference(reference, kernel)
            assert not difference, f"after reset{arguments}: {difference}"
        action = walk.action(reference.action_mask())
        bar = reference.bar
        expected: StepResult = reference.step(action)
        result = kernel.step(action)
        where = f"step {number}, action {action} at bar {bar}, events {expected.events}, {walk.params}"
        assert result.reward == expected.reward, f"reward: {expected.reward!r}, kernel {result.reward!r}; {where}"
        assert bool(result.terminated) == expected.terminated, f"terminated; {where}"
        assert bool(result.truncated) == expected.truncated, f"truncated; {where}"
        difference = first_difference(reference, kernel)
        assert not difference, f"{difference}; {where}"
        seen.update(expected.events)
        over = expected.terminated or expected.truncated
    return seen


# Building a market inside hypothesis' own random object is slow by design: it is what lets a failure shrink.
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(small_walks())
def test_a_few_bars_of_any_kind_are_lived_alike(walk: Walk) -> None:
    walk_together(walk, 8)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(long_walks())
def test_hundreds_of_steps_are_lived_alike(walk: Walk) -> None:
    walk_together(walk, 300)


def test_a_seeded_sweep_meets_every_kind_of_event() -> None:
    seen: Counter[str] = Counter()
    for seed in range(60):
        # Short sessions too: their ends, and what coincides with them, would be rare otherwise.
        seen += walk_together(walk_of(Random(seed), sessions=6, longest=(4, 15, 80)[seed % 3]), 250)
    rare = {event: seen[event] for event in EVENTS if seen[event] < AT_LEAST}
    assert not rare, f"hardly met: {rare}"


@pytest.mark.parametrize("field", ["cash_cents", "stop_ticks", "threshold_cents", "mae_ticks"])
def test_the_comparison_notices_a_difference_in_one_field(field: str) -> None:
    walk = walk_of(Random(1), sessions=2, longest=20)
    one, other = ReferenceAccount(walk.market, walk.params), ReferenceAccount(walk.market, walk.params)
    arguments = walk.reset_arguments()
    one.reset(*arguments)
    other.reset(*arguments)
    assert first_difference(one, other) == ""
    setattr(other, field, getattr(other, field) + 1)
    assert first_difference(one, other).startswith(field)
