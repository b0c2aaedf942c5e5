"""Assign columns to roles by their names, in vendors' spellings, and their contents."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from src.errors import BarDataError
from src.market.contracts import CONTRACTS
from src.market.files import spellings
from src.market.files.instrument_names import parse_instrument
from src.market.files.kinds import NoTable
from src.market.files.rows import Stamp
from src.market.files.time_forms import CellKind, cell_kind, form_of, shape_of

VolumeKind = Literal["contracts", "ticks", "none"]


@dataclass(frozen=True)
class Layout:
    """Positions of the columns to read."""

    time: tuple[int, ...]
    """The time, or a date and a time of day."""
    prices: tuple[int, int, int, int]
    volume: tuple[int, ...]
    """Summed; empty if there is none."""
    instrument: tuple[int, ...] = ()
    """Joined: a symbol, or a symbol and its expiry."""
    volume_kind: VolumeKind = "contracts"
    stamp: Stamp | None = None
    """From the time column's name."""
    zone: str | None = None
    """From the time column's name."""
    notes: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[int, ...]:
        return tuple(sorted({*self.time, *self.prices, *self.volume, *self.instrument}))


def key(name: str) -> str:
    """A column's name without case, spaces, quotes and punctuation: "<CLOSE>" and "Close" have the same key."""
    text = name.strip().strip("\ufeff\"'").lower()
    text = re.sub(r"\((?:utc|gmt|et|est|edt|ct|cst|cdt|usd|points|contracts)\)|\[.*?\]", "", text)
    return re.sub(r"[^a-z0-9%äöüéèáíóúñç#]", "", text)


_MOST_NAMES = 100
_FILLED_FRAC = 0.9  # a column of comments is mostly empty
_PRICE_WORDS = ("open", "high", "low", "close")
_EARLIEST = 315_532_800
"""1980 in seconds since 1970; times of day such as 235959999 are smaller, dates with a time of day larger."""
_EXCEL_DATE = re.compile(r"[2-9][0-9]{4}([.,]0*)?")
_COMPACT_DATE = re.compile(
    r"(19[89]|20[0-9])[0-9](0[1-9]|1[0-2])[0-3][0-9]|1[0-9]{2}(0[1-9]|1[0-2])[0-3][0-9]|[2-9][0-9]{4}"
)
_ZONES = (
    (r"(^|[^a-z])(utc|gmt)", "UTC"),
    (r"(^|[\s_(])(et|est|edt|est5edt|eastern|new.?york)([\s_)]|$)", "America/New_York"),
    (r"(^|[\s_(])(ct|cst|cdt|central|chicago)([\s_)]|$)", "America/Chicago"),
)


def price_roles(names: list[str]) -> int:
    """How many of open, high, low and close occur in a row of names."""
    keys = {key(name) for name in names}
    return sum(bool(keys & set(names_of)) for names_of in spellings.PRICES)


def by_names(names: list[str], sample: list[list[str]], label: str) -> Layout:
    """The layout of a table with a header, from its names and some of its rows (as text).

    Raises:
        BarDataError: a column is missing or occurs twice; the message lists the file's columns.
    """
    keys = [key(name) for name in names]
    prices = [_one_of(names_of, keys, names, label) for names_of in spellings.PRICES]
    time, stamp, zone = _time_columns(names, keys, sample, label)
    absent = [word for word, place in zip(_PRICE_WORDS, prices, strict=True) if place is None]
    if len(absent) == len(_PRICE_WORDS):
        raise NoTable(
            f"{label}: no price columns. The file has: {_listing(names)}. Give --data a file of bars, or rename the "
            f"columns to datetime, open, high, low, close, volume (case does not matter)."
        )
    if not time:
        absent.insert(0, "a time")
    volume, kind = _volume_columns(keys, names, sample, label)
    if absent:
        absent += [] if volume else ["volume"]
        raise BarDataError(
            f"{label}: columns missing: {', '.join(absent)}. The file has: {_listing(names)}. Rename the columns to "
            f"datetime, open, high, low, close, volume (case does not matter) or export it again."
        )
    o, h, low, c = (place for place in prices if place is not None)
    return Layout(time, (o, h, low, c), volume, _instrument_columns(keys, sample), kind, stamp, zone)


def _listing(names: list[str]) -> str:
    shown = ", ".join(name.strip() or "(no name)" for name in names[:20])
    return shown + (f" and {len(names) - 20} more" if len(names) > 20 else "") or "none"


def _one_of(names_of: tuple[str, ...], keys: list[str], names: list[str], label: str) -> int | None:
    """The column of the best spelling. Raises BarDataError if it occurs twice."""
    for spelling in names_of:
        places = [place for place, name in enumerate(keys) if name == spelling]
        if len(places) > 1:
            raise BarDataError(f"{label}: the column {names[places[0]].strip()!r} occurs twice. Keep one of them.")
        if places:
            return places[0]
    return None


def cells_kind(sample: list[list[str]], place: int) -> CellKind | None:
    """The kind of most cells in a column."""
    cells = [row[place] for row in sample if place < len(row) and row[place].strip()]
    kinds = Counter(cell_kind(cell) for cell in cells)
    kind, count = kinds.most_common(1)[0] if kinds else (None, 0)
    return kind if count * 2 > len(cells) else None


def _cells(sample: list[list[str]], place: int) -> list[str]:
    return [row[place].strip() for row in sample if place < len(row) and row[place].strip()]


def _most(cells: list[str], fits: Callable[[str], bool]) -> bool:
    return sum(fits(cell) for cell in cells) * 2 > len(cells)


def _whole(cell: str) -> int:
    """A cell of digits as a number; -1 for any other cell."""
    return int(cell) if cell.isascii() and cell.isdigit() else -1


def is_whole_time(sample: list[list[str]], place: int) -> bool:
    """Whether a column's cells can hold date and time of day."""
    kind = cells_kind(sample, place)
    if kind == "digits":
        return _most(_cells(sample, place), lambda cell: _whole(cell) >= _EARLIEST)
    if kind == "decimal":
        return _most(_cells(sample, place), lambda cell: len(cell.replace(",", ".").split(".")[0]) in (5, 10, 13))
    return kind == "full"


def _is_instant(sample: list[list[str]], place: int) -> bool:
    """Whether most cells have an offset or count from 1970."""

    def fits(cell: str) -> bool:
        form = form_of(shape_of(cell))
        if form is None:
            return False
        counted = form.kind == "digits" and form.digits in (9, 10, 13, 16, 19)
        return counted or form.offset_min is not None or form.offset_hour is not None

    return _most(_cells(sample, place), fits)


def is_date(sample: list[list[str]], place: int) -> bool:
    """Whether a column's cells are dates without a time of day."""
    kind = cells_kind(sample, place)
    if kind == "decimal":
        return _most(_cells(sample, place), lambda cell: _EXCEL_DATE.fullmatch(cell) is not None)
    if kind == "digits":
        return _most(_cells(sample, place), lambda cell: _COMPACT_DATE.fullmatch(cell) is not None)
    return kind == "date"


def is_clock(sample: list[list[str]], place: int) -> bool:
    """Whether a column's cells are times of day."""
    kind = cells_kind(sample, place)
    if kind == "decimal":
        return _most(_cells(sample, place), lambda cell: re.fullmatch(r"[01]?[.,][0-9]*", cell) is not None)
    if kind == "digits":
        cells = _cells(sample, place)
        hours = [_hour_of(_whole(cell)) for cell in cells]
        return sum(0 <= hour <= 24 for hour in hours) >= 0.9 * len(hours) and len({*cells}) > len(cells) // 100 + 1
    return kind == "clock"


def _hour_of(value: int) -> int:
    """The hour of a time of day written hhmm, hhmmss or hhmmssmmm; more than 24 for larger numbers."""
    return value // 100 if value <= 2400 else value // 10_000 if value <= 240_000 else value // 10_000_000


def _time_columns(
    names: list[str], keys: list[str], sample: list[list[str]], label: str
) -> tuple[tuple[int, ...], Stamp | None, str | None]:
    named = [keys.index(name) for name in spellings.WHOLE if name in keys]
    whole = [place for place in named if is_whole_time(sample, place)]
    if whole:
        # Prefer the bar's open to its close, then an instant to a wall clock, then the better name.
        place = min(whole, key=lambda place: (keys[place] in spellings.CLOSES, not _is_instant(sample, place)))
        return (place,), _stamp_of(keys[place]), _zone_of(names[place])
    dates = [keys.index(name) for name in spellings.DATE if name in keys and is_date(sample, keys.index(name))]
    clocks = [keys.index(name) for name in spellings.CLOCK if name in keys and is_clock(sample, keys.index(name))]
    for date in dates:
        for clock in clocks:
            same = keys[date].startswith("local") == keys[clock].startswith("local")
            if clock != date and (same or len(dates) == 1):
                return (date, clock), None, _zone_of(names[date]) or _zone_of(names[clock])
    elsewhere = [place for place in range(len(names)) if cells_kind(sample, place) == "full"]
    if len(elsewhere) == 1:
        return (elsewhere[0],), None, _zone_of(names[elsewhere[0]])
    unnamed = [place for place, name in enumerate(keys) if not name and is_whole_time(sample, place)]
    if len(unnamed) == 1:
        return (unnamed[0],), None, None
    if len(elsewhere) > 1:
        raise BarDataError(
            f"{label}: the columns {names[elsewhere[0]].strip()!r} and {names[elsewhere[1]].strip()!r} both hold "
            f"times, and their names do not say which is the bar's time. Rename that one to datetime."
        )
    # A date, or a column with other contents: read_times reports the problem.
    return tuple((dates or named)[:1]), None, None


def _stamp_of(name: str) -> Stamp | None:
    if name in spellings.OPENS:
        return "open"
    return "close" if name in spellings.CLOSES else None


def _zone_of(name: str) -> str | None:
    text = name.lower().strip()
    if (match := re.search(r"(?:utc|gmt) ?([+-])0?(\d{1,2})(?::?(\d\d))?", text)) and match[2] != "0":
        # IANA's fixed-offset names have the opposite sign.
        whole = match[3] in (None, "00") and int(match[2]) <= 12
        return f"Etc/GMT{'-' if match[1] == '+' else '+'}{match[2]}" if whole else None
    return next((zone for pattern, zone in _ZONES if re.search(pattern, text)), None)


def _volume_columns(
    keys: list[str], names: list[str], sample: list[list[str]], label: str
) -> tuple[tuple[int, ...], VolumeKind]:
    real = _one_of(spellings.VOLUME, keys, names, label)
    ticks = _one_of(spellings.TICKS, keys, names, label)
    if real is not None and (ticks is None or _mostly_positive(sample, real)):
        return (real,), "contracts"
    if ticks is not None:
        return (ticks,), "ticks"
    for pair in spellings.UP_DOWN:
        if all(name in keys for name in pair):
            return (keys.index(pair[0]), keys.index(pair[1])), "contracts"
    return (), "none"


def _mostly_positive(sample: list[list[str]], place: int) -> bool:
    return _most(_cells(sample, place), lambda cell: re.search(r"[1-9]", cell) is not None)


def _instrument_columns(keys: list[str], sample: list[list[str]]) -> tuple[int, ...]:
    symbol = next((keys.index(name) for name in spellings.INSTRUMENT if name in keys), None)
    expiry = next((keys.index(name) for name in spellings.EXPIRY if name in keys), None)
    if symbol is None:
        symbol = column_of_futures(sample, range(len(keys)))
    if symbol is None:
        return ()
    names = {row[symbol].strip() for row in sample if symbol < len(row)}
    if expiry is None or any(re.search(r"[0-9]", name) for name in names):
        return (symbol,)
    return (symbol, expiry)


def column_of_futures(sample: list[list[str]], places: Iterable[int]) -> int | None:
    """The column whose cells are names of known futures, whatever its own name; one of contract months is preferred."""
    found = {}
    for place in places:
        filled = _cells(sample, place)
        cells = set(filled)
        if len(cells) <= _MOST_NAMES and len(filled) >= _FILLED_FRAC * len(sample):
            known = [one for cell in cells if (one := parse_instrument(cell)) is not None and one.root in CONTRACTS]
            if len(known) * 2 > len(cells):
                found[place] = any(one.kind == "future" for one in known)
    return max(found, key=lambda place: found[place], default=None)
