"""The checks by name, from cheap to expensive. Importing this loads no library: `--list` answers at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from src.errors import UserError
from src.suggestions import did_you_mean

if TYPE_CHECKING:
    from src.checks.outcome import Outcome
    from src.checks.setting import Setting


@dataclass(frozen=True)
class Check:
    """`guards` describes what is checked; `module` holds a function of the check's name. `full_only`: too slow for a
    quick validation."""

    name: str
    guards: str
    module: str
    full_only: bool = False

    def load(self) -> Callable[[Setting], Outcome]:
        """The function; ImportError where a library is missing."""
        found: Callable[[Setting], Outcome] = getattr(_module(self.module), self.name)
        return found


def _module(name: str) -> ModuleType:
    """A file of checks. Only that one is imported: a library that it lacks fails no other check."""
    found: ModuleType
    match name:
        case "account":
            from src.checks import account as found
        case "advisor":
            from src.checks import advisor as found
        case "canaries":
            from src.checks import canaries as found
        case "compute":
            from src.checks import compute as found
        case "equivalence":
            from src.checks import equivalence as found
        case "inputs":
            from src.checks import inputs as found
        case "machine":
            from src.checks import machine as found
        case "report":
            from src.checks import report as found
        case "training":
            from src.checks import training as found
        case _:
            raise ImportError(f"src/checks/{name}.py is not among the files that src/checks/catalogue.py imports")
    return found


CHECKS = (
    Check("versions", "Python and every library at the version the tests ran with", "machine"),
    Check("config", "configuration files: every key, profiles, prompts, calendar overrides", "inputs"),
    Check("disk", "output, cache and temporary folder can be written and have room", "machine"),
    Check("cpu", "usable cores, no container limit below one, vector instructions", "machine"),
    Check("memory", "enough free memory for a run, counting a container's limit", "machine"),
    Check("data", "your bars: every row sound, sessions placed, enough of them to split", "inputs"),
    Check("gpu", "GPU and driver: torch computes on it, NVML watches it", "compute"),
    Check("threads", "more torch threads do not slow it down; none without a core", "compute"),
    Check("kernel", "the compiled account gives the figures of a path worked by hand", "account"),
    Check("environment", "gymnasium's and SB3's checkers, action masks, batch equals single", "account"),
    Check("fusion", "compiled decision fusion equals the plain loop, counts too", "equivalence"),
    Check("cache", "features through the cache equal those without it, bit for bit", "equivalence"),
    Check("pool", "a lent environment plays like a new one, bit for bit", "equivalence"),
    Check("echo", "no prompt contains an answer or the agent's proposal", "advisor"),
    Check("look_ahead", "nothing that a decision reads changes with later bars", "training"),
    Check("warm_up", "features converge: they forget where the history began", "training"),
    Check("fills", "orders fill at the next bar's open, in all three ways of stepping", "training"),
    Check("sealed", "nothing is fitted or trained on validation or sealed sessions", "training"),
    Check("checkpoint", "a training killed and resumed ends bit-identical", "training"),
    Check("advisor", "the language model loads and scores situations, not all alike", "advisor"),
    Check("invariance", "its answer does not depend on other situations in the batch", "advisor"),
    Check("report", "a small run writes a report.json that matches the schema", "report"),
    Check("planted", "PPO learns a planted edge in 50,000 timesteps", "canaries"),
    Check("martingale", "PPO earns nothing on a market without an edge", "canaries", full_only=True),
)

NAMES = tuple(check.name for check in CHECKS)


class UnknownCheck(UserError):
    """Unknown check."""


def chosen(names: Sequence[str] | None) -> tuple[Check, ...]:
    """The named checks in the catalogue's order; all of them if none is named. UnknownCheck gives the nearest name."""
    for name in names or ():
        if name not in NAMES:
            raise UnknownCheck(
                f"There is no check {name!r}{did_you_mean(name, NAMES)}: --list shows them all. Give --only once for "
                f"each check."
            )
    return tuple(check for check in CHECKS if not names or check.name in names)
