"""Timesteps a second of training against its size: `python -m src.benchmarks scaling` writes docs/scaling.md.

One size changes at a time: accounts, network width, bars, or trainings beside each other; the others are the defaults.
The sizes of an axis take turns, so that a slow minute meets all alike.
"""

from __future__ import annotations

import gc
import json
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.special import stdtrit  # type: ignore[import-untyped]

from src.advisor.table import empty_table
from src.agent.learner.products import processor_key
from src.agent.market import Market, market_of_bars
from src.agent.rollout_plan import RolloutPlan
from src.agent.settings import NetArch, PolicySettings, TrainingSettings
from src.benchmarks import machine
from src.benchmarks import workloads as work
from src.benchmarks.bars import FIRST_DAY
from src.console import uncut
from src.errors import UserError
from src.files import write_atomically
from src.machine_limits import memory_left_gb, usable_cores
from src.market.settings import DataSettings
from src.market.synthetic import synthetic_bars
from src.outputs import check_output_file
from src.trading.routes import make_vec_env
from src.trading.settings import EnvironmentSettings

PAGE: Final = machine.ROOT / "docs" / "scaling.md"
N_ENVS, N_STEPS, BATCH_SIZE = 32, 64, 1024
"""The defaults: accounts, steps of a rollout, minibatch."""
ENVS: Final = (8, 32, 128, 512, 2048, 4096)
ENVS_ROLLOUT: Final = 8192
"""Timesteps of every rollout on that axis, so that only their shape changes."""
WIDTHS: Final = (64, 128, 256, 512, 1024)
BARS: Final = (10_000, 100_000, 1_000_000, 5_000_000)
BAR_GB: Final = 6e-7
"""Memory of a bar at the peak of making its tables; sizes for which it is lacking are left out, and said."""
SESSION_BARS: Final = 1_363
"""Minutes of a session on average."""
ROUNDS, QUICK_ROUNDS = 5, 2
BLOCK_S, QUICK_BLOCK_S = 2.0, 0.05
"""What is timed lasts at least this long, in whole rollouts."""
LEVEL: Final = 0.95

Measure = Callable[[], float]
"""Timesteps a second, once."""


@dataclass(frozen=True)
class Axis:
    """What was measured along one size: timesteps a second by round and size, float64[rounds, sizes]."""

    name: str
    sizes: tuple[int, ...]
    speeds: np.ndarray
    note: str = ""

    def medians(self) -> list[float]:
        """Of each size."""
        return [float(value) for value in np.median(self.speeds, axis=0)]

    def exponent(self) -> tuple[float, float]:
        """Least-squares slope of ln speed over ln size, mean of the rounds, and half its t-interval over rounds."""
        x = np.log(np.array(self.sizes, np.float64))
        x -= x.mean()
        slopes = np.log(self.speeds) @ x / float(x @ x)
        n = len(slopes)
        half = float(stdtrit(n - 1, 0.5 + LEVEL / 2.0)) * float(np.std(slopes, ddof=1)) / math.sqrt(n)
        return float(slopes.mean()), half

    def local(self) -> list[float | None]:
        """Exponent from the size before; None for the first."""
        logs, x = np.log(self.medians()), np.log(np.array(self.sizes, np.float64))
        return [None, *(np.diff(logs) / np.diff(x)).tolist()]


def training_of(market: Market, n_envs: int, n_steps: int, layers: Sequence[int], block_s: float) -> Measure:
    """Times whole rollouts with their updates on a new model; the first warms up."""
    settings = TrainingSettings(policy_kwargs=PolicySettings(net_arch=NetArch(pi=tuple(layers), vf=tuple(layers))))
    env = make_vec_env("batched", market.tape(empty_table()), market.params, n_envs)
    size = n_envs * n_steps
    plan = RolloutPlan(n_envs, n_steps, min(BATCH_SIZE, size), 1, size, size)
    train = work.learning(work.new_policy(env, settings, plan, "fused"), plan)
    train()

    def measure() -> float:
        began, timesteps = time.perf_counter(), 0
        while (took := time.perf_counter() - began) < block_s or not timesteps:
            train()
            timesteps += size
        return timesteps / took

    return measure


def in_turns(measures: Sequence[Measure], rounds: int) -> np.ndarray:
    """Every measure once a round, float64[rounds, measures]."""
    return np.array([[measure() for measure in measures] for _ in range(rounds)])


def by_envs(quick: bool) -> Axis:
    """Accounts stepped together, in rollouts of equal size."""
    sizes, market = (ENVS[:2] if quick else ENVS), work.synthetic_market()
    rollout, layers = (256, (16,)) if quick else (ENVS_ROLLOUT, NetArch().pi)
    measures = [training_of(market, n, rollout // n, layers, _block(quick)) for n in sizes]
    note = f"Rollouts of {rollout:,} timesteps each."
    return Axis("accounts", sizes, in_turns(measures, _rounds(quick)), note)


def by_width(quick: bool) -> Axis:
    """Units of both hidden layers."""
    sizes, market = (WIDTHS[:2] if quick else WIDTHS), work.synthetic_market()
    measures = [training_of(market, N_ENVS, N_STEPS, (width, width), _block(quick)) for width in sizes]
    return Axis("width", sizes, in_turns(measures, _rounds(quick)), "Two hidden layers of this many units.")


def by_bars(quick: bool) -> Axis:
    """One-minute bars of the market; their tables share the memory."""
    wanted, room = (BARS[:2] if quick else BARS), memory_left_gb()
    sizes = tuple(n for n in wanted if room is None or n * BAR_GB < 0.8 * room)
    missing = [f"{n:,}" for n in wanted if n not in sizes]
    note = f"Not measured for lack of memory: {' and '.join(missing)} bars." if missing else ""
    measures, counted = [], []
    for n in sizes:
        bars = synthetic_bars("NQ", max(7, round(n / SESSION_BARS)), 1, seed=0, start=FIRST_DAY)
        counted.append(len(bars))
        market = market_of_bars(bars, DataSettings(), EnvironmentSettings())
        measures.append(training_of(market, N_ENVS, N_STEPS, NetArch().pi, _block(quick)))
        gc.collect()
    return Axis("bars", tuple(counted), in_turns(measures, _rounds(quick)), f"One-minute bars. {note}".strip())


def by_workers(quick: bool) -> Axis:
    """Trainings beside each other, each in a process of its own: timesteps of all of them together."""
    cores = usable_cores()
    sizes = (1, 2) if quick else tuple(sorted({2**k for k in range(int(math.log2(2 * cores)) + 1)} | {1, cores}))
    with _processes(max(sizes), _block(quick)) as pipes:

        def together(n: int) -> Measure:
            def measure() -> float:
                for pipe in pipes[:n]:
                    pipe.send(True)
                return sum(pipe.recv() for pipe in pipes[:n])

            return measure

        speeds = in_turns([together(n) for n in sizes], _rounds(quick))
    return Axis("workers", sizes, speeds, f"A process each, on {cores} cores; timesteps of all together.")


class _processes:
    """Processes that each train at the defaults when told to."""

    def __init__(self, n: int, block_s: float) -> None:
        self._n, self._block_s = n, block_s

    def __enter__(self) -> list[Connection]:
        spawn = multiprocessing.get_context("spawn")
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []
        for _ in range(self._n):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_serve, args=(theirs, self._block_s), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)
        for pipe in self._pipes:
            pipe.recv()  # ready
        return self._pipes

    def __exit__(self, *exc: object) -> None:
        for pipe in self._pipes:
            pipe.close()  # what ends a process that waits for the next turn
        for process in self._processes:
            process.join(10.0)
            if process.is_alive():
                process.terminate()


def _serve(pipe: Connection, block_s: float) -> None:
    """Train when told to, and say how fast; ends with the pipe."""
    torch.set_num_threads(1)
    measure = training_of(work.synthetic_market(), N_ENVS, N_STEPS, NetArch().pi, block_s)
    pipe.send(True)
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        pipe.send(measure())


AXES: Final[dict[str, Callable[[bool], Axis]]] = {
    "accounts": by_envs,
    "width": by_width,
    "bars": by_bars,
    "workers": by_workers,
}


def _rounds(quick: bool) -> int:
    return QUICK_ROUNDS if quick else ROUNDS


def _block(quick: bool) -> float:
    return QUICK_BLOCK_S if quick else BLOCK_S


def run(console: Console, *, quick: bool, output: Path | None) -> None:
    """Measure every axis, show it, and write the page to `output` where there is one. UserError if it cannot."""
    if output is not None:
        check_output_file(output)
    torch.set_num_threads(1)
    before, axes = machine.state(), []
    for measure in AXES.values():
        axes.append(measure(quick))
        console.print(uncut(_table(axes[-1])))
    if output is not None:
        try:
            write_atomically(output, "\n".join(page(axes, before)))
        except OSError as error:
            raise UserError(
                f"{output} cannot be written ({error.strerror or error}): name another --output."
            ) from error
        console.print(f"Written to {output}.", highlight=False)
    line = {
        "part": "scaling", "quick": quick, "processor": processor_key(),
        "axes": {axis.name: {"sizes": axis.sizes, "speeds": axis.speeds.tolist()} for axis in axes},
    }  # fmt: skip
    console.print(json.dumps(line), soft_wrap=True)


def _table(axis: Axis) -> Table:
    table = Table(title=f"{axis.name}: {exponent_words(axis)}", title_justify="left", box=None)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    for cells in _rows(axis):
        table.add_row(*cells)
    return table


_HEADINGS: Final = ("size", "timesteps/s", "from the row above", "exponent")


def _rows(axis: Axis) -> Iterator[tuple[str, str, str, str]]:
    """Size, median speed, ratio to the size before, and local exponent."""
    medians = axis.medians()
    for i, (size, speed, local) in enumerate(zip(axis.sizes, medians, axis.local(), strict=True)):
        ratio = "" if local is None else f"{speed / medians[i - 1]:.2f}x"
        yield f"{size:,}", f"{speed:,.0f}", ratio, "" if local is None else f"{local:+.2f}"


def exponent_words(axis: Axis) -> str:
    """`timesteps/s ~ width^-0.85 (95% interval -0.88 to -0.82)`."""
    slope, half = axis.exponent()
    return f"timesteps/s ~ {axis.name}^{slope:.2f} (95% interval {slope - half:.2f} to {slope + half:.2f})"


def page(axes: Sequence[Axis], state: dict[str, Any]) -> Iterator[str]:
    """The lines of docs/scaling.md."""
    of, code = machine.identity(), machine.revision()
    commit = f", revision {str(code['commit'])[:12]}{' changed' if code['changed'] else ''}" if code["commit"] else ""
    nets = "-".join(map(str, NetArch().pi))
    yield "# How fast training is, by size"
    yield ""
    yield "Written by `python -m src.benchmarks scaling`; do not edit."
    yield ""
    yield (
        f"Timesteps a second of rollouts and updates together, fused learner, synthetic bars of NQ. One size changes "
        f"at a time; the others are the defaults: {N_ENVS} accounts x {N_STEPS} steps, minibatches of {BATCH_SIZE:,}, "
        f"{TrainingSettings().n_epochs} epochs, networks {nets}, one training on one thread. "
        "The sizes take turns; figures are medians over the rounds. An exponent of 0 means that the size changes "
        "nothing, -1 that twice the size takes twice the time; the last column has it from the row above. The interval "
        "of the exponent over all sizes is a t-interval over rounds; it says nothing about a curve that bends."
    )
    yield ""
    yield (
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {of['processor']}, {of['cores']} cores, {of['memory_gib']} GiB"
        f"{commit}; {state['cores_free']:.1f} cores free and load {state['load_before']} when it began."
    )
    for axis in axes:
        yield from ("", f"## {axis.name.capitalize()}", "", f"`{exponent_words(axis)}`. {axis.note}", "")
        yield f"| {axis.name} | {' | '.join(_HEADINGS[1:])} |"
        yield "|" + "---:|" * len(_HEADINGS)
        for cells in _rows(axis):
            yield f"| {' | '.join(cells)} |"
    yield ""
