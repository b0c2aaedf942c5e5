"""Small seeded markets as tapes, and the constants of accounts with every kind of rule."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np

from src.market.flags import DECISION, END_AFTER, ENTRY_ALLOWED
from src.trading.layout import TRAIL_END_OF_DAY, TRAIL_LIVE
from src.trading.tape import Tape
from tests.reference_account import ReferenceMarket, ReferenceParams
from tests.strategies import market_of
from tests.trading import kernel_adapter


def starts_of(market: ReferenceMarket) -> list[int]:
    """Bars where a training account may start: it may enter there, and the session goes on."""
    return [t for t, f in enumerate(market.flags) if f & DECISION and f & ENTRY_ALLOWED and not f & END_AFTER]


def make_tape(seed: int = 0, sessions: int = 8, longest: int = 40) -> Tape:
    """A random market with holes, gaps and advice; always with a start."""
    rng = Random(seed)
    while True:
        market = market_of(rng, sessions, longest)
        starts = starts_of(market)
        if starts:
            return kernel_adapter.tape_of(market, starts)


LIVE_RULES: dict[str, Any] = {
    "trail_mode": TRAIL_LIVE,
    "trail_cents": 60_000,
    "target_cents": 100_000,
    "expiry_days": 30,
}
END_OF_DAY_RULES: dict[str, Any] = {
    **LIVE_RULES,
    "trail_mode": TRAIL_END_OF_DAY,
    "daily_limit_cents": 40_000,
}


def make_params(fresh_account_frac: float = 0.25, min_buffer_frac: float = 0.25, **fields: Any) -> np.ndarray:
    """A read-only `PARAMS` record of a reference account's constants; without `fields` an account without rules."""
    params = kernel_adapter.params_of(ReferenceParams(**fields))
    params["fresh_account_frac"] = fresh_account_frac
    params["min_buffer_frac"] = min_buffer_frac
    # As production has it: numba would compile everything a second time for a writable record.
    params.setflags(write=False)
    return params


def random_legal(rng: np.random.Generator, masks: np.ndarray, illegal_frac: float = 0.0) -> np.ndarray:
    """One action an account, int64[n], uniform over the legal ones; a share drawn without looking at the mask."""
    scores = rng.random(masks.shape) + masks
    anything = rng.integers(0, masks.shape[1], len(masks))
    return np.where(rng.random(len(masks)) < illegal_frac, anything, scores.argmax(axis=1))
