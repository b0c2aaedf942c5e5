"""MaskablePPO as it is trained here: where the time goes is measured, the rest is the library's."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv


class TimedMaskablePPO(MaskablePPO):
    """Adds up seconds spent collecting rollouts (`rollout_s`) and updating (`update_s`).

    `bf16_update` runs the update under bf16 autocast; for CUDA only (on a CPU without AMX it is 8-13 times slower).
    """

    rollout_s = 0.0
    update_s = 0.0
    bf16_update = False

    def collect_rollouts(self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, *args: Any) -> bool:
        """See MaskablePPO."""
        began = time.perf_counter()
        try:
            return super().collect_rollouts(env, callback, rollout_buffer, *args)
        finally:
            self.rollout_s += time.perf_counter() - began

    def train(self) -> None:
        """See MaskablePPO."""
        began = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16, enabled=self.bf16_update):
            super().train()
        self.update_s += time.perf_counter() - began


@contextmanager
def global_generators_kept() -> Iterator[None]:
    """Leave numpy's, Python's and torch's global generators as they were found.

    Building a model seeds them, and its training draws from them: a probe between two phases must not change the
    second.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  (SB3 uses the global one)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
