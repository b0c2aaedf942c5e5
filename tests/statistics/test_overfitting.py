"""Overfitting of the best of many settings: against plain loops, on noise, on one setting that is truly better."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.statistics import overfitting as module
from src.statistics import overfitting_study
from src.statistics.overfitting import LARGEST_RATIO, Measure, overfitting, splits_of, usual_blocks

Table = list[list[float]]
LARGEST = 1e6


def score(values: Sequence[float], measure: Measure) -> float:
    """Mean or Sharpe ratio of one half of one setting."""
    mean, sd = statistics.fmean(values), statistics.stdev(values)
    if measure == "mean" or mean == 0:
        return mean
    return math.copysign(LARGEST, mean) if sd == 0 else max(-LARGEST, min(LARGEST, mean / sd))


def near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)


def by_loops(table: Table, blocks: int, measure: Measure) -> list[tuple[float, float, float]]:
    """Rank, in-sample and out-of-sample result of the winner of every split, as the paper says it, one at a time."""
    n, n_settings = len(table), len(table[0])
    block_of = {t: b for b in range(blocks) for t in range(b * n // blocks, (b + 1) * n // blocks)}
    found = []
    for chosen in combinations(range(blocks), blocks // 2):
        if 0 not in chosen:
            continue
        for first in (set(chosen), set(range(blocks)) - set(chosen)):
            halves: list[list[float]] = []
            for inside in (True, False):
                rows = [t for t in range(n) if (block_of[t] in first) == inside]
                halves.append([score([table[t][j] for t in rows], measure) for j in range(n_settings)])
            chosen_on, judged_on = halves
            best = max(chosen_on)
            winners = [j for j in range(n_settings) if near(chosen_on[j], best)]
            ranks = []
            for j in winners:
                below = sum(x < judged_on[j] and not near(x, judged_on[j]) for x in judged_on)
                equal = sum(near(x, judged_on[j]) for x in judged_on)
                ranks.append(below + (equal + 1) / 2)
            out = statistics.fmean(judged_on[j] for j in winners)
            found.append((statistics.fmean(ranks) / (n_settings + 1), best, out))
    return found


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, int]:
    """Results with ties, settings that never or seldom trade, constant ones and copies; and a number of blocks."""
    blocks = draw(st.sampled_from([2, 4, 6]))
    n = draw(st.integers(2 * blocks, 2 * blocks + 9))
    traded = st.lists(st.integers(-4, 4).map(lambda x: 12.5 * x), min_size=n, max_size=n)
    seldom = st.integers(0, n - 1).map(lambda t: [0.0] * t + [-37.5] + [0.0] * (n - t - 1))
    constant = st.sampled_from([0.0, 0.1, -4.2]).map(lambda x: [x] * n)
    columns = draw(st.lists(st.one_of(traded, seldom, constant), min_size=2, max_size=5))
    columns += draw(st.lists(st.sampled_from(columns), max_size=1))
    return [list(row) for row in zip(*columns, strict=True)], blocks


@given(tables(), st.sampled_from(["sharpe", "mean"]))
@settings(max_examples=40)
def test_every_split_is_that_of_plain_loops(case: tuple[Table, int], measure: Measure) -> None:
    table, blocks = case
    found = splits_of(np.array(table), blocks=blocks, measure=measure)
    wanted = np.array(by_loops(table, blocks, measure)).T
    np.testing.assert_allclose([found.rank, found.in_sample, found.out_of_sample], wanted, rtol=1e-9, atol=1e-9)
    if len(table) < 10:
        return
    summary = overfitting(np.array(table), blocks=blocks, measure=measure)
    counted = [1.0 if rank < 0.5 - 1e-9 else 0.5 if rank <= 0.5 + 1e-9 else 0.0 for rank in wanted[0]]
    assert summary.splits == len(counted) == math.comb(blocks, blocks // 2)
    assert summary.probability == pytest.approx(statistics.fmean(counted))
    assert summary.in_sample == pytest.approx(statistics.median(wanted[1]))
    assert summary.out_of_sample == pytest.approx(statistics.median(wanted[2]), abs=1e-9)
    pairs = [(x, y) for _, x, y in wanted.T if max(abs(x), abs(y)) < LARGEST]
    if len({round(x, 9) for x, _ in pairs}) > 1:
        assert summary.slope == pytest.approx(statistics.linear_regression(*zip(*pairs, strict=True)).slope, abs=1e-6)


@given(tables(), st.permutations(range(6)))
@settings(max_examples=20)
def test_the_order_of_the_settings_and_their_units_change_nothing(case: tuple[Table, int], order: list[int]) -> None:
    table, blocks = np.array(case[0]), case[1]
    kept = [j for j in order if j < table.shape[1]]
    before, after = (splits_of(of, blocks=blocks) for of in (table, 0.01 * table[:, kept]))
    for name in ("rank", "in_sample", "out_of_sample"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), rtol=1e-7, atol=1e-9)


def test_the_best_of_pure_noise_is_as_often_below_the_median_as_above() -> None:
    found = [overfitting(np.random.default_rng(i).standard_normal((120, 60)), blocks=10) for i in range(20)]
    assert np.mean([of.probability for of in found]) == pytest.approx(0.5, abs=0.1)
    assert np.mean([of.loss for of in found]) == pytest.approx(0.5, abs=0.1)
    assert all(of.in_sample > 0.2 for of in found)  # type: ignore[operator]
    assert np.mean([of.out_of_sample for of in found]) == pytest.approx(0.0, abs=0.05)


def test_a_setting_that_is_truly_better_is_not_overfitting() -> None:
    for i in range(5):
        results = np.random.default_rng(i).standard_normal((120, 60))
        results[:, 41] += 0.6
        found = overfitting(results)
        assert found.probability == pytest.approx(0.0, abs=0.05)
        assert found.loss == pytest.approx(0.0, abs=0.05)
        assert found.in_sample == pytest.approx(found.out_of_sample, abs=0.1)
        assert (found.sessions, found.settings, found.blocks, found.splits) == (120, 60, 16, 12_870)


def test_settings_that_are_all_alike_are_in_the_middle() -> None:
    column = np.random.default_rng(3).standard_normal((40, 1))
    for table in (np.tile(column, 7), np.zeros((40, 4)), np.full((40, 5), -0.1)):
        found = splits_of(table, blocks=8)
        assert (found.rank == 0.5).all()
        assert (found.logits == 0.0).all()
        assert overfitting(table).probability == 0.5
    assert overfitting(np.zeros((40, 4))).slope is None
    assert (splits_of(np.full((40, 5), -0.1), blocks=8).in_sample == -LARGEST_RATIO).all()


def test_a_better_setting_has_positive_logits_and_a_worse_one_none() -> None:
    results = np.random.default_rng(0).standard_normal((80, 9))
    results[:, 0] += 3.0
    np.testing.assert_allclose(splits_of(results, blocks=8).logits, math.log(9.0))
    # The winner of either half is the loser of the other.
    opposed = np.array([[1.0, -1.0], [1.5, -1.5], [-1.0, 1.0], [-1.5, 1.5]])
    np.testing.assert_allclose(splits_of(opposed, blocks=2).logits, -math.log(2.0))


def test_above_the_limit_a_sample_of_the_splits_tells_nearly_the_same() -> None:
    results = np.random.default_rng(5).standard_normal((160, 30))
    every, some = overfitting(results), overfitting(results, most_splits=2_000, seed=1)
    assert (every.splits, some.splits) == (12_870, 2_000)
    assert some.probability == pytest.approx(every.probability, abs=0.04)
    assert overfitting(results, most_splits=2_000, seed=1) == some
    assert overfitting(results, most_splits=2_000, seed=2) != some


def test_the_size_of_the_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    results = np.random.default_rng(6).standard_normal((64, 11))
    whole = splits_of(results, blocks=8)
    monkeypatch.setattr(module, "_CELLS", 50)
    parts = splits_of(results, blocks=8)
    np.testing.assert_array_equal(parts.rank, whole.rank)
    np.testing.assert_allclose(parts.out_of_sample, whole.out_of_sample, rtol=1e-12)


def test_far_values_neither_hide_a_spread_nor_make_one() -> None:
    results = np.random.default_rng(7).standard_normal((64, 6))
    results[:, 1] += 1e5
    results[0, 2] = 1e6
    results[:, 3:5] = -7300.1
    results[:32, 3], results[:32, 4] = 0.1, 0.0
    for blocks in (2, 4):
        wanted = np.array(by_loops(results.tolist(), blocks, "sharpe")).T
        found = splits_of(results, blocks=blocks)
        np.testing.assert_allclose([found.in_sample, found.out_of_sample], wanted[1:], rtol=1e-9, atol=1e-12)
    for j in range(6):
        alone = np.stack([results[:, j], np.full(64, -1e9)], axis=1)
        wanted = np.array(by_loops(alone.tolist(), 4, "sharpe")).T
        np.testing.assert_allclose(splits_of(alone, blocks=4).in_sample, wanted[1], rtol=1e-9, atol=1e-12)


def test_blocks_fit_the_sessions() -> None:
    assert [usual_blocks(n) for n in (10, 16, 23, 24, 40, 63, 64, 2000)] == [4, 4, 4, 6, 10, 14, 16, 16]


def test_what_cannot_be_told_says_why() -> None:
    few = overfitting(np.zeros((9, 5)))
    assert (few.probability, few.splits, few.reason) == (None, 0, "not enough sessions (9 of 40)")
    alone = overfitting(np.zeros((50, 1)))
    assert (alone.probability, alone.reason) == (None, "1 setting: there was nothing to choose from")
    results = np.zeros((40, 3))
    for blocks in (0, 5, 22):
        with pytest.raises(ValueError, match=f"blocks must be even, at least 2, .* not {blocks} of 40 sessions"):
            splits_of(results, blocks=blocks)
    with pytest.raises(ValueError, match="not 3 and 1"):
        splits_of(results, blocks=4, most_splits=1)
    with pytest.raises(ValueError, match=r"not of shape \(40,\)"):
        overfitting(results[:, 0])
    results[7, 1] = math.nan
    with pytest.raises(ValueError, match="setting 2 has no finite result in session 8"):
        overfitting(results)


def test_the_study_prints_its_figures_and_fails_where_they_are_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert overfitting_study.main(["--repetitions", "4", "--most-settings", "20"]) == 0
    printed = capsys.readouterr().out
    rows = json.loads(printed.splitlines()[-1])["rows"]
    assert [row["settings"] for row in rows if row["kind"] == "noise"] == [10, 20]
    assert all(len(row["probabilities"]) in (1, 4) for row in rows)
    assert max(map(len, printed.splitlines()[:-1])) <= 80
    monkeypatch.setitem(overfitting_study.KINDS, "noise", overfitting_study.one_better)
    assert overfitting_study.main(["--repetitions", "4", "--most-settings", "20"]) == 1
    with pytest.raises(SystemExit, match="2"):
        overfitting_study.main(["--repetitions", "1"])
