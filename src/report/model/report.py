"""The whole report."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from src.report.model.accounts import ChartedSession, PassSimulation, Reliance, Survival
from src.report.model.advice import Advice, Forecaster, Placebo
from src.report.model.arms import Arm, Seeds, Statistics, WalkForward
from src.report.model.bars import Data
from src.report.model.base import Count, Date, Frac, Maybe, Number, Part, Percent, check_length, check_rows
from src.report.model.edge import Edge
from src.report.model.learning import StillLearning
from src.report.model.markets import AdviceEffect, Agreement, ArmOverMarkets, MarketsContrast
from src.report.model.run import (
    Cache,
    EnvPool,
    Fusion,
    Hardware,
    HardwareTimeline,
    Learning,
    LookAhead,
    Memory,
    Phase,
    ProductionEstimate,
    Rules,
    Run,
    Summary,
    Target,
    TrainingRow,
)
from src.report.model.sweep import Sweep
from src.report.model.time import Time

SCHEMA_VERSION = 1
Mark = Literal["pass", "fail", "unknown"]


class Overall(Part):
    """The judgement of the whole run and the reason for it."""

    status: Literal["met", "missed", "not_measured"]
    judgement: str
    """A short sentence."""
    reason: str


class Answer(Part):
    """One of the five questions of a run, its mark, and an answer that fits one line of an 80-column terminal."""

    key: str
    """trains, leaks, production, survives, llm; never changes."""
    question: str
    mark: Mark
    """unknown: not measured, too few sessions, too short a training, or an interval that leaves it open."""
    answer: str


class Report(Part):
    """Everything a run measured on one market. Arrays by session, seed, bar or sample are as long as what they run
    over."""

    test_name: str
    schema_version: Annotated[int, Field(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)]
    validation_passed: bool
    execution_time: Number
    """Seconds."""
    gpu_utilization: Percent | None
    cache_hit_rate: Frac | None
    peak_memory_gb: Number
    peak_memory_kind: Literal["gpu", "ram"]
    timesteps_completed: Count
    timesteps_total: Count
    targets: dict[str, Target]
    phase_times: dict[str, Number]
    """Seconds by phase, in order."""
    time: Maybe[Time] = None
    """Where the time went, by part."""
    hardware: Hardware
    memory: Maybe[Memory] = None
    summary: Maybe[Summary] = None
    cache: Cache
    fusion: Fusion
    env_pool: EnvPool
    memory_released_mb: Number
    log_writes: Count
    run: Run
    training: list[TrainingRow]
    arms: dict[str, Arm]
    """On the sealed sessions."""
    production_estimate: Maybe[ProductionEstimate] = None
    data: Maybe[Data] = None
    rules: Maybe[Rules] = None
    validation_arms: Maybe[dict[str, Arm]] = None
    advice: Maybe[Advice] = None
    forecaster: Maybe[Forecaster] = None
    session_dates: Maybe[list[Date]] = None
    """Of the sealed sessions, in the order of every by-session array."""
    seeds: Maybe[Seeds] = None
    placebo: Maybe[dict[str, Placebo]] = None
    """By side of the account."""
    statistics: Maybe[Statistics] = None
    reliance: Maybe[Reliance] = None
    still_learning: Maybe[StillLearning] = None
    edge: Maybe[Edge] = None
    sessions: list[ChartedSession] = Field([], max_length=12)
    """What the price chart shows."""
    pass_simulation: Maybe[PassSimulation] = None
    survival: Maybe[Survival] = None
    """Attempts under other rule profiles, where evidence.rules asked for them."""
    look_ahead: Maybe[LookAhead] = None
    walk_forward: Maybe[WalkForward] = None
    sweep: Maybe[Sweep] = None
    """Of the winner of a sweep: how its settings were chosen."""
    phases: dict[str, Phase] = Field({})
    """Of a pipeline, by phase."""
    learning: Maybe[Learning] = None
    hardware_timeline: Maybe[HardwareTimeline] = None
    configuration: Maybe[dict[str, Any]] = None
    """The effective settings, as in config.yaml."""
    overall: Maybe[Overall] = None
    answers: list[Answer] = Field([])
    verdict: list[str]
    """One sentence an entry, each from a figure of the report."""

    @model_validator(mode="after")
    def _arms_have_the_same_sessions(self) -> Report:
        n_sealed = next((arm.sessions for arm in self.arms.values()), 0)
        for name, arm in self.arms.items():
            check_length(f"arms.{name}.net_usd_by_session", arm.net_usd_by_session, n_sealed)
        if self.session_dates is not None:
            check_length("session_dates", self.session_dates, n_sealed)
        if self.seeds is not None:
            for name, rows in self.seeds.net_usd_by_session.items():
                check_rows(f"seeds.net_usd_by_session.{name}", rows, n_sealed)
        return self

    @property
    def leaked(self) -> bool:
        """Whether a leak check failed; False where none was made."""
        return self.look_ahead is not None and not self.look_ahead.passed

    def nets_by_seed(self, arm: str) -> list[list[float]]:
        """Net P&L by seed and session; a single row for an arm without seeds."""
        rows = self.seeds.net_usd_by_session.get(arm) if self.seeds is not None else None
        return rows or [self.arms[arm].net_usd_by_session]

    def mean_by_session(self, arm: str) -> list[float]:
        """Net P&L by session, averaged over seeds."""
        rows = self.nets_by_seed(arm)
        return [sum(column) / len(rows) for column in zip(*rows, strict=True)]

    def to_json_dict(self) -> dict[str, Any]:
        """As report.json has it: parts that were left out have no key."""
        return self.model_dump(exclude_unset=True)


class Markets(Part):
    """The markets of a run of several: a report of each, and what they say together."""

    reports: Annotated[dict[str, Report], Field(min_length=2)]
    """By symbol. Figures of the machine are of the whole run."""
    contrasts: list[MarketsContrast]
    """The primary one first; none where fewer than two markets were evaluated."""
    arms: dict[str, ArmOverMarkets] = Field({})
    """By arm, on the sealed sessions."""
    agreement: Maybe[Agreement] = None
    """Of the arms' ranks over folds and markets."""
    advice: dict[str, AdviceEffect] = Field({})
    """By symbol: where the advice helps."""


class RunReport(Report):
    """report.json: of one market, or of several, each with a report of its own. The arms of a run of several markets
    are in those, and the trainings are those of all."""

    markets: Maybe[Markets] = None
