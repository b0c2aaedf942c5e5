"""Layers of settings: keys moved to their sections, short forms expanded, and what an option overrides."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from src.configuration_errors import quote, section_of
from src.errors import ConfigError
from src.shares import as_fraction

logger = logging.getLogger(__name__)

KeyPath = tuple[str, ...]  # from a section down to one of its keys

PHASES = ("phase1", "phase2", "phase3")
NET_ARCH: KeyPath = ("training", "policy_kwargs", "net_arch")
QUICK: KeyPath = ("test_mode", "quick")
QUICK_FRAC: KeyPath = ("test_mode", "quick_frac")

_PHASE_BUDGETS: tuple[KeyPath, ...] = (("phase2", "total_timesteps"), ("phase3", "total_timesteps"))
_BUDGETS: tuple[KeyPath, ...] = (("training", "timesteps"), *_PHASE_BUDGETS)

OVERRULES: Mapping[KeyPath, tuple[KeyPath, ...]] = {
    QUICK: (*_BUDGETS, ("evidence", "seeds")),
    QUICK_FRAC: _BUDGETS,
    ("training", "timesteps_reduction"): (QUICK, *_BUDGETS),
    ("training", "timesteps"): _PHASE_BUDGETS,
    ("training", "finetune_frac"): (("phase3", "total_timesteps"),),
    ("hardware", "memory_fraction"): tuple((phase, "gpu_usage", "memory_fraction") for phase in PHASES),
    ("hardware", "torch_threads"): (
        ("llm", "llm_threads"),
        *((phase, "gpu_usage", "torch_threads") for phase in PHASES),
    ),
}
"""A key of one layer, and the more specific keys of the layers below that would otherwise hide it."""


def paths_of(model: type[BaseModel], prefix: KeyPath = ()) -> Iterator[KeyPath]:
    """Path of every key of a model, sections included."""
    for name, field in model.model_fields.items():
        yield (*prefix, name)
        inner = section_of(field)
        if inner is not None:
            yield from paths_of(inner, (*prefix, name))


def holds(values: Mapping[str, Any], path: KeyPath) -> bool:
    """Whether a key is there, whatever its value."""
    inner: Any = values
    for step in path:
        if not isinstance(inner, Mapping) or step not in inner:
            return False
        inner = inner[step]
    return True


def value_at(values: Any, path: KeyPath) -> Any:
    """The value of an existing key."""
    for step in path:
        values = values[step]
    return values


def nested(path: KeyPath, value: Any) -> dict[str, Any]:
    """One key with its value, under its sections."""
    for step in reversed(path):
        value = {step: value}
    return value


def merged(below: Mapping[str, Any], above: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """`above` over `below`, section by section; a value that is a mapping itself (env_kwargs) is replaced whole."""
    result = dict(below)
    for name, value in above.items():
        field = model.model_fields.get(name)  # names are checked later
        inner = None if field is None else section_of(field)
        if inner is not None and isinstance(value, Mapping | None) and isinstance(result.get(name), Mapping | None):
            value = merged(result.get(name) or {}, value or {}, inner)
        result[name] = value
    return result


def over(below: Mapping[str, Any], above: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """The same, but a key of `above` also removes the keys of `below` that would hide it (`OVERRULES`)."""
    quick = next((found for values in (above, below) if (found := _given(values, QUICK)) is not None), False)
    for path, hidden in OVERRULES.items():
        value = _given(above, path)
        if value is None or value is False or (path == QUICK_FRAC and quick is not True):
            continue
        for key in hidden:
            below = _without(below, key)
    return merged(below, above, model)


def _given(values: Mapping[str, Any], path: KeyPath) -> Any:
    return value_at(values, path) if holds(values, path) else None


def _without(values: Mapping[str, Any], path: KeyPath) -> Mapping[str, Any]:
    if not holds(values, path):
        return values
    first, *rest = path
    if not rest:
        return {name: value for name, value in values.items() if name != first}
    return {**values, first: _without(values[first], tuple(rest))}


def placed(values: Mapping[Any, Any], model: type[BaseModel], flat: Mapping[str, KeyPath], source: str) -> dict:
    """Values of a file with each key in its own section.

    A key may also be written at the top of the file (under its flat name) or in any section around its own: there it
    wins over the key in its place, with a warning where the two differ.
    """
    result: dict[Any, Any] = {}
    moved: list[tuple[KeyPath, KeyPath, Any]] = []
    for name, value in values.items():
        if name in model.model_fields:
            result[name] = value
        elif isinstance(name, str) and name in flat:
            moved.append(((name,), flat[name], value))
        else:
            result[name] = value
    for section, field in model.model_fields.items():
        inner = section_of(field)
        if inner is not None and isinstance(result.get(section), Mapping):
            result[section], found = _lifted(result[section], inner, (section,))
            moved += found
    for written, path, value in moved:
        if any(not isinstance(_given(result, path[:n]), Mapping | None) for n in range(1, len(path))):
            continue  # a section that is none: the check of names tells
        if holds(result, path) and value_at(result, path) != value:
            logger.warning(
                "%s: %s is %s, and %s is %s: the former is taken",
                source, ".".join(written), quote(value), ".".join(path), quote(value_at(result, path)),
            )  # fmt: skip
        result = merged(result, nested(path, value), model)
    return result


def _lifted(
    section: Mapping[Any, Any], model: type[BaseModel], prefix: KeyPath
) -> tuple[dict[Any, Any], list[tuple[KeyPath, KeyPath, Any]]]:
    """A section without the keys of its subsections, and those keys: path as written, path where they belong, value."""
    below: dict[str, list[KeyPath]] = {}
    for path in paths_of(model, prefix):
        if len(path) > len(prefix) + 1:
            below.setdefault(path[-1], []).append(path)
    kept: dict[Any, Any] = {}
    moved = []
    for name, value in section.items():
        places = below.get(name, ()) if isinstance(name, str) and name not in model.model_fields else ()
        if len(places) == 1:
            moved.append(((*prefix, name), places[0], value))
        else:
            kept[name] = value
    return kept, moved


def written_out(values: Mapping[str, Any], place: Callable[[KeyPath], str]) -> dict[str, Any]:
    """Values with short forms written out: one list of layers for both networks, one share for a phase's GPU.

    ConfigError for a share that is none.
    """
    result = dict(values)
    if holds(result, NET_ARCH) and isinstance(layers := value_at(result, NET_ARCH), list | tuple):
        policy = {**result["training"]["policy_kwargs"], "net_arch": {"pi": layers, "vf": layers}}
        result["training"] = {**result["training"], "policy_kwargs": policy}
    for phase in PHASES:
        path = (phase, "gpu_usage")
        if holds(result, path) and isinstance(value := value_at(result, path), int | float | str):
            share = _share(value, place(path))
            result[phase] = {
                "gpu_utilization_target": share, **result[phase], "gpu_usage": {"memory_fraction": share}
            }  # fmt: skip
    return result


def _share(value: Any, where: str) -> float:
    wanted = "a share of the GPU above 0 (0.3, 30 or 30%), or a section with the keys memory_fraction, torch_threads"
    try:
        share = as_fraction(value)
    except ValueError as error:
        raise ConfigError(f"{where} is {quote(value)}: {error}.") from None
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ConfigError(f"{where} is {quote(value)}, but must be {wanted}.")
    return float(share)
