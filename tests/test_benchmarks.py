"""The benchmark command: what it measures, and how it ends."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.agent.rollout_plan import plan_rollouts
from src.benchmarks import bars, parts, scaling
from src.benchmarks.__main__ import main
from src.benchmarks.parts import TRAININGS, Comparison, ListRecency, Result, measure
from src.market import table_cache
from src.market.load import load_bars
from src.market.table_cache import FOLDER_VARIABLE


class Clock:
    """Time that passes only where a way says so: a busy machine decides nothing here."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def passing(self, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.now += seconds

        return call


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_ratio_is_that_of_the_two_ways(clock: Clock) -> None:
    result = measure("sleep", Comparison("3 to 1", clock.passing(0.003), clock.passing(0.001)), 3, 0.004, clock)
    assert result.ratio == pytest.approx(3.0)
    assert result.common_s == pytest.approx(0.003)


def test_the_two_ways_are_measured_in_turns(clock: Clock) -> None:
    taken: list[str] = []

    def way(name: str) -> Callable[[], None]:
        passing = clock.passing(0.002)

        def call() -> None:
            taken.append(name)
            passing()

        return call

    measure("order", Comparison("turns", way("common"), way("ours")), repeats=3, shortest_block_s=0.001, clock=clock)
    assert taken[-6:] == ["common", "ours"] * 3


def test_one_operation_is_a_calls_share(clock: Clock) -> None:
    result = measure("batch", Comparison("ten", clock.passing(0.01), clock.passing(0.01), calls=10), 3, 0.001, clock)
    assert result.ours_s == pytest.approx(0.001)


def test_the_common_way_may_do_less_in_a_call(clock: Clock) -> None:
    comparison = Comparison("two", clock.passing(0.004), clock.passing(0.004), calls=4, common_calls=2)
    assert measure("calls", comparison, 3, 0.001, clock).ratio == pytest.approx(2.0)


def test_a_part_that_cannot_be_measured_here_is_said_and_ends_with_2_only_if_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "ADVICE_MODEL", "bundled:none")
    monkeypatch.setattr(parts, "PARTS", {"advice": parts.advice})
    assert main([]) == 0
    summary = json.loads(capsys.readouterr().out.rstrip("\n").split("\n")[-1])
    assert summary["results"] == []
    assert "there is no such folder" in summary["not_measured"]["advice"]
    with pytest.raises(SystemExit) as ended:
        main(["advice"])
    assert ended.value.code == 2


def test_it_ends_with_one_line_of_json_and_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--quick", "--repeats", "1"]) == 0
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
        comparison.common()
        comparison.ours()
        return Result(name, comparison.case, 2.0, 1.0, comparison.target)

    monkeypatch.setattr(parts, "measure", once)
    monkeypatch.setattr(parts, "ADVICE_MODEL", "tiny")
    small = [(case, plan_rollouts(256, 8, 128, 32), settings, 1.0, 1.0) for case, _, settings, _, _ in TRAININGS]
    monkeypatch.setattr(parts, "TRAININGS", small)
    assert main([]) == 0
    summary = json.loads(capsys.readouterr().out.rstrip("\n").split("\n")[-1])
    assert {result["part"] for result in summary["results"]} == set(parts.PARTS)
    assert sum(result["part"] == "training" for result in summary["results"]) == 2 * len(TRAININGS)
    assert summary["processor"]
    assert {"fusion", "cache"} <= set(parts.PARTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fusion", "--output", "x.md"], "--output belongs to scaling"),
        (["fussion"], "did you mean 'fusion'"),
        (["--repeats", "0"], "--repeats is 0; it must be at least 1"),
    ],
)
def test_bad_usage_ends_with_2_and_says_what_is_meant(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_common_way_it_compares_with_keeps_recency() -> None:
    common = ListRecency()
    for key in range(3):
        common.put(key, [key])
    assert common.get(0) == [0]
    assert common.get(7) is None
    assert common.order == [1, 2, 0]


def test_the_files_of_bars_that_are_timed_are_read_without_a_defect_and_from_the_cache_the_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(table_cache, "WORTH_BYTES", 0)
    written = {form: bars.write_bars(tmp_path / f"ES.{form}", 30_000) for form in bars.FORMS}
    found = {form: load_bars(tmp_path / f"ES.{form}", "ES") for form in bars.FORMS}
    assert {form: len(each or ()) for form, each in found.items()} == written
    assert len({each.fingerprint for each in found.values() if each is not None}) == 1
    assert all(each is not None and each.reading is not None and not each.reading.findings for each in found.values())
    first, second = (bars.load_once(tmp_path / "ES.parquet") for _ in range(2))
    assert first["bars"] == second["bars"] == written["parquet"]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def made_axis(name: str, sizes: tuple[int, ...], power: float) -> scaling.Axis:
    """Speeds of an exact power law; each round the machine is another factor faster."""
    speeds = np.array([[factor * 1000.0 * size**power for size in sizes] for factor in (1.0, 3.0, 0.5)])
    return scaling.Axis(name, sizes, speeds)


@given(st.floats(-2, 2), st.lists(st.integers(2, 10**6), min_size=2, max_size=6, unique=True))
def test_the_exponent_of_a_power_law_is_its_power_however_fast_the_machine_is_in_a_round(power: float, sizes) -> None:
    axis = made_axis("width", tuple(sorted(sizes)), power)
    slope, half = axis.exponent()
    assert slope == pytest.approx(power, abs=1e-6)
    assert half == pytest.approx(0.0, abs=1e-6)
    assert axis.local() == [None, *[pytest.approx(power, abs=1e-6)] * (len(sizes) - 1)]


def test_speed_by_size_is_shown_and_written_as_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    axes = {"accounts": scaling.by_envs, "width": lambda quick: made_axis("width", (64, 128), -1.0)}
    monkeypatch.setattr(scaling, "AXES", axes)
    assert main(["scaling", "--quick", "--output", str(tmp_path / "scaling.md")]) == 0
    line = json.loads(capsys.readouterr().out.rstrip("\n").split("\n")[-1])
    assert line["axes"]["accounts"]["sizes"] == [8, 32]
    assert all(speed > 0 for speeds in line["axes"]["accounts"]["speeds"] for speed in speeds)
    text = (tmp_path / "scaling.md").read_text(encoding="utf-8")
    assert "`timesteps/s ~ width^-1.00 (95% interval -1.00 to -1.00)`" in text
    assert "| 128 | 8 | 0.50x | -1.00 |" in text
    assert main(["scaling", "--quick"]) == 0
    assert "Written" not in capsys.readouterr().out


@pytest.mark.long
def test_trainings_beside_each_other_are_summed_and_end_with_the_measurement() -> None:
    axis = scaling.by_workers(quick=True)
    assert axis.sizes == (1, 2)
    assert (axis.speeds > 0).all()
    assert not multiprocessing.active_children()
