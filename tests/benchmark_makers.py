"""Benchmark runs made by hand: every figure chosen, nothing measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from src.benchmarks.file import BenchmarkRun, Row

IDENTITY: Mapping[str, Any] = {
    "processor": "Slowmatic 2000",
    "architecture": "x86_64",
    "system": "Linux",
    "cores": 2,
    "memory_gib": 16,
}


def row(suite: str, case: str, seconds: Sequence[Sequence[float]] | float, **changes: Any) -> Row:
    """A row; a number stands for 8 processes of 5 repeats that all took just that."""
    times = [[seconds] * 5] * 8 if isinstance(seconds, int | float) else seconds
    made = Row(suite, case, "call", "by hand", {"size": 1}, {}, tuple(tuple(map(float, repeats)) for repeats in times))
    return replace(made, **changes)


def run(mode: str, rows: Sequence[Row], identity: Mapping[str, Any] | None = None, **changes: Any) -> BenchmarkRun:
    """A run of one side of a pair on a quiet machine."""
    made = BenchmarkRun(
        mode=mode,
        quick=False,
        created="2026-11-20T12:00:00+00:00",
        repeats=5,
        suites=tuple(dict.fromkeys(row.suite for row in rows)),
        revision={"commit": "0123456789abcdef", "changed": False},
        machine={
            "identity": {**IDENTITY, **(identity or {})},
            "state": {"cores_free": 2.0, "governor": "performance", "load_before": 0.1, "load_after": 0.9},
            "versions": {"torch": "2.9.0"},
        },
        not_measured={},
        rows=tuple(rows),
        pair="one pair",
    )
    return replace(made, **changes)


# Seconds before and after, so that each promise is once kept, once exceeded and once broken. The ratios and what the
# reasons say are worked by hand: 32 of 65,536 decisions are 0.1 us of the 4 us, so 98% are the call.
STORY: Mapping[tuple[str, str], tuple[float, float]] = {
    ("steps", "32 accounts"): (184e-6, 0.92e-6),
    ("training", "end to end"): (900e-6, 300e-6),
    ("training", "networks alone"): (500e-6, 250e-6),
    ("training", "matrix products alone"): (360e-6, 144e-6),
    ("fusion", "batch 32"): (20e-6, 4e-6),
    ("fusion", "batch 65,536"): (40e-3, 204.8e-6),
    ("cache", "1,000 rows"): (60e-9, 1.5e-6),
    ("cache", "10,000 rows"): (70e-9, 2e-6),
    ("pool", "session batch"): (200e-6, 25e-6),
    ("pool", "gymnasium environment"): (50e-6, 50e-6),
}


def story() -> tuple[BenchmarkRun, BenchmarkRun]:
    """Baseline and optimized of a machine on which nothing varies."""
    sides = []
    for side, mode in enumerate(("baseline", "optimized")):
        rows = []
        for (suite, case), times in STORY.items():
            workload: dict[str, Any] = {"size": 1}
            if suite == "fusion":
                workload = {"decisions": int(case.removeprefix("batch ").replace(",", ""))}
            facts = {"parameters": (600, 200)[side]} if case == "networks alone" else {}
            rows.append(row(suite, case, times[side], workload=workload, facts=facts))
        sides.append(run(mode, rows))
    return sides[0], sides[1]
