"""Single parts against the usual way to write them: `python -m src.benchmarks [part ...]`.

A part is a function in `PARTS` that yields `Comparison`s. Each is warmed up and then measured in turns (common, ours,
common, ours ...) within one process, so that a noisy neighbour meets both.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from src.advisor.choose import BUNDLED
from src.advisor.models import load_model, torch_threads
from src.advisor.table import empty_table
from src.agent.learner.products import fastest
from src.agent.rollout_plan import plan_rollouts
from src.agent.settings import PolicySettings, TrainingSettings
from src.agent.training import PRODUCTION_NET_ARCH
from src.benchmarks import suites
from src.benchmarks import workloads as work
from src.benchmarks.file import MODES
from src.benchmarks.timing import Call, Clock, block_of, in_rounds
from src.market.load import build_tables
from src.market.settings import DataSettings
from src.testing_framework import OptimizedFeatureCache
from src.trading.accounts import AccountBlock
from src.trading.layout import N_OBS
from src.trading.routes import make_vec_env
from src.trading.settings import EnvironmentSettings


@dataclass(frozen=True)
class Comparison:
    """One case of a part: two ways to do the same, each a call without arguments.

    `target` is the ratio wanted, `at_most_s` the longest our way may take for one operation, seconds.
    """

    case: str
    common: Call
    ours: Call
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


def part(comparisons: Part) -> Part:
    """Register a part under its function's name."""
    PARTS[comparisons.__name__] = comparisons
    return comparisons


@part
def fusion() -> Iterator[Comparison]:
    """Fuse a batch with the plain loop and the compiled one: the suite of that name, both modes side by side."""
    with ExitStack() as stack:
        modes = [stack.enter_context(suites.Bench(mode, suites.FULL)) for mode in MODES]
        both = zip(*(suites.fusion(bench) for bench in modes), strict=True)
        for (common, ours), target in zip(both, (10.0, 50.0, 50.0), strict=True):
            yield Comparison(common.name, common.call, ours.call, target=target)


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
        common_way, our_way = (work.looking_up(kept.get, itertools.cycle(keys), len(keys)) for kept in (common, ours))
        yield Comparison(f"get at {n:,} entries", common_way, our_way, calls=len(keys), at_most_s=1e-6)


@part
def environment() -> Iterator[Comparison]:
    """Step 256 accounts with observations: one kernel call, and an environment object each. Then construction."""
    market = work.synthetic_market()
    n, tape = 256, market.tape(empty_table())
    turns = work.random_actions(n)
    ours = AccountBlock(tape, market.params, n)
    for index in range(n):
        ours.seed(index, index)
    obs, rewards = np.zeros((n, N_OBS), np.float32), np.zeros(n, np.float32)
    ours.begin_training_episodes(obs)
    yield Comparison(
        "step 256 accounts, a step of one",
        work.stepping(make_vec_env("dummy", tape, market.params, n)),
        lambda: ours.step(next(turns), obs, rewards),
        calls=n,
        at_most_s=1 / 2e6,
    )
    data, hours = DataSettings(), EnvironmentSettings().trading_hours
    yield Comparison(
        "construct from prepared bars",
        lambda: build_tables(market.tables.bars, data, trading_hours=hours),
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
    market, faster = work.synthetic_market(), fastest()
    tape = market.tape(empty_table())
    with torch_threads(1):
        for case, plan, settings, gain, share in TRAININGS:
            make_env = partial(make_vec_env, "batched", tape, market.params, plan.n_envs)
            stock = work.learning(work.new_policy(make_env(), settings, plan, "stock"), plan)
            fused = work.learning(work.new_policy(make_env(), settings, plan, "fused"), plan)
            yield Comparison(f"{case}: stock, fused", stock, fused, calls=plan.actual, target=gain)
            layers = [N_OBS, *settings.policy_kwargs.net_arch.pi]
            yield Comparison(
                f"{case}: {faster} products, fused",
                work.matrix_products(layers, plan, settings.n_epochs, faster),
                fused,
                calls=plan.actual,
                target=share,
                at_most_s=1 / 7_000 if share is not None else None,
            )


ADVICE_MODEL = BUNDLED


@part
def advice() -> Iterator[Comparison]:
    """An advice of the bundled model on one core: scored with a shared prefix, and generated as JSON of at most 50
    tokens. Both go through the same 16 situations, scoring at once and generating two a call, in turn."""
    loaded, asked = load_model(ADVICE_MODEL, threads=1), work.situations_to_judge(16)
    yield Comparison(
        f"{ADVICE_MODEL}, batch {len(asked)}",
        work.generating(loaded, asked, at_once=2),
        work.scoring(loaded, asked),
        calls=len(asked),
        common_calls=2,
        target=25.0,
        at_most_s=1 / 5,
    )


def measure(
    name: str, comparison: Comparison, repeats: int, shortest_block_s: float, clock: Clock = time.perf_counter
) -> Result:
    """Medians of `repeats` blocks of each way, taken in turns after a warm-up."""
    common_calls = comparison.common_calls or comparison.calls
    ways = ((comparison.common, common_calls), (comparison.ours, comparison.calls))
    blocks = [block_of(call, shortest_block_s, operations, clock) for call, operations in ways]
    common_s, ours_s = map(statistics.median, in_rounds(blocks, repeats))
    return Result(name, comparison.case, common_s, ours_s, comparison.target, comparison.at_most_s)
