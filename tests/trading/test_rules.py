"""Rule profiles: what ships is what the sources say, and a file that is wrong says where and why."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
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
    load_rule_profile,
)
from tests.reference_account import BUY, ReferenceAccount, ReferenceMarket, ReferenceParams

APEX = ("apex_50k_eod_2026_03", "apex_50k_intraday_2026_03", "apex_50k_legacy")

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


def test_rules_are_known_by_their_content() -> None:
    rules = RuleProfile(**GOOD)
    described = {
        "name": "other",
        "title": "other",
        "as_of": "2026-08-01",
        "sources": ["two", "pages"],
        "caveats": ["x"],
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
    with pytest.raises(ConfigError, match="did you mean 'apex_50k_eod_2026_03'"):
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
