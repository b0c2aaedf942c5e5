"""What holds a run back, in sentences: the largest part of its training's time, and the setting that saves most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from src.agent import clock
from src.report.model.report import Report
from src.report.model.time import MemberTime, SettingsTried, TriedSetting
from src.wording import measured, percent, plain, three_digits

ENVIRONMENT, POLICY, UPDATE, LOGGING, CHECKPOINTS = (
    *("environment", "policy", "PPO update", "logging"),
    "checkpoints",
)
GROUPS: Mapping[str, Sequence[str]] = {
    ENVIRONMENT: (clock.ENVIRONMENT,),
    POLICY: (clock.FORWARD, clock.SAMPLING, clock.POLICY, clock.BUFFER, clock.ADVICE),
    UPDATE: (clock.PRODUCTS, clock.ELEMENTWISE, clock.GRADIENTS, clock.OPTIMIZER, clock.BOOKKEEPING),
    LOGGING: (clock.LOGGING,),
    CHECKPOINTS: (clock.CHECKPOINTS,),
}
ENDS = (clock.SET_UP, clock.EXPORTS, clock.MEASURING)
"""Before the first step and after the last: no part of what a longer training takes."""
SHOWN = 0.005
"""Smallest fraction of the training time that a sentence names."""
GAIN = 1.05
"""A setting is only recommended where it makes training this much faster in the median, and faster in every round."""
OTHERS_CREDIT = 0.5
"""How much a gain counts that comes with another policy, against one that gives the same policy sooner."""
BUSY = 0.9
"""Processor time per wall second of the update below which other programs held it up."""


def total(members: Sequence[MemberTime], kind: str = "seconds") -> dict[str, float]:
    """Seconds of all trainings by part, in the order of the parts."""
    return {
        part: taken
        for part in clock.PARTS
        if (taken := sum(getattr(member, kind).get(part, 0.0) for member in members))
    }


def training_parts(report: Report) -> list[tuple[str, float]]:
    """Parts of the training time from the first step to the last with their fraction of it, largest first. A report of
    an earlier version tells rollouts and updates apart, and environments of your own."""
    if report.time is not None and report.time.members:
        seconds = total(report.time.members)
        whole = sum(taken for part, taken in seconds.items() if part not in ENDS)
        shares = {name: sum(seconds.get(part, 0.0) for part in parts) / whole for name, parts in GROUPS.items()}
        parts = {name: share for name, share in shares.items() if share >= SHOWN}
        return sorted(parts.items(), key=lambda part: -part[1])
    seconds_s = sum(row.seconds for row in report.training)
    update = sum(row.update_s for row in report.training) / seconds_s
    parts = {UPDATE: update, "rollouts": 1.0 - update}
    if _own_class(report) is not None:
        environment = sum(row.environment_s for row in report.training) / seconds_s
        parts = {ENVIRONMENT: environment, POLICY: 1.0 - update - environment, UPDATE: update}
    return sorted(parts.items(), key=lambda part: -part[1])


def held_back(report: Report) -> list[str]:
    """The bottleneck and what it costs, the share of the matrix products' bound, other programs, and the setting that
    would help most; empty for a report without times."""
    if report.time is None or not report.time.members:
        return []
    first = _bottleneck(report)
    return [first, *(line for line in speed(report) if line != first)]


def _bottleneck(report: Report) -> str:
    part, share = training_parts(report)[0]
    return f"The {part} holds training back: {percent(share)} of its time{_cost(report, part)}."


def speed(report: Report) -> list[str]:
    """The same for a reader who knows the bottleneck, unless it is the environment, whose steps have a price."""
    if report.time is None or not report.time.members:
        return []
    members = report.time.members
    lines = [_bottleneck(report)] if training_parts(report)[0][0] == ENVIRONMENT else []
    if (bound := bound_share(members)) is not None:
        lines.append(f"Training runs at {percent(bound)} of the speed of its matrix products alone.")
    if (busy := processor_share(members)) is not None and busy < BUSY:
        lines.append(f"Other programs held it up: the update had a processor for {percent(busy)} of its time.")
    return [*lines, setting_words(report.time.settings)]


def bound_share(members: Sequence[MemberTime]) -> float | None:
    """Processor time of the matrix products alone as a fraction of the training's, from its first step to its last."""
    known = [member for member in members if member.bound_cpu_s is not None]
    taken = sum(cpu_s for part, cpu_s in total(known, "cpu_s").items() if part not in ENDS)
    return sum(member.bound_cpu_s or 0.0 for member in known) / taken if taken else None


def processor_share(members: Sequence[MemberTime]) -> float | None:
    """Processor time of the update, which waits for nothing, as a fraction of its wall time; above 1 with threads."""
    seconds, cpu_s = (total(members, kind) for kind in ("seconds", "cpu_s"))
    wall = sum(seconds.get(part, 0.0) for part in GROUPS[UPDATE])
    return sum(cpu_s.get(part, 0.0) for part in GROUPS[UPDATE]) / wall if wall else None


def _cost(report: Report, part: str) -> str:
    """What one unit of the bottleneck's work costs."""
    assert report.time is not None
    seconds = total(report.time.members)
    timesteps = sum(row.timesteps for row in report.training)
    if part == ENVIRONMENT:
        steps = sum(row.timesteps / row.n_envs for row in report.training)
        n_envs, taken = report.training[0].n_envs, seconds.get(clock.ENVIRONMENT, 0.0)
        name = _own_class(report) or "the accounts"
        return (
            f". A step of {plain(n_envs)} environments ({name}) takes {measured(taken / steps)}, "
            f"{measured(taken / timesteps)} a timestep"
        )
    if part == UPDATE:
        named = [(name, seconds.get(name, 0.0)) for name in GROUPS[UPDATE]]
        whole = sum(taken for _, taken in named)
        parts = sorted(((name, taken / whole) for name, taken in named), key=lambda of: -of[1])
        return f" ({', '.join(f'{name} {percent(share)}' for name, share in parts if share >= SHOWN)})"
    return ""


def _own_class(report: Report) -> str | None:
    settings: dict[str, Any] = (report.configuration or {}).get("environment", {})
    return settings.get("env_class")


def best_of(tried: Sequence[TriedSetting]) -> TriedSetting | None:
    """The setting that helps most, of those that surely help."""
    sure = [one for one in tried if one.low > 1.0 and one.speedup >= GAIN]
    return max(
        sure, key=lambda one: (one.speedup - 1.0) * (OTHERS_CREDIT if one.changes_learning else 1.0), default=None
    )


def setting_words(settings: SettingsTried | None) -> str:
    """Which setting would help most, and by how much."""
    if settings is None:
        return "No other settings were tried."
    if not settings.tried:
        return f"No other settings were tried: {settings.not_tried}."
    best = best_of(settings.tried)
    if best is None:
        names = ", ".join(f"{one.setting} {one.tried}" for one in settings.tried)
        return f"No setting that was tried makes training clearly faster ({names})."
    words = (
        f"The setting that helps most: {best.setting} {best.tried} instead of {best.now} makes training "
        f"{three_digits(best.speedup)} times as fast ({three_digits(best.low)} to {three_digits(best.high)} in "
        f"{settings.rounds} rounds)"
    )
    return f"{words}, but it trains a different policy." if best.changes_learning else f"{words}."
