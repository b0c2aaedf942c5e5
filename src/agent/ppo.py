"""MaskablePPO with timing, updates split when memory is short, and a stop on divergence.

The update itself is the library's; none of it is rewritten here.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from torch.utils.checkpoint import checkpoint

from src.agent import clock as parts
from src.agent.clock import CPU_EVERY, Clock
from src.agent.divergence import is_finite, raise_if_diverged, raise_if_given_bad
from src.agent.pace import Pace
from src.errors import UserError, is_out_of_memory
from src.trading.vec_env import BatchedTradingVecEnv

logger = logging.getLogger(__name__)

Library = Literal["torch", "numpy"]
MIN_MICRO_BATCH = 16
"""Rows below which an update is not split further: the rest of the memory is weights, Adam and the rollout."""


class TimedMaskablePPO(MaskablePPO):
    """Adds up seconds spent collecting rollouts (`rollout_s`) and updating (`update_s`), and by part on its `clock`.

    `bf16_update` runs the update under bf16 autocast, on CUDA only (on a CPU without AMX it is 8-13 times slower).
    `micro_batch` is the number of minibatch rows evaluated at once, None for all. An update that runs out of memory is
    undone, `micro_batch` is halved and the update restarts; `split_updates` counts split updates, which equal whole
    ones except for rounding. `pace` has the seconds of each rollout with its update. `after_update` is called at every
    rollout boundary, where no step is pending; an exception from it ends `learn`.

    `learn` raises TrainingDiverged if a loss, a weight or the environment's output is not finite (`after_update` is not
    called for that update), and UserError if 16 rows still exceed the memory.
    """

    clock: Clock
    """Where the time goes; a new one until it is replaced."""
    rollout_s = 0.0
    update_s = 0.0
    checkpoint_s = 0.0
    """Seconds spent taking and writing checkpoints, counted by the code that takes them."""
    bf16_update = False
    micro_batch: int | None = None
    split_updates = 0
    after_update: Callable[[], None] | None = None
    products: Library | None = None
    """The library that multiplies the fused learner's matrices; None until it is chosen, and for the stock learner."""
    population_on: str | None = None
    """Type of the device on which a population trains this model with others; None where it trains on its own."""

    def _setup_model(self) -> None:
        super()._setup_model()
        self.clock = Clock()
        self.pace = Pace()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "clock", "pace", "population_on"]

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        if self.learner == "stock":
            # The optimizer imports it at its first step. An update that runs short of memory must not pay for that.
            import torch._dynamo  # noqa: F401
        with self.clock.within(parts.ENVIRONMENT):  # it resets them
            return super()._setup_learn(*args, **kwargs)

    @property
    def environment_s(self) -> float:
        """Seconds of `rollout_s` spent in the environment; the rest is the policy's."""
        return self.clock.seconds(parts.ENVIRONMENT)

    def collect_rollouts(self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, *args: Any) -> bool:
        """See MaskablePPO."""
        began = time.perf_counter()
        before = self.clock.switch(parts.BUFFER)
        try:
            return self._collect(_TimedVecEnv(env, self.num_timesteps, self.clock), callback, rollout_buffer, *args)
        except (ValueError, RuntimeError) as error:
            raise_if_diverged(self, "acting", self.logger.name_to_value, error)
            raise
        finally:
            self.clock.watch_cpu(True)
            self.clock.switch(before)
            self.rollout_s += time.perf_counter() - began

    def _collect(self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, *args: Any) -> bool:
        """The rollout itself: the library's."""
        self.clock.switch(parts.POLICY)
        return super().collect_rollouts(env, callback, rollout_buffer, *args)

    def train(self) -> None:
        """See MaskablePPO."""
        began = time.perf_counter()
        try:
            with self.clock.within(parts.BOOKKEEPING):
                self._update()
        finally:
            self.update_s += time.perf_counter() - began
        self.pace.rollout_ended()
        if self.after_update is not None:
            self.after_update()

    @property
    def learner(self) -> str:
        """What trains this model: stock, fused or population."""
        return "stock" if self.population_on is None else "population"

    @property
    def trained_on(self) -> str:
        """Type of the device it trains on, which is not always where the model is: a population has a copy there."""
        return self.population_on or self.device.type

    @property
    def minibatch(self) -> int:
        """Rows of a whole minibatch."""
        rollout = self.n_steps * self.n_envs
        return min(self.batch_size or rollout, rollout)

    def _update(self) -> None:
        """One update, split as far as memory requires; a failed attempt is undone."""
        before = _BeforeUpdate(self)
        while (said := self._attempt(before)) is not None:
            before.put_back(self)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self._halve_micro_batch(said)
        if self.micro_batch is not None and self.micro_batch < self.minibatch:
            self.split_updates += 1
        if not is_finite(self):
            raise_if_diverged(self, "updating", before.log[0], None)

    def _attempt(self, before: _BeforeUpdate) -> str | None:
        """Update; on out-of-memory return the allocator's message (the exception itself would keep tensors alive)."""
        try:
            self._update_once()
        except (MemoryError, RuntimeError, ValueError) as error:
            if is_out_of_memory(error):
                return str(error).partition("\n")[0] or type(error).__name__
            raise_if_diverged(self, "updating", before.log[0], error)
            raise
        return None

    def _update_once(self) -> None:
        """The update itself: the library's, `micro_batch` rows at a time."""
        with (
            torch.autocast("cuda", torch.bfloat16, enabled=self.bf16_update),
            _evaluated_in_parts(self.policy, self.micro_batch),
            self.clock.within(parts.GRADIENTS),
            self._optimizer_timed(),
        ):
            super().train()

    @contextmanager
    def _optimizer_timed(self) -> Iterator[None]:
        """Time the library's optimizer on its own, but not on a GPU, which works behind the program's back."""
        if self.device.type != "cpu":
            yield
            return

        def begins(*_: object) -> None:
            self.clock.switch(parts.OPTIMIZER)

        def ends(*_: object) -> None:
            self.clock.switch(parts.GRADIENTS)

        optimizer = self.policy.optimizer
        hooks = [optimizer.register_step_pre_hook(begins), optimizer.register_step_post_hook(ends)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _halve_micro_batch(self, said: str) -> None:
        """Halve the rows for the next attempt. Raises UserError if they cannot be halved further."""
        rows = min(self.micro_batch or self.minibatch, self.minibatch)
        if rows <= MIN_MICRO_BATCH:
            weights = sum(parameter.numel() for parameter in self.policy.parameters())
            raise UserError(
                f"Out of memory in the update at timestep {self.num_timesteps:,} on {self.device}, even with {rows} "
                f"rows of a minibatch of {self.minibatch} at a time: the rollout of {self.n_steps} steps x "
                f"{self.n_envs} accounts and {weights:,} weights do not fit. Take a smaller hardware.batch_size or "
                f"hardware.vectorized_envs, smaller networks (training.policy_kwargs.net_arch), or free memory that "
                f"other programs use. Allocator message: {said}"
            )
        self.micro_batch = max(MIN_MICRO_BATCH, rows // 2)
        logger.warning(
            "Out of memory in the update at timestep %d: from now on a minibatch of %d rows is evaluated %d rows at a "
            "time, which is slower and gives equal results except for rounding.",
            self.num_timesteps,
            self.minibatch,
            self.micro_batch,
        )


class _TimedVecEnv(VecEnvWrapper):
    """Times an environment's steps and masks, and refuses numbers that are not finite."""

    def __init__(self, venv: VecEnv, timesteps: int, clock: Clock) -> None:
        super().__init__(venv)
        self._clock = clock
        self._steps, self._timesteps = 0, timesteps

    def reset(self) -> VecEnvObs:
        """See VecEnv."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """See VecEnv."""
        return self.venv.step_wait()

    def step(self, actions: np.ndarray) -> VecEnvStepReturn:
        """See VecEnv."""
        before = self._clock.switch(parts.ENVIRONMENT)
        result = self.venv.step(actions)
        self._clock.switch(before)
        self._steps += 1
        self._clock.watch_cpu(self._steps % CPU_EVERY == 0)
        raise_if_given_bad(result[0], result[1], self._timesteps)
        self._timesteps += self.num_envs
        return result

    def masks_at_once(self) -> np.ndarray | None:
        """Legal actions of all accounts, bool[n_envs, actions], where they are one batch; else None."""
        if not isinstance(self.venv, BatchedTradingVecEnv):
            return None
        before = self._clock.switch(parts.ENVIRONMENT)
        masks = self.venv.action_masks()
        self._clock.switch(before)
        return masks

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """See VecEnv."""
        with self._clock.within(parts.ENVIRONMENT):
            return self.venv.env_method(method_name, *args, indices=indices, **kwargs)


class _BeforeUpdate:
    """State that an update changes, saved before it. Taken before every update, so it copies only the weights."""

    def __init__(self, model: TimedMaskablePPO) -> None:
        self._policy = {name: value.clone() for name, value in model.policy.state_dict().items()}
        self._adam = {
            parameter: {key: value.clone() for key, value in kept.items()}
            for parameter, kept in model.policy.optimizer.state.items()
        }
        self.log = [dict(kept) for kept in _pending(model.logger)]
        self._n_updates = model._n_updates
        self._shapes = {key: array.shape for key, array in _arrays_of(model.rollout_buffer).items()}
        self._generators = generator_states()

    def put_back(self, model: TimedMaskablePPO) -> None:
        """Undo all of it."""
        optimizer = model.policy.optimizer
        optimizer.zero_grad(set_to_none=True)
        model.policy.load_state_dict(self._policy)
        for parameter in list(optimizer.state):
            if parameter not in self._adam:
                del optimizer.state[parameter]
                continue
            for key, value in self._adam[parameter].items():
                optimizer.state[parameter][key].copy_(value)
        for now, then in zip(_pending(model.logger), self.log, strict=True):
            now.clear()
            now.update(then)
        model._n_updates = self._n_updates
        self._fold(model.rollout_buffer)
        set_generator_states(self._generators)

    def _fold(self, buffer: RolloutBuffer) -> None:
        """Restore the rollout's shapes. SB3 flattens its arrays one by one before the first minibatch; if memory ran
        out in between, the flat ones would be flattened again and scrambled."""
        for key, array in _arrays_of(buffer).items():
            if array.shape != self._shapes[key] and not buffer.generator_ready:
                n_steps, n_envs, *rest = self._shapes[key]
                setattr(buffer, key, array.reshape(n_envs, n_steps, *rest).swapaxes(0, 1).reshape(self._shapes[key]))


def _pending(logger: Logger) -> tuple[dict[str, Any], ...]:
    """Values SB3 has recorded but not dumped."""
    return logger.name_to_value, logger.name_to_count, logger.name_to_excluded


def _arrays_of(buffer: RolloutBuffer) -> dict[str, np.ndarray]:
    return {key: value for key, value in vars(buffer).items() if isinstance(value, np.ndarray)}


@contextmanager
def _evaluated_in_parts(policy: MaskableActorCriticPolicy, rows: int | None) -> Iterator[None]:
    """Evaluate a minibatch `rows` at a time and keep only the results for the backward pass.

    The results are joined, so losses, normalized advantages and clipped gradients are those of the minibatch.
    """
    if rows is None:
        yield
        return
    whole, was_set = policy.evaluate_actions, "evaluate_actions" in vars(policy)

    def in_parts(
        obs: torch.Tensor, actions: torch.Tensor, action_masks: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        if len(obs) <= rows:
            return whole(obs, actions, action_masks)
        given = (obs, actions) if action_masks is None else (obs, actions, action_masks)
        parts = zip(*(column.split(rows) for column in given), strict=True)
        results = [checkpoint(whole, *part, use_reentrant=False) for part in parts]
        values, log_prob, entropy = zip(*results, strict=True)
        return torch.cat(values), torch.cat(log_prob), None if entropy[0] is None else torch.cat(entropy)

    policy.evaluate_actions = in_parts  # type: ignore[method-assign]
    try:
        yield
    finally:
        if was_set:
            policy.evaluate_actions = whole  # type: ignore[method-assign]
        else:
            del policy.evaluate_actions


class GeneratorStates(NamedTuple):
    """State of the global generators that training draws from; `cuda` by device, empty if CUDA was not used."""

    python: tuple[Any, ...]
    numpy: dict[str, Any]
    torch: torch.Tensor
    cuda: list[torch.Tensor]


def generator_states() -> GeneratorStates:
    """The current states."""
    return GeneratorStates(
        random.getstate(),
        np.random.get_state(legacy=False),  # noqa: NPY002  (SB3 uses the global one)
        torch.get_rng_state(),
        torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    )


def set_generator_states(states: GeneratorStates) -> None:
    """Put them back."""
    random.setstate(states.python)
    np.random.set_state(states.numpy)  # noqa: NPY002
    torch.set_rng_state(states.torch)
    if states.cuda:
        torch.cuda.set_rng_state_all(states.cuda)


@contextmanager
def global_generators_kept() -> Iterator[None]:
    """Restore numpy's, Python's and torch's global generators on exit.

    Building a model seeds them and training draws from them: a probe between two phases must not change the second.
    """
    states = generator_states()
    try:
        yield
    finally:
        set_generator_states(states)
