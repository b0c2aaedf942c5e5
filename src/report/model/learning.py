"""Section on whether a policy was still learning when its training ended."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from src.report.model.base import Columns, Count, Figure, Frac, Number, Part, check_rows


class LearningTrend(Columns):
    """Net P&L of one training's policy at the quarters of the training, on the validation sessions."""

    INDEX, NO_COLUMNS = "timesteps", ("seed_net_usd_per_session",)

    timesteps: list[Count]
    """At the end of the rollouts that reached a quarter; the last is the end of the training."""
    net_usd_per_session: list[Number]
    """Averaged over seeds."""
    seed_net_usd_per_session: list[list[Number]]
    """A row a seed."""
    slope_usd: Figure
    """Least-squares change of net P&L a session per quarter of the training."""
    low_usd: Figure
    """Bounds for other sessions and seeds; null where there is no interval, see reason."""
    high_usd: Figure
    level_frac: Frac
    reason: str
    verdict: Literal["still rising", "flat", "falling", "cannot tell"]
    words: str

    @model_validator(mode="after")
    def _every_seed_has_a_figure_a_quarter(self) -> LearningTrend:
        check_rows("seed_net_usd_per_session", self.seed_net_usd_per_session, len(self.timesteps))
        return self


class StillLearning(Part):
    sessions: Count
    """Validation sessions."""
    seeds: list[int]
    trainings: dict[str, LearningTrend]

    @model_validator(mode="after")
    def _every_seed_has_a_row(self) -> StillLearning:
        rows = {name: of.seed_net_usd_per_session for name, of in self.trainings.items()}
        check_rows("trainings", rows, len(self.seeds))
        return self
