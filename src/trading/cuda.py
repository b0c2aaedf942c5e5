"""The accounts of many members on a GPU: the CPU's own functions compiled by numba-cuda, one thread an account.

torch's tensors are the memory, so nothing is copied, and work is launched on torch's current stream, so a step may be
part of a CUDA graph. numba-cuda is an optional requirement (requirements-gpu.txt), loaded when accounts are first made.
"""

from __future__ import annotations

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
        except Exception as error:
            raise UserError(f"numba-cuda cannot be imported ({error}): {INSTALL}.") from error
        cuda = library
    return cuda


def missing() -> str:
    """Why accounts cannot be on this machine's GPU, one sentence; "" where they can."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA GPU here."
    try:
        library = load()
    except UserError as error:
        return str(error)
    if not library.is_available():
        return f"numba-cuda cannot use the GPU ({library.cuda_error()}): {INSTALL}."
    return ""


# ---------------------------------------------------------------- kernels: arguments are flat, one row an account


def step_kernel(
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


def observe_kernel(
    n_envs, members, params, prices, flags, situation, atr_ticks, advice, starts, distances, accounts, bars, own, masks
):
    """`observe_one` for each account."""
    k = cuda.grid(1)
    if k < len(bars):
        m = k // n_envs
        tables = (prices, flags, situation, atr_ticks, advice, starts, distances)
        bars[k] = observe_one(accounts[k], members[m], tables, params[m], masks[k], own[k])


def begin_kernel(
    n_envs, chosen, members, params, prices, flags, situation, atr_ticks, advice, starts, distances, accounts
):
    """`begin_one` for each account of the members that are `chosen`, bool[members]."""
    k = cuda.grid(1)
    m = k // n_envs
    if m < len(chosen) and chosen[m]:
        tables = (prices, flags, situation, atr_ticks, advice, starts, distances)
        begin_one(accounts[k], members[m], tables, params[m])


def expand_kernel(rows, own, window_flat, context, out):
    """`write_element` for each value of each observation: neighbouring threads read and write neighbouring values."""
    e = cuda.grid(1)
    i = e // N_OBS
    if i < len(rows):
        write_element(rows[i], e % N_OBS, own[i], window_flat, context, out[i])


KERNELS = (step_kernel, observe_kernel, begin_kernel, expand_kernel)


# ---------------------------------------------------------------- accounts


def _on_device(tensor: Tensor) -> Any:
    """numba's view of a tensor's memory."""
    return cuda.as_cuda_array(tensor, sync=False)


def _stream() -> Any:
    """torch's current stream, for numba."""
    return cuda.external_stream(torch.cuda.current_stream().cuda_stream)


class CudaMemberAccounts(MemberAccounts):
    """The accounts on a GPU. Call each method once before one of them is captured in a CUDA graph: they compile."""

    def __init__(
        self, tapes: Sequence[Tape], params: Sequence[NDArray[np.void]], n_envs: int, device: torch.device
    ) -> None:
        load()
        self._kernels = {kernel.__name__: cuda.jit(kernel) for kernel in KERNELS}
        super().__init__(tapes, params, n_envs, device)
        tables, now, last = self._flat()
        self._arrays = tuple(map(_on_device, tables))
        self._now = (_on_device(now[0]).view(ACCOUNT), *map(_on_device, now[1:]))
        self._last = (_on_device(last[0]).view(ACCOUNT), *map(_on_device, last[1:]))
        self._who = _on_device(self._members).view(MEMBER), _on_device(self._params).view(PARAMS)
        self._window_flat, self._context = _on_device(self.window.view(-1)), _on_device(self.context)

    def _launch(self, kernel: Callable[..., None], threads: int, block: int, *arguments: Any) -> None:
        self._kernels[kernel.__name__][-(-threads // block), block, _stream()](*arguments)

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
