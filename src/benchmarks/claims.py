"""The promised speed-ups and what a comparison measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from src.benchmarks.comparison import ComparedRow, Comparison
from src.benchmarks.file import BASELINE, NETWORKS, OPTIMIZED, PRODUCTS
from src.wording import measured, ratio_words

LESS, AS_PROMISED, MORE, NOT_MEASURED = "less than promised", "as promised", "more than promised", "not measured"
Rows = Mapping[tuple[str, str], ComparedRow]


@dataclass(frozen=True)
class Claim:
    """One promise about one row. `reason` says why less was measured, empty otherwise."""

    promise: str
    case: str
    promised: str
    measured: str
    verdict: str
    reason: str = ""

    @property
    def what(self) -> str:
        """Promise and case as one text."""
        return f"{self.promise}, {self.case}" if self.case else self.promise


@dataclass(frozen=True)
class _Promise:
    """A speed-up of `low` to `high` in every row of `cases` (None: all of the suite)."""

    what: str
    suite: str
    case: str | None
    low: float
    high: float
    reason: Callable[[ComparedRow, Rows], str]

    @property
    def words(self) -> str:
        return f"{self.low:g}x" if self.low == self.high else f"{self.low:g}-{self.high:g}x"


def reasons_of(claims: Sequence[Claim]) -> list[str]:
    """The reason for every row that fell short; rows of one promise with the same reason share a line."""
    cases: dict[tuple[str, str], list[str]] = {}
    for claim in claims:
        if claim.reason:
            cases.setdefault((claim.promise, claim.reason), []).append(claim.case)
    return [
        f"{', '.join(filter(None, (promise, ' and '.join(about))))}: {reason}"
        for (promise, reason), about in cases.items()
    ]


def claims_of(comparison: Comparison) -> list[Claim]:
    """Every promise with its measurement; empty unless `baseline` was compared with `optimized`."""
    if (comparison.first.mode, comparison.second.mode) != (BASELINE, OPTIMIZED):
        return []
    rows = {row.first.key: row for row in comparison.rows}
    claims = []
    for promise in _PROMISES:
        about = [row for (suite, case), row in rows.items() if suite == promise.suite and promise.case in (None, case)]
        if not about:
            claims.append(Claim(promise.what, "", promise.words, "-", NOT_MEASURED))
        for row in about:
            case = "" if promise.case else row.first.case
            verdict = LESS if row.ratio < promise.low else MORE if row.ratio > promise.high else AS_PROMISED
            reason = promise.reason(row, rows) if verdict == LESS else ""
            claims.append(Claim(promise.what, case, promise.words, ratio_words(row.ratio), verdict, reason))
    return [*claims, _parameters(rows)]


def _parameters(rows: Rows) -> Claim:
    what, promised = "Reduced network, parameters", "0.5 of them"
    row = rows.get(("training", NETWORKS))
    counts = [] if row is None else [side.facts.get("parameters") for side in (row.first, row.second)]
    numbers = [count for count in counts if isinstance(count, int) and count > 0]
    if len(numbers) != 2:
        return Claim(what, "", promised, "-", NOT_MEASURED)
    share = numbers[1] / numbers[0]
    reason = "" if share <= _HALF else f"{numbers[1]:,} of {numbers[0]:,} parameters remain."
    # "Half" is rounded: anything from 0.45 to 0.55 is what was meant.
    verdict = LESS if share > _HALF else MORE if share < 1.0 - _HALF else AS_PROMISED
    return Claim(what, "", promised, f"{share:.2f} of them", verdict, reason)


_HALF: Final = 0.55


def _why_fusion(row: ComparedRow, rows: Rows) -> str:
    largest = max((r for r in rows.values() if r.first.suite == "fusion"), key=lambda r: _decisions(r))
    here, there = row.second.median_s, largest.second.median_s
    if row is largest or not _decisions(row):
        return f"The plain loop takes only {measured(row.first.median_s)} here, the compiled one {measured(here)}."
    call = 1.0 - _decisions(row) * there / _decisions(largest) / here
    return (
        f"{max(0.0, call):.0%} of the {measured(here)} is the cost of the call (checking arguments, allocating the "
        f"result), whatever the number of decisions."
    )


def _decisions(row: ComparedRow) -> int:
    count = row.first.workload.get("decisions", 0)
    return count if isinstance(count, int) else 0


def _why_pool(row: ComparedRow, rows: Rows) -> str:
    return (
        f"Making a new {row.first.case} takes only {measured(row.first.median_s)}, and a pooled one still has to be "
        f"reset ({measured(row.second.median_s)})."
    )


def _why_networks(row: ComparedRow, rows: Rows) -> str:
    products = rows.get(("training", PRODUCTS))
    told = "" if products is None else f" The matrix products alone became {ratio_words(products.ratio)} cheaper."
    return f"The cost of a timestep outside the networks' matrix products does not shrink with them.{told}"


def _why_cache(row: ComparedRow, rows: Rows) -> str:
    return (
        f"At 70% hits a cache gains at most 3.3x, and only if computing a row takes far longer than finding it: here "
        f"{measured(row.first.median_s)} became {measured(row.second.median_s)}."
    )


_PROMISES: Final = (
    _Promise("Decision fusion", "fusion", None, 10.0, 100.0, _why_fusion),
    _Promise("Environment creation", "pool", None, 5.0, 10.0, _why_pool),
    _Promise("Reduced network, training", "training", NETWORKS, 2.0, 3.0, _why_networks),
    _Promise("Features at 70% hits", "cache", None, 3.0, 3.0, _why_cache),
)
