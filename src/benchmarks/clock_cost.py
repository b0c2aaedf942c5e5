"""What it costs to tell the parts of a training's time apart: `python -m src.benchmarks clock`.

The same training with and without its clock, a rollout and an update each, in turns and in processor time. The cost is
below what a busy machine's noise hides, so it is counted as well: how often the clock is switched, times what a switch
takes on its own.
"""

from __future__ import annotations

import json
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from src.advisor.table import empty_table
from src.agent.clock import CPU_EVERY, FORWARD, PRODUCTS, Clock, NoClock
from src.agent.learner.products import processor_key
from src.agent.rollout_plan import RolloutPlan
from src.agent.settings import LEARNERS, Learner, TrainingSettings
from src.benchmarks import workloads as work
from src.benchmarks.parts import TRAININGS
from src.benchmarks.suites import torch_threads
from src.benchmarks.timing import heap_set_aside
from src.console import uncut
from src.trading.routes import make_vec_env
from src.wording import measured, percent

ROUNDS, QUICK_ROUNDS = 20, 1
SWITCHES = 20_000
WANTED = 0.02
"""The largest share of a training's time that the clock may take."""


class CountingClock(Clock):
    """Counts its switches, those that read processor time apart."""

    def __init__(self) -> None:
        super().__init__()
        self.switches, self.watched = 0, 0

    def switch(self, part: str) -> str:
        """Count, and switch."""
        self.switches += 1
        self.watched += self._watches
        return super().switch(part)


def switch_s(*, watched: bool, n: int = SWITCHES) -> float:
    """Processor seconds of a switch."""
    clock = Clock()
    clock.watch_cpu(watched)
    began = time.process_time()
    for _ in range(n // 2):
        clock.switch(PRODUCTS)
        clock.switch(FORWARD)
    return (time.process_time() - began) / n


def cost(plan: RolloutPlan, settings: TrainingSettings, learner: Learner, rounds: int) -> dict[str, float]:
    """Processor seconds of a rollout and its update without and with the clock, the least of the rounds each; and the
    share of it that the switches take by count."""
    tape = (market := work.synthetic_market()).tape(empty_table())
    clocks = NoClock(), Clock(), CountingClock()
    taken: list[list[float]] = [[] for _ in clocks]
    learns = []
    for clock in clocks:
        env = make_vec_env("batched", tape, market.params, plan.n_envs)
        model = work.new_policy(env, settings, plan, learner)
        model.clock = clock
        learns.append(work.learning(model, plan))
        learns[-1]()
    counting = clocks[2]
    before = counting.switches, counting.watched
    with heap_set_aside():
        for done in range(rounds):
            for way, learn in enumerate(learns[: 3 if done == 0 else 2]):
                began = time.process_time()
                learn()
                taken[way].append(time.process_time() - began)
    switches, watched = counting.switches - before[0], counting.watched - before[1]
    off, on = min(taken[0]), min(taken[1])
    by_count = watched * switch_s(watched=True) + (switches - watched) * switch_s(watched=False)
    return {"off_s": off, "on_s": on, "switches": switches, "counted_frac": by_count / off}


def run(console: Console, *, quick: bool) -> None:
    """Measure every training with both learners and print the table and a line of JSON."""
    table = Table(title=f"The clock's cost; wanted: under {percent(WANTED)}")
    for heading in ("training", "without", "with", "more", "switches", "by count"):
        table.add_column(heading, justify="left" if heading == "training" else "right")
    results: list[dict[str, Any]] = []
    with torch_threads(1):
        for case, plan, settings, *_ in TRAININGS:
            for learner in LEARNERS:
                found = cost(plan, settings, learner, QUICK_ROUNDS if quick else ROUNDS)
                results.append({"case": case, "learner": learner, **found})
                table.add_row(
                    f"{case}, {learner}",
                    measured(found["off_s"]),
                    measured(found["on_s"]),
                    percent(found["on_s"] / found["off_s"] - 1.0, 1),
                    f"{found['switches']:,.0f}",
                    percent(found["counted_frac"], 2),
                )
    console.print(uncut(table))
    console.print(f"In rollouts processor time is read during one step of {CPU_EVERY}.")
    console.print(f"Processor: {processor_key()}")
    line = {"processor": processor_key(), "quick": quick, "part": "clock", "results": results}
    console.print(json.dumps(line), soft_wrap=True)
