"""Numbers as text, the same on the console, in the verdict and on the page: `$1,234`, `-$227`, `42%`, `4.9 min`.

Loads no library.
"""

from __future__ import annotations

NOTHING = "–"
"""What a table shows where there is no number."""
_UNITS = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9))
HOVER_USD, HOVER_SIGNED_USD, AXIS_USD = "$,.0f", "+$,.0f", "$,.2~f"
"""The same formats for the page's charts, in the notation of d3-format."""


def plain(value: float | None, digits: int = 0) -> str:
    """`1,234.5`; a dash for None."""
    if value is None:
        return NOTHING
    text = f"{value:,.{digits}f}"
    # Not "-0": a number that rounds to zero has no sign.
    return f"{0:.{digits}f}" if text.strip("-0.,") == "" else text


def signed(value: float | None, digits: int = 0) -> str:
    """`+1,234`, for a number that is as likely to be negative."""
    text = plain(value, digits)
    return text if value is None or text[0] == "-" or not text.strip("0.,") else f"+{text}"


def usd(value: float | None, digits: int = 0) -> str:
    """`$1,234` or `-$227`: the sign before the dollar. Amounts under a dollar show their cents; a dash for None."""
    if value is None:
        return NOTHING
    text = plain(value, 2 if digits == 0 and 0.005 <= abs(value) < 1.0 else digits)
    return f"-${text[1:]}" if text[0] == "-" else f"${text}"


def signed_usd(value: float | None, digits: int = 0) -> str:
    """`+$170` or `-$227`, for a difference."""
    text = usd(value, digits)
    return text if value is None or text[0] == "-" or not text.strip("$0.,") else f"+{text}"


def usd_per_session(mean: float, low: float, high: float, level: float = 0.95) -> str:
    """`-$227/session (95% CI -$364 to -$59)`."""
    return f"{signed_usd(mean)}/session ({percent(level)} CI {signed_usd(low)} to {signed_usd(high)})"


def percent(frac: float | None, digits: int = 0) -> str:
    """A fraction as `42%`; a dash for None."""
    return NOTHING if frac is None else f"{plain(100.0 * frac, digits)}%"


def significant(value: float | None) -> str:
    """Three significant digits; never fewer than the whole number has."""
    if value is None:
        return NOTHING
    return plain(value) if abs(value) >= 1000 else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """`12.3 s`, `4.9 min` or `1.6 h`; a dash for None."""
    if seconds is None:
        return NOTHING
    if seconds < 120.0:
        return f"{plain(seconds, 1)} s"
    return f"{plain(seconds / 60.0, 1)} min" if seconds < 7200.0 else f"{plain(seconds / 3600.0, 1)} h"


def clock_time(seconds: float) -> str:
    """`3:05`, `1:03:05`: elapsed time and time left of a progress line."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def measured(seconds: float) -> str:
    """A benchmark's time, three digits and a unit: `1.23 ms`, `12.3 us`, `123 ns`."""
    unit, scale = next((u for u in _UNITS if seconds >= 0.9995 * u[1]), _UNITS[-1])
    return f"{three_digits(seconds / scale)} {unit}"


def count(number: float) -> str:
    """A count; with one decimal only if seeds were averaged."""
    return f"{number:,.0f}" if number == round(number) else f"{number:,.1f}"


def three_digits(value: float) -> str:
    """A number above 0: `1.23`, `12.3`, `123`, `1,234`, `0.0123`."""
    # Rounded first, so that 9.996 is not shown with four digits.
    for digits, limit in ((5, 0.009995), (4, 0.09995), (3, 0.9995), (2, 9.995), (1, 99.95)):
        if value < limit:
            return f"{value:.{digits}f}"
    return f"{value:,.0f}"


def ratio_words(ratio: float) -> str:
    """`1.23x`."""
    return f"{three_digits(ratio)}x"
