"""Checks of a hybrid RL + LLM futures-trading agent before its production run."""

from pathlib import Path

from src.numba_cache import configure

__version__ = "1.0.0"

# Here, because it must come before the first import of numba in any room.
configure(Path(__file__).parent)
