"""What a member costs more on Ray than in the run's own process: `python -m src.benchmarks ray`.

The same training goes to this process, to a worker process, to a Ray of this machine and to a Ray of two nodes, in
turns. Its wall time is noisy where other programs run, so the difference is counted as well: the seconds between
handing a member over and its end in which it was not trained, and what the run's own process spent on it meanwhile.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from src.agent.learner.products import fastest, processor_key
from src.agent.market import Market
from src.agent.members import Member, Training
from src.agent.settings import LOCAL
from src.agent.trainer import Trainer
from src.agent.training import resolve_device
from src.benchmarks.workloads import synthetic_market
from src.clean_up import CleanUps, closing
from src.configuration import Configuration, build_config
from src.console import uncut
from src.runs.cluster.connection import Cluster
from src.runs.cluster.executor import RayTasks
from src.runs.cluster.nodes import ray_nodes
from src.runs.context import plans_of
from src.runs.executors import DONE, FAILED, Cores, Executor, start_server
from src.runs.member_work import MemberJob, train_member
from src.runs.tasks import Task, finish_task
from src.runs.time_account import WORKED
from src.testing_framework import BatchedCallback
from src.wording import measured, percent

MEMBER_S, QUICK_MEMBER_S = 60.0, 2.0
ROUNDS, QUICK_ROUNDS = 2, 1
WANTED = 0.05
"""The largest share of a member of a minute that Ray may take."""
CHECKPOINTS = 10
STORE_BYTES = 256 * 2**20
HERE = "this process"


@dataclass(frozen=True)
class Measured:
    """A member, from being handed over to its last file on the disk."""

    wall_s: float
    trained_s: float
    own_cpu_s: float
    """Processor seconds of the run's own process; of a training there all of it."""
    sent_bytes: int
    """What came back as files."""

    @property
    def rest_s(self) -> float:
        """Wall time in which it was not trained."""
        return self.wall_s - self.trained_s


class _Deaf:
    """A training's watch where nobody listens and nothing stops."""

    def check(self, save: Callable[[], None] | None = None) -> None: ...

    def say(self, text: str) -> None: ...

    def record(self, record: Mapping[str, Any]) -> None: ...

    def saved(self, timesteps: int) -> None: ...

    def deferred(self) -> Any:
        return CleanUps()


def member_config(timesteps: int) -> Configuration:
    """A base training with the defaults of a run, and so many checkpoints as a run of an hour may have."""
    every = max(1, timesteps // CHECKPOINTS)
    return build_config(
        "hardware_maximized",
        {"checkpoint": {"interval_steps": every}, "monitoring": {"tensorboard": False}},
        {"device": "cpu", "timesteps": timesteps, "mock_llm": True},
    )


def member_task(config: Configuration, run: Path, seed: int) -> tuple[Task, MemberJob]:
    """The training of a seed in a run's folder, as a plan makes it."""
    member = Member("NQ", 0, seed, Training.BASE, False)
    device = resolve_device(config.hardware)
    trainer = Trainer(config.training, config.hardware, config.environment, device, seed, None)
    plan = plans_of(config)[0]
    job = MemberJob(
        config=config, member=member, trainer=trainer, plan=plan, folder=run / member.folder,
        inputs={"seed": str(seed)}, threads=1, make_callback=BatchedCallback, products=fastest(),
    )  # fmt: skip
    task = Task(
        member.folder, "training", str(member), "PPO", train_member, lambda _: job.inputs, lambda _: job,
        market="NQ", member=member, timesteps=plan.actual,
    )  # fmt: skip
    return task, job


def trained_here(config: Configuration, run: Path, seed: int, market: Market) -> Measured:
    """In this process."""
    _, job = member_task(config, run, seed)
    began, cpu = time.perf_counter(), time.process_time()
    facts = train_member(job, market, _Deaf())
    trained = time.perf_counter() - began
    finish_task(job.folder, job.inputs, {}, facts["files"])
    return Measured(time.perf_counter() - began, trained, time.process_time() - cpu, 0)


def trained_by(executor: Executor, config: Configuration, run: Path, seed: int) -> Measured:
    """By an executor that writes into `run`."""
    task, job = member_task(config, run, seed)
    began, cpu = time.perf_counter(), time.process_time()
    executor.start(task, job)
    facts: Mapping[str, Any] | None = None
    while facts is None:
        for event in executor.wait(0.2):
            if event.kind == FAILED:
                raise event.payload[0]
            if event.kind == DONE:
                facts = event.payload
    finish_task(job.folder, job.inputs, {}, facts["files"])
    wall = time.perf_counter() - began
    sent = sum(path.stat().st_size for path in job.folder.rglob("*") if path.is_file())
    worked = facts[WORKED]
    return Measured(wall, worked["ended"] - worked["began"], time.process_time() - cpu, sent)


def timesteps_for(seconds: float, market: Market, folder: Path) -> int:
    """How many timesteps a training of so many seconds has on this machine; the first, which compiles, does not
    count."""
    for seed, timesteps in ((0, 4096), (1, 32_768)):
        took = trained_here(member_config(timesteps), folder / f"pace-{seed}", seed, market).trained_s
    return max(4096, int(seconds / took * timesteps))


def measure(quick: bool, say: Callable[[str], None]) -> dict[str, list[Measured]]:
    """Members by where they are trained, in turns. Each executor trains a short one first, which is not counted: a
    process that has done a task does the next."""
    market, rounds = synthetic_market(), QUICK_ROUNDS if quick else ROUNDS
    found: dict[str, list[Measured]] = {place: [] for place in (HERE, *PLACES)}
    with TemporaryDirectory(prefix="ray-overhead-") as name:
        folder = Path(name)
        timesteps = timesteps_for(QUICK_MEMBER_S if quick else MEMBER_S, market, folder)
        config, short = member_config(timesteps), member_config(4096)
        say(f"members of {timesteps:,} timesteps, {rounds} of each")
        for number in range(rounds):
            found[HERE].append(trained_here(config, folder / f"here-{number}", number, market))
            for place, opened in PLACES.items():
                run = folder / f"{place.replace(' ', '-')}-{number}"
                with opened(run, {"NQ": market}) as executor:
                    trained_by(executor, short, run, 10_000)
                    found[place].append(trained_by(executor, config, run, number))
    return found


@contextmanager
def _cores(run: Path, markets: Mapping[str, Market]) -> Iterator[Executor]:
    start_server(BatchedCallback.__module__)
    with closing(Cores(1, markets, 600.0)) as executor:
        yield executor


@contextmanager
def _local(run: Path, markets: Mapping[str, Market]) -> Iterator[Executor]:
    with _on_ray(LOCAL, run, markets) as executor:
        yield executor


@contextmanager
def _two_nodes(run: Path, markets: Mapping[str, Market]) -> Iterator[Executor]:
    with ray_nodes(nodes=2, cores=1) as nodes, _on_ray(nodes.address, run, markets) as executor:
        yield executor


@contextmanager
def _on_ray(address: str, run: Path, markets: Mapping[str, Market]) -> Iterator[Executor]:
    with (
        closing(Cluster(address, cores=1, store_bytes=STORE_BYTES)) as cluster,
        closing(RayTasks(cluster, 1, markets, 600.0, run, lambda text: None, 3)) as executor,
    ):
        yield executor


PLACES: Mapping[str, Callable[..., Any]] = {
    "a worker process": _cores, "Ray on this machine": _local, "Ray, two nodes": _two_nodes,
}  # fmt: skip


def run(console: Console, *, quick: bool) -> None:
    """Measure, and print a table, a sentence and a line of JSON."""
    found = measure(quick, console.print)
    here = float(np.median([one.wall_s for one in found[HERE]]))
    table = Table(title="A member by where it is trained: medians")
    table.add_column("where")
    for heading in ("wall", "against here", "not trained", "of a minute", "own CPU", "came back"):
        table.add_column(heading, justify="right")
    shares = {}
    for place, members in found.items():
        wall, rest, cpu = (
            float(np.median([getattr(one, name) for one in members])) for name in ("wall_s", "rest_s", "own_cpu_s")
        )
        shares[place] = rest / MEMBER_S
        table.add_row(
            place, measured(wall), percent(wall / here - 1.0), measured(rest), percent(rest / MEMBER_S), measured(cpu),
            f"{members[0].sent_bytes / 1e6:.2f} MB",
        )  # fmt: skip
    console.print(uncut(table))
    worst = max(share for place, share in shares.items() if place.startswith("Ray"))
    console.print(f"Ray takes {percent(worst)} of a member of {MEMBER_S:g} s; wanted are at most {percent(WANTED)}.")
    line = {
        "processor": processor_key(),
        "part": "ray",
        "quick": quick,
        "members": {place: [asdict(one) for one in members] for place, members in found.items()},
        "share_of_a_minute": shares,
    }
    console.print(json.dumps(line), soft_wrap=True)
