"""JSON: Polygon's and Yahoo's responses, lists of records, columns, pandas' split form, and JSON lines."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.json as arrow_json

from src.errors import BarDataError
from src.market.files.columnar import table_rows
from src.market.files.columns import price_roles
from src.market.files.containers import Content
from src.market.files.kinds import NoTable
from src.market.files.rows import FileRows
from src.plain_text import one_line

_MOST_JSON = 192 << 20
_MOST_LINES = 2 << 30
_MOST_DEPTH = 40
_BLOCK = 8 << 20
_SAMPLE = 1 << 18
_MOST_KEYS = 500
_LISTS = (
    "results", "bars", "data", "candles", "values", "prices", "rows", "aggs", "history", "ohlcv", "records", "items",
)  # fmt: skip
_INSTRUMENT_KEYS = ("ticker", "symbol", "contract", "instrument", "raw_symbol")
_LEAST_PRICES = 3


def is_json(head: bytes) -> bool:
    """Whether text starts like JSON."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return start[:1] == b"{" or re.match(rb"\[\s*[\[{\]]", start) is not None


def json_rows(content: Content) -> list[FileRows]:
    """The rows of a JSON or JSON-lines file.

    Raises:
        BarDataError: damaged, too large, too deeply nested, or not a table of bars.
    """
    if _is_lines(content.head):
        table, notes = _lines(content)
        rows = table_rows(content, "JSON", table)
        return [replace(rows, notes=(*notes, *rows.notes))]
    data = content.read(_MOST_JSON, "for JSON. Write it as JSON lines, CSV or Parquet.")
    _refuse_depth(data, content.label)
    try:
        whole = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError, MemoryError) as error:
        raise BarDataError(
            f"{content.label}: not complete JSON ({one_line(error)}). It may be truncated: download it again."
        ) from error
    found = _columns_of(whole, content.label)
    return [table_rows(content, "JSON", _arrow(columns, content.label), named) for columns, named in found]


def _is_lines(head: bytes) -> bool:
    """Whether the first line is a complete object and another follows."""
    lines = head.removeprefix(b"\xef\xbb\xbf").lstrip().splitlines()
    if not lines or not lines[0].lstrip().startswith(b"{") or not lines[0].rstrip().endswith(b"}"):
        return False
    try:
        first = json.loads(lines[0])
    except (ValueError, RecursionError):
        return False
    following = next((line for line in lines[1:] if line.strip()), b"")
    if not isinstance(first, dict) or any(isinstance(value, list) for value in first.values()):
        return False
    flat = not any(isinstance(value, dict) for value in first.values())
    only = not following and flat and price_roles(list(first)) >= _LEAST_PRICES
    return only or following.lstrip().startswith(b"{")


def _refuse_depth(data: bytes, label: str) -> None:
    depth = deepest = 0
    for match in re.finditer(rb"[\[{]+|[\]}]+", data[: 1 << 20]):
        depth += len(match[0]) if match[0][:1] in b"[{" else -len(match[0])
        deepest = max(deepest, depth)
    if deepest > _MOST_DEPTH:
        raise BarDataError(
            f"{label}: JSON nested {deepest} levels deep, more than {_MOST_DEPTH}, so it is not a table of bars."
        )


def _lines(content: Content) -> tuple[pa.Table, tuple[str, ...]]:
    if content.size > _MOST_LINES:
        raise BarDataError(f"{content.label}: more than {_MOST_LINES >> 30} GiB of JSON lines. Write it as Parquet.")
    data = content.read(_MOST_LINES, "for JSON lines. Write them as Parquet.").removeprefix(b"\xef\xbb\xbf")
    body, _, last = data.rstrip(b" \r\n").rpartition(b"\n")
    notes: tuple[str, ...] = ()
    if body and not _is_object(last):
        data, notes = body + b"\n", ("incomplete last line left out",)
    try:
        end = data.find(b"\n", _SAMPLE)
        first = _read_lines(data[: end + 1] if end >= 0 else data, None)
        # By default Arrow parses text as timestamps and loses their zone or offset.
        texts = [_with_text(field) for field in first.schema]
        return _flat(_read_lines(data, pa.schema(texts))), notes
    except (pa.ArrowException, ValueError, MemoryError) as error:
        raise BarDataError(
            f"{content.label}: not JSON lines with one flat object per line ({one_line(error)}). Export it again."
        ) from error


def _with_text(field: pa.Field) -> pa.Field:
    """The field with timestamps replaced by text, also inside objects."""
    if pa.types.is_struct(field.type):
        return field.with_type(pa.struct([_with_text(field.type.field(k)) for k in range(field.type.num_fields)]))
    return field.with_type(pa.string()) if pa.types.is_timestamp(field.type) else field


def _flat(table: pa.Table) -> pa.Table:
    """The table with nested fields as separate columns: Databento nests ts_event in hd."""
    nested = table.flatten()
    names = [name.rpartition(".")[2] for name in nested.column_names]
    return nested.rename_columns(names) if len(set(names)) == len(names) else nested


def _read_lines(data: bytes, schema: pa.Schema | None) -> pa.Table:
    return arrow_json.read_json(
        pa.BufferReader(data),
        read_options=arrow_json.ReadOptions(block_size=_BLOCK),
        parse_options=arrow_json.ParseOptions(newlines_in_values=False, explicit_schema=schema),
    )


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _columns_of(whole: Any, label: str) -> list[tuple[dict[str, list[Any]], str | None]]:
    """The tables as columns of equal length by name, each with the instrument that the response names."""
    of_response = _response_instrument(whole)
    for group in _tables(whole):
        found = []
        for name, value in group:
            columns = _as_columns(value)
            if columns is None or price_roles(list(columns)) < _LEAST_PRICES:
                continue
            lengths = {len(column) for column in columns.values()}
            if len(lengths) > 1:
                raise BarDataError(
                    f"{label}: columns have different lengths ({sorted(lengths)[:4]}). Download the file again."
                )
            found.append((columns, name or of_response))
        if found:
            return found
    if isinstance(whole, dict) and not any(isinstance(value, list | dict) for value in whole.values()):
        words = str(whole.get("error") or whole.get("message") or whole.get("status") or "")[:80]
        answer = f" The response says {words!r}." if words else ""
        raise NoTable(f"{label}: JSON without a list of bars.{answer} Download the bars again.")
    raise NoTable(
        f"{label}: JSON without a table of bars: no list of records or columns has open, high, low and close. "
        f"Give --data a file of bars."
    )


def _response_instrument(whole: Any) -> str | None:
    if not isinstance(whole, dict):
        return None
    named = next((whole[name] for name in _INSTRUMENT_KEYS if isinstance(whole.get(name), str)), None)
    if named is None and isinstance(whole.get("chart"), dict):
        results = whole["chart"].get("result")
        meta = (
            results[0].get("meta") if isinstance(results, list) and results and isinstance(results[0], dict) else None
        )
        named = meta.get("symbol") if isinstance(meta, dict) and isinstance(meta.get("symbol"), str) else None
    return named.strip()[:40] or None if named else None


def _tables(whole: Any) -> list[list[tuple[str | None, Any]]]:
    """Candidates for the table, best first: the value itself, members with a usual name, and values one level down.

    A group of several has one table per instrument: {"bars": {"ESZ5": [...], "NQZ5": [...]}}.
    """
    found: list[list[tuple[str | None, Any]]] = [[(None, whole)]]
    if not isinstance(whole, dict):
        return found
    named = [whole[name] for name in _LISTS if name in whole]
    named += [value for name, value in whole.items() if name not in _LISTS and isinstance(value, list | dict)]
    found += [[(None, value)] for value in named]
    chart = whole.get("chart")
    if isinstance(chart, dict) and isinstance(chart.get("result"), list):
        found += [[(None, flat)] for result in chart["result"] if (flat := _yahoo(result)) is not None]
    for value in (*named, whole):
        if isinstance(value, dict):
            found.append([(str(name)[:40], one) for name, one in value.items() if isinstance(one, list | dict)])
    return found


def _yahoo(result: Any) -> dict[str, Any] | None:
    """Yahoo's chart: timestamps at this level, prices two levels below."""
    try:
        return {"timestamp": result["timestamp"], **result["indicators"]["quote"][0]}
    except (KeyError, IndexError, TypeError):
        return None


def _as_columns(found: Any) -> dict[str, list[Any]] | None:
    if isinstance(found, list) and found and all(isinstance(record, dict) for record in found):
        names = dict.fromkeys(name for record in found[:200] for name in record)
        return {name: [record.get(name) for record in found] for name in list(names)[:_MOST_KEYS]}
    if not isinstance(found, dict):
        return None
    if isinstance(found.get("columns"), list) and isinstance(found.get("data"), list):
        return _split(found)
    if found and all(isinstance(value, dict) for value in found.values()):
        return _by_key(found)
    lists = {name: value for name, value in found.items() if isinstance(value, list)}
    if len(lists) >= _LEAST_PRICES:
        flat = {name: value for name, value in lists.items() if not any(isinstance(x, dict | list) for x in value[:50])}
        return dict(list(flat.items())[:_MOST_KEYS])
    return None


def _split(found: dict[str, Any]) -> dict[str, list[Any]] | None:
    """pandas' orient="split", and lists of rows."""
    names, rows = [str(name) for name in found["columns"]], found["data"]
    if not all(isinstance(row, list) and len(row) == len(names) for row in rows):
        return None
    columns = {name: [row[k] for row in rows] for k, name in enumerate(names[:_MOST_KEYS])}
    index = found.get("index")
    if isinstance(index, list) and len(index) == len(rows) and len(columns) == len(names):
        columns.setdefault("index", index)
    return columns


def _by_key(found: dict[str, Any]) -> dict[str, list[Any]] | None:
    """pandas' orient="columns" (a dictionary of rows per column) or "index" (a dictionary of columns per row)."""
    if price_roles([str(name) for name in found]) >= _LEAST_PRICES:
        keys = list(next(iter(found.values())))
        columns = {str(name): [value.get(row) for row in keys] for name, value in list(found.items())[:_MOST_KEYS]}
        return columns if _has_time(columns) else {"index": list(keys), **columns}
    records = list(found.values())
    if price_roles([str(name) for name in records[0]]) >= _LEAST_PRICES:
        return {"index": list(found), **{str(name): [row.get(name) for row in records] for name in records[0]}}
    return None


def _has_time(columns: dict[str, list[Any]]) -> bool:
    return any(word in name.lower() for name in columns for word in ("time", "date", "ts_", "window")) or "t" in columns


def _arrow(columns: dict[str, list[Any]], label: str) -> pa.Table:
    arrays = {}
    for name, values in columns.items():
        try:
            array = pa.array(values, from_pandas=True)
        except (pa.ArrowException, OverflowError, ValueError, TypeError):
            array = pa.array([None if value is None else str(value) for value in values], pa.string())
        arrays[name] = array
    try:
        return pa.table(arrays)
    except (pa.ArrowException, ValueError) as error:
        raise BarDataError(
            f"{label}: columns do not form a table ({one_line(error)}). Download the file again."
        ) from error
