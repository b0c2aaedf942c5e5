"""How long a sweep takes on a cluster, and what breaks first: `python -m src.benchmarks cluster`.

A discrete simulation of the executor on Ray, fed with what is measured here: the run's own process is one server, its
network link another, and every member passes both, at its beginning, for each checkpoint and at its end. Nodes fail at
random; a member then continues elsewhere from its last checkpoint. Before that the model must predict how long tasks
that only wait take on a Ray of one, two and four nodes on this machine.
"""

from __future__ import annotations

import heapq
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from src.agent.learner.products import processor_key
from src.clean_up import closing
from src.console import uncut
from src.runs.cluster.connection import Cluster
from src.runs.cluster.executor import RayTasks
from src.runs.cluster.nodes import ray_nodes
from src.runs.executors import FAILED
from src.runs.tasks import Task
from src.wording import measured, percent

MEMBERS, QUICK_MEMBERS = 10_000, 200
NODES, QUICK_NODES = (1, 4, 16, 64), (1, 2)
CHECKED, QUICK_CHECKED = (1, 2, 4), (2,)
CHECK_CORES, WAIT_S = 2, 2.0
WARMING = 12
"""Rounds at most, after which the check begins even where processes are still starting."""
ROUNDS_OF_CORES = 3
"""In the check each core gets so many tasks."""


@dataclass(frozen=True)
class Costs:
    """What a member costs besides its training; seconds and bytes."""

    start_s: float
    """From the run's process to the beginning on a node, where the process there has done a task before."""
    cold_s: float
    """More than that for the first task of a process on a node."""
    own_s: float
    """Of the run's process, for handing a member over and sealing it."""
    checkpoint_s: float
    """Of the run's process, for each checkpoint."""
    checkpoint_bytes: float = 5e6
    result_bytes: float = 8e6
    table_bytes: float = 150e6


@dataclass(frozen=True)
class Sweep:
    """What is asked of which cluster."""

    nodes: int
    cores: int = 16
    members: int = MEMBERS
    member_s: float = 600.0
    checkpoints: int = 10
    link_bytes_s: float = 125e6
    """Of the run's machine: 1 Gbit/s."""
    node_fails_every_s: float = 86_400.0
    node_down_s: float = 600.0
    node_usd_hour: float = 0.8
    spread: float = 0.1
    """Members take this share more or less than `member_s`."""


@dataclass
class Outcome:
    """What became of a sweep."""

    wall_s: float
    busy: float
    """Share of the cores' time in which members were trained, lost work aside."""
    own: float
    """Share of the wall time in which the run's process was busy."""
    link: float
    failures: int
    lost_s: float
    """Training done again."""
    usd: float


class _Server:
    """Serves one at a time, in the order of asking."""

    def __init__(self) -> None:
        self.free_at, self.busy_s = 0.0, 0.0

    def serve(self, now: float, seconds: float) -> float:
        """When it is done."""
        self.free_at = max(now, self.free_at) + seconds
        self.busy_s += seconds
        return self.free_at


@dataclass
class _Core:
    node: int
    warm: bool = False
    member: int = -1
    began: float = 0.0
    attempt: int = 0


@dataclass
class _State:
    own: _Server = field(default_factory=_Server)
    link: _Server = field(default_factory=_Server)
    queue: list[tuple[float, int, str, Any]] = field(default_factory=list)
    count: int = 0

    def at(self, when: float, kind: str, what: Any) -> None:
        self.count += 1
        heapq.heappush(self.queue, (when, self.count, kind, what))


def _gap(rng: random.Random, mean_s: float) -> float:
    return math.inf if math.isinf(mean_s) else rng.expovariate(1.0 / mean_s)


def simulate(sweep: Sweep, costs: Costs, seed: int = 0) -> Outcome:
    """One sweep. The same seed gives the same outcome."""
    rng, state = random.Random(seed), _State()
    lengths = [sweep.member_s * rng.uniform(1.0 - sweep.spread, 1.0 + sweep.spread) for _ in range(sweep.members)]
    saved = [0.0] * sweep.members
    cores = [_Core(node) for node in range(sweep.nodes) for _ in range(sweep.cores)]
    down_until, has_tables = [0.0] * sweep.nodes, [False] * sweep.nodes
    waiting, done, failures, lost_s, now = list(range(sweep.members))[::-1], 0, 0, 0.0, 0.0
    for node in range(sweep.nodes):
        state.at(_gap(rng, sweep.node_fails_every_s), "fails", node)
    # The order in which Ray fills nodes does not matter: all are idle.
    for i in range(len(cores)):
        state.at(0.0, "free", i)
    while done < sweep.members:
        now, _, kind, what = heapq.heappop(state.queue)
        if kind == "free":
            core = cores[what]
            if not waiting or core.member >= 0 or now < down_until[core.node]:
                continue
            core.member, core.attempt = waiting.pop(), core.attempt + 1
            sent = 0.0 if has_tables[core.node] else costs.table_bytes
            has_tables[core.node] = True
            handed = state.own.serve(now, costs.own_s / 2)
            arrived = state.link.serve(handed, sent / sweep.link_bytes_s)
            core.began = arrived + costs.start_s + (0.0 if core.warm else costs.cold_s)
            core.warm = True
            every = lengths[core.member] / sweep.checkpoints
            first = round(saved[core.member] / every) + 1
            for k in range(first, sweep.checkpoints + 1):
                when = core.began + k * every - saved[core.member]
                state.at(when, "end" if k == sweep.checkpoints else "saved", (what, core.attempt, k * every))
        elif kind in ("saved", "end"):
            i, attempt, reached = what
            core = cores[i]
            if core.attempt != attempt or core.member < 0:
                continue
            size = costs.result_bytes if kind == "end" else costs.checkpoint_bytes
            took = costs.own_s / 2 if kind == "end" else costs.checkpoint_s
            heard = state.own.serve(state.link.serve(now, size / sweep.link_bytes_s), took)
            if kind == "saved":
                saved[core.member] = reached
                core.began = now
                continue
            done, core.member = done + 1, -1
            state.at(heard, "free", i)
            now = max(now, heard)
        else:
            failures += 1
            down_until[what] = now + sweep.node_down_s
            has_tables[what] = False
            for i, core in enumerate(cores):
                if core.node != what:
                    continue
                if core.member >= 0:
                    lost_s += max(0.0, now - core.began)
                    waiting.append(core.member)
                core.member, core.warm, core.attempt = -1, False, core.attempt + 1
                state.at(down_until[what], "free", i)
            for i, core in enumerate(cores):
                if core.member < 0 and now >= down_until[core.node]:
                    state.at(now, "free", i)
            state.at(now + sweep.node_down_s + _gap(rng, sweep.node_fails_every_s), "fails", what)
    wall = max(now, state.own.free_at)
    return Outcome(
        wall, sum(lengths) / (wall * len(cores)), state.own.busy_s / wall, state.link.busy_s / wall, failures, lost_s,
        wall / 3600.0 * sweep.nodes * sweep.node_usd_hour,
    )  # fmt: skip


# The check: tasks that only wait, on nodes of this machine


def wait_task(seconds: float, market: Any, watch: Any) -> dict[str, Any]:
    """Takes a core, and no processor time."""
    time.sleep(seconds)
    return {}


def done_by(executor: RayTasks, slots: int, lengths: Sequence[float]) -> float:
    """Wall seconds of tasks of these lengths, so many at a time."""
    tasks = [
        Task(f"tasks/wait-{i}", "evaluation", f"wait {i}", "waits", wait_task, lambda _: {}, lambda _: None)
        for i in range(len(lengths))
    ]
    began, left = time.perf_counter(), list(zip(tasks, lengths, strict=True))[::-1]
    while left or executor.running:
        while left and len(executor.running) < slots:
            executor.start(*left.pop())
        for event in executor.wait(0.2):
            if event.kind == FAILED:
                raise event.payload[0]
    return time.perf_counter() - began


def check(nodes: int) -> tuple[float, float]:
    """Seconds that waiting tasks took on so many nodes, and that the model says."""
    cores = nodes * CHECK_CORES
    with (
        TemporaryDirectory(prefix="cluster-model-") as folder,
        ray_nodes(nodes, CHECK_CORES) as made,
        closing(Cluster(made.address, cores=cores, store_bytes=0)) as cluster,
        closing(RayTasks(cluster, cores, {}, 600.0, Path(folder), lambda text: None, 1)) as executor,
    ):
        for _ in range(WARMING):  # until processes that have done a task do all of them
            if done_by(executor, cores, [WAIT_S] * cores) < 1.25 * WAIT_S:
                break
        once = min(done_by(executor, 1, [0.0]) for _ in range(5))
        wall = done_by(executor, cores, [WAIT_S] * (ROUNDS_OF_CORES * cores))
    costs = Costs(
        start_s=once, cold_s=0.0, own_s=0.0, checkpoint_s=0.0, checkpoint_bytes=0, result_bytes=0, table_bytes=0
    )
    sweep = Sweep(nodes, CHECK_CORES, ROUNDS_OF_CORES * cores, WAIT_S, 1, node_fails_every_s=float("inf"), spread=0.0)
    return wall, simulate(sweep, costs).wall_s


MEASURED = Costs(start_s=0.3, cold_s=8.0, own_s=0.05, checkpoint_s=0.01)
"""Rounded up from what `python -m src.benchmarks ray --quick` gave on two busy cores (docs/cluster.md). `cold_s` is the
time in which a process on a node imports the libraries, on a core of its own: an estimate."""


def run(console: Console, *, quick: bool) -> None:
    """Check the model, then print what it says of clusters of 1 to 64 nodes, and all of it as a line of JSON."""
    checks = {nodes: check(nodes) for nodes in (QUICK_CHECKED if quick else CHECKED)}
    table = Table(title=f"Tasks that wait {WAIT_S:g} s, {ROUNDS_OF_CORES} for each core of a Ray on this machine")
    for heading in ("nodes", "cores", "measured", "model", "off by"):
        table.add_column(heading, justify="right")
    for nodes, (wall, model) in checks.items():
        off = percent(model / wall - 1.0)
        table.add_row(str(nodes), str(nodes * CHECK_CORES), measured(wall), measured(model), off)
    console.print(uncut(table))
    members = QUICK_MEMBERS if quick else MEMBERS
    sweeps = [Sweep(nodes, members=members) for nodes in (QUICK_NODES if quick else NODES)]
    outcomes = [simulate(sweep, MEASURED) for sweep in sweeps]
    first = sweeps[0]
    table = Table(title=f"{members:,} members of {first.member_s / 60:g} minutes, {first.cores} cores a node")
    for heading in ("nodes", "time", "cost", "training", "own", "link", "nodes lost", "done again"):
        table.add_column(heading, justify="right")
    for sweep, of in zip(sweeps, outcomes, strict=True):
        table.add_row(
            str(sweep.nodes), f"{of.wall_s / 3600:.1f} h", f"${of.usd:,.0f}", percent(of.busy), percent(of.own, 1),
            percent(of.link, 1), str(of.failures), f"{of.lost_s / 3600:.1f} h",
        )  # fmt: skip
    console.print(uncut(table))
    console.print(breaks_first(sweeps[-1], outcomes[-1]))
    line = {
        "processor": processor_key(),
        "part": "cluster",
        "quick": quick,
        "checks": {str(nodes): {"measured_s": wall, "model_s": model} for nodes, (wall, model) in checks.items()},
        "costs": asdict(MEASURED),
        "sweeps": [{**asdict(sweep), **asdict(of)} for sweep, of in zip(sweeps, outcomes, strict=True)],
    }
    console.print(json.dumps(line), soft_wrap=True)


def breaks_first(sweep: Sweep, outcome: Outcome) -> str:
    """Which of the two things that all members share is full first, and at how many cores."""
    shares = {"the run's own process": outcome.own, "the network link of the run's machine": outcome.link}
    name = max(shares, key=lambda each: shares[each])
    cores = int(sweep.nodes * sweep.cores * outcome.busy / shares[name])
    return f"What breaks first is {name}: it is full at about {cores:,} cores of members like these."
