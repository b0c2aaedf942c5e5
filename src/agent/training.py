"""Base PPO, and fine-tuning from its weights with advice (`hybrid`) or without (`rl_only`)."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.vec_env import VecEnv

from src.advisor.settings import LLMSettings
from src.agent import clock as parts
from src.agent.clock import Clock
from src.agent.interval import PlayedRollout
from src.agent.learner.fused import FusedMaskablePPO
from src.agent.learner.products import use_threads
from src.agent.no_compiler import leave_out_compiler
from src.agent.policy import HybridPolicy, Weights, transfer_weights
from src.agent.ppo import TimedMaskablePPO
from src.agent.rollout_plan import RolloutPlan
from src.agent.settings import HardwareSettings, Learner, NetArch, TrainingSettings
from src.errors import ConfigError

ACTIVATIONS = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}
_LAYERS = TrainingSettings().production_net_arch
PRODUCTION_NET_ARCH = NetArch(pi=_LAYERS, vf=_LAYERS)
"""The networks of the production run, unless the settings have others."""


leave_out_compiler()


@dataclass(frozen=True)
class TrainingRecord:
    """What one training phase did and what it took. Times in seconds, `steps_per_s` in timesteps."""

    phase: str
    timesteps_requested: int
    timesteps: int
    n_envs: int
    n_steps: int
    batch_size: int
    seconds: float
    rollout_s: float
    update_s: float
    checkpoint_s: float
    """On top of `seconds`."""
    steps_per_s: float
    environment_s: float = 0.0
    """Part of `rollout_s`: the environment's steps and masks."""
    learner: str = "stock"
    """What trained it: fused, stock or population."""
    why_learner: str = ""
    """Why the stock learner, which library multiplied the fused one's matrices, or where the population trained."""
    group: int | None = None
    """Members that trained together; its times are an equal share of theirs. None where it trained on its own."""
    precision: str | None = None
    """Of the population's products: float32, tf32 or bf16."""
    pace_s: list[float] = field(default_factory=list)
    """Wall seconds of consecutive blocks of `pace_rollouts` rollouts, updates and checkpoints included."""
    pace_rollouts: int = 1

    def to_dict(self) -> dict[str, Any]:
        """The record as it appears in the report: without what only members of a group have, for others."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def phase_seed(seed: int, phase: int) -> int:
    """A 31-bit seed for one phase of a run: accounts of different phases and seeds share no random sequence."""
    return int(np.random.SeedSequence([seed, phase]).generate_state(1)[0] >> 1)


def resolve_device(hardware: HardwareSettings) -> torch.device:
    """The device a run trains on; limits its memory on CUDA. ConfigError for CUDA that is not there."""
    available = torch.cuda.is_available()
    if hardware.device == "cuda" and not available:
        raise ConfigError(
            "hardware.device is cuda, but torch finds no CUDA device here: take --device cpu (or auto), or install a "
            "CUDA build of torch and the GPU's driver."
        )
    if not available or hardware.device == "cpu":
        return torch.device("cpu")
    torch.cuda.set_per_process_memory_fraction(hardware.memory_fraction)
    return torch.device("cuda")


def set_threads(hardware: HardwareSettings) -> int:
    """Set the CPU threads of torch and of numpy's matrix products and return them: those asked for, else one.

    Networks this small gain little from a second thread on an idle core, and on a busy one each layer waits for it: 38
    timesteps/s instead of 586 were seen in a busy container. One thread also makes results independent of what else
    the machine does.
    """
    threads = hardware.torch_threads or 1
    torch.set_num_threads(threads)
    use_threads("numpy")
    return threads


def build_base(
    env: VecEnv,
    training: TrainingSettings,
    plan: RolloutPlan,
    seed: int,
    device: torch.device,
    mixed_precision: bool,
    learner: Learner | None = None,
) -> TimedMaskablePPO:
    """A new PPO with masks on `env`; ValueError from SB3 for an env without action masks."""
    return _build(
        env, training, plan, seed, device, mixed_precision, learner,
        policy=MaskableActorCriticPolicy, learning_rate=training.learning_rate, target_kl=training.target_kl,
        net_arch=training.policy_kwargs.net_arch,
    )  # fmt: skip


def build_finetuned(
    base: MaskableActorCriticPolicy | Weights,
    env: VecEnv,
    training: TrainingSettings,
    plan: RolloutPlan,
    seed: int,
    device: torch.device,
    mixed_precision: bool,
    llm: LLMSettings | None,
    learner: Learner | None = None,
) -> TimedMaskablePPO:
    """A PPO that starts from base weights with a new Adam: hybrid where `llm` is given, else RL only.

    Both begin from the same weights (the opinion columns of both first layers zeroed), seed and learning rate.
    """
    extra: dict[str, Any] = {}
    if llm is not None:
        extra = {"llm_weight": llm.llm_weight, "use_opinion_features": llm.use_opinion_features}
    model = _build(
        env, training, plan, seed, device, mixed_precision, learner,
        policy=MaskableActorCriticPolicy if llm is None else HybridPolicy,
        learning_rate=training.finetune_learning_rate, target_kl=training.finetune_target_kl,
        net_arch=training.policy_kwargs.net_arch, policy_extra=extra,
    )  # fmt: skip
    transfer_weights(base, model.policy)
    return model


def _build(
    env: VecEnv,
    training: TrainingSettings,
    plan: RolloutPlan,
    seed: int,
    device: torch.device,
    mixed_precision: bool,
    learner: Learner | None,
    *,
    policy: type[MaskableActorCriticPolicy],
    learning_rate: float,
    target_kl: float | None,
    net_arch: NetArch,
    policy_extra: dict[str, Any] | None = None,
) -> TimedMaskablePPO:
    model = _learner_class(learner, device)(
        policy,
        env,
        learning_rate=learning_rate,
        n_steps=plan.n_steps,
        batch_size=plan.batch_size,
        n_epochs=training.n_epochs,
        gamma=training.gamma,
        gae_lambda=training.gae_lambda,
        clip_range=training.clip_range,
        ent_coef=training.ent_coef,
        vf_coef=training.vf_coef,
        max_grad_norm=training.max_grad_norm,
        target_kl=target_kl,
        policy_kwargs={
            "net_arch": {"pi": list(net_arch.pi), "vf": list(net_arch.vf)},
            "activation_fn": ACTIVATIONS[training.policy_kwargs.activation_fn],
            # Fused: one kernel for all parameters. The eps is SB3's own, which naming any kwargs would drop.
            "optimizer_kwargs": {"eps": 1e-5, "fused": True},
            **(policy_extra or {}),
        },
        seed=seed,
        device=device,
        verbose=0,
    )
    model.bf16_update = mixed_precision and device.type == "cuda"
    return model


def _learner_class(learner: Learner | None, device: torch.device) -> type[TimedMaskablePPO]:
    """The fused learner on the CPU unless `stock` is asked for; it trains stock what it does not cover."""
    return FusedMaskablePPO if device.type == "cpu" and learner != "stock" else TimedMaskablePPO


def _why_learner(model: TimedMaskablePPO) -> str:
    """One line for the report."""
    if model.device.type != "cpu":
        return f"the library's own update: the device is {model.device.type}"
    if not isinstance(model, FusedMaskablePPO):
        return "the library's own update, as hardware.learner says"
    if model.why_stock is not None:
        return f"the library's own update: {model.why_stock}"
    return f"matrix products by {model.products}, the faster library on this processor"


class WeightRamp(BaseCallback):
    """Raises the advice's weight from 0 to `llm_weight`, constant within a rollout and its update."""

    def __init__(self, llm_weight: float, ramp_rollouts: int) -> None:
        super().__init__()
        self._llm_weight = llm_weight
        self._ramp_rollouts = ramp_rollouts
        self._rollouts = 0

    def _on_rollout_start(self) -> None:
        share = min(1.0, self._rollouts / self._ramp_rollouts) if self._ramp_rollouts else 1.0
        self._set(self._llm_weight * share)
        self._rollouts += 1

    def _on_training_end(self) -> None:
        self._set(self._llm_weight)

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the number of rollouts started."""
        return {"rollouts": self._rollouts}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self._rollouts = state["rollouts"]

    def _set(self, weight: float) -> None:
        assert isinstance(self.model.policy, HybridPolicy)
        self.model.policy.set_llm_weight(weight)

    def _on_step(self) -> bool:
        return True

    def on_rollout_played(self, played: PlayedRollout) -> bool:
        """Nothing to learn from the steps."""
        self.n_calls, self.num_timesteps = self.n_calls + len(played.step_rewards), self.model.num_timesteps
        return True


def weight_ramp(llm: LLMSettings, training: TrainingSettings, plan: RolloutPlan) -> WeightRamp:
    """The ramp of a hybrid phase: at most half of its rollouts, so that a short run too trains at the full weight."""
    return WeightRamp(llm.llm_weight, min(training.weight_ramp_rollouts, plan.rollouts // 2))


class _TimedCallbacks(CallbackList):
    """Callbacks whose time counts as logging."""

    def __init__(self, callbacks: list[BaseCallback], clock: Clock) -> None:
        super().__init__(callbacks)
        self._clock = clock

    def update_locals(self, locals_: dict[str, Any]) -> None:
        """See BaseCallback."""
        before = self._clock.switch(parts.LOGGING)
        super().update_locals(locals_)
        self._clock.switch(before)

    def on_step(self) -> bool:
        """See BaseCallback."""
        before = self._clock.switch(parts.LOGGING)
        on = super().on_step()
        self._clock.switch(before)
        return on

    def _on_training_end(self) -> None:
        with self._clock.within(parts.LOGGING):
            super()._on_training_end()


def train(
    model: TimedMaskablePPO,
    plan: RolloutPlan,
    phase: str,
    callbacks: Sequence[BaseCallback],
    *,
    resumed: bool = False,
) -> TrainingRecord:
    """Train the planned rollouts, or where `resumed` what is left of them, and say what all of them took."""
    if isinstance(model, FusedMaskablePPO):
        model.make_ready()
    model.clock.switch(parts.BOOKKEEPING)
    model.pace.begin()
    try:
        model.learn(
            plan.actual - model.num_timesteps if resumed else plan.actual,  # learn() adds the timesteps done
            callback=_TimedCallbacks(list(callbacks), model.clock),
            log_interval=None,  # type: ignore[arg-type]
            reset_num_timesteps=not resumed,
        )
    finally:
        for callback in callbacks:  # what they were shown of a rollout would keep all of it in memory
            callback.locals = {}
    return record_of(model, plan, phase, model.learner, _why_learner(model))


def record_of(model: TimedMaskablePPO, plan: RolloutPlan, phase: str, learner: str, why_learner: str) -> TrainingRecord:
    """What a model's training took, and what trained it."""
    seconds = model.rollout_s + model.update_s
    return TrainingRecord(
        phase=phase,
        timesteps_requested=plan.requested,
        timesteps=model.num_timesteps,
        n_envs=plan.n_envs,
        n_steps=plan.n_steps,
        batch_size=plan.batch_size,
        seconds=seconds,
        rollout_s=model.rollout_s,
        update_s=model.update_s,
        checkpoint_s=model.checkpoint_s,
        steps_per_s=model.num_timesteps / seconds if seconds else 0.0,
        environment_s=model.environment_s,
        learner=learner,
        why_learner=why_learner,
        pace_s=model.pace.seconds(),
        pace_rollouts=model.pace.rollouts,
    )


def release(*models: TimedMaskablePPO) -> int:
    """Drop trained models' rollout buffers and environments: only their policies are used on. Returns bytes dropped."""
    dropped = 0
    for model in models:
        arrays = [value for value in vars(model.rollout_buffer).values() if isinstance(value, np.ndarray)]
        dropped += sum(array.nbytes for array in arrays)
        model.rollout_buffer.__dict__.clear()
        model.env = None
        model._last_obs = None
        if isinstance(model, FusedMaskablePPO):
            model.release()
    gc.collect()
    if any(model.device.type == "cuda" for model in models):
        torch.cuda.empty_cache()
    return dropped
