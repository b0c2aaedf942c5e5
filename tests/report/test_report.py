"""What a report claims: targets judged by what was measured, and words that go no further."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from src.evaluation.playing import ArmResult
from src.evaluation.summaries import arm_summary
from src.report.console import print_summary, survival_table
from src.report.facts import MET, MISSED, NOT_APPLICABLE, is_passed, judge_targets, main, versions
from src.report.model.accounts import Survival
from src.report.quality_words import quality_lines
from src.report.targets import TARGETS, ValidationSettings
from src.runs import results
from src.trading.rules import chosen_profiles
from tests.report.page_report import full_report, typed
from tests.small_runs import finished
from tests.tiny_runs import tiny_config, whole_run

LIMITS = {
    "max_execution_time_s": st.floats(1e-3, 1e6),
    "max_peak_memory_gb": st.floats(1e-3, 1e5),
    "gpu_utilization_target": st.floats(0, 1),
    "cache_hit_rate_target": st.floats(0, 1),
    "min_steps_per_s": st.floats(1e-3, 1e6),
}
AT_MOST = {"execution_time", "peak_memory"}


@given(
    st.fixed_dictionaries(LIMITS),
    st.dictionaries(st.sampled_from(sorted(TARGETS)), st.none() | st.floats(0, 1e6), max_size=len(TARGETS)),
    st.sets(st.sampled_from(sorted(TARGETS))),
    st.booleans(),
)
def test_a_target_is_met_missed_or_not_applicable_by_what_was_measured(
    limits: dict[str, float], measured: dict[str, float | None], required: set[str], no_speed_limit: bool
) -> None:
    if no_speed_limit and "steps_per_s" not in required:
        limits = {**limits, "min_steps_per_s": None}
    settings = ValidationSettings(**limits, required=tuple(sorted(required)))
    judged = judge_targets(settings, measured, {"gpu_utilization": "no GPU"})
    assert set(judged) == set(TARGETS)
    for name, entry in judged.items():
        limit, value = limits[TARGETS[name]], measured.get(name)
        if name == "gpu_utilization":
            limit = pytest.approx(100 * limit, abs=1e-9)
        assert (entry["target"], entry["measured"], entry["required"]) == (limit, value, name in required)
        if limit is None or value is None:
            assert entry["status"] == NOT_APPLICABLE
            assert entry["reason"]
        elif name == "gpu_utilization":
            assert entry["status"] == (MET if value >= entry["target"] else MISSED)
            assert ("remedy" in entry) == (entry["status"] == MISSED)
        elif name in AT_MOST:
            assert entry["status"] == (MET if value <= limit else MISSED)
        else:
            assert entry["status"] == (MET if value >= limit else MISSED)
    assert is_passed(judged) == all(judged[name]["status"] == MET for name in required)


def test_a_figure_at_its_limit_meets_it() -> None:
    settings = ValidationSettings(max_execution_time_s=10.0, cache_hit_rate_target=0.7)
    judged = judge_targets(settings, {"execution_time": 10.0, "cache_hit_rate": 0.7}, {})
    assert judged["execution_time"]["status"] == judged["cache_hit_rate"]["status"] == MET


def test_a_required_target_that_could_not_be_measured_is_not_passed() -> None:
    settings = ValidationSettings(required=("gpu_utilization",))
    judged = judge_targets(settings, {"gpu_utilization": None}, {"gpu_utilization": "no GPU"})
    assert judged["gpu_utilization"]["status"] == NOT_APPLICABLE
    assert judged["gpu_utilization"]["reason"] == "no GPU"
    assert not is_passed(judged)
    assert is_passed(judge_targets(ValidationSettings(required=()), {}, {}))


def result_of(n: int = 2, **changes: Any) -> ArmResult:
    columns = {
        "net_usd": np.array([-30.0, 100.0])[:n],
        "gross_usd": np.array([-24.0, 103.0])[:n],
        "commission_usd": np.array([4.0, 2.0])[:n],
        "slippage_usd": np.array([2.0, 1.0])[:n],
        "max_drawdown_usd": np.array([40.0, 25.0])[:n],
        "gross_win_usd": np.array([0.0, 100.0])[:n],
        "gross_loss_usd": np.array([30.0, 0.0])[:n],
        "n_trades": np.array([2, 1])[:n],
        "n_wins": np.array([0, 1])[:n],
        "bars": np.array([10, 30])[:n],
        "bars_exposed": np.array([5, 5])[:n],
        "breached": np.array([True, False])[:n],
        "daily_locked": np.array([True, True])[:n],
        "target_reached": np.array([False, True])[:n],
    }
    return ArmResult(
        name="rl_only", **columns, illegal_actions=0, actions={0: 37, 1: 2, 2: 1, 3: 0, 4: 0, 5: 0}, **changes
    )


def test_an_arms_point_figures_by_hand() -> None:
    assert arm_summary(result_of()) == {
        "sessions": 2,
        "net_usd": 70.0,
        "net_usd_per_session": 35.0,
        "net_usd_by_session": [-30.0, 100.0],
        "gross_usd": 79.0,
        "commission_usd": 6.0,
        "slippage_usd": 3.0,
        "trades": 3,
        "trades_per_session": 1.5,
        "win_rate": 1 / 3,
        "exposure": 0.25,
        "max_drawdown_usd": 40.0,
        "sessions_breached": 1,
        "sessions_daily_locked": 2,
        "sessions_target_reached": 1,
        "illegal_actions": 0,
        "actions": {"HOLD": 37, "BUY": 2, "SELL": 1, "MOVE_TO_BE": 0, "ENABLE_TRAIL": 0, "DISABLE_TRAIL": 0},
    }


def test_without_sessions_or_trades_there_is_no_rate() -> None:
    summary = arm_summary(result_of(0))
    assert summary["net_usd_per_session"] is None
    assert summary["win_rate"] is None
    assert summary["exposure"] == 0.0
    assert summary["max_drawdown_usd"] == 0.0


def summary_of(**changes: Any) -> str:
    run = finished("plain")
    console = Console(file=StringIO(), width=80)
    print_summary(console, typed({**run.report, **changes}), Path("logs/some_run"))
    return console.file.getvalue()


@pytest.mark.slow
def test_the_summary_says_which_check_decided_the_exit_code() -> None:
    assert "All required targets met." in summary_of()
    targets = copy.deepcopy(finished("plain").report["targets"])
    targets["execution_time"]["status"] = MISSED
    assert "Missed: execution_time." in summary_of(targets=targets, validation_passed=False)
    leak = {"checks": 1, "passed": False, "found": "window of bar 7"}
    assert "Missed: the leak checks." in summary_of(look_ahead=leak, validation_passed=False)


@pytest.mark.slow
def test_the_summary_fits_eighty_columns() -> None:
    lines = summary_of().splitlines()
    assert max(len(line) for line in lines) <= 80
    assert [line for line in lines if line.startswith("Verdict")]
    assert lines[-2:] == ["Figures: logs/some_run/report.json", "Report: logs/some_run/report.html"]


def test_the_command_makes_the_page_of_a_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished("plain")
    shutil.copy(run.folder / "report.json", tmp_path / "report.json")
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_bytes() == (run.folder / "report.html").read_bytes()
    assert capsys.readouterr().out == f"Report: {tmp_path / 'report.html'}\n"


def test_a_section_without_its_shape_is_named_and_what_was_measured_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "hardware_timeline", lambda history: {"elapsed_s": "soon"})
    own = {"environment.env_class": "tests.tiny_runs:CountingEnv", "hardware.vec_env": "dummy"}
    outcome = str(whole_run(tiny_config({**own, "test_mode.output_dir": str(tmp_path / "logs")}))["outcome"])
    assert "at hardware_timeline.elapsed_s: Input should be a valid list, found 'soon'" in outcome
    (kept,) = tmp_path.glob("logs/*/report.json")
    assert json.loads(kept.read_text())["hardware_timeline"] == {"elapsed_s": "soon"}
    assert main([str(kept.parent)]) == 2


def test_without_a_report_the_command_ends_with_code_2_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: There is no report.json in")
    with pytest.raises(SystemExit) as bad_usage:
        main([])
    assert bad_usage.value.code == 2
    assert "python -m src.report.facts" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_the_command_runs_from_the_shell(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "src.report.facts", str(tmp_path / "nowhere")]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: There is no report.json")
    assert "Warning" not in done.stderr


def test_versions_name_every_library_a_result_depends_on() -> None:
    found = versions()
    for name in (
        "python",
        "platform",
        "machine",
        "torch",
        "stable-baselines3",
        "numpy",
        "numba",
        "torch_cpu_capability",
    ):
        assert found[name]
    assert "not installed" not in found.values()


def test_every_shipped_rule_profile_has_a_line_of_eighty_columns() -> None:
    survival = copy.deepcopy(full_report(12, 2)["survival"])
    widest, names = survival["rows"][0], [rules.name for rules in chosen_profiles(["all"])]
    widest["arms"]["hybrid"] |= {"passed_frac": 1.0, "passed_low_frac": 0.8, "passed_high_frac": 1.0}
    survival["rows"] = [{**widest, "profile": name, "automation": "restricted"} for name in names]
    console = Console(file=StringIO(), width=80)
    console.print(survival_table(Survival.model_validate(survival)))
    lines = console.file.getvalue().splitlines()
    figures = ["restricted", "100%", "80%-100%", "50%"]
    assert [line.split()[:5] for line in lines[2:]] == [[name, *figures] for name in names]


@pytest.mark.parametrize("width", [40, 80])
def test_no_word_of_the_summary_is_cut(width: int) -> None:
    report = typed(full_report(12, 2))
    assert report.data is not None
    assert report.data.quality is not None
    assert report.overall is not None
    console = Console(file=StringIO(), width=width)
    print_summary(console, report, Path("logs/run"))
    printed = console.file.getvalue()
    assert "…" not in printed
    assert max(map(len, printed.splitlines()[:-2])) <= width
    letters = "".join(printed.split())
    told = quality_lines(report.data, report.data.quality, brief=True)
    for line in [*told, report.overall.reason, *report.verdict]:
        assert "".join(line.split()) in letters
    for name, target in report.targets.items():
        for word in (*name.split("_"), target.status):
            assert word in letters or width == 40  # a narrow column continues within a word
