"""The `environment` section of the configuration."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from src.settings import Section


class EnvironmentSettings(Section):
    """What an account may do, what it costs, and how it is rewarded."""

    trading_hours: Literal["rth", "globex"] = Field("rth", description="09:30-16:00 New York, or the whole Globex day")
    contracts: int = Field(1, ge=1, le=1000, description="contracts per entry, at most the rule profile's limit")
    stop_atr: float = Field(1.5, gt=0, le=50, description="stop distance at entry, ATRs")
    target_r: float = Field(3.0, gt=0, le=50, description="target distance at entry, multiples of R")
    trail_atr: float = Field(
        2.0, gt=0, le=50, description="trailing distance from the best completed-bar extreme, ATRs"
    )
    target_through_ticks: int = Field(
        1, ge=0, le=100, description="ticks a bar must trade through a target to fill it; 0 fills on a touch"
    )
    slippage_ticks: int | None = Field(
        None, ge=0, le=1000, description="slippage of a market order or stop; null: the market's default"
    )
    commission_usd: float | None = Field(
        None, ge=0, le=1000, description="per contract and side, whole cents; null: the market's default"
    )
    rule_profile: str = Field("apex_50k_eod_2026_03", description="name of a file in config/prop_firms")
    reward_scale_usd: float = Field(250.0, gt=0, description="change of equity that is a reward of 1")
    breach_penalty: float = Field(4.0, ge=0, le=1000, description="reward units subtracted when an account is breached")
    fresh_account_frac: float = Field(
        0.25, ge=0, le=1, description="share of training episodes that start with a new account"
    )
    min_buffer_frac: float = Field(
        0.25, gt=0, le=1, description="smallest share of the trailing amount left when a training episode starts"
    )
    max_episode_steps: int = Field(0, ge=0, description="artificial limit on a training episode, timesteps; 0: none")
    env_class: str | None = Field(
        None, description="your own gymnasium.Env, package.module:Class; runs in worker processes"
    )
    env_kwargs: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of env_class")
