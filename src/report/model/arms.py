"""Sections about what the arms earned: figures, seeds, statistics, folds. US dollars after costs unless named gross."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from src.report.model.advice import RuleCounts
from src.report.model.bars import SplitPart
from src.report.model.base import (
    Action,
    Count,
    Figure,
    Frac,
    Maybe,
    MeanCount,
    Number,
    Part,
    check_length,
    check_rows,
)


class AdviceUse(Part):
    """Decisions of an arm that heard advice, and how many the advice changed."""

    choices: Count
    advised: Count
    changed: Count
    rules: Maybe[RuleCounts] = None
    changed_frac: Frac | None


class Arm(Part):
    """One way to decide, played over a set of sessions, a new account each; averaged over seeds."""

    sessions: Count
    net_usd: Number
    net_usd_per_session: Figure
    net_usd_by_session: list[Number]
    gross_usd: Number
    commission_usd: Number
    slippage_usd: Number
    trades: MeanCount
    trades_per_session: Figure
    win_rate: Frac | None
    exposure: Frac
    max_drawdown_usd: Number
    sessions_breached: MeanCount
    sessions_daily_locked: MeanCount
    sessions_target_reached: MeanCount
    advice: Maybe[AdviceUse] = None
    illegal_actions: Count
    actions: Annotated[dict[Action, Count], Field(min_length=6)]

    @model_validator(mode="after")
    def _every_session_has_its_net(self) -> Arm:
        check_length("net_usd_by_session", self.net_usd_by_session, self.sessions)
        return self


class Seeds(Part):
    """Every seed's sessions, for the arms that have seeds."""

    values: list[int]
    net_usd_by_session: dict[str, list[list[Number]]]
    """By arm: one row a seed, one entry a sealed session."""

    @model_validator(mode="after")
    def _every_seed_has_a_row(self) -> Seeds:
        check_rows("net_usd_by_session", self.net_usd_by_session, len(self.values))
        return self


class SampleSize(Part):
    n: Count
    """Sealed sessions."""
    words: str
    level: Literal["none", "low", "enough"]


class Contrast(Part):
    arm: str
    against: str
    role: Literal["primary", "secondary", "exploratory"]
    sessions: Count
    mean_usd: Figure
    """Mean over sessions of the paired difference of net P&L, seeds averaged first."""
    low_usd: Figure
    """Bounds of the interval; null where the sessions allow none."""
    high_usd: Figure
    level_frac: Frac
    """Of the interval."""
    p_value: Frac | None
    holm_p_value: Frac | None = None
    """Adjusted over all but the primary contrast; null where not adjusted."""
    standard_error_usd: Figure = None
    minimum_detectable_usd: Figure
    """2.8 sd / sqrt(n)."""
    seed_means_usd: list[Number]
    """The same difference with each seed alone, in the order of seeds.values."""
    block_length: Figure = None
    """Mean length of the resampled blocks, sessions."""
    replications: Maybe[Count] = None
    reason: str
    """Why there is no interval, or none of this width; else empty."""
    words: Maybe[str] = None
    """What it allows to be said."""

    @property
    def sign(self) -> int:
        """Whether it counts as a difference: 1 more, -1 less, 0 neither.

        It does if its interval excludes zero and, where it is adjusted, its Holm-adjusted p-value is small enough too.
        """
        low, high, adjusted = self.low_usd, self.high_usd, self.holm_p_value
        if low is None or high is None or low <= 0 <= high:
            return 0
        if adjusted is not None and adjusted > 1.0 - self.level_frac:
            return 0
        return 1 if low > 0 else -1


class ArmSeries(Part):
    sessions: Count
    net_usd: Number
    mean_usd: Figure
    sd_usd: Figure
    sharpe: Figure
    """Times the square root of 252."""
    sortino: Figure
    max_drawdown_usd: Number
    """Deepest fall of the summed sessions below their highest value so far, which begins at zero."""
    trades: Maybe[Count] = None
    trades_a_day: Figure = None
    win_rate: Frac | None = None
    profit_factor: Figure = None
    exposure_frac: Frac | None = None


class DeflatedSharpe(Part):
    sessions: Count
    trials: Count
    """Distinct configurations and arms tried on these sealed sessions so far."""
    sharpe: Figure
    """Of one session, not annualised."""
    skew: Figure
    kurtosis: Figure
    expected_maximum: Figure
    """What the best of that many trials without worth is expected to show, of one session."""
    probability: Frac | None
    """That the true ratio is above it."""
    reason: str
    """Why there is none; else empty."""
    sessions_needed: Count | None = None
    """Sessions like these that bring the probability to 95%; null where no number does."""


class FigureWithReason(Part):
    value: Figure
    reason: str


class CostStress(Part):
    slippage_ticks: list[Number]
    net_usd_per_session: dict[str, list[Figure]]
    """By arm, one entry a slippage."""
    break_even_ticks: dict[str, FigureWithReason]
    position_tick_usd: Maybe[Number] = None
    """A tick of the whole position."""

    @model_validator(mode="after")
    def _every_slippage_has_its_net(self) -> CostStress:
        check_rows("net_usd_per_session", self.net_usd_per_session, len(self.slippage_ticks))
        return self


class Statistics(Part):
    sample_size: SampleSize
    contrasts: list[Contrast]
    """The primary one first."""
    arms: Maybe[dict[str, ArmSeries]] = None
    interquartile_mean_usd: Maybe[dict[str, FigureWithReason]] = None
    """Of net P&L a session over seeds, by arm."""
    deflated_sharpe: Maybe[dict[str, DeflatedSharpe]] = None
    """By selectable arm."""
    cost_stress: Maybe[CostStress] = None

    def contrast(self, arm: str, against: str) -> Contrast:
        """The contrast of two arms; KeyError if the run did not compute it."""
        return {(c.arm, c.against): c for c in self.contrasts}[arm, against]


class Fold(Part):
    fold: Count
    train: SplitPart
    test: SplitPart
    net_usd_per_session: dict[str, Figure]
    difference_usd: Figure = None
    """The primary contrast in this fold."""
    low_usd: Figure = None
    high_usd: Figure = None


class WalkForward(Part):
    folds: list[Fold]
    words: Maybe[str] = None
