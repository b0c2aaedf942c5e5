"""Section: learning curves, training time, and what production would take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from src.agent.members import Training
from src.agent.quarters import QUARTERS
from src.report.edge import change_words, edge_words
from src.report.model.edge import Edge
from src.report.model.learning import LearningTrend, StillLearning
from src.report.model.report import Report
from src.report.model.run import Curve, TrainingRow
from src.report.page.blocks import (
    Chart,
    Choice,
    Column,
    Figure,
    Folded,
    Hint,
    Named,
    Section,
    Table,
    Text,
    given,
    named,
    term,
)
from src.report.page.drawing import Arrays, chart_text, legend_entry, line, role, style_of, zero_line
from src.report.production_words import cost_lines, seeds_words, time_words
from src.wording import AXIS_USD, HOVER_USD, NOTHING, duration, percent, plain, usd

ROWS_SHOWN = 8
METRICS: Mapping[str, str] = {
    "mean_episode_reward": "Mean episode reward",
    "explained_variance": "Explained variance of the critic",
    "approx_kl": "KL divergence per update",
    "clip_fraction": "Clip fraction",
    "entropy": "Policy entropy, nats",
    "value_loss": "Value loss",
    "steps_per_s": "Timesteps per second",
}
"""Columns of a curve, in the order of the choice."""
METRIC_TERMS = {"entropy": "policy_entropy"}
"""Where the glossary has a metric under another key."""


def section(report: Report, arrays: Arrays) -> Section:
    """The section."""
    blocks: list[Any] = []
    # Folds train as the run does, on less.
    curves = [] if report.learning is None else [curve for curve in report.learning.curves if not curve.fold]
    metrics = metrics_of(curves)
    if metrics:
        caption = Markup(
            "Learning curves: thin lines are {}s, thick lines their mean; {} follows base training."
        ).format(term("seed", "seed"), term("fine_tuning", "fine-tuning"))
        figures = [learning_figure(curves, metric, arrays) for metric in metrics]
        choices = [Choice("Metric", [METRICS[metric] for metric in metrics])]
        blocks.append(Chart("learning-chart", caption, str(caption.striptags()), 380, figures, choices))
        names = Markup(", ").join(term(METRIC_TERMS.get(metric, metric)) for metric in metrics)
        blocks.append(Hint(Markup("Metrics: {}.").format(names)))
    else:
        blocks.append(Text(Markup("This run kept no learning curves.")))
    if report.training:
        table = Table("Training", _training_columns(), report.training)
        folded = len(report.training) > ROWS_SHOWN
        blocks.append(Folded("Training by seed and phase", [table]) if folded else table)
    if report.still_learning is not None:
        blocks += _still_learning(report.still_learning, arrays)
    if report.edge is not None:
        blocks += _edge(report.edge)
    if (estimate := report.production_estimate) is not None:
        words = Markup("{}: {} timesteps{} with networks of {} units would take {} at {} steps/s.")
        said = words.format(
            term("production", "Production"),
            plain(estimate.timesteps),
            seeds_words(estimate),
            " x ".join(str(width) for width in estimate.net_arch),
            time_words(estimate),
            plain(estimate.steps_per_s),
        )
        blocks.append(Text(said))
        blocks += [Text(given(line)) for line in cost_lines(estimate)]
    return Section("learning", "Does it learn?", blocks)


def _still_learning(section: StillLearning, arrays: Arrays) -> list[Any]:
    """The curve on validation sessions with the seeds' band, and its figures."""

    def at(place: int) -> Callable[[Named[LearningTrend]], str]:
        def cell(row: Named[LearningTrend]) -> str:
            steps, net = row.of.timesteps, row.of.net_usd_per_session
            if place >= len(net):
                return NOTHING
            seeds = [of_seed[place] for of_seed in row.of.seed_net_usd_per_session]
            band = f" ({usd(min(seeds))} to {usd(max(seeds))})" if len(seeds) > 1 else ""
            return f"{usd(net[place])}{band} at {plain(steps[place])}"

        return cell

    most = max(len(of.timesteps) for of in section.trainings.values())
    name = "quarter" if most == QUARTERS else "point"
    caption = Markup("{}? Net P&amp;L a session on {} validation sessions, by timesteps trained").format(
        term("still_learning", "Still learning"), section.sessions
    )
    columns = [
        Column(term("training_phase", "phase"), lambda row: given(row.name), numeric=False),
        *(Column(f"{name} {place + 1}", at(place)) for place in range(most)),
        Column("trend", lambda row: given(row.of.words), numeric=False),
    ]
    table = Table(caption, columns, named(section.trainings))
    if most < 2:
        return [table]
    n_seeds = len(section.seeds)
    seeds = Markup(" Lines are means over {} seeds; {} span the lowest to the highest seed.").format(
        n_seeds, term("seed_band", "bands")
    )
    of_chart = Markup("Net P&amp;L a session on {} validation sessions, by timesteps trained.").format(section.sessions)
    of_chart += seeds if n_seeds > 1 else Markup(" One seed.")
    says = "; ".join(f"{name}: {of.words}" for name, of in section.trainings.items())
    figure = quarters_figure(section, arrays)
    return [Chart("quarters-chart", of_chart, f"{of_chart.striptags()} {says}.", 320, [figure]), table]


def quarters_figure(section: StillLearning, arrays: Arrays) -> Figure:
    """A line for each training through its quarters, with the range over seeds; fine-tuning continues where base
    training ends."""
    names = list(section.trainings)
    base = section.trainings.get(Training.BASE)
    base_end = 0 if base is None else base.timesteps[-1]
    traces: list[dict[str, Any]] = []
    for name, of in section.trainings.items():
        style = style_of(name, names)
        shift = 0 if name == Training.BASE else base_end
        common = {"x": arrays.ref([step + shift for step in of.timesteps]), "type": "scatter", "legendgroup": name}
        if len(of.seed_net_usd_per_session) > 1:
            columns = list(zip(*of.seed_net_usd_per_session, strict=True))
            for edge, fill in ((min, "none"), (max, "tonexty")):
                band = {"y": arrays.ref([edge(column) for column in columns], 2), "fill": fill, "mode": "lines"}
                look = {"fillcolor": role(style.role, 0.14), "line": {"width": 0}, "hoverinfo": "skip"}
                traces.append({**common, **band, **look})
        marker = {"symbol": style.symbol, "size": 8, "color": role(style.role)}
        points = {"y": arrays.ref(of.net_usd_per_session, 2), "mode": "lines+markers", "name": chart_text(name, 24)}
        look = {"line": line(style), "marker": marker, "hovertemplate": f"%{{y:{HOVER_USD}}}/session"}
        traces.append({**common, **points, **look})
    layout = {
        "xaxis": {"title": {"text": "timesteps, base training first"}},
        "yaxis": {"tickformat": AXIS_USD},
        "shapes": [zero_line()],
    }
    legend = [legend_entry(name, style_of(name, names), kind="points") for name in names]
    return Figure(traces, layout, [("y", "Net P&L per session")], legend)


def _edge(edge: Edge) -> list[Any]:
    """RL alone against random trading before costs, and what would have to change."""
    said = Markup("{}: {}.").format(term("before_costs", "Before and after costs"), given(edge_words(edge)))
    changes = change_words(edge)
    return [Text(said), *([Text(Markup("To earn after costs: {}.").format(given(changes)))] if changes else [])]


def _training_columns() -> list[Column[TrainingRow]]:
    return [
        Column(term("training_phase", "phase"), lambda t: given(t.phase), numeric=False),
        Column("fold", lambda t: str(t.fold) if t.fold else NOTHING),
        Column("seed", lambda t: NOTHING if t.seed is None else str(t.seed)),
        Column(term("timesteps", "timesteps"), lambda t: plain(t.timesteps)),
        Column("requested", lambda t: plain(t.timesteps_requested)),
        Column(term("steps_per_s", "steps/s"), lambda t: plain(t.steps_per_s)),
        Column("time", lambda t: duration(t.seconds)),
        Column(term("rollout_share", "rollouts"), lambda t: percent(t.rollout_s / t.seconds if t.seconds else None)),
        Column(term("update_share", "updates"), lambda t: percent(t.update_s / t.seconds if t.seconds else None)),
    ]


def metrics_of(curves: Sequence[Curve]) -> list[str]:
    """The metrics that at least one curve has."""
    return [name for name in METRICS if any(value is not None for c in curves for value in c.column(name))]


def learning_figure(curves: Sequence[Curve], metric: str, arrays: Arrays) -> Figure:
    """A thin line per seed and a thick one for their mean; fine-tuning phases start where base training ends."""
    phases = list(dict.fromkeys(curve.phase for curve in curves))
    n_seeds = len({curve.seed for curve in curves})
    base_end = max((max(c.timesteps, default=0) for c in curves if c.phase == Training.BASE), default=0)
    traces = []
    for curve in curves:
        if not (values := curve.column(metric)):
            continue
        style = style_of(curve.phase, phases)
        shift = 0 if curve.phase == Training.BASE else base_end
        points = {"x": arrays.ref([step + shift for step in curve.timesteps]), "y": arrays.ref(values, 4)}
        name = f"{chart_text(curve.phase, 24)}, seed {curve.seed}"
        look = line(style, 1.6) if n_seeds == 1 else {"color": role(style.role, 0.4), "width": 1}
        lines = {"mode": "lines", "line": look, "legendgroup": curve.phase, "connectgaps": False}
        traces.append({**points, "name": name, **lines, "hovertemplate": "%{y:.4~g}"})
    if n_seeds > 1:
        for phase in phases:
            mean = _mean_curve([c for c in curves if c.phase == phase and c.column(metric)], metric)
            if mean is not None:
                steps, values = mean
                shift, style = (0 if phase == Training.BASE else base_end), style_of(phase, phases)
                points = {"x": arrays.ref([step + shift for step in steps]), "y": arrays.ref(values, 4)}
                lines = {"mode": "lines", "line": line(style, 2.2), "legendgroup": phase, "connectgaps": False}
                name = f"{chart_text(phase, 24)}, mean"
                traces.append({**points, **lines, "name": name, "hovertemplate": "%{y:.4~g}"})
    layout: dict[str, Any] = {"xaxis": {"title": {"text": "timesteps, base training first"}}}
    if base_end and len(phases) > 1:
        layout["shapes"] = [zero_line("x", base_end, "ink", "dot")]
    legend = [legend_entry(phase, style_of(phase, phases)) for phase in phases]
    return Figure(traces, layout, [("y", METRICS[metric])], legend)


def _mean_curve(curves: Sequence[Curve], metric: str) -> tuple[list[int], list[float | None]] | None:
    """Timesteps and the mean over seeds; None unless all seeds were logged at the same timesteps."""
    if len(curves) < 2 or any(curve.timesteps != curves[0].timesteps for curve in curves):
        return None
    columns = zip(*(curve.column(metric) for curve in curves), strict=True)
    return curves[0].timesteps, [None if None in values else sum(values) / len(values) for values in columns]
