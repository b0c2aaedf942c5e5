"""A budget becomes a count once, and from then on no clock decides: same count, same batches, same table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.advisor import tabulation
from src.advisor.mock import MockAdvisor
from src.advisor.situations import UNKNOWN, encode
from src.advisor.store import AdviceStore
from src.advisor.table import LABEL_MASS_FLOOR, tabulate
from src.advisor.tabulation import order_hash, tabulate_at_once, tabulate_stored
from src.errors import UserError
from src.testing_framework import OptimizedFeatureCache
from src.trading.layout import N_SIDES
from tests.advisor.fake_model import AMPLE_S, ORDER, FakeModel, tabulated

BATCH = 16


class Clock:
    """Time that passes only while a `ClockedModel` answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(tabulation.time, "perf_counter", lambda: self.now)


class ClockedModel(FakeModel):
    """Takes a second a batch of any size; the first, which warms up, `first_s`; loading takes 100."""

    def __init__(self, clock: Clock, first_s: float = 1.0) -> None:
        super().__init__()
        self._clock = clock
        self._first_s = first_s

    def load(self) -> FakeModel:
        self._clock.now += 100.0
        return super().load()

    def score(self, situations: np.ndarray) -> np.ndarray:
        self._clock.now += 1.0 if self.batches else self._first_s
        return super().score(situations)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "advice.sqlite3"


# The budget


@pytest.mark.parametrize(
    ("budget_s", "first_s", "batches", "why"),
    [
        (5.0, 1.0, 5, "a second a batch"),
        (5.9, 1.0, 5, "whole batches only"),
        (9.0, 3.0, 7, "the warm-up is spent, but is not the speed"),
        (4.0, 3.0, 1, "one batch took most of it: no second is measured"),
        (0.001, 1.0, 1, "never less than one"),
        (1e6, 1.0, 13, "never more than there are"),
    ],
)
def test_the_budget_becomes_whole_batches_from_the_top(
    path: Path, clock: Clock, budget_s: float, first_s: float, batches: int, why: str
) -> None:
    model = ClockedModel(clock, first_s)
    table, record = tabulated(path, model, budget_s)
    count = min(batches * BATCH, len(ORDER))
    assert model.asked == ORDER[:count].tolist(), why
    assert np.flatnonzero(table.covered).tolist() == sorted(ORDER[:count].tolist())
    assert (record.count_k, record.asked_now, record.from_store) == (count, count, 0)
    assert (record.seconds, record.load_s) == (batches - 1 + first_s, 100.0)
    assert record.budget_s == budget_s


def test_count_and_list_are_recorded(path: Path, clock: Clock) -> None:
    model = ClockedModel(clock)
    _, record = tabulated(path, model, 5.0)
    assert record.order_sha256 == order_hash(ORDER)
    with AdviceStore(path) as store:
        (planned,) = store.rounds(model.identity, order_hash(ORDER))
        order = store.order(model.identity, order_hash(ORDER))
    assert (planned.count_k, planned.budget_s, planned.advices_per_s) == (80, 5.0, 16.0)
    assert planned.asked.tolist() == ORDER[:80].tolist()
    assert order is not None
    assert order.tolist() == ORDER.tolist()


def test_what_is_not_covered_abstains(path: Path, clock: Clock) -> None:
    table, _ = tabulated(path, ClockedModel(clock), 2.0)
    assert not table.probabilities[~table.covered].any()
    np.testing.assert_allclose(table.probabilities[table.covered].sum(axis=1), 1.0, atol=1e-6)


# A later run


def test_a_later_run_reuses_the_count_asks_nothing_and_does_not_load(path: Path, clock: Clock) -> None:
    first, _ = tabulated(path, ClockedModel(clock), 5.0)
    model, lines = ClockedModel(clock), []
    second, record = tabulated(path, model, 5.0, batch_size=3, say=lines.append)
    assert (model.loads, model.batches) == (0, [])
    assert second.sha256 == record.sha256 == first.sha256
    assert (record.asked_now, record.from_store, record.count_k, record.advices_per_s) == (0, 80, 80, None)
    (line,) = lines
    assert line.startswith("asked the model nothing")
    assert "--extend-advice" in line


@pytest.mark.parametrize("budget_s", [5.0, 3.0])
def test_no_larger_budget_asks_nothing(path: Path, clock: Clock, budget_s: float) -> None:
    tabulated(path, ClockedModel(clock), 5.0)
    model = ClockedModel(clock)
    _, record = tabulated(path, model, budget_s)
    assert (model.loads, record.count_k, record.rounds, record.budget_s) == (0, 80, 1, 5.0)


def test_a_larger_budget_goes_on_with_the_rest_of_it(path: Path, clock: Clock) -> None:
    """A full run after a quick one: as far as one run with the larger budget would have come."""
    tabulated(path, ClockedModel(clock), 5.0)
    model = ClockedModel(clock)
    table, record = tabulated(path, model, 9.0)
    assert model.asked == ORDER[80:144].tolist()
    assert (record.count_k, record.rounds, record.budget_s) == (144, 2, 9.0)
    assert np.flatnonzero(table.covered).tolist() == sorted(ORDER[:144].tolist())
    again = ClockedModel(clock)
    _, record = tabulated(path, again, 9.0)
    assert (again.loads, record.asked_now, record.count_k) == (0, 0, 144)


def test_a_larger_budget_where_all_is_tabulated_says_only_that_nothing_was_asked(path: Path, clock: Clock) -> None:
    tabulated(path, ClockedModel(clock), 50.0)
    lines: list[str] = []
    _, record = tabulated(path, ClockedModel(clock), 500.0, say=lines.append)
    assert (record.asked_now, record.rounds, len(lines)) == (0, 1, 1)


def test_another_model_is_asked_for_itself(path: Path) -> None:
    tabulated(path)
    other = FakeModel(seed=1)
    table, record = tabulated(path, other)
    assert (record.asked_now, record.from_store) == (len(ORDER), 0)
    assert table.sha256 != tabulated(path)[0].sha256


@pytest.mark.parametrize("batches", [1, 2, 4])
def test_a_run_stopped_anywhere_goes_on_in_the_recorded_batches(path: Path, batches: int) -> None:
    class Stopping(FakeModel):
        def score(self, situations: np.ndarray) -> np.ndarray:
            if len(self.batches) == batches:
                raise KeyboardInterrupt
            return super().score(situations)

    whole = FakeModel()
    uninterrupted, _ = tabulated(path.with_name("other.sqlite3"), whole)
    with pytest.raises(KeyboardInterrupt):
        tabulated(path, Stopping())
    model, lines = FakeModel(), []
    # Before the count was recorded nothing says how batches were cut; afterwards this run's own size means nothing.
    table, record = tabulated(path, model, batch_size=BATCH if batches < 2 else 5, say=lines.append)
    assert model.batches == whole.batches[batches:]
    assert table.sha256 == uninterrupted.sha256
    assert record.from_store == batches * BATCH
    assert any("continuing where an earlier run stopped" in line for line in lines) == (batches >= 2)


def test_an_incomplete_batch_is_asked_again_whole(path: Path) -> None:
    table, _ = tabulated(path)
    with AdviceStore(path) as store, store._transaction() as database:
        database.execute("DELETE FROM answers WHERE situation = ?", (int(ORDER[37]),))
    model = FakeModel()
    again, _ = tabulated(path, model)
    assert model.batches == [ORDER[32:48].tolist()]
    assert again.sha256 == table.sha256


# Asking for more


def test_an_extension_adds_a_budget_and_ends_where_everything_is_known(path: Path, clock: Clock) -> None:
    counts = []
    for _ in range(4):
        lines: list[str] = []
        model = ClockedModel(clock)
        _, record = tabulated(path, model, 5.0, extend=True, say=lines.append)
        counts.append((record.count_k, record.asked_now, record.from_store, record.rounds, record.budget_s))
    assert counts == [(80, 80, 0, 1, 5.0), (160, 80, 80, 2, 10.0), (200, 40, 160, 3, 15.0), (200, 0, 200, 3, 15.0)]
    assert model.loads == 0
    assert any("nothing is left to ask" in line for line in lines)


def test_an_extension_that_was_cut_short_is_finished_and_not_extended(path: Path, clock: Clock) -> None:
    tabulated(path, ClockedModel(clock), 3.0)
    tabulated(path, ClockedModel(clock), 5.0, extend=True)
    with AdviceStore(path) as store, store._transaction() as database:
        database.execute("DELETE FROM answers WHERE situation = ?", (int(ORDER[100]),))
    _, record = tabulated(path, ClockedModel(clock), 5.0, extend=True)
    assert (record.count_k, record.asked_now, record.rounds) == (128, BATCH, 2)


def test_a_first_budget_that_was_cut_short_is_finished_and_extended(path: Path, clock: Clock) -> None:
    tabulated(path, ClockedModel(clock), 3.0)
    with AdviceStore(path) as store, store._transaction() as database:
        database.execute("DELETE FROM answers WHERE situation = ?", (int(ORDER[40]),))
    _, record = tabulated(path, ClockedModel(clock), 2.0, extend=True)
    assert (record.count_k, record.asked_now, record.rounds) == (80, 3 * BATCH, 2)


def test_what_another_list_has_asked_is_not_asked_again(path: Path, clock: Clock) -> None:
    others = encode(np.arange(20, 60)[:, np.newaxis], np.arange(N_SIDES)).reshape(-1)
    with AdviceStore(path) as store:
        tabulate_stored(FakeModel(), store, others, AMPLE_S)
    model = ClockedModel(clock)
    _, record = tabulated(path, model, 3.0)
    known = set(others.tolist())
    expected = [s for s in ORDER.tolist() if s not in known][: 3 * BATCH]
    assert model.asked == expected
    assert record.count_k == 105 + 3 * BATCH, "the codes 40 to 20 were known"
    assert record.from_store == 105


# How much falls on the labels


@pytest.mark.parametrize("factor", [1.0, 1e-3])
def test_the_probability_on_the_labels_is_measured_and_warned_about(path: Path, factor: float) -> None:
    """Without the store's help: from the scores that the model gave, summed by hand."""

    class Quiet(FakeModel):
        def score(self, situations: np.ndarray) -> np.ndarray:
            return (super().score(situations) + np.log(factor) - 1.0).astype(np.float32)

    lines: list[str] = []
    _, record = tabulated(path, Quiet(), say=lines.append)
    shares = [sum(np.exp(float(x)) for x in row if np.isfinite(x)) for row in Quiet().score(ORDER)]
    assert record.label_mass == pytest.approx(np.mean(shares), rel=1e-4)
    assert (record.label_mass < LABEL_MASS_FLOOR) == (factor < 1.0)
    assert any("falls on the answer labels (floor 10%)" in line for line in lines) == (factor < 1.0)
    again: list[str] = []
    assert tabulated(path, Quiet(), say=again.append)[1].label_mass == record.label_mass, "from the store, too"


# Words and limits


def test_it_says_what_will_be_asked_how_long_it_takes_and_how_far_it_is(path: Path, clock: Clock) -> None:
    lines: list[str] = []
    steps: list[dict[str, Any]] = []
    tabulated(path, ClockedModel(clock), 10.0, say=lines.append, progress=lambda step: steps.append(dict(step)))
    assert lines == [
        "200 situations of the training sessions are not tabulated; asking for up to 10 s, most frequent first",
        "loading fake",
        "16.0 advices/s: the budget is 160 of 200 situations; about 0:08 to go",
    ]
    assert [step["fraction_done"] for step in steps] == [i / 8 for i in range(1, 9)]
    assert [step["seconds_left"] for step in steps] == [float(i) for i in range(7, -1, -1)]
    assert {step["advices_per_s"] for step in steps} == {16.0}


def test_a_model_that_changed_on_the_way_is_refused(path: Path) -> None:
    class Changed(FakeModel):
        def load(self) -> FakeModel:
            return FakeModel(seed=5)

    with pytest.raises(UserError, match="Start again"):
        tabulated(path, Changed())


def test_an_answer_that_is_none_is_not_stored(path: Path) -> None:
    class Broken(FakeModel):
        def score(self, situations: np.ndarray) -> np.ndarray:
            scores = super().score(situations)
            scores[3, 0] = np.nan
            return scores

    with pytest.raises(ValueError, match=str(int(ORDER[3]))):
        tabulated(path, Broken())
    with AdviceStore(path) as store:
        assert store.answers(Broken().identity) == {}


@pytest.mark.parametrize("order", [[15, 15], encode(UNKNOWN, np.arange(N_SIDES)), [-1], [10**6]])
def test_a_bad_list_is_refused(path: Path, order: Any) -> None:
    with AdviceStore(path) as store, pytest.raises(ValueError, match="situation"):
        tabulate_stored(FakeModel(), store, np.array(order), AMPLE_S)


def test_an_empty_list_is_an_empty_table(path: Path) -> None:
    model = FakeModel()
    with AdviceStore(path) as store:
        table, record = tabulate_stored(model, store, np.zeros(0, np.int64), AMPLE_S)
    assert (table.asked, record.count_k, record.asked_now, model.loads) == (0, 0, 0, 0)


def test_rules_need_neither_store_nor_budget() -> None:
    table, record = tabulate_at_once(MockAdvisor(), ORDER)
    assert table.sha256 == record.sha256 == tabulate(MockAdvisor(), ORDER).sha256
    assert (record.count_k, record.asked_now, record.rounds, record.calibrated) == (len(ORDER), len(ORDER), 0, False)


def test_the_record_is_plain(path: Path) -> None:
    _, record = tabulated(path)
    assert json.loads(json.dumps(record.to_dict()))["count_k"] == len(ORDER)


@pytest.mark.parametrize("size", [1, 1000])
def test_a_cache_of_any_size_changes_no_bit_and_counts_who_was_asked(tmp_path: Path, size: int) -> None:
    cache = OptimizedFeatureCache(size)
    with AdviceStore(tmp_path / "advice.sqlite3") as store:
        plain, record = tabulate_stored(FakeModel(), store, ORDER, AMPLE_S)
        known, _ = tabulate_stored(FakeModel(), store, ORDER, AMPLE_S, cache=cache)
        assert (cache.hits, cache.misses) == (record.count_k, 0)
    with AdviceStore(tmp_path / "empty.sqlite3") as store:
        cache.clear()
        asked, _ = tabulate_stored(FakeModel(), store, ORDER, AMPLE_S, cache=cache)
        assert (cache.hits, cache.misses) == (0, record.count_k)
    assert plain.sha256 == known.sha256 == asked.sha256
