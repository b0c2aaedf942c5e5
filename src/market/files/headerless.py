"""Infer the columns of a table without a header from its contents, or refuse the table."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from src.errors import BarDataError
from src.market.files.columns import Layout, column_of_futures, is_clock, is_date, is_whole_time
from src.market.files.kinds import NoTable

Floats = NDArray[np.float64]

_ORDERS = tuple(itertools.permutations(range(4)))
_FIRST_ROWS = "Add a header row with column names (datetime,open,high,low,close,volume) and try again."


def by_contents(
    sample: list[list[str]], numbers: list[Floats | None], time: tuple[int, ...], label: str, *, newest_first: bool
) -> Layout:
    """The layout of a table without a header.

    Args:
        sample: Rows as text.
        numbers: The columns of the sample as float64[rows]; None for a column that is mostly not numeric.
        time: The time columns.
        newest_first: Whether the sample's times are descending.

    Raises:
        NoTable: there are not four price columns.
        BarDataError: the order of the price columns is ambiguous.
    """
    free = [place for place in range(len(numbers)) if place not in time]
    prices, notes = _prices(numbers, free, label, newest_first=newest_first)
    after = [place for place in free if place > max(prices)]
    volume, volume_notes = _volume(numbers, after)
    symbols = [place for place in free if place < min(prices) and _is_symbol(sample, numbers, place)]
    future = column_of_futures(sample, free)
    instrument = tuple(symbols[:1]) if future is None else (future,)
    if not volume:
        before = [place for place in free if place < min(prices) and place not in instrument]
        volume, volume_notes = _volume(numbers, before) if len(before) == 1 else ((), ())
    kind = "contracts" if volume else "none"
    return Layout(time, prices, volume, instrument, kind, notes=(*notes, *volume_notes))  # type: ignore[arg-type]


def time_columns(sample: list[list[str]], width: int, label: str) -> tuple[int, ...]:
    """The time column, or the date and time-of-day columns, among the first four. Raises NoTable if there is none."""
    for place in range(min(width, 4)):
        if is_date(sample, place):
            for clock in (place + 1, place + 2):
                if clock < width and is_clock(sample, clock):
                    return (place, clock)
        if is_whole_time(sample, place):
            return (place,)
    dates = [place for place in range(min(width, 4)) if is_date(sample, place)]
    if dates:
        return (dates[0],)
    row = ", ".join(sample[0])[:80] if sample else ""
    raise NoTable(
        f"{label}: no header, and none of the first four columns is a time, so this is not a table of bars (first row: "
        f"{row!r}). {_FIRST_ROWS}"
    )


def _is_symbol(sample: list[list[str]], numbers: list[Floats | None], place: int) -> bool:
    cells = [row[place].strip() for row in sample if place < len(row)]
    return numbers[place] is None and all(any(mark.isalpha() for mark in cell) for cell in cells)


def _prices(
    numbers: list[Floats | None], free: list[int], label: str, *, newest_first: bool
) -> tuple[tuple[int, int, int, int], tuple[str, ...]]:
    """Four adjacent columns of which one is always the highest and another always the lowest."""
    for start in free:
        places = [place for place in range(start, start + 4) if place in free and numbers[place] is not None]
        if len(places) < 4:
            continue
        four = np.column_stack([numbers[place] for place in places])  # type: ignore[misc]
        four = four[np.isfinite(four).all(axis=1) & (four != 0).all(axis=1)]
        if len(four) and _alike(four):
            order, notes = _order(four[::-1] if newest_first else four, label)
            o, h, low, c = (places[k] for k in order)
            return (o, h, low, c), notes
    raise NoTable(
        f"{label}: no header, and no four adjacent columns look like prices, with one always the highest and one "
        f"always the lowest. {_FIRST_ROWS}"
    )


def _alike(four: Floats) -> bool:
    """Whether the four have the same magnitude, as the prices of a bar do; volumes and times do not."""
    ratio = four.max(axis=1) / np.where(four.min(axis=1) == 0, np.nan, four.min(axis=1))
    return bool(np.nanmedian(ratio) < 1.2 and np.nanmedian(ratio) > 0)


def _order(four: Floats, label: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Positions of open, high, low and close among the four columns."""
    fits = [order for order in _ORDERS if _share(four, order) >= 0.98]
    highs_lows = {(order[1], order[2]) for order in fits}
    if (1, 2) in highs_lows and len(highs_lows) > 1 and _flat(four):
        highs_lows = {(1, 2)}
    if len(highs_lows) != 1:
        found = "no column is always the highest while another is the lowest" if not fits else "several orders fit"
        raise BarDataError(
            f"{label}: no header, and the order of the four price columns is ambiguous: {found}. {_FIRST_ROWS}"
        )
    high, low = highs_lows.pop()
    first, second = (place for place in range(4) if place not in (high, low))
    preferred = (first, high, low, second)
    step = _step(four, first, second)
    reverse = _step(four, second, first)
    decided = len(four) >= 8 and max(step, reverse) > 0
    if (high, low) == (1, 2) and not (decided and reverse * 2 < step):
        return preferred, ()
    if decided and step * 1.5 < reverse:
        return preferred, (f"columns in the order {_named(preferred)}, inferred from the prices",)
    if decided and reverse * 1.5 < step:
        other = (second, high, low, first)
        if (high, low) == (1, 2):
            raise BarDataError(
                f"{label}: no header, and the order of the price columns is ambiguous: read as open, high, low, close, "
                f"each bar's open is closer to the next bar's close than its close is to the next open. {_FIRST_ROWS}"
            )
        return other, (f"columns in the order {_named(other)}, inferred from the prices",)
    raise BarDataError(
        f"{label}: no header, and price column {first + 1} or {second + 1} (of four) may be the open. {_FIRST_ROWS}"
    )


def _share(four: Floats, order: tuple[int, ...]) -> float:
    high, low = four[:, order[1]], four[:, order[2]]
    return float(np.mean((high >= four.max(axis=1)) & (low <= four.min(axis=1))))


def _flat(four: Floats) -> bool:
    """Whether most bars have a single price, which fits every order, or there are fewer than four bars."""
    return bool(np.mean(four.max(axis=1) == four.min(axis=1)) > 0.5) or len(four) < 4


def _step(four: Floats, opens: int, closes: int) -> float:
    """Median distance from a bar's close to the next bar's open."""
    return float(np.median(np.abs(four[1:, opens] - four[:-1, closes]))) if len(four) > 1 else 0.0


def _named(order: tuple[int, ...]) -> str:
    names = ("open", "high", "low", "close")
    return ", ".join(names[order.index(place)] for place in range(4))


def _volume(numbers: list[Floats | None], places: list[int]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The first column of counts; if it is the running daily total of the next column, that next column."""
    counts = [
        place
        for place in places
        if (column := numbers[place]) is not None
        and (known := column[np.isfinite(column)]).size
        and (known >= 0).all()
        and np.mean(known == np.floor(known)) > 0.98
    ]
    if not counts:
        return (), ()
    if len(counts) > 1 and counts[1] == counts[0] + 1:
        total, each = numbers[counts[0]], numbers[counts[1]]
        if total is not None and each is not None and len(total) > 3 and each.any():
            steps = np.diff(total)
            restarts = steps < 0
            adds_up = np.where(restarts, total[1:] == each[1:], steps == each[1:])
            # Half is enough: unrelated columns almost never agree, and some cells may be damaged.
            if np.mean(adds_up) > 0.5:
                return (counts[1],), ("volume is per bar; the column before it is the day's running total",)
    return (counts[0],), ()
