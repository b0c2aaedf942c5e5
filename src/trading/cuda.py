"""The accounts of many members on a GPU: the CPU's own functions compiled by numba-cuda, one thread an account.

torch's tensors are the memory, so nothing is copied, and work is launched on torch's current stream, so a step may be
part of a CUDA graph. numba-cuda is an optional requirement (requirements-gpu.txt), loaded when accounts are first made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.errors import UserError
from src.trading.layout import ACCOUNT, N_OBS, PARAMS
from src.trading.member_accounts import MemberAccounts
from src.trading.member_kernel import MEMBER, N_OWN, begin_one, observe_one, step_one, write_element
from src.trading.tape import Tape

cuda: Any = None
"""numba.cuda, once `load` has imported it; a global, because kernels look it up as one."""
BLOCK = 32
"""Threads a block: a population has a few thousand accounts, which small blocks spread over all multiprocessors."""
EXPAND_BLOCK = 256
INSTALL = "python -m pip install -r requirements-gpu.txt"


def load() -> Any:
    """numba.cuda of the numba-cuda package. Raises UserError where that is missing or cannot be imported."""
    global cuda
    if cuda is None:
        if find_spec("numba_cuda") is None:
            raise UserError(f"Accounts on a GPU need numba-cuda, which is not installed: {INSTALL}.")
        if not hasattr(np, "row_stack"):
            np.row_stack = np.vstack  # noqa: NPY201  (numba-cuda 0.30 asks numpy for the old name)
        try:
            from numba import cuda as library
            from numba.cuda.core import config
        except Exception as error:
            raise UserError(f"numba-cuda cannot be imported ({error}): {INSTALL}.") from error
        config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # a small grid is meant, see BLOCK; the warning comes at every launch
        cuda = library
    return cuda


def check() -> None:
    """Raises UserError where accounts cannot be on this machine's GPU; its text says why, in one line."""
    library = load()
    if library.is_available():
        why = _why_nothing_runs()
    else:
        why = str(library.cuda_error() or "its compiler NVVM was not found")
    if why:
        raise UserError(
            f"numba-cuda cannot use the GPU ({' '.join(why.split())}): install an NVIDIA driver for CUDA 13 or newer "
            f"and {INSTALL}."
        )


@functools.cache
def _why_nothing_runs() -> str:
    """Compile and launch a kernel; why that failed, "" where it did not."""

    def one(out):  # type: ignore[no-untyped-def]
        out[0] = 1.0

    try:
        out = torch.zeros(1, device="cuda")
        cuda.jit(one)[1, 1, _stream(out.device)](_on_device(out))
        ran = float(out[0]) == 1.0
    except Exception as error:  # any failure means: train without it
        return f"{type(error).__name__}: {error}"
    return "" if ran else "a kernel left no result"


def missing() -> str:
    """Why accounts cannot be on this machine's GPU, one line; "" where they can."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA GPU here."
    try:
        check()
    except UserError as error:
        return str(error)
    return ""


# ---------------------------------------------------------------- kernels: arguments are flat, one row an account


def step_kernel(  # type: ignore[no-untyped-def]
    n_envs, actions, members, params, prices, flags, situation, atr_ticks, advice, starts, distances,
    accounts, bars, own, masks, rewards, endings, last_accounts, last_bars, last_own, last_masks,
):  # fmt: skip
    """`step_one` for each account."""
    k = cuda.grid(1)
    if k < len(actions):
        m = k // n_envs
        tables = (prices, flags, situation, atr_ticks, advice, starts, distances)
        now = (accounts, bars, own, masks, rewards, endings)
        last = (last_accounts, last_bars, last_own, last_masks)
        step_one(k, actions[k], members[m], tables, params[m], now, last)


def observe_kernel(  # type: ignore[no-untyped-def]
    n_envs, members, params, prices, flags, situation, atr_ticks, advice, starts, distances, accounts, bars, own, masks
):
    """`observe_one` for each account."""
    k = cuda.grid(1)
    if k < len(bars):
        m = k // n_envs
        tables = (prices, flags, situation, atr_ticks, advice, starts, distances)
        bars[k] = observe_one(accounts[k], members[m], tables, params[m], masks[k], own[k])


def begin_kernel(  # type: ignore[no-untyped-def]
    n_envs, chosen, members, params, prices, flags, situation, atr_ticks, advice, starts, distances, accounts
):
    """`begin_one` for each account of the members that are `chosen`, bool[members]."""
    k = cuda.grid(1)
    m = k // n_envs
    if m < len(chosen) and chosen[m]:
        tables = (prices, flags, situation, atr_ticks, advice, starts, distances)
        begin_one(accounts[k], members[m], tables, params[m])


def expand_kernel(rows, own, window_flat, context, out):  # type: ignore[no-untyped-def]
    """`write_element` for each value of each observation: neighbouring threads read and write neighbouring values."""
    e = cuda.grid(1)
    i = e // N_OBS
    if i < len(rows):
        write_element(rows[i], e % N_OBS, own[i], window_flat, context, out[i])


KERNELS = (step_kernel, observe_kernel, begin_kernel, expand_kernel)


# ---------------------------------------------------------------- accounts


@functools.cache
def _compiled() -> dict[str, Any]:
    """The kernels by name, compiled once on a machine."""
    return {kernel.__name__: cuda.jit(kernel, cache=True) for kernel in KERNELS}


def _on_device(tensor: Tensor) -> Any:
    """numba's view of a tensor's memory."""
    return cuda.as_cuda_array(tensor, sync=False)


def _stream(device: torch.device) -> Any:
    """torch's current stream on the device, for numba."""
    return cuda.external_stream(torch.cuda.current_stream(device).cuda_stream)


class CudaMemberAccounts(MemberAccounts):
    """The accounts on a GPU. Call each method once before one of them is captured in a CUDA graph: they compile."""

    def __init__(
        self, tapes: Sequence[Tape], params: Sequence[NDArray[np.void]], n_envs: int, device: torch.device
    ) -> None:
        check()
        self._kernels = _compiled()
        super().__init__(tapes, params, n_envs, device)
        tables, now, last = self._flat()
        self._arrays = tuple(map(_on_device, tables))
        self._now = (_on_device(now[0]).view(ACCOUNT), *map(_on_device, now[1:]))
        self._last = (_on_device(last[0]).view(ACCOUNT), *map(_on_device, last[1:]))
        self._who = _on_device(self._members).view(MEMBER), _on_device(self._params).view(PARAMS)
        self._window_flat, self._context = _on_device(self.window.view(-1)), _on_device(self.context)

    def _launch(self, kernel: Callable[..., None], threads: int, block: int, *arguments: Any) -> None:
        self._kernels[kernel.__name__][-(-threads // block), block, _stream(self.device)](*arguments)

    def step(self, actions: Tensor) -> None:
        """See `MemberAccounts.step`."""
        chosen = self._check(actions)
        self._launch(
            step_kernel, len(chosen), BLOCK,
            self.n_envs, _on_device(chosen), *self._who, *self._arrays, *self._now, *self._last,
        )  # fmt: skip

    def observe(self) -> None:
        """See `MemberAccounts.observe`."""
        n = self.n_members * self.n_envs
        self._launch(observe_kernel, n, BLOCK, self.n_envs, *self._who, *self._arrays, *self._now[:4])

    def begin(self, members: Sequence[int] | None = None) -> None:
        """See `MemberAccounts.begin`."""
        chosen = np.zeros(self.n_members, np.bool_)
        chosen[slice(None) if members is None else list(members)] = True
        n = self.n_members * self.n_envs
        self._launch(
            begin_kernel, n, BLOCK, self.n_envs, _on_device(self._put(chosen)), *self._who, *self._arrays, self._now[0]
        )
        self.observe()

    def expand(self, bars: Tensor, own: Tensor, out: Tensor) -> None:
        """See `MemberAccounts.expand`."""
        rows, values = bars.reshape(-1), own.reshape(-1, N_OWN)
        self._launch(
            expand_kernel, len(rows) * N_OBS, EXPAND_BLOCK,
            _on_device(rows), _on_device(values), self._window_flat, self._context, _on_device(out.view(-1, N_OBS)),
        )  # fmt: skip
