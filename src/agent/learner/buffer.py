"""A rollout buffer that keeps its memory from one rollout to the next."""

from __future__ import annotations

from typing import Any

import numpy as np
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer


class KeptRolloutBuffer(MaskableRolloutBuffer):
    """The library's buffer, whose `reset` takes new zeros: 8 MB of pages to fault in for 8,192 observations.

    Observations of the rollout before stay until they are overwritten; all else is as after the library's `reset`.
    """

    _kept: dict[str, np.ndarray]

    def reset(self) -> None:
        """See RolloutBuffer."""
        kept = getattr(self, "_kept", None)
        if kept is None:
            super().reset()
            self._kept = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
            return
        for name, array in kept.items():
            setattr(self, name, array)
            if name == "action_masks":
                array.fill(1.0)
            elif name != "observations":
                array.fill(0)
        self.generator_ready = False
        self.pos, self.full = 0, False

    def __getstate__(self) -> dict[str, Any]:
        """Pickled as any buffer: with the arrays it shows, once."""
        return {name: value for name, value in vars(self).items() if name != "_kept"}
