"""The account of a run's time: what it puts down must add up to wall time times slots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from src.runs import time_account
from src.runs.tasks import Task
from src.runs.time_account import TimeAccount
from tests.tiny_runs import every_market_checked_once, quick_calendar, tiny_config, whole_run


class Clocks:
    """Stands in for the system's clocks."""

    wall = cpu = 0.0

    def perf_counter(self) -> float:
        return self.wall

    def process_time(self) -> float:
        return self.cpu


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    made = Clocks()
    monkeypatch.setattr(time_account, "time", made)
    return made


def task(name: str, stage: str = "evaluation") -> Task:
    return Task(name, stage, name, "", dict, dict, dict)


def told(began: float, ended: float, cpu_s: float = 0.0) -> dict[str, float]:
    return {"began": began, "ended": ended, "cpu_s": cpu_s}


def test_two_slots_worked_by_hand(clocks: Clocks) -> None:
    account = TimeAccount()
    clocks.wall, clocks.cpu = 1.0, 0.5
    account.stage("data")
    clocks.wall, clocks.cpu = 4.0, 3.0
    with account.engaged(2):
        account.begins(task("a", "training"))
        account.stage("training")  # the run's process only waits
        clocks.wall = 5.0  # one slot has nothing to do for a second
        account.begins(task("b"))
        clocks.wall = 11.0  # a worked from 4.5 to 10.5
        spent = {"seconds": {"environment": 2.0, "matrix products": 4.0}, "cpu_s": {"environment": 1.0}}
        account.ended(task("a"), told(4.5, 10.5), spent)
        account.begins(task("c"))
        clocks.wall = 13.0
        account.ended(task("c"), None, None)
        account.ended(task("b"), told(5.25, 13.0, cpu_s=7.0), None)
    clocks.wall, clocks.cpu = 14.0, 4.0
    facts = account.facts()
    assert facts["slot_s"] == 4.0 + 2 * 9.0 + 1.0
    assert facts["seconds"] == {
        "evaluation": 7.75, "training": 6.0, "loading the market": 3.0, "failed tries": 2.0, "idle": 1.5, "start": 1.0,
        "the run's own files": 1.0, "starting workers": 0.75,
    }  # fmt: skip
    assert facts["unaccounted_s"] == pytest.approx(0.0)
    assert facts["cpu_s"]["evaluation"] == 7.0
    assert facts["cpu_s"]["training"] == 1.0
    assert facts["cpu_s"]["loading the market"] == 2.5
    assert (facts["wall_s"], facts["slots"]) == (14.0, 2)


def test_a_task_under_way_when_the_run_stops_counts_as_a_failed_try(clocks: Clocks) -> None:
    account = TimeAccount()

    def stopped() -> None:
        with account.engaged(1):
            account.begins(task("a"))
            clocks.wall = 3.0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert account.facts()["seconds"] == {"failed tries": 3.0}


def test_what_a_training_does_not_put_down_is_missing(clocks: Clocks) -> None:
    """Or the account could not fail to add up."""
    account = TimeAccount()
    with account.engaged(1):
        account.begins(task("a", "training"))
        clocks.wall = 10.0
        account.ended(task("a"), told(0.0, 10.0), {"seconds": {"environment": 7.0}, "cpu_s": {}})
    assert account.facts()["unaccounted_s"] == 3.0


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of a run on environments that sleep 4 ms a step."""
    home = tmp_path_factory.mktemp("slow")
    changes = {
        "test_mode.output_dir": str(home),
        "environment.env_class": "tests.trading.custom_envs:Slow",
        "environment.env_kwargs": {"seconds": 0.004},
        "hardware.vec_env": "dummy",
        "monitoring.settings_trial_s": 0.0,
    }
    with quick_calendar(), every_market_checked_once():
        seen = whole_run(tiny_config(changes))
    assert seen["outcome"] == ""
    assert Path(home).is_dir()
    return dict(seen["report"])


def test_a_slow_environment_is_named_as_the_bottleneck_with_its_cost_a_step(slow: dict[str, Any]) -> None:
    """Four environments one by one take 16 ms at least, and no more than all of the rollouts took."""
    (line,) = (text for text in slow["verdict"] if text.startswith("Speed: "))
    assert line.startswith("Speed: The environment holds training back: ")
    said = line.partition("(tests.trading.custom_envs:Slow) takes ")[2].partition(" ms")[0]
    (row,) = slow["training"]
    assert 16.0 <= float(said) <= 1010.0 * row["rollout_s"] / (row["timesteps"] / 4)
    assert "No other settings were tried: monitoring.settings_trial_s is 0." in line
    assert "bottleneck: environment" in next(of["answer"] for of in slow["answers"] if of["key"] == "production")


def test_a_run_and_its_trainings_add_up_to_their_wall_time(slow: dict[str, Any]) -> None:
    times = slow["time"]
    run = times["run"]
    assert abs(run["unaccounted_s"]) <= 0.03 * run["slot_s"]
    assert run["wall_s"] == pytest.approx(slow["execution_time"], rel=0.03)
    assert sum(run["seconds"].values()) == pytest.approx(slow["execution_time"], rel=0.03)
    (member,) = times["members"]
    (row,) = slow["training"]
    own = sum(of for part, of in member["seconds"].items() if part not in ("set-up", "exports", "measuring"))
    assert own == pytest.approx(row["seconds"] + row["checkpoint_s"], rel=0.1)
    assert member["cpu_s"]["environment"] < 0.5 * member["seconds"]["environment"]
