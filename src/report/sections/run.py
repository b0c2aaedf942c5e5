"""The sections about the run: learning, hardware, data and provenance, targets and phases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from src.evaluation.leak_words import compared_words
from src.report.page.blocks import (
    Chart,
    Choice,
    Column,
    Facts,
    Folded,
    Heading,
    Hint,
    Section,
    Table,
    Text,
    given,
    glossary,
    term,
)
from src.report.page.charts_run import (
    METRICS,
    learning_figure,
    machine_figure,
    machine_panels,
    metrics_of,
    time_figure,
)
from src.report.page.drawing import Arrays
from src.wording import NOTHING, duration, percent, plain, significant

Report = Mapping[str, Any]
STATUS = {
    "met": "met",
    "missed": "missed",
    "not_applicable": "not applicable",
}

ROWS_SHOWN = 8
METRIC_TERMS = {"entropy": "policy_entropy"}
"""Where the glossary has a metric under another key."""
TARGET_UNITS = {  # %: kept as a fraction; percent: kept in percent
    "execution_time": "s",
    "peak_memory": "GB",
    "gpu_utilization": "percent",
    "cache_hit_rate": "%",
    "steps_per_s": "steps/s",
    **{f"phase{n}_duration": "s" for n in (1, 2, 3)},
    **{f"phase{n}_gpu_utilization": "percent" for n in (1, 2, 3)},
}


def learning_section(report: Report, arrays: Arrays) -> Section:
    """Learning curves and training time."""
    blocks: list[Any] = []
    curves = report.get("learning", {}).get("curves", [])
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
    if report["training"]:
        table = Table("Training", _training_columns(), report["training"])
        folded = len(report["training"]) > ROWS_SHOWN
        blocks.append(Folded("Training by seed and phase", [table]) if folded else table)
    estimate = report.get("production_estimate")
    if estimate:
        nets = " x ".join(str(width) for width in estimate["net_arch"])
        words = Markup("{}: {} timesteps with networks of {} units would take {} at the {} steps/s measured over {}.")
        blocks.append(
            Text(
                words.format(
                    term("production", "Production"),
                    plain(estimate["timesteps"]),
                    nets,
                    duration(3600.0 * estimate["hours"]),
                    plain(estimate["steps_per_s"]),
                    f"{plain(estimate['measured_timesteps'])} timesteps",
                )
            )
        )
    return Section("learning", "Does it learn?", blocks)


def _training_columns() -> list[Column]:
    return [
        Column(term("training_phase", "phase"), lambda t: given(t["phase"]), numeric=False),
        Column("seed", lambda t: NOTHING if "seed" not in t else str(t["seed"])),
        Column(term("timesteps", "timesteps"), lambda t: plain(t["timesteps"])),
        Column("requested", lambda t: plain(t["timesteps_requested"])),
        Column(term("steps_per_s", "steps/s"), lambda t: plain(t["steps_per_s"])),
        Column("time", lambda t: duration(t["seconds"])),
        Column(term("rollout_share", "rollouts"), lambda t: percent(_share(t["rollout_s"], t["seconds"]))),
        Column(term("update_share", "updates"), lambda t: percent(_share(t["update_s"], t["seconds"]))),
    ]


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def machine_section(report: Report, arrays: Arrays) -> Section:
    """Hardware over time, and time by phase."""
    hardware = report["hardware"]
    blocks: list[Any] = [Text(_machine_words(hardware))]
    timeline = report.get("hardware_timeline")
    if timeline and machine_panels(timeline):
        n = len(machine_panels(timeline))
        caption = Markup("Hardware over the run, {} shaded alternately.").format(term("phase", "phases"))
        chart = Chart(
            "machine-chart", caption, str(caption.striptags()), 90 + 125 * n, [machine_figure(timeline, arrays)]
        )
        blocks.append(chart)
    else:
        blocks.append(Text(Markup("This run kept no hardware samples over time.")))
    times = report["phase_times"]
    if times:
        caption = Markup("{} by phase: {} in total.").format(
            term("execution_time", "Time"), duration(report["execution_time"])
        )
        says = "; ".join(f"{name}: {duration(seconds)}" for name, seconds in times.items())
        blocks.append(Chart("time-chart", caption, says, 70 + 27 * len(times), [time_figure(times)]))
    by_phase = [{"phase": name, **figures} for name, figures in hardware["phases"].items() if name]
    if by_phase:
        blocks.append(Folded("Hardware by phase", [Table("Hardware by phase", _machine_columns(), by_phase)]))
    return Section("machine", "Hardware", blocks)


def _machine_words(hardware: Mapping[str, Any]) -> Markup:
    cores = "an unknown number of" if hardware["cores"] is None else str(hardware["cores"])
    gpu = (
        Markup("GPU {}: {} utilization on average, {} at peak.").format(
            given(hardware["gpu_name"]),
            percent(_hundredth(hardware["average_gpu_percent"])),
            percent(_hundredth(hardware["peak_gpu_percent"])),
        )
        if hardware["gpu_available"]
        else Markup("No GPU readings ({}).").format(given(hardware["gpu_reason"] or "no reason recorded"))
    )
    words = Markup("{} cores; the run used {} on average. {}: {} GB. {}")
    return words.format(
        cores,
        plain(hardware["average_tree_cores"], 1),
        term("peak_memory", "Peak memory"),
        plain(hardware["peak_ram_gb"], 2),
        gpu,
    )


def _hundredth(value: float | None) -> float | None:
    return None if value is None else value / 100.0


def _machine_columns() -> list[Column]:
    return [
        Column(term("phase", "phase"), lambda p: given(p["phase"]), numeric=False),
        Column(term("samples", "samples"), lambda p: plain(p["samples"])),
        Column(term("machine_cpu", "CPU, %"), lambda p: plain(p["average_machine_cpu_percent"])),
        Column(term("tree_cores", "cores used"), lambda p: plain(p["average_tree_cores"], 2)),
        Column(term("peak_memory", "memory, GB"), lambda p: plain(p["peak_ram_gb"], 2)),
        Column(term("gpu_use", "GPU, %"), lambda p: plain(p["average_gpu_percent"])),
        Column("GPU memory, GB", lambda p: plain(p["peak_gpu_memory_gb"], 2)),
    ]


def provenance_section(report: Report, arrays: Arrays) -> Section:
    """Bars, settings and versions."""
    blocks: list[Any] = []
    if "data" in report:
        blocks += _data_blocks(report["data"])
    else:
        blocks.append(Text(Markup("This run used its own environment class and read no bars.")))
    run = report["run"]
    pairs: list[tuple[Markup | str, Markup | str]] = [
        ("mode", given(run["mode"])),
        ("market", given(run["market"])),
        (term("seed", "seed"), str(run["seed"])),
        ("device", Markup("{}, {} torch threads").format(given(run["device"]), run["torch_threads"])),
        (term("vec_env", "vec env"), Markup("{}: {}").format(given(run["vec_env"]), given(run["why_vec_env"]))),
    ]
    if learner := next((t for t in report["training"] if "learner" in t), None):
        pairs.append((term("learner", "learner"), f"{learner['learner']}: {learner['why_learner']}"))
    if "rules" in report:
        rules = report["rules"]
        words = Markup("{}, as of {}; {}").format(given(rules["profile"]), given(rules["as_of"]), given(rules["note"]))
        pairs.append((term("rule_profile", "rule profile"), words))
    if "look_ahead" in report:
        pairs.append((term("look_ahead", "look-ahead"), _look_ahead_words(report["look_ahead"])))
    if "advice" in report:
        pairs.append((term("advice_hash", "advice table"), given(report["advice"]["sha256"])))
    blocks += [Heading("The run"), Facts(pairs)]
    if "configuration" in report:
        settings = list(_flat(report["configuration"]))
        blocks.append(Folded(f"Configuration, {len(settings)} settings", [Facts(settings)]))
    else:
        blocks.append(Text(Markup("The effective configuration is in config.yaml, next to report.json.")))
    versions = [(given(name), given(version)) for name, version in run["versions"].items()]
    blocks.append(Folded("Versions", [Facts(versions)]))
    return Section("provenance", "Data and provenance", blocks)


def _look_ahead_words(check: Mapping[str, Any]) -> Markup:
    if check["passed"]:
        return Markup("no leak found by these checks: {}").format(given(compared_words(check)))
    return Markup("leak found: {}").format(given(check["found"]))


def _data_blocks(data: Mapping[str, Any]) -> list[Any]:
    left_out = "; ".join(f"{reason}: {plain(count)}" for reason, count in data["sessions_left_out"].items())
    repairs = "; ".join(f"{what}: {plain(count)}" for what, count in data["repairs"].items())
    pairs: list[tuple[Markup | str, Markup | str]] = [
        ("source", given(data["source"])),
        (term("fingerprint", "fingerprint"), given(data["fingerprint"])),
        ("bars", f"{plain(data['bars'])} of {data['interval_min']} min"),
        ("sessions", f"{plain(data['sessions_usable'])} of {plain(data['sessions'])} usable"),
        (term("left_out", "left out"), given(left_out or "none")),
        (term("repairs", "rows dropped"), given(repairs or "none")),
        (term("embargo", "embargo"), f"{data['embargo_sessions']} session(s) between parts"),
    ]
    columns = [
        Column(term("split", "part"), lambda p: p["part"], numeric=False),
        Column("sessions", lambda p: plain(p["sessions"])),
        Column("first", lambda p: p["first"], numeric=False),
        Column("last", lambda p: p["last"], numeric=False),
    ]
    parts = [{"part": name, **part} for name, part in data["split"].items()]
    return [Facts(pairs), Table("Data split by session, in time order", columns, parts)]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[Markup, Markup]]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            yield given(f"{prefix}{key}"), given(text)


def targets_section(report: Report, arrays: Arrays) -> Section:
    """The run's targets and its phases."""
    targets = [{"name": name, **target} for name, target in report["targets"].items()]
    columns = [
        Column(term("target", "target"), _target_name, numeric=False),
        Column("limit", _limit_words),
        Column("measured", lambda t: _with_unit(t["name"], t["measured"])),
        Column("status", _status_words, numeric=False),
    ]
    blocks: list[Any] = []
    if targets:
        note = Markup("* {}: decides the exit code.").format(term("required", "required"))
        blocks.append(Table("Targets", columns, targets, note))
    phases = [{"phase": name, **entry} for name, entry in report.get("phases", {}).items()]
    if phases:
        phase_columns = [
            Column(term("pipeline_phase", "phase"), lambda p: given(p["phase"]), numeric=False),
            Column("status", lambda p: given(p["status"].replace("_", " ")), numeric=False),
            Column("time", lambda p: duration(p["seconds"])),
            Column(term("timesteps", "timesteps"), lambda p: plain(sum(p.get("timesteps", {}).values()) or None)),
            Column(term("tries", "attempts"), lambda p: plain(p["tries"])),
            Column("note", _phase_note, numeric=False),
        ]
        blocks.append(Table("Phases", phase_columns, phases))
    else:
        blocks.append(Text(Markup("This run did not have the pipeline's phases.")))
    return Section("targets", "Targets and phases", blocks)


def _phase_note(phase: Mapping[str, Any]) -> str | Markup:
    """What failed in the phase, and why its result may differ in the last bits."""
    notes = [*phase.get("failures", ()), *phase.get("not_bitwise", ())]
    return given("; ".join(notes)) if notes else NOTHING


def _limit_words(target: Mapping[str, Any]) -> str:
    if target["target"] is None:
        return NOTHING
    return f"at {'most' if target['at_most'] else 'least'} {_with_unit(target['name'], target['target'])}"


def _target_name(target: Mapping[str, Any]) -> Markup:
    name = term(target["name"], target["name"]) if target["name"] in glossary() else given(target["name"])
    return name + " *" if target["required"] else name


def _with_unit(name: str, value: float | None) -> str:
    unit = TARGET_UNITS.get(name, "")
    if value is None or not unit:
        return significant(value)
    if unit in ("%", "percent"):
        return percent(value if unit == "%" else value / 100.0, 1)
    return f"{significant(value)} {unit}"


def _status_words(target: Mapping[str, Any]) -> Markup:
    words = Markup('<span class="status {}">{}</span>').format(target["status"], STATUS[target["status"]])
    said = target.get("reason") or target.get("remedy")
    return words + Markup(": {}").format(given(said)) if said else words
