"""Charts of the arms: equity, contrasts, costs, folds, a session's trades, evaluation attempts, reliance."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from src.report.page.blocks import Figure
from src.report.page.drawing import (
    MAIN_ARMS,
    Arrays,
    Style,
    label_text,
    legend_entry,
    line,
    role,
    stacked,
    style_of,
    zero_line,
)
from src.wording import AXIS_USD, HOVER_SIGNED_USD, HOVER_USD, signed_usd

Report = Mapping[str, Any]
SEED_STYLE = Style("ink", "solid", "circle-open")


def nets_by_seed(report: Report, arm: str) -> list[list[float]]:
    """Net P&L by seed and session; a single row for an arm without seeds."""
    rows = report.get("seeds", {}).get("net_usd_by_session", {}).get(arm)
    return rows or [report["arms"][arm]["net_usd_by_session"]]


def mean_by_session(report: Report, arm: str) -> list[float]:
    """Net P&L by session, averaged over seeds."""
    rows = nets_by_seed(report, arm)
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def drawdowns(net: Sequence[float]) -> list[float]:
    """Drawdown of cumulative net P&L by session, zero or negative."""
    equity = list(accumulate(net))
    peaks = list(accumulate(equity, max, initial=0.0))[1:]
    return [value - peak for value, peak in zip(equity, peaks, strict=True)]


def equity_figure(report: Report, arrays: Arrays) -> Figure:
    """Cumulative net P&L by arm with the range over seeds, and its drawdown below."""
    names = [name for name, arm in report["arms"].items() if any(arm["net_usd_by_session"]) or name in MAIN_ARMS]
    n = len(report["arms"][names[0]]["net_usd_by_session"]) if names else 0
    x = arrays.ref(report.get("session_dates") or list(range(1, n + 1)))
    main = [name for name in MAIN_ARMS if name in names] or names
    traces: list[dict[str, Any]] = []
    legend = []
    for name in [*main, *(other for other in names if other not in main)]:
        style, rows = style_of(name, names), nets_by_seed(report, name)
        common = {"x": x, "legendgroup": name, "type": "scatter", "mode": "lines"}
        if len(rows) > 1:
            paths = [list(accumulate(row)) for row in rows]
            edges = ([min(column) for column in zip(*paths, strict=True)], [max(c) for c in zip(*paths, strict=True)])
            for edge, fill in zip(edges, ("none", "tonexty"), strict=True):
                band = {"y": arrays.ref(edge, 0), "fill": fill, "fillcolor": role(style.role, 0.14)}
                traces.append({**common, **band, "line": {"width": 0}, "hoverinfo": "skip"})
        net = mean_by_session(report, name)
        curve = {**common, "name": label_text(name), "line": line(style, 2.2 if name == "hybrid" else 1.7)}
        form = f"%{{y:{HOVER_USD}}}"
        traces.append({**curve, "y": arrays.ref(list(accumulate(net)), 0), "hovertemplate": form})
        traces.append({**curve, "y": arrays.ref(drawdowns(net), 0), "yaxis": "y2", "hoverinfo": "skip"})
        legend.append(legend_entry(name, style, off=name not in main))
    layout, panels = stacked((0.66, 0.34), ("Cumulative net P&L", "Drawdown"))
    for axis in ("yaxis", "yaxis2"):
        layout[axis]["tickformat"] = AXIS_USD
    layout["xaxis"] |= {"type": "date"} if "session_dates" in report else {"title": {"text": "sealed session"}}
    return Figure(traces, layout | {"shapes": [zero_line()]}, panels, legend)


def contrast_figure(contrasts: Sequence[Mapping[str, Any]]) -> Figure:
    """One row per contrast: mean, interval if there is one, seeds as points, and the detectable effect."""
    traces: list[dict[str, Any]] = []
    shapes = [zero_line("x")]
    reach: list[float] = [0.0]
    for row, contrast in enumerate(contrasts):
        y = -row
        style = Style("blue" if contrast["role"] == "primary" else "ink", "solid", "diamond")
        detectable = contrast["minimum_detectable_usd"]
        if detectable is not None:
            reach += [-detectable, detectable]
            box = {"type": "rect", "x0": -detectable, "x1": detectable, "y0": y - 0.34, "y1": y + 0.34}
            shapes.append(box | {"fillcolor": role("grey", 0.18), "line": {"width": 0}, "layer": "below"})
        if contrast["low_usd"] is not None and contrast["high_usd"] is not None:
            reach += [contrast["low_usd"], contrast["high_usd"]]
            ends = {"x": reach[-2:], "y": [y, y], "mode": "lines+markers"}
            mark = {"symbol": "line-ns", "size": 12, "line": {"width": 2, "color": role(style.role)}}
            form = f"interval: %{{x:{HOVER_SIGNED_USD}}}/session<extra></extra>"
            traces.append({**ends, "line": {**line(style, 3)}, "marker": mark, "hovertemplate": form})
        seeds = {"x": list(contrast["seed_means_usd"]), "y": [y - 0.2] * len(contrast["seed_means_usd"])}
        mark = {"symbol": "circle-open", "size": 7, "color": role("ink"), "line": {"width": 1.4}}
        form = f"one seed: %{{x:{HOVER_SIGNED_USD}}}/session<extra></extra>"
        traces.append({**seeds, "mode": "markers", "marker": mark, "hovertemplate": form})
        reach += contrast["seed_means_usd"]
        if contrast["mean_usd"] is not None:
            reach.append(contrast["mean_usd"])
            mark = {"symbol": style.symbol, "size": 11, "color": role(style.role)}
            form = f"mean: %{{x:{HOVER_SIGNED_USD}}}/session<extra></extra>"
            traces.append(
                {"x": [contrast["mean_usd"]], "y": [y], "mode": "markers", "marker": mark, "hovertemplate": form}
            )
    # Plotly ignores shapes when it chooses a range.
    edge = 0.06 * (max(reach) - min(reach)) or 1.0
    span = [min(reach) - edge, max(reach) + edge]
    layout = {
        "shapes": shapes,
        "hovermode": "closest",
        "xaxis": {
            "title": {"text": "difference per session"},
            "showgrid": True,
            "range": span,
            "tickformat": AXIS_USD,
        },
        "yaxis": {
            "tickvals": [-row for row in range(len(contrasts))],
            "ticktext": [f"{label_text(c['arm'], 20)} −<br>{label_text(c['against'], 20)}" for c in contrasts],
            "range": [0.6 - len(contrasts), 0.6],
            "showgrid": False,
            "ticks": "",
        },
    }
    legend = [
        legend_entry("mean over seeds", Style("blue", "solid", "diamond"), kind="marker"),
        legend_entry("interval", Style("blue", "solid", "line-ns")),
        legend_entry("one seed", SEED_STYLE, kind="marker"),
        legend_entry("too small to detect in these sessions", Style("grey", "solid", "square"), kind="band"),
    ]
    return Figure(traces, layout, (), [{**entry, "fixed": True} for entry in legend])


def paired_figure(report: Report, arm: str, against: str, arrays: Arrays) -> Figure:
    """Distribution of the paired differences over sessions."""
    pairs = zip(mean_by_session(report, arm), mean_by_session(report, against), strict=True)
    differences = [one - other for one, other in pairs]
    mean = sum(differences) / len(differences)
    trace = {
        "type": "histogram",
        "x": arrays.ref(differences, 0),
        "nbinsx": max(9, min(61, round(2 * len(differences) ** 0.5))),
        "marker": {"color": role("blue", 0.55), "line": {"color": role("blue"), "width": 0.5}},
        "hovertemplate": "%{x}: %{y} sessions<extra></extra>",
    }
    layout = {
        "xaxis": {"title": {"text": f"{label_text(arm)} − {label_text(against)} per session"}, "tickformat": AXIS_USD},
        "shapes": [zero_line("x"), zero_line("x", mean, "blue", "dot")],
        "hovermode": "closest",
        "bargap": 0.04,
    }
    return Figure([trace], layout, [("y", "Sessions")])


def cost_figure(stress: Mapping[str, Any]) -> Figure:
    """Net P&L per session by slippage."""
    traces, legend = [], []
    names = list(stress["net_usd_per_session"])
    for name, values in stress["net_usd_per_session"].items():
        style = style_of(name, names)
        marker = {"symbol": style.symbol, "size": 8, "color": role(style.role)}
        curve = {"x": stress["slippage_ticks"], "y": values, "mode": "lines+markers", "marker": marker}
        form = f"%{{y:{HOVER_SIGNED_USD}}}/session"
        traces.append(
            {**curve, "name": label_text(name), "legendgroup": name, "line": line(style), "hovertemplate": form}
        )
        legend.append(legend_entry(name, style, off=name == "random_legal" and len(names) > 1, kind="points"))
    ticks = {"title": {"text": "slippage per market or stop fill, ticks"}, "tickvals": stress["slippage_ticks"]}
    layout = {"xaxis": ticks, "yaxis": {"tickformat": AXIS_USD}, "shapes": [zero_line()]}
    return Figure(traces, layout, [("y", "Net P&L per session")], legend)


def folds_figure(folds: Sequence[Mapping[str, Any]]) -> Figure:
    """The primary contrast by fold, with intervals if there are any."""
    given = [fold for fold in folds if fold.get("difference_usd") is not None]
    style = Style("blue", "solid", "diamond")
    traces: list[dict[str, Any]] = []
    for fold in given:
        if fold.get("low_usd") is not None and fold.get("high_usd") is not None:
            ends = {"x": [fold["fold"]] * 2, "y": [fold["low_usd"], fold["high_usd"]], "mode": "lines+markers"}
            caps = {"symbol": "line-ew", "size": 12, "line": {"width": 2, "color": role("blue")}}
            traces.append({**ends, "line": line(style, 3), "marker": caps, "hoverinfo": "skip"})
    points = {"x": [fold["fold"] for fold in given], "y": [fold["difference_usd"] for fold in given]}
    marker = {"symbol": "diamond", "size": 10, "color": role("blue")}
    form = f"fold %{{x}}: %{{y:{HOVER_SIGNED_USD}}}/session<extra></extra>"
    traces.append({**points, "mode": "markers", "marker": marker, "hovertemplate": form})
    layout = {
        "xaxis": {"title": {"text": "fold"}, "tickvals": points["x"], "range": [0.5, max([*points["x"], 1]) + 0.5]},
        "yaxis": {"tickformat": AXIS_USD},
        "shapes": [zero_line()],
        "hovermode": "closest",
    }
    return Figure(traces, layout, [("y", "Difference per session")])


def session_figure(session: Mapping[str, Any], arm: str, actions: Sequence[str], arrays: Arrays) -> Figure:
    """A session's bars with one arm's entries, exits and stops, and the advice by bar."""
    tick = session["tick_size"]
    midnight = dt.datetime.fromisoformat(session["date"])
    times = [(midnight + dt.timedelta(minutes=m)).isoformat(sep=" ", timespec="minutes") for m in session["minute"]]
    x = arrays.ref(times)
    prices = {
        name: arrays.ref([value * tick for value in session[f"{name}_ticks"]], 4)
        for name in ("open", "high", "low", "close")
    }
    bars = {"type": "ohlc", "x": x, **prices, "name": "bar", "tickwidth": 0.32}
    for way in ("increasing", "decreasing"):
        bars[way] = {"line": {"color": role("bar"), "width": 1}}
    played = session["arms"][arm]
    traces = [bars, *_stop_traces(played["trades"], times, tick), *_trade_traces(played["trades"], times, tick)]
    layout, panels = stacked((1.0,), ("Price, points",))
    advice = played.get("advice")
    if advice is not None:
        layout, panels = stacked((0.74, 0.26), ("Price, points", "Advice by bar (darker: more confident)"))
        traces.append(_advice_trace(advice, times, actions, arrays))
        layout["yaxis2"] |= {"type": "category", "categoryarray": list(reversed(actions)), "showgrid": True}
    layout["xaxis"] |= {"type": "date", "rangeslider": {"visible": False}, "tickformat": "%H:%M"}
    legend = [
        legend_entry("long entry", Style("blue", "solid", "triangle-up"), kind="marker"),
        legend_entry("short entry", Style("vermillion", "solid", "triangle-down"), kind="marker"),
        legend_entry("exit, gain or loss", Style("ink", "solid", "x"), kind="marker"),
        legend_entry("stop", Style("vermillion", "dot", "line-ew")),
    ]
    return Figure(traces, layout | {"hovermode": "closest"}, panels, [{**entry, "fixed": True} for entry in legend])


def _trade_traces(trades: Sequence[Mapping[str, Any]], times: Sequence[str], tick: float) -> list[dict[str, Any]]:
    traces: list[dict[str, Any]] = []
    for trade in trades:
        ends = {
            "x": [times[trade["entry_bar"]], times[trade["exit_bar"]]],
            "y": [trade["entry_ticks"] * tick, trade["exit_ticks"] * tick],
        }
        is_long = trade["side"] == "long"
        color = "blue" if is_long else "vermillion"
        symbols = ["triangle-up" if is_long else "triangle-down", "x"]
        look = {"symbol": symbols, "size": [13, 9], "color": [role(color), role("ink")]}
        outline = {"line": {"width": 1, "color": role("paper")}}
        texts = [f"{trade['side']} entry", f"exit: {label_text(trade['exit_reason'])}, {signed_usd(trade['net_usd'])}"]
        traces.append(
            {
                **ends,
                "mode": "lines+markers",
                "line": {"color": role(color), "width": 1.4, "dash": "solid" if trade["net_usd"] > 0 else "dot"},
                "marker": {**look, **outline},
                "text": texts,
                "hovertemplate": "%{text}<br>%{x|%H:%M}, %{y:,.2f}<extra></extra>",
            }
        )
    return traces


def _stop_traces(trades: Sequence[Mapping[str, Any]], times: Sequence[str], tick: float) -> list[dict[str, Any]]:
    x: list[str | None] = []
    y: list[float | None] = []
    for trade in trades:
        stops = [*trade["stops"], [trade["exit_bar"], None]]
        for (bar, ticks), (until, _) in pairwise(stops):
            x += [times[int(bar)], times[int(until)]]
            y += [ticks * tick, ticks * tick]
        x.append(None)
        y.append(None)
    look = {"color": role("vermillion", 0.9), "width": 1.3, "dash": "dot"}
    form = "stop %{y:,.2f}<extra></extra>"
    return [{"x": x, "y": y, "mode": "lines", "line": look, "hovertemplate": form, "connectgaps": False}]


def _advice_trace(
    advice: Mapping[str, Any], times: Sequence[str], actions: Sequence[str], arrays: Arrays
) -> dict[str, Any]:
    said = [(times[i], actions[code], advice["confidence"][i]) for i, code in enumerate(advice["action"]) if code >= 0]
    opacity = [round(0.15 + 0.85 * confidence, 2) for _, _, confidence in said]
    return {
        "x": arrays.ref([time for time, _, _ in said]),
        "y": arrays.ref([action for _, action, _ in said]),
        "customdata": arrays.ref([confidence for _, _, confidence in said], 2),
        "yaxis": "y2",
        "mode": "markers",
        "marker": {"symbol": "square", "size": 6, "color": role("green"), "opacity": arrays.ref(opacity)},
        "hovertemplate": "%{x|%H:%M} %{y}, confidence %{customdata:.2f}<extra></extra>",
    }


def fan_figure(simulation: Mapping[str, Any], arm: str) -> Figure:
    """Percentiles of equity over the days of an attempt, with the target and the initial threshold."""
    fan = simulation["arms"][arm]["fan"]
    rows = sorted(zip(fan["percentiles"], fan["equity_usd"], strict=True))
    style = style_of(arm, list(simulation["arms"]))
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
    start = simulation["start_balance_usd"]
    shapes, notes = [zero_line(at=start)], [_line_label("start", start)]
    for word, offset in (("target", simulation["profit_target_usd"]), ("initial threshold", None)):
        if word != "target" and simulation["threshold_usd"] is not None:
            offset = -simulation["threshold_usd"]
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


def reliance_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Net P&L per session of one trained policy by the advice it gets, seeds as points."""
    names = [row["advice"] for row in rows]
    seeds = [(value, row["advice"]) for row in rows for value in row.get("seed_values_usd", [])]
    mark = {"symbol": "circle-open", "size": 7, "color": role("ink"), "line": {"width": 1.4}}
    form = f"%{{y}}: %{{x:{HOVER_SIGNED_USD}}}/session<extra></extra>"
    dots = {"x": [value for value, _ in seeds], "y": [name for _, name in seeds], "mode": "markers", "marker": mark}
    means = {"x": [row["net_usd_per_session"] for row in rows], "y": names, "mode": "markers"}
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
