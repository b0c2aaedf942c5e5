"""A validation whose bars and threads are at hand, so that a check of something else costs no seconds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from src.checks.outcome import FAILED, Outcome
from src.checks.setting import ROOT, Setting
from src.configuration import Configuration, build_config
from tests import small_runs


def small_setting(*, quick: bool = False, root: Path = ROOT, **overrides: Any) -> Setting:
    """Sixty synthetic sessions of 15-minute bars, one thread, the mock advisor; `overrides` as options of a run."""
    made = Setting(quick=quick, root=root)
    torch.set_num_threads(1)
    at_hand = {
        "_config": config_of(**overrides),
        "_tables": small_runs.tables(),
        "market": small_runs.market("NQ"),
        "threads": 1,
    }
    made.__dict__.update(at_hand)
    return made


def config_of(**overrides: Any) -> Configuration:
    """The defaults with the mock advisor, under `overrides`."""
    return build_config(None, {}, {"llm_model": "mock", **overrides})


def copied_root(folder: Path) -> Path:
    """What the checks read of the repository, to be broken."""
    for name in (
        "requirements.txt",
        "requirements-model.txt",
        "requirements-quant.txt",
        "requirements-dbn.txt",
        "requirements-gpu.txt",
        "requirements-mlflow.txt",
        "requirements-sweep.txt",
        "pyproject.toml",
    ):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "config", folder / "config")
    return folder


def edit(file: Path, old: str, new: str) -> None:
    """Replace a text that must be there."""
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def assert_failed(outcome: Outcome, measured: str, remedy: str) -> None:
    """Failed, with these words, and a remedy to act on."""
    assert outcome.status == FAILED, outcome
    assert measured in outcome.measured, outcome.measured
    assert remedy in outcome.remedy, outcome.remedy
    assert not outcome.reason
