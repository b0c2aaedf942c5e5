"""The table holds what an advisor answered, whatever the batches; abstentions say nothing to anyone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from src.advisor.situations import N_MARKET_SITUATIONS, N_SITUATIONS, UNKNOWN, encode, split_situations
from src.advisor.table import (
    LABEL_SETS,
    NO_ADVICE,
    AdviceTable,
    advised_action,
    confidence,
    coverage,
    empty_table,
    freeze_table,
    renormalise,
    situation_order,
    tabulate,
)
from src.trading import kernel
from src.trading.layout import (
    ACCOUNT,
    BUY,
    DISABLE_TRAIL,
    ENABLE_TRAIL,
    FLAT,
    HOLD,
    LONG_LOSING,
    MOVE_TO_BE,
    N_ACTIONS,
    N_OBS,
    N_SIDES,
    OPINION,
    SELL,
    SHORT_WINNING,
)


class SeededAdvisor:
    """Random log-probabilities by situation; `wobble` imitates a model whose rows feel the size of their batch."""

    name = "seeded"

    def __init__(self, seed: int = 0, wobble: float = 0.0) -> None:
        # Away from the middle between two steps, where a wobble smaller than a step could still round either way.
        steps = np.random.default_rng(seed).integers(-4096, 0, (N_SITUATIONS, N_ACTIONS))
        self._scores = steps * 2.0**-10
        self._wobble = wobble
        self.identity = f"seed {seed}"
        self.batches: list[int] = []

    def score(self, situations: np.ndarray) -> np.ndarray:
        self.batches.append(len(situations))
        _, sides = split_situations(situations)
        scores = self._scores[situations] + self._wobble * np.sin(len(situations))
        return np.where(LABEL_SETS[sides], scores, -np.inf).astype(np.float32)


advice_and_masks = st.integers(1, 8).flatmap(
    lambda k: st.tuples(
        hnp.arrays(np.float32, (k, N_ACTIONS), elements=st.floats(0.0, 1.0, width=32)),
        hnp.arrays(bool, (k, N_ACTIONS)),
    )
)


def order_of(*codes: int) -> np.ndarray:
    return situation_order(np.array(codes))


def test_each_side_offers_holding_closing_and_orders_on_its_stop() -> None:
    assert np.flatnonzero(LABEL_SETS[FLAT]).tolist() == [HOLD, BUY, SELL]
    assert np.flatnonzero(LABEL_SETS[LONG_LOSING]).tolist() == [HOLD, SELL, MOVE_TO_BE, ENABLE_TRAIL, DISABLE_TRAIL]
    assert np.flatnonzero(LABEL_SETS[SHORT_WINNING]).tolist() == [HOLD, BUY, MOVE_TO_BE, ENABLE_TRAIL, DISABLE_TRAIL]


def test_frequent_market_codes_come_first_ties_by_code_and_the_unknown_never() -> None:
    order = order_of(7, 3, 3, UNKNOWN, UNKNOWN, UNKNOWN, 9, 9, 5)
    codes, sides = split_situations(order)
    assert order.dtype == np.int64
    assert codes[::N_SIDES].tolist() == [3, 9, 5, 7]
    assert sides.tolist() == list(range(N_SIDES)) * 4


def test_asked_situations_are_covered_and_all_others_abstain() -> None:
    order = order_of(3, 3, 9)[:7]
    table = tabulate(SeededAdvisor(), order)
    assert table.asked == 7
    assert sorted(order.tolist()) == np.flatnonzero(table.covered).tolist()
    np.testing.assert_allclose(table.probabilities[order].sum(axis=1), 1.0, atol=1e-6)
    assert not table.probabilities[~table.covered].any()
    _, sides = split_situations(order)
    np.testing.assert_array_equal(table.probabilities[order] > 0.0, LABEL_SETS[sides])


@pytest.mark.parametrize("batch_size", [1, 3, 7, 500])
def test_how_the_batches_are_cut_does_not_change_the_table(batch_size: int) -> None:
    order = situation_order(np.arange(40))
    advisor = SeededAdvisor(wobble=1e-5)
    table = tabulate(advisor, order, batch_size=batch_size)
    assert table.sha256 == tabulate(SeededAdvisor(), order).sha256
    assert advisor.batches == [min(batch_size, len(order) - at) for at in range(0, len(order), batch_size)]


def test_the_order_of_asking_does_not_change_the_table_but_answers_and_advisor_do() -> None:
    order = situation_order(np.arange(40))
    table = tabulate(SeededAdvisor(), order)
    assert table.sha256 == tabulate(SeededAdvisor(), order[::-1]).sha256
    others = [tabulate(SeededAdvisor(), order[:-1]), tabulate(SeededAdvisor(seed=1), order), empty_table()]
    renamed = SeededAdvisor()
    renamed.identity = "seed 0, other weights"
    others.append(tabulate(renamed, order))
    assert len({table.sha256, *(other.sha256 for other in others)}) == 5


def test_probabilities_are_the_softmax_of_scores_rounded_to_steps() -> None:
    class Fixed:
        name = identity = "fixed"

        def score(self, situations: np.ndarray) -> np.ndarray:
            return np.array([[-0.7004, -1.2003, -1.9, -np.inf, -np.inf, -np.inf]], dtype=np.float32)

    situation = encode(3, FLAT).reshape(1)
    table = tabulate(Fixed(), situation)
    served = np.array([-717, -1229, -1946]) / 1024  # worked by hand: -717.2, -1229.1, -1945.6
    np.testing.assert_allclose(
        table.probabilities[situation[0], :3], np.exp(served) / np.exp(served).sum(), rtol=1e-7, atol=0.0
    )


@pytest.mark.parametrize(
    "answer",
    [
        np.zeros((1, N_ACTIONS)),
        np.array([[0.0, np.nan, 0.0, -np.inf, -np.inf, -np.inf]]),
        np.array([[0.0, -np.inf, 0.0, -np.inf, -np.inf, -np.inf]]),
        np.zeros((2, N_ACTIONS)),
    ],
    ids=["illegal label scored", "nan", "label left out", "shape"],
)
def test_an_answer_that_is_no_set_of_log_probabilities_is_refused(answer: np.ndarray) -> None:
    class Broken:
        name = identity = "broken"

        def score(self, situations: np.ndarray) -> np.ndarray:
            return answer

    with pytest.raises(ValueError, match="advisor 'broken' answered"):
        tabulate(Broken(), encode(3, FLAT).reshape(1))


def test_a_list_with_repeats_the_unknown_market_or_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="distinct"):
        tabulate(SeededAdvisor(), np.array([15, 15]))
    with pytest.raises(ValueError, match="unknown market"):
        tabulate(SeededAdvisor(), encode(UNKNOWN, np.arange(N_SIDES)))
    with pytest.raises(ValueError, match="batch_size"):
        tabulate(SeededAdvisor(), order_of(3), batch_size=0)


def test_coverage_counts_bars_by_what_was_asked_about_their_code() -> None:
    table = tabulate(SeededAdvisor(), order_of(3, 3, 9)[:6])
    assert coverage(table, np.array([3])) == 1.0
    assert coverage(table, np.array([3, 9])) == pytest.approx((1.0 + 0.2) / 2)
    assert coverage(table, np.array([3, UNKNOWN, UNKNOWN, 11])) == 0.25
    assert coverage(table, np.array([], dtype=np.int32)) == 0.0


def test_without_advice_every_situation_abstains() -> None:
    table = empty_table()
    assert table.probabilities.shape == (N_SITUATIONS, N_ACTIONS)
    assert table.probabilities.dtype == np.float32
    assert not table.probabilities.any()
    assert table.asked == 0
    assert coverage(table, np.arange(N_MARKET_SITUATIONS)) == 0.0


@pytest.mark.parametrize("table", [empty_table(), tabulate(SeededAdvisor(), order_of(3))])
def test_a_table_cannot_be_written_to(table: AdviceTable) -> None:
    with pytest.raises(ValueError, match="read-only"):
        table.probabilities[0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        table.covered[0] = True


def test_a_frozen_table_owns_its_arrays_and_has_a_row_for_every_situation() -> None:
    source = empty_table()
    probabilities = source.probabilities.copy()
    table = freeze_table(probabilities, source.covered, "none", "")
    probabilities[0] = 1.0
    assert not table.probabilities.any()
    assert table.sha256 == source.sha256
    with pytest.raises(ValueError, match="shape"):
        freeze_table(probabilities[1:], source.covered, "none", "")


def at_use_by_hand(row: np.ndarray, mask: np.ndarray) -> list[np.float32]:
    """The rule as the kernel states it: one action after the other, in float64."""
    mass = 0.0
    for p, legal in zip(row, mask, strict=True):
        if legal:
            mass += float(p)
    return [
        np.float32(max(float(p) / mass, 1e-6)) if legal and mass >= 1e-3 else np.float32(0.0)
        for p, legal in zip(row, mask, strict=True)
    ]


@given(advice_and_masks)
def test_advice_at_use_is_what_the_kernel_writes(case: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, masks = case
    used = renormalise(probabilities, masks)
    assert used.dtype == np.float32
    expected = [at_use_by_hand(row, mask) for row, mask in zip(probabilities, masks, strict=True)]
    assert used.tobytes() == np.array(expected, np.float32).tobytes()
    heard = used.any(axis=1)
    np.testing.assert_array_equal((used > 0.0)[heard], masks[heard])
    np.testing.assert_allclose(used[heard].sum(axis=1), 1.0, atol=1e-5)


@given(advice_and_masks)
def test_the_compiled_kernel_writes_the_same_bits(case: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, masks = case
    account = np.zeros(1, ACCOUNT)[0]  # flat at bar 0: its situation is row 0 of the advice
    for row, mask, expected in zip(probabilities, masks, renormalise(probabilities, masks), strict=True):
        advice = np.zeros((N_SIDES, N_ACTIONS), np.float32)
        advice[FLAT] = row
        obs = np.full(N_OBS, -1.0, np.float32)
        kernel.write_opinion(account, 0, np.zeros(1, np.int32), advice, mask, obs, OPINION.start)
        assert obs[OPINION].tobytes() == expected.tobytes()


@given(advice_and_masks)
def test_confidence_and_advised_action_agree_with_their_definition(case: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, masks = case
    used = renormalise(probabilities, masks)
    sure = confidence(probabilities, masks)
    advised = advised_action(probabilities, masks)
    assert sure.dtype == np.float32
    assert advised.dtype == np.int64
    for row, mask, value, action in zip(used, masks, sure, advised, strict=True):
        k = int(mask.sum())
        if not row.any():
            assert (value, action) == (0.0, NO_ADVICE)
            continue
        assert mask[action]
        assert row[action] == row.max()
        expected = 1.0 if k == 1 else (float(row.max()) - 1 / k) / (1 - 1 / k)
        assert value == pytest.approx(expected, abs=1e-6)
        assert 0.0 <= value <= 1.0


def test_little_mass_on_legal_actions_is_no_advice() -> None:
    row = np.array([[0.0005, 0.9995, 0.0, 0.0, 0.0, 0.0]], dtype=np.float32)
    only_hold = np.array([[True, False, False, False, False, False]])
    assert not renormalise(row, only_hold).any()
    assert confidence(row, only_hold).tolist() == [0.0]
    assert advised_action(row, only_hold).tolist() == [NO_ADVICE]


def test_even_advice_has_no_confidence_and_certain_advice_all_of_it() -> None:
    mask = np.array([[True, True, True, False, False, False]] * 2)
    rows = np.array([[1 / 3, 1 / 3, 1 / 3, 0, 0, 0], [0, 1, 0, 0, 0, 0]], dtype=np.float32)
    np.testing.assert_allclose(confidence(rows, mask), [0.0, 1.0], atol=1e-6)
    assert advised_action(rows, mask).tolist() == [HOLD, BUY]
