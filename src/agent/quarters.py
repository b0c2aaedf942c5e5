"""The weights of a policy at the quarters of its training, kept to see whether it is still learning."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from src.agent.policy import Weights

QUARTERS = 4


def is_quarter(timesteps: int, rollout: int, planned: int) -> bool:
    """Whether a rollout of so many timesteps, which ended at `timesteps`, reached the 1st, 2nd or 3rd quarter of the
    planned ones; the end of the training is none."""
    passed = (QUARTERS * timesteps // planned, QUARTERS * (timesteps - rollout) // planned)
    return timesteps < planned and passed[0] > passed[1]


class QuarterWeights:
    """Policy weights by timesteps, at the ends of the rollouts that reach a quarter of the `planned` timesteps.

    A checkpoint holds what was kept up to it (`tensors`), so a resumed training ends with the same ones.
    """

    def __init__(self, planned: int) -> None:
        self._planned = planned
        self._kept: dict[int, Weights] = {}

    def look(self, timesteps: int, rollout: int, weights: Weights) -> None:
        """Copy the weights if the rollout that has just ended reached a quarter."""
        if is_quarter(timesteps, rollout, self._planned):
            self.keep(timesteps, weights)

    def keep(self, timesteps: int, weights: Weights) -> None:
        """Copy the weights."""
        self._kept[timesteps] = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}

    def tensors(self) -> dict[str, torch.Tensor]:
        """What was kept, as `TIMESTEPS NAME`."""
        return {f"{step} {name}": value for step, kept in self._kept.items() for name, value in kept.items()}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Continue from what a checkpoint held."""
        self._kept = weights_by_timesteps(tensors)


def weights_by_timesteps(tensors: Mapping[str, torch.Tensor]) -> dict[int, Weights]:
    """The weights that `QuarterWeights.tensors` wrote, by timesteps, rising.

    Copied: the alignment of foreign memory changes what a product rounds to.
    """
    found: dict[int, dict[str, torch.Tensor]] = {}
    for label, tensor in tensors.items():
        step, _, name = label.partition(" ")
        found.setdefault(int(step), {})[name] = torch.empty_like(tensor).copy_(tensor)
    return dict(sorted(found.items()))
