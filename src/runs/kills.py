"""Kill test of both modes: killed at random instants and resumed, a run ends like an undisturbed one.

    python -m src.runs.kills --kills 40 --seed 1

A short run of two seeds with a tiny language model goes once to its end, with one worker, and then again and again
under SIGKILL: at random instants, in the middle of writing a checkpoint, while the model is asked. Killed are its whole
process group, the run's own process alone, or one worker alone, which the run itself must try again. Each resume takes
1, 2 or 4 workers. With `--ray` the tasks are done on a Ray of several nodes on this machine; then one of its nodes is
killed instead of a worker, and another takes its place. Whenever a killed run has reached its end, every byte of the
exports, weights, optimizer, log rows and report figures (times aside) are compared.
"""

from __future__ import annotations

import fnmatch
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
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import psutil

from src.agent.settings import LEARNERS
from src.console import PlainConsole
from src.run_names import EXPORTS
from src.runs.cluster.nodes import RayNodes, ray_nodes
from src.runs.exports import NAMES
from src.runs.same_report import without_times
from src.runs.tasks import TASK_NAME
from src.shell import Parser, run_main

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {"pipeline": ROOT / "run_pipeline.py", "hardware_maximized": ROOT / "run_hardware_maximized.py"}
"""By mode."""
BOTH = "both"
WORKERS = (1, 2, 4)
ANY, WRITING, ASKING = "any instant", "writing a checkpoint", "asking the model"
SHARES: Mapping[str, int] = {ANY: 2, ASKING: 1, WRITING: 1}
"""Shares of the kills by instant. Target the instant furthest below its quota; retry misses, which are most often of
the last: a checkpoint is written in milliseconds."""
GROUP, PARENT, WORKER, NODE = "process group", "parent alone", "worker alone", "node of Ray"
VICTIMS: Mapping[str, int] = {GROUP: 1, PARENT: 1, WORKER: 1}
"""Shares of the kills by what is killed."""
ORPHANS_S = 60.0
"""How long the workers of a killed parent may live on."""
SETTINGS = """
hardware: {vectorized_envs: 16, batch_size: 256, torch_threads: 1, optimize_memory: false}
data: {synthetic_interval_min: 15, synthetic_sessions: 60}
training: {n_epochs: 2, policy_kwargs: {net_arch: {pi: [64], vf: [64]}}}
llm: {model: tiny, llm_threads: 1, tabulation_budget_s: 600, advice_batch_size: 8}
checkpoint: {interval_steps: 512}
monitoring: {tensorboard: false, log_interval: 16}
validation: {max_peak_memory_gb: 1000, required: []}
evidence: {trials_path: trials.jsonl, pass_attempts: 200}
pipeline: {max_retries_per_phase: 20}
"""


class Process(Protocol):
    """A run under way."""

    pid: int

    def ended(self) -> int | None:
        """Its exit code, None while it runs."""

    def wait(self) -> int:
        """Its exit code, once it has ended."""


Start = Callable[[Sequence[str], Path], Process]
"""Starts a run with options in a working folder, as the leader of a process group."""


class _Started:
    """A run in a process of its own, from the shell's point of view."""

    def __init__(self, script: Path, options: Sequence[str], cwd: Path) -> None:
        self._output = open(cwd / "output.txt", "a", encoding="utf-8")  # noqa: SIM115  (the child writes it)
        self._process = subprocess.Popen(
            [sys.executable, str(script), *options], cwd=cwd, stdout=self._output, stderr=subprocess.STDOUT,
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
    """Result: kills by instant, how many were followed by a resume from a checkpoint, where a resumed run differs from
    the undisturbed one, and kills by what was killed."""

    kills: dict[str, int] = field(default_factory=dict)
    went_on: int = 0
    finished_runs: int = 0
    differences: list[str] = field(default_factory=list)
    victims: dict[str, int] = field(default_factory=dict)

    def add(self, other: Outcome) -> None:
        """Count what came of other kills as well."""
        for own, more in ((self.kills, other.kills), (self.victims, other.victims)):
            for kind, count in more.items():
                own[kind] = own.get(kind, 0) + count
        self.went_on += other.went_on
        self.finished_runs += other.finished_runs
        self.differences += other.differences


def kill_and_compare(
    start: Start, folder: Path, kills: int, *, seed: int = 0, settings: str = SETTINGS, timesteps: int = 4096,
    seeds: int = 1, workers: Sequence[int] = WORKERS, say: Callable[[str], None] = lambda _: None,
    nodes: RayNodes | None = None,
) -> Outcome:  # fmt: skip
    """Kill short runs `kills` times in all and compare every one that reaches its end. Each start takes one of these
    numbers of workers, the undisturbed run one. With `nodes` all but the undisturbed run do their tasks there."""
    rng = random.Random(seed)
    options = ["--timesteps", str(timesteps), "--seeds", str(seeds)]
    whole = _Run(start, folder / "whole", settings, options)
    began = time.monotonic()
    whole.begin(1)
    if (code := whole.process.wait()) != 0:
        raise RuntimeError(f"the undisturbed run ended with exit code {code}; its output is in {whole.folder}")
    length_s = time.monotonic() - began
    expected = results_of(whole.folder)
    say(f"undisturbed: {length_s:.1f} s")
    outcome = Outcome()
    dealt: dict[str, int] = {}

    def deal() -> int:
        """Each number of workers as often as any other, in a random order."""
        chosen = _furthest_behind({str(n): 1 for n in rng.sample(workers, len(workers))}, dealt)
        dealt[chosen] = dealt.get(chosen, 0) + 1
        return int(chosen)

    done = 0
    while done < kills:
        outcome.finished_runs += 1
        killed = _Run(start, folder / f"killed-{outcome.finished_runs}", settings, options, nodes)
        killed.begin(deal())
        while done < kills:
            aim = _furthest_behind(SHARES, outcome.kills)
            # The model is asked by the run's own process, with no worker at work.
            has_workers = killed.workers > 1 and aim != ASKING
            victim = _furthest_behind(killed.victims(has_workers), outcome.victims)
            wait_s = rng.uniform(0.0, length_s) if aim == ANY else 4.0 * length_s
            # A kill in a training's first checkpoint leaves nothing to resume from, and is sampled first.
            behind = rng.randrange(3) if outcome.went_on else 1
            hit = killed.kill(aim, victim, wait_s, behind, rng)
            if hit is None:
                break
            outcome.kills[hit] = outcome.kills.get(hit, 0) + 1
            outcome.victims[victim] = outcome.victims.get(victim, 0) + 1
            outcome.went_on += killed.is_within_a_training()
            done += 1
            say(f"kill {done}: {hit}, {victim} (of a run with --workers {killed.workers})")
            if victim in (GROUP, PARENT):
                killed.resume(deal())
        code = killed.process.wait()
        name = killed.folder.name
        if alive := killed.orphans():
            outcome.differences.append(f"{name}: {alive} processes of a killed run outlived it by {ORPHANS_S:g} s")
        if code != 0:
            outcome.differences.append(f"{name} ended with exit code {code}{killed.last_words()}")
            break
        found = results_of(killed.folder)
        differing = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        outcome.differences += [f"{name}: {result}" for result in sorted(differing)]
        say(f"{name} finished: {len(expected)} results, {len(differing)} differ")
    return outcome


def _furthest_behind(shares: Mapping[str, int], counts: Mapping[str, int]) -> str:
    return min(shares, key=lambda kind: counts.get(kind, 0) / shares[kind])


class _Run:
    """One run in a folder of its own, with a store of answers of its own."""

    def __init__(
        self, start: Start, folder: Path, settings: str, options: Sequence[str], nodes: RayNodes | None = None
    ) -> None:
        self._start = start
        self._nodes = nodes
        self.folder = folder
        self.process: Process
        self.workers = 1
        folder.mkdir(parents=True)
        self._store = folder / "advice.sqlite3"
        settings = settings.replace("llm: {", f"llm: {{store_path: {self._store}, ")
        (folder / "settings.yaml").write_text(settings, encoding="utf-8")
        on_ray = [] if nodes is None else ["--ray", nodes.address]
        self._options = ["--config", "settings.yaml", *options, *on_ray, "--output-dir", "logs"]
        self._orphans: list[psutil.Process] = []

    def begin(self, workers: int, *more: str) -> None:
        self.workers = workers
        self.process = self._start([*self._options, "--workers", str(workers), *more], self.folder)

    def victims(self, has_workers: bool) -> dict[str, int]:
        """Shares of what may be killed now."""
        if self._nodes is not None:
            return {GROUP: 1, PARENT: 1, NODE: 1}
        return {kind: share for kind, share in VICTIMS.items() if has_workers or kind != WORKER}

    def resume(self, workers: int) -> None:
        self.begin(workers, "--auto-resume")

    def kill(self, aim: str, victim: str, after_s: float, behind: int, rng: random.Random) -> str | None:
        """SIGKILL a victim at the instant aimed at (WRITING: a checkpoint with at least `behind` others of its training
        behind it), or at the latest after some time. Which instant it became: the one aimed at if what is left shows
        that it was hit, else ANY. None if the run ended before."""
        until = time.monotonic() + after_s
        asked_before = _answers(self._store)
        holds: Callable[[], bool] = {
            ANY: lambda: False,
            WRITING: lambda: any(self._being_written(behind)),
            ASKING: lambda: self._is_asking(asked_before),
        }[aim]
        while self.process.ended() is None:
            if holds() or time.monotonic() >= until:
                if victim in (GROUP, PARENT):
                    return self._kill_run(victim, aim, holds)
                being_written = self._being_written(behind)
                if self._nodes.kill_one(rng) if self._nodes is not None else self._kill_worker(rng):
                    hit = aim == WRITING and any(path.exists() for path in being_written)
                    return WRITING if hit else ANY
            time.sleep(0.0005)
        return None

    def _kill_run(self, victim: str, aim: str, holds: Callable[[], bool]) -> str | None:
        below = _processes_below(self.process.pid)
        (os.killpg if victim == GROUP else os.kill)(self.process.pid, signal.SIGKILL)
        if self.process.wait() != -signal.SIGKILL:
            return None
        self._orphans += below
        return aim if holds() else ANY

    def _kill_worker(self, rng: random.Random) -> bool:
        """Kill one worker, a process that the run's fork server made; False where none is at work."""
        servers = {process.pid for process in _processes_below(self.process.pid, recursive=False)}
        workers = [process for pid in servers for process in _processes_below(pid, recursive=False)]
        if not workers:
            return False
        worker = rng.choice(sorted(workers, key=lambda process: process.pid))
        with suppress(psutil.NoSuchProcess):
            worker.kill()
        psutil.wait_procs([worker], timeout=ORPHANS_S)
        return True

    def orphans(self) -> int:
        """How many processes of killed runs are still there."""
        _, alive = psutil.wait_procs(self._orphans, timeout=ORPHANS_S)
        return sum(_is_alive(process) for process in alive)

    def last_words(self) -> str:
        """The end of what the run printed."""
        output = self.folder / "output.txt"
        return f": {' '.join(output.read_text(encoding='utf-8').split())[-500:]}" if output.exists() else ""

    def _being_written(self, behind: int) -> list[Path]:
        """Checkpoints that are being written, with at least so many others of their training."""
        partial = self._found("logs/*/members/**/.checkpoint-*.partial")
        return [path for path in partial if len(fnmatch.filter(_names(path.parent), "checkpoint-*")) >= behind]

    def _found(self, pattern: str) -> list[Path]:
        """What there is by a pattern; nothing where the run removes a folder while it is looked at."""
        try:
            return [*self.folder.glob(pattern)]
        except FileNotFoundError:
            return []

    def is_within_a_training(self) -> bool:
        """Whether a training has a checkpoint to resume from and has not ended."""
        begun = {path.parent for path in self._found("logs/*/members/**/checkpoint-*")}
        return any(not (member / TASK_NAME).exists() for member in begun)

    def _is_asking(self, asked_before: int) -> bool:
        asked_to_the_end = any(self.folder.glob("logs/*/tasks/advice/advice.safetensors"))
        return _answers(self._store) > asked_before and not asked_to_the_end


def _names(folder: Path) -> list[str]:
    """Names in a folder; none where it was removed."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _processes_below(pid: int, *, recursive: bool = True) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


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
    for table in sorted((run / EXPORTS).glob("*")):
        found[f"{EXPORTS} {table.name}"] = _digest(table.read_bytes())
    for newest in map(max, _checkpoints(run)):
        for part in sorted(newest.glob("*.safetensors")):
            if part.name == "log.safetensors":  # rows with their times: compared below, without
                continue
            found[f"{newest.relative_to(run)} {part.name}"] = _digest(part.read_bytes())
    for number, line in enumerate((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()):
        found[f"metrics row {number}"] = _digest(json.dumps(without_times(json.loads(line))).encode())
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    for name, value in without_times(report).items():
        found[f"report {name}"] = _digest(json.dumps(value).encode())
    return found


def _checkpoints(run: Path) -> list[list[Path]]:
    """The checkpoints of each member that has any."""
    members = sorted({path.parent for path in run.glob("members/**/checkpoint-*") if ".before-" not in str(path)})
    return [list(member.glob("checkpoint-*")) for member in members if ".damaged-" not in member.name]


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def main(argv: Sequence[str] | None = None) -> int:
    """Print the kills and any differences."""
    parser = Parser("Kill runs at random instants, resume them, and compare every bit with a run left alone.")
    parser.add_argument("--kills", type=int, default=40, metavar="N", help="kills in all (default 40)")
    parser.add_argument("--seed", type=int, default=0, help="of the random instants (default 0)")
    parser.add_argument("--mode", choices=(*SCRIPTS, BOTH), default=BOTH, help=f"which runs (default {BOTH})")
    parser.add_argument("--ray", action="store_true", help="on a Ray of several nodes on this machine")
    parser.add_argument("--learner", choices=LEARNERS, default="fused", help="what trains (default fused)")
    args = parser.parse_args(argv)
    console = PlainConsole()
    settings = SETTINGS.replace("hardware: {", f"hardware: {{learner: {args.learner}, ")
    modes = [*SCRIPTS] if args.mode == BOTH else [args.mode]
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder, ray_nodes() if args.ray else nullcontext() as nodes:
        for i, mode in enumerate(modes):
            kills = (args.kills + i) // len(modes)
            console.print(f"{mode}: {kills} kills")
            outcome.add(
                kill_and_compare(
                    partial(_Started, SCRIPTS[mode]), Path(folder) / mode, kills, seed=args.seed, seeds=2,
                    say=console.print, settings=settings, nodes=nodes,
                )
            )  # fmt: skip
    for counts in (outcome.kills, outcome.victims):
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        console.print(f"{sum(counts.values())} kills ({kinds})")
    console.print(f"{outcome.finished_runs} runs finished")
    console.print(f"after {outcome.went_on} of the kills a training resumed from a checkpoint")
    for difference in outcome.differences:
        console.print(f"differs: {difference}")
    console.print("nothing differs" if not outcome.differences else f"{len(outcome.differences)} differences")
    return 1 if outcome.differences else 0


if __name__ == "__main__":
    run_main(main)
