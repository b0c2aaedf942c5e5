"""How much faster parts are than usual ways: `python -m src.benchmarks.parts [part ...] [--repeats N] [--quick]`.

Every pair is warmed up and then measured in turns (common, ours, common, ours ...) within one process, so that a noisy
neighbour meets both; the medians and their ratio are shown, and the last line is the same as JSON. A part is a function
in `PARTS` that yields `Comparison`s. The classes measured live above this room and are therefore looked up by name.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from src.advisor.encoding import PromptEncoder
from src.advisor.generation import generate_advice
from src.advisor.models import load_model
from src.advisor.prompts import load_prompts
from src.advisor.scoring import LLMScorer
from src.advisor.situations import N_SITUATIONS
from src.advisor.table import empty_table
from src.agent.learner.products import fastest, processor_key
from src.agent.market import Market
from src.agent.rollout_plan import RolloutPlan, plan_rollouts
from src.agent.settings import Learner, PolicySettings, TrainingSettings
from src.agent.training import PRODUCTION_NET_ARCH, build_base, train
from src.benchmarks import bars
from src.benchmarks.timing import Clock, block_s, calls_in
from src.benchmarks.workloads import decisions, matrix_products, synthetic_market
from src.console import PlainConsole, uncut
from src.errors import UserError
from src.market.load import build_tables
from src.market.settings import DataSettings
from src.shell import Parser, run_main
from src.suggestions import did_you_mean
from src.testing_framework import OptimizedFeatureCache, VectorizedDecisionFusion
from src.trading.accounts import AccountBlock
from src.trading.layout import N_ACTIONS, N_OBS, N_SIDES
from src.trading.routes import make_vec_env
from src.trading.settings import EnvironmentSettings
from src.wording import measured

COLUMNS = 80
BARS = "bars"
"""The part that loads files in processes of their own: nothing is compared, so it is measured alone."""
SHORTEST_BLOCK_S, SHORTEST_BLOCK_QUICK_S = 0.05, 0.005
"""A measured block calls its function until it has lasted this long: the clock and the loop then weigh nothing."""


@dataclass(frozen=True)
class Comparison:
    """One case of a part: two ways to do the same, each a call without arguments.

    `target` is the ratio wanted, `at_most_s` the longest our way may take for one operation, seconds.
    """

    case: str
    common: Callable[[], object]
    ours: Callable[[], object]
    calls: int = 1  # operations in one call
    common_calls: int | None = None  # in one call of the common way, where it differs
    target: float | None = None
    at_most_s: float | None = None


@dataclass(frozen=True)
class Result:
    """Median seconds of one operation each way, and the ratio of the medians."""

    part: str
    case: str
    common_s: float
    ours_s: float
    target: float | None
    at_most_s: float | None = None

    @property
    def ratio(self) -> float:
        return self.common_s / self.ours_s


Part = Callable[[], Iterator[Comparison]]
PARTS: dict[str, Part] = {}


def part(measure: Part) -> Part:
    """Register a part under its function's name."""
    PARTS[measure.__name__] = measure
    return measure


@part
def fusion() -> Iterator[Comparison]:
    """Fuse a batch: `fuse_batch` of the compiled loop and of the plain one, as the public five-array call."""
    compiled, sequential = VectorizedDecisionFusion({}, sequential=False), VectorizedDecisionFusion({}, sequential=True)
    rng = np.random.default_rng(0)
    for n, target in ((32, 10.0), (1_024, 50.0), (65_536, 50.0)):
        yield _fusing(f"batch {n:,}", sequential, compiled, decisions(n, rng), target)


def _fusing(case: str, sequential: Any, compiled: Any, batch: tuple[Any, ...], target: float) -> Comparison:
    return Comparison(case, lambda: sequential.fuse_batch(*batch), lambda: compiled.fuse_batch(*batch), target=target)


class ListRecency:
    """The common way to keep recency: a dict of rows and a list of keys, searched at every use."""

    def __init__(self) -> None:
        self.rows: dict[int, Any] = {}
        self.order: list[int] = []

    def get(self, key: int) -> Any:
        if key not in self.rows:
            return None
        self.order.remove(key)
        self.order.append(key)
        return self.rows[key]

    def put(self, key: int, row: Any) -> None:
        self.rows[key] = row
        self.order.append(key)


@part
def cache() -> Iterator[Comparison]:
    """Look a row up in a full cache, keys in random order: `OptimizedFeatureCache.get` and a list of keys."""
    rng = np.random.default_rng(0)
    for n in (1_000, 10_000):
        ours, common = OptimizedFeatureCache(n), ListRecency()
        for key, row in enumerate(rng.random((n, 28), dtype=np.float32)):
            ours.put(key, row)
            common.put(key, row)
        keys = rng.integers(0, n, 200).tolist()
        yield _looking_up(f"get at {n:,} entries", common, ours, keys)


def _looking_up(case: str, common: Any, ours: Any, keys: list[int]) -> Comparison:
    return Comparison(
        case,
        lambda: [common.get(k) for k in keys],
        lambda: [ours.get(k) for k in keys],
        calls=len(keys),
        at_most_s=1e-6,
    )


@part
def environment() -> Iterator[Comparison]:
    """Step 256 accounts with observations: one kernel call, and an environment object each. Then construction."""
    market = synthetic_market()
    n, tape = 256, market.tape(empty_table())
    rng = np.random.default_rng(0)
    turns = itertools.cycle(rng.integers(0, N_ACTIONS, (64, n)))
    ours = AccountBlock(tape, market.params, n)
    for index in range(n):
        ours.seed(index, index)
    obs, rewards = np.zeros((n, N_OBS), np.float32), np.zeros(n, np.float32)
    ours.begin_training_episodes(obs)
    common = make_vec_env("dummy", tape, market.params, n)
    common.reset()
    yield Comparison(
        "step 256 accounts, a step of one",
        lambda: common.step(next(turns)),
        lambda: ours.step(next(turns), obs, rewards) + 1,
        calls=n,
        at_most_s=1 / 2e6,
    )
    data, environment = DataSettings(), EnvironmentSettings()
    yield Comparison(
        "construct from prepared bars",
        lambda: build_tables(market.tables.bars, data, trading_hours=environment.trading_hours),
        lambda: make_vec_env("batched", tape, market.params, n),
        at_most_s=5e-3,
    )


TRAININGS = (
    ("256 x 32, 5 epochs", plan_rollouts(256 * 32, 256, 1024, 32), TrainingSettings(n_epochs=5), 1.4, 0.75),
    ("defaults, 32 x 64, 10 epochs", plan_rollouts(32 * 64, 32, 1024, 64), TrainingSettings(), 1.4, None),
    (
        "production networks",
        plan_rollouts(32 * 64, 32, 1024, 64),
        TrainingSettings(policy_kwargs=PolicySettings(net_arch=PRODUCTION_NET_ARCH)),
        1.25,
        None,
    ),
)
"""Accounts x bars and epochs; the least ratio wanted against the stock learner, and against the products."""


@part
def training() -> Iterator[Comparison]:
    """A timestep of PPO end to end on one thread: the fused learner beside the library's own update, and beside its
    matrix products alone, as the faster library multiplies them.

    The matrix products are the bound: a ratio of 1 would be training that does nothing else.
    """
    market, faster = synthetic_market(), fastest()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for case, plan, settings, gain, share in TRAININGS:
            stock = _training(market, plan, settings, "stock")
            fused = _training(market, plan, settings, "fused")
            yield Comparison(f"{case}: stock, fused", stock, fused, calls=plan.actual, target=gain)
            layers = [N_OBS, *settings.policy_kwargs.net_arch.pi]
            yield Comparison(
                f"{case}: {faster} products, fused",
                matrix_products(layers, plan, settings.n_epochs, faster),
                fused,
                calls=plan.actual,
                target=share,
                at_most_s=1 / 7_000 if share is not None else None,
            )
    finally:
        torch.set_num_threads(threads)


def _training(market: Market, plan: RolloutPlan, settings: TrainingSettings, learner: Learner) -> Callable[[], object]:
    """Train one plan on and on."""
    env = make_vec_env("batched", market.tape(empty_table()), market.params, plan.n_envs)
    model = build_base(env, settings, plan, 0, torch.device("cpu"), mixed_precision=False, learner=learner)
    return lambda: train(model, plan, "benchmark", [])


ADVICE_MODEL = "bundled:smollm2"


@part
def advice() -> Iterator[Comparison]:
    """An advice of the bundled model on one core: scored with a shared prefix, and generated as JSON of at most 50
    tokens. Both go through the same 16 situations, scoring at once and generating two a call, in turn."""
    loaded, prompts = load_model(ADVICE_MODEL, threads=1), load_prompts()
    situations = np.random.default_rng(0).choice(np.arange(N_SIDES, N_SITUATIONS), 16, replace=False)
    scorer = LLMScorer(loaded, prompts, batch_size=16)
    pairs = itertools.cycle(situations.reshape(-1, 2))
    encoder = PromptEncoder(loaded.tokenizer, prompts, loaded.name)
    yield Comparison(
        f"{ADVICE_MODEL}, batch 16",
        lambda: generate_advice(loaded, prompts, next(pairs), encoder=encoder),
        lambda: scorer.score(situations),
        calls=16,
        common_calls=2,
        target=25.0,
        at_most_s=1 / 5,
    )


def measure(
    name: str, comparison: Comparison, repeats: int, shortest_block_s: float, clock: Clock = time.perf_counter
) -> Result:
    """Medians of `repeats` blocks of each way, taken in turns after a warm-up."""
    ways = (comparison.common, comparison.ours)
    calls = [calls_in(way, shortest_block_s, clock) for way in ways]
    operations = (comparison.common_calls or comparison.calls, comparison.calls)
    blocks: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for way, n, each, times in zip(ways, calls, operations, blocks, strict=True):
            times.append(block_s(way, n, clock) / (n * each))
    common_s, ours_s = (statistics.median(times) for times in blocks)
    return Result(name, comparison.case, common_s, ours_s, comparison.target, comparison.at_most_s)


def show(console: Console, results: Sequence[Result]) -> None:
    """The table of medians; `want` is the least ratio and the longest time aimed at, where there are such."""
    table = Table(title="Medians of one operation, common way against ours")
    table.add_column("part")
    table.add_column("case")
    for heading in ("common", "ours", "ratio", "want"):
        table.add_column(heading, justify="right")
    for r in results:
        wants = [f"{r.target:g}x"] if r.target is not None else []
        wants += [f"{measured(r.at_most_s)}"] if r.at_most_s is not None else []
        want = ", ".join(wants)
        table.add_row(r.part, r.case, measured(r.common_s), measured(r.ours_s), f"{r.ratio:.1f}x", want)
    console.print(uncut(table))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts asked for, all by default. 0, or 2 for an unknown part or one that is asked for by name and
    cannot be measured here; the ratios decide nothing."""
    parser = Parser("Parts against the common way.", prog="python -m src.benchmarks.parts")
    known = f"{', '.join(PARTS)} or {BARS} (alone)"
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {known}; all but {BARS} if left out")
    parser.add_argument("--repeats", type=int, default=9, help="measured blocks of each way (default 9)")
    parser.add_argument("--quick", action="store_true", help="three short blocks: shows that it runs, not how fast")
    options = parser.parse_args(arguments)
    if options.parts == [BARS]:
        bars.run(PlainConsole(width=COLUMNS), quick=options.quick)
        return 0
    for name in options.parts:
        if name not in PARTS:
            parser.error(f"no part {name!r}{did_you_mean(name, [*PARTS, BARS])}; there are {known}")
    if options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}; it must be at least 1")
    repeats = min(3, options.repeats) if options.quick else options.repeats
    block_s = SHORTEST_BLOCK_QUICK_S if options.quick else SHORTEST_BLOCK_S
    names = list(dict.fromkeys(options.parts)) or list(PARTS)
    console = PlainConsole(width=COLUMNS)
    results, not_measured = [], {}
    for name in names:
        try:
            results += [measure(name, comparison, repeats, block_s) for comparison in PARTS[name]()]
        except UserError as error:
            if options.parts:
                parser.error(str(error))
            not_measured[name] = str(error)
            console.print(f"{name}: not measured. {error}")
    show(console, results)
    console.print(f"Processor: {processor_key()}")
    line = {
        "processor": processor_key(),
        "repeats": repeats,
        "quick": options.quick,
        "not_measured": not_measured,
        "results": [
            {
                "part": r.part,
                "case": r.case,
                "common_us": round(r.common_s * 1e6, 3),
                "ours_us": round(r.ours_s * 1e6, 3),
                "ratio": round(r.ratio, 2),
                "target": r.target,
                "at_most_us": None if r.at_most_s is None else round(r.at_most_s * 1e6, 3),
                "per_s": round(1.0 / r.ours_s, 1),
            }
            for r in results
        ],
    }
    console.print(json.dumps(line), soft_wrap=True)
    return 0


if __name__ == "__main__":
    run_main(main)
