"""The placebo: the advisor's own answers, given to the wrong situations.

A hybrid trained and evaluated on it has the same network, steps, coverage and kind of advice as one that hears the real
thing; only what the advice has to do with the market is gone. So hybrid less placebo is what the advice knows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.advisor.situations import N_MARKET_SITUATIONS, SIDES
from src.advisor.table import AdviceTable, freeze_table
from src.trading.layout import ACTIONS, N_ACTIONS, N_SIDES


def placebo_table(table: AdviceTable, seed: int) -> AdviceTable:
    """The table with its advice permuted among the covered situations of each side; what was uncovered abstains.

    The permutation of a side is one random cycle through all its covered situations (Sattolo, An Algorithm to Generate
    a Random Cyclic Permutation, Information Processing Letters 22, 1986): none keeps its own row, and where a side has
    two different rows the permuted side differs from the original, since a cycle along which every row equals the next
    has one row only. Equal for equal seeds; its hash is its own.
    """
    rows = _by_side(table.probabilities).copy()
    covered = table.covered.reshape(N_MARKET_SITUATIONS, N_SIDES)
    for side in range(N_SIDES):
        codes = np.flatnonzero(covered[:, side])
        order = _cycle(len(codes), np.random.default_rng([seed, side]))
        rows[codes, side] = rows[codes[order], side]
    return freeze_table(
        rows.reshape(table.probabilities.shape),
        table.covered,
        f"{table.advisor_name}, permuted",
        f"placebo of {table.sha256}, seed {seed}",
    )


def constant_table(table: AdviceTable) -> AdviceTable:
    """Every covered situation of a side answers the mean of that side's covered rows; what was uncovered abstains."""
    rows = _by_side(table.probabilities).copy()
    covered = table.covered.reshape(N_MARKET_SITUATIONS, N_SIDES)
    for side in range(N_SIDES):
        codes = np.flatnonzero(covered[:, side])
        if len(codes):
            rows[codes, side] = rows[codes, side].mean(axis=0, dtype=np.float64)
    return freeze_table(
        rows.reshape(table.probabilities.shape),
        table.covered,
        f"{table.advisor_name}, mean of the side",
        f"constant of {table.sha256}",
    )


def placebo_facts(
    table: AdviceTable, placebo: AdviceTable, market_codes: NDArray[np.integer[Any]]
) -> dict[str, dict[str, Any]]:
    """How far the placebo is from the original, by side, over bars of these market codes (int[n]).

    Situations differ in how often they occur, so permuted advice says BUY more or less often than the original on the
    same bars: `mean_shift` is placebo less original in the mean probability of each action over the covered bars, None
    without such a bar. `situations` are those covered, `changed` those whose row differs, `bars` the covered bars and
    `bars_changed_frac` the share of them whose row differs.
    """
    bars_of = np.bincount(np.asarray(market_codes, np.int64), minlength=N_MARKET_SITUATIONS)
    covered = table.covered.reshape(N_MARKET_SITUATIONS, N_SIDES)
    original, permuted = _by_side(table.probabilities), _by_side(placebo.probabilities)
    facts: dict[str, dict[str, Any]] = {}
    for side, name in enumerate(SIDES):
        codes = np.flatnonzero(covered[:, side])
        moved = permuted[codes, side].astype(np.float64) - original[codes, side]
        changed = moved.any(axis=1)
        weights = bars_of[codes]
        n = int(weights.sum())
        shift = weights @ moved / n if n else None
        facts[name] = {
            "situations": len(codes),
            "changed": int(changed.sum()),
            "bars": n,
            "bars_changed_frac": float(weights @ changed / n) if n else None,
            "mean_shift": None if shift is None else {ACTIONS[k]: float(shift[k]) for k in range(N_ACTIONS)},
        }
    return facts


def _by_side(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows float32[N_SITUATIONS, 6] as [market code, side, action]: a situation is code x 5 + side."""
    return probabilities.reshape(N_MARKET_SITUATIONS, N_SIDES, N_ACTIONS)


def _cycle(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A permutation of 0..n-1 that is one cycle through all, each of the (n - 1)! equally likely."""
    order = np.arange(n)
    for last in range(n - 1, 0, -1):
        other = int(rng.integers(last))
        order[[last, other]] = order[[other, last]]
    return order
