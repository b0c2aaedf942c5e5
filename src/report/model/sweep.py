"""Section on the sweep whose winner a run trains again."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from src.report.model.arms import DeflatedSharpe
from src.report.model.base import Count, Figure, Frac, Maybe, Number, Part, check_length


class SweepSetting(Part):
    """One setting and its score, on the validation sessions."""

    number: Count
    values: dict[str, Any]
    """By dotted key."""
    quarters: Count
    """Of base training that it trained: 4, or fewer where it was stopped."""
    score_usd: Number
    """Net P&L per session, averaged over seeds: of the arm, or where it was stopped of its base policy there."""
    sharpe: Figure
    """Of one session, not annualised."""


class Overfitting(Part):
    """Probability of backtest overfitting; null with a reason where there are too few sessions or settings."""

    sessions: Count
    settings: Count
    blocks: Count
    splits: Count
    measure: Literal["sharpe", "mean"]
    probability: Frac | None
    """Share of splits whose best setting is below the median setting in their other half."""
    loss: Frac | None
    """Share of splits whose best setting loses in their other half."""
    slope: Figure
    in_sample: Figure
    """Median over splits of the best setting's result in the half that chose it, and in the other half."""
    out_of_sample: Figure
    reason: str


class Shrinkage(Part):
    """The winner, trained again on fresh seeds, against its score in the sweep."""

    sweep_usd: Number
    seeds: list[int]
    seed_means_usd: list[Number]
    """On the validation sessions, an entry a fresh seed."""
    fresh_usd: Number
    difference_usd: Figure
    """Fresh seeds less sweep, on the validation sessions, by session."""
    low_usd: Figure
    high_usd: Figure
    reason: str
    """Why there is no interval; else empty."""
    sealed_sessions: Count
    sealed_usd: Figure
    """The fresh seeds on the sealed sessions, which no setting was chosen on."""
    sealed_low_usd: Figure
    sealed_high_usd: Figure
    sealed_reason: str

    @model_validator(mode="after")
    def _every_seed_has_a_mean(self) -> Shrinkage:
        check_length("seed_means_usd", self.seed_means_usd, len(self.seeds))
        return self


class Sweep(Part):
    method: Literal["grid", "random", "optuna"]
    arm: str
    seeds: list[int]
    """Trained for each setting."""
    keep_frac: Frac
    """Share of settings that trained on at each quarter of base training."""
    repeated: Count
    """Proposals of a setting that had been proposed before."""
    sessions: Count
    """Validation sessions."""
    space: dict[str, str]
    """By dotted key, what it could be."""
    settings: list[SweepSetting]
    winner: Count
    """Number of the setting with the highest score of those that trained to their end."""
    net_usd_by_session: list[Number]
    """The winner's, averaged over seeds, on the validation sessions."""
    overfitting: Overfitting
    deflated_sharpe: DeflatedSharpe
    """The winner's on the validation sessions; every setting is a trial."""
    track_record_sessions: Count | None
    """Sessions from which the winner's ratio is above zero with 95% confidence, if they go on alike; null: none."""
    shrinkage: Maybe[Shrinkage] = None

    @model_validator(mode="after")
    def _the_winner_has_every_session(self) -> Sweep:
        check_length("net_usd_by_session", self.net_usd_by_session, self.sessions)
        if self.winner not in [setting.number for setting in self.settings]:
            raise ValueError(f"there is no setting {self.winner}")
        return self

    @property
    def winning(self) -> SweepSetting:
        """The setting that won."""
        return next(setting for setting in self.settings if setting.number == self.winner)

    @property
    def ranked(self) -> list[SweepSetting]:
        """Best first: those that trained longest before the others, by score."""
        return sorted(self.settings, key=lambda setting: (-setting.quarters, -setting.score_usd, setting.number))
