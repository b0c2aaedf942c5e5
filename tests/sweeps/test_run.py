"""Whole sweeps of tiny settings: what they train, what they never look at, and how they end after a stop."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from src.configuration import build_config
from src.errors import ConfigError, InterruptedRun, UserError
from src.report.page import render
from src.report.schema import read_report
from src.runs.engine import Engine
from src.runs.tasks import find_task
from src.statistics.overfitting import overfitting
from src.statistics.performance import deflated_sharpe, sharpe_ratio
from src.sweeps.run import run_sweep
from src.testing_framework import TestConfig, TestingFramework
from tests.tiny_runs import bar_files, every_market_checked_once, quick_calendar, tiny_config, weights_in

pytestmark = pytest.mark.slow

FILE: dict[str, Any] = {
    "settings": 4,
    "seed": 1,
    "fresh_seeds": 2,
    "keep_frac": 0.75,
    "space": {
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "stop_atr": [1.0, 2.0],
        "llm_weight": [0.2, 0.8],
    },
}


class Home:
    """A folder for sweeps, and the bars they are over."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bars = bar_files(folder)["plain"]

    def config(self, name: str, **changes: Any) -> TestConfig:
        own = {"data.path": str(self.bars), "test_mode.output_dir": str(self.folder / name)}
        trials = {"evidence.trials_path": str(self.folder / f"{name}.jsonl")}
        return tiny_config({**own, **trials, **changes})

    def sweep(self, name: str, file: dict[str, Any] = FILE, **options: Any) -> tuple[dict[str, Any], str]:
        """The winner's report and what was printed."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(file, sort_keys=False), encoding="utf-8")
        told = io.StringIO()
        console = Console(file=told, width=80)
        return run_sweep(self.config(name), path, console, command="again", **options), told.getvalue()

    def of(self, name: str) -> Path:
        """The one sweep of that name."""
        (found,) = (self.folder / name).glob("sweep_MNQ_*")
        return found

    def result(self, name: str) -> dict[str, Any]:
        return json.loads((self.of(name) / "sweep.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with quick_calendar(), every_market_checked_once():
        yield Home(tmp_path_factory.mktemp("sweeps"))


@pytest.fixture(scope="module")
def ended(home: Home) -> tuple[dict[str, Any], str]:
    """A sweep in one go."""
    return home.sweep("whole")


def test_the_winner_is_the_best_of_those_that_trained_to_their_end(
    home: Home, ended: tuple[dict[str, Any], str]
) -> None:
    sweep = ended[0]["sweep"]
    assert sweep == home.result("whole")
    whole = [of for of in sweep["settings"] if of["quarters"] == 4]
    assert len(sweep["settings"]) == 4
    assert 1 <= len(whole) < 4
    assert sweep["winner"] == max(whole, key=lambda of: of["score_usd"])["number"]
    assert np.mean(sweep["net_usd_by_session"]) == max(of["score_usd"] for of in whole)


def test_a_setting_that_paused_at_quarters_is_trained_as_a_run_of_its_own_trains_it(
    home: Home, ended: tuple[dict[str, Any], str]
) -> None:
    sweep = ended[0]["sweep"]
    (values,) = (of["values"] for of in sweep["settings"] if of["number"] == sweep["winner"])
    config = home.config("alone", **values)
    framework = TestingFramework(config, Console(quiet=True))
    report = framework.run_hardware_maximized_validation()
    assert framework.run_folder is not None
    own = framework.run_folder / "members" / "seed-0"
    members = home.of("whole") / "members" / f"setting-{sweep['winner']:03d}" / "seed-0"
    assert weights_in(members / "hybrid" / "hybrid.zip") == weights_in(own / "hybrid" / "hybrid.zip")
    assert report["validation_arms"]["hybrid"]["net_usd_by_session"] == sweep["net_usd_by_session"]


def test_no_setting_plays_a_sealed_session_and_each_is_a_trial(home: Home, ended: tuple[dict[str, Any], str]) -> None:
    report, folder = ended[0], home.of("whole")
    n_validation = report["data"]["split"]["validation"]["sessions"]
    played = [
        done.facts["net_usd"] for path in folder.glob("tasks/**/task.json") if (done := find_task(path.parent).done)
        and "net_usd" in done.facts
    ]  # fmt: skip
    assert {len(np.ravel(net)) for net in played} == {n_validation}
    lines = [json.loads(line) for line in (home.folder / "whole.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({line["sealed"] for line in lines}) == 1
    assert len([line for line in lines if line["arm"] == "hybrid"]) == 4
    assert report["statistics"]["deflated_sharpe"]["hybrid"]["trials"] == 3 + 3


def test_what_is_concluded_is_of_every_setting(home: Home, ended: tuple[dict[str, Any], str]) -> None:
    sweep, folder = ended[0]["sweep"], home.of("whole")
    columns = []
    for of in sweep["settings"]:
        name = "score" if of["quarters"] == 4 else f"seed-0/base-quarter-{of['quarters']}"
        done = find_task(folder / "tasks" / f"setting-{of['number']:03d}" / name).done
        assert done is not None
        columns.append(np.ravel(done.facts["net_usd"]))
        assert np.mean(columns[-1]) == pytest.approx(of["score_usd"], abs=1e-9)
    found = overfitting(np.stack(columns, axis=1), measure="mean")
    assert sweep["overfitting"]["probability"] == found.probability
    ratios = [ratio for net in columns if (ratio := sharpe_ratio(net, per_year=1)) is not None]
    winner = columns[sweep["winner"] - 1]
    deflated = deflated_sharpe(winner, trial_sharpes=np.array(ratios), trials=4)
    assert sweep["deflated_sharpe"]["probability"] == deflated.probability
    shrinkage = sweep["shrinkage"]
    assert shrinkage["seeds"] == ended[0]["seeds"]["values"] == [1, 2]
    assert shrinkage["fresh_usd"] == pytest.approx(ended[0]["validation_arms"]["hybrid"]["net_usd_per_session"])
    assert shrinkage["difference_usd"] == pytest.approx(shrinkage["fresh_usd"] - shrinkage["sweep_usd"])
    assert shrinkage["sealed_usd"] == pytest.approx(ended[0]["arms"]["hybrid"]["net_usd_per_session"])


def test_the_console_and_the_page_show_the_sweep(home: Home, ended: tuple[dict[str, Any], str]) -> None:
    printed = ended[1]
    assert max(len(line) for line in printed.splitlines() if "report." not in line) <= 80
    assert re.search(r"Setting \d of 4 earned most on the \d+ validation sessions", printed)
    assert "stopped after quarter" in printed
    assert "Trained again on 2 fresh seeds" in printed
    assert re.search(r"learning_rate [\d.]+, stop_atr [12], llm_weight 0.[28]", " ".join(printed.split()))
    (run,) = (home.of("whole") / "winner").iterdir()
    page = render(read_report(run / "report.json"))
    assert "The sweep that chose these settings" in page
    assert "Trained again on 2 fresh seeds" in page


@pytest.mark.parametrize("stops", [[2, 3, 12]])
def test_a_sweep_that_was_stopped_goes_on_to_the_same_result(
    home: Home, ended: tuple[dict[str, Any], str], stops: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped behind so many finished tasks, each time in a process of its own as far as memory goes."""
    seal = Engine._seal
    for number in stops:
        left = [number]

        def stopping(self: Engine, *given: Any, left: list[int] = left) -> None:
            seal(self, *given)
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        monkeypatch.setattr(Engine, "_seal", stopping)
        with pytest.raises(InterruptedRun, match="Resume with"):
            home.sweep("stopped")
        monkeypatch.setattr(Engine, "_seal", seal)
    report, _ = home.sweep("stopped", auto_resume=True)
    assert home.result("stopped") == home.result("whole")
    assert report["arms"] == ended[0]["arms"]
    # A quarter that was lost is judged by its own weights, not by those of the end.
    quarter = Path("tasks") / f"setting-{report['sweep']['winner']:03d}" / "seed-0" / "base-quarter-1"
    (home.of("stopped") / quarter / "task.json").unlink()
    home.sweep("stopped", auto_resume=True)
    again, before = (find_task(home.of(name) / quarter).done for name in ("stopped", "whole"))
    assert again is not None
    assert before is not None
    assert again.facts["net_usd"] == before.facts["net_usd"]
    assert again.facts["weights"] == before.facts["weights"]
    assert report["statistics"]["deflated_sharpe"] == ended[0]["statistics"]["deflated_sharpe"]


def test_a_finished_sweep_is_shown_again_and_another_file_is_refused(
    home: Home, ended: tuple[dict[str, Any], str]
) -> None:
    report, printed = home.sweep("whole", auto_resume=True)
    assert "nothing is left to do" in printed
    assert report == ended[0]
    with pytest.raises(UserError, match=r"begun with other settings: keep_frac was 0.75, is 1.0") as refused:
        home.sweep("whole", {**FILE, "keep_frac": 1.0}, auto_resume=True)
    assert refused.value.exit_code == 2
    assert len(list((home.folder / "whole").iterdir())) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"test_mode.market": ["NQ", "ES"], "data.path": None}, "over one market"),
        ({"hardware.learner": "population"}, "hardware.learner is population"),
        ({"checkpoint.enabled": False}, "checkpoint.enabled is false"),
        ({"environment.env_class": "tests.tiny_runs:CountingEnv"}, "which environment.env_class does not have"),
    ],
)
def test_what_a_sweep_does_not_do_is_refused_before_anything_is_written(
    home: Home, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(FILE), encoding="utf-8")
    config = home.config("refused", **changes)
    with pytest.raises(ConfigError, match=said):
        run_sweep(config, path, Console(quiet=True))
    assert not (home.folder / "refused").exists()


def test_the_configuration_of_the_winner_is_that_of_its_setting(home: Home, ended: tuple[dict[str, Any], str]) -> None:
    report = ended[0]
    winner = report["sweep"]["winner"]
    (values,) = (of["values"] for of in report["sweep"]["settings"] if of["number"] == winner)
    shown = build_config(None, report["configuration"], {})
    assert {key: _at(shown.to_dict(), key) for key in values} == values


def _at(values: Any, key: str) -> Any:
    for step in key.split("."):
        values = values[step]
    return values
