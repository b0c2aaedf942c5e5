"""A population trains every member as the fused learner trains it alone: the same random numbers, actions, figures and
checkpoints, and but for rounding the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from src.agent.learner.population import MemberDiverged, Population, make_population
from src.agent.ppo import set_generator_states
from src.agent.rollout_plan import plan_rollouts
from src.agent.training_state import capture, restore
from src.trading.kernel import TRUNCATED
from tests import small_runs
from tests.agent.learner.models import distance, weights_of
from tests.agent.learner.populations import (
    COLUMNS,
    Member,
    Setting,
    build,
    same_generators,
    train_alone,
    train_together,
)

TOLERANCE = 2e-6
"""Of weights of about 1 after twelve steps of Adam or more: the same as between the fused learner and the library."""

ARMS = ("rl_only", "hybrid", "placebo", "blind", "hybrid-2", "rl_only-2", "placebo-2", "hybrid")
CASES: dict[str, tuple[tuple[str, ...], Setting]] = {
    "one": (("base",), Setting()),
    "three": (("base", "base-2", "base"), Setting()),
    "eight": (ARMS, Setting()),
    "early stops": (ARMS[:3], Setting({"finetune_target_kl": 3e-6, "n_epochs": 4})),
    "episodes cut short": (("base", "base"), Setting(params={"max_episode_steps": 7})),
    "relu, three layers and one": (("base", "base"), Setting(layers=((20, 16, 8), (5,)), activation="relu")),
    "entropy bonus, values clipped": (
        ("base", "base"),
        Setting({"ent_coef": 0.05}, changed={"clip_range_vf": lambda left: 0.01}),
    ),
    "schedules": (
        ("base", "base"),
        Setting(changed={"lr_schedule": lambda left: 3e-3 * left, "clip_range": lambda left: 0.1 + 0.1 * left}),
    ),
    "a rest of a minibatch": (("base", "base"), Setting(changed={"batch_size": 50})),
    "one minibatch, no normalization": (
        ("base",),
        Setting({"max_grad_norm": 0.05}, changed={"batch_size": None, "normalize_advantage": False}),
    ),
}


def built(kinds: tuple[str, ...], setting: Setting) -> list[Member]:
    return [build(kind, seed, setting) for seed, kind in enumerate(kinds)]


@pytest.mark.parametrize("case", CASES)
def test_every_member_learns_what_it_learns_alone(case: str) -> None:
    kinds, setting = CASES[case]
    alone, together = built(kinds, setting), built(kinds, setting)
    generators = [train_alone(member, setting) for member in alone]
    begun = [weights_of(member.model) for member in built(kinds, setting)]
    found = train_together(together, setting)
    for index, (one, other) in enumerate(zip(alone, together, strict=True)):
        assert same_generators(found[index], generators[index])
        for name in COLUMNS:
            expected, got = ([np.array(r[name]) for r in member.rollouts] for member in (one, other))
            np.testing.assert_allclose(np.ravel(got), np.ravel(expected), atol=2e-4, err_msg=name)
        actions = [[r["actions"].tolist() for r in member.rollouts] for member in (one, other)]
        assert actions[0] == actions[1]
        assert distance(weights_of(one.model), begun[index]) > 1e-4
        assert distance(weights_of(one.model), weights_of(other.model)) < TOLERANCE
        assert _facts(other) == _facts(one)
        log, expected_log = (member.model.logger.name_to_value for member in (other, one))
        assert list(log) == list(expected_log)
        for name, value in expected_log.items():
            assert log[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
        for records in zip(other.sink.records, one.sink.records, strict=True):
            assert records[0].keys() == records[1].keys()
            for name, value in records[1].items():
                same = value if isinstance(value, str | None) else pytest.approx(value, rel=1e-4, abs=1e-5)
                assert records[0][name] == same, name
    if case == "early stops":
        updates = [member.model._n_updates for member in alone]
        assert len(set(updates)) > 1
        assert max(updates) < 12
    if case == "episodes cut short":
        assert len(alone[0].model.ep_info_buffer) > 20


def _facts(member: Member) -> dict[str, Any]:
    """What is equal to the bit."""
    model, logging = member.model, member.callbacks[0]
    env = model.env.unwrapped
    return {
        "counters": [model.num_timesteps, model._total_timesteps, model._n_updates, model._current_progress_remaining],
        "accounts": env.get_state()["accounts"].tobytes(),
        "seen": model._last_obs.tobytes(),
        "starts": model._last_episode_starts.tolist(),
        "episodes": list(model.ep_info_buffer),
        "adam": sorted({int(kept["step"]) for kept in model.policy.optimizer.state.values()}),
        "rate": model.policy.optimizer.param_groups[0]["lr"],
        "weight": float(getattr(model.policy, "llm_weight", -1.0)),
        "totals": [logging.total_reward, logging.total_steps, logging.total_episodes, logging.writes, logging.n_calls],
        "timesteps heard of": logging.num_timesteps,
        "callbacks": [callback.get_state() for callback in member.callbacks],
    }
