"""Databento's binary files (DBN versions 1 to 3): bars of any length, with a numeric instrument ID per record."""

from __future__ import annotations

import struct
from datetime import date
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.errors import BarDataError
from src.market.files.assemble import Instruments, file_rows
from src.market.files.columns import Layout
from src.market.files.containers import Content
from src.market.files.dialects import Dialect
from src.market.files.rows import NO_TIME, FileRows
from src.market.files.text_tables import MOST_ROWS
from src.market.files.time_columns import TimeColumn
from src.market.files.times import DAY, FIRST_NS, LAST_NS, as_text
from src.plain_text import one_line

INSTALL = "python -m pip install -r requirements-dbn.txt"

_PREFIX = 8
_MOST_METADATA = 64 << 20
_MOST_BYTES = 4 << 30
_VERSIONS = (1, 2, 3)
_BARS = {32: "one second", 33: "one minute", 34: "one hour", 35: "one day", 36: "one day"}
_UNDEFINED_PRICE = np.iinfo(np.int64).max
_UNDEFINED_TIME = np.iinfo(np.uint64).max
_FIELDS = (
    *(("length", "u1"), ("rtype", "u1"), ("publisher", "<u2"), ("instrument", "<u4"), ("time", "<u8")),
    *(("open", "<i8"), ("high", "<i8"), ("low", "<i8"), ("close", "<i8"), ("volume", "<u8")),
)
_RECORD = np.dtype(list(_FIELDS))
_WORD = 4
_LAYOUT = Layout((0,), (1, 2, 3, 4), (5,))
_DIALECT = Dialect("Databento DBN", "the DBN signature", "UTC", "open", "Databento's ts_event is the bar's open in UTC")


def dbn_rows(content: Content) -> list[FileRows]:
    """The rows of a DBN file; instruments are named by the file's symbol mappings.

    Raises:
        BarDataError: databento-dbn is not installed; the file is damaged or truncated; a schema other than bars.
    """
    library = _library(content.label)
    body = _metadata_length(content)
    data = content.read(_MOST_BYTES, "for DBN records. Split the download by year.")
    try:
        metadata = library.Metadata.decode(data[:body])
        mappings = metadata.mappings
        schema = str(metadata.schema or "")
        symbols = [str(symbol) for symbol in metadata.symbols]
    # A panic in the compiled library raises a BaseException that is not an Exception.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise _damaged(content.label, one_line(error)) from error
    if schema and not schema.startswith("ohlcv"):
        raise BarDataError(
            f"{content.label}: a DBN file with schema {schema}, not bars. Download the schema ohlcv-1m from Databento."
        )
    records = _records(data, body, content.label)
    stamps = records["time"]
    good = (stamps >= FIRST_NS) & (stamps < LAST_NS)
    ns = np.where(good, stamps.astype(np.int64), NO_TIME)
    raw = np.column_stack([records[name] for name in ("open", "high", "low", "close")])
    prices = np.where(raw == _UNDEFINED_PRICE, np.nan, raw / 1e9)
    times = TimeColumn(ns, True, None, lambda row: _shown(int(stamps[row])), (), "nanoseconds since 1970")
    volume = records["volume"].astype(np.float64)
    named = symbols[0] if len(symbols) == 1 else None
    note = f"DBN version {metadata.version}, bars of {_length(records)}"
    instruments = _instruments(records, mappings)
    return [file_rows(content, _LAYOUT, _DIALECT, times, prices, volume, instruments, named=named, notes=(note,))]


def _library(label: str) -> ModuleType:
    try:
        import databento_dbn
    except ImportError:
        raise BarDataError(
            f"{label}: reading Databento's DBN files needs the package databento-dbn. Run: {INSTALL}. Or download the "
            f"data from Databento as CSV."
        ) from None
    return databento_dbn


def _damaged(label: str, what: str) -> BarDataError:
    return BarDataError(f"{label}: not a complete DBN file ({what}). It may be truncated: copy or download it again.")


def _metadata_length(content: Content) -> int:
    """Offset of the first record, from the header's length field, checked against the file size."""
    if len(content.head) < _PREFIX:
        raise _damaged(content.label, f"{len(content.head)} bytes")
    version, length = content.head[3], struct.unpack("<I", content.head[4:_PREFIX])[0]
    if version not in _VERSIONS:
        raise BarDataError(
            f"{content.label}: DBN version {version} is not supported (1 to 3 are). Download the data again, or as CSV."
        )
    if _PREFIX + length > content.size or length > _MOST_METADATA:
        raise _damaged(
            content.label, f"the header gives {length:,} bytes of metadata, the file has {content.size:,} bytes"
        )
    return _PREFIX + int(length)


def _records(data: bytes, body: int, label: str) -> NDArray[Any]:
    """The records as a structured array, with their lengths and types checked."""
    size = len(data) - body
    if size < _RECORD.itemsize:
        raise BarDataError(f"{label}: the DBN file has no records. Download it again, or for other dates.")
    step = data[body] * _WORD
    if step not in (_RECORD.itemsize, _RECORD.itemsize + 8):
        raise BarDataError(f"{label}: the first DBN record has {step} bytes, a bar has {_RECORD.itemsize}. {_WHAT}")
    if size % step:
        raise _damaged(label, f"{size % step} bytes after the last whole record")
    if size // step > MOST_ROWS:
        raise BarDataError(
            f"{label}: {size // step:,} records, more than the limit of {MOST_ROWS:,}. Split the download by year."
        )
    # Live data appends a send time to each record.
    sent = [("sent", "<u8")] if step > _RECORD.itemsize else []
    records = np.frombuffer(data, dtype=np.dtype([*_FIELDS, *sent]), offset=body)
    if (records["length"] != step // _WORD).any():
        raise _damaged(label, f"record {int(np.argmax(records['length'] != step // _WORD)) + 1} has a different length")
    kinds = np.unique(records["rtype"]).tolist()
    if any(kind not in _BARS for kind in kinds):
        raise BarDataError(f"{label}: DBN records of types {kinds}, not only bars. {_WHAT}")
    if len(kinds) > 1:
        raise BarDataError(f"{label}: the DBN file mixes bar lengths. Download only the schema ohlcv-1m.")
    return records


_WHAT = "Download the schema ohlcv-1m from Databento."


def _length(records: NDArray[Any]) -> str:
    return _BARS[int(records["rtype"][0])]


def _shown(time: int) -> str:
    return "(undefined)" if time == _UNDEFINED_TIME or time > LAST_NS else as_text(time)


def _instruments(records: NDArray[Any], mappings: Any) -> Instruments:
    """Each record's instrument: the symbol mapped to its ID on that day, or the ID itself if there is none."""
    numbers = records["instrument"].astype(np.int64)
    days = (records["time"] // np.uint64(DAY)).astype(np.int64)
    spans: dict[int, list[tuple[int, int, str]]] = {}
    for symbol, intervals in mappings.items():
        for interval in intervals:
            number = str(interval["symbol"])
            if number.isdigit():
                span = (_day(interval["start_date"]), _day(interval["end_date"]), str(symbol))
                spans.setdefault(int(number), []).append(span)
    pairs, inverse = np.unique(numbers * 100_000 + np.clip(days, 0, 99_999), return_inverse=True)
    names: dict[str, int] = {}
    codes = np.zeros(len(pairs), dtype=np.int32)
    for k, pair in enumerate(pairs.tolist()):
        number, day = divmod(pair, 100_000)
        known = spans.get(number, [])
        name = next((symbol for first, end, symbol in known if first <= day < end), None)
        if name is None:
            name = known[0][2] if len({symbol for _, _, symbol in known}) == 1 else str(number)
        codes[k] = names.setdefault(name, len(names))
    return codes[inverse], tuple(names)


def _day(value: date) -> int:
    return (value - date(1970, 1, 1)).days
