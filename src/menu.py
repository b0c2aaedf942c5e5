"""Entries for the menu of a training program: each runs one of this project's scripts in a process of its own.

A process of its own gives back all of its memory, the GPU's too, and a stopped or failed script leaves the menu alive.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).resolve().parents[1]

ENTRIES = (
    ("Hardware-Maximized Test (Phase 3)", "run_hardware_maximized.py"),
    ("Pipeline Test (Phase 3)", "run_pipeline.py"),
    ("Validate Testing Framework", "validate_testing_framework.py"),
)

MENU_ENTRIES: Mapping[str, str] = MappingProxyType(
    {
        "9": "Hardware-Maximized Test (Phase 3)",
        "10": "Pipeline Test (Phase 3)",
        "11": "Validate Testing Framework",
    }
)
"""The same three for a menu that is a dictionary of labels by choice; `run_menu_entry` runs what was chosen."""

MenuOption = tuple[str, Callable[[], int]]


def training_menu_options(
    market: str = "NQ", options: Sequence[str] = (), own: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> list[MenuOption]:
    """Label and callable of each entry.

    A callable runs its script for `market` in the working folder and returns its exit code: 0 done and targets met, 1
    one missed, 2 invalid input, 3 interrupted. `options` go to every script, and all three take `--quick`, `--data`,
    `--config` and `--debug`; `own` are those of one entry, by its label. ValueError for a label that is none.
    """
    labels = [label for label, _ in ENTRIES]
    if unknown := own.keys() - set(labels):
        raise ValueError(f"own names {', '.join(sorted(unknown))}; the entries are {', '.join(labels)}")
    return [(label, partial(_run, script, market, (*options, *own.get(label, ())))) for label, script in ENTRIES]


def run_menu_entry(choice: str, market: str = "NQ", options: Sequence[str] = ()) -> int:
    """Run the script of an entry of `MENU_ENTRIES`, named by its choice or its label, and return its exit code.
    ValueError for what is none."""
    for (number, label), (_, script) in zip(MENU_ENTRIES.items(), ENTRIES, strict=True):
        if choice in (number, label):
            return _run(script, market, options)
    entries = ", ".join(f"{number} ({label})" for number, label in MENU_ENTRIES.items())
    raise ValueError(f"{choice!r} is not an entry; the entries are {entries}")


def _run(script: str, market: str, options: Sequence[str]) -> int:
    process = subprocess.Popen([sys.executable, str(ROOT / script), "--market", market, *options])
    while True:
        try:
            return process.wait()
        except (
            KeyboardInterrupt
        ):  # Ctrl-C reached the script too: it says what it kept, and its exit code is the answer
            continue
