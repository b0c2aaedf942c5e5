"""Section: a session's prices with the trades of one arm."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

from markupsafe import Markup

from src.report.model.accounts import AdviceByBar, ChartedSession, SessionArm, Trade
from src.report.model.report import Report
from src.report.page.blocks import Chart, Choice, Column, Figure, Section, Table, given, term
from src.report.page.drawing import Arrays, Style, chart_text, legend_entry, role, stacked
from src.trading.layout import ACTIONS
from src.wording import NOTHING, plain, signed_usd

NO_TRADES = SessionArm(net_usd=0.0, trades=[])


def section(report: Report, arrays: Arrays) -> Section:
    """The section."""
    title = "Trades on the price chart"
    charted = [session for session in report.sessions if session.arms]
    if not charted:
        return Section("trades", title, (), "This run kept no session's bars and trades.")
    arms = list(dict.fromkeys(name for session in charted for name in session.arms))
    played = [(session, arm, session.arms.get(arm, NO_TRADES)) for session, arm in product(charted, arms)]
    labels = [f"{s.date}{', ' + s.why if s.why else ''}" for s in charted]
    caption = Markup("Price bars, {}, exits, {} and {} of one session, New York time.").format(
        term("entry", "entries"), term("stop", "stops"), term("advice", "advice")
    )
    chart = Chart(
        "session-chart",
        caption,
        f"{caption.striptags()} The table below lists the trades.",
        560,
        [session_figure(session, made, ACTIONS, arrays) for session, _, made in played],
        [Choice("Session", labels), Choice("Arm", arms)],
    )
    tables = [
        Table(
            Markup("Trades of {} on {}: net {}").format(given(arm), session.date, signed_usd(made.net_usd)),
            _trade_columns(session),
            made.trades,
            "" if made.trades else "This arm did not trade in this session.",
            chosen_by=chart.id,
            choice=k,
        )
        for k, (session, arm, made) in enumerate(played)
    ]
    return Section("trades", title, [chart, *tables])


def _trade_columns(session: ChartedSession) -> list[Column[Trade]]:
    tick, minutes = session.tick_size, session.minute

    def clock(bar: int) -> str:
        return f"{minutes[bar] // 60 % 24:02d}:{minutes[bar] % 60:02d}"

    return [
        Column("entry", lambda t: clock(t.entry_bar), numeric=False),
        Column("side", lambda t: t.side, numeric=False),
        Column("entry price", lambda t: plain(t.entry_ticks * tick, 2)),
        Column(term("stop", "initial stop"), lambda t: plain(t.stops[0][1] * tick, 2) if t.stops else NOTHING),
        Column("exit", lambda t: clock(t.exit_bar), numeric=False),
        Column("exit price", lambda t: plain(t.exit_ticks * tick, 2)),
        Column("exit reason", lambda t: given(t.exit_reason), numeric=False),
        Column(term("net_pnl", "net P&L"), lambda t: signed_usd(t.net_usd)),
    ]


def session_figure(session: ChartedSession, arm: SessionArm, actions: Sequence[str], arrays: Arrays) -> Figure:
    """A session's bars with one arm's entries, exits and stops, and the advice by bar."""
    tick = session.tick_size
    midnight = dt.datetime.fromisoformat(session.date)
    times = [(midnight + dt.timedelta(minutes=m)).isoformat(sep=" ", timespec="minutes") for m in session.minute]
    columns = {
        "open": session.open_ticks,
        "high": session.high_ticks,
        "low": session.low_ticks,
        "close": session.close_ticks,
    }
    x = arrays.ref(times)
    prices = {name: arrays.ref([value * tick for value in ticks], 4) for name, ticks in columns.items()}
    bars: dict[str, Any] = {"type": "ohlc", "x": x, **prices, "name": "bar", "tickwidth": 0.32}
    for way in ("increasing", "decreasing"):
        bars[way] = {"line": {"color": role("bar"), "width": 1}}
    traces = [bars, _stop_trace(arm.trades, times, tick), *_trade_traces(arm.trades, times, tick)]
    layout, panels = stacked((1.0,), ("Price, points",))
    if arm.advice is not None:
        layout, panels = stacked((0.74, 0.26), ("Price, points", "Advice by bar (darker: more confident)"))
        traces.append(_advice_trace(arm.advice, times, actions, arrays))
        layout["yaxis2"] |= {"type": "category", "categoryarray": list(reversed(actions)), "showgrid": True}
    layout["xaxis"] |= {"type": "date", "rangeslider": {"visible": False}, "tickformat": "%H:%M"}
    legend = [
        legend_entry("long entry", Style("blue", "solid", "triangle-up"), kind="marker"),
        legend_entry("short entry", Style("vermillion", "solid", "triangle-down"), kind="marker"),
        legend_entry("exit, gain or loss", Style("ink", "solid", "x"), kind="marker"),
        legend_entry("stop", Style("vermillion", "dot", "line-ew")),
    ]
    return Figure(traces, layout | {"hovermode": "closest"}, panels, [{**entry, "fixed": True} for entry in legend])


def _trade_traces(trades: Sequence[Trade], times: Sequence[str], tick: float) -> list[dict[str, Any]]:
    traces: list[dict[str, Any]] = []
    for trade in trades:
        ends = {
            "x": [times[trade.entry_bar], times[trade.exit_bar]],
            "y": [trade.entry_ticks * tick, trade.exit_ticks * tick],
        }
        is_long = trade.side == "long"
        color = "blue" if is_long else "vermillion"
        symbols = ["triangle-up" if is_long else "triangle-down", "x"]
        look = {"symbol": symbols, "size": [13, 9], "color": [role(color), role("ink")]}
        outline = {"line": {"width": 1, "color": role("paper")}}
        texts = [f"{trade.side} entry", f"exit: {chart_text(trade.exit_reason)}, {signed_usd(trade.net_usd)}"]
        traces.append(
            {
                **ends,
                "mode": "lines+markers",
                "line": {"color": role(color), "width": 1.4, "dash": "solid" if trade.net_usd > 0 else "dot"},
                "marker": {**look, **outline},
                "text": texts,
                "hovertemplate": "%{text}<br>%{x|%H:%M}, %{y:,.2f}<extra></extra>",
            }
        )
    return traces


def _stop_trace(trades: Sequence[Trade], times: Sequence[str], tick: float) -> dict[str, Any]:
    x: list[str | None] = []
    y: list[float | None] = []
    for trade in trades:
        stops = [*trade.stops, [trade.exit_bar, 0.0]]
        for (bar, ticks), (until, _) in pairwise(stops):
            x += [times[int(bar)], times[int(until)]]
            y += [ticks * tick, ticks * tick]
        x.append(None)
        y.append(None)
    look = {"color": role("vermillion", 0.9), "width": 1.3, "dash": "dot"}
    form = "stop %{y:,.2f}<extra></extra>"
    return {"x": x, "y": y, "mode": "lines", "line": look, "hovertemplate": form, "connectgaps": False}


def _advice_trace(advice: AdviceByBar, times: Sequence[str], actions: Sequence[str], arrays: Arrays) -> dict[str, Any]:
    said = [(times[i], actions[code], advice.confidence[i]) for i, code in enumerate(advice.action) if code >= 0]
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
