"""Whole runs in this process: what they write, what the report holds, and that no way of running changes a result."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from rich.console import Console
from stable_baselines3.common.vec_env import VecEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.advisor.mock import MockAdvisor
from src.advisor.settings import LLMSettings
from src.agent.advising import tabulate_advice
from src.agent.trainer import Trainer
from src.errors import BarDataError, InterruptedRun
from src.evaluation.leak_words import FEATURES
from src.evaluation.look_ahead import LeakCheck
from src.market.split import ids_of
from src.runs import plan
from src.runs import run as runs
from src.testing_framework import TestConfig, TestingFramework
from tests.golden_forms import golden, key_paths
from tests.planted import plant_method
from tests.small_runs import finished, run_small, same_bits, small_config

pytestmark = pytest.mark.slow
GOLDEN = Path(__file__).parent / "golden" / "report_keys.txt"
OTHER_WAYS = ["unassisted", "dummy", "subproc"]
PROMISED = (
    "test_name", "gpu_utilization", "execution_time", "cache_hit_rate", "peak_memory_gb", "timesteps_completed",
    "validation_passed", "targets",
)  # fmt: skip


def weights_of(path: Path) -> dict[str, np.ndarray]:
    """The policy's tensors of an exported model; its zip holds clocks as well, so files cannot be compared."""
    with zipfile.ZipFile(path) as archive:
        tensors = torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def test_a_run_writes_everything_into_its_folder() -> None:
    run = finished("plain")
    assert run.folder.parent.name == "plain"
    assert re.fullmatch(r"hardware_maximized_NQ_\d{8}-\d{6}", run.folder.name)
    names = {path.name for path in run.folder.iterdir()}
    assert names == {
        "config.yaml", "run.log", "hardware.csv", "metrics.jsonl", "tensorboard", "report.json", "report.html",
        "base.zip", "hybrid.zip", "base.policy.json", "base.policy.safetensors", "hybrid.policy.json",
        "hybrid.policy.safetensors", "manifest.json", "ledger.json", "members", "tasks", "exports",
    }  # fmt: skip
    assert json.loads((run.folder / "report.json").read_text()) == run.written


def test_the_configuration_it_wrote_is_the_one_it_ran() -> None:
    run = finished("plain")
    assert TestConfig.from_file(run.folder / "config.yaml") == run.config


def test_the_log_tells_the_run() -> None:
    text = (finished("plain").folder / "run.log").read_text()
    assert "SYNTHETIC" in text
    for phase in ("data", "compile", "base", "production", "advice", "rl_only", "hybrid", "evaluation", "look-ahead"):
        assert f"] {phase}: " in text
    assert "ended early" not in text


def test_the_machine_was_watched_through_every_phase() -> None:
    run = finished("plain")
    with open(run.folder / "hardware.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 5
    assert {row["phase"] for row in rows} <= {"", *run.framework.phase_times}
    assert max(float(row["tree_rss_gb"]) for row in rows) == pytest.approx(run.report["peak_memory_gb"])
    assert run.report["peak_memory_kind"] == "ram"
    assert sum(run.framework.phase_times.values()) <= run.framework.total_time == run.report["execution_time"]


def test_training_was_logged_phase_by_phase() -> None:
    run = finished("plain")
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    for phase, timesteps in (("base", 512), ("rl_only", 256), ("hybrid", 256), ("hybrid_placebo", 256)):
        own = [record for record in records if record["phase"] == phase]
        assert own[-1]["num_timesteps"] == timesteps
        assert own[-1]["fraction_done"] == 1.0
        scalars = EventAccumulator(str(run.folder / "tensorboard" / "seed-0" / phase)).Reload()
        assert [event.step for event in scalars.Scalars("run/mean_reward")] == [r["num_timesteps"] for r in own]
    assert len(records) == run.report["log_writes"]


def test_the_report_holds_what_was_promised() -> None:
    report = finished("plain").written
    for name in PROMISED:
        assert name in report
    assert report["test_name"] == "Hardware-Maximized Validation"
    assert report["validation_passed"] is True
    assert report["gpu_utilization"] is None
    assert report["timesteps_completed"] == 512 + 256
    assert report["timesteps_total"] == 512 + 3 * 256
    assert list(report["arms"]) == [
        "flat", "random_legal", "advisor_only", "rl_only", "hybrid", "hybrid_placebo", "fused",
    ]  # fmt: skip

    assert list(report["validation_arms"]) == list(report["arms"])
    for arm in report["arms"].values():
        assert arm["sessions"] == len(arm["net_usd_by_session"]) == report["data"]["split"]["sealed"]["sessions"] == 11
        assert arm["net_usd"] == pytest.approx(sum(arm["net_usd_by_session"]))
        assert arm["illegal_actions"] == 0
    targets = report["targets"]
    assert targets["execution_time"]["measured"] == report["execution_time"] < targets["execution_time"]["target"]
    assert targets["execution_time"]["status"] == targets["peak_memory"]["status"] == "met"
    assert targets["gpu_utilization"]["status"] == targets["steps_per_s"]["status"] == "not_applicable"
    # Rules and tables answer faster than a cache: a rate would be made up.
    assert targets["cache_hit_rate"]["measured"] is report["cache_hit_rate"] is report["cache"]["hit_rate"] is None
    assert targets["cache_hit_rate"]["reason"] == report["cache"]["words"]
    assert report["cache"]["words"].startswith("not measured: nothing expensive was looked up (rules give")
    assert report["summary"] == finished("plain").framework.get_summary()
    assert report["summary"]["total_timesteps"] == report["timesteps_total"]
    assert report["summary"]["duration_seconds"] == report["execution_time"]
    assert report["advice"]["advice_without_model"] > 0.5
    leaks = report["look_ahead"]
    assert leaks["passed"]
    assert leaks["found"] == ""
    assert leaks["checks"] == sum(part["checks"] for part in leaks["parts"].values())
    assert list(leaks["parts"]) == ["features", "decisions", "fills", "sealed"]
    assert leaks["parts"]["features"]["checks"] >= 200
    assert leaks["parts"]["sealed"]["checks"] == 6 + 4 + 1, "fits, trainings and the advice table"
    train = report["data"]["split"]["train"]["sessions"]
    for row in report["training"]:
        drawn = row["sessions_drawn"]
        assert drawn["episodes"] >= 4
        assert drawn["unexplained"] == 0
        assert ids_of(drawn["sessions"]).max() < train
    assert report["advice"]["tabulation"]["sessions_read"] == [[0, train - 1]]
    assert report["memory_released_mb"] > 0


def test_the_reports_keys_are_those_of_the_golden_file() -> None:
    """A key that comes, goes or moves is a change for whoever reads reports: update the file and tell them."""
    keys = "".join(f"{key}\n" for key in sorted(key_paths(finished("plain").written)))
    assert keys == golden(GOLDEN, keys)


def timeless(advice: dict[str, Any]) -> dict[str, Any]:
    """The advice section without how long asking took."""
    timed = ("seconds", "load_s", "advices_per_s")
    asking = {key: value for key, value in advice["tabulation"].items() if key not in timed}
    return {**advice, "tabulation": asking}


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_every_way_of_running_gives_the_same_weights_advice_and_arms(way: str) -> None:
    plain, other = finished("plain"), finished(way)
    for section in ("arms", "validation_arms", "data", "rules"):
        assert other.report[section] == plain.report[section], section
    assert timeless(other.report["advice"]) == timeless(plain.report["advice"])
    for name in ("base.zip", "hybrid.zip"):
        assert same_bits(weights_of(plain.folder / name), weights_of(other.folder / name)), name


def test_without_its_shortcuts_a_run_counts_other_things() -> None:
    plain, unassisted = finished("plain").report, finished("unassisted").report
    for report in (plain, unassisted):
        assert report["targets"]["cache_hit_rate"]["status"] == "not_applicable"
    assert "cached_llm_features is false" in unassisted["targets"]["cache_hit_rate"]["reason"]
    assert unassisted["log_writes"] > plain["log_writes"]
    assert (plain["env_pool"]["built"], plain["env_pool"]["temporary"]) == (7, 0)
    assert (unassisted["env_pool"]["built"], unassisted["env_pool"]["temporary"]) == (0, 16)
    assert (plain["fusion"]["loop"], unassisted["fusion"]["loop"]) == ("compiled", "sequential")
    assert plain["fusion"]["total"] == unassisted["fusion"]["total"] > 0


def test_no_worker_outlives_its_run() -> None:
    finished("subproc")
    mine = psutil.Process().children(recursive=True)
    workers = [p for p in mine if p.status() != psutil.STATUS_ZOMBIE and "forkserver" in " ".join(p.cmdline())]
    # The fork server itself and its resource tracker stay for the next run; workers are children of the server.
    assert [grandchild for server in workers for grandchild in server.children()] == []


def test_the_advice_in_the_report_is_the_table_an_advisor_gives() -> None:
    run = finished("plain")
    market = run.framework._context.market
    assert market is not None
    table = tabulate_advice(market, MockAdvisor(), LLMSettings(model="mock"))[0]
    assert run.report["advice"]["sha256"] == table.sha256
    assert run.report["advice"]["situations_asked"] == table.asked


def test_another_seed_is_another_run_and_a_leak_fails_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leak = LeakCheck(FEATURES, 1, "window of bar 7 changes with bars after 9")
    monkeypatch.setattr(plan, "checks_of", lambda *_: {FEATURES: lambda: leak})
    run = run_small(tmp_path, seed=1)
    assert not same_bits(weights_of(run.folder / "base.zip"), weights_of(finished("plain").folder / "base.zip"))
    assert run.report["arms"] != finished("plain").report["arms"]
    assert run.report["validation_passed"] is False
    assert all(t["status"] == "met" for t in run.report["targets"].values() if t["required"])
    assert "LEAK FOUND: window of bar 7" in run.printed
    assert "Missed: the leak checks." in run.printed


def test_a_run_that_trains_in_sealed_sessions_says_so_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tapes are right, its environments are made of another: only the record of what training drew can tell."""
    plant_method(
        monkeypatch,
        Trainer,
        "make_env",
        "tape = market.tape(table or empty_table())",
        "tape = replace(market, split=replace(market.split, train=market.split.test)).tape(table or empty_table())",
    )
    run = run_small(tmp_path, timesteps=128)
    part = run.report["look_ahead"]["parts"]["sealed"]
    assert part["found"].startswith("base training drew episodes in ")
    assert run.report["validation_passed"] is False
    assert "LEAK FOUND: base training drew episodes" in run.printed
    assert run.report["overall"]["judgement"].endswith("training used validation or sealed sessions.")


@pytest.mark.parametrize("where", ["evaluation_task", "print_summary"])
def test_stopped_after_its_folder_was_made_a_run_says_what_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs if where == "print_summary" else plan, where, stop)
    framework = TestingFramework(small_config(tmp_path, timesteps=128), Console(file=io.StringIO()))
    with pytest.raises(InterruptedRun, match="kept in") as stopped:
        framework.run_hardware_maximized_validation()
    assert framework.run_folder is not None
    assert str(framework.run_folder) in str(stopped.value)
    kept = {path.name for path in framework.run_folder.iterdir()}
    assert {"config.yaml", "run.log", "hardware.csv", "metrics.jsonl", "base.zip", "hybrid.zip"} <= kept
    assert ("report.json" in kept) == (where == "print_summary")
    assert (where == "print_summary") != (
        "ended early: KeyboardInterrupt" in (framework.run_folder / "run.log").read_text()
    )


def test_environments_are_closed_however_a_phase_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    def close(env: VecEnv) -> None:
        closed.append(type(env).__name__)

    monkeypatch.setattr("src.trading.vec_env.BatchedTradingVecEnv.close", close)
    monkeypatch.setattr(plan, "try_production", lambda *_: 1 / 0)
    framework = TestingFramework(small_config(tmp_path, timesteps=128), Console(file=io.StringIO()))
    with pytest.raises(ZeroDivisionError):
        framework.run_hardware_maximized_validation()
    assert closed == ["BatchedTradingVecEnv"]
    with pytest.raises(RuntimeError, match="closed"):
        framework.env_pool.acquire()


def test_bad_bars_leave_nothing_behind(tmp_path: Path) -> None:
    bars = tmp_path / "empty.csv"
    bars.write_text("")
    framework = TestingFramework(small_config(tmp_path / "logs", data={"path": str(bars)}), Console(file=io.StringIO()))
    with pytest.raises(BarDataError):
        framework.run_hardware_maximized_validation()
    assert framework.run_folder is None
    assert list((tmp_path / "logs").rglob("*")) == []
    assert framework.hardware_monitor._thread is None


def test_the_pipelines_configuration_runs_the_same_phases(tmp_path: Path) -> None:
    config = small_config(tmp_path, timesteps=128)
    framework = TestingFramework(config, Console(file=io.StringIO()))
    with pytest.raises(RuntimeError, match="market"):
        framework.env_pool.acquire()
    report = framework.run_automated_pipeline()
    assert report["test_name"] == "Automated Pipeline"
    assert list(report["arms"]) == list(finished("plain").report["arms"])
