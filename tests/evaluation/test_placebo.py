"""The placebo is the same advice in the wrong places: nothing added, nothing lost, nothing left where it was."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from src.advisor.situations import N_MARKET_SITUATIONS, N_SITUATIONS, SIDES
from src.advisor.table import AdviceTable, empty_table, freeze_table
from src.evaluation.placebo import constant_table, placebo_facts, placebo_table
from src.trading.layout import ACTIONS, BUY, HOLD, N_ACTIONS
from tests import small_runs


def table_of(seed: int, share: float, distinct: int) -> AdviceTable:
    """A share of the situations covered, with so many different rows at most on each side."""
    rng = np.random.default_rng(seed)
    covered = rng.random(N_SITUATIONS) < share
    rows = rng.dirichlet(np.ones(N_ACTIONS), distinct).astype(np.float32)[rng.integers(distinct, size=N_SITUATIONS)]
    return freeze_table(np.where(covered[:, np.newaxis], rows, 0), covered, "random", str(seed))


tables = st.builds(table_of, st.integers(0, 2**32), st.sampled_from([0.0, 0.001, 0.003, 0.3, 1.0]), st.integers(1, 5))


def situations_of(side: int) -> list[int]:
    return [code * 5 + side for code in range(N_MARKET_SITUATIONS)]


@settings(max_examples=50)
@given(tables, st.integers(0, 2**32))
def test_each_side_keeps_its_advice_and_none_of_it_in_its_place(table: AdviceTable, seed: int) -> None:
    placebo = placebo_table(table, seed)
    assert (placebo.covered == table.covered).all()
    assert not placebo.probabilities[~placebo.covered].any()
    for side in range(5):
        covered = [s for s in situations_of(side) if table.covered[s]]
        before = [table.probabilities[s].tobytes() for s in covered]
        after = [placebo.probabilities[s].tobytes() for s in covered]
        assert Counter(before) == Counter(after)
        if len(set(before)) > 1:
            assert before != after


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(0, 2**32))
@example(44, 0)  # a single market code is covered on every side
def test_where_all_rows_differ_no_situation_keeps_its_own(content: int, seed: int) -> None:
    rng = np.random.default_rng(content)
    covered = rng.random(N_SITUATIONS) < 0.2
    rows = rng.dirichlet(np.ones(N_ACTIONS), N_SITUATIONS).astype(np.float32)
    table = freeze_table(np.where(covered[:, np.newaxis], rows, 0), covered, "random", str(content))
    placebo = placebo_table(table, seed)
    same = (table.probabilities == placebo.probabilities).all(axis=1)
    for side in range(5):
        covered = [s for s in situations_of(side) if table.covered[s]]
        assert len(covered) > 50
        assert not same[covered].any()


def test_two_situations_change_places_and_one_keeps_its_own() -> None:
    rows = np.zeros((N_SITUATIONS, N_ACTIONS), np.float32)
    covered = np.zeros(N_SITUATIONS, bool)
    for situation, action in ((5, HOLD), (10, BUY), (16, BUY)):
        rows[situation, action], covered[situation] = 1.0, True
    placebo = placebo_table(freeze_table(rows, covered, "by hand", ""), 7)
    assert placebo.probabilities[5, BUY] == placebo.probabilities[10, HOLD] == placebo.probabilities[16, BUY] == 1.0


def test_what_is_covered_on_every_side_changes_places_with_all_of_its_answers() -> None:
    rng = np.random.default_rng(5)
    covered = np.repeat(rng.random(N_MARKET_SITUATIONS) < 0.3, 5)
    alone = int(np.flatnonzero(~covered)[0])
    covered[alone] = True
    rows = rng.dirichlet(np.ones(N_ACTIONS), N_SITUATIONS).astype(np.float32)
    table = freeze_table(np.where(covered[:, np.newaxis], rows, 0), covered, "random", "")
    placebo = placebo_table(table, 3)
    side_of_alone, together = alone % 5, 0
    for code in np.flatnonzero(covered.reshape(-1, 5).all(axis=1)):
        origins = [
            int(np.flatnonzero((table.probabilities == placebo.probabilities[code * 5 + side]).all(axis=1))[0])
            for side in range(5)
        ]
        assert [origin % 5 for origin in origins] == list(range(5))
        together += len({origin // 5 for side, origin in enumerate(origins) if side != side_of_alone}) == 1
    assert together == covered.reshape(-1, 5).all(axis=1).sum()
    assert (placebo.probabilities[alone] != table.probabilities[alone]).any()


def test_the_permutation_follows_its_seed_and_the_hash_tells_tables_apart() -> None:
    table = small_runs.advice()
    one, again, other = placebo_table(table, 1), placebo_table(table, 1), placebo_table(table, 2)
    assert one.sha256 == again.sha256
    assert (one.probabilities == again.probabilities).all()
    assert len({table.sha256, one.sha256, other.sha256, constant_table(table).sha256}) == 4
    assert (one.probabilities != other.probabilities).any()
    # Even where nothing can be permuted it is another table by name.
    assert placebo_table(empty_table(), 1).sha256 != empty_table().sha256
    assert one.advisor_name == f"{table.advisor_name}, permuted"


def test_every_cycle_of_a_side_is_equally_likely() -> None:
    rows = np.zeros((N_SITUATIONS, N_ACTIONS), np.float32)
    covered = np.zeros(N_SITUATIONS, bool)
    places = [5, 10, 15, 20]
    rows[places, range(4)], covered[places] = 1.0, True
    table = freeze_table(rows, covered, "four rows", "")
    n = 1200
    seen = Counter(tuple(placebo_table(table, seed).probabilities[places].argmax(axis=1).tolist()) for seed in range(n))
    # (4 - 1)! cycles of four; 4.5 standard deviations of a share of 1/6.
    assert len(seen) == 6
    assert all(abs(count - n / 6) < 4.5 * np.sqrt(n * 5 / 36) for count in seen.values())


def test_what_changes_on_the_bars_is_reported_by_hand() -> None:
    rows = np.zeros((N_SITUATIONS, N_ACTIONS), np.float32)
    covered = np.zeros(N_SITUATIONS, bool)
    # Flat: market code 1 buys, 2 and 3 hold; code 4 is not covered.
    for code, action in ((1, BUY), (2, HOLD), (3, HOLD)):
        rows[code * 5, action], covered[code * 5] = 1.0, True
    table = freeze_table(rows, covered, "by hand", "")
    permuted = rows.copy()
    permuted[[5, 10]] = permuted[[10, 5]]
    placebo = freeze_table(permuted, covered, "by hand", "")
    # Eight covered bars: five in code 1, one in 2, two in 3. The original buys on five, the placebo on one.
    facts = placebo_facts(table, placebo, np.array([1, 1, 1, 1, 1, 2, 3, 3, 4, 4]))
    assert facts["flat"] == {
        "situations": 3,
        "changed": 2,
        "bars": 8,
        "bars_changed_frac": 0.75,
        "mean_shift": {**dict.fromkeys(ACTIONS, 0.0), "BUY": -0.5, "HOLD": 0.5},
    }
    assert facts["long winning"] == {
        "situations": 0, "changed": 0, "bars": 0, "bars_changed_frac": None, "mean_shift": None
    }  # fmt: skip
    assert list(facts) == list(SIDES)


def test_the_constant_says_the_mean_of_its_side_wherever_something_was_said() -> None:
    table = small_runs.advice()
    constant = constant_table(table)
    assert (constant.covered == table.covered).all()
    for side in range(5):
        mine = np.array(situations_of(side))
        said = mine[table.covered[mine]]
        rows = constant.probabilities[said]
        assert (rows == rows[0]).all()
        np.testing.assert_allclose(rows[0], table.probabilities[said].mean(axis=0), atol=1e-6)
        assert not constant.probabilities[mine[~table.covered[mine]]].any()
    assert constant_table(empty_table()).asked == 0
