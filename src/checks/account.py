"""The account: its figures on paths worked by hand, and the contracts of gymnasium and Stable-Baselines3."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env as gymnasium_checker
from stable_baselines3.common.env_checker import check_env as sb3_checker

from src.advisor.table import empty_table
from src.checks.outcome import RESTORE, Outcome, failed, passed
from src.checks.setting import Setting
from src.market.flags import BREAK_AFTER, DECISION, END_AFTER, ENTRY_ALLOWED, FLAT_BAR
from src.trading import kernel as compiled
from src.trading.gym_env import TradingEnv
from src.trading.layout import ACCOUNT, ACTIONS, HOLD, N_ACTIONS, N_CONTEXT_FEATURES, N_SIDES, N_WINDOW_FEATURES, PARAMS
from src.trading.rules import LATER_FIELDS
from src.trading.session_batch import SessionBatch
from src.trading.tape import Tape
from src.trading.vec_env import BatchedTradingVecEnv
from src.trading.workers import load_env_class

GOLDEN = Path(__file__).with_name("golden_path.json")
MASK_STEPS = 600
BATCH_STEPS, BATCH = 200, 3
_COLOUR = re.compile(r"\x1b\[\d*m")  # of gymnasium's warnings


@dataclass(frozen=True)
class Seen:
    """What one way of stepping an account returns after a step; no `account` once the next episode has started."""

    account: np.void | None
    reward: float
    ended: bool
    legal: Sequence[bool]


def kernel(setting: Setting) -> Outcome:
    """Play the golden paths in each of the three ways an account is stepped, and compare every figure."""
    if not hasattr(compiled.step_account, "py_func"):
        return failed(
            "the account runs uncompiled",
            "Unset NUMBA_DISABLE_JIT: without compiled code a run takes a hundred times as long.",
        )
    paths = json.loads(GOLDEN.read_text(encoding="utf-8"))["paths"]
    compared = 0
    for path in paths:
        for way in WAYS:
            seen = WAYS[way](_tape(path), _params(path), [ACTIONS.index(step["action"]) for step in path["steps"]])
            for number, (step, shown) in enumerate(zip(path["steps"], seen, strict=True), start=1):
                wrong = list(_differences(step["expect"], shown))
                if wrong:
                    return failed(
                        f"{way}, step {number}: {'; '.join(wrong)}",
                        f"On the path {path['name']!r} in {GOLDEN.name} ({step['why']}). {RESTORE}",
                    )
                compared += len(step["expect"])
    return passed(f"{compared} figures as worked by hand, {len(paths)} paths", figures_compared=compared)


def _tape(path: Mapping[str, Any]) -> Tape:
    n = len(path["bars"])
    flags = np.full(n, ENTRY_ALLOWED | DECISION, np.uint8)
    if path["forced_exit"]:
        flags[-2:] = DECISION | END_AFTER, FLAT_BAR | BREAK_AFTER
    else:
        flags[-1] |= BREAK_AFTER | END_AFTER
    return Tape(
        prices=np.array(path["bars"], np.int32),
        flags=flags,
        atr_ticks=np.full(n, path["atr_ticks"], np.float32),
        window=np.zeros((n, N_WINDOW_FEATURES), np.float32),
        context=np.zeros((n, N_CONTEXT_FEATURES), np.float32),
        situation=np.zeros(n, np.int32),
        advice=np.zeros((N_SIDES, N_ACTIONS), np.float32),
        starts=np.zeros(1, np.int32),
    )


def _params(path: Mapping[str, Any]) -> np.ndarray:
    params = np.zeros(1, PARAMS)
    for name in PARAMS.names or ():
        # The paths are older than some rules: an account without them has 0 there.
        params[name] = path["params"].get(name, 0) if name in LATER_FIELDS else path["params"][name]
    return params


def _one_by_one(tape: Tape, params: np.ndarray, actions: Sequence[int]) -> Iterator[Seen]:
    env = TradingEnv(tape, params)
    env.reset(options={"bar": 0})
    for action in actions:
        _, reward, terminated, truncated, _ = env.step(action)
        yield Seen(
            env.get_state()["account"].view(ACCOUNT)[0], reward, terminated or truncated, env.action_masks().tolist()
        )


def _by_session(tape: Tape, params: np.ndarray, actions: Sequence[int]) -> Iterator[Seen]:
    sessions = SessionBatch(tape, params)
    sessions.begin([0, 0])
    for action in actions:
        sessions.step(np.full(2, action))
        yield Seen(
            sessions.accounts[1].copy(), float(sessions.rewards[1]), bool(sessions.over[1]), sessions.masks[1].tolist()
        )


def _by_batch(tape: Tape, params: np.ndarray, actions: Sequence[int]) -> Iterator[Seen]:
    with closing(BatchedTradingVecEnv(tape, params, BATCH)) as env:
        env.reset()
        for action in actions:
            _, rewards, dones, _ = env.step(np.full(BATCH, action))
            accounts = env.get_state()["accounts"].view(ACCOUNT)[:, 0]
            last, over = BATCH - 1, bool(dones[-1])
            yield Seen(None if over else accounts[last], float(rewards[last]), over, env.action_masks()[last].tolist())


WAYS: Mapping[str, Callable[[Tape, np.ndarray, Sequence[int]], Iterator[Seen]]] = {
    "gymnasium": _one_by_one,
    "evaluation": _by_session,
    "training": _by_batch,
}
"""How an account is stepped: the kernel's three entries."""


def _differences(expected: Mapping[str, Any], seen: Seen) -> Iterator[str]:
    for name, value in expected.items():
        found: Any
        if name == "reward":
            found, value = np.float32(seen.reward), np.float32(value)
        elif name == "ended":
            found = seen.ended
        elif name == "legal":
            found = [action for action, allowed in zip(ACTIONS, seen.legal, strict=True) if allowed]
        elif seen.account is None:
            continue
        else:
            found = seen.account[name].item()
        if found != value:
            yield f"{name} is {found}, by hand {value}"


def environment(setting: Setting) -> Outcome:
    """Run both libraries' checkers on our environment and on the user's own; check that masks match the account."""
    market = setting.market
    tape, params = market.tape(empty_table()), market.params
    for problem in (
        *_refusals(lambda: TradingEnv(tape, params), strict=True),
        _wrong_mask(TradingEnv(tape, params)),
        _batch_differs(tape, params),
    ):
        if problem:
            return failed(problem, RESTORE)
    own = setting.config.environment.env_class
    if own is None:
        return passed(f"both checkers, {MASK_STEPS} masks, {BATCH} accounts", mask_steps=MASK_STEPS)
    kwargs = setting.config.environment.env_kwargs
    for problem in (*_refusals(lambda: load_env_class(own)(**kwargs)), _wrong_own_mask(load_env_class(own)(**kwargs))):
        if problem:
            return failed(f"{own}: {problem}", f"Fix {own}, or take environment.env_class out of the configuration.")
    return passed(f"both checkers, ours and {own}", mask_steps=MASK_STEPS, own=own)


def _refusals(make: Callable[[], gym.Env], *, strict: bool = False) -> Iterator[str]:
    """Findings of the libraries' checkers on an environment, from whatever exception they raise. `strict`: their
    warnings count too."""
    checkers = {"gymnasium": partial(gymnasium_checker, skip_render_check=True), "SB3": partial(sb3_checker, warn=True)}
    for name, checker in checkers.items():
        env = make()
        try:
            with warnings.catch_warnings():
                if strict:
                    warnings.simplefilter("error", UserWarning)
                checker(env)
        except Exception as error:
            said = " ".join(_COLOUR.sub("", str(error)).split()) or type(error).__name__
            yield f"{name}'s checker: {said}"
        finally:
            env.close()


def _wrong_mask(env: TradingEnv) -> str:
    """Play random legal and illegal actions in turn: a legal one is never counted as illegal, an illegal one always is,
    and it acts as HOLD."""
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    illegal = 0
    for step in range(MASK_STEPS):
        mask = env.action_masks()
        if mask.dtype != np.bool_ or mask.shape != (N_ACTIONS,) or not mask[HOLD]:
            return f"step {step}: the mask is {mask}, {mask.dtype}; it must be bool[{N_ACTIONS}] with HOLD legal"
        meant = mask if step % 2 == 0 or mask.all() else ~mask
        action = int(rng.choice(np.flatnonzero(meant)))
        before = env.get_state()
        held = None
        if not mask[action]:
            held = env.step(HOLD)
            env.set_state(before)
        obs, reward, terminated, truncated, info = env.step(action)
        illegal += not mask[action]
        name = ACTIONS[action]
        if info["illegal_actions"] != illegal:
            said = "legal" if mask[action] else "illegal"
            return f"step {step}: the mask calls {name} {said}, but the account does not treat it so"
        if held is not None and not (np.array_equal(obs, held[0]) and (reward, terminated, truncated) == held[1:4]):
            return f"step {step}: the illegal {name} does not act as HOLD"
        if terminated or truncated:
            env.reset()
            illegal = 0
    return ""


def _wrong_own_mask(env: gym.Env) -> str:
    """Check that a user's own masks, if any, have a shape that MaskablePPO takes."""
    with closing(env):
        masks = getattr(env, "action_masks", None)
        if masks is None:
            return ""
        env.reset(seed=0)
        mask = np.asarray(masks())
        wanted = getattr(env.action_space, "n", None)
        if mask.shape != (wanted,) or not mask.any():
            return f"action_masks() is {mask}; it must be bool[{wanted}] with at least one legal action"
        return ""


def _batch_differs(tape: Tape, params: np.ndarray) -> str:
    """How accounts stepped together differ from each stepped alone (observation, reward, mask); empty if they agree."""
    rng = np.random.default_rng(1)
    batch, alone = BatchedTradingVecEnv(tape, params, BATCH), [TradingEnv(tape, params, i) for i in range(BATCH)]
    with closing(batch):
        seen = [np.asarray(batch.reset()), np.stack([env.reset()[0] for env in alone])]
        for step in range(BATCH_STEPS):
            masks = [batch.action_masks(), np.stack([env.action_masks() for env in alone])]
            for what, (together, single) in {"observation": seen, "mask": masks}.items():
                if together.tobytes() != single.tobytes():
                    return f"step {step}: the {what} of accounts in a batch differs from that of one alone"
            actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in masks[0]])
            obs, rewards, dones, _ = batch.step(actions)
            rows = []
            for i, env in enumerate(alone):
                row, reward, terminated, truncated, _ = env.step(int(actions[i]))
                if np.float32(reward) != rewards[i] or (terminated or truncated) != dones[i]:
                    return f"step {step}: reward or end of account {i} in a batch differs from that of one alone"
                rows.append(env.reset()[0] if terminated or truncated else row)
            seen = [np.asarray(obs), np.stack(rows)]
    return ""
