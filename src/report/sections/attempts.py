"""Section: simulated attempts at a prop firm's evaluation."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from src.agent.members import ArmName
from src.report.model.accounts import PassArm, PassSimulation
from src.report.model.report import Report
from src.report.page.blocks import Chart, Choice, Column, Figure, Named, Section, Table, Text, given, named, term
from src.report.page.drawing import Arrays, legend_entry, line, role, style_of, zero_line
from src.wording import AXIS_USD, HOVER_USD, NOTHING, percent, plain, usd


def section(report: Report, arrays: Arrays) -> Section:
    """The section."""
    title = "Would it pass a prop-firm evaluation?"
    simulation = report.pass_simulation
    if simulation is None or not simulation.arms:
        none = Markup("This run simulated no evaluation attempts")
        reason = simulation.reason.rstrip(".") if simulation else ""
        return Section("pass", title, (), none + (Markup(": {}.").format(given(reason)) if reason else "."))
    words = (
        "{} under rule profile {} (as of {}), on {} sealed sessions: start {}, target {}, at most {} trading days{}."
    )
    rules = Markup(words).format(
        term("attempt", "Attempts"),
        given(simulation.profile),
        given(simulation.as_of),
        plain(simulation.sessions),
        usd(simulation.start_balance_usd),
        usd(simulation.profit_target_usd),
        plain(simulation.horizon_days),
        " (a cap set by this tool: the profile has no time limit)" if simulation.is_capped else "",
    )
    blocks: list[Any] = [Text(rules)]
    if simulation.words:
        blocks.append(Text(given(simulation.words)))
    blocks.append(Table("Simulated attempts", _pass_columns(), named(simulation.arms)))
    fans = [name for name, arm in simulation.arms.items() if arm.fan is not None]
    fans.sort(key=lambda name: name != ArmName.HYBRID)
    if fans:
        caption = Markup("{} of equity at each trading day's close; finished attempts keep their last value.").format(
            term("percentile_fan", "Percentiles")
        )
        figures = [fan_figure(simulation, name) for name in fans]
        says = "; ".join(f"{name} passes {percent(simulation.arms[name].passed_frac)}" for name in fans)
        blocks.append(Chart("fan-chart", caption, says, 400, figures, [Choice("Arm", fans)]))
    return Section("pass", title, blocks)


def _pass_columns() -> list[Column[Named[PassArm]]]:
    def between(arm: PassArm) -> str:
        low, high = arm.passed_low_frac, arm.passed_high_frac
        return NOTHING if low is None or high is None else f"{percent(low)} to {percent(high)}"

    return [
        Column(term("arm", "arm"), lambda a: given(a.name), numeric=False),
        Column(term("p_pass", "P(pass)"), lambda a: percent(a.of.passed_frac)),
        Column(term("pass_interval", "95% CI"), lambda a: between(a.of)),
        Column(term("p_breach", "P(breach)"), lambda a: percent(a.of.breached_frac)),
        Column(term("p_expired", "P(expired)"), lambda a: percent(a.of.expired_frac)),
        Column(term("days_to_pass", "median days"), lambda a: plain(a.of.median_days_to_pass)),
        Column(term("attempt", "attempts"), lambda a: plain(a.of.attempts)),
        Column(term("monte_carlo_error", "Monte Carlo error"), lambda a: percent(a.of.monte_carlo_error_frac, 1)),
        Column("note", lambda a: given(a.of.session_reason) if a.of.session_reason else NOTHING, numeric=False),
    ]


def fan_figure(simulation: PassSimulation, arm: str) -> Figure:
    """Percentiles of equity over the days of an attempt, with the target and the initial threshold."""
    fan = simulation.arms[arm].fan
    rows = sorted(zip(fan.percentiles, fan.equity_usd, strict=True)) if fan is not None else []
    style = style_of(arm, list(simulation.arms))
    common = {"x": list(range(len(rows[0][1]) if rows else 0)), "mode": "lines"}
    traces: list[dict[str, Any]] = []
    for k in range(len(rows) // 2):
        (low, bottom), (high, top) = rows[k], rows[-1 - k]
        edge = {"line": {"width": 0}, "fillcolor": role(style.role, 0.16)}
        form = f"%{{y:{HOVER_USD}}}"
        traces.append({**common, **edge, "y": bottom, "name": f"percentile {low:g}", "hovertemplate": form})
        traces.append({**common, **edge, "y": top, "fill": "tonexty", "name": f"percentile {high:g}"})
        traces[-1]["hovertemplate"] = form
    if len(rows) % 2:
        middle, values = rows[len(rows) // 2]
        traces.append({**common, "y": values, "name": f"percentile {middle:g}", "line": line(style, 2.4)})
        traces[-1]["hovertemplate"] = f"%{{y:{HOVER_USD}}}"
    start, threshold = simulation.start_balance_usd, simulation.threshold_usd
    shapes, notes = [zero_line(at=start)], [_line_label("start", start)]
    below = None if threshold is None else -threshold
    for word, offset in (("target", simulation.profit_target_usd), ("initial threshold", below)):
        if offset is not None:
            shapes.append(zero_line(at=start + offset, color="ink", dash="dash") | {"layer": "above"})
            notes.append(_line_label(word, start + offset))
    layout = {
        "xaxis": {"title": {"text": "trading day of the attempt"}},
        "yaxis": {"tickformat": AXIS_USD},
        "shapes": shapes,
        "annotations": notes,
    }
    legend = [legend_entry("median", style)]
    names = [f"{rows[k][0]:g} to {rows[-1 - k][0]:g}%" for k in range(len(rows) // 2)]
    legend += [legend_entry(f"percentiles {', '.join(names)}", style, kind="band")] if names else []
    return Figure(traces, layout, [("y", "Equity")], [{**entry, "fixed": True} for entry in legend])


def _line_label(text: str, at: float) -> dict[str, Any]:
    place = {"xref": "paper", "x": 1, "xanchor": "right", "y": at, "yanchor": "bottom"}
    return {"text": text, "showarrow": False, **place}
