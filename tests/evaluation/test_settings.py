"""The sections `monitoring` and `evidence`: what they take and refuse."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from src.evaluation.settings import FEWEST_ATTEMPTS, EvidenceSettings


def test_slippage_is_taken_in_rising_order_and_each_number_once() -> None:
    assert EvidenceSettings(stress_slippage_ticks=(3, 0, 1)).stress_slippage_ticks == (0, 1, 3)
    with pytest.raises(ValidationError, match="listed twice"):
        EvidenceSettings(stress_slippage_ticks=(1, 1))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seeds", 0),
        ("walk_forward", -1),
        ("pass_budget_s", 0),
        ("pass_attempts", FEWEST_ATTEMPTS - 1),
        ("pass_max_days", 0),
        ("rules", ("topstep_50k",)),
        ("rules", ("all", "all")),
        ("rules", 7),
        ("stress_slippage_ticks", ()),
        ("stress_slippage_ticks", (-1,)),
        ("late_decisions", 0),
        ("chart_sessions", -1),
        ("folds", 3),
    ],
)
def test_what_means_nothing_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        EvidenceSettings(**{key: value})


def test_one_rule_profile_is_a_list_of_one_and_a_wrong_name_offers_the_nearest() -> None:
    assert EvidenceSettings(rules="all").rules == ("all",)
    with pytest.raises(
        ValidationError, match=r"'topstep_50' is no rule profile \(did you mean 'topstep_50k_2026_11'\?\)"
    ):
        EvidenceSettings(rules=("topstep_50",))


def test_every_field_says_what_it_is() -> None:
    assert all(field.description for field in EvidenceSettings.model_fields.values())
    assert (EvidenceSettings().pass_budget_s, EvidenceSettings().pass_attempts) == (60.0, 2000)
