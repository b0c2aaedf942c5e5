"""Arms in lockstep: the same bars, the same figures however rows and decisions are fetched, money to the cent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from src.advisor.table import AdviceTable, empty_table
from src.agent.market import Market
from src.agent.members import ArmName
from src.evaluation.arms import (
    AdvisorArm,
    Arm,
    FlatArm,
    FusedArm,
    HybridArm,
    PolicyArm,
    RandomLegalArm,
    position_states,
    standard_arms,
)
from src.evaluation.assembly import FeatureAssembly
from src.evaluation.placebo import placebo_table
from src.evaluation.playing import ArmResult, FreshBatches, evaluate
from src.testing_framework import EnvironmentStatePool, VectorizedDecisionFusion
from src.trading.layout import CONTEXT, HOLD, OPINION
from src.trading.session_batch import SessionBatch
from tests import small_runs
from tests.evaluation.scripted import slow_run
from tests.reference_account import ReferenceAccount, ReferenceMarket, ReferenceParams
from tests.small_runs import LIVE

ARMS = ["flat", "random_legal", "advisor_only", "rl_only", "hybrid", "hybrid_placebo", "fused"]


@cache
def policies() -> tuple[Any, Any]:
    """An RL-only and a hybrid policy, trained for a moment, with opinions strong enough to act in different ways."""
    return small_runs.fine_tuned(None, advised=False).policy, small_runs.fine_tuned(LIVE).policy


@cache
def placebo() -> tuple[Any, AdviceTable]:
    """A hybrid policy trained for a moment on permuted advice, and that advice."""
    table = placebo_table(small_runs.advice(), 1)
    trainer = small_runs.trainer()
    env = trainer.make_env(small_runs.market(), table)
    return trainer.finetune(small_runs.base(), env, small_runs.plan(2), [], LIVE)[0].policy, table


def arms_of(fusion: VectorizedDecisionFusion | None = None, seed: int = 0) -> list[Arm]:
    return standard_arms(*policies(), fusion or VectorizedDecisionFusion(), seed, placebo())


def pool_of(market: Market, size: int = 8) -> EnvironmentStatePool:
    tape = market.tape(empty_table())
    return EnvironmentStatePool(
        lambda: SessionBatch(tape, market.session_params, with_tables=False), {}, size
    )  # fmt: skip


def play(
    arms: Sequence[Arm],
    *,
    market: Market | None = None,
    sessions: NDArray[np.int32] | None = None,
    pool_size: int = 8,
    table: AdviceTable | None = None,
) -> dict[str, ArmResult]:
    """The arms on the sealed sessions unless told otherwise."""
    market = market or small_runs.market()
    sessions = market.split.test if sessions is None else sessions
    assembly = FeatureAssembly(market.tables.context, table or small_runs.advice())
    with pool_of(market, pool_size) as pool:
        return evaluate(arms, market.first_bars(sessions), pool, assembly)


def figures(result: ArmResult) -> dict[str, Any]:
    """An arm's result as plain values, to be compared exactly."""
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(result).items()}


def all_figures(results: dict[str, ArmResult]) -> dict[str, dict[str, Any]]:
    return {name: figures(result) for name, result in results.items()}


class Recorded:
    """An arm with a note of every step: bars, masks, actions and equity of the sessions that were not over."""

    def __init__(self, arm: Arm) -> None:
        self._arm = arm
        self.name, self.sees_advice = arm.name, arm.sees_advice
        self.feed = getattr(arm, "feed", None)
        self.steps: list[dict[str, NDArray[Any]]] = []

    def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
        actions = self._arm.act(batch, opinions)
        self.steps.append(
            {
                "over": batch.over.copy(),
                "bars": batch.bars().copy(),
                "masks": batch.masks.copy(),
                "actions": actions.copy(),
                "equity": batch.equities_cents().copy(),
                "positions": batch.accounts["position"].copy(),
                "opinions": np.zeros((batch.n, 6)) if opinions is None else opinions.copy(),
            }
        )
        self.batch = batch
        return actions


@cache
def recorded() -> tuple[dict[str, Recorded], dict[str, ArmResult]]:
    """The arms over the sealed sessions under the usual rules of a firm, with a note of every step."""
    arms = {arm.name: Recorded(arm) for arm in arms_of()}
    market = small_runs.market("MNQ", "apex_50k_intraday_2026_03")
    return arms, play(list(arms.values()), market=market)


def test_the_arms_are_those_the_report_promises() -> None:
    assert [arm.name for arm in arms_of()] == ARMS
    without = standard_arms(*policies(), VectorizedDecisionFusion(), 0)
    assert [arm.name for arm in without] == [name for name in ARMS if name != "hybrid_placebo"]
    assert list(recorded()[1]) == ARMS


def test_all_arms_stand_at_the_same_bars() -> None:
    arms, _ = recorded()
    longest = max(len(arm.steps) for arm in arms.values())
    for step in range(longest):
        standing = [arm.steps[step] for arm in arms.values() if step < len(arm.steps)]
        for session in range(len(standing[0]["over"])):
            bars = {int(at["bars"][session]) for at in standing if not at["over"][session]}
            assert len(bars) <= 1
    policies_differ = {tuple(np.concatenate([at["actions"] for at in arm.steps])) for arm in arms.values()}
    assert len(policies_differ) == len(ARMS), "arms that act alike show nothing"


def test_a_row_assembled_outside_the_kernel_is_the_kernels_own_to_the_bit() -> None:
    market = small_runs.market()
    table = small_runs.advice()
    whole = SessionBatch(market.tape(table), market.session_params, with_tables=True)
    bare = SessionBatch(market.tape(empty_table()), market.session_params, with_tables=False)
    assembly = FeatureAssembly(market.tables.context, table)
    firsts = market.first_bars(market.split.test)
    whole.begin(firsts)
    bare.begin(firsts)
    rng = np.random.default_rng(0)
    compared = opinions_seen = 0
    while not whole.over.all():
        alive = ~whole.over
        assert not bare.obs[alive, OPINION].any()
        assembly.write_context(bare)
        bare.obs[:, OPINION] = assembly.opinions(bare)
        assert bare.obs[alive].tobytes() == whole.obs[alive].tobytes()
        assert whole.obs[alive, CONTEXT].any(axis=1).all()
        compared += int(alive.sum())
        opinions_seen += int(whole.obs[alive, OPINION].any(axis=1).sum())
        actions = np.where(whole.masks, rng.random(whole.masks.shape), -1).argmax(axis=1)
        whole.step(actions)
        bare.step(actions)
        bare.obs[:, OPINION] = 0.0
    assert compared > 200
    assert compared > opinions_seen > compared / 2


def test_where_environments_and_decisions_come_from_changes_no_result_only_the_counters() -> None:
    compiled, loop = VectorizedDecisionFusion(sequential=False), VectorizedDecisionFusion(sequential=True)
    plain = all_figures(play(arms_of(compiled)))
    assert all_figures(play(arms_of(compiled), pool_size=0)) == plain
    assert all_figures(play(arms_of(compiled), pool_size=2)) == plain
    assert all_figures(play(arms_of(loop))) == plain
    assert loop.get_stats()["total"] > 0


def test_environments_go_back_to_the_pool_even_when_an_arm_fails() -> None:
    class Failing(FlatArm):
        def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
            raise ZeroDivisionError

    market = small_runs.market()
    assembly = FeatureAssembly(market.tables.context, empty_table())
    with pool_of(market) as pool:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                evaluate([FlatArm(), Failing()], market.first_bars(market.split.test), pool, assembly)
            assert pool.get_stats()["in_use"] == 0
            assert pool.get_stats()["built"] == 2
    with pool_of(market, 0) as pool:
        evaluate([FlatArm()], market.first_bars(market.split.test), pool, assembly)
        assert pool.get_stats()["temporary"] == 1


def test_an_arm_with_advice_of_its_own_hears_it_whoever_is_beside_it() -> None:
    policy, table = placebo()
    heard = Recorded(HybridArm(policy, ArmName.PLACEBO, table))
    beside = play([AdvisorArm(), HybridArm(policies()[1]), heard])
    again = play([HybridArm(policy, ArmName.PLACEBO, table), HybridArm(policies()[1])])
    # The same policy where its table is everybody's.
    alone = play([PolicyArm(ArmName.PLACEBO, policy, sees_advice=True)], table=table)
    assert same_sessions(beside[ArmName.PLACEBO], alone[ArmName.PLACEBO])
    assert same_sessions(again[ArmName.PLACEBO], alone[ArmName.PLACEBO])
    assert same_sessions(again["hybrid"], beside["hybrid"])
    deaf = play([PolicyArm(ArmName.PLACEBO, policy, sees_advice=True)])[ArmName.PLACEBO]
    assert not same_sessions(deaf, alone[ArmName.PLACEBO]), "both tables give the same sessions: nothing was shown"
    market, compared = small_runs.market(), 0
    for at in heard.steps:
        for i in np.flatnonzero(~at["over"] & (at["positions"] == 0)):
            row = table.probabilities[market.situation[at["bars"][i]] * 5]
            legal = np.where(at["masks"][i], row.astype(np.float64), 0.0)
            if legal.sum() >= 1e-3:
                np.testing.assert_allclose(
                    at["opinions"][i][at["masks"][i]], (legal / legal.sum())[at["masks"][i]], atol=1e-6
                )
                compared += 1
    assert compared > 50


def same_sessions(one: ArmResult, other: ArmResult) -> bool:
    """Equal but for the name and what was counted of the advice."""
    mine, yours = figures(one), figures(other)
    return all(mine[name] == yours[name] for name in mine if name not in ("name", "advice"))


def test_only_the_advice_of_all_is_counted_as_asked_for() -> None:
    market, (policy, table) = small_runs.market(), placebo()
    assembly = FeatureAssembly(market.tables.context, small_runs.advice())
    with pool_of(market) as pool:
        evaluate([HybridArm(policy, ArmName.PLACEBO, table)], market.first_bars(market.split.test), pool, assembly)
    assert (assembly.opinion_lookups, assembly.opinions_given) == (0, 0)


def test_opinions_given_are_those_that_were_no_abstention() -> None:
    market = small_runs.market()
    for table, share in ((small_runs.advice(), None), (empty_table(), 0)):
        assembly = FeatureAssembly(market.tables.context, table)
        arm = Recorded(AdvisorArm())
        with pool_of(market) as pool:
            evaluate([arm], market.first_bars(market.split.test), pool, assembly)
        given = sum(int(at["opinions"][~at["over"]].any(axis=1).sum()) for at in arm.steps)
        assert assembly.opinion_lookups == sum(int((~at["over"]).sum()) for at in arm.steps)
        assert assembly.opinions_given == given
        assert (given > 0) if share is None else (given == share)


def test_no_arm_takes_an_illegal_action() -> None:
    arms, results = recorded()
    for name, arm in arms.items():
        for at in arm.steps:
            alive = np.flatnonzero(~at["over"])
            assert at["masks"][alive, at["actions"][alive]].all(), name
        assert results[name].illegal_actions == 0


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9])
def test_whatever_the_threshold_nothing_fused_is_illegal(threshold: float, sequential: bool) -> None:
    config = {"llm_weight": 0.5, "confidence_threshold": threshold}
    fusion = VectorizedDecisionFusion(config, sequential=sequential)
    arm = Recorded(FusedArm(PolicyArm("rl_only", policies()[0], sees_advice=False), fusion))
    result = play([arm])["fused"]
    assert all(at["masks"][np.arange(len(at["over"])), at["actions"]][~at["over"]].all() for at in arm.steps)
    assert result.illegal_actions == 0
    assert fusion.get_stats()["total"] == int(result.bars.sum())


def test_the_flat_arm_does_nothing_and_owes_nothing() -> None:
    result = recorded()[1]["flat"]
    for name in ("net_usd", "gross_usd", "commission_usd", "slippage_usd", "max_drawdown_usd", "n_trades", "n_wins"):
        assert not getattr(result, name).any(), name
    assert not result.bars_exposed.any()
    assert not result.breached.any()
    assert result.actions == {HOLD: int(result.bars.sum()), 1: 0, 2: 0, 3: 0, 4: 0, 5: 0}


def test_random_legal_follows_its_seed() -> None:
    def net(seed: int) -> list[float]:
        return play([RandomLegalArm(seed)])["random_legal"].net_usd.tolist()

    assert net(1) == net(1)
    assert net(1) != net(2)


def test_random_legal_takes_each_legal_action_equally_often() -> None:
    arm = Recorded(RandomLegalArm(5))
    market = small_runs.market()
    everything = np.concatenate([market.split.train, market.split.validation, market.split.test])
    play([arm], sessions=everything)
    counts: dict[tuple[bool, ...], Counter[int]] = {}
    for at in arm.steps:
        for session in np.flatnonzero(~at["over"]):
            legal = tuple(at["masks"][session].tolist())
            counts.setdefault(legal, Counter())[int(at["actions"][session])] += 1
    flat = (True, True, True, False, False, False)
    assert flat in counts
    for legal, taken in counts.items():
        n, k = taken.total(), sum(legal)
        if n < 50:
            continue
        for action in np.flatnonzero(legal):
            # 4.5 standard deviations of a share of 1/k.
            assert abs(taken[int(action)] / n - 1 / k) < 4.5 * np.sqrt((1 / k) * (1 - 1 / k) / n), (legal, taken)


def test_the_advisor_arm_does_the_likeliest_legal_thing_and_holds_where_there_is_no_opinion() -> None:
    arm = Recorded(AdvisorArm())
    play([arm])
    abstained = 0
    for at in arm.steps:
        for session in np.flatnonzero(~at["over"]):
            opinion = at["opinions"][session]
            expected = int(opinion.argmax()) if opinion.any() else HOLD
            abstained += not opinion.any()
            assert at["actions"][session] == expected
    silent = play([AdvisorArm()], table=empty_table())["advisor_only"]
    assert silent.actions[HOLD] == int(silent.bars.sum())
    assert not silent.n_trades.any()


def test_a_session_ends_the_same_whichever_others_are_played_beside_it() -> None:
    market = small_runs.market()
    sessions = market.split.test
    together = play(arms_of(), sessions=sessions)
    chosen = np.array([7, 2, 3])
    apart = play(arms_of(), sessions=sessions[chosen])
    for name in ARMS:
        whole, part = figures(together[name]), figures(apart[name])
        for key, values in whole.items():
            if isinstance(values, list):
                assert [values[i] for i in chosen] == part[key], (name, key)


def test_costs_are_counted_fill_by_fill() -> None:
    _, results = recorded()
    market = small_runs.market("MNQ", "apex_50k_intraday_2026_03")
    p = market.params[0]
    slip_usd = int(p["slippage_ticks"]) * int(p["tick_value_cents"]) / 100
    traded = 0
    for result in results.values():
        cents = [np.rint(100 * v).astype(int) for v in (result.gross_usd, result.commission_usd, result.slippage_usd)]
        np.testing.assert_array_equal(cents[0] - cents[1] - cents[2], np.rint(100 * result.net_usd).astype(int))
        # Accounts end flat: two sides a trade, of which the entry always slips and a target never does.
        np.testing.assert_array_equal(cents[1], 2 * int(p["commission_cents"]) * result.n_trades)
        assert (result.slippage_usd >= slip_usd * result.n_trades).all()
        assert (result.slippage_usd <= 2 * slip_usd * result.n_trades).all()
        assert (result.n_wins <= result.n_trades).all()
        assert (result.bars_exposed <= result.bars).all()
        assert sum(result.actions.values()) == int(result.bars.sum())
        traded += int(result.n_trades.sum())
    assert traded > 50


def _reference_market(market: Market) -> ReferenceMarket:
    tables, table = market.tables, small_runs.advice()
    prices = tables.prices.T.tolist()
    return ReferenceMarket(
        *prices,
        flags=tables.flags.tolist(),
        atr=tables.atr_ticks.tolist(),
        window=tables.window.tolist(),
        context=tables.context.tolist(),
        situation=market.situation.tolist(),
        advice=table.probabilities.tolist(),
    )


def _reference_params(market: Market) -> ReferenceParams:
    record = market.session_params[0]
    names = ReferenceParams.__dataclass_fields__
    return ReferenceParams(**{name: record[name].item() for name in names})


@pytest.mark.slow
def test_the_slow_account_taking_an_arms_actions_ends_with_the_same_cents() -> None:
    arms, results = recorded()
    market = small_runs.market("MNQ", "apex_50k_intraday_2026_03")
    slow_market, params = _reference_market(market), _reference_params(market)
    firsts = market.first_bars(market.split.test)
    record = market.session_params[0]
    start = int(record["start_balance_cents"])
    for name in ARMS:
        for session, first in enumerate(firsts):
            account = ReferenceAccount(slow_market, params)
            account.reset(int(first), start, start, int(record["expiry_days"]))
            peak, fall = start, 0
            for at in arms[name].steps:
                if at["over"][session]:
                    break
                assert account.bar == at["bars"][session]
                assert account.equity_cents(slow_market.close[account.bar]) == at["equity"][session]
                assert account.action_mask() == at["masks"][session].tolist()
                account.step(int(at["actions"][session]))
                equity = account.cash_cents
                if account.position:
                    equity = account.equity_cents(slow_market.close[account.bar])
                peak = max(peak, equity)
                fall = max(fall, peak - equity)
            result = results[name]
            assert round(100 * result.net_usd[session]) == account.cash_cents - start
            assert result.n_trades[session] == account.n_trades
            assert bool(result.breached[session]) == bool(account.breached)
            assert bool(result.daily_locked[session]) == bool(account.daily_locked)
            assert bool(result.target_reached[session]) == bool(account.target_reached)
            assert result.bars[session] == account.steps
            assert round(100 * result.max_drawdown_usd[session]) == fall


def test_gains_and_losses_are_those_of_the_slow_accounts_trades() -> None:
    one_bar = even = trades = 0
    for seed in range(60):
        run = slow_run(seed, longest=(6, 15, 40)[seed % 3])
        assembly = FeatureAssembly(run.tape.context, empty_table())
        result = evaluate([run.arm], run.first_bars, FreshBatches(run.tape, run.record), assembly)["scripted"]
        for i, session in enumerate(run.sessions):
            nets = [trade.net_cents for trade in session.trades]
            assert round(100 * result.gross_win_usd[i]) == sum(net for net in nets if net > 0)
            assert round(100 * result.gross_loss_usd[i]) == -sum(net for net in nets if net < 0)
            assert result.n_wins[i] == sum(net > 0 for net in nets)
            assert result.n_trades[i] == len(nets)
            trades += len(nets)
            even += nets.count(0)
            one_bar += sum(trade.entry_bar == trade.exit_bar for trade in session.trades)
    assert trades > 300
    assert one_bar > 20
    assert even > 0


def test_the_drawdown_is_the_deepest_fall_from_any_earlier_close() -> None:
    arms, results = recorded()
    deepest = 0.0
    for name, arm in arms.items():
        for session in range(len(results[name].net_usd)):
            path = [int(at["equity"][session]) for at in arm.steps if not at["over"][session]]
            ended = round(100 * results[name].net_usd[session]) + path[0]
            path.append(ended)
            falls = [earlier - later for i, earlier in enumerate(path) for later in path[i:]]
            assert results[name].max_drawdown_usd[session] == max(falls) / 100
            deepest = max(deepest, max(falls) / 100)
    assert deepest > 0


def test_a_policy_that_sees_no_advice_reads_zeros_where_the_opinion_stands() -> None:
    market = small_runs.market()
    batch = SessionBatch(market.tape(empty_table()), market.session_params, with_tables=False)
    batch.begin(market.first_bars(market.split.test))
    batch.obs[:, OPINION] = 0.7
    arm = PolicyArm("rl_only", policies()[0], sees_advice=False)
    silent = arm.probabilities(batch, None).copy()
    assert not batch.obs[:, OPINION].any()
    np.testing.assert_allclose(silent.sum(axis=1), 1.0, atol=1e-6)
    assert not silent[~batch.masks].any()


def test_the_risk_of_an_account_is_read_from_its_record() -> None:
    market = small_runs.market("MNQ", "apex_50k_intraday_2026_03")
    batch = SessionBatch(market.tape(empty_table()), market.session_params, with_tables=False)
    batch.begin(market.first_bars(market.split.test[:4]))
    accounts = batch.accounts
    trail = int(batch.params["trail_cents"])
    accounts["consecutive_losses"] = [0, 2, 3, 7]
    accounts["peak_cents"] = accounts["cash_cents"] + [0, trail // 4, trail, 3 * trail]
    accounts["n_recent"] = [0, 4, 10, 10]
    accounts["recent_wins"] = [0, 0b0101, 0b1111111111, 0b0000000001]
    states = position_states(batch, np.arange(4))
    assert states["consecutive_losses"].tolist() == [0, 2, 3, 7]
    assert states["drawdown_current"].tolist() == [0.0, 0.25, 1.0, 1.0]
    assert states["win_rate_recent"].tolist() == [0.5, 0.5, 1.0, 0.1]
    scores = VectorizedDecisionFusion().calculate_risk_scores(states)
    assert scores[0] == 0.0
    assert scores[3] == 1.0


def test_progress_counts_the_bars_played() -> None:
    market = small_runs.market()
    seen: list[int] = []
    note: Callable[[int], None] = seen.append
    assembly = FeatureAssembly(market.tables.context, empty_table())
    with pool_of(market) as pool:
        result = evaluate([FlatArm()], market.first_bars(market.split.test), pool, assembly, progress=note)["flat"]
    assert seen == list(range(1, int(result.bars.max()) + 1))
