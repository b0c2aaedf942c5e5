"""How much faster parts are than usual ways: `python -m src.benchmarks [part ...] [--repeats N] [--quick]`.

Shows the medians of both ways and their ratio; the last line is the same as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from src.agent.learner.products import processor_key
from src.benchmarks import bars, clock_cost, cluster_model, parts, ray_overhead, scaling, trials
from src.console import PlainConsole, uncut
from src.errors import UserError
from src.shell import Parser, run_main
from src.suggestions import did_you_mean
from src.wording import measured

COLUMNS = 80
ALONE: Mapping[str, Callable[..., None]] = {
    "bars": bars.run, "settings": trials.run, "clock": clock_cost.run, "ray": ray_overhead.run,
    "cluster": cluster_model.run,

}  # fmt: skip
"""Parts with tables of their own, measured alone: files loaded in processes of their own, other settings against the
defaults, the cost of telling the parts of a training's time apart, and of a member on Ray; and a model of clusters."""
SCALING = "scaling"
"""Speed by size, measured alone too, which has a page of its own."""
SHORTEST_BLOCK_S, SHORTEST_BLOCK_QUICK_S = 0.05, 0.005
"""A measured block calls its function until it has lasted this long: the clock and the loop then weigh nothing."""


def show(console: Console, results: Sequence[parts.Result]) -> None:
    """The table of medians; `want` is the least ratio and the longest time aimed at, where there are such."""
    table = Table(title="Medians of one operation, common way against ours")
    table.add_column("part")
    table.add_column("case")
    for heading in ("common", "ours", "ratio", "want"):
        table.add_column(heading, justify="right")
    for r in results:
        wants = [f"{r.target:g}x"] if r.target is not None else []
        wants += [measured(r.at_most_s)] if r.at_most_s is not None else []
        table.add_row(r.part, r.case, measured(r.common_s), measured(r.ours_s), f"{r.ratio:.1f}x", ", ".join(wants))
    console.print(uncut(table))


def _values(result: parts.Result) -> dict[str, Any]:
    return {
        "part": result.part,
        "case": result.case,
        "common_us": round(result.common_s * 1e6, 3),
        "ours_us": round(result.ours_s * 1e6, 3),
        "ratio": round(result.ratio, 2),
        "target": result.target,
        "at_most_us": None if result.at_most_s is None else round(result.at_most_s * 1e6, 3),
        "per_s": round(1.0 / result.ours_s, 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts asked for, all by default. 0, or 2 for an unknown part or one that is asked for by name and
    cannot be measured here; the ratios decide nothing."""
    parser = Parser("Parts against the common way.", prog="python -m src.benchmarks")
    known = f"{', '.join(parts.PARTS)} or one of {', '.join([*ALONE, SCALING])} (alone)"
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {known}; those if left out")
    parser.add_argument("--repeats", type=int, default=9, help="measured blocks of each way (default 9)")
    parser.add_argument("--quick", action="store_true", help="three short blocks: shows that it runs, not how fast")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=f"of {SCALING} (default docs/{scaling.PAGE.name}; none with --quick)",
    )
    options = parser.parse_args(arguments)
    console = PlainConsole(width=COLUMNS)
    if len(options.parts) == 1 and options.parts[0] in ALONE:
        ALONE[options.parts[0]](console, quick=options.quick)
        return 0
    if options.parts == [SCALING]:
        scaling.run(console, quick=options.quick, output=options.output or (None if options.quick else scaling.PAGE))
        return 0
    if options.output is not None:
        parser.error(f"--output belongs to {SCALING}: the other parts write no file")
    for name in options.parts:
        if name not in parts.PARTS:
            parser.error(f"no part {name!r}{did_you_mean(name, [*parts.PARTS, *ALONE, SCALING])}; there are {known}")
    if options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}; it must be at least 1")
    repeats = min(3, options.repeats) if options.quick else options.repeats
    block_s = SHORTEST_BLOCK_QUICK_S if options.quick else SHORTEST_BLOCK_S
    results: list[parts.Result] = []
    not_measured = {}
    for name in dict.fromkeys(options.parts or parts.PARTS):
        try:
            results += [parts.measure(name, comparison, repeats, block_s) for comparison in parts.PARTS[name]()]
        except UserError as error:
            if options.parts:
                parser.error(str(error))
            not_measured[name] = str(error)
            console.print(f"{name}: not measured. {error}")
    show(console, results)
    console.print(f"Processor: {processor_key()}")
    line = {
        "processor": processor_key(),
        "repeats": repeats,
        "quick": options.quick,
        "not_measured": not_measured,
        "results": [_values(result) for result in results],
    }
    console.print(json.dumps(line), soft_wrap=True)
    return 0


if __name__ == "__main__":
    run_main(main)
