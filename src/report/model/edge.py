"""Section on what RL alone earns before and after costs, and what would have to change."""

from __future__ import annotations

from typing import Literal

from src.report.model.arms import Contrast
from src.report.model.base import Count, Figure, Number, Part


class BaseTrend(Part):
    """Net P&L of the base policy along its training, on the validation sessions."""

    timesteps: Count
    slope_usd: Number
    """A session, per quarter of the training."""
    low_usd: Figure
    high_usd: Figure


class Edge(Part):
    """RL alone against random trading on the sealed sessions."""

    cause: Literal["earns", "loses to costs", "learns too little", "saves costs", "learns nothing", "cannot tell"]
    before_costs: Contrast
    """Of P&L before commission and slippage, not adjusted for other comparisons; after them it is in
    statistics.contrasts."""
    gross_usd_per_session: Number
    """RL alone, averaged over seeds."""
    net_usd_per_session: Number
    costs_factor: Figure
    """Times today's costs, at which net P&L is zero; null where it is none at any costs."""
    sessions_needed: Count | None
    """To confirm the observed edge before costs 80% of the time; null where it is not above zero."""
    timesteps_more: Count | None
    """After which the loss is gone if the base policy keeps improving at this rate; null without a loss or a rise."""
    trend: BaseTrend | None
