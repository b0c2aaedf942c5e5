"""The public classes: configuration, hardware watching, cache, decision fusion, logging, environment pool, runs.

Nothing below this module imports it; what is not surface lives in the rooms.
"""

from __future__ import annotations

import csv
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.console import Console
from stable_baselines3.common.callbacks import BaseCallback

from src.advisor import fusion
from src.agent.log_sink import Sink, train_values
from src.configuration import Configuration, build_config, load_config_file
from src.console import PlainConsole
from src.evidence import hardware
from src.plain_text import csv_cell
from src.runs.bench import Bench
from src.runs.pipeline import run_pipeline
from src.runs.validation import run_validation


class HardwareMonitor:
    """Samples the machine every `log_interval` seconds in a background thread, and never lets a failing reading end
    the run.

    `phase` labels the samples and may be set at any time. `monitor_gpu` False leaves the GPU alone; `nvml` may be an
    object with the functions of `pynvml`, to replay a recorded trace. The GPU readings were exercised with such a
    trace only, on machines without a GPU. Fields of a sample: `src.evidence.hardware.SAMPLE_FIELDS`; a failed reading
    is None, counted in `get_summary()["failed_readings"]`. ValueError for an interval that is not above 0.
    """

    def __init__(self, log_interval: float = 1, *, monitor_gpu: bool = True, nvml: hardware.Nvml | None = None) -> None:
        if not log_interval > 0:
            raise ValueError(f"log_interval is {log_interval}; it must be above 0 seconds")
        self.log_interval = log_interval
        self.phase = ""
        self.metrics_history: list[hardware.Reading] = []
        self._monitor_gpu = monitor_gpu
        self._nvml = nvml
        self._sampler: hardware.Sampler | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._late_samples = 0
        self._thread_error = ""

    def start_monitoring(self) -> None:
        """Start sampling; does nothing while it already runs. Started again after a stop, it goes on with the same
        history."""
        if self._thread is not None:
            return
        self._stop.clear()
        self._sampler = hardware.Sampler(use_gpu=self._monitor_gpu, nvml=self._nvml)
        self._thread = threading.Thread(target=self._run, args=(self._sampler,), name="hardware-monitor", daemon=True)
        self._thread.start()

    def stop_monitoring(self) -> None:
        """Take a last sample and stop; does nothing when not running."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            thread.join()

    def _run(self, sampler: hardware.Sampler) -> None:
        try:
            due = time.monotonic()
            while True:
                self.metrics_history.append(sampler.sample(self.phase))
                # The grid of due times is fixed, so a slow sample delays itself and not all that follow.
                due += self.log_interval
                behind = time.monotonic() - due
                if behind > 0:
                    skipped = int(behind // self.log_interval) + 1
                    self._late_samples += skipped
                    due += skipped * self.log_interval
                if self._stop.wait(max(0.0, due - time.monotonic())):
                    break
            self.metrics_history.append(sampler.sample(self.phase))
        except Exception as error:
            self._thread_error = f"{type(error).__name__}: {error}"
        finally:
            sampler.close()

    def get_average_gpu_utilization(self) -> float:
        """Mean of NVML's utilisation rate in percent; 0.0 without a GPU (see `gpu_available` of the summary)."""
        return hardware.mean(self.metrics_history, "gpu_percent") or 0.0

    def get_peak_memory_usage(self) -> float:
        """Highest GPU memory used, GB (10^9 bytes), of the whole device; 0.0 without a GPU."""
        return hardware.peak(self.metrics_history, "gpu_memory_used_gb") or 0.0

    def get_peak_ram_usage(self) -> float:
        """Highest memory of this process and its children, GB: own pages of each plus the largest shared part
        (`hardware.Sampler`)."""
        return hardware.peak(self.metrics_history, "tree_rss_gb") or 0.0

    def get_summary(self) -> dict[str, Any]:
        """Averages and peaks of the run and of each phase, what could not be read, and whether a GPU was watched."""
        history = list(self.metrics_history)
        sampler = self._sampler
        phases = dict.fromkeys(str(reading["phase"]) for reading in history)
        return {
            "gpu_available": sampler is not None and sampler.gpu_available,
            "gpu_name": sampler.gpu_name if sampler else "",
            "gpu_reason": sampler.gpu_reason if sampler else "monitoring was not started",
            "cores": sampler.cores if sampler else None,
            **hardware.summarise(history),
            "phases": {phase: hardware.summarise([r for r in history if r["phase"] == phase]) for phase in phases},
            "late_samples": self._late_samples,
            "failed_readings": dict(sampler.failures) if sampler else {},
            "failure_reasons": dict(sampler.reasons) if sampler else {},
            "thread_error": self._thread_error,
        }

    def save_metrics(self, path: str | Path) -> None:
        """Write the samples as CSV, a column per field, a failed reading empty."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, hardware.SAMPLE_FIELDS)
            writer.writeheader()
            for reading in list(self.metrics_history):
                writer.writerow({name: csv_cell(value) for name, value in reading.items()})

    def __enter__(self) -> Self:
        self.start_monitoring()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop_monitoring()


class OptimizedFeatureCache:
    """Keeps the `max_size` most recently used feature rows: float32 vectors of any length under any hashable key.

    A row is copied in and handed out read-only, so nobody can change what is stored. With `record=False`
    (pre-warming) a lookup is left out of the hits and misses. ValueError for a `max_size` under 1 or features that
    are not one vector.
    """

    def __init__(self, max_size: int = 1000) -> None:
        if max_size < 1:
            raise ValueError(f"max_size is {max_size}; the cache must hold at least 1 row")
        self.max_size = max_size
        self.hits = 0
        self.misses = 0
        self._rows: OrderedDict[Hashable, NDArray[np.float32]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: Hashable) -> bool:
        """Whether the key is stored; neither counted nor a use."""
        return key in self._rows

    def get(self, key: Hashable, *, record: bool = True) -> NDArray[np.float32] | None:
        """The row stored under `key`, which becomes the most recently used, or None."""
        row = self._rows.get(key)
        if row is None:
            self.misses += record
            return None
        self._rows.move_to_end(key)
        self.hits += record
        return row

    def put(self, key: Hashable, features: ArrayLike) -> None:
        """Store a copy as the most recently used row; the least recently used one leaves when there are too many."""
        row = np.asarray(features, dtype=np.float32)
        if row.ndim != 1:
            raise ValueError(f"features under key {key!r} have shape {row.shape}; one vector is needed")
        rows = self._rows
        # Over bytes, because the owner of a plain array could make it writeable again.
        rows[key] = np.frombuffer(row.tobytes(), dtype=np.float32)
        rows.move_to_end(key)
        if len(rows) > self.max_size:
            rows.popitem(last=False)

    def get_batch(self, keys: Iterable[Hashable], *, record: bool = True) -> list[NDArray[np.float32] | None]:
        """`get` for each key in turn."""
        return [self.get(key, record=record) for key in keys]

    def put_batch(self, keys: Sequence[Hashable], rows: Sequence[ArrayLike] | NDArray[Any]) -> None:
        """`put` for each pair in turn; ValueError, before anything is stored, if the lengths differ."""
        if len(keys) != len(rows):
            raise ValueError(f"{len(keys)} keys came with {len(rows)} rows")
        for key, row in zip(keys, rows, strict=True):
            self.put(key, row)

    def get_stats(self) -> dict[str, float]:
        """hits, misses, hit_rate (0.0 before the first lookup), size, max_size."""
        lookups = self.hits + self.misses
        hit_rate = self.hits / lookups if lookups else 0.0
        return {
            "hits": self.hits,
            "misses": self.misses,
            "hit_rate": hit_rate,
            "size": len(self._rows),
            "max_size": self.max_size,
        }

    def clear(self) -> None:
        """Forget all rows and counts."""
        self._rows.clear()
        self.hits = self.misses = 0


_INT64 = np.dtype(np.int64)


class VectorizedDecisionFusion:
    """Fuses decisions of an RL-only policy with the advice, by the rules spelled out in `src.advisor.fusion`.

    `config`: a mapping or an object with llm_weight, confidence_threshold and risk
    (`src.advisor.fusion.read_config`); what it lacks takes the default. `sequential` True, or
    `vectorized_decision_fusion: false` in the config, uses the plain loop: same actions, same counts, slower.
    `counts` (float64[9]: `fusion.RULES`, then advice_changed) is what a checkpoint stores and restores.
    """

    def __init__(self, config: object = None, *, sequential: bool | None = None) -> None:
        settings, self.llm_weight, compiled = fusion.read_config(config)
        self.confidence_threshold = settings.confidence_threshold
        self.risk = settings.risk
        self.sequential = not compiled if sequential is None else sequential
        self._state = fusion.new_state(settings, self.llm_weight)
        self.counts = self._state[fusion.N_LIMITS :]
        self._fuse: fusion.Fuse = fusion.fuse_sequential if self.sequential else fusion.compiled_fuse()

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
        consecutive_losses, drawdown_current (fraction of the drawdown buffer used) and win_rate_recent; formula:
        `src.advisor.fusion.risk_scores`."""
        return fusion.risk_scores(position_states, self.risk)

    def get_stats(self) -> dict[str, Any]:
        """How many elements each rule decided, `total`, `rates` per rule (0.0 before the first), how often advice
        changed the action, and which `loop` fused: compiled or sequential."""
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
    does. It reads and never changes training; an interval of 1 writes more often and gives the same totals.
    `stop_requested` is asked at every step: once it answers True training ends within that step and `stopped` is
    True. ValueError for an interval under 1.
    """

    _KEPT = "total_reward", "total_steps", "total_episodes", "writes", "_steps", "_timesteps", "_reward", "_episodes"

    def __init__(
        self,
        log_interval: int = 100,
        sinks: Iterable[Sink] = (),
        total_timesteps: int | None = None,
        phase: str = "",
        *,
        stop_requested: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__()
        if log_interval < 1:
            raise ValueError(f"log_interval is {log_interval}; it must be at least 1 vec-env step")
        self.log_interval = log_interval
        self.sinks = tuple(sinks)
        self.total_timesteps = total_timesteps
        self.phase = phase
        self.stop_requested = stop_requested
        self.stopped = False
        self.total_reward = 0.0
        self.total_steps = 0
        self.total_episodes = 0
        self.writes = 0
        self._start_interval()

    def _start_interval(self) -> None:
        self._steps, self._timesteps, self._untimed, self._reward = 0, 0, 0, 0.0
        self._episodes: list[tuple[float, int]] = []  # return and length of each that ended
        self._since = time.perf_counter()

    def _on_training_start(self) -> None:
        self.stopped = False
        self._since, self._untimed = time.perf_counter(), self._timesteps

    def get_state(self) -> dict[str, Any]:
        """The totals and the interval under way, without its clock: what a checkpoint keeps."""
        return {name: getattr(self, name) for name in self._KEPT} | {"_episodes": [*self._episodes]}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there; timesteps from before the restart count in no speed."""
        for name in self._KEPT:
            setattr(self, name, state[name])

    def _on_step(self) -> bool:
        rewards = self.locals["rewards"]
        step_reward = float(rewards.sum(dtype=np.float64))
        self.total_reward += step_reward
        self.total_steps += 1
        self._reward += step_reward
        self._steps += 1
        self._timesteps += len(rewards)
        dones = self.locals["dones"]
        if dones.any():
            infos = self.locals["infos"]
            for i in np.flatnonzero(dones):
                episode = infos[i].get("episode")
                if episode is not None:
                    self.total_episodes += 1
                    self._episodes.append((float(episode["r"]), int(episode["l"])))
        if self._steps >= self.log_interval:
            self.flush()
        if self.stop_requested is not None and self.stop_requested():
            self.stopped = True
        return not self.stopped

    def _on_training_end(self) -> None:
        self.flush()

    def flush(self) -> None:
        """Write what was gathered since the last record; nothing gathered writes nothing."""
        if self._steps:
            record = self._record()
            for sink in self.sinks:
                sink.write(record)
            self.writes += 1
        self._start_interval()

    def _record(self) -> dict[str, Any]:
        seconds, timed = time.perf_counter() - self._since, self._timesteps - self._untimed
        record: dict[str, Any] = {
            "phase": self.phase,
            "num_timesteps": self.num_timesteps,
            "steps_per_s": timed / seconds if timed and seconds > 0 else None,
            "mean_reward": self._reward / self._timesteps,
            "episodes": len(self._episodes),
        }
        means = np.mean(self._episodes, axis=0).tolist() if self._episodes else (None, None)
        record["mean_episode_reward"], record["mean_episode_length"] = means
        if self.total_timesteps:
            record["fraction_done"] = min(1.0, self.num_timesteps / self.total_timesteps)
        record.update(train_values(self.logger.name_to_value))
        return record

    def close(self) -> None:
        """Write what is left and close the sinks."""
        self.flush()
        for sink in self.sinks:
            sink.close()


class EnvironmentStatePool:
    """Lends environments (anything with `reset(seed=)` and `close()`) out again instead of building them anew.

    Safe to use from several threads. Environments are built when first needed. Every one handed out, built just now
    or used before, stands where a fresh one stands after `reset(seed=seed)`: its reset is the whole of what it
    remembers (Gymnasium's contract), and where it has `get_state`/`set_state` the state it was born with is put back
    first. When all `pool_size` are out, `acquire` builds a temporary one with id -1, closed on release; `pool_size` 0
    always does (`environment_state_pooling: false`), with the same results. ValueError for a negative size.
    """

    def __init__(
        self,
        env_class: Callable[..., Any],
        env_kwargs: Mapping[str, Any] | None = None,
        pool_size: int = 8,
        *,
        seed: int = 0,
    ) -> None:
        if pool_size < 0:
            raise ValueError(f"pool_size is {pool_size}; it must be at least 0")
        self.env_class = env_class
        self.env_kwargs = dict(env_kwargs or {})
        self.pool_size = pool_size
        self.seed = seed
        self._lock = threading.Lock()
        self._envs: list[Any] = [None] * pool_size
        self._born: list[Any] = [None] * pool_size
        self._free = list(range(pool_size - 1, -1, -1))
        self._lent: set[int] = set()
        self._temporary: list[Any] = []
        self._uses = 0
        self._temporary_uses = 0
        self._closed = False

    def acquire(self, seed: int | None = None) -> tuple[int, Any]:
        """An environment, reset with `seed` (the pool's where None), and its id; -1 for a temporary one.
        RuntimeError once closed."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the environment pool is closed")
            env_id = self._free.pop() if self._free else -1
            if env_id >= 0:
                self._lent.add(env_id)
        # Building and resetting take long and touch only this slot: the lock is not held.
        try:
            if env_id < 0:
                env = self.env_class(**self.env_kwargs)
                env.reset(seed=self.seed if seed is None else seed)
            else:
                env = self._restart(env_id, seed)
        except BaseException:
            if env_id >= 0:
                self._give_back(env_id)
            raise
        with self._lock:
            self._uses += 1
            if env_id < 0:
                self._temporary_uses += 1
                self._temporary.append(env)
        return env_id, env

    def _restart(self, env_id: int, seed: int | None) -> Any:
        env = self._envs[env_id]
        if env is None:
            env = self._envs[env_id] = self.env_class(**self.env_kwargs)
            if hasattr(env, "get_state") and hasattr(env, "set_state"):
                self._born[env_id] = env.get_state()
        elif self._born[env_id] is not None:
            env.set_state(self._born[env_id])
        env.reset(seed=self.seed if seed is None else seed)
        return env

    def _give_back(self, env_id: int) -> None:
        with self._lock:
            self._lent.remove(env_id)
            self._free.append(env_id)

    def release(self, env_id: int, env: Any = None) -> None:
        """Give an environment back. A temporary one (-1) is closed; `env` says which, and is needed when several are
        out.

        ValueError for an id that is not in use, or a temporary environment that is not this pool's.
        """
        if env_id != -1:
            with self._lock:
                if env_id not in self._lent:
                    raise ValueError(f"environment {env_id} is not in use; in use: {sorted(self._lent)}")
                self._lent.remove(env_id)
                self._free.append(env_id)
            return
        with self._lock:
            matching = [i for i, other in enumerate(self._temporary) if env is None or other is env]
            if len(matching) != 1:
                temporary = len(self._temporary)
                raise ValueError(f"environment -1 with env={env!r} names {len(matching)} of {temporary} in use, not 1")
            leaving = self._temporary.pop(matching[0])
        leaving.close()

    def reset_all(self) -> None:
        """Put every pooled environment built so far at its fresh start, those in use too; who holds them does not
        change."""
        for env_id, env in enumerate(self._envs):
            if env is not None:
                self._restart(env_id, None)

    def get_stats(self) -> dict[str, float]:
        """pool_size, built, available, in_use (pooled ones), total_uses (temporary ones too), avg_uses_per_env
        (uses of pooled environments per one built), temporary (how many were made in all)."""
        with self._lock:
            built = sum(env is not None for env in self._envs)
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
            envs = [env for env in self._envs if env is not None] + self._temporary
            self._envs, self._temporary = [None] * self.pool_size, []
        for env in envs:
            env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class TestConfig(Configuration):
    """Everything a run can be told: frozen sections, any key of which reads flat as well (`config.vectorized_envs`).

    Built by `create_test_config` or `from_file`; `sections`, `to_dict` and the flat keys come from `Configuration`.
    """

    __test__: ClassVar[bool] = False  # the name would have pytest collect it

    @classmethod
    def from_file(cls, path: Path | str, mode: str | None = None, **overrides: Any) -> TestConfig:
        """The configuration of a YAML file, `overrides` over it; `mode` None takes the file's.

        ConfigError names file, key, value and what is allowed; MarketError for an unknown market.
        """
        return build_config(mode, load_config_file(path), overrides, source=str(path), model=TestConfig)


def create_test_config(mode: str = "hardware_maximized", market: str = "NQ", **overrides: Any) -> TestConfig:
    """The defaults of a mode (hardware_maximized: 32 accounts, minibatch 1024; pipeline: 8 and 256) under `overrides`.

    An override is any key of the configuration (`device="cpu"`), `mock_llm=True`, `data=path`, or a section with a
    mapping (`fusion={"risk": {...}}`). ConfigError for an unknown mode, override or value; MarketError for the market.
    """
    return build_config(mode, {}, {"market": market, **overrides}, model=TestConfig)


class TestingFramework:
    """Runs a configuration from bars to report: `logs/<run>/` holds everything, the methods return the report.

    A framework serves one run. `env_pool` lends evaluation environments (`SessionBatch`) once the market is loaded.
    `phase_times` are seconds by phase, `total_time` those of the whole run, `run_folder` where it writes.
    """

    __test__: ClassVar[bool] = False  # the name would have pytest collect it

    def __init__(self, config: TestConfig, console: Console | None = None) -> None:
        self.config = config
        performance = config.performance
        self.hardware_monitor = HardwareMonitor(
            config.monitoring.hardware_interval_s, monitor_gpu=config.monitoring.monitor_gpu
        )
        self.feature_cache = OptimizedFeatureCache(config.llm.cache_size)
        self.decision_fusion = VectorizedDecisionFusion(config)
        self._bench = Bench(
            config,
            console or PlainConsole(),
            self.hardware_monitor,
            self.feature_cache,
            self.decision_fusion,
            BatchedCallback,
        )
        pool_size = performance.env_pool_size if performance.environment_state_pooling else 0
        self.env_pool = EnvironmentStatePool(self._bench.session_batch, {}, pool_size)
        self._bench.pool = self.env_pool

    @property
    def total_time(self) -> float:
        return self._bench.total_time

    @property
    def phase_times(self) -> dict[str, float]:
        return self._bench.phase_times

    @property
    def run_folder(self) -> Path | None:
        return self._bench.folder

    def run_hardware_maximized_validation(self) -> dict[str, Any]:
        """The hardware-maximized validation; UserError for input to mend, InterruptedRun when stopped."""
        return run_validation(self._bench)

    def run_automated_pipeline(
        self, *, start_phase: int = 1, auto_resume: bool = False, command: str = ""
    ) -> dict[str, Any]:
        """The three phases, resumable at any instant (`src.runs.pipeline`); `command` is what a stopped run says to
        type. UserError for input to mend, InterruptedRun when stopped; the report has no arms where it stopped early.
        """
        return run_pipeline(self._bench, start_phase=start_phase, auto_resume=auto_resume, command=command)
