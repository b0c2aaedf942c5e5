"""The configuration sections of the advisor: whom to ask, and how its advice is fused with the RL policy's
decisions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from src.settings import Section


class LLMSettings(Section):
    """Section `llm`: the model that advises and the weight its advice carries."""

    model: Literal["mock"] = Field("mock", description="the advisor: `mock` answers by rules, without a language model")
    llm_weight: float = Field(
        0.5,
        ge=0.0,
        le=1.0,
        description="weight of the advice, 0 (none) to 1: the pool weight of the hybrid policy and of the fused arm",
    )
    use_opinion_features: bool = Field(
        True, description="show the hybrid policy the six opinion features of the observation"
    )
    cache_size: int = Field(1000, ge=1, description="rows the feature cache keeps")


class RiskSettings(Section):
    """Section `fusion.risk`: when an account is so close to its limits that no risk may be added."""

    max_consecutive_losses: int = Field(5, ge=1, description="consecutive losing trades at which the risk score is 1")
    min_win_rate_threshold: float = Field(
        0.3,
        ge=0.0,
        le=1.0,
        description="recent win rate (fraction) below which the risk score rises; 0 leaves the win rate out",
    )
    dd_buffer_threshold: float = Field(
        0.8, gt=0.0, le=1.0, description="fraction of the drawdown buffer used at which the risk score is 1"
    )
    enable_risk_veto: bool = Field(True, description="turn risk-increasing actions into HOLD above a risk score of 0.7")


class FusionSettings(Section):
    """Section `fusion`: how decisions of an RL-only policy and the advice become one action."""

    confidence_threshold: float = Field(
        0.6,
        ge=0.0,
        le=1.0,
        description="confidence above which a side decides alone if the other one's is not above it",
    )
    risk: RiskSettings = Field(RiskSettings(), description="limits behind the risk score")
