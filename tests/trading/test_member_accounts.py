"""The accounts of many members behave to the bit as a vec env of each member alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from src.trading.layout import ACCOUNT, N_OBS
from src.trading.member_accounts import MemberAccounts, make_member_accounts
from src.trading.tape import Tape
from src.trading.vec_env import BatchedTradingVecEnv
from tests.trading.worlds import END_OF_DAY_RULES, LIVE_RULES, make_params, make_tape, random_legal

N_ENVS = 5
SEEDS = (7, 100, 3, 7)


def with_other(tape: Tape, **arrays: np.ndarray) -> Tape:
    """The same market with another arm's advice or another fold's starts: all other arrays are shared."""
    fields: dict[str, Any] = {name: getattr(tape, name) for name in tape.__dataclass_fields__}
    return Tape(**{**fields, **arrays})


def four_members() -> tuple[list[Tape], list[np.ndarray]]:
    """Two arms of a market, a fold of it, and another market; three kinds of rules."""
    tape, other = make_tape(1), make_tape(5, sessions=3, longest=15)
    arm = with_other(tape, advice=np.roll(tape.advice, 1, axis=1))
    fold = with_other(tape, starts=tape.starts[: 1 + len(tape.starts) // 2])
    params = [
        make_params(**LIVE_RULES),
        make_params(**LIVE_RULES),
        make_params(max_episode_steps=7, **END_OF_DAY_RULES),
        make_params(contracts=2, stop_atr=0.7, trail_atr=0.4),
    ]
    return [tape, arm, fold, other], params


def observations(accounts: MemberAccounts, bars: torch.Tensor, own: torch.Tensor) -> np.ndarray:
    out = torch.full((*bars.shape, N_OBS), torch.nan)
    accounts.expand(bars, own, out)
    return out.numpy()


def test_members_live_as_they_would_alone() -> None:
    tapes, params = four_members()
    accounts = make_member_accounts(tapes, params, N_ENVS, "cpu")
    envs = [BatchedTradingVecEnv(tape, p, N_ENVS, seed) for tape, p, seed in zip(tapes, params, SEEDS, strict=True)]
    for member, seed in enumerate(SEEDS):
        accounts.seed(member, seed)
    accounts.begin()
    seen = np.stack([env.reset() for env in envs])
    rng, endings = np.random.default_rng(0), 0
    for _ in range(200):
        assert observations(accounts, accounts.bars, accounts.own).tobytes() == seen.astype(np.float32).tobytes()
        masks = np.stack([env.action_masks() for env in envs])
        assert np.array_equal(accounts.masks.numpy(), masks)
        actions = np.stack([random_legal(rng, mask, 0.05) for mask in masks])
        accounts.step(torch.from_numpy(actions))
        last = observations(accounts, accounts.last_bars, accounts.last_own)
        for m, env in enumerate(envs):
            obs, rewards, dones, infos = env.step(actions[m])
            seen[m] = obs
            assert accounts.rewards[m].numpy().tobytes() == rewards.tobytes()
            assert np.array_equal(accounts.endings[m].numpy() != 0, dones)
            assert accounts.get_state(m)["accounts"].tobytes() == env.get_state()["accounts"].tobytes()
            for i in np.flatnonzero(dones):
                endings += 1
                assert last[m, i].tobytes() == infos[i]["terminal_observation"].tobytes()
                assert np.array_equal(accounts.last_masks[m, i].numpy(), env._block.last_masks[i])
                assert accounts.last_records[m, i].numpy().tobytes() == env._block.last_accounts[i].tobytes()
                assert infos[i]["TimeLimit.truncated"] == (accounts.endings[m, i].item() == 2)
    assert endings > 50


def test_arrays_that_members_share_are_held_once() -> None:
    tapes, params = four_members()
    accounts = make_member_accounts(tapes, params, N_ENVS, "cpu")
    bars = len(tapes[0].prices) + len(tapes[3].prices)
    assert len(accounts.window) == len(accounts.context) == bars + 2 * 19
    alone = make_member_accounts(tapes[:1] * 3, params[:1] * 3, N_ENVS, "cpu")
    assert len(alone.window) == len(tapes[0].prices) + 19


def test_a_state_goes_from_a_vec_env_to_a_member_and_back() -> None:
    tapes, params = four_members()
    accounts = make_member_accounts(tapes, params, N_ENVS, "cpu")
    accounts.begin()
    env = BatchedTradingVecEnv(tapes[2], params[2], N_ENVS, 5)
    seen = env.reset()
    accounts.set_state(2, env.get_state())
    accounts.observe()
    assert observations(accounts, accounts.bars, accounts.own)[2].tobytes() == seen.tobytes()
    actions = torch.ones(4, N_ENVS, dtype=torch.int64)
    accounts.step(actions)
    obs = env.step(actions[2].numpy())[0]
    other = BatchedTradingVecEnv(tapes[2], params[2], N_ENVS, 99)
    assert other.set_state(accounts.get_state(2)).tobytes() == obs.tobytes()


def test_beginning_some_members_leaves_the_others() -> None:
    tapes, params = four_members()
    accounts = make_member_accounts(tapes, params, N_ENVS, "cpu")
    accounts.begin()
    before = accounts.records.clone()
    accounts.begin([1, 3])
    changed = (accounts.records != before).flatten(1).any(dim=1)
    assert changed.tolist() == [False, True, False, True]


def test_what_does_not_fit_is_refused() -> None:
    tapes, params = four_members()
    accounts = make_member_accounts(tapes, params, N_ENVS, "cpu")
    accounts.begin()
    with pytest.raises(ValueError, match=r"actions torch.int64\[4\], needs int64\[4, 5\]"):
        accounts.step(torch.zeros(4, dtype=torch.int64))
    state = accounts.get_state(0)
    state["accounts"].view(ACCOUNT)["bar"][3] = len(tapes[0].prices)
    with pytest.raises(ValueError, match="taken on another tape"):
        accounts.set_state(0, state)
    with pytest.raises(ValueError, match=r"state of shape \(4, "):
        accounts.set_state(0, {"accounts": accounts.get_state(0)["accounts"][:4]})
    with pytest.raises(ValueError, match="every member needs one each"):
        make_member_accounts(tapes, params[:2], N_ENVS, "cpu")
    nowhere = with_other(tapes[0], starts=np.zeros(0, np.int32))
    with pytest.raises(ValueError, match="tape of member 1 has no bar"):
        make_member_accounts([tapes[0], nowhere], params[:2], N_ENVS, "cpu")
