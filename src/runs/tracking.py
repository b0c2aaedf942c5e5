"""A finished run in the user's experiment tracker: an MLflow file store in a folder. Nothing is sent anywhere."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from src import run_names
from src.configuration import Configuration
from src.errors import ConfigError, UserError
from src.evaluation.settings import MonitoringSettings
from src.files import read_regular
from src.outputs import OutputError, why_unwritable

INSTALL = "python -m pip install -r requirements-mlflow.txt"
EXPERIMENT = "hybrid-trading-validation"
RUN_TAG = "hybrid_trading.run"
"""Names the folder of the run: one that is there already is not written twice."""
OFFLINE = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Set before MLflow is loaded: it reports its use otherwise, and asks for the file store to be wanted."""
BATCH = 500
MOST_POINTS = 1_000
"""Points of a learning curve; of a longer one every so many."""
LONGEST_PARAM = 500
ARTIFACTS = (run_names.REPORT, run_names.PAGE, run_names.CONFIGURATION)


def check_tracker(monitoring: MonitoringSettings) -> None:
    """Raise ConfigError where a tracker is asked for and not installed, OutputError where its folder cannot be
    written."""
    if monitoring.mlflow is None:
        return
    if find_spec("mlflow") is None:
        raise ConfigError(
            f"monitoring.mlflow is {monitoring.mlflow}, but MLflow is not installed. Run: {INSTALL}; or leave the key "
            "out."
        )
    if why := why_unwritable(monitoring.mlflow):
        raise OutputError(f"monitoring.mlflow {monitoring.mlflow} cannot be written ({why}): name another folder.")


def track(config: Configuration, folder: Path, say: Callable[[str], None]) -> None:
    """Write a finished run into the store that `monitoring.mlflow` names: settings, figures, learning curves, and
    report, page and tables as artifacts. Raises UserError where MLflow fails."""
    store = config.monitoring.mlflow
    if store is None:
        return
    for name, value in OFFLINE.items():
        os.environ.setdefault(name, value)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(tracking_uri=store.resolve().as_uri())
        found = client.get_experiment_by_name(EXPERIMENT)
        experiment = client.create_experiment(EXPERIMENT) if found is None else found.experiment_id
        if not _is_there(client, experiment, folder):
            _write(client, experiment, config, folder)
    except MlflowException as error:
        raise UserError(
            f"MLflow cannot write the run into {store} ({' '.join(str(error).split())[:300]}). The run itself is "
            f"complete in {folder}; name another folder in monitoring.mlflow and resume it."
        ) from error
    say(f"MLflow: the run is in {store}")


def _is_there(client: Any, experiment: str, folder: Path) -> bool:
    """Whether the store has this run whole; one that was cut short is removed."""
    for run in client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{folder.name}'"):
        if run.info.status == "FINISHED":
            return True
        client.delete_run(run.info.run_id)
    return False


def _write(client: Any, experiment: str, config: Configuration, folder: Path) -> None:
    from mlflow.entities import Metric, Param

    report = json.loads(read_regular(folder / run_names.REPORT))
    run = client.create_run(experiment, run_name=folder.name, tags={RUN_TAG: folder.name}).info.run_id
    params = [Param(key, value[:LONGEST_PARAM]) for key, value in _params(config.to_dict())]
    for first in range(0, len(params), 100):
        client.log_batch(run, params=params[first : first + 100])
    metrics = [Metric(key, value, 0, step) for key, value, step in _metrics(report, folder / run_names.RECORDS)]
    for first in range(0, len(metrics), BATCH):
        client.log_batch(run, metrics=metrics[first : first + BATCH])
    for name in ARTIFACTS:
        client.log_artifact(run, str(folder / name))
    if (folder / run_names.EXPORTS).is_dir():
        client.log_artifacts(run, str(folder / run_names.EXPORTS), run_names.EXPORTS)
    client.set_tag(run, "judgement", (report.get("overall") or {}).get("judgement", ""))
    client.set_terminated(run, "FINISHED")


def _params(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _params(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _metrics(report: Mapping[str, Any], records: Path) -> Iterator[tuple[str, float, int]]:
    """Name, value and step of everything that is a number: the arms of every market, targets, learning curves."""
    several = (report.get("markets") or {}).get("reports", {})
    for symbol, of in several.items() if several else (("", report),):
        market = f"{symbol}/" if symbol else ""
        for part in ("arms", "validation_arms"):
            for arm, figures in (of.get(part) or {}).items():
                yield from _numbers(f"{market}{part}/{arm}", figures)
    for name, target in report.get("targets", {}).items():
        yield from _numbers(f"targets/{name}", target)
    yield from _numbers(
        "run", {key: report.get(key) for key in ("execution_time", "timesteps_total", "peak_memory_gb")}
    )
    yield from _curves(records)


def _numbers(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    for key, value in values.items():
        if isinstance(value, int | float) and math.isfinite(value):
            yield f"{prefix}/{key}", float(value), 0


def _curves(records: Path) -> Iterator[tuple[str, float, int]]:
    """The trainings' log rows by timestep."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for line in read_regular(records).decode().splitlines() if records.exists() else ():
        row = json.loads(line)
        fold = f"/fold-{row['fold']}" if row["fold"] else ""
        rows.setdefault(f"training/{row['market']}{fold}/seed-{row['seed']}/{row['phase']}", []).append(row)
    for name, of in rows.items():
        every = -(-len(of) // MOST_POINTS)
        for row in of[::-1][::every][::-1]:  # the last one always
            values = {key: value for key, value in row.items() if key not in ("fold", "seed", "num_timesteps")}
            yield from ((key, value, int(row["num_timesteps"])) for key, value, _ in _numbers(name, values))
