"""Runs compared: differences on shared sessions against sums by hand, what is refused, and what is printed."""

from __future__ import annotations

import copy
import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from src.files import write_json
from src.report.compare import main
from src.report.comparison import Comparison, compare, flat_settings, read_runs
from tests.golden_forms import golden
from tests.report.page_report import full_report
from tests.report.test_markets import of_several

GOLDEN = Path(__file__).parents[1] / "golden" / "comparison_runs.txt"
FULL = full_report(60, 3, bars_a_session=4, n_charted=0, n_samples=2, n_records=2)


def changed(**shifts: float) -> dict[str, Any]:
    """The full report as another run: net P&L of arms shifted by about so many dollars, differently by seed and day."""
    report = copy.deepcopy(FULL)
    report["run"]["name"] = "hardware_maximized_ES_20261124-091200"
    report["configuration"]["training"]["learning_rate"] = 0.0003
    report["configuration"]["training"]["policy_kwargs"]["net_arch"]["pi"] = [64, 64]
    report["configuration"]["llm"]["model"] = "mock"
    report["advice"]["sha256"] = "0a" * 32
    for arm, shift in shifts.items():
        for k, row in enumerate(report["seeds"]["net_usd_by_session"][arm]):
            row[:] = [round(net + shift + ((7 * i + 3 * k) % 11 - 5) * 30, 2) for i, net in enumerate(row)]
    return report


def on_sessions(report: dict[str, Any], kept: range) -> dict[str, Any]:
    """The report of a run that had only these of its sealed sessions."""
    less = copy.deepcopy(report)
    less["session_dates"] = [report["session_dates"][i] for i in kept]
    for arm in less["arms"].values():
        arm["net_usd_by_session"] = [arm["net_usd_by_session"][i] for i in kept]
        arm["sessions"] = len(kept)
    for rows in less["seeds"]["net_usd_by_session"].values():
        rows[:] = [[row[i] for i in kept] for row in rows]
    return less


OTHER = changed(rl_only=70.0, hybrid=-9.0, base=3.0)


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Writes reports as runs' folders and returns their paths."""

    def write(*reports: dict[str, Any]) -> list[Path]:
        for i, report in enumerate(reports):
            (tmp_path / f"run-{i}").mkdir(exist_ok=True)
            write_json(tmp_path / f"run-{i}" / "report.json", report)
        return [tmp_path / f"run-{i}" for i in range(len(reports))]

    return write


def compared(paths: list[Path]) -> Comparison:
    return compare(read_runs(paths))


def refused(paths: list[Path], capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What is said where runs are refused."""
    assert main([*map(str, paths), *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return " ".join(printed.err.split())


def test_two_runs_are_printed_as_the_golden_file_has_them(
    written: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    less = on_sessions({**OTHER, "look_ahead": {**OTHER["look_ahead"], "passed": False}}, range(5, 60))
    del less["arms"]["fused"]
    assert main(list(map(str, written(FULL, less)))) == 0
    printed = capsys.readouterr().out
    assert printed == golden(GOLDEN, printed)
    assert max(map(len, printed.splitlines())) <= 80


def test_a_run_against_itself_differs_by_nothing(written: Any, capsys: pytest.CaptureFixture[str]) -> None:
    paths = written(FULL, FULL)
    found = compared(paths)
    assert found.settings == {}
    assert [contrast.arm for contrast in found.contrasts] == list(FULL["arms"])
    for contrast in found.contrasts:
        assert contrast.identical
        assert (contrast.mean_usd, contrast.low_usd, contrast.high_usd, contrast.p_value) == (0.0, 0.0, 0.0, 1.0)
        assert contrast.usd == contrast.against_usd
        assert not any(contrast.seed_means_usd)
    assert main(list(map(str, paths))) == 0
    assert capsys.readouterr().out.startswith("No difference: every arm has the same net P&L")


def test_the_differences_are_those_of_the_sessions_both_have(written: Any) -> None:
    found = compared(written(on_sessions(FULL, range(50)), on_sessions(OTHER, range(8, 60))))
    assert found.sessions == FULL["session_dates"][8:50]
    assert [run.sealed_sessions for run in found.runs] == [50, 52]
    for contrast in found.contrasts:
        one, other = (
            report["seeds"]["net_usd_by_session"].get(
                contrast.arm, [report["arms"][contrast.arm]["net_usd_by_session"]]
            )
            for report in (FULL, OTHER)
        )
        by_seed = [[statistics.fmean(row[8:50]) for row in rows] for rows in (one, other)]
        assert contrast.against_usd == pytest.approx(statistics.fmean(by_seed[0]))
        assert contrast.usd == pytest.approx(statistics.fmean(by_seed[1]))
        assert contrast.mean_usd == pytest.approx(contrast.usd - contrast.against_usd)  # type: ignore[operator]
        assert contrast.seed_means_usd == pytest.approx([b - a for a, b in zip(*by_seed, strict=True)])
        assert contrast.sessions == 42
        if len(one) > 1:
            error = math.sqrt(sum(statistics.variance(means) / 3 for means in by_seed))
            assert contrast.seed_error_usd == pytest.approx(error)
        else:
            assert contrast.seed_error_usd is None
    by_arm = {contrast.arm: contrast for contrast in found.contrasts}
    assert [arm for arm, contrast in by_arm.items() if not contrast.identical] == ["rl_only", "hybrid", "base"]
    assert by_arm["rl_only"].sign == 1
    assert by_arm["rl_only"].low_usd < 70 < by_arm["rl_only"].high_usd + 15  # type: ignore[operator]


def test_the_other_way_round_has_the_opposite_sign(written: Any) -> None:
    paths = written(FULL, changed(rl_only=70.0))
    for one, other in zip(compared(paths).contrasts, compared(paths[::-1]).contrasts, strict=True):
        assert (one.arm, one.sign) == (other.arm, -other.sign)
        assert other.mean_usd == pytest.approx(-one.mean_usd)  # type: ignore[operator]
        assert (other.low_usd, other.high_usd) == pytest.approx((-one.high_usd, -one.low_usd))  # type: ignore[operator]


@pytest.mark.parametrize("seeds", [[7, 8], [7, 8, 9]])
def test_runs_of_other_seeds_are_compared_by_their_means(written: Any, seeds: list[int]) -> None:
    other = changed(rl_only=70.0)
    other["seeds"]["values"] = seeds
    for rows in other["seeds"]["net_usd_by_session"].values():
        del rows[len(seeds) :]
    found = {contrast.arm: contrast for contrast in compared(written(FULL, other)).contrasts}
    one, two = (report["seeds"]["net_usd_by_session"]["rl_only"] for report in (FULL, other))
    mean = statistics.fmean(map(statistics.fmean, two)) - statistics.fmean(map(statistics.fmean, one))
    assert found["rl_only"].mean_usd == pytest.approx(mean)
    assert found["rl_only"].seed_means_usd == pytest.approx([mean])


def test_all_contrasts_of_all_later_runs_are_adjusted_together(written: Any) -> None:
    contrasts = compared(written(FULL, changed(hybrid=4.0, base=3.0), changed(hybrid=5.0))).contrasts
    assert [contrast.run for contrast in contrasts] == ["B"] * 8 + ["C"] * 8
    tested = sorted((c for c in contrasts if not c.identical), key=lambda c: c.p_value or 0.0)
    assert len(tested) == 3
    least = 0.0
    for i, contrast in enumerate(tested):
        least = max(least, min(1.0, (3 - i) * contrast.p_value))  # type: ignore[operator]
        assert contrast.holm_p_value == pytest.approx(least)
    assert all(contrast.holm_p_value is None for contrast in contrasts if contrast.identical)


def test_the_file_has_what_was_found(written: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths, file = written(FULL, OTHER), tmp_path / "comparison.json"
    assert main([*map(str, paths), "--output", str(file)]) == 0
    assert capsys.readouterr().out.endswith(f"Figures: {file}\n")
    content = json.loads(file.read_text())
    assert Comparison.model_validate(content) == compared(paths)
    assert content["settings"] == {
        "training.learning_rate": {"A": 0.001, "B": 0.0003},
        "training.policy_kwargs.net_arch.pi": {"A": [256, 128], "B": [64, 64]},
        "llm.model": {"A": "bundled:smollm2", "B": "mock"},
        "advice.sha256": {"A": FULL["advice"]["sha256"], "B": "0a" * 32},
    }
    assert "cannot be written" in refused(paths, capsys, "--output", str(tmp_path / "nowhere" / "c.json"))


def test_a_setting_that_only_some_runs_have_differs(written: Any) -> None:
    other = copy.deepcopy(FULL)
    del other["configuration"]["llm"]["llm_weight"]
    other["configuration"]["data"] = {}
    other["run"]["versions"]["torch"] = "2.14.0"
    assert compared(written(FULL, other)).settings == {
        "llm.llm_weight": {"A": 0.3},
        "run.versions.torch": {"A": "2.13.0+cpu", "B": "2.14.0"},
        "data": {"B": {}},
    }
    assert dict(flat_settings({"a": {"b": {"c": [1, {"d": 2}]}, "e": None}, "f": {}})) == {
        "a.b.c": [1, {"d": 2}],
        "a.e": None,
        "f": {},
    }


def test_few_shared_sessions_give_no_interval(written: Any, capsys: pytest.CaptureFixture[str]) -> None:
    paths = written(on_sessions(FULL, range(9)), on_sessions(OTHER, range(9)))
    assert main(list(map(str, paths))) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Cannot say: not enough shared sessions.\n")
    assert "not enough sessions (9 of 40)" in " ".join(printed.split())
    assert all(contrast.low_usd is None for contrast in compared(paths).contrasts if not contrast.identical)


def test_other_bars_are_refused(written: Any, capsys: pytest.CaptureFixture[str]) -> None:
    other = copy.deepcopy(OTHER)
    other["data"] |= {"fingerprint": "b" * 64, "source": "ES_2027.csv", "bars": 99_000}
    paths = written(FULL, OTHER, other)
    said = refused(paths, capsys)
    assert "Runs on different bars cannot be compared" in said
    assert f"A ({paths[0] / 'report.json'}) traded 151,420 5-minute bars of ES from ES_2024_2026.parquet" in said
    assert f"C ({paths[2] / 'report.json'}) traded 99,000 5-minute bars of ES from ES_2027.csv" in said


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {"profile": "apex_50k_legacy"}, False),
        ({}, {"as_of": "2026-08-01"}, False),
        ({"fingerprint": "a" * 64}, {"fingerprint": "b" * 64}, False),
        ({"fingerprint": "a" * 64}, {"fingerprint": "a" * 64, "profile": "a_copy"}, True),
        ({"fingerprint": "a" * 64}, {}, True),
    ],
)
def test_other_rules_are_refused(
    written: Any, capsys: pytest.CaptureFixture[str], one: dict[str, str], other: dict[str, str], same: bool
) -> None:
    paths = written(*({**FULL, "rules": {**FULL["rules"], **rules}} for rules in (one, other)))
    if same:
        assert main(list(map(str, paths))) == 0
        return
    said = refused(paths, capsys)
    assert "Runs under different rules cannot be compared" in said
    assert "apex_50k_eod_2026_03 as of 2026-07-15" in said


def test_what_cannot_be_compared_is_refused_in_one_paragraph(
    written: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    apart = written(on_sessions(FULL, range(20)), on_sessions(OTHER, range(30, 60)))
    said = refused(apart, capsys)
    assert "share no sealed session" in said
    assert "has 20, 2024-01-02 to 2024-01-29; " in said
    (alone,) = written(FULL)
    assert "needs two runs or more, and 1 was given" in refused([alone], capsys)
    assert "There is no report.json" in refused([alone, tmp_path], capsys)
    own = {key: value for key, value in FULL.items() if key not in ("data", "rules")}
    paths = written(FULL, own)
    said = refused(paths, capsys)
    assert re.search(rf"{re.escape(str(paths[1]))}/report\.json has no sealed sessions with results by arm", said)
    renamed = copy.deepcopy(FULL)
    renamed["arms"] = {"mine": FULL["arms"]["flat"]}
    renamed["seeds"]["net_usd_by_session"] = {}
    assert "shares no arm with the others" in refused(written(FULL, renamed), capsys)


def test_of_runs_of_several_markets_one_is_compared(written: Any, capsys: pytest.CaptureFixture[str]) -> None:
    several = of_several()
    assert several.markets is not None
    one, other = written(several.to_json_dict(), several.markets.reports["NQ"].to_json_dict())
    assert "is of several markets: add --market with one of NQ, ES, YM, RTY" in refused([one, other], capsys)
    found = compare(read_runs([one, other], "NQ"))
    assert (found.market, all(contrast.identical for contrast in found.contrasts)) == ("NQ", True)
    assert "has no market ES: it has NQ." in refused([one, other], capsys, "--market", "ES")
    assert "has no market RT: it has NQ, ES, YM, RTY." in refused([one, other], capsys, "--market", "RT")
