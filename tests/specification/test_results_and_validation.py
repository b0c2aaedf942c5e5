"""The report's keys as the specification's example has them, in the report of a run and in the validator's file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.small_runs import finished
from tests.specification.conftest import Reader
from tests.specification.interfaces import REPORT_EXAMPLE

pytestmark = pytest.mark.slow


def test_a_run_reports_every_key_of_the_example_in_its_unit() -> None:
    report = finished("plain").written
    assert report.keys() >= REPORT_EXAMPLE.keys()
    assert report["test_name"] == REPORT_EXAMPLE["test_name"]
    assert report["gpu_utilization"] is None or 0.0 <= report["gpu_utilization"] <= 100.0
    assert report["cache_hit_rate"] is None, "rules give the advice: nothing expensive was looked up"
    assert 0.05 < report["peak_memory_gb"] < 24.0
    assert report["execution_time"] == pytest.approx(sum(report["phase_times"].values()), abs=30.0)
    assert report["timesteps_completed"] == 512 + 256
    assert report["validation_passed"] is True


def test_the_validators_file_has_the_same_keys_and_what_a_job_reads(reader: Reader) -> None:
    output = Path("logs/validation.json")
    options = ("--only", "versions", "--only", "report", "--output", str(output))
    ended = reader.types("python validate_testing_framework.py --market ES --quick", *options)
    written = json.loads((reader.folder / output).read_text())
    assert (ended.code, written["validation_passed"], written["failed"], written["exit_code"]) == (0, True, [], 0)
    assert written.keys() >= REPORT_EXAMPLE.keys()
    assert written["test_name"] == "Installation Validation"
    assert written["timesteps_completed"] == 512 + 256
    assert written["execution_time"] == written["seconds"] > 0.0


def test_one_that_fails_says_which_check(reader: Reader) -> None:
    (reader.folder / "broken.csv").write_text("datetime,open\n2024-01-01,1\n")
    options = ("--data", "broken.csv", "--only", "data", "--output", "logs/failed.json")
    ended = reader.types("python validate_testing_framework.py --market NQ", *options)
    written = json.loads((reader.folder / "logs" / "failed.json").read_text())
    assert (ended.code, written["validation_passed"], written["failed"]) == (1, False, ["data"])
    assert written["peak_memory_gb"] is None
