"""What is recorded of sessions read, how checks are put together, and leaks of which each check has its own kind."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from src.advisor.table import empty_table
from src.agent.market import Market
from src.agent.training_state import capture, restore
from src.evaluation import leaks
from src.evaluation.assembly import FeatureAssembly
from src.evaluation.decisions import check_decisions, check_fills, probe_table
from src.evaluation.leak_words import DECISIONS, FEATURES, FILLS, SEALED, compared_words, wrong_words
from src.evaluation.leaks import leak_facts, with_finding
from src.evaluation.look_ahead import LeakCheck
from src.evaluation.sealed import check_advice, check_drawn, drawn_sessions
from src.market.split import ids_of
from src.trading.accounts import AccountBlock
from src.trading.layout import ACCOUNT
from src.trading.routes import make_vec_env
from src.trading.session_batch import SessionBatch
from tests import small_runs
from tests.planted import plant_method

STEPS = 60


# ---------------------------------------------------------------- the sessions that training drew


def played(env: Any, steps: int = STEPS) -> set[int]:
    """Step with random legal actions; the bars that accounts began at, from what each of them shows."""
    rng = np.random.default_rng(0)
    env.seed(5)
    env.reset()
    began: set[int] = set()
    for _ in range(steps):
        accounts = env.get_state()["accounts"].view(ACCOUNT)[:, 0]
        began |= set(accounts["start_bar"].tolist())
        masks = env.action_masks()
        env.step((rng.random(masks.shape) * masks).argmax(axis=1))
    return began | set(env.get_state()["accounts"].view(ACCOUNT)[:, 0]["start_bar"].tolist())


def test_the_sessions_drawn_are_those_that_were_seen_while_training() -> None:
    market = small_runs.market()
    with closing(make_vec_env("batched", market.tape(empty_table()), market.params, 8)) as env:
        began = played(env)
        drawn = drawn_sessions(env, market)
    assert drawn is not None
    assert ids_of(drawn.sessions).tolist() == sorted(set(market.tables.bars.session_id[sorted(began)].tolist()))
    assert drawn.episodes >= len(began) > 8
    assert drawn.unexplained == 0
    assert check_drawn(market, [{"phase": "base", "sessions_drawn": drawn.to_dict()}]) == ""


def test_a_resumed_training_tells_the_sessions_of_all_its_processes() -> None:
    """The record is kept in the accounts: a checkpoint carries it."""
    trainer, market = small_runs.trainer(), small_runs.market()
    plan = small_runs.plan(2)
    with closing(trainer.make_env(market)) as env, closing(trainer.make_env(market)) as other:
        model, _ = trainer.base(env, plan, [])
        resumed = trainer.new_base(other, plan)
        assert restore(resumed, [], capture(model, [])) == []
        assert drawn_sessions(other, market) == drawn_sessions(env, market)


def test_an_account_that_stands_where_no_draw_put_it_is_told() -> None:
    market = small_runs.market()
    with closing(make_vec_env("batched", market.tape(empty_table()), market.params, 4)) as env:
        env.seed(5)
        env.reset()
        block: AccountBlock = env._block  # type: ignore[attr-defined]
        elsewhere = market.first_bars(market.split.train[-1:])[0]
        block.accounts["bar"][0] = block.accounts["start_bar"][0] = elsewhere
        drawn = drawn_sessions(env, market)
    assert drawn is not None
    assert drawn.unexplained == 1
    said = check_drawn(market, [{"phase": "hybrid", "sessions_drawn": drawn.to_dict()}])
    assert said.startswith("1 accounts of hybrid training began or are where no training episode may begin")


def test_sessions_outside_of_training_are_counted_and_dated() -> None:
    market = small_runs.market()
    sealed = int(market.split.test[0])
    drawn = {"episodes": 9, "sessions": [[0, 3], [sealed, sealed]], "unexplained": 0}
    row = {"phase": "base", "sessions_drawn": drawn}
    said = check_drawn(market, [{"phase": "rl_only"}, row])
    date = market.tables.sessions.date[sealed]
    assert (
        said
        == f"base training drew episodes in 1 sessions that are not for training (1 of them sealed), the first {date}"
    )


def test_advice_on_a_situation_that_training_does_not_hold_is_told() -> None:
    market, (table, record) = small_runs.market(), small_runs.asked()
    assert check_advice(market, table, record) == ""
    everywhere = replace(table, covered=np.ones_like(table.covered))
    assert "market situations that no training session holds" in check_advice(market, everywhere, record)
    sealed = int(market.split.test[0])
    assert "the advice table was made of bars in 1 sessions" in check_advice(
        market, table, replace(record, sessions_read=[*record.sessions_read, [sealed, sealed]])
    )
    assert "the list of situations to ask" in check_advice(market, table, replace(record, order_sha256="another"))


# ---------------------------------------------------------------- decisions and fills


def ahead(name: str, rows: str) -> str:
    """Source of the arrays of a tape of which one is another."""
    return f'Tape(**{{**{{k: getattr(self.tape, k) for k in Tape.__dataclass_fields__}}, "{name}": {rows}}}).arrays'


@pytest.mark.parametrize(
    ("owner", "method", "old", "new", "said"),
    [
        (FeatureAssembly, "write_context", "bars()[rows]", "bars()[rows] + 1", "the observation (context, as"),
        (
            SessionBatch, "equities_cents", "self.tape.prices", "np.roll(self.tape.prices, -1, axis=0)",
            "the equity of a decision",
        ),
        (
            AccountBlock, "observe", "self.tape.arrays",
            ahead("flags", "(self.tape.flags & 254) | (np.roll(self.tape.flags, -1) & 1)"), "the mask of a decision",
        ),
        (
            AccountBlock, "observe", "self.tape.arrays", ahead("context", "np.roll(self.tape.context, -1, axis=0)"),
            "the observation (context) of a decision",
        ),
        (
            AccountBlock, "observe", "self.tape.arrays", ahead("situation", "np.roll(self.tape.situation, -1)"),
            "the observation (opinion) of a decision",
        ),
        (
            SessionBatch, "step", "self.tape.arrays", ahead("prices", "np.roll(self.tape.prices, -1, axis=0)"),
            "the rule state",
        ),
    ],
)  # fmt: skip
def test_whatever_a_decision_reads_of_a_later_bar_is_named(
    monkeypatch: pytest.MonkeyPatch, owner: type, method: str, old: str, new: str, said: str
) -> None:
    plant_method(monkeypatch, owner, method, old, new)
    check = check_decisions(small_runs.market("NQ"))
    assert check.found.startswith(said), check.found
    assert "is made of later bars" in check.found


def test_every_decision_of_every_usable_session_is_compared_under_rules_too() -> None:
    market = small_runs.market("NQ", "none")
    check = check_decisions(market)
    assert check.found == ""
    assert check.checks == len(market.bars_of(np.flatnonzero(market.tables.sessions.usable).astype(np.int32)))
    assert check_decisions(small_runs.market("NQ", "apex_50k_intraday_2026_03")).found == ""


@pytest.mark.parametrize("seed", range(3))
def test_fills_pass_with_any_gaps(seed: int) -> None:
    check = check_fills(small_runs.market("NQ"), seed)
    assert check.found == ""
    assert check.checks > 500


def test_a_market_without_two_bars_after_a_decision_has_no_fills_to_check() -> None:
    market = small_runs.market("NQ")
    tables = replace(market.tables, flags=np.full_like(market.tables.flags, 2 | 8 | 16))
    assert check_fills(replace(market, tables=tables)) == LeakCheck(FILLS, 0)


def test_the_probe_tells_any_two_situations_apart() -> None:
    rows = probe_table(0).probabilities
    assert len(np.unique(rows, axis=0)) == len(rows)


# ---------------------------------------------------------------- put together


def test_the_section_tells_the_first_leak_and_adds_up_the_checks() -> None:
    section = leak_facts(
        [LeakCheck(FEATURES, 200), LeakCheck(DECISIONS, 50, "mask of bar 3"), LeakCheck(SEALED, 6, "x")]
    )
    assert (section["checks"], section["passed"], section["found"]) == (256, False, "mask of bar 3")
    assert wrong_words(section) == "a decision uses future data"
    assert compared_words(section) == "200 bars with an altered future, 50 decisions, 6 fits and trainings"


def test_what_training_shows_is_added_to_its_check() -> None:
    section = leak_facts([LeakCheck(FEATURES, 200), LeakCheck(SEALED, 6)])
    added = with_finding(section, SEALED, 4, "")
    assert (added["checks"], added["passed"]) == (210, True)
    found = with_finding(section, SEALED, 4, "base training drew")
    assert (found["passed"], found["found"], found["parts"][SEALED]["checks"]) == (False, "base training drew", 10)
    assert section["passed"], "the section that was handed in stays as it was"


def test_a_section_of_an_earlier_version_keeps_what_it_found() -> None:
    earlier = {"checks": 4, "passed": True, "found": ""}
    assert with_finding(earlier, SEALED, 4, "") == earlier
    assert with_finding(earlier, SEALED, 4, "x") == {"checks": 4, "passed": False, "found": "x"}


def test_the_command_prints_what_each_check_cost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = small_runs.market("NQ")
    monkeypatch.setattr(leaks, "synthetic_market", lambda *_: (here, leaks.DataSettings()))
    assert leaks.main(["--sessions", "60", "--interval-min", "15"]) == 0
    printed = capsys.readouterr().out
    for name in (FEATURES, DECISIONS, FILLS, SEALED):
        assert name in printed
    assert '"wall_s"' in printed.splitlines()[-1]


def test_the_market_it_measures_has_the_bars_asked_for() -> None:
    market, _ = leaks.synthetic_market(60, 15, "rth")
    assert isinstance(market, Market)
    assert len(market.tables.sessions) == 60
