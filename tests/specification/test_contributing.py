"""Baseline, optimized, compare: the three commands of a benchmark, on the smallest suite."""

from __future__ import annotations

import pytest

from tests.specification.conftest import Reader
from tests.specification.interfaces import BENCHMARK_COMMANDS


@pytest.mark.slow
def test_the_benchmark_is_run_twice_and_compared(reader: Reader) -> None:
    baseline, optimized, compare = BENCHMARK_COMMANDS
    for line in (baseline, optimized):
        finished = reader.types(line, "--quick", "--suite", "cache")
        assert finished.code == 0, finished
    assert {"baseline.json", "optimized.json"} <= {path.name for path in reader.folder.iterdir()}
    compared = reader.types(compare)
    assert compared.code == 0, compared
    assert "cache" in compared.out
