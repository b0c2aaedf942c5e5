"""Predicted and measured memory of real runs: `python -m src.runs.memory_study`.

Each run is a process of its own with the mock advisor, and short: few rollouts, one epoch, no attempts. What a
run takes does not depend on how long it trains.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from src import run_names
from src.console import PlainConsole
from src.errors import UserError
from src.shell import Parser, run_main

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "run_hardware_maximized.py"
WITHIN = 0.20
"""Share of the measured peak by which the predicted one may differ."""
SHORT: Mapping[str, Any] = {
    "test_mode.quick": True,
    "training.n_epochs": 1,
    "evidence.seeds": 1,
    "monitoring.hardware_interval_s": 0.1,
    "checkpoint.auto_resume": False,
    "hardware.workers": 1,
}
WIDE = {"training.policy_kwargs.net_arch": [1024, 512]}
LARGE_BATCH = {"hardware.batch_size": 16_384, "hardware.vectorized_envs": 256, "training.timesteps": 32_768}
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "default": {"training.timesteps": 8192},
    "2 workers, 2 seeds": {"training.timesteps": 8192, "hardware.workers": 2, "evidence.seeds": 2},
    "4096 accounts": {"hardware.vectorized_envs": 4096, "training.timesteps": 16_384},
    "4096 accounts x 16 bars": {
        "hardware.vectorized_envs": 4096, "training.n_steps": 16, "hardware.batch_size": 8192, "training.timesteps": 1,
    },
    "large minibatch": LARGE_BATCH,
    "large minibatch, wide": {**LARGE_BATCH, **WIDE},
    "the same, 2 workers": {**LARGE_BATCH, **WIDE, "hardware.workers": 2},
    "the same, stock learner": {**LARGE_BATCH, **WIDE, "hardware.learner": "stock"},
    "very wide": {"training.policy_kwargs.net_arch": [4096, 2048], "training.timesteps": 2048},
    "8 environments, subproc": {
        "hardware.vec_env": "subproc", "hardware.vectorized_envs": 8, "training.timesteps": 2048,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """One run: GB predicted before it began, and the highest sample."""

    name: str
    predicted_gb: float
    measured_gb: float
    stage: str

    @property
    def error(self) -> float:
        """Predicted above measured, as a share of measured."""
        return self.predicted_gb / self.measured_gb - 1.0


def measure(name: str, settings: Mapping[str, Any], options: Sequence[str], folder: Path) -> Pair:
    """Make a run of these settings (by flat name) below `folder`. UserError where it ends without a report."""
    folder.mkdir(parents=True)
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(_nested({**SHORT, **settings})), encoding="utf-8")
    command = [sys.executable, str(SCRIPT), "--mock-llm", "--config", str(file), "--output-dir", str(folder), *options]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    reports = list(folder.glob(f"*/{run_names.REPORT}"))
    if not reports:
        raise UserError(
            f"The run {name!r} ended with exit code {ended.returncode}: {ended.stdout[-1000:]}{ended.stderr}"
        )
    found = json.loads(reports[0].read_text(encoding="utf-8"))["memory"]
    return Pair(name, found["predicted_gb"], found["measured_gb"], found["stage"])


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by flat name as sections within sections."""
    found: dict[str, Any] = {}
    for name, value in flat.items():
        *sections, key = name.split(".")
        place = found
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 where a prediction is further off than `WITHIN`."""
    parser = Parser("Predict the memory of runs of several shapes, make them, and compare.")
    parser.add_argument("--data", metavar="PATH", help="bars, as in a run (default: synthetic ones)")
    parser.add_argument("--market", default="NQ", metavar="MARKET", help="their market (default NQ)")
    parser.add_argument("--only", nargs="+", choices=SHAPES, metavar="NAME", help=f"of: {'; '.join(SHAPES)}")
    args = parser.parse_args(argv)
    options = ["--market", args.market] + (["--data", str(Path(args.data).resolve())] if args.data else [])
    console = PlainConsole()
    table = Table("run", "predicted, GB", "measured, GB", "difference", "peak predicted in")
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        for i, name in enumerate(args.only or SHAPES):
            pair = measure(name, SHAPES[name], options, Path(folder) / str(i))
            worst = max(worst, abs(pair.error))
            console.print(f"{name}: {pair.predicted_gb:.2f} GB predicted, {pair.measured_gb:.2f} GB measured")
            table.add_row(
                name, f"{pair.predicted_gb:.2f}", f"{pair.measured_gb:.2f}", f"{100.0 * pair.error:+.0f}%", pair.stage
            )
    console.print(table)
    console.print(f"largest difference {100.0 * worst:.0f}%, at most {100.0 * WITHIN:.0f}% wanted")
    return 0 if worst <= WITHIN else 1


if __name__ == "__main__":
    run_main(main)
