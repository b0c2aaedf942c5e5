"""A share, written as a fraction or in percent."""

from __future__ import annotations

from typing import Any


def as_fraction(value: Any) -> Any:
    """A share as a fraction: 0.9, 90 and "90%" are all 0.9. What is no number or percentage comes back as it is.

    Up to 1 a number is a fraction, from 2 on it is in percent. ValueError for what could be either: the whole number 1,
    and anything between 1 and 2.
    """
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return float(value.strip()[:-1]) / 100.0
        except ValueError:
            return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(value, int) and value == 1:
        raise ValueError("it may mean 1% or 100%; write 0.01 or 1% for the one, 1.0 or 100% for the other")
    if 1 < value < 2:
        raise ValueError("it is above 1, the most a fraction may be, and under 2, where percentages begin; write 1.5%")
    return value / 100.0 if value >= 2 else value
