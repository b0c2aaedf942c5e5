"""The benchmark suites: the same work done the plain way (`baseline`) or with the shortcut (`optimized`).

`baseline` has every shortcut off: a process an account, the production networks, every step logged, decisions fused one
by one, no cache, a new environment each time, advice generated and parsed. `optimized` has them on. A suite is a
function in `SUITE_FUNCTIONS` that yields the cases of a mode. Everything runs on the CPU, torch on one thread: a second
one on a core that is not free makes it several times slower, and how free the other cores are is nobody's property.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from src.advisor.choose import BUNDLED
from src.advisor.models import TINY, LoadedModel, load_model, torch_threads
from src.advisor.table import empty_table
from src.agent.checkpoints import CheckpointStore
from src.agent.learner.products import fastest
from src.agent.log_sink import JsonLinesSink, TensorBoardSink
from src.agent.market import Market
from src.agent.ppo import TimedMaskablePPO
from src.agent.rollout_plan import RolloutPlan, plan_rollouts
from src.agent.settings import Learner, NetArch, PolicySettings, TrainingSettings
from src.agent.training import PRODUCTION_NET_ARCH, train
from src.agent.training_state import capture
from src.benchmarks import workloads as work
from src.benchmarks.file import END_TO_END, NETWORKS, OPTIMIZED, PRODUCTS
from src.benchmarks.timing import Call, Clock
from src.errors import ConfigError
from src.evaluation.look_ahead import first_bars
from src.market.features import context_features
from src.market.settings import DataSettings
from src.market.tables import MarketTables, run_starts
from src.testing_framework import BatchedCallback, EnvironmentStatePool, OptimizedFeatureCache, VectorizedDecisionFusion
from src.trading.gym_env import TradingEnv
from src.trading.layout import N_OBS
from src.trading.routes import Route, make_vec_env
from src.trading.session_batch import SessionBatch

HIT_RATE = 0.7
LOOKUPS = 100
LIVE_BARS = 1_500
LOG_INTERVAL = 100
POOL_SIZE = 8
EPISODE = {"r": 1.0, "l": 78}


@dataclass(frozen=True)
class Case:
    """One row of the file and its work. `call` does `operations` of them; `clock` counts the seconds."""

    suite: str
    name: str
    unit: str
    way: str
    call: Call
    workload: Mapping[str, Any]
    operations: int = 1
    facts: Mapping[str, Any] = field(default_factory=dict)
    clock: Clock = time.perf_counter


@dataclass(frozen=True)
class Scale:
    """Sizes of the work. A block lasts at least `block_s`."""

    n_envs: int
    batch_size: int
    n_epochs: int
    advice_model: str
    situations: int
    block_s: float


FULL = Scale(
    n_envs=32, batch_size=1024, n_epochs=TrainingSettings().n_epochs, advice_model=BUNDLED, situations=16, block_s=0.1
)
"""Accounts, minibatch and epochs of a hardware-maximized run."""
QUICK = Scale(n_envs=4, batch_size=64, n_epochs=2, advice_model=TINY, situations=4, block_s=0.005)


class Bench:
    """What the suites of one mode share; each part is made when first needed and removed on exit."""

    def __init__(self, mode: str, scale: Scale) -> None:
        self.after = mode == OPTIMIZED
        self.scale = scale
        self.net_arch = NetArch() if self.after else PRODUCTION_NET_ARCH
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        # Named as inference names it; training reads the same setting.
        self._stack.enter_context(torch_threads(1))
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @cached_property
    def folder(self) -> Path:
        """Temporary folder for everything the suites write."""
        return Path(self._stack.enter_context(TemporaryDirectory(prefix="benchmark-")))

    @cached_property
    def market(self) -> Market:
        """Sixty synthetic sessions of 5-minute bars."""
        return work.synthetic_market()

    @cached_property
    def plan(self) -> RolloutPlan:
        """One rollout of two minibatches."""
        scale, timesteps = self.scale, 2 * self.scale.batch_size
        return plan_rollouts(timesteps, scale.n_envs, scale.batch_size, timesteps // scale.n_envs)

    @cached_property
    def batched(self) -> VecEnv:
        """The accounts in this process."""
        return self._vec_env("batched")

    @cached_property
    def vec_env(self) -> VecEnv:
        """The accounts as the mode steps them."""
        return self.batched if self.after else self._vec_env("subproc")

    def _vec_env(self, route: Route) -> VecEnv:
        env = make_vec_env(route, self.market.tape(empty_table()), self.market.params, self.scale.n_envs)
        self._stack.callback(env.close)
        return env

    def model(self, env: VecEnv, net_arch: NetArch, n_epochs: int, learner: Learner | None = None) -> TimedMaskablePPO:
        """A new policy on the CPU, trained by the mode's learner unless another is named."""
        training = TrainingSettings(n_epochs=n_epochs, policy_kwargs=PolicySettings(net_arch=net_arch))
        return work.new_policy(env, training, self.plan, learner or ("fused" if self.after else "stock"))

    def callback(self, name: str) -> BaseCallback:
        """A run's logging: JSON lines and TensorBoard, in batches or every step."""
        sinks = (JsonLinesSink(self.folder / f"{name}.jsonl"), TensorBoardSink(self.folder / name))
        callback = BatchedCallback(LOG_INTERVAL if self.after else 1, sinks=sinks, phase=name)
        self._stack.callback(callback.close)
        return callback

    @cached_property
    def training_workload(self) -> dict[str, Any]:
        """The training's workload, without networks and route."""
        plan = self.plan
        return {"accounts": plan.n_envs, "bars": plan.n_steps, "minibatch": plan.batch_size, "threads": 1}

    @cached_property
    def networks(self) -> str:
        """The hidden layers in words."""
        return "-".join(map(str, self.net_arch.pi)) + " networks"

    @cached_property
    def language_model(self) -> LoadedModel:
        """The bundled model where it is installed, else the tiny one; UserError where none can be loaded."""
        try:
            return load_model(self.scale.advice_model, device="cpu", threads=1)
        except ConfigError:
            # The row's workload names the model: nobody takes one for the other.
            if self.scale.advice_model == TINY:
                raise
            return load_model(TINY, device="cpu", threads=1)


Suite = Callable[[Bench], Iterator[Case]]
SUITE_FUNCTIONS: dict[str, Suite] = {}


def suite(cases: Suite) -> Suite:
    """Register a suite under its function's name; `src.benchmarks.file.SUITES` describes it."""
    SUITE_FUNCTIONS[cases.__name__] = cases
    return cases


@suite
def steps(bench: Bench) -> Iterator[Case]:
    """A timestep of the accounts, with actions drawn beforehand."""
    n = bench.scale.n_envs
    way = "one kernel call in this process" if bench.after else "SubprocVecEnv, a process an account"
    yield Case("steps", f"{n} accounts", "timestep", way, work.stepping(bench.vec_env), {"accounts": n}, operations=n)


@suite
def rollout(bench: Bench) -> Iterator[Case]:
    """The seconds of a training that collect the rollout."""
    model = bench.model(bench.vec_env, bench.net_arch, n_epochs=1)
    learn = work.learning(model, bench.plan, bench.callback("rollout"))
    way = f"{'batched' if bench.after else 'SubprocVecEnv'}, {bench.networks}"
    yield Case(
        "rollout", f"{bench.plan.n_envs} x {bench.plan.n_steps}", "timestep", way, learn, bench.training_workload,
        operations=bench.plan.actual, clock=lambda: model.rollout_s,
    )  # fmt: skip


@suite
def update(bench: Bench) -> Iterator[Case]:
    """The seconds of a training that update the networks; the accounts' route does not matter."""
    model = bench.model(bench.batched, bench.net_arch, bench.scale.n_epochs)
    learn = work.learning(model, bench.plan)
    workload = {**bench.training_workload, "epochs": bench.scale.n_epochs}
    yield Case(
        "update", f"{bench.scale.n_epochs} epochs", "timestep", bench.networks, learn, workload,
        operations=bench.plan.actual, clock=lambda: model.update_s,
    )  # fmt: skip


@suite
def training(bench: Bench) -> Iterator[Case]:
    """End to end; the same with only the networks changed; their matrix products alone, the lower bound."""
    plan, n_epochs = bench.plan, bench.scale.n_epochs
    workload = {**bench.training_workload, "epochs": n_epochs}
    whole = bench.model(bench.vec_env, bench.net_arch, n_epochs)
    way = f"{'batched' if bench.after else 'SubprocVecEnv, every step logged'}, {bench.networks}, {whole.learner}"
    learn = work.learning(whole, plan, bench.callback("training"))
    yield Case("training", END_TO_END, "timestep", way, learn, workload, operations=plan.actual)
    networks = bench.model(bench.batched, bench.net_arch, n_epochs, "fused")
    facts = {"parameters": sum(weight.numel() for weight in networks.policy.parameters())}
    way = f"batched, {bench.networks}"
    learn = work.learning(networks, plan)
    yield Case("training", NETWORKS, "timestep", way, learn, workload, operations=plan.actual, facts=facts)
    multiply = work.matrix_products([N_OBS, *bench.net_arch.pi], plan, n_epochs, fastest())
    yield Case("training", PRODUCTS, "timestep", bench.networks, multiply, workload, operations=plan.actual)


@suite
def fusion(bench: Bench) -> Iterator[Case]:
    """`fuse_batch` as the public five-array call."""
    fuse = VectorizedDecisionFusion({}, sequential=not bench.after).fuse_batch
    way = "compiled loop" if bench.after else "sequential loop"
    rng = np.random.default_rng(0)
    for n in (32, 1_024, 65_536):
        yield Case("fusion", f"batch {n:,}", "batch", way, partial(fuse, *work.decisions(n, rng)), {"decisions": n})


@suite
def cache(bench: Bench) -> Iterator[Case]:
    """Context features of a bar that no table holds: computed at every lookup, or through the cache at 70% hits."""
    compute = _context_of(bench.market.tables)
    row = compute()
    for capacity in (1_000, 10_000):
        keys = itertools.cycle(work.lookups(capacity, LOOKUPS, HIT_RATE, np.random.default_rng(0)).reshape(-1).tolist())
        kept, facts = OptimizedFeatureCache(capacity) if bench.after else None, {}
        if kept is not None:
            for counted in (False, True):  # filled first; nothing is computed for it
                for key in itertools.islice(keys, capacity * (1 if counted else 3)):
                    if kept.get(key, record=counted) is None:
                        kept.put(key, row)
            facts["hit_rate"] = kept.get_stats()["hit_rate"]
        way = f"computed, or found among {capacity:,} rows" if bench.after else "computed at every lookup"
        workload = {"bars": LIVE_BARS, "capacity": capacity, "wanted_hit_rate": HIT_RATE, "lookups": LOOKUPS}
        get = (lambda key: compute()) if kept is None else partial(kept.get_or_compute, compute=compute)
        call = work.looking_up(get, keys, LOOKUPS)
        yield Case("cache", f"{capacity:,} rows", "row", way, call, workload, operations=LOOKUPS, facts=facts)


def _context_of(tables: MarketTables) -> Callable[[], np.ndarray]:
    """Computes the context features of the last of a few bars that are placed in their sessions already."""
    bars = first_bars(tables.bars, LIVE_BARS)
    run_start = run_starts(bars, tables.sessions, DataSettings().no_trade_bars)
    return lambda: context_features(bars, tables.sessions, run_start)[-1]


@suite
def pool(bench: Bench) -> Iterator[Case]:
    """Acquire and release: the batch an arm of an evaluation plays its sessions in, and a gymnasium environment."""
    market = bench.market
    tape = market.tape(empty_table())
    makers: dict[str, Callable[[], Any]] = {
        "session batch": lambda: SessionBatch(market.tape(empty_table()), market.session_params, with_tables=False),
        "gymnasium environment": lambda: TradingEnv(tape, market.params),
    }
    for name, make in makers.items():
        envs = EnvironmentStatePool(make, pool_size=POOL_SIZE if bench.after else 0)
        way = f"a pool of {POOL_SIZE}" if bench.after else "a new one each time"
        workload = {"bars": len(tape.prices), "environment": name}
        yield Case("pool", name, "acquisition", way, _borrowing(envs), workload)


def _borrowing(envs: Any) -> Call:
    def borrow() -> None:
        env_id, env = envs.acquire()
        envs.release(env_id, env)

    return borrow


@suite
def advice(bench: Bench) -> Iterator[Case]:
    """The same situations: scored in one batch with a shared prefix, or generated one by one and parsed."""
    loaded, n = bench.language_model, bench.scale.situations
    asked = work.situations_to_judge(n)
    workload = {"model": loaded.name, "situations": asked.tolist(), "threads": 1}
    if bench.after:
        way, call = f"scored, batch {n}, shared prefix", work.scoring(loaded, asked)
    else:
        way = f"JSON of at most {work.GENERATED_TOKENS} tokens generated and parsed"
        call = work.generating(loaded, asked)
    yield Case("advice", loaded.name, "advice", way, call, workload, operations=n if bench.after else 1)


@suite
def logging(bench: Bench) -> Iterator[Case]:
    """A vec-env step of the callback that logs a training: JSON lines and TensorBoard."""
    n = bench.scale.n_envs
    callback = bench.callback("logging")
    model = bench.model(bench.batched, NetArch(), n_epochs=1)
    train(model, bench.plan, "benchmark", [callback])
    rng = np.random.default_rng(0)
    turns = []
    for _ in range(256):
        dones = rng.random(n) < 1.0 / EPISODE["l"]
        infos = [{"episode": EPISODE} if done else {} for done in dones]
        turns.append({"rewards": rng.random(n, dtype=np.float32), "dones": dones, "infos": infos})
    coming = itertools.cycle(turns)

    def log() -> None:
        callback.update_locals(next(coming))
        callback.on_step()

    way = f"a record every {LOG_INTERVAL} steps" if bench.after else "a record every step"
    yield Case("logging", f"{n} accounts", "vec-env step", way, log, {"accounts": n})


@suite
def checkpoint(bench: Bench) -> Iterator[Case]:
    """Save a policy in training: everything a resume needs, fsynced; or SB3's zip."""
    model = bench.model(bench.batched, NetArch(), n_epochs=1)
    train(model, bench.plan, "benchmark", [])
    store = CheckpointStore(bench.folder / "checkpoints", {}, keep_last=3, machine={})
    save = (lambda: store.save(capture(model, []))) if bench.after else (lambda: model.save(bench.folder / "model"))
    way = "full resume state, fsynced" if bench.after else "SB3's zip"
    yield Case("checkpoint", "save", "checkpoint", way, save, {"accounts": bench.plan.n_envs})
