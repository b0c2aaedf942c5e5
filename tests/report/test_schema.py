"""report_schema.json takes what runs write and nothing else; what is refused is refused in one paragraph."""

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
from src.report.facts import SCHEMA_VERSION
from src.report.schema import ReportError, check_report, schema, version_read
from tests.report.page_report import full_report
from tests.small_runs import finished

GOLDEN = Path(__file__).parents[1] / "golden" / "report_keys.txt"
FULL = json.loads(json.dumps(full_report(3, 2, bars_a_session=24, n_charted=1, n_samples=3, n_records=3)))
OPEN_MAPPINGS = {"configuration", "scoring"}
"""Objects whose keys come from elsewhere."""
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
    at_place(changed, place[:-1])[place[-1]] = value
    return changed


def shape_at(place: Place) -> dict[str, Any]:
    """The part of the schema that governs a place."""
    shape: Any = schema()

    def followed(part: Any) -> Any:
        while "$ref" in part:
            part = schema()["$defs"][part["$ref"].rpartition("/")[2]]
        return part

    for step in place:
        shape = followed(shape)
        shape = (
            shape["items"]
            if isinstance(step, int)
            else shape.get("properties", {}).get(step) or shape["additionalProperties"]
        )
    return followed(shape)


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(dict(schema()))
    assert version_read() == SCHEMA_VERSION


def test_the_report_of_a_run_has_its_shape() -> None:
    check_report(finished("plain").written, "report.json")


def test_a_report_with_every_section_has_its_shape() -> None:
    check_report(FULL, "report.json")
    assert FULL.keys() == schema()["properties"].keys(), "the maker leaves a section out"


def test_every_key_of_the_golden_file_is_in_it() -> None:
    for line in GOLDEN.read_text(encoding="utf-8").split("\n"):
        place = tuple(0 if step == "[]" else step for step in re.sub(r"\[\]", ".[]", line).split(".") if step)
        if place:
            shape_at(place)


@settings(max_examples=60)
@given(st.sampled_from(PLACES), st.sampled_from([None, True, "text", -1, 0.5, [], {}, [None], {"a": 1}]))
def test_a_value_of_another_type_is_refused_where_the_schema_names_one(place: Place, value: Any) -> None:
    allowed = Draft202012Validator({"$defs": schema()["$defs"], **shape_at(place)})
    # The sizes of arrays are checked apart.
    if allowed.is_valid(value):
        return
    with pytest.raises(ReportError, match=r"damaged"):
        check_report(with_value(place, value), "report.json")


@settings(max_examples=60)
@given(st.sampled_from(OBJECTS), st.text(min_size=1, max_size=8))
def test_a_key_nobody_knows_is_refused_where_the_shape_is_fixed(place: Place, key: str) -> None:
    value = at_place(FULL, place)
    if not isinstance(value, dict) or shape_at(place).get("additionalProperties") is not False or key in value:
        return
    changed = copy.deepcopy(FULL)
    at_place(changed, place)[key] = 1
    with pytest.raises(ReportError):
        check_report(changed, "report.json")


@pytest.mark.parametrize("key", schema()["required"])
def test_a_report_without_a_required_key_is_refused(key: str) -> None:
    changed = {name: value for name, value in FULL.items() if name != key}
    with pytest.raises(ReportError):
        check_report(changed, "report.json")


@pytest.mark.parametrize("key", [name for name in schema()["properties"] if name not in schema()["required"]])
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
    with pytest.raises(ReportError, match="entries where"):
        check_report(with_value(place, at_place(FULL, place)[:-1]), "report.json")


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
