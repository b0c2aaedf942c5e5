"""The placebo: the advisor's own answers, given to the wrong situations.

A hybrid trained and evaluated on it has the same network, steps, coverage and kind of advice as the real hybrid;
only the link between advice and market is broken. The difference hybrid - placebo measures what the advice knows.
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

    Market codes that are covered on every side change places with all five of their answers: whoever is told BUY while
    flat hears from the same foreign situation once long. (A permutation of its own for each side would contradict
    itself from one moment to the next: after short trainings noise beat such a placebo by trading half as often.) What
    is covered on some sides only is permuted by side. Each permutation is one random cycle (Sattolo, An Algorithm to
    Generate a Random Cyclic Permutation, Information Processing Letters 22, 1986): none keeps its own row unless it is
    alone on its side, and where a side has two different rows the permuted side differs from the original. Equal for
    equal seeds; its hash is its own.
    """
    rows = _by_side(table.probabilities).copy()
    covered = table.covered.reshape(N_MARKET_SITUATIONS, N_SIDES)
    shared = np.flatnonzero(covered.all(axis=1))
    if len(shared) == 1:  # nobody to change places with as a whole
        shared = shared[:0]
    source = np.arange(N_MARKET_SITUATIONS)
    source[shared] = shared[_cycle(len(shared), np.random.default_rng(seed))]
    for side in range(N_SIDES):
        rng = np.random.default_rng([seed, side])
        codes = np.flatnonzero(covered[:, side])
        permuted = rows[_source_of_side(source, shared, codes, rng), side]
        if (permuted == rows[codes, side]).all():  # two groups, each of one row: only one cycle through both moves any
            permuted = rows[codes[_cycle(len(codes), rng)], side]
        rows[codes, side] = permuted
    return freeze_table(
        rows.reshape(table.probabilities.shape),
        table.covered,
        f"{table.advisor_name}, permuted",
        f"placebo of {table.sha256}, seed {seed}",
    )


def _source_of_side(
    source: NDArray[np.int64], shared: NDArray[np.int64], codes: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """From which code each of `codes` takes its row on one side: shared ones as on every side, the others among
    themselves; a single other one is put into the cycle of the shared."""
    own = source.copy()
    others = np.setdiff1d(codes, shared)
    if len(others) == 1 and len(shared):
        before = shared[rng.integers(len(shared))]
        own[others[0]], own[before] = own[before], others[0]
    else:
        own[others] = others[_cycle(len(others), rng)]
    return own[codes]


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
