"""File names in a run's folder."""

from __future__ import annotations

from typing import Final

REPORT: Final = "report.json"
PAGE: Final = "report.html"
CONFIGURATION: Final = "config.yaml"
"""The effective settings."""
RECORDS: Final = "metrics.jsonl"
"""Training records, a line each."""
RUN_LOG: Final = "run.log"
HARDWARE: Final = "hardware.csv"
"""Hardware samples; a resumed run writes `hardware-2.csv` and so on."""
LEDGER: Final = "ledger.json"
"""What is finished."""
MANIFEST: Final = "manifest.json"
"""Size and SHA-256 of every file, written last."""
EXPORTS: Final = "exports"
"""Folder of the tables of results."""
TENSORBOARD: Final = "tensorboard"
"""Folder of TensorBoard's event files."""
