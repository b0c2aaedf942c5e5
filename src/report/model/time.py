"""Sections about where the time went, and which setting would save some."""

from __future__ import annotations

from src.report.model.base import Count, Figure, Maybe, Number, Part, Positive


class TimeParts(Part):
    seconds: dict[str, Number]
    """Wall time by part; parts that took none are left out."""
    cpu_s: dict[str, Number]
    """Processor time of the process that did it, all threads. In rollouts read during one step of eight and scaled."""


class MemberTime(TimeParts):
    """A training, from its first line to its exports. Its parts add up to the whole."""

    phase: str
    market: Maybe[str] = None
    seed: Maybe[int] = None
    fold: Maybe[Count] = None
    bound_cpu_s: Figure
    """Processor time of the matrix products of its hidden layers alone, measured after it; null on a GPU."""


class RunTime(TimeParts):
    """The run's last process. Every task that it may do at a time is a slot."""

    wall_s: Number
    slots: Count
    slot_s: Number
    """Slot-seconds: what the parts must add up to."""
    unaccounted_s: Number
    """The difference."""
    earlier_s: Number
    """Wall time of earlier processes of a resumed run, on top."""


class TriedSetting(Part):
    setting: str
    """The key of the configuration."""
    now: str
    tried: str
    speedup: Positive
    """Of timesteps a second: the median of the rounds, in which the setting took turns with what the run has."""
    low: Positive
    """The least of the rounds."""
    high: Positive
    changes_learning: bool
    """Whether it trains another policy, not the same one sooner."""


class SettingsTried(Part):
    steps_per_s: Figure
    """With the settings of the run, in the trial's short rollouts."""
    rounds: Count
    tried: list[TriedSetting]
    not_tried: str
    """Why not, or what there was no time for."""
    seconds: Number


class Time(Part):
    run: RunTime
    members: list[MemberTime]
    settings: Maybe[SettingsTried] = None
