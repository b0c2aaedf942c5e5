"""What can be held of the GPU's accounts without one: they compile for it, and their launch code is the CPU's work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numba
import pytest
import torch
from numba import types

from src.errors import UserError
from src.trading import cuda
from src.trading.layout import ACCOUNT, PARAMS
from src.trading.member_accounts import make_member_accounts
from src.trading.member_kernel import MEMBER
from tests.trading.worlds import LIVE_RULES, make_params, make_tape

ROOT = Path(__file__).resolve().parents[2]


def array(dtype: Any, dimensions: int = 1) -> Any:
    return types.Array(dtype, dimensions, "C")


def signatures() -> dict[Callable[..., None], Any]:
    """The types that each kernel is called with."""
    account, member, constants = (array(numba.from_dtype(record)) for record in (ACCOUNT, MEMBER, PARAMS))
    int64s, bytes_, floats, ints = (array(t) for t in (types.int64, types.uint8, types.float32, types.int32))
    masks, rows, triples = (array(t, 2) for t in (types.boolean, types.float32, types.int32))
    tables = (triples, bytes_, ints, floats, rows, ints, triples)
    who, observed = (member, constants), (account, int64s, rows, masks)
    return {
        cuda.step_kernel: types.void(types.int64, int64s, *who, *tables, *observed, floats, bytes_, *observed),
        cuda.observe_kernel: types.void(types.int64, *who, *tables, *observed),
        cuda.begin_kernel: types.void(types.int64, array(types.boolean), *who, *tables, account),
        cuda.expand_kernel: types.void(int64s, rows, floats, rows, rows),
    }


@pytest.mark.slow
@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_the_kernels_compile_for_a_gpu(capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    library = cuda.load()
    from numba.cuda import dispatcher

    # Without a GPU only its compute capability has to be told.
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: SimpleNamespace(compute_capability=capability))
    assert set(signatures()) == set(cuda.KERNELS)
    for kernel, signature in signatures().items():
        ptx, _ = library.compile_ptx(kernel, signature, cc=capability)
        assert f".target sm_{capability[0]}{capability[1]}" in ptx
        assert kernel.__name__ in ptx
        if kernel is cuda.step_kernel:
            # The transition is integers: floats are rewards, observations and constants, never a fused multiply-add.
            assert "fma." not in ptx


def test_without_numba_cuda_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "cuda", None)
    monkeypatch.setattr(cuda, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"numba-cuda, which is not installed: .*requirements-gpu.txt") as caught:
        make_member_accounts([make_tape(1)], [make_params(**LIVE_RULES)], 2, "cuda")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cuda.missing() == str(caught.value)


def test_a_gpu_that_numba_cuda_cannot_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = SimpleNamespace(is_available=lambda: False, cuda_error=lambda: "driver\ntoo old")
    monkeypatch.setattr(cuda, "cuda", refusing)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda.missing() == "torch finds no CUDA GPU here."
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cuda.missing().startswith("numba-cuda cannot use the GPU (driver too old): install an NVIDIA driver")
    # A driver that is too old may be found usable, and fails at the first launch.
    cuda._why_nothing_runs.cache_clear()
    monkeypatch.setattr(cuda, "cuda", SimpleNamespace(is_available=lambda: True))
    assert re.match(r"numba-cuda cannot use the GPU \(\w+Error: .+\): install an NVIDIA driver", cuda.missing())
    cuda._why_nothing_runs.cache_clear()
    monkeypatch.setattr(cuda, "cuda", refusing)
    with pytest.raises(UserError, match=r"driver too old"):
        make_member_accounts([make_tape(1)], [make_params(**LIVE_RULES)], 2, "cuda")


SIMULATED = """
import sys, warnings
import numpy as np, torch
from numba.cuda.simulator.cudadrv.devicearray import FakeWithinKernelCUDAArray as Within
from src.trading import cuda
from src.trading.member_accounts import CpuMemberAccounts
from tests.trading.test_member_accounts import four_members
from tests.trading.worlds import random_legal
warnings.simplefilter("ignore", RuntimeWarning)  # unsigned scalars that wrap, as they should
# The simulator cannot assign a record to another one's place, as a GPU can.
assign = Within.__setitem__
Within.__setitem__ = lambda self, at, value: assign(self, at, value._item._ary if isinstance(value, Within) else value)
cuda._on_device = lambda tensor: tensor.numpy()  # the three functions that need a GPU
cuda._stream = lambda device: 0
cuda._why_nothing_runs = lambda: ""
tapes, params = four_members()
ours = cuda.CudaMemberAccounts(tapes, params, 2, torch.device("cpu"))
theirs = CpuMemberAccounts(tapes, params, 2)
# Uncompiled code reads a record's fields as attributes only of numpy's own records.
record = lambda array: array.view(np.recarray)
theirs._now, theirs._last = ((record(arrays[0]), *arrays[1:]) for arrays in (theirs._now, theirs._last))
theirs._who, theirs._constants = record(theirs._who), record(theirs._constants)
for accounts in (ours, theirs):
    for member in range(4):
        accounts.seed(member, 10 * member)
    accounts.begin([0, 1, 2, 3])
    accounts.begin([2])
rng, ended = np.random.default_rng(0), 0
names = ("bars", "own", "masks", "rewards", "endings", "records", "last_bars", "last_own", "last_masks", "last_records")
for _ in range(12):
    actions = torch.from_numpy(random_legal(rng, theirs.masks.numpy().reshape(8, 6), 0.1).reshape(4, 2))
    ours.step(actions)
    theirs.step(actions)
    ended += int((theirs.endings != 0).sum())
    for name in names:
        one, other = (getattr(accounts, name).numpy().tobytes() for accounts in (ours, theirs))
        assert one == other, name
assert ended
outs = [torch.zeros(4, 2, 261), torch.ones(4, 2, 261)]
for accounts, out in zip((ours, theirs), outs):
    accounts.expand(accounts.bars, accounts.own, out)
assert torch.equal(*outs)
print("equal")
"""


@pytest.mark.slow
def test_the_launch_code_does_the_cpus_work_in_the_simulator() -> None:
    environ = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1", "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", SIMULATED], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=280
    )
    assert answer.stdout == "equal\n", answer.stderr
