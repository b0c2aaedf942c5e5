"""Section: the run's targets and its phases."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from src.report.model.report import Report
from src.report.model.run import Phase, Target
from src.report.page.blocks import Column, Named, Section, Table, Text, Words, given, glossary, named, term
from src.report.page.drawing import Arrays
from src.wording import NOTHING, duration, percent, plain, significant

STATUS = {"met": "met", "missed": "missed", "not_applicable": "not applicable"}
TARGET_UNITS = {  # %: kept as a fraction; percent: kept in percent
    "execution_time": "s",
    "peak_memory": "GB",
    "gpu_utilization": "percent",
    "cache_hit_rate": "%",
    "steps_per_s": "steps/s",
    **{f"phase{n}_duration": "s" for n in (1, 2, 3)},
    **{f"phase{n}_gpu_utilization": "percent" for n in (1, 2, 3)},
}


def section(report: Report, arrays: Arrays) -> Section:
    """The section."""
    blocks: list[Any] = []
    if report.targets:
        columns: list[Column[Named[Target]]] = [
            Column(term("target", "target"), _target_name, numeric=False),
            Column("limit", _limit_words),
            Column("measured", lambda t: _with_unit(t.name, t.of.measured)),
            Column("status", lambda t: _status_words(t.of), numeric=False),
        ]
        note = Markup("* {}: decides the exit code.").format(term("required", "required"))
        blocks.append(Table("Targets", columns, named(report.targets), note))
    if report.phases:
        phase_columns: list[Column[Named[Phase]]] = [
            Column(term("pipeline_phase", "phase"), lambda p: given(p.name), numeric=False),
            Column("status", lambda p: given(p.of.status.replace("_", " ")), numeric=False),
            Column("time", lambda p: duration(p.of.seconds)),
            Column(term("timesteps", "timesteps"), lambda p: plain(sum(p.of.timesteps.values()) or None)),
            Column(term("tries", "attempts"), lambda p: plain(p.of.tries)),
            Column("note", lambda p: _phase_note(p.of), numeric=False),
        ]
        blocks.append(Table("Phases", phase_columns, named(report.phases)))
    else:
        blocks.append(Text(Markup("This run did not have the pipeline's phases.")))
    return Section("targets", "Targets and phases", blocks)


def _phase_note(phase: Phase) -> Words:
    """What failed in the phase, and why its result may differ in the last bits."""
    notes = [*phase.failures, *phase.not_bitwise]
    return given("; ".join(notes)) if notes else NOTHING


def _limit_words(target: Named[Target]) -> str:
    if target.of.target is None:
        return NOTHING
    return f"at {'most' if target.of.at_most else 'least'} {_with_unit(target.name, target.of.target)}"


def _target_name(target: Named[Target]) -> Markup:
    name = term(target.name, target.name) if target.name in glossary() else given(target.name)
    return name + " *" if target.of.required else name


def _with_unit(name: str, value: float | None) -> str:
    unit = TARGET_UNITS.get(name, "")
    if value is None or not unit:
        return significant(value)
    if unit in ("%", "percent"):
        return percent(value if unit == "%" else value / 100.0, 1)
    return f"{significant(value)} {unit}"


def _status_words(target: Target) -> Markup:
    words = Markup('<span class="status {}">{}</span>').format(target.status, STATUS[target.status])
    said = target.reason or target.remedy
    return words + Markup(": {}").format(given(said)) if said else words
