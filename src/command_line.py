"""Options of a run that are keys of the configuration; `--help` shows the defaults the configuration has for them."""

from __future__ import annotations

import argparse
import os
import shlex
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from src.agent.other_machine import SHAPE
from src.errors import MarketError
from src.market.contracts import CONTRACTS, symbols_of
from src.plain_text import foreign
from src.shell import Parser, run_command

if TYPE_CHECKING:
    from src.configuration import Configuration
    from src.testing_framework import TestConfig

__all__ = ["RunParser", "command_to_go_on", "config_of", "overrides_of", "run_command", "run_parser"]

NOT_CONFIGURATION = ("config", "debug", "auto_resume", "start_phase", "sweep")
WITHOUT_VALUE = {
    "group": "as many as fit into memory",
    "learner": "population on a GPU that has numba-cuda, else fused",
    "data": "data/, else synthetic bars",
    "interval": "as in the file",
    "mlflow": "none",
    "other_machine": "none",
    "price_per_hour": "none",
    "ray": "without Ray",
    "stamp": "measured from the bars",
    "timesteps": "10% of production",
    "timezone": "measured from the bars",
    "workers": "as many as there are free cores, where it is worth it",
}


class RunParser(Parser):
    """A parser of options that are keys of the configuration, with the defaults of a mode."""

    def __init__(self, description: str | None, mode: str) -> None:
        super().__init__(description)
        self._mode = mode
        self._keys: list[argparse.Action] = []

    def key(self, *names: str, **settings: Any) -> argparse.Action:
        """Add an option that is a key of the configuration; its default is added to its help when that is shown."""
        action = self.add_argument(*names, **settings)
        self._keys.append(action)
        return action

    def format_help(self) -> str:
        """See ArgumentParser."""
        words = default_words(self._mode, [action.dest for action in self._keys])
        for action in self._keys:
            if (default := words[action.dest]) and f"(default {default})" not in str(action.help):
                action.help = f"{action.help} (default {default})"
        return super().format_help()


def default_words(mode: str, names: list[str]) -> dict[str, str]:
    """The default of each option in a mode, with that under `--quick` where it is another; "" for a switch."""
    from src.advisor.settings import budget_s
    from src.configuration import ALIASES, build_config, flat_paths

    values: list[dict[str, Any]] = []
    for quick in (False, True):
        config: Configuration = build_config(mode, {}, {"quick": quick})
        found = {}
        for name in names:
            value: Any = config
            for step in ALIASES.get(name) or flat_paths().get(name, ((),))[0]:
                value = getattr(value, step)
            found[name] = value
        of_its_own = {"timesteps": config.base_timesteps, "llm_budget": budget_s(config.llm, quick=quick)}
        values.append({**found, **{name: value for name, value in of_its_own.items() if name in found}})
    full, quick_values = values
    return {name: _words(name, full[name], quick_values[name]) for name in names}


def _words(name: str, full: Any, quick: Any) -> str:
    if isinstance(full, bool) or not isinstance(full, int | float | str | None):
        return ""
    if full is None:
        return WITHOUT_VALUE.get(name, "")
    shown, shown_quick = (f"{value:g}" if isinstance(value, float) else str(value) for value in (full, quick))
    return shown if shown == shown_quick else f"{shown}; with --quick {shown_quick}"


class _Markets(argparse.Action):
    """Keeps a single market as it is, several as a list."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, values[0] if len(values) == 1 else values)


class _Bars(argparse.Action):
    """Keeps a single path as it is, `NQ=path ES=path` as a mapping."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        named = [_market_and_path(value) for value in values]
        if len(values) == 1 and (named[0] is None or os.path.exists(values[0])):
            setattr(namespace, self.dest, values[0])
            return
        paths: dict[str, str] = {}
        for value, pair in zip(values, named, strict=True):
            if pair is None:
                parser.error(
                    f"argument --data: {foreign(value, 80)!r} says no market; give one file or folder, or one for each "
                    f"market as NQ=file ES=file"
                )
            elif pair[0] in paths:
                parser.error(f"argument --data: the market {pair[0]} is named twice")
            else:
                paths[pair[0]] = pair[1]
        setattr(namespace, self.dest, paths)


def _market_and_path(text: str) -> tuple[str, str] | None:
    """Both sides of `NQ=path`; None where no market is to the left of an equals sign."""
    symbol, sign, path = text.partition("=")
    try:
        return (*symbols_of(symbol), path) if sign and path else None  # type: ignore[return-value]
    except MarketError:
        return None


def add_bar_options(parser: RunParser, what: str, *, several: bool = False) -> None:
    """Add the options that say where the bars are and how to read them; `what` is the help of `--data`, which with
    `several` also takes a path for each market."""
    key = parser.key
    if several:
        key("--data", nargs="+", metavar="PATH", action=_Bars, help=what)
    else:
        key("--data", metavar="PATH", help=what)
    key("--timezone", metavar="ZONE", help="zone of times that state none: America/Chicago, UTC-05:00 ...")
    key("--stamp", choices=("open", "close"), help="whether a bar's time is that of its open or its close")
    key("--interval", type=int, metavar="N", help="minutes per bar: shorter bars are joined into bars of that length")


def run_parser(description: str | None, mode: str = "hardware_maximized") -> RunParser:
    """A parser with the options every run has; `mode` is the one whose defaults `--help` shows."""
    parser = RunParser(description, mode)
    option, key = parser.add_argument, parser.key
    what = f"contract symbol, or several in one run: {', '.join(CONTRACTS)}"
    market = key("-m", "--market", nargs="+", action=_Markets, help=what)
    market.completer = lambda **_: list(CONTRACTS)  # type: ignore[attr-defined]
    what = "bars: a vendor's file of any common format, or a folder of them; of several markets also NQ=PATH ES=PATH"
    add_bar_options(parser, what, several=True)
    option("-c", "--config", metavar="FILE", help="YAML file of settings; options given here win over it")
    key(
        "-q",
        "--quick",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="train 1%% of production: too short to learn; --no-quick overrides a file or an earlier run",
    )
    key("--mock-llm", action="store_true", default=None, help="advice by rules, without a language model")
    key("--llm-model", metavar="NAME", help="bundled:smollm2, a folder or hub id, tiny, or mock")
    key("--llm-budget", type=float, metavar="SECONDS", help="time to ask the language model, in seconds")
    key("--quantization", choices=("none", "int8", "int4"), help="of the language model's weights")
    key("--extend-advice", action="store_true", default=None, help="ask beyond what earlier runs have tabulated")
    key("--timesteps", type=int, metavar="N", help="base timesteps")
    key("--batch-size", type=int, metavar="N", help="timesteps in a minibatch of the PPO update")
    key("--vectorized-envs", type=int, metavar="N", help="accounts stepped together")
    key("--device", choices=("auto", "cpu", "cuda"), help="where the networks train")
    key("--seed", type=int, metavar="N", help="of every random stream of the run")
    key("--price-per-hour", type=float, metavar="USD", help="price of the machine, for the cost of production")
    key("--on", dest="other_machine", metavar="MACHINE", help=f"forecast production there as well: {SHAPE}")
    key("--output-dir", metavar="FOLDER", help="gets one folder a run")
    key("--mlflow", metavar="FOLDER", help="MLflow file store that gets the finished run as well")
    key("--learner", choices=("fused", "stock", "population"), help="what trains; population: all members together")
    key("--group", type=int, metavar="N", help="members that train together (population)")
    key("--workers", type=int, metavar="N", help="tasks done at a time, each in a process of its own")
    what = "Ray does the tasks: on this machine, or on the cluster at HOST:PORT (docs/cluster.md)"
    key("--ray", nargs="?", const="local", metavar="HOST:PORT", help=what)
    key("--seeds", type=int, metavar="N", help="seeds trained and averaged")
    what = "survival table over these prop-firm rule profiles, or all, from the same trained policies"
    key("--rules", nargs="+", metavar="PROFILE", help=what)
    option(
        "--auto-resume",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="resume the newest run of the output folder with its settings; --no-auto-resume: begin a new run "
        "(default: resume only an unfinished one of the same settings)",
    )
    option("--debug", action="store_true", help="show tracebacks and debug messages")
    return parser


def overrides_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, by the names the configuration knows."""
    return {name: value for name, value in vars(args).items() if name not in NOT_CONFIGURATION and value is not None}


def config_of(args: argparse.Namespace, mode: str, console: Console) -> TestConfig:
    """The configuration of a run: the options over the file they name, over the settings of the run to resume, over
    the defaults. Settings inherited from an earlier run are printed."""
    from src.runs.inheritance import earlier_settings, inherited_words
    from src.testing_framework import TestConfig, create_test_config

    overrides = overrides_of(args)
    resumes = args.auto_resume or getattr(args, "start_phase", 1) > 1
    earlier = None
    if not args.config and resumes:
        kind = "sweep" if getattr(args, "sweep", None) else mode
        earlier = earlier_settings(overrides.get("output_dir"), kind, overrides.get("market"))
    file = args.config or earlier
    config = TestConfig.from_file(file, mode, **overrides) if file else create_test_config(mode, **overrides)
    if earlier is not None:
        words = inherited_words(earlier, TestConfig.from_file(earlier, mode), config)
        console.print(Text(words), highlight=False)
    return config


def command_to_go_on(argv: list[str]) -> str:
    """The command to type after a stop: the same one with --auto-resume and without options that restart a phase."""
    kept: list[str] = []
    options = iter(argv[1:])
    for option in options:
        if option == "--start-phase":
            next(options, None)
        elif option not in ("--auto-resume", "--no-auto-resume") and not option.startswith("--start-phase="):
            kept.append(option)
    return shlex.join(["python", argv[0], *kept, "--auto-resume"])
