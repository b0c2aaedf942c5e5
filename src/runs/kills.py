"""Kill test of the pipeline: killed at random instants and resumed, it ends like an undisturbed run.

    python -m src.runs.kills --kills 20

A short pipeline with a tiny language model runs once to its end, and then again and again under SIGKILL to its whole
process group: at random instants, in the middle of writing a checkpoint, while the model is asked. Whenever a killed
run has reached its end, every byte of the exports, weights, optimizer, log rows and report figures (times aside) are
compared.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from src.console import PlainConsole
from src.runs.exports import NAMES
from src.runs.tasks import TASK_NAME
from src.shell import Parser, run_main

SCRIPT = Path(__file__).resolve().parents[2] / "run_pipeline.py"
ANY, WRITING, ASKING = "any instant", "writing a checkpoint", "asking the model"
SHARES: Mapping[str, int] = {ANY: 2, WRITING: 1, ASKING: 1}
"""Shares of the kills by type. Target the kill type furthest below quota; retry misses."""
SETTINGS = """
hardware: {torch_threads: 1, optimize_memory: false}
data: {synthetic_interval_min: 15, synthetic_sessions: 60}
training: {n_epochs: 2, policy_kwargs: {net_arch: {pi: [64], vf: [64]}}}
llm: {model: tiny, llm_threads: 1, tabulation_budget_s: 600, advice_batch_size: 8}
checkpoint: {interval_steps: 512}
monitoring: {tensorboard: false, log_interval: 16}
evidence: {trials_path: trials.jsonl, pass_attempts: 200}
validation: {max_peak_memory_gb: 1000, required: []}
"""

# Report fields that say how and how fast a process worked, not what came out.
OF_THE_PROCESS = frozenset(
    {
        "execution_time",
        "cache",
        "cache_hit_rate",
        "duration_seconds",
        "avg_gpu_utilization",
        "peak_gpu_memory_gb",
        "peak_memory_gb",
        "peak_memory_kind",
        "gpu_utilization",
        "targets",
        "phase_times",
        "hardware",
        "hardware_timeline",
        "configuration",
        "memory_released_mb",
        "seconds",
        "rollout_s",
        "environment_s",
        "update_s",
        "checkpoint_s",
        "steps_per_s",
        "hours",
        "name",
        "tries",
        "failures",
        "memory_before",
        "memory_after",
        "cpu_percent",
        "load_s",
        "advices_per_s",
        "asked_now",
        "from_store",
        "scoring",
        "answers",
        "verdict",
        "workers",
        "validation_passed",
    }
)


class Process(Protocol):
    """A run under way."""

    pid: int

    def ended(self) -> int | None:
        """Its exit code, None while it runs."""

    def wait(self) -> int:
        """Its exit code, once it has ended."""


Start = Callable[[Sequence[str], Path], Process]
"""Starts `run_pipeline.py` with options in a working folder, as the leader of a process group."""


class _Started:
    """A run in a process of its own, from the shell's point of view."""

    def __init__(self, options: Sequence[str], cwd: Path) -> None:
        self._output = open(cwd / "output.txt", "a", encoding="utf-8")  # noqa: SIM115  (the child writes it)
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *options], cwd=cwd, stdout=self._output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        self.pid = self._process.pid

    def ended(self) -> int | None:
        return self._process.poll()

    def wait(self) -> int:
        code = self._process.wait()
        self._output.close()
        return code


@dataclass
class Outcome:
    """Result: kills by kind, how many were followed by a resume from a checkpoint, and where a resumed run differs from
    the undisturbed one."""

    kills: dict[str, int] = field(default_factory=dict)
    went_on: int = 0
    finished_runs: int = 0
    differences: list[str] = field(default_factory=list)


def kill_and_compare(
    start: Start, folder: Path, kills: int, *, seed: int = 0, settings: str = SETTINGS, timesteps: int = 4096,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:  # fmt: skip
    """Kill short pipelines `kills` times in all and compare every one that reaches its end."""
    rng = random.Random(seed)
    whole = _Pipeline(start, folder / "whole", settings, timesteps)
    began = time.monotonic()
    whole.begin()
    if (code := whole.process.wait()) != 0:
        raise RuntimeError(f"the undisturbed run ended with exit code {code}; its output is in {whole.folder}")
    length_s = time.monotonic() - began
    expected = results_of(whole.folder)
    say(f"undisturbed: {length_s:.1f} s")
    outcome = Outcome()
    done = 0
    while done < kills:
        outcome.finished_runs += 1
        killed = _Pipeline(start, folder / f"killed-{outcome.finished_runs}", settings, timesteps)
        killed.begin()
        while True:
            aim = min(SHARES, key=lambda kind: outcome.kills.get(kind, 0) / SHARES[kind])
            wait_s = rng.uniform(0.0, length_s) if aim == ANY else 4.0 * length_s
            # A kill in a training's first checkpoint leaves nothing to resume from, and is sampled first.
            behind = rng.randrange(3) if outcome.went_on else 1
            hit = killed.kill(aim, wait_s, behind) if done < kills else None
            if hit is None:
                break
            outcome.kills[hit] = outcome.kills.get(hit, 0) + 1
            outcome.went_on += killed.is_within_a_training()
            done += 1
            say(f"kill {done}: {hit}")
            killed.resume()
        if (code := killed.process.wait()) != 0:
            outcome.differences.append(f"{killed.folder.name} ended with exit code {code}")
            break
        found = results_of(killed.folder)
        differing = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        outcome.differences += [f"{killed.folder.name}: {name}" for name in sorted(differing)]
        say(f"{killed.folder.name} finished: {len(expected)} results, {len(differing)} differ")
    return outcome


class _Pipeline:
    """One pipeline in a folder of its own, with a store of answers of its own."""

    def __init__(self, start: Start, folder: Path, settings: str, timesteps: int) -> None:
        self._start = start
        self.folder = folder
        self.process: Process
        folder.mkdir(parents=True)
        self._store = folder / "advice.sqlite3"
        (folder / "settings.yaml").write_text(settings, encoding="utf-8")
        self._options = ["--config", "settings.yaml", "--timesteps", str(timesteps), "--output-dir", "logs"]

    def begin(self) -> None:
        config = self.folder / "settings.yaml"
        text = config.read_text(encoding="utf-8")
        config.write_text(text.replace("llm: {", f"llm: {{store_path: {self._store}, "), encoding="utf-8")
        self.process = self._start(self._options, self.folder)

    def resume(self) -> None:
        self.process = self._start([*self._options, "--auto-resume"], self.folder)

    def kill(self, aim: str, after_s: float, behind: int) -> str | None:
        """SIGKILL the process group where it is aimed at (WRITING: a checkpoint with at least `behind` others of its
        training behind it), or at the latest after some time. Which it became: what was aimed at if the dead process
        shows that it was hit, else ANY. None if the run ended before."""
        until = time.monotonic() + after_s
        asked_before = _answers(self._store)
        holds = {
            ANY: lambda: False,
            WRITING: lambda: self._is_writing(behind),
            ASKING: lambda: self._is_asking(asked_before),
        }[aim]
        while self.process.ended() is None:
            if holds() or time.monotonic() >= until:
                os.killpg(self.process.pid, signal.SIGKILL)
                if self.process.wait() != -signal.SIGKILL:
                    return None
                return aim if holds() else ANY
            time.sleep(0.0005)
        return None

    def _is_writing(self, behind: int) -> bool:
        partial = self.folder.glob("logs/*/members/**/.checkpoint-*.partial")
        return any(len([*path.parent.glob("checkpoint-*")]) >= behind for path in partial)

    def is_within_a_training(self) -> bool:
        """Whether a training has a checkpoint to resume from and has not ended."""
        begun = {path.parent for path in self.folder.glob("logs/*/members/**/checkpoint-*")}
        return any(not (member / TASK_NAME).exists() for member in begun)

    def _is_asking(self, asked_before: int) -> bool:
        asked_to_the_end = any(self.folder.glob("logs/*/tasks/advice/advice.safetensors"))
        return _answers(self._store) > asked_before and not asked_to_the_end


def _answers(store: Path) -> int:
    if not store.exists():
        return 0
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=10)) as database:
        try:
            return database.execute("SELECT count(*) FROM answers").fetchone()[0]
        except sqlite3.OperationalError:  # its tables are not made yet
            return 0


def results_of(folder: Path) -> dict[str, str]:
    """Digests, by name, of everything that must not depend on kills."""
    (run,) = (path.parent for path in folder.glob("logs/*/report.json"))
    found: dict[str, str] = {}
    for name in (name for name in NAMES if (run / name).exists()):
        if name.endswith(".zip"):
            with zipfile.ZipFile(run / name) as archive:
                found |= {f"{name} {member}": _digest(archive.read(member)) for member in archive.namelist()}
        else:
            found[name] = _digest((run / name).read_bytes())
    for newest in map(max, _checkpoints(run)):
        for part in sorted(newest.glob("*.safetensors")):
            if part.name == "log.safetensors":  # rows with their times: compared below, without
                continue
            found[f"{newest.relative_to(run)} {part.name}"] = _digest(part.read_bytes())
    for number, line in enumerate((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()):
        found[f"metrics row {number}"] = _digest(json.dumps(_compared(json.loads(line))).encode())
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    for name, value in _compared(report).items():
        found[f"report {name}"] = _digest(json.dumps(value).encode())
    return found


def _checkpoints(run: Path) -> list[list[Path]]:
    """The checkpoints of each member that has any."""
    members = sorted({path.parent for path in run.glob("members/**/checkpoint-*") if ".before-" not in str(path)})
    return [list(member.glob("checkpoint-*")) for member in members if ".damaged-" not in member.name]


def _compared(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _compared(inner) for key, inner in value.items() if key not in OF_THE_PROCESS}
    return [_compared(inner) for inner in value] if isinstance(value, list) else value


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def main(argv: Sequence[str] | None = None) -> int:
    """Print the kills and any differences."""
    parser = Parser("Kill the pipeline at random instants, resume it, and compare every bit with a run left alone.")
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="kills in all (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the random instants (default 0)")
    args = parser.parse_args(argv)
    console = PlainConsole()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        outcome = kill_and_compare(_Started, Path(folder), args.kills, seed=args.seed, say=console.print)
    kills = ", ".join(f"{count} {kind}" for kind, count in sorted(outcome.kills.items()))
    console.print(f"{sum(outcome.kills.values())} kills ({kills}), {outcome.finished_runs} runs finished")
    console.print(f"after {outcome.went_on} of the kills a training resumed from a checkpoint")
    for difference in outcome.differences:
        console.print(f"differs: {difference}")
    console.print("nothing differs" if not outcome.differences else f"{len(outcome.differences)} differences")
    return 1 if outcome.differences else 0


if __name__ == "__main__":
    run_main(main)
