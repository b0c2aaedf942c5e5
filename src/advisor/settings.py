"""The configuration sections of the advisor: whom to ask, and how its advice is fused with the RL policy's
decisions."""

from __future__ import annotations

import re
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from src.advisor.endpoint_url import checked_url
from src.settings import Section

QUICK_BUDGET_S = 15.0
"""Most a quick run spends on asking."""


class LLMSettings(Section):
    """Section `llm`: the model that advises, how much it is asked, and the weight its advice carries."""

    model: str = Field(
        "bundled:smollm2",
        min_length=1,
        description="bundled:smollm2, a folder or hub id of a causal language model, tiny (random), or mock (rules)",
    )
    knowledge_cutoff: date | None = Field(
        None, description="last day its training data may cover, as '2024-10-31'; null: as known for bundled:smollm2"
    )
    endpoint: str | None = Field(
        None,
        repr=False,
        description="http(s) URL of an OpenAI-compatible server that has the model; null: the model is on this machine",
    )
    endpoint_key_env: str | None = Field(
        None, repr=False, description="name of the environment variable that holds the server's key; never the key"
    )
    endpoint_chat: bool = Field(
        True, description="ask in the chat format of the server; false: as plain text, for a model without one"
    )
    endpoint_timeout_s: float = Field(120.0, gt=0.0, le=86_400.0, description="seconds one request may take")
    endpoint_retries: int = Field(5, ge=0, le=100, description="how often a failed request is sent again")
    endpoint_concurrency: int = Field(4, ge=1, le=256, description="requests sent at a time")
    endpoint_requests_per_min: float | None = Field(
        None, gt=0.0, le=10**6, description="most requests a minute, retries included; null: no limit"
    )
    endpoint_changed: Literal["refuse", "ask_again"] = Field(
        "refuse", description="where the server has another model under the known name: stop, or ask it everything"
    )
    quantization: Literal["none", "int8", "int4"] = Field(
        "none", description="weights of the language model; int8, int4: with bitsandbytes"
    )
    full_precision_sample: int = Field(
        32, ge=0, le=10_000, description="situations a quantized model is compared with full precision on; 0: none"
    )
    llm_device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the language model is asked")
    llm_threads: int | None = Field(
        None, ge=1, le=1024, description="CPU threads while it is asked; null: the cores free then"
    )
    tabulation_budget_s: float = Field(
        120.0, gt=0.0, le=10**6, description="seconds to ask it, model loading not counted"
    )
    quick_budget_s: float = Field(
        15.0, gt=0.0, le=10**6, description="the most of it under quick; an option tabulation_budget_s sets both"
    )
    extend_advice: bool = Field(
        False, description="ask for another budget's worth beyond what an earlier run has tabulated"
    )
    advice_batch_size: int | None = Field(
        None, ge=1, le=1024, description="situations asked and kept at once; null: 16, on CUDA what its memory holds"
    )
    calibrate: bool = Field(
        True, description="subtract each label's mean log-probability by side; false: as the model says it"
    )
    store_path: Path | None = Field(
        None, description="SQLite file of answers, shared by runs; null: advice.sqlite3 in the user's cache folder"
    )
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

    @field_validator("knowledge_cutoff", mode="before")
    @classmethod
    def _is_a_day(cls, value: Any) -> Any:
        is_day = isinstance(value, date) and not isinstance(value, datetime)
        if value is None or is_day or (isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value)):
            return value
        raise ValueError("it must be a day, as 2024-10-31")

    @field_validator("endpoint", mode="after")
    @classmethod
    def _is_a_url_without_secrets(cls, value: str | None) -> str | None:
        return None if value is None else checked_url(value)

    @field_validator("endpoint_key_env", mode="after")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError(
                "it must be the name of an environment variable, such as LLM_KEY (letters, digits, underscores). The "
                "key itself belongs into that variable, never into a configuration"
            )
        return value


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
    consecutive_losses_weight: float = Field(
        1.0, ge=0.0, le=1.0, description="risk score that max_consecutive_losses losses in a row make alone"
    )
    drawdown_weight: float = Field(
        1.0, ge=0.0, le=1.0, description="risk score that dd_buffer_threshold of the buffer used makes alone"
    )
    win_rate_weight: float = Field(
        0.4,
        ge=0.0,
        le=1.0,
        description="share of the way to a full score that a win rate of 0 adds; up to 0.7 it never vetoes alone",
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


def budget_s(settings: LLMSettings, *, quick: bool) -> float:
    """Seconds a run may ask for."""
    return min(settings.tabulation_budget_s, settings.quick_budget_s) if quick else settings.tabulation_budget_s
