"""One account as a gymnasium environment that the ecosystem's own checkers accept."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

from src.market.flags import DECISION
from src.trading.gym_env import ENV_ID, TradingEnv, check_params
from src.trading.layout import ACCOUNT, BUY, ENABLE_TRAIL, HOLD, MOVE_TO_BE, SELL
from tests.trading.worlds import END_OF_DAY_RULES, LIVE_RULES, make_params, make_tape, random_legal


def registered(**fields: Any) -> gym.Env:
    return gym.make(ENV_ID, tape=make_tape(3), params=make_params(**fields))


def single(seed: int = 0, **fields: Any) -> TradingEnv:
    env = TradingEnv(make_tape(3), make_params(**fields), seed)
    env.reset()
    return env


# Warnings are errors in this suite: the checkers accept the environment without one.
def test_gymnasium_accepts_the_registered_environment() -> None:
    env = registered(**LIVE_RULES)
    assert env.spec is not None
    assert env.spec.id == ENV_ID == "FuturesTrading-v0"
    assert isinstance(env.unwrapped, TradingEnv)
    gymnasium_check(env.unwrapped)


def test_gymnasium_accepts_a_whole_episode_through_its_own_wrappers() -> None:
    env = registered(**LIVE_RULES)
    rng = np.random.default_rng(0)
    for seed in range(20):
        env.reset(seed=seed)
        over = False
        while not over:
            _, _, terminated, truncated, _ = env.step(np.int64(rng.integers(6)))
            over = terminated or truncated


def test_stable_baselines_accepts_it() -> None:
    sb3_check(TradingEnv(make_tape(3), make_params(**LIVE_RULES)), warn=True)


def test_observations_stay_within_the_space_for_thousands_of_random_steps() -> None:
    rng = np.random.default_rng(1)
    ends = 0
    for seed, rules in enumerate((LIVE_RULES, END_OF_DAY_RULES, {"max_episode_steps": 13})):
        env = TradingEnv(make_tape(seed), make_params(contracts=5, **rules), seed)
        obs, _ = env.reset()
        for _ in range(1500):
            assert obs in env.observation_space
            obs, reward, terminated, truncated, _ = env.step(int(rng.integers(6)))
            assert type(reward) is float
            assert np.isfinite(reward)
            assert (type(terminated), type(truncated)) == (bool, bool)
            assert not (terminated and truncated)
            if terminated or truncated:
                assert obs in env.observation_space
                ends += 1
                obs, _ = env.reset()
    assert ends > 100


@pytest.mark.parametrize("illegal", [SELL + 1, ENABLE_TRAIL, 5, 6, 99, -1])
def test_an_illegal_action_acts_as_hold_and_is_counted(illegal: int) -> None:
    env, held = single(4), single(4)
    assert not (0 <= illegal < 6 and env.action_masks()[illegal])
    for expected in (1, 2):
        obs, reward, terminated, truncated, info = env.step(illegal)
        held_obs, held_reward, *held_end, held_info = held.step(HOLD)
        assert info["illegal_actions"] == expected
        assert held_info["illegal_actions"] == 0
        assert np.array_equal(obs, held_obs)
        assert (reward, terminated, truncated) == (held_reward, *held_end)


def test_the_side_that_is_held_cannot_be_bought_again() -> None:
    env = single(4)
    assert env.action_masks()[BUY]
    env.step(BUY)
    position = env._block.accounts[0]["position"]
    assert position > 0
    assert not env.action_masks()[BUY]
    assert env.step(BUY)[4]["illegal_actions"] == 1


def test_the_end_of_an_episode_sums_it_up() -> None:
    env = TradingEnv(make_tape(3), make_params(**LIVE_RULES), 9)
    rng = np.random.default_rng(0)
    trades = 0
    for _ in range(30):
        env.reset()
        rewards, steps, over = 0.0, 0, False
        while not over:
            action = random_legal(rng, env.action_masks()[None])[0]
            _, reward, terminated, truncated, info = env.step(action)
            rewards, steps, over = rewards + reward, steps + 1, terminated or truncated
            assert ("episode" in info) == over
        episode = info["episode"]
        account = env._block.accounts[0]
        assert (episode["r"], episode["l"]) == (rewards, steps)
        assert episode["net_usd"] == (int(account["cash_cents"]) - int(account["start_cash_cents"])) / 100
        assert episode["breached"] == bool(account["breached"])
        json.dumps(episode)
        trades += episode["n_trades"]
    assert trades > 20


def test_a_step_needs_an_episode_that_goes_on() -> None:
    env = TradingEnv(make_tape(3), make_params())
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(HOLD)
    env.reset()
    over = False
    while not over:
        _, _, over, _, _ = env.step(HOLD)
    # Beyond the end compiled code would read whatever lies behind the tape.
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(HOLD)
    state = env.get_state()
    env.reset()
    env.step(HOLD)
    env.set_state(state)
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(HOLD)


def test_an_episode_may_begin_at_a_bar_that_is_named() -> None:
    tape = make_tape(3)
    env = TradingEnv(tape, make_params(**LIVE_RULES), 5)
    decisions = np.flatnonzero(tape.flags & DECISION)
    env.reset(seed=1, options={"bar": int(decisions[7])})
    account = env._block.accounts[0]
    assert (account["bar"], account["cash_cents"], account["peak_cents"]) == (decisions[7], 5_000_000, 5_000_000)
    assert account["days_left"] == 30
    others = np.setdiff1d(np.arange(len(tape.flags)), decisions)
    for bar in (-1, len(tape.flags), 10**9, int(others[0])):
        with pytest.raises(ValueError, match=f"cannot begin at bar {bar} of"):
            env.reset(options={"bar": bar})


def test_a_tape_without_starts_cannot_train_but_can_be_played() -> None:
    tape = make_tape(3)
    fields = {name: getattr(tape, name) for name in tape.__dataclass_fields__}
    env = TradingEnv(type(tape)(**{**fields, "starts": np.zeros(0, np.int32)}), make_params())
    with pytest.raises(ValueError, match="has no bar where"):
        env.reset()
    env.reset(options={"bar": int(tape.starts[0])})
    env.step(HOLD)


def play(env: TradingEnv, seed: int, steps: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    seen: list[Any] = []
    for _ in range(steps):
        action = random_legal(rng, env.action_masks()[None])[0]
        obs, reward, terminated, truncated, info = env.step(action)
        seen.append((obs.tobytes(), reward, terminated, truncated, str(info), env.action_masks().tobytes()))
        if terminated or truncated:
            seen.append(env.reset()[0].tobytes())
    return seen


def test_a_snapshot_continues_bit_for_bit() -> None:
    env = single(2, **LIVE_RULES)
    play(env, 0, 40)
    state = env.get_state()
    expected = play(env, 1, 120)
    assert play(env, 1, 120) != expected
    other = TradingEnv(make_tape(3), make_params(**LIVE_RULES), 77)
    other.set_state(state)
    assert play(other, 1, 120) == expected
    env.set_state(state)
    assert play(env, 1, 120) == expected


def test_a_snapshot_that_does_not_fit_is_refused() -> None:
    env = single()
    with pytest.raises(ValueError, match="an account's state has"):
        env.set_state({"account": np.zeros(3, np.uint8)})
    far = np.zeros(1, ACCOUNT)
    for bar in (-1, 10**6):
        far["bar"] = bar
        with pytest.raises(ValueError, match="another tape"):
            env.set_state({"account": far.view(np.uint8)})


def test_what_was_handed_out_is_the_callers() -> None:
    env = single()
    masks, state = env.action_masks(), env.get_state()
    obs = env.step(BUY)[0]
    kept = obs.copy()
    masks[:] = True
    state["account"][:] = 255
    assert not env.action_masks()[MOVE_TO_BE]
    env.step(HOLD)
    assert np.array_equal(obs, kept)


def test_seeds_begin_the_account_anew() -> None:
    env = single(3)
    first = env.reset(seed=8)[0]
    second = env.reset()[0]
    assert not np.array_equal(first, second)
    assert np.array_equal(env.reset(seed=8)[0], first)
    assert np.array_equal(env.reset()[0], second)


def test_constants_of_another_kind_are_refused() -> None:
    params = make_params()
    assert check_params(params) is params
    for wrong in (np.zeros(1), np.zeros(2, params.dtype)):
        with pytest.raises(ValueError, match="one PARAMS record"):
            check_params(wrong)
