"""The public classes: configuration, hardware watching, cache, decision fusion, logging, environment pool, runs.

The implementation is in the packages below; none of them imports this module.
"""

from __future__ import annotations

import csv
import io
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.console import Console
from stable_baselines3.common.callbacks import BaseCallback

from src.advisor import fusion
from src.agent.interval import Interval, PlayedRollout
from src.agent.log_sink import Sink, in_words, train_values, write_to_logger
from src.configuration import Configuration, Markets, build_config, load_config_file
from src.console import PlainConsole
from src.errors import ConfigError
from src.files import write_atomically
from src.monitoring import hardware
from src.monitoring.sampling import BackgroundSampling
from src.plain_text import csv_cell
from src.runs.context import RunContext
from src.runs.hardware_maximized import run_hardware_maximized
from src.runs.loans import TemporaryLoans
from src.runs.pipeline import run_pipeline
from src.trading.row_cache import RowCache
from src.trading.slots import Slots

logger = logging.getLogger(__name__)


class HardwareMonitor(BackgroundSampling):
    """Samples the machine every `log_interval` seconds in a background thread, and never lets a failing reading end
    the run.

    `phase` labels the samples and may be set at any time. `monitor_gpu` False leaves the GPU alone; `nvml` may be an
    object with the functions of `pynvml`, to replay a recorded trace. Fields of a sample:
    `src.monitoring.hardware.SAMPLE_FIELDS`; a failed reading is None, counted in `get_summary()["failed_readings"]`.
    ValueError for an interval that is not above 0.
    """

    def get_average_gpu_utilization(self, last_n: int | None = None) -> float:
        """Mean of NVML's utilisation rate in percent, of the newest `last_n` samples or (None) of all.

        0.0 without a GPU (see `gpu_available`). ValueError for a `last_n` under 1.
        """
        if last_n is not None and last_n < 1:
            raise ValueError(f"last_n is {last_n}; it must be at least 1 sample, or None for all")
        return hardware.mean(self.metrics_history[-last_n if last_n else 0 :], "gpu_percent") or 0.0

    def get_peak_memory_usage(self) -> float:
        """Highest GPU memory used, GB (10^9 bytes), of the whole device; 0.0 without a GPU."""
        return hardware.peak(self.metrics_history, "gpu_memory_used_gb") or 0.0

    def get_peak_ram_usage(self) -> float:
        """Highest memory of this process and its children, GB; what several share counts once (`hardware.Sampler`)."""
        return hardware.peak(self.metrics_history, "tree_rss_gb") or 0.0

    def get_summary(self) -> dict[str, Any]:
        """Averages and peaks of the run and of each phase, what could not be read, and whether a GPU was watched.

        `avg_gpu_utilization` (percent) is 0.0 where `gpu_available` is False; `duration_seconds` lie between the first
        and the last sample.
        """
        history = list(self.metrics_history)
        times = hardware.values(history, "time")
        sampler = self._sampler
        phases = dict.fromkeys(str(reading["phase"]) for reading in history)
        return {
            "gpu_available": sampler is not None and sampler.gpu_available,
            "gpu_name": sampler.gpu_name if sampler else "",
            "gpu_reason": sampler.gpu_reason if sampler else "monitoring was not started",
            "cpu_power_reason": sampler.cpu_power_reason if sampler else "monitoring was not started",
            "cores": sampler.cores if sampler else None,
            "memory_measure": sampler.memory_measure if sampler else None,
            **hardware.summarise(history),
            "avg_gpu_utilization": hardware.mean(history, "gpu_percent") or 0.0,
            "duration_seconds": times[-1] - times[0] if times else 0.0,
            "phases": {phase: hardware.summarise([r for r in history if r["phase"] == phase]) for phase in phases},
            "late_samples": self._late_samples,
            "failed_readings": dict(sampler.failures) if sampler else {},
            "failure_reasons": dict(sampler.reasons) if sampler else {},
            "thread_error": self._thread_error,
        }

    def save_metrics(self, path: str | Path) -> None:
        """Write the samples as CSV, a column per field, a failed reading empty; whole or not at all. Raises OSError."""
        path, text = Path(path), io.StringIO(newline="")
        writer = csv.DictWriter(text, hardware.SAMPLE_FIELDS)
        writer.writeheader()
        for reading in list(self.metrics_history):
            writer.writerow({name: csv_cell(value) for name, value in reading.items()})
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.getvalue())


class OptimizedFeatureCache(RowCache):
    """Keeps the `max_size` most recently used feature rows: float32 vectors of any length under any hashable key.

    Safe to use from several threads. A row is copied in and handed out read-only, so nobody can change what is stored.
    With `record=False` (pre-warming) a lookup is left out of the hits and misses. `get_or_compute` computes what is
    missing, once. ValueError for a `max_size` under 1 or features that are not one vector.
    """


_INT64 = np.dtype(np.int64)


class VectorizedDecisionFusion:
    """Fuses decisions of an RL-only policy with the advice, by the rules spelled out in `src.advisor.fusion`.

    `config`: a mapping or an object with llm_weight, confidence_threshold and risk
    (`src.advisor.fusion.read_config`); what it lacks takes the default. `sequential` True, or
    `vectorized_decision_fusion: false` in the config, uses the plain loop: same actions, same counts, slower.
    `counts` (float64[9]: `fusion.RULES`, then advice_changed) is what a checkpoint stores and restores. Safe to use
    from several threads.
    """

    def __init__(self, config: object = None, *, sequential: bool | None = None) -> None:
        settings, self.llm_weight, compiled = fusion.read_config(config)
        self.config = {} if config is None else config
        self.confidence_threshold = settings.confidence_threshold
        self.risk = settings.risk
        self.sequential = not compiled if sequential is None else sequential
        self._state = fusion.new_state(settings, self.llm_weight)
        self.counts = self._state[fusion.N_LIMITS :]
        self._fuse: fusion.Fuse = fusion.fuse_sequential if self.sequential else fusion.compiled_fuse()
        self._lock = threading.Lock()  # of the counts: the compiled loop runs without the interpreter's own lock

    @property
    def risk_config(self) -> Mapping[str, Any]:
        """The risk settings in effect, by key and read-only: those given (`risk` or `risk_config` of the config) over
        the defaults."""
        return MappingProxyType(self.risk.model_dump())

    def fuse_batch(
        self,
        rl_actions: ArrayLike,
        rl_confidences: ArrayLike,
        llm_actions: ArrayLike,
        llm_confidences: ArrayLike,
        risk_scores: ArrayLike,
        masks: ArrayLike | None = None,
        positions: ArrayLike | None = None,
    ) -> NDArray[np.int64]:
        """The fused actions, int64[n].

        rl_actions int[n] 0..5, llm_actions int[n] with -1 for an abstention, confidences and risk scores float[n] in
        [0, 1], masks bool[n, 6] with HOLD legal in every row, positions int[n] (signed contracts). Nothing returned
        is illegal under `masks`, and nothing risk-increasing is returned for an element with a risk score above 0.7.
        Without `positions` every action but HOLD counts as risk-increasing. ValueError naming the first element that
        breaks this, or the shapes that differ; nothing is counted then.
        """
        mask = fusion.NO_MASKS if masks is None else masks
        position = fusion.NO_POSITIONS if positions is None else positions
        given = (rl_actions, rl_confidences, llm_actions, llm_confidences, risk_scores, mask, position)
        columns: tuple[Any, ...] = given
        if self.sequential or not fusion.ready(*columns):
            columns = fusion.coerce(columns)
        n = len(columns[0])
        if (masks is not None and len(columns[5]) != n) or (positions is not None and len(columns[6]) != n):
            raise ValueError(fusion.explain(fusion.LENGTHS_DIFFER, columns))
        actions = np.empty(n, _INT64)
        with self._lock:
            try:
                bad = self._fuse(*columns, self._state, actions)
            except TypeError:  # the right types in a layout or of a shape that the compiled loop does not take
                columns = fusion.coerce(columns)
                bad = self._fuse(*columns, self._state, actions)
        if bad != fusion.ALL_USABLE:
            raise ValueError(fusion.explain(bad, columns))
        return actions

    def calculate_risk_scores(self, position_states: object) -> NDArray[np.float32]:
        """float32[n] in [0, 1] from a list of dicts, or columns (mapping of arrays, structured array), with
        consecutive_losses, drawdown_current (fraction of the drawdown buffer used) and win_rate_recent; one that is
        missing adds no risk. Formula: `src.advisor.fusion.risk_scores`."""
        return fusion.risk_scores(position_states, self.risk)

    def get_stats(self) -> dict[str, Any]:
        """How many elements each rule decided, `total`, `rates` per rule (0.0 before the first), how often advice
        changed the action, and which `loop` fused: compiled or sequential."""
        with self._lock:
            *rules, changed = map(int, self.counts)
        total = sum(rules)
        return {
            **dict(zip(fusion.RULES, rules, strict=True)),
            "total": total,
            "rates": {rule: count / total if total else 0.0 for rule, count in zip(fusion.RULES, rules, strict=True)},
            "advice_changed": changed,
            "advice_changed_rate": changed / total if total else 0.0,
            "loop": "sequential" if self.sequential else "compiled",
        }


class BatchedCallback(BaseCallback):
    """Adds up rewards and finished episodes at every vec-env step and writes a record every `log_interval` steps and
    at the end.

    Each sink has `write(record)` and `close()` (`src.agent.log_sink`); the caller closes them, or `close()` here
    does. Without sinks records go to SB3's logger, as `run/...` over timesteps. `writes` counts the records that were
    written somewhere. `verbose` 1 logs a line a record as well. It reads and never changes training; an interval of 1
    writes more often and gives the same totals.
    `stop_requested` is asked at every step: once it answers True training ends within that step and `stopped` is
    True. ValueError for an interval under 1, or a `verbose` that is not 0, 1 or 2.
    """

    _TOTALS = "total_reward", "total_steps", "total_episodes", "writes"

    def __init__(
        self,
        log_interval: int = 100,
        verbose: int = 0,
        *,
        sinks: Iterable[Sink] = (),
        total_timesteps: int | None = None,
        phase: str = "",
        stop_requested: Callable[[], bool] | None = None,
    ) -> None:
        if verbose not in (0, 1, 2):
            raise ValueError(f"verbose is {verbose!r}; it must be 0, 1 or 2, and sinks are given by name: sinks=[...]")
        super().__init__(verbose)
        if log_interval < 1:
            raise ValueError(f"log_interval is {log_interval}; it must be at least 1 vec-env step")
        self.log_interval = log_interval
        self.sinks = tuple(sinks)
        self._lock = threading.RLock()
        self.total_timesteps = total_timesteps
        self.phase = phase
        self.stop_requested = stop_requested
        self.stopped = False
        self.total_reward = 0.0
        self.total_steps = 0
        self.total_episodes = 0
        self.writes = 0
        self._interval = Interval()

    def _on_training_start(self) -> None:
        self.stopped = False
        self._interval.restart_clock()

    def get_state(self) -> dict[str, Any]:
        """The totals and the interval under way, without its clock: what a checkpoint keeps."""
        with self._lock:
            totals = {name: getattr(self, name) for name in self._TOTALS}
            gathered = {f"_{name}": getattr(self._interval, name) for name in Interval.KEPT}
            return totals | gathered | {"_episodes": [*self._interval.episodes]}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; timesteps from before the restart count in no speed."""
        for name in self._TOTALS:
            setattr(self, name, state[name])
        for name in Interval.KEPT:
            setattr(self._interval, name, state[f"_{name}"])

    def _on_step(self) -> bool:
        with self._lock:
            self._count_step()
        if self.stop_requested is not None and self.stop_requested():
            self.stopped = True
        return not self.stopped

    def _count_step(self) -> None:
        interval, episodes = self._interval, len(self._interval.episodes)
        self.total_reward += interval.count(*(self.locals[name] for name in ("rewards", "dones", "infos")))
        self.total_steps += 1
        self.total_episodes += len(interval.episodes) - episodes
        if interval.steps >= self.log_interval:
            self.flush()

    def on_rollout_played(self, played: PlayedRollout) -> bool:
        """The same for all steps of a rollout; `stop_requested` is asked at its end."""
        with self._lock:
            for begin, end in played.pieces(self.log_interval - self._interval.steps, self.log_interval):
                self.n_calls += end - begin
                self.num_timesteps = self.model.num_timesteps - played.timesteps_after(end)
                self.total_reward = played.add_rewards(self.total_reward, begin, end)
                self.total_steps += end - begin
                self.total_episodes += self._interval.count_steps(played, begin, end)
                if self._interval.steps >= self.log_interval:
                    self.flush()
        if self.stop_requested is not None and self.stop_requested():
            self.stopped = True
        return not self.stopped

    def _on_training_end(self) -> None:
        self.flush()

    def flush(self) -> None:
        """Write what was gathered since the last record; nothing gathered writes nothing."""
        with self._lock:
            if self._interval.steps:
                record = self._record()
                for sink in self.sinks:
                    sink.write(record)
                self.writes += bool(self.sinks) or write_to_logger(self.logger, record)
                if self.verbose:
                    logger.info("%s", in_words(record))
            self._interval = Interval()

    def _record(self) -> dict[str, Any]:
        record = {"phase": self.phase, "num_timesteps": self.num_timesteps, **self._interval.record()}
        if self.total_timesteps:
            record["fraction_done"] = min(1.0, self.num_timesteps / self.total_timesteps)
        return record | train_values(self.logger.name_to_value)

    def close(self) -> None:
        """Write what is left and close the sinks."""
        self.flush()
        for sink in self.sinks:
            sink.close()


class EnvironmentStatePool:
    """Lends environments (anything with `reset(seed=)` and `close()`) out again instead of building new ones.

    Safe to use from several threads. Environments are built when first needed, or all at once with `prefill`. Every one
    handed out, built just now or used before, is as a fresh one after its reset: with the seed given to `acquire`,
    else with the slot's own, `seed` plus its id (a temporary one: plus `pool_size` and its place among those that are
    out). Its reset is the whole of what it remembers (Gymnasium's contract), and where it has `get_state`/`set_state`
    the state it was born with is put back first. When all `pool_size` are out, `acquire` builds a temporary one with
    id -1, closed on release; `pool_size` 0 always does (`environment_state_pooling: false`), with the same results.
    ValueError for a negative size.
    """

    def __init__(
        self,
        env_class: Callable[..., Any],
        env_kwargs: Mapping[str, Any] | None = None,
        pool_size: int = 8,
        *,
        seed: int = 0,
        prefill: bool = False,
    ) -> None:
        if pool_size < 0:
            raise ValueError(f"pool_size is {pool_size}; it must be at least 0")
        self.env_class = env_class
        self.env_kwargs = dict(env_kwargs or {})
        self.pool_size = pool_size
        self.seed = seed
        self._lock = threading.Lock()
        self._slots = Slots(self._build, pool_size)
        self._free = list(range(pool_size - 1, -1, -1))
        self._lent: set[int] = set()
        self._temporary = TemporaryLoans()
        self._uses = 0
        self._temporary_uses = 0
        self._closed = False
        if prefill:
            try:
                for env_id in range(pool_size):
                    self._slots.restart(env_id, seed + env_id)
            except BaseException:
                self.close()
                raise

    def acquire(self, seed: int | None = None) -> tuple[int, Any]:
        """An environment, reset with `seed` (the slot's own where None), and its id; -1 for a temporary one.
        RuntimeError once closed."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the environment pool is closed")
            env_id = self._free.pop() if self._free else -1
            if env_id >= 0:
                self._lent.add(env_id)
            place = self._temporary.reserve() if env_id < 0 else env_id
        # Building and resetting take long and touch only this slot: the lock is not held.
        try:
            if env_id < 0:
                env = self._build()
                env.reset(seed=self.seed + self.pool_size + place if seed is None else seed)
            else:
                env = self._slots.restart(env_id, self.seed + env_id if seed is None else seed)
        except BaseException:
            self._give_back(env_id, place)
            raise
        with self._lock:
            closed = self._closed
            if not closed:
                self._uses += 1
                if env_id < 0:
                    self._temporary_uses += 1
                    self._temporary.lend(place, env)
        if closed:  # while it was built
            env.close()
            raise RuntimeError("the environment pool is closed")
        return env_id, env

    def _build(self) -> Any:
        return self.env_class(**self.env_kwargs)

    def _give_back(self, env_id: int, place: int) -> None:
        with self._lock:
            if env_id < 0:
                self._temporary.cancel(place)
            else:
                self._lent.remove(env_id)
                self._free.append(env_id)

    def release(self, env_id: int, env: Any = None) -> None:
        """Give an environment back. A temporary one (-1) is closed.

        `env` says which temporary one. Without it, one that this thread has acquired is meant (where it has none, any):
        with several out it cannot be told which of them is still in use, so they are closed once all of them are
        given back. ValueError for an id that is not in use, or a temporary environment that is not this pool's.
        """
        if env_id != -1:
            with self._lock:
                if env_id not in self._lent:
                    raise ValueError(f"environment {env_id} is not in use; in use: {sorted(self._lent)}")
                self._lent.remove(env_id)
                self._free.append(env_id)
            return
        with self._lock:
            leaving = [] if self._closed else self._temporary.give_back(env)
        for one in leaving:
            one.close()

    def reset_all(self) -> None:
        """Put every pooled environment built so far at its fresh start, those in use too; who holds them does not
        change."""
        for env_id in self._slots.built():
            self._slots.restart(env_id, self.seed + env_id)

    def get_stats(self) -> dict[str, float]:
        """pool_size, built, available, in_use (pooled ones), total_uses (temporary ones too), avg_uses_per_env
        (uses of pooled environments per one built), temporary (how many were made in all)."""
        with self._lock:
            built = len(self._slots.built())
            return {
                "pool_size": self.pool_size,
                "built": built,
                "available": len(self._free),
                "in_use": len(self._lent),
                "total_uses": self._uses,
                "avg_uses_per_env": (self._uses - self._temporary_uses) / built if built else 0.0,
                "temporary": self._temporary_uses,
            }

    def close(self) -> None:
        """Close every environment, temporary ones too; nothing can be acquired afterwards."""
        with self._lock:
            self._closed = True
            envs = self._slots.clear() + self._temporary.clear()
        for env in envs:
            env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class TestConfig(Configuration):
    """All settings of a run: frozen sections whose keys also read flat (`config.vectorized_envs`).

    Built by `create_test_config`, `from_file`, or by `TestConfig(mode="pipeline", market="ES", batch_size=512)`, which
    takes what `create_test_config` takes; `sections`, `to_dict` and the flat keys come from `Configuration`.
    """

    __test__: ClassVar[bool] = False  # the name would have pytest collect it

    def __init__(self, mode: str | None = None, market: Markets | None = None, **values: Any) -> None:
        if mode is None and market is None and values.keys() <= Configuration.model_fields.keys():
            super().__init__(**values)  # sections, as they are read from a file
            return
        overrides = values if market is None else {"market": market, **values}
        checked = build_config(mode, {}, overrides, source="TestConfig", model=Configuration)
        super().__init__(**{name: getattr(checked, name) for name in Configuration.model_fields})

    @property
    def total_timesteps(self) -> int:
        """Timesteps asked for of base training and hybrid fine-tuning, one seed, before rounding to whole rollouts:
        what `timesteps_completed` of the report reaches."""
        return self.base_timesteps + self.finetune_timesteps

    @classmethod
    def from_file(cls, path: Path | str, mode: str | None = None, **overrides: Any) -> TestConfig:
        """The configuration of a YAML file, `overrides` over it; `mode` None takes the file's.

        ConfigError names file, key, value and what is allowed; MarketError for an unknown market.
        """
        return build_config(mode, load_config_file(path), overrides, source=str(path), model=TestConfig)


def create_test_config(mode: str = "hardware_maximized", market: Markets = "NQ", **overrides: Any) -> TestConfig:
    """The defaults of a mode (hardware_maximized: 32 accounts, minibatch 1024; pipeline: 8 and 256) under `overrides`.

    An override is any key of the configuration (`device="cpu"`), `mock_llm=True`, `data=path`, or a section with a
    mapping (`fusion={"risk": {...}}`). ConfigError for an unknown mode, override or value; MarketError for the market.
    """
    return build_config(mode, {}, {"market": market, **overrides}, model=TestConfig)


class TestingFramework:
    """Runs a configuration from bars to report: `logs/<run>/` holds everything, the methods return the report.

    A framework serves one run. The run uses `hardware_monitor`, `feature_cache` and `decision_fusion`: those given
    here, or set on the framework before the run. `env_pool` lends evaluation environments (`SessionBatch`) once the
    market is loaded. `phase_times` are seconds by phase, `total_time` those of the whole run, `start_time` when it
    began (unix seconds; None before), `total_timesteps` what all its trainings have done, `run_folder` where it writes,
    `logger` whose messages go into its run.log.
    """

    __test__: ClassVar[bool] = False  # the name would have pytest collect it

    def __init__(
        self,
        config: TestConfig,
        console: Console | None = None,
        *,
        hardware_monitor: HardwareMonitor | None = None,
        feature_cache: OptimizedFeatureCache | None = None,
        decision_fusion: VectorizedDecisionFusion | None = None,
    ) -> None:
        if not isinstance(config, Configuration):
            raise ConfigError(
                f"TestingFramework needs a TestConfig, not a {type(config).__name__}: make one with "
                f'create_test_config("pipeline", "NQ") or TestConfig.from_file(...).'
            )
        self.config = config
        self.logger = logger
        performance, monitoring = config.performance, config.monitoring
        self._context = RunContext(
            config,
            console or PlainConsole(),
            hardware_monitor or HardwareMonitor(monitoring.hardware_interval_s, monitor_gpu=monitoring.monitor_gpu),
            OptimizedFeatureCache(config.llm.cache_size) if feature_cache is None else feature_cache,
            decision_fusion or VectorizedDecisionFusion(config),
            BatchedCallback,
        )
        pool_size = performance.env_pool_size if performance.environment_state_pooling else 0
        self.env_pool = EnvironmentStatePool(self._context.session_batch, {}, pool_size)
        self._context.pool = self.env_pool
        self._context.make_pool = lambda build: EnvironmentStatePool(build, {}, pool_size)

    @property
    def hardware_monitor(self) -> HardwareMonitor:
        """Watches the machine during the run."""
        return cast(HardwareMonitor, self._context.monitor)

    @hardware_monitor.setter
    def hardware_monitor(self, monitor: HardwareMonitor) -> None:
        self._context.replace_tool("monitor", monitor)

    @property
    def feature_cache(self) -> OptimizedFeatureCache:
        """Keeps what the run would otherwise have to compute or ask again (`src.runs.cached`)."""
        return cast(OptimizedFeatureCache, self._context.cache)

    @feature_cache.setter
    def feature_cache(self, cache: OptimizedFeatureCache) -> None:
        self._context.replace_tool("cache", cache)

    @property
    def decision_fusion(self) -> VectorizedDecisionFusion:
        """Decides for the fused arm."""
        return cast(VectorizedDecisionFusion, self._context.fusion)

    @decision_fusion.setter
    def decision_fusion(self, fusion: VectorizedDecisionFusion) -> None:
        self._context.replace_tool("fusion", fusion)

    @property
    def start_time(self) -> float | None:
        return self._context.start_time

    @property
    def total_time(self) -> float:
        return self._context.total_time

    @property
    def total_timesteps(self) -> int:
        return self._context.total_timesteps

    @property
    def phase_times(self) -> dict[str, float]:
        return self._context.phase_times

    @property
    def run_folder(self) -> Path | None:
        return self._context.folder

    def get_summary(self) -> dict[str, Any]:
        """The run in a few figures, also under `summary` of the report; 0 for what has not happened yet.

        Keys: mode, market, vectorized_envs, duration_seconds, total_timesteps, avg_gpu_utilization (percent),
        peak_gpu_memory_gb (both 0.0 without a GPU), gpu_available, cache_hit_rate (None: not measured).
        """
        return self._context.summary()

    def run_hardware_maximized_validation(
        self, *, auto_resume: bool | None = None, command: str = ""
    ) -> dict[str, Any]:
        """The hardware-maximized validation, resumable at any instant (`src.runs.hardware_maximized`).

        Arguments and errors are those of `run_automated_pipeline`.
        """
        return run_hardware_maximized(self._context, auto_resume=auto_resume, command=command)

    def run_automated_pipeline(
        self, *, start_phase: int = 1, auto_resume: bool | None = None, command: str = ""
    ) -> dict[str, Any]:
        """The three phases, resumable at any instant (`src.runs.pipeline`).

        `auto_resume` None leaves it to `checkpoint.auto_resume`, `command` is what a stopped run says to type.
        UserError for invalid input, InterruptedRun when stopped; the report has no arms where it stopped early.
        """
        return run_pipeline(self._context, start_phase=start_phase, auto_resume=auto_resume, command=command)
