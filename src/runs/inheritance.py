"""What a run that is resumed without a file of settings takes over, in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from src import run_names
from src.agent.settings import RunSettings, label_of
from src.configuration import Configuration, build_config, changed_keys
from src.configuration_errors import quote
from src.market.contracts import symbols_of
from src.runs.folders import newest_run
from src.runs.run_folder import check_seal

MOST_NAMED = 6
NAMED_FIRST = ("test_mode.quick", "training.timesteps", "training.timesteps_reduction", "llm.model", "data.path")
NOT_SAID = ("test_mode.output_dir",)
"""Where the earlier run was looked for: it may have been moved since."""


def earlier_settings(output_dir: str | None, mode: str, market: str | Sequence[str] | None) -> Path | None:
    """The settings file of the run to resume, None where there is none. UserError for one that was changed."""
    folder = Path(RunSettings().output_dir if output_dir is None else output_dir)
    run = newest_run(folder, mode, None if market is None else label_of(symbols_of(market)))
    if run is None:
        return None
    check_seal(run / run_names.CONFIGURATION)
    return run / run_names.CONFIGURATION


def inherited_words(file: Path, inherited: Configuration, config: Configuration) -> str:
    """Which settings come from the `file` of an earlier run, and what the options given change of them."""
    defaults: Configuration = build_config(inherited.test_mode.mode, {}, {"market": inherited.test_mode.market})
    differing = changed_keys(inherited, defaults)
    keys = sorted(differing.keys() - set(NOT_SAID), key=lambda key: (key not in NAMED_FIRST, [*differing].index(key)))
    own = [f"{key} {quote(differing[key][0])}" for key in keys]
    named = ", ".join(own[:MOST_NAMED]) or "all at their defaults"
    more = f" and {len(own) - MOST_NAMED} more" if len(own) > MOST_NAMED else ""
    changed = changed_keys(config, inherited)
    over = ", ".join(
        f"{key} {quote(value)} (was {quote(was)})" for key, (value, was) in changed.items() if key not in NOT_SAID
    )
    return f"Settings are those of {file}: {named}{more}" + (f"; options change {over}." if over else ".")
