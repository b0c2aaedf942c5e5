"""The sections about accounts: trades on the price chart, evaluation attempts, reliance on advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from markupsafe import Markup

from src.report.page.blocks import Chart, Choice, Column, Section, Table, Text, given, term
from src.report.page.charts_results import fan_figure, reliance_figure, session_figure
from src.report.page.drawing import Arrays
from src.trading.layout import ACTIONS
from src.wording import NOTHING, percent, plain, signed_usd, usd

Report = Mapping[str, Any]


def trades_section(report: Report, arrays: Arrays) -> Section:
    """A session's prices with the trades of one arm."""
    title = "Trades on the price chart"
    sessions: Sequence[Mapping[str, Any]] = report.get("sessions", ())
    shown = [session for session in sessions if session["arms"]]
    if not shown:
        return Section("trades", title, (), "This run kept no session's bars and trades.")
    arms = list(dict.fromkeys(name for session in shown for name in session["arms"]))
    nothing: Mapping[str, Any] = {"net_usd": 0.0, "trades": []}
    pairs = [
        ({**session, "arms": {arm: session["arms"].get(arm, nothing)}}, arm) for session, arm in product(shown, arms)
    ]
    labels = [f"{s['date']}{', ' + s['why'] if s.get('why') else ''}" for s in shown]
    caption = Markup("Price bars, {}, exits, {} and {} of one session, New York time.").format(
        term("entry", "entries"), term("stop", "stops"), term("advice", "advice")
    )
    chart = Chart(
        "session-chart",
        caption,
        f"{caption.striptags()} The table below lists the trades.",
        560,
        [session_figure(session, arm, ACTIONS, arrays) for session, arm in pairs],
        [Choice("Session", labels), Choice("Arm", arms)],
    )
    tables = [
        Table(
            Markup("Trades of {} on {}: net {}").format(
                given(arm), session["date"], signed_usd(session["arms"][arm]["net_usd"])
            ),
            _trade_columns(session),
            session["arms"][arm]["trades"],
            "" if session["arms"][arm]["trades"] else "This arm did not trade in this session.",
            chosen_by=chart.id,
            choice=k,
        )
        for k, (session, arm) in enumerate(pairs)
    ]
    return Section("trades", title, [chart, *tables])


def _trade_columns(session: Mapping[str, Any]) -> list[Column]:
    tick, minutes = session["tick_size"], session["minute"]

    def clock(bar: int) -> str:
        return f"{minutes[bar] // 60 % 24:02d}:{minutes[bar] % 60:02d}"

    return [
        Column("entry", lambda t: clock(t["entry_bar"]), numeric=False),
        Column("side", lambda t: t["side"], numeric=False),
        Column("entry price", lambda t: plain(t["entry_ticks"] * tick, 2)),
        Column(term("stop", "initial stop"), lambda t: plain(t["stops"][0][1] * tick, 2) if t["stops"] else NOTHING),
        Column("exit", lambda t: clock(t["exit_bar"]), numeric=False),
        Column("exit price", lambda t: plain(t["exit_ticks"] * tick, 2)),
        Column("exit reason", lambda t: given(t["exit_reason"]), numeric=False),
        Column(term("net_pnl", "net P&L"), lambda t: signed_usd(t["net_usd"])),
    ]


def pass_section(report: Report, arrays: Arrays) -> Section:
    """Simulated attempts at a prop firm's evaluation."""
    title = "Would it pass a prop-firm evaluation?"
    simulation = report.get("pass_simulation")
    if not simulation or not simulation["arms"]:
        none = Markup("This run simulated no evaluation attempts")
        reason = simulation["reason"].rstrip(".") if simulation else ""
        return Section("pass", title, (), none + (Markup(": {}.").format(given(reason)) if reason else "."))
    words = (
        "{} under rule profile {} (as of {}), on {} sealed sessions: start {}, target {}, at most {} trading days{}."
    )
    rules = Markup(words).format(
        term("attempt", "Attempts"),
        given(simulation["profile"]),
        given(simulation["as_of"]),
        plain(simulation["sessions"]),
        usd(simulation["start_balance_usd"]),
        usd(simulation["profit_target_usd"]),
        plain(simulation["horizon_days"]),
        " (a cap set by this tool: the profile has no time limit)" if simulation["is_capped"] else "",
    )
    blocks: list[Any] = [Text(rules)]
    if simulation.get("words"):
        blocks.append(Text(given(simulation["words"])))
    arms = simulation["arms"]
    blocks.append(
        Table("Simulated attempts", _pass_columns(), [{"name": name, **of} for name, of in arms.items()]),
    )
    fans = sorted((name for name, of in arms.items() if "fan" in of), key=lambda name: name != "hybrid")
    if fans:
        caption = Markup("{} of equity at each trading day's close; finished attempts keep their last value.").format(
            term("percentile_fan", "Percentiles")
        )
        figures = [fan_figure(simulation, name) for name in fans]
        says = "; ".join(f"{name} passes {percent(arms[name]['passed_frac'])}" for name in fans)
        blocks.append(Chart("fan-chart", caption, says, 400, figures, [Choice("Arm", fans)]))
    return Section("pass", title, blocks)


def _pass_columns() -> list[Column]:
    def between(a: Mapping[str, Any]) -> str:
        bounds = a["passed_low_frac"], a["passed_high_frac"]
        return NOTHING if None in bounds else f"{percent(bounds[0])} to {percent(bounds[1])}"

    return [
        Column(term("arm", "arm"), lambda a: given(a["name"]), numeric=False),
        Column(term("p_pass", "P(pass)"), lambda a: percent(a["passed_frac"])),
        Column(term("pass_interval", "95% CI"), between),
        Column(term("p_breach", "P(breach)"), lambda a: percent(a["breached_frac"])),
        Column(term("p_expired", "P(expired)"), lambda a: percent(a["expired_frac"])),
        Column(term("days_to_pass", "median days"), lambda a: plain(a["median_days_to_pass"])),
        Column(term("attempt", "attempts"), lambda a: plain(a["attempts"])),
        Column(term("monte_carlo_error", "Monte Carlo error"), lambda a: percent(a["monte_carlo_error_frac"], 1)),
        Column("note", lambda a: given(a["session_reason"]) if a["session_reason"] else NOTHING, numeric=False),
    ]


def reliance_section(report: Report, arrays: Arrays) -> Section:
    """What the trained policy does when its advice is removed or corrupted."""
    title = "Does the trained policy rely on the advice?"
    reliance = report.get("reliance")
    if not reliance or not reliance["rows"]:
        return Section("reliance", title, (), "This run has no reliance diagnostic.")
    said = Markup("A {} of {}. ").format(term("reliance", "reliance test"), given(reliance["arm"]))
    caption = Markup("Net P&L per session of {} by the advice it gets in evaluation.").format(given(reliance["arm"]))
    rows = reliance["rows"]
    says = "; ".join(f"{row['advice']}: {signed_usd(row['net_usd_per_session'])}/session" for row in rows)
    columns = [
        Column(term("advice_fed", "advice"), lambda r: r["advice"], numeric=False),
        Column(term("net_per_session", "net/session"), lambda r: signed_usd(r["net_usd_per_session"])),
        Column(term("changed_decisions", "decisions changed"), lambda r: percent(r["changed_frac"])),
    ]
    chart = Chart("reliance-chart", caption, says, 120 + 34 * len(rows), [reliance_figure(rows)])
    return Section(
        "reliance",
        title,
        [Text(said + given(reliance.get("words", ""))), chart, Table("Net P&L by advice", columns, rows)],
    )
