"""The tensors of a population, and what the host reads of them after an update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.agent.learner.coverage import ACTIVATIONS
from src.agent.learner.fused import FusedMaskablePPO
from src.agent.learner.kernels import KL, N_SUMS
from src.agent.learner.population_loss import MemberSettings
from src.agent.learner.population_members import is_blind, rollout_shape
from src.agent.learner.population_memory import DeviceMemory
from src.agent.learner.population_network import Products, StackedWeights, StackedWorkspace
from src.agent.learner.population_rollout import Advice, RolloutTable


@dataclass(frozen=True)
class Held:
    """All tensors of a population."""

    weights: StackedWeights
    advice: Advice
    table: RolloutTable
    acting: StackedWorkspace
    training: dict[int, StackedWorkspace]
    """By rows of a minibatch: whole ones, and the rest where there is one."""
    minibatches: list[tuple[int, int]]
    settings: MemberSettings
    steps: Tensor
    active: Tensor
    orders: Tensor
    order: Tensor
    means: Tensor
    counted: Tensor
    all_means: Tensor
    all_counted: Tensor
    betas: tuple[float, float]
    eps: float

    @classmethod
    def make(cls, models: Sequence[FusedMaskablePPO], memory: DeviceMemory, products: Products) -> Held:
        """Take the memory."""
        first, members = models[0], len(models)
        shape, size = rollout_shape(first), first.minibatch
        weights = StackedWeights([model.policy for model in models], memory)
        activation = ACTIVATIONS[first.policy.activation_fn]
        exact = Products("float32", memory.device)
        bounds = [(start, min(start + size, shape.rows)) for start in range(0, shape.rows, size)]
        training = {
            rows: StackedWorkspace(weights, activation, rows, memory, products, trains=True)
            for rows in sorted({end - begin for begin, end in bounds})
        }
        group = first.policy.optimizer.param_groups[0]
        sums = (len(bounds), members)
        return cls(
            weights=weights,
            advice=Advice([not is_blind(model) for model in models], memory),
            table=RolloutTable(members, shape, memory),
            acting=StackedWorkspace(weights, activation, shape.envs, memory, exact, trains=False),
            training=training,
            minibatches=bounds,
            settings=MemberSettings.make(members, memory),
            steps=memory.zeros(members, dtype=torch.int64),
            active=memory.zeros(members, dtype=torch.bool),
            orders=memory.zeros(shape.epochs, members, shape.rows, dtype=torch.int32),
            order=memory.zeros(members, shape.rows, dtype=torch.int32),
            means=memory.zeros(*sums, N_SUMS, dtype=torch.float64),
            counted=memory.zeros(*sums, dtype=torch.bool),
            all_means=memory.zeros(shape.epochs, *sums, N_SUMS, dtype=torch.float64),
            all_counted=memory.zeros(shape.epochs, *sums, dtype=torch.bool),
            betas=group["betas"],
            eps=float(group["eps"]),
        )


@dataclass(frozen=True)
class Figures:
    """What the host learns of an update: means [epochs, minibatches, M, 5] of what was counted, rollouts [M, rows]."""

    means: NDArray[np.float64]
    counted: NDArray[np.bool_]
    values: NDArray[np.float32]
    returns: NDArray[np.float32]
    finite: NDArray[np.bool_]

    @classmethod
    def read(cls, held: Held, epochs: int) -> Figures:
        """Wait for the device and copy."""
        finite = torch.isfinite(held.weights.values).all(1)
        table = held.table
        found = (held.all_means[:epochs], held.all_counted[:epochs], table.values, table.returns, finite)
        return cls(*(tensor.to("cpu", copy=True).numpy() for tensor in found))  # the next rollout overwrites them

    def epochs_begun(self) -> list[int]:
        """By member."""
        return self.counted[:, 0].sum(0).tolist()

    def log(self, model: FusedMaskablePPO, member: int) -> None:
        """Count and record a member's update as the fused learner does."""
        counted, means = self.counted[:, :, member], self.means[:, :, member]
        begun = int(counted[:, 0].sum())
        model._n_updates += begun
        loss = model._loss_settings()
        kls = means[begun - 1][counted[begun - 1], KL].tolist()
        model._log_update(means[counted], kls, self.values[member].ravel(), self.returns[member].ravel(), loss)
