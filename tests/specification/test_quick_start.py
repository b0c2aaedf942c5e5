"""The commands of the quick start: each is typed as it stands, options behind it only make it shorter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import run_hardware_maximized
import run_pipeline
import validate_testing_framework
from src.command_line import overrides_of
from src.testing_framework import create_test_config
from tests.forked_command import ROOT
from tests.specification.conftest import SHORT_RUN, Reader
from tests.specification.interfaces import (
    CI_COMMANDS,
    HARDWARE_COMMANDS,
    INSTALL,
    PIPELINE_COMMANDS,
    TROUBLESHOOTING_COMMANDS,
    VALIDATION_COMMANDS,
)

pytestmark = pytest.mark.slow
BASE_TIMESTEPS = {True: 5_000, False: 50_000}
"""By whether the run is quick."""


def test_the_requirements_are_where_the_command_looks_for_them() -> None:
    assert (ROOT / INSTALL[0].split()[-1]).is_file()


@pytest.mark.parametrize("line", [*HARDWARE_COMMANDS, *TROUBLESHOOTING_COMMANDS, CI_COMMANDS[1]])
def test_a_hardware_maximized_command_means_what_it_says(line: str) -> None:
    args = run_hardware_maximized._parser().parse_args(line.split()[2:])
    config = create_test_config("hardware_maximized", **overrides_of(args))
    options = line.split()
    for option, value in (("--market", config.market), ("--batch-size", str(config.batch_size)),
                          ("--vectorized-envs", str(config.vectorized_envs))):  # fmt: skip
        assert option not in options or options[options.index(option) + 1] == value
    assert config.mock_llm == ("--mock-llm" in options)
    assert config.base_timesteps == BASE_TIMESTEPS["--quick" in options]


def test_the_pipelines_and_the_validators_commands_are_parsed() -> None:
    parsed = [run_pipeline._parser().parse_args(line.split()[2:]) for line in PIPELINE_COMMANDS]
    assert [args.market for args in parsed] == ["NQ", "ES", "YM", "RTY"]
    assert [(args.start_phase, args.auto_resume, args.quick) for args in parsed] == [
        (1, None, None), (2, None, None), (1, True, None), (1, None, True),
    ]  # fmt: skip
    checks = [validate_testing_framework._parser().parse_args(line.split()[2:]) for line in VALIDATION_COMMANDS]
    assert [(args.market, args.quick) for args in checks] == [("NQ", False), ("ES", True), ("YM", False)]
    assert checks[2].output == Path("logs/validation_report.json")


@pytest.mark.parametrize(
    "line", [*HARDWARE_COMMANDS[-1:], *(pytest.param(line, marks=pytest.mark.long) for line in HARDWARE_COMMANDS[:-1])]
)
def test_a_hardware_maximized_run_ends_well(reader: Reader, line: str) -> None:
    finished = reader.types(line, *SHORT_RUN, "--batch-size", "64", "--device", "cpu")
    assert finished.code == 0, finished
    assert "All required targets met." in finished.out


def test_the_pipeline_runs_and_a_phase_needs_the_one_before(reader: Reader) -> None:
    plain, from_two, resumed, _ = PIPELINE_COMMANDS
    too_early = reader.types(from_two, *SHORT_RUN)
    assert (too_early.code, "Phase 2 needs" in too_early.err) == (2, True)
    assert reader.types(plain, *SHORT_RUN).code == 0
    nothing_left = reader.types(resumed.replace("YM", "NQ"))
    assert nothing_left.code == 0, nothing_left
    assert "nothing is left to do" in " ".join(nothing_left.out.split())


@pytest.mark.long
def test_the_pipeline_resumes_and_starts_from_a_phase_in_other_markets(reader: Reader) -> None:
    plain, from_two, resumed, _ = PIPELINE_COMMANDS
    assert reader.types(plain.replace("NQ", "ES"), *SHORT_RUN).code == 0
    again = reader.types(from_two)
    assert again.code == 0, again
    said = " ".join(again.out.split())
    assert "Settings are those of logs/pipeline_ES_" in said
    assert "training.timesteps 64" in said
    assert "phase1 (data and environments) is done" in said
    assert reader.types(resumed, *SHORT_RUN).code == 0
    nothing_left = reader.types(resumed)
    assert nothing_left.code == 0, nothing_left
    assert "nothing is left to do" in " ".join(nothing_left.out.split())


@pytest.mark.parametrize("line", VALIDATION_COMMANDS)
def test_the_validator_judges_and_saves_its_report(reader: Reader, line: str) -> None:
    finished = reader.types(line, "--only", "versions", "--only", "kernel")
    assert finished.code == 0, finished
    assert [text.split()[:2] for text in finished.out.splitlines()[:2]] == [
        ["passed", "versions"],
        ["passed", "kernel"],
    ]
    if "--output" in line:
        written = json.loads((reader.folder / "logs" / "validation_report.json").read_text())
        assert written["validation_passed"] is True
