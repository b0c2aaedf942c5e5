"""Figures as text: thousands separated, a true minus, a dash where there is nothing."""

from __future__ import annotations

NOTHING = "–"
MINUS = "−"


def plain(value: float | None, digits: int = 0) -> str:
    """`1,234.5`; a dash for None."""
    if value is None:
        return NOTHING
    text = f"{value:,.{digits}f}"
    # Not "-0": what rounds to nothing has no sign.
    return f"{0:.{digits}f}" if text.strip("-0.,") == "" else text.replace("-", MINUS)


def signed(value: float | None, digits: int = 0) -> str:
    """`+1,234`, for what may as well be negative."""
    text = plain(value, digits)
    return text if value is None or text[0] == MINUS or not text.strip("0.,") else f"+{text}"


def percent(frac: float | None, digits: int = 0) -> str:
    """A share as `42%`."""
    return NOTHING if frac is None else f"{plain(100.0 * frac, digits)}%"


def significant(value: float | None) -> str:
    """Three significant digits, and never fewer than the whole number has."""
    if value is None:
        return NOTHING
    return plain(value) if abs(value) >= 1000 else f"{value:.3g}".replace("-", MINUS)


def duration(seconds: float | None) -> str:
    """`12.3 s`, `4.9 min` or `1.6 h`."""
    if seconds is None:
        return NOTHING
    if seconds < 120.0:
        return f"{plain(seconds, 1)} s"
    return f"{plain(seconds / 60.0, 1)} min" if seconds < 7200.0 else f"{plain(seconds / 3600.0, 1)} h"
