"""What a label gets whatever is asked is taken away; what a situation gets stays, and no bit depends on the order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.advisor.calibration import agreement, served_scores
from src.advisor.situations import encode, split_situations
from src.advisor.store import AdviceStore
from src.advisor.table import LABEL_SETS, SCORE_STEP, softmax
from src.advisor.tabulation import tabulate_stored
from src.trading.layout import FLAT, N_ACTIONS, N_SIDES
from tests.advisor.fake_model import AMPLE_S, ORDER, FakeModel, tabulated

seeds = st.integers(0, 2**32 - 1)


def raw_and_situations(seed: int, k: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    situations = rng.choice(ORDER, k, replace=False)
    return FakeModel(seed % 100).score(situations), situations


def by_hand(raw: np.ndarray, situations: np.ndarray) -> np.ndarray:
    """Probabilities with plain loops and without rounding, float64[k, 6]."""
    answer = np.zeros(raw.shape)
    for row, situation in enumerate(situations.tolist()):
        same_side = [r for r, other in enumerate(situations.tolist()) if other % N_SIDES == situation % N_SIDES]
        lifted = {}
        for action in range(N_ACTIONS):
            if raw[row, action] > -np.inf:
                mean = sum(float(raw[r, action]) for r in same_side) / len(same_side)
                lifted[action] = np.exp(float(raw[row, action]) - mean)
        for action, weight in lifted.items():
            answer[row, action] = weight / sum(lifted.values())
    return answer


def test_it_is_the_log_probability_less_the_mean_of_its_label_and_side() -> None:
    raw, situations = raw_and_situations(1)
    served = softmax(served_scores(raw, situations, calibrate=True))
    np.testing.assert_allclose(served, by_hand(raw, situations), atol=SCORE_STEP)


@given(seeds)
def test_each_label_of_a_side_has_mean_zero_and_served_scores_are_whole_steps(seed: int) -> None:
    raw, situations = raw_and_situations(seed)
    scores = served_scores(raw, situations, calibrate=True)
    sides = split_situations(situations)[1]
    for side in range(N_SIDES):
        means = scores[sides == side][:, LABEL_SETS[side]].mean(axis=0)
        assert np.abs(means).max() <= SCORE_STEP / 2
    for calibrate in (True, False):
        steps = served_scores(raw, situations, calibrate=calibrate) / SCORE_STEP
        labels = LABEL_SETS[sides]
        assert (steps[labels] == np.round(steps[labels])).all()
        assert np.isneginf(steps[~labels]).all()


@given(seeds)
def test_a_bias_of_a_label_on_a_side_leaves_no_trace(seed: int) -> None:
    raw, situations = raw_and_situations(seed)
    bias = np.random.default_rng(seed).integers(-5000, 0, (N_SIDES, N_ACTIONS)) * SCORE_STEP
    # On the steps from the start: else the sum of a score and a bias rounds otherwise than the score.
    raw = np.round(raw / SCORE_STEP) * SCORE_STEP
    biased = raw + bias[split_situations(situations)[1]]
    assert (served_scores(raw, situations, calibrate=True) == served_scores(biased, situations, calibrate=True)).all()
    assert (served_scores(raw, situations, calibrate=False) != served_scores(biased, situations, calibrate=False)).any()


@given(seeds)
def test_neither_order_nor_a_models_wobble_within_a_step_changes_a_bit(seed: int) -> None:
    raw, situations = raw_and_situations(seed)
    raw = np.round(raw / SCORE_STEP) * SCORE_STEP
    scores = served_scores(raw, situations, calibrate=True)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(situations))
    wobbling = raw + 1e-5 * (rng.random(raw.shape) - 0.5)
    again = served_scores(wobbling[shuffled].astype(np.float32), situations[shuffled], calibrate=True)
    assert again.tobytes() == scores[shuffled].tobytes()


def test_without_calibration_the_model_is_served_as_it_answered() -> None:
    raw, situations = raw_and_situations(2)
    labels = np.isfinite(raw)
    served = served_scores(raw, situations, calibrate=False)
    np.testing.assert_allclose(served[labels], raw[labels], atol=SCORE_STEP / 2)


def test_nothing_at_all_is_calibrated_to_nothing() -> None:
    nothing = served_scores(np.zeros((0, N_ACTIONS), np.float32), np.zeros(0, np.int64), calibrate=True)
    assert nothing.shape == (0, N_ACTIONS)


def test_it_can_be_switched_without_asking_again(tmp_path: Path) -> None:
    with_it, record = tabulated(tmp_path / "a.sqlite3")
    without, second = tabulated(tmp_path / "a.sqlite3", calibrate=False)
    assert (record.calibrated, second.calibrated, second.asked_now) == (True, False, 0)
    assert with_it.sha256 != without.sha256
    again, third = tabulated(tmp_path / "a.sqlite3")
    assert (again.sha256, third.asked_now) == (with_it.sha256, 0)
    flat = ORDER[split_situations(ORDER)[1] == FLAT]
    shares = np.log(with_it.probabilities[flat][:, LABEL_SETS[FLAT]].astype(np.float64)).mean(axis=0)
    assert np.ptp(shares) < 2 * SCORE_STEP, "on average no label is preferred"


def test_answers_beyond_the_list_do_not_enter(tmp_path: Path) -> None:
    """What the store holds for other bars, sealed ones among them, must not reach the mean."""
    alone, _ = tabulated(tmp_path / "alone.sqlite3")
    others = encode(np.arange(100, 140)[:, np.newaxis], np.arange(N_SIDES)).reshape(-1)
    with AdviceStore(tmp_path / "shared.sqlite3") as store:
        tabulate_stored(FakeModel(), store, others, AMPLE_S)
    assert tabulated(tmp_path / "shared.sqlite3")[0].sha256 == alone.sha256


@pytest.mark.parametrize("n", [1, 3])
def test_few_situations_of_a_side_are_no_obstacle(n: int) -> None:
    situations = ORDER[:n]
    scores = served_scores(FakeModel().score(situations), situations, calibrate=True)
    assert np.isfinite(scores[LABEL_SETS[split_situations(situations)[1]]]).all()


def test_agreement_is_the_share_of_the_same_likeliest_labels_where_both_were_asked() -> None:
    raw = FakeModel().score(ORDER)
    first = dict(zip(ORDER.tolist(), raw, strict=True))
    second = {situation: row.copy() for situation, row in list(first.items())[40:60]}
    assert agreement(first, second, calibrate=False) == (20, 1.0)
    assert agreement(first, second, calibrate=True) == (20, 1.0)
    for situation in list(second)[:5]:
        best = int(second[situation].argmax())
        second[situation][best] = second[situation][np.isfinite(second[situation])].min() - 1.0
    assert agreement(first, second, calibrate=False) == (20, 0.75)
    assert agreement(first, {}, calibrate=True) == (0, None)


@given(seeds, st.sets(st.integers(0, 59), min_size=1, max_size=59))
def test_rows_that_lack_a_label_abstain_and_count_in_no_mean(seed: int, partial: set[int]) -> None:
    raw, situations = raw_and_situations(seed)
    for row in partial:
        labels = np.flatnonzero(LABEL_SETS[situations[row] % N_SIDES])
        raw[row, labels[row % len(labels)]] = np.nan
    whole = np.array([row for row in range(60) if row not in partial])
    served = softmax(served_scores(raw, situations, calibrate=True))
    assert not served[sorted(partial)].any()
    alone = softmax(served_scores(raw[whole], situations[whole], calibrate=True))
    np.testing.assert_array_equal(served[whole], alone)
