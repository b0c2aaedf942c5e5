"""Sections about several markets of one run together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from src.report.model.arms import Contrast
from src.report.model.base import Count, Figure, Frac, Part


class MarketsContrast(Part):
    """One contrast over all markets and in each."""

    arm: str
    against: str
    pooled: Contrast
    """By date: the difference of every date is the mean over the markets that have it among their sealed sessions.
    `sessions` are dates."""
    dates_in_all: Count
    """Dates that are sealed sessions of every market."""
    by_market: dict[str, Contrast]
    """By symbol. `holm_p_value` is adjusted over the markets."""


class NetInterval(Part):
    """Net P&L per session with its interval, not adjusted for the number of arms and markets."""

    mean_usd: Figure
    low_usd: Figure
    high_usd: Figure


class ArmOverMarkets(Part):
    """What an arm earned in each market, and over all: pooled by date as a contrast is."""

    pooled: NetInterval
    by_market: dict[str, NetInterval]
    """By symbol."""


class AgreementOf(Part):
    """How far blocks, such as folds, agree on the order of the arms."""

    blocks: Count
    kendalls_w: Frac | None
    """0 no agreement, 1 the same order in every block; null where the blocks allow none."""
    p_value: Frac | None
    """Share of random orders that agree as much."""
    mean_ranks: dict[str, Figure]
    """By arm, 1 the best."""


class Agreement(AgreementOf):
    """Over all blocks together."""

    unit: Literal["folds", "markets"]
    """What a block is: a fold of a market, or without folds a market's sealed sessions."""
    by_market: dict[str, AgreementOf]
    """Over the folds of each market."""
    words: str


class AdviceEffect(Part):
    """What the advice does in one market: by Holm-adjusted contrasts with the placebo and with RL alone."""

    effect: Literal["helps", "hurts", "open"]
    folds: Count
    folds_ahead: Annotated[int, Field(ge=0)]
    """Folds in which the hybrid earned more than its placebo; not a test."""
