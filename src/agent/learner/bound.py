"""The bound of a training: the matrix products of its hidden layers and nothing else, as this machine multiplies."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from src.agent.learner.products import Library, use_threads
from src.agent.ppo import TimedMaskablePPO

Pair = tuple[torch.Tensor, torch.Tensor]
REPEATS = 3
LONG_S = 0.2
"""Products that take as long are measured once: noise weighs little, and time does."""


def hidden_products(networks: Sequence[Sequence[int]], rows: int, *, trains: bool) -> list[Pair]:
    """Factors of the products of `rows` rows going through the hidden layers of networks, each given by the widths of
    its input and its layers.

    Forward; where it `trains` the weights' gradients too, and the inputs' but for the first layer's: 5.04 MFLOP a
    timestep for two networks of 261, 256, 128 and 5 epochs.
    """
    pairs: list[Pair] = []
    for layers in networks:
        for depth, (wide, narrow) in enumerate(itertools.pairwise(layers)):
            x, weight, gradient = torch.ones(rows, wide), torch.ones(wide, narrow), torch.ones(rows, narrow)
            pairs.append((x, weight))
            if trains:
                pairs.append((x.t(), gradient))
                if depth:
                    pairs.append((gradient, weight.t()))
    return pairs


def multiplying(pairs: Sequence[Pair], library: Library) -> Callable[[], object]:
    """A call that multiplies all of them with a library."""

    def with_torch() -> None:
        for left, right in pairs:
            torch.mm(left, right)

    arrays = [(left.numpy(), right.numpy()) for left, right in pairs]

    def with_numpy() -> None:
        use_threads(library)
        for a, b in arrays:
            np.matmul(a, b)

    return with_torch if library == "torch" else with_numpy


def products_cpu_s(model: TimedMaskablePPO) -> float | None:
    """Processor seconds that the products of all of a model's training take on their own, measured now; None on a GPU,
    and for networks other than plain layers. Not wall time: other programs would count."""
    networks = _networks(model)
    if model.trained_on != "cpu" or not networks:
        return None
    library: Library = model.products if model.learner == "fused" and model.products is not None else "torch"
    acting = _seconds(multiplying(hidden_products(networks, model.n_envs, trains=False), library))
    updating = _seconds(multiplying(hidden_products(networks, model.minibatch, trains=True), library))
    return acting * model.num_timesteps / model.n_envs + updating * _minibatches(model)


def _networks(model: TimedMaskablePPO) -> list[list[int]]:
    """Widths of the input and of the hidden layers, policy's first."""
    extractor = getattr(model.policy, "mlp_extractor", None)
    if extractor is None:
        return []
    found = []
    for name in ("policy_net", "value_net"):
        layers: list[Any] = [layer for layer in getattr(extractor, name) if isinstance(layer, torch.nn.Linear)]
        if layers:
            found.append([layers[0].in_features, *(layer.out_features for layer in layers)])
    return found


def _minibatches(model: TimedMaskablePPO) -> int:
    """Minibatches learned from: steps of its Adam."""
    states = model.policy.optimizer.state.values()
    return max((int(state["step"]) for state in states if "step" in state), default=0)


def _seconds(multiply: Callable[[], object]) -> float:
    """Processor seconds of the fastest of a few calls, after one that warms up."""
    taken = []
    for _ in range(1 + REPEATS):
        began = time.process_time()
        multiply()
        taken.append(time.process_time() - began)
        if taken[-1] > LONG_S:
            break
    return min(taken[1:] or taken)
