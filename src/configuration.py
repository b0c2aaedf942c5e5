"""All sections of the configuration in one model, built from the command line over YAML over defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, Field, ValidationError

from src.advisor.settings import FusionSettings, LLMSettings
from src.agent.rollout_plan import plan_rollouts
from src.agent.settings import (
    CheckpointSettings,
    HardwareSettings,
    PerformanceSettings,
    PhaseSettings,
    PipelineSettings,
    RunSettings,
    TrainingPhaseSettings,
    TrainingSettings,
)
from src.configuration_errors import bad_value, explain, is_number_in_disguise, quote, section_of
from src.configuration_file import commented_yaml, read_mapping
from src.configuration_layers import (
    NET_ARCH,
    PHASES,
    KeyPath,
    holds,
    merged,
    nested,
    over,
    paths_of,
    placed,
    value_at,
    written_out,
)
from src.errors import ConfigError
from src.evaluation.settings import EvidenceSettings, MonitoringSettings
from src.market.contracts import CONTRACTS, symbols_of
from src.market.settings import DataSettings
from src.plain_text import foreign
from src.report.targets import PHASE_TARGETS, TARGETS, ValidationSettings
from src.settings import Section
from src.suggestions import did_you_mean
from src.trading.settings import EnvironmentSettings

# Options whose names say more than their keys would, and the keys.
Markets = str | Sequence[str]
"""One symbol, or several."""
ASKING: KeyPath = ("llm", "tabulation_budget_s")
ASKING_QUICK: KeyPath = ("llm", "quick_budget_s")
ALIASES: Mapping[str, KeyPath] = {
    "data": ("data", "path"),
    "interval": ("data", "interval_min"),
    "llm_model": ("llm", "model"),
    "llm_budget": ASKING,
}

# What a mode changes of the models' defaults.
MODES: Mapping[str, Mapping[str, Any]] = {
    "hardware_maximized": {"hardware": {"vectorized_envs": 32, "batch_size": 1024}},
    "pipeline": {
        "hardware": {"vectorized_envs": 8, "batch_size": 256},
        "evidence": {"seeds": 1},
        "phase1": {"gpu_usage": {"memory_fraction": 0.3}, "gpu_utilization_target": 0.3},
        "phase2": {"gpu_usage": {"memory_fraction": 0.8}, "gpu_utilization_target": 0.8},
        "phase3": {"estimated_duration": 2400.0, "gpu_usage": {"memory_fraction": 0.9}, "gpu_utilization_target": 0.9},
        "validation": {
            "max_execution_time_s": 5400.0,
            "required": [
                "execution_time",
                "peak_memory",
                "phase1_duration",
                "phase2_duration",
                "phase3_duration",
                "phase2_gpu_utilization",
                "phase3_gpu_utilization",
            ],
        },
    },
}


class Configuration(Section):
    """Every section; a key below one reads flat as well: `config.batch_size` is `config.hardware.batch_size`."""

    test_mode: RunSettings = Field(RunSettings(), description="which run this is")
    hardware: HardwareSettings = Field(HardwareSettings(), description="how much of the machine it uses")
    training: TrainingSettings = Field(TrainingSettings(), description="PPO and its budget")
    performance: PerformanceSettings = Field(PerformanceSettings(), description="shortcuts that change no result")
    llm: LLMSettings = Field(LLMSettings(), description="the advisor")
    fusion: FusionSettings = Field(FusionSettings(), description="how decisions and advice become one action")
    environment: EnvironmentSettings = Field(EnvironmentSettings(), description="an account, its costs, its reward")
    data: DataSettings = Field(DataSettings(), description="the bars and how their sessions are split")
    checkpoint: CheckpointSettings = Field(CheckpointSettings(), description="what the pipeline keeps for resuming")
    pipeline: PipelineSettings = Field(PipelineSettings(), description="how its phases follow each other")
    phase1: PhaseSettings = Field(PhaseSettings(), description="data and environments")
    phase2: TrainingPhaseSettings = Field(TrainingPhaseSettings(), description="base training")
    phase3: TrainingPhaseSettings = Field(TrainingPhaseSettings(), description="advice, fine-tuning, evaluation")
    evidence: EvidenceSettings = Field(EvidenceSettings(), description="how much is done to tell an effect from luck")
    monitoring: MonitoringSettings = Field(MonitoringSettings(), description="what is watched and logged")
    validation: ValidationSettings = Field(ValidationSettings(), description="targets of the run")

    def __getattr__(self, name: str) -> Any:
        # Only reached for names that are no attribute: a key below a section, or a mistake.
        paths = flat_paths()
        if name.startswith("_") or len(paths.get(name, ())) != 1:
            raise AttributeError(f"the configuration has no single key {name!r}{did_you_mean(name, paths)}")
        value: Any = self
        for step in paths[name][0]:
            value = getattr(value, step)
        return value

    @property
    def sections(self) -> dict[str, Section]:
        """The sections by name, in the order of the file."""
        return {name: getattr(self, name) for name in Configuration.model_fields}

    @property
    def mock_llm(self) -> bool:
        """Whether the advice comes from rules instead of a language model."""
        return self.llm.model == "mock"

    @property
    def base_timesteps(self) -> int:
        """Timesteps of base training asked for, before rounding to whole rollouts."""
        own = self.phase2.total_timesteps if self.test_mode.mode == "pipeline" else None
        return own or self.training.base_timesteps(self.test_mode)

    @property
    def finetune_timesteps(self) -> int:
        """Timesteps of hybrid fine-tuning asked for, before rounding to whole rollouts."""
        own = self.phase3.total_timesteps if self.test_mode.mode == "pipeline" else None
        return own or self.training.finetune_timesteps(self.test_mode)

    @property
    def has_several_markets(self) -> bool:
        """Whether the run is over more than one market."""
        return len(self.test_mode.markets) > 1

    def of_market(self, symbol: str) -> Self:
        """The configuration that a run of this market alone would have."""
        run = self.test_mode.model_copy(update={"market": symbol})
        return self.model_copy(update={"test_mode": run, "data": self.data.of_market(symbol)})

    def to_dict(self) -> dict[str, Any]:
        """Plain values by section, as YAML and JSON hold them."""
        return self.model_dump(mode="json")


ConfigT = TypeVar("ConfigT", bound=Configuration)


@cache
def flat_paths() -> Mapping[str, tuple[KeyPath, ...]]:
    """Every key below a section with its paths; a flat name with more than one path is ambiguous."""
    found: dict[str, tuple[KeyPath, ...]] = {}
    for path in paths_of(Configuration):
        if len(path) > 1:
            found[flat_name(path)] = (*found.get(flat_name(path), ()), path)
    return found


def flat_name(path: KeyPath) -> str:
    """What a key is called without its section; keys of a phase carry the phase's name."""
    return "_".join(path) if path[0] in PHASES else path[-1]


def load_config_file(path: Path | str) -> dict[str, Any]:
    """The checked values of a YAML file, by section. ConfigError names file, key, value and what is allowed."""
    values = _from_file(read_mapping(path), str(path))
    values = {section: keys for section, keys in values.items() if keys is not None}
    _validated(Configuration, values, lambda key: f"{path}: {'.'.join(key)}")
    return values


def _from_file(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A file's values, each key in its section and short forms expanded. ConfigError for an unknown name."""
    flat = {name: paths[0] for name, paths in flat_paths().items() if len(paths) == 1}
    values = placed(values, Configuration, flat, source)
    values = written_out(values, lambda key: f"{source}: {'.'.join(key)}")
    _check_names(values, Configuration, source)
    return values


def build_config(
    mode: str | None,
    yaml_values: Mapping[str, Any],
    overrides: Mapping[str, Any],
    *,
    source: str = "configuration",
    model: type[ConfigT] = Configuration,  # type: ignore[assignment]
) -> ConfigT:
    """One checked configuration: `overrides` over `yaml_values` over the defaults of `mode`.

    `mode` None takes `test_mode.mode` of the YAML. An override is a flat key (`batch_size=512`), `data=path`,
    `mock_llm=True` or a section with a mapping (`fusion={"risk": {...}}`); None means not given, so what argparse
    returns can be passed on. `source` names the file in errors.
    Raises ConfigError, and MarketError for an unknown market.
    """
    yaml_values = _from_file(yaml_values, source)
    given = _by_section(overrides)
    written = (yaml_values.get("test_mode") or {}).get("mode")
    mode = mode or given.get("test_mode", {}).get("mode") or written or "hardware_maximized"
    if not isinstance(mode, str) or mode not in MODES:
        raise ConfigError(
            f"There is no mode {mode!r}{did_you_mean(str(mode), MODES)}: the modes are {' and '.join(MODES)}."
        )
    if written not in (None, mode):
        raise ConfigError(
            f"{source}: test_mode.mode is {written!r}, but this run is {mode}. Name a file written for {mode}, "
            f"or set test_mode.mode to {mode}."
        )
    chosen = over(yaml_values, given, Configuration)
    values = over(merged({"test_mode": {"mode": mode}}, MODES[mode], Configuration), chosen, Configuration)
    values = merged(values, _implied(values, chosen, given), Configuration)

    def place(path: KeyPath) -> str:
        key = ".".join(path)
        if not holds(given, path):
            return f"{source}: {key}"
        return f"option {flat_name(path)} ({key})" if len(path) > 1 else f"options over {source}: {key}"

    config = _validated(model, values, place)
    symbols = symbols_of(config.test_mode.market)
    _check_files_of_markets(config, symbols, place)
    market = symbols if len(symbols) > 1 else symbols[0]
    data = config.data if len(symbols) > 1 else config.data.of_market(symbols[0])
    if (market, data.path) != (config.test_mode.market, config.data.path):
        values = merged(values, {"test_mode": {"market": market}, "data": {"path": data.path}}, Configuration)
        config = _validated(model, values, place)
    _check_phase_targets(config, place(("validation", "required")))
    _check_can_go_on(config, place)
    _check_one_split(config, place)
    _check_own_env(config, place)
    if config.training.n_steps is not None:
        plan_rollouts(
            config.base_timesteps, config.hardware.vectorized_envs, config.hardware.batch_size, config.training.n_steps
        )
    return config


def _implied(values: Mapping[str, Any], chosen: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults that follow from other values: a quick run has one seed and its own time to ask; a phase without a limit
    has no required target."""
    implied: dict[str, Any] = {}
    if values["test_mode"].get("quick") is True:
        if not holds(chosen, ("evidence", "seeds")):
            implied["evidence"] = {"seeds": 1}
        asked_s = value_at(given, ASKING) if holds(given, ASKING) else None
        if isinstance(asked_s, int | float) and asked_s > 0 and not holds(given, ASKING_QUICK):
            implied["llm"] = {ASKING_QUICK[1]: asked_s}
    if not holds(chosen, ("validation", "required")) and holds(values, ("validation", "required")):
        implied["validation"] = {
            "required": [name for name in values["validation"]["required"] if _has_limit(name, values)]
        }
    return implied


def _has_limit(target: str, values: Mapping[str, Any]) -> bool:
    """Whether a phase's target still has a limit; other targets are checked by their section."""
    phase, _, what = target.partition("_")
    limit = (phase, "gpu_utilization_target")
    return what != "gpu_utilization" or not holds(values, limit) or value_at(values, limit) is not None


def _check_phase_targets(config: Configuration, place: str) -> None:
    """ConfigError for a required target of a phase that this mode does not have, or that has no limit."""
    for name in config.validation.required:
        if name not in PHASE_TARGETS:
            continue
        if config.test_mode.mode != "pipeline":
            raise ConfigError(
                f"{place} lists {name!r}, a target of the pipeline's phases, but this run is {config.test_mode.mode}. "
                f"Leave it out: here {', '.join(TARGETS)} may be required."
            )
        phase, _, what = name.partition("_")
        if what == "gpu_utilization" and config.sections[phase].gpu_utilization_target is None:  # type: ignore[attr-defined]
            raise ConfigError(
                f"{place} lists {name!r}, but {phase}.gpu_utilization_target, its limit, is not set. Set it, or leave "
                f"the target out."
            )


def _check_can_go_on(config: Configuration, place: Callable[[KeyPath], str]) -> None:
    """ConfigError for a pipeline that stops after each phase without keeping what the next one needs."""
    if config.test_mode.mode == "pipeline" and not (config.pipeline.auto_advance or config.checkpoint.enabled):
        raise ConfigError(
            f"{place(('pipeline', 'auto_advance'))} is false, and so is {place(('checkpoint', 'enabled'))}: after "
            f"phase 2 nothing would be kept for phase 3 to begin with. Set one of them to true."
        )


def _check_one_split(config: Configuration, place: Callable[[KeyPath], str]) -> None:
    """ConfigError for folds in a pipeline."""
    if config.test_mode.mode == "pipeline" and (value := config.evidence.walk_forward):
        raise ConfigError(
            f"{place(('evidence', 'walk_forward'))} is {value}, but the pipeline trains on one split: set it to 0, or "
            f"run the hardware-maximized validation."
        )


def _check_files_of_markets(config: Configuration, symbols: Sequence[str], place: Callable[[KeyPath], str]) -> None:
    """ConfigError for files by market that are of none of the run's."""
    path = config.data.path
    if isinstance(path, dict) and not set(path) & set(symbols):
        raise ConfigError(
            f"{place(('data', 'path'))} names bars of {', '.join(path) or 'no market'}, but the run trades "
            f"{', '.join(symbols)}: name a file for {symbols[0]}, or another market with --market."
        )


def _check_own_env(config: Configuration, place: Callable[[KeyPath], str]) -> None:
    """ConfigError for environments of the user's own, which know no market, in a run of several."""
    if config.has_several_markets and config.environment.env_class is not None:
        raise ConfigError(
            f"{place(('environment', 'env_class'))} is {quote(config.environment.env_class)}, which would be trained "
            f"alike for {', '.join(config.test_mode.markets)}: name one market, or leave env_class out."
        )


def changed_keys(config: Configuration, other: Configuration) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both values."""
    leaves = [path for path in paths_of(Configuration) if section_of(_field_at(path)) is None]
    values = {".".join(path): (value_at(config.to_dict(), path), value_at(other.to_dict(), path)) for path in leaves}
    return {key: pair for key, pair in values.items() if pair[0] != pair[1]}


def gpu_settings(config: Configuration) -> list[str]:
    """Keys that act on a GPU only and are not at their mode's default."""
    changed = changed_keys(config, build_config(config.test_mode.mode, {}, {}))
    pipeline = config.test_mode.mode == "pipeline"
    return [
        key
        for key, (value, _) in changed.items()
        if (key in ("hardware.mixed_precision", "hardware.memory_fraction"))
        or (pipeline and key.endswith("gpu_usage.memory_fraction") and value is not None)
    ]


def effective_yaml(config: Configuration) -> str:
    """The configuration as commented YAML that `load_config_file` and `build_config` turn back into an equal one."""
    return commented_yaml(config)


def _check_names(values: Mapping[Any, Any], model: type[BaseModel], source: str, prefix: KeyPath = ()) -> None:
    """ConfigError for a key no section knows, and for a section that is not a mapping."""
    for name, value in values.items():
        key = ".".join((*prefix, foreign(name, 80)))
        if name not in model.model_fields:
            kind = "key" if prefix else "section"
            elsewhere = [".".join(path) for path in flat_paths().get(str(name), ())]
            hint = f"; it belongs at {elsewhere[0]}" if elsewhere else did_you_mean(str(name), model.model_fields)
            raise ConfigError(f"{source}: there is no {kind} {key}{hint}. Known here: {', '.join(model.model_fields)}.")
        inner = section_of(model.model_fields[name])
        if inner is None or (value is None and not prefix):  # a section whose keys are all commented out
            continue
        if not isinstance(value, Mapping):
            short = "a list of layer widths, or " if (*prefix, name) == NET_ARCH else ""
            keys = ", ".join(inner.model_fields)
            raise ConfigError(f"{source}: {key} is {quote(value)}, but must be {short}a section with the keys {keys}.")
        _check_names(value, inner, source, (*prefix, name))


def _by_section(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Flat overrides under their sections."""
    values: dict[str, Any] = {}
    named = overrides.get("llm_model")
    if overrides.get("mock_llm") is True and named not in (None, "mock"):
        raise ConfigError(f"The options mock_llm and llm_model {quote(named)} exclude each other: give one of them.")
    if overrides.get("quick") is True and overrides.get("timesteps_reduction") is not None:
        raise ConfigError(
            "The options quick and timesteps_reduction exclude each other: quick trains test_mode.quick_frac of "
            "production. Give one of them, or quick_frac with quick."
        )
    for name, value in overrides.items():
        if value is None or (name == "mock_llm" and value is False):
            continue
        paths = flat_paths().get(name, ())
        if name == "mock_llm":
            if value is not True:
                raise ConfigError(f"option mock_llm is {quote(value)}, but must be true or false.")
            path: KeyPath = ("llm", "model")
            value = "mock"
        elif name in Configuration.model_fields and isinstance(value, Mapping) and not _is_by_market(name, value):
            path = (name,)
        elif name in ALIASES:
            path = ALIASES[name]
        elif len(paths) == 1:
            path = paths[0]
        else:
            known = [*flat_paths(), "mock_llm", *ALIASES]
            raise ConfigError(
                f"There is no option {name!r}{did_you_mean(name, known)}. An option is named as its key in the "
                f"configuration file."
            )
        one = written_out(nested(path, value), lambda key: f"option {name} ({'.'.join(key)})")  # noqa: B023
        _check_names(one, Configuration, "options" if len(path) == 1 else f"option {name}")
        values = merged(values, one, Configuration)
    return values


def _is_by_market(name: str, value: Mapping[str, Any]) -> bool:
    """Whether an option `data` is a file for each market, not the section of that name."""
    return name == "data" and bool(value) and all(str(key).strip().upper() in CONTRACTS for key in value)


def _validated(model: type[ConfigT], values: Mapping[str, Any], place: Callable[[KeyPath], str]) -> ConfigT:
    for path in paths_of(Configuration):
        if holds(values, path):
            field, value = _field_at(path), value_at(values, path)
            if is_number_in_disguise(field, value):
                raise ConfigError(bad_value(place(path), value, field))
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, Configuration, place)) from None


def _field_at(path: KeyPath) -> Any:
    model: Any = Configuration
    for step in path:
        field = model.model_fields[step]
        model = section_of(field)
    return field
