"""Compare runs on the sealed sessions they share, arm by arm, and list the settings that differ.

    python -m src.report.compare RUN RUN ... [--market NQ] [--output FILE]

RUN is a run's folder, or its report.json. Every later run is compared with the first. Exit codes: 0 compared, 2 runs
that cannot be compared: other bars, other rules, no shared session, or no report that can be read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from src.console import PlainConsole, uncut
from src.errors import EXIT_OK, UserError
from src.files import write_json
from src.plain_text import beginning, foreign
from src.report.comparison import ArmContrast, Comparison, ComparisonError, compare, read_runs
from src.shell import Parser, print_paragraph, run_main
from src.statistics.samples import sample_size
from src.wording import plain, signed_usd, usd

NOT_SET = "(not set)"
LONGEST_VALUE = 120
"""Characters of a setting's value on the console; the file has all of it."""


def print_comparison(console: Console, compared: Comparison) -> None:
    """Print the judgement, the runs, what differs in their settings, and every contrast. Fits 80 columns."""
    console.print(Text(judgement(compared), style="bold"))
    console.print(Padding(Text(_basis(compared)), (0, 0, 0, 2), expand=False))
    console.print()
    console.print(_runs_table(compared))
    console.print()
    if compared.settings:
        console.print(_settings_table(compared))
    else:
        console.print(Text("No setting differs."))
    for run in compared.runs[1:]:
        contrasts = [contrast for contrast in compared.contrasts if contrast.run == run.label]
        differing = [contrast for contrast in contrasts if not contrast.identical]
        console.print()
        if differing:
            console.print(_contrasts_table(run.label, compared.runs[0].label, differing))
        if alike := [contrast.arm for contrast in contrasts if contrast.identical]:
            same = f"The same in every session of {compared.runs[0].label} and {run.label}: {', '.join(alike)}."
            console.print(Text(same))
    if told := notes(compared):
        console.print()
    for note in told:
        console.print(Text(note))


def judgement(compared: Comparison) -> str:
    """What the contrasts show together, in one or two sentences."""
    if all(contrast.identical for contrast in compared.contrasts):
        return "No difference: every arm has the same net P&L in every shared session."
    if sample_size(len(compared.sessions)).level == "none":
        return "Cannot say: not enough shared sessions."
    first, *later = (run.label for run in compared.runs)
    said = []
    for label in later:
        own = [contrast for contrast in compared.contrasts if contrast.run == label]
        more, less = ([c.arm for c in own if c.sign == sign] for sign in (1, -1))
        parts = [f"{words} with {', '.join(arms)}" for words, arms in (("more", more), ("less", less)) if arms]
        if parts:
            said.append(f"{label} earns {' and '.join(parts)} than {first}.")
    return " ".join(said) or "No difference shown: no arm earns more or less beyond what chance explains."


def _basis(compared: Comparison) -> str:
    dates, rules = compared.sessions, compared.rules
    sample = sample_size(len(dates))
    few = "" if sample.level == "enough" else f": {sample.words}"
    return (
        f"{compared.market}, {len(dates)} shared sealed sessions, {dates[0]} to {dates[-1]}{few}. Bars "
        f"{compared.bars_fingerprint[:12]}, rules {rules.profile} as of {rules.as_of}."
    )


def _runs_table(compared: Comparison) -> Table:
    table = _table("Runs")
    for heading in ("", "name", "seeds", "sealed sessions"):
        table.add_column(heading, justify="right" if heading == "sealed sessions" else "left")
    for run in compared.runs:
        seeds = ", ".join(map(str, run.seeds)) or "-"
        table.add_row(Text(run.label), Text(run.name), Text(seeds), str(run.sealed_sessions))
    return uncut(table)


def _settings_table(compared: Comparison) -> Table:
    table = _table("Settings that differ")
    labels = [run.label for run in compared.runs]
    for heading in ("key", *labels):
        table.add_column(heading)
    for key, values in compared.settings.items():
        cells = [_value(values[label]) if label in values else NOT_SET for label in labels]
        table.add_row(Text(key), *map(Text, cells))
    return uncut(table)


def _value(value: Any) -> str:
    """As YAML writes it, on one line; a checksum shortened."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:12]
    return beginning(" ".join(text.split()), LONGEST_VALUE)


def _contrasts_table(run: str, first: str, contrasts: Sequence[ArmContrast]) -> Table:
    table = _table(f"{run} - {first}: net P&L per session, after costs")
    for heading in ("arm", first, run, "difference", "95% CI", "Holm p", "seed s.e."):
        table.add_column(heading, justify="left" if heading == "arm" else "right")
    for contrast in contrasts:
        low, high = contrast.low_usd, contrast.high_usd
        table.add_row(
            Text(contrast.arm), usd(contrast.against_usd), usd(contrast.usd), signed_usd(contrast.mean_usd),
            "-" if low is None or high is None else f"{signed_usd(low)} to {signed_usd(high)}",
            "-" if contrast.holm_p_value is None else plain(contrast.holm_p_value, 3),
            "-" if contrast.seed_error_usd is None else usd(contrast.seed_error_usd),
        )  # fmt: skip
    return uncut(table)


def notes(compared: Comparison) -> list[str]:
    """What must be known to read the contrasts."""
    lines = []
    tested = sum(contrast.holm_p_value is not None for contrast in compared.contrasts)
    if tested:
        lines.append(
            f"No contrast was fixed in advance, so p-values are adjusted for {tested} (Holm). Intervals are not, and "
            "cover sessions only. seed s.e.: standard error over seeds."
        )
    doubtful = [
        f"{c.arm} of {c.run}"
        for c in compared.contrasts
        if c.sign and c.mean_usd is not None and (c.seed_error_usd or 0.0) * 2 > abs(c.mean_usd)
    ]
    if doubtful:
        lines.append(f"Other seeds may undo it: {', '.join(doubtful)} (under two standard errors over seeds).")
    single = [run.label for run in compared.runs if len(run.seeds) < 2]
    if tested and single:
        lines.append(f"One seed in {', '.join(single)}: how far another seed would differ is not known.")
    noisiest = max(compared.contrasts, key=lambda c: c.minimum_detectable_usd or 0.0)
    if tested and (least := noisiest.minimum_detectable_usd):
        arm = f"{noisiest.arm} of {noisiest.run}"
        lines.append(f"Effects below {usd(least)}/session would usually be missed in {arm}, the noisiest.")
    for run in compared.runs:
        if run.leaked:
            lines.append(f"A leak check failed in {run.label}: its figures may come from the future.")
        if len(compared.sessions) < run.sealed_sessions:
            left_out = run.sealed_sessions - len(compared.sessions)
            lines.append(f"{left_out} sealed sessions of {run.label} are left out: not every run has them.")
    for label, arms in compared.arms_only_in().items():
        lines.append(f"Not in every run: {', '.join(arms)} of {label}.")
    return lines


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=None, pad_edge=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, write; the exit code."""
    parser = Parser("Compare runs on the sealed sessions they share, arm by arm.", prog="python -m src.report.compare")
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="a run's folder or report.json; the first is compared with"
    )
    parser.add_argument("--market", metavar="SYMBOL", help="of runs of several markets: the one to compare")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the comparison there, as JSON")
    options = parser.parse_args(arguments)
    try:
        compared = compare(read_runs(options.runs, options.market))
        if options.output is not None:
            _write(compared, options.output)
    except UserError as error:
        print_paragraph(f"error: {error}")
        return error.exit_code
    console = PlainConsole()
    print_comparison(console, compared)
    if options.output is not None:
        console.print(Text(f"Figures: {options.output}"), soft_wrap=True)
    return EXIT_OK


def _write(compared: Comparison, path: Path) -> None:
    try:
        write_json(path, compared.to_json_dict())
    except OSError as error:
        raise ComparisonError(
            f"The comparison {foreign(path)} cannot be written ({error.strerror or error}): free some space, or name a "
            "file in a folder that exists."
        ) from error


if __name__ == "__main__":
    run_main(main)
