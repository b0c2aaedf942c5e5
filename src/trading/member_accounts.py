"""The training accounts of many members, held where the members train: accounts, tapes and masks are torch tensors.

Member m's accounts behave bit for bit as a `BatchedTradingVecEnv` over its tape with its constants. An observation is
kept in compact form: its row of the tables and the 19 values that are the account's own (92 bytes with the row as
int64, instead of 1,044); `expand` makes the whole one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.splitmix import mix64
from src.trading import member_kernel
from src.trading.layout import ACCOUNT, N_ACTIONS, N_OBS, PARAMS
from src.trading.member_kernel import MEMBER, N_OWN, PADDING
from src.trading.tape import Tape

_OF_A_BAR = ("prices", "flags", "situation", "atr_ticks", "window", "context")
"""A tape's arrays with one row a bar: together they are a market."""


def _identity(array: NDArray[Any]) -> tuple[Any, ...]:
    return array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str


class _Pieces:
    """Arrays to be concatenated; an array that comes again is held once."""

    def __init__(self, padding: int = 0) -> None:
        self._padding = padding
        self._spans: dict[tuple[Any, ...], tuple[int, int]] = {}
        self._kept: list[tuple[NDArray[Any], ...]] = []
        self._rows = 0

    def add(self, arrays: tuple[NDArray[Any], ...]) -> tuple[int, int]:
        """First row of these arrays in the concatenated ones, and the row after their last."""
        key = tuple(map(_identity, arrays))
        if key not in self._spans:
            first = self._rows + self._padding
            self._rows = first + len(arrays[0])
            self._spans[key] = first, self._rows
            self._kept.append(arrays)
        return self._spans[key]

    def concatenated(self, at: int) -> NDArray[Any]:
        """Array number `at` of all that were added, with zeros as padding before each."""
        first = self._kept[0][at]
        out = np.zeros((self._rows, *first.shape[1:]), first.dtype)
        for arrays in self._kept:
            start, end = self._spans[tuple(map(_identity, arrays))]
            out[start:end] = arrays[at]
        return out


class MemberAccounts(ABC):
    """`n_envs` accounts for each of `n_members`; see the module.

    All tensors are on `device` and keep their memory: `step` and `observe` write into them.

    window: float32[rows, 11] and context: float32[rows, 22], the tables of all distinct markets, 19 rows of zeros
    before each.
    bars: int64[M, n], each account's row in these tables.
    own: float32[M, n, 19], account (8), risk (5) and opinion (6) slices of the observation.
    masks: bool[M, n, 6], what is legal now.
    rewards: float32[M, n] and endings: uint8[M, n] (0, TERMINATED or TRUNCATED) of the last step.
    records: uint8[M, n, bytes of a record], the accounts.
    last_bars, last_own, last_masks, last_records: before the reset, valid where `endings` is not 0.
    """

    def __init__(
        self, tapes: Sequence[Tape], params: Sequence[NDArray[np.void]], n_envs: int, device: torch.device
    ) -> None:
        if not tapes or len(tapes) != len(params):
            raise ValueError(f"{len(tapes)} tapes and {len(params)} constants of accounts: every member needs one each")
        without = [m for m, tape in enumerate(tapes) if not len(tape.starts)]
        if without:
            raise ValueError(f"the tape of member {without[0]} has no bar where a training episode may begin")
        self.device, self.n_members, self.n_envs = device, len(tapes), n_envs
        markets, advices, starts, distances = _Pieces(PADDING), _Pieces(), _Pieces(), _Pieces()
        members = np.zeros(len(tapes), MEMBER)
        for member, tape, constants in zip(members, tapes, params, strict=True):
            member["row"], member["end"] = markets.add(tuple(getattr(tape, name) for name in _OF_A_BAR))
            member["advice_row"], member["advice_end"] = advices.add((tape.advice,))
            member["starts_row"], member["starts_end"] = starts.add((tape.starts,))
            member["distances_row"], _ = distances.add((tape.distances(constants),))
        self._n_bars = (members["end"] - members["row"]).tolist()
        self._bars_of = {name: self._put(markets.concatenated(at)) for at, name in enumerate(_OF_A_BAR)}
        self._of_members = tuple(self._put(pieces.concatenated(0)) for pieces in (advices, starts, distances))
        self.window, self.context = self._bars_of["window"], self._bars_of["context"]
        self._members = self._put(members.view(np.uint8))
        self._params = self._put(np.concatenate([np.asarray(p, PARAMS) for p in params]).view(np.uint8))
        self._allocate()

    def _put(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _allocate(self) -> None:
        m, n = self.n_members, self.n_envs

        def zeros(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.zeros((m, n, *shape), dtype=dtype, device=self.device)

        # At the first bar, so that a window may be read where no episode has ended yet.
        self.bars, self.last_bars = zeros(torch.int64) + PADDING, zeros(torch.int64) + PADDING
        self.own, self.last_own = zeros(torch.float32, N_OWN), zeros(torch.float32, N_OWN)
        self.masks, self.last_masks = zeros(torch.bool, N_ACTIONS), zeros(torch.bool, N_ACTIONS)
        self.rewards, self.endings = zeros(torch.float32), zeros(torch.uint8)
        self.records, self.last_records = (zeros(torch.uint8, ACCOUNT.itemsize) for _ in range(2))

    def seed(self, member: int, seed: int) -> None:
        """Seed a member's accounts with `seed`, `seed + 1`, ... and restart their sequences."""
        accounts = np.zeros(self.n_envs, ACCOUNT)
        for index in range(self.n_envs):
            accounts["key"][index] = mix64(np.uint64((seed + index) & 0xFFFFFFFFFFFFFFFF))
        self.records[member] = self._put(accounts.view(np.uint8).reshape(self.n_envs, -1))

    @abstractmethod
    def step(self, actions: Tensor) -> None:
        """Step every account with `actions` int64[M, n], begin the next episode of those that ended, and observe."""

    @abstractmethod
    def observe(self) -> None:
        """Fill `bars`, `own` and `masks` from the records."""

    @abstractmethod
    def begin(self, members: Sequence[int] | None = None) -> None:
        """Begin the next training episode of every account of these members (None: all), and observe."""

    @abstractmethod
    def expand(self, bars: Tensor, own: Tensor, out: Tensor) -> None:
        """Write whole observations into `out` float32[..., 261], from `bars` int64[...] and `own` float32[..., 19].

        `out` must be contiguous.
        """

    def get_state(self, member: int) -> dict[str, NDArray[np.uint8]]:
        """A snapshot of a member's accounts, as `BatchedTradingVecEnv.get_state` gives it."""
        return {"accounts": self.records[member].cpu().numpy().copy()}

    def set_state(self, member: int, state: dict[str, NDArray[np.uint8]]) -> None:
        """Restore a snapshot taken on the same tape, in a vec env too; call `observe` after the last one."""
        raw = np.ascontiguousarray(state["accounts"], np.uint8)
        if raw.shape != (self.n_envs, ACCOUNT.itemsize):
            raise ValueError(f"state of shape {raw.shape}, needs ({self.n_envs}, {ACCOUNT.itemsize})")
        bars, n = raw.view(ACCOUNT)["bar"], self._n_bars[member]
        # Compiled code does not check bounds: a bar beyond the tape would read arbitrary memory.
        if np.any((bars < 0) | (bars >= n)):
            raise ValueError(f"state with an account at bar {bars.max()}, but the tape has {n}: taken on another tape")
        self.records[member] = self._put(raw)

    def _check(self, actions: Tensor) -> Tensor:
        if actions.shape != (self.n_members, self.n_envs) or actions.dtype != torch.int64:
            raise ValueError(
                f"actions {actions.dtype}{list(actions.shape)}, needs int64[{self.n_members}, {self.n_envs}]"
            )
        return actions.contiguous().view(-1)

    def _flat(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """What the kernels take, one row an account: the tables, the accounts now, and before their last reset."""
        n = self.n_members * self.n_envs
        tables = (*(self._bars_of[name] for name in _OF_A_BAR[:4]), *self._of_members)
        now = (
            self.records.view(-1), self.bars.view(n), self.own.view(n, N_OWN), self.masks.view(n, N_ACTIONS),
            self.rewards.view(n), self.endings.view(n),
        )  # fmt: skip
        last = (
            self.last_records.view(-1), self.last_bars.view(n), self.last_own.view(n, N_OWN),
            self.last_masks.view(n, N_ACTIONS),
        )  # fmt: skip
        return tables, now, last


class CpuMemberAccounts(MemberAccounts):
    """The accounts on the CPU, stepped by one compiled call; the arrays that it works on are the tensors' memory."""

    def __init__(self, tapes: Sequence[Tape], params: Sequence[NDArray[np.void]], n_envs: int) -> None:
        super().__init__(tapes, params, n_envs, torch.device("cpu"))
        tables, now, last = self._flat()
        self._arrays = tuple(t.numpy() for t in tables)
        self._now = (now[0].numpy().view(ACCOUNT), *(t.numpy() for t in now[1:]))
        self._last = (last[0].numpy().view(ACCOUNT), *(t.numpy() for t in last[1:]))
        self._who = self._members.numpy().view(MEMBER)
        self._constants = self._params.numpy().view(PARAMS)
        self._window_flat, self._context = self.window.view(-1).numpy(), self.context.numpy()

    def step(self, actions: Tensor) -> None:
        chosen = self._check(actions).numpy()
        member_kernel.step_members(self.n_envs, chosen, self._who, self._arrays, self._constants, self._now, self._last)

    def observe(self) -> None:
        member_kernel.observe_members(self.n_envs, self._who, self._arrays, self._constants, self._now)

    def begin(self, members: Sequence[int] | None = None) -> None:
        chosen = np.zeros(self.n_members, np.bool_)
        chosen[slice(None) if members is None else list(members)] = True
        member_kernel.begin_members(self.n_envs, chosen, self._who, self._arrays, self._constants, self._now[0])
        self.observe()

    def expand(self, bars: Tensor, own: Tensor, out: Tensor) -> None:
        rows = bars.reshape(-1).numpy()
        member_kernel.expand_all(
            rows, own.reshape(-1, N_OWN).numpy(), self._window_flat, self._context, out.view(-1, N_OBS).numpy()
        )


def make_member_accounts(
    tapes: Sequence[Tape], params: Sequence[NDArray[np.void]], n_envs: int, device: torch.device | str
) -> MemberAccounts:
    """Accounts of members, each with its tape and PARAMS[1], on `device`.

    Raises UserError for a GPU where numba-cuda is missing.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return CpuMemberAccounts(tapes, params, n_envs)
    if device.type == "cuda":
        from src.trading.cuda import CudaMemberAccounts  # it imports this file

        return CudaMemberAccounts(tapes, params, n_envs, device)
    raise ValueError(f"no accounts on a device of type {device.type!r}, only on cpu and cuda")
