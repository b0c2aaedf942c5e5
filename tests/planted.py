"""Faults planted in a copy of the code: a function's source with one text replaced, put wherever the function is."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from src.market import context, features


def plant(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], old: str, new: str) -> None:
    """Replace `old`, which must be in the function's source, and the function in every module of src that has it."""
    module = sys.modules[function.__module__]
    made = _made_anew(function, old, new, module)
    for name, each in list(sys.modules.items()):
        if name.startswith("src.") and getattr(each, function.__name__, None) is function:
            monkeypatch.setattr(each, function.__name__, made)


def plant_method(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, old: str, new: str) -> None:
    """The same for a method."""
    method = getattr(owner, name)
    monkeypatch.setattr(owner, name, _made_anew(method, old, new, sys.modules[owner.__module__]))


def plant_compiled(
    monkeypatch: pytest.MonkeyPatch, folder: Path, module: ModuleType, entries: tuple[str, ...], old: str, new: str
) -> None:
    """Compile a copy of a whole module with `old` replaced, and put its `entries` in place of the module's own."""
    assert module.__file__ is not None
    source = Path(module.__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times"
    file = folder / f"planted_{module.__name__.rpartition('.')[2]}.py"
    file.write_text(source.replace(old, new).replace("@njit(cache=True)", "@njit"), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    for entry in entries:
        monkeypatch.setattr(module, entry, getattr(copy, entry))


def plant_context_feature(
    monkeypatch: pytest.MonkeyPatch, name: str, feature: Callable[[Any, np.ndarray], np.ndarray]
) -> None:
    """One context feature takes what `feature` makes of a series of bars and of where its runs start."""
    real = features.context_features

    def other(bars: Any, sessions: Any, run_start: np.ndarray) -> np.ndarray:
        rows = np.array(real(bars, sessions, run_start))
        rows[:, context.CONTEXT_FEATURES.index(name)] = feature(bars, run_start)
        return rows

    monkeypatch.setattr(features, "context_features", other)


def _made_anew(function: Callable[..., Any], old: str, new: str, module: ModuleType) -> Any:
    source = textwrap.dedent(inspect.getsource(function))
    assert old in source, f"{old!r} is not in {function.__name__}"
    space = {"np": np, "replace": replace, **vars(module)}  # what a fault may need
    exec(source.replace(old, new), space)
    return space[function.__name__]
