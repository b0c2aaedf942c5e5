"""Measured coverage: near 95% for independent normal sessions, and the command shows what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from src.statistics import coverage


@pytest.mark.slow
def test_intervals_of_110_normal_sessions_cover_near_95_in_100() -> None:
    row = coverage.measure("normal", 110, samples=1_000, replications=199)
    assert row.without == 0
    # Two points, and three standard errors of a thousand samples (0.69 points each).
    assert abs(row.share - 0.95) < 0.02 + 3 * row.error
    assert row.error == pytest.approx(0.0069, abs=0.002)


@pytest.mark.parametrize("kind", coverage.KINDS)
def test_sessions_have_mean_zero_variance_one_and_the_memory_of_their_kind(kind: str) -> None:
    values = coverage.KINDS[kind](np.random.default_rng(1), 200_000)
    memory = 0.3 if kind == "AR(0.3)" else 0.0
    assert values.mean() == pytest.approx(0, abs=0.02)
    assert values.var() == pytest.approx(1, abs=0.15)
    assert np.corrcoef(values[1:], values[:-1])[0, 1] == pytest.approx(memory, abs=0.01)


def test_samples_without_an_interval_are_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def often_unknown(rng: np.random.Generator, n: int) -> np.ndarray:
        values = rng.standard_normal(n)
        values[0] = np.nan if rng.random() < 0.5 else 0.0
        return values

    monkeypatch.setitem(coverage.KINDS, "often unknown", often_unknown)
    row = coverage.measure("often unknown", 12, samples=40, replications=39)
    assert 0 < row.without < 40
    assert 0 <= row.share <= 1


def test_the_command_prints_and_writes_the_table_it_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(coverage, "SIZES", (10, 12))
    monkeypatch.setattr(coverage, "SAMPLES_QUICK", 20)
    monkeypatch.setattr(coverage, "REPLICATIONS_QUICK", 39)
    assert coverage.main(["--quick", "--write", str(tmp_path / "table.md")]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert [(row["kind"], row["n"]) for row in rows] == [(kind, n) for kind in coverage.KINDS for n in (10, 12)]
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert len(lines) == 2 + len(rows)
    for line, row in zip(lines[2:], rows, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:3] == [row["kind"], str(row["n"]), f"{100 * row['share']:.1f}"]


def test_the_alternatives_are_compared_on_the_same_samples(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(coverage, "FEW_SIZES", (12,))
    monkeypatch.setattr(coverage, "SAMPLES_QUICK", 20)
    monkeypatch.setattr(coverage, "REPLICATIONS_QUICK", 39)
    assert coverage.main(["--alternatives", "--quick", "--write", str(tmp_path / "table.md")]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    methods = ["printed", "studentised", "sample range", "t* at most 6", "percentile", "BCa", "Student's t"]
    assert [(row["kind"], row["method"]) for row in rows] == [(k, m) for k in coverage.FEW_KINDS for m in methods]
    heads, _, *lines = (tmp_path / "table.md").read_text().splitlines()
    assert heads == f"| sessions | n | {' | '.join(methods)} |"
    assert len(lines) == len(coverage.FEW_KINDS)
    widths = {(row["kind"], row["method"]): row["width"] for row in rows}
    for kind in coverage.FEW_KINDS:
        assert widths[kind, "printed"] <= widths[kind, "studentised"] * (1 + 1e-9)


def test_other_intervals_are_those_of_scipy() -> None:
    """The percentile, BCa and t intervals of a skewed sample, up to the draws of another generator."""
    values = np.random.default_rng(2).lognormal(size=25)
    found = coverage.other_intervals(values, 0, 9_999)
    for ours, theirs in (("percentile", "percentile"), ("BCa", "BCa")):
        ends = stats.bootstrap((values,), np.mean, method=theirs, n_resamples=9_999, rng=1).confidence_interval
        assert found[ours] == pytest.approx(tuple(ends), abs=0.05 * values.std())
    t = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert found["Student's t"] == pytest.approx((t.low, t.high))
