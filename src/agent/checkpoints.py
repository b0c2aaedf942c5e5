"""Checkpoints: folders that are written whole or not at all, checked before a byte of them is used, never pickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds, apart from how it is stored.

    `tensors`: by part ("policy", "optimizer", "environment", "generators"), each a flat mapping of name to a CPU tensor.
    `state`: plain JSON values: text, integers of any size, finite or infinite floats, None, lists, mappings by text.
    """

    step: int
    """num_timesteps of the phase at the moment it was taken."""
    tensors: Mapping[str, Mapping[str, torch.Tensor]]
    state: Mapping[str, Any]
