"""A policy's networks as flat arrays: forward, and the gradients, in preallocated memory.

Policy and value network read the same input, so their first layers are one product. The weights of both lie in one flat
vector, and the policy's tensors are views of it: what is learned here the policy acts, predicts and saves with.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from src.agent import clock as parts
from src.agent.clock import Clock
from src.agent.learner import kernels
from src.agent.learner.products import Floats, Library, Product, Step, aligned, product

KERNELS = {
    "tanh": (kernels.add_bias_tanh, kernels.tanh_backward),
    "relu": (kernels.add_bias_relu, kernels.relu_backward),
}
BLOCK_ROWS = 1024
"""Rows that go through all layers together: 256 took 4% longer on 2 MB of second-level cache, since MKL packs the
weights for every product."""
LANES = 16
"""float32 in 64 bytes: every block of weights begins at such an address."""


@dataclass(frozen=True)
class Dense:
    """A layer, or the first layers of both networks one below the other: weights [outputs, inputs] and bias [outputs],
    and where their gradients go; that of the weights is [inputs, outputs] where `turned`."""

    weight: Floats
    bias: Floats
    weight_gradient: Floats
    bias_gradient: Floats
    turned: bool

    @property
    def outputs(self) -> int:
        return len(self.bias)


class FlatWeights:
    """The trained tensors of a policy, their gradient and Adam's two moments, each as one flat array.

    `first` serves both networks; `hidden` and `last` are by network, policy's first.
    """

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        extractor = policy.mlp_extractor
        self.networks = [_linear(net) for net in (extractor.policy_net, extractor.value_net)]
        outputs = [policy.action_net, policy.value_net]
        self._places: list[tuple[torch.Tensor, int]] = []
        size = 0
        for group in self._groups(outputs):
            size += -size % LANES
            for parameter in group:
                self._places.append((parameter, size))
                size += parameter.numel()
        self.values, self.gradient, self.first_moment, self.second_moment = (aligned(size) for _ in range(4))
        for array in (self.values, self.gradient, self.first_moment, self.second_moment):
            array.fill(0.0)
        self.adopt_weights()
        firsts = [network[0] for network in self.networks]
        # Turned, the gradient takes a sixth less time where rows of inputs are no whole vectors.
        self.first = self._dense(firsts, turned=firsts[0].in_features % LANES != 0)
        self.hidden = [[self._dense([layer]) for layer in network[1:]] for network in self.networks]
        self.last = [self._dense([layer]) for layer in outputs]
        self.widths = [layer.out_features for layer in firsts]

    def _groups(self, outputs: Sequence[nn.Linear]) -> Iterator[list[torch.Tensor]]:
        """Tensors that lie side by side."""
        firsts = [network[0] for network in self.networks]
        yield [layer.weight for layer in firsts]
        yield [layer.bias for layer in firsts]
        for layer in itertools.chain(*(network[1:] for network in self.networks), outputs):
            yield [layer.weight]
            yield [layer.bias]

    def _dense(self, layers: Sequence[nn.Linear], *, turned: bool = False) -> Dense:
        start = {id(parameter): place for parameter, place in self._places}
        inputs, outputs = layers[0].in_features, sum(layer.out_features for layer in layers)
        at_weight, at_bias = start[id(layers[0].weight)], start[id(layers[0].bias)]
        weights = slice(at_weight, at_weight + outputs * inputs)
        biases = slice(at_bias, at_bias + outputs)
        return Dense(
            self.values[weights].reshape(outputs, inputs),
            self.values[biases],
            self.gradient[weights].reshape((inputs, outputs) if turned else (outputs, inputs)),
            self.gradient[biases],
            turned,
        )

    def adam(self, scale: float, step_size: float, beta1: float, beta2: float, eps: float, root: float) -> None:
        """A step of Adam with the gradient that is at hand; see `kernels.adam`."""
        settings = (scale, step_size, beta1, beta2, eps, root)
        rest = 0
        if self.first.turned:
            rest = self.first.weight.size
            values, first, second = (a[:rest] for a in (self.values, self.first_moment, self.second_moment))
            kernels.adam_turned(values, self.first.weight_gradient, first, second, *settings)
        flat = (self.values, self.gradient, self.first_moment, self.second_moment)
        values, gradient, first, second = (array[rest:] for array in flat)
        kernels.adam(values, gradient, first, second, *settings)

    def adopt_weights(self) -> None:
        """Make the policy's tensors views of the flat vector, with the values they have now, where they are not."""
        for parameter, place in self._places:
            view = _view(self.values, place, parameter.shape)
            if parameter.data_ptr() != view.data_ptr():
                view.copy_(parameter.detach())
                parameter.data = view

    def adopt_moments(self) -> int:
        """The same for its Adam's state, which is zero where it has none; returns Adam's steps. Loading a state dict
        and undoing an update replace those tensors.

        Raises ValueError where Adam has stepped some tensors more often than others.
        """
        state, steps = self._policy.optimizer.state, set()
        for parameter, place in self._places:
            kept = state[parameter]
            kept.setdefault("step", torch.zeros((), dtype=torch.float32))
            for key, flat in (("exp_avg", self.first_moment), ("exp_avg_sq", self.second_moment)):
                view = _view(flat, place, parameter.shape)
                if key not in kept:
                    kept[key] = view.zero_()
                elif kept[key].data_ptr() != view.data_ptr():
                    kept[key] = view.copy_(kept[key])
            steps.add(int(kept["step"]))
        if len(steps) != 1:
            raise ValueError(f"Adam has stepped the policy's tensors {sorted(steps)} times, needs one number")
        return steps.pop()

    def clear_sums(self) -> None:
        """Zero the gradients to which backward adds block by block."""
        for layer in (self.first, *itertools.chain(*self.hidden), *self.last):
            layer.bias_gradient.fill(0.0)
            if layer.outputs == 1:
                layer.weight_gradient.fill(0.0)

    def set_steps(self, steps: int) -> None:
        """Tell the policy's Adam how many steps it has made."""
        for parameter, _ in self._places:
            self._policy.optimizer.state[parameter]["step"].fill_(float(steps))


def _linear(network: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in network if isinstance(layer, nn.Linear)]


def _view(flat: Floats, place: int, shape: torch.Size) -> torch.Tensor:
    return torch.from_numpy(flat[place : place + shape.numel()]).view(shape)


class Workspace:
    """Memory for `rows` rows that go through the networks of `weights`, and back where `trains`.

    The rows go in blocks from the first layer to the last and back, so that a large minibatch stays in the cache; only
    the weights' gradients are products over all rows. In each block `x` [rows, inputs] is to be filled before
    `forward`, which leaves sums without bias in `logits` [rows, actions] and `values` [rows, 1]; `d_logits` and
    `d_values` before `backward`, which adds to the gradients of the hidden layers' biases. `finish` makes the gradients
    of all weights. A `clock` tells matrix products from the rest, which is elementwise.
    """

    def __init__(
        self,
        weights: FlatWeights,
        activation: str,
        library: Library,
        rows: int,
        *,
        trains: bool,
        block_rows: int = BLOCK_ROWS,
        clock: Clock | None = None,
    ) -> None:
        first = weights.first
        self.rows = rows
        self.x, joint = aligned(rows, first.weight.shape[1]), aligned(rows, first.outputs)
        d_joint = aligned(rows, first.outputs) if trains else None
        begins = [0, *itertools.accumulate(weights.widths)]
        towers = []
        for hidden, last, begin, end in zip(weights.hidden, weights.last, begins, begins[1:], strict=False):
            sizes = [layer.outputs for layer in (*hidden, last)]
            h = [joint[:, begin:end], *(aligned(rows, size) for size in sizes)]
            d = [] if d_joint is None else [d_joint[:, begin:end], *(aligned(rows, size) for size in sizes)]
            towers.append(_Tower([*hidden, last], h, d))
        act = _Activation(*KERNELS[activation])
        self.blocks = [
            Block(slice(start, min(start + block_rows, rows)), library, act, first, (self.x, joint, d_joint), towers)
            for start in range(0, rows, block_rows)
        ]
        self.logits, self.values = (tower.h[-1] for tower in towers)
        self._finish: list[Step] = []
        if d_joint is not None:
            for tower in towers:
                for level, layer in enumerate(tower.layers):
                    if not tower.is_single(level):
                        step = product(library, tower.d[level + 1].T, tower.h[level], layer.weight_gradient)
                        self._finish.append(step)
            operands = (self.x.T, d_joint) if first.turned else (d_joint.T, self.x)
            self._finish.append(product(library, *operands, first.weight_gradient))
        if clock is not None:
            self._finish = _timed(self._finish, clock)
            for block in self.blocks:
                block.time(clock)

    def forward(self) -> None:
        """All blocks."""
        for block in self.blocks:
            block.forward()

    def finish(self) -> None:
        """The gradients of all weights, when every block went forward and backward."""
        for step in self._finish:
            step()


class _Activation(NamedTuple):
    """Kernels of an activation: with bias in place, and backward."""

    forward: Any
    backward: Any


class _Tower(NamedTuple):
    """One network over its part of the joint first layer: its other layers; outputs `h` of every level, the first one's
    before them; and the loss's derivatives `d` by these, none where nothing is trained."""

    layers: list[Dense]
    h: list[Floats]
    d: list[Floats]

    def is_single(self, level: int) -> bool:
        """Whether the layer above `level` has one output, and inputs of their own, not a part of the joint layer's."""
        return self.layers[level].outputs == 1 and level > 0


class Block:
    """Some rows of a workspace."""

    def __init__(
        self,
        rows: slice,
        library: Library,
        act: _Activation,
        first: Dense,
        joint: tuple[Floats, Floats, Floats | None],
        towers: Sequence[_Tower],
    ) -> None:
        self.rows = rows
        x, h_joint, d_joint = joint
        self.x = x[rows]
        self.logits, self.values = (tower.h[-1][rows] for tower in towers)
        h = h_joint[rows]
        self._forward: list[Step] = [
            product(library, self.x, first.weight.T, h),
            functools.partial(act.forward, h, first.bias),
        ]
        self._backward: list[Step] = []
        for tower in towers:
            self._forward += _forward(tower, rows, library, act)
        if d_joint is not None:
            self.d_logits, self.d_values = (tower.d[-1][rows] for tower in towers)
            for tower in towers:
                self._backward += _backward(tower, rows, library, act)
            self._backward.append(functools.partial(act.backward, h, d_joint[rows], first.bias_gradient))

    def time(self, clock: Clock) -> None:
        """Have a clock tell products from the rest."""
        self._forward, self._backward = _timed(self._forward, clock), _timed(self._backward, clock)

    def forward(self) -> None:
        """From `x` to `logits` and `values`."""
        for step in self._forward:
            step()

    def backward(self) -> None:
        """From `d_logits` and `d_values` to the first layer; `forward` was called with the same `x`."""
        for step in self._backward:
            step()


def _timed(steps: Sequence[Step], clock: Clock) -> list[Step]:
    """The same steps with the clock switched between them wherever products begin or end."""
    timed: list[Step] = []
    part = parts.ELEMENTWISE
    for step in steps:
        own = parts.PRODUCTS if isinstance(step, Product) else parts.ELEMENTWISE
        if own != part:
            timed.append(functools.partial(clock.switch, own))
        timed.append(step)
        part = own
    if part != parts.ELEMENTWISE:
        timed.append(functools.partial(clock.switch, parts.ELEMENTWISE))
    return timed


def _forward(tower: _Tower, rows: slice, library: Library, act: _Activation) -> Iterator[Step]:
    for level, layer in enumerate(tower.layers):
        inputs, out = tower.h[level][rows], tower.h[level + 1][rows]
        if tower.is_single(level):
            yield functools.partial(kernels.single_output, inputs, layer.weight, out)
        else:
            yield product(library, inputs, layer.weight.T, out)
        if layer is not tower.layers[-1]:
            yield functools.partial(act.forward, out, layer.bias)


def _backward(tower: _Tower, rows: slice, library: Library, act: _Activation) -> Iterator[Step]:
    for level in reversed(range(len(tower.layers))):
        layer, d, below = tower.layers[level], tower.d[level + 1][rows], tower.d[level][rows]
        if layer is not tower.layers[-1]:
            yield functools.partial(act.backward, tower.h[level + 1][rows], d, layer.bias_gradient)
        if tower.is_single(level):
            inputs, gradient = tower.h[level][rows], layer.weight_gradient
            yield functools.partial(kernels.single_backward, inputs, d, layer.weight, below, gradient)
        elif library == "numpy" and layer.outputs == 1:  # as a product of matrices it takes twenty times as long
            yield functools.partial(np.multiply, d, layer.weight, out=below)
        else:
            yield product(library, d, layer.weight, below)
