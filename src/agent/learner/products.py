"""Which library multiplies matrices: numpy's (OpenBLAS in its wheels) or torch's (MKL), whichever is faster here.

They differ in the last bits. So the choice is measured once on a processor and kept in the user's cache folder, where
all processes of this user find it; a run records it, and a resumed training keeps its own. Where it cannot be kept,
nothing is measured: torch multiplies.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from src.agent.ppo import Library
from src.files import alone, read_regular, write_json
from src.machine_limits import processor_facts
from src.numba_cache import user_cache_folder

logger = logging.getLogger(__name__)

LIBRARIES: tuple[Library, ...] = get_args(Library)
Floats = NDArray[np.float32]
Step = Callable[[], object]

NAME = "matrix-products.json"
PROBED = ((1024, 261, 512, True), (1024, 256, 128, True), (32, 261, 512, False))
"""Rows, inputs, outputs and whether trained: layers of the default networks in an update, and in a rollout."""
REPEATS = 9
LEAST_GAIN = 1.08
"""numpy must be this much faster than torch, or the last bits would depend on noise."""


def aligned(*shape: int) -> Floats:
    """Uninitialized float32 whose memory begins at a multiple of 64 bytes: elsewhere MKL may round otherwise."""
    raw = np.empty(4 * int(np.prod(shape)) + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + 4 * int(np.prod(shape))].view(np.float32).reshape(shape)


class Product(functools.partial[object]):
    """A call that multiplies matrices, told apart from other steps when they are timed."""


def product(library: Library, left: Floats, right: Floats, out: Floats) -> Product:
    """A call that writes left @ right to `out`."""
    if library == "numpy":
        return Product(np.matmul, left, right, out=out)
    a, b, c = (torch.from_numpy(array) for array in (left, right, out))
    return Product(torch.mm, a, b, out=c)


@functools.cache
def _blas() -> list[Any]:
    """What numpy's products run on."""
    return [pool for pool in ThreadpoolController().lib_controllers if pool.user_api == "blas"]


def use_threads(library: Library) -> None:
    """Give numpy's products as many threads as torch's have, one by default: equal bits whatever the machine does.

    They stay: to change the number back and forth costs OpenBLAS more than a product.
    """
    if library == "torch":
        return
    threads = torch.get_num_threads()
    for pool in _blas():
        if pool.num_threads != threads:
            pool.set_num_threads(threads)


@functools.cache
def fastest() -> Library:
    """The faster library on this processor, as first measured; torch's where the cache folder cannot keep that.

    The same in every process of a user: who measures holds a lock, and whoever waited for it reads. What trains in
    another process is given the choice all the same (`model.products`), as a resumed training is.
    """
    path, key = user_cache_folder() / NAME, processor_key()
    if kept := _kept(path, key):
        return kept
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path):
            found = _kept(path, key) or measured()
            write_json(path, _content(path) | {key: found})
        return found
    except (OSError, NotImplementedError) as error:  # the second: a file system without locks
        logger.warning(
            "The faster library for matrix products cannot be kept in %s (%s), and the two round "
            "differently: every run takes torch's. Make the folder writable, or name another with XDG_CACHE_HOME.",
            path.parent,
            getattr(error, "strerror", None) or error,
        )
        return _kept(path, key) or "torch"


def processor_key() -> str:
    """What the choice depends on: processor and libraries."""
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{_processor_name()}, {capability}, numpy {version('numpy')}, torch {version('torch')}"


def _processor_name() -> str:
    found = processor_facts()
    name = found.get("model name") or platform.processor() or platform.machine()
    return f"{name} (family {found.get('cpu family', '?')}, model {found.get('model', '?')})"


def measured() -> Library:
    """Measure both, product by product in turns: one thread, in its own processor time, so that a busy machine decides
    nothing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pools = {pool: pool.num_threads for pool in _blas()}
    use_threads("numpy")
    try:
        seconds = {library: 0.0 for library in LIBRARIES}
        for ways in zip(*(_work(library) for library in LIBRARIES), strict=True):
            for library, best in zip(LIBRARIES, _best_of(ways), strict=True):
                seconds[library] += best
    finally:
        torch.set_num_threads(threads)
        for pool, had in pools.items():
            pool.set_num_threads(had)
    return "numpy" if seconds["torch"] > LEAST_GAIN * seconds["numpy"] else "torch"


def _best_of(ways: Sequence[Step]) -> list[float]:
    """The shortest time of each way to do the same."""
    best = [math.inf] * len(ways)
    for _ in range(REPEATS):
        for i, way in enumerate(ways):
            began = time.thread_time()
            way()
            best[i] = min(best[i], time.thread_time() - began)
    return best


def _work(library: Library) -> Iterator[Step]:
    """Forward, and the gradients of weights and inputs, as `network` multiplies them."""
    for rows, inputs, outputs, trains in PROBED:
        x, weight, h = aligned(rows, inputs), aligned(outputs, inputs), aligned(rows, outputs)
        for array in (x, weight, h):
            array.fill(0.01)
        yield product(library, x, weight.T, h)
        if trains:
            yield product(library, x.T, h, aligned(inputs, outputs))


def _kept(path: Path, key: str) -> Library | None:
    found = _content(path).get(key)
    return found if found in LIBRARIES else None


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_regular(path))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
