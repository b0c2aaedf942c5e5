"""What scripts written for the specification's framework elsewhere call, read and set."""

from __future__ import annotations

import inspect
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from stable_baselines3 import PPO
from stable_baselines3.common.logger import KVWriter, Logger

from src.errors import ConfigError
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
from tests.recorded_nvml import RecordedNvml
from tests.tiny_runs import CountingEnv, bar_files, quick_calendar, tiny_config

# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize("mode", ["hardware_maximized", "pipeline"])
def test_a_configuration_is_made_by_its_class(mode: str) -> None:
    assert TestConfig(mode=mode, market="ES") == TestConfig(mode, "ES") == create_test_config(mode, "ES")
    config = TestConfig(mode=mode, market="ES", batch_size=512, vectorized_envs=16, fusion={"risk": {}})
    assert (config.mode, config.market, config.batch_size, config.vectorized_envs) == (mode, "ES", 512, 16)
    assert TestConfig.model_validate(config.to_dict()) == config
    assert TestConfig() == create_test_config()


def test_a_configuration_that_cannot_be_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match="batch_sice"):
        TestConfig(mode="pipeline", market="NQ", batch_sice=1)
    with pytest.raises(ConfigError, match="needs a TestConfig, not a dict"):
        TestingFramework({"mode": "pipeline"})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="mode"):
        TestConfig(mode="overnight", market="NQ")


def test_the_timesteps_of_a_configuration_are_those_its_run_completes() -> None:
    assert create_test_config("hardware_maximized", "NQ").total_timesteps == 50_000 + 25_000
    assert TestConfig("pipeline", "NQ", phase2={"total_timesteps": 1_000}).total_timesteps == 1_000 + 25_000


# ---------------------------------------------------------------- hardware monitor


def test_a_monitor_says_whether_it_monitors_and_whether_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for monitor, there in ((HardwareMonitor(monitor_gpu=False), False), (HardwareMonitor(nvml=RecordedNvml()), True)):
        assert (monitor.monitoring, monitor.gpu_available) == (False, there)
        monitor.start_monitoring()
        assert (monitor.monitoring, monitor.gpu_available) == (True, there)
        monitor.stop_monitoring()
        assert (monitor.monitoring, monitor.gpu_available) == (False, there)


def test_an_average_of_the_newest_samples_only() -> None:
    monitor = HardwareMonitor(log_interval=1)
    monitor.metrics_history = [{"gpu_percent": value, "time": 10.0 + i} for i, value in enumerate((0, 50, None, 100))]
    assert monitor.get_average_gpu_utilization() == 50.0
    assert monitor.get_average_gpu_utilization(last_n=1) == 100.0
    assert monitor.get_average_gpu_utilization(last_n=3) == monitor.get_average_gpu_utilization(3) == 75.0
    assert monitor.get_average_gpu_utilization(last_n=100) == 50.0
    for last_n in (0, -1):
        with pytest.raises(ValueError, match=f"last_n is {last_n}; it must be at least 1"):
            monitor.get_average_gpu_utilization(last_n=last_n)


def test_the_summary_has_the_keys_that_are_read() -> None:
    with HardwareMonitor(log_interval=0.05, monitor_gpu=False) as monitor:
        time.sleep(0.12)
    summary = monitor.get_summary()
    assert summary["avg_gpu_utilization"] == monitor.get_average_gpu_utilization() == 0.0
    assert summary["peak_gpu_memory_gb"] is None
    assert 0.1 < summary["duration_seconds"] < 30
    assert HardwareMonitor().get_summary()["duration_seconds"] == 0.0


# ---------------------------------------------------------------- cache


def test_a_key_is_made_of_all_the_data_and_the_index() -> None:
    cache = OptimizedFeatureCache(max_size=100)
    bars = np.random.default_rng(0).random((40, 6))
    key = cache.get_key(bars, 39)
    assert isinstance(key, str)
    assert key == cache.get_key(bars.copy(), current_idx=39) == OptimizedFeatureCache.get_key(bars, 39)
    middle = bars.copy()
    middle[20, 3] += 1e-9  # neither among the first nor among the last rows
    others = [cache.get_key(bars, 38), cache.get_key(middle, 39), cache.get_key(bars.reshape(-1), 39)]
    others += [cache.get_key(bars.astype(np.float32), 39), cache.get_key(bars[:0], 39), cache.get_key(bars[::-1], 39)]
    assert len({key, *others}) == 7
    frame = pd.DataFrame({"time": ["09:30", "09:35"], "close": [1.0, 2.0]})
    assert cache.get_key(frame, 1) == cache.get_key(frame.copy(), 1) != cache.get_key(frame.assign(close=[1.0, 2.5]), 1)
    cache.put(key, np.zeros(33))
    assert key in cache


# ---------------------------------------------------------------- fusion


def test_fusion_shows_its_configuration_and_its_risk_configuration() -> None:
    config: dict[str, Any] = {"llm_weight": 0.3, "confidence_threshold": 0.7, "risk": {"max_consecutive_losses": 3}}
    fusion = VectorizedDecisionFusion(config)
    assert fusion.config.get("llm_weight") == fusion.llm_weight == 0.3  # type: ignore[attr-defined]
    assert fusion.risk_config.get("max_consecutive_losses", 5) == 3
    assert VectorizedDecisionFusion().config == {}


def test_position_states_may_lack_what_is_not_known() -> None:
    fusion = VectorizedDecisionFusion({})
    scores = fusion.calculate_risk_scores([{}, {"consecutive_losses": 5}, {"drawdown_current": 0.8}])
    assert scores.tolist() == [0.0, 1.0, 1.0]
    assert fusion.calculate_risk_scores([]).shape == (0,)


# ---------------------------------------------------------------- callback


class Written(KVWriter):
    """An output of SB3's logger that keeps what is written."""

    def __init__(self) -> None:
        self.writes: list[tuple[int, dict[str, Any]]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        assert key_values.keys() == key_excluded.keys()
        self.writes.append((step, dict(key_values)))

    def close(self) -> None: ...


def learned(callback: BatchedCallback | None, *outputs: KVWriter) -> PPO:
    model = PPO("MlpPolicy", CountingEnv(), n_steps=64, batch_size=32, n_epochs=1, seed=0, device="cpu")
    model.set_logger(Logger(None, list(outputs)))
    return model.learn(250, callback=callback)


def test_a_callback_alone_writes_to_the_logger_and_counts_what_it_wrote() -> None:
    output, plain = Written(), Written()
    callback = BatchedCallback(100)
    with_it, without = learned(callback, output), learned(None, plain)
    own = [(step, values) for step, values in output.writes if "run/mean_reward" in values]
    assert [step for step, _ in own] == [100, 200, 256]
    assert callback.writes == 3
    assert own[0][1]["run/episodes"] == 20
    assert own[1][1].keys() >= {"run/steps_per_s", "run/mean_episode_reward", "train/loss"}
    # What PPO writes itself is as it was: nothing of it was taken away.
    others = [(step, sorted(values)) for step, values in output.writes if "run/mean_reward" not in values]
    assert others == [(step, sorted(values)) for step, values in plain.writes]
    assert all(torch.equal(a, b) for a, b in zip(with_it.policy.parameters(), without.policy.parameters(), strict=True))


def test_a_write_that_went_nowhere_is_not_counted() -> None:
    callback = BatchedCallback(log_interval=100)
    learned(callback)
    assert (callback.writes, callback.total_steps) == (0, 256)


def test_verbose_is_its_second_argument(caplog: pytest.LogCaptureFixture) -> None:
    assert list(inspect.signature(BatchedCallback).parameters)[:2] == ["log_interval", "verbose"]
    with caplog.at_level(logging.INFO, "src"):
        learned(BatchedCallback(128, 0))
        assert not caplog.records
        learned(BatchedCallback(128, 1))
    assert [record.message.partition(",")[0] for record in caplog.records] == ["128 timesteps", "256 timesteps"]
    assert "25 episodes of mean reward" in caplog.records[0].message
    with pytest.raises(ValueError, match="sinks are given by name"):
        BatchedCallback(128, [])  # type: ignore[arg-type]


# ---------------------------------------------------------------- framework


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    threads = torch.get_num_threads()
    with quick_calendar():
        yield str(bar_files(tmp_path_factory.mktemp("bars"))["plain"])
    torch.set_num_threads(threads)


def own_tools() -> dict[str, Any]:
    return {
        "hardware_monitor": HardwareMonitor(0.02, monitor_gpu=False),
        "feature_cache": OptimizedFeatureCache(7),
        "decision_fusion": VectorizedDecisionFusion({"llm_weight": 1.0, "confidence_threshold": 1.0}),
    }


@pytest.mark.parametrize("how", ["given", "set"])
def test_the_run_uses_the_tools_given_to_it_or_set_on_it(
    bars: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.chdir(tmp_path)
    config, tools = tiny_config({"data.path": bars}), own_tools()
    framework = TestingFramework(config, Console(quiet=True), **(tools if how == "given" else {}))
    for name, tool in tools.items():
        setattr(framework, name, tool)
        assert getattr(framework, name) is tool
    tools["feature_cache"].put("mine", np.zeros(33))
    assert (framework.start_time, framework.total_timesteps, framework.total_time) == (None, 0, 0.0)
    before = time.time()
    report = framework.run_hardware_maximized_validation()
    assert before <= (framework.start_time or 0.0) <= time.time()
    assert framework.total_timesteps == report["timesteps_total"] == 128 + 3 * 64
    assert config.total_timesteps == report["timesteps_completed"] == 128 + 64
    # Every 20 ms, not at the interval of an hour that the configuration asks for.
    assert report["hardware"]["samples"] == len(tools["hardware_monitor"].metrics_history) > 5
    assert (report["cache"]["max_size"], report["cache"]["size"]) == (7, 1)
    assert "mine" in tools["feature_cache"]
    assert report["fusion"] == tools["decision_fusion"].get_stats()
    assert report["fusion"]["weighted_llm"] > report["fusion"]["llm_confident"] == 0
    summary = framework.get_summary()
    assert summary["duration_seconds"] == report["execution_time"] == framework.total_time
    assert summary["vectorized_envs"] == 4
    assert summary["avg_gpu_utilization"] == summary["peak_gpu_memory_gb"] == 0.0
    assert report["summary"] == summary
    with pytest.raises(RuntimeError, match="the run has started with its own cache"):
        framework.feature_cache = OptimizedFeatureCache()
    framework.logger.info("read by whoever follows the run")
    assert "read by whoever" not in (framework.run_folder / "run.log").read_text()  # type: ignore[operator]


def test_what_is_logged_to_the_frameworks_logger_during_a_run_is_in_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    config = tiny_config({"environment.env_class": f"{__name__}:Telling", "hardware.vec_env": "dummy"})
    framework = TestingFramework(config, Console(quiet=True))
    Telling.logger = framework.logger
    framework.run_hardware_maximized_validation()
    assert "an environment was made" in (framework.run_folder / "run.log").read_text()  # type: ignore[operator]


class Telling(CountingEnv):
    logger: logging.Logger

    def __init__(self) -> None:
        super().__init__()
        self.logger.info("an environment was made")


def test_a_pool_takes_back_a_temporary_environment_without_being_told_which() -> None:
    pool = EnvironmentStatePool(CountingEnv, {}, pool_size=1)
    lent = [pool.acquire() for _ in range(3)]
    for env_id, _ in lent:
        pool.release(env_id)
    assert pool.get_stats()["in_use"] == 0
