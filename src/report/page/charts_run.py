"""Charts of the run itself: learning curves, hardware over time, time by phase, fusion rules, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from src.report.page.blocks import Figure
from src.report.page.drawing import (
    Arrays,
    Style,
    bars_across,
    label_text,
    legend_entry,
    line,
    role,
    stacked,
    style_of,
    zero_line,
)
from src.wording import duration, percent, plain

METRICS: Mapping[str, str] = {
    "mean_episode_reward": "Mean episode reward",
    "explained_variance": "Explained variance of the critic",
    "approx_kl": "KL divergence per update",
    "clip_fraction": "Clip fraction",
    "entropy": "Policy entropy, nats",
    "value_loss": "Value loss",
    "steps_per_s": "Timesteps per second",
}
MACHINE: Sequence[tuple[str, str, float]] = (
    ("machine_cpu_percent", "CPU, all cores, %", 100.0),
    ("tree_cores", "Cores used by this run", 0.0),
    ("gpu_percent", "GPU, %", 100.0),
    ("tree_rss_gb", "Memory of this run, GB", 0.0),
    ("gpu_memory_used_gb", "GPU memory, GB", 0.0),
)
PHASE_LABEL_LEAST = 0.075
"""Smallest fraction of the time axis at which a phase has room for its name."""


def metrics_of(curves: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics that at least one curve has."""
    return [name for name in METRICS if any(value is not None for c in curves for value in c.get(name, []))]


def learning_figure(curves: Sequence[Mapping[str, Any]], metric: str, arrays: Arrays) -> Figure:
    """A thin line per seed and a thick one for their mean; fine-tuning phases start where base training ends."""
    phases = list(dict.fromkeys(curve["phase"] for curve in curves))
    n_seeds = len({curve["seed"] for curve in curves})
    base_end = max((max(c["timesteps"], default=0) for c in curves if c["phase"] == "base"), default=0)
    traces = []
    for curve in curves:
        if metric not in curve:
            continue
        style = style_of(curve["phase"], phases)
        shift = 0 if curve["phase"] == "base" else base_end
        points = {"x": arrays.ref([step + shift for step in curve["timesteps"]]), "y": arrays.ref(curve[metric], 4)}
        name = f"{label_text(curve['phase'], 24)}, seed {curve['seed']}"
        look = line(style, 1.6) if n_seeds == 1 else {"color": role(style.role, 0.4), "width": 1}
        lines = {"mode": "lines", "line": look, "legendgroup": curve["phase"], "connectgaps": False}
        traces.append({**points, "name": name, **lines, "hovertemplate": "%{y:.4~g}"})
    if n_seeds > 1:
        for phase in phases:
            mean = _mean_curve([c for c in curves if c["phase"] == phase and metric in c], metric)
            if mean is not None:
                steps, values = mean
                shift, style = (0 if phase == "base" else base_end), style_of(phase, phases)
                points = {"x": arrays.ref([step + shift for step in steps]), "y": arrays.ref(values, 4)}
                lines = {"mode": "lines", "line": line(style, 2.2), "legendgroup": phase, "connectgaps": False}
                traces.append(
                    {**points, **lines, "name": f"{label_text(phase, 24)}, mean", "hovertemplate": "%{y:.4~g}"}
                )
    layout: dict[str, Any] = {"xaxis": {"title": {"text": "timesteps, base training first"}}}
    if base_end and len(phases) > 1:
        layout["shapes"] = [zero_line("x", base_end, "ink", "dot")]
    legend = [legend_entry(phase, style_of(phase, phases)) for phase in phases]
    return Figure(traces, layout, [("y", METRICS[metric])], legend)


def _mean_curve(curves: Sequence[Mapping[str, Any]], metric: str) -> tuple[list[int], list[float | None]] | None:
    """Timesteps and the mean over seeds; None unless all seeds were logged at the same timesteps."""
    if len(curves) < 2 or any(curve["timesteps"] != curves[0]["timesteps"] for curve in curves):
        return None
    columns = zip(*(curve[metric] for curve in curves), strict=True)
    return curves[0]["timesteps"], [None if None in values else sum(values) / len(values) for values in columns]


def time_unit(seconds: float) -> tuple[float, str]:
    """Seconds per display unit, and the unit's name."""
    if seconds < 180.0:
        return 1.0, "s"
    return (60.0, "min") if seconds < 10_800.0 else (3600.0, "h")


def machine_panels(timeline: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """The readings present in this timeline."""
    return [panel for panel in MACHINE if any(value is not None for value in timeline.get(panel[0], []))]


def machine_figure(timeline: Mapping[str, Any], arrays: Arrays) -> Figure:
    """One panel per reading over the run, with alternately shaded phases."""
    panels = machine_panels(timeline)
    elapsed = timeline["elapsed_s"]
    end = max([*elapsed, *(phase["end_s"] for phase in timeline["phases"]), 1e-9])
    unit, unit_name = time_unit(end)
    x = arrays.ref([value / unit for value in elapsed], 4)
    layout, pairs = stacked([1.0] * len(panels), [label for _, label, _ in panels], gap=0.09)
    traces = []
    for (name, label, top), (axis, _) in zip(panels, pairs, strict=True):
        look = {"color": role("blue"), "width": 1.4}
        values = {"x": x, "y": arrays.ref(timeline[name], 3), "yaxis": axis}
        form = {"name": label, "hovertemplate": "%{y:.3~g}", "connectgaps": False}
        traces.append({**values, "mode": "lines", "line": look, **form})
        readings = [value for value in timeline[name] if value is not None]
        layout[f"yaxis{axis[1:]}"]["range"] = [0, top * 1.02 or 1.15 * max([*readings, 1e-9])]
        layout[f"yaxis{axis[1:]}"]["nticks"] = 4
    shapes, notes = [], []
    for k, phase in enumerate(timeline["phases"]):
        begin, finish = phase["begin_s"] / unit, phase["end_s"] / unit
        box = {"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "x0": begin, "x1": finish, "layer": "below"}
        shapes.append({**box, "line": {"width": 0}, "fillcolor": role("grey", 0.17 if k % 2 else 0.03)})
        if (finish - begin) * unit >= PHASE_LABEL_LEAST * end:
            place = {"x": (begin + finish) / 2, "xanchor": "center", "yref": "y domain", "y": 0, "yanchor": "bottom"}
            notes.append({**place, "text": label_text(phase["phase"], 14), "showarrow": False, "size": "small"})
    layout["xaxis"] |= {"title": {"text": f"time since start, {unit_name}"}, "range": [0, end / unit]}
    return Figure(traces, layout | {"shapes": shapes, "annotations": notes}, pairs)


def time_figure(phase_times: Mapping[str, float]) -> Figure:
    """Wall time by phase, in run order."""
    total = sum(phase_times.values()) or 1.0
    names, values = list(phase_times), list(phase_times.values())
    texts = [f"{duration(value)}, {percent(value / total)}" for value in values]
    unit, name = time_unit(max([*values, 0.0]))
    return bars_across(names, [v / unit for v in values], texts, ["blue"] * len(names), f"Wall time, {name}")


def rules_figure(rules: Mapping[str, int]) -> Figure:
    """Decisions by the fusion rule that made them."""
    total = sum(rules.values()) or 1
    texts = [f"{plain(count)}, {percent(count / total)}" for count in rules.values()]
    return bars_across(list(rules), list(rules.values()), texts, ["green"] * len(rules), "Decisions")


def reliability_figure(horizons: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Forecast probability against observed frequency, by bins; a calibrated forecast lies on the diagonal."""
    looks = (
        Style("blue", "solid", "circle"),
        Style("vermillion", "dash", "square"),
        Style("green", "dot", "diamond"),
        Style("purple", "dashdot", "cross"),
    )
    traces: list[dict[str, Any]] = []
    legend = []
    most = max(b["n"] for of in horizons.values() for b in of["reliability"])
    for k, (horizon, of) in enumerate(horizons.items()):
        style, bins = looks[k % len(looks)], of["reliability"]
        sizes = [5 + 13 * (b["n"] / most) ** 0.5 for b in bins]
        marker = {"size": sizes, "symbol": style.symbol, "color": role(style.role, 0.75), "line": {"width": 0}}
        points = {"x": [b["said_up_frac"] for b in bins], "y": [b["up_frac"] for b in bins], "mode": "lines+markers"}
        text = [plain(b["n"]) for b in bins]
        form = "forecast %{x:.0%}, observed %{y:.1%}, %{text} bars<extra></extra>"
        look = {"marker": marker, "line": line(style, 1.2), "legendgroup": horizon}
        traces.append({**points, **look, "text": text, "hovertemplate": form})
        label = f"{horizon} bar{'s' if horizon != '1' else ''} ahead"
        legend.append(legend_entry(label, style, group=horizon, kind="points"))
    diagonal = {"type": "line", "x0": 0, "y0": 0, "x1": 1, "y1": 1, "layer": "below"}
    layout = {
        "xaxis": {
            "range": [0, 1],
            "tickformat": ".0%",
            "title": {"text": "forecast: probability of up"},
            "showgrid": True,
        },
        "yaxis": {"range": [0, 1], "tickformat": ".0%"},
        "shapes": [diagonal | {"line": {"color": role("ink", 0.6), "width": 1, "dash": "dash"}}],
        "hovermode": "closest",
    }
    return Figure(traces, layout, [("y", "Observed fraction of up moves")], legend)
