"""The models take what runs write and nothing else; what is refused is refused in one paragraph with its place."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from src.errors import UserError
from src.report.complete import complete_report
from src.report.schema import SCHEMA_FILE, ReportError, check_report, schema, schema_text
from tests.report.page_report import full_report
from tests.small_runs import finished

GOLDEN = Path(__file__).parents[1] / "golden" / "report_keys.txt"
FULL = json.loads(json.dumps(full_report(3, 2, bars_a_session=24, n_charted=1, n_samples=3, n_records=3)))
OPEN_MAPPINGS = {"configuration", "scoring"}
"""Objects whose keys come from elsewhere."""
LEFT_OUT = object()
SCHEMA = schema()
Place = tuple[str | int, ...]


def places(node: Any, at: Place = ()) -> Iterator[Place]:
    """Every place of a report; of arrays the first two entries."""
    if at:
        yield at
    if isinstance(node, dict):
        for key, value in node.items():
            if key not in OPEN_MAPPINGS:
                yield from places(value, (*at, key))
    elif isinstance(node, list):
        for i, value in enumerate(node[:2]):
            yield from places(value, (*at, i))


PLACES = sorted(places(FULL), key=str)
OBJECTS = [()] + [at for at in PLACES if isinstance(at[-1], str)]


def at_place(report: Any, place: Place) -> Any:
    for step in place:
        report = report[step]
    return report


def with_value(place: Place, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(FULL)
    if value is LEFT_OUT:
        del at_place(changed, place[:-1])[place[-1]]
    else:
        at_place(changed, place[:-1])[place[-1]] = value
    return changed


def told(report: object) -> str:
    """The error about it; empty if it is accepted."""
    try:
        check_report(report, "report.json")
    except ReportError as error:
        return str(error)
    return ""


def fits_the_schema(report: dict[str, Any], changed: str) -> bool:
    """Whether a report that was changed in one section is valid: jsonschema reads the schema, pydantic the models."""
    if changed not in report:
        return changed not in SCHEMA["required"]
    if changed not in SCHEMA["properties"]:
        return SCHEMA["additionalProperties"] is not False
    section = {"$defs": SCHEMA["$defs"], **SCHEMA["properties"][changed]}
    return Draft202012Validator(section).is_valid(report[changed])


def test_the_schema_on_the_disk_is_the_models() -> None:
    """Written by `python -m src.report.schema`: its diff tells readers of report.json what changed."""
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text()
    Draft202012Validator.check_schema(SCHEMA)


def test_the_report_of_a_run_has_its_shape_and_is_written_as_it_was_measured() -> None:
    written = finished("plain").written
    report = check_report(written, "report.json")
    assert json.dumps(report.to_json_dict()) == json.dumps(written)
    without = {name: part for name, part in written.items() if name not in ("overall", "answers", "verdict")}
    assert complete_report(without) == report


def test_a_report_with_every_section_has_its_shape_and_loses_nothing() -> None:
    assert check_report(FULL, "report.json").to_json_dict() == FULL
    # The reports of several markets: tests/report/test_markets.py.
    assert FULL.keys() == SCHEMA["properties"].keys() - {"markets"}, "the maker leaves a section out"
    new = copy.deepcopy(FULL)
    new["run"]["workers"] = 2
    for row in (*new["training"], *new["learning"]["curves"]):
        row |= {"market": "ES", "fold": 0}
    assert check_report(new, "report.json").to_json_dict() == new


def test_every_key_of_the_golden_file_is_in_it() -> None:
    for line in GOLDEN.read_text(encoding="utf-8").splitlines():
        shape: Any = SCHEMA
        for step in re.sub(r"\[\]", ".[]", line).split("."):
            shape = inner(shape, step)


def inner(shape: dict[str, Any], step: str) -> dict[str, Any]:
    """The part of the schema that governs a key, or the items of an array."""
    if "$ref" in shape:
        return inner(SCHEMA["$defs"][shape["$ref"].rpartition("/")[2]], step)
    if "anyOf" in shape:
        return inner(shape["anyOf"][0], step)
    if step == "[]":
        return shape["items"]
    for name in ("properties", "patternProperties"):
        for key, part in shape.get(name, {}).items():
            if key == step or re.search(f"^(?:{key})$", step):
                return part
    assert shape["additionalProperties"], f"no {step}"
    return shape["additionalProperties"]


@settings(max_examples=80)
@given(st.sampled_from(PLACES), st.sampled_from([None, True, "text", -1, 0.5, 3, [], {}, [None], {"a": 1}, LEFT_OUT]))
def test_the_models_refuse_what_the_schema_refuses_and_name_the_place(place: Place, value: Any) -> None:
    changed = with_value(place, value)
    said = told(changed)
    if "entries where" in said or "bars outside" in said:
        return  # a schema cannot say how long an array is
    assert (said == "") == fits_the_schema(changed, str(place[0])), said
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)[1:]
    if said and value is not LEFT_OUT:
        assert f"at {where}" in said


@settings(max_examples=60)
@given(st.sampled_from(OBJECTS), st.text(min_size=1, max_size=8))
def test_a_key_nobody_knows_is_refused_where_the_shape_is_fixed(place: Place, key: str) -> None:
    value = at_place(FULL, place)
    if not isinstance(value, dict) or key in value:
        return
    changed = copy.deepcopy(FULL)
    at_place(changed, place)[key] = 1
    said = told(changed)
    assert (said == "") == fits_the_schema(changed, str((*place, key)[0])), said


@pytest.mark.parametrize("key", SCHEMA["required"])
def test_a_report_without_a_required_key_is_refused(key: str) -> None:
    changed = {name: value for name, value in FULL.items() if name != key}
    said = told(changed)
    assert f"at {key}: Field required" in said or (key in ("test_name", "schema_version") and key in said)


@pytest.mark.parametrize("key", [name for name in SCHEMA["properties"] if name not in SCHEMA["required"]])
def test_any_optional_section_may_be_absent(key: str) -> None:
    check_report({name: value for name, value in FULL.items() if name != key}, "report.json")


@pytest.mark.parametrize(
    "place",
    [
        ("arms", "hybrid", "net_usd_by_session"),
        ("validation_arms", "hybrid", "net_usd_by_session"),
        ("session_dates",),
        ("seeds", "net_usd_by_session", "hybrid"),
        ("seeds", "net_usd_by_session", "hybrid", 1),
        ("statistics", "cost_stress", "net_usd_per_session", "hybrid"),
        ("pass_simulation", "arms", "hybrid", "fan", "equity_usd"),
        ("pass_simulation", "arms", "hybrid", "fan", "equity_usd", 1),
        ("sessions", 0, "close_ticks"),
        ("sessions", 0, "arms", "hybrid", "advice", "confidence"),
        ("learning", "curves", 0, "mean_episode_reward"),
        ("hardware_timeline", "tree_cores"),
    ],
    ids=str,
)
def test_an_array_shorter_than_what_it_runs_over_is_refused(place: Place) -> None:
    said = told(with_value(place, at_place(FULL, place)[:-1]))
    assert "entries where" in said
    assert f"at {place[0]}" in said
    assert str(place[-1]) in said


def test_a_trade_outside_the_sessions_bars_is_refused() -> None:
    for key, value in (("exit_bar", 24), ("stops", [[24, 5.0]]), ("stops", [[0.5, 5.0]])):
        with pytest.raises(ReportError, match="bars outside"):
            check_report(with_value(("sessions", 0, "arms", "hybrid", "trades", 0, key), value), "report.json")


def test_a_newer_report_is_told_from_a_damaged_one() -> None:
    with pytest.raises(ReportError, match=r"schema_version 2.*newer"):
        check_report({**FULL, "schema_version": 2, "what_comes_then": {}}, "report.json")


@pytest.mark.parametrize("other", [[], {}, None, 3, "text", {"schema_version": 1}, {"test_name": "x", "score": 1}])
def test_another_programs_file_is_told_from_a_damaged_one(other: object) -> None:
    with pytest.raises(ReportError, match="not a report of this toolkit"):
        check_report(other, "report.json")


def test_the_error_names_the_place_and_stays_short() -> None:
    with pytest.raises(UserError) as caught:
        check_report(with_value(("arms", "hybrid", "trades"), "x" * 100_000), "logs/run/report.json")
    words = str(caught.value)
    assert "logs/run/report.json" in words
    assert "arms.hybrid.trades" in words
    assert "\n" not in words
    assert len(words) < 1000
