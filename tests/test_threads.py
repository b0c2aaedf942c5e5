"""The public classes used by several threads at once: nothing is lost, torn or counted twice."""

from __future__ import annotations

import pickle
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from src.agent.log_sink import JsonLinesSink
from src.monitoring import hardware
from src.testing_framework import (
    BatchedCallback,
    EnvironmentStatePool,
    HardwareMonitor,
    OptimizedFeatureCache,
    TestConfig,
    TestingFramework,
    VectorizedDecisionFusion,
    create_test_config,
)
from tests.tiny_runs import CountingEnv, tiny_config


@pytest.fixture(autouse=True)
def eager_switching() -> Iterator[None]:
    """Threads change places after a microsecond, not after 5 ms: what can happen between two operations does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(n: int, work: Callable[[int], Any]) -> list[Any]:
    """What `n` threads return that begin at the same time; the first error of one of them is raised."""
    start = threading.Barrier(n)

    def begin(number: int) -> Any:
        start.wait(30)
        return work(number)

    with ThreadPoolExecutor(n) as pool:
        return [future.result(timeout=60) for future in [pool.submit(begin, number) for number in range(n)]]


class SlowKey(int):
    """A key in whose hash another thread takes its turn: between finding a row and marking it as used, say."""

    def __hash__(self) -> int:
        time.sleep(0)
        return super().__hash__()


def test_a_cache_counts_every_lookup_and_keeps_every_row_whole() -> None:
    cache, n, turns = OptimizedFeatureCache(20), 8, 300

    def work(number: int) -> int:
        rng, wrong = np.random.default_rng(number), 0
        for key in map(SlowKey, rng.integers(0, 60, turns).tolist()):
            row = cache.get(key)
            if row is None:
                cache.put(key, np.full(33, key))
            else:
                wrong += not (row == key).all()
        return wrong

    assert together(n, work) == [0] * n
    stats = cache.get_stats()
    assert stats["hits"] + stats["misses"] == n * turns
    assert stats["size"] == len(cache) == 20
    assert len(pickle.loads(pickle.dumps(cache))) == 20


def test_a_cache_may_be_cleared_and_copied_while_it_is_used() -> None:
    cache = OptimizedFeatureCache(10)

    def work(number: int) -> None:
        for turn in range(400):
            if number == 0:
                cache.clear()
            elif number == 1:
                pickle.dumps(cache)
            else:
                cache.put_batch([turn % 30, turn % 7], [[1.0], [2.0]])
                cache.get_batch(range(10))
                assert len(cache) <= 11

    together(6, work)


def test_a_row_is_computed_once_however_many_threads_ask_for_it() -> None:
    cache, computed = OptimizedFeatureCache(1_000), Counter[int]()

    def compute(key: int) -> np.ndarray:
        time.sleep(0.002)
        computed[key] += 1
        return np.full(33, key, np.float32)

    rows = together(8, lambda _: [cache.get_or_compute(key, lambda key=key: compute(key)) for key in range(25)])
    assert computed == dict.fromkeys(range(25), 1)
    assert all((row == key).all() for of_thread in rows for key, row in enumerate(of_thread))
    assert (cache.misses, cache.hits) == (25, 7 * 25)


def test_a_computation_that_fails_is_tried_by_the_next_thread() -> None:
    cache, tried = OptimizedFeatureCache(), []

    def compute() -> list[float]:
        tried.append(1)
        if len(tried) == 1:
            raise OSError("the model is busy")
        return [1.0]

    def work(_: int) -> str:
        try:
            return f"{cache.get_or_compute('key', compute)}"
        except OSError as error:
            return str(error)

    assert sorted(together(4, work)) == ["[1.]"] * 3 + ["the model is busy"]
    assert len(tried) == 2


def test_fusion_counts_every_decision() -> None:
    for sequential, n, turns in ((False, 2_000, 60), (True, 20, 60)):
        fusion = VectorizedDecisionFusion(sequential=sequential)
        rng = np.random.default_rng(0)
        rl, llm = rng.integers(0, 6, n), rng.integers(-1, 6, n)
        p, q, risk = rng.random((3, n), dtype=np.float32)
        expected = fusion.fuse_batch(rl, p, llm, q, risk)
        alone = fusion.counts.copy()

        def work(_: int, fusion: Any = fusion, turns: int = turns, ask: Any = (rl, p, llm, q, risk)) -> Any:
            return [fusion.fuse_batch(*ask) for _ in range(turns)]

        made = together(6, work)
        assert all(np.array_equal(actions, expected) for of_thread in made for actions in of_thread)
        np.testing.assert_array_equal(fusion.counts, alone * (6 * turns + 1))
        assert fusion.get_stats()["total"] == n * (6 * turns + 1)


def test_two_batches_are_never_fused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled loop adds to the counts without the interpreter's lock: two at once would lose some."""
    fusion, inside, most = VectorizedDecisionFusion(), [0], []
    real = fusion._fuse

    def fuse(*args: Any) -> int:
        inside[0] += 1
        most.append(inside[0])
        time.sleep(0.001)
        inside[0] -= 1
        return real(*args)

    monkeypatch.setattr(fusion, "_fuse", fuse)
    together(6, lambda _: [fusion.fuse_batch([1], [0.9], [1], [0.9], [0.0]) for _ in range(10)])
    assert (max(most), len(most)) == (1, 60)


def test_a_monitor_started_and_stopped_by_many_threads_has_one_sampler_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_work, most = Counter[str](), []

    class Sampler(hardware.Sampler):
        def __init__(self, **_: Any) -> None:
            self.gpu_available, self.gpu_name, self.gpu_reason, self.cores = False, "", "", 1
            self.failures, self.reasons, self.memory_measure = {}, {}, "pss"
            self._energy = hardware.PackageEnergy()
            at_work["now"] += 1
            most.append(at_work["now"])
            time.sleep(0.0005)

        def sample(self, phase: str = "") -> hardware.Reading:
            return dict.fromkeys(hardware.SAMPLE_FIELDS) | {"phase": phase, "time": time.time()}

        def close(self) -> None:
            at_work["now"] -= 1

    monkeypatch.setattr(hardware, "Sampler", Sampler)
    monitor = HardwareMonitor(log_interval=0.001, monitor_gpu=False)

    def work(number: int) -> None:
        for turn in range(60):
            (monitor.start_monitoring if (turn + number) % 2 else monitor.stop_monitoring)()
            if turn % 10 == 0:
                monitor.get_summary()
                monitor.get_average_gpu_utilization(last_n=5)
            assert isinstance(monitor.monitoring, bool)

    together(6, work)
    monitor.stop_monitoring()
    assert not monitor.monitoring
    assert max(most) == 1
    assert at_work["now"] == 0
    assert not any(thread.name == "hardware-monitor" for thread in threading.enumerate())
    assert monitor.get_summary()["thread_error"] == ""


class Kept:
    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def write(self, record: dict[str, Any]) -> None:
        time.sleep(0.0002)  # another thread takes its turn
        self.records.append(record)

    def close(self) -> None: ...


def stepping(callback: BatchedCallback, steps: int) -> None:
    """Vec-env steps of three accounts without a model, each of which ends an episode."""
    callback.model = SimpleNamespace(logger=SimpleNamespace(name_to_value={}))  # type: ignore[assignment]
    episode = {"episode": {"r": 1.0, "l": 2}}
    callback.locals = {"rewards": np.ones(3), "dones": np.array([True, False, False]), "infos": [episode, {}, {}]}
    for _ in range(steps):
        assert callback._on_step()


def test_records_written_while_steps_are_counted_lose_no_episode() -> None:
    kept = Kept()
    callback = BatchedCallback(7, sinks=[kept])

    def work(number: int) -> None:
        if number == 0:
            stepping(callback, 1_500)
        else:
            for _ in range(300):
                callback.flush()
                callback.get_state()

    together(4, work)
    callback.flush()
    assert sum(record["episodes"] for record in kept.records) == callback.total_episodes == 1_500
    assert callback.total_reward == 4_500.0
    assert callback.writes == len(kept.records)


def test_callbacks_of_several_trainings_share_a_file_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with JsonLinesSink(path) as sink:
        together(4, lambda number: stepping(BatchedCallback(1, sinks=[sink], phase=f"{number}" * 2_000), 150))
    lengths = Counter(len(line) for line in path.read_text().splitlines())
    assert sum(lengths.values()) == 600
    assert min(lengths) > 2_000


def test_temporary_environments_of_many_threads_are_each_closed_once() -> None:
    closed = Counter[int]()
    guard, in_use = threading.Lock(), set[int]()

    class Env(CountingEnv):
        def close(self) -> None:
            with guard:
                assert id(self) not in in_use, "closed while another thread holds it"
                closed[id(self)] += 1

    pool, kept = EnvironmentStatePool(Env, pool_size=2, prefill=True), []

    def work(number: int) -> None:
        for turn in range(40):
            env_id, env = pool.acquire()
            kept.append(env)  # no id is used again
            with guard:
                assert id(env) not in in_use
                in_use.add(id(env))
            env.step(np.int64(0))
            if turn % 8 == 0 and number == 0:
                pool.get_stats()
            with guard:
                in_use.discard(id(env))
            pool.release(env_id)  # without saying which

    together(6, work)
    stats = pool.get_stats()
    assert (stats["total_uses"], stats["in_use"], stats["available"]) == (240, 0, 2)
    assert stats["temporary"] == sum(closed.values()) == len(closed)
    pool.close()
    assert sum(closed.values()) == stats["temporary"] + 2


def test_configurations_made_by_many_threads_are_alike() -> None:
    made = together(6, lambda _: (create_test_config("pipeline", "ES", batch_size=128), TestConfig("pipeline", "ES")))
    assert all(one == other for one, other in pairwise(made))


def test_a_run_may_be_watched_from_another_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sys.setswitchinterval(1e-4)  # a whole run
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    changes = {"environment.env_class": "tests.tiny_runs:CountingEnv", "hardware.vec_env": "dummy"}
    framework = TestingFramework(tiny_config(changes), Console(quiet=True))
    over, seen = threading.Event(), list[dict[str, Any]]()

    def watch() -> None:
        while not over.is_set():
            seen.append(framework.get_summary())
            framework.hardware_monitor.get_average_gpu_utilization(last_n=100)
            framework.feature_cache.get_stats()
            framework.decision_fusion.get_stats()
            framework.env_pool.get_stats()
            over.wait(0.005)

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            framework.run_hardware_maximized_validation()
        finally:
            over.set()
        watching.result(timeout=30)
    assert len(seen) > 3
    assert framework.get_summary()["total_timesteps"] == 128
