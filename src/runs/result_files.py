"""The tables of a run's results as files: CSV that spreadsheets open as it is, and Parquet.

They are made from what the evaluations have left, the same bytes each time, so a resumed run makes lost ones again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from src.evaluation.result_tables import SealedResults, result_tables
from src.evaluation.seeds import SeededResults
from src.evaluation.settings import TableFormat
from src.evaluation.trade_list import load_trades
from src.files import kind_of, read_regular, write_atomically
from src.run_names import EXPORTS
from src.runs.evaluations import TRADES_NAME
from src.runs.plan import Plan
from src.runs.tasks import Results

MOST_ROWS, MOST_COLUMNS = 1_048_576, 16_384
"""What a sheet of Excel or LibreOffice holds, the heading included."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""A spreadsheet takes a text that begins so for a formula; the last four are the full-width forms."""


def write_result_files(
    plans: Sequence[Plan],
    results: Results,
    formats: Sequence[TableFormat],
    folder: Path,
    say: Callable[[str], None],
) -> list[str]:
    """Write the tables of a run's sealed sessions below its folder where they are not there or not the same; their
    names. Nothing where the run evaluated nothing. Raises OSError."""
    if not formats or (of_markets := sealed_results(plans, results)) is None:
        return []
    names, left_out = [], [f"{of.symbol} {arm}" for of, arm in _dropped(plans, results, of_markets)]
    if left_out:
        say(f"{EXPORTS}: too many trades for one file: those of {', '.join(left_out)} are left out")
    for name, table in result_tables(of_markets).items():
        for kind in formats_of(table, formats):
            if kind not in formats:
                say(f"{EXPORTS}: {name} is larger than a spreadsheet may be: it is written as {kind} only")
            file = f"{EXPORTS}/{name}.{kind}"
            _write(folder / file, csv_bytes(table) if kind == "csv" else parquet_bytes(table))
            names.append(file)
    return names


def sealed_results(plans: Sequence[Plan], results: Results) -> list[SealedResults] | None:
    """The sealed sessions of every market from its evaluation; None in a run without evaluations."""
    found = []
    for plan in plans:
        done, market = results.get(plan.name_of("evaluation")), plan.context.market
        if done is None or market is None:
            return None
        played = SeededResults.from_dict(done.facts["played"]["sealed"])
        kept = done.facts.get("trades")  # evaluations of earlier versions kept none
        trades = None if kept is None else load_trades(done.folder / TRADES_NAME)
        found.append(SealedResults(plan.symbol, market, played, trades, () if kept is None else kept["arms"]))
    return found


def _dropped(
    plans: Sequence[Plan], results: Results, of_markets: Sequence[SealedResults]
) -> list[tuple[SealedResults, str]]:
    """Arms whose trades were too many to keep."""
    return [
        (of, of.trade_arms[place].replace("@", ", seed "))
        for plan, of in zip(plans, of_markets, strict=True)
        if of.trades is not None
        for place in results[plan.name_of("evaluation")].facts["trades"]["dropped"]
    ]


def formats_of(table: pd.DataFrame, formats: Sequence[TableFormat]) -> list[TableFormat]:
    """The formats that a table is written in: no CSV where a spreadsheet would cut it, Parquet in its place."""
    rows, columns = table.shape
    fits = rows < MOST_ROWS and columns + _is_indexed(table) <= MOST_COLUMNS
    return list(formats) if fits or "csv" not in formats else ["parquet"]


def _is_indexed(table: pd.DataFrame) -> bool:
    return table.index.name is not None


def csv_bytes(table: pd.DataFrame) -> bytes:
    """A table as CSV (RFC 4180: commas, CRLF, quotes doubled; UTF-8). Dates are ISO, times `2026-01-05 14:35:00`, which
    spreadsheets read as times; a text that a spreadsheet would run as a formula begins with an apostrophe."""
    table = table.reset_index() if _is_indexed(table) else table
    columns = [_cells(table[name]) for name in table.columns]
    content = io.StringIO(newline="")
    writer = csv.writer(content, lineterminator="\r\n")
    writer.writerow([inert(str(name)) for name in table.columns])
    writer.writerows(zip(*columns, strict=True))
    return content.getvalue().encode()


def _cells(column: pd.Series[Any]) -> list[Any]:
    """The cells of a column as CSV has them; nothing where there is no value."""
    if pd.api.types.is_datetime64_any_dtype(column):
        is_date = column.name == "date"
        return list(column.dt.strftime("%Y-%m-%d" if is_date else "%Y-%m-%d %H:%M:%S"))
    if pd.api.types.is_bool_dtype(column):
        return ["TRUE" if value else "FALSE" for value in column]
    cells = [None if value is pd.NA or value != value else value for value in column.tolist()]
    return [inert(cell) if isinstance(cell, str) else cell for cell in cells]


def inert(text: str) -> str:
    """A text that no spreadsheet runs."""
    return f"'{text}" if text.startswith(FORMULA) else text


def parquet_bytes(table: pd.DataFrame) -> bytes:
    """A table as Parquet; `pandas.read_parquet` gives it back with its index."""
    content = io.BytesIO()
    table.to_parquet(content, engine="pyarrow", index=_is_indexed(table))
    return content.getvalue()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not (path.exists() and not kind_of(path) and read_regular(path) == content):
        write_atomically(path, content)
