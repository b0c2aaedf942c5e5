"""What each phase of a run needs and makes: market and advice to tapes, tapes to trained models."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from src.advisor.answer_cache import AnswerCache
from src.advisor.choose import LanguageModel
from src.advisor.mock import MockAdvisor
from src.advisor.precision import measure_agreement
from src.advisor.settings import LLMSettings, budget_s
from src.advisor.situations import encode, market_situations
from src.advisor.store import AdviceStore, default_store_path
from src.advisor.table import AdviceTable, checked_scores, empty_table, situation_order
from src.advisor.tabulation import (
    ModelAdvisor,
    Progress,
    Say,
    TabulationRecord,
    tabulate_at_once,
    tabulate_stored,
)
from src.agent.learner.engine import compile_kernels
from src.agent.own_cache import CountingCache, share_cache
from src.agent.policy import Weights
from src.agent.ppo import TimedMaskablePPO, global_generators_kept
from src.agent.rollout_plan import RolloutPlan
from src.agent.settings import HardwareSettings, TrainingSettings
from src.agent.training import TrainingRecord, build_base, build_finetuned, phase_seed, train, weight_ramp
from src.errors import UserError
from src.market.contracts import get_contract
from src.market.flags import DECISION, END_AFTER, ENTRY_ALLOWED
from src.market.load import load_market
from src.market.settings import DataSettings
from src.market.split import Split, spans_of, split_sessions
from src.market.tables import MarketTables
from src.trading.gym_env import TradingEnv
from src.trading.layout import FLAT
from src.trading.params import make_params
from src.trading.routes import is_trading_shaped, make_custom_vec_env, make_vec_env
from src.trading.rules import RuleProfile, load_rule_profile
from src.trading.session_batch import SessionBatch
from src.trading.settings import EnvironmentSettings
from src.trading.tape import Tape
from src.trading.vec_env import BatchedTradingVecEnv

logger = logging.getLogger(__name__)

BASE_PHASE, FINETUNE_PHASE, EVALUATION_PHASE = range(3)


@dataclass(frozen=True)
class Market:
    """One market ready to trade: its tables, which sessions serve what, and an account's constants."""

    tables: MarketTables
    split: Split
    rules: RuleProfile
    params: NDArray[np.void]
    situation: NDArray[np.int32]

    @property
    def session_params(self) -> NDArray[np.void]:
        """An account's constants in evaluation: sessions are played to their end, not to training's step limit."""
        params = self.params.copy()
        params["max_episode_steps"] = 0
        params.setflags(write=False)
        return params

    def first_bars(self, session_ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """The first tradable bar of each session, int32[k]."""
        return self.tables.sessions.first_decision[session_ids]

    def bars_of(self, session_ids: NDArray[np.int32]) -> NDArray[np.int64]:
        """The decision bars of these sessions, int64[k]."""
        stands = (self.tables.flags & DECISION) != 0
        return np.flatnonzero(stands & np.isin(self.tables.bars.session_id, session_ids))

    def tape(self, table: AdviceTable) -> Tape:
        """What training accounts read: training sessions to start in, and the advice of `table`."""
        tables = self.tables
        bars = self.bars_of(self.split.train)
        flags = tables.flags[bars]
        return Tape(
            prices=tables.prices,
            flags=tables.flags,
            atr_ticks=tables.atr_ticks,
            window=tables.window,
            context=tables.context,
            situation=self.situation,
            advice=table.probabilities,
            starts=bars[((flags & ENTRY_ALLOWED) != 0) & ((flags & END_AFTER) == 0)],
        )


def prepare_market(data: DataSettings, environment: EnvironmentSettings, market: str, seed: int) -> Market:
    """Bars to tables, split by session. Raises UserErrors for whatever the user can fix."""
    contract = get_contract(market)
    rules = load_rule_profile(environment.rule_profile)
    params = make_params(environment, contract, rules)
    tables = load_market(data, market, trading_hours=environment.trading_hours, seed=seed)
    return market_of(tables, data, rules, params)


def market_of(tables: MarketTables, data: DataSettings, rules: RuleProfile, params: NDArray[np.void]) -> Market:
    """A market from tables that are at hand."""
    split = split_sessions(tables.sessions, data.train_frac, data.validation_frac, data.embargo_sessions)
    return Market(tables, split, rules, params, situations_of(tables))


def situations_of(tables: MarketTables) -> NDArray[np.int32]:
    """The market situation of every bar that a run and the leak checks use, int32[n]."""
    return market_situations(tables)


def compile_kernel(market: Market) -> None:
    """Step an account in every way there is, and learn, so that nothing of the kernels is compiled later.

    On a machine's first run numba compiles for 10 to 20 s, which is no training time; worker processes started after
    this read the result from the cache, instead of all compiling at once.
    """
    tape = market.tape(empty_table())
    hold = np.zeros(1, np.int64)
    batched = BatchedTradingVecEnv(tape, market.params, 1)
    batched.reset()
    batched.step(hold)
    single = TradingEnv(tape, market.params)
    single.reset()
    single.step(0)
    sessions = SessionBatch(tape, market.session_params, with_tables=False)
    sessions.begin(market.first_bars(market.split.train[:1]))
    sessions.step(hold)
    compile_kernels()


def tabulate_advice(
    market: Market,
    advisor: MockAdvisor | ModelAdvisor,
    llm: LLMSettings,
    *,
    quick: bool = False,
    say: Say | None = None,
    progress: Progress | None = None,
    cache: AnswerCache | None = None,
) -> tuple[AdviceTable, TabulationRecord]:
    """Advice on the situations of the training sessions, most frequent first: by rules at once, by a language model
    from the store and within the budget.

    `say` gets lines that stay, `progress` a record a batch. `cache` keeps a language model's answers (rules are faster
    than it). Nothing of it (the model's threads, its random numbers)
    reaches the phases after: they are the same whether the model was asked or all was in the store.
    """
    bars = market.bars_of(market.split.train)
    order = situation_order(market.situation[bars])
    read = spans_of(market.tables.bars.session_id[bars])
    if isinstance(advisor, MockAdvisor):
        table, record = tabulate_at_once(advisor, order)
        return table, replace(record, sessions_read=read)
    with _undisturbed(), AdviceStore(llm.store_path or default_store_path()) as store:
        table, record = tabulate_stored(
            advisor,
            store,
            order,
            budget_s(llm, quick=quick),
            extend=llm.extend_advice,
            batch_size=llm.advice_batch_size,
            calibrate=llm.calibrate,
            say=say,
            progress=progress,
            cache=cache,
        )
        if isinstance(advisor, LanguageModel) and llm.quantization != "none":
            found = measure_agreement(
                advisor,
                store,
                order[: record.count_k],
                llm.full_precision_sample,
                calibrate=llm.calibrate,
                say=say or logger.info,
            )
            record = replace(
                record,
                full_precision_compared=found.compared,
                full_precision_agreement=found.share,
                full_precision_why_not=found.why_not,
            )
        return table, replace(record, sessions_read=read)


def try_advisor(advisor: MockAdvisor | ModelAdvisor, llm: LLMSettings, *, say: Say | None = None) -> None:
    """Ask a language model about one situation, before anything is trained: a model that cannot be scored must not be
    found out hours later. The answer is not kept, and neither is the model.

    A model whose answers the store holds has been asked before and is not loaded. Rules are not tried.
    Raises UserErrors for what is wrong with the model, its files or the store.
    """
    if isinstance(advisor, MockAdvisor):
        return
    with _undisturbed(), AdviceStore(llm.store_path or default_store_path()) as store:
        if store.answers(advisor.identity):
            return
        (say or logger.info)(f"trying {advisor.name} with one question, before anything is trained")
        scorer = advisor.load()
        try:
            checked_scores(scorer, encode(1, [FLAT]))
        except UserError:
            raise
        except Exception as error:  # a stranger's model may raise whatever Python raises
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise UserError(
                f"The language model {advisor.name} cannot be scored: one question ends in {reason}. Choose another."
            ) from error


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave threads and global random states as they were, and no model in memory."""
    threads = torch.get_num_threads()
    with global_generators_kept():
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


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
        return model, train(model, plan, "base", callbacks)

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
        return model, train(model, plan, "rl_only" if llm is None else "hybrid", [*callbacks, *own])


def supports_advice(env: VecEnv) -> bool:
    """Whether phases after base training apply to these environments."""
    return is_trading_shaped(env)
