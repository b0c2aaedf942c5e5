"""A batch is as large as memory allows: the estimate is held against what a pass really allocates."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from src.advisor import batches
from src.advisor.models import LoadedModel, load_model
from src.advisor.prompts import load_prompts
from src.advisor.scoring import LLMScorer
from src.trading.layout import N_SIDES
from tests.advisor.architectures import loaded
from tests.advisor.fake_model import ORDER, FakeModel, tabulated

PROMPTS = load_prompts()


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return load_model("tiny", device="cpu", threads=1)


class Held(TorchDispatchMode):
    """The most bytes that tensors made inside hold at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._sizes: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in given:
                storage = tensor.untyped_storage()
                self._sizes[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        self._sizes = {at: (ref, size) for at, (ref, size) in self._sizes.items() if not ref.expired()}
        self.peak = max(self.peak, sum(size for _, size in self._sizes.values()))
        return made


@pytest.mark.filterwarnings("ignore")  # of torch and transformers, about reference implementations
@pytest.mark.parametrize("name", ["llama", "bloom", "mistral, narrow window"])
def test_a_prompts_memory_is_estimated_and_not_by_much_too_high(tiny: LoadedModel, name: str) -> None:
    scorer = LLMScorer(loaded(name, tiny), PROMPTS)
    scorer.score(np.array([5]))  # the prefix is read
    peaks = []
    for n in (2, 6):
        longest = [scorer._encoder.tokens(5)[len(scorer._prefix) :]] * n
        with Held() as held, torch.inference_mode():
            scorer._forward(longest)
        peaks.append(held.peak)
    own = len(longest[0])
    each = (peaks[1] - peaks[0]) / 4
    shape = batches.shape_of(scorer._loaded.model.config)
    assert shape is not None
    ends = scorer._reads_head_at_ends
    estimate = batches.prompt_bytes(shape, own, len(scorer._prefix), 4, head_at_ends=ends)
    assert each <= estimate <= 3 * each
    assert (scorer.prompt_bytes() or 0) >= estimate, "the scorer counts with the longest prompt"


@given(st.integers(0, 10**12), st.integers(1, 10**10))
def test_a_batch_fits_and_twice_it_would_not(free: int, each: int) -> None:
    size = batches.fitting(free, each)
    assert size & (size - 1) == 0
    assert size == 1 or size * each <= 0.8 * free
    assert size == batches.MOST or 2 * size * each > 0.79 * free or each > 0.39 * free


def test_what_torch_may_still_take_is_the_least_of_three_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    def free(mib_free: int, allocated: int, reserved: int, share: float) -> int:
        device = torch.device("cuda")
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: (mib_free << 20, 1000 << 20))
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda place: allocated << 20)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda place: reserved << 20)
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda place: share)
        return batches.free_bytes(device) >> 20

    assert free(600, 100, 150, 1.0) == 650, "what the device has, and what torch keeps without using it"
    assert free(600, 100, 150, 0.5) == 400, "torch's share of the device, less what it holds"
    assert free(600, 700, 750, 0.5) == 0


def test_a_scorer_takes_its_batch_from_the_device(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = LLMScorer(tiny, PROMPTS, None)
    assert scorer.batch_size == 16, "on a CPU"
    each = scorer.prompt_bytes()
    assert each is not None
    scorer._loaded = dataclasses.replace(tiny, device=torch.device("cuda"))
    monkeypatch.setattr(batches, "free_bytes", lambda device: 50 * each)
    assert scorer._fitting_batch() == 32
    tiny_config = type("Config", (), {"get_text_config": lambda self: self, "hidden_size": 8})()
    assert batches.shape_of(tiny_config) is None, "a configuration that does not say how many layers"


def test_the_batch_is_the_models_own_and_recorded(tmp_path: Path) -> None:
    """A resumed run cuts the same batches, whatever memory is free by then."""
    model = FakeModel()
    model.batch_size = 40  # type: ignore[attr-defined]
    _, record = tabulated(tmp_path / "advice.sqlite3", model, batch_size=None)
    assert ([len(batch) for batch in model.batches], record.batch_size) == ([40] * 5, 40)
    path = tmp_path / "cut.sqlite3"
    for n_batches, batch_size in ((2, 40), (None, 8)):
        asked = FakeModel()
        asked.batch_size = batch_size  # type: ignore[attr-defined]
        score = asked.score

        def interrupted(situations: Any, asked: Any = asked, score: Any = score, limit: Any = n_batches) -> Any:
            if limit is not None and len(asked.batches) == limit + 1:
                raise KeyboardInterrupt
            return score(situations)

        asked.score = interrupted  # type: ignore[method-assign]
        if n_batches is not None:
            with pytest.raises(KeyboardInterrupt):
                tabulated(path, asked, batch_size=None)
        else:
            _, record = tabulated(path, asked, batch_size=None)
            assert [len(batch) for batch in asked.batches] == [40, 40], "of 200, the two that were not asked"
            assert (record.batch_size, record.count_k) == (40, len(ORDER))
    assert len(ORDER) % N_SIDES == 0
