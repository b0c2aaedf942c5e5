"""A quantized model is compared with full precision on a sample, asked once; what cannot be asked is a reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.advisor.choose import LanguageModel
from src.advisor.precision import measure_agreement
from src.advisor.settings import LLMSettings
from src.advisor.store import AdviceStore, StoreError
from src.errors import ConfigError
from tests.advisor.fake_model import FakeModel

SITUATIONS = np.arange(5, 45, dtype=np.int64)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AdviceStore]:
    with AdviceStore(tmp_path / "advice.sqlite3") as opened:
        yield opened


class Pair:
    """A language model whose quantized weights answer as `quantized` and whose own as `full`."""

    def __init__(self, store: AdviceStore, monkeypatch: pytest.MonkeyPatch, quantized: FakeModel, full: Any) -> None:
        self.store = store
        self.lines: list[str] = []
        self.model = LanguageModel("pair", "quantized", LLMSettings(quantization="int8"))
        store.put("quantized", SITUATIONS, quantized.score(SITUATIONS))
        in_full = LanguageModel("pair", "full", LLMSettings())
        monkeypatch.setattr(LanguageModel, "in_full_precision", lambda self: in_full)
        monkeypatch.setattr(LanguageModel, "load", lambda self: full())

    def measure(self, sample: int) -> tuple[int, float | None, str]:
        found = measure_agreement(self.model, self.store, SITUATIONS, sample, calibrate=False, say=self.lines.append)
        return found.compared, found.share, found.why_not


def test_the_share_is_counted_over_the_sample(store: AdviceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    quantized, full = FakeModel(seed=0), FakeModel(seed=1)
    by_hand = (quantized.score(SITUATIONS).argmax(axis=1) == full.score(SITUATIONS).argmax(axis=1))[:12].mean()
    assert 0.0 < by_hand < 1.0
    assert Pair(store, monkeypatch, quantized, lambda: full).measure(12) == (12, pytest.approx(by_hand), "")


def test_nothing_is_asked_twice(store: AdviceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    full = FakeModel(seed=1)
    pair = Pair(store, monkeypatch, FakeModel(seed=0), lambda: full)
    first = pair.measure(12)
    asked = list(full.asked)
    assert pair.measure(12) == first
    assert (full.asked, len(pair.lines)) == (asked, 1)
    pair.measure(20)
    assert sorted(full.asked) == SITUATIONS[:20].tolist()


@pytest.mark.parametrize("error", [ConfigError("not on this machine"), RuntimeError("CUDA out of memory.\nmore")])
def test_full_precision_that_cannot_be_asked_is_a_reason(
    store: AdviceStore, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def load() -> Any:
        raise error

    pair = Pair(store, monkeypatch, FakeModel(), load)
    compared, share, why_not = pair.measure(12)
    assert (compared, share) == (0, None)
    assert str(error).splitlines()[0] in why_not
    assert pair.lines[-1] == why_not


def test_a_full_disk_is_an_error_all_the_same(store: AdviceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(store, monkeypatch, FakeModel(), FakeModel)

    def put(*_: object) -> int:
        raise StoreError("full")

    monkeypatch.setattr(store, "put", put)
    with pytest.raises(StoreError):
        pair.measure(12)


def test_no_sample_says_why_nothing_is_known(store: AdviceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    compared, share, why_not = Pair(store, monkeypatch, FakeModel(), FakeModel).measure(0)
    assert (compared, share) == (0, None)
    assert "llm.full_precision_sample is 0" in why_not
