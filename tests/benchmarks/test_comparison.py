"""Two runs compared: the statistics, what may be compared, and what is said of it."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.benchmarks.claims import AS_PROMISED, LESS, MORE, NOT_MEASURED, claims_of, reasons_of
from src.benchmarks.comparison import (
    FASTER,
    SAME,
    SLOWER,
    UNKNOWN,
    ComparisonError,
    compare_runs,
    ratio_interval,
)
from src.benchmarks.file import BenchmarkRun
from src.benchmarks.output import (
    BEGIN,
    END,
    ReadmeError,
    as_html,
    as_json,
    as_markdown,
    as_table,
    rows_below,
    update_readme,
)
from src.benchmarks.wording import duration, ratio_words
from tests.benchmark_makers import row, run, story
from tests.golden_forms import golden

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "comparison_table.txt"

times = st.lists(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=6), min_size=1, max_size=9)


def noisy(rng: np.random.Generator, factor: float, drift: np.ndarray) -> list[list[float]]:
    """Seconds as a shared machine gives them: a drift both sides meet, each process 4% off its own way, repeats 3%,
    and one in twenty disturbed by a third or so."""
    processes = drift + rng.normal(0, 0.04, len(drift))
    repeats = processes[:, None] + rng.normal(0, 0.03, (len(drift), 5))
    repeats += (rng.random(repeats.shape) < 0.05) * rng.exponential(0.3, repeats.shape)
    return (factor * 1e-3 * np.exp(repeats)).tolist()


def noisy_verdicts(factor: float, n_rows: int, seed: int) -> list[str]:
    """Verdicts on rows of a pair whose second side takes `factor` times as long."""
    rng = np.random.default_rng(seed)
    rows: tuple[list[Any], list[Any]] = ([], [])
    for index in range(n_rows):
        drift = np.cumsum(rng.normal(0, 0.08, 8))
        for side, slow in zip(rows, (1.0, factor), strict=True):
            side.append(row("suite", str(index), noisy(rng, slow, drift)))
    return [compared.verdict for compared in compare_runs(run("optimized", rows[0]), run("optimized", rows[1])).rows]


def test_the_same_mode_twice_shows_no_difference_in_95_of_100_rows() -> None:
    verdicts = noisy_verdicts(1.0, n_rows=300, seed=1)
    assert verdicts.count(SAME) >= 0.95 * len(verdicts)


def test_one_mode_twice_counts_the_rows_without_a_difference() -> None:
    seconds = {"same": 1.0, "nearly": 1.02, "slower": 1.5, "faster": 0.5}
    first = run("optimized", [row("s", case, 1.0) for case in seconds])
    second = run("optimized", [row("s", case, taken) for case, taken in seconds.items()])
    compared = compare_runs(first, second)
    for written in (as_table, as_markdown, as_html):
        assert "2 of 4 rows show no difference (50.0%)." in written(compared)
    assert json.loads(as_json(compared))["rows_alike"] == 2
    assert len(json.loads(as_json(compared))["rows"]) == 4
    unlike = compare_runs(run("baseline", first.rows), second)
    assert "rows show no difference" not in as_table(unlike)
    assert json.loads(as_json(unlike))["rows_alike"] is None


def test_too_few_repeats_are_not_counted_as_no_difference() -> None:
    rows = [row("s", "c", [[1.0, 1.0]])]
    assert "0 of 1 rows show no difference (0.0%)." in as_table(
        compare_runs(run("baseline", rows), run("baseline", rows))
    )


def test_a_slow_down_of_20_percent_is_found() -> None:
    verdicts = noisy_verdicts(1.2, n_rows=100, seed=2)
    assert verdicts.count(SLOWER) >= 95
    assert FASTER not in verdicts


def test_a_speed_up_of_20_percent_is_found() -> None:
    assert noisy_verdicts(1 / 1.2, n_rows=40, seed=3).count(FASTER) >= 38


@given(times, times)
def test_the_ratio_of_runs_apart_is_that_of_their_medians(first: list[list[float]], second: list[list[float]]) -> None:
    ratio, _ = ratio_interval(first, second, paired=False)
    # The median of an even number of logs is the geometric mean of the middle two.
    middles = [np.exp(statistics.median(np.log([statistics.median(r) for r in side]))) for side in (first, second)]
    assert ratio == pytest.approx(middles[0] / middles[1], rel=1e-9)


@given(st.lists(st.tuples(*[st.lists(st.floats(1e-9, 1e3), min_size=3, max_size=5)] * 2), min_size=1, max_size=9))
def test_the_ratio_of_a_pair_is_the_median_over_its_pairs(pairs: list[tuple[list[float], list[float]]]) -> None:
    first, second = [list(side) for side in zip(*pairs, strict=True)]
    ratio, interval = ratio_interval(first, second, paired=True)
    logs = sorted(np.log(statistics.median(a)) - np.log(statistics.median(b)) for a, b in pairs)
    assert np.log(ratio) == pytest.approx(statistics.median(logs), abs=1e-9)
    assert interval is not None
    assert interval[0] <= ratio <= interval[1]


@given(times, times, st.booleans(), st.floats(0.01, 100))
def test_a_slower_first_side_moves_ratio_and_interval_alike(
    first: list[list[float]], second: list[list[float]], paired: bool, factor: float
) -> None:
    ratio, interval = ratio_interval(first, second, paired=paired)
    slowed = [[factor * value for value in repeats] for repeats in first]
    other, moved = ratio_interval(slowed, second, paired=paired)
    assert other == pytest.approx(factor * ratio, rel=1e-6)
    if interval is None:
        assert moved is None
    else:
        assert moved == pytest.approx([factor * bound for bound in interval], rel=1e-6)


def test_what_slows_both_of_a_pair_down_cancels() -> None:
    drift = [1.0, 3.0, 1.5, 4.0, 2.0, 5.0, 1.2, 2.5]
    first = [[1.10 * d, 1.11 * d, 1.12 * d] for d in drift]
    second = [[1.00 * d, 1.01 * d, 1.02 * d] for d in drift]
    _, paired = ratio_interval(first, second, paired=True)
    _, apart = ratio_interval(first, second, paired=False)
    assert paired is not None
    assert apart is not None
    assert 1.05 < paired[0] < paired[1] < 1.15
    assert apart[0] < 1.0 < apart[1]


def test_repeats_that_agree_do_not_hide_that_processes_differ() -> None:
    """Forty repeats a side, but only eight processes: pooled, the interval would be a fifth as wide and miss 1."""
    levels = ([1.30, 0.80, 1.25, 0.90, 1.20, 0.85, 1.22, 1.21], [1.00, 1.02, 0.98, 1.01, 0.99, 1.00, 1.01, 0.99])
    first, second = ([[level * (1 + 1e-4 * k) for k in range(5)] for level in side] for side in levels)
    ratio, interval = ratio_interval(first, second, paired=True)
    assert ratio > 1.15
    assert interval is not None
    assert interval[0] < 0.95


def test_within_one_process_repeats_are_all_there_is() -> None:
    first, second = [[2.0, 2.2, 2.1, 2.05, 2.15]], [[1.0, 1.1, 1.05, 1.02, 1.07]]
    ratio, interval = ratio_interval(first, second, paired=True)
    assert ratio == pytest.approx(2.1 / 1.05)
    assert interval is not None
    assert 2.0 / 1.1 <= interval[0] < 2.0 < interval[1] <= 2.2 / 1.0


def test_two_repeats_are_no_interval() -> None:
    compared = compare_runs(run("baseline", [row("s", "c", [[2.0, 2.0]])]), run("optimized", [row("s", "c", [[1, 1]])]))
    (only,) = compared.rows
    assert (only.low, only.high, only.verdict) == (None, None, UNKNOWN)
    assert only.is_below(2.5)
    assert not only.is_below(1.9)


@pytest.mark.parametrize(("factor", "verdict"), [(1.02, SAME), (1 / 1.02, SAME), (1.05, FASTER), (1 / 1.05, SLOWER)])
def test_a_difference_under_3_percent_is_none_however_sure(factor: float, verdict: str) -> None:
    (only,) = compare_runs(run("baseline", [row("s", "c", factor)]), run("optimized", [row("s", "c", 1.0)])).rows
    assert only.low == only.high == pytest.approx(factor)
    assert only.verdict == verdict


def test_a_row_is_below_a_bound_with_its_whole_interval() -> None:
    spread = [[level] * 3 for level in (0.8, 0.82, 0.84, 0.86, 0.88, 0.9, 0.92, 0.94)]
    compared = compare_runs(run("baseline", [row("s", "c", spread)]), run("optimized", [row("s", "c", 1.0)]))
    (only,) = compared.rows
    assert only.ratio == pytest.approx(0.87, rel=1e-3)
    assert only.high is not None
    assert 0.88 < only.high < 0.95
    assert rows_below(compared, 0.96) == [only]
    assert rows_below(compared, 0.88) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("processor", "Other"), ("architecture", "arm64"), ("system", "Darwin"), ("cores", 8), ("memory_gib", 32)],
)
def test_another_machine_is_refused_by_name(name: str, value: object) -> None:
    first, second = run("baseline", [row("s", "c", 1.0)]), run("optimized", [row("s", "c", 1.0)], {name: value})
    with pytest.raises(ComparisonError, match=f"{name} .* and {value}") as refused:
        compare_runs(first, second)
    assert "--anyway" in str(refused.value)
    compared = compare_runs(first, second, anyway=True)
    assert len(compared.rows) == 1
    assert any(name in note and str(value) in note for note in compared.notes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workload": {"size": 2}}, "s, c has size 1 and 2"),
        ({"workload": {"size": 1, "model": "tiny"}}, "s, c has model none and tiny"),
        ({"unit": "batch"}, "s, c counts a call and a batch"),
        ({"case": "d"}, "s, c is only in the first; s, d is only in the second"),
    ],
)
def test_other_work_is_refused_by_name_and_never_compared(changes: dict[str, Any], said: str) -> None:
    common = row("s", "common", 1.0)
    first = run("baseline", [row("s", "c", 1.0), common])
    second = run("optimized", [replace(row("s", "c", 1.0), **changes), common])
    with pytest.raises(ComparisonError, match=said):
        compare_runs(first, second)
    compared = compare_runs(first, second, anyway=True)
    assert [r.first.case for r in compared.rows] == ["common"]
    with pytest.raises(ComparisonError, match="no row in common"):
        compare_runs(first, run("optimized", second.rows[:1]), anyway=True)


def test_a_quick_run_is_not_compared_with_a_whole_one() -> None:
    rows = [row("s", "c", 1.0)]
    with pytest.raises(ComparisonError, match="quick off and on"):
        compare_runs(run("baseline", rows), run("optimized", rows, quick=True))


def test_many_differences_are_counted_not_recited() -> None:
    rows = [row("s", str(i), 1.0) for i in range(9)]
    with pytest.raises(ComparisonError, match="and 7 more") as refused:
        compare_runs(run("baseline", rows), run("optimized", [row("t", "c", 1.0)]))
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"revision": {"commit": "fedcba987654aa", "changed": True}}, "revision differs: 0123456789ab and fedcba98765"),
        ({"pair": "another"}, "not measured in turns"),
        ({"quick": True}, "not how fast"),
        ({"not_measured": {"advice": "no model"}}, "advice was not measured: no model"),
    ],
)
def test_what_the_figures_depend_on_is_said(changes: dict[str, Any], said: str) -> None:
    rows = [row("s", "c", 1.0)]
    first = run("baseline", rows, quick=changes.get("quick", False))
    notes = compare_runs(first, run("optimized", rows, **changes)).notes
    assert any(said in note for note in notes), notes
    assert not compare_runs(run("baseline", rows), run("optimized", rows)).notes


def test_one_process_busy_cores_and_other_libraries_are_said() -> None:
    rows = [row("s", "c", [[1.0, 1.1, 1.2]])]
    busy = run("optimized", rows)
    state = {**busy.machine["state"], "cores_free": 0.7}
    busy = replace(busy, machine={**busy.machine, "state": state, "versions": {"torch": "3.0"}})
    notes = " ".join(compare_runs(run("baseline", rows), busy).notes)
    for said in (
        "One process a mode",
        "1.3 cores were taken when optimized",
        "version of torch differs: 2.9.0 and 3.0",
    ):
        assert said in notes


def measured_lines(second: BenchmarkRun) -> list[str]:
    page = as_html(compare_runs(run("baseline", [row("s", "c", 1.0)]), second, anyway=True))
    return [line.removeprefix("<p>").removesuffix("</p>") for line in page.splitlines() if "Measured" in line]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"identity": {"processor": "Fastmatic"}}, "Fastmatic, 2 cores, 16 GiB, revision 0123456789ab; 8 processes"),
        ({"revision": {"commit": "fedcba987654aa", "changed": True}}, "revision fedcba987654 changed; 8 processes"),
        ({"rows": [row("s", "c", [[1.0] * 5] * 9)]}, "revision 0123456789ab; 9 processes a mode, 5 repeats"),
        ({"repeats": 7}, "8 processes a mode, 7 repeats each"),
    ],
)
def test_both_files_say_where_they_were_measured_if_not_alike(changes: dict[str, Any], said: str) -> None:
    lines = measured_lines(run("optimized", **{"rows": [row("s", "c", 1.0)], **changes}))
    first = "Slowmatic 2000, 2 cores, 16 GiB, revision 0123456789ab; 8 processes a mode, 5 repeats each."
    assert lines[0] == f"Measured 2026-11-20 (baseline) on {first}"
    assert len(lines) == 2
    assert lines[1].startswith("Measured 2026-11-20 (optimized) on ")
    assert said in lines[1]


def test_files_measured_alike_say_it_once() -> None:
    rows = [row("s", "c", 1.0)]
    (alike,) = measured_lines(run("optimized", rows))
    assert alike.startswith("Measured 2026-11-20 on Slowmatic 2000, 2 cores, 16 GiB")
    (later,) = measured_lines(run("optimized", rows, created="2026-11-21T00:10:00+00:00"))
    assert later.startswith("Measured 2026-11-20 and 2026-11-21 on Slowmatic 2000")


def test_the_share_of_the_bound_is_that_of_each_process() -> None:
    whole = row("training", "end to end", [[2.0] * 3, [4.0] * 3, [10.0] * 3])
    products = row("training", "matrix products alone", [[1.0] * 3, [1.0] * 3, [1.0] * 3])
    notes = compare_runs(run("baseline", [whole, products]), run("optimized", [whole, products])).notes
    assert "Training reaches 0.25 (baseline) and 0.25 (optimized) of the speed of its matrix products alone." in notes


def test_each_promise_stands_beside_its_measurement() -> None:
    claims = {claim.what: claim for claim in claims_of(compare_runs(*story()))}
    told = {what: (claim.promised, claim.measured, claim.verdict) for what, claim in claims.items()}
    assert told == {
        "Decision fusion, batch 32": ("10-100x", "5.00x", LESS),
        "Decision fusion, batch 65,536": ("10-100x", "195x", MORE),
        "Environment creation, session batch": ("5-10x", "8.00x", AS_PROMISED),
        "Environment creation, gymnasium environment": ("5-10x", "1.00x", LESS),
        "Reduced network, training": ("2-3x", "2.00x", AS_PROMISED),
        "Features at 70% hits, 1,000 rows": ("3x", "0.0400x", LESS),
        "Features at 70% hits, 10,000 rows": ("3x", "0.0350x", LESS),
        "Reduced network, parameters": ("0.5 of them", "0.33 of them", MORE),
    }
    assert all(bool(claim.reason) == (claim.verdict == LESS) for claim in claims.values())
    assert claims["Decision fusion, batch 32"].reason.startswith("98% of the 4.00 us is the cost of the call")
    assert "here 60.0 ns became 1.50 us" in claims["Features at 70% hits, 1,000 rows"].reason


def test_every_row_that_falls_short_has_its_reason() -> None:
    sides = []
    for mode, rest in (("baseline", (60e-9, 70e-9, 70e-9)), ("optimized", (1.5e-6, 2e-6, 2e-6))):
        cases = zip(("1,000 rows", "10,000 rows", "100,000 rows"), rest, strict=True)
        sides.append(run(mode, [row("cache", case, seconds) for case, seconds in cases]))
    compared = compare_runs(*sides)
    reasons = reasons_of(claims_of(compared))
    begins = [reason.partition(" At 70%")[0] for reason in reasons]
    # The second and the third took the same, so that one sentence holds for both.
    assert begins == ["Features at 70% hits, 1,000 rows:", "Features at 70% hits, 10,000 rows and 100,000 rows:"]
    assert "here 60.0 ns became 1.50 us" in reasons[0]
    assert "here 70.0 ns became 2.00 us" in reasons[1]
    assert all(" ".join(reason.split()) in " ".join(as_table(compared).split()) for reason in reasons)
    assert all(f"- {reason}" in as_markdown(compared) for reason in reasons)


def test_what_was_not_measured_is_not_claimed() -> None:
    first, second = (replace(side, rows=side.rows[:1]) for side in story())
    assert {claim.verdict for claim in claims_of(compare_runs(first, second))} == {NOT_MEASURED}


def test_promises_are_about_baseline_against_optimized_only() -> None:
    first, second = story()
    assert claims_of(compare_runs(second, first)) == []
    assert claims_of(compare_runs(second, second)) == []


def test_the_table_reads_as_agreed() -> None:
    table = as_table(compare_runs(*story()), 0.9) + "\n"
    assert table == golden(GOLDEN, table)


@given(st.lists(st.tuples(st.floats(1e-9, 1e5), st.floats(1e-9, 1e5)), min_size=1, max_size=3))
def test_the_table_fits_80_columns(pairs: list[tuple[float, float]]) -> None:
    sides = [
        run("optimized", [row("training", f"matrix products alone {i}", pair[side]) for i, pair in enumerate(pairs)])
        for side in (0, 1)
    ]
    lines = as_table(compare_runs(*sides), 1.0).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("no difference" in line or "faster" in line or "slower" in line for line in lines) >= len(pairs)


def test_json_holds_every_figure() -> None:
    content = json.loads(as_json(compare_runs(*story()), 0.9))
    by_case = {(r["suite"], r["case"]): r for r in content["rows"]}
    fusion = by_case["fusion", "batch 32"]
    assert fusion["ratio"] == pytest.approx(5.0)
    assert fusion["low"] == fusion["high"] == pytest.approx(5.0)
    assert (fusion["first_s"], fusion["second_s"], fusion["verdict"]) == (20e-6, 4e-6, FASTER)
    assert content["rows_below"] == [["cache", "1,000 rows"], ["cache", "10,000 rows"]]
    assert len(content["claims"]) == 8
    assert content["first"]["machine"]["identity"]["cores"] == 2


def test_markdown_tables_have_as_many_cells_in_every_line() -> None:
    first, second = (run(mode, [row("s", "a|b", 1.0)]) for mode in ("baseline", "optimized"))
    lines = [line for line in as_markdown(compare_runs(first, second)).splitlines() if line.startswith("|")]
    rows = [line.replace("\\|", "") for line in lines if "a" in line or "s" in line]
    assert any("ab" in line for line in rows)
    wide = [line for line in rows if "interval" in line or "ab" in line]
    assert {line.count("|") for line in wide} == {8}


class Cells(HTMLParser):
    """The texts of a page's cells, by row; fails on a tag closed out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_the_page_is_well_formed_and_takes_names_as_they_are() -> None:
    first, second = (run(mode, [row("s", "<b>&", 2.0, way="<script>")]) for mode in ("baseline", "optimized"))
    cells = Cells()
    cells.feed(as_html(compare_runs(first, second)))
    cells.close()
    assert cells.open == []
    assert ["s", "<b>&", "2.00 s", "2.00 s", "1.00x", "1.00-1.00", SAME, "<script> / <script>"] in cells.rows


def test_a_readme_gets_its_tables_between_the_markers_and_only_there(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nThe end\n", encoding="utf-8")
    compared = compare_runs(*story())
    update_readme(readme, compared)
    once = readme.read_text(encoding="utf-8")
    assert once == f"# Title\n\n{BEGIN}\n{as_markdown(compared)}\n{END}\n\nThe end\n"
    update_readme(readme, compared)
    assert readme.read_text(encoding="utf-8") == once
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}\n{BEGIN}\n{END}"])
def test_a_readme_without_its_markers_is_left_alone(tmp_path: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text, encoding="utf-8")
    with pytest.raises(ReadmeError, match="add them"):
        update_readme(readme, compare_runs(*story()))
    assert readme.read_text(encoding="utf-8") == text


def elsewhere(side: BenchmarkRun) -> BenchmarkRun:
    return replace(side, machine={**side.machine, "identity": {**side.machine["identity"], "cores": 64}})


UNFIT: dict[str, tuple[Callable[[BenchmarkRun, BenchmarkRun], tuple[BenchmarkRun, BenchmarkRun]], str]] = {
    "the wrong way round": (lambda a, b: (b, a), "this is optimized against baseline"),
    "one mode twice": (lambda a, b: (b, b), "this is optimized against optimized"),
    "quick": (lambda a, b: (replace(a, quick=True), replace(b, quick=True)), "a quick run does not show"),
    "apart": (lambda a, b: (a, replace(b, pair="another")), "not measured in turns"),
    "single": (lambda a, b: (replace(a, pair=None), replace(b, pair=None)), "not measured in turns"),
    "another machine": (lambda a, b: (a, elsewhere(b)), r"same machine \(cores 2 and 64\)"),
    "a row short": (lambda a, b: (a, replace(b, rows=b.rows[1:])), "steps, 32 accounts is only in the first"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_readme_takes_a_whole_pair_of_baseline_and_optimized_only(tmp_path: Path, name: str) -> None:
    readme, text = tmp_path / "README.md", f"{BEGIN}\nold\n{END}\n"
    readme.write_text(text, encoding="utf-8")
    spoil, said = UNFIT[name]
    with pytest.raises(ReadmeError, match=said) as refused:
        update_readme(readme, compare_runs(*spoil(*story()), anyway=True))
    assert "python benchmark_framework.py --pair" in str(refused.value)
    assert refused.value.exit_code == 2
    assert readme.read_text(encoding="utf-8") == text


def test_a_readme_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ReadmeError, match="cannot be read"):
        update_readme(tmp_path / "none.md", compare_runs(*story()))


def test_a_readme_that_is_a_pipe_or_a_link_is_neither_waited_for_nor_replaced(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    os.mkfifo(tmp_path / "pipe.md")
    (tmp_path / "link.md").symlink_to(tmp_path / "README.md")
    for name, kind in (("pipe.md", "a named pipe"), ("link.md", "a symlink")):
        with pytest.raises(ReadmeError, match=f"it is {kind}, not a file"):
            update_readme(tmp_path / name, compare_runs(*story()))
    assert (tmp_path / "link.md").is_symlink()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *[(1.0, "1.00 s"), (0.9999, "1.00 s"), (0.0999, "99.9 ms"), (0.09996, "100 ms"), (9.996e-6, "10.0 us")],
        *[(1.5e-9, "1.50 ns"), (1234.0, "1,234 s"), (999.6e-9, "1.00 us"), (123.4e-6, "123 us")],
    ],
)
def test_a_duration_has_three_digits_and_a_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(0.02, 9e5))
def test_a_ratio_is_written_to_half_a_percent(ratio: float) -> None:
    text = ratio_words(ratio)
    assert text.endswith("x")
    assert float(text[:-1].replace(",", "")) == pytest.approx(ratio, rel=0.0051)
