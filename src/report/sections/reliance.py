"""Section: what the trained policy does when its advice is removed or corrupted."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from src.report.model.accounts import RelianceRow
from src.report.model.report import Report
from src.report.page.blocks import Chart, Column, Figure, Section, Table, Text, given, term
from src.report.page.drawing import Arrays, role, zero_line
from src.wording import AXIS_USD, HOVER_SIGNED_USD, percent, signed_usd


def section(report: Report, arrays: Arrays) -> Section:
    """The section."""
    title = "Does the trained policy rely on the advice?"
    reliance = report.reliance
    if reliance is None or not reliance.rows:
        return Section("reliance", title, (), "This run has no reliance diagnostic.")
    rows, arm = reliance.rows, given(reliance.arm)
    said = Markup("A {} of {}. ").format(term("reliance", "reliance test"), arm) + given(reliance.words or "")
    caption = Markup("Net P&L per session of {} by the advice it gets in evaluation.").format(arm)
    says = "; ".join(f"{row.advice}: {signed_usd(row.net_usd_per_session)}/session" for row in rows)
    columns: list[Column[RelianceRow]] = [
        Column(term("advice_fed", "advice"), lambda r: r.advice, numeric=False),
        Column(term("net_per_session", "net/session"), lambda r: signed_usd(r.net_usd_per_session)),
        Column(term("changed_decisions", "decisions changed"), lambda r: percent(r.changed_frac)),
    ]
    chart = Chart("reliance-chart", caption, says, 120 + 34 * len(rows), [reliance_figure(rows)])
    return Section("reliance", title, [Text(said), chart, Table("Net P&L by advice", columns, rows)])


def reliance_figure(rows: Sequence[RelianceRow]) -> Figure:
    """Net P&L per session of one trained policy by the advice it gets, seeds as points."""
    names = [row.advice for row in rows]
    seeds = [(value, row.advice) for row in rows for value in row.seed_values_usd]
    mark = {"symbol": "circle-open", "size": 7, "color": role("ink"), "line": {"width": 1.4}}
    form = f"%{{y}}: %{{x:{HOVER_SIGNED_USD}}}/session<extra></extra>"
    dots = {"x": [value for value, _ in seeds], "y": [name for _, name in seeds], "mode": "markers", "marker": mark}
    means = {"x": [row.net_usd_per_session for row in rows], "y": names, "mode": "markers"}
    colors = [role("blue" if name == "own" else "grey") for name in names]
    traces = [
        {**dots, "hovertemplate": form},
        {**means, "marker": {"symbol": "diamond", "size": 11, "color": colors}, "hovertemplate": form},
    ]
    layout = {
        "yaxis": {"type": "category", "categoryarray": names[::-1], "showgrid": True, "ticks": ""},
        "xaxis": {"title": {"text": "net P&L per session"}, "showgrid": True, "tickformat": AXIS_USD},
        "shapes": [zero_line("x")],
        "hovermode": "closest",
    }
    return Figure(traces, layout)
