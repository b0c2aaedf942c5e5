"""A finished run in an MLflow file store: all of it, once, and nothing sent anywhere; its tables are made again."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from src.configuration import build_config
from src.errors import UserError
from src.runs import tracking
from src.runs.tracking import EXPERIMENT, MOST_POINTS, OFFLINE, RUN_TAG, check_tracker, track
from tests.report.page_report import full_report
from tests.runs.pipeline_runs import Pipelines, pipelines_in

needs_mlflow = pytest.mark.skipif(util.find_spec("mlflow") is None, reason="needs requirements-mlflow.txt")


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipelines]:
    with pipelines_in(tmp_path_factory.mktemp("tracked")) as made:
        yield made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Addresses that anybody asked for. Nobody is let through."""
    addresses: list[Any] = []

    def refuse(*given: Any, **_: Any) -> None:
        addresses.append(given[1:] or given)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in OFFLINE:
        monkeypatch.delenv(name, raising=False)
    return addresses


def runs_in(store: Path) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=store.as_uri())
    return list(client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id]))


def test_without_mlflow_a_run_stops_before_it_begins_and_names_the_command(
    pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    home = pipelines.new_home()
    ended = pipelines.run(home, {"monitoring.mlflow": str(home / "store")})
    assert isinstance(ended.error, UserError)
    assert ended.error.exit_code == 2
    assert "python -m pip install -r requirements-mlflow.txt" in ended.why
    assert "\n" not in ended.why
    assert not list(home.glob("logs/*/*"))
    assert not (home / "store").exists()


@needs_mlflow
def test_a_folder_that_cannot_be_written_and_an_address_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = build_config(None, {}, {"mlflow": str(tmp_path / "file")})
    with pytest.raises(UserError, match=r"monitoring\.mlflow .* cannot be written"):
        check_tracker(config.monitoring)
    with pytest.raises(UserError, match="is an address, and nothing is sent anywhere: name a folder"):
        build_config(None, {}, {"mlflow": "http://tracker.example:5000"})
    check_tracker(build_config(None, {}, {}).monitoring)


@needs_mlflow
@pytest.mark.slow
def test_a_store_gets_the_whole_run_once_and_offline(tmp_path: Path, asked: list[Any]) -> None:
    folder, store = tmp_path / "hardware_maximized_NQ_1", tmp_path / "my store"
    (folder / "exports").mkdir(parents=True)
    report = full_report(12, 2)
    (folder / "report.json").write_text(json.dumps(report))
    for name in ("report.html", "config.yaml", "exports/trades.csv"):
        (folder / name).write_text(name)
    rows = [
        {
            "phase": "base",
            "market": "NQ",
            "seed": 0,
            "fold": 0,
            "num_timesteps": 32 * k,
            "mean_reward": k / 7,
            "x": None,
        }
        for k in range(1, 2 * MOST_POINTS + 2)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = build_config(None, {}, {"mlflow": str(store)})
    said: list[str] = []
    track(config, folder, said.append)
    track(config, folder, said.append)
    assert asked == []
    assert {name: os.environ.get(name) for name in OFFLINE} == OFFLINE  # under a test MLflow asks nobody anyway
    assert str(store) in said[0]
    (run,) = runs_in(store)
    assert run.info.run_name == run.data.tags[RUN_TAG] == folder.name
    assert run.info.status == "FINISHED"
    assert run.data.params["training.gamma"] == str(config.training.gamma)
    assert run.data.metrics["arms/hybrid/net_usd_per_session"] == report["arms"]["hybrid"]["net_usd_per_session"]
    assert run.data.metrics["targets/execution_time/measured"] == report["targets"]["execution_time"]["measured"]
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=store.as_uri())
    curve = client.get_metric_history(run.info.run_id, "training/NQ/seed-0/base/mean_reward")
    assert 0.5 * MOST_POINTS <= len(curve) <= MOST_POINTS
    assert (curve[-1].step, curve[-1].value) == (rows[-1]["num_timesteps"], rows[-1]["mean_reward"])
    kept = {file.path for place in ("", "exports") for file in client.list_artifacts(run.info.run_id, place)}
    assert kept == {"report.json", "report.html", "config.yaml", "exports", "exports/trades.csv"}
    # One that was cut short is written again, and only that one is there then.
    client.set_terminated(run.info.run_id, "KILLED")
    track(config, folder, said.append)
    (again,) = runs_in(store)
    assert again.info.run_id != run.info.run_id
    assert again.info.status == "FINISHED"


@needs_mlflow
@pytest.mark.slow
def test_a_resumed_run_makes_its_tables_again_and_is_not_tracked_twice(pipelines: Pipelines) -> None:
    home = pipelines.new_home()
    changes = {
        "test_mode.mode": "hardware_maximized",
        "monitoring.exports": ["csv"],
        "monitoring.mlflow": str(home / "store"),
    }
    ended = pipelines.run(home, changes)
    assert ended.why == ""
    tables = {path.name: path.read_bytes() for path in (ended.folder / "exports").iterdir()}
    assert f"Tables: {ended.folder / 'exports'}\n" in ended.said
    assert sorted(tables) == ["daily_returns.csv", "equity.csv", "sessions.csv", "trades.csv"]
    sessions = pd.read_csv(ended.folder / "exports/sessions.csv")
    for arm, figures in ended.report["arms"].items():
        own = sessions[sessions["arm"] == arm]
        assert own["net_usd"].tolist() == pytest.approx(figures["net_usd_by_session"])
        assert own["date"].tolist() == ended.report["session_dates"]
    trades = pd.read_csv(ended.folder / "exports/trades.csv")
    assert trades.groupby("arm").size().to_dict() == {
        arm: figures["trades"] for arm, figures in ended.report["arms"].items() if figures["trades"]
    }
    (ended.folder / "exports/trades.csv").unlink()
    (ended.folder / "exports/equity.csv").write_bytes(b"nothing of the kind")
    resumed = pipelines.resume(home, changes)
    assert resumed.why == ""
    assert {path.name: path.read_bytes() for path in (ended.folder / "exports").iterdir()} == tables
    assert len(runs_in(home / "store")) == 1
