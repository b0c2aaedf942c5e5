"""The configuration files as the specification writes them: taken as they stand, and every key acts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from src.errors import ConfigError
from src.testing_framework import TestConfig
from tests.specification.interfaces import HARDWARE_YAML, PIPELINE_YAML


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "test_hardware_maximized.yaml").write_text(HARDWARE_YAML)
    (tmp_path / "test_pipeline.yaml").write_text(PIPELINE_YAML)
    return tmp_path


def test_the_file_of_the_hardware_maximized_mode_is_taken(folder: Path) -> None:
    config = TestConfig.from_file(folder / "test_hardware_maximized.yaml", "hardware_maximized")
    assert (config.device, config.vectorized_envs, config.batch_size, config.memory_fraction) == (
        "cuda",
        32,
        1024,
        0.95,
    )
    assert (config.timesteps_reduction, config.learning_rate, config.n_epochs) == (0.1, 3e-4, 5)
    assert (config.pi, config.vf, config.base_timesteps) == ((256, 128), (256, 128), 50_000)
    assert config.cached_llm_features is config.vectorized_decision_fusion is True
    assert config.batched_logging is config.environment_state_pooling is True


def test_the_file_of_the_pipeline_mode_is_taken(folder: Path) -> None:
    config = TestConfig.from_file(folder / "test_pipeline.yaml", "pipeline")
    assert (config.auto_advance, config.pause_between_phases, config.reallocate_resources) == (True, 5.0, True)
    assert (config.base_timesteps, config.finetune_timesteps) == (50_000, 25_000)
    assert (config.enabled, config.strategy, config.auto_resume) == (True, "phase_based", True)
    assert (config.phase1_estimated_duration, config.phase1_gpu_usage_memory_fraction) == (300.0, 0.3)
    for phase, share in ((config.phase1, 0.3), (config.phase2, 0.8), (config.phase3, 0.9)):
        assert phase.gpu_usage.memory_fraction == phase.gpu_utilization_target == share


def test_either_file_serves_either_command(folder: Path) -> None:
    """Neither names a mode, so both do."""
    for name in ("test_hardware_maximized.yaml", "test_pipeline.yaml"):
        for mode in ("hardware_maximized", "pipeline"):
            assert TestConfig.from_file(folder / name, mode).mode == mode


def test_cuda_is_refused_with_the_way_out_where_there_is_none(folder: Path) -> None:
    from src.agent.training import resolve_device

    config = TestConfig.from_file(folder / "test_hardware_maximized.yaml")
    if torch.cuda.is_available():
        assert resolve_device(config.hardware).type == "cuda"
        return
    with pytest.raises(ConfigError, match="--device cpu"):
        resolve_device(config.hardware)
    on_cpu = TestConfig.from_file(folder / "test_hardware_maximized.yaml", device="cpu")
    assert resolve_device(on_cpu.hardware).type == "cpu"
