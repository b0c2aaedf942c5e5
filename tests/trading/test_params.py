"""An account's constants: every one has its source, and every key of the configuration changes what happens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.errors import ConfigError
from src.market.contracts import CONTRACTS, get_contract
from src.trading.gym_env import TradingEnv
from src.trading.layout import MOVE_TO_BE, PARAMS
from src.trading.params import commission_cents, make_params
from src.trading.rules import NO_CONTRACT_LIMIT, available_rule_profiles, load_rule_profile
from src.trading.settings import EnvironmentSettings
from src.trading.vec_env import BatchedTradingVecEnv
from tests.trading import worlds

NOT_OF_THE_KERNEL = {"trading_hours", "env_class", "env_kwargs"}
BASE: dict[str, Any] = {"contracts": 4, "breach_penalty": 2.0}
FLIPS: dict[str, Any] = {
    "contracts": 3,
    "stop_atr": 0.8,
    "target_r": 1.1,
    "trail_atr": 0.7,
    "target_through_ticks": 0,
    "slippage_ticks": 0,
    "commission_usd": 1.5,
    "rule_profile": "apex_50k_intraday_2026_03",
    "reward_scale_usd": 100.0,
    "breach_penalty": 1.0,
    "fresh_account_frac": 0.9,
    "min_buffer_frac": 0.9,
    "max_episode_steps": 6,
}


def constants(symbol: str = "NQ", **keys: Any) -> np.ndarray:
    chosen = EnvironmentSettings(**keys)
    return make_params(chosen, get_contract(symbol), load_rule_profile(chosen.rule_profile))


def trajectory(**keys: Any) -> dict[str, bytes]:
    """Rewards, ends and observations of some accounts on fixed sequences of actions."""
    params = constants(**{**BASE, **keys})
    found: dict[str, list[np.ndarray]] = {"obs": [], "rewards": [], "dones": []}
    for seed in range(4):
        env = BatchedTradingVecEnv(worlds.make_tape(seed), params, 12, seed)
        actions = np.random.default_rng(seed).integers(0, 6, (250, 12))
        found["obs"].append(env.reset().copy())
        for row in actions:
            obs, rewards, dones, _ = env.step(row)
            for name, array in (("obs", obs), ("rewards", rewards), ("dones", dones)):
                found[name].append(array.copy())
    return {name: b"".join(array.tobytes() for array in arrays) for name, arrays in found.items()}


@pytest.fixture(scope="module")
def base_trajectory() -> dict[str, bytes]:
    return trajectory()


def test_the_same_keys_give_the_same_trajectory(base_trajectory: dict[str, bytes]) -> None:
    assert trajectory() == base_trajectory


def test_every_key_of_the_section_is_tried_or_not_the_kernels() -> None:
    assert set(FLIPS) == set(EnvironmentSettings.model_fields) - NOT_OF_THE_KERNEL


@pytest.mark.parametrize("key", FLIPS)
def test_a_key_changes_what_happens(key: str, base_trajectory: dict[str, bytes]) -> None:
    changed = trajectory(**{key: FLIPS[key]})
    differs = {name for name in changed if changed[name] != base_trajectory[name]}
    assert "rewards" in differs
    if key in {"reward_scale_usd", "breach_penalty"}:
        # What is only a matter of the learner leaves the account alone.
        assert differs == {"rewards"}


@pytest.mark.parametrize("profile", available_rule_profiles())
@pytest.mark.parametrize("symbol", CONTRACTS)
def test_every_field_is_filled_from_its_source(symbol: str, profile: str) -> None:
    contract, rules = get_contract(symbol), load_rule_profile(profile)
    chosen = EnvironmentSettings(
        contracts=7,
        stop_atr=1.25,
        target_r=2.5,
        trail_atr=1.75,
        target_through_ticks=3,
        reward_scale_usd=123.0,
        breach_penalty=5.5,
        fresh_account_frac=0.3,
        min_buffer_frac=0.2,
        max_episode_steps=44,
    )
    params = make_params(chosen, contract, rules)
    assert params.dtype == PARAMS
    assert params.shape == (1,)
    with pytest.raises(ValueError, match="read-only"):
        params["contracts"] = 2
    expected = {
        "contracts": 7,
        "tick_value_cents": contract.tick_value_cents,
        "commission_cents": contract.commission_cents,
        "slippage_ticks": contract.slippage_ticks,
        "target_through_ticks": 3,
        "max_episode_steps": 44,
        "stop_atr": 1.25,
        "target_r": 2.5,
        "trail_atr": 1.75,
        "reward_scale_cents": 12_300.0,
        "breach_penalty": 5.5,
        "fresh_account_frac": 0.3,
        "min_buffer_frac": 0.2,
        **rules.to_params_fields(micro=symbol in {"MNQ", "MES", "MYM", "M2K"}),
    }
    assert set(expected) == set(PARAMS.names or ())
    assert {name: params[name][0].item() for name in expected} == expected


def test_micros_count_against_their_own_limit() -> None:
    profile = load_rule_profile("apex_50k_eod_2026_03")
    assert profile.max_contracts != profile.micro_contracts
    for symbol, limit in (("NQ", profile.max_contracts), ("MNQ", profile.micro_contracts)):
        assert constants(symbol, rule_profile=profile.name)["max_contracts"][0] == limit
        assert constants(symbol, rule_profile="none")["max_contracts"][0] == NO_CONTRACT_LIMIT


@pytest.mark.parametrize("usd", [2.255, 0.001, 1 / 3, 999.999])
def test_a_commission_that_is_no_whole_cents_is_refused(usd: float) -> None:
    with pytest.raises(ConfigError) as caught:
        constants(commission_usd=usd)
    text = str(caught.value)
    assert "environment.commission_usd" in text
    assert str(usd) in text
    assert "\n" not in text
    remedy = float(text.rpartition("for example ")[2].rstrip("."))
    assert constants(commission_usd=remedy)["commission_cents"][0] == round(remedy * 100)


@given(st.integers(0, 100_000))
def test_whole_cents_survive_the_way_through_a_float(cents: int) -> None:
    assert commission_cents(EnvironmentSettings(commission_usd=cents / 100), get_contract("NQ")) == cents


def test_costs_given_as_zero_are_not_the_markets_own() -> None:
    params = constants(commission_usd=0, slippage_ticks=0)
    assert (params["commission_cents"][0], params["slippage_ticks"][0]) == (0, 0)
    params = constants()
    assert params["commission_cents"][0] == get_contract("NQ").commission_cents > 0
    assert params["slippage_ticks"][0] == get_contract("NQ").slippage_ticks > 0


def final_account(market: int, actions: list[int], commission_usd: float) -> np.void:
    """The account after a fixed sequence of actions from a session's first start, slippage and rules none."""
    tape = worlds.make_tape(market, sessions=2, longest=40)
    params = constants(rule_profile="none", slippage_ticks=0, commission_usd=commission_usd, contracts=2)
    env = TradingEnv(tape, params)
    env.reset(options={"bar": int(tape.starts[0])})
    for action in actions:
        _, _, terminated, _, _ = env.step(action)
        if terminated:
            break
    return env._block.accounts[0].copy()


# MOVE_TO_BE is left out: its stop depends on the cost, and another stop may be the luckier one.
orders = st.lists(st.sampled_from([a for a in range(6) if a != MOVE_TO_BE]), min_size=1, max_size=40)


@settings(max_examples=60)
@given(st.integers(0, 200), orders, st.integers(0, 2_000), st.integers(0, 2_000))
def test_higher_fees_never_raise_the_net_result(market: int, actions: list[int], one: int, more: int) -> None:
    cheap, dear = (final_account(market, actions, cents / 100) for cents in (one, one + more))
    assert dear["cash_cents"] <= cheap["cash_cents"]
    # To the cent: the fees differ and nothing else.
    assert (dear["n_trades"], dear["position"]) == (cheap["n_trades"], cheap["position"])
    fees = [int(account["commission_paid_cents"]) for account in (cheap, dear)]
    assert int(cheap["cash_cents"]) - int(dear["cash_cents"]) == fees[1] - fees[0]
    sides = 2 * int(cheap["n_trades"]) + bool(cheap["position"])
    assert fees[1] - fees[0] == more * 2 * sides
