"""The golden paths and the contracts of the environment: each entry of the kernel broken, each promise of it too."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from src.checks import account as checks_account
from src.checks.account import GOLDEN, environment
from src.checks.outcome import PASSED
from src.checks.setting import Setting
from src.trading import gym_env, kernel
from src.trading.gym_env import TradingEnv
from src.trading.layout import ACTIONS, HOLD, MOVE_TO_BE, PARAMS
from src.trading.vec_env import BatchedTradingVecEnv
from tests.checks.settings import assert_failed, small_setting
from tests.reference_account import ReferenceAccount, ReferenceMarket, ReferenceParams, float32

NOT_IN_THE_REFERENCE = {"n_wins", "commission_paid_cents", "slippage_paid_cents"}
PATHS = json.loads(GOLDEN.read_text(encoding="utf-8"))["paths"]


def around(real: Callable[..., Any], after: Callable[..., None]) -> Callable[..., Any]:
    """A compiled function with something done to its arguments afterwards; it still counts as compiled."""

    def changed(*args: Any) -> Any:
        result = real(*args)
        after(*args)
        return result

    changed.py_func = real  # type: ignore[attr-defined]
    return changed


def test_the_kernel_gives_the_figures_worked_by_hand() -> None:
    outcome = checks_account.kernel(Setting())
    assert outcome.status == PASSED, outcome
    assert outcome.figures["figures_compared"] > 200


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path["name"])
def test_so_does_the_slow_reference_account(path: dict[str, Any]) -> None:
    columns = [list(column) for column in zip(*path["bars"], strict=True)]
    flags = [int(flag) for flag in checks_account._tape(path).flags]
    market = ReferenceMarket(*columns, flags=flags, atr=[path["atr_ticks"]] * len(flags))
    names = [name for name in PARAMS.names or () if hasattr(ReferenceParams(), name) and name in path["params"]]
    known = {name: path["params"][name] for name in names}
    account = ReferenceAccount(market, ReferenceParams(**known))
    balance = path["params"]["start_balance_cents"]
    account.reset(0, balance, balance, path["params"]["expiry_days"])
    for step in path["steps"]:
        result = account.step(ACTIONS.index(step["action"]))
        for name, value in step["expect"].items():
            if name == "reward":
                assert result.reward == float32(value)
            elif name == "ended":
                assert (result.terminated or result.truncated) == value
            elif name == "legal":
                assert [a for a, legal in zip(ACTIONS, account.action_mask(), strict=True) if legal] == value
            elif name not in NOT_IN_THE_REFERENCE:
                assert getattr(account, name) == value, f"{step['why']}: {name}"


def test_the_paths_take_every_action_and_every_step_shows_its_arithmetic() -> None:
    assert {step["action"] for path in PATHS for step in path["steps"]} == {*ACTIONS}
    assert all(step["why"] for path in PATHS for step in path["steps"])


def took_a_cent(account: Any, *_: Any) -> None:
    account["cash_cents"] -= 1


def took_a_cent_of_a_block(_: Any, __: Any, accounts: Any, *___: Any) -> None:
    took_a_cent(accounts[0] if isinstance(accounts, tuple) else accounts)


@pytest.mark.parametrize(
    ("entry", "after", "way"),
    [
        ("step_account", took_a_cent, "gymnasium"),
        ("step_sessions", took_a_cent_of_a_block, "evaluation"),
        ("step_batch", took_a_cent_of_a_block, "training"),
    ],
)
def test_a_cent_too_few_fails_by_whichever_entry(
    monkeypatch: pytest.MonkeyPatch, entry: str, after: Callable[..., None], way: str
) -> None:
    monkeypatch.setattr(kernel, entry, around(getattr(kernel, entry), after))
    outcome = checks_account.kernel(Setting())
    assert_failed(outcome, f"{way}, step 1: cash_cents is 4999774, by hand 4999775", "git status")
    assert "In at 8001 + 1 = 8002" in outcome.remedy, "the arithmetic is shown"


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("commission_cents", 224, "cash_cents"),
        ("slippage_ticks", 0, "entry_ticks"),
        ("target_through_ticks", 0, "position"),
        ("breach_penalty", 3.0, "reward"),
        ("stop_atr", 1.4, "stop_ticks"),
        ("trail_atr", 1.0, "stop_ticks"),
    ],
)
def test_another_rule_of_the_account_fails(
    monkeypatch: pytest.MonkeyPatch, field: str, value: float, found: str
) -> None:
    real = checks_account._params

    def other(path: dict[str, Any]) -> np.ndarray:
        params = real(path)
        params[field] = value
        return params

    monkeypatch.setattr(checks_account, "_params", other)
    assert_failed(checks_account.kernel(Setting()), found, "golden_path.json")


def test_an_account_that_runs_uncompiled_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "step_account", kernel.step_account.py_func)
    assert_failed(checks_account.kernel(Setting()), "uncompiled", "NUMBA_DISABLE_JIT")


# ---------------------------------------------------------------- environment


def test_the_environment_keeps_its_contracts() -> None:
    outcome = environment(small_setting())
    assert outcome.status == PASSED, outcome


def all_legal(self: TradingEnv) -> np.ndarray:
    return np.ones(6, np.bool_)


def only_hold(self: TradingEnv) -> np.ndarray:
    return np.arange(6) == HOLD


def as_integers(self: TradingEnv) -> np.ndarray:
    return self._block.masks[0].astype(np.int64)


@pytest.mark.parametrize(
    ("masks", "measured"),
    [
        (all_legal, " legal, but the account does not treat it so"),
        (only_hold, "illegal, but the account does not treat it so"),
        (as_integers, "int64"),
    ],
)
def test_masks_that_do_not_mean_what_they_say_fail(
    monkeypatch: pytest.MonkeyPatch, masks: Callable[..., np.ndarray], measured: str
) -> None:
    monkeypatch.setattr(TradingEnv, "action_masks", masks)
    assert_failed(environment(small_setting()), measured, "git status")


def test_an_illegal_action_that_does_something_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = kernel.step_account

    def obeys(account: Any, action: int, prices: Any, flags: Any, atr: Any, distances: Any, p: Any, mask: Any) -> Any:
        if not mask[action]:
            result = real(account, HOLD, prices, flags, atr, distances, p, mask)
            account["illegal_actions"] += 1
            account["cash_cents"] -= 100_000
            return result[0] - np.float32(1), result[1]
        return real(account, action, prices, flags, atr, distances, p, mask)

    monkeypatch.setattr(gym_env.kernel, "step_account", obeys)
    assert_failed(environment(small_setting()), "does not act as HOLD", "git status")


def test_an_observation_outside_its_space_fails_gymnasiums_checker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gym_env, "observation_space", lambda: gym.spaces.Box(-5.0, 5.0, (260,), np.float32))
    assert_failed(environment(small_setting()), "gymnasium's checker", "git status")


def test_what_only_stable_baselines_refuses_fails_its_checker(monkeypatch: pytest.MonkeyPatch) -> None:
    real = TradingEnv.step

    def step(self: TradingEnv, action: Any) -> Any:
        obs, reward, terminated, truncated, info = real(self, action)
        return obs, np.float32(reward), terminated, truncated, info

    monkeypatch.setattr(TradingEnv, "step", step)
    assert_failed(environment(small_setting()), "SB3's checker", "git status")


@pytest.mark.parametrize("what", ["observation", "mask", "reward"])
def test_a_batch_that_differs_from_accounts_alone_fails(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    real_step, real_masks = BatchedTradingVecEnv.step_wait, BatchedTradingVecEnv.action_masks

    def step(self: BatchedTradingVecEnv) -> Any:
        obs, rewards, dones, infos = real_step(self)
        if what == "observation":
            obs[-1, 100] += 1e-6
        if what == "reward":
            rewards[-1] += np.float32(1e-3)
        return obs, rewards, dones, infos

    def masks(self: BatchedTradingVecEnv) -> np.ndarray:
        given = real_masks(self)
        given[-1, MOVE_TO_BE] ^= what == "mask"
        return given

    monkeypatch.setattr(BatchedTradingVecEnv, "step_wait", step)
    monkeypatch.setattr(BatchedTradingVecEnv, "action_masks", masks)
    assert_failed(environment(small_setting()), what, "git status")


class Sound(gym.Env[np.ndarray, np.int64]):
    """A user's own environment that keeps its contracts."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros(2, np.float32), 0.0, False, False, {}

    def action_masks(self) -> np.ndarray:
        return np.array([True, False, False])


class OutOfBounds(Sound):
    """Observes what its space does not hold."""

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.full(2, 7.0, np.float32), 0.0, False, False, {}


class NothingLegal(Sound):
    """Its masks leave no action."""

    def action_masks(self) -> np.ndarray:
        return np.zeros(3, np.bool_)


class TooManyMasks(Sound):
    """Its masks are for other actions."""

    def action_masks(self) -> np.ndarray:
        return np.ones(4, np.bool_)


@pytest.mark.parametrize(
    ("name", "measured"),
    [
        ("Sound", ""),
        ("OutOfBounds", "checker"),
        ("NothingLegal", "at least one legal action"),
        ("TooManyMasks", "bool[3]"),
    ],
)
def test_an_environment_of_the_users_own_is_checked_too(name: str, measured: str) -> None:
    own = f"{__name__}:{name}"
    outcome = environment(small_setting(env_class=own))
    if not measured:
        assert outcome.status == PASSED, outcome
        assert own in outcome.measured
    else:
        assert_failed(outcome, measured, f"Fix {own}")


def test_an_own_class_that_cannot_be_imported_is_an_error_to_mend() -> None:
    from src.errors import ConfigError

    with pytest.raises(ConfigError, match="cannot be imported"):
        environment(small_setting(env_class="nowhere:Env"))
