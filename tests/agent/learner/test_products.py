"""The library for matrix products is chosen once on a processor; both give the same products."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from src.agent.learner import products
from src.agent.learner.products import LIBRARIES, aligned, fastest, processor_key, product, use_threads


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of the test's own, and nothing remembered in the process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fastest.cache_clear()
    yield products.user_cache_folder() / products.NAME
    fastest.cache_clear()


def test_memory_begins_at_a_multiple_of_64_bytes() -> None:
    for shape in ((1,), (3, 5), (7, 261), (0, 0)):
        array = aligned(*shape)
        assert (array.shape, array.dtype, array.flags.c_contiguous) == (shape, np.float32, True)
        assert array.size == 0 or array.ctypes.data % 64 == 0


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_product_of_slices_and_transposes_is_the_plain_one(library: Any) -> None:
    rng = np.random.default_rng(0)
    wide, d = rng.standard_normal((20, 30)).astype(np.float32), rng.standard_normal((20, 4)).astype(np.float32)
    out = np.full((4, 50), 7.0, np.float32)
    product(library, d.T, wide[:, 5:15], out[:, 10:20])()
    np.testing.assert_allclose(out[:, 10:20], d.T.astype(float) @ wide[:, 5:15], rtol=1e-5, atol=1e-5)
    assert (np.delete(out, range(10, 20), axis=1) == 7.0).all()


def test_the_choice_is_measured_once_and_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    monkeypatch.setattr(products, "measured", lambda: measured.append(1) or "numpy")
    assert fastest() == "numpy"
    fastest.cache_clear()
    assert fastest() == "numpy"
    assert measured == [1]
    assert json.loads(cache.read_text()) == {processor_key(): "numpy"}


@pytest.mark.parametrize("content", ["", "[]", "{", '{"another processor": "numpy"}', "of this: mkl"])
def test_what_is_kept_and_no_answer_is_measured_anew(
    content: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(content.replace("of this: mkl", json.dumps({processor_key(): "mkl"})))
    monkeypatch.setattr(products, "measured", lambda: "torch")
    assert fastest() == "torch"
    assert json.loads(cache.read_text())[processor_key()] == "torch"


def test_a_folder_that_cannot_be_written_costs_only_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(products, "measured", lambda: "torch")
    assert fastest() == "torch"


def test_numpys_products_use_torchs_threads() -> None:
    was = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        use_threads("numpy")
        pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas" and "numpy" in pool["filepath"]]
        assert [pool["num_threads"] for pool in pools] == [1]
    finally:
        torch.set_num_threads(was)


def test_measuring_leaves_torchs_threads() -> None:
    was = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert products.measured() in LIBRARIES
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(was)
