"""Imported once by the server that forks the workers: they find the compiled kernel loaded.

Loading it from numba's cache takes a worker 0.3 to 0.6 s of processor time and 60 MB of its own.
"""

from __future__ import annotations

import numpy as np

from src.market.flags import BREAK_AFTER, DECISION, END_AFTER, ENTRY_ALLOWED
from src.trading.gym_env import TradingEnv
from src.trading.layout import N_ACTIONS, N_CONTEXT_FEATURES, N_SIDES, N_WINDOW_FEATURES, PARAMS
from src.trading.tape import Tape


def small_market() -> tuple[Tape, np.ndarray]:
    """A tape of three bars and an account's constants; numba's types are those of a real one: read-only arrays."""
    n = 3
    flags = np.full(n, DECISION | ENTRY_ALLOWED, np.uint8)
    flags[-1] |= END_AFTER | BREAK_AFTER
    tape = Tape(
        prices=np.ones((n, 4), np.int32),
        flags=flags,
        atr_ticks=np.ones(n, np.float32),
        window=np.zeros((n, N_WINDOW_FEATURES), np.float32),
        context=np.zeros((n, N_CONTEXT_FEATURES), np.float32),
        situation=np.zeros(n, np.int32),
        advice=np.zeros((N_SIDES, N_ACTIONS), np.float32),
        starts=np.zeros(1, np.int32),
    )
    params = np.ones(1, PARAMS)
    params.setflags(write=False)
    return tape, params


def load_kernel() -> None:
    """Step an account."""
    env = TradingEnv(*small_market())
    env.reset()
    env.step(0)


load_kernel()
