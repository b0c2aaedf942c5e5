"""What every run works with: the public tools it was given, its folder, its clock."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from stable_baselines3.common.vec_env import VecEnv

from src import run_names
from src.advisor.choose import AnyAdvisor, make_advisor
from src.advisor.mock import MockAdvisor
from src.advisor.table import empty_table
from src.agent.advising import try_advisor
from src.agent.market import Market, prepare_market
from src.agent.own_cache import add_worker_counts
from src.agent.rollout_plan import RolloutPlan, plan_rollouts
from src.agent.settings import Learner
from src.agent.trainer import Trainer, supports_advice
from src.agent.training import resolve_device
from src.clean_up import CleanUps
from src.configuration import Configuration, effective_yaml, gpu_settings
from src.evaluation.arms import Fusion
from src.evaluation.playing import SessionPool
from src.files import write_atomically
from src.monitoring.display import RunDisplay
from src.monitoring.run_log import RunLog
from src.runs.memory import MemoryPlan
from src.runs.run_folder import sealed
from src.runs.threads import ThreadDeaths
from src.runs.time_account import TimeAccount
from src.trading.session_batch import SessionBatch


def session_batch(market: Market) -> SessionBatch:
    """An evaluation environment of a market."""
    return SessionBatch(market.tape(empty_table()), market.session_params, with_tables=False)


class Monitor(Protocol):
    """What a run asks of the hardware monitor."""

    phase: str
    metrics_history: list[Any]

    def get_average_gpu_utilization(self) -> float: ...

    def get_peak_memory_usage(self) -> float: ...

    def get_peak_ram_usage(self) -> float: ...

    def get_summary(self) -> dict[str, Any]: ...

    def stop_monitoring(self) -> None: ...

    def save_metrics(self, path: str | Path) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class Cache(Protocol):
    """What a run asks of the feature cache."""

    hits: int
    misses: int
    max_size: int

    def get_stats(self) -> dict[str, float]: ...

    def __contains__(self, key: Hashable) -> bool: ...

    def get(self, key: Hashable) -> Any: ...

    def put(self, key: Hashable, features: Any) -> None: ...


class Pool(SessionPool, Protocol):
    """What a run asks of the environment pool."""

    def get_stats(self) -> dict[str, float]: ...

    def close(self) -> None: ...


class CountingFusion(Fusion, Protocol):
    """Decision fusion that counts."""

    counts: NDArray[np.float64]


MakeCallback = Callable[..., Any]
"""From log interval, and by name sinks, total_timesteps and phase, to the callback that logs a training."""


def plans_of(config: Configuration) -> tuple[RolloutPlan, RolloutPlan]:
    """The rollouts of base training and of fine-tuning under a configuration."""
    hardware, n_steps = config.hardware, config.training.n_steps
    base, finetune = (
        plan_rollouts(timesteps, hardware.vectorized_envs, hardware.batch_size, n_steps)
        for timesteps in (config.base_timesteps, config.finetune_timesteps)
    )
    return base, finetune


@dataclass(frozen=True)
class MarketContext:
    """One market of a run: its own configuration, tables and evaluation environments, and the run's tools."""

    run: RunContext
    config: Configuration
    """As a run of this market alone would have it."""
    market: Market | None
    """None in a run on environments of the user's own."""
    pool: Pool

    @property
    def advisor(self) -> AnyAdvisor | None:
        """The run's."""
        return self.run.advisor

    @property
    def fusion(self) -> CountingFusion:
        """The run's; whoever uses it keeps the counts of a market apart."""
        return self.run.fusion

    @property
    def make_callback(self) -> MakeCallback:
        """The run's."""
        return self.run.make_callback

    def plans(self) -> tuple[RolloutPlan, RolloutPlan]:
        """The rollouts of base training and of fine-tuning."""
        return plans_of(self.config)

    def kept_features(self) -> Cache | None:
        """The run's cache, None where it keeps nothing."""
        return self.run.kept_features()

    def count_lookups(self, env: VecEnv) -> None:
        """See RunContext."""
        self.run.count_lookups(env)


class RunContext:
    """The tools of one run. `open()` starts what has to be stopped again; `folder` is set once the input is known to be
    good."""

    def __init__(
        self,
        config: Configuration,
        console: Console,
        monitor: Monitor,
        cache: Cache,
        fusion: CountingFusion,
        make_callback: MakeCallback,
    ) -> None:
        self.config = config
        self.console = console
        self.monitor = monitor
        self.cache = cache
        self.fusion = fusion
        self.pool: Pool
        """Lends evaluation environments of the first market."""
        self.make_pool: Callable[[Callable[[], SessionBatch]], Pool]
        """Makes another one, for another market."""
        self.markets: dict[str, Market] = {}
        """By symbol; none in a run on environments of the user's own."""
        self.advisor: AnyAdvisor | None = None
        self.folder: Path | None = None
        self.memory: MemoryPlan | None = None
        """What the run is predicted to take, once its market is loaded."""
        self.sweep: Mapping[str, Any] | None = None
        """What is known of the sweep whose winner this run trains; None for any other run."""
        self.cluster: Any = None
        """The connection to Ray (src/runs/cluster), where tasks are done there."""
        self.phase_times: dict[str, float] = {}
        self.spent_before_s = 0.0
        """What earlier processes of the same run have taken."""
        self.account = TimeAccount()
        self.total_time = 0.0
        self.start_time: float | None = None
        self.total_timesteps = 0
        self.released_bytes = 0
        self.display = RunDisplay(console, self._latest_reading, self.cache_hit_rate)
        self.make_callback = make_callback
        self.count_time: Callable[[], None] = lambda: None
        """Brings the time that the phase at work took to the disk."""
        self._log = RunLog()
        self._threads = ThreadDeaths()
        self._stack = CleanUps()
        self._began = self._stage_began = 0.0

    @property
    def market(self) -> Market | None:
        """The first market of the run; None in a run on environments of the user's own."""
        return next(iter(self.markets.values()), None)

    @market.setter
    def market(self, market: Market) -> None:
        self.markets = {self.config.test_mode.markets[0]: market}

    @cached_property
    def of_markets(self) -> list[MarketContext]:
        """The run by market, in their order. The markets must be loaded."""
        symbols = self.config.test_mode.markets
        if not self.markets:
            return [MarketContext(self, self.config.of_market(symbols[0]), None, self.pool)]
        return [
            MarketContext(
                self, self.config.of_market(symbol), self.markets[symbol],
                self.pool if symbol == symbols[0] else self._own_pool(self.markets[symbol]),
            )
            for symbol in symbols
        ]  # fmt: skip

    def _own_pool(self, market: Market) -> Pool:
        pool = self.make_pool(lambda: session_batch(market))
        self._stack.call(pool.close)
        return pool

    @contextmanager
    def open(self) -> Iterator[CleanUps]:
        """Log, display and monitor are on within; what is pushed on the stack is undone at the end. A thread that died
        within ends the run at the next phase or record; an error on its way is not replaced by one of cleaning up."""
        self._began = time.perf_counter()
        self.account = TimeAccount()
        self.start_time = time.time()
        with CleanUps() as stack:
            self._stack = stack
            stack.enter(self._log)
            stack.enter(self._threads)
            stack.call(self.pool.close)
            stack.enter(self.display)
            stack.enter(self.monitor)
            yield stack

    def replace_tool(self, name: str, tool: Any) -> None:
        """Let the run use another monitor, cache or fusion. RuntimeError once it has begun: it would use both."""
        if self.start_time is not None:
            raise RuntimeError(f"the run has started with its own {name}; set another one before the run")
        setattr(self, name, tool)

    def summary(self) -> dict[str, Any]:
        """The run in a few figures; 0 for what has not happened yet."""
        config = self.config
        return {
            "mode": config.test_mode.mode,
            "market": ", ".join(config.test_mode.markets),
            "vectorized_envs": config.hardware.vectorized_envs,
            "duration_seconds": self.total_time,
            "total_timesteps": self.total_timesteps,
            "avg_gpu_utilization": self.monitor.get_average_gpu_utilization(),
            "peak_gpu_memory_gb": self.monitor.get_peak_memory_usage(),
            "gpu_available": self.monitor.get_summary()["gpu_available"],
            "cache_hit_rate": self.cache_hit_rate(),
        }

    def stop_clock(self) -> None:
        """Nothing after this is measured."""
        self.enter_stage("")
        self.monitor.stop_monitoring()
        self._threads.check()
        self.total_time = self.spent_before_s + time.perf_counter() - self._began

    def write_to(self, folder: Path) -> None:
        """From now on the run has a folder: log, configuration and, at its end, the hardware samples go there."""
        self.folder = folder
        self._stack.push(self._write_hardware)
        self._log.write_to(folder / run_names.RUN_LOG)
        write_atomically(folder / run_names.CONFIGURATION, sealed(effective_yaml(self.config)))

    def trainer(self) -> Trainer:
        """What the trainings of this run share; ConfigError for CUDA that is not there."""
        config = self.config
        device = resolve_device(config.hardware)
        return Trainer(
            config.training, config.hardware, config.environment, device, config.test_mode.seed, self.kept_features()
        )

    def plans(self) -> tuple[RolloutPlan, RolloutPlan]:
        """The rollouts of base training and of fine-tuning."""
        return plans_of(self.config)

    def warn_of_settings(self, trainer: Trainer, learner: Learner) -> None:
        """One line for settings of a GPU that are set on a run that trains on the CPU, one for those of the population
        on a run with another learner."""
        if trainer.device.type == "cpu" and (keys := gpu_settings(self.config)):
            self.display.say(
                f"warning: {' and '.join(keys)} {'acts' if len(keys) == 1 else 'act'} on a GPU only; this run trains "
                "on the CPU"
            )
        hardware = self.config.hardware
        set_ = [f"hardware.{key}" for key in ("precision", "group") if getattr(hardware, key) is not None]
        if learner != "population" and set_:
            self.display.say(
                f"warning: {' and '.join(set_)} {'acts' if len(set_) == 1 else 'act'} on the population learner only; "
                f"this run trains with the {learner} learner"
            )

    def own_env(self, trainer: Trainer) -> VecEnv | None:
        """The user's own environments where the configuration names a class."""
        if trainer.environment.env_class is None:
            return None
        env = trainer.make_env(None)
        self._stack.call(env.close)
        return env

    def load_market(self, own_env: VecEnv | None) -> None:
        """Read the bars and choose the advisor, where the run trades them at all."""
        config = self.config
        if own_env is None or supports_advice(own_env):
            symbols = config.test_mode.markets
            several = f" of {', '.join(symbols)}" if len(symbols) > 1 else ""
            with self.phase("data", f"bars to tables{several}"):
                for symbol in symbols:
                    data = config.data.of_market(symbol)
                    self.markets[symbol] = prepare_market(data, config.environment, symbol, config.test_mode.seed)
            for market in self.markets.values():
                if (reading := market.tables.bars.reading) is not None:
                    for clock in reading.clocks:
                        self.display.say(f"bars: {clock.words}. {reading.market.words}.")
            self.advisor = make_advisor(config.llm)
            if not isinstance(self.advisor, MockAdvisor):
                with self.phase("advice", f"whether {self.advisor.name} can be scored"):
                    try_advisor(self.advisor, config.llm, say=self.display.say)

    def session_batch(self) -> SessionBatch:
        """A new evaluation environment; what the pool lends."""
        if self.market is None:
            raise RuntimeError("evaluation environments exist once a run has loaded its market")
        return session_batch(self.market)

    @contextmanager
    def phase(self, name: str, what: str) -> Iterator[None]:
        """A stage with one thing in it: shown, timed under `name`, and what the hardware samples are labelled with."""
        self.enter_stage(name)
        self.display.begin(name, what)
        yield
        self._threads.check()

    def enter_stage(self, name: str) -> None:
        """From now on the time counts for `name`, and so do the hardware samples."""
        self._threads.check()
        now = time.perf_counter()
        if self.monitor.phase:
            self.phase_times[self.monitor.phase] = (
                self.phase_times.get(self.monitor.phase, 0.0) + now - self._stage_began
            )
        self.account.stage(name)
        self.monitor.phase, self._stage_began = name, now

    def record(self, record: Any) -> None:
        """Show a record of progress; ThreadDied where a thread has died since the last."""
        self._threads.check()
        self.display.record(record)

    def kept_features(self) -> Cache | None:
        """The cache for what is dear to ask or compute; None where the configuration keeps nothing."""
        return self.cache if self.config.performance.cached_llm_features else None

    def count_lookups(self, env: VecEnv) -> None:
        """Add the lookups of the user's own environments in worker processes, once their training is over."""
        if self.config.environment.env_class is not None and self.kept_features() is not None:
            add_worker_counts(env, self.cache)

    def cache_hit_rate(self) -> float | None:
        """Hits per look-up so far; None before the first."""
        stats = self.cache.get_stats()
        return stats["hit_rate"] if stats["hits"] + stats["misses"] else None

    def _latest_reading(self) -> Any:
        history = self.monitor.metrics_history
        return history[-1] if history else None

    def _write_hardware(self, kind: object, error: BaseException | None, trace: object) -> None:
        """At the run's end, whatever ended it. Raises OSError only where nothing else did: what ended the run is to be
        heard, not this."""
        self.monitor.stop_monitoring()
        assert self.folder is not None
        names = ("hardware.csv", *(f"hardware-{n}.csv" for n in range(2, 10_000)))  # a file each process of the run
        free = (path for name in names if not os.path.lexists(path := self.folder / name))
        try:
            self.monitor.save_metrics(next(free))
        except (OSError, MemoryError) as failed:
            if error is None:
                raise
            self.display.say(f"the hardware samples cannot be written ({getattr(failed, 'strerror', None) or failed})")


AnyContext = RunContext | MarketContext
"""What the tasks of one market work with."""
