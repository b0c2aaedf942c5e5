"""Advice on the situations of the training sessions, and whether an advisor can be asked at all."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from src.advisor.answer_cache import AnswerCache
from src.advisor.choose import LanguageModel
from src.advisor.mock import MockAdvisor
from src.advisor.precision import measure_agreement
from src.advisor.settings import LLMSettings, budget_s
from src.advisor.situations import encode
from src.advisor.store import AdviceStore, default_store_path
from src.advisor.table import AdviceTable, checked_scores, situation_order
from src.advisor.tabulation import (
    ModelAdvisor,
    Progress,
    Say,
    TabulationRecord,
    tabulate_at_once,
    tabulate_stored,
)
from src.agent.market import Market
from src.agent.ppo import global_generators_kept
from src.errors import UserError
from src.market.split import spans_of
from src.trading.layout import FLAT

logger = logging.getLogger(__name__)


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
            _release_models()  # the quantized one is gone before the other is loaded
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
        finally:
            del scorer  # else this frame would hold the model while its memory is given back


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave threads and global random states as they were, and no model in memory."""
    threads = torch.get_num_threads()
    with global_generators_kept():
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            _release_models()


def _release_models() -> None:
    """Free the models that nothing refers to any more, on CUDA for other programs and libraries too.

    Called where no local name holds one: a model's modules and hooks are in cycles, which only the collector ends.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
