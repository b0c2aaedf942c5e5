"""Evaluation: one new account a session, played once, nothing left of what was played before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.trading.gym_env import TradingEnv
from src.trading.layout import CONTEXT, LONG_LOSING, LONG_WINNING, N_SIDES, OPINION, SHORT_LOSING, SHORT_WINNING
from src.trading.session_batch import SessionBatch
from tests.trading.worlds import END_OF_DAY_RULES, LIVE_RULES, make_params, make_tape, random_legal

TAPE = make_tape(3)
PARAMS = make_params(**LIVE_RULES)
ATTRIBUTES = ("obs", "over", "rewards", "masks", "accounts")


def first_bars(n: int) -> np.ndarray:
    return TAPE.starts[np.linspace(0, len(TAPE.starts) - 1, n).astype(int)]


def standing(batch: SessionBatch) -> dict[str, bytes]:
    return {
        **{name: getattr(batch, name).tobytes() for name in ATTRIBUTES},
        "situations": batch.situations().tobytes(),
        "equities": batch.equities_cents().tobytes(),
    }


def play(batch: SessionBatch, bars: np.ndarray, actions: np.ndarray) -> list[dict[str, bytes]]:
    batch.begin(bars)
    seen = [standing(batch)]
    for row in actions:
        batch.step(row)
        seen.append(standing(batch))
    return seen


def test_every_session_begins_with_a_new_account_of_the_profile() -> None:
    batch = SessionBatch(TAPE, make_params(start_balance_cents=4_000_000, **LIVE_RULES))
    bars = first_bars(6)
    obs = batch.begin(bars)
    assert obs is batch.obs
    accounts = batch.accounts
    assert np.array_equal(batch.bars(), bars)
    for name in ("cash_cents", "peak_cents", "start_cash_cents", "day_start_cents"):
        assert (accounts[name] == 4_000_000).all()
    assert (accounts["threshold_cents"] == 4_000_000 - LIVE_RULES["trail_cents"]).all()
    assert (accounts["days_left"] == LIVE_RULES["expiry_days"]).all()
    for name in ("position", "n_trades", "steps", "illegal_actions", "breached", "daily_locked", "reward_sum"):
        assert not accounts[name].any()
    assert not batch.over.any()
    assert (batch.equities_cents() == 4_000_000).all()
    assert batch.params["trail_cents"] == LIVE_RULES["trail_cents"]


def test_a_session_is_what_one_environment_lives_through() -> None:
    bars = first_bars(5)
    batch = SessionBatch(TAPE, PARAMS)
    batch.begin(bars)
    envs = [TradingEnv(TAPE, PARAMS) for _ in bars]
    alive = [True] * len(bars)
    for env, bar, obs in zip(envs, bars, batch.obs, strict=True):
        assert np.array_equal(env.reset(options={"bar": int(bar)})[0], obs)
    rng = np.random.default_rng(0)
    while not batch.over.all():
        actions = random_legal(rng, batch.masks)
        batch.step(actions)
        for i, env in enumerate(envs):
            if alive[i]:
                obs, reward, terminated, truncated, _ = env.step(int(actions[i]))
                assert np.array_equal(obs, batch.obs[i])
                assert np.float32(reward) == batch.rewards[i]
                assert (terminated or truncated) == batch.over[i]
                alive[i] = not (terminated or truncated)
    batch.step(actions)
    assert not batch.rewards.any()


def test_sessions_that_are_over_stay_untouched() -> None:
    batch = SessionBatch(TAPE, PARAMS)
    batch.begin(first_bars(8))
    rng = np.random.default_rng(0)
    endings: set[int] = set()
    for _ in range(60):
        over, before = batch.over.copy(), batch.accounts.copy()
        obs, masks = batch.obs.copy(), batch.masks.copy()
        batch.step(rng.integers(0, 6, 8))
        endings |= {int(over.sum())}
        assert (batch.over >= over).all()
        assert before[over].tobytes() == batch.accounts[over].tobytes()
        assert np.array_equal(obs[over], batch.obs[over])
        assert np.array_equal(masks[over], batch.masks[over])
        assert not batch.rewards[over].any()
    assert batch.over.all()
    assert len(endings) > 2, "the sessions ended all at once: nothing was seen of those left over"


def test_an_artificial_limit_ends_a_session_as_well() -> None:
    batch = SessionBatch(TAPE, make_params(max_episode_steps=3))
    batch.begin(first_bars(4))
    for _ in range(2):
        batch.step(np.zeros(4, int))
    assert not batch.over.all()
    batch.step(np.zeros(4, int))
    assert batch.over.all()


actions_of = st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed).integers(0, 6, (25, 4)))


@settings(max_examples=25)
@given(actions_of, actions_of, st.booleans(), st.lists(st.integers(0, len(TAPE.starts) - 1), min_size=4, max_size=4))
def test_reuse_leaves_nothing_behind(
    before: np.ndarray, actions: np.ndarray, with_tables: bool, starts: list[int]
) -> None:
    params = make_params(**END_OF_DAY_RULES)
    used = SessionBatch(TAPE, params, with_tables)
    play(used, first_bars(4), before)
    if not with_tables:
        used.obs[:, OPINION] = 0.5
    expected = play(SessionBatch(TAPE, params, with_tables), TAPE.starts[starts], actions)
    assert play(used, TAPE.starts[starts], actions) == expected


def test_another_number_of_sessions_is_begun_as_well() -> None:
    batch = SessionBatch(TAPE, PARAMS)
    assert batch.n == 0
    actions = np.random.default_rng(0).integers(0, 6, (20, 7))
    for n in (7, 2, 0, 5):
        expected = play(SessionBatch(TAPE, PARAMS), first_bars(n), actions[:, :n])
        assert play(batch, first_bars(n), actions[:, :n]) == expected
    batch.reset(seed=4)
    assert batch.n == 0
    assert len(batch.begin(list(first_bars(3)))) == 3


def test_without_tables_context_and_opinion_are_the_callers() -> None:
    whole, own = SessionBatch(TAPE, PARAMS), SessionBatch(TAPE, PARAMS, with_tables=False)
    bars = first_bars(5)
    whole.begin(bars)
    own.begin(bars)
    others = np.ones(261, bool)
    others[CONTEXT] = others[OPINION] = False
    rng = np.random.default_rng(0)
    for step in range(30):
        assert np.array_equal(own.obs[:, others], whole.obs[:, others])
        assert (own.obs[:, ~others] == (0 if step == 0 else 7)).all()
        own.obs[:, ~others] = 7
        actions = random_legal(rng, whole.masks)
        whole.step(actions)
        own.step(actions)


def test_situations_choose_the_row_of_advice_that_the_kernel_chose() -> None:
    # A table in which every row is its own: the opinion in the observation says which row it came from.
    rng = np.random.default_rng(3)
    fields: dict[str, Any] = {name: getattr(TAPE, name) for name in TAPE.__dataclass_fields__}
    advice = rng.dirichlet(np.ones(6), len(TAPE.advice)).astype(np.float32)
    tape = type(TAPE)(**{**fields, "advice": advice})
    batch = SessionBatch(tape, make_params(stop_atr=30.0, target_r=3.0))
    bars = tape.starts[:: max(1, len(tape.starts) // 40)]
    batch.begin(bars)
    sides = set()
    for _ in range(25):
        rows = batch.situations()
        assert rows.dtype == np.int64
        assert np.array_equal(rows // N_SIDES, tape.situation[batch.bars()])
        legal = np.where(batch.masks, advice[rows].astype(np.float64), 0.0)
        expected = np.where(batch.masks, legal / legal.sum(axis=1, keepdims=True), 0.0)
        np.testing.assert_allclose(batch.obs[:, OPINION], expected, rtol=1e-5, atol=1e-6)
        sides |= set(rows % N_SIDES)
        for row, account, bar in zip(rows, batch.accounts, batch.bars(), strict=True):
            gain = int(account["position"]) * (int(tape.prices[bar, 3]) - int(account["entry_ticks"]))
            if account["position"]:
                winning = (LONG_WINNING, SHORT_WINNING)
                assert (row % N_SIDES in winning) == (gain > 0)
        batch.step(random_legal(rng, batch.masks))
    assert sides == {0, LONG_WINNING, LONG_LOSING, SHORT_WINNING, SHORT_LOSING}


def test_equity_is_the_balance_and_the_open_position() -> None:
    batch = SessionBatch(TAPE, make_params(contracts=3, tick_value_cents=125, commission_cents=10, stop_atr=30.0))
    bars = first_bars(6)
    batch.begin(bars)
    for row in (np.full(6, 1), np.zeros(6, int), np.zeros(6, int)):
        before = batch.equities_cents().copy()
        batch.step(row)
        change = batch.equities_cents() - before
        np.testing.assert_array_equal(batch.rewards, (change / 10_000.0).astype(np.float32))
    open_ones = batch.accounts["position"] != 0
    assert open_ones.any()
    for account, equity in zip(batch.accounts[open_ones], batch.equities_cents()[open_ones], strict=True):
        close = int(TAPE.prices[account["bar"], 3])
        assert equity == int(account["cash_cents"]) + 3 * 125 * (close - int(account["entry_ticks"]))


def test_what_compiled_code_would_not_check_is_refused() -> None:
    batch = SessionBatch(TAPE, PARAMS)
    for bar in (-1, len(TAPE.prices), 2**31 - 1):
        with pytest.raises(ValueError, match=f"cannot begin at bar {bar} of"):
            batch.begin([int(TAPE.starts[0]), bar])
    batch.begin(first_bars(3))
    for shape in (2, 4, (3, 1)):
        with pytest.raises(ValueError, match="for 3 sessions"):
            batch.step(np.zeros(shape, int))
