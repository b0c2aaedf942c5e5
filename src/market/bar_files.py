"""Read CSV and Parquet files of bars into plain columns; `bar_defects` checks the rows."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from src.errors import BarDataError
from src.market.contracts import CONTRACTS, get_contract

logger = logging.getLogger(__name__)

TIME_COLUMNS = ("datetime", "timestamp", "ts_event", "time", "date")
PRICE_COLUMNS = ("open", "high", "low", "close")
SUFFIXES = (".csv", ".parquet")
NO_TIME = np.iinfo(np.int64).min
"""`open_ns` of a row whose time is missing or unreadable."""

# A time outside these years is damaged: no market here is older, and calendars are built for every year between.
_FIRST_TIME = pd.Timestamp("1980-01-01", tz="UTC")
_LAST_TIME = pd.Timestamp("2100-01-01", tz="UTC")
_MOST_CONTRACTS = 1_000
_NAMELESS_INDEX = "__index_level_0__"
_EPOCH_UNITS = ((1e11, 1_000_000_000), (1e14, 1_000_000), (1e17, 1_000), (np.inf, 1))


@dataclass(frozen=True, eq=False)
class RawColumns:
    """One file's rows, unchecked; arrays of length n."""

    file: Path
    time_text: pd.Series
    """Times as the file gives them, for messages."""
    open_ns: NDArray[np.int64]
    """NO_TIME where missing, unreadable or not in 1980-2099."""
    prices: NDArray[np.float64]
    """float64[n, 4] in points: open, high, low, close; NaN where missing or not a number."""
    volume: NDArray[np.float64]
    contract: NDArray[np.int16]
    """Index into `contract_names`, -1 where missing; all 0 without a contract column."""
    contract_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.open_ns)


def name_token(file: Path) -> str:
    """The market a file in a folder is for: the first token of its name, split on _ - . and space, in capitals."""
    return re.split(r"[_\-. ]", file.name, maxsplit=1)[0].upper()


def files_for_market(path: Path, market: str) -> tuple[list[Path], str]:
    """The files under `path` (one file, or a folder's files named for the market or its parent), and their market.

    Empty if a folder holds none. Raises BarDataError for a missing path or a file named for another market.
    """
    contract = get_contract(market)
    kin = [contract.symbol, *([contract.parent] if contract.parent else [])]
    if path.is_dir():
        listed = sorted(file for file in path.iterdir() if file.is_file() and file.suffix.lower() in SUFFIXES)
        for owner in kin:
            found = [file for file in listed if name_token(file) == owner]
            if found:
                return found, owner
        return [], market
    if not path.exists():
        raise BarDataError(
            f"{path}: no such file or folder. Give --data a CSV or Parquet file of bars, or a folder of them."
        )
    owner = name_token(path)
    if owner in CONTRACTS and owner not in kin:
        raise BarDataError(
            f"{path}: its name says {owner}, but the market is {contract.symbol}, which has a different tick value. "
            f"Use --market {owner}, or rename the file if it does hold {contract.symbol} bars."
        )
    return [path], owner if owner in kin else contract.symbol


def read_columns(file: Path) -> RawColumns:
    """Read one file. Raises BarDataError if it is empty, not a table, or lacks a column."""
    table = _read_table(file)
    table.columns = [str(name).strip().lower() for name in table.columns]
    if table.columns.has_duplicates:
        twice = table.columns[table.columns.duplicated()][0]
        raise BarDataError(f"{file}: the column {twice!r} occurs twice. Keep one of them.")
    time_column = next((name for name in TIME_COLUMNS if name in table.columns), None)
    absent = [name for name in (*PRICE_COLUMNS, "volume") if name not in table.columns]
    if time_column is None:
        absent.insert(0, f"a time ({', '.join(TIME_COLUMNS)})")
    if time_column is None or absent:
        raise BarDataError(
            f"{file}: columns missing: {'; '.join(absent)}. The file has: {', '.join(table.columns) or 'none'}. "
            f"Rename its columns (case does not matter) or export it again."
        )
    if table.empty:
        raise BarDataError(f"{file}: the file has a header but no bars. Export it again.")
    _refuse_several_instruments(file, table)
    names: tuple[str, ...] = ()
    codes = np.zeros(len(table), dtype=np.int16)
    if "contract" in table.columns:
        labels, uniques = pd.factorize(table["contract"].astype("string"))
        if len(uniques) > _MOST_CONTRACTS:
            raise BarDataError(
                f"{file}: its contract column names {len(uniques)} contracts, more than {_MOST_CONTRACTS}: it is not a "
                f"column of contracts. Rename or remove it."
            )
        codes, names = labels.astype(np.int16), tuple(str(name) for name in uniques)
    if not _says_zone(table[time_column]):
        logger.info("%s: its times have no zone and are read as UTC", file)
    return RawColumns(
        file=file,
        time_text=table[time_column],
        open_ns=_times_ns(table[time_column]),
        prices=np.column_stack([_numbers(table[name]) for name in PRICE_COLUMNS]),
        volume=_numbers(table["volume"]),
        contract=codes,
        contract_names=names,
    )


def _refuse_several_instruments(file: Path, table: pd.DataFrame) -> None:
    """Refuse several instruments: their rows are indistinguishable, and repair would keep whichever comes first."""
    for name in ("symbol", "instrument_id"):
        if name in table.columns and "contract" not in table.columns and table[name].nunique() > 1:
            held = ", ".join(str(value) for value in table[name].unique()[:4])
            raise BarDataError(
                f"{file}: its column {name!r} names several instruments ({held}). Keep the rows of one market and "
                f"rename the column to `contract`."
            )


def _read_table(file: Path) -> pd.DataFrame:
    if file.suffix.lower() not in SUFFIXES:
        raise BarDataError(
            f"{file}: files of bars end in {' or '.join(SUFFIXES)}; this one ends in {file.suffix or 'nothing'}."
        )
    try:
        if file.stat().st_size == 0:
            raise BarDataError(f"{file}: the file is empty (0 bytes). Export or download it again.")
        return _read_parquet(file) if file.suffix.lower() == ".parquet" else _read_csv(file)
    except OSError as error:
        raise BarDataError(
            f"{file}: cannot be read ({_one_line(error)}). Check that the file is complete and that you may read it."
        ) from error


def _read_parquet(file: Path) -> pd.DataFrame:
    try:
        table = pyarrow.parquet.read_table(file)
        table.validate(full=True)
        # pandas' own metadata (index, dtypes) is not needed, and damaged metadata raises all kinds of errors.
        frame = table.to_pandas(ignore_metadata=True)
    except (pyarrow.ArrowException, ValueError) as error:
        raise BarDataError(
            f"{file}: not a complete Parquet file ({_one_line(error)}). It may be truncated or of another "
            f"kind: copy or export it again."
        ) from error
    return frame.rename(columns={_NAMELESS_INDEX: TIME_COLUMNS[0]}) if _is_time(frame, _NAMELESS_INDEX) else frame


def _is_time(frame: pd.DataFrame, column: str) -> bool:
    return column in frame.columns and pd.api.types.is_datetime64_any_dtype(frame[column])


def _read_csv(file: Path) -> pd.DataFrame:
    with file.open("rb") as stream:
        start = stream.read(65_536)
    if b"\0" in start:
        raise BarDataError(
            f"{file}: not text (byte {start.index(0)} is NUL), so not CSV whatever its name says. Export it again."
        )
    header = start.split(b"\n", 1)[0]
    separator = max((",", ";", "\t"), key=lambda mark: header.count(mark.encode()))
    try:
        return pd.read_csv(file, sep=separator, encoding="utf-8-sig", low_memory=False)
    except UnicodeDecodeError as error:
        raise BarDataError(
            f"{file}: byte {error.start} cannot be decoded as UTF-8, so this is no CSV of bars. Save it as UTF-8 text."
        ) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise BarDataError(
            f"{file}: not a table ({_one_line(error)}). Export it again as CSV with one header row."
        ) from error


def _times_ns(column: pd.Series) -> NDArray[np.int64]:
    """UTC nanoseconds, int64[n]: zoned times are converted, times without a zone are UTC, integers are an epoch."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return _epoch_ns(column)
    if isinstance(column.dtype, pd.DatetimeTZDtype) or pd.api.types.is_datetime64_dtype(column):
        times = column.dt.tz_localize("UTC") if column.dt.tz is None else column.dt.tz_convert("UTC")
    else:
        text = column.astype("string").str.strip()
        if text.str.fullmatch(r"\d{9,19}").fillna(False).all():
            return _epoch_ns(pd.to_numeric(text))
        times = pd.to_datetime(text, utc=True, format="ISO8601", errors="coerce")
    # Before the unit changes: nanoseconds cannot hold every year that a damaged digit produces.
    readable = (times >= _FIRST_TIME) & (times < _LAST_TIME)
    whole = times.where(readable).dt.as_unit("ns")
    return np.where(readable.to_numpy(), whole.astype("int64").to_numpy(), NO_TIME)


def _says_zone(column: pd.Series) -> bool:
    """Whether the first time states its zone; an epoch is UTC by definition."""
    if isinstance(column.dtype, pd.DatetimeTZDtype) or pd.api.types.is_numeric_dtype(column):
        return True
    return re.search(r"(Z|[+-]\d\d:?\d\d)$|^\d+$", str(column.iloc[0]).strip()) is not None


def _epoch_ns(column: pd.Series) -> NDArray[np.int64]:
    """Seconds, milli-, micro- or nanoseconds since 1970, told apart by their size."""
    rough = column.to_numpy(dtype=np.float64, na_value=np.nan)
    known = np.isfinite(rough)
    if not known.any():
        return np.full(len(column), NO_TIME)
    middle = float(np.median(np.abs(rough[known])))
    factor = next(scale for limit, scale in _EPOCH_UNITS if middle < limit)
    known &= (rough >= _FIRST_TIME.value / factor) & (rough < _LAST_TIME.value / factor)
    # The floats above only show magnitudes: nanoseconds do not fit their 53 bits.
    return np.where(known, column.where(known, 0).astype("int64").to_numpy() * factor, NO_TIME)


def _numbers(column: pd.Series) -> NDArray[np.float64]:
    # Convert to text first if cells may hold anything: to_numeric rejects lists regardless of `errors`.
    numbers: Any = pd.to_numeric(column.astype("string") if column.dtype == object else column, errors="coerce")
    return numbers.to_numpy(dtype=np.float64, na_value=np.nan)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
