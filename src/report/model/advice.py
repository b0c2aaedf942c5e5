"""Sections about the advice: what was asked and said, what the placebo changed, how well it forecasts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from src.report.model.base import Action, Count, Date, Figure, Frac, Maybe, Number, Part, Span


class RuleCounts(Part):
    """Decisions by the fusion rule that made them."""

    risk_veto: Count
    agreement: Count
    rl_confident: Count
    llm_confident: Count
    weighted_rl: Count
    weighted_llm: Count
    abstained: Count
    bypassed: Count


class AdviceCoverage(Part):
    train: Frac
    sealed: Frac


class SideMix(Part):
    bars: Count
    entropy: Figure
    likeliest: dict[Action, Frac] | None
    probability: dict[Action, Frac] | None


class FirstChoice(Part):
    """What the model most often ranks first on one side of the account, before calibration."""

    label: Action
    share_frac: Frac
    answers: Count
    spread_nats: Number
    """Standard deviation of a label's log-probability over the situations, averaged over labels."""


class Manner(Part):
    """How the model is asked, and what the sample answers show."""

    prompt: Literal["chat template", "plain text", "server"]
    folded: bool
    """The template has no place for instructions."""
    closed: str
    """What was added to a prompt to end a thought or a channel."""
    closed_for: Literal["", "template", "model", "either"]
    """Who opens it."""
    samples: Count
    thoughts: Count
    """Samples whose answer begins with a thought as the prompt is now."""
    split_labels: list[str]
    """Labels of several tokens: the first one in which a label differs from the others stands for it."""
    whole_frac: Frac | None
    """Share of those first tokens' probability that continues as the label."""


class Skill(Part):
    """How far the hit rate of the flat-state view exceeds chance on one side of the knowledge cutoff."""

    sessions: Count
    first: Date | None
    last: Date | None
    hit_rate: Frac | None
    chance_rate: Frac | None
    """Of as many forecasts up, made without regard to the market."""
    skill: Figure
    low: Figure
    high: Figure
    reason: str
    """Why there is no interval, or none of this width; else empty."""


class Knowledge(Part):
    """The last day that the model's training data may cover, beside the sealed window."""

    cutoff: Date | None
    source: str
    sealed: Literal["no memory", "synthetic", "unknown", "before", "split", "after"]
    """Where the sealed sessions lie, the day itself counting as before; or why that is no question."""
    sealed_sessions: Count
    sealed_first: Date
    sealed_last: Date
    sealed_after: Count
    horizon: Count
    """Bars ahead."""
    before: Skill | None
    """Over all sessions of the data; null where there is no cutoff to split them at."""
    after: Skill | None
    difference: Figure
    """Skill before less skill after."""
    low: Figure
    high: Figure


class Tabulation(Part):
    model: str
    listed: Count
    count_k: Count
    asked_now: Count
    from_store: Count
    seconds: Number
    load_s: Number
    advices_per_s: Figure
    budget_s: Number
    rounds: Count
    batch_size: Count
    calibrated: bool
    order_sha256: str
    sha256: str
    full_precision_agreement: Frac | None
    full_precision_compared: Count
    full_precision_why_not: Maybe[str] = None
    label_mass: Frac | None = None
    abstained: Count = 0
    """Situations whose answer lacks the log-probability of a label."""
    no_answer: Count = 0
    """Those of them whose answer has none of the labels."""
    undecided: Count = 0
    """Situations in which all labels are alike: the advice abstains."""
    first_choice: dict[str, FirstChoice] = Field({})
    """By side of the account."""
    manner: Manner | None = None
    scoring: dict[str, Any]
    sessions_read: Maybe[list[Span]] = None


class Advice(Part):
    advisor: str
    identity: str
    sha256: str
    situations_asked: Count
    coverage: AdviceCoverage
    by_side: dict[str, SideMix]
    advice_without_model: Frac | None
    opinion_lookups: Count
    tabulation: Tabulation
    note: str | None
    quantization: str | None
    knowledge: Maybe[Knowledge] = None


class Placebo(Part):
    """How far the placebo's advice is from the original, for one side of the account."""

    situations: Count
    changed: Count
    bars: Count
    bars_changed_frac: Frac | None
    mean_shift: dict[str, Number] | None
    """Placebo less original in the mean probability of each action."""


class Momentum(Part):
    n: Count
    correlation: Figure


class ReliabilityBin(Part):
    said_up_frac: Frac
    up_frac: Frac
    n: Count


class Horizon(Part):
    windows: Count
    dropped_past_flat: Count
    dropped_at_break: Count
    ties: Count
    zero_returns: Count
    n: Count
    sessions: Count
    hit_rate: Frac | None
    up_rate: Frac | None
    forecast_up_rate: Frac | None
    information_coefficient: Figure
    brier: Figure
    brier_of_up_rate: Figure
    reliability: Maybe[list[ReliabilityBin]] = None
    """Calibration of p_up: bins of bars by what was said, in order; mean of what was said, share that went up, bars."""


class Forecaster(Part):
    forecast: str
    outcome: str
    correlation: str
    sealed_bars: Count
    covered_bars: Count
    momentum: Momentum
    horizons: dict[Annotated[str, Field(pattern="^[1-9][0-9]*$")], Horizon]
    """By bars ahead."""
