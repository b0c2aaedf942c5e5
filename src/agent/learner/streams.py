"""Random numbers of a population's members: each draws on the host what it would draw when it trains alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch

from src.agent.learner.shuffling import draw_orders
from src.agent.ppo import GeneratorStates

_Drawn = tuple[torch.Tensor, list[Any]]


class RolloutShape(NamedTuple):
    """Sizes of a member's rollout and of its update."""

    steps: int
    envs: int
    actions: int
    epochs: int

    @property
    def rows(self) -> int:
        """Timesteps of a rollout."""
        return self.steps * self.envs


class MemberStreams:
    """A torch generator (noise of the sampled actions) and a numpy one (order of the minibatches) for each member.

    `noise` and `orders` draw for a whole rollout and a whole update, one by one the calls that a member alone makes: a
    call for more numbers at once would draw others. With `ahead` threads draw the next while the device works on
    these; that changes no number. `states` are those after what has been handed out, whatever was drawn ahead.
    """

    def __init__(
        self, generators: Sequence[GeneratorStates], shape: RolloutShape, *, pinned: bool = False, ahead: bool = False
    ) -> None:
        self._given = list(generators)
        self._shape = shape
        members = len(self._given)
        self._torch = [torch.Generator().set_state(states.torch) for states in self._given]
        self._numpy = [np.random.RandomState() for _ in self._given]
        for stream, states in zip(self._numpy, self._given, strict=True):
            stream.set_state(states.numpy)
        # Two of each: while the device may still read one, the thread fills the other.
        sizes = (shape.steps, members, shape.envs, shape.actions)
        self._noises = [torch.empty(sizes, pin_memory=pinned) for _ in range(2)]
        orders = (shape.epochs, members, shape.rows)
        self._orders = [torch.empty(orders, dtype=torch.int32, pin_memory=pinned) for _ in range(2)]
        self._turns = {"noise": 0, "orders": 0}
        self._torch_states: list[torch.Tensor] = [stream.get_state() for stream in self._torch]
        self._before_orders: list[Any] = []
        # The library numbers a rollout's timesteps account by account; the table here, step by step.
        self._by_account = np.arange(shape.rows, dtype=np.int32).reshape(shape.steps, shape.envs).T.ravel()
        self._threads = {what: ThreadPoolExecutor(1, f"population-{what}") for what in self._turns} if ahead else {}
        self._pending: dict[str, Future[_Drawn]] = {}

    def noise(self) -> torch.Tensor:
        """Exp(1) numbers of the next rollout, float32[steps, members, envs, actions]; valid until the call after the
        next."""
        drawn, self._torch_states = self._take("noise", self._draw_noise)
        return drawn

    def orders(self) -> torch.Tensor:
        """The minibatches of the next update, int32[epochs, members, rows]: rows of a table that holds the members'
        rollouts one after another, each [steps, envs]. `epochs_begun` must follow."""
        drawn, self._before_orders = self._take("orders", self._draw_orders)
        return drawn

    def epochs_begun(self, epochs: Sequence[int]) -> None:
        """Say how many epochs each member has begun, so that one that stopped early has drawn no more than those."""
        for stream, before, begun in zip(self._numpy, self._before_orders, epochs, strict=True):
            if begun < self._shape.epochs:
                stream.set_state(before)
                for _ in range(begun):
                    stream.permutation(self._shape.rows)
        self._before_orders = []

    def draw_ahead(self, what: str) -> None:
        """Have the thread draw the next `noise` or `orders`, where there is one. Orders only while no update runs."""
        if self._threads and what not in self._pending:
            draw: Callable[[], _Drawn] = self._draw_noise if what == "noise" else self._draw_orders
            self._pending[what] = self._threads[what].submit(draw)

    def states(self, member: int) -> GeneratorStates:
        """The state in which a member that trains alone would have left the global generators; not between `orders` and
        `epochs_begun`."""
        ahead = self._pending.get("orders")
        numpy_state = self._numpy[member].get_state(legacy=False) if ahead is None else ahead.result()[1][member]
        return self._given[member]._replace(numpy=numpy_state, torch=self._torch_states[member].clone())

    def close(self) -> None:
        """End the threads."""
        for thread in self._threads.values():
            thread.shutdown(cancel_futures=True)
        self._pending.clear()

    def _take(self, what: str, draw: Callable[[], _Drawn]) -> _Drawn:
        pending = self._pending.pop(what, None)
        return draw() if pending is None else pending.result()

    def _next(self, what: str, memory: list[torch.Tensor]) -> torch.Tensor:
        self._turns[what] ^= 1
        return memory[self._turns[what]]

    def _draw_noise(self) -> _Drawn:
        noise = self._next("noise", self._noises)
        for member, stream in enumerate(self._torch):
            for step in range(self._shape.steps):
                noise[step, member].exponential_(generator=stream)
        return noise, [stream.get_state() for stream in self._torch]

    def _draw_orders(self) -> _Drawn:
        orders = self._next("orders", self._orders)
        before = [stream.get_state(legacy=False) for stream in self._numpy]
        keys = np.array([state["state"]["key"] for state in before], np.uint32)
        positions = np.array([state["state"]["pos"] for state in before], np.int64)
        draw_orders(keys, positions, self._by_account, orders.numpy())
        for stream, was, key, position in zip(self._numpy, before, keys, positions.tolist(), strict=True):
            stream.set_state({**was, "state": {"key": key, "pos": position}})
        return orders, before
