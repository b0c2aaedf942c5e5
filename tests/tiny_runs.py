"""Whole runs in a second, in this process: twelve sessions of 15-minute bars, four accounts, networks of eight units.

Nothing of a run is replaced; only pure functions are asked once for the same arguments: the calendar, and where a test
says so the tables and leak checks of a market. Where a test says so no page is drawn.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from src.agent import market
from src.configuration import build_config
from src.errors import UserError
from src.evaluation import leaks
from src.evaluation.look_ahead import LeakCheck
from src.evaluation.production import FEWEST_PAIRS, try_production
from src.files import write_atomically
from src.market import sessions
from src.market.settings import DataSettings
from src.market.synthetic import synthetic_bars
from src.market.tables import MarketTables
from src.report.model.report import RunReport
from src.runs import plan, results, run
from src.testing_framework import TestConfig, TestingFramework
from tests.market.bar_makers import bar_table, write_csv

Seen = Mapping[str, Any]

N_SESSIONS, INTERVAL_MIN = 12, 15

_kept = TemporaryDirectory(prefix="tiny-runs-")

TINY: Mapping[str, Any] = {
    # A micro: one lost trade of 15-minute NQ bars is the whole daily limit, and hardly anything happens after it.
    "test_mode.market": "MNQ",
    "llm.model": "mock",
    "hardware.device": "cpu",
    "hardware.vectorized_envs": 4,
    "hardware.batch_size": 32,
    "hardware.torch_threads": 1,
    # Collecting garbage of this whole process takes longer than such a run.
    "hardware.optimize_memory": False,
    "pipeline.reallocate_resources": False,
    "training.timesteps": 128,
    "training.n_epochs": 1,
    "training.policy_kwargs.net_arch.pi": [8],
    "training.policy_kwargs.net_arch.vf": [8],
    "training.production_net_arch": [12],
    # Two samples, the first and the last, whatever the machine is busy with.
    "monitoring.hardware_interval_s": 3600.0,
    "monitoring.tensorboard": False,
    "monitoring.exports": [],
    # One seed, and of what the arms are put through the least.
    "evidence.seeds": 1,
    "evidence.stress_slippage_ticks": [0],
    "evidence.chart_sessions": 0,
    "evidence.pass_attempts": 200,
    "evidence.trials_path": f"{_kept.name}/trials.jsonl",
    # Met by any run, so that a busy machine decides nothing here.
    "validation.max_peak_memory_gb": 1000.0,
}
"""What a tiny run sets, by dotted key; with a file of `bar_files` as data.path."""

LEFT_OUT = object()
"""As a value: the key is not in the file at all, so that the mode's default holds."""


class CountingEnv(gym.Env[np.ndarray, np.int64]):
    """Episodes of five steps that pay `reward` for action 1: an environment of a user's own."""

    def __init__(self, reward: float = 1.0) -> None:
        self.observation_space = gym.spaces.Box(0.0, 5.0, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self._reward = reward
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._steps += 1
        obs = np.array([self._steps, action], np.float32)
        return obs, self._reward * float(action), self._steps == 5, False, {}


class FailingEnv(CountingEnv):
    """The same, failing in its 25th step, as often as `failures_left` says."""

    failures_left = 0

    def __init__(self, reward: float = 1.0) -> None:
        super().__init__(reward)
        self._steps_in_all = 0

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._steps_in_all += 1
        if self._steps_in_all == 25 and FailingEnv.failures_left:
            FailingEnv.failures_left -= 1
            raise RuntimeError("the feed broke off")
        return super().step(action)


def bar_files(folder: Path) -> dict[str, Path]:
    """Files of NQ bars: `plain`, `other` (another seed), `gappy` (five bars missing in one day), `defective`, `short`
    (5 minutes a bar), `adjusted` (a tenth of a point added to every price), `zoneless` (UTC that does not say so)."""
    plain = synthetic_bars("NQ", N_SESSIONS, INTERVAL_MIN, seed=1)
    with_defect = bar_table(plain)
    with_defect.loc[40, "high"] = with_defect.loc[40, "low"] - 1.0
    zoneless = bar_table(plain)
    zoneless["datetime"] = zoneless["datetime"].dt.strftime("%Y-%m-%d %H:%M:%S")
    adjusted = bar_table(plain)
    adjusted[["open", "high", "low", "close"]] += 0.1
    tables = {
        "plain": bar_table(plain),
        "other": bar_table(synthetic_bars("NQ", N_SESSIONS, INTERVAL_MIN, seed=2)),
        "gappy": _without_late_morning(bar_table(plain), session=5),
        "defective": with_defect,
        "short": bar_table(synthetic_bars("NQ", N_SESSIONS, 5, seed=1)),
        "adjusted": adjusted,
        "zoneless": zoneless,
    }
    return {name: write_csv(table, folder / f"NQ_{name}.csv") for name, table in tables.items()}


def _without_late_morning(table: pd.DataFrame, session: int) -> pd.DataFrame:
    """The bars of 10:30 to 11:45 New York of one session left out: five of 92."""
    begins = np.flatnonzero(table["datetime"].diff() > pd.Timedelta(minutes=INTERVAL_MIN))
    first = int(begins[session])
    return table.drop(index=range(first + 66, first + 71))


def tiny_config(changes: Mapping[str, Any]) -> TestConfig:
    """The configuration of `TINY` under `changes`, dotted keys both."""
    values: dict[str, Any] = {}
    for key, value in {**TINY, **changes}.items():
        *sections, name = key.split(".")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
        if value is not LEFT_OUT:
            inner[name] = value
    return build_config(None, values, {}, model=TestConfig)


@contextmanager
def quick_calendar() -> Iterator[None]:
    """The calendar remembers what it was asked: 0.1 s a question, five questions a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "calendar_schedule", functools.cache(sessions.calendar_schedule))
        yield


@contextmanager
def every_market_checked_once() -> Iterator[None]:
    """The leak checks, half of a tiny run, remember the markets they have seen, to the last bit."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("check_features", "check_decisions", "check_fills", "check_sealed"):
            patch.setattr(leaks, name, _once(getattr(leaks, name)))
        yield


@contextmanager
def every_market_read_once() -> Iterator[None]:
    """Tables, which are frozen, are made once of the same files and settings."""
    known: dict[str, MarketTables] = {}
    read = market.load_market

    def load(settings: DataSettings, symbol: str, *, trading_hours: str, seed: int) -> MarketTables:
        path = settings.of_market(symbol).path
        if path is None or not Path(path).is_file():
            return read(settings, symbol, trading_hours=trading_hours, seed=seed)
        key = f"{settings!r} {symbol} {trading_hours} {hashlib.sha256(Path(path).read_bytes()).hexdigest()}"
        if key not in known:
            known[key] = read(settings, symbol, trading_hours=trading_hours, seed=seed)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(market, "load_market", load)
        yield


@contextmanager
def no_page_is_drawn() -> Iterator[None]:
    """A page of one word: tests of runs look at what a page is drawn from."""

    def write(report: RunReport, path: Path) -> None:
        write_atomically(path, "page")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "write_page", write)
        patch.setattr(results, "write_page", write)
        yield


@contextmanager
def few_trials() -> Iterator[None]:
    """How long production would take is measured as rarely as it may be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "try_production", functools.partial(try_production, most_pairs=FEWEST_PAIRS))
        yield


@contextmanager
def quick_runs() -> Iterator[None]:
    """All of the above."""
    with quick_calendar(), every_market_checked_once(), every_market_read_once(), no_page_is_drawn(), few_trials():
        yield


class _Pickler(pickle.Pickler):
    """One that takes read-only mappings."""

    def reducer_override(self, value: Any) -> Any:
        return (dict, (dict(value),)) if isinstance(value, MappingProxyType) else NotImplemented


def _once(check: Callable[..., LeakCheck]) -> Callable[..., LeakCheck]:
    known: dict[bytes, LeakCheck] = {}

    def asked(*given: Any, **named: Any) -> LeakCheck:
        content = BytesIO()
        _Pickler(content).dump((given, named))
        key = hashlib.sha256(content.getvalue()).digest()
        if key not in known:
            known[key] = check(*given, **named)
        return known[key]

    return asked


def whole_run(config: TestConfig) -> Seen:
    """Everything a run leaves behind: its report, metrics by training, digests of the exported weights, files, the
    phases of its ledger and the names of its first seed's checkpoints.

    A run that a UserError ended leaves `outcome`, the error's text, and what does not need its end.
    """
    framework = TestingFramework(config, Console(quiet=True))
    outcome = ""
    try:
        if config.test_mode.mode == "pipeline":
            framework.run_automated_pipeline()
        else:
            framework.run_hardware_maximized_validation()
    except UserError as error:
        outcome = str(error)
    folder = framework.run_folder
    seen = {"outcome": outcome, "threads": torch.get_num_threads()}
    if folder is not None and (folder / "ledger.json").exists():
        seen |= _left_under_way(folder)
    if not outcome:
        assert folder is not None
        seen |= _left(folder)
    return seen


def _left_under_way(folder: Path) -> Seen:
    by_training: dict[str, list[str]] = {}
    for path in sorted(folder.glob("members/seed-0/*/checkpoint-*")):
        by_training.setdefault(path.parent.name, []).append(path.name)
    ledger = json.loads((folder / "ledger.json").read_text(encoding="utf-8"))
    return {"ledger": ledger["phases"], "checkpoints": by_training}


def _left(folder: Path) -> Seen:
    if not (folder / "report.json").exists():  # a pipeline that stopped after a phase
        return {}
    with open(folder / "hardware.csv", newline="", encoding="utf-8") as file:
        hardware_rows = len(list(csv.DictReader(file)))
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {
        "report": report,
        "steps": [{key: r[key] for key in ("phase", "timesteps", "n_envs", "n_steps")} for r in report["training"]],
        "metrics": _metrics(folder / "metrics.jsonl"),
        "weights": {name: weights_in(folder / f"{name}.zip") for name in ("base", "hybrid")},
        "files": {
            "folder": str(folder.parent),
            "name": folder.name.rsplit("_", 1)[0],
            "tensorboard": (folder / "tensorboard").is_dir(),
            "exports": sorted(path.name for path in folder.glob("exports/*")),
            "hardware_rows": hardware_rows,
        },
    }


def at(seen: Seen, path: str) -> Any:
    """What stands at a dotted path; None where a run left no such thing."""
    value: Any = seen
    names = path.split(".")
    while names:
        if isinstance(value, list):
            value = value[int(names.pop(0))] if int(names[0]) < len(value) else None
        elif not isinstance(value, Mapping):
            return None
        elif names[0] in value:
            value = value[names.pop(0)]
        else:  # names of tensors hold dots themselves: all that begin so
            rest = ".".join(names)
            return {name: inner for name, inner in value.items() if name.startswith(rest)} or None
    return value


def _metrics(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The records by training: "base" of the first seed, "base, seed 1" of the next, "base, fold 1" of a fold; without
    the one figure that is a speed."""
    trainings: dict[str, list[dict[str, Any]]] = {}
    first = None
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        del record["steps_per_s"]
        first = record["seed"] if first is None else first
        seed = f", seed {record['seed']}" if record["seed"] != first else ""
        fold = f", fold {record['fold']}" if record["fold"] else ""
        trainings.setdefault(f"{record['phase']}{seed}{fold}", []).append(record)
    return trainings


def weights_in(path: Path) -> dict[str, Any]:
    """Shape and digest of every tensor of an exported policy; {} where there is no such file."""
    if not path.is_file():
        return {}
    with zipfile.ZipFile(path) as archive, archive.open("policy.pth") as file:
        state = torch.load(file, weights_only=True)
    return {
        name: (tuple(value.shape), hashlib.sha256(value.numpy().tobytes()).hexdigest()) for name, value in state.items()
    }
