"""The sections about the results: verdict, equity, contrasts, arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from src.report.page.blocks import (
    Answers,
    Bullets,
    Chart,
    Column,
    Folded,
    Heading,
    Hint,
    Section,
    Table,
    Text,
    given,
    term,
)
from src.report.page.charts_results import (
    contrast_figure,
    cost_figure,
    drawdowns,
    equity_figure,
    folds_figure,
    mean_by_session,
    nets_by_seed,
    paired_figure,
)
from src.report.page.drawing import MAIN_ARMS, Arrays
from src.wording import NOTHING, percent, plain, signed, signed_usd, usd, usd_per_session

Report = Mapping[str, Any]
ROLES = {"primary": "primary, pre-registered", "secondary": "secondary", "exploratory": "exploratory"}


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
    """The five answers and the sentences of the verdict; the template sets the judgement above them."""
    blocks: list[Any] = [Answers(report["answers"])] if report.get("answers") else []
    if sentences := [_lead(sentence) for sentence in report["verdict"]]:
        blocks += [Heading("Details"), Bullets(sentences)] if blocks else [Bullets(sentences)]
    return Section("verdict", "Verdict", blocks, "This run reached no verdict.")


def _lead(sentence: str) -> Markup:
    """Words before the first colon are bold if they are few and contain no figure."""
    lead, colon, rest = sentence.partition(": ")
    if colon and len(lead) <= 32 and not any(word[0].isdigit() for word in lead.split()):
        return Markup("<strong>{}:</strong> {}").format(given(lead), given(rest))
    return given(sentence)


def equity_section(report: Report, arrays: Arrays) -> Section:
    """Cumulative net P&L over the sealed sessions and its drawdown."""
    title = "Equity and drawdown"
    arms = {name: arm for name, arm in report["arms"].items() if arm["net_usd_by_session"]}
    if not arms:
        return Section("equity", title, (), "This run evaluated no arm on sealed sessions.")
    n_seeds = max(len(nets_by_seed(report, name)) for name in arms)
    n = len(next(iter(arms.values()))["net_usd_by_session"])
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
    ).format(_sealed_words(n), term("arm", "arm"), term("summed_net", "sum of separate sessions"), seeds)
    main = [name for name in MAIN_ARMS if name in arms]
    ends = {name: mean_by_session(report, name) for name in main}
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


def _sealed_words(n: int) -> str:
    return "One sealed session" if n == 1 else f"{plain(n)} sealed sessions"


def contrast_section(report: Report, arrays: Arrays) -> Section:
    """Does the advice add anything: the pre-registered contrast, then the others."""
    title = "Does the advice add anything?"
    statistics = report.get("statistics", {})
    contrasts: Sequence[Mapping[str, Any]] = statistics.get("contrasts", ())
    blocks: list[Any] = []
    if contrasts:
        blocks += _contrast_blocks(statistics, contrasts)
        first = contrasts[0]
        if {first["arm"], first["against"]} <= report["arms"].keys() and first["sessions"] > 1:
            caption = Markup("{} between {} and {}, averaged over seeds; the dotted line is the mean.").format(
                term("paired_difference", "Paired differences"), given(first["arm"]), given(first["against"])
            )
            figure = paired_figure(report, first["arm"], first["against"], arrays)
            says = f"{caption.striptags()} Mean {signed_usd(first['mean_usd'])} over {first['sessions']} sessions."
            blocks.append(Chart("paired-chart", caption, says, 280, [figure]))
    if report.get("placebo"):
        blocks.append(_placebo_block(report["placebo"]))
    blocks += _fold_blocks(report)
    absent = "This run computed no contrast between arms, so it cannot say whether the advice helps."
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
            no = Markup("No interval for {} − {}: {}.")
            blocks.append(Text(no.format(given(contrast["arm"]), given(contrast["against"]), given(why.rstrip(".")))))
    caption = Markup("Difference in net P&L per session; the grey box is the {}.").format(
        term("minimum_detectable", "effect too small to detect in these sessions")
    )
    says = "; ".join(f"{c['arm']} minus {c['against']} {_interval(c)}" for c in contrasts)
    blocks.append(
        Chart("contrast-chart", caption, says, 90 + 74 * len(contrasts), [contrast_figure(contrasts)]),
    )
    blocks.append(Table("Contrasts, per session", _contrast_columns(), contrasts))
    return blocks


def _interval(contrast: Mapping[str, Any]) -> str:
    bounds = contrast["low_usd"], contrast["high_usd"]
    if None in bounds:
        return f"{signed_usd(contrast['mean_usd'])}/session"
    return usd_per_session(contrast["mean_usd"], *bounds, contrast["level_frac"])


def _contrast_columns() -> list[Column]:
    def interval(c: Mapping[str, Any]) -> str:
        if c["low_usd"] is None or c["high_usd"] is None:
            return NOTHING
        return f"{signed_usd(c['low_usd'])} to {signed_usd(c['high_usd'])} ({percent(c['level_frac'])})"

    return [
        Column(term("contrast", "contrast"), lambda c: given(f"{c['arm']} − {c['against']}"), numeric=False),
        Column(term("contrast_role", "role"), lambda c: ROLES[c["role"]], numeric=False),
        Column("mean", lambda c: signed_usd(c["mean_usd"])),
        Column(term("interval", "CI"), interval),
        Column(term("p_value", "p"), lambda c: plain(c["p_value"], 3)),
        Column(term("p_holm", "Holm p"), lambda c: plain(c.get("holm_p_value"), 3)),
        Column(term("minimum_detectable", "detectable"), lambda c: usd(c["minimum_detectable_usd"])),
        Column(term("sealed", "sessions"), lambda c: plain(c["sessions"])),
        Column(term("seed", "seeds"), lambda c: ", ".join(signed_usd(v) for v in c["seed_means_usd"]) or NOTHING),
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
    return Folded("How the placebo differs from the advice", [Table("Placebo vs advice", columns, rows)])


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
            Column(given(name), lambda f, name=name: signed_usd(f["net_usd_per_session"].get(name)))  # type: ignore[misc]
            for name in arms
        ),
        Column("difference", lambda f: signed_usd(f.get("difference_usd"))),
    ]
    blocks: list[Any] = [Heading("Walk-forward")]
    if walk.get("words"):
        blocks.append(Text(given(walk["words"])))
    if any(fold.get("difference_usd") is not None for fold in folds):
        caption = Markup("The primary contrast by {}.").format(term("fold", "walk-forward fold"))
        says = "; ".join(f"fold {f['fold']}: {signed_usd(f.get('difference_usd'))}/session" for f in folds)
        blocks.append(Chart("folds-chart", caption, says, 300, [folds_figure(folds)]))
    blocks.append(Table("Walk-forward folds, net P&L per session", columns, folds))
    return blocks


def arms_section(report: Report, arrays: Arrays) -> Section:
    """Every arm's figures, the cost stress test, the deflated Sharpe ratio."""
    statistics = report.get("statistics", {})
    means = statistics.get("interquartile_mean_usd", {})
    facts = [
        {"name": name, **arm, "of_series": statistics.get("arms", {}).get(name, {}), "iqm": means.get(name, {})}
        for name, arm in report["arms"].items()
    ]
    blocks: list[Any] = []
    if facts:
        caption = "Arms on the sealed sessions, after costs"
        note = "" if "arms" in statistics else "This run did not compute Sharpe, Sortino and profit factor."
        blocks.append(Table(caption, _arm_columns(), facts, note))
    blocks += _cost_blocks(statistics)
    blocks += _deflated_blocks(statistics)
    return Section("arms", "Arm statistics", blocks, "This run evaluated no arm.")


def _arm_columns() -> list[Column]:
    return [
        Column(term("arm", "arm"), lambda a: given(a["name"]), numeric=False),
        Column(term("net_per_session", "net/session"), lambda a: signed_usd(a["net_usd_per_session"])),
        Column(term("sharpe", "Sharpe"), lambda a: signed(a["of_series"].get("sharpe"), 2)),
        Column(term("sortino", "Sortino"), lambda a: signed(a["of_series"].get("sortino"), 2)),
        Column(term("session_drawdown", "max drawdown, session"), lambda a: usd(a["max_drawdown_usd"])),
        Column(term("summed_drawdown", "max drawdown, total"), lambda a: usd(a["of_series"].get("max_drawdown_usd"))),
        Column(term("profit_factor", "profit factor"), lambda a: plain(a["of_series"].get("profit_factor"), 2)),
        Column(term("win_rate", "win rate"), lambda a: percent(a["win_rate"])),
        Column(term("trades_a_day", "trades/day"), lambda a: plain(a["trades_per_session"], 1)),
        Column(term("exposure", "exposure"), lambda a: percent(a["exposure"])),
        Column(term("costs", "costs"), lambda a: usd(a["commission_usd"] + a["slippage_usd"])),
        Column(term("breaches", "breaches"), lambda a: f"{plain(a['sessions_breached'])} of {plain(a['sessions'])}"),
        Column(term("daily_limit", "daily limit hit"), lambda a: plain(a["sessions_daily_locked"])),
        Column(term("interquartile_mean", "IQM"), lambda a: signed_usd(a["iqm"].get("value"))),
    ]


def _cost_blocks(statistics: Report) -> list[Any]:
    stress = statistics.get("cost_stress")
    if stress is None:
        return [Text(Markup("This run has no {}.").format(term("cost_stress", "cost stress test")))]
    ticks = stress["slippage_ticks"]
    rows = [
        {"name": name, "net": net, "even": stress["break_even_ticks"].get(name, {"value": None, "reason": ""})}
        for name, net in stress["net_usd_per_session"].items()
    ]
    columns = [
        Column(term("arm", "arm"), lambda r: given(r["name"]), numeric=False),
        *(
            Column(f"{tick:g} ticks" if tick != 1 else "1 tick", lambda r, k=k: signed_usd(r["net"][k]))  # type: ignore[misc]
            for k, tick in enumerate(ticks)
        ),
        Column(term("break_even", "break-even, ticks"), lambda r: plain(r["even"]["value"], 2)),
        Column("note", lambda r: given(r["even"]["reason"]) if r["even"]["reason"] else NOTHING, numeric=False),
    ]
    said = "; ".join(f"{row['name']} breaks even at {plain(row['even']['value'], 2)} ticks" for row in rows)
    caption = Markup("Net P&L per session with {}.").format(term("cost_stress", "more or less slippage"))
    return [
        Heading("Cost stress test"),
        Chart("cost-chart", caption, f"{caption.striptags()} {said}", 340, [cost_figure(stress)]),
        Table("Net P&L per session by slippage", columns, rows),
    ]


def _deflated_blocks(statistics: Report) -> list[Any]:
    deflated = statistics.get("deflated_sharpe")
    if deflated is None:
        return [Text(Markup("This run has no {}.").format(term("deflated_sharpe", "deflated Sharpe ratio")))]
    columns = [
        Column(term("arm", "arm"), lambda r: given(r["name"]), numeric=False),
        Column(term("trials", "trials"), lambda r: plain(r["trials"])),
        Column(term("session_sharpe", "Sharpe per session"), lambda r: signed(r["sharpe"], 3)),
        Column(term("expected_best", "expected best by chance"), lambda r: signed(r["expected_maximum"], 3)),
        Column(term("deflated_sharpe", "deflated Sharpe"), lambda r: percent(r["probability"])),
        Column("note", lambda r: given(r["reason"]) if r["reason"] else NOTHING, numeric=False),
    ]
    rows = [{"name": name, **of} for name, of in deflated.items()]
    return [Heading("Deflated Sharpe ratio"), Table("Deflated Sharpe ratio by arm", columns, rows)]
