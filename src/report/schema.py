"""report.json as the models of `src.report.model` have it: checked, read, and written down as a JSON Schema.

    python -m src.report.schema

writes report_schema.json, for readers of report.json that are not this toolkit, from the models.
"""

from __future__ import annotations

import json
import reprlib
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from src.errors import UserError
from src.files import write_atomically
from src.report.model.report import SCHEMA_VERSION, RunReport

SCHEMA_FILE = Path(__file__).with_name("report_schema.json")


class ReportError(UserError):
    """A report.json that is missing, damaged, of another program or of a newer version."""


def check_report(report: object, source: str) -> RunReport:
    """The report that `report` (what JSON gives: dicts, lists, text, numbers) holds; `source` names it in errors.

    Raises: ReportError naming the place, unless all sections have their shape and every array is as long as what it
    runs over.
    """
    if not isinstance(report, dict) or not {"schema_version", "test_name"} <= report.keys():
        raise ReportError(
            f"{source} is not a report of this toolkit: it has no schema_version and test_name; name the folder of a "
            "run, one that run_hardware_maximized.py made."
        )
    version = report["schema_version"]
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ReportError(
            f"{source} has schema_version {version}, this toolkit reads {SCHEMA_VERSION}: it was written by a newer "
            "one; use that, or update this one."
        )
    try:
        return RunReport.model_validate(_without_half_characters(report))
    except ValidationError as error:
        first: Any = error.errors(include_url=False)[0]
    where = place((*first["loc"], *([first["ctx"]["where"]] if "where" in first.get("ctx", {}) else [])))
    found = "" if first["type"] in ("missing", "length", "bar") else f", found {reprlib.repr(first['input'])}"
    what = f"at {_short(where)}: {_short(first['msg'])}{found}"
    raise ReportError(f"{source} is damaged or was edited: {what}; restore it, or run again.")


def _without_half_characters(value: Any) -> Any:
    """The same with half a surrogate pair (from a file name that is no UTF-8) written as an escape."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_without_half_characters(key): _without_half_characters(of) for key, of in value.items()}
    return [_without_half_characters(of) for of in value] if isinstance(value, list) else value


def place(steps: tuple[str | int, ...]) -> str:
    """`sessions[0].arms.hybrid.trades`: the keys and indices that lead to a value."""
    named = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps if step != "[key]")
    return "".join(named).removeprefix(".")


def _short(text: str, most: int = 300) -> str:
    """Without the middle of a long text: a key quoted in an error can be megabytes."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def read_report(path: Path) -> RunReport:
    """The report of a run's report.json. A number JSON does not have counts as null. ReportError as `check_report`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ReportError(
            f"There is no {path.name} in {path.parent}: name the folder of a finished run, such as logs/<run>."
        ) from error
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is damaged: it is not JSON ({error}); restore it, or rerun.") from error
    return check_report(content, str(path))


class _Generator(GenerateJsonSchema):
    """Without titles and defaults, which say nothing of report.json: a key that is left out is not there."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        made.pop("title", None)
        return made

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        if isinstance(inner.get("type"), str) and "enum" not in inner:
            return {**inner, "type": [inner["type"], "null"]}
        return super().nullable_schema(schema)


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the whole report.json, generated from the models."""
    return deepcopy(_schema())


@cache
def _schema() -> dict[str, Any]:
    """Generated once: it takes longer than checking a report."""
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "title": "report.json",
        **RunReport.model_json_schema(schema_generator=_Generator),
    }


def schema_text() -> str:
    """What report_schema.json holds: a property on a line."""
    return f"{_laid_out(schema())}\n"


def _laid_out(part: dict[str, Any], indent: str = "\n", name: str = "") -> str:
    def text(key: str, value: Any) -> str:
        if isinstance(value, dict) and name != "properties":
            return _laid_out(value, f"{indent}  ", key)
        return json.dumps(value, ensure_ascii=False)

    items = [f"{indent}  {json.dumps(key)}: {text(key, value)}" for key, value in part.items()]
    return f"{{{','.join(items)}{indent}}}"


if __name__ == "__main__":
    write_atomically(SCHEMA_FILE, schema_text())
