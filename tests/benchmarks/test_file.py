"""The file of a benchmark run: what is written is read back, and nothing else is taken for it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.benchmarks.comparison import compare_runs
from src.benchmarks.file import (
    SCHEMA_VERSION,
    BenchmarkFileError,
    Row,
    gemm_share,
    joined,
    read_run,
    workload_hash,
    write_run,
)
from src.benchmarks.output import FORMATS
from src.errors import UserError
from tests.benchmark_makers import row, run, story

ROOT = Path(__file__).resolve().parents[2]

texts = st.text(max_size=8)
values = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | texts
workloads = st.dictionaries(texts, values | st.lists(values, max_size=3), max_size=3)


def row_of(key: tuple[str, str], unit: str, workload: dict[str, Any], seconds: list[list[float]]) -> Row:
    return row(*key, seconds, unit=unit, workload=workload)


rows = st.lists(
    st.builds(
        row_of,
        st.tuples(texts, texts),
        texts,
        workloads.filter(lambda w: all(x not in (float("inf"), float("-inf")) for x in flat(w))),
        st.lists(st.lists(st.floats(1e-14, 1e11), min_size=1, max_size=4), min_size=2, max_size=2),
    ),
    max_size=4,
    unique_by=lambda r: r.key,
)


def flat(workload: dict[str, Any]) -> list[Any]:
    return [x for value in workload.values() for x in (value if isinstance(value, list) else [value])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def story_file(folder: Path) -> Path:
    write_run(folder / "story.json", story()[0])
    return folder / "story.json"


def content_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@settings(max_examples=30)  # each is synced to the disk
@given(rows, st.sampled_from(["baseline", "optimized"]), st.booleans(), st.none() | texts)
def test_what_is_written_is_read_back(folder: Path, made: list[Row], mode: str, quick: bool, pair: str | None) -> None:
    before = run(mode, made, quick=quick, pair=pair, not_measured={"advice": "no model"})
    write_run(folder / "run.json", before)
    assert read_run(folder / "run.json") == before


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    write_run(tmp_path / "run.json", story()[0])
    content = content_of(tmp_path / "run.json")
    assert content["schema_version"] == SCHEMA_VERSION
    assert content["mode"] == "baseline"
    assert content["revision"]["commit"] == "0123456789abcdef"
    assert content["machine"]["identity"]["cores"] == 2
    assert content["gemm_share"] == pytest.approx(0.4)
    fusion = next(r for r in content["rows"] if r["case"] == "batch 32")
    assert fusion["seconds"] == [[20e-6] * 5] * 8
    assert len(fusion["workload_hash"]) == 16


@given(workloads, workloads)
def test_only_the_same_work_has_the_same_hash(one: dict[str, Any], other: dict[str, Any]) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (workload_hash("s", "c", "u", one) == workload_hash("s", "c", "u", other)) == same
    assert workload_hash("s", "c", "u", one) != workload_hash("s", "d", "u", one)


def test_a_run_without_the_bound_claims_no_share_of_it() -> None:
    assert gemm_share([row("training", "end to end", 1.0)]) is None


def test_processes_are_joined_row_by_row_in_their_order() -> None:
    one = run("baseline", [row("s", "c", [[1.0, 2.0]]), row("s", "only here", [[9.0]])])
    two = run("baseline", [row("s", "c", [[3.0, 4.0]])], not_measured={"advice": "no model"})
    two.machine["state"].update(cores_free=1.0, load_after=3.5)
    both = joined([one, two], "name")
    assert [r.seconds for r in both.rows] == [((1.0, 2.0), (3.0, 4.0))]
    assert (both.processes, both.pair, both.not_measured) == (2, "name", {"advice": "no model"})
    state = both.machine["state"]
    assert (state["cores_free"], state["load_before"], state["load_after"]) == (1.5, 0.1, 3.5)


def damage(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], str]:
    def damaged(content: dict[str, Any]) -> str:
        change(content)
        return json.dumps(content)

    return damaged


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], str], str]] = {
    "empty": (lambda c: "", "is empty"),
    "blank": (lambda c: " \n", "is empty"),
    "cut short": (lambda c: json.dumps(c)[:200], "it is not JSON"),
    "not a number": (lambda c: json.dumps(c).replace("2e-05", "NaN", 1), "NaN is not a JSON number"),
    "nested": (lambda c: "[" * 100_000, "it is not JSON"),
    "a list": (lambda c: "[]", "it holds no JSON object"),
    "foreign": (lambda c: '{"results": []}', "is not a benchmark of this toolkit"),
    "from the future": (damage(lambda c: c.update(schema_version=2)), "has schema_version 2.*update the toolkit"),
    "no version": (damage(lambda c: c.pop("schema_version")), "schema_version is null"),
    "odd version": (damage(lambda c: c.update(schema_version="1")), 'schema_version is "1"'),
    "no rows": (damage(lambda c: c.pop("rows")), "rows is missing, not a list"),
    "rows of text": (damage(lambda c: c.update(rows=["x"])), "not a list of objects"),
    "mode": (damage(lambda c: c.update(mode="fast")), 'mode is "fast", not baseline or optimized'),
    "quick": (damage(lambda c: c.update(quick=1)), "quick is 1, not true or false"),
    "cores": (damage(lambda c: c["machine"]["identity"].update(cores=True)), "machine.identity.cores is true"),
    "free": (damage(lambda c: c["machine"]["state"].update(cores_free="2")), "machine.state.cores_free"),
    "no machine": (damage(lambda c: c.pop("machine")), "machine is missing, not an object"),
    "negative": (damage(lambda c: c["rows"][1].update(seconds=[[-1.0]])), r"rows\[1\].seconds is .*above 1e-15"),
    "infinite": (lambda c: json.dumps(c).replace("2e-05", "1e999", 1), "1e999 is too large a number"),
    "too slow": (lambda c: json.dumps(c).replace("2e-05", "1e99", 1), "above 1e-15 and below 1e12"),
    "infinite load": (
        lambda c: json.dumps(c).replace('"load_before": 0.1', '"load_before": 1e999', 1),
        "1e999 is too large a number",
    ),
    "countless": (
        lambda c: json.dumps(c).replace('"parameters": 600', '"parameters": 6' + "0" * 400, 1),
        "is too large a number",
    ),
    "half a character": (
        damage(lambda c: c["machine"]["identity"].update(processor="Slow\ud800matic")),
        r"\\ud800 in one of its texts is not a character",
    ),
    "half a name": (damage(lambda c: c["machine"].update({"\udfff": 1})), r"\\udfff in one of its texts"),
    "no repeats": (damage(lambda c: c["rows"][0].update(seconds=[[]])), r"rows\[0\].seconds"),
    "flat": (damage(lambda c: c["rows"][0].update(seconds=[1.0])), r"rows\[0\].seconds"),
    "a process short": (damage(lambda c: c["rows"][3]["seconds"].pop()), r"rows\[3\].seconds has 7 processes where"),
    "another work": (damage(lambda c: c["rows"][0].update(workload={"n": 9})), r"rows\[0\].workload_hash is not that"),
    "twice": (damage(lambda c: c["rows"].append(c["rows"][0])), r"rows\[10\] is a second steps, 32 accounts"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_refused_with_the_reason_and_the_remedy(tmp_path: Path, name: str) -> None:
    path = tmp_path / "run.json"
    write_run(path, story()[0])
    spoil, said = DAMAGES[name]
    path.write_text(spoil(content_of(path)), encoding="utf-8")
    with pytest.raises(BenchmarkFileError, match=said) as refused:
        read_run(path)
    text = str(refused.value)
    assert str(path) in text
    assert "python benchmark_framework.py --pair" in text
    assert "\n" not in text


@pytest.mark.parametrize("name", ["infinite load", "half a character"])
def test_what_python_reads_and_cannot_print_ends_the_command_with_2(tmp_path: Path, name: str) -> None:
    paths = [tmp_path / "baseline.json", tmp_path / "optimized.json"]
    for path, made in zip(paths, story(), strict=True):
        write_run(path, made)
        spoil, said = DAMAGES[name]
        path.write_text(spoil(content_of(path)), encoding="utf-8")
    for format_ in ("json", "table"):
        command = [sys.executable, str(ROOT / "compare_benchmarks.py"), *map(str, paths), "--format", format_]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert re.search(said, " ".join(ended.stderr.split()))
        assert "Traceback" not in ended.stderr


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00\xd8")
    for name, said in (("none.json", "No such file"), (".", "it is a folder"), ("binary.json", "not JSON")):
        with pytest.raises(BenchmarkFileError, match=said):
            read_run(tmp_path / name)


def places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in nested lists and objects."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


@settings(max_examples=60)
@given(st.data())
def test_a_file_changed_anywhere_is_read_or_refused_and_nothing_else(story_file: Path, data: st.DataObject) -> None:
    path = story_file.with_name("changed.json")
    spoilt = content_of(story_file)
    *way, last = data.draw(st.sampled_from(places(spoilt)[1:]))
    holder: Any = spoilt
    for key in way:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[last] = data.draw(values | st.just([]) | st.just({}))
    else:
        del holder[last]
    path.write_text(json.dumps(spoilt), encoding="utf-8")
    try:
        comparison = compare_runs(read_run(path), story()[1], anyway=True)
    except UserError:
        return
    for written in FORMATS.values():
        assert written(comparison, 0.9)
