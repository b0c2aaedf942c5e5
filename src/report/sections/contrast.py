"""Section: does the advice add anything? The pre-registered contrast, then the others, placebo and folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from src.report.model.advice import Placebo
from src.report.model.arms import Contrast, Fold, Statistics, WalkForward
from src.report.model.report import Report
from src.report.page.blocks import (
    Bullets,
    Chart,
    Column,
    Figure,
    Folded,
    Heading,
    Named,
    Section,
    Table,
    Text,
    given,
    named,
    term,
)
from src.report.page.drawing import Arrays, Style, chart_text, legend_entry, line, role, zero_line
from src.wording import (
    AXIS_USD,
    HOVER_SIGNED_USD,
    NOTHING,
    percent,
    plain,
    signed,
    signed_usd,
    usd,
    usd_per_session,
)

ROLES = {"primary": "primary, pre-registered", "secondary": "secondary", "exploratory": "exploratory"}
SEED_STYLE = Style("ink", "solid", "circle-open")


def section(report: Report, arrays: Arrays) -> Section:
    """The section."""
    blocks: list[Any] = []
    if report.statistics is not None and report.statistics.contrasts:
        blocks += _contrast_blocks(report.statistics)
        first = report.statistics.contrasts[0]
        if {first.arm, first.against} <= report.arms.keys() and first.sessions > 1:
            caption = Markup("{} between {} and {}, averaged over seeds; the dotted line is the mean.").format(
                term("paired_difference", "Paired differences"), given(first.arm), given(first.against)
            )
            figure = paired_figure(report, first.arm, first.against, arrays)
            says = f"{caption.striptags()} Mean {signed_usd(first.mean_usd)} over {first.sessions} sessions."
            blocks.append(Chart("paired-chart", caption, says, 280, [figure]))
    if report.placebo:
        blocks.append(_placebo_block(report.placebo))
    if report.walk_forward is not None and report.walk_forward.folds:
        blocks += _fold_blocks(report.walk_forward)
    absent = "This run computed no contrast between arms, so it cannot say whether the advice helps."
    return Section("contrast", "Does the advice add anything?", blocks, absent)


def _contrast_blocks(statistics: Statistics) -> list[Any]:
    contrasts, said = statistics.contrasts, statistics.sample_size.words.rstrip(".")
    blocks: list[Any] = [Text(Markup("{}: {}.").format(term("sample_size", "Sample size"), given(said)))]
    words = [
        Markup("<strong>{} − {}:</strong> {}.").format(given(c.arm), given(c.against), given(c.words.rstrip(".")))
        for c in contrasts
        if c.words
    ]
    if words:
        blocks.append(Bullets(words))
    for contrast in contrasts:
        if contrast.low_usd is None or contrast.high_usd is None:
            why = contrast.reason or "no reason recorded"
            no = Markup("No interval for {} − {}: {}.")
            blocks.append(Text(no.format(given(contrast.arm), given(contrast.against), given(why.rstrip(".")))))
    caption = Markup("Difference in net P&L per session; the grey box is the {}.").format(
        term("minimum_detectable", "effect too small to detect in these sessions")
    )
    says = "; ".join(f"{c.arm} minus {c.against} {_interval(c)}" for c in contrasts)
    blocks.append(
        Chart("contrast-chart", caption, says, 90 + 74 * len(contrasts), [contrast_figure(contrasts)]),
    )
    blocks.append(Table("Contrasts, per session", _contrast_columns(), contrasts))
    return blocks


def _interval(contrast: Contrast) -> str:
    mean, low, high = contrast.mean_usd, contrast.low_usd, contrast.high_usd
    if mean is None or low is None or high is None:
        return f"{signed_usd(mean)}/session"
    return usd_per_session(mean, low, high, contrast.level_frac)


def _contrast_columns() -> list[Column[Contrast]]:
    def interval(c: Contrast) -> str:
        if c.low_usd is None or c.high_usd is None:
            return NOTHING
        return f"{signed_usd(c.low_usd)} to {signed_usd(c.high_usd)} ({percent(c.level_frac)})"

    return [
        Column(term("contrast", "contrast"), lambda c: given(f"{c.arm} − {c.against}"), numeric=False),
        Column(term("contrast_role", "role"), lambda c: ROLES[c.role], numeric=False),
        Column("mean", lambda c: signed_usd(c.mean_usd)),
        Column(term("interval", "CI"), interval),
        Column(term("p_value", "p"), lambda c: plain(c.p_value, 3)),
        Column(term("p_holm", "Holm p"), lambda c: plain(c.holm_p_value, 3)),
        Column(term("minimum_detectable", "detectable"), lambda c: usd(c.minimum_detectable_usd)),
        Column(term("sealed", "sessions"), lambda c: plain(c.sessions)),
        Column(term("seed", "seeds"), lambda c: ", ".join(signed_usd(v) for v in c.seed_means_usd) or NOTHING),
    ]


def _placebo_block(placebo: Mapping[str, Placebo]) -> Folded:
    def shift(side: Named[Placebo]) -> str:
        shifts = (side.of.mean_shift or {}).items()
        return ", ".join(f"{action} {signed(100 * by)}%" for action, by in shifts if by) or NOTHING

    columns: list[Column[Named[Placebo]]] = [
        Column(term("side", "side of the account"), lambda s: s.name, numeric=False),
        Column(term("situation", "situations"), lambda s: plain(s.of.situations)),
        Column("changed", lambda s: plain(s.of.changed)),
        Column("bars changed", lambda s: percent(s.of.bars_changed_frac)),
        Column(term("placebo_shift", "mean shift"), shift, numeric=False),
    ]
    return Folded("How the placebo differs from the advice", [Table("Placebo vs advice", columns, named(placebo))])


def _fold_blocks(walk: WalkForward) -> list[Any]:
    folds = walk.folds
    arms = list(dict.fromkeys(name for fold in folds for name in fold.net_usd_per_session))
    columns: list[Column[Fold]] = [
        Column(term("fold", "fold"), lambda f: plain(f.fold)),
        Column("trained on", lambda f: f"{f.train.first} to {f.train.last}", numeric=False),
        Column("tested on", lambda f: f"{f.test.first} to {f.test.last}", numeric=False),
        Column("sessions", lambda f: plain(f.test.sessions)),
        *(
            Column[Fold](given(name), lambda f, name=name: signed_usd(f.net_usd_per_session.get(name)))  # type: ignore[misc]
            for name in arms
        ),
        Column("difference", lambda f: signed_usd(f.difference_usd)),
    ]
    blocks: list[Any] = [Heading("Walk-forward")]
    if walk.words:
        blocks.append(Text(given(walk.words)))
    if any(fold.difference_usd is not None for fold in folds):
        caption = Markup("The primary contrast by {}.").format(term("fold", "walk-forward fold"))
        says = "; ".join(f"fold {f.fold}: {signed_usd(f.difference_usd)}/session" for f in folds)
        blocks.append(Chart("folds-chart", caption, says, 300, [folds_figure(folds)]))
    blocks.append(Table("Walk-forward folds, net P&L per session", columns, folds))
    return blocks


def contrast_figure(contrasts: Sequence[Contrast], labels: Sequence[str] = ()) -> Figure:
    """One row per contrast: mean, interval if there is one, seeds as points, and the detectable effect. Rows are called
    as `labels` say, else by both arms."""
    names = [chart_text(label, 20) for label in labels]
    names = names or [f"{chart_text(c.arm, 20)} −<br>{chart_text(c.against, 20)}" for c in contrasts]
    traces: list[dict[str, Any]] = []
    shapes = [zero_line("x")]
    reach: list[float] = [0.0]
    for row, contrast in enumerate(contrasts):
        y = -row
        style = Style("blue" if contrast.role == "primary" else "ink", "solid", "diamond")
        detectable = contrast.minimum_detectable_usd
        if detectable is not None:
            reach += [-detectable, detectable]
            box = {"type": "rect", "x0": -detectable, "x1": detectable, "y0": y - 0.34, "y1": y + 0.34}
            shapes.append(box | {"fillcolor": role("grey", 0.18), "line": {"width": 0}, "layer": "below"})
        if contrast.low_usd is not None and contrast.high_usd is not None:
            reach += [contrast.low_usd, contrast.high_usd]
            ends = {"x": reach[-2:], "y": [y, y], "mode": "lines+markers"}
            mark = {"symbol": "line-ns", "size": 12, "line": {"width": 2, "color": role(style.role)}}
            form = f"interval: %{{x:{HOVER_SIGNED_USD}}}/session<extra></extra>"
            traces.append({**ends, "line": {**line(style, 3)}, "marker": mark, "hovertemplate": form})
        seeds = {"x": list(contrast.seed_means_usd), "y": [y - 0.2] * len(contrast.seed_means_usd)}
        mark = {"symbol": "circle-open", "size": 7, "color": role("ink"), "line": {"width": 1.4}}
        form = f"one seed: %{{x:{HOVER_SIGNED_USD}}}/session<extra></extra>"
        traces.append({**seeds, "mode": "markers", "marker": mark, "hovertemplate": form})
        reach += contrast.seed_means_usd
        if contrast.mean_usd is not None:
            reach.append(contrast.mean_usd)
            mark = {"symbol": style.symbol, "size": 11, "color": role(style.role)}
            form = f"mean: %{{x:{HOVER_SIGNED_USD}}}/session<extra></extra>"
            traces.append(
                {"x": [contrast.mean_usd], "y": [y], "mode": "markers", "marker": mark, "hovertemplate": form}
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
            "ticktext": names,
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
    pairs = zip(report.mean_by_session(arm), report.mean_by_session(against), strict=True)
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
        "xaxis": {"title": {"text": f"{chart_text(arm)} − {chart_text(against)} per session"}, "tickformat": AXIS_USD},
        "shapes": [zero_line("x"), zero_line("x", mean, "blue", "dot")],
        "hovermode": "closest",
        "bargap": 0.04,
    }
    return Figure([trace], layout, [("y", "Sessions")])


def folds_figure(folds: Sequence[Fold]) -> Figure:
    """The primary contrast by fold, with intervals if there are any."""
    known = [fold for fold in folds if fold.difference_usd is not None]
    style = Style("blue", "solid", "diamond")
    traces: list[dict[str, Any]] = []
    for fold in known:
        if fold.low_usd is not None and fold.high_usd is not None:
            ends = {"x": [fold.fold] * 2, "y": [fold.low_usd, fold.high_usd], "mode": "lines+markers"}
            caps = {"symbol": "line-ew", "size": 12, "line": {"width": 2, "color": role("blue")}}
            traces.append({**ends, "line": line(style, 3), "marker": caps, "hoverinfo": "skip"})
    ordinals = [fold.fold for fold in known]
    points = {"x": ordinals, "y": [fold.difference_usd for fold in known]}
    marker = {"symbol": "diamond", "size": 10, "color": role("blue")}
    form = f"fold %{{x}}: %{{y:{HOVER_SIGNED_USD}}}/session<extra></extra>"
    traces.append({**points, "mode": "markers", "marker": marker, "hovertemplate": form})
    layout = {
        "xaxis": {"title": {"text": "fold"}, "tickvals": ordinals, "range": [0.5, max([*ordinals, 1]) + 0.5]},
        "yaxis": {"tickformat": AXIS_USD},
        "shapes": [zero_line()],
        "hovermode": "closest",
    }
    return Figure(traces, layout, [("y", "Difference per session")])
