"""Report check: a small run from bars to report.json and its page, validated against the schema."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from src import run_names
from src.checks.outcome import RESTORE, Outcome, failed, passed
from src.checks.setting import Setting
from src.market.bars import Bars
from src.market.contracts import get_contract
from src.market.synthetic import synthetic_bars
from src.outputs import OutputError
from src.report.schema import ReportError, check_report
from src.testing_framework import TestingFramework, create_test_config

SESSIONS, INTERVAL_MIN, TIMESTEPS = 12, 15, 512
RUN_FIGURES = ("gpu_utilization", "cache_hit_rate", "peak_memory_gb", "timesteps_completed")
"""Single-number results of a report; the validation's own file repeats those of the small run."""


def report(setting: Setting) -> Outcome:
    """Every phase of a run on a dozen synthetic sessions with the mock advisor; the configured rules and costs."""
    given = setting.config
    with tempfile.TemporaryDirectory(prefix="validate-") as name:
        folder = Path(name)
        bars = synthetic_bars(given.test_mode.markets[0], SESSIONS, INTERVAL_MIN, seed=0)
        config = create_test_config(
            "hardware_maximized",
            given.test_mode.markets[0],
            data=write_bars(bars, folder / f"{bars.market}.csv"),
            environment={**given.environment.model_dump(), "env_class": None, "env_kwargs": {}},
            mock_llm=True,
            vectorized_envs=4,
            batch_size=64,
            torch_threads=setting.threads,
            timesteps=TIMESTEPS,
            n_epochs=1,
            tensorboard=False,
            quick=True,
            device="cpu",
            output_dir=str(folder / "logs"),
            evidence={"trials_path": str(folder / "trials.jsonl")},  # no trial of the user's on sealed sessions
        )
        framework = TestingFramework(config, Console(quiet=True))
        try:
            # It reads its report.json again to make the page, and refuses another shape.
            framework.run_hardware_maximized_validation()
            assert framework.run_folder is not None
            content = json.loads((framework.run_folder / run_names.REPORT).read_text(encoding="utf-8"))
            check_report(content, run_names.REPORT)
        except ReportError as error:
            return failed("report.json does not match the schema", f"{error} {RESTORE}")
        except (FileNotFoundError, OutputError) as error:
            missing = error.__cause__ if isinstance(error, OutputError) else error
            if not isinstance(missing, FileNotFoundError):
                raise
            return failed(f"the run did not write {Path(missing.filename).name}", RESTORE)
        if not (framework.run_folder / run_names.PAGE).is_file():
            return failed("the run has written no report.html", RESTORE)
        left = sorted(path.name for path in framework.run_folder.iterdir())
    run = {name: content[name] for name in RUN_FIGURES}
    return passed(f"{len(content)} sections match the schema", sections=sorted(content), files=left, **run)


def write_bars(bars: Bars, file: Path) -> Path:
    """Bars as a user's CSV file: UTC times, prices in points."""
    tick = float(get_contract(bars.market).tick_size)
    columns = {name: getattr(bars, name) * tick for name in ("open", "high", "low", "close")}
    times = pd.to_datetime(np.asarray(bars.open_ns), utc=True)
    pd.DataFrame({"datetime": times, **columns, "volume": bars.volume}).to_csv(file, index=False)
    return file
