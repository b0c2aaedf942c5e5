"""Which settings are tried: all of a grid, some at random, or in batches that optuna proposes.

Every method proposes the same settings again for the same file and scores, so a killed sweep continues as if nothing
had happened.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np

from src.errors import ConfigError
from src.sweeps.file import SweepFile
from src.sweeps.space import Setting, Space, Values

MOST_DRAWS = 1000
"""At random, for each setting that is not one of those before."""


class Trial(Protocol):
    """What a proposal is told of a setting."""

    @property
    def score(self) -> float:
        """The last one; of a setting that was stopped, that at the quarter where it was."""

    @property
    def at_quarters(self) -> Mapping[int, float]:
        """Scores of the base policy at the quarters of its training."""

    @property
    def is_stopped(self) -> bool:
        """Whether it did not train to its end."""


class Proposer(Protocol):
    """Batches of settings, and what becomes of them."""

    def batches(self) -> Iterator[list[Setting]]:
        """Settings to train side by side. Each batch but the first is asked for once the one before was told."""

    def tell(self, setting: Setting, trial: Trial) -> None:
        """How a setting of the last batch did."""


class Listed:
    """Settings that depend on no score: one batch."""

    def __init__(self, settings: list[Setting]) -> None:
        self.settings = settings

    def batches(self) -> Iterator[list[Setting]]:
        """All of them."""
        yield self.settings

    def tell(self, setting: Setting, trial: Trial) -> None:
        """Nothing depends on it."""


def listed(file: SweepFile, space: Space) -> Listed:
    """The settings of a grid, or at random. Raises ConfigError where too few different ones can be found."""
    found = _grid(space) if file.method == "grid" else _random(file, space)
    return Listed([space.setting(number, values) for number, values in enumerate(found, start=1)])


def _grid(space: Space) -> Iterator[Values]:
    """Every combination; the last key changes fastest."""
    keys = [dimension.key for dimension in space.dimensions]
    for values in itertools.product(*(dimension.values() for dimension in space.dimensions)):
        yield dict(zip(keys, values, strict=True))


def _random(file: SweepFile, space: Space) -> Iterator[Values]:
    assert file.settings is not None
    rng = np.random.default_rng(file.seed)
    known: set[str] = set()
    for _ in range(file.settings * MOST_DRAWS):
        values = {dimension.key: dimension.drawn(rng) for dimension in space.dimensions}
        if (text := fingerprint(values)) not in known:
            known.add(text)
            yield values
        if len(known) == file.settings:
            return
    raise ConfigError(
        f"{space.name}: only {len(known)} different settings were found in {file.settings * MOST_DRAWS:,} draws, fewer "
        f"than the {file.settings} of settings. Take fewer, or wider ranges."
    )


def fingerprint(values: Values) -> str:
    """Equal for equal values."""
    return json.dumps(values, sort_keys=True)
