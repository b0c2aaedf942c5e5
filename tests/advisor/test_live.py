"""Features made on the fly are those of the tables to the bit, and what is dear is done once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from src.advisor.live import N_ADVICE_FEATURES, LiveFeatures, answer_key
from src.advisor.mock import MockAdvisor
from src.advisor.situations import N_SITUATIONS, UNKNOWN, encode
from src.advisor.table import tabulate
from src.evaluation.look_ahead import first_bars
from src.market.settings import DataSettings
from src.testing_framework import OptimizedFeatureCache
from src.trading.layout import ACCOUNT_RISK, CONTEXT, LONG_LOSING, LONG_WINNING, OPINION
from src.trading.session_batch import SessionBatch
from tests import small_runs

HOURS = "rth"
EVERY = tabulate(MockAdvisor(), np.arange(5, N_SITUATIONS))


class Counting(MockAdvisor):
    """Writes down what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def score(self, situations: Any) -> Any:
        self.asked += situations.tolist()
        return super().score(situations)


def live(advisor: Any = None, **options: Any) -> LiveFeatures:
    return LiveFeatures(advisor or MockAdvisor(), DataSettings(), HOURS, **options)


@pytest.mark.parametrize("cached", [False, True])
def test_the_33_features_are_the_observations_own_to_the_bit(cached: bool) -> None:
    market, cache = small_runs.market(), OptimizedFeatureCache() if cached else None
    made = live(cache=cache)
    batch = SessionBatch(market.tape(EVERY), market.session_params)
    batch.begin(market.first_bars(market.split.validation[:1]))
    rng, compared = np.random.default_rng(0), 0
    for step in range(20):
        if step % 10 == 9 and not batch.over[0]:
            bar, situation = int(batch.bars()[0]), int(batch.situations()[0])
            bars = first_bars(market.tables.bars, bar + 1)
            features = made.features(bars, batch.obs[:, ACCOUNT_RISK], [situation % 5], batch.masks)
            assert features.shape == (1, N_ADVICE_FEATURES) == (1, 33)
            assert features.tobytes() == batch.obs[:, CONTEXT.start : OPINION.stop].tobytes()
            assert features[:, -6:].any()
            compared += 1
        batch.step(np.where(batch.masks, rng.random(batch.masks.shape), -1).argmax(axis=1))
    assert compared == 2


def test_accounts_at_one_bar_share_its_context_and_equal_situations_one_answer() -> None:
    market, cache, advisor = small_runs.market(), OptimizedFeatureCache(), Counting()
    made = live(advisor, cache=cache)
    bar = int(market.bars_of(market.split.validation)[40])
    bars = first_bars(market.tables.bars, bar + 1)
    sides = np.array([LONG_WINNING, LONG_LOSING, LONG_WINNING])
    for _ in range(2):
        made.features(bars, np.zeros((3, 5)), sides, np.ones((3, 6), bool))
    assert sorted(advisor.asked) == sorted(encode(market.situation[bar], sides[:2]).tolist())
    # Context: a miss and a hit. Answers: three lookups that missed, then three that hit.
    assert (cache.misses, cache.hits) == (1 + 3, 1 + 3)


def test_another_history_of_the_same_length_is_another_context() -> None:
    market, cache = small_runs.market(), OptimizedFeatureCache()
    made = live(cache=cache)
    bars = first_bars(market.tables.bars, int(market.bars_of(market.split.validation)[40]) + 1)
    volume = bars.volume.copy()
    volume[len(volume) // 2] += 1
    made.context(bars)
    made.context(type(bars)(**{**vars(bars), "volume": volume}))
    assert cache.misses == 2


def test_a_table_answers_what_it_covers_and_the_advisor_the_rest() -> None:
    advisor = Counting()
    covered = np.arange(5, 500)
    table = tabulate(MockAdvisor(), covered)
    changed = type(table)(**{**vars(table), "probabilities": table.probabilities[::-1].copy()})
    made = live(advisor, table=changed)
    asked = np.array([10, 600, 499, UNKNOWN * 5 + 2])
    found = made.advice(asked)
    assert advisor.asked == [600]
    np.testing.assert_array_equal(found[[0, 2]], changed.probabilities[asked[[0, 2]]])
    np.testing.assert_array_equal(found[1], EVERY.probabilities[600])
    assert not found[3].any()


def test_a_situation_whose_answer_lacks_a_label_has_no_advice() -> None:
    class Partial(MockAdvisor):
        may_miss_labels = True

        def score(self, situations: Any) -> Any:
            scores = super().score(situations)
            scores[0, 0] = np.nan
            return scores

    found = live(Partial()).advice([600, 601])
    assert not found[0].any()
    np.testing.assert_array_equal(found[1], EVERY.probabilities[601])
    Partial.may_miss_labels = False
    with pytest.raises(ValueError, match="needs finite log-probabilities"):
        live(Partial()).advice([600, 601])


def test_an_answer_of_another_advisor_is_not_served() -> None:
    cache = OptimizedFeatureCache()
    cache.put(answer_key("another model", 600), np.zeros(6))
    made = live(cache=cache).advice([600])
    np.testing.assert_array_equal(made[0], EVERY.probabilities[600])


def test_a_bar_outside_every_session_has_no_features() -> None:
    bars = small_runs.market().tables.bars
    late = bars.open_ns.copy()
    late[-1] += 26 * 3600 * 10**9 * 3  # a weekend's night
    with pytest.raises(ValueError, match="outside every trading session"):
        live().context(type(bars)(**{**vars(bars), "open_ns": late}))
