"""The networks of many members side by side: one batched product a layer for all of them, forward and back.

Every tensor has the member as its first axis. A member's weights, gradient and Adam's moments are a row of four tables
[members, weights], laid out as in `network.py`: policy and value network share the product of their first layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from src.agent.learner.population_memory import LANES, DeviceMemory

Precision = Literal["float32", "tf32", "bf16"]


class Products:
    """Batched matrix products in a precision: of the factors, sums are float32 in all.

    On CUDA the tensor cores round the factors of `tf32` and `bf16`; on a CPU the factors are rounded first, so that
    the effect of either can be measured without a GPU.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self.precision = precision
        self._on_cuda = device.type == "cuda"

    @contextmanager
    def active(self) -> Iterator[None]:
        """The time in which CUDA multiplies in this precision."""
        if not self._on_cuda:
            yield
            return
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = self.precision == "tf32"
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    def multiply(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """out = left @ right, for each member."""
        if self.precision == "float32" or (self.precision == "tf32" and self._on_cuda):
            torch.bmm(left, right, out=out)
        elif self._on_cuda:
            out.copy_(torch.bmm(left.bfloat16(), right.bfloat16(), out_dtype=torch.float32))
        else:
            torch.bmm(self._rounded(left), self._rounded(right), out=out)

    def affine(self, bias: Tensor, inputs: Tensor, weight: Tensor, out: Tensor) -> None:
        """out = inputs @ weight.T + bias, for each member: a layer's sums."""
        if self.precision == "float32" or (self.precision == "tf32" and self._on_cuda):
            torch.baddbmm(bias.unsqueeze(1), inputs, weight.transpose(1, 2), out=out)
        else:
            self.multiply(inputs, weight.transpose(1, 2), out)
            out.add_(bias.unsqueeze(1))

    def _rounded(self, tensor: Tensor) -> Tensor:
        if self.precision == "bf16":
            return tensor.bfloat16().float()
        bits = tensor.contiguous().view(torch.int32)  # 10 bits of the fraction's 23 are left, as in tf32
        return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


@dataclass(frozen=True)
class StackedDense:
    """A layer of every member: weights [members, outputs, inputs], biases [members, outputs], and their gradients."""

    weight: Tensor
    bias: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor

    @property
    def outputs(self) -> int:
        return self.bias.shape[1]


class StackedWeights:
    """The trained tensors of many policies of one shape, their gradients and Adam's moments, each [members, weights].

    `first` serves both networks; `hidden` and `last` are by network, policy's first. Rows of the tables have a few
    zeros between layers, which stay zero. `pull` reads the policies, `push` writes them.
    """

    def __init__(self, policies: Sequence[Any], memory: DeviceMemory) -> None:
        self._policies = list(policies)
        self.places, size = _places(policies[0])
        """Name, shape and place in a member's row of every trained tensor."""
        self.count = sum(shape.numel() for _, shape, _ in self.places)
        """Trained numbers of a member."""
        tables = [memory.zeros(len(policies), size) for _ in range(4)]
        self.values, self.gradient, self.first_moment, self.second_moment = tables
        networks, outputs = _layers_of(policies[0])
        firsts = [network[0] for network in networks]
        start = {name: place for name, _, place in self.places}
        self._start = {id(p): start[name] for name, p in policies[0].named_parameters() if name in start}
        self.first = self._dense(firsts)
        self.hidden = [[self._dense([layer]) for layer in network[1:]] for network in networks]
        self.last = [self._dense([layer]) for layer in outputs]
        self.widths = [layer.out_features for layer in firsts]

    def _dense(self, layers: Sequence[nn.Linear]) -> StackedDense:
        inputs, outputs = layers[0].in_features, sum(layer.out_features for layer in layers)
        at_weight, at_bias = self._start[id(layers[0].weight)], self._start[id(layers[0].bias)]
        weights, biases = slice(at_weight, at_weight + outputs * inputs), slice(at_bias, at_bias + outputs)
        return StackedDense(
            self.values[:, weights].unflatten(1, (outputs, inputs)),
            self.values[:, biases],
            self.gradient[:, weights].unflatten(1, (outputs, inputs)),
            self.gradient[:, biases],
        )

    def pull(self) -> list[int]:
        """Take over the policies' weights and the state of their Adams, zero where there is none; returns Adam's steps
        of each. ValueError where an Adam has stepped some tensors more often than others."""
        tables = [torch.zeros(self.values.shape) for _ in range(3)]
        steps = []
        for member, policy in enumerate(self._policies):
            found = set()
            for parameter, shape, place in self._tensors(policy):
                kept = policy.optimizer.state.get(parameter, {})
                found.add(int(kept.get("step", 0)))
                sources = (parameter.detach(), kept.get("exp_avg"), kept.get("exp_avg_sq"))
                for table, source in zip(tables, sources, strict=True):
                    if source is not None:
                        table[member, place : place + shape.numel()] = source.reshape(-1)
            if len(found) != 1:
                raise ValueError(f"Adam has stepped the policy's tensors {sorted(found)} times, needs one number")
            steps.append(found.pop())
        for table, host in zip((self.values, self.first_moment, self.second_moment), tables, strict=True):
            table.copy_(host)
        return steps

    def push(self, steps: Sequence[int], members: Sequence[int] | None = None) -> None:
        """Give the policies their weights, and their Adams' moments and steps where these have stepped."""
        tables = [table.to("cpu") for table in (self.values, self.first_moment, self.second_moment)]
        for member in range(len(self._policies)) if members is None else members:
            policy = self._policies[member]
            for parameter, shape, place in self._tensors(policy):
                values, *moments = (table[member, place : place + shape.numel()].view(shape) for table in tables)
                parameter.data.copy_(values)
                if steps[member]:
                    _set_moments(policy.optimizer.state[parameter], steps[member], moments)

    def _tensors(self, policy: Any) -> Iterator[tuple[nn.Parameter, torch.Size, int]]:
        parameters = dict(policy.named_parameters())
        for name, shape, place in self.places:
            yield parameters[name], shape, place


def _set_moments(kept: Any, steps: int, moments: Sequence[Tensor]) -> None:
    kept.setdefault("step", torch.zeros((), dtype=torch.float32)).fill_(float(steps))
    for key, moment in zip(("exp_avg", "exp_avg_sq"), moments, strict=True):
        if key in kept:
            kept[key].copy_(moment)
        else:
            kept[key] = torch.empty_like(moment).copy_(moment)


def _layers_of(policy: Any) -> tuple[list[list[nn.Linear]], list[nn.Linear]]:
    """Hidden layers by network and the output layers, policy's first."""
    extractor = policy.mlp_extractor
    nets = (extractor.policy_net, extractor.value_net)
    hidden = [[layer for layer in net if isinstance(layer, nn.Linear)] for net in nets]
    return hidden, [policy.action_net, policy.value_net]


def _places(policy: Any) -> tuple[list[tuple[str, torch.Size, int]], int]:
    """Name, shape and place in a row of every trained tensor, and the row's length."""
    networks, outputs = _layers_of(policy)
    firsts = [network[0] for network in networks]
    groups: list[list[Tensor]] = [[layer.weight for layer in firsts], [layer.bias for layer in firsts]]
    for layer in itertools.chain(*(network[1:] for network in networks), outputs):
        groups += [[layer.weight], [layer.bias]]
    names = {id(parameter): name for name, parameter in policy.named_parameters()}
    found, size = [], 0
    for group in groups:
        size += -size % LANES
        for parameter in group:
            found.append((names[id(parameter)], parameter.shape, size))
            size += parameter.numel()
    return found, size + -size % LANES


class _Tower(NamedTuple):
    """One network above its part of the joint first layer: its layers; outputs `h` of every level, the first one's
    before them; the loss's derivatives `d` by these, none where nothing is trained."""

    layers: list[StackedDense]
    h: list[Tensor]
    d: list[Tensor]


class StackedWorkspace:
    """Memory for `rows` rows of every member that go through the networks, and back where `trains`.

    Fill `x` [members, rows, inputs] before `forward`, which leaves `logits` [members, rows, actions] and `values`
    [members, rows]; fill `d_logits` and `d_values` before `backward`, which leaves all gradients in `weights.gradient`.
    """

    def __init__(
        self,
        weights: StackedWeights,
        activation: str,
        rows: int,
        memory: DeviceMemory,
        products: Products,
        *,
        trains: bool,
    ) -> None:
        self.rows = rows
        self._weights, self._products = weights, products
        self._forward, self._backward = _ACTIVATIONS[activation]
        members, first = len(weights.values), weights.first
        self.x = memory.empty(members, rows, first.weight.shape[2])
        self._joint = memory.empty(members, rows, first.outputs)
        self._d_joint = memory.empty(members, rows, first.outputs) if trains else None
        begins = [0, *itertools.accumulate(weights.widths)]
        self._towers = []
        for hidden, last, begin, end in zip(weights.hidden, weights.last, begins, begins[1:], strict=False):
            sizes = [layer.outputs for layer in (*hidden, last)]
            h = [self._joint[:, :, begin:end], *(memory.empty(members, rows, size) for size in sizes)]
            d = []
            if self._d_joint is not None:
                d = [self._d_joint[:, :, begin:end], *(memory.empty(members, rows, size) for size in sizes)]
            self._towers.append(_Tower([*hidden, last], h, d))
        self.logits, self.values = self._towers[0].h[-1], self._towers[1].h[-1].squeeze(2)
        if trains:
            self.d_logits, self.d_values = self._towers[0].d[-1], self._towers[1].d[-1].squeeze(2)

    def forward(self) -> None:
        """From `x` to `logits` and `values`."""
        first = self._weights.first
        self._products.affine(first.bias, self.x, first.weight, self._joint)
        self._forward(self._joint)
        for tower in self._towers:
            for level, layer in enumerate(tower.layers):
                self._products.affine(layer.bias, tower.h[level], layer.weight, tower.h[level + 1])
                if layer is not tower.layers[-1]:
                    self._forward(tower.h[level + 1])

    def backward(self) -> None:
        """From `d_logits` and `d_values` to the gradients; `forward` was called with the same `x`."""
        assert self._d_joint is not None
        for tower in self._towers:
            for level in reversed(range(len(tower.layers))):
                layer, d = tower.layers[level], tower.d[level + 1]
                if layer is not tower.layers[-1]:
                    self._backward(d, tower.h[level + 1])
                self._gradient(layer, d, tower.h[level])
                self._products.multiply(d, layer.weight, tower.d[level])
        self._backward(self._d_joint, self._joint)
        self._gradient(self._weights.first, self._d_joint, self.x)

    def _gradient(self, layer: StackedDense, d: Tensor, inputs: Tensor) -> None:
        self._products.multiply(d.transpose(1, 2), inputs, layer.weight_gradient)
        torch.sum(d, dim=1, out=layer.bias_gradient)


def _relu_backward(d: Tensor, h: Tensor) -> None:
    torch.ops.aten.threshold_backward.grad_input(d, h, 0, grad_input=d)


def _tanh_backward(d: Tensor, h: Tensor) -> None:
    torch.ops.aten.tanh_backward.grad_input(d, h, grad_input=d)


_ACTIVATIONS: dict[str, tuple[Callable[[Tensor], object], Callable[[Tensor, Tensor], None]]] = {
    "tanh": (torch.tanh_, _tanh_backward),
    "relu": (torch.relu_, _relu_backward),
}
"""An activation in place, and backward in place: d by its outputs `h` becomes d by its sums."""
