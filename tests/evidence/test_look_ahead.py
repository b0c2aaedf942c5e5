"""The look-ahead check finds a feature that knows the next bar, and finds nothing in the real ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from src.evidence.look_ahead import LookAheadCheck, check_prefixes, first_bars
from src.market import features, load
from src.market.flags import ENTRY_ALLOWED
from src.market.load import build_tables
from src.market.settings import DataSettings
from src.market.synthetic import synthetic_bars
from src.market.tables import MarketTables
from tests import small_runs
from tests.market.bar_makers import scheduled_slots, walk_bars


@pytest.mark.parametrize("hours", ["rth", "globex"])
def test_the_real_features_pass(hours: str) -> None:
    tables = small_runs.tables()
    if hours == "globex":
        tables = build_tables(tables.bars, DataSettings(), trading_hours=hours)
    check = check_prefixes(tables, DataSettings(), hours, n_checks=6)
    assert check == LookAheadCheck(6, "")
    assert check.passed


def test_bars_with_holes_and_rolls_pass_too() -> None:
    slots = scheduled_slots(14)
    keep = np.ones(len(slots), bool)
    keep[1000:1009] = keep[2200:2201] = False
    slots = slots[keep]
    bars = walk_bars(slots, contract=(np.arange(len(slots)) > 1700).astype(np.int16))
    check = check_prefixes(build_tables(bars, DataSettings(), trading_hours="rth"), DataSettings(), "rth", n_checks=8)
    assert check.found == ""


def leaked(table: Callable[..., Any], column: int = 0) -> Callable[..., Any]:
    """The same table, one column of it a bar early."""

    def early(*args: Any) -> np.ndarray:
        rows = np.array(table(*args))
        if rows.ndim == 1:
            rows[:-1] = rows[1:]
        else:
            rows[:-1, column] = rows[1:, column]
        return rows

    return early


def tables_with(monkeypatch: pytest.MonkeyPatch, name: str, made: Callable[..., Any]) -> MarketTables:
    monkeypatch.setattr(features, name, made)
    return build_tables(synthetic_bars("NQ", 60, 15, 0), DataSettings(), trading_hours="rth")


@pytest.mark.parametrize(
    ("name", "said"), [("window_features", "window"), ("context_features", "context"), ("atr_ticks", "atr_ticks")]
)
def test_a_table_that_knows_the_next_bar_is_found_and_named(
    monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    tables = tables_with(monkeypatch, name, leaked(getattr(features, name)))
    check = check_prefixes(tables, DataSettings(), "rth")
    assert not check.passed
    assert check.found.startswith(f"{said} of bar ")
    assert check.checks == 1, "the last bar of the very first prefix differs"


def test_a_statistic_of_the_whole_file_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = features.window_features

    def normalised(*args: Any) -> np.ndarray:
        rows = np.array(real(*args))
        rows[:, 0] -= np.float32(rows[:, 0].mean())
        return rows

    tables = tables_with(monkeypatch, "window_features", normalised)
    assert "window of bar" in check_prefixes(tables, DataSettings(), "rth").found


def test_a_difference_in_sign_of_zero_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = features.window_features
    whole = len(synthetic_bars("NQ", 60, 15, 0))

    def signed(*args: Any) -> np.ndarray:
        rows = np.array(real(*args))
        rows[:, 3] = np.float32(0.0 if len(rows) == whole else -0.0)
        return rows

    tables = tables_with(monkeypatch, "window_features", signed)
    assert "window of bar" in check_prefixes(tables, DataSettings(), "rth").found


def test_an_entry_flag_that_knows_the_next_bar_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = load.bar_flags

    def anticipating(*args: Any, **kwargs: Any) -> np.ndarray:
        flags = np.array(real(*args, **kwargs))
        close = args[0].close
        flags[:-1][close[1:] < close[:-1]] &= np.uint8(255 - ENTRY_ALLOWED)
        return flags

    monkeypatch.setattr(load, "bar_flags", anticipating)
    tables = build_tables(synthetic_bars("NQ", 60, 15, 0), DataSettings(), trading_hours="globex")
    # Only a prefix's last bar tells, and only where the next one falls: a coin a check.
    assert check_prefixes(tables, DataSettings(), "globex", n_checks=12).found.startswith("the entry flag of bar ")


def test_a_prefix_is_what_a_shorter_file_would_hold() -> None:
    bars = small_runs.tables().bars
    part = first_bars(bars, 100)
    assert len(part) == 100
    np.testing.assert_array_equal(part.close, bars.close[:100])
    assert part.market == bars.market
