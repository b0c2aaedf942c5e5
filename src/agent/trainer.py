"""What every training of a run shares: accounts, new policies, policies fine-tuned from base weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from src.advisor.settings import LLMSettings
from src.advisor.table import AdviceTable, empty_table
from src.agent.market import Market
from src.agent.members import Training
from src.agent.own_cache import CountingCache, share_cache
from src.agent.policy import Weights
from src.agent.ppo import TimedMaskablePPO, global_generators_kept
from src.agent.rollout_plan import RolloutPlan
from src.agent.settings import HardwareSettings, TrainingSettings
from src.agent.training import TrainingRecord, build_base, build_finetuned, phase_seed, train, weight_ramp
from src.trading.routes import is_trading_shaped, make_custom_vec_env, make_vec_env
from src.trading.settings import EnvironmentSettings
from src.trading.vec_env import BatchedTradingVecEnv

BASE_PHASE, FINETUNE_PHASE, EVALUATION_PHASE = range(3)


@dataclass(frozen=True)
class Trainer:
    """What all training phases of a run share."""

    training: TrainingSettings
    hardware: HardwareSettings
    environment: EnvironmentSettings
    device: torch.device
    seed: int
    feature_cache: CountingCache | None = None
    """For environments of the user's own that have an attribute `feature_cache`."""

    def make_env(self, market: Market | None, table: AdviceTable | None = None) -> VecEnv:
        """The accounts to train on: the market's, or the user's own environments where `env_class` names a class."""
        hardware = self.hardware
        if self.environment.env_class is not None:
            kwargs = self.environment.env_kwargs
            env = make_custom_vec_env(
                hardware.vec_env, self.environment.env_class, kwargs, hardware.vectorized_envs, hardware.stuck_worker_s
            )
            if self.feature_cache is not None:
                share_cache(env, self.feature_cache)
            return env
        assert market is not None
        tape = market.tape(table or empty_table())
        return make_vec_env(
            hardware.vec_env, tape, market.params, hardware.vectorized_envs, stuck_s=hardware.stuck_worker_s
        )

    def new_base(self, env: VecEnv, plan: RolloutPlan) -> TimedMaskablePPO:
        """A new policy, without advice."""
        seed = phase_seed(self.seed, BASE_PHASE)
        hardware = self.hardware
        return build_base(env, self.training, plan, seed, self.device, hardware.mixed_precision, hardware.learner)

    def base(
        self, env: VecEnv, plan: RolloutPlan, callbacks: Sequence[BaseCallback]
    ) -> tuple[TimedMaskablePPO, TrainingRecord]:
        """Phase 2: a new policy, trained."""
        model = self.new_base(env, plan)
        return model, train(model, plan, Training.BASE, callbacks)

    def new_finetuned(
        self, base: MaskableActorCriticPolicy | Weights, env: VecEnv, plan: RolloutPlan, llm: LLMSettings | None
    ) -> tuple[TimedMaskablePPO, list[BaseCallback]]:
        """A policy that begins from base weights, `hybrid` where `llm` is given, else `rl_only`, with equal steps,
        seed and rate; and the callbacks its training needs."""
        seed = phase_seed(self.seed, FINETUNE_PHASE)
        hardware = self.hardware
        model = build_finetuned(
            base, env, self.training, plan, seed, self.device, hardware.mixed_precision, llm, hardware.learner
        )
        return model, [] if llm is None else [weight_ramp(llm, self.training, plan)]

    def policy(self, market: Market, weights: Weights, llm: LLMSettings | None) -> MaskableActorCriticPolicy:
        """A trained policy on the CPU from its weights, a hybrid where `llm` is given; without what only training
        needs."""
        env = BatchedTradingVecEnv(market.tape(empty_table()), market.params, 1)
        plan, on = RolloutPlan(1, 2, 2, 1, 2, 2), torch.device("cpu")
        with global_generators_kept():
            if llm is None:
                model = build_base(env, self.training, plan, 0, on, mixed_precision=False, learner="stock")
            else:
                model = build_finetuned(
                    weights, env, self.training, plan, 0, on, mixed_precision=False, llm=llm, learner="stock"
                )
        model.policy.load_state_dict(dict(weights))
        model.policy.set_training_mode(False)
        return model.policy

    def finetune(
        self,
        base: TimedMaskablePPO,
        env: VecEnv,
        plan: RolloutPlan,
        callbacks: Sequence[BaseCallback],
        llm: LLMSettings | None,
    ) -> tuple[TimedMaskablePPO, TrainingRecord]:
        """Phase 3 from base weights, trained."""
        model, own = self.new_finetuned(base.policy, env, plan, llm)
        return model, train(model, plan, Training.RL_ONLY if llm is None else Training.HYBRID, [*callbacks, *own])


def supports_advice(env: VecEnv) -> bool:
    """Whether phases after base training apply to these environments."""
    return is_trading_shaped(env)
