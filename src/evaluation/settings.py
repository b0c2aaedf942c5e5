"""The configuration sections of what is watched and logged during a run, and of what is done to tell an effect from
luck."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from src.settings import Section
from src.suggestions import did_you_mean
from src.trading.rules import ALL, available_rule_profiles

FEWEST_ATTEMPTS = 200
"""Simulated attempts that are made whatever they take: fewer say nothing about a probability."""
LATE_DECISIONS = 5
SLIPPAGE_TICKS = (0, 1, 2, 3)
TableFormat = Literal["csv", "parquet"]
Ticks = Annotated[int, Field(ge=0, le=1000)]


def _listed(names: Any) -> Any:
    """A single name is a list of one."""
    return (names,) if isinstance(names, str) else names


class MonitoringSettings(Section):
    """Section `monitoring`: hardware sampling and training logs."""

    monitor_gpu: bool = Field(True, description="read the GPU through NVML where there is one")
    hardware_interval_s: float = Field(1.0, ge=0.05, le=3600.0, description="seconds between two hardware samples")
    log_interval: int = Field(100, ge=1, description="vec-env steps between two training log records")
    tensorboard: bool = Field(True, description="write training records for TensorBoard as well as JSON lines")
    settings_trial_s: float | None = Field(
        None,
        ge=0,
        le=3600,
        description="seconds for trying other settings of hardware; null: 2% of the trainings' time; 0: none",
    )
    exports: tuple[TableFormat, ...] = Field(
        ("csv", "parquet"),
        description="formats of the tables of daily returns, equity, sessions and trades in exports/; []: no tables",
    )
    mlflow: Path | None = Field(
        None,
        description="folder of an MLflow store that gets finished runs (needs requirements-mlflow.txt); null: none",
    )

    @field_validator("exports")
    @classmethod
    def _each_format_once(cls, formats: tuple[TableFormat, ...]) -> tuple[TableFormat, ...]:
        if len(set(formats)) < len(formats):
            raise ValueError(f"a format is listed twice: {list(formats)}")
        return formats

    @field_validator("mlflow")
    @classmethod
    def _is_a_folder(cls, value: Path | None) -> Path | None:
        if value is not None and ":/" in str(value):  # what a path makes of an address
            raise ValueError(f"{value} is an address, and nothing is sent anywhere: name a folder")
        return value


class EvidenceSettings(Section):
    """Section `evidence`: how many seeds and folds are trained, and what the trained arms are put through."""

    seeds: int = Field(3, ge=1, le=100, description="seeds trained from scratch and averaged by session")
    walk_forward: int = Field(
        0, ge=0, le=50, description="folds trained and tested forward in time, each a training of its own; 0: none"
    )
    pass_budget_s: float = Field(
        60.0, gt=0, le=10**6, description=f"seconds for simulated attempts; at least {FEWEST_ATTEMPTS} are made anyway"
    )
    pass_attempts: int = Field(
        2000, ge=FEWEST_ATTEMPTS, le=10**6, description="simulated attempts at the profile's evaluation, at most"
    )
    pass_max_days: int = Field(
        60, ge=1, le=1000, description="sessions an attempt lasts at most where the rule profile has no expiry"
    )
    rules: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(
        (), description="rule profiles of the survival table, or all: attempts at each by the same policies; []: none"
    )
    stress_slippage_ticks: tuple[Ticks, ...] = Field(
        SLIPPAGE_TICKS, min_length=1, description="slippage a fill under which the trained arms are played again, ticks"
    )
    late_decisions: int = Field(
        LATE_DECISIONS, ge=1, le=1000, description="decisions by which the reliance test delays the advice"
    )
    chart_sessions: int = Field(
        4, ge=0, le=4, description="sealed sessions recorded bar by bar: best, worst, median, most trades; 0: none"
    )

    trials_path: Path | None = Field(
        None, description="file of the trials on sealed sessions; null: trials.jsonl in the user's cache folder"
    )

    @field_validator("rules")
    @classmethod
    def _rules_exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = (ALL, *available_rule_profiles())
        for name in names:
            if name not in known:
                raise ValueError(
                    f"{name!r} is no rule profile{did_you_mean(name, known)}; choose from {', '.join(known)}"
                )
        if len(set(names)) < len(names):
            raise ValueError(f"a profile is listed twice: {list(names)}")
        return names

    @field_validator("stress_slippage_ticks")
    @classmethod
    def _each_once(cls, ticks: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(ticks)) < len(ticks):
            raise ValueError(f"a number of ticks is listed twice: {list(ticks)}")
        return tuple(sorted(ticks))
