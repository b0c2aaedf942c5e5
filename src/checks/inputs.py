"""Checks of the user's input: configuration files and bars."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from src import run_names
from src.advisor.prompts import load_prompts
from src.agent.market import account_constants
from src.checks.outcome import RESTORE, Outcome, failed, not_applicable, passed
from src.checks.setting import Setting
from src.configuration import Configuration, build_config, effective_yaml, flat_paths, load_config_file
from src.errors import BarDataError, UserError
from src.files import plain_json
from src.market.quality import quality_facts
from src.market.row_verdicts import RowDefects
from src.market.sessions import load_overrides
from src.market.settings import DataSettings
from src.market.split import split_sessions
from src.market.tables import MarketTables
from src.report.model.bars import Bars, Quality
from src.report.quality_words import quality_lines, verdict_words
from src.trading.rules import available_rule_profiles, load_rule_profile

USABLE_FRAC_MIN = 0.5
"""Least share of usable sessions; below it a file is mostly holes."""


def config(setting: Setting) -> Outcome:
    """Read every file below config/ and the user's own; check that every key written reads back equal."""
    try:
        effective = setting.config
        account_constants(effective.environment, effective.test_mode.markets[0])
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
        written = Path(folder) / run_names.CONFIGURATION
        written.write_text(effective_yaml(effective), encoding="utf-8")
        again: Configuration = build_config(None, load_config_file(written), {}, source=str(written))
    before, after = effective.to_dict(), again.to_dict()
    return next((f"{section}.{key}" for section in before for key in before[section]
                 if before[section][key] != after[section].get(key)), "")  # fmt: skip


def data(setting: Setting) -> Outcome:
    """Read the bars as a run would: what the files are taken to be, every row, every session, the split."""
    market = setting.config.test_mode.markets[0]
    try:
        tables = setting.tables
    except RowDefects as error:
        figures = {"findings": [asdict(finding) for finding in error.findings]}
        details = [verdict_words(finding) for finding in error.findings]
        return replace(failed("the bars cannot be used", str(error), **figures), details=details)
    except BarDataError as error:
        return failed("the bars cannot be used", str(error))
    if tables.bars.synthetic:
        return not_applicable(f"no bars of {market}: a run trades SYNTHETIC ones")
    return _judged(tables, setting.config.data)


def _judged(tables: MarketTables, settings: DataSettings) -> Outcome:
    """Whether enough sessions can be used, with the quality of the bars in words and figures."""
    sessions, bars = tables.sessions, tables.bars
    left_out = Counter(sessions.reason[i] for i in np.flatnonzero(~sessions.usable))
    usable = int(sessions.usable.sum())
    figures: dict[str, Any] = {
        "source": bars.source,
        "synthetic": bars.synthetic,
        "fingerprint": bars.fingerprint,
        "bars": len(bars),
        "interval_min": bars.interval_s // 60,
        "rows_left_out": dict(bars.repairs),
        "sessions": len(sessions),
        "sessions_usable": usable,
        "sessions_left_out": dict(left_out),
        "quality": quality_facts(tables, settings.no_trade_bars),
    }
    read = Bars(**{name: figures[name] for name in Bars.model_fields})
    details = quality_lines(read, Quality.model_validate(plain_json(figures["quality"])))
    # Before the split: bars of more sessions like these would not help.
    if usable < USABLE_FRAC_MIN * len(sessions):
        reason, count = left_out.most_common(1)[0]
        remedy = (
            f"Most sessions of {bars.source} are unusable, {count} because: {reason}. Check above how its times were "
            f"read. If they were read correctly, export the complete bars again, or raise data.no_trade_bars and "
            f"data.max_hole_bars if the market was that quiet."
        )
        return replace(failed(f"{usable} of {len(sessions)} sessions usable", remedy, **figures), details=details)
    try:
        split = split_sessions(sessions, settings.train_frac, settings.validation_frac, settings.embargo_sessions)
    except BarDataError as error:
        return replace(failed("the bars cannot be used", str(error), **figures), details=details)
    figures["split"] = {"train": len(split.train), "validation": len(split.validation), "sealed": len(split.test)}
    dropped = sum(bars.repairs.values())
    said = f", {dropped:,} rows left out" if dropped else ""
    return replace(
        passed(f"{len(bars):,} bars, {usable}/{len(sessions)} sessions usable{said}", **figures), details=details
    )
