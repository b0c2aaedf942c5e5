"""Checks of the user's input: configuration files and bars."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from src.advisor.prompts import load_prompts
from src.configuration import Configuration, build_config, effective_yaml, flat_paths, load_config_file
from src.errors import BarDataError, UserError
from src.market.contracts import get_contract
from src.market.sessions import load_overrides
from src.market.split import split_sessions
from src.trading.params import make_params
from src.trading.rules import available_rule_profiles, load_rule_profile
from src.validation.outcome import RESTORE, Outcome, failed, not_applicable, passed
from src.validation.setting import Setting

USABLE_FRAC_MIN = 0.5
"""Least share of usable sessions; below it a file is mostly holes."""


def config(setting: Setting) -> Outcome:
    """Read every file below config/ and the user's own; check that every key written reads back equal."""
    try:
        effective = setting.config
        chosen = load_rule_profile(effective.environment.rule_profile)
        make_params(effective.environment, get_contract(effective.test_mode.market), chosen)
        n_files = _read_all(setting.root / "config")
    except UserError as error:
        return failed("a configuration file cannot be used", str(error))
    n_keys = sum(map(len, flat_paths().values()))
    lost = _lost_on_paper(effective)
    if lost:
        return failed(f"{lost} does not read back as it was written", RESTORE, keys=n_keys)
    own = "" if setting.config_file is None else " and yours"
    return passed(f"{n_keys} keys; {n_files} files below config/{own}", keys=n_keys, files=n_files)


def _read_all(folder: Path) -> int:
    """Read every file below config/ as the program would and return their number. UserErrors for invalid ones."""
    modes, prompts = sorted(folder.glob("test_*.yaml")), sorted((folder / "prompts").glob("*.yaml"))
    for file in modes:
        build_config(None, load_config_file(file), {}, source=str(file))
    profiles = available_rule_profiles(folder / "prop_firms")
    for name in profiles:
        load_rule_profile(name, folder / "prop_firms")
    for file in prompts:
        load_prompts(file)
    load_overrides(folder / "calendar_overrides.yaml")
    return len(modes) + len(profiles) + len(prompts) + 1


def _lost_on_paper(effective: Configuration) -> str:
    """The first key that does not survive the commented YAML of a run's folder; empty if all do."""
    with tempfile.TemporaryDirectory(prefix="validate-") as folder:
        written = Path(folder) / "config.yaml"
        written.write_text(effective_yaml(effective), encoding="utf-8")
        again: Configuration = build_config(None, load_config_file(written), {}, source=str(written))
    before, after = effective.to_dict(), again.to_dict()
    return next((f"{section}.{key}" for section in before for key in before[section]
                 if before[section][key] != after[section].get(key)), "")  # fmt: skip


def data(setting: Setting) -> Outcome:
    """Read the bars as a run would: every row, every session, the split."""
    market = setting.config.test_mode.market
    try:
        tables = setting.tables
        if tables.bars.synthetic:
            return not_applicable(f"no bars of {market}: a run trades SYNTHETIC ones")
        settings = setting.config.data
        sessions, bars = tables.sessions, tables.bars
        split = split_sessions(sessions, settings.train_frac, settings.validation_frac, settings.embargo_sessions)
    except BarDataError as error:
        return failed("the bars cannot be used", str(error))
    left_out = Counter(sessions.reason[i] for i in np.flatnonzero(~sessions.usable))
    figures = {
        "source": bars.source,
        "fingerprint": bars.fingerprint,
        "bars": len(bars),
        "interval_min": bars.interval_s // 60,
        "rows_left_out": dict(bars.repairs),
        "sessions": len(sessions),
        "sessions_usable": int(sessions.usable.sum()),
        "sessions_left_out": dict(left_out),
        "split": {"train": len(split.train), "validation": len(split.validation), "sealed": len(split.test)},
    }
    if sessions.usable.mean() < USABLE_FRAC_MIN:
        reason, count = left_out.most_common(1)[0]
        return failed(
            f"{figures['sessions_usable']} of {len(sessions)} sessions usable",
            f"Most sessions of {bars.source} are unusable, {count} because: {reason}. Export the complete bars again, "
            f"or raise data.no_trade_bars and data.max_hole_bars if the market was that quiet.",
            **figures,
        )
    dropped = sum(bars.repairs.values())
    said = f", {dropped:,} rows left out" if dropped else ""
    return passed(f"{len(bars):,} bars, {figures['sessions_usable']}/{len(sessions)} sessions usable{said}", **figures)
