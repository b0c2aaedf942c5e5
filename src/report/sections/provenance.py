"""Section: bars, settings and versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from src.report.model.bars import Data, SplitPart
from src.report.model.report import Report, RunReport
from src.report.model.run import LookAhead
from src.report.page.blocks import Column, Facts, Folded, Heading, Named, Section, Table, Text, Words, given, term
from src.report.page.drawing import Arrays
from src.wording import plain


def section(report: Report, arrays: Arrays) -> Section:
    """The section."""
    blocks: list[Any] = []
    if report.data is not None:
        blocks += _data_blocks(report.data)
    elif isinstance(report, RunReport) and report.markets is not None:
        blocks.append(Text(Markup("The bars are described with each market.")))
    else:
        blocks.append(Text(Markup("This run used its own environment class and read no bars.")))
    blocks += [Heading("The run"), Facts(_run_facts(report))]
    if report.configuration is not None:
        settings = list(_flat(report.configuration))
        blocks.append(Folded(f"Configuration, {len(settings)} settings", [Facts(settings)]))
    else:
        blocks.append(Text(Markup("The effective configuration is in config.yaml, next to report.json.")))
    versions = [(given(name), given(version)) for name, version in report.run.versions.items()]
    blocks.append(Folded("Versions", [Facts(versions)]))
    return Section("provenance", "Data and provenance", blocks)


def _run_facts(report: Report) -> list[tuple[Words, Words]]:
    run = report.run
    pairs: list[tuple[Words, Words]] = [
        ("mode", given(run.mode)),
        ("market", given(run.market)),
        (term("seed", "seed"), str(run.seed)),
        ("device", Markup("{}, {} torch threads").format(given(run.device), run.torch_threads)),
        (term("vec_env", "vec env"), Markup("{}: {}").format(given(run.vec_env), given(run.why_vec_env))),
    ]
    if run.workers is not None:
        pairs.append(("workers", str(run.workers)))
    if learner := next((row for row in report.training if row.learner), None):
        pairs.append((term("learner", "learner"), f"{learner.learner}: {learner.why_learner}"))
        if learner.precision is not None:
            pairs.append(("precision of the update", learner.precision))
    if (rules := report.rules) is not None:
        words = Markup("{}, as of {}; {}").format(given(rules.profile), given(rules.as_of), given(rules.note))
        pairs.append((term("rule_profile", "rule profile"), words))
    if report.look_ahead is not None:
        pairs.append((term("look_ahead", "look-ahead"), _look_ahead_words(report.look_ahead)))
    if report.advice is not None:
        pairs.append((term("advice_hash", "advice table"), given(report.advice.sha256)))
    return pairs


def _look_ahead_words(check: LookAhead) -> Markup:
    if check.passed:
        return Markup("no leak found by these checks: {}").format(given(check.compared))
    return Markup("leak found: {}").format(given(check.found))


def _data_blocks(data: Data) -> list[Any]:
    left_out = "; ".join(f"{reason}: {plain(count)}" for reason, count in data.sessions_left_out.items())
    repairs = "; ".join(f"{what}: {plain(count)}" for what, count in data.repairs.items())
    pairs: list[tuple[Words, Words]] = [
        ("source", given(data.source)),
        (term("fingerprint", "fingerprint"), given(data.fingerprint)),
        ("bars", f"{plain(data.bars)} of {data.interval_min} min"),
        ("sessions", f"{plain(data.sessions_usable)} of {plain(data.sessions)} usable"),
        (term("left_out", "left out"), given(left_out or "none")),
        (term("repairs", "rows dropped"), given(repairs or "none")),
        (term("embargo", "embargo"), f"{data.embargo_sessions} session(s) between parts"),
    ]
    columns: list[Column[Named[SplitPart]]] = [
        Column(term("split", "part"), lambda p: p.name, numeric=False),
        Column("sessions", lambda p: plain(p.of.sessions)),
        Column("first", lambda p: p.of.first, numeric=False),
        Column("last", lambda p: p.of.last, numeric=False),
    ]
    parts = [Named(name, part) for name, part in data.split]
    return [Facts(pairs), Table("Data split by session, in time order", columns, parts)]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[Words, Words]]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            yield given(f"{prefix}{key}"), given(text)
