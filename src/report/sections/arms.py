"""Section: every arm's figures, the cost stress test, the deflated Sharpe ratio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from markupsafe import Markup

from src.agent.members import ArmName
from src.report.model.arms import Arm, ArmSeries, CostStress, DeflatedSharpe, FigureWithReason
from src.report.model.report import Report
from src.report.page.blocks import Chart, Column, Figure, Heading, Named, Section, Table, Text, given, named, term
from src.report.page.drawing import Arrays, chart_text, legend_entry, line, role, style_of, zero_line
from src.wording import AXIS_USD, HOVER_SIGNED_USD, NOTHING, percent, plain, signed, signed_usd, usd


class _Row(NamedTuple):
    name: str
    arm: Arm
    series: ArmSeries | None
    iqm: FigureWithReason | None


def section(report: Report, arrays: Arrays) -> Section:
    """The section."""
    statistics = report.statistics
    series = (statistics.arms if statistics is not None else None) or {}
    means = (statistics.interquartile_mean_usd if statistics is not None else None) or {}
    rows = [_Row(name, arm, series.get(name), means.get(name)) for name, arm in report.arms.items()]
    blocks: list[Any] = []
    if rows:
        note = "" if series else "This run did not compute Sharpe, Sortino and profit factor."
        blocks.append(Table("Arms on the sealed sessions, after costs", _arm_columns(), rows, note))
    blocks += _cost_blocks(statistics.cost_stress if statistics is not None else None)
    blocks += _deflated_blocks(statistics.deflated_sharpe if statistics is not None else None)
    return Section("arms", "Arm statistics", blocks, "This run evaluated no arm.")


def _arm_columns() -> list[Column[_Row]]:
    return [
        Column(term("arm", "arm"), lambda r: given(r.name), numeric=False),
        Column(term("net_per_session", "net/session"), lambda r: signed_usd(r.arm.net_usd_per_session)),
        Column(term("sharpe", "Sharpe"), lambda r: signed(r.series.sharpe if r.series else None, 2)),
        Column(term("sortino", "Sortino"), lambda r: signed(r.series.sortino if r.series else None, 2)),
        Column(term("session_drawdown", "max drawdown, session"), lambda r: usd(r.arm.max_drawdown_usd)),
        Column(
            term("summed_drawdown", "max drawdown, total"),
            lambda r: usd(r.series.max_drawdown_usd if r.series else None),
        ),
        Column(
            term("profit_factor", "profit factor"), lambda r: plain(r.series.profit_factor if r.series else None, 2)
        ),
        Column(term("win_rate", "win rate"), lambda r: percent(r.arm.win_rate)),
        Column(term("trades_a_day", "trades/day"), lambda r: plain(r.arm.trades_per_session, 1)),
        Column(term("exposure", "exposure"), lambda r: percent(r.arm.exposure)),
        Column(term("costs", "costs"), lambda r: usd(r.arm.commission_usd + r.arm.slippage_usd)),
        Column(term("breaches", "breaches"), lambda r: f"{plain(r.arm.sessions_breached)} of {plain(r.arm.sessions)}"),
        Column(term("daily_limit", "daily limit hit"), lambda r: plain(r.arm.sessions_daily_locked)),
        Column(term("interquartile_mean", "IQM"), lambda r: signed_usd(r.iqm.value if r.iqm else None)),
    ]


class _CostRow(NamedTuple):
    name: str
    net: list[float | None]
    even: FigureWithReason


def _cost_blocks(stress: CostStress | None) -> list[Any]:
    if stress is None:
        return [Text(Markup("This run has no {}.").format(term("cost_stress", "cost stress test")))]
    unknown = FigureWithReason(value=None, reason="")
    rows = [
        _CostRow(name, net, stress.break_even_ticks.get(name, unknown))
        for name, net in stress.net_usd_per_session.items()
    ]
    columns: list[Column[_CostRow]] = [
        Column(term("arm", "arm"), lambda r: given(r.name), numeric=False),
        *(
            Column[_CostRow](f"{tick:g} ticks" if tick != 1 else "1 tick", lambda r, k=k: signed_usd(r.net[k]))  # type: ignore[misc]
            for k, tick in enumerate(stress.slippage_ticks)
        ),
        Column(term("break_even", "break-even, ticks"), lambda r: plain(r.even.value, 2)),
        Column("note", lambda r: given(r.even.reason) if r.even.reason else NOTHING, numeric=False),
    ]
    said = "; ".join(f"{row.name} breaks even at {plain(row.even.value, 2)} ticks" for row in rows)
    caption = Markup("Net P&L per session with {}.").format(term("cost_stress", "more or less slippage"))
    return [
        Heading("Cost stress test"),
        Chart("cost-chart", caption, f"{caption.striptags()} {said}", 340, [cost_figure(stress)]),
        Table("Net P&L per session by slippage", columns, rows),
    ]


def _deflated_blocks(deflated: Mapping[str, DeflatedSharpe] | None) -> list[Any]:
    if deflated is None:
        return [Text(Markup("This run has no {}.").format(term("deflated_sharpe", "deflated Sharpe ratio")))]
    columns: list[Column[Named[DeflatedSharpe]]] = [
        Column(term("arm", "arm"), lambda r: given(r.name), numeric=False),
        Column(term("trials", "trials"), lambda r: plain(r.of.trials)),
        Column(term("session_sharpe", "Sharpe per session"), lambda r: signed(r.of.sharpe, 3)),
        Column(term("expected_best", "expected best by chance"), lambda r: signed(r.of.expected_maximum, 3)),
        Column(term("deflated_sharpe", "deflated Sharpe"), lambda r: percent(r.of.probability)),
        Column(term("track_record", "sessions for 95%"), lambda r: plain(r.of.sessions_needed)),
        Column("note", lambda r: given(r.of.reason) if r.of.reason else NOTHING, numeric=False),
    ]
    return [
        Heading("Deflated Sharpe ratio"),
        Table("Deflated Sharpe ratio by arm", columns, named(deflated)),
    ]


def cost_figure(stress: CostStress) -> Figure:
    """Net P&L per session by slippage."""
    traces, legend = [], []
    names = list(stress.net_usd_per_session)
    for name, values in stress.net_usd_per_session.items():
        style = style_of(name, names)
        marker = {"symbol": style.symbol, "size": 8, "color": role(style.role)}
        curve = {"x": stress.slippage_ticks, "y": values, "mode": "lines+markers", "marker": marker}
        form = f"%{{y:{HOVER_SIGNED_USD}}}/session"
        look = {"name": chart_text(name), "legendgroup": name, "line": line(style), "hovertemplate": form}
        traces.append({**curve, **look})
        off = name == ArmName.RANDOM_LEGAL and len(names) > 1
        legend.append(legend_entry(name, style, off=off, kind="points"))
    ticks = {"title": {"text": "slippage per market or stop fill, ticks"}, "tickvals": stress.slippage_ticks}
    layout = {"xaxis": ticks, "yaxis": {"tickformat": AXIS_USD}, "shapes": [zero_line()]}
    return Figure(traces, layout, [("y", "Net P&L per session")], legend)
