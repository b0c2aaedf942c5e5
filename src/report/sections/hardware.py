"""Section: hardware over time, and time by phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from src.report.model.report import Report
from src.report.model.run import Hardware, HardwareFigures, HardwareTimeline
from src.report.page.blocks import Chart, Column, Figure, Folded, Named, Section, Table, Text, given, named, term
from src.report.page.drawing import Arrays, bars_across, chart_text, role, stacked
from src.report.sections import memory
from src.wording import duration, percent, plain

MACHINE: Sequence[tuple[str, str, float]] = (
    ("machine_cpu_percent", "CPU, all cores, %", 100.0),
    ("tree_cores", "Cores used by this run", 0.0),
    ("gpu_percent", "GPU, %", 100.0),
    ("tree_rss_gb", "Memory of this run, GB", 0.0),
    ("gpu_memory_used_gb", "GPU memory, GB", 0.0),
)
PHASE_LABEL_LEAST = 0.075
"""Smallest fraction of the time axis at which a phase has room for its name."""


def section(report: Report, arrays: Arrays) -> Section:
    """The section."""
    hardware, timeline = report.hardware, report.hardware_timeline
    blocks: list[Any] = [Text(_machine_words(hardware)), *memory.blocks(report.memory)]
    if timeline is not None and (n := len(machine_panels(timeline))):
        caption = Markup("Hardware over the run, {} shaded alternately.").format(term("phase", "phases"))
        figures = [machine_figure(timeline, arrays)]
        blocks.append(Chart("machine-chart", caption, str(caption.striptags()), 90 + 125 * n, figures))
    else:
        blocks.append(Text(Markup("This run kept no hardware samples over time.")))
    times = report.phase_times
    if times:
        caption = Markup("{} by phase: {} in total.").format(
            term("execution_time", "Time"), duration(report.execution_time)
        )
        says = "; ".join(f"{name}: {duration(seconds)}" for name, seconds in times.items())
        blocks.append(Chart("time-chart", caption, says, 70 + 27 * len(times), [time_figure(times)]))
    if by_phase := [row for row in named(hardware.phases) if row.name]:
        blocks.append(Folded("Hardware by phase", [Table("Hardware by phase", _machine_columns(), by_phase)]))
    return Section("machine", "Hardware", blocks)


def _machine_words(hardware: Hardware) -> Markup:
    gpu = (
        Markup("GPU {}: {} utilization on average, {} at peak.").format(
            given(hardware.gpu_name),
            percent(_hundredth(hardware.average_gpu_percent)),
            percent(_hundredth(hardware.peak_gpu_percent)),
        )
        if hardware.gpu_available
        else Markup("No GPU readings ({}).").format(given(hardware.gpu_reason or "no reason recorded"))
    )
    words = Markup("{} cores; the run used {} on average. {}: {} GB. {}")
    return words.format(
        "an unknown number of" if hardware.cores is None else str(hardware.cores),
        plain(hardware.average_tree_cores, 1),
        term("peak_memory", "Peak memory"),
        plain(hardware.peak_ram_gb, 2),
        gpu,
    )


def _hundredth(value: float | None) -> float | None:
    return None if value is None else value / 100.0


def _machine_columns() -> list[Column[Named[HardwareFigures]]]:
    return [
        Column(term("phase", "phase"), lambda p: given(p.name), numeric=False),
        Column(term("samples", "samples"), lambda p: plain(p.of.samples)),
        Column(term("machine_cpu", "CPU, %"), lambda p: plain(p.of.average_machine_cpu_percent)),
        Column(term("tree_cores", "cores used"), lambda p: plain(p.of.average_tree_cores, 2)),
        Column(term("peak_memory", "memory, GB"), lambda p: plain(p.of.peak_ram_gb, 2)),
        Column(term("gpu_use", "GPU, %"), lambda p: plain(p.of.average_gpu_percent)),
        Column("GPU memory, GB", lambda p: plain(p.of.peak_gpu_memory_gb, 2)),
    ]


def time_unit(seconds: float) -> tuple[float, str]:
    """Seconds per display unit, and the unit's name."""
    if seconds < 180.0:
        return 1.0, "s"
    return (60.0, "min") if seconds < 10_800.0 else (3600.0, "h")


def machine_panels(timeline: HardwareTimeline) -> list[tuple[str, str, float]]:
    """The readings present in this timeline."""
    return [panel for panel in MACHINE if any(value is not None for value in timeline.column(panel[0]))]


def machine_figure(timeline: HardwareTimeline, arrays: Arrays) -> Figure:
    """One panel per reading over the run, with alternately shaded phases."""
    panels = machine_panels(timeline)
    elapsed = timeline.elapsed_s
    end = max([*elapsed, *(phase.end_s for phase in timeline.phases), 1e-9])
    unit, unit_name = time_unit(end)
    x = arrays.ref([value / unit for value in elapsed], 4)
    layout, pairs = stacked([1.0] * len(panels), [label for _, label, _ in panels], gap=0.09)
    traces = []
    for (name, label, top), (axis, _) in zip(panels, pairs, strict=True):
        look = {"color": role("blue"), "width": 1.4}
        values = {"x": x, "y": arrays.ref(timeline.column(name), 3), "yaxis": axis}
        form = {"name": label, "hovertemplate": "%{y:.3~g}", "connectgaps": False}
        traces.append({**values, "mode": "lines", "line": look, **form})
        readings = [value for value in timeline.column(name) if value is not None]
        layout[f"yaxis{axis[1:]}"]["range"] = [0, top * 1.02 or 1.15 * max([*readings, 1e-9])]
        layout[f"yaxis{axis[1:]}"]["nticks"] = 4
    shapes, notes = [], []
    for k, phase in enumerate(timeline.phases):
        begin, finish = phase.begin_s / unit, phase.end_s / unit
        box = {"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "x0": begin, "x1": finish, "layer": "below"}
        shapes.append({**box, "line": {"width": 0}, "fillcolor": role("grey", 0.17 if k % 2 else 0.03)})
        if (finish - begin) * unit >= PHASE_LABEL_LEAST * end:
            place = {"x": (begin + finish) / 2, "xanchor": "center", "yref": "y domain", "y": 0, "yanchor": "bottom"}
            notes.append({**place, "text": chart_text(phase.phase, 14), "showarrow": False, "size": "small"})
    layout["xaxis"] |= {"title": {"text": f"time since start, {unit_name}"}, "range": [0, end / unit]}
    return Figure(traces, layout | {"shapes": shapes, "annotations": notes}, pairs)


def time_figure(phase_times: Mapping[str, float]) -> Figure:
    """Wall time by phase, in run order."""
    total = sum(phase_times.values()) or 1.0
    names, values = list(phase_times), list(phase_times.values())
    texts = [f"{duration(value)}, {percent(value / total)}" for value in values]
    unit, name = time_unit(max([*values, 0.0]))
    return bars_across(names, [v / unit for v in values], texts, ["blue"] * len(names), f"Wall time, {name}")
