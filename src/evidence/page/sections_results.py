"""The sections about the outcome: verdict, equity, contrasts, arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from src.evidence.page.blocks import Bullets, Chart, Column, Folded, Heading, Hint, Section, Table, Text, given, term
from src.evidence.page.charts_results import (
    contrast_figure,
    cost_figure,
    drawdowns,
    equity_figure,
    folds_figure,
    mean_by_session,
    nets_by_seed,
    paired_figure,
)
from src.evidence.page.drawing import MAIN_ARMS, Arrays
from src.evidence.page.numbers import NOTHING, percent, plain, signed

Report = Mapping[str, Any]
ROLES = {"primary": "primary, fixed beforehand", "secondary": "second", "exploratory": "exploratory"}


def overall_of(report: Report) -> dict[str, str]:
    """The judgement of the whole run, from `overall` or else from its required targets and the leak checks."""
    if "overall" in report:
        return dict(report["overall"])
    required = {name: target for name, target in report["targets"].items() if target["required"]}
    missed = [name for name, target in required.items() if target["status"] != "met"]
    if not report.get("look_ahead", {}).get("passed", True):
        missed.append("the leak checks")
    checks = [*required, *(["the leak checks"] if "look_ahead" in report else [])]
    reason = f"Judged by {', '.join(checks)}." if checks else "No target was required."
    if report["validation_passed"]:
        return {"status": "met", "judgement": "All required targets met.", "reason": reason}
    return {"status": "missed", "judgement": f"Missed: {', '.join(missed)}.", "reason": reason}


def verdict_section(report: Report, arrays: Arrays) -> Section:
    """The judgement is typeset by the template; here are its sentences."""
    sentences = [_lead(sentence) for sentence in report["verdict"]]
    return Section("verdict", "Verdict", [Bullets(sentences)] if sentences else [], "This run reached no verdict.")


def _lead(sentence: str) -> Markup:
    """The words before a first colon stand out, if they are few and hold no figure."""
    lead, colon, rest = sentence.partition(": ")
    if colon and len(lead) <= 32 and not any(word[0].isdigit() for word in lead.split()):
        return Markup("<strong>{}:</strong> {}").format(given(lead), given(rest))
    return given(sentence)


def equity_section(report: Report, arrays: Arrays) -> Section:
    """Summed net P&L of the sealed sessions and its falls."""
    title = "Equity and drawdown"
    arms = {name: arm for name, arm in report["arms"].items() if arm["net_usd_by_session"]}
    if not arms:
        return Section("equity", title, (), "No arm was evaluated on sealed sessions in this run.")
    n_seeds = max(len(nets_by_seed(report, name)) for name in arms)
    n = len(next(iter(arms.values()))["net_usd_by_session"])
    seeds = (
        Markup("Lines are means over {} seeds, and {} reach from the lowest seed to the highest. ").format(
            n_seeds, term("seed_band", "bands")
        )
        if n_seeds > 1
        else Markup("One seed: a line says nothing of how much another seed would differ. ")
    )
    explained = Markup(
        "{} played by every {}, after costs. Each begins with a new account, so a line is a {} and no account's "
        "equity. {}"
    ).format(_sealed_words(n), term("arm", "arm"), term("summed_net", "sum of separate sessions"), seeds)
    main = [name for name in MAIN_ARMS if name in arms]
    ends = {name: mean_by_session(report, name) for name in main}
    said = "; ".join(
        f"{name} ends at {signed(sum(net))} $ (worst fall {plain(-min(drawdowns(net)))} $)"
        for name, net in ends.items()
    )
    caption = Markup("Summed {} over the sealed sessions, and the {}.").format(
        term("net_pnl", "net P&L"), term("summed_drawdown", "fall from its peak")
    )
    chart = Chart("equity-chart", caption, f"{caption.striptags()} {said}.", 520, [equity_figure(report, arrays)])
    hint = Hint(
        Markup("The legend shows and hides arms. Drag across a chart to enlarge a part, double-click to go back.")
    )
    return Section("equity", title, [Text(explained), *([Text(given(f"{said}."))] if said else []), chart, hint])


def _sealed_words(n: int) -> str:
    return "One sealed session" if n == 1 else f"{plain(n)} sealed sessions"


def contrast_section(report: Report, arrays: Arrays) -> Section:
    """Does the advice add anything: the contrast fixed beforehand, then the others."""
    title = "Does the advice add anything?"
    statistics = report.get("statistics", {})
    contrasts: Sequence[Mapping[str, Any]] = statistics.get("contrasts", ())
    blocks: list[Any] = []
    if contrasts:
        blocks += _contrast_blocks(statistics, contrasts)
        first = contrasts[0]
        if {first["arm"], first["against"]} <= report["arms"].keys() and first["sessions"] > 1:
            caption = Markup("The {} of {} and {}, seeds averaged; the dotted line is their mean.").format(
                term("paired_difference", "paired differences"), given(first["arm"]), given(first["against"])
            )
            figure = paired_figure(report, first["arm"], first["against"], arrays)
            says = f"{caption.striptags()} Mean {signed(first['mean_usd'])} $ over {first['sessions']} sessions."
            blocks.append(Chart("paired-chart", caption, says, 280, [figure]))
    if report.get("placebo"):
        blocks.append(_placebo_block(report["placebo"]))
    blocks += _fold_blocks(report)
    absent = "No contrast between arms was computed in this run, so nothing here says whether the advice helps."
    return Section("contrast", title, blocks, absent)


def _contrast_blocks(statistics: Report, contrasts: Sequence[Mapping[str, Any]]) -> list[Any]:
    sample = statistics["sample_size"]
    sample_words = Markup("{}: {}.").format(term("sample_size", "Sample size"), given(sample["words"].rstrip(".")))
    blocks: list[Any] = [Text(sample_words)]
    words = [
        Markup("<strong>{} − {}:</strong> {}.").format(
            given(c["arm"]), given(c["against"]), given(c["words"].rstrip("."))
        )
        for c in contrasts
        if c.get("words")
    ]
    if words:
        blocks.append(Bullets(words))
    for contrast in contrasts:
        if contrast["low_usd"] is None or contrast["high_usd"] is None:
            why = contrast["reason"] or "no reason recorded"
            no = Markup("No interval is drawn for {} − {}: {}.")
            blocks.append(Text(no.format(given(contrast["arm"]), given(contrast["against"]), given(why.rstrip(".")))))
    caption = Markup("Difference of net P&L a session; the grey box is the {}.").format(
        term("minimum_detectable", "smallest effect these sessions can detect")
    )
    says = "; ".join(f"{c['arm']} minus {c['against']} {_interval(c)}" for c in contrasts)
    blocks.append(
        Chart("contrast-chart", caption, says, 90 + 74 * len(contrasts), [contrast_figure(contrasts)]),
    )
    blocks.append(Table("The contrasts, in $ a session", _contrast_columns(), contrasts))
    return blocks


def _interval(contrast: Mapping[str, Any]) -> str:
    bounds = contrast["low_usd"], contrast["high_usd"]
    mean = f"{signed(contrast['mean_usd'])} $ a session"
    return mean if None in bounds else f"{mean}, interval {signed(bounds[0])} to {signed(bounds[1])}"


def _contrast_columns() -> list[Column]:
    def interval(c: Mapping[str, Any]) -> str:
        if c["low_usd"] is None or c["high_usd"] is None:
            return NOTHING
        return f"{signed(c['low_usd'])} to {signed(c['high_usd'])} ({percent(c['level_frac'])})"

    return [
        Column(term("contrast", "contrast"), lambda c: given(f"{c['arm']} − {c['against']}"), numeric=False),
        Column(term("contrast_role", "role"), lambda c: ROLES[c["role"]], numeric=False),
        Column("mean", lambda c: signed(c["mean_usd"])),
        Column(term("interval", "interval"), interval),
        Column(term("p_value", "p"), lambda c: plain(c["p_value"], 3)),
        Column(term("p_holm", "p, Holm"), lambda c: plain(c.get("holm_p_value"), 3)),
        Column(term("minimum_detectable", "detectable"), lambda c: plain(c["minimum_detectable_usd"])),
        Column(term("sealed", "sessions"), lambda c: plain(c["sessions"])),
        Column(term("seed", "seeds"), lambda c: ", ".join(signed(v) for v in c["seed_means_usd"]) or NOTHING),
    ]


def _placebo_block(placebo: Report) -> Folded:
    columns = [
        Column(term("side", "side of the account"), lambda s: s["side"], numeric=False),
        Column(term("situation", "situations"), lambda s: plain(s["situations"])),
        Column("changed", lambda s: plain(s["changed"])),
        Column("bars changed", lambda s: percent(s["bars_changed_frac"])),
        Column(
            term("placebo_shift", "mean shift"),
            lambda s: ", ".join(f"{a} {signed(100 * v)}%" for a, v in (s["mean_shift"] or {}).items() if v) or NOTHING,
            numeric=False,
        ),
    ]
    rows = [{"side": side, **of} for side, of in placebo.items()]
    return Folded("How far the placebo is from the advice", [Table("The placebo against the advice", columns, rows)])


def _fold_blocks(report: Report) -> list[Any]:
    walk = report.get("walk_forward")
    if not walk or not walk["folds"]:
        return []
    folds: Sequence[Mapping[str, Any]] = walk["folds"]
    arms = list(dict.fromkeys(name for fold in folds for name in fold["net_usd_per_session"]))
    columns = [
        Column(term("fold", "fold"), lambda f: plain(f["fold"])),
        Column("trained on", lambda f: f"{f['train']['first']} to {f['train']['last']}", numeric=False),
        Column("tested on", lambda f: f"{f['test']['first']} to {f['test']['last']}", numeric=False),
        Column("sessions", lambda f: plain(f["test"]["sessions"])),
        *(
            Column(given(name), lambda f, name=name: signed(f["net_usd_per_session"].get(name)))  # type: ignore[misc]
            for name in arms
        ),
        Column("difference", lambda f: signed(f.get("difference_usd"))),
    ]
    blocks: list[Any] = [Heading("Walk-forward")]
    if walk.get("words"):
        blocks.append(Text(given(walk["words"])))
    if any(fold.get("difference_usd") is not None for fold in folds):
        caption = Markup("The primary contrast by {}.").format(term("fold", "walk-forward fold"))
        says = "; ".join(f"fold {f['fold']}: {signed(f.get('difference_usd'))} $ a session" for f in folds)
        blocks.append(Chart("folds-chart", caption, says, 300, [folds_figure(folds)]))
    blocks.append(Table("Walk-forward folds, net P&L in $ a session", columns, folds))
    return blocks


def arms_section(report: Report, arrays: Arrays) -> Section:
    """Every arm's figures, the cost stress, the deflated Sharpe ratio."""
    statistics = report.get("statistics", {})
    means = statistics.get("interquartile_mean_usd", {})
    facts = [
        {"name": name, **arm, "of_series": statistics.get("arms", {}).get(name, {}), "iqm": means.get(name, {})}
        for name, arm in report["arms"].items()
    ]
    blocks: list[Any] = []
    if facts:
        caption = "The arms on the sealed sessions, US dollars after costs"
        note = "" if "arms" in statistics else "Sharpe, Sortino and profit factor were not computed in this run."
        blocks.append(Table(caption, _arm_columns(), facts, note))
    blocks += _cost_blocks(statistics)
    blocks += _deflated_blocks(statistics)
    return Section("arms", "The arms in figures", blocks, "No arm was evaluated in this run.")


def _arm_columns() -> list[Column]:
    return [
        Column(term("arm", "arm"), lambda a: given(a["name"]), numeric=False),
        Column(term("net_per_session", "net a session, $"), lambda a: signed(a["net_usd_per_session"])),
        Column(term("sharpe", "Sharpe"), lambda a: signed(a["of_series"].get("sharpe"), 2)),
        Column(term("sortino", "Sortino"), lambda a: signed(a["of_series"].get("sortino"), 2)),
        Column(term("session_drawdown", "max drawdown, $"), lambda a: plain(a["max_drawdown_usd"])),
        Column(term("summed_drawdown", "worst fall, $"), lambda a: plain(a["of_series"].get("max_drawdown_usd"))),
        Column(term("profit_factor", "profit factor"), lambda a: plain(a["of_series"].get("profit_factor"), 2)),
        Column(term("win_rate", "win rate"), lambda a: percent(a["win_rate"])),
        Column(term("trades_a_day", "trades a day"), lambda a: plain(a["trades_per_session"], 1)),
        Column(term("exposure", "exposure"), lambda a: percent(a["exposure"])),
        Column(term("costs", "costs, $"), lambda a: plain(a["commission_usd"] + a["slippage_usd"])),
        Column(term("breaches", "breaches"), lambda a: f"{plain(a['sessions_breached'])} of {plain(a['sessions'])}"),
        Column(term("daily_limit", "at daily limit"), lambda a: plain(a["sessions_daily_locked"])),
        Column(term("interquartile_mean", "IQM, $"), lambda a: signed(a["iqm"].get("value"))),
    ]


def _cost_blocks(statistics: Report) -> list[Any]:
    stress = statistics.get("cost_stress")
    if stress is None:
        return [Text(Markup("No {} was run.").format(term("cost_stress", "cost stress")))]
    ticks = stress["slippage_ticks"]
    rows = [
        {"name": name, "net": net, "even": stress["break_even_ticks"].get(name, {"value": None, "reason": ""})}
        for name, net in stress["net_usd_per_session"].items()
    ]
    columns = [
        Column(term("arm", "arm"), lambda r: given(r["name"]), numeric=False),
        *(
            Column(f"{tick:g} ticks" if tick != 1 else "1 tick", lambda r, k=k: signed(r["net"][k]))  # type: ignore[misc]
            for k, tick in enumerate(ticks)
        ),
        Column(term("break_even", "break-even, ticks"), lambda r: plain(r["even"]["value"], 2)),
        Column("note", lambda r: given(r["even"]["reason"]) if r["even"]["reason"] else NOTHING, numeric=False),
    ]
    said = "; ".join(f"{row['name']} breaks even at {plain(row['even']['value'], 2)} ticks" for row in rows)
    caption = Markup("Net P&L a session under {}.").format(term("cost_stress", "more or less slippage"))
    return [
        Heading("Cost stress"),
        Chart("cost-chart", caption, f"{caption.striptags()} {said}", 340, [cost_figure(stress)]),
        Table("Net P&L a session by slippage, $", columns, rows),
    ]


def _deflated_blocks(statistics: Report) -> list[Any]:
    deflated = statistics.get("deflated_sharpe")
    if deflated is None:
        return [Text(Markup("No {} was computed.").format(term("deflated_sharpe", "deflated Sharpe ratio")))]
    columns = [
        Column(term("arm", "arm"), lambda r: given(r["name"]), numeric=False),
        Column(term("trials", "trials"), lambda r: plain(r["trials"])),
        Column(term("session_sharpe", "Sharpe of a session"), lambda r: signed(r["sharpe"], 3)),
        Column(term("expected_best", "best of chance"), lambda r: signed(r["expected_maximum"], 3)),
        Column(term("deflated_sharpe", "deflated"), lambda r: percent(r["probability"])),
        Column("why not", lambda r: given(r["reason"]) if r["reason"] else NOTHING, numeric=False),
    ]
    rows = [{"name": name, **of} for name, of in deflated.items()]
    return [Heading("Deflated Sharpe ratio"), Table("The Sharpe ratio less the luck of trying", columns, rows)]
