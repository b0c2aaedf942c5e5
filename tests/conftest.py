"""What every test may use."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import src.numba_cache  # noqa: F401  (where compiled code is kept is decided before the fixture below)
from tests.forked_command import CommandServer

# For all property tests: no deadline (the first call compiles), printed blobs so that a CI failure can be replayed.
# Those that name no number of examples draw half of hypothesis' hundred here, and many in `make evidence`.
settings.register_profile("project", deadline=None, print_blob=True, max_examples=50)
settings.register_profile("evidence", settings.get_profile("project"), max_examples=500)
settings.load_profile("project")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


LONGEST = (
    "test_every_key_acts",
    "test_run_pipeline",
    "test_pipeline",
    "test_pipeline_failures",
    "test_documented_commands",
    "test_run_hardware_maximized",
    "test_groups",
    "test_engine",
    "test_damage",
    "test_benchmark_framework",
    "test_validate_command",
    "test_framework_run",
    "test_endpoint",
    "test_workers",
)
"""Files that take longest: begun first, so that no process is left alone with one of them at the end."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order of `LONGEST`, then those of many tests before those of few; each file's as they are."""
    tests = Counter(item.path for item in items)
    rank = {path: LONGEST.index(path.stem) if path.stem in LONGEST else len(LONGEST) for path in tests}
    items.sort(key=lambda item: (rank[item.path], -tests[item.path], str(item.path)))


def pytest_collection_finish() -> None:
    """Half a million objects of modules and tests are here to stay. A run collects garbage between its phases, each
    time through all of them in a quarter of a second, unless they are set aside."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real market bars beside the checkout; tests that need it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real market bars are not on this machine ({SHARED_DATA} is absent)")
    return SHARED_DATA


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandServer]:
    """Runs the repository's scripts as a shell does; one for all tests of this process, because it imports for long."""
    made = CommandServer(tmp_path_factory.mktemp("output"))
    yield made
    made.close()


@pytest.fixture(scope="session", autouse=True)
def _nobody_waits_for_the_disk() -> Iterator[None]:
    """Flushing to disk, 200 times a run, protects from a power failure, which no test causes: what a killed process has
    written is kept. A handle that is not open is still an error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: os.fstat(handle) and None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_in_the_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Stores of advice and the ledger of trials that a run keeps for the user go elsewhere, whatever a test sets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
