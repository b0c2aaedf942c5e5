"""What is done about bad rows: a column's fault is told once with its own remedy; a handful is rounded or dropped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.market.bar_defects import _near_medians, check_rows
from src.market.bar_rows import BarRows, taken
from src.market.contracts import get_contract
from src.market.files.rows import NO_TIME
from src.market.row_verdicts import RowDefects, refuse_columns, sound_rows
from tests.market.bar_makers import scheduled_slots, walk_bars

ES = get_contract("ES")
BARS = walk_bars(scheduled_slots(3)[:800])
N = len(BARS)
TICKS = np.column_stack((BARS.open, BARS.high, BARS.low, BARS.close))


def rows(**changed: object) -> BarRows:
    sound = BarRows(
        label="ES.csv",
        time_text=lambda row: f"time {row + 1}",
        open_ns=BARS.open_ns.copy(),
        prices=TICKS * 0.25,
        volume=BARS.volume.astype(np.float64),
        contract=np.zeros(N, dtype=np.int32),
        contract_names=(),
    )
    return replace(sound, **changed)  # type: ignore[arg-type]


def prices(change) -> np.ndarray:
    """Prices in points after `change` has changed them in place."""
    table = TICKS * 0.25
    change(table)
    return table


def swapped(table: np.ndarray) -> None:
    table[:, [1, 2]] = table[:, [2, 1]]


def opened_high(table: np.ndarray) -> None:
    table[:, 0] = table[:, 1] + 2.0


def closes_adjusted(table: np.ndarray) -> None:
    table[:, 3] -= 40.0


def set_all(column: slice | int, value: float):
    def change(table: np.ndarray) -> None:
        table[:, column] = value

    return change


def moved(points: float):
    return lambda table: table.__iadd__(points)


COLUMN_FAULTS = {
    "times": ({"open_ns": np.full(N, NO_TIME)}, "time", "missing or unreadable value", "times must be like"),
    "highs": ({"prices": prices(set_all(1, np.nan))}, "high", "missing or unreadable value", "with numbers in high"),
    "contracts": ({"contract": np.full(N, -1), "contract_names": ("ESM4",)}, "contract", "missing or", "contract"),
    "swapped": ({"prices": prices(swapped)}, "high", "high below low", "exchange their names"),
    "opens": ({"prices": prices(opened_high)}, "open", "open outside [low, high]", "another order than their names"),
    "closes": ({"prices": prices(closes_adjusted)}, "close", "close outside [low, high]", "adjusted or settlement"),
    "adjusted": ({"prices": prices(moved(0.13))}, "open", "off-tick price", "adjusted or averaged series"),
    "negative": ({"prices": prices(moved(-6000.0))}, "open", "zero or negative price", "unadjusted prices of single"),
    "unit": ({"prices": TICKS * 0.25e9}, "open", "price glitch", "another unit"),
    "no volume": ({"volume": np.full(N, -1.0)}, "volume", "negative volume", "Interactive Brokers"),
    "turnover": ({"volume": np.full(N, 1e13)}, "volume", "impossible volume", "not hold a number of contracts"),
    "volume gone": ({"volume": np.where(np.arange(N) < 600, np.nan, 5.0)}, "volume", "missing or", "in volume"),
    "two series": ({"open_ns": np.repeat(BARS.open_ns[: N // 2], 2)}, "time", "duplicate time", "`contract` column"),
    "unsorted": ({"open_ns": np.random.default_rng(1).permutation(BARS.open_ns)}, "time", "unsorted", "sort the file"),
    "half minutes": ({"open_ns": BARS.open_ns + 30_000_000_000}, "time", "mixed interval", "times on whole minutes"),
}


@pytest.mark.parametrize("name", COLUMN_FAULTS)
@pytest.mark.parametrize("repair", [False, True])
def test_a_fault_of_a_whole_column_is_told_once_with_the_remedy_of_the_column(name: str, repair: bool) -> None:
    changed, column, kind, remedy = COLUMN_FAULTS[name]
    bad = rows(**changed)
    if repair and name == "two series":  # half of the rows: what one series would keep
        assert sound_rows(bad, ES, repair=True).dropped == {"duplicate time": N // 2}
        return
    with pytest.raises(RowDefects) as caught:
        sound_rows(bad, ES, repair=repair)
    text = str(caught.value)
    assert f"the column {column} has a fault of its own: {kind}" in text
    assert f"of {N} rows" in text
    assert remedy in text.partition("Remedy:")[2]
    assert "\n" not in text
    assert text.count("Remedy:") == 1
    for wrong in ("delete the row", "delete it", "more bars", "data.repair"):
        assert wrong not in text
    (fatal, *others) = caught.value.findings
    assert fatal.verdict == "fatal"
    assert "delete the row" not in "".join(finding.done for finding in (fatal, *others))
    if name != "unsorted":
        with pytest.raises(RowDefects, match="has a fault of its own"):
            refuse_columns(bad, ES)


def test_bad_columns_are_named_in_one_message() -> None:
    first, low = np.arange(N) < 500, TICKS * 0.25
    low[500:, 2] = np.nan
    bad = rows(open_ns=np.where(first, NO_TIME, BARS.open_ns), prices=low)
    with pytest.raises(RowDefects, match=r"column time .* in 500 of 800 rows .* also 300 missing or unread.*, low\)"):
        refuse_columns(bad, ES)


@pytest.mark.parametrize("volume", [0.0, np.nan])
def test_a_file_without_any_volume_is_said_and_read(volume: float) -> None:
    sound = sound_rows(rows(volume=np.full(N, volume)), ES)
    (finding,) = sound.findings
    assert (finding.kind, finding.verdict, finding.count) == ("no volume", "tolerated", N)
    assert not sound.rows.volume.any()
    assert not sound.dropped


def test_a_tick_count_for_volume_is_said() -> None:
    (finding,) = sound_rows(rows(volume_kind="ticks"), ES).findings
    assert (finding.kind, finding.verdict) == ("tick volume", "tolerated")


@given(
    off=st.dictionaries(
        st.integers(0, N - 1),
        st.lists(st.floats(-0.125, 0.125), min_size=4, max_size=4),
        min_size=1,
        max_size=N // 100,
    )
)
@settings(max_examples=60)
def test_a_handful_of_off_tick_rows_is_rounded_to_the_nearest_tick_and_counted(off: dict[int, list[float]]) -> None:
    table = TICKS * 0.25
    for row, shift in off.items():
        table[row] += shift
        table[row, 1], table[row, 2] = table[row].max(), table[row].min()
    sound = sound_rows(rows(prices=table), ES)
    opened, high, low, close = sound.rows.prices.T
    assert (high >= np.maximum(opened, close)).all()
    assert (low <= np.minimum(opened, close)).all()
    assert np.abs(sound.rows.prices - table).max() <= 0.125 + 1e-9
    changed = np.flatnonzero((np.abs(table / 0.25 - np.rint(table / 0.25)) > 0.01).any(axis=1))
    assert (np.mod(sound.rows.prices[changed], 0.25) == 0).all()
    counted = {finding.kind: (finding.verdict, finding.count) for finding in sound.findings}
    assert counted == ({"off-tick price": ("repaired", len(changed))} if len(changed) else {})
    assert not sound.dropped


def test_the_limit_of_off_tick_rows_is_a_hundredth_and_one_row_in_any_case() -> None:
    def off(n_off: int, n: int) -> BarRows:
        table = (TICKS * 0.25)[:n]
        table[:n_off, 1] += 0.1
        return rows(
            open_ns=BARS.open_ns[:n], prices=table, volume=np.arange(n) % 7 + 1.0, contract=np.zeros(n, dtype=np.int32)
        )  # fmt: skip

    for n, most in ((30, 1), (199, 1), (200, 2), (799, 7), (800, 8)):
        assert sound_rows(off(most, n), ES).findings[0].count == most
        for repair in (False, True):
            with pytest.raises(RowDefects, match=f"off-tick price in {most + 1} of {n} rows"):
                sound_rows(off(most + 1, n), ES, repair=repair)
        accepted = sound_rows(off(n, n), ES, any_tick=True)
        assert accepted.findings[0].count == n
        assert (np.mod(accepted.rows.prices, 0.25) == 0).all()


def test_a_row_that_says_the_same_twice_is_dropped_and_one_that_says_otherwise_is_refused() -> None:
    again = np.insert(np.arange(N), 40, 39)
    twice = rows(
        open_ns=BARS.open_ns[again], prices=TICKS[again] * 0.25, volume=BARS.volume[again] * 1.0,
        contract=np.zeros(N + 1, dtype=np.int32),
    )  # fmt: skip
    sound = sound_rows(twice, ES)
    assert sound.dropped == {"repeated row": 1}
    assert (sound.findings[0].verdict, sound.findings[0].where) == ("repaired", "row 41 (time 41)")
    assert (np.diff(sound.rows.open_ns) > 0).all()
    other = twice.volume.copy()
    other[40] += 1
    with pytest.raises(RowDefects, match="row 41: duplicate time, time = time 41"):
        sound_rows(replace(twice, volume=other), ES)


def test_contracts_may_follow_each_other_in_blocks_and_come_out_in_time_order() -> None:
    both = np.concatenate((BARS.open_ns, BARS.open_ns))
    blocks = rows(
        open_ns=both,
        prices=np.tile(TICKS * 0.25, (2, 1)),
        volume=np.tile(BARS.volume * 1.0, 2),
        contract=np.repeat([0, 1], N),
        contract_names=("ESM4", "ESU4"),
    )
    sound = sound_rows(blocks, ES)
    assert not sound.findings
    assert sound.rows.open_ns.tolist() == sorted(both.tolist())
    assert sound.rows.contract.tolist() == [0, 1] * N
    assert [sound.rows.time_text(row) for row in (0, 1, 2)] == ["time 1", f"time {N + 1}", "time 2"]


def test_the_places_of_a_defect_are_listed_and_the_rest_counted() -> None:
    volume = BARS.volume * 1.0
    volume[[3, 70, 500, 501, 502]] = -2.0
    with pytest.raises(RowDefects) as caught:
        sound_rows(rows(volume=volume), ES)
    (finding,) = caught.value.findings
    assert finding.where == "row 4 (time 4), row 71 (time 71), row 501 (time 501) and 2 more"
    assert (finding.verdict, finding.count, finding.done) == ("fatal", 5, "delete the row")
    (finding,) = sound_rows(rows(volume=volume), ES, repair=True).findings
    assert (finding.verdict, finding.done) == ("repaired", "dropped")


def test_one_moment_tells_no_interval() -> None:
    lone = rows(open_ns=BARS.open_ns[:1], prices=TICKS[:1] * 0.25, volume=np.ones(1), contract=np.zeros(1, np.int32))
    with pytest.raises(RowDefects, match=r"1 sound row\(s\) at one time"):
        sound_rows(lone, ES)


@given(seed=st.integers(0, 10_000), spoiled=st.integers(0, 40), missing=st.integers(0, 60))
@settings(max_examples=60)
def test_glitches_are_those_of_a_rolling_median_of_all_rows(seed: int, spoiled: int, missing: int) -> None:
    rng = np.random.default_rng(seed)
    table = np.round(1000 * np.exp(np.cumsum(rng.normal(0, 0.02, N))))[:, None] + np.array([0, 2, -2, 0.0])
    for row in rng.integers(0, N, spoiled):
        table[row, rng.integers(0, 4)] *= rng.choice([0.01, 0.65, 0.68, 1.49, 1.51, 3.7, 29, 31, 100, 1e7])
    table[rng.integers(0, N, missing)] = np.nan
    found = check_rows(rows(prices=table), ES, None, any_tick=True)
    close = pd.Series(np.where(np.isfinite(table).all(axis=1), table[:, 3], np.nan))
    near = close.rolling(31, center=True, min_periods=3).median().to_numpy()[:, None]
    level = np.nanmedian(close)
    with np.errstate(invalid="ignore"):
        absurd = (table > 1e7) | (table / near >= 1.5) | (table / near <= 1 / 1.5)
        absurd |= (table / level >= 30) | (table / level <= 1 / 30)
    absurd &= np.isfinite(table).all(axis=1)[:, None]
    assert found.count("price glitch") == absurd.any(axis=1).sum()
    places = found.column[absurd.any(axis=1)]
    assert places.tolist() == (absurd[absurd.any(axis=1)].argmax(axis=1) + 1).tolist()


def test_two_rows_at_another_market_s_price_are_glitches() -> None:
    table = TICKS * 0.25
    table[[300, 301]] *= 3.7  # NQ among ES
    found = check_rows(rows(prices=np.round(table * 4) / 4), ES, None)
    assert np.flatnonzero(found.kind >= 0).tolist() == [300, 301]
    assert found.count("price glitch") == 2


def test_the_rolling_median_is_computed_only_where_a_glitch_may_be() -> None:
    close = np.full(100_000, 5000.0)
    close[50_000] = 20.0
    computed = ~np.isnan(_near_medians(close, close, close))
    assert computed[50_000]
    assert computed.sum() <= 48


def total_by_session() -> np.ndarray:
    session = np.cumsum(np.concatenate(([0], np.diff(BARS.open_ns) > 1_800_000_000_000)))
    return pd.Series(BARS.volume).groupby(session).cumsum().to_numpy(dtype=np.float64)


def heikin_ashi() -> np.ndarray:
    """Averaged bars on the tick grid, as charts export them."""
    table = TICKS.astype(np.float64)
    close = table.mean(axis=1)
    opened = close.copy()
    for row in range(1, N):
        opened[row] = (opened[row - 1] + close[row - 1]) / 2
    opened, close = np.rint(opened), np.rint(close)
    high, low = np.maximum(table[:, 1], np.maximum(opened, close)), np.minimum(table[:, 2], np.minimum(opened, close))
    return np.column_stack((opened, high, low, close)) * 0.25


@pytest.mark.parametrize("repair", [False, True])
@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"volume": total_by_session()}, "the column volume is a running total: .*export each bar's own volume"),
        ({"volume": BARS.volume / 1000 + 0.0001}, "the column volume is not a number of contracts: .*multiply"),
        ({"volume": np.ones(N)}, "the column volume is not a number of contracts: every volume is 1. .*write 0"),
        ({"prices": heikin_ashi()}, "the column open is that of Heikin-Ashi bars: .*switch the chart to candles"),
    ],
)
def test_what_only_looks_like_bars_is_refused_for_what_it_is(changed, says: str, repair: bool) -> None:
    with pytest.raises(RowDefects, match=says) as caught:
        sound_rows(rows(**changed), ES, repair=repair)
    assert [finding.verdict for finding in caught.value.findings] == ["fatal"]


def test_tick_counts_in_fractions_and_a_short_rise_of_volume_are_bars() -> None:
    # Ticks may be counted in fractions, and of few bars a rising volume says nothing.
    sound_rows(rows(volume=BARS.volume / 1000 + 0.0001, volume_kind="ticks"), ES)
    sound_rows(taken(rows(volume=total_by_session()), np.arange(90)), ES)


@pytest.mark.parametrize(
    ("shown", "says"),
    [
        (lambda at: at.dt.normalize() + pd.to_timedelta((at.dt.hour - 1) % 12 + 1, "h"), "1 to 12 without AM or PM"),
        (lambda at: (at + pd.Timedelta(hours=6)).dt.normalize() + pd.to_timedelta(at.dt.hour, "h"), "trading day"),
    ],
)
def test_times_that_step_back_by_half_a_day_or_a_day_are_not_to_be_sorted(shown, says: str) -> None:
    wall = pd.Series(pd.DatetimeIndex(BARS.open_ns, tz="UTC").tz_convert("America/New_York").tz_localize(None))
    minutes = pd.to_timedelta(wall.dt.minute, "min")
    times = (shown(wall) + minutes).astype("datetime64[ns]").astype(np.int64).to_numpy()
    with pytest.raises(RowDefects, match=f"unsorted time in .*{says}.*Sorting would mix up"):
        refuse_columns(rows(open_ns=times), ES)
