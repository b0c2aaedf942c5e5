"""Compiles what the tests run, once for all of their processes: `python -m tests.warm_up`.

In a new clone each process would compile the same kernels, for a minute. `make test` does it on a core that checking
types leaves idle.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import src.numba_cache  # noqa: F401  (where compiled code is kept is decided before XDG_CACHE_HOME is changed below)
from tests.tiny_runs import bar_files, quick_runs, tiny_config, whole_run


def main() -> None:
    """A tiny run of each learner."""
    with tempfile.TemporaryDirectory(prefix="warm-up-") as folder, quick_runs():
        os.environ["XDG_CACHE_HOME"] = folder
        bars = bar_files(Path(folder))["plain"]
        for learner in ("fused", "population"):
            seen = whole_run(
                tiny_config({"data.path": str(bars), "test_mode.output_dir": folder, "hardware.learner": learner})
            )
            assert not seen["outcome"], seen["outcome"]


if __name__ == "__main__":
    main()
