"""Rule profiles: what ships is what the sources say, and a file that is wrong says where and why."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.errors import ConfigError
from src.trading.rules import (
    NO_CONTRACT_LIMIT,
    PROFILES_FOLDER,
    RESULT_NAME,
    RuleProfile,
    available_rule_profiles,
    chosen_profiles,
    load_rule_profile,
)
from tests.reference_account import BUY, ReferenceAccount, ReferenceMarket, ReferenceParams

APEX = ("apex_50k_eod_2026_03", "apex_50k_intraday_2026_03", "apex_50k_legacy")
FINGERPRINTS = {
    "apex_50k_eod_2026_03": "7a76b54a2a2c4597e2041aa7fc7dca8a93d56eaea27ca9ebe7e751e01239d1cd",
    "apex_50k_intraday_2026_03": "ea890e6094146f126a714b813c7b5a4852b73b3398d606fabed1948f445ffced",
    "apex_50k_legacy": "fc6323f7bcff1ce63d2ef441000819e26c2fe51a3c62b9d34806ce4bb6d49931",
    "none": "188f86aebd7dc00188bbe62026b7bf6b72f08e267e42b3b3f03c94b58ac257c7",
}
"""Of the first profiles, as runs before the later rules have them: such runs are still comparable."""

# The sources' table: size in thousands of dollars, then in dollars target, drawdown and what it follows, the balance
# where the threshold stops, daily limit; contracts and micros, best day's share, trading days, calendar days, flat by,
# automation.
EOD, LIVE = "end_of_day", "live_peak"
SOURCES: dict[str, tuple[Any, ...]] = {
    "apex_25k_eod_2026_10": (25, 1500, 1000, EOD, None, 500, None, None, None, 0, 30, "16:59", "banned"),
    "apex_50k_eod_2026_10": (50, 3000, 2000, EOD, None, 1000, 6, 60, None, 0, 30, "16:59", "banned"),
    "apex_100k_eod_2026_10": (100, 6000, 3000, EOD, None, 1500, None, None, None, 0, 30, "16:59", "banned"),
    "apex_150k_eod_2026_10": (150, 9000, 4000, EOD, None, 2000, None, None, None, 0, 30, "16:59", "banned"),
    "apex_50k_live_2026_10": (50, 3000, 2000, LIVE, None, None, 6, 60, None, 0, 30, "16:59", "banned"),
    "apex_50k_live_lock_2026_10": (50, 3000, 2000, LIVE, 53_000, None, 6, 60, None, 0, 30, "16:59", "banned"),
    "topstep_50k_2026_11": (50, 3000, 2000, EOD, 50_000, None, 5, 50, "0.5", 0, None, "16:10", "restricted"),
    "topstep_100k_2026_11": (100, 6000, 3000, EOD, 100_000, None, 10, 100, "0.5", 0, None, "16:10", "restricted"),
    "topstep_150k_2026_11": (150, 9000, 4500, EOD, 150_000, None, 15, 150, "0.5", 0, None, "16:10", "restricted"),
    "takeprofittrader_50k_2026_11": (50, 3000, 2000, EOD, 50_000, None, 6, 60, "0.5", 5, None, "17:00", "unknown"),
    "tradeify_select_50k_2026_11": (
        50,
        3000,
        2000,
        EOD,
        50_100,
        None,
        None,
        None,
        "0.4",
        3,
        None,
        "16:59",
        "restricted",
    ),
    "tradeify_growth_50k_2026_11": (
        50,
        3000,
        2000,
        EOD,
        50_100,
        1250,
        None,
        None,
        None,
        1,
        None,
        "16:59",
        "restricted",
    ),
    "mffu_core_50k_2026_11": (50, 3000, 1500, EOD, None, None, 3, 30, "0.5", 2, None, None, "restricted"),
    "mffu_rapid_50k_2026_11": (50, 3000, 2000, LIVE, None, None, 5, 50, "0.5", 2, None, None, "restricted"),
}
# What the sources leave open, by the words that a profile must name it with.
OPEN = {
    "apex_50k_eod_2026_10": ("one says 1", "disputed", "unconfirmed"),
    "apex_50k_live_2026_10": ("one says 1", "unconfirmed"),
    "topstep_50k_2026_11": ("one says none", "40%"),
    "takeprofittrader_50k_2026_11": ("automation",),
    "tradeify_select_50k_2026_11": ("3,000 is unverified", "contracts"),
    "tradeify_growth_50k_2026_11": ("3,000 is unverified", "contracts"),
    "mffu_core_50k_2026_11": ("1,500 or 2,000", "none for Pro"),
    "mffu_rapid_50k_2026_11": ("at the close or following the live peak", "none"),
}

GOOD: dict[str, Any] = {
    "name": "mine",
    "title": "mine",
    "as_of": "2026-01-02",
    "sources": ["a page"],
    "start_balance_usd": 50_000,
    "trail_mode": "end_of_day",
    "trail_usd": 2_000,
}


def written(folder: Path, content: Any, name: str = "mine") -> Path:
    (folder / f"{name}.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return folder


# The table of the sources in cents. trail_mode: 1 live peak, 2 end of day.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("apex_50k_eod_2026_03", (5_000_000, 2, 200_000, 100_000, 300_000, 30, 6)),
        ("apex_50k_intraday_2026_03", (5_000_000, 1, 200_000, 0, 300_000, 30, 6)),
        ("apex_50k_legacy", (5_000_000, 1, 250_000, 0, 300_000, 0, 10)),
        ("none", (5_000_000, 0, 0, 0, 0, 0, NO_CONTRACT_LIMIT)),
    ],
)
def test_a_shipped_profile_gives_the_figures_of_its_sources(name: str, expected: tuple[int, ...]) -> None:
    fields = load_rule_profile(name).to_params_fields()
    keys = ("start_balance_cents", "trail_mode", "trail_cents", "daily_limit_cents", "target_cents", "expiry_days")
    assert tuple(fields[key] for key in (*keys, "max_contracts")) == expected
    # The lock during the evaluation is disputed; the strictest reading, none, is used and said.
    assert (fields["lock_mode"], fields["lock_cents"]) == (0, 0)
    assert all(type(value) is int for value in fields.values())


@pytest.mark.parametrize("name", SOURCES)
def test_a_profile_of_today_has_every_figure_of_its_sources(name: str) -> None:
    rules, source = load_rule_profile(name), SOURCES[name]
    keys = ("profit_target_usd", "trail_usd", "trail_mode", "lock_usd", "daily_limit_usd", "max_contracts")
    keys += ("micro_contracts", "consistency_frac", "min_trading_days", "expiry_calendar_days", "flat_by", "automation")
    assert rules.start_balance_usd == 1000 * source[0]
    for key, wanted in zip(keys, source[1:], strict=True):
        found = getattr(rules, key)
        if key == "consistency_frac" and wanted is not None:
            assert found == Decimal(wanted)
        else:
            assert (f"{found:%H:%M}" if key == "flat_by" and found else found) == wanted, key
    # No firm here ends an account at its daily limit, counts its expiry in sessions or asks for a profit a day.
    assert (rules.daily_limit_breaches, rules.expiry_days, rules.min_day_usd, rules.ladder) == (False, None, None, ())


def test_the_table_of_sources_has_every_profile_that_is_sold_today() -> None:
    assert [rules.name for rules in chosen_profiles(["all"])] == sorted(SOURCES)
    assert [rules.name for rules in chosen_profiles(["none", "all", "none"])] == ["none", *sorted(SOURCES)]
    for name in APEX:
        assert load_rule_profile(name).superseded_by in SOURCES
    with pytest.raises(ConfigError, match=r"evidence\.rules is 'topstep_50k'"):
        chosen_profiles(["topstep_50k"])


@pytest.mark.parametrize("name", OPEN)
def test_what_the_sources_leave_open_is_named(name: str) -> None:
    rules = load_rule_profile(name)
    said = " ".join((*rules.conflicts, *rules.unverified))
    assert all(words in said for words in OPEN[name])


def test_the_funded_phase_of_apex_is_that_of_its_source_and_no_other_firm_has_one() -> None:
    known = {name: load_rule_profile(name).funded_profile() for name in SOURCES}
    by_plan = {"apex_50k_eod_2026_10": 250, "apex_50k_live_2026_10": 200, "apex_50k_live_lock_2026_10": 200}
    assert {name for name, funded in known.items() if funded is not None} == by_plan.keys()
    for name, day_usd in by_plan.items():
        funded = known[name]
        assert funded is not None
        fields, micro = funded.to_params_fields(), funded.to_params_fields(micro=True)
        assert (fields["target_cents"], fields["lock_cents"], fields["expiry_days"]) == (210_000, 5_010_000, 0)
        assert (fields["needed_days"], fields["day_profit_cents"]) == (5, 100 * day_usd)
        assert fields["consistency_bp"] == 5_000
        rungs = [(fields[f"ladder_cents_{k}"], fields[f"ladder_contracts_{k}"]) for k in (1, 2, 3)]
        assert (fields["max_contracts"], *rungs) == (2, (150_000, 3), (300_000, 4), (0, 0))
        assert (micro["max_contracts"], micro["ladder_contracts_1"], micro["ladder_contracts_2"]) == (20, 30, 40)


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_the_first_profiles_keep_their_fingerprints(name: str) -> None:
    assert load_rule_profile(name).fingerprint == FINGERPRINTS[name]


def test_rules_are_known_by_their_content() -> None:
    rules = RuleProfile(**GOOD)
    described = {
        "name": "other",
        "title": "other",
        "as_of": "2026-08-01",
        "sources": ["two", "pages"],
        "caveats": ["x"],
        "conflicts": ["y"],
        "unverified": ["z"],
        "family": "f",
        "superseded_by": "later",
        "automation": "banned",
        "automation_note": "no bots",
    }
    assert RuleProfile(**{**GOOD, **described, "start_balance_usd": "50000.00"}).fingerprint == rules.fingerprint
    others: list[dict[str, Any]] = [
        {"start_balance_usd": 50_001},
        {"profit_target_usd": 3_000},
        {"trail_mode": "live_peak"},
        {"trail_usd": 2_001},
        {"lock_usd": 50_100},
        {"daily_limit_usd": 1_000},
        {"max_contracts": 6, "micro_contracts": 60},
        {"max_contracts": 6, "micro_contracts": 61},
        {"expiry_days": 30},
        {"min_days": 1},
        {"daily_limit_usd": 1_000, "daily_limit_breaches": True},
        {"profit_target_usd": 3_000, "consistency_frac": 0.5},
        {"max_contracts": 6, "micro_contracts": 60, "ladder": [{"profit_usd": 1, "contracts": 7, "micros": 60}]},
        {"max_contracts": 6, "micro_contracts": 60, "ladder": [{"profit_usd": 1, "contracts": 6, "micros": 61}]},
        {"expiry_calendar_days": 30},
        {"min_trading_days": 1},
        {"min_trading_days": 1, "min_day_usd": 200},
        {"flat_by": "16:00"},
        {"profit_target_usd": 3_000, "funded": {"payout_balance_usd": 52_000}},
    ]
    assert {key for other in others for key in other} == RuleProfile.model_fields.keys() - described.keys()
    prints = [RuleProfile(**{**GOOD, **other}).fingerprint for other in others]
    assert len({rules.fingerprint, *prints}) == len(others) + 1


@pytest.mark.parametrize("name", APEX)
def test_a_firms_profile_says_from_when_it_is_and_what_is_disputed(name: str) -> None:
    profile = load_rule_profile(name)
    caveats = " ".join(profile.caveats)
    assert "third-party" in profile.sources[0]
    assert "disputed" in caveats
    assert "Used here, never" in caveats
    assert "automated trading" in caveats
    assert profile.as_of.isoformat() in profile.summary()
    assert RESULT_NAME in profile.summary()
    assert "never stops rising" in profile.summary()


def test_every_file_in_the_folder_loads() -> None:
    names = available_rule_profiles()
    assert {*APEX, "none"} <= set(names)
    for name in names:
        assert load_rule_profile(name).name == name


@pytest.mark.parametrize("name", APEX)
def test_ten_micros_count_as_one_contract(name: str) -> None:
    profile = load_rule_profile(name)
    full, micro = profile.to_params_fields(), profile.to_params_fields(micro=True)
    assert micro["max_contracts"] == 10 * full["max_contracts"]
    assert {**micro, "max_contracts": 0} == {**full, "max_contracts": 0}


def test_a_lock_is_a_parameter_of_the_file(tmp_path: Path) -> None:
    profile = load_rule_profile("mine", written(tmp_path, {**GOOD, "lock_usd": 50_100}))
    assert profile.to_params_fields()["lock_mode"] == 1
    assert profile.to_params_fields()["lock_cents"] == 5_010_000
    assert "stops rising at $50,100" in profile.summary()


def test_cents_are_exact(tmp_path: Path) -> None:
    # 0.29 x 100 is 28.999999999999996 in floating point.
    profile = load_rule_profile("mine", written(tmp_path, {**GOOD, "trail_usd": 0.29}))
    assert profile.to_params_fields()["trail_cents"] == 29


def test_an_account_takes_the_fields_as_they_are() -> None:
    fields = load_rule_profile("apex_50k_eod_2026_03").to_params_fields()
    flat = [10_000] * 2
    account = ReferenceAccount(
        ReferenceMarket(flat, flat, flat, flat, flags=[9, 9 | 2 | 16], atr=[10.0, 10.0]),
        replace(ReferenceParams(contracts=8), **fields),
    )
    account.reset(0, 5_000_000, 5_000_000, 30)
    assert account.threshold_cents == 4_800_000
    account.step(BUY)
    assert account.position == 6


@pytest.mark.parametrize("name", ["apex_50k_eod_2026_3", "../prop_firms/none", "", "None"])
def test_an_unknown_name_lists_what_there_is(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_rule_profile(name)
    message = str(caught.value)
    assert repr(name) in message
    for known in available_rule_profiles():
        assert known in message
    assert "\n" not in message


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'apex_50k_eod_2026_10'"):
        load_rule_profile("apex_50k_eod")


def test_an_empty_folder_has_no_profiles(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none at all"):
        load_rule_profile("none", tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"as_of": None}, "as_of"),
        ({"as_of": "last spring"}, "as_of"),
        ({"sources": []}, "sources"),
        ({"sources": [""]}, "sources"),
        ({"title": ""}, "title"),
        ({"start_balance_usd": 0}, "start_balance_usd is 0"),
        ({"start_balance_usd": "much"}, "start_balance_usd is 'much'"),
        ({"start_balance_usd": True}, "start_balance_usd is True: must be a number"),
        ({"start_balance_usd": float("nan")}, "start_balance_usd"),
        ({"trail_usd": -1}, "trail_usd is -1"),
        ({"trail_usd": 0.005}, "trail_usd"),
        ({"trail_usd": None}, "trail_usd must be given exactly when"),
        ({"trail_mode": "none"}, "trail_usd must be given exactly when"),
        ({"trail_mode": "trailing"}, "trail_mode is 'trailing'"),
        ({"trail_mode": "none", "trail_usd": None, "lock_usd": 50_100}, "lock_usd needs a trailing threshold"),
        ({"trail_mode": "static", "lock_usd": 50_100}, "lock_usd needs a trailing threshold"),
        ({"daily_limit_breaches": True}, "daily_limit_breaches needs daily_limit_usd"),
        ({"consistency_frac": 0.5}, "consistency_frac needs profit_target_usd"),
        ({"consistency_frac": 50, "profit_target_usd": 3_000}, "consistency_frac is 50"),
        ({"min_day_usd": 200}, "min_day_usd needs min_trading_days"),
        ({"expiry_days": 20, "expiry_calendar_days": 30}, "give only one of them"),
        ({"automation": "banned"}, "automation and automation_note must be given together"),
        ({"automation": "maybe", "automation_note": "x"}, "automation is 'maybe'"),
        ({"flat_by": "25:00"}, "flat_by is '25:00'"),
        ({"ladder": [{"profit_usd": 1, "contracts": 7, "micros": 70}]}, "ladder needs max_contracts"),
        (
            {"max_contracts": 6, "micro_contracts": 60, "ladder": [{"profit_usd": 1, "contracts": 5, "micros": 60}]},
            "ladder must rise",
        ),
        (
            {"profit_target_usd": 3_000, "funded": {"payout_balance_usd": 50_000}},
            "funded.payout_balance_usd must be above",
        ),
        ({"lock_usd": 47_999}, "lock_usd must be at least start_balance_usd - trail_usd = 48000"),
        ({"trail_usd": 50_000}, "trail_usd must be below start_balance_usd"),
        ({"daily_limit_usd": 60_000}, "daily_limit_usd must be below"),
        ({"profit_target_usd": 0}, "profit_target_usd is 0"),
        ({"max_contracts": 0, "micro_contracts": 10}, "max_contracts is 0"),
        ({"max_contracts": 1.5, "micro_contracts": 10}, "max_contracts is 1.5"),
        ({"max_contracts": 6}, "must be given together"),
        ({"max_contracts": 6, "micro_contracts": 5}, "micro_contracts must be at least max_contracts = 6"),
        ({"expiry_days": 0}, "expiry_days is 0"),
        ({"min_days": -1}, "min_days is -1"),
        ({"name": "other"}, "name is 'other', but must match the file name"),
        ({"daily_limit": 1_000}, "Unknown key 'daily_limit' (did you mean 'daily_limit_usd'?)"),
    ],
)
def test_a_bad_field_is_named_with_file_value_and_reason(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    content = {**GOOD, **change}
    with pytest.raises(ConfigError) as caught:
        load_rule_profile("mine", written(tmp_path, content))
    message = str(caught.value)
    assert "mine.yaml" in message
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize("key", ["name", "title", "as_of", "sources", "start_balance_usd", "trail_mode"])
def test_a_missing_field_is_named(tmp_path: Path, key: str) -> None:
    content = {name: value for name, value in GOOD.items() if name != key}
    with pytest.raises(ConfigError, match=f"{key} is missing"):
        load_rule_profile("mine", written(tmp_path, content))


@pytest.mark.parametrize("text", ["a: [", "- one\n- two\n", "", "just words"])
def test_a_file_that_is_no_mapping_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_rule_profile("mine", written(tmp_path, text))


def test_a_profile_is_frozen() -> None:
    profile = load_rule_profile("none")
    with pytest.raises(ValueError, match="frozen"):
        profile.trail_usd = 1  # type: ignore[misc, assignment]


def test_the_rules_are_read_without_torch_and_pandas() -> None:
    code = "import sys; import src.trading.rules; assert not {'torch', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROFILES_FOLDER.parents[1])


def test_every_field_of_a_profile_is_described() -> None:
    assert all(field.description for field in RuleProfile.model_fields.values())
