"""What every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# For all property tests: no deadline (the first call compiles), printed blobs so that a CI failure can be replayed.
settings.register_profile("project", deadline=None, print_blob=True)
settings.load_profile("project")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real market bars beside the checkout; tests that need it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real market bars are not on this machine ({SHARED_DATA} is absent)")
    return SHARED_DATA
