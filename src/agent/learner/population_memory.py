"""Where a population's tensors lie, and how many bytes they take."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

LANES = 32
"""Every block of weights begins at a whole number of 128 bytes of its member's."""


class DeviceMemory:
    """Makes tensors on a device and counts their bytes. On torch's "meta" device it counts and takes none: that is how
    what a population needs is predicted, by the lines that take it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes = 0

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """A tensor whose numbers are not set."""
        self.bytes += math.prod(shape) * dtype.itemsize
        return torch.empty(shape, dtype=dtype, device=self.device)

    def zeros(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """A tensor of zeros."""
        return self.empty(*shape, dtype=dtype).zero_()

    def full(self, values: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
        """A vector of these numbers."""
        made = self.empty(len(values), dtype=dtype)
        return made.copy_(torch.tensor(list(values), dtype=dtype)) if self.device.type != "meta" else made
