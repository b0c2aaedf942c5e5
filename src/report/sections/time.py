"""Section: what holds the run back."""

from __future__ import annotations

from typing import Any, NamedTuple

from markupsafe import Markup

from src.report.held_back import bound_share, held_back, total
from src.report.model.report import Report
from src.report.model.time import MemberTime, RunTime, TriedSetting
from src.report.page.blocks import Bullets, Chart, Column, Figure, Folded, Section, Table, Text, given, term
from src.report.page.drawing import Arrays, bars_across
from src.report.sections.hardware import time_unit
from src.wording import NOTHING, duration, percent, plain, ratio_words

TITLE = "What holds the run back?"


class _Row(NamedTuple):
    """A part of some time: its seconds, its fraction, and processor seconds, None where none were read."""

    part: str
    seconds: float
    share: float
    cpu_s: float | None


def section(report: Report, arrays: Arrays) -> Section:
    """The section."""
    times = report.time
    if times is None:
        return Section("time", TITLE, (), Markup("This run kept no times by part."))
    blocks: list[Any] = []
    if times.members:
        rows = _rows(total(times.members), total(times.members, "cpu_s"))
        trainings = f"{len(times.members)} training{'' if len(times.members) == 1 else 's'}"
        caption = Markup("{} by {} of {}, {} in all.").format(
            term("execution_time", "Time"), term("time_part", "part"), trainings, duration(_sum(rows))
        )
        says = "; ".join(f"{row.part}: {duration(row.seconds)}" for row in rows)
        blocks += [
            Bullets([Markup("{}").format(line) for line in held_back(report)]),
            Chart("parts-chart", caption, says, 70 + 27 * len(rows), [parts_figure(rows)]),
            Folded("Time by part, in figures", [Table("Time by part of the trainings", _columns(), rows)]),
            Folded("Time by part of each training", [Table("Trainings", _member_columns(), times.members)]),
        ]
    if times.settings is not None and times.settings.tried:
        note = f"{times.settings.rounds} rounds in turns, {duration(times.settings.seconds)} in all."
        if times.settings.not_tried:
            note = f"{note} {times.settings.not_tried.capitalize()}."
        blocks.append(Table("Settings tried", _tried_columns(), times.settings.tried, note))
    blocks += _run_blocks(times.run)
    return Section("time", TITLE, blocks)


def _run_blocks(run: RunTime) -> list[Any]:
    rows = _rows(run.seconds, run.cpu_s)
    slots = f"{plain(run.slots)} tasks at a time" if run.slots > 1 else "one task at a time"
    words = Markup("The run took {} with {}: {} of {}. Not accounted for: {}.").format(
        duration(run.wall_s), slots, duration(run.slot_s), term("slot_time", "slot time"),
        percent(run.unaccounted_s / run.slot_s if run.slot_s else None, 1),
    )  # fmt: skip
    if run.earlier_s:
        words += Markup(" Earlier processes of this run took {} more.").format(duration(run.earlier_s))
    return [Text(words), Table("Slot time of the run", _columns(), rows)]


def _rows(seconds: dict[str, float], cpu_s: dict[str, float]) -> list[_Row]:
    whole = sum(seconds.values()) or 1.0
    rows = [_Row(part, taken, taken / whole, cpu_s.get(part)) for part, taken in seconds.items()]
    return sorted(rows, key=lambda row: -row.seconds)


def _sum(rows: list[_Row]) -> float:
    return sum(row.seconds for row in rows)


def _columns() -> list[Column[_Row]]:
    return [
        Column(term("time_part", "part"), lambda row: given(row.part), numeric=False),
        Column("time", lambda row: duration(row.seconds)),
        Column("share", lambda row: percent(row.share, 1)),
        Column(term("cpu_use", "CPU use"), lambda row: _use(row.cpu_s, row.seconds)),
    ]


def _use(cpu_s: float | None, seconds: float) -> str:
    return NOTHING if cpu_s is None or not seconds else percent(cpu_s / seconds)


def _member_columns() -> list[Column[MemberTime]]:
    def largest(member: MemberTime) -> str:
        part, taken = max(member.seconds.items(), key=lambda of: of[1])
        return f"{part} {percent(taken / sum(member.seconds.values()))}"

    return [
        Column(term("training_phase", "phase"), lambda m: given(m.phase), numeric=False),
        Column("fold", lambda m: str(m.fold) if m.fold else NOTHING),
        Column("seed", lambda m: NOTHING if m.seed is None else str(m.seed)),
        Column("time", lambda m: duration(sum(m.seconds.values()))),
        Column(term("cpu_use", "CPU use"), lambda m: _use(sum(m.cpu_s.values()), sum(m.seconds.values()))),
        Column("largest part", lambda m: given(largest(m)), numeric=False),
        Column(term("products_bound", "share of the products' bound"), lambda m: percent(bound_share([m]))),
    ]


def _tried_columns() -> list[Column[TriedSetting]]:
    return [
        Column("setting", lambda t: given(t.setting), numeric=False),
        Column("now", lambda t: given(t.now)),
        Column("tried", lambda t: given(t.tried)),
        Column("times as fast", lambda t: ratio_words(t.speedup)),
        Column("rounds", lambda t: f"{ratio_words(t.low)} to {ratio_words(t.high)}"),
        Column("policy", lambda t: "another" if t.changes_learning else "the same", numeric=False),
    ]


def parts_figure(rows: list[_Row]) -> Figure:
    """Wall time by part, the largest first."""
    unit, name = time_unit(max((row.seconds for row in rows), default=0.0))
    texts = [f"{duration(row.seconds)}, {percent(row.share)}" for row in rows]
    values = [row.seconds / unit for row in rows]
    return bars_across([row.part for row in rows], values, texts, ["blue"] * len(rows), f"Wall time, {name}")
