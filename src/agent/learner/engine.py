"""The fused learner at work on one model: acting, and minibatches."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from src.agent import clock as parts
from src.agent.clock import Clock, NoClock
from src.agent.learner import kernels
from src.agent.learner.coverage import ACTIVATIONS
from src.agent.learner.network import KERNELS, FlatWeights, Workspace
from src.agent.learner.products import Floats, Library, aligned
from src.agent.policy import LOG_P_MIN, FlattenWithoutOpinion, HybridPolicy
from src.trading.layout import OPINION


@dataclass(frozen=True)
class LossSettings:
    """What an update's loss is made of, constant within it."""

    clip: float
    clip_vf: float
    """Below 0: values are not clipped."""
    ent_coef: float
    vf_coef: float
    normalize: bool


@dataclass(frozen=True)
class Rollout:
    """A rollout's arrays with one row a timestep, whatever the order."""

    observations: NDArray[Any]
    terms: Floats
    """What the pooled opinion adds to the logits, [rows, actions]."""
    masks: Floats
    actions: NDArray[np.int64]
    log_probs: Floats
    values: Floats
    advantages: Floats
    returns: Floats


class Engine:
    """Networks, memory and kernels of a model that `coverage` allows."""

    def __init__(self, policy: Any, library: Library, clock: Clock | None = None) -> None:
        self.library = library
        self.clock = clock or NoClock()
        self.weights = FlatWeights(policy)
        self.policy = policy
        self._activation = ACTIVATIONS[policy.activation_fn]
        blank = type(policy.features_extractor) is FlattenWithoutOpinion
        self._blank = (OPINION.start, OPINION.stop) if blank else (0, 0)
        self._acting: Workspace | None = None
        self._training: dict[int, Workspace] = {}
        self._sum: Floats | None = None
        self._terms, self._noise = aligned(0, 0), torch.empty(0, 0)
        self._all_legal = np.empty((0, 0), np.bool_)
        self._rows = np.empty(0, np.int64)

    # ---------------------------------------------------------------- acting

    def _acts(self, rows: int) -> Workspace:
        if self._acting is None or self._acting.rows != rows:
            work = Workspace(self.weights, self._activation, self.library, rows, trains=False)
            n_actions = work.logits.shape[1]
            self._terms = aligned(rows, n_actions)
            self._terms.fill(-0.0)
            self._noise = torch.empty(rows, n_actions)
            self._all_legal = np.ones((rows, n_actions), np.bool_)
            self._rows = np.arange(rows)
            self._acting = work
        return self._acting

    def act(
        self, observations: NDArray[Any], masks: NDArray[np.bool_] | None, actions: NDArray[np.int64], log_probs: Floats
    ) -> Floats:
        """Draw an action for every row and write it and its log-probability; returns the values.

        Draws the random numbers that the library would, from torch's generator. Raises ValueError where the policy's
        output is not finite.
        """
        clock = self.clock
        before = clock.switch(parts.FORWARD)
        values = self.values(observations)
        self._fill_terms(observations, self._terms)
        work = self._acts(len(observations))
        clock.switch(parts.SAMPLING)
        noise = self._noise.exponential_().numpy()
        given = self._all_legal if masks is None else masks
        bias = self.weights.last[0].bias
        if not kernels.sample(work.logits, bias, self._terms, given, noise, self._rows, actions, log_probs):
            raise ValueError("The policy's output is not finite, so no action can be drawn from it.")
        clock.switch(before)
        return values

    def values(self, observations: NDArray[Any]) -> Floats:
        """The value of every row, in new memory."""
        work = self._acts(len(observations))
        kernels.gather(observations, self._rows, *self._blank, work.x)
        work.forward()
        return work.values[:, 0] + self.weights.last[1].bias[0]

    def _fill_terms(self, observations: NDArray[Any], terms: Floats) -> None:
        if isinstance(self.policy, HybridPolicy):
            before = self.clock.switch(parts.ADVICE)
            weight = np.float32(self.policy.llm_weight)
            kernels.pool_terms(observations, OPINION.start, weight, LOG_P_MIN, terms)
            self.clock.switch(before)

    # ---------------------------------------------------------------- learning

    def rollout(self, buffer: Any) -> Rollout:
        """The arrays of a full buffer, one row a timestep; nothing is copied."""
        n = buffer.buffer_size * buffer.n_envs
        terms = aligned(n, buffer.mask_dims)
        terms.fill(-0.0)
        observations = buffer.observations.reshape(n, -1)
        self._fill_terms(observations, terms)
        flat = (getattr(buffer, name).reshape(n) for name in ("log_probs", "values", "advantages", "returns"))
        actions = buffer.actions.reshape(n).astype(np.int64, copy=False)
        return Rollout(observations, terms, buffer.action_masks.reshape(n, -1), actions, *flat)

    def gradient(
        self, rollout: Rollout, rows: NDArray[np.int64], part: int | None, loss: LossSettings
    ) -> NDArray[np.float64]:
        """The loss's gradient over a minibatch, left in `weights.gradient`; returns its sums (see `kernels`).

        `part`: rows evaluated at once, None for all.
        """
        n = len(rows)
        mean, scale = 0.0, 1.0
        if loss.normalize:
            mean, deviation = kernels.moments(rollout.advantages, rows)
            scale = deviation + 1e-8
        sums = np.zeros(kernels.N_SUMS)
        size = min(part or n, n)
        total = self._total(n > size)
        for start in range(0, n, size):
            self._part(rollout, rows[start : start + size], n, (mean, scale), loss, sums)
            if total is not None:
                total += self.weights.gradient
        if total is not None:
            self.weights.gradient[:] = total
        return sums

    def _total(self, in_parts: bool) -> Floats | None:
        if not in_parts:
            return None
        if self._sum is None:
            self._sum = aligned(len(self.weights.gradient))
        self._sum.fill(0.0)
        return self._sum

    def _part(
        self,
        rollout: Rollout,
        rows: NDArray[np.int64],
        n: int,
        moments: tuple[float, float],
        loss: LossSettings,
        sums: NDArray[np.float64],
    ) -> None:
        work = self._trains(len(rows))
        last_policy, last_value = self.weights.last
        self.weights.clear_sums()
        for block in work.blocks:
            some = rows[block.rows]
            kernels.gather(rollout.observations, some, *self._blank, block.x)
            block.forward()
            kernels.policy_gradient(
                block.logits, last_policy.bias, rollout.terms, rollout.masks, rollout.actions, rollout.log_probs,
                rollout.advantages, some, *moments, n, loss.clip, loss.ent_coef,
                block.d_logits, last_policy.bias_gradient, sums,
            )  # fmt: skip
            kernels.value_gradient(
                block.values, last_value.bias, rollout.returns, rollout.values, some, n, loss.clip_vf, loss.vf_coef,
                block.d_values, last_value.bias_gradient, sums,
            )  # fmt: skip
            block.backward()
        work.finish()

    def _trains(self, rows: int) -> Workspace:
        if rows not in self._training:
            if len(self._training) > 1:  # a whole minibatch and the rest are all there can be
                self._training.clear()
            self._training[rows] = Workspace(
                self.weights, self._activation, self.library, rows, trains=True, clock=self.clock
            )
        return self._training[rows]

    def forget(self) -> None:
        """Give back the memory of minibatches: there is too little for it."""
        self._training.clear()

    def step(self, steps: int, max_norm: float) -> None:
        """Clip the gradient and make Adam's `steps`-th step with it."""
        group, flat = self.policy.optimizer.param_groups[0], self.weights
        beta1, beta2 = group["betas"]
        scale = max_norm / (kernels.norm(flat.gradient) + 1e-6)
        scale = 1.0 if scale > 1.0 else scale  # NaN stays NaN
        rate, root = float(group["lr"]) / (1.0 - beta1**steps), 1.0 / math.sqrt(1.0 - beta2**steps)
        flat.adam(scale, rate, beta1, beta2, group["eps"], root)


@functools.cache
def compile_kernels(dtype: str = "float32") -> None:
    """Call every kernel as the engine does, with observations of this dtype, so that none is compiled in a training: on
    a machine's first run numba takes seconds for them."""
    rows, numbers, steps = np.zeros(1, np.int64), np.zeros(1, np.float32), (1.0, 1e-3, 0.9, 0.999, 1e-5, 1.0)
    table, observations, sums = np.zeros((1, 1), np.float32), np.zeros((1, 1), dtype), np.zeros(kernels.N_SUMS)
    for forward, backward in KERNELS.values():
        forward(table, numbers)
        backward(table, table, numbers)
    kernels.single_output(table, table, table.copy())
    kernels.single_backward(table, table, table, table.copy(), table.copy())
    kernels.gather(observations, rows, 0, 0, table)
    kernels.pool_terms(observations, 0, np.float32(0.0), LOG_P_MIN, table)
    kernels.sample(table, numbers, table, np.ones((1, 1), np.bool_), table + 1.0, rows, rows.copy(), numbers)
    kernels.moments(numbers, rows)
    given = (numbers, numbers, rows, 0.0, 1.0, 1, 0.2, 0.0)
    kernels.policy_gradient(table, numbers, table, table, rows, *given, table.copy(), numbers.copy(), sums)
    kernels.value_gradient(table, numbers, numbers, numbers, rows, 1, -1.0, 0.5, table.copy(), numbers.copy(), sums)
    kernels.norm(numbers)
    kernels.adam(numbers, numbers.copy(), numbers.copy(), numbers.copy(), *steps)
    kernels.adam_turned(numbers, table, numbers.copy(), numbers.copy(), *steps)
