"""The batch hands Stable-Baselines3 exactly what SB3's own DummyVecEnv would, and owns what it hands out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from src.trading.layout import ACCOUNT
from src.trading.routes import make_vec_env
from src.trading.vec_env import BatchedTradingVecEnv
from tests.trading.worlds import END_OF_DAY_RULES, LIVE_RULES, make_params, make_tape, random_legal

N_ENVS = 5
N_STEPS = 48
PARTS = (
    "observations",
    "actions",
    "rewards",
    "episode_starts",
    "values",
    "log_probs",
    "action_masks",
    "advantages",
    "returns",
)


class _Nothing(BaseCallback):
    def _on_step(self) -> bool:
        return True


def rollouts(env: VecEnv, n_rollouts: int = 2) -> list[dict[str, Any]]:
    """What stock MaskablePPO has in its buffer after each rollout, and which episodes it was told of."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = MaskablePPO(
            "MlpPolicy", env, n_steps=N_STEPS, batch_size=N_ENVS, seed=7, device="cpu", policy_kwargs={"net_arch": [8]}
        )
        _, callback = model._setup_learn(n_rollouts * N_STEPS * N_ENVS, _Nothing())
        found = []
        for _ in range(n_rollouts):
            assert model.collect_rollouts(env, callback, model.rollout_buffer, N_STEPS)
            found.append({part: getattr(model.rollout_buffer, part).copy() for part in PARTS})
            found[-1]["episodes"] = [(e["r"], e["l"], e["net_usd"]) for e in model.ep_info_buffer or ()]
        return found
    finally:
        torch.set_num_threads(threads)


def differing(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> set[str]:
    """Names of the parts that are not equal bit for bit."""
    return {
        part
        for mine, theirs in zip(one, other, strict=True)
        for part in mine
        if (
            mine[part] != theirs[part]
            if part == "episodes"
            else mine[part].dtype != theirs[part].dtype or mine[part].tobytes() != theirs[part].tobytes()
        )
    }


def sources(**fields: Any) -> tuple[Any, np.ndarray]:
    return make_tape(3, sessions=6, longest=30), make_params(**fields)


@pytest.mark.parametrize(
    "fields",
    [LIVE_RULES, {**END_OF_DAY_RULES, "max_episode_steps": 7}, {"max_episode_steps": 1}],
    ids=["sessions and breaches", "truncation too", "every step truncated"],
)
def test_the_whole_rollout_buffer_is_that_of_the_dummy_vec_env(fields: dict[str, Any]) -> None:
    tape, params = sources(**fields)
    batched = rollouts(make_vec_env("batched", tape, params, N_ENVS, 11))
    assert differing(batched, rollouts(make_vec_env("dummy", tape, params, N_ENVS, 11))) == set()
    starts = batched[1]["episode_starts"]
    assert starts[1:].sum() > 0, "no episode ended inside the rollout: nothing was compared"


def test_truncation_bootstraps_through_the_terminal_observation() -> None:
    tape, params = sources(max_episode_steps=7, **LIVE_RULES)

    class Untold(BatchedTradingVecEnv):
        def step_wait(self) -> Any:
            obs, rewards, dones, infos = super().step_wait()
            for info in infos:
                info.pop("TimeLimit.truncated", None)
            return obs, rewards, dones, infos

    class WrongEnd(BatchedTradingVecEnv):
        def step_wait(self) -> Any:
            obs, rewards, dones, infos = super().step_wait()
            for index in np.flatnonzero(dones):
                infos[index]["terminal_observation"] = obs[index].copy()
            return obs, rewards, dones, infos

    right = rollouts(BatchedTradingVecEnv(tape, params, N_ENVS, 11))
    for wrong in (Untold, WrongEnd):
        assert {"rewards", "returns"} <= differing(right, rollouts(wrong(tape, params, N_ENVS, 11)))


def test_reusing_the_dones_would_be_caught() -> None:
    tape, params = sources(**LIVE_RULES)

    class OneDones(BatchedTradingVecEnv):
        def step_wait(self) -> Any:
            obs, rewards, dones, infos = super().step_wait()
            if not hasattr(self, "kept"):
                self.kept = dones
            self.kept[:] = dones
            return obs, rewards, self.kept, infos

    right = rollouts(BatchedTradingVecEnv(tape, params, N_ENVS, 11))
    wrong = rollouts(OneDones(tape, params, N_ENVS, 11))
    assert "episode_starts" in differing(right, wrong)
    # Silently: every start moves one row early.
    assert np.array_equal(wrong[0]["episode_starts"][2:-1], right[0]["episode_starts"][3:])


def test_a_single_observation_buffer_would_be_caught() -> None:
    tape, params = sources(**LIVE_RULES)

    class OneBuffer(BatchedTradingVecEnv):
        def step_wait(self) -> Any:
            self._buffers = (self._buffers[0], self._buffers[0])
            return super().step_wait()

    right = rollouts(BatchedTradingVecEnv(tape, params, N_ENVS, 11))
    assert "observations" in differing(right, rollouts(OneBuffer(tape, params, N_ENVS, 11)))


def test_what_was_handed_out_survives_the_next_call() -> None:
    tape, params = sources(**LIVE_RULES)
    env = BatchedTradingVecEnv(tape, params, N_ENVS, 1)
    rng = np.random.default_rng(0)
    held: list[tuple[np.ndarray, np.ndarray]] = []
    obs = env.reset()
    for _ in range(60):
        masks = env.action_masks()
        actions = random_legal(rng, masks)
        kept = obs.copy(), masks.copy(), actions.copy()
        new_obs, rewards, dones, infos = env.step(actions)
        assert all(np.array_equal(a, b) for a, b in zip((obs, masks, actions), kept, strict=True))
        ends = [info["terminal_observation"] for info in infos if info]
        held += [(x, x.copy()) for x in (rewards, dones, *ends)]
        obs = new_obs
    before = obs.copy()
    env.reset()
    assert np.array_equal(obs, before), "reset wrote over the observation of the last step"
    assert all(np.array_equal(array, copy) for array, copy in held)
    assert len({id(array) for array, _ in held}) == len(held)


def test_infos_of_an_ended_episode() -> None:
    tape, params = sources(max_episode_steps=9, **LIVE_RULES)
    env = BatchedTradingVecEnv(tape, params, N_ENVS, 1)
    rng = np.random.default_rng(0)
    env.reset()
    sums, lengths = np.zeros(N_ENVS), np.zeros(N_ENVS, int)
    kinds = set()
    for _ in range(300):
        _, rewards, dones, infos = env.step(random_legal(rng, env.action_masks(), 0.05))
        sums += rewards
        lengths += 1
        for index, info in enumerate(infos):
            assert bool(info) == dones[index]
            if not info:
                continue
            episode = info["episode"]
            assert episode["r"] == sums[index]
            assert episode["l"] == lengths[index]
            assert episode["n_wins"] <= episode["n_trades"]
            assert info["terminal_observation"].shape == (261,)
            assert info["TimeLimit.truncated"] is True or info["TimeLimit.truncated"] is False
            assert not info["TimeLimit.truncated"] or episode["l"] == 9
            kinds.add((info["TimeLimit.truncated"], episode["breached"]))
        sums[dones], lengths[dones] = 0.0, 0
    assert kinds >= {(True, False), (False, False)}


def test_actions_of_a_wrong_number_are_refused() -> None:
    tape, params = sources()
    env = BatchedTradingVecEnv(tape, params, N_ENVS, 1)
    env.reset()
    with pytest.raises(ValueError, match="reshape"):
        env.step(np.zeros(N_ENVS + 1, np.int64))


def test_masks_are_offered_as_maskable_ppo_asks_for_them() -> None:
    tape, params = sources()
    env = BatchedTradingVecEnv(tape, params, N_ENVS, 1)
    env.reset()
    assert env.has_attr("action_masks")
    assert not env.has_attr("np_random")
    assert np.array_equal(np.stack(env.env_method("action_masks")), env.action_masks())
    assert np.array_equal(env.env_method("action_masks", indices=[3, 1])[0], env.action_masks()[3])
    assert env.env_is_wrapped(object, indices=[0, 1]) == [False, False]  # type: ignore[arg-type]
    for refused in (
        lambda: env.env_method("render"),
        lambda: env.get_attr("tape"),
        lambda: env.set_attr("contracts", 9),
    ):
        with pytest.raises(AttributeError, match="accounts of a batch"):
            refused()


def test_a_snapshot_continues_bit_for_bit() -> None:
    tape, params = sources(**LIVE_RULES)
    env = BatchedTradingVecEnv(tape, params, N_ENVS, 1)
    env.reset()

    def walk(env: BatchedTradingVecEnv, seed: int, steps: int) -> list[bytes]:
        rng = np.random.default_rng(seed)
        seen = []
        for _ in range(steps):
            obs, rewards, dones, _ = env.step(random_legal(rng, env.action_masks()))
            seen += [obs.tobytes(), rewards.tobytes(), dones.tobytes(), env.action_masks().tobytes()]
        return seen

    walk(env, 0, 25)
    state = env.get_state()
    expected = walk(env, 1, 80)
    assert walk(env, 1, 80) != expected
    fresh = BatchedTradingVecEnv(tape, params, N_ENVS, 999)
    fresh.set_state(state)
    assert walk(fresh, 1, 80) == expected
    # The snapshot is a copy: neither walk has moved it.
    again = env.set_state(state).copy()
    fresh.set_state(state)
    assert np.array_equal(again, fresh._buffers[fresh._turn])
    assert walk(env, 1, 80) == expected


def test_a_snapshot_that_does_not_fit_is_refused() -> None:
    tape, params = sources()
    small, large = BatchedTradingVecEnv(tape, params, 2, 1), BatchedTradingVecEnv(tape, params, 3, 1)
    small.reset()
    with pytest.raises(ValueError, match="state of shape"):
        large.set_state(small.get_state())
    longer = make_tape(4, sessions=60)
    elsewhere = BatchedTradingVecEnv(longer, params, 2, 1)
    elsewhere._block.accounts["bar"] = len(longer.prices) - 1
    with pytest.raises(ValueError, match="another tape"):
        small.set_state(elsewhere.get_state())


def test_an_account_record_has_no_padding() -> None:
    # Snapshots hold and compare its bytes; padding would keep whatever was in memory.
    assert sum(ACCOUNT[name].itemsize for name in ACCOUNT.names or ()) == ACCOUNT.itemsize
