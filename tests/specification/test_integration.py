"""The menu entries and the CI steps as the specification writes them."""

from __future__ import annotations

import pytest
import yaml

from src import menu
from src.menu import training_menu_options
from tests.specification.conftest import Reader
from tests.specification.interfaces import CI_COMMANDS, CI_YAML, MENU


def test_the_menu_entries_have_callables_of_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr(menu, "_run", lambda script, market, options: ran.append(f"{script} {market}") or 0)
    entries = dict(training_menu_options("ES"))
    assert list(entries) == list(MENU.values())
    assert [entries[label]() for label in MENU.values()] == [0, 0, 0]
    assert ran == ["run_hardware_maximized.py ES", "run_pipeline.py ES", "validate_testing_framework.py ES"]


def test_the_steps_of_a_workflow_are_the_commands_tried_here() -> None:
    assert [step["run"] for step in yaml.safe_load(CI_YAML)] == list(CI_COMMANDS)


@pytest.mark.long
def test_the_ci_run_ends_well_as_it_stands(reader: Reader) -> None:
    """The same command is run on fewer timesteps in test_quick_start.py."""
    finished = reader.types(CI_COMMANDS[1])
    assert finished.code == 0, finished
    assert "Cannot say yet: a quick run is too short to learn." in " ".join(finished.out.split())


@pytest.mark.slow
def test_the_ci_validation_ends_well_on_its_cheap_checks(reader: Reader) -> None:
    """The whole command is timed in tests/test_validate_command.py."""
    only = [word for name in ("versions", "config", "fusion", "pool") for word in ("--only", name)]
    finished = reader.types(CI_COMMANDS[0], *only)
    assert finished.code == 0, finished
