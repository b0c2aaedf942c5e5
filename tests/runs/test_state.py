"""Which folder a run resumes in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from src.runs.state import RunState
from src.testing_framework import create_test_config


def state(of_configuration: str, mode: str) -> RunState:
    config: Any = create_test_config(of_configuration, "ES", mock_llm=True)
    context: Any = SimpleNamespace(config=config, display=SimpleNamespace(say=lambda text: None))
    return RunState(context, mode, ("phase1",), 1, True)


@pytest.mark.parametrize("of_configuration", ["pipeline", "hardware_maximized"])
@pytest.mark.parametrize("mode", ["pipeline", "hardware_maximized"])
def test_a_run_is_found_by_its_mode_whatever_mode_its_configuration_is_of(
    mode: str, of_configuration: str, tmp_path: Path
) -> None:
    first, second = state(of_configuration, mode), state(of_configuration, mode)
    first.open(first.earlier_run(tmp_path), tmp_path)
    assert second.earlier_run(tmp_path) == first.folder
    other = {"pipeline": "hardware_maximized", "hardware_maximized": "pipeline"}[mode]
    assert state(of_configuration, other).earlier_run(tmp_path) is None
