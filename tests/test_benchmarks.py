"""The benchmark command: what it measures, and how it ends."""

from __future__ import annotations

import json
import time

import pytest

from src.evidence import benchmarks
from src.evidence.benchmarks import Comparison, ListRecency, Result, measure


def test_the_ratio_is_that_of_the_two_ways() -> None:
    result = measure("sleep", Comparison("3 to 1", lambda: time.sleep(0.003), lambda: time.sleep(0.001)), 3, 0.004)
    assert 1.8 < result.ratio < 4
    assert 0.003 <= result.common_s < 0.02


def test_the_two_ways_are_measured_in_turns() -> None:
    taken: list[str] = []

    def way(name: str):
        def call() -> None:
            taken.append(name)
            time.sleep(0.002)

        return call

    measure("order", Comparison("turns", way("common"), way("ours")), repeats=3, shortest_block_s=0.001)
    assert taken[-6:] == ["common", "ours"] * 3


def test_one_operation_is_a_calls_share() -> None:
    result = measure("batch", Comparison("ten", lambda: time.sleep(0.01), lambda: time.sleep(0.01), calls=10), 3, 0.001)
    assert 0.001 <= result.ours_s < 0.005


def test_the_common_way_may_do_less_in_a_call() -> None:
    comparison = Comparison("two", lambda: time.sleep(0.004), lambda: time.sleep(0.004), calls=4, common_calls=2)
    assert 1.3 < measure("calls", comparison, 3, 0.001).ratio < 3


def test_a_part_that_cannot_be_measured_here_is_said_and_ends_with_2_only_if_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks, "ADVICE_MODEL", "bundled:none")
    monkeypatch.setattr(benchmarks, "PARTS", {"advice": benchmarks.advice})
    assert benchmarks.main([]) == 0
    summary = json.loads(capsys.readouterr().out.rstrip("\n").split("\n")[-1])
    assert summary["results"] == []
    assert "there is no such folder" in summary["not_measured"]["advice"]
    with pytest.raises(SystemExit) as ended:
        benchmarks.main(["advice"])
    assert ended.value.code == 2


def test_it_ends_with_one_line_of_json_and_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmarks.main(["cache", "--quick", "--repeats", "1"]) == 0
    *table, last = capsys.readouterr().out.rstrip("\n").split("\n")
    assert max(map(len, table)) <= 80
    summary = json.loads(last)
    assert summary["quick"] is True
    assert summary["repeats"] == 1
    cases = {result["case"]: result for result in summary["results"]}
    assert set(cases) == {"get at 1,000 entries", "get at 10,000 entries"}
    for result in cases.values():
        assert result["part"] == "cache"
        assert result["ratio"] == pytest.approx(result["common_us"] / result["ours_us"], rel=0.05)
    assert cases["get at 10,000 entries"]["ratio"] > 5


def test_every_part_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def once(name: str, comparison: Comparison, repeats: int, shortest_block_s: float) -> Result:
        assert comparison.common() is not None
        assert comparison.ours() is not None
        return Result(name, comparison.case, 2.0, 1.0, comparison.target)

    monkeypatch.setattr(benchmarks, "measure", once)
    monkeypatch.setattr(benchmarks, "ADVICE_MODEL", "tiny")
    assert benchmarks.main([]) == 0
    summary = json.loads(capsys.readouterr().out.rstrip("\n").split("\n")[-1])
    assert {result["part"] for result in summary["results"]} == set(benchmarks.PARTS)
    assert {"fusion", "cache"} <= set(benchmarks.PARTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["fussion"], "did you mean 'fusion'"), (["--repeats", "0"], "--repeats is 0; it must be at least 1")],
)
def test_bad_usage_ends_with_2_and_says_what_is_meant(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        benchmarks.main(arguments)
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_common_way_it_compares_with_keeps_recency() -> None:
    common = ListRecency()
    for key in range(3):
        common.put(key, [key])
    assert common.get(0) == [0]
    assert common.get(7) is None
    assert common.order == [1, 2, 0]
