"""The `data` section of the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from src.errors import MarketError
from src.market.contracts import symbols_of
from src.settings import Section


class DataSettings(Section):
    """Where the bars come from, what is tolerated in them, and how their sessions are split."""

    path: Path | dict[str, Path] | None = Field(
        default=None,
        description="file of bars, or a folder of them; of several markets also a mapping {NQ: file, ES: file}; null: "
        "data/ if it has bars, else synthetic",
    )
    timezone: str | None = Field(
        default=None,
        description="zone of times that state none, such as America/Chicago; null: measured from the bars",
    )
    stamp: Literal["open", "close"] | None = Field(
        default=None, description="whether a bar's time is that of its open or its close; null: measured from the bars"
    )
    adjusted: Literal["refuse", "accept"] = Field(
        default="refuse", description="prices that were shifted at rolls and never traded: refuse or accept them"
    )
    repair: bool = Field(default=False, description="drop bad rows and count them instead of stopping at the first")
    interval_min: int | None = Field(
        default=None,
        ge=1,
        le=15,
        description="minutes per bar; shorter bars are joined into bars of that length; null: as in the file",
    )
    no_trade_bars: int = Field(
        default=2,
        ge=0,
        le=60,
        description="consecutive missing bars that count as bars without trades; more is a hole",
    )
    max_hole_bars: int = Field(
        default=6,
        ge=0,
        le=10_000,
        description="bars a session may lack to holes in its trading hours; with more it is left out",
    )
    warmup_bars: int | None = Field(
        default=None,
        ge=53,
        le=100_000,
        description="bars after a hole, a roll or the file's start in which no entry is allowed; null: 53",
    )
    train_frac: float = Field(default=0.6, gt=0.0, lt=1.0, description="share of the usable sessions to train on")
    validation_frac: float = Field(
        default=0.2, gt=0.0, lt=1.0, description="share of the usable sessions to validate on"
    )
    embargo_sessions: int | None = Field(
        default=None,
        ge=0,
        le=20,
        description="usable sessions left out at each split; null: 1 from 40 sessions on, else 0",
    )
    synthetic_sessions: int = Field(default=60, ge=60, le=5_000, description="sessions of synthetic bars")
    synthetic_interval_min: int = Field(default=5, ge=1, le=15, description="minutes a synthetic bar")

    @field_validator("path")
    @classmethod
    def _is_by_market(cls, value: Path | dict[str, Path] | None) -> Path | dict[str, Path] | None:
        if not isinstance(value, dict):
            return value
        try:
            return dict(zip(symbols_of(list(value)), value.values(), strict=True))
        except MarketError as error:
            raise ValueError(str(error)) from None

    @field_validator("timezone")
    @classmethod
    def _is_a_zone(cls, value: str | None) -> str | None:
        if value is None:
            return None
        from src.market.files.clock_candidates import parse_zone  # loads pandas: most runs name no zone

        return parse_zone(value).name

    @model_validator(mode="after")
    def _leave_a_test_share(self) -> DataSettings:
        if self.train_frac + self.validation_frac > 0.999:
            raise ValueError(
                f"train_frac {self.train_frac} and validation_frac {self.validation_frac} leave nothing for the sealed "
                f"test: their sum must be below 1"
            )
        return self

    def of_market(self, symbol: str) -> DataSettings:
        """The same with the path of one market; null where the mapping names none."""
        if not isinstance(self.path, dict):
            return self
        return self.model_copy(update={"path": self.path.get(symbol)})
