"""Configuration files and bars: a file that cannot be used fails with its own words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from src.checks import inputs as checks_inputs
from src.checks.inputs import config, data
from src.checks.outcome import NOT_APPLICABLE, PASSED, Blocked
from src.checks.setting import Setting
from src.files import plain_json
from src.market.load import build_tables
from src.market.synthetic import synthetic_bars
from src.report.model.bars import Bars, Quality
from src.report.quality_words import quality_lines
from tests.checks.settings import assert_failed, copied_root, edit
from tests.market.bar_makers import bar_table, write_csv


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return copied_root(tmp_path)


@pytest.fixture
def bars(tmp_path: Path) -> Path:
    """Twenty sound sessions of 15-minute bars."""
    return write_csv(bar_table(synthetic_bars("NQ", 20, 15, seed=1)), tmp_path / "NQ.csv")


# ---------------------------------------------------------------- config


def test_the_shipped_files_pass() -> None:
    outcome = config(Setting())
    assert outcome.status == PASSED, outcome
    assert outcome.figures["keys"] > 100
    assert outcome.figures["files"] >= 7


@pytest.mark.parametrize(
    ("file", "old", "new", "remedy"),
    [
        ("test_pipeline.yaml", "  batch_size:", "  batch_sise:", "did you mean 'batch_size'"),
        ("test_hardware_maximized.yaml", "  gamma: 0.99", "  gamma: 1.99", "training.gamma is 1.99"),
        ("prop_firms/apex_50k_legacy.yaml", "trail_mode: live_peak", "trail_mode: sometimes", "apex_50k_legacy"),
        ("prompts/situation_v1.yaml", "{trend}", "{trend} {rl_action}", "rl_action"),
    ],
)
def test_a_broken_file_fails_and_is_named(root: Path, file: str, old: str, new: str, remedy: str) -> None:
    edit(root / "config" / file, old, new)
    outcome = config(Setting(root=root))
    assert_failed(outcome, "cannot be used", remedy)
    assert Path(file).stem in outcome.remedy


def test_broken_calendar_overrides_fail(root: Path) -> None:
    (root / "config" / "calendar_overrides.yaml").write_text("overrides: [{date: yesterday}]\n")
    assert_failed(config(Setting(root=root)), "cannot be used", "calendar_overrides.yaml")


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("hardware: {batch_sise: 64}", "did you mean 'batch_size'"),
        ("environment: {rule_profile: nobody}", "nobody"),
        ("environment: {commission_usd: 1.234}", "whole cents"),
        ("training: {gamma: 2}", "training.gamma is 2"),
        ("training: {n_steps: 7}", "n_steps"),
    ],
)
def test_the_users_own_file_is_read_too(tmp_path: Path, text: str, remedy: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    assert_failed(config(Setting(config_file=tmp_path / "mine.yaml")), "cannot be used", remedy)


def test_a_sound_file_of_the_users_passes(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("hardware: {batch_size: 512}")
    outcome = config(Setting(config_file=tmp_path / "mine.yaml"))
    assert outcome.status == PASSED
    assert outcome.measured.endswith("and yours")


def test_a_key_that_does_not_survive_being_written_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = checks_inputs.effective_yaml
    monkeypatch.setattr(
        checks_inputs, "effective_yaml", lambda config: real(config).replace("keep_last: 3", "keep_last: 4")
    )
    assert_failed(config(Setting()), "checkpoint.keep_last", "git status")


# ---------------------------------------------------------------- data


def test_sound_bars_pass_with_what_was_counted(bars: Path) -> None:
    outcome = data(Setting(data=bars))
    assert outcome.status == PASSED, outcome
    assert outcome.figures["sessions_usable"] == outcome.figures["sessions"] == 20
    assert sum(outcome.figures["split"].values()) == 20
    assert "20/20 sessions usable" in outcome.measured


def test_a_defective_row_fails_with_row_value_and_remedy(bars: Path) -> None:
    table = pd.read_csv(bars)
    table.loc[40, "high"] = table.loc[40, "low"] - 1.0
    table.to_csv(bars, index=False)
    outcome = data(Setting(data=bars))
    assert_failed(outcome, "cannot be used", "row 41")
    assert "high below low" in outcome.remedy


def lines_of(figures: dict[str, Any]) -> list[str]:
    bars = Bars(**{name: figures[name] for name in ("source", "synthetic", "fingerprint", "bars", "interval_min")})
    return quality_lines(bars, Quality.model_validate(plain_json(figures["quality"])))


def test_the_quality_of_the_bars_is_told_below_the_line(bars: Path) -> None:
    table = pd.read_csv(bars)
    at = pd.to_datetime(table["datetime"]).dt.tz_convert("America/New_York")
    trade_date = (at + pd.Timedelta(hours=6)).dt.date
    table[~(trade_date.map(lambda day: day.weekday() == 2) & (at.dt.hour.between(4, 16)))].to_csv(bars, index=False)
    outcome = data(Setting(data=bars))
    quality = outcome.figures["quality"]
    assert len(quality["sessions"]["left_out"]) == 20 - quality["sessions"]["usable"] >= 3
    assert outcome.details == lines_of(outcome.figures)
    assert any("Wednesdays stop at 03:45 New York" in line for line in outcome.details)


def test_every_kind_of_defect_is_told_with_its_verdict(bars: Path) -> None:
    table = pd.read_csv(bars)
    table.loc[40, "high"] = table.loc[40, "low"] - 1.0
    table.loc[[90, 91], "volume"] = -3
    table.to_csv(bars, index=False)
    outcome = data(Setting(data=bars))
    assert_failed(outcome, "cannot be used", "row 41")
    assert [(f["kind"], f["verdict"], f["count"]) for f in outcome.figures["findings"]] == [
        ("negative volume", "fatal", 2),
        ("high below low", "fatal", 1),
    ]
    assert outcome.details[0].startswith("Fatal: 2 negative volume: row 91 (")
    assert outcome.details[0].endswith("; delete the row.")


def test_bars_at_the_wrong_time_of_day_are_not_answered_with_a_call_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eleven hours late, the cash session lies in the night and the daily break in the cash session."""
    right = synthetic_bars("NQ", 20, 15, seed=1)
    late = replace(right, open_ns=right.open_ns + 11 * 3_600_000_000_000)
    setting = Setting()
    tables = build_tables(late, setting.config.data, trading_hours="rth")
    monkeypatch.setattr(
        Setting, "tables", property(lambda self: replace(tables, bars=replace(tables.bars, synthetic=False)))
    )
    outcome = data(setting)
    assert_failed(outcome, "0 of 21 sessions usable", "are unusable")
    assert "more" not in outcome.remedy
    assert outcome.details == lines_of(outcome.figures)


def test_rows_that_repair_leaves_out_are_counted(bars: Path, tmp_path: Path) -> None:
    table = pd.read_csv(bars)
    table.loc[[40, 90], "high"] = table.loc[[40, 90], "low"] - 1.0
    table.to_csv(bars, index=False)
    (tmp_path / "mine.yaml").write_text("data: {repair: true}")
    outcome = data(Setting(data=bars, config_file=tmp_path / "mine.yaml"))
    assert outcome.status == PASSED
    assert "2 rows left out" in outcome.measured
    assert outcome.figures["rows_left_out"] == {"high below low": 2}


def test_too_few_sessions_to_split_fail(tmp_path: Path) -> None:
    file = write_csv(bar_table(synthetic_bars("NQ", 2, 15, seed=1)), tmp_path / "NQ.csv")
    assert_failed(data(Setting(data=file)), "cannot be used", "are needed")


def test_bars_that_are_mostly_holes_fail_with_the_commonest_reason(bars: Path) -> None:
    table = pd.read_csv(bars)
    minutes = pd.to_datetime(table["datetime"]).dt.tz_convert("America/New_York").dt.strftime("%H:%M")
    days = pd.to_datetime(table["datetime"]).dt.tz_convert("America/New_York").dt.date
    first_days = np.isin(days, sorted(set(days))[:16])
    table[~(first_days & (minutes >= "10:00") & (minutes < "13:00"))].to_csv(bars, index=False)
    outcome = data(Setting(data=bars))
    assert_failed(outcome, "of 20 sessions usable", "a hole of 12 bars")
    assert "data.max_hole_bars" in outcome.remedy


def test_bars_of_another_market_fail(bars: Path) -> None:
    assert_failed(data(Setting("ES", data=bars)), "cannot be used", "--market NQ")


def test_without_bars_there_is_nothing_to_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = data(Setting("RTY"))
    assert (outcome.status, outcome.measured) == (NOT_APPLICABLE, "")
    assert "RTY" in outcome.reason
    assert "SYNTHETIC" in outcome.reason


def test_what_a_failed_check_has_told_is_not_told_again(bars: Path) -> None:
    setting = Setting(data=bars)
    setting.failed.add("config")
    with pytest.raises(Blocked) as blocked:
        data(setting)
    assert blocked.value.by == "config"
