"""Rollouts of many members that stay on the device, in compact form: an observation is its bar and 19 floats."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.agent.learner.population_loss import LossRows, advantages_of, log_probabilities, pool_terms, sample
from src.agent.learner.population_memory import DeviceMemory
from src.agent.learner.population_network import StackedWorkspace
from src.agent.learner.streams import RolloutShape
from src.trading.accounts import episode_summaries
from src.trading.kernel import TRUNCATED
from src.trading.layout import ACCOUNT, N_ACTIONS, N_OBS, OPINION
from src.trading.member_accounts import MemberAccounts
from src.trading.member_kernel import N_OWN

OWN_OPINION = slice(N_OWN - N_ACTIONS, N_OWN)
"""The opinion in an account's own part of the observation."""


class Advice:
    """How each member hears the advice: its pool's weight (0 for a base policy), and whether its networks see it."""

    def __init__(self, sees: list[bool], memory: DeviceMemory) -> None:
        self.weight = memory.zeros(len(sees))
        self._blind = not all(sees)
        self._sees = memory.full([float(one) for one in sees], torch.float32)

    def hide(self, observations: Tensor) -> None:
        """Zero the opinion in whole observations [M, ..., 261] of members whose networks do not see it."""
        if self._blind:
            observations[..., OPINION].mul_(self._sees.view(-1, *[1] * (observations.dim() - 1)))

    def terms(self, own: Tensor) -> Tensor:
        """What the opinion adds to the logits, from the accounts' own parts [M, ..., 19]."""
        return pool_terms(own[..., OWN_OPINION], self.weight)


class CollectedRollout(NamedTuple):
    """What the host learns of a rollout: rewards float32[M, steps, envs], endings uint8 of that shape, the episodes
    that ended by member, each (step, env, summary), and which members' policies gave numbers that are not finite."""

    rewards: NDArray[np.float32]
    endings: NDArray[np.uint8]
    episodes: list[list[tuple[int, int, dict[str, Any]]]]
    not_finite: list[int]


class RolloutTable:
    """A rollout of every member, [M, steps, envs, ...]; row `step x envs + env` of a member is a timestep."""

    def __init__(self, members: int, shape: RolloutShape, memory: DeviceMemory) -> None:
        self.shape, self._members = shape, members
        sizes = (members, shape.steps, shape.envs)
        self.bars, self.last_bars, self.actions = (memory.empty(*sizes, dtype=torch.int64) for _ in range(3))
        self.own, self.last_own = (memory.empty(*sizes, N_OWN) for _ in range(2))
        self.masks = memory.empty(*sizes, shape.actions, dtype=torch.bool)
        floats = [memory.empty(*sizes) for _ in range(5)]
        self.log_probs, self.values, self.rewards, self.advantages, self.returns = floats
        self.endings = memory.empty(*sizes, dtype=torch.uint8)
        self.last_records = memory.empty(*sizes, ACCOUNT.itemsize, dtype=torch.uint8)
        self.noise = memory.empty(shape.steps, members, shape.envs, shape.actions)
        self.last_values = memory.empty(members, shape.envs)
        self.finite = memory.empty(members, dtype=torch.bool)

    def flat(self, table: Tensor) -> Tensor:
        """One of the tables with one row a timestep, [M x rows, ...]."""
        return table.view(self._members * self.shape.rows, *table.shape[3:])


class Collector:
    """Plays rollouts. `play` is the part of fixed shapes that never asks the device for a number; `settle` reads what
    the host must know; `value` is the rest."""

    def __init__(
        self,
        accounts: MemberAccounts,
        table: RolloutTable,
        work: StackedWorkspace,
        advice: Advice,
        gammas: tuple[Tensor, Tensor],
    ) -> None:
        self._accounts, self._table, self._work, self._advice = accounts, table, work, advice
        self._gamma, self._lambda = gammas

    def play(self) -> None:
        """Act in every step, with the noise in the table."""
        table, accounts = self._table, self._accounts
        table.finite.fill_(True)
        for step in range(table.shape.steps):
            for kept, now in ((table.bars, accounts.bars), (table.own, accounts.own), (table.masks, accounts.masks)):
                kept[:, step] = now
            self._see(accounts.bars, accounts.own)
            log_p = log_probabilities(self._work.logits, self._advice.terms(accounts.own), accounts.masks)
            actions, log_probs = sample(log_p, table.noise[step])
            table.finite.logical_and_(torch.isfinite(log_probs).all(1))
            table.actions[:, step], table.log_probs[:, step] = actions, log_probs
            table.values[:, step] = self._work.values
            accounts.step(actions)
            table.rewards[:, step], table.endings[:, step] = accounts.rewards, accounts.endings
            table.last_bars[:, step], table.last_own[:, step] = accounts.last_bars, accounts.last_own
            table.last_records[:, step] = accounts.last_records
        self._see(accounts.bars, accounts.own)
        table.last_values.copy_(self._work.values)

    def settle(self) -> CollectedRollout:
        """Copy to the host what callbacks are told; add to the last reward of an episode that was cut short the
        discounted value of the state it was cut in."""
        table = self._table
        rewards, endings = table.rewards.to("cpu", copy=True).numpy(), table.endings.to("cpu", copy=True).numpy()
        not_finite = torch.nonzero(~table.finite.cpu()).flatten().tolist()
        places = np.argwhere(endings != 0)
        rows = np.ravel_multi_index(tuple(places.T), endings.shape)
        records = table.flat(table.last_records)[torch.from_numpy(rows).to(table.rewards.device)]
        accounts = records.cpu().numpy().view(ACCOUNT).reshape(-1)
        episodes: list[list[tuple[int, int, dict[str, Any]]]] = [[] for _ in endings]
        for (member, step, env), summary in zip(places.tolist(), episode_summaries(accounts), strict=True):
            episodes[member].append((step, env, summary))
        self._bootstrap(endings)
        return CollectedRollout(rewards, endings, episodes, not_finite)

    def value(self) -> None:
        """Advantages and returns."""
        table = self._table
        advantages_of(
            table.rewards, table.values, table.endings != 0, table.last_values, self._gamma, self._lambda,
            table.advantages,
        )  # fmt: skip
        torch.add(table.advantages, table.values, out=table.returns)

    def _see(self, bars: Tensor, own: Tensor) -> None:
        self._accounts.expand(bars, own, self._work.x)
        self._advice.hide(self._work.x)
        self._work.forward()

    def _bootstrap(self, endings: NDArray[np.uint8]) -> None:
        table, envs = self._table, self._table.shape.envs
        cut = [np.flatnonzero(of_member == TRUNCATED) for of_member in endings]
        most = max(map(len, cut))
        rows, used = (np.zeros((len(cut), most + -most % envs), kind) for kind in (np.int64, np.float32))
        for member, found in enumerate(cut):
            rows[member, : len(found)], used[member, : len(found)] = found, 1.0
        offsets = torch.arange(len(cut), device=table.rewards.device).unsqueeze(1) * table.shape.rows
        rewards = table.rewards.view(len(cut), -1)
        for start in range(0, most, envs):
            some = torch.from_numpy(rows[:, start : start + envs].copy()).to(rewards.device)
            counts = torch.from_numpy(used[:, start : start + envs].copy()).to(rewards.device)
            places = (some + offsets).view(-1)
            bars = table.flat(table.last_bars)[places].view(some.shape)
            self._see(bars, table.flat(table.last_own)[places].view(*some.shape, N_OWN))
            added = torch.where(counts > 0.0, self._gamma.unsqueeze(1) * self._work.values, 0.0)
            rewards.scatter_add_(1, some, added)


class MinibatchReader:
    """Gathers rows of every member's rollout into the memory of a minibatch, whole observations included."""

    def __init__(self, accounts: MemberAccounts, table: RolloutTable, advice: Advice, members: int) -> None:
        self._accounts, self._table, self._advice, self._members = accounts, table, advice, members

    def read(self, rows: Tensor, x: Tensor) -> LossRows:
        """Rows int32[M, B] of `RolloutTable.flat`; the observations go to `x` float32[M, B, 261]."""
        table, shape = self._table, rows.shape
        places = rows.reshape(-1)

        def gathered(of: Tensor) -> Tensor:
            found = torch.index_select(table.flat(of), 0, places)
            return found.view(*shape, *of.shape[3:])

        own = gathered(table.own)
        self._accounts.expand(gathered(table.bars), own, x)
        self._advice.hide(x)
        numbers = (table.log_probs, table.values, table.advantages, table.returns)
        return LossRows(
            gathered(table.actions), gathered(table.masks), self._advice.terms(own), *(gathered(one) for one in numbers)
        )

    def observations(self, member: int) -> NDArray[np.float32]:
        """A member's whole observations, float32[steps, envs, 261]."""
        bars, own = self._table.bars[member], self._table.own[member]
        out = torch.empty(*bars.shape, N_OBS, device=bars.device)
        self._accounts.expand(bars.contiguous(), own.contiguous(), out)
        return out.cpu().numpy()
