"""Section: cumulative net P&L over the sealed sessions and its drawdown."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from markupsafe import Markup

from src.agent.members import ArmName
from src.report.model.report import Report
from src.report.page.blocks import Chart, Figure, Hint, Section, Text, given, term
from src.report.page.drawing import (
    MAIN_ARMS,
    Arrays,
    chart_text,
    legend_entry,
    line,
    role,
    stacked,
    style_of,
    zero_line,
)
from src.wording import AXIS_USD, HOVER_USD, plain, signed_usd, usd


def section(report: Report, arrays: Arrays) -> Section:
    """The section."""
    title = "Equity and drawdown"
    arms = {name: arm for name, arm in report.arms.items() if arm.net_usd_by_session}
    if not arms:
        return Section("equity", title, (), "This run evaluated no arm on sealed sessions.")
    n_seeds = max(len(report.nets_by_seed(name)) for name in arms)
    n = next(iter(arms.values())).sessions
    seeds = (
        Markup("Lines are means over {} seeds; {} span the lowest to the highest seed. ").format(
            n_seeds, term("seed_band", "bands")
        )
        if n_seeds > 1
        else Markup("One seed: the lines do not show how much another seed would differ. ")
    )
    explained = Markup(
        "{} played by every {}, after costs. Each session starts with a new account, so a line is a {}, not "
        "one account's equity. {}"
    ).format(
        "One sealed session" if n == 1 else f"{plain(n)} sealed sessions",
        term("arm", "arm"),
        term("summed_net", "sum of separate sessions"),
        seeds,
    )
    ends = {name: report.mean_by_session(name) for name in MAIN_ARMS if name in arms}
    said = "; ".join(
        f"{name} ends at {signed_usd(sum(net))} (max drawdown {usd(-min(drawdowns(net)))})"
        for name, net in ends.items()
    )
    caption = Markup("Cumulative {} over the sealed sessions, and its {}.").format(
        term("net_pnl", "net P&L"), term("summed_drawdown", "drawdown")
    )
    chart = Chart("equity-chart", caption, f"{caption.striptags()} {said}.", 520, [equity_figure(report, arrays)])
    hint = Hint(Markup("Click the legend to show or hide arms. Drag across a chart to zoom in, double-click to reset."))
    return Section("equity", title, [Text(explained), *([Text(given(f"{said}."))] if said else []), chart, hint])


def drawdowns(net: Sequence[float]) -> list[float]:
    """Drawdown of cumulative net P&L by session, zero or negative."""
    equity = list(accumulate(net))
    peaks = list(accumulate(equity, max, initial=0.0))[1:]
    return [value - peak for value, peak in zip(equity, peaks, strict=True)]


def equity_figure(report: Report, arrays: Arrays) -> Figure:
    """Cumulative net P&L by arm with the range over seeds, and its drawdown below."""
    names = [name for name, arm in report.arms.items() if any(arm.net_usd_by_session) or name in MAIN_ARMS]
    n = report.arms[names[0]].sessions if names else 0
    x = arrays.ref(report.session_dates or list(range(1, n + 1)))
    main = [name for name in MAIN_ARMS if name in names] or names
    traces: list[dict[str, Any]] = []
    legend = []
    for name in [*main, *(other for other in names if other not in main)]:
        style, rows = style_of(name, names), report.nets_by_seed(name)
        common = {"x": x, "legendgroup": name, "type": "scatter", "mode": "lines"}
        if len(rows) > 1:
            paths = [list(accumulate(row)) for row in rows]
            edges = ([min(column) for column in zip(*paths, strict=True)], [max(c) for c in zip(*paths, strict=True)])
            for edge, fill in zip(edges, ("none", "tonexty"), strict=True):
                band = {"y": arrays.ref(edge, 0), "fill": fill, "fillcolor": role(style.role, 0.14)}
                traces.append({**common, **band, "line": {"width": 0}, "hoverinfo": "skip"})
        net = report.mean_by_session(name)
        curve = {**common, "name": chart_text(name), "line": line(style, 2.2 if name == ArmName.HYBRID else 1.7)}
        form = f"%{{y:{HOVER_USD}}}"
        traces.append({**curve, "y": arrays.ref(list(accumulate(net)), 0), "hovertemplate": form})
        traces.append({**curve, "y": arrays.ref(drawdowns(net), 0), "yaxis": "y2", "hoverinfo": "skip"})
        legend.append(legend_entry(name, style, off=name not in main))
    layout, panels = stacked((0.66, 0.34), ("Cumulative net P&L", "Drawdown"))
    for axis in ("yaxis", "yaxis2"):
        layout[axis]["tickformat"] = AXIS_USD
    layout["xaxis"] |= {"type": "date"} if report.session_dates is not None else {"title": {"text": "sealed session"}}
    return Figure(traces, layout | {"shapes": [zero_line()]}, panels, legend)
