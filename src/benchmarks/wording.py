"""How numbers are written for people. Loads no library."""

from __future__ import annotations

_UNITS = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9))


def duration(seconds: float) -> str:
    """Three digits and a unit: `1.23 ms`, `12.3 us`, `123 ns`."""
    unit, scale = next((u for u in _UNITS if seconds >= 0.9995 * u[1]), _UNITS[-1])
    return f"{three_digits(seconds / scale)} {unit}"


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
