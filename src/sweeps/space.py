"""The space of a sweep: the keys that are varied, their values, and the configuration of each setting."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from src.configuration import Configuration, build_config, flat_paths
from src.configuration_errors import quote, section_of
from src.configuration_layers import KeyPath, merged, nested, paths_of, value_at
from src.errors import ConfigError, UserError
from src.plain_text import foreign
from src.report.sweep import DIGITS, value_words, values_words
from src.runs.context import plans_of
from src.runs.inputs import run_inputs
from src.suggestions import did_you_mean
from src.sweeps.file import MOST_SETTINGS, SweepFile, range_of

Values = Mapping[str, Any]
"""Of one setting, by dotted key."""

OTHER_SESSIONS = "settings would be scored on different sessions, and their scores could not be compared"
OTHER_RULES = "settings would be scored under different rules or costs, and their scores could not be compared"
NO_SETTING = "a seed is no setting: the sweep file's own keys seeds and fresh_seeds say how many are trained"
REFUSED: Mapping[str, str] = {
    "data": OTHER_SESSIONS,
    "test_mode.market": OTHER_SESSIONS,
    "environment.trading_hours": OTHER_SESSIONS,
    "environment.rule_profile": OTHER_RULES,
    "environment.slippage_ticks": OTHER_RULES,
    "environment.commission_usd": OTHER_RULES,
    "environment.target_through_ticks": OTHER_RULES,
    "environment.env_class": OTHER_RULES,
    "environment.env_kwargs": OTHER_RULES,
    "test_mode.seed": NO_SETTING,
    "evidence.seeds": NO_SETTING,
}
"""Keys, or sections, that cannot be varied, and why."""


@dataclass(frozen=True)
class Dimension:
    """One key and its values: `choices`, or numbers from `low` to `high`."""

    path: KeyPath
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    whole: bool = False

    @property
    def key(self) -> str:
        """Dotted."""
        return ".".join(self.path)

    @property
    def number_of_values(self) -> int | None:
        """None: any number of them."""
        if self.choices:
            return len(self.choices)
        return None if self.step is None else 1 + math.floor((self.high - self.low) / self.step + 1e-9)

    def values(self) -> list[Any]:
        """All of them, where there are not any number."""
        if self.choices:
            return list(self.choices)
        assert self.step is not None
        assert self.number_of_values is not None
        return [self.stepped(place) for place in range(self.number_of_values)]

    def stepped(self, place: int) -> float:
        """The value that is so many steps above the lowest."""
        assert self.step is not None
        value = self.low + place * self.step
        return int(value) if self.whole else float(f"{value:.12g}")

    def ends(self) -> tuple[Any, ...]:
        """Values that show whether all are allowed: every choice, or the two ends."""
        if self.choices:
            return self.choices
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def drawn(self, rng: np.random.Generator) -> Any:
        """One at random."""
        if self.choices:
            return self.choices[int(rng.integers(len(self.choices)))]
        if not self.log and self.number_of_values is not None:
            return self.stepped(int(rng.integers(self.number_of_values)))
        if self.log:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = rng.uniform(self.low, self.high)
        value = float(np.clip(value, self.low, self.high))
        return round(value) if self.whole else float(np.clip(float(f"{value:.{DIGITS}g}"), self.low, self.high))

    def words(self) -> str:
        """`0.0001 to 0.01, log`, or the choices."""
        if self.choices:
            return ", ".join(map(value_words, self.choices))
        step = "" if self.step is None or (self.whole and self.step == 1) else f", step {self.step:g}"
        return f"{value_words(self.low)} to {value_words(self.high)}{step}{', log' if self.log else ''}"


@dataclass(frozen=True)
class Setting:
    """One setting of a sweep. `number` counts from 1 in the order they were proposed."""

    number: int
    values: Values
    config: Configuration


class Space:
    """The dimensions of a sweep over a base configuration. `name` is that of the file, for errors.

    Raises: ConfigError naming file, key, value and what is allowed, for a key that no setting could vary.
    """

    def __init__(self, file: SweepFile, base: Configuration, name: str) -> None:
        self._file = file
        self.name = name
        seeds = {"evidence": {"seeds": file.seeds, "walk_forward": 0}}
        self.base: Configuration = build_config(base.test_mode.mode, base.to_dict(), seeds, source=name)
        self.dimensions = [self._dimension(key, values) for key, values in file.space.items()]
        self._check_overlaps()
        for dimension in self.dimensions:
            self._check_acts(dimension)
        self._check_numbers()

    @property
    def size(self) -> int | None:
        """How many settings there are; None: any number."""
        numbers = [dimension.number_of_values for dimension in self.dimensions]
        return None if None in numbers else math.prod(number for number in numbers if number is not None)

    def setting(self, number: int, values: Values) -> Setting:
        """The setting with these values. ConfigError where they do not go together."""
        config = self._config_of(values)
        return Setting(number, {key: self._value_in(config, key) for key in values}, config)

    def extremes(self) -> Iterator[tuple[str, Configuration]]:
        """Each key at its outermost values, the others at the base's: a name and the configuration."""
        for dimension in self.dimensions:
            for value in dimension.ends():
                yield f"{dimension.key} {value_words(value)}", self._config_of({dimension.key: value})

    def words(self) -> dict[str, str]:
        """By key, what it may be."""
        return {dimension.key: dimension.words() for dimension in self.dimensions}

    # Building and checking

    def _dimension(self, written: str, values: Any) -> Dimension:
        key, path = f"space.{written}", self._path_of(written)
        for refused, why in REFUSED.items():
            if f"{'.'.join(path)}.".startswith(f"{refused}."):
                raise ConfigError(f"{self.name}: {key} cannot be varied: {why}.")
        if isinstance(values, list):
            return Dimension(path, self._choices(key, path, values))
        if not isinstance(values, Mapping):
            raise ConfigError(
                f"{self.name}: {key} is {quote(values)}, but must be a list of values, or low and high (and log, step)."
            )
        read = range_of(values, self.name, key)
        dimension = self._ranged(key, path, read.low, read.high, read.log, read.step)
        for value in dimension.ends():
            self._config_of({dimension.key: value})
        return dimension

    def _path_of(self, written: str) -> KeyPath:
        flat = {name: paths[0] for name, paths in flat_paths().items() if len(paths) == 1}
        dotted = {".".join(path): path for path in paths_of(Configuration) if len(path) > 1}
        path = dotted.get(written) or flat.get(written)
        if path is None:
            near = did_you_mean(written, [*dotted, *flat])
            raise ConfigError(
                f"{self.name}: space names {foreign(written, 80)}, which is no key of the configuration{near}. "
                f"docs/defaults.md lists every key."
            )
        return path

    def _choices(self, key: str, path: KeyPath, values: Sequence[Any]) -> tuple[Any, ...]:
        if len(values) < 2:
            raise ConfigError(f"{self.name}: {key} has {len(values)} values, but needs at least 2 to choose from.")
        found: list[Any] = []
        for value in values:
            chosen = self._value_in(self._config_of({".".join(path): value}), ".".join(path))
            if chosen in found:
                raise ConfigError(f"{self.name}: {key} lists {quote(value)} twice. Leave one of them out.")
            found.append(chosen)
        return tuple(found)

    def _ranged(self, key: str, path: KeyPath, low: float, high: float, log: bool, step: float | None) -> Dimension:
        where, kinds = f"{self.name}: {key}", _kinds_of(path)
        if not kinds & {int, float}:
            raise ConfigError(f"{where} has low and high, but is no number: list its values.")
        whole = float not in kinds
        if not low < high:
            raise ConfigError(f"{where} has low {low:g} and high {high:g}: low must be below high.")
        if log and low <= 0:
            raise ConfigError(f"{where} has low {low:g} and log: a logarithmic range begins above 0.")
        if log and step is not None:
            raise ConfigError(f"{where} has both log and step: leave one of them out.")
        if whole and any(not float(value).is_integer() for value in (low, high, step or 1)):
            raise ConfigError(f"{where} is a whole number, so its low, high and step must be whole.")
        if step is not None and step > high - low:
            raise ConfigError(f"{where} has step {step:g}, more than the {high - low:g} from low to high.")
        if whole and not log and step is None:
            step = 1
        return Dimension(path, (), low, high, log, step, whole)

    def _check_overlaps(self) -> None:
        for place, one in enumerate(self.dimensions):
            for other in self.dimensions[:place]:
                shorter = min(one.path, other.path, key=len)
                if one.path[: len(shorter)] == other.path[: len(shorter)]:
                    raise ConfigError(
                        f"{self.name}: space names {one.key} and {other.key}, which set the same key. Leave one out."
                    )

    def _check_acts(self, dimension: Dimension) -> None:
        """ConfigError for a key whose values all give the same score."""
        first, *others = (self._score_inputs(dimension, value) for value in dimension.ends())
        if all(other == first for other in others):
            raise ConfigError(
                f"{self.name}: space.{dimension.key} cannot be varied: it changes nothing that the score of "
                f"{self._file.arm} depends on."
            )

    def _score_inputs(self, dimension: Dimension, value: Any) -> dict[str, str]:
        config = self._config_of({dimension.key: value})
        unused = ("fusion.",) if self._file.arm == "hybrid" else ("fusion.", "llm.", "training.weight_ramp_rollouts")
        inputs = run_inputs(config, plans_of(config))
        return {key: text for key, text in inputs.items() if not key.startswith(unused)}

    def _check_numbers(self) -> None:
        file, size = self._file, self.size
        if file.method == "grid":
            endless = [dimension.key for dimension in self.dimensions if dimension.number_of_values is None]
            if endless:
                raise ConfigError(
                    f"{self.name}: a grid needs every value of {', '.join(endless)}: list them, or give a step."
                )
            assert size is not None
            if size > MOST_SETTINGS:
                raise ConfigError(
                    f"{self.name}: the grid has {size:,} settings, more than {MOST_SETTINGS:,}. Take fewer values, or "
                    f"method random or optuna."
                )
        elif size is not None and file.settings is not None and file.settings > size:
            raise ConfigError(
                f"{self.name}: settings is {file.settings}, but the space has only {size} different ones. Take fewer, "
                f"or method grid."
            )

    def _config_of(self, values: Values) -> Configuration:
        changes: dict[str, Any] = {}
        for dimension_key, value in values.items():
            changes = merged(changes, nested(tuple(dimension_key.split(".")), value), Configuration)
        try:
            return build_config(self.base.test_mode.mode, self.base.to_dict(), changes, source=self.name)
        except UserError as error:
            raise ConfigError(f"{self.name}: the setting {values_words(values)} cannot be used. {error}") from error

    @staticmethod
    def _value_in(config: Configuration, key: str) -> Any:
        return value_at(config.to_dict(), tuple(key.split(".")))


def _kinds_of(path: KeyPath) -> set[Any]:
    """The types a key may have."""
    model: Any = Configuration
    field: Any = None
    for step in path:
        field = model.model_fields[step]
        model = section_of(field)
    return {field.annotation, *get_args(field.annotation)}
