"""What both modes and the parts do alike: one market, the same steps, trainings, decisions, look-ups and questions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from src.advisor.encoding import PromptEncoder
from src.advisor.models import LoadedModel
from src.advisor.prompts import load_prompts
from src.advisor.scoring import LLMScorer
from src.advisor.situations import N_SITUATIONS
from src.agent.learner.bound import hidden_products, multiplying
from src.agent.market import Market, market_of_bars
from src.agent.ppo import Library, TimedMaskablePPO
from src.agent.rollout_plan import RolloutPlan
from src.agent.settings import Learner, TrainingSettings
from src.agent.training import build_base, train
from src.benchmarks.generation import generate_advice
from src.benchmarks.timing import Call
from src.market.settings import DataSettings
from src.market.synthetic import synthetic_bars
from src.trading.layout import N_ACTIONS, N_SIDES
from src.trading.settings import EnvironmentSettings


def synthetic_market(sessions: int = 60) -> Market:
    """Synthetic 5-minute bars of NQ; files in data/ are not read."""
    return market_of_bars(synthetic_bars("NQ", sessions, 5, seed=0), DataSettings(), EnvironmentSettings())


def random_actions(n_envs: int) -> Iterator[NDArray[np.int64]]:
    """Actions of the accounts, int64[n_envs], drawn beforehand and dealt round and round."""
    return itertools.cycle(np.random.default_rng(0).integers(0, N_ACTIONS, (64, n_envs)))


def stepping(env: VecEnv) -> Call:
    """Step the accounts of a vec env."""
    turns = random_actions(env.num_envs)
    env.reset()
    return lambda: env.step(next(turns))


def new_policy(env: VecEnv, settings: TrainingSettings, plan: RolloutPlan, learner: Learner) -> TimedMaskablePPO:
    """An untrained policy on the CPU."""
    return build_base(env, settings, plan, 0, torch.device("cpu"), mixed_precision=False, learner=learner)


def learning(model: TimedMaskablePPO, plan: RolloutPlan, *callbacks: BaseCallback) -> Call:
    """Train a plan on and on."""
    return lambda: train(model, plan, "benchmark", callbacks)


def decisions(n: int, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
    """The five arrays of `fuse_batch` for `n` decisions: a seventh of the advice abstains."""
    rl_actions, llm_actions = rng.integers(0, N_ACTIONS, n), rng.integers(-1, N_ACTIONS, n)
    rl_confidences, llm_confidences, risk = rng.random((3, n), dtype=np.float32)
    return rl_actions, rl_confidences, llm_actions, llm_confidences, risk


def lookups(capacity: int, batch: int, hit_rate: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows to look up, int64[k, batch]: a cache of `capacity` rows keeps finding the share `hit_rate` of them.

    The hits go to an eighth of the capacity, which is used so often that it hardly ever leaves (for hit rates from 0.3
    on); the others come round only when ten capacities of other rows have been asked for.
    """
    hot, cold = capacity // 8, 10 * capacity
    n_batches = int(np.ceil(cold / (1.0 - hit_rate) / batch))
    is_hit = rng.random(n_batches * batch) < hit_rate
    rows = np.where(is_hit, rng.integers(0, hot, is_hit.size), hot + (np.cumsum(~is_hit) - 1) % cold)
    return rows.reshape(n_batches, batch)


def looking_up(get: Callable[[int], object], keys: Iterator[int], n: int) -> Call:
    """Look up the next `n` keys, one after another."""

    def look_up() -> None:
        for key in itertools.islice(keys, n):
            get(key)

    return look_up


GENERATED_TOKENS = 50
"""Most tokens of an advice that is generated as JSON."""


def situations_to_judge(n: int) -> NDArray[np.int64]:
    """Situations of the market, int64[n], each once."""
    return np.random.default_rng(0).choice(np.arange(N_SIDES, N_SITUATIONS), n, replace=False)


def scoring(loaded: LoadedModel, situations: NDArray[np.int64]) -> Call:
    """Score all the situations in one batch with a shared prefix."""
    scorer = LLMScorer(loaded, load_prompts(), batch_size=len(situations))
    return lambda: scorer.score(situations)


def generating(loaded: LoadedModel, situations: NDArray[np.int64], at_once: int = 1) -> Call:
    """Generate and parse the advice for `at_once` situations, in turn."""
    prompts, turns = load_prompts(), itertools.cycle(situations.reshape(-1, at_once))
    # Made beforehand, as the scorer makes its own: only answering is timed.
    encoder = PromptEncoder(loaded.tokenizer, prompts, loaded.name)
    return lambda: generate_advice(loaded, prompts, next(turns), GENERATED_TOKENS, encoder)


def matrix_products(
    layers: Sequence[int], plan: RolloutPlan, n_epochs: int, library: Library = "torch"
) -> Callable[[], object]:
    """The matrix products of the hidden layers in one rollout and its update, policy and value network both."""
    networks = [layers, layers]
    updates = n_epochs * plan.n_envs * plan.n_steps // plan.batch_size
    acting = hidden_products(networks, plan.n_envs, trains=False)
    return multiplying(
        [*acting * plan.n_steps, *hidden_products(networks, plan.batch_size, trains=True) * updates], library
    )
