"""The library for matrix products is chosen once on a processor; both give the same products."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from src.agent.learner import products
from src.agent.learner.products import LIBRARIES, aligned, fastest, processor_key, product, use_threads
from tests.agent.learner.models import weights_of
from tests.agent.resumable import built


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
def test_a_file_without_an_answer_is_measured_and_replaced(
    content: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(content.replace("of this: mkl", json.dumps({processor_key(): "mkl"})))
    monkeypatch.setattr(products, "measured", lambda: "torch")
    assert fastest() == "torch"
    assert json.loads(cache.read_text())[processor_key()] == "torch"


def test_where_the_choice_cannot_be_kept_it_is_torchs_in_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Measured there, two runs would differ whenever their measurements do."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(products, "measured", lambda: "numpy")
    assert fastest() == "torch"
    assert str(tmp_path / "file") in caplog.text


def test_a_choice_that_no_disk_space_is_left_for_is_torchs(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(products, "measured", lambda: "numpy")
    monkeypatch.setattr(products, "write_json", full)
    assert fastest() == "torch"


def test_processes_that_would_measure_differently_at_the_same_time_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight begin together, and each would find another library faster than its neighbours do."""
    context = multiprocessing.get_context("fork")
    together, measurements = context.Barrier(8), context.Value("i", 0)

    def measured() -> Any:
        with measurements.get_lock():
            measurements.value += 1
        time.sleep(0.05)  # long enough for all to be here, were they let in
        return LIBRARIES[os.getpid() % 2]

    def one(queue: Any) -> None:
        together.wait(30)
        queue.put(fastest())

    monkeypatch.setattr(products, "measured", measured)
    queue = context.SimpleQueue()
    processes = [context.Process(target=one, args=(queue,)) for _ in range(8)]
    for process in processes:
        process.start()
    found = [queue.get() for _ in processes]
    for process in processes:
        process.join(30)
    assert len(set(found)) == 1
    assert measurements.value == 1
    assert fastest() == found[0]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_training_in_another_process_is_the_one_in_this(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the choice: whatever that process would have measured."""

    def trained() -> bytes:
        with built("base") as one:
            one.model.products = library
            weights = weights_of(one.learn(1).model)
        return b"".join(value.tobytes() for value in weights.values())

    def other(queue: Any) -> None:
        queue.put(trained())

    monkeypatch.setattr("src.agent.learner.fused.fastest", lambda: next(each for each in LIBRARIES if each != library))
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=other, args=(queue,))
    process.start()
    there = queue.get()
    process.join(30)
    assert there == trained()


def test_numpys_products_use_torchs_threads() -> None:
    was = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        use_threads("numpy")
        pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas" and "numpy" in pool["filepath"]]
        assert [pool["num_threads"] for pool in pools] == [1]
    finally:
        torch.set_num_threads(was)


def test_measuring_leaves_the_threads_of_both_libraries() -> None:
    """Else numbers that have nothing to do with training would depend on which process measured."""
    was = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        use_threads("numpy")
        assert products.measured() in LIBRARIES
        assert torch.get_num_threads() == 2
        pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas" and "numpy" in pool["filepath"]]
        assert [pool["num_threads"] for pool in pools] == [2]
    finally:
        torch.set_num_threads(was)
        use_threads("numpy")
