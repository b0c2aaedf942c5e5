"""A policy's networks as flat arrays: forward, and the gradients, in preallocated memory.

Policy and value network read the same input, so their first layers are one product. The weights of both lie in one flat
vector, and the policy's tensors are views of it: what is learned here the policy acts, predicts and saves with.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from src.agent.learner import kernels
from src.agent.learner.products import Floats, Library, Step, aligned, product

LANES = 16
"""float32 in 64 bytes: every block of weights begins at such an address."""


@dataclass(frozen=True)
class Dense:
    """A layer, or the first layers of both networks one below the other: weights [outputs, inputs] and bias [outputs],
    and where their gradients go."""

    weight: Floats
    bias: Floats
    weight_gradient: Floats
    bias_gradient: Floats

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
        self.first = self._dense(firsts)
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

    def _dense(self, layers: Sequence[nn.Linear]) -> Dense:
        start = {id(parameter): place for parameter, place in self._places}
        inputs, outputs = layers[0].in_features, sum(layer.out_features for layer in layers)
        at_weight, at_bias = start[id(layers[0].weight)], start[id(layers[0].bias)]

        def views(flat: Floats) -> tuple[Floats, Floats]:
            weight = flat[at_weight : at_weight + outputs * inputs].reshape(outputs, inputs)
            return weight, flat[at_bias : at_bias + outputs]

        return Dense(*views(self.values), *views(self.gradient))

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

    def set_steps(self, steps: int) -> None:
        """Tell the policy's Adam how many steps it has made."""
        for parameter, _ in self._places:
            self._policy.optimizer.state[parameter]["step"].fill_(float(steps))


def _linear(network: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in network if isinstance(layer, nn.Linear)]


def _view(flat: Floats, place: int, shape: torch.Size) -> torch.Tensor:
    return torch.from_numpy(flat[place : place + shape.numel()]).view(shape)


class Workspace:
    """Memory for `rows` rows going through the networks of `weights`, and back where `trains`.

    `x` [rows, inputs] is to be filled before `forward`, which leaves sums without bias in `logits` [rows, actions] and
    `values` [rows, 1]; `d_logits` and `d_values` before `backward`, which leaves the gradients of all weights and of
    the hidden layers' biases.
    """

    def __init__(self, weights: FlatWeights, activation: str, library: Library, rows: int, *, trains: bool) -> None:
        self.rows = rows
        self._multiply = functools.partial(product, library)
        self._library = library
        self._forward: list[Step] = []
        self._backward: list[Step] = []
        act, back = {
            "tanh": (kernels.add_bias_tanh, kernels.tanh_backward),
            "relu": (kernels.add_bias_relu, kernels.relu_backward),
        }[activation]
        first = weights.first
        self.x = aligned(rows, first.weight.shape[1])
        joint = aligned(rows, first.outputs)
        d_joint = aligned(rows, first.outputs) if trains else joint
        self._forward += [self._multiply(self.x, first.weight.T, joint), functools.partial(act, joint, first.bias)]
        ends = [0, *itertools.accumulate(weights.widths)]
        outputs, slopes = [], []
        for number, last in enumerate(weights.last):
            part = slice(ends[number], ends[number + 1])
            out = aligned(rows, last.outputs)
            d_out = aligned(rows, last.outputs) if trains else out
            self._add_network(weights.hidden[number], last, (joint[:, part], d_joint[:, part]), (out, d_out), act, back)
            outputs.append(out)
            slopes.append(d_out)
        self.logits, self.values = outputs
        self.d_logits, self.d_values = slopes
        if trains:
            self._backward.append(functools.partial(back, joint, d_joint, first.bias_gradient))
            self._backward += self._weight_gradient(d_joint, self.x, first.weight_gradient)

    def _add_network(
        self,
        hidden: Sequence[Dense],
        last: Dense,
        below: tuple[Floats, Floats],
        above: tuple[Floats, Floats],
        act: Any,
        back: Any,
    ) -> None:
        """One network's layers over its part of the first; pairs are outputs and the loss's derivatives by them."""
        levels = [below]
        for layer in hidden:
            h = aligned(self.rows, layer.outputs)
            levels.append((h, h if above[0] is above[1] else aligned(self.rows, layer.outputs)))
            self._forward += [
                self._multiply(levels[-2][0], layer.weight.T, h),
                functools.partial(act, h, layer.bias),
            ]
        self._forward.append(self._multiply(levels[-1][0], last.weight.T, above[0]))
        if above[0] is above[1]:
            return
        self._backward += self._weight_gradient(above[1], levels[-1][0], last.weight_gradient)
        self._backward.append(self._input_gradient(above[1], last.weight, levels[-1][1]))
        for level in range(len(hidden), 0, -1):
            (h, d), (h_below, d_below), layer = levels[level], levels[level - 1], hidden[level - 1]
            self._backward.append(functools.partial(back, h, d, layer.bias_gradient))
            self._backward += self._weight_gradient(d, h_below, layer.weight_gradient)
            self._backward.append(self._multiply(d, layer.weight, d_below))

    def _weight_gradient(self, d: Floats, inputs: Floats, gradient: Floats) -> list[Step]:
        """d.T @ inputs. Where rows of `gradient` are no whole vectors, computing the transpose takes a sixth less time,
        and turning it a fiftieth."""
        if gradient.shape[1] % LANES == 0 or gradient.shape[0] % LANES:
            return [self._multiply(d.T, inputs, gradient)]
        turned = aligned(*gradient.shape[::-1])
        return [self._multiply(inputs.T, d, turned), functools.partial(kernels.transpose, turned, gradient)]

    def _input_gradient(self, d: Floats, weight: Floats, out: Floats) -> Step:
        """d @ weight; of a single output numpy's own product takes twenty times as long as its multiplication."""
        if self._library == "numpy" and len(weight) == 1:
            return functools.partial(np.multiply, d, weight, out=out)
        return self._multiply(d, weight, out)

    def forward(self) -> None:
        """From `x` to `logits` and `values`."""
        for step in self._forward:
            step()

    def backward(self) -> None:
        """From `d_logits` and `d_values` to the gradients; `forward` was called with the same `x`."""
        for step in self._backward:
            step()
