"""Which setting would make training faster on this machine: `python -m src.benchmarks settings`."""

from __future__ import annotations

import json
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from src.agent.learner.products import fastest, processor_key
from src.agent.settings import HardwareSettings, TrainingSettings
from src.agent.trainer import Trainer
from src.benchmarks.workloads import synthetic_market
from src.console import uncut
from src.evaluation.setting_trials import TrialJob, try_settings
from src.report.held_back import setting_words
from src.report.model.time import SettingsTried
from src.trading.settings import EnvironmentSettings
from src.wording import ratio_words

SECONDS, QUICK_SECONDS = 30.0, 2.0


class _NeverStops:
    """A trial of its own has nobody who would stop it."""

    def check(self) -> None:
        """Go on."""


def run(console: Console, *, quick: bool) -> None:
    """Try every setting against the defaults, in turns, and print the table, the sentence and a line of JSON."""
    trainer = Trainer(TrainingSettings(), HardwareSettings(), EnvironmentSettings(), torch.device("cpu"), 0)
    job = TrialJob(trainer, 0, 1, QUICK_SECONDS if quick else SECONDS, fastest())
    found = SettingsTried.model_validate(try_settings(job, synthetic_market(), _NeverStops()))
    table = Table(title="Training against the default settings, in turns")
    for heading in ("setting", "now", "tried", "times as fast", "rounds", "policy"):
        table.add_column(heading, justify="left" if heading in ("setting", "policy") else "right")
    for one in found.tried:
        spread = f"{ratio_words(one.low)} to {ratio_words(one.high)}"
        policy = "another" if one.changes_learning else "the same"
        table.add_row(one.setting, one.now, one.tried, ratio_words(one.speedup), spread, policy)
    console.print(uncut(table))
    console.print(Text(setting_words(found)))
    console.print(f"Processor: {processor_key()}")
    line: dict[str, Any] = {"processor": processor_key(), "quick": quick, "part": "settings", **found.model_dump()}
    console.print(json.dumps(line), soft_wrap=True)
