"""Names of what is trained and what is evaluated, each said once.

A member is one training of a run. Its fields, not a string made of them, travel from the ledger to the report.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any


class Training(StrEnum):
    """A training of one seed: the base policy, and the three fine-tuned from its weights."""

    BASE = "base"
    RL_ONLY = "rl_only"
    HYBRID = "hybrid"
    PLACEBO = "hybrid_placebo"


FINE_TUNED = (Training.RL_ONLY, Training.HYBRID, Training.PLACEBO)


class ArmName(StrEnum):
    """What trades in an evaluation: the trained policies, and the arms they are measured against."""

    FLAT = "flat"
    RANDOM_LEGAL = "random_legal"
    RL_ONLY = Training.RL_ONLY
    HYBRID = Training.HYBRID
    PLACEBO = Training.PLACEBO
    FUSED = "fused"
    ADVISOR_ONLY = "advisor_only"


SELECTABLE_ARMS = frozenset({ArmName.RL_ONLY, ArmName.HYBRID, ArmName.FUSED})
"""The arms that somebody may choose to trade."""


@dataclass(frozen=True, order=True)
class Member:
    """One training. `fold` is 0 for the run's own split and counts walk-forward folds from 1."""

    market: str
    fold: int
    seed: int
    training: Training
    among: bool = field(default=False, compare=False)
    """Whether the run has other markets: then its folder and its name say which one it is of."""
    setting: int = 0
    """Of a sweep, from 1; 0 in a run, which has one setting."""

    @property
    def base(self) -> Member:
        """The member whose weights this one begins from; itself where it is a base."""
        return replace(self, training=Training.BASE)

    @property
    def folder(self) -> str:
        """Its folder below the run's, "/" between the parts."""
        fold = f"fold-{self.fold}/" if self.fold else ""
        market = f"{self.market}/" if self.among else ""
        setting = f"setting-{self.setting:03d}/" if self.setting else ""
        return f"members/{setting}{market}{fold}seed-{self.seed}/{self.training}"

    @property
    def models(self) -> str:
        """Where below the run's folder the first seed's policies are exported: "", or a folder with "/" at its end."""
        return f"models/{self.market}/" if self.among else ""

    def __str__(self) -> str:
        """In words, for the console and for errors: `hybrid, seed 3, fold 2`, or with its market before it."""
        market = f"{self.market} " if self.among else ""
        setting = f"setting {self.setting} " if self.setting else ""
        return f"{setting}{market}{self.training}, seed {self.seed}" + (f", fold {self.fold}" if self.fold else "")

    def to_dict(self) -> dict[str, Any]:
        """Its fields as a row of the report or of the log holds them."""
        setting = {"setting": self.setting} if self.setting else {}
        return {"market": self.market, "phase": str(self.training), "seed": self.seed, "fold": self.fold, **setting}
