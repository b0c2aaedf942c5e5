"""Which folder a pipeline goes on in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from src.runs.standing import Standing
from src.testing_framework import create_test_config


def standing(mode: str) -> Standing:
    config: Any = create_test_config(mode, "ES", mock_llm=True)
    bench: Any = SimpleNamespace(config=config, display=SimpleNamespace(say=lambda text: None))
    return Standing(bench, 1, True, lambda name: {})


@pytest.mark.parametrize("mode", ["pipeline", "hardware_maximized"])
def test_a_pipeline_is_found_again_whatever_mode_its_configuration_is_of(mode: str, tmp_path: Path) -> None:
    first, second = standing(mode), standing(mode)
    first.open(first.earlier_run(tmp_path), tmp_path)
    assert second.earlier_run(tmp_path) == first.folder
