"""The bar-by-bar record: against the slow account's own events, against the account's totals, and by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from numpy.typing import NDArray

from src.advisor.table import empty_table
from src.evaluation.arms import AdvisorArm, FlatArm, RandomLegalArm
from src.evaluation.assembly import FeatureAssembly
from src.evaluation.playing import FreshBatches, evaluate
from src.evaluation.trade_log import (
    SessionLog,
    Trade,
    chart_facts,
    choose_sessions,
    record,
)
from src.report.schema import schema
from src.trading.layout import BUY, HOLD, SELL
from src.trading.session_batch import SessionBatch
from tests import small_runs
from tests.evaluation.scripted import SlowRun, SlowSession, SlowTrade, slow_run
from tests.evaluation.test_evaluation import arms_of, play, pool_of
from tests.reference_account import ReferenceAccount, ReferenceMarket, ReferenceParams
from tests.report.test_report import result_of

STOP, TARGET = "stop", "target"
EVENT_REASONS = {
    "stop": STOP,
    "stop_gap": STOP,
    "target": TARGET,
    "target_gap": TARGET,
    "close": "opposite",
    "forced_flat": "flat",
    "hole_exit": "hole in the bars",
    "threshold": "breach",
    "daily": "daily limit",
}


def recorded(run: SlowRun) -> list[SessionLog]:
    """The sessions of a small market, recorded while the given actions are taken."""
    assembly = FeatureAssembly(run.tape.context, empty_table())
    return record([run.arm], run.first_bars, FreshBatches(run.tape, run.record), assembly)["scripted"]


def test_every_trade_is_the_slow_accounts_trade_with_its_reason() -> None:
    reasons: Counter[str] = Counter()
    one_bar = 0
    for seed in range(150):
        run = slow_run(seed, longest=(6, 15, 40)[seed % 3])
        for log, session in zip(recorded(run), run.sessions, strict=True):
            assert round(100 * log.net_usd) == session.account.cash_cents - run.params.start_balance_cents
            assert log.breached == bool(session.account.breached)
            assert len(log.trades) == len(session.trades)
            for trade, wanted in zip(log.trades, session.trades, strict=True):
                where = (seed, trade, wanted)
                assert (trade.entry_bar, trade.exit_bar) == (wanted.entry_bar, wanted.exit_bar), where
                assert round(100 * trade.net_usd) == wanted.net_cents, where
                assert trade.exit_reason == reason_of(wanted), where
                check_prices(trade, run.market, run.params, log.first_bar)
                reasons[trade.exit_reason] += 1
                one_bar += trade.entry_bar == trade.exit_bar
    assert set(reasons) == set(EVENT_REASONS.values())
    assert min(reasons.values()) >= 5, reasons
    assert one_bar >= 20


def reason_of(trade: SlowTrade) -> str:
    """The reason the slow account's events give."""
    (reason,) = [EVENT_REASONS[event] for event in trade.events if event in EVENT_REASONS]
    return reason


def check_prices(trade: Trade, market: ReferenceMarket, params: ReferenceParams, first: int) -> None:
    """Fills lie where the bars were, slippage aside, and the net P&L is what two fills and commissions make."""
    sign = 1 if trade.side == "long" else -1
    slip = params.slippage_ticks
    assert trade.entry_ticks == market.open[first + trade.entry_bar] + sign * slip
    gross = sign * (trade.exit_ticks - trade.entry_ticks) * trade.contracts * params.tick_value_cents
    assert round(100 * trade.net_usd) == gross - 2 * params.commission_cents * trade.contracts
    exit_bar = first + trade.exit_bar
    unslipped = trade.exit_ticks if trade.exit_reason == TARGET else trade.exit_ticks + sign * slip
    assert market.low[exit_bar] <= unslipped <= market.high[exit_bar] or trade.exit_reason in (STOP, TARGET)
    if trade.exit_reason == TARGET:
        assert trade.exit_ticks == trade.target_ticks
    if trade.exit_reason == STOP:
        # At the stop, or at an open beyond it.
        assert unslipped in (trade.stops[-1][1], market.open[exit_bar])
    bars = [bar for bar, _ in trade.stops]
    assert bars[0] == trade.entry_bar
    assert bars == sorted(set(bars))
    assert bars[-1] <= trade.exit_bar
    risk = abs(trade.stops[0][1] - trade.entry_ticks)
    assert sign * (trade.target_ticks - trade.entry_ticks) == max(1, int(np.floor(params.target_r * risk + 0.5)))


# 500 cents a tick, 250 a side, 1 tick of slippage, ATR 10: entry 1001, stop 991, target 1021, break-even 1003.
OPEN_BAR = 1 | 8


def by_hand(bars: list[tuple[int, int, int, int]], actions: list[int]) -> SessionLog:
    flags = [OPEN_BAR] * (len(bars) - 2) + [OPEN_BAR | 16, 4 | 2]
    columns = [list(column) for column in zip(*bars, strict=True)]
    market = ReferenceMarket(*columns, flags=flags, atr=[10.0] * len(bars))
    params = ReferenceParams()
    return recorded(SlowRun(market, params, [SlowSession(0, ReferenceAccount(market, params), actions)]))[0]


def test_a_moved_stop_is_shown_from_the_bar_on_which_it_stood_there() -> None:
    quiet = (1000, 1000, 1000, 1000)
    log = by_hand(
        # Bought at bar 1; at its close the stop goes to break-even (round-turn cost 500 + one tick: 2 ticks more: 1003)
        # before bar 2, whose high of 1019 pulls a trailing stop only from bar 4 on, since the trail is ordered at the
        # close of bar 2: 1019 - 10 = 1009 stands before bar 3.
        [quiet, (1000, 1011, 1000, 1010), (1010, 1019, 1009, 1015), (1015, 1020, 1014, 1018), quiet, quiet],
        [BUY, 3, 4, HOLD],
    )
    (trade,) = log.trades
    # Bar 3's high of 1020 moves it to 1010 for bar 4, which opens below it.
    assert trade.stops == ((1, 991), (2, 1003), (3, 1009), (4, 1010))
    # Gapped: open 1000 less one tick of slippage.
    assert (trade.exit_bar, trade.exit_ticks, trade.exit_reason) == (4, 999, STOP)
    assert trade.net_usd == ((999 - 1001) * 500 - 500) / 100
    assert log.flat.tolist() == [True, False, False, False, True, False]
    assert (log.first_bar, log.last_bar) == (0, 5)


def test_in_and_out_within_a_bar_is_one_trade() -> None:
    quiet = (1000, 1000, 1000, 1000)
    (trade,) = by_hand([quiet, (1000, 1002, 980, 985), quiet, quiet], [BUY]).trades
    assert trade == Trade("long", 1, 1, 1001, 1, 990, ((1, 991),), 1021, STOP, (-11 * 500 - 500) / 100)


def test_the_record_is_that_of_the_evaluation() -> None:
    market = small_runs.market("MNQ", "apex_50k_intraday_2026_03")
    firsts = market.first_bars(market.split.test)
    assembly = FeatureAssembly(market.tables.context, small_runs.advice())
    with pool_of(market) as pool:
        results = evaluate(arms := arms_of(), firsts, pool, assembly)
        before = {name: vars(result.advice).copy() for name, result in results.items() if result.advice}
        logs = record(arms, firsts, pool, assembly)
        assert pool.get_stats()["in_use"] == 0
    for name, result in results.items():
        assert [log.net_usd for log in logs[name]] == result.net_usd.tolist()
        assert [len(log.trades) for log in logs[name]] == result.n_trades.tolist()
        wins = [sum(trade.net_usd for trade in log.trades if trade.net_usd > 0) for log in logs[name]]
        losses = [-sum(trade.net_usd for trade in log.trades if trade.net_usd < 0) for log in logs[name]]
        np.testing.assert_allclose(result.gross_win_usd, wins, atol=1e-9)
        np.testing.assert_allclose(result.gross_loss_usd, losses, atol=1e-9)
    # Recording plays with the same arms, and what the evaluation counted stays as it was.
    assert before == {name: vars(result.advice) for name, result in results.items() if result.advice}


def test_what_was_heard_is_noted_while_flat_and_in_a_position() -> None:
    market = small_runs.market()
    firsts = market.first_bars(market.split.test)[:3]
    table = small_runs.advice()
    assembly = FeatureAssembly(market.tables.context, table)
    with pool_of(market) as pool:
        logs = record([AdvisorArm(), FlatArm()], firsts, pool, assembly)
    assert not any(log.opinions.any() for log in logs["flat"])
    compared = 0
    for log in logs["advisor_only"]:
        for at in np.flatnonzero(log.flat):
            row = table.probabilities[market.situation[log.first_bar + at] * 5].astype(float)
            if log.opinions[at].any() and log.opinions[at, BUY] > 0:
                np.testing.assert_allclose(log.opinions[at, [HOLD, BUY, SELL]], row[:3] / row[:3].sum(), atol=1e-6)
                compared += 1
        assert (log.opinions[~log.flat].any(axis=1)).any()
    assert compared > 15


def test_the_sessions_shown_are_told_apart_by_what_they_are() -> None:
    result = result_of()
    result.net_usd, result.n_trades = np.array([5.0, -9.0, 3.0, 7.0, 7.0]), np.array([1, 4, 2, 0, 4])
    assert choose_sessions(result, 4) == [
        (3, "best of rl_only"),
        (1, "worst, most trades of rl_only"),
        (0, "median of rl_only"),
    ]
    assert choose_sessions(result, 1) == [(3, "best of rl_only")]
    assert choose_sessions(result, 0) == []
    result.n_trades = np.array([1, 4, 9, 0, 4])
    assert choose_sessions(result, 4)[-1] == (2, "most trades of rl_only")
    # Of four the lower of the two in the middle.
    result.net_usd, result.n_trades = np.array([4.0, 3.0, 2.0, 1.0]), np.zeros(4, int)
    assert choose_sessions(result, 4) == [
        (0, "best, most trades of rl_only"),
        (3, "worst of rl_only"),
        (2, "median of rl_only"),
    ]
    assert choose_sessions(result_of(0), 4) == []


def test_a_chart_has_the_reports_shape_and_the_files_bars() -> None:
    market = small_runs.market()
    table, sessions = small_runs.advice(), market.split.test[:2]
    assembly = FeatureAssembly(market.tables.context, table)
    hybrid = arms_of()[4]
    with pool_of(market) as pool:
        logs = record([RandomLegalArm(1), hybrid], market.first_bars(sessions), pool, assembly)
    definitions = schema()["$defs"]
    for place, session in enumerate(sessions):
        chart = chart_facts(market, {name: of_arm[place] for name, of_arm in logs.items()}, "best")
        Draft202012Validator({**definitions["session"], "$defs": definitions}).validate(chart)
        assert chart["date"] == str(market.tables.sessions.date[session])
        # 15-minute bars: the first decision at the close of 09:30, the forced exit at an open before 16:00.
        assert chart["minute"][0] == 555
        assert chart["minute"][-1] < 960
        assert set(np.diff(chart["minute"])) == {15}
        n = len(chart["minute"])
        first = int(market.tables.sessions.first_decision[session])
        assert chart["close_ticks"] == market.tables.prices[first : first + n, 3].tolist()
        assert chart["high_ticks"] == market.tables.prices[first : first + n, 1].tolist()
        assert chart["tick_size"] == 0.25
        assert "advice" not in chart["arms"]["random_legal"]
        assert chart["arms"]["random_legal"]["trades"]
        advice = chart["arms"]["hybrid"]["advice"]
        assert len(advice["action"]) == len(advice["confidence"]) == n
        assert advice["action"][-1] == -1
        assert set(advice["action"]) > {-1}
    assert play([hybrid], sessions=sessions)["hybrid"].net_usd.tolist() == [log.net_usd for log in logs["hybrid"]]


def test_the_batch_goes_back_even_when_an_arm_fails() -> None:
    class Failing(FlatArm):
        def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
            raise ZeroDivisionError

    market = small_runs.market()
    assembly = FeatureAssembly(market.tables.context, empty_table())
    with pool_of(market) as pool:
        with pytest.raises(ZeroDivisionError):
            record([Failing()], market.first_bars(market.split.test), pool, assembly)
        assert pool.get_stats()["in_use"] == 0
