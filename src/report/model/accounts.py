"""Sections about accounts: charted sessions with their trades, evaluation attempts, reliance on advice."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from src.report.model.base import (
    Automation,
    Columns,
    Count,
    Date,
    Figure,
    Frac,
    Maybe,
    Number,
    Part,
    Positive,
    check_length,
    check_rows,
)


class Trade(Part):
    side: Literal["long", "short"]
    contracts: Maybe[Annotated[int, Field(ge=1)]] = None
    entry_bar: Count
    """Index into the session's bars."""
    entry_ticks: Number
    exit_bar: Count
    exit_ticks: Number
    stops: list[Annotated[list[Number], Field(min_length=2, max_length=2)]]
    """[bar, ticks] wherever the stop was put or moved, the first at entry."""
    target_ticks: Figure = None
    exit_reason: str
    net_usd: Number


class AdviceByBar(Part):
    action: list[Annotated[int, Field(ge=-1, le=5)]]
    """Code of the likeliest legal action by bar; -1 abstains or was not asked."""
    confidence: list[Frac]
    """0 to 1 by bar."""


class SessionArm(Part):
    net_usd: Number
    trades: list[Trade]
    advice: Maybe[AdviceByBar] = None


class ChartedSession(Columns):
    INDEX = "minute"

    date: Date
    why: Maybe[str] = None
    """Why this session is shown."""
    tick_size: Positive
    minute: list[int]
    """Bar-open time, minutes after midnight of `date` in New York; negative the evening before."""
    open_ticks: list[Number]
    high_ticks: list[Number]
    low_ticks: list[Number]
    close_ticks: list[Number]
    arms: dict[str, SessionArm]

    @model_validator(mode="after")
    def _bars_are_those_of_the_session(self) -> ChartedSession:
        n_bars = len(self.minute)
        for name, arm in self.arms.items():
            if arm.advice is not None:
                check_rows(f"arms.{name}.advice", dict(arm.advice), n_bars)
            for k, trade in enumerate(arm.trades):
                bars = (trade.entry_bar, trade.exit_bar, *(bar for bar, _ in trade.stops))
                if beyond := [bar for bar in bars if not 0 <= bar < n_bars or bar != int(bar)]:
                    raise PydanticCustomError(
                        "bar",
                        "bars outside the session's {n_bars}: {beyond}",
                        {"where": f"arms.{name}.trades[{k}]", "n_bars": n_bars, "beyond": beyond},
                    )
        return self


class Fan(Part):
    """Percentiles of equity at the close of each trading day."""

    percentiles: list[Number]
    equity_usd: list[list[Number]]
    """One row a percentile, from the start of the attempt on; attempts that ended keep their last equity."""

    @model_validator(mode="after")
    def _rows_are_alike(self) -> Fan:
        check_length("equity_usd", self.equity_usd, len(self.percentiles))
        check_rows("equity_usd", self.equity_usd, len(self.equity_usd[0]) if self.equity_usd else 0)
        return self


class PassArm(Part):
    attempts: Count
    passed_frac: Frac
    breached_frac: Frac
    expired_frac: Frac
    median_days_to_pass: Figure
    """Of the attempts that passed."""
    monte_carlo_error_frac: Figure
    """Standard error from the finite number of attempts alone."""
    session_error_frac: Figure
    """Standard error from the sealed sessions being a sample."""
    passed_low_frac: Frac | None
    """95% interval from the sealed sessions being a sample."""
    passed_high_frac: Frac | None
    session_reason: str
    """Why there is no such interval; else empty."""
    fan: Maybe[Fan] = None


class PassSimulation(Part):
    profile: str
    as_of: str
    sessions: Count
    start_balance_usd: Number
    profit_target_usd: Figure
    threshold_usd: Figure
    """Distance of the trailing threshold below the balance at the start."""
    horizon_days: Count
    is_capped: bool
    """The profile has no expiry: horizon_days is a cap of this tool."""
    min_days: Count
    block_length: Number
    """Mean length of the resampled blocks, sessions."""
    attempts_asked: Count
    seconds: Maybe[Number] = None
    arms: dict[str, PassArm]
    reason: str
    """Why there are no attempts; else empty."""
    words: Maybe[str] = None


Quartiles = Annotated[list[Number], Field(min_length=3, max_length=3)]


class Payout(Part):
    """The funded phase: sessions of the same kind, in other orders than those of the evaluation."""

    attempts: Count
    """In which both the evaluation and the funded account were simulated."""
    funded_frac: Frac
    """Share of funded accounts that reach a first payout."""
    funded_low_frac: Frac | None
    """95% interval from the sealed sessions being a sample."""
    funded_high_frac: Frac | None
    breached_frac: Frac
    open_frac: Frac
    """Share that had neither within horizon_days."""
    horizon_days: Count
    days_to_payout: Quartiles | None
    """Quartiles of the sessions from funding to a first payout."""
    first_frac: Frac
    """Share of attempts that pass and then reach a first payout."""
    first_low_frac: Frac | None
    first_high_frac: Frac | None


class SurvivalArm(Part):
    attempts: Count
    passed_frac: Frac
    passed_low_frac: Frac | None
    """95% interval from the sealed sessions being a sample."""
    passed_high_frac: Frac | None
    breached_frac: Frac
    breached_low_frac: Frac | None
    breached_high_frac: Frac | None
    breached_by: dict[Literal["drawdown", "daily limit"], Frac]
    """Share of attempts by the rule that ended them."""
    expired_frac: Frac
    days_to_pass: Quartiles | None
    """Quartiles of the sessions to a pass."""
    session_reason: str
    """Why P(pass) has no interval; else empty."""
    payout: Maybe[Payout] = None
    """Left out where the payout rules are not known."""


class SurvivalRow(Part):
    """One rule profile."""

    profile: str
    title: str
    family: str | None
    """Firm and plan; profiles of one family differ in size."""
    as_of: str
    start_balance_usd: Number
    profit_target_usd: Figure
    automation: Automation | None
    automation_note: str | None
    conflicts: list[str]
    unverified: list[str]
    horizon_days: Count
    is_capped: bool
    reason: str
    """Why there are no attempts; else empty."""
    arms: dict[str, SurvivalArm]


class Survival(Part):
    """The same trained policies under many rule profiles."""

    sessions: Count
    block_length: Number
    contracts: Count
    """Asked for at every entry; a profile may allow fewer."""
    seconds: Number
    rows: list[SurvivalRow]


class RelianceRow(Part):
    advice: Literal["own", "none", "shuffled", "late", "constant"]
    net_usd_per_session: Figure
    changed_frac: Frac | None
    """Share of decisions that differ from those with its own advice."""
    seed_values_usd: list[Number] = Field([])


class Reliance(Part):
    arm: str
    rows: list[RelianceRow]
    words: Maybe[str] = None
