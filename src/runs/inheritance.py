"""What a run that is resumed without a file of settings takes over, in one line."""

from __future__ import annotations

from pathlib import Path

from src.configuration import Configuration, build_config, changed_keys
from src.configuration_errors import shown

MOST_NAMED = 6


def inherited_words(file: Path, inherited: Configuration, config: Configuration) -> str:
    """Which settings come from the `file` of an earlier run, and what the options given change of them."""
    defaults: Configuration = build_config(inherited.test_mode.mode, {}, {"market": inherited.test_mode.market})
    own = [f"{key} {shown(value)}" for key, (value, _) in changed_keys(inherited, defaults).items()]
    named = ", ".join(own[:MOST_NAMED]) or "all at their defaults"
    more = f" and {len(own) - MOST_NAMED} more" if len(own) > MOST_NAMED else ""
    changed = changed_keys(config, inherited)
    over = ", ".join(f"{key} {shown(value)} (was {shown(was)})" for key, (value, was) in changed.items())
    return f"Settings are those of {file}: {named}{more}" + (f"; options change {over}." if over else ".")
