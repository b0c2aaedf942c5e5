"""The file of a sweep: which keys are varied, how settings are chosen, what they are scored by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from src.agent.members import ArmName
from src.configuration_errors import explain, is_number_in_disguise, quote
from src.configuration_file import read_mapping
from src.errors import ConfigError
from src.plain_text import foreign
from src.settings import Section
from src.suggestions import did_you_mean

MOST_SETTINGS = 1000
Method = Literal["grid", "random", "optuna"]
PartT = TypeVar("PartT", bound=BaseModel)


class Range(Section):
    """Numbers from `low` to `high`, both included."""

    low: float = Field(0.0, description="smallest value")
    high: float = Field(1.0, description="largest value")
    log: bool = Field(False, description="whether equal ratios are equally likely, not equal differences")
    step: float | None = Field(None, gt=0, description="distance of neighbouring values; null: any value")


class SweepFile(Section):
    """What a sweep file holds."""

    method: Method = Field("random", description="grid: every combination; random; optuna: guided by earlier scores")
    settings: int | None = Field(None, ge=2, le=MOST_SETTINGS, description="how many settings are tried; not for grid")
    seed: int = Field(0, ge=0, description="of the choice of settings")
    arm: Literal["hybrid", "rl_only"] = Field("hybrid", description="the arm whose net P&L is the score")
    seeds: int = Field(1, ge=1, le=20, description="trainings of each setting, averaged")
    fresh_seeds: int = Field(5, ge=2, le=50, description="trainings of the winner with seeds of their own")
    keep_frac: float = Field(0.5, gt=0, le=1, description="share of settings that train on at each quarter; 1: all")
    batch: int = Field(4, ge=1, le=64, description="settings that optuna proposes at a time")
    space: dict[str, Any] = Field({}, description="values of each key: a list, or low and high")

    @property
    def arm_name(self) -> ArmName:
        """The arm that scores."""
        return ArmName(self.arm)

    @model_validator(mode="after")
    def _settings_are_counted_once(self) -> SweepFile:
        if self.method == "grid" and self.settings is not None:
            raise ValueError("a grid tries every combination: leave settings out, or take method random")
        if self.method != "grid" and self.settings is None:
            raise ValueError(f"method {self.method} needs settings, the number of settings to try")
        return self


def read_sweep(path: Path | str) -> SweepFile:
    """The checked content of a sweep file; what its space may hold, `src.sweeps.space` checks.

    Raises: ConfigError naming file, key, value and what is allowed.
    """
    values, name = read_mapping(path), foreign(path)
    read = _checked(SweepFile, values, name, "")
    if not read.space:
        raise ConfigError(
            f"{name}: space names no key. Name at least one, for example `space:` and under it "
            f"`training.learning_rate: [0.0003, 0.001]`."
        )
    return read


def range_of(values: Mapping[str, Any], name: str, key: str) -> Range:
    """The range that a key of the space names. ConfigError as `read_sweep`."""
    for needed in ("low", "high"):
        if needed not in values:
            raise ConfigError(f"{name}: {key} has no {needed}. A range has low and high; single values are a list.")
    return _checked(Range, values, name, f"{key}.")


def _checked(model: type[PartT], values: Mapping[str, Any], name: str, prefix: str) -> PartT:
    for key in values:
        if key not in model.model_fields:
            near = did_you_mean(key, model.model_fields)
            known = ", ".join(model.model_fields)
            raise ConfigError(f"{name}: there is no key {prefix}{foreign(key, 80)}{near}. Known here: {known}.")
        if is_number_in_disguise(model.model_fields[key], values[key]):
            raise ConfigError(f"{name}: {prefix}{key} is {quote(values[key])}, but must be a number.")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, model, lambda path: _place(name, prefix, path))) from None


def _place(name: str, prefix: str, path: tuple[str, ...]) -> str:
    return f"{name}: {prefix}{'.'.join(path)}" if path else name
