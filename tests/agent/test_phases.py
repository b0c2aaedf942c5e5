"""From market and advice to tapes: what training may see, and that neither route nor probe changes a result."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from src.advisor.mock import MockAdvisor
from src.advisor.settings import LLMSettings
from src.advisor.table import empty_table
from src.agent.advising import tabulate_advice
from src.agent.market import prepare_market
from src.agent.trainer import supports_advice
from src.errors import ConfigError, MarketError
from src.evaluation.production import try_production
from src.market.flags import DECISION, END_AFTER, ENTRY_ALLOWED
from src.market.settings import DataSettings
from src.trading.settings import EnvironmentSettings
from tests import small_runs
from tests.forked_command import ROOT
from tests.small_runs import LIVE, same_bits, state_of


def test_training_accounts_start_in_training_sessions_only_where_they_may_trade() -> None:
    market = small_runs.market()
    tape = market.tape(empty_table())
    sessions = market.tables.bars.session_id[tape.starts]
    assert set(sessions) == set(market.split.train)
    flags = market.tables.flags[tape.starts]
    assert ((flags & (DECISION | ENTRY_ALLOWED)) == DECISION | ENTRY_ALLOWED).all()
    assert not (flags & END_AFTER).any()
    assert len(np.unique(tape.starts)) == len(tape.starts)


def test_evaluation_begins_at_each_sessions_first_tradable_bar() -> None:
    market = small_runs.market()
    for part in (market.split.validation, market.split.test):
        firsts = market.first_bars(part)
        for session, first in zip(part, firsts, strict=True):
            assert first == market.bars_of(np.array([session], np.int32))[0]


def test_the_advisor_is_asked_about_training_sessions_only_and_every_situation_of_them() -> None:
    market = small_runs.market()
    table = tabulate_advice(market, MockAdvisor(), LLMSettings(model="mock"))[0]
    by_code = table.covered.reshape(-1, 5)
    trained = np.unique(market.situation[market.bars_of(market.split.train)])
    trained = trained[trained != 0]
    assert by_code[trained].all()
    assert table.asked == 5 * len(trained)
    np.testing.assert_array_equal(market.tape(table).advice, table.probabilities)


def test_what_the_user_got_wrong_is_said_before_any_bar_is_read() -> None:
    with pytest.raises(MarketError):
        prepare_market(DataSettings(), EnvironmentSettings(), "NQX", 0)
    with pytest.raises(ConfigError, match="commission_usd"):
        prepare_market(DataSettings(), EnvironmentSettings(commission_usd=2.255), "NQ", 0)


def test_our_own_environments_support_advice() -> None:
    made = small_runs.trainer()
    assert supports_advice(made.make_env(small_runs.market()))


def test_the_same_accounts_one_by_one_train_the_same_weights() -> None:
    made = small_runs.with_vec_env(small_runs.trainer(), "dummy")
    one_by_one, _ = made.base(made.make_env(small_runs.market()), small_runs.plan(2), [])
    assert same_bits(state_of(one_by_one), state_of(small_runs.base()))


@pytest.mark.slow
def test_the_production_trial_changes_no_later_phase() -> None:
    def phase_three(with_probe: bool) -> dict[str, np.ndarray]:
        made = small_runs.trainer()
        env = made.make_env(small_runs.market())
        base, _ = made.base(env, small_runs.plan(1), [])
        if with_probe:
            try_production(made, env, small_runs.plan(1))
        env = made.make_env(small_runs.market(), small_runs.advice())
        return state_of(made.finetune(base, env, small_runs.plan(1), [], LIVE)[0])

    assert same_bits(phase_three(True), phase_three(False))


def test_hybrid_and_rl_alone_begin_at_the_same_weights_with_the_same_accounts() -> None:
    rl_only = small_runs.fine_tuned(None, rollouts=1, advised=False)
    hybrid = small_runs.fine_tuned(LIVE.model_copy(update={"llm_weight": 0.0}), rollouts=1)
    first = [model.rollout_buffer.observations.reshape(4, 32, 261)[:, 0] for model in (rl_only, hybrid)]
    np.testing.assert_array_equal(first[0][:, :255], first[1][:, :255])
    for name in ("seed", "learning_rate", "target_kl", "n_steps", "batch_size", "n_epochs"):
        assert getattr(rl_only, name) == getattr(hybrid, name)


FRESH = """
import sys
sys.path.insert(0, ".")
from numba.core.dispatcher import Dispatcher
from src.advisor.table import empty_table
from src.agent.market import compile_kernel
from src.evaluation.arms import FlatArm
from src.evaluation.assembly import FeatureAssembly
from src.evaluation.playing import evaluate
from src.trading import kernel
from tests import small_runs
from tests.evaluation.test_evaluation import pool_of

def signatures():
    return {name: len(f.signatures) for name, f in vars(kernel).items() if isinstance(f, Dispatcher)}

market = small_runs.market()
compile_kernel(market)
compiled = signatures()
assert sum(compiled.values()) > 5, compiled
for route in ("batched", "dummy"):
    made = small_runs.with_vec_env(small_runs.trainer(n_epochs=1), route)
    made.base(made.make_env(market), small_runs.plan(1), [])
assembly = FeatureAssembly(market.tables.context, empty_table())
evaluate([FlatArm()], market.first_bars(market.split.test), pool_of(market), assembly)
assert signatures() == compiled, (compiled, signatures())
"""


@pytest.mark.slow
def test_once_the_kernel_is_compiled_neither_training_nor_evaluation_compiles_any_of_it() -> None:
    command = [sys.executable, "-c", FRESH]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
