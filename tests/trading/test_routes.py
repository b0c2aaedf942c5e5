"""The same accounts by every route, however they are divided; the same training to the last bit."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.agent.rollout_plan import plan_rollouts
from src.agent.settings import NetArch, PolicySettings, TrainingSettings
from src.agent.training import build_base, train
from src.trading import routes
from src.trading.gym_env import TradingEnv
from src.trading.layout import N_OBS
from src.trading.routes import is_trading_shaped, make_custom_vec_env, make_vec_env
from src.trading.tape import Tape
from src.trading.vec_env import BatchedTradingVecEnv
from src.trading.workers import WorkerVecEnv
from tests.trading.worlds import LIVE_RULES, make_params, make_tape, random_legal

STEPS = 70
seeds = st.integers(0, 2**40)


def lives(tape: Tape, params: np.ndarray, parts: list[tuple[int, int]], steps: int = STEPS) -> list[np.ndarray]:
    """What the accounts of vec envs (seed, size) live through, one array a kind with all accounts side by side.

    Account k acts on its own stream of random numbers, whatever vec env it is in.
    """
    envs = [BatchedTradingVecEnv(tape, params, size, seed) for seed, size in parts]
    total = sum(size for _, size in parts)
    rng = np.random.default_rng(5)
    obs = [np.concatenate([env.reset().copy() for env in reversed(envs)][::-1])]
    rewards, dones, masks = [], [], []
    for _ in range(steps):
        masks.append(np.concatenate([env.action_masks() for env in envs]))
        actions = random_legal(rng, masks[-1], 0.1)
        cuts = np.cumsum([size for _, size in parts])[:-1]
        stepped = [env.step(own) for env, own in zip(envs, np.split(actions, cuts), strict=True)]
        obs.append(np.concatenate([s[0] for s in stepped]))
        rewards.append(np.concatenate([s[1] for s in stepped]))
        dones.append(np.concatenate([s[2] for s in stepped]))
    assert obs[0].shape == (total, N_OBS)
    return [np.stack(obs), np.stack(rewards), np.stack(dones), np.stack(masks)]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def test_thirty_two_accounts_are_sixteen_and_sixteen_and_thirty_two_single_ones() -> None:
    tape, params = make_tape(1), make_params(**LIVE_RULES)
    whole = lives(tape, params, [(100, 32)])
    assert whole[2].any()
    assert same(whole, lives(tape, params, [(100, 16), (116, 16)]))
    assert same(whole, lives(tape, params, [(100 + i, 1) for i in range(32)]))

    envs = [TradingEnv(tape, params, 100 + i) for i in range(32)]
    rng = np.random.default_rng(5)
    # Any order of reset.
    first = {i: envs[i].reset()[0] for i in np.random.default_rng(0).permutation(32)}
    assert all(np.array_equal(first[i], whole[0][0, i]) for i in range(32))
    for step in range(STEPS):
        actions = random_legal(rng, np.stack([env.action_masks() for env in envs]), 0.1)
        for i, env in enumerate(envs):
            obs, reward, terminated, truncated, _ = env.step(int(actions[i]))
            assert (np.float32(reward), terminated or truncated) == (whole[1][step, i], whole[2][step, i])
            if terminated or truncated:
                obs, _ = env.reset()
            assert np.array_equal(obs, whole[0][step + 1, i])


@settings(max_examples=15)
@given(seeds, st.integers(0, 50), st.lists(st.integers(1, 5), min_size=2, max_size=4))
def test_an_account_does_not_depend_on_those_beside_it(seed: int, market: int, sizes: list[int]) -> None:
    tape, params = make_tape(market, sessions=3, longest=20), make_params(**LIVE_RULES)
    begins = [seed + sum(sizes[:k]) for k in range(len(sizes))]
    whole = lives(tape, params, [(seed, sum(sizes))], 40)
    assert same(whole, lives(tape, params, list(zip(begins, sizes, strict=True)), 40))
    assert same(whole, lives(tape, params, [(seed, sum(sizes))], 40))


@given(seeds, seeds)
def test_other_seeds_are_other_accounts(one: int, other: int) -> None:
    tape, params = make_tape(2), make_params(**LIVE_RULES)

    def draws(seed: int) -> list[tuple[int, int]]:
        env = TradingEnv(tape, params, seed)
        found = []
        for _ in range(6):
            env.reset()
            account = env._block.accounts[0]
            found.append((int(account["bar"]), int(account["peak_cents"])))
        return found

    assert (draws(one) == draws(other)) == (one == other)


@pytest.mark.parametrize("route", ["batched", "dummy", "subproc"])
def test_seeding_a_vec_env_begins_the_sequences_anew(route: Any) -> None:
    env = make_vec_env(route, make_tape(2), make_params(**LIVE_RULES), 4, seed=1)
    first = env.reset().copy()
    alone = [TradingEnv(make_tape(2), make_params(**LIVE_RULES), 1 + i).reset()[0] for i in range(4)]
    assert np.array_equal(first, np.stack(alone)), "account i has seed + i"
    assert not np.array_equal(env.reset(), first), "a reset without a seed begins the next episode"
    env.seed(1)
    assert np.array_equal(env.reset(), first)
    env.seed(2)
    assert np.array_equal(env.reset()[:3], first[1:])
    env.close()


def trained(route: Any, n_rollouts: int = 3) -> dict[str, torch.Tensor]:
    """Weights after a few rollouts of base training with four accounts."""
    tape, params = make_tape(3), make_params(max_episode_steps=25, **LIVE_RULES)
    net = PolicySettings(net_arch=NetArch(pi=(16,), vf=(16,)))
    training = TrainingSettings(n_epochs=2, policy_kwargs=net)
    plan = plan_rollouts(n_rollouts * 128, 4, 64, 32)
    env = make_vec_env(route, tape, params, 4, seed=8)
    try:
        model = build_base(env, training, plan, 21, torch.device("cpu"), False)
        record = train(model, plan, "base", [])
        assert record.timesteps == n_rollouts * 128
        return {name: value.clone() for name, value in model.policy.state_dict().items()}
    finally:
        env.close()


@pytest.fixture
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_three_routes_train_the_same_weights() -> None:
    batched = trained("batched")
    for route in ("batched", "dummy", "subproc"):
        weights = trained(route)
        assert weights.keys() == batched.keys()
        wrong = [name for name in weights if not torch.equal(weights[name], batched[name])]
        assert not wrong, f"{route} trained other weights: {wrong}"
    shorter = trained("batched", 2)
    assert any(not torch.equal(shorter[name], batched[name]) for name in batched), "the third rollout changed nothing"


def test_rewards_of_every_route_are_float32_and_fresh() -> None:
    tape, params = make_tape(3), make_params(**LIVE_RULES)
    for route in ("batched", "dummy"):
        env = make_vec_env(route, tape, params, 2)
        assert is_trading_shaped(env)
        env.reset()
        _, first, first_dones, _ = env.step(np.array([1, 2]))
        kept = first.copy(), first_dones.copy()
        for _ in range(5):
            _, rewards, dones, _ = env.step(np.array([0, 0]))
            assert (rewards.dtype, dones.dtype) == (np.float32, np.bool_)
            assert rewards is not first
            assert dones is not first_dones
        assert np.array_equal(first, kept[0])
        assert np.array_equal(first_dones, kept[1])


def test_workers_find_the_kernel_compiled_and_their_folder_goes_with_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "TemporaryDirectory", partial(tempfile.TemporaryDirectory, dir=tmp_path))
    events: list[str] = []
    step = TradingEnv.step

    def spied_step(self: TradingEnv, action: Any) -> Any:
        events.append("step")
        return step(self, action)

    class SpiedWorkers(WorkerVecEnv):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            events.append("workers")
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(TradingEnv, "step", spied_step)
    monkeypatch.setattr(routes, "WorkerVecEnv", SpiedWorkers)
    env = make_vec_env("subproc", make_tape(0), make_params(), 1)
    assert events == ["step", "workers"], "each worker would compile for itself"
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["tape", "workers"]
    env.reset()
    _, rewards, dones, _ = env.step(np.zeros(1, np.int64))
    assert (rewards.dtype, dones.dtype) == (np.float32, np.bool_)
    env.close()
    env.close()
    assert not list(tmp_path.iterdir())


def test_an_environment_of_another_shape_is_seen() -> None:
    env = make_custom_vec_env("dummy", "tests.trading.custom_envs:Plain", {}, 2)
    assert not is_trading_shaped(env)
    assert is_trading_shaped(BatchedTradingVecEnv(make_tape(0), make_params(), 1))
