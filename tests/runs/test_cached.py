"""What a run keeps in its feature cache: answers of a language model, features of own environments, nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from src.agent.own_cache import add_worker_counts, share_cache
from src.testing_framework import OptimizedFeatureCache, TestingFramework
from src.trading.routes import make_custom_vec_env
from tests.tiny_runs import bar_files, quick_calendar, tiny_config

TINY_MODEL = {"llm.model": "tiny", "llm.llm_threads": 1, "llm.tabulation_budget_s": 1e-3}
OWN = {"environment.env_class": "tests.runs.featured_env:Featured"}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    threads = torch.get_num_threads()
    with quick_calendar():
        yield
    torch.set_num_threads(threads)


def report_of(changes: dict[str, Any]) -> dict[str, Any]:
    framework = TestingFramework(tiny_config(changes), Console(quiet=True))
    pipeline = changes.get("test_mode.mode") == "pipeline"
    return framework.run_automated_pipeline() if pipeline else framework.run_hardware_maximized_validation()


@pytest.mark.parametrize("mode", ["hardware_maximized", "pipeline"])
def test_own_environments_get_the_runs_cache_and_their_lookups_are_counted(mode: str) -> None:
    report = report_of({**OWN, "hardware.vec_env": "dummy", "test_mode.mode": mode})
    counted = report["cache"]
    # Training, and the production trial's four rollouts of each network, in episodes of five steps.
    assert (counted["misses"], counted["hits"]) == (5, 128 + 256 - 5)
    assert report["cache_hit_rate"] == 379 / 384 == report["targets"]["cache_hit_rate"]["measured"]
    assert counted["words"].startswith("379 of 384 lookups hit: ")


def test_environments_in_worker_processes_have_a_cache_each_whose_lookups_are_added() -> None:
    cache = OptimizedFeatureCache(3)
    cache.hits, cache.misses = 10, 20
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # of an earlier test: a run's imports more
    with closing(make_custom_vec_env("subproc", OWN["environment.env_class"], {}, 2)) as env:
        assert share_cache(env, cache)
        env.reset()
        for _ in range(10):
            env.step(np.zeros(2, np.int64))
        add_worker_counts(env, cache)
        assert [own.max_size for own in env.get_attr("feature_cache")] == [3, 3]
        assert not any(env.env_method("loaded", "src.testing_framework"))
    # Two workers, two episodes of five steps each, room for three of their rows: none is there when it comes round.
    assert (cache.hits, cache.misses) == (10, 20 + 2 * 10)


def test_nothing_is_kept_where_the_configuration_says_so() -> None:
    report = report_of({**OWN, "hardware.vec_env": "dummy", "performance.cached_llm_features": False})
    assert report["cache_hit_rate"] is report["cache"]["hit_rate"] is None
    assert report["cache"]["words"] == "not measured: performance.cached_llm_features is false, so nothing is kept"


def test_own_environments_without_the_attribute_are_left_alone() -> None:
    changes = {"environment.env_class": "tests.tiny_runs:CountingEnv", "hardware.vec_env": "dummy"}
    report = report_of({**changes, "validation.required": ["cache_hit_rate"]})
    assert report["cache_hit_rate"] is None
    assert report["targets"]["cache_hit_rate"] | {"target": 0} == {
        "target": 0, "measured": None, "required": True, "at_most": False, "status": "not_applicable",
        "reason": "not measured: nothing expensive was looked up (your environments take no feature_cache)",
    }  # fmt: skip
    assert report["validation_passed"] is False, "what is required and was not measured is not met"


def test_a_hit_is_an_answer_the_model_was_not_asked_for_again(tmp_path: Path) -> None:
    bars = str(bar_files(tmp_path)["plain"])
    changes = {**TINY_MODEL, "data.path": bars, "llm.store_path": "answers.sqlite3"}
    first, second = report_of(changes), report_of(changes)
    asked = first["advice"]["tabulation"]["asked_now"]
    assert asked > 0
    assert (first["cache"]["hits"], first["cache"]["misses"], first["cache_hit_rate"]) == (0, asked, 0.0)
    assert (second["cache"]["hits"], second["cache"]["misses"], second["cache_hit_rate"]) == (asked, 0, 1.0)
    assert first["advice"]["sha256"] == second["advice"]["sha256"]
