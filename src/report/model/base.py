"""What the sections are made of: strict types, and checks of lengths whose errors name the place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

T = TypeVar("T")


class Part(BaseModel):
    """A part of the report. Unknown keys and values of another type are errors; nothing is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class _Number:
    """A number as JSON has it: whole or not, kept as it was given, never a truth value."""

    WORDS: ClassVar = {"ge": ("minimum", "at least"), "le": ("maximum", "at most"), "gt": ("exclusiveMinimum", "over")}

    def __init__(self, **bounds: float) -> None:
        self._bounds = bounds

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        bounds: Any = self._bounds
        kinds = [core_schema.int_schema(strict=True, **bounds), core_schema.float_schema(strict=True, **bounds)]
        said = ["Input should be a number", *(f"{self.WORDS[name][1]} {bound:g}" for name, bound in bounds.items())]
        return core_schema.union_schema([*kinds], custom_error_type="number", custom_error_message=", ".join(said))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "number", **{self.WORDS[name][0]: bound for name, bound in self._bounds.items()}}


class _Absent:
    """For a field that may be left out but is never null."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: Any = handler(source)
        return schema["schema"]


Maybe = Annotated[T | None, _Absent()]
"""A part that some reports do not have: None here, no key in report.json."""

Number = Annotated[float, _Number()]
Figure = Number | None
"""null: there was nothing to take it from."""
Frac = Annotated[float, _Number(ge=0, le=1)]
Percent = Annotated[float, _Number(ge=0, le=100)]
MeanCount = Annotated[float, _Number(ge=0)]
"""A count, averaged over seeds."""
Positive = Annotated[float, _Number(gt=0)]
Count = Annotated[int, Field(ge=0)]
Date = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
Span = Annotated[list[Count], Field(min_length=2, max_length=2)]
"""First and last session id."""
Automation = Literal["allowed", "restricted", "banned", "unknown"]
Action = Literal["HOLD", "BUY", "SELL", "MOVE_TO_BE", "ENABLE_TRAIL", "DISABLE_TRAIL"]


def check_length(where: str, values: Sequence[Any], wanted: int) -> None:
    """Raise unless there are so many values; `where` is the place below the part that checks."""
    if len(values) != wanted:
        raise PydanticCustomError(
            "length", "{found} entries where {wanted} belong", {"where": where, "found": len(values), "wanted": wanted}
        )


def check_rows(where: str, rows: Mapping[str, Sequence[Any]] | Sequence[Sequence[Any]], wanted: int) -> None:
    """Raise unless every row has so many values."""
    items = rows.items() if isinstance(rows, Mapping) else enumerate(rows)
    for key, row in items:
        check_length(f"{where}[{key}]" if isinstance(key, int) else f"{where}.{key}", row, wanted)


class Columns(Part):
    """A table by column: every list is as long as the column `INDEX`, but those that are no columns."""

    INDEX: ClassVar[str]
    NO_COLUMNS: ClassVar[tuple[str, ...]] = ()

    def column(self, name: str) -> list[float | None]:
        """The values of a column; empty if the table does not have it."""
        return getattr(self, name) or []

    @model_validator(mode="after")
    def _columns_are_alike(self) -> Self:
        for name, values in self:
            if isinstance(values, list) and name not in self.NO_COLUMNS:
                check_length(name, values, len(getattr(self, self.INDEX)))
        return self
