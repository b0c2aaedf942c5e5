"""Tables and contracts into one series: nothing invented, nothing twice, contradictions refused, rolls named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.errors import BarDataError
from src.market.contracts import get_contract
from src.market.files import joining
from src.market.files.joining import OTHER_CONTRACTS, REPEATED, UNFINISHED
from src.market.sessions import schedule_around
from tests.market.bar_makers import scheduled_slots
from tests.market.files.market_makers import checked_rows

ES = get_contract("ES")
SLOTS = scheduled_slots(4)
SCHEDULE = schedule_around(SLOTS)
SESSION = np.arange(len(SLOTS)) // 276
CLOSE = 5300 + np.round(np.cumsum(np.random.default_rng(0).integers(-4, 5, len(SLOTS)))) / 4


def join_contracts(parts, contract):
    return joining.join_contracts(parts, contract, schedule=SCHEDULE)


def part(span=slice(None), *, close=CLOSE, volume=100.0, label="a.csv", names=(), interval_min=5):
    volume = np.broadcast_to(volume, len(SLOTS))[span]
    return checked_rows(SLOTS[span], close[span], volume, names=names, label=label, interval_min=interval_min)


def same(joined, whole):
    return all(
        (getattr(joined, name) == getattr(whole, name)).all() for name in ("open_ns", "ticks", "volume", "contract")
    ) and (joined.contract_names, joined.rolls) == (whole.contract_names, whole.rolls)


@settings(max_examples=25)
@given(
    cuts=st.lists(st.tuples(st.integers(0, len(SLOTS) - 2), st.integers(1, 700)), min_size=1, max_size=5),
    order=st.randoms(),
)
def test_however_a_series_is_cut_into_overlapping_files_it_comes_out_whole(cuts, order):
    spans = [slice(first, first + length) for first, length in cuts]
    parts = [part(span, label=f"{k}.csv") for k, span in enumerate(spans)]
    order.shuffle(parts)
    joined = join_contracts(parts, ES)
    rows = sorted({row for span in spans for row in range(*span.indices(len(SLOTS)))})
    whole = join_contracts([checked_rows(SLOTS[rows], CLOSE[rows], 100.0)], ES)
    assert same(joined, whole)
    repeated = sum(finding.count for finding in joined.findings if finding.kind == REPEATED)
    assert repeated == sum(len(each) for each in parts) - len(rows)


def test_files_that_contradict_each_other_are_refused_naming_the_first_place():
    other = CLOSE.copy()
    other[310] += 0.5
    message = r"b\.csv and a\.csv: they overlap and disagree: at 2024-06-04T\d\d:\d\d UTC the first has"
    with pytest.raises(BarDataError, match=message):
        join_contracts([part(slice(0, 500), close=other, label="b.csv"), part(slice(300, None))], ES)
    thin = np.full(len(SLOTS), 100.0)
    thin[310] = 99
    with pytest.raises(BarDataError, match="volume 99"):
        join_contracts([part(slice(0, 500), volume=thin, label="b.csv"), part(slice(300, None))], ES)


def test_an_unfinished_last_bar_gives_way_to_the_whole_one():
    first = part(slice(0, 300))
    prices, volume = first.prices.copy(), first.volume.copy()
    prices[-1, 1] -= 0.25
    prices[-1, 3] -= 0.25
    volume[-1] = 40
    joined = join_contracts([replace(first, prices=prices, volume=volume), part(slice(299, None), label="b.csv")], ES)
    assert same(joined, join_contracts([part()], ES))
    assert [finding.count for finding in joined.findings if finding.kind == UNFINISHED] == [1]


def test_intervals_are_not_mixed():
    with pytest.raises(BarDataError, match=r"a\.csv and b\.csv: bars of 5 and 1 minutes cannot be joined"):
        join_contracts([part(slice(0, 300)), part(slice(300, None), label="b.csv", interval_min=1)], ES)


def contracts(near, far):
    """Two files of single contracts that trade at once, with a volume by session; the far one 60 points higher."""
    volume = [np.array(side)[SESSION] for side in (near, far)]
    return [
        part(volume=volume[0], names=("ESM4",), label="ESM4.csv"),
        part(close=CLOSE + 60, volume=volume[1], names=("ESU4",), label="ESU4.csv"),
    ]


def test_single_contracts_become_one_front_month_that_rolls_at_a_session_s_edge():
    joined = join_contracts(contracts([9, 5, 2, 1], [1, 6, 8, 9]), ES)
    names = np.array(joined.contract_names)[joined.contract]
    assert names[::276].tolist() == ["ESM4", "ESM4", "ESU4", "ESU4"]
    assert joined.open_ns.tolist() == SLOTS.tolist()
    (roll,) = joined.rolls
    assert (roll.trade_date, roll.before, roll.after, roll.source) == ("2024-06-05", "ESM4", "ESU4", "contracts")
    assert roll.gap_points == CLOSE[552] + 60 - CLOSE[551]
    (finding,) = [finding for finding in joined.findings if finding.kind == OTHER_CONTRACTS]
    assert finding.count == len(SLOTS)


def test_a_contract_that_never_becomes_the_front_month_is_left_out_and_counted():
    joined = join_contracts(contracts([9, 9, 9, 9], [1, 1, 1, 1]), ES)
    assert joined.contract_names == ("ESM4",)
    assert not joined.rolls
    (finding,) = joined.findings
    assert (finding.count, "never the front month: ESU4" in finding.done) == (len(SLOTS), True)


@settings(max_examples=20)
@given(volumes=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=4, max_size=4), order=st.randoms())
def test_every_bar_of_a_join_is_a_row_that_was_given_and_the_order_of_files_does_not_matter(volumes, order):
    parts = contracts(*[list(side) for side in zip(*volumes, strict=True)])
    whole = join_contracts(parts, ES)
    order.shuffle(parts)
    assert same(join_contracts(parts, ES), whole)
    given_rows = {
        (int(time), *np.rint(prices / 0.25), int(volume), each.contract_names[0])
        for each in parts
        for time, prices, volume in zip(each.open_ns, each.prices, each.volume, strict=True)
    }
    for row in range(len(whole.open_ns)):
        name = whole.contract_names[whole.contract[row]]
        assert (int(whole.open_ns[row]), *whole.ticks[row], int(whole.volume[row]), name) in given_rows
    assert (np.diff(whole.open_ns) > 0).all()


def test_a_series_without_contracts_cannot_be_mixed_with_contracts_that_overlap_it():
    with pytest.raises(BarDataError, match=r"they overlap .*only one of them names its contract"):
        join_contracts([part(slice(0, 400)), part(slice(300, None), names=("ESU4",), label="ESU4.csv")], ES)
    joined = join_contracts([part(slice(0, 276)), part(slice(276, None), names=("ESU4",), label="ESU4.csv")], ES)
    assert joined.contract_names == ("unnamed contract 1", "ESU4")
    assert [(roll.before, roll.after) for roll in joined.rolls] == [("", "ESU4")]


def test_the_real_file_of_all_contracts_becomes_one_series_of_its_rows(shared_data):
    table = pd.read_csv(shared_data / "ES_1m_lean_all_contracts.csv")
    times = pd.to_datetime(table["datetime"], utc=True).dt.as_unit("ns").astype("int64").to_numpy()
    codes, names = pd.factorize(table["contract"])
    prices = table[["open", "high", "low", "close"]].to_numpy()
    parts = [
        checked_rows(times[codes == k], prices[codes == k], table["volume"][codes == k], names=(name,), label=name)
        for k, name in enumerate(names)
    ]
    joined = joining.join_contracts([replace(each, interval_ns=60_000_000_000) for each in parts], ES)
    assert (np.diff(joined.open_ns) > 0).all()
    rolls = [(roll.trade_date, roll.before, roll.after) for roll in joined.rolls]
    # From 2013 to 2020 there are no rows: what lies between is no roll's gap.
    assert rolls == [("2013-12-19", "ES201312", "ES201403")]
    assert joined.contract_names == ("ES201312", "ES201403", "ES202003")
    given_rows = set(zip(times.tolist(), *np.rint(prices.T / 0.25).astype(int).tolist(), codes.tolist(), strict=True))
    code_of = {name: k for k, name in enumerate(names)}
    own = [code_of[joined.contract_names[code]] for code in joined.contract]
    assert set(zip(joined.open_ns.tolist(), *joined.ticks.T.tolist(), own, strict=True)) <= given_rows
