"""MaskablePPO whose rollouts and updates run in the fused learner where it covers the model."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv

from src.agent import clock as parts
from src.agent.learner import kernels
from src.agent.learner.buffer import KeptRolloutBuffer
from src.agent.learner.coverage import why_not_covered, why_not_now
from src.agent.learner.engine import Engine, LossSettings, compile_kernels
from src.agent.learner.products import fastest, use_threads
from src.agent.ppo import TimedMaskablePPO


class FusedMaskablePPO(TimedMaskablePPO):
    """The same PPO with explicit gradients: the same losses of the same minibatches, actions drawn from the same random
    numbers, equal weights but for rounding; 1.4 times as fast or more.

    `why_stock` says why the library's own update trains this model instead; None where the fused learner does.
    """

    why_stock: str | None = None
    _engine: Engine | None = None

    def _setup_model(self) -> None:
        super()._setup_model()
        self.why_stock = why_not_covered(self)
        if self.why_stock is None:
            buffer = self.rollout_buffer
            self.rollout_buffer = KeptRolloutBuffer(
                buffer.buffer_size, buffer.observation_space, buffer.action_space, buffer.device,
                gae_lambda=buffer.gae_lambda, gamma=buffer.gamma, n_envs=buffer.n_envs,
            )  # fmt: skip

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_engine", "why_stock", "products"]

    @property
    def learner(self) -> str:
        """See TimedMaskablePPO."""
        if self.population_on is not None:
            return "population"
        return "stock" if self.why_stock else "fused"

    def make_ready(self) -> None:
        """Compile and choose what is not yet, so that it takes none of the training's time."""
        if self.why_stock is None:
            compile_kernels(str(self.rollout_buffer.observations.dtype))
            self._fused()

    def release(self) -> None:
        """Give back the memory that only training needs; a later training takes new."""
        if self._engine is not None:
            self._engine.forget()
        self._engine = None

    def _fused(self) -> Engine | None:
        """The engine, with the policy's weights; None where the library trains now."""
        if self.why_stock is not None or why_not_now(self) is not None:
            return None
        if self.products is None:
            self.products = fastest()
        engine = self._engine
        if engine is None or (engine.library, engine.policy, engine.clock) != (self.products, self.policy, self.clock):
            engine = self._engine = Engine(self.policy, self.products, self.clock)
        use_threads(self.products)
        engine.weights.adopt_weights()
        return engine

    def _collect(self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, *args: Any) -> bool:
        engine = self._fused()
        if engine is None or not isinstance(rollout_buffer, MaskableRolloutBuffer):
            return super()._collect(env, callback, rollout_buffer, *args)
        return self._collect_fused(engine, env, callback, rollout_buffer, *args)

    def _collect_fused(
        self,
        engine: Engine,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: MaskableRolloutBuffer,
        n_rollout_steps: int,
        use_masking: bool = True,
    ) -> bool:
        """As the library's, with its names for local variables, which callbacks read."""
        assert self._last_obs is not None
        self.policy.set_training_mode(False)
        n_steps, action_masks = 0, None
        rollout_buffer.reset()
        if use_masking and not is_masking_supported(env):
            raise ValueError("Environment does not support action masking. Consider using ActionMasker wrapper")
        callback.on_rollout_start()
        ended: list[_Ended] = []
        while n_steps < n_rollout_steps:
            if use_masking:
                action_masks = _masks_of(env)
                rollout_buffer.action_masks[n_steps] = action_masks
            observations = rollout_buffer.observations[n_steps]
            observations[...] = self._last_obs
            actions, log_probs = np.empty(env.num_envs, np.int64), rollout_buffer.log_probs[n_steps]
            values = engine.act(observations.reshape(env.num_envs, -1), action_masks, actions, log_probs)
            new_obs, rewards, dones, infos = env.step(actions)
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            if said := [index for index, info in enumerate(infos) if info]:
                self._update_info_buffer([infos[index] for index in said], dones[said])
            rollout_buffer.actions[n_steps, :, 0] = actions
            rollout_buffer.rewards[n_steps] = rewards
            rollout_buffer.episode_starts[n_steps] = self._last_episode_starts
            rollout_buffer.values[n_steps] = values
            ended += _cut_short(n_steps, dones, infos)
            n_steps += 1
            self._last_obs = new_obs  # type: ignore[assignment]
            self._last_episode_starts = dones
        rollout_buffer.pos, rollout_buffer.full = n_steps, n_steps == rollout_buffer.buffer_size
        self._bootstrap(engine, rollout_buffer, ended)
        last_values = torch.from_numpy(engine.values(np.asarray(new_obs).reshape(env.num_envs, -1)))
        rollout_buffer.compute_returns_and_advantage(last_values=last_values, dones=dones)
        callback.on_rollout_end()
        return True

    def _bootstrap(self, engine: Engine, buffer: RolloutBuffer, ended: list[_Ended]) -> None:
        """Add the discounted value of the state in which an episode was cut short to its last reward."""
        n_envs = buffer.n_envs
        block = np.zeros((n_envs, int(np.prod(buffer.obs_shape))), buffer.observations.dtype)
        for start in range(0, len(ended), n_envs):
            some = ended[start : start + n_envs]
            for row, one in enumerate(some):
                block[row] = np.ravel(one.observation)
            for one, value in zip(some, engine.values(block), strict=False):
                buffer.rewards[one.step, one.env] += self.gamma * value

    def _update_once(self) -> None:
        engine = self._fused()
        if engine is None:
            super()._update_once()
            return
        try:
            self._fused_update(engine)
        except MemoryError:
            engine.forget()
            raise

    def _fused_update(self, engine: Engine) -> None:
        """As the library's `train`, which names what is logged."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        loss, buffer, clock = self._loss_settings(), self.rollout_buffer, self.clock
        rollout, rows_of = engine.rollout(buffer), _row_numbers(buffer)
        steps = engine.weights.adopt_moments()
        means: list[np.ndarray] = []
        kls: list[float] = []
        try:
            for _ in range(self.n_epochs):
                kls, going_on = [], True
                for rows in _minibatches(rows_of, self.batch_size):
                    clock.switch(parts.ELEMENTWISE)
                    sums = engine.gradient(rollout, rows, self.micro_batch, loss)
                    clock.switch(parts.BOOKKEEPING)
                    means.append(sums / len(rows))
                    kls.append(means[-1][kernels.KL])
                    if self.target_kl is not None and kls[-1] > 1.5 * self.target_kl:
                        going_on = False
                        break
                    steps += 1
                    clock.switch(parts.OPTIMIZER)
                    engine.step(steps, self.max_grad_norm)
                    clock.switch(parts.BOOKKEEPING)
                self._n_updates += 1
                if not going_on:
                    break
        finally:
            engine.weights.set_steps(steps)
        self._log_update(np.array(means), kls, rollout.values, rollout.returns, loss)

    def _loss_settings(self) -> LossSettings:
        left = self._current_progress_remaining
        clip: Any = self.clip_range  # schedules, since the model was set up
        clip_vf: Any = self.clip_range_vf
        return LossSettings(
            float(clip(left)),
            -1.0 if clip_vf is None else float(clip_vf(left)),
            self.ent_coef,
            self.vf_coef,
            self.normalize_advantage,
        )

    def _log_update(
        self, means: np.ndarray, kls: list[float], values: np.ndarray, returns: np.ndarray, loss: LossSettings
    ) -> None:
        policy_loss, value_loss, entropy, clipped, _ = means.T
        record = self.logger.record
        record("train/entropy_loss", -entropy.mean())
        record("train/policy_gradient_loss", policy_loss.mean())
        record("train/value_loss", value_loss.mean())
        record("train/approx_kl", np.mean(kls))
        record("train/clip_fraction", clipped.mean())
        record("train/loss", policy_loss[-1] - loss.ent_coef * entropy[-1] + loss.vf_coef * value_loss[-1])
        record("train/explained_variance", explained_variance(values, returns))
        record("train/n_updates", self._n_updates, exclude="tensorboard")
        record("train/clip_range", loss.clip)
        if loss.clip_vf >= 0.0:
            record("train/clip_range_vf", loss.clip_vf)


class _Ended(NamedTuple):
    """An episode that was cut short: at this step, in this environment, seeing this."""

    step: int
    env: int
    observation: np.ndarray


def _cut_short(step: int, dones: np.ndarray, infos: list[dict[str, Any]]) -> list[_Ended]:
    return [
        _Ended(step, env, infos[env]["terminal_observation"])
        for env in np.flatnonzero(dones).tolist()
        if infos[env].get("terminal_observation") is not None and infos[env].get("TimeLimit.truncated", False)
    ]


def _masks_of(env: VecEnv) -> np.ndarray:
    """What is legal, bool[n_envs, actions]: at once where the accounts are a batch, else one by one."""
    at_once = getattr(env, "masks_at_once", None)
    masks = None if at_once is None else at_once()
    return np.ascontiguousarray(get_action_masks(env), np.bool_) if masks is None else masks


def _row_numbers(buffer: RolloutBuffer) -> np.ndarray:
    """Row of each timestep in the order in which the library flattens a rollout, one account after another."""
    n_steps, n_envs = buffer.buffer_size, buffer.n_envs
    if buffer.generator_ready:  # somebody has read minibatches, and it is flattened
        return np.arange(n_steps * n_envs)
    return np.arange(n_steps * n_envs).reshape(n_steps, n_envs).T.ravel()


def _minibatches(rows_of: np.ndarray, size: int | None) -> list[np.ndarray]:
    """An epoch's minibatches, drawn as the library's buffer draws them."""
    order = rows_of[np.random.permutation(len(rows_of))]  # noqa: NPY002  (SB3 uses the global one)
    size = size or len(order)
    return [order[start : start + size] for start in range(0, len(order), size)]
