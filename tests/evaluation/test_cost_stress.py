"""Other slippage, all else equal; and what more cost can and cannot be said to do to one sequence of actions."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from src.advisor.table import empty_table
from src.evaluation.arms import Arm, FlatArm, PolicyArm, RandomLegalArm
from src.evaluation.assembly import FeatureAssembly
from src.evaluation.cost_stress import CostStress, stress_costs, with_slippage
from src.evaluation.playing import FreshBatches, evaluate
from src.evaluation.settings import SLIPPAGE_TICKS
from src.statistics.samples import break_even_slippage
from src.trading.layout import BUY, DISABLE_TRAIL, ENABLE_TRAIL, HOLD, MOVE_TO_BE, SELL
from src.trading.session_batch import SessionBatch
from tests.evaluation.scripted import Scripted
from tests.evaluation.test_advice_use import hybrid_policy, market
from tests.reference_account import ReferenceMarket, ReferenceParams
from tests.strategies import market_of
from tests.trading import kernel_adapter
from tests.trading.test_carried_accounts import first_bars_of

TICKS = (0, 1, 2, 3)


@cache
def stressed(profile: str = "none") -> tuple[CostStress, NDArray[Any]]:
    here = market(profile)
    firsts = here.first_bars(np.flatnonzero(here.tables.sessions.usable))
    assembly = FeatureAssembly(here.tables.context, empty_table())
    return stress_costs(arms(), firsts, here.tape(empty_table()), here.session_params, assembly, TICKS), firsts


def arms() -> list[Arm]:
    return [FlatArm(), RandomLegalArm(3), PolicyArm("rl_only", hybrid_policy(0.0), False)]


def test_each_slippage_is_an_evaluation_of_its_own() -> None:
    stress, firsts = stressed()
    here = market()
    assembly = FeatureAssembly(here.tables.context, empty_table())
    for row, ticks in enumerate(TICKS):
        params = here.session_params.copy()
        params["slippage_ticks"] = ticks
        params.setflags(write=False)
        results = evaluate(arms(), firsts, FreshBatches(here.tape(empty_table()), params), assembly)
        for name, result in results.items():
            assert stress.net_usd[name][row].tolist() == result.net_usd.tolist()
            assert stress.slippage_usd[name][row].tolist() == result.slippage_usd.tolist()
            assert stress.net_usd_per_session(name)[row] == result.net_usd.mean()
            before = result.gross_usd - result.commission_usd
            assert stress.before_slippage_usd_per_session(name)[row] == pytest.approx(before.mean())
    assert stress.slippage_ticks == TICKS == SLIPPAGE_TICKS
    rows = stress.net_usd["rl_only"]
    assert rows.shape == (4, len(firsts))
    assert len(np.unique(rows, axis=0)) == 4


def test_fills_are_counted_where_slippage_was_paid() -> None:
    stress, _ = stressed()
    # MNQ: a tick is 50 cents, one contract.
    assert stress.position_tick_usd == 0.5
    assert stress.slipped_fills["flat"] == (None, 0, 0, 0)
    for row, ticks in enumerate(TICKS[1:], start=1):
        paid = stress.slippage_usd["random_legal"][row].sum()
        assert stress.slipped_fills["random_legal"][row] == paid / (0.5 * ticks) > 20
    assert stress.net_usd_per_session("flat") == [0.0] * 4


def test_what_it_gives_is_what_break_even_slippage_takes() -> None:
    stress, _ = stressed()
    net = dict(zip(stress.slippage_ticks, stress.net_usd["rl_only"].sum(axis=1), strict=True))
    fills = stress.slipped_fills["rl_only"][-1]
    assert fills is not None
    figure = break_even_slippage(net, fills=fills, tick_value_usd=stress.position_tick_usd)
    assert (figure.value is None) == (net[0] <= 0)


def test_constants_are_copied_and_stay_read_only() -> None:
    params = market().session_params
    other = with_slippage(params, 7)
    assert other["slippage_ticks"] == 7
    assert params["slippage_ticks"] == 1
    assert not other.flags.writeable
    assert all(other[name] == params[name] for name in params.dtype.names if name != "slippage_ticks")


def test_no_ticks_and_negative_ticks_are_refused_and_no_sessions_are_none() -> None:
    here = market()
    assembly = FeatureAssembly(here.tables.context, empty_table())
    tape = here.tape(empty_table())
    for ticks in ((), (1, -1)):
        with pytest.raises(ValueError, match="slippage_ticks must be"):
            stress_costs([FlatArm()], np.zeros(0, int), tape, here.session_params, assembly, ticks)
    nothing = stress_costs([FlatArm()], np.zeros(0, int), tape, here.session_params, assembly, TICKS)
    assert nothing.net_usd_per_session("flat") == [None] * 4
    assert nothing.before_slippage_usd_per_session("flat") == [None] * 4


# ------------------------------------------------------------------------------------------------ monotony of costs


def net_of(market: ReferenceMarket, actions: list[int], **fields: Any) -> list[float]:
    """Net P&L by session under profile none, every session given the same actions by its account's steps."""
    params = kernel_adapter.params_of(ReferenceParams(**fields))
    params.setflags(write=False)
    batch = SessionBatch(kernel_adapter.tape_of(market), params)
    firsts = first_bars_of(market)
    batch.begin(firsts)
    arm = Scripted([actions] * len(firsts))
    while not batch.over.all():
        batch.step(arm.act(batch, None))
    return ((batch.accounts["cash_cents"] - batch.accounts["start_cash_cents"]) / 100).tolist()


any_market = st.integers(0, 2**32).map(lambda seed: market_of(Random(seed), sessions=3, longest=30))
costs = st.lists(st.integers(0, 2000), min_size=2, max_size=2).map(sorted)
slips = st.lists(st.integers(0, 30), min_size=2, max_size=2).map(sorted)


def sequences(*allowed: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.sampled_from(allowed), min_size=30, max_size=30)


@settings(max_examples=60)
@given(any_market, sequences(HOLD, BUY, SELL, ENABLE_TRAIL, DISABLE_TRAIL), costs, st.integers(0, 3))
def test_a_higher_commission_never_raises_the_net_of_the_same_actions(
    bars: ReferenceMarket, actions: list[int], commissions: list[int], slippage: int
) -> None:
    """Without account rules commission decides nothing but the balance, so the trades are the same ones.

    MOVE_TO_BE is left out: whether it is legal and where it puts the stop depend on the commission. Under a profile
    with a threshold or a daily limit the higher commission may end the account, and spare it a loss that the lower one
    lives to see.
    """
    cheap, dear = (
        net_of(bars, actions, commission_cents=cents, slippage_ticks=slippage, stop_atr=2.0) for cents in commissions
    )
    assert all(less <= more for less, more in zip(dear, cheap, strict=True))


@settings(max_examples=60)
@given(any_market, sequences(HOLD, BUY, SELL), slips, st.integers(0, 500))
def test_more_slippage_never_raises_the_net_of_the_same_actions_where_no_stop_is_in_reach(
    bars: ReferenceMarket, actions: list[int], slippage: list[int], commission: int
) -> None:
    """With stop and target out of reach the same actions make the same trades, each fill that much worse.

    With them in reach it is not true, rules or none: stop and target are set from the fill, so slippage moves them, and
    what happens to the trade with them (the next test). A breach breaks it as it does for commission. Bars without an
    ATR get one: a stop is at least a tick away, and that is in reach.
    """
    bars = replace(bars, atr=[atr or 1.0 for atr in bars.atr])
    tight, wide = (
        net_of(bars, actions, commission_cents=commission, slippage_ticks=ticks, stop_atr=1e6, target_r=1.0)
        for ticks in slippage
    )
    assert all(less <= more for less, more in zip(wide, tight, strict=True))


def test_a_stop_that_slippage_moved_may_save_a_loss() -> None:
    """In at 1000: the stop at 990 is missed by a low of 991, and the next bar opens at 950. With a tick of slippage the
    stop at 991 is met: out at 990."""
    bars = [(1000,) * 4, (1000, 1000, 991, 995), (950,) * 4, (950,) * 4]
    flags = [9, 9, 8 | 16, 4 | 2]
    columns = [list(column) for column in zip(*bars, strict=True)]
    here = ReferenceMarket(*columns, flags=flags, atr=[10.0] * 4)
    # 500 cents a tick: - 50 ticks, against - 11 (1001 to 990).
    assert net_of(here, [BUY], commission_cents=0, slippage_ticks=0) == [-250.0]
    assert net_of(here, [BUY], commission_cents=0, slippage_ticks=1) == [-55.0]


def test_a_break_even_stop_depends_on_what_it_has_to_cover() -> None:
    """In at 1000, close 1004: a stop at break-even covers two commissions. At a commission of 500 it stands at 1002 and
    is met by the low of 1001; at 0 it stands at 1000, and the trade goes on to lose: the dear account earns more."""
    bars = [(1000,) * 4, (1000, 1004, 1000, 1004), (1004, 1004, 1001, 1003), (900,) * 4, (900,) * 4]
    flags = [9, 9, 9, 8 | 16, 4 | 2]
    columns = [list(column) for column in zip(*bars, strict=True)]
    here = ReferenceMarket(*columns, flags=flags, atr=[200.0] * 5)
    wide = {"slippage_ticks": 0, "target_r": 9.0}
    # Out at 1002 less 1000 cents: nothing. Out at the open of 900: - 100 ticks.
    assert net_of(here, [BUY, MOVE_TO_BE], commission_cents=500, **wide) == [0.0]
    assert net_of(here, [BUY, MOVE_TO_BE], commission_cents=0, **wide) == [-500.0]


def test_the_sequences_trade() -> None:
    """Or the two properties above would be of nothing."""
    rng, traded = Random(0), 0
    for seed in range(20):
        here = market_of(Random(seed), sessions=3, longest=30)
        actions = [rng.choice([HOLD, BUY, SELL]) for _ in range(30)]
        traded += sum(net != 0 for net in net_of(here, actions, stop_atr=1e6, target_r=1.0))
    assert traded > 40
