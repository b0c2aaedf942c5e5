"""Do forecasts come true? `python -m src.evaluation.forecast_study [--runs N] [--rollouts N]`.

Trains runs of different shapes, forecasts for each a production run five times as long, half of them with other
networks, trains that too, and counts how often its time lies in the stated interval. Synthetic bars, one process.
Exit code 1 if fewer than nine of ten do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from rich.table import Table

from src.agent.market import Market, market_of_bars
from src.agent.members import Training
from src.agent.rollout_plan import RolloutPlan
from src.agent.settings import HardwareSettings, Learner, NetArch, PolicySettings, TrainingSettings
from src.agent.trainer import Trainer
from src.agent.training import train
from src.clean_up import closing
from src.console import PlainConsole, uncut
from src.evaluation.production import try_production
from src.evaluation.production_forecast import LEVEL, Forecast, forecast, paces_of
from src.market.settings import DataSettings
from src.market.synthetic import synthetic_bars
from src.shell import Parser, run_main
from src.statistics.drift import FEWEST
from src.trading.settings import EnvironmentSettings
from src.wording import duration, percent

LONGER = 5
"""Times the forecast run is as long as the one it is forecast from."""
ROLLOUTS = 24
NEEDED = 0.9
"""Share of runs whose time must lie in the interval."""


@dataclass(frozen=True)
class Case:
    """The shape of a run, and the hidden layers of the longer one."""

    n_envs: int
    n_steps: int
    batch_size: int
    n_epochs: int
    layers: tuple[int, ...]
    production: tuple[int, ...]
    learner: Learner = "fused"

    def __str__(self) -> str:
        nets = "-".join(map(str, self.layers))
        longer = "" if self.layers == self.production else f" to {'-'.join(map(str, self.production))}"
        return f"{self.n_envs} x {self.n_steps}, {self.n_epochs} epochs, {nets}{longer}, {self.learner}"


SMALL, DEFAULT, LARGE = (64, 64), (256, 128), (512, 256, 128)
CASES = (
    Case(32, 64, 1024, 10, DEFAULT, LARGE),
    Case(32, 64, 1024, 10, DEFAULT, DEFAULT),
    Case(256, 8, 1024, 5, DEFAULT, LARGE),
    Case(8, 64, 256, 10, DEFAULT, LARGE),
    Case(128, 16, 512, 4, SMALL, SMALL),
    Case(32, 64, 1024, 4, SMALL, DEFAULT),
    Case(64, 32, 1024, 4, SMALL, LARGE),
    Case(1024, 4, 1024, 2, DEFAULT, DEFAULT),
    Case(32, 64, 1024, 4, DEFAULT, LARGE, "stock"),
    Case(16, 64, 512, 10, LARGE, LARGE),
)


@dataclass(frozen=True)
class Outcome:
    """A forecast and what came of it, seconds."""

    case: Case
    forecast: Forecast
    took_s: float

    @property
    def inside(self) -> bool:
        """Whether the time lay in the interval; a forecast without one is none that came true."""
        low, high = self.forecast.low, self.forecast.high
        return low is not None and high is not None and low <= self.took_s / 3600.0 <= high


def compare(case: Case, market: Market, rollouts: int, seed: int) -> Outcome:
    """Train, forecast, and train `LONGER` times as long."""
    size = case.n_envs * case.n_steps
    plans = [
        RolloutPlan(case.n_envs, case.n_steps, case.batch_size, n, n * size, n * size)
        for n in (rollouts, LONGER * rollouts)
    ]
    shorter, longer = (
        Trainer(
            TrainingSettings(
                n_epochs=case.n_epochs,
                policy_kwargs=PolicySettings(net_arch=NetArch(pi=layers, vf=layers)),
                production_net_arch=case.production,
                production_timesteps=plans[1].actual,
            ),
            HardwareSettings(vectorized_envs=case.n_envs, batch_size=case.batch_size, learner=case.learner),
            EnvironmentSettings(),
            torch.device("cpu"),
            seed,
        )
        for layers in (case.layers, case.production)
    )
    with closing(shorter.make_env(market)) as env:
        trial = replace(try_production(shorter, env, plans[0]), finetune_timesteps=0)
        row = train(shorter.new_base(env, plans[0]), plans[0], Training.BASE, []).to_dict()
    found = forecast(trial, paces_of([row]), workers=1, seeds=1)
    with closing(longer.make_env(market)) as env:
        model = longer.new_base(env, plans[1])
        began = time.perf_counter()
        train(model, plans[1], Training.BASE, [])
        return Outcome(case, found, time.perf_counter() - began)


def show(console: Console, outcomes: Sequence[Outcome]) -> None:
    """A row a run, and how many came true."""
    table = Table(title=f"Runs {LONGER} times as long as those they were forecast from", title_justify="left", box=None)
    table.add_column("accounts x steps, networks, learner")
    for heading in ("forecast", f"{percent(LEVEL)} interval", "took", "off", ""):
        table.add_column(heading, justify="right")
    for outcome in outcomes:
        of = outcome.forecast
        low, high = (None if hours is None else 3600.0 * hours for hours in (of.low, of.high))
        table.add_row(
            str(outcome.case), duration(3600.0 * of.hours), f"{duration(low)} to {duration(high)}",
            duration(outcome.took_s), f"{outcome.took_s / 3600.0 / of.hours - 1.0:+.0%}",
            "inside" if outcome.inside else "OUTSIDE",
        )  # fmt: skip
    console.print(uncut(table))
    inside = sum(outcome.inside for outcome in outcomes)
    console.print(f"{inside} of {len(outcomes)} took a time within their interval.", highlight=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the runs, show the table; 0 where enough forecasts came true."""
    parser = Parser("Forecast runs five times as long, make them, and compare.", prog="src.evaluation.forecast_study")
    parser.add_argument("--runs", type=int, default=len(CASES), metavar="N", help=f"runs (default {len(CASES)})")
    parser.add_argument(
        "--rollouts", type=int, default=ROLLOUTS, metavar="N", help=f"of the shorter run (default {ROLLOUTS})"
    )
    options = parser.parse_args(argv)
    if options.runs < 1:
        parser.error(f"--runs is {options.runs}; it must be at least 1")
    if options.rollouts <= FEWEST:
        parser.error(f"--rollouts is {options.rollouts}; an interval needs more than {FEWEST}")
    torch.set_num_threads(1)
    console = PlainConsole(width=110)
    market = market_of_bars(synthetic_bars("NQ", 60, 5, seed=0), DataSettings(), EnvironmentSettings())
    outcomes = []
    for number in range(options.runs):
        case = CASES[number % len(CASES)]
        outcomes.append(compare(case, market, options.rollouts, seed=number))
        console.print(f"{number + 1} of {options.runs}: {case}", highlight=False)
    show(console, outcomes)
    return 0 if sum(outcome.inside for outcome in outcomes) >= NEEDED * len(outcomes) else 1


if __name__ == "__main__":
    run_main(main)
